"""Programs of this repository: Pingora's comparator, the bare forwarders, and no proxy at all."""

from loads import errors
from peers import Peer, only_one_route


class Pingora(Peer):
    name, color = "pingora", "#c9a227"

    def find(self, tools):
        if tools.install and "pingora-peer" not in tools.given:
            # A library of its own is built with them.
            for program in ("cmake", "make"):
                tools.debian(program, program)
        self.binary = tools.crate("load-tests/peers/pingora", "pingora-peer")
        return "pingora-proxy 0.9.1"

    def command(self, setup, place):
        only_one_route(setup)
        return [self.binary, f"127.0.0.1:{place.port}", f"127.0.0.1:{place.upstream}", setup.workers]


class Floor(Peer):
    """A minimal forwarder, or relay, on one event loop (benches/README.md). It has one thread, whatever is asked for."""

    kind, color = "floor", "#999999"
    # How TCP is relayed: through buffers.
    relays_by = "tcp"

    def __init__(self, loop, color):
        self.loop, self.name, self.color = loop, f"floor-{loop}", color
        self.is_loop = loop in ("monoio", "glommio")

    def find(self, tools):
        self.binary = tools.crate("benches/runtimes", "runtimes")
        return f"minimal forwarder on {self.loop}"

    def command(self, setup, place):
        only_one_route(setup, relays=True)
        work = [self.relays_by] if setup.tcp else []
        return [self.binary, self.loop, f"127.0.0.1:{place.port}", f"127.0.0.1:{place.upstream}", *work]


class SplicingFloor(Floor):
    """A minimal relay by splice(2): of much it is the floor, since a proxy may splice, too."""

    for_bodies = for_relays = True
    relays_by = "splice"

    def __init__(self, loop, color):
        super().__init__(loop, color)
        self.name = f"floor-{loop}-splice"

    def find(self, tools):
        return f"{super().find(tools)}, by splice"


class Direct(Peer):
    """The upstream itself: what the generator and the origin cost without a proxy between them."""

    name, kind, color = "direct", "direct", "#222222"

    def find(self, tools):
        return "no proxy"

    def command(self, setup, place):
        raise errors.Unsupported("no proxy")


ORDER = 5
PEERS = [
    Pingora(),
    Floor("ring", "#555555"),
    SplicingFloor("ring", "#444444"),
    Floor("epoll", "#777777"),
    SplicingFloor("epoll", "#666666"),
    Floor("monoio", "#999999"),
    Floor("glommio", "#bbbbbb"),
    Direct(),
]
