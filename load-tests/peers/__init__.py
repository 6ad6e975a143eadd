"""What is measured: one class per peer, found by name; a new file with a `PEERS` list adds more.

A peer turns a `Setup` into a command. What it cannot do it says with `errors.Unsupported`, and the table shows the reason.
"""

import contextlib
import dataclasses
import http.client
import importlib
import pathlib
import pkgutil
import time

from loads import client, errors, identity


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a scenario needs of a proxy. Peers that run with an equal setup are shared between scenarios."""

    # Worker threads (or processes).
    workers: int = 1
    # Virtual hosts, each with a route and a cluster of its own; the last one is asked for.
    routes: int = 1
    # Started so that it can reload its configuration.
    reloads: bool = False
    # Every worker gets as many connections (Envoy's `exact_balance`).
    exact_balance: bool = False
    # Clients speak TLS 1.3. Ciphers and curves are each program's own choice.
    tls: bool = False
    # Clients speak HTTP/2: by ALPN over TLS, else by prior knowledge.
    http2: bool = False
    # So does the origin, without TLS.
    upstream_http2: bool = False
    # The origin answers gRPC (and HTTP/2 on both sides carries it).
    grpc: bool = False
    # Connections are relayed as they are, each to one of the origin's own. What they carry is still HTTP/1.1.
    tcp: bool = False

    def host(self):
        """The Host that requests name."""
        return f"h{self.routes - 1}.test"

    def is_plain(self):
        """HTTP/1.1 on both sides, without TLS."""
        return not (self.tls or self.http2 or self.upstream_http2 or self.grpc or self.tcp)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a proxy listens and forwards to, a folder of its own, and whom it says it is over TLS."""

    port: int
    admin: int
    upstream: int
    folder: pathlib.Path
    identity: identity.Identity


class Peer:
    """A program that forwards."""

    name = ""
    # "ringway", "proxy", "floor", or "direct": no proxy at all.
    kind = "proxy"
    color = "#888888"
    # A variant that differs from its namesake in how it moves large bodies.
    for_bodies = False
    # A variant that differs from its namesake in how it relays TCP, and in nothing else.
    for_relays = False
    # An event loop that is compared with the other ones, and no floor of its own.
    is_loop = False

    def find(self, tools):
        """Finds or installs it; its version."""
        raise NotImplementedError

    def command(self, setup, place):
        """Writes its configuration; the command line."""
        raise NotImplementedError

    def reload(self, process, setup, place):
        """Makes a running process take its configuration anew."""
        raise errors.Unsupported("cannot")


class Running:
    """A started peer: where it is, and its process (none for the direct run)."""

    def __init__(self, peer, setup, place, process):
        self.peer, self.setup, self.place, self.process = peer, setup, place, process
        self.port = place.port if process else place.upstream

    def reload(self):
        self.peer.reload(self.process, self.setup, self.place)

    def connect(self, timeout_s=30):
        """A client of the rig's own that speaks what this peer is asked in."""
        # The origin itself has no TLS.
        tls = self.setup.tls and self.process is not None
        return client.connect(self.port, tls, self.setup.http2, self.place.identity, timeout_s)

    def wait_ready(self, deadline_s=120.0):
        """Waits for the first answer; how long that took, in seconds."""
        begun = time.monotonic()
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                with contextlib.closing(self.connect(timeout_s=10)) as connection:
                    connection.request("GET", "/", headers={"Host": self.setup.host()})
                    response = connection.getresponse()
                    response.read()
                    if response.status == 200:
                        return time.monotonic() - begun
            if self.process:
                self.process.require_alive()
            if time.monotonic() - begun > deadline_s:
                raise errors.Failed(f"{self.peer.name} did not answer within {deadline_s:.0f} s")
            time.sleep(0.001)


def known():
    """All peers by name, in the order of their files' `ORDER` and lists."""
    modules = [importlib.import_module(f"peers.{module.name}") for module in pkgutil.iter_modules(__path__)]
    modules = sorted((module for module in modules if hasattr(module, "PEERS")), key=lambda module: module.ORDER)
    return {peer.name: peer for module in modules for peer in module.PEERS}


def without_balance(setup):
    if setup.exact_balance:
        raise errors.Unsupported("no such setting")


def only_one_route(setup, relays=False):
    without_balance(setup)
    if not (dataclasses.replace(setup, tcp=False) if relays else setup).is_plain():
        also = ", but for TCP that it relays," if relays else ""
        raise errors.Unsupported(f"HTTP/1.1 without TLS{also} is all that this program speaks")
    if setup.routes > 1:
        raise errors.Unsupported("no routing of its own")
    if setup.reloads:
        raise errors.Unsupported("not offered: the program has no other configuration")
