"""Filter chains behind real TLS handshakes: each has a certificate of its own and an HTTP connection manager that answers with the chain's
name. The certificate, the protocol agreed on and the answer say which chain it was, and that all of it is of one chain.
"""

import contextlib
import dataclasses
import pathlib
import socket
import ssl
import struct
import tempfile

import raw_http2
import rig
from connections import ANSWER_S
from filter_chains_cases import Chain, Generator
from tls import openssl

LISTENERS = 16
PER_LISTENER = 10
TYPE = "type.googleapis.com/envoy.extensions"
OFFERS = [[], ["http/1.1"], ["h2", "http/1.1"], ["h2"]]
CERTIFICATES = 9  # eight chains and the default one


@dataclasses.dataclass
class SecureChain(Chain):
    """Without a transport socket where `certificate` is None."""

    certificate: pathlib.Path | None = None
    offer: tuple = ()

    def written(self):
        message = super().written()
        message["filters"] = [{"name": "hcm", "typed_config": {
            "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": self.name,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": self.name}}}]}]},
            "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}}],
        }}]
        if self.certificate:
            message["transport_socket"] = {"name": "tls", "typed_config": {
                "@type": f"{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext", "common_tls_context": {
                    "alpn_protocols": list(self.offer),
                    "tls_certificates": [{"certificate_chain": {"filename": str(self.certificate)},
                                          "private_key": {"filename": str(self.certificate.with_suffix(".key"))}}]}}}
        return message


@contextlib.contextmanager
def certificates():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        made = []
        for number in range(CERTIFICATES):
            openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{number}.key",
                    "-out", f"{number}.pem", "-subj", f"/CN=certificate{number}", "-days", "2")
            made.append(folder / f"{number}.pem")
        yield made


def listeners(rng, certificates):
    draw = Generator(rng)
    for number in range(LISTENERS):
        while True:
            listener = draw.listener(f"secure{number}")
            if listener.filters in (["tls"], ["tls", "http"]) and listener.continues is None and listener.address != "v6":
                break

        def secure(index, chain):
            clear = (chain.match or {}).get("transport_protocol") == "raw_buffer"
            return SecureChain(chain.name, chain.match, False, None if clear else certificates[index], tuple(rng.choice(OFFERS)))

        listener.chains = [secure(index, chain) for index, chain in enumerate(listener.chains)]
        listener.default = listener.default and secure(CERTIFICATES - 1, listener.default)
        yield listener, [connection(draw, rng, listener) for _ in range(PER_LISTENER)]


def connection(draw, rng, listener):
    while True:
        made = draw.connection(listener)
        # A handshake is done by a library: names that it would not write have had their turn.
        if (made.first in ("tls", "openssl") and (made.sni is None or made.sni.isascii() and made.sni.replace(".", "").isalnum() and len(made.sni) < 64
                                                  and ".." not in made.sni and not made.sni.startswith("."))) or made.first == "http":
            return dataclasses.replace(made, first="http" if made.first == "http" else rng.choice(["TLSv1_2", "TLSv1_3"]), pieces=1)


def shake(connection, port, ports, names):
    """What the connection got: the certificate, what was agreed on, and the answer."""
    with socket.socket(socket.AF_INET6 if ":" in connection.destination else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(ANSWER_S)
        sock.bind((connection.source, ports.get(connection.source_port, connection.source_port)))
        sock.connect((connection.destination, port))
        if connection.first == "http":
            return f"in clear: {http1(sock)}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = ssl.TLSVersion[connection.first]
        if connection.alpn:
            context.set_alpn_protocols(list(connection.alpn))
        try:
            secure = context.wrap_socket(sock, server_hostname=connection.sni)
        except (OSError, ssl.SSLError):
            return "no handshake"
        with secure:
            protocol = secure.selected_alpn_protocol()
            answer = http2(secure) if protocol == "h2" else http1(secure)
            return f"{names[secure.getpeercert(binary_form=True)]}, {secure.version()}, {protocol}: {answer}"


def http1(sock):
    try:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: a.example.com\r\nconnection: close\r\n\r\n")
        return rig.Reader(sock).message(is_response=True).body.decode()
    except (OSError, EOFError):
        return "closed"


def http2(sock):
    body = b""
    with contextlib.suppress(OSError):
        sock.sendall(raw_http2.PREFACE + raw_http2.settings() + raw_http2.request(1))
        for kind, flags, _, payload in raw_http2.frames(sock):
            body += payload if kind == raw_http2.DATA else b""
            if kind in (raw_http2.DATA, raw_http2.HEADERS) and flags & raw_http2.END_STREAM:
                return body.decode()
    return "closed"
