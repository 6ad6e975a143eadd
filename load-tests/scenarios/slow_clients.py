"""200 clients that read a large answer, or write a body, in trickles, beside fast ones: what they cost the others."""

import contextlib
import socket
import threading

from loads import errors
from scenarios import Scenario, under_check

READERS, WRITERS = 100, 100
TRICKLE_BYTES, PAUSE_S = 2048, 0.1
PATH = "/f/1m"


class Trickle:
    """Slow clients in a thread of their own; what the readers got is compared with the file."""

    def __init__(self, port, host, content):
        self.content = content
        # Where each reader is in the body, or what it has of the head.
        self.read = {}
        self.broken = None
        self.stop = threading.Event()
        get = f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        post = f"POST /sink HTTP/1.1\r\nHost: {host}\r\nContent-Length: {1 << 20}\r\n\r\n".encode()
        self.readers = [self.connect(port, get) for _ in range(READERS)]
        self.writers = [self.connect(port, post) for _ in range(WRITERS)]
        self.thread = threading.Thread(target=self.work, daemon=True)

    def connect(self, port, request):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", port))
        client.sendall(request)
        client.setblocking(False)
        return client

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.stop.set()
        self.thread.join()
        for client in self.readers + self.writers:
            client.close()
        if kind is None and self.broken:
            raise errors.Failed(self.broken)

    def work(self):
        while not self.stop.wait(PAUSE_S):
            try:
                for client in self.readers:
                    with contextlib.suppress(BlockingIOError):
                        self.take(client, client.recv(TRICKLE_BYTES))
                for client in self.writers:
                    with contextlib.suppress(BlockingIOError):
                        client.send(b"x" * TRICKLE_BYTES)
            except OSError as error:
                self.broken = f"a slow client lost its connection: {error}"
                return

    def take(self, client, received):
        """Compares what came with the file, from where the last piece ended."""
        if not received:
            raise ConnectionError("ended early")
        offset, head = self.read.get(client, (None, b""))
        if offset is None:
            head, found, received = (head + received).partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"[: len(head)]):
                self.broken = f"a slow client was answered {head[:60]!r}"
            if not found:
                self.read[client] = (None, head)
                return
            offset = 0
        if self.content[offset : offset + len(received)] != received:
            self.broken = "a slow client was sent wrong bytes"
        self.read[client] = (offset + len(received), b"")


class SlowClients(Scenario):
    name = "slow-clients"
    title = f"190-byte answers, 64 connections, {READERS + WRITERS} slow clients"
    files = ("1m",)

    def measure(self, bench, running):
        wrk = bench.generators.wrk
        content = bench.files.read(PATH)
        before = running.process.settled_kb()
        with Trickle(running.port, running.setup.host(), content):
            values = under_check(bench, running, "/", lambda: wrk(running.port, "/", 64, bench.seconds))
            values["rss_grown_kb"] = running.process.memory_kb() - before
        return values


ORDER = 3
SCENARIOS = [SlowClients()]
