"""The upstream behind both proxies: answers what the running case says, and records what it was sent, byte for byte."""

import contextlib
import dataclasses
import socket
import struct
import threading

from rig import Reader

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"


@dataclasses.dataclass
class Reply:
    """What to do with one request."""

    raw: bytes = OK
    early: bytes = b""  # sent after the head, before the body is read
    then: str = "keep"  # or "close", "reset", "hang" (neither answer nor close until the client goes), "end" (answer, then close, tunnel or not)


class Upstream:
    """Listens on one port under a name; `use` sets the replies of the case that runs."""

    def __init__(self, name):
        self.name = name
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.use([])
        threading.Thread(target=self.accept, daemon=True).start()

    def use(self, replies):
        with self.lock:
            self.replies = list(replies) or [Reply()]
            self.requests = []
            self.begun = 0

    def next_reply(self):
        with self.lock:
            self.begun += 1
            return self.replies[min(self.begun, len(self.replies)) - 1]

    def recorded(self):
        with self.lock:
            return list(self.requests)

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        reader = Reader(connection)
        with connection, contextlib.suppress(OSError, EOFError, ValueError):
            while True:
                start_line, headers = reader.head()
                request = {"start_line": start_line, "headers": headers, "body": b"", "framing": "none", "trailers": []}
                reply = self.next_reply()
                if reply.early:
                    connection.sendall(reply.early)
                self.read_body(reader, request)
                # Only what arrived whole: how much of a broken request gets through is a matter of timing.
                with self.lock:
                    self.requests.append(request)
                if reply.then == "hang":
                    reader.rest()
                    return
                if reply.then == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()
                    return
                connection.sendall(reply.raw)
                if reply.then == "end":
                    return
                if b" 101 " in reply.raw[:16] or (start_line.startswith(b"CONNECT ") and b" 200 " in reply.raw[:16]):
                    self.echo(connection, reader)
                    return
                if reply.then == "close":
                    return

    def read_body(self, reader, request):
        values = dict(reversed(request["headers"]))
        if values.get("transfer-encoding", "").lower().endswith("chunked"):
            request["framing"] = "chunked"
            request["body"], request["trailers"] = reader.chunked()
        elif "content-length" in values:
            request["framing"] = "length"
            request["body"] = reader.exactly(int(values["content-length"]))

    def echo(self, connection, reader):
        if reader.data:
            connection.sendall(reader.data)
            reader.data = b""
        while reader.fill():
            connection.sendall(reader.data)
            reader.data = b""
