"""Connections as a client chooses them: from which address and port, to which, behind which PROXY protocol header, with which
first bytes; and what came back. No TLS handshake is done: a ClientHello is bytes, and what answers it is read as bytes.

Python's standard library only.
"""

import contextlib
import dataclasses
import ipaddress
import socket
import ssl
import struct

ANSWER_S = 3.0  # longest wait for an answer
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
OPEN = "(left open)"


@dataclasses.dataclass(frozen=True)
class Proxied:
    """What a PROXY protocol header says. `form`: v1 or v2; or local (v2) and unknown (v1), which say nothing."""

    form: str
    source: str = "127.0.0.1"
    destination: str = "127.0.0.1"
    source_port: int | str = 1
    destination_port: int | str = 1

    def header(self, ports):
        source, destination = ipaddress.ip_address(self.source), ipaddress.ip_address(self.destination)
        source_port, destination_port = ports.get(self.source_port, self.source_port), ports.get(self.destination_port, self.destination_port)
        if self.form == "unknown":
            return b"PROXY UNKNOWN\r\n"
        if self.form == "local":
            return SIGNATURE + b"\x20\0\0\0"
        if self.form == "v1":
            return f"PROXY TCP{source.version} {source} {destination} {source_port} {destination_port}\r\n".encode()
        body = source.packed + destination.packed + struct.pack(">HH", source_port, destination_port)
        return SIGNATURE + b"\x21" + (b"\x11" if source.version == 4 else b"\x21") + struct.pack(">H", len(body)) + body


@dataclasses.dataclass(frozen=True)
class Connection:
    """`first`: tls (a ClientHello written here), openssl (one of OpenSSL's), half (of a ClientHello), http, http10, h2c, bytes,
    end (nothing, and then the client's end) or nothing. Ports may be names, which `perform` is told."""

    source: str
    destination: str
    source_port: int | str = 0
    proxied: Proxied | None = None
    first: str = "tls"
    sni: str | None = None
    alpn: tuple = ()
    pieces: int = 1

    def __str__(self):
        fields = ((field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self))
        return " ".join(f"{name}={value!r}" if not isinstance(value, Proxied) else f"proxied=({value})"
                        for name, value, default in fields if value != default)

    def payload(self, ports):
        header = self.proxied.header(ports) if self.proxied else b""
        return header + {
            "tls": lambda: client_hello(self.sni, self.alpn),
            "openssl": lambda: openssl_hello(self.sni, self.alpn),
            "half": lambda: client_hello(self.sni, self.alpn)[:40],
            "http": lambda: b"GET / HTTP/1.1\r\nhost: a.example.com\r\n\r\n",
            "http10": lambda: b"GET / HTTP/1.0\r\n\r\n",
            "h2c": lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "bytes": lambda: b"\x05\x01\x00" + b"not a protocol\r\n" * 4,
            "end": bytes,
            "nothing": bytes,
        }[self.first]()


def vector(width, body):
    return len(body).to_bytes(width, "big") + body


def client_hello(name, protocols):
    """A ClientHello of TLS 1.3 that no library would refuse to write: any bytes are a name or a protocol."""
    def extension(number, body):
        return struct.pack(">H", number) + vector(2, body)

    extensions = b""
    if name is not None:
        extensions += extension(0, vector(2, b"\0" + vector(2, name.encode("latin1"))))
    extensions += extension(10, vector(2, b"\0\x1d")) + extension(13, vector(2, b"\x04\x03\x08\x04"))
    if protocols:
        extensions += extension(16, vector(2, b"".join(vector(1, protocol.encode("latin1")) for protocol in protocols)))
    extensions += extension(43, vector(1, b"\x03\x04\x03\x03")) + extension(51, vector(2, b"\0\x1d" + vector(2, b"\x09" + bytes(31))))
    suites, compression = b"\x13\x01\x13\x02\xc0\x2f\xc0\x30", b"\0"
    hello = b"\x03\x03" + bytes(range(32)) + vector(1, b"") + vector(2, suites) + vector(1, compression) + vector(2, extensions)
    return b"\x16\x03\x01" + vector(2, b"\x01" + vector(3, hello))


def openssl_hello(name, protocols):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    out = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return out.read()


@contextlib.contextmanager
def opened(connection, port, ports):
    """A socket from the connection's source to its destination, before anything is sent."""
    family = socket.AF_INET6 if ":" in connection.destination else socket.AF_INET
    with socket.socket(family) as sock:
        # Its port is free for the next connection at once, and the proxy's side does not linger.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(ANSWER_S)
        sock.bind((connection.source, ports.get(connection.source_port, connection.source_port)))
        sock.connect((connection.destination, port))
        yield sock


def perform(connection, port, ports, mark=b""):
    """Everything that comes back until the other side ends, as text; `OPEN` behind it when it does not.

    `ports`: what the names of ports stand for. `mark`: sent behind the first bytes, and the end of what is waited for."""
    got = b""
    with opened(connection, port, ports) as sock:
        # What closes at once, or answers at once, may do so before everything is sent.
        with contextlib.suppress(ConnectionError):
            payload = connection.payload(ports) + mark
            step = -(-len(payload) // connection.pieces) or 1
            for at in range(0, len(payload), step):
                sock.sendall(payload[at : at + step])
        if connection.first == "end":
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        try:
            while not (mark and got.endswith(mark)) and (chunk := sock.recv(65536)):
                got += chunk
        except ConnectionError:
            pass
        except TimeoutError:
            got += OPEN.encode()
    return got.decode("latin1")
