"""A client beside the load generator that compares every byte: while a proxy is measured it must also be right.

In turn it fetches the scenario's path and compares the body's SHA-256, and posts random bytes whose SHA-256 the origin
tells. A wrong answer fails the whole run. Its requests are few, and counted into the divisor.
"""

import http.client
import random
import threading

from loads import errors, upstream

PAUSE_S = 0.1
POST_BYTES_MAX = 40_000


class Checker:
    """Checks while its block runs; leaving it raises what was found."""

    def __init__(self, port, path, expected, host="load.test", tolerant=False):
        self.port, self.path, self.expected, self.host = port, path, expected, host
        # While a peer reloads, a connection may end between two requests; wrong bytes are wrong always.
        self.tolerant = tolerant
        self.requests = 0
        self.lost = 0
        self.wrong = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.stop.set()
        self.thread.join()
        if kind is None and self.wrong:
            raise errors.Failed(self.wrong)
        if kind is None and not self.requests:
            raise errors.Failed("the checking client had no answer during the whole run")

    def work(self):
        chance = random.Random(1)
        connection = None
        while True:
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                self.check(connection, chance)
            except (OSError, http.client.HTTPException) as error:
                connection = None
                self.lost += 1
                if not self.tolerant:
                    self.wrong = f"the checking client lost its connection: {error!r}"
            if self.wrong or self.stop.wait(PAUSE_S):
                return

    def check(self, connection, chance):
        self.exchange(connection, "GET", self.path, None, lambda body: upstream.digest(body) == self.expected)
        posted = chance.randbytes(chance.randrange(1, POST_BYTES_MAX))
        self.exchange(connection, "POST", "/echo", posted, lambda body: body.decode() == upstream.digest(posted))

    def exchange(self, connection, method, path, body, is_right):
        connection.request(method, path, body, {"Host": self.host})
        response = connection.getresponse()
        received = response.read()
        self.requests += 1
        if response.status != 200 or not is_right(received):
            self.wrong = f"{method} {path}: wrong answer, status {response.status}, {len(received)} bytes"
