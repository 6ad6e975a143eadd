"""HTTP/2 as raw frames, for what no client or server would send: frames, header blocks without compression, a client's
connection that takes note of what comes, and an upstream that does with each request what it is told.

Python's standard library only.
"""

import contextlib
import multiprocessing
import os
import socket
import struct
import threading

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 3, 4
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, CANCEL, ENHANCE_YOUR_CALM = 1, 3, 8, 11
GET = [(":method", "GET"), (":scheme", "http"), (":path", "/index.html"), (":authority", "a.test")]
WINDOW_MAX = (1 << 31) - 1


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def integer(value, bits, first=0):
    """RFC 7541 section 5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = bytearray([first | most]), value - most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def text(value):
    value = value.encode("latin1") if isinstance(value, str) else value
    return integer(len(value), 7) + value


def block(fields, indexed=False):
    """A header block of literals; `indexed`: each enters the table."""
    return b"".join((b"\x40" if indexed else b"\0") + text(name) + text(value) for name, value in fields)


def request(stream, fields=GET, flags=END_STREAM | END_HEADERS):
    return frame(HEADERS, flags, stream, block(fields))


def settings(*pairs):
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", name, value) for name, value in pairs))


def reset(stream, reason=CANCEL):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", reason))


def window_update(stream, bytes_):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", bytes_))


def frames(sock):
    """What comes, as (kind, flags, stream, payload), until the end."""
    data = bytearray()
    while True:
        try:
            more = sock.recv(1 << 16)
        except OSError:
            return
        if not more:
            return
        data += more
        at = 0
        while len(data) >= at + 9:
            length = int.from_bytes(data[at : at + 3], "big")
            if len(data) < at + 9 + length:
                break
            kind, flags, stream = struct.unpack(">BBI", data[at + 3 : at + 9])
            yield kind, flags, stream, bytes(data[at + 9 : at + 9 + length])
            at += 9 + length
        del data[:at]


class Client:
    """A connection; a thread of it reads. `reads`: whether it does."""

    def __init__(self, port, *options, reads=True, timeout=10):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.goaway = None
        self.resets, self.ended, self.heads, self.data = {}, set(), {}, {}
        self.given = {}
        self.sock.sendall(PREFACE + settings(*options))
        self.reader = threading.Thread(target=self.read, daemon=True)
        if reads:
            self.reader.start()

    def read(self):
        for kind, flags, stream, payload in frames(self.sock):
            if kind == GOAWAY:
                self.goaway = struct.unpack(">I", payload[4:8])[0]
            elif kind == RST_STREAM:
                self.resets[stream] = struct.unpack(">I", payload)[0]
            elif kind == HEADERS:
                self.heads.setdefault(stream, payload)
            elif kind == DATA:
                self.data[stream] = self.data.get(stream, 0) + len(payload)
            elif kind == WINDOW_UPDATE:
                self.given[stream] = self.given.get(stream, 0) + struct.unpack(">I", payload)[0]
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                self.ended.add(stream)

    def send(self, data):
        """False once the peer takes no more."""
        try:
            self.sock.sendall(data)
        except OSError:
            return False
        return True

    def window(self, stream):
        """Bytes that may be sent on a stream in all, so far; on the connection: 0. SETTINGS of the peer, which nobody acknowledges here,
        are not in force."""
        return self.given.get(stream, 0) + 65_535

    def is_over(self):
        return not self.reader.is_alive()

    def wait_over(self, seconds=5):
        self.reader.join(seconds)
        return self.is_over()

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Upstream:
    """Does `answer(sock, stream)` with each request, until that raises or says False."""

    def __init__(self, answer, options=()):
        self.answer, self.options = answer, options

    def __enter__(self):
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = listener.getsockname()[1]
        self.process = multiprocessing.Process(target=self.serve, args=(listener,), daemon=True)
        self.process.start()
        listener.close()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.join()

    def serve(self, listener):
        parent = os.getppid()
        listener.settimeout(1)
        while os.getppid() == parent:
            with contextlib.suppress(TimeoutError):
                sock, _ = listener.accept()
                threading.Thread(target=self.connection, args=(sock,), daemon=True).start()

    def connection(self, sock):
        with sock, contextlib.suppress(OSError):
            sock.settimeout(10)
            preface = b""
            while len(preface) < len(PREFACE):
                preface += sock.recv(len(PREFACE) - len(preface))
            sock.sendall(settings(*self.options))
            for kind, flags, stream, _ in frames(sock):
                if kind == SETTINGS and not flags & ACK:
                    sock.sendall(frame(SETTINGS, ACK))
                if kind == HEADERS and self.answer(sock, stream) is False:
                    return
