"""How data flows: bulk both ways at once, tiny writes, readers that wait, many connections, weighted clusters."""

import concurrent.futures
import contextlib
import hashlib
import random
import socket
import threading
import time

import rig
from protocols_case import HELD_S, QUIET_S, case, read, reset, told

BULK_BYTES = 256 << 20
# The kernel alone may hold 74 MB of them: receive buffers grow to 32 MiB, send buffers to 4 MiB, on each of the two connections.
HELD_BYTES = 192 << 20
# Buffers of the proxy (1 MiB a side by default), and what the allocator keeps.
RSS_MB_MAX = 12
PART_BYTES = 1 << 16
BLOCK = random.Random(1).randbytes(1 << 20)


def part_at(position, block=BLOCK):
    """What is sent from there: no two parts are alike, so that none can stand in another's place."""
    start = position // PART_BYTES * 7919 % (len(block) - PART_BYTES)
    return memoryview(block)[start : start + PART_BYTES]


def digest_of(count):
    digest = hashlib.sha256()
    for position in range(0, count, PART_BYTES):
        digest.update(part_at(position))
    return digest.hexdigest()[:16]


HELD_DIGEST = digest_of(HELD_BYTES)


def pour(connection, count, block=BLOCK):
    """Sends so many bytes and the end; their digest."""
    digest = hashlib.sha256()
    connection.settimeout(60)
    for position in range(0, count, PART_BYTES):
        part = part_at(position, block)
        connection.sendall(part)
        digest.update(part)
    connection.shutdown(socket.SHUT_WR)
    return digest.hexdigest()[:16]


def drain(connection):
    """Reads to the end: how many bytes, and their digest."""
    digest, count = hashlib.sha256(), 0
    connection.settimeout(60)
    buffer = bytearray(1 << 20)
    while got := connection.recv_into(buffer):
        digest.update(memoryview(buffer)[:got])
        count += got
    return f"{count} bytes, {digest.hexdigest()[:16]}"


def both_ways(connection):
    """Its own bytes out while it reads; digests of both."""
    sent = []
    thread = threading.Thread(target=lambda: sent.append(pour(connection, BULK_BYTES, BLOCK[::-1])))
    thread.start()
    got = drain(connection)
    thread.join()
    return f"sent {sent[0]}, got {got}"


@case("bulk-both-ways", servers={"one": both_ways}, alone=True, uncounted="upstream_flush_total|destroy_(local|remote)")
def bulk_both_ways(at):
    got = []
    with at.connect() as client:
        thread = threading.Thread(target=lambda: got.append(drain(client)))
        thread.start()
        sent = pour(client, BULK_BYTES)
        thread.join()
    said = at.one.said()[0]
    if said != f"sent {got[0].split()[-1]}, got {BULK_BYTES} bytes, {sent}" or not got[0].startswith(f"{BULK_BYTES} "):
        raise rig.Failed(f"client sent {sent} and got {got[0]}; server {said}")
    return {"client": f"sent {sent}, got {got[0]}", "server": said}


def blocked(progress):
    """Waits until a sender makes no more progress; how much it had sent."""
    seen, still = -1, 0
    until = time.monotonic() + HELD_S
    while still < 2:
        still = still + 1 if progress[0] == seen and seen > 0 else 0
        seen = progress[0]
        if time.monotonic() > until:
            raise rig.Failed("a sender neither ends nor is held back")
        time.sleep(QUIET_S)
    return seen


def pour_counted(connection, progress):
    connection.settimeout(60)
    while progress[0] < HELD_BYTES:
        connection.sendall(part_at(progress[0]))
        progress[0] += PART_BYTES
    connection.shutdown(socket.SHUT_WR)


def held_facts(at, before, sent):
    grown = at.bench.rss_mb() - before
    return {
        "sender": "held back" if sent < HELD_BYTES // 2 else f"sent {sent >> 20} MiB",
        "memory": "bounded" if grown < RSS_MB_MAX else f"{grown:.1f} MB more",
    }


class Held:
    """What is known of one endpoint's bulk, and the word to go on."""

    def __init__(self):
        self.progress, self.go = [0], threading.Event()


class Sends(Held):
    def __call__(self, connection):
        pour_counted(connection, self.progress)
        return told(read(connection))


class Waits(Held):
    """Reads nothing until it is told to."""

    def __call__(self, connection):
        self.go.wait(60)
        return drain(connection)


@case("slow-reader-down", servers={"one": Sends}, alone=True)
def slow_reader_down(at):
    before = at.bench.rss_mb()
    with at.connect() as client:
        facts = held_facts(at, before, blocked(at.one.script.progress))
        got = drain(client)
    same(got)
    return {**facts, "client": got, "server": at.one.said()}


@case("slow-reader-up", servers={"one": Waits}, alone=True)
def slow_reader_up(at):
    before, progress = at.bench.rss_mb(), [0]
    with at.connect() as client:
        thread = threading.Thread(target=pour_counted, args=(client, progress))
        thread.start()
        facts = held_facts(at, before, blocked(progress))
        at.one.script.go.set()
        thread.join()
        end = read(client)
    said = at.one.said()
    same(said[0])
    return {**facts, "client": told(end), "server": said}


def same(got):
    if got != f"{HELD_BYTES} bytes, {HELD_DIGEST}":
        raise rig.Failed(f"not what was sent: {got}, not {HELD_BYTES} bytes, {HELD_DIGEST}")


@case("client-gone-before-all-is-sent", servers={"one": Waits}, loose=True)
def client_gone_before_all_is_sent(at):
    """The proxy has bytes that the endpoint does not take yet: they are sent after the client has gone."""
    progress = [0]
    client = at.connect()
    at.one.reached()

    def upload():
        # Ends by an error: the connection is shut below it.
        with contextlib.suppress(OSError):
            pour_counted(client, progress)

    thread = threading.Thread(target=upload)
    thread.start()
    blocked(progress)
    client.shutdown(socket.SHUT_RDWR)
    thread.join()
    client.close()
    at.one.script.go.set()
    count = int(at.one.said()[0].split()[0])
    # The last piece may have been sent in part.
    whole = progress[0] <= count < progress[0] + PART_BYTES
    return {"server": "all of it" if whole else f"{count} of {progress[0]}"}


def upload_until_blocked(at, client):
    """A client whose endpoint reads nothing; how much it could send."""
    progress = [0]

    def upload():
        with contextlib.suppress(OSError):
            pour_counted(client, progress)

    threading.Thread(target=upload, daemon=True).start()
    return blocked(progress)


@case("client-reset-while-held", servers={"one": Waits}, loose=True)
def client_reset_while_held(at):
    """Everything on the way is full, and the proxy does not read."""
    client = at.connect()
    at.one.reached()
    upload_until_blocked(at, client)
    reset(client)
    at.one.script.go.set()
    return {"server": at.one.said()[0].split(", ")[0].startswith("failed") and "reset" or "ended"}


class HoldsReset(Held):
    """Fills the way to a client that does not read, then resets."""

    def __call__(self, connection):
        connection.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                self.progress[0] += connection.send(BLOCK)
        reset(connection)
        self.go.set()


@case("server-reset-while-held", servers={"one": HoldsReset}, loose=True)
def server_reset_while_held(at):
    with at.connect() as client:
        if not at.one.script.go.wait(HELD_S):
            raise rig.Failed("the endpoint was not held back")
        data, end = read(client)
    return {"client": f"{'some' if data else 'no'} bytes, then {end}"}


@case("held-then-idle", servers={"one": Waits}, loose=True, proxy={"idle_timeout": "1s"})
def held_then_idle(at):
    """Nothing moves for too long: both sides are ended, and what the endpoint has not taken is not kept for it."""
    with at.connect() as client:
        sent = upload_until_blocked(at, client)
        at.await_stat(f"tcp.{at.name}.idle_timeout", 1)
        at.await_stat(f"cluster.{at.name}.upstream_cx_active", 0)
        at.one.script.go.set()
        count = int(at.one.said()[0].split()[0])
    return {"server": "a part" if 0 < count < sent else f"{count} of {sent}"}


class EndsThenWaits(Waits):
    def __call__(self, connection):
        connection.shutdown(socket.SHUT_WR)
        return super().__call__(connection)


# As much as the proxy may keep, so that it has taken all of what the client sends while the endpoint takes little of it.
ROOMY = {"cluster": {"per_connection_buffer_limit_bytes": 16 << 20}, "listener": {"per_connection_buffer_limit_bytes": 16 << 20}}
KEPT_BYTES = 12 << 20


def leave_all(at, client):
    """Both directions end, the client's last: what the proxy has of it is still to be sent."""
    got = read(client)
    for _ in range(KEPT_BYTES >> 20):
        client.sendall(BLOCK)
    client.close()
    at.await_stat(f"tcp.{at.name}.upstream_flush_active", 1)
    return told(got)


@case("flushed", servers={"one": EndsThenWaits}, **ROOMY)
def flushed(at):
    facts = {"client": leave_all(at, at.connect())}
    at.one.script.go.set()
    return {**facts, "server": at.one.said()}


@case("flush-that-nobody-takes", servers={"one": EndsThenWaits}, proxy={"idle_timeout": "3s"}, loose=True, **ROOMY)
def flush_that_nobody_takes(at):
    facts = {"client": leave_all(at, at.connect())}
    at.await_stat(f"tcp.{at.name}.upstream_flush_active", 0)
    at.one.script.go.set()
    count = int(at.one.said()[0].split()[0])
    return {**facts, "server": "a part" if 0 < count < KEPT_BYTES else f"{count} bytes"}


@case("tiny-writes")
def tiny_writes(at):
    """Each byte is a packet; what comes back is all of them, in order."""
    data = bytes(index % 251 for index in range(1000))
    with at.connect() as client:
        for index in range(len(data)):
            client.sendall(data[index : index + 1])
        got = read(client, len(data))
        client.shutdown(socket.SHUT_WR)
        end = read(client)
    return {"client": told(got), "same": got[0] == data, "end": told(end), "server": at.one.said()}


@case("many-at-once", loose=True)
def many_at_once(at):
    """Everybody gets back his own."""

    def one(number):
        chance = random.Random(number)
        data = [chance.randbytes(chance.randrange(1, 60_000)) for _ in range(20)]
        with at.connect() as client:
            for part in data:
                client.sendall(part)
                if read(client, len(part)) != (part, "whole"):
                    raise rig.Failed(f"client {number} got what it had not sent")
            client.shutdown(socket.SHUT_WR)
            return read(client)[1]

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        ends = list(pool.map(one, range(150)))
    return {"ends": sorted(set(ends)), "served": len(at.one.said(150))}


WEIGHTS = {"one": 60, "two": 30, "three": 10}
CONNECTIONS = 1000


def name_itself(name):
    def script(connection):
        connection.sendall(name.encode())

    return script


@case(
    "weighted-clusters", servers={name: name_itself(name) for name in WEIGHTS}, clusters={f"-{name}": [name] for name in WEIGHTS},
    proxy={"weighted_clusters": {"clusters": [{"name": f"weighted-clusters-{name}", "weight": weight} for name, weight in WEIGHTS.items()]}}, loose=True, shared=True,
)
def weighted_clusters(at):
    def one(_):
        with at.connect() as client:
            return read(client)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(one, range(CONNECTIONS)))
    facts = {"ends": sorted({end for _, end in got})}
    for name, weight in WEIGHTS.items():
        count, expected = sum(data == name.encode() for data, _ in got), CONNECTIONS * weight / 100
        # Four standard deviations.
        allowed = 4 * (expected * (1 - weight / 100)) ** 0.5
        facts[name] = "its share" if abs(count - expected) <= allowed else f"{count} connections, not {expected:.0f} ± {allowed:.0f}"
    return facts
