"""A client beside the load generator that compares every byte: while a proxy is measured it must also be right.

In turn it fetches the scenario's path and compares the body's SHA-256, and posts random bytes, whose SHA-256 the origin
tells or which it sends back; gRPC has a message and a status instead. A wrong answer fails the whole run. Its requests are
few, and counted into the divisor.
"""

import http.client
import random
import threading

from loads import errors, upstream

PAUSE_S = 0.1
POST_BYTES_MAX = 40_000


class Checker:
    """Checks while its block runs, or `once`; leaving either raises what was found."""

    def __init__(self, connection, path, expected, origin=upstream.HTTP1, host="load.test", tolerant=False):
        # Opens itself, anew where it was lost.
        self.connection = connection
        self.path, self.expected, self.origin, self.host = path, expected, origin, host
        # While a peer reloads, a connection may end between two requests; wrong bytes are wrong always.
        self.tolerant = tolerant
        self.requests = 0
        self.lost = 0
        self.wrong = None
        self.chance = random.Random(1)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.stop.set()
        self.thread.join()
        if kind is None:
            self.judge()

    def once(self):
        self.step()
        self.judge()

    def judge(self):
        self.connection.close()
        if self.wrong:
            raise errors.Failed(self.wrong)
        if not self.requests:
            raise errors.Failed("the checking client had no answer during the whole run")

    def work(self):
        while True:
            self.step()
            if self.wrong or self.stop.wait(PAUSE_S):
                return

    def step(self):
        try:
            self.check()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            self.lost += 1
            if not self.tolerant:
                self.wrong = f"the checking client lost its connection: {error!r}"

    def check(self):
        origin = self.origin
        if origin.message:
            is_right = lambda body: upstream.digest(body) == self.expected
            response = self.exchange("POST", self.path, origin.message, is_right, upstream.GRPC_HEADERS)
            if response.trailers.get("grpc-status") != "0":
                self.wrong = f"POST {self.path}: trailers {response.trailers}"
            return
        self.exchange("GET", self.path, None, lambda body: upstream.digest(body) == self.expected)
        posted = self.chance.randbytes(self.chance.randrange(1, POST_BYTES_MAX))
        self.exchange("POST", "/echo", posted, lambda body: body == origin.echo(posted))

    def exchange(self, method, path, body, is_right, headers=()):
        self.connection.request(method, path, body, {"Host": self.host, **dict(headers)})
        response = self.connection.getresponse()
        received = response.read()
        self.requests += 1
        if response.status != 200 or not is_right(received):
            self.wrong = f"{method} {path}: wrong answer, status {response.status}, {len(received)} bytes: {received[:100]!r}"
        return response
