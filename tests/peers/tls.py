"""Ringway under TLS between real parts: curl and openssl's s_client in front, nginx and openssl's s_server behind, each of which says what it saw.

    python3 tests/peers/tls.py [--backend io_uring|epoll]...   # default: both

Every certificate is of a small authority that the test makes. Bytes are compared; versions, names, resumption and client certificates are told
by the other side, and by the counters.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import os
import pathlib
import random
import socket
import ssl
import subprocess
import tempfile
import threading
import urllib.request

import rig

NAME = "server.example"
CONTEXT = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
EVERYTHING_S = 60
BODIES = (0, 1, 16_384, 16_385, 1_000_000, 20_000_000)

BOOTSTRAP = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: @admin@}}}
static_resources:
  listeners:
@listeners@
  clusters:
@clusters@
"""
LISTENER = """\
  - name: @name@
    stat_prefix: @name@
    address: {socket_address: {address: 127.0.0.1, port_value: @port@}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": @context@.DownstreamTlsContext
          @fields@
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{certificate_chain: {filename: @folder@/@chain@.pem}, private_key: {filename: @folder@/server.key}@staple@}]
            @common@
      filters: [{name: hcm, typed_config: {
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
        stat_prefix: @name@,
        forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {subject: true},
        route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [
          @routes@,
          {match: {prefix: /}, route: {cluster: nginx, timeout: 30s}}]}]},
        http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]
"""
CLUSTER = """\
  - name: @name@
    connect_timeout: 5s
    transport_socket: {name: tls, typed_config: {"@type": @context@.UpstreamTlsContext, sni: @sni@, common_tls_context: {
      tls_params: {tls_maximum_protocol_version: @version@}, @common@
      validation_context: {trusted_ca: {filename: @folder@/@authority@.pem}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: server.example}}]}}}}
    load_assignment: {cluster_name: @name@, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @port@}}}}]}]}
"""
VALIDATION = "validation_context: {trusted_ca: {filename: @folder@/ca.pem}, crl: {filename: @folder@/crl.pem}}"
# By hashes alone, whoever signed; by an authority and a public key; by the authority of the domain that a certificate names.
BY_HASH = 'validation_context: {verify_certificate_hash: ["@client_hash@", "@outsider_hash@"]}'
BY_KEY = 'validation_context: {trusted_ca: {filename: @folder@/ca.pem}, verify_certificate_spki: ["@client_key@"]}'
BY_DOMAIN = """validation_context: {custom_validator_config: {name: envoy.tls.cert_validator.spiffe, typed_config: {
              "@type": @context@.SPIFFECertValidatorConfig, trust_domains: [
                {name: example, trust_bundle: {filename: @folder@/ca.pem}}, {name: abroad, trust_bundle: {filename: @folder@/stranger.pem}}]}}}"""
OWN = "tls_certificates: [{certificate_chain: {filename: @folder@/client.pem}, private_key: {filename: @folder@/client.key}}],"
# Fields of the context and of the common context, by listener.
LISTENERS = {
    "https": ("", ""),
    "mutual": ("require_client_certificate: true", VALIDATION),
    "optional": ("", VALIDATION),
    # The two share a key, which is the older one of the second: what the first seals the second opens.
    "keys_old": ("session_ticket_keys: {keys: [{filename: @folder@/ticket.1}]}", ""),
    "keys_new": ("session_ticket_keys: {keys: [{filename: @folder@/ticket.2}, {filename: @folder@/ticket.1}]}", ""),
    "keys_other": ("session_ticket_keys: {keys: [{filename: @folder@/ticket.3}]}", ""),
    "stateless_off": ("disable_stateless_session_resumption: true", ""),
    "stapled": ("", ""),
    "by_hash": ("", BY_HASH),
    "by_key": ("", BY_KEY),
    "by_domain": ("", BY_DOMAIN),
}
# What clients show there (`""`: nothing), and the counter of failures that moves (`""`: none, they come in).
SHOWN = {
    "by_hash": {"client": "", "outsider": "", "renewed": "fail_verify_cert_hash", "revoked": "fail_verify_cert_hash", "": "fail_verify_no_cert"},
    # The key of a renewed certificate is the same. Another authority's is refused before its key is looked at.
    "by_key": {"client": "", "renewed": "", "revoked": "fail_verify_cert_hash", "outsider": "fail_verify_error", "": "fail_verify_no_cert"},
    # Refused: a name of one domain by the other's authority, a name of a domain that nobody knows, and none.
    "by_domain": {"client": "", "foreigner": "", "impostor": "fail_verify_error", "unknown": "fail_verify_error", "outsider": "fail_verify_error",
                  "": "fail_verify_no_cert"},
}
FAILURES = ("fail_verify_cert_hash", "fail_verify_error", "fail_verify_no_cert", "fail_verify_san")
# By listener: what is stapled, and the chain; curl looks for the issuer in what it is shown.
STAPLES = {"stapled": (", ocsp_staple: {filename: @folder@/server.ocsp}", "whole")}
# Port, server name, highest version, more of the common context, authority; by cluster, and by the path's prefix.
CLUSTERS = {
    "nginx": ("nginx", NAME, "TLSv1_3", "", "ca"),
    "nginx12": ("nginx", NAME, "TLSv1_2", "", "ca"),
    "closing": ("closing", NAME, "TLSv1_3", "", "ca"),
    "closing12": ("closing", NAME, "TLSv1_2", "", "ca"),
    "shown": ("mutual_nginx", NAME, "TLSv1_3", OWN, "ca"),
    "not_shown": ("mutual_nginx", NAME, "TLSv1_3", "", "ca"),
    "untrusted": ("nginx", NAME, "TLSv1_3", "", "stranger"),
    "misnamed": ("nginx", "other.example", "TLSv1_3", "", "ca"),
    "s_server": ("s_server", NAME, "TLSv1_3", "", "ca"),
    "truncating": ("truncating", NAME, "TLSv1_3", "", "ca"),
    "plain": ("plain", NAME, "TLSv1_3", "", "ca"),
}

NGINX = rig.NGINX_BEGIN + """  ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:all:1m; ssl_client_certificate @folder@/ca.pem;
  map $ssl_server_name $shown { default server; other.example other; }
  server {
    listen 127.0.0.1:@nginx@ ssl;
    ssl_certificate @folder@/$shown.pem; ssl_certificate_key @folder@/$shown.key;
    root @folder@/files;
    rewrite ^/(?:nginx12|untrusted|misnamed)(/.*) $1;
    location /told { return 200 "@told@"; }
    location /put { dav_methods PUT; create_full_put_path on; }
  }
  server {
    listen 127.0.0.1:@closing@ ssl; keepalive_timeout 0;
    ssl_certificate @folder@/server.pem; ssl_certificate_key @folder@/server.key;
    location / { return 200 "@told@"; }
  }
  server {
    listen 127.0.0.1:@mutual_nginx@ ssl; ssl_verify_client on;
    ssl_certificate @folder@/server.pem; ssl_certificate_key @folder@/server.key;
    location / { return 200 "@told@"; }
  }
}
"""
TOLD = "$http_x_forwarded_proto|$http_x_forwarded_client_cert|$ssl_protocol|$ssl_server_name|$ssl_session_reused|$ssl_client_s_dn|end"
CLOSING = b"GET /told HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def fill(text, **values):
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def openssl(folder, *arguments):
    done = subprocess.run([rig.binary("RINGWAY_OPENSSL", "openssl"), *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise rig.Failed(f"openssl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


AUTHORITY = """
[ca]
default_ca = authority
[authority]
database = index.txt
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_crl_days = 2
crlnumber = crlnumber.txt
crl_extensions = list
[list]
authorityKeyIdentifier = keyid:always
"""
NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def sign(folder, request, authority, name):
    """A certificate for what was asked for, with the names of the request."""
    openssl(folder, "x509", "-req", "-in", f"{request}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial",
            "-out", f"{name}.pem", "-days", "2", "-extfile", f"{request}.ext")


def issue(folder, name, authority, san):
    openssl(folder, "req", *NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    (folder / f"{name}.ext").write_text(f"subjectAltName={san}\n")
    sign(folder, name, authority, name)


def make_certificates(folder):
    """An authority and its list of revocations; servers and clients of it, one of them revoked; another authority."""
    for name in ("ca", "stranger"):
        openssl(folder, "req", "-x509", *NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "2",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    issued = {
        "server": ("ca", f"DNS:{NAME}"), "other": ("ca", "DNS:other.example"), "client": ("ca", "URI:spiffe://example/client"),
        "revoked": ("ca", "DNS:revoked.example"), "outsider": ("stranger", "DNS:outsider.example"),
    }
    for name, (authority, san) in issued.items():
        issue(folder, name, authority, san)
    (folder / "index.txt").touch()
    (folder / "crlnumber.txt").write_text("01\n")
    (folder / "authority.cnf").write_text(AUTHORITY)
    openssl(folder, "ca", "-config", "authority.cnf", "-revoke", "revoked.pem")
    openssl(folder, "ca", "-config", "authority.cnf", "-gencrl", "-out", "crl.pem")
    for number in (1, 2, 3):
        (folder / f"ticket.{number}").write_bytes(os.urandom(80))
    for each in folder.glob("*.key"):
        each.chmod(0o644)  # nginx's worker reads them as another user


def make_shown(folder):
    """More clients, for what is told by more than an authority: the client's certificate renewed, and names of trust domains."""
    sign(folder, "client", "ca", "renewed")
    (folder / "renewed.key").write_text((folder / "client.key").read_text())
    issue(folder, "foreigner", "stranger", "URI:spiffe://abroad/client")
    issue(folder, "impostor", "stranger", "URI:spiffe://example/client")
    issue(folder, "unknown", "ca", "URI:spiffe://nowhere/client")


def hash_of(folder, name):
    """A certificate's SHA-256 as openssl writes it: pairs of digits with colons between."""
    return openssl(folder, "x509", "-in", f"{name}.pem", "-noout", "-fingerprint", "-sha256").strip().partition("=")[2]


def key_of(folder, name):
    """The SHA-256 of a certificate's public key, in Base64."""
    public = openssl(folder, "x509", "-in", f"{name}.pem", "-noout", "-pubkey").split("-----")[2]
    return base64.b64encode(hashlib.sha256(base64.b64decode("".join(public.split()))).digest()).decode()


def make_staple(folder, certificate, authority):
    """What the authority says of a certificate of its, signed: an OCSP response that it is good."""
    serial = openssl(folder, "x509", "-in", f"{certificate}.pem", "-noout", "-serial").strip().partition("=")[2]
    (folder / "issued.txt").write_text(f"V\t491231235959Z\t\t{serial}\tunknown\t/CN={certificate}\n")
    openssl(folder, "ocsp", "-issuer", f"{authority}.pem", "-cert", f"{certificate}.pem", "-no_nonce", "-reqout", f"{certificate}.asked")
    openssl(folder, "ocsp", "-index", "issued.txt", "-CA", f"{authority}.pem", "-rsigner", f"{authority}.pem", "-rkey", f"{authority}.key",
            "-reqin", f"{certificate}.asked", "-respout", f"{certificate}.ocsp", "-ndays", "2")


class Truncating:
    """An endpoint whose answers only its end delimits: `/whole` ends as TLS wants it, `/cut` by closing the socket below."""

    BODY = b"x" * 50_000

    def __init__(self, folder):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, kind, value, trace):
        self.listener.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        connection.settimeout(rig.DEADLINE_S)
        with contextlib.suppress(OSError), self.context.wrap_socket(connection, server_side=True) as secure:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                data = secure.recv(4096)
                if not data:
                    return
                head += data
            secure.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + self.BODY)
            if b"/cut" in head:
                # Below TLS: what was sent arrives, and then an end that nobody announced.
                secure.shutdown(socket.SHUT_WR)
            else:
                secure.unwrap()


class Bench:
    def __init__(self, folder, ports):
        self.folder, self.ports = folder, ports
        self.curl_binary = rig.binary("RINGWAY_CURL", "curl")
        self.openssl_binary = rig.binary("RINGWAY_OPENSSL", "openssl")

    def curl(self, path, *arguments, listener="https", expect=0):
        port = self.ports[listener]
        argv = [self.curl_binary, "-sS", "--http1.1", "--cacert", "ca.pem", "--resolve", f"{NAME}:{port}:127.0.0.1",
                *arguments, f"https://{NAME}:{port}{path}"]
        done = subprocess.run(argv, cwd=self.folder, capture_output=True, timeout=EVERYTHING_S)
        if done.returncode not in (expect if isinstance(expect, tuple) else (expect,)):
            raise rig.Failed(f"{' '.join(argv)}: {done.returncode}, not {expect}: {done.stderr.decode()}")
        return done.stdout

    def told(self, *arguments, path="/told", **more):
        got = self.curl(path, *arguments, **more)
        told = got.decode().split("|")
        if told[-1] != "end":
            raise rig.Failed(f"answered {got[:200]!r}")
        return dict(zip(("proto", "certificate", "version", "sni", "reused", "subject"), told))

    def status(self, path, **more):
        return int(self.curl(path, "-o", "/dev/null", "-w", "%{http_code}", **more))

    def stats(self):
        url = f"http://127.0.0.1:{self.ports['admin']}/stats?format=json"
        with urllib.request.urlopen(url, timeout=rig.DEADLINE_S) as answer:
            return {each["name"]: each["value"] for each in json.load(answer)["stats"] if "name" in each}

    @contextlib.contextmanager
    def counts(self, **wanted):
        """Counters, `__` for `.`, grow by so much within."""
        names = {name.replace("__", "."): grown for name, grown in wanted.items()}
        before = self.stats()
        yield
        for name, grown in names.items():
            rig.wait_for(lambda: self.stats()[name] - before[name] == grown, f"{name} to grow by {grown} from {before[name]}: {self.stats()[name]}")

    def s_client(self, *arguments, data=CLOSING, listener="https", until_end=True):
        argv = [self.openssl_binary, "s_client", "-connect", f"127.0.0.1:{self.ports[listener]}", "-servername", NAME, "-CAfile", "ca.pem",
                *(["-ign_eof"] if until_end else []), *arguments]
        done = subprocess.run(argv, cwd=self.folder, input=data, capture_output=True, timeout=EVERYTHING_S)
        return (done.stdout + done.stderr).decode(errors="replace")


def same(got, wanted, what):
    if got != wanted:
        raise rig.Failed(f"{what}: {got!r}, not {wanted!r}")


def has(text, part, what):
    if part not in text:
        raise rig.Failed(f"{what}: no {part!r} in\n{text[-4000:]}")


def has_not(text, part, what):
    if part in text:
        raise rig.Failed(f"{what}: {part!r} in\n{text[-4000:]}")


def check_clients(bench):
    for version, name in (("1.2", "TLSv1.2"), ("1.3", "TLSv1.3")):
        told = bench.told(f"--tlsv{version}", "--tls-max", version)
        same((told["proto"], told["certificate"]), ("https", ""), "what the endpoint is told")
        done = bench.s_client(f"-tls{version.replace('.', '_')}")
        for part in ("HTTP/1.1 200 OK", f"New, {name}", "Verify return code: 0"):
            has(done, part, f"openssl s_client, TLS {version}")
        # Told by the end of TLS before that of TCP, or the peer must take it for an attack.
        done = bench.s_client(f"-tls{version.replace('.', '_')}", "-msg")
        has(done, "warning close_notify", "the end of a connection")
        has_not(done, "unexpected eof", "the end of a connection")
    bench.curl("/told", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", expect=35)
    same(bench.curl("/told", "--http2", "-w", "%{http_version}")[-1:], b"2", "the version that ALPN agrees on")
    print("  curl and openssl s_client by TLS 1.2 and 1.3, ends announced; TLS 1.1 refused; HTTP/2 by ALPN")


def resume(bench, version, first, then):
    """Whether a session of one listener is resumed at another."""
    session = f"session.{version}.{first}"
    done = bench.s_client(f"-{version}", "-sess_out", session, listener=first)
    has(done, "New, TLS", "a first handshake")
    done = bench.s_client(f"-{version}", "-sess_in", session, listener=then)
    has(done, "HTTP/1.1 200 OK", f"{version}, a session of {first} at {then}")
    resumed = "Reused, TLS" in done
    if not resumed:
        has(done, "New, TLS", f"{version}, a session of {first} at {then}")
    return resumed


def check_resumption(bench):
    for version in ("tls1_2", "tls1_3"):
        with bench.counts(listener__https__ssl__session_reused=1, listener__https__ssl__handshake=2):
            same(resume(bench, version, "https", "https"), True, f"{version}: resumed")
        with bench.counts(listener__stateless_off__ssl__session_reused=0):
            bench_out = f"session.{version}.none"
            bench.s_client(f"-{version}", "-sess_out", bench_out, listener="stateless_off")
            if (bench.folder / bench_out).exists():
                has_not(bench.s_client(f"-{version}", "-sess_in", bench_out, listener="stateless_off"), "Reused,", "no tickets")
        for first, then, wanted in (("keys_old", "keys_old", True), ("keys_new", "keys_new", True), ("keys_old", "keys_new", True),
                                    ("keys_new", "keys_old", False), ("keys_old", "keys_other", False)):
            same(resume(bench, version, first, then), wanted, f"{version}: a ticket of {first} at {then}")
    print("  sessions resumed by tickets, under the newest key and the one before; full handshakes under another's")


def inviting_to_early_data(session):
    """A session as openssl writes it, in PEM, with the promise that early data is taken: field 15 of its ASN.1."""
    der = ssl.PEM_cert_to_DER_cert(session.replace("SSL SESSION PARAMETERS", "CERTIFICATE"))

    def split(data):
        """The first element's length with its header, and that of the header."""
        if data[1] < 128:
            return 2 + data[1], 2
        count = data[1] & 127
        return 2 + count + int.from_bytes(data[2 : 2 + count], "big"), 2 + count

    rest = der[split(der)[1] :]
    before = b""
    while rest and not (rest[0] & 0xE0 == 0xA0 and rest[0] & 0x1F > 15):
        length, _ = split(rest)
        before, rest = before + rest[:length], rest[length:]
    body = before + bytes([0xAF, 4, 2, 2, 0x40, 0]) + rest
    der = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    return ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", "SSL SESSION PARAMETERS")


def check_early_data(bench):
    """RFC 8446, 4.2.10: a server that takes none passes over it, and goes on."""
    bench.s_client("-tls1_3", "-sess_out", "session.early")
    done = subprocess.run([bench.openssl_binary, "sess_id", "-in", "session.early", "-noout", "-text"], cwd=bench.folder, capture_output=True, text=True)
    has(done.stdout, "TLSv1.3", "a session")
    has_not(done.stdout, "Max Early Data: 1", "a ticket's invitation")
    session = (bench.folder / "session.early").read_text()
    (bench.folder / "session.eager").write_text(inviting_to_early_data(session))
    (bench.folder / "early").write_bytes(b"GET /early HTTP/1.1\r\nHost: a\r\n\r\n")
    with bench.counts(http__https__downstream_rq_total=1):
        done = bench.s_client("-tls1_3", "-sess_in", "session.eager", "-early_data", "early")
        has(done, "Early data was rejected", "early data")
        has(done, "HTTP/1.1 200 OK", "what follows early data")
    print("  early data: none is taken, and what follows it is served")


def check_staples(bench):
    """Who asks gets the authority's word with the certificate; curl checks its signature."""
    for version in ("tls1_2", "tls1_3"):
        with bench.counts(listener__stapled__ssl__ocsp_staple_requests=1, listener__stapled__ssl__ocsp_staple_responses=1,
                          listener__stapled__ssl__ocsp_staple_omitted=0):
            done = bench.s_client(f"-{version}", "-status", listener="stapled")
            for part in ("OCSP Response Status: successful", "Cert Status: good", "HTTP/1.1 200 OK"):
                has(done, part, f"openssl s_client -status, {version}")
        with bench.counts(listener__stapled__ssl__handshake=1, listener__stapled__ssl__ocsp_staple_requests=0,
                          listener__stapled__ssl__ocsp_staple_responses=0):
            has(bench.s_client(f"-{version}", listener="stapled"), "HTTP/1.1 200 OK", f"openssl s_client that asks for none, {version}")
        with bench.counts(listener__https__ssl__ocsp_staple_requests=1, listener__https__ssl__ocsp_staple_omitted=1):
            has(bench.s_client(f"-{version}", "-status"), "OCSP response: no response sent", "a listener without staples")
    bench.curl("/told", "--cert-status", listener="stapled")
    bench.curl("/told", "--cert-status", expect=91)
    print("  OCSP responses stapled for openssl s_client and for curl, which checks whose they are")


def check_renegotiation(bench):
    # Without -ign_eof a line `R` asks for it.
    done = bench.s_client("-tls1_2", data=b"R\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", until_end=False)
    has(done, "RENEGOTIATING", "openssl asks for it")
    has_not(done, "HTTP/1.1 200", "after renegotiation")
    if "no renegotiation" not in done and "alert" not in done:
        raise rig.Failed(f"renegotiation is not refused:\n{done[-4000:]}")
    same(bench.told()["proto"], "https", "after a client that asked for renegotiation")
    print("  renegotiation refused")


def check_client_certificates(bench):
    def shown(name):
        return ["--cert", f"{name}.pem", "--key", f"{name}.key"]

    for version in ("1.2", "1.3"):
        only = ["--tls-max", version, f"--tlsv{version}"]
        for listener in ("mutual", "optional"):
            told = bench.told(*only, *shown("client"), listener=listener)
            has(told["certificate"], 'Subject="CN=client"', "x-forwarded-client-cert")
            # A stranger's, and one that the list has. By TLS 1.3 the client thinks it is done when it is refused.
            for name in ("outsider", "revoked"):
                with bench.counts(**{f"listener__{listener}__ssl__fail_verify_error": 1}):
                    bench.curl("/told", *only, *shown(name), listener=listener, expect=(35, 55, 56))
        with bench.counts(listener__mutual__ssl__fail_verify_no_cert=1):
            bench.curl("/told", *only, listener="mutual", expect=(56, 98))
        with bench.counts(listener__optional__ssl__no_certificate=1):
            same(bench.told(*only, listener="optional")["certificate"], "", "nobody's certificate")
    # A refusal is told in words, not by a reset.
    has(bench.s_client("-tls1_3", listener="mutual"), "certificate required", "openssl without a certificate")
    has(bench.s_client("-tls1_2", "-cert", "revoked.pem", "-key", "revoked.key", listener="mutual"), "alert certificate revoked", "openssl, revoked")
    has(bench.s_client("-tls1_2", "-cert", "outsider.pem", "-key", "outsider.key", listener="mutual"), "alert unknown ca", "openssl, a stranger")
    print("  client certificates: good, absent, another authority's and revoked, each as it should")


def check_shown(bench):
    """Certificates that are told by their hash, their key and their trust domain."""
    for version in ("tls1_2", "tls1_3"):
        for listener, clients in SHOWN.items():
            for name, failure in clients.items():
                certificate = ["-cert", f"{name}.pem", "-key", f"{name}.key"] if name else []
                grown = {"handshake": int(not failure), **{each: int(each == failure) for each in FAILURES}}
                with bench.counts(**{f"listener__{listener}__ssl__{each}": count for each, count in grown.items()}):
                    done = bench.s_client(f"-{version}", *certificate, listener=listener)
                    what = f"{version}, {name or 'nobody'} at {listener}"
                    if failure:
                        has(done, "SSL alert number", what)
                        has_not(done, "HTTP/1.1 200", what)
                    else:
                        has(done, "HTTP/1.1 200 OK", what)
    print("  client certificates by hash, by public key and by SPIFFE trust domain: the right ones come in, others are refused")


def check_endpoints(bench):
    for path, version in (("/told", "TLSv1.3"), ("/nginx12/told", "TLSv1.2")):
        told = bench.told(path=path)
        same((told["version"], told["sni"]), (version, NAME), "what nginx saw")
    for path in ("/closing", "/closing12"):
        cluster = path[1:]
        with bench.counts(**{f"cluster__{cluster}__ssl__session_reused": 2, f"cluster__{cluster}__ssl__handshake": 3}):
            reused = [bench.told(path=path)["reused"] for _ in range(3)]
        same(reused, [".", "r", "r"], "sessions that nginx resumes")
    same(bench.told(path="/shown")["subject"], "CN=client", "whom nginx saw")
    # nginx answers whoever shows none itself.
    same(bench.status("/not_shown"), 400, "the answer without a certificate")
    for path, counter in (("untrusted", "fail_verify_error"), ("misnamed", "fail_verify_san"), ("plain", "connection_error")):
        with bench.counts(**{f"cluster__{path}__ssl__{counter}": 1}):
            same(bench.status(f"/{path}/told"), 503, f"the answer for {path}")
    print("  nginx behind: verified, server name and own certificate seen, sessions resumed; strangers and wrong names refused")


def check_bodies(bench):
    for length in BODIES:
        body = random.Random(length).randbytes(length)
        (bench.folder / "files" / "body").write_bytes(body)
        for protocol in ("--http1.1", "--http2"):
            digest = hashlib.sha256(bench.curl("/body", protocol)).digest()
            same(digest, hashlib.sha256(body).digest(), f"a body of {length} bytes, down, {protocol}")
            bench.curl(f"/put/{length}", protocol, "-f", "-T", str(bench.folder / "files" / "body"))
            put = bench.folder / "files" / "put" / str(length)
            same(hashlib.sha256(put.read_bytes()).digest(), hashlib.sha256(body).digest(), f"a body of {length} bytes, up, {protocol}")
            put.unlink()
    stats = bench.stats()
    if not 0 < stats["cluster.nginx.ssl.handshake"] < stats["cluster.nginx.upstream_rq_total"]:
        raise rig.Failed("connections to the endpoint are not reused")
    print(f"  bodies up to {max(BODIES) // 1_000_000} MB, both ways, by HTTP/1.1 and HTTP/2")


def check_s_server(bench):
    # Its answers end with the connection, announced by TLS.
    has(bench.curl("/s_server").decode(), "s_server", "openssl s_server")
    print("  openssl s_server behind")


def check_truncation(bench):
    """RFC 8446, 6.1: a body that only the end delimits is whole only where the end is announced."""
    same(bench.curl("/truncating/whole"), Truncating.BODY, "a body to an announced end")
    # curl: a transfer closed with data outstanding, or a chunked body or stream that broke.
    bench.curl("/truncating/cut", expect=(18, 56))
    bench.curl("/truncating/cut", "--http2", expect=(18, 56, 92))
    print("  a body that an unannounced end cuts off is not passed on as whole")


def listener_text(folder, ports, name, hashes):
    fields, common = LISTENERS[name]
    routes = ",\n          ".join(f"{{match: {{prefix: /{cluster}}}, route: {{cluster: {cluster}, timeout: 30s}}}}" for cluster in sorted(CLUSTERS, reverse=True))
    staple, chain = STAPLES.get(name, ("", "server"))
    text = fill(LISTENER, fields=fields, common=common, routes=routes, staple=staple, chain=chain)
    return fill(text, name=name, port=ports[name], folder=folder, context=CONTEXT, **hashes)


def cluster_text(folder, ports, name):
    port, sni, version, common, authority = CLUSTERS[name]
    text = fill(CLUSTER, sni=sni, version=version, common=common, authority=authority)
    return fill(text, name=name, port=ports[port], folder=folder, context=CONTEXT)


def run_backend(backend):
    print(f"{backend}:")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        (folder / "files" / "put").mkdir(parents=True)
        for each in (folder / "files", folder / "files" / "put"):
            each.chmod(0o777)
        make_certificates(folder)
        make_shown(folder)
        make_staple(folder, "server", "ca")
        (folder / "whole.pem").write_text((folder / "server.pem").read_text() + (folder / "ca.pem").read_text())
        names = ["admin", *LISTENERS, "nginx", "closing", "mutual_nginx", "s_server"]
        ports = dict(zip(names, rig.free_ports(len(names))))
        ports["truncating"] = stack.enter_context(Truncating(folder)).port
        # The admin endpoint speaks no TLS.
        ports["plain"] = ports["admin"]
        hashes = {"client_hash": hash_of(folder, "client"), "outsider_hash": hash_of(folder, "outsider"), "client_key": key_of(folder, "client")}
        (folder / "ringway.yaml").write_text(fill(
            BOOTSTRAP, admin=ports["admin"], listeners="".join(listener_text(folder, ports, each, hashes) for each in LISTENERS),
            clusters="".join(cluster_text(folder, ports, each) for each in CLUSTERS),
        ))
        (folder / "nginx.conf").write_text(fill(NGINX, folder=folder, told=TOLD, **ports))
        bench = Bench(folder, ports)
        s_server = [bench.openssl_binary, "s_server", "-accept", f"127.0.0.1:{ports['s_server']}", "-www", "-quiet",
                    "-cert", folder / "server.pem", "-key", folder / "server.key"]
        nginx = [rig.binary("RINGWAY_NGINX", "nginx", "/usr/sbin/nginx"), "-p", folder, "-c", folder / "nginx.conf"]
        # One worker: sessions to endpoints are kept by each.
        proxy = [rig.ringway(), "--disable-hot-restart", "-c", folder / "ringway.yaml", "--concurrency", "1", "--io-backend", backend, "-l", "warning"]
        stack.enter_context(rig.Process(nginx, ports["nginx"]))
        stack.enter_context(rig.Process(s_server, ports["s_server"]))
        stack.enter_context(rig.Process(proxy, ports["https"]))
        for check in (check_clients, check_resumption, check_early_data, check_staples, check_renegotiation, check_client_certificates,
                      check_shown, check_endpoints, check_bodies, check_s_server, check_truncation):
            check(bench)
        stats = bench.stats()
        same(stats["ringway.panics"], 0, "panics")
        for listener in LISTENERS:
            rig.wait_for(lambda: bench.stats()[f"listener.{listener}.downstream_cx_active"] == 0, f"{listener} to be left alone")


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"])
    for backend in parser.parse_args().backend or ["io_uring", "epoll"]:
        run_backend(backend)


if __name__ == "__main__":
    rig.main(run)
