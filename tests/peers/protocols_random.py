"""Relays that a seed draws: tiny and huge writes both ways at once, then an end of one of many kinds. Both ends compare every byte, and how each end
saw the other go must be as on a direct connection between the two, of which they are not to notice that there is a proxy in it."""

import concurrent.futures
import dataclasses
import functools
import itertools
import os
import random
import select
import socket
import struct
import threading
import time

import rig
from protocols_case import HELD_S, Server, case, read, reset, send
from protocols_flow import BLOCK

RELAYS = 320
AT_ONCE = 12
NOTICED_S = 1.0  # within which a side that has broken off is missed by who sends to it
SEED = int(os.environ.get("RINGWAY_SEED", "1"))
# Who ends first, and how. "client" and "server" stand for either in the script of ends.
ENDS = ("fin", "fins", "reset", "fin-then-reset-behind", "fin-then-reset", "send-and-reset", "close-unread")


@dataclasses.dataclass
class Plan:
    number: int
    phases: list  # (bytes up, bytes down), cut into writes
    end: str
    first: str  # who ends
    tail: list  # what is sent against the first end
    both: threading.Barrier
    facts: dict


def pieces(rng):
    """Bytes in the writes that send them."""
    size = rng.choices([0, rng.randint(1, 100), rng.randint(101, 1 << 16), rng.randint(1 << 16, 1 << 20), rng.randint(1 << 20, 1 << 22)], [1, 8, 6, 2, 0.3])[0]
    made = []
    while size:
        begin = rng.randrange(len(BLOCK) - 1)
        made.append(memoryview(BLOCK)[begin : begin + min(size, rng.choice([1, 7, 1460, 1 << 14, 1 << 20]) if len(made) < 40 else size)])
        size -= len(made[-1])
    return made


def plans():
    kinds = itertools.cycle(itertools.product(ENDS, ("client", "server")))
    for number, (end, first) in zip(range(RELAYS), kinds):
        rng = random.Random(f"{SEED}-{number}")
        phases = [(pieces(rng), pieces(rng)) for _ in range(rng.randint(0, 4))]
        yield Plan(number, phases, end, first, pieces(rng), threading.Barrier(2, timeout=HELD_S), {})


def swap(connection, writes, expected):
    """Sends and reads at the same time; an error says what came instead of the bytes."""
    connection.settimeout(0)
    poll, got, at = select.poll(), bytearray(), 0
    writes = list(writes)
    wanted = b"".join(expected)
    while writes or len(got) < len(wanted):
        poll.register(connection, (select.POLLIN if len(got) < len(wanted) else 0) | (select.POLLOUT if writes else 0))
        ready = poll.poll(HELD_S * 1000)
        if not ready:
            raise rig.Failed(f"stuck with {len(got)} of {len(wanted)} bytes, {len(writes)} writes to go")
        events = ready[0][1]
        if events & ~select.POLLOUT and len(got) < len(wanted):
            part = connection.recv(min(1 << 18, len(wanted) - len(got)))
            if not part:
                raise rig.Failed(f"an end after {len(got)} of {len(wanted)} bytes")
            got += part
        if events & select.POLLOUT and writes:
            at += connection.send(writes[0][at:])
            if at == len(writes[0]):
                writes, at = writes[1:], 0
    connection.settimeout(HELD_S)
    if got != wanted:
        raise rig.Failed(f"other bytes: {first_wrong(got, wanted)}")


def first_wrong(got, wanted):
    at = next((at for at, (one, other) in enumerate(zip(got, wanted)) if one != other), min(len(got), len(wanted)))
    return f"{len(got)} of {len(wanted)}, unlike from {at}"


def rest(connection, tail=()):
    """How the other side ended, and whether all of its tail came before."""
    got, end = read(connection)
    wanted = b"".join(tail)
    return end if got == wanted else f"{first_wrong(got, wanted)}, then {end}"


def begin_of(connection, tail):
    """As `rest`, where a reset may have taken some with it."""
    got, end = read(connection)
    wanted = b"".join(tail)
    return end if wanted.startswith(got) else f"other bytes: {first_wrong(got, wanted)}, then {end}"


def send_on(connection):
    """Until it is refused: whoever has ended and then broken off is missed when something is sent to him."""
    poll = select.poll()
    poll.register(connection, 0)
    until = time.monotonic() + NOTICED_S
    while time.monotonic() < until:
        if send(connection, b"x") == "refused":
            return "refused"
        poll.poll(10)
    return "taken"


def end_first(connection, plan):
    """The side that ends: what it sees of the other."""
    match plan.end:
        case "fin":
            connection.shutdown(socket.SHUT_WR)
            return rest(connection, plan.tail)
        case "fins":
            plan.both.wait()
            connection.shutdown(socket.SHUT_WR)
            return rest(connection)
        case "reset":
            reset(connection)
        case "fin-then-reset-behind":
            connection.shutdown(socket.SHUT_WR)
            plan.both.wait()
            reset(connection)
        case "fin-then-reset":
            connection.shutdown(socket.SHUT_WR)
            return rest(connection)
        case "send-and-reset":
            # What does not fit into the buffers is not sent.
            connection.settimeout(0)
            try:
                for part in plan.tail:
                    if connection.send(part) < len(part):
                        break
            except BlockingIOError:
                pass
            reset(connection)
        case "close-unread":
            # A byte is there, and nobody takes it.
            plan.both.wait()
            select.select([connection], [], [], HELD_S)
            connection.close()
    return ""


def end_second(connection, plan):
    match plan.end:
        case "fin":
            seen = rest(connection)
            swap(connection, plan.tail, [])
            connection.shutdown(socket.SHUT_WR)
            return seen
        case "fins":
            plan.both.wait()
            connection.shutdown(socket.SHUT_WR)
            return rest(connection)
        case "fin-then-reset-behind":
            seen = rest(connection)
            plan.both.wait()
            return f"{seen}, then {send_on(connection)}"
        case "fin-then-reset":
            seen = rest(connection)
            reset(connection)
            return seen
        case "send-and-reset":
            return begin_of(connection, plan.tail)
        case "close-unread":
            connection.sendall(b"x")
            plan.both.wait()
    return rest(connection)


def play(connection, plan, own):
    """One side of a relay. The first wait: the other side has the word that it is there before anything ends."""
    try:
        plan.both.wait()
        for up, down in plan.phases:
            swap(connection, *((up, down) if own == "client" else (down, up)))
            # All of a phase has arrived: what ends next takes nothing with it.
            plan.both.wait()
        seen = (end_first if own == plan.first else end_second)(connection, plan)
    except (OSError, rig.Failed, threading.BrokenBarrierError) as error:
        seen = repr(error)
        plan.both.abort()
    plan.facts[own] = seen


class Relays:
    """The server's side of all of them: a client's first bytes are the number of its plan."""

    def __init__(self):
        self.plans = list(plans())

    def __call__(self, connection):
        number, end = read(connection, 4)
        if end == "whole":
            connection.sendall(b"!")
            play(connection, self.plans[struct.unpack(">I", number)[0]], "server")
        return end


def through(server, port):
    """What both ends of all relays through a port saw."""
    every = server.script.plans

    def one(plan):
        with socket.socket() as client:
            client.settimeout(HELD_S)
            client.connect(("127.0.0.1", port))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(struct.pack(">I", plan.number))
            read(client, 1)
            play(client, plan, "client")

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, every))
    server.said(len(every))
    return [dict(sorted(plan.facts.items())) for plan in every]


@functools.cache
def direct():
    server = Server(Relays)
    found = through(server, server.port)
    server.stop()
    return found


@case("random-relays", servers={"one": Relays}, proxy={"access_log": []}, uncounted="(?<!_active)$", alone=True)
def random_relays(at):
    unlike = [
        f"{plan.first} {plan.end} (seed {SEED}, relay {plan.number}): directly {wanted}, here {found}"
        for plan, wanted, found in zip(at.one.script.plans, direct(), through(at.one, at.port)) if wanted != found
    ]
    if unlike:
        raise rig.Failed("unlike a direct connection:\n        " + "\n        ".join(unlike))
    return {"relays": len(at.one.words)}
