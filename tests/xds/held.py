"""WebSockets that are held through thousands of updates: routes, clusters (theirs too), endpoints, listeners and filters are told anew by ADS, each
acknowledged before the next, while some of them speak now and then. None is closed, every byte comes back, resident memory is what it was behind the
first updates, and once they have ended nothing of them is counted any more.

    python3 tests/xds/held.py                    # needs a build of Ringway, grpcio and xds-protos (`.ci/run install`)
    python3 tests/xds/held.py --variant sotw     # state of the world; default: delta
    python3 tests/xds/held.py --updates 1000     # fewer; a seed is printed and may be given
"""

import argparse
import asyncio
import contextlib
import pathlib
import random
import resource
import tempfile
import threading
import time

import peers  # noqa: F401 (before rig)
import churn
import resources as made
import rig
from play import Origin, Play
from scale import memory_kb

HELD = 1000
UPDATES = 10_000
WARM_UP = 500  # updates before memory is looked at
SPEAKS_EVERY = 20  # updates
SPEAKING = 20  # so many of them then
SAID_BYTES_MAX = 4096
# Of resident memory behind the warm-up.
GROWTH_MAX = 0.10
# Of what is live in the heap, which no page of the allocator's rounds: so much may be left of each update. One small block is more.
LEFT_BYTES_MAX = 32
# What is counted of the WebSockets while they are there.
COUNTED = ("http.web.downstream_cx_active", "http.web.downstream_cx_upgrades_active", "cluster.held.upstream_cx_active")


class Echo:
    """A server that upgrades, and then says what it hears: as many connections as there are, in one thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=HELD), self.loop)
        self.port = server.result(rig.DEADLINE_S).sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            while heard := await reader.read(1 << 16):
                writer.write(heard)
                await writer.drain()
        writer.close()


class World(churn.World):
    """As there, and the cluster that the WebSockets go to changes, too: they stay with the one that they have met."""

    def __init__(self, play, held_port, chance):
        super().__init__(play, held_port, chance)
        self.held_port = held_port

    def change(self):
        kind, put, gone = super().change()
        if kind == "CDS" and self.chance.random() < 0.3:
            return kind, {"held": made.static_cluster("held", self.held_port, connect_timeout=f"{self.chance.randint(2, 9)}s")}, ()
        return kind, put, gone

    def rest(self):
        """What was added is gone, and who asks is answered by the first endpoint: the same world, however it came about."""
        for kind, is_extra in (("CDS", lambda name: name.startswith("extra")), ("LDS", lambda name: name == "more")):
            if gone := [name for name in self.play.state[kind] if is_extra(name)]:
                self.take(kind, {}, gone)
        self.take("EDS", {name: made.endpoints(name, self.ports[0]) for name in ("svc", "other")})
        self.play.becomes("a")

    def take(self, kind, put, gone=()):
        if (answer := self.play.set(kind, put, gone)) != "ACK":
            raise rig.Failed(f"{kind} at rest: {answer}")


def update(world, held, numbers):
    """Updates with these numbers, and what is said between them; how many echoes there were."""
    echoes, stream = 0, world.play.stream
    for number in numbers:
        world.step()
        if number % SPEAKS_EVERY == 0:
            speak(world.chance.sample(held, SPEAKING), world.chance)
            echoes += SPEAKING
            # They are looked through for every answer.
            with stream.changed:
                stream.requests.clear()
    return echoes


def speak(held, chance):
    """All of these at once; each hears what it has said."""
    said = [chance.randbytes(chance.randint(1, SAID_BYTES_MAX)) for _ in held]
    for (client, _), words in zip(held, said):
        client.sendall(words)
    for (_, file), words in zip(held, said):
        if (heard := file.read(len(words))) != words:
            raise rig.Failed(f"a WebSocket has heard {len(heard)} bytes, not the {len(words)} that it has said")


def counted(play):
    return {name: play.stats_of(name) for name in COUNTED}


class AtRest:
    """Memory once what the updates have brought in is given back, in kB: resident, and live in the heap."""

    def __init__(self, play):
        self.resident, _ = memory_kb(play.proxy.pid)
        lines = play.admin_json("/memory?ledger")["ledger"]["heap"]
        self.live = sum(value for name, value in lines.items() if name != "free_and_overhead") / 1024


def one(is_delta, updates, seed, echo, folder):
    origins = [Origin("a"), Origin("b")]
    argv = [rig.ringway(), "--concurrency", "2", "--disable-hot-restart", "-l", "warning"]
    ports = {"ports": [origin.port for origin in origins]}
    with Play(argv, is_delta, ports, folder) as play:
        world = World(play, echo.port, random.Random(seed))
        world.begin()
        with contextlib.ExitStack() as stack:
            held = churn.hold(play.port, HELD, stack)
            echoes = update(world, held, range(WARM_UP))
            world.rest()
            before = AtRest(play)
            begun = time.monotonic()
            echoes += update(world, held, range(updates))
            took = time.monotonic() - begun
            world.rest()
            speak(held, world.chance)
            after = AtRest(play)
            there = counted(play)
        play.proxy.check()
        wrong = [f"{name} is {value} with {HELD} WebSockets" for name, value in there.items() if value < HELD]
        wrong += ends(play)
        if panics := play.stats_of("ringway.panics"):
            wrong.append(f"{panics} panics")
    print(
        f"{'delta' if is_delta else 'state of the world'}: {HELD} WebSockets held through {updates} updates, {updates / took:.0f} a second; {echoes + HELD} echoes; resident "
        f"{before.resident} kB behind the first {WARM_UP}, {after.resident} kB in the end; live in the heap {before.live:.0f} and {after.live:.0f} kB",
        flush=True,
    )
    if after.resident > before.resident * (1 + GROWTH_MAX):
        wrong.append(f"resident memory went from {before.resident} to {after.resident} kB, by more than {GROWTH_MAX:.0%}")
    left = (after.live - before.live) * 1024 / updates
    if left > LEFT_BYTES_MAX:
        wrong.append(f"{left:.0f} bytes of each update are left in the heap, more than {LEFT_BYTES_MAX}")
    if wrong:
        raise rig.Failed(f"seed {seed}: " + "\n".join(wrong))


def ends(play):
    """The WebSockets have been closed: what is still counted of them."""
    with contextlib.suppress(rig.Failed):
        rig.wait_for(lambda: not any(counted(play).values()), "the WebSockets to be counted no more")
    return [f"{name} is {value} when all WebSockets are closed" for name, value in counted(play).items() if value]


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--variant", choices=["sotw", "delta"], default="delta")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    # Two sockets of each are here, and two there.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * HELD)), hard))
    with tempfile.TemporaryDirectory() as folder:
        one(arguments.variant == "delta", arguments.updates, arguments.seed, Echo(), pathlib.Path(folder))


if __name__ == "__main__":
    rig.main(run)
