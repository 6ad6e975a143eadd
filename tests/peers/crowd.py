"""Thousands of connections at once: clients that each carry one exchange, and an upstream that answers them, both driven by epoll.

Python's standard library only. The upstream is a process of its own; it ends with the one that started it.
"""

import contextlib
import multiprocessing
import os
import re
import select
import selectors
import socket

import rig

BODY_BYTES = 64 * 1024
BODY = b"x" * BODY_BYTES
SMALL = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
LARGE = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BODY_BYTES + BODY

GET = b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n"
DOWNLOAD = b"GET /large HTTP/1.1\r\nhost: a.test\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


def upload(count):
    return b"POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: %d\r\n\r\n" % count + b"x" * count


UPLOAD = upload(BODY_BYTES)
BODY_OF = {GET: 5, DOWNLOAD: BODY_BYTES, UPLOAD: 5}


class Upstream:
    """Answers `GET /` and uploads with five bytes, `GET /large` with 64 KiB. Listens on one port of so many addresses."""

    def __init__(self, addresses=1):
        self.addresses = [f"127.0.0.{1 + number}" for number in range(addresses)]
        (self.port,) = rig.free_ports(1)

    def __enter__(self):
        listeners = [socket.create_server((address, self.port), backlog=4096) for address in self.addresses]
        self.process = multiprocessing.Process(target=serve, args=(listeners,), daemon=True)
        self.process.start()
        for listener in listeners:
            listener.close()
        return self

    def __exit__(self, kind, value, trace):
        self.process.terminate()
        self.process.join()


class Answering:
    def __init__(self, connection):
        self.connection = connection
        self.received = b""
        self.body_left = 0
        self.answer = b""

    def read(self):
        """False at the end."""
        data = self.connection.recv(4 * BODY_BYTES)
        body = min(self.body_left, len(data))
        self.take_body(body)
        self.received += data[body:]
        while not self.body_left and b"\r\n\r\n" in self.received:
            head, self.received = self.received.split(b"\r\n\r\n", 1)
            if head.startswith(b"POST"):
                self.body_left = int(LENGTH.search(head)[1])
                here = min(self.body_left, len(self.received))
                self.received = self.received[here:]
                self.take_body(here)
            else:
                self.answer += LARGE if b" /large " in head else SMALL
        return bool(data)

    def take_body(self, count):
        if count:
            self.body_left -= count
            if not self.body_left:
                self.answer += SMALL

    def write(self):
        with contextlib.suppress(BlockingIOError):
            self.answer = self.answer[self.connection.send(self.answer) :]


def serve(listeners):
    parent = os.getppid()
    with selectors.DefaultSelector() as ready:
        for listener in listeners:
            listener.setblocking(False)
            ready.register(listener, selectors.EVENT_READ)
        while os.getppid() == parent:
            for key, events in ready.select(1):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            connection, _ = key.fileobj.accept()
                            connection.setblocking(False)
                            ready.register(connection, selectors.EVENT_READ, Answering(connection))
                    continue
                try:
                    open_ = not events & selectors.EVENT_READ or key.data.read()
                    if key.data.answer:
                        key.data.write()
                except OSError:
                    open_ = False
                if open_:
                    wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if key.data.answer else 0)
                    if wanted != key.events:
                        ready.modify(key.fileobj, wanted, key.data)
                else:
                    ready.unregister(key.fileobj)
                    key.fileobj.close()


@contextlib.contextmanager
def clients(port, count, request):
    """`count` connections, each of which has sent `request` while all others did, and read its whole answer."""
    with contextlib.ExitStack() as stack, select.epoll() as ready:
        # What is left to send, then what is left to read.
        left, answers = {}, {}
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.setblocking(False)
            left[connection.fileno()] = (connection, request)
        for fd in left:
            ready.register(fd, select.EPOLLIN | select.EPOLLOUT)
        while left:
            events = ready.poll(rig.DEADLINE_S)
            if not events:
                raise rig.Failed(f"{len(left)} of {count} clients wait for ever")
            for fd, happened in events:
                connection, to_send = left[fd]
                if happened & select.EPOLLOUT and to_send:
                    with contextlib.suppress(BlockingIOError):
                        to_send = to_send[connection.send(to_send) :]
                    left[fd] = (connection, to_send)
                    if not to_send:
                        ready.modify(fd, select.EPOLLIN)
                if happened & ~select.EPOLLOUT:
                    data = connection.recv(4 * BODY_BYTES)
                    if not data:
                        raise rig.Failed("a client's connection was closed")
                    if fd not in answers:
                        head, _, data = data.partition(b"\r\n\r\n")
                        if not head.startswith(b"HTTP/1.1 200 "):
                            raise rig.Failed(f"answered {head[:100]!r}")
                        answers[fd] = BODY_OF[request]
                    answers[fd] -= len(data)
                    if answers[fd] == 0:
                        ready.unregister(fd)
                        del left[fd]
        yield
