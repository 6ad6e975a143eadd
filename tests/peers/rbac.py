"""Access by role beside Envoy: generated policies and requests, the same bootstrap in both, every answer and every note compared.

    python3 tests/peers/rbac.py [--seed N] [--policies N] [--backend io_uring|epoll]...   # default: both

Each policy stands at a route of its own, some with shadow rules, some read by a second filter behind; requests come in plain text with and
without x-forwarded-for, from several addresses, and under TLS with and without client certificates. What is compared: the status, the record
of the access log (details, dynamic metadata, route) and the filters' counters. The seed is printed; a difference fails the test.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import socket
import ssl
import subprocess
import tempfile
import urllib.request

import rig
from matchers import Matchers, header_input, network_inputs, ssl_inputs

PREFIX = "type.googleapis.com/envoy.extensions."
FILTER = "envoy.filters.http.rbac"
REQUESTS_PER_POLICY = 3
SHOWN_MAX = 20

URI = "spiffe://example.org/ns/shop/sa/cart"
# Name of a certificate: its subject and its alternative names; None: no certificate is shown.
CERTIFICATES = {
    "spiffe": ("/O=Shop/CN=cart", f"URI:{URI},URI:https://example.org/x,DNS:cart.example.org"),
    "dns": ("/CN=dns only", "DNS:a.example.org,DNS:b.example.org,email:x@example.org"),
    "subject": ("/O=Shop/OU=Till/CN=subject", None),
    "none": None,
}
# What they say, in whole; and expressions that some of it matches.
IDENTITIES = (URI, "https://example.org/x", "cart.example.org", "a.example.org", "b.example.org", "CN=cart,O=Shop", "CN=dns only", "CN=subject,OU=Till,O=Shop", "")
IDENTITY_PATTERNS = ("spiffe://example.org/.*", "CN=.*", ".*", "[ab].example.org")
SOURCES = ("127.0.0.1", "127.0.0.9", "127.1.2.3")
FORWARDED = (None, "10.1.2.3", "192.168.7.1, 10.9.9.9", "2001:db8::7", "10.1.2.3, not an address", "127.0.0.1")
NAMES = ("a.example.org", "shop.test", None)
VALUES = ("", "abc", "ABC", "abcd", "xabc", "5", "-3", "+7", "5.5", "12345678901234567890", "a,b", "a b")
HEADERS = ("x-a", "x-b", "x-c")
PATHS = ("", "a", "a/b", "abc", "ABC", "abc?x=1", "a?abc", "a%20b", "a#f", "a;p=1", "abc/")
METHODS = ("GET", "POST", "HEAD", "DELETE")


def certificate_inputs():
    """What a matcher may ask of the certificates."""
    return ssl_inputs([URI, f"{URI},https://example.org/x"], ["cart.example.org", "a.example.org,b.example.org"], ["CN=cart,O=Shop", "CN=dns only"])


class Generator:
    """Policies and requests from one seed."""

    def __init__(self, seed, ports):
        self.random = random.Random(seed)
        self.ports = ports

    def one(self, *choices):
        return self.random.choice(choices)

    def string(self, texts, regexes):
        text = self.random.choice(texts)
        part = text[: self.random.randint(1, max(1, len(text)))] or "a"
        pattern = self.one("exact", "exact", "prefix", "suffix", "contains", "safe_regex")
        if pattern == "safe_regex":
            return {pattern: {"regex": self.random.choice(regexes)}}
        matcher = {pattern: text if pattern == "exact" else part if pattern != "suffix" else text[-self.random.randint(1, max(1, len(text))):] or "c"}
        if self.random.random() < 0.3:
            matcher["ignore_case"] = True
            matcher[pattern] = matcher[pattern].swapcase()
        return matcher

    def header(self):
        name = self.one(*HEADERS, *HEADERS, "X-A", ":method", ":path", ":authority", "user-agent", "x-missing", "x-forwarded-for")
        values = {":method": METHODS, ":authority": ("rbac.test",), ":path": ("/p/1/", "/p/1/abc")}.get(name, VALUES)
        matcher = {"name": name}
        kind = self.random.randrange(9)
        text = self.random.choice(values)
        if kind < 3:
            matcher["string_match"] = self.string(values, ("[a-c]+", ".*", "a.*|G.*", "(?i)ABC", r"\d+", "()"))
        elif kind == 3:
            matcher["present_match"] = self.one(True, False)
        elif kind == 4:
            start = self.random.randint(-5, 6)
            matcher["range_match"] = {"start": start, "end": start + self.random.randint(0, 4)}
        elif kind == 5:
            matcher["exact_match"] = text or "abc"
        elif kind == 6:
            matcher[self.one("prefix_match", "suffix_match", "contains_match")] = self.one("a", "bc", "5", "ab")
        elif kind == 7:
            matcher["safe_regex_match"] = {"regex": self.one("abc?d?", "[^a]*", "5|7", ".")}
        if self.random.random() < 0.3:
            matcher["invert_match"] = True
        if self.random.random() < 0.3:
            matcher["treat_missing_header_as_empty"] = True
        return {"header": matcher}

    def range(self):
        address, most = self.one(("127.0.0.1", 32), ("127.0.0.9", 32), ("127.1.0.0", 16), ("10.0.0.0", 8), ("10.9.9.9", 32), ("192.168.7.1", 24),
                                 ("0.0.0.0", 0), ("2001:db8::", 32), ("::", 0), ("::ffff:127.0.0.1", 128))
        return {"address_prefix": address, "prefix_len": self.one(most, most, self.random.randint(0, 32))}

    def path(self, number):
        paths = [f"/p/{number}/{path.partition('?')[0].partition('#')[0]}" for path in PATHS]
        return {"url_path": {"path": self.string(paths, (f"/p/{number}/[a-z]*", "/p/.*", ".*b", "/p/[0-9]+/.*[?].*"))}}

    def noted(self):
        """A condition on what the first filter may have noted."""
        key = self.one("enforced_engine_result", "enforced_effective_policy_id", "shadow_engine_result", "shadow_effective_policy_id", "none")
        namespace = self.one(FILTER, FILTER, FILTER, "envoy.common", "none")
        if namespace == "envoy.common":
            key = "access_log_hint"
        string = {"string_match": self.string(("allowed", "denied", "p0", "p1"), ("a.*", "p[01]"))}
        value = self.one(string, string, {"present_match": True}, {"present_match": False}, {"null_match": {}}, {"bool_match": True}, {"bool_match": False},
                         {"double_match": {"exact": 1}}, {"list_match": {"one_of": string}}, {"or_match": {"value_matchers": [string, {"bool_match": True}]}})
        path = [{"key": key}] + ([{"key": "deeper"}] if self.random.random() < 0.1 else [])
        matcher = {"filter": namespace, "path": path, "value": value}
        if self.random.random() < 0.3:
            matcher["invert"] = True
        return matcher

    def metadata(self):
        matcher = self.noted()
        return self.one({"metadata": matcher}, {"sourced_metadata": {"metadata_matcher": matcher}})

    def permission(self, number, second, depth=0):
        kind = self.random.randrange(12 if depth < 3 else 9)
        if second and kind < 4:
            return self.metadata()
        if kind < 2:
            return self.header()
        if kind < 4:
            return self.path(number)
        if kind == 4:
            return {"any": True}
        if kind == 5:
            return {"destination_ip": self.range()}
        if kind == 6:
            return {"destination_port": self.one(*self.ports, 1)}
        if kind == 7:
            port = self.random.choice(self.ports)
            start = self.random.randint(0, port + 1)
            return {"destination_port_range": {"start": start, "end": self.one(port, port + 1, 65536) if start < port else 65536}}
        if kind == 8:
            return {"requested_server_name": self.string(("a.example.org", "shop.test", ""), (".*[.]org", "()", "shop.*"))}
        if kind == 11:
            return {"not_rule": self.permission(number, second, depth + 1)}
        rules = [self.permission(number, second, depth + 1) for _ in range(self.random.randint(1, 3))]
        return {"and_rules" if kind == 9 else "or_rules": {"rules": rules}}

    def principal(self, number, second, depth=0):
        kind = self.random.randrange(13 if depth < 3 else 10)
        if second and kind < 3:
            return self.metadata()
        if kind < 3:
            name = self.string(IDENTITIES, IDENTITY_PATTERNS)
            return {"authenticated": {"principal_name": name} if self.random.random() < 0.85 else {}}
        if kind == 3:
            return {"any": True}
        if kind < 7:
            return {self.one("source_ip", "direct_remote_ip", "remote_ip", "remote_ip"): self.range()}
        if kind < 9:
            return self.header()
        if kind == 9:
            return self.path(number)
        if kind == 12:
            return {"not_id": self.principal(number, second, depth + 1)}
        ids = [self.principal(number, second, depth + 1) for _ in range(self.random.randint(1, 3))]
        return {"and_ids" if kind == 10 else "or_ids": {"ids": ids}}

    def rules(self, number, second=False):
        policies = {}
        for index in range(self.random.choice((0, 1, 1, 1, 2, 3))):
            name = self.one(f"p{index}", f"p{index}", f"with blank\t{index}", f"dotted.{index}")
            policies[name] = {
                "permissions": [self.permission(number, second) for _ in range(self.random.randint(1, 3))],
                "principals": [self.principal(number, second) for _ in range(self.random.randint(1, 3))],
            }
        return {"action": self.one("ALLOW", "ALLOW", "DENY", "DENY", "LOG"), "policies": policies}

    def matcher(self, second):
        def action():
            return {"@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": self.one("p0", "p1", "with blank\t2", "dotted.3"),
                    "action": self.one("ALLOW", "ALLOW", "ALLOW", "DENY", "DENY", "LOG")}

        addresses = [*SOURCES, "10.1.2.3", "10.9.9.9", "192.168.7.1", "2001:db8::7"]
        names = [name or "" for name in NAMES]
        inputs = network_inputs(addresses, [str(port) for port in (*self.ports, 1)], ["0", "1"], names)
        inputs += [header_input(name, list(VALUES)) for name in HEADERS] + [header_input(":path", ["/p/1/a", "/p/"]), header_input(":method", list(METHODS))]
        inputs = inputs * 3 + certificate_inputs()
        ranges = ["127.0.0.0/8", "127.0.0.1/32", "127.0.0.9/32", "127.1.0.0/16", "10.0.0.0/8", "10.9.0.0/16", "192.168.0.0/16", "2001:db8::/32", "0.0.0.0/0", "::/0"]
        return Matchers(self.random, inputs, ranges, action, self.noted if second else None).matcher()

    def options(self, number, second=False):
        options = {}
        if self.random.random() < 0.95:
            options["rules"] = self.rules(number, second)
        if self.random.random() < 0.3:
            options["shadow_rules"] = self.rules(number, second)
        for field, odds in (("matcher", 0.3), ("shadow_matcher", 0.15)):
            if self.random.random() < odds:
                options[field] = self.matcher(second)
        for field, odds in (("rules_stat_prefix", 0.1), ("shadow_rules_stat_prefix", 0.1)):
            if self.random.random() < odds:
                options[field] = "route"
        if self.random.random() < 0.3:
            options["track_per_rule_stats"] = True
        return options

    def request(self, number, case):
        """A method, a target and header lines."""
        headers = [("Host", "rbac.test"), ("x-case", str(case)), ("User-Agent", "abc")]
        for name in HEADERS:
            headers += [(name, self.random.choice(VALUES)) for _ in range(self.random.choice((0, 0, 1, 1, 2)))]
        forwarded = self.random.choice(FORWARDED)
        if forwarded:
            headers.append(("X-Forwarded-For", forwarded))
        self.random.shuffle(headers)
        path = self.random.choice(PATHS).replace("#f", "")
        return self.random.choice(METHODS), f"/p/{number}/{path}", headers


def per_route(options):
    message = {"@type": PREFIX + "filters.http.rbac.v3.RBACPerRoute"}
    if options is not None:
        message["rbac"] = options
    return message


def tls_socket(folder):
    """TLS of a chain that asks for certificates, with those of `make_certificates`."""
    return {"transport_socket": {"name": "tls", "typed_config": {
        "@type": PREFIX + "transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [{"certificate_chain": {"filename": f"{folder}/server.pem"}, "private_key": {"filename": f"{folder}/server.key"}}],
            "validation_context": {"trusted_ca": {"filename": f"{folder}/ca.pem"}},
        },
    }}}


def bootstrap(generator, count, ports, folder, log):
    plain, tls, dual, upstream, admin = ports
    routes = []
    for number in range(count):
        overrides = {FILTER: per_route(generator.options(number) if generator.random.random() < 0.98 else None)}
        if generator.random.random() < 0.3:
            overrides["second"] = per_route(generator.options(number, second=True))
        action = generator.one({"direct_response": {"status": 200}}, {"route": {"cluster": "upstream"}})
        changes = {"response_headers_to_add": [{"header": {"key": "x-route", "value": "%ROUTE_NAME% %RESPONSE_CODE%"}}]}
        routes.append({"name": f"r{number}", "match": {"prefix": f"/p/{number}/"}, **action, **changes, "typed_per_filter_config": overrides})
    own = {"@type": PREFIX + "filters.http.rbac.v3.RBAC", "rules_stat_prefix": "main", "shadow_rules_stat_prefix": "shadow."}
    line = "%REQ(x-case)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %ROUTE_NAME% %UPSTREAM_CLUSTER% %DYNAMIC_METADATA(envoy.filters.http.rbac)% " \
           "%DYNAMIC_METADATA(envoy.common)% %DYNAMIC_METADATA(envoy.common:access_log_hint)% " \
           "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_engine_result)% %METADATA(DYNAMIC:envoy.filters.http.rbac:mainenforced_effective_policy_id)%\n"
    manager = {
        "@type": PREFIX + "filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "in",
        "access_log": [{"name": "file", "typed_config": {"@type": PREFIX + "access_loggers.file.v3.FileAccessLog", "path": str(log),
                                                          "log_format": {"text_format_source": {"inline_string": line}}}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": FILTER, "typed_config": own},
            {"name": "second", "typed_config": {"@type": PREFIX + "filters.http.rbac.v3.RBAC"}},
            {"name": "router", "typed_config": {"@type": PREFIX + "filters.http.router.v3.Router"}},
        ],
    }
    # What the routes that forward lead to.
    echo = {
        "@type": manager["@type"], "stat_prefix": "upstream", "http_filters": manager["http_filters"][-1:],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]},
    }
    # Envoy knows the name of a TLS hello where the inspector has looked at it.
    inspector = {"name": "inspector", "typed_config": {"@type": PREFIX + "filters.listener.tls_inspector.v3.TlsInspector"}}

    def address(host, port):
        families = {"ipv4_compat": True} if host == "::" else {}
        return {"socket_address": {"address": host, "port_value": port, **families}}

    def listener(name, port, config, socket_of_transport, filters, host="0.0.0.0"):
        chain = {"filters": [{"name": "hcm", "typed_config": config}], **socket_of_transport}
        return {"name": name, "address": address(host, port), "listener_filters": filters, "filter_chains": [chain]}

    return {
        "admin": {"address": address("127.0.0.1", admin)},
        "static_resources": {
            "listeners": [
                listener("plain", plain, {**manager, "use_remote_address": False}, {}, []),
                listener("tls", tls, {**manager, "use_remote_address": True}, tls_socket(folder), [inspector]),
                listener("dual", dual, {**manager, "use_remote_address": True}, {}, [], host="::"),
                listener("upstream", upstream, echo, {}, []),
            ],
            "clusters": [{"name": "upstream", "load_assignment": {"cluster_name": "upstream", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address("127.0.0.1", upstream)}}]}]}}],
        },
    }


def openssl(folder, *arguments):
    done = subprocess.run([rig.binary("RINGWAY_OPENSSL", "openssl"), *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise rig.Failed(f"openssl {' '.join(arguments)}: {done.stderr}")


def make_certificates(folder):
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for name, certificate in {"server": ("/CN=server", "DNS:server"), **CERTIFICATES}.items():
        if certificate is None:
            continue
        subject, names = certificate
        openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        (folder / f"{name}.ext").write_text(f"subjectAltName={names}\n" if names else "basicConstraints=CA:FALSE\n")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.pem", "-days", "2",
                "-extfile", f"{name}.ext")


class Client:
    """Keep-alive connections, one per way to connect."""

    def __init__(self, folder, ports):
        self.folder, self.ports, self.open = folder, ports, {}

    def connect(self, way):
        source, certificate, name = way
        port = self.ports[1] if certificate else self.ports[2 if name == "dual" else 0]
        sock = socket.create_connection(("127.0.0.1", port), rig.DEADLINE_S, source_address=(source, 0))
        if certificate is not None:
            context = ssl.create_default_context(cafile=self.folder / "ca.pem")
            context.check_hostname = False
            if CERTIFICATES[certificate]:
                context.load_cert_chain(self.folder / f"{certificate}.pem", self.folder / f"{certificate}.key")
            sock = context.wrap_socket(sock, server_hostname=name)
        return sock, rig.Reader(sock)

    def send(self, way, request):
        method, target, headers = request
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        length = "Content-Length: 0\r\n" if method == "POST" else ""
        if way not in self.open:
            self.open[way] = self.connect(way)
        sock, reader = self.open[way]
        sock.sendall(f"{method} {target} HTTP/1.1\r\n{lines}{length}\r\n".encode())
        answer = reader.message(is_response=True, has_body=method != "HEAD")
        if "close" in answer.values("connection"):
            sock.close()
            del self.open[way]
        return answer.status, answer.body.decode(), answer.values("x-route")

    def close(self):
        for sock, _ in self.open.values():
            sock.close()


def stats(admin):
    text = urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?filter=rbac", timeout=rig.DEADLINE_S).read().decode()
    return dict(line.rsplit(": ", 1) for line in text.splitlines())


def run(argv, folder, ports, log, cases):
    """Answers, records by case, counters."""
    log.write_text("")
    with rig.Process(argv, ports[0]) as process:
        rig.wait_for(lambda: process.check() and all(map(rig.accepts, ports[1:])), "all listeners")
        client = Client(folder, ports)
        answers = [client.send(way, request) for way, request in cases]
        client.close()
        rig.wait_for(lambda: len(log.read_text().splitlines()) >= len(cases), "the access log", 30)
        counters = stats(ports[-1])
    records = dict(line.split(" ", 1) for line in log.read_text().splitlines())
    return answers, records, counters


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--policies", type=int, default=1500)
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"])
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="rbac-") as name:
        folder = pathlib.Path(name)
        make_certificates(folder)
        ports = rig.free_ports(5)
        generator = Generator(arguments.seed, ports[:3])
        log = folder / "access.log"
        config = bootstrap(generator, arguments.policies, ports, folder, log)
        (folder / "bootstrap.json").write_text(json.dumps(config))
        ways = [(source, None, name) for source in SOURCES for name in (None, "dual")] + [
            (source, certificate, server) for source in SOURCES[:2] for certificate in CERTIFICATES for server in NAMES]
        cases = []
        for number in range(arguments.policies):
            cases += [(generator.random.choice(ways), generator.request(number, len(cases) + at)) for at in range(REQUESTS_PER_POLICY)]
        envoy = [rig.envoy(), "-c", folder / "bootstrap.json", "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]
        theirs = run(envoy, folder, ports, log, cases)
        for backend in arguments.backend or ["io_uring", "epoll"]:
            ringway = [rig.ringway(), "-c", folder / "bootstrap.json", "--concurrency", "1", "--io-backend", backend]
            report(backend, config, cases, theirs, run(ringway, folder, ports, log, cases))


def report(backend, config, cases, theirs, ours):
    routes = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
    differences = []
    for case, (way, request) in enumerate(cases):
        pairs = ((theirs[0][case], ours[0][case]), (theirs[1].get(str(case)), ours[1].get(str(case))))
        if any(envoy != ringway for envoy, ringway in pairs):
            told = [f"  Envoy   {envoy}\n  Ringway {ringway}" for envoy, ringway in pairs if envoy != ringway]
            overrides = json.dumps(routes[case // REQUESTS_PER_POLICY]["typed_per_filter_config"])
            differences.append("\n".join([f"case {case}: {way} {request}", *told, f"  {overrides}"]))
    for name in sorted(theirs[2].keys() | ours[2].keys()):
        if theirs[2].get(name) != ours[2].get(name):
            differences.append(f"{name}: Envoy {theirs[2].get(name)}, Ringway {ours[2].get(name)}")
    statuses = collections.Counter(answer[0] for answer in theirs[0])
    if differences:
        shown = "\n".join(differences[:SHOWN_MAX])
        raise rig.Failed(f"{backend}: {len(differences)} differences in {len(cases)} requests\n{shown}")
    if min(statuses[200], statuses[403]) < len(cases) // 10:
        raise rig.Failed(f"the policies decide too little: {dict(statuses)}")
    print(f"{backend}: {len(cases)} requests of {len(routes)} policies: no difference; {statuses[200]} passed, {statuses[403]} denied; {len(ours[2])} counters equal")


if __name__ == "__main__":
    rig.main(main)
