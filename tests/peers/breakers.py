"""Circuit breakers, of relayed connections and of requests over HTTP/1.1 and HTTP/2: who is served, who waits and who is refused, what is
answered, counted, shown by gauges and recorded, by Envoy and by Ringway with the same bootstrap.

    python3 tests/peers/breakers.py                    # needs Envoy 1.40 and a build of Ringway
    python3 tests/peers/breakers.py --only 'http-*'    # some cases
    python3 tests/peers/breakers.py --self             # Envoy against itself: proves that the comparison is stable
    python3 tests/peers/breakers.py --wrong            # and without the limits: must find differences
    python3 tests/peers/breakers.py --show             # with Envoy's facts, for a reader

Connections are pools of a worker's own, in Envoy too, and who waits for one depends on where its client came to: but for the cases that say
so, there is one worker.
"""

import argparse
import contextlib
import fnmatch
import json
import pathlib
import tempfile
import threading
import types

import protocols
import protocols_bench
import protocols_case
import raw_http2 as h2
import rig
from protocols_case import HELD_S, case, echo, read, told, typed

LOG = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% host=%UPSTREAM_HOST%\n"
GET = b"GET /%s HTTP/1.1\r\nhost: a\r\n\r\n"
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
GAUGES = ("cx_open", "cx_pool_open", "rq_open", "rq_pending_open", "remaining_cx", "remaining_cx_pools", "remaining_pending", "remaining_rq")
UNLIMITED = 1 << 63
# Limits that runtime has in place of those of these cases.
LIMITS = {"tcp-runtime.default.max_connections": 3, "http-runtime.default.max_requests": 1}
RUNTIME = {"layers": [{"name": "fixed", "static_layer": {f"circuit_breakers.{key}": limit for key, limit in LIMITS.items()}}]}
CASES = []
WIDE = set()
# How many frames there are, and who ended an idle connection of HTTP/2, have nothing to do with it.
FRAMES = "_cx_(tx|rx)_bytes|_cx_destroy"


def breaker(name, limits=(), per_host=(), workers=1, http2=None, route=None, router=None, **fields):
    """Adds a case: thresholds, those per host, and what else its configuration has."""
    http = fields.pop("http", name.startswith("http"))
    cluster = fields.pop("cluster", {})
    if limits or per_host:
        lists = {"thresholds": list(limits), "per_host_thresholds": list(per_host)}
        cluster["circuit_breakers"] = {key: value for key, value in lists.items() if value}
    if http2 is not None:
        message = {"@type": f"type.googleapis.com/{OPTIONS}", "explicit_http_config": {"http2_protocol_options": http2}}
        cluster["typed_extension_protocol_options"] = {OPTIONS: message}
    if http:
        fields["chains"] = chains(route or {}, router or {})
        fields.setdefault("servers", {"one": Holding if http2 is None else HoldingStreams})

    def add(perform):
        case(name, cluster=cluster, **fields)(perform)
        CASES.append(protocols_case.CASES[-1])
        if workers > 1:
            WIDE.add(name)
        return perform

    return add


def chains(route, router):
    def made(name, folder, _programs):
        log = typed("file", "access_loggers.file.v3.FileAccessLog", path=str(folder / f"{name}.log"), log_format={"text_format_source": {"inline_string": LOG}})
        high = {"match": {"prefix": "/high"}, "route": {"cluster": name, "priority": "HIGH", **route}}
        rest = {"match": {"prefix": "/"}, "route": {"cluster": name, **route}}
        manager = typed(
            "hcm", "filters.network.http_connection_manager.v3.HttpConnectionManager", stat_prefix=name, access_log=[log],
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [high, rest]}]},
            http_filters=[typed("router", "filters.http.router.v3.Router", **router)],
        )
        return {"filter_chains": [{"filters": [manager]}]}

    return made


# --- endpoints that answer when they are told to


class Holding:
    """HTTP/1.1; the oldest request first."""

    def __init__(self):
        self.held, self.connections, self.changed = [], [], threading.Condition()

    def __call__(self, connection):
        self.connections.append(connection)
        reader = rig.Reader(connection)
        with contextlib.suppress(EOFError):
            while True:
                reader.message()
                self.hold(connection, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        return "ended"

    def hold(self, connection, answer):
        with self.changed:
            self.held.append((connection, answer))
            self.changed.notify_all()

    def has(self, count):
        """Waits for so many requests that are not answered."""
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.held) >= count, HELD_S):
                raise rig.Failed(f"{len(self.held)} requests have come, not {count}")

    def release(self):
        self.has(1)
        with self.changed:
            connection, answer = self.held.pop(0)
        connection.sendall(answer)

    def end(self):
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(2)


class HoldingStreams(Holding):
    """HTTP/2."""

    def __call__(self, connection):
        self.connections.append(connection)
        preface = b""
        while len(preface) < len(h2.PREFACE):
            preface += connection.recv(len(h2.PREFACE) - len(preface))
        connection.sendall(h2.settings())
        for kind, flags, stream, _ in h2.frames(connection):
            if kind == h2.SETTINGS and not flags & h2.ACK:
                connection.sendall(h2.frame(h2.SETTINGS, h2.ACK))
            if kind == h2.HEADERS:
                self.hold(connection, h2.frame(h2.HEADERS, h2.END_STREAM | h2.END_HEADERS, stream, b"\x88"))
        return "ended"


# --- steps


def gauges(at, priority="default"):
    stats = at.bench.stats()
    names = {name: f"cluster.{at.name}.circuit_breakers.{priority}.{name}" for name in GAUGES}
    # Of pools without a limit Envoy tells its largest number, Ringway nothing.
    return " ".join(f"{short}={stats[name]}" for short, name in names.items() if stats.get(name, UNLIMITED) < UNLIMITED)


def counts(at):
    """What is counted at this moment."""
    names = ("upstream_cx_active", "upstream_rq_active", "upstream_rq_pending_active", "upstream_cx_overflow", "upstream_rq_pending_overflow",
             "upstream_rq_active_overflow", "upstream_cx_pool_overflow")
    return " ".join(f"{name[9:]}={at.stat(f'cluster.{at.name}.{name}')}" for name in names)


def awaits(at, name, value):
    at.await_stat(f"cluster.{at.name}.upstream_{name}", value)


def relayed(at, stack):
    """A connection that has come through."""
    client = stack.enter_context(at.connect())
    client.sendall(b"x")
    return client, told(read(client, 1))


def refused(at):
    with at.connect() as client:
        return told(read(client))


def asking(at, stack, path=b""):
    client = stack.enter_context(at.connect())
    client.sendall(GET % path)
    return client


def answer(client):
    message = rig.Reader(client).message(is_response=True)
    return f"{message.status} {message.body!r} overloaded={message.values('x-envoy-overloaded')}"


def finish(at, facts, lines):
    """The end of a case with HTTP, once so much is in the log."""
    path = at.bench.folder / f"{at.name}.log"
    rig.wait_for(lambda: path.exists() and len(path.read_text().splitlines()) >= lines, f"{lines} lines of the log")
    for server in at.servers.values():
        server.script.end()
    return {**facts, "endpoints": {name: server.accepted for name, server in at.servers.items()}}


# --- relayed connections


def fills_up(at):
    facts = {"before": gauges(at)}
    with contextlib.ExitStack() as stack:
        held = [relayed(at, stack) for _ in range(3)]
        facts |= {"served": [got for _, got in held], "full": gauges(at), "beyond": [refused(at) for _ in range(2)]}
        held[0][0].close()
        awaits(at, "cx_active", 2)
        facts["less"] = gauges(at)
        facts["again"] = relayed(at, stack)[1]
    return facts


breaker("tcp-connections", [{"max_connections": 3}])(fills_up)
breaker("tcp-connections-of-two-workers", [{"max_connections": 3}], workers=2)(fills_up)
breaker("tcp-remaining", [{"max_connections": 3, "track_remaining": True}])(fills_up)
breaker("tcp-first-of-a-priority-counts", [{"max_connections": 3}, {"max_connections": 1}])(fills_up)
breaker("tcp-runtime", [{"max_connections": 9}])(fills_up)
breaker("tcp-attempts", [{"max_connections": 3}], proxy={"max_connect_attempts": 3})(fills_up)


@breaker("tcp-none", [{"max_connections": 0, "track_remaining": True}])
def tcp_none(at):
    return {"beyond": [refused(at) for _ in range(2)], "gauges": gauges(at)}


@breaker("tcp-high-has-no-say", [{"priority": "HIGH", "max_connections": 0, "max_pending_requests": 0, "max_requests": 0}])
def tcp_high(at):
    with contextlib.ExitStack() as stack:
        return {"served": relayed(at, stack)[1], "high": gauges(at, "high")}


def never(at):
    return {"beyond": [refused(at) for _ in range(2)], "gauges": gauges(at)}


breaker("tcp-pending", [{"max_pending_requests": 0}])(never)
breaker("tcp-pending-attempts", [{"max_pending_requests": 0}], proxy={"max_connect_attempts": 3})(never)


@breaker("tcp-requests", [{"max_requests": 1, "track_remaining": True}])
def tcp_requests(at):
    """A relayed connection counts as a request, and is not refused for their number."""
    with contextlib.ExitStack() as stack:
        return {"served": [relayed(at, stack)[1] for _ in range(2)], "full": f"{gauges(at)} {counts(at)}"}


@breaker("tcp-per-host", per_host=[{"max_connections": 1}])
def tcp_per_host(at):
    """The second waits for the first to end."""
    with contextlib.ExitStack() as stack:
        first, got = relayed(at, stack)
        second = stack.enter_context(at.connect())
        second.sendall(b"y")
        awaits(at, "rq_pending_active", 1)
        facts = {"served": got, "waiting": f"{gauges(at)} {counts(at)}", "reached": at.one.accepted}
        first.close()
        return {**facts, "then": told(read(second, 1)), "after": counts(at)}


@breaker("tcp-per-host-of-two", per_host=[{"max_connections": 1}], servers={"one": echo, "two": echo}, clusters={"": ["one", "two"]})
def tcp_per_host_of_two(at):
    with contextlib.ExitStack() as stack:
        served = [relayed(at, stack)[1] for _ in range(2)]
        return {"served": served, "each": [server.accepted for server in at.servers.values()], "counts": counts(at)}


# --- requests


@breaker("http-connections", [{"max_connections": 1, "track_remaining": True}])
def http_connections(at):
    """Others wait for the one connection, in the order in which they came."""
    with contextlib.ExitStack() as stack:
        clients = []
        for waiting in range(3):
            clients.append(asking(at, stack))
            at.one.script.has(1)
            awaits(at, "rq_pending_active", waiting)
        facts = {"waiting": f"{gauges(at)} {counts(at)}", "answers": []}
        for client in clients:
            at.one.script.release()
            facts["answers"].append(answer(client))
        return finish(at, facts, 3)


@breaker("http-pending", [{"max_connections": 1, "max_pending_requests": 1, "track_remaining": True}])
def http_pending(at):
    with contextlib.ExitStack() as stack:
        first = asking(at, stack)
        at.one.script.has(1)
        second = asking(at, stack)
        awaits(at, "rq_pending_active", 1)
        facts = {"beyond": answer(asking(at, stack)), "full": f"{gauges(at)} {counts(at)}"}
        at.one.script.release()
        facts["first"] = answer(first)
        at.one.script.release()
        facts["second"] = answer(second)
        return finish(at, facts, 3)


@breaker("http-no-pending", [{"max_pending_requests": 0}])
def http_no_pending(at):
    with contextlib.ExitStack() as stack:
        return finish(at, {"beyond": [answer(asking(at, stack)) for _ in range(2)], "gauges": f"{gauges(at)} {counts(at)}"}, 2)


@breaker("http-quietly", [{"max_pending_requests": 0}], router={"suppress_envoy_headers": True})
def http_quietly(at):
    with contextlib.ExitStack() as stack:
        return finish(at, {"beyond": answer(asking(at, stack))}, 1)


@breaker("http-requests", [{"max_requests": 1, "track_remaining": True}])
def http_requests(at):
    """The second is refused on a connection made for it, the third on that one."""
    with contextlib.ExitStack() as stack:
        first = asking(at, stack)
        at.one.script.has(1)
        facts = {"beyond": [answer(asking(at, stack)) for _ in range(2)], "full": f"{gauges(at)} {counts(at)}"}
        at.one.script.release()
        facts["first"] = answer(first)
        again = asking(at, stack)
        at.one.script.release()
        facts["again"] = answer(again)
        return finish(at, facts, 4)


breaker("http-runtime", [{"max_requests": 9, "track_remaining": True}])(http_requests)


@breaker("http-requests-of-two-workers", [{"max_requests": 2}], workers=2, uncounted="_cx_(total|destroy|http1|rx|tx|length|active)|rq_pending_total")
def http_requests_wide(at):
    with contextlib.ExitStack() as stack:
        held = [asking(at, stack) for _ in range(2)]
        at.one.script.has(2)
        facts = {"beyond": [answer(asking(at, stack)) for _ in range(3)], "full": gauges(at)}
        for _ in held:
            at.one.script.release()
        facts["first"] = sorted(map(answer, held))
        finish(at, facts, 5)
        return facts


@breaker("http-two-hosts", [{"max_connections": 1}], servers={"one": Holding, "two": Holding}, clusters={"": ["one", "two"]})
def http_two_hosts(at):
    """Each host has a first connection, beyond the limit, too."""
    with contextlib.ExitStack() as stack:
        clients = [asking(at, stack) for _ in range(2)]
        for server in at.servers.values():
            server.script.has(1)
        facts = {"full": f"{gauges(at)} {counts(at)}"}
        for server in at.servers.values():
            server.script.release()
        facts["answers"] = [answer(client) for client in clients]
        return finish(at, facts, 2)


@breaker("http-per-host", per_host=[{"max_connections": 1}])
def http_per_host(at):
    with contextlib.ExitStack() as stack:
        first = asking(at, stack)
        at.one.script.has(1)
        second = asking(at, stack)
        awaits(at, "rq_pending_active", 1)
        facts = {"waiting": f"{gauges(at)} {counts(at)}", "answers": []}
        for client in (first, second):
            at.one.script.release()
            facts["answers"].append(answer(client))
        return finish(at, facts, 2)


@breaker("http-given-up", [{"max_connections": 1}], uncounted="rq_cancelled|downstream")
def http_given_up(at):
    """Who goes away while it waits is followed by the next."""
    with contextlib.ExitStack() as stack:
        clients = []
        for waiting in range(3):
            clients.append(asking(at, stack))
            at.one.script.has(1)
            awaits(at, "rq_pending_active", waiting)
        clients.pop(1).close()
        awaits(at, "rq_pending_active", 1)
        facts = {"answers": []}
        for client in clients:
            at.one.script.release()
            facts["answers"].append(answer(client))
        return finish(at, facts, 3)


@breaker("http-connection-ends", [{"max_connections": 1}], uncounted="rq_rx_reset")
def http_connection_ends(at):
    """A connection that ends makes room for another."""
    with contextlib.ExitStack() as stack:
        first = asking(at, stack)
        at.one.script.has(1)
        second = asking(at, stack)
        awaits(at, "rq_pending_active", 1)
        # Before it ends: the second request may come at once.
        at.one.script.held.clear()
        at.one.script.connections[0].shutdown(2)
        facts = {"first": answer(first)}
        at.one.script.release()
        facts["second"] = answer(second)
        return finish(at, facts, 2)


@breaker("http-high", [{"max_requests": 1}, {"priority": "HIGH", "max_requests": 1, "track_remaining": True}])
def http_high(at):
    """Either has its limits, and connections of its own."""
    with contextlib.ExitStack() as stack:
        clients = [asking(at, stack), asking(at, stack, b"high")]
        at.one.script.has(2)
        facts = {"full": [gauges(at), gauges(at, "high"), counts(at)], "beyond": [answer(asking(at, stack, path)) for path in (b"", b"high")]}
        for _ in clients:
            at.one.script.release()
        facts["answers"] = sorted(map(answer, clients))
        return finish(at, facts, 4)


@breaker("http2-requests", [{"max_requests": 1, "track_remaining": True}], http2={}, http=True, uncounted=FRAMES)
def http2_requests(at):
    with contextlib.ExitStack() as stack:
        first = asking(at, stack)
        at.one.script.has(1)
        facts = {"beyond": [answer(asking(at, stack)) for _ in range(2)], "full": f"{gauges(at)} {counts(at)}"}
        at.one.script.release()
        facts["first"] = answer(first)
        return finish(at, facts, 3)


@breaker("http2-connections", [{"max_connections": 1, "track_remaining": True}], http2={"max_concurrent_streams": 1}, http=True, uncounted=FRAMES)
def http2_connections(at):
    """A stream waits for room on the one connection."""
    with contextlib.ExitStack() as stack:
        clients = [asking(at, stack)]
        at.one.script.has(1)
        clients.append(asking(at, stack))
        awaits(at, "rq_pending_active", 1)
        facts = {"waiting": f"{gauges(at)} {counts(at)}", "answers": []}
        for client in clients:
            at.one.script.release()
            facts["answers"].append(answer(client))
        return finish(at, facts, 2)


@breaker("http-no-pools", [{"max_connection_pools": 0, "track_remaining": True}])
def http_no_pools(at):
    with contextlib.ExitStack() as stack:
        return finish(at, {"beyond": [answer(asking(at, stack)) for _ in range(2)], "gauges": f"{gauges(at)} {counts(at)}"}, 2)


@breaker("http-pools-of-two", [{"max_connection_pools": 1, "track_remaining": True}], servers={"one": Holding, "two": Holding}, clusters={"": ["one", "two"]}, loose=True)
def http_pools_of_two(at):
    """By turns: who comes to the other host finds no pool, who comes to the first has one, busy or idle."""
    with contextlib.ExitStack() as stack:
        held = [asking(at, stack)]
        awaits(at, "rq_active", 1)
        facts = {"beyond": answer(asking(at, stack)), "full": f"{gauges(at)} {counts(at)}"}
        held.append(asking(at, stack))
        awaits(at, "rq_active", 2)
        served = next(server for server in at.servers.values() if server.accepted)
        served.script.has(2)
        facts["answers"] = []
        for client in held:
            served.script.release()
            facts["answers"].append(answer(client))
        facts |= {"idle": f"{gauges(at)} {counts(at)}", "still": answer(asking(at, stack))}
        facts = finish(at, facts, 4)
        return {**facts, "endpoints": sorted(facts["endpoints"].values())}


@breaker("http-times-out-while-it-waits", [{"max_connections": 1}], route={"timeout": "0.3s"}, uncounted="_bytes_")
def http_times_out(at):
    """A route's timeout begins with the request's last byte, that of one that waits, too."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(at.connect())
        first.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n")
        awaits(at, "rq_active", 1)
        facts = {"waited": []}
        for framed in (b"content-length: 4\r\n\r\nbody", b"transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"):
            second = stack.enter_context(at.connect())
            second.sendall(b"POST / HTTP/1.1\r\nhost: a\r\n" + framed)
            facts["waited"].append(answer(second))
        first.sendall(b"x")
        at.one.script.release()
        facts["first"] = answer(first)
        return finish(at, facts, 3)


# --- the runs


def results(command, chosen, stack):
    """The facts of some cases at one proxy, one case at a time: what they count they count in turn."""
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    ports = rig.free_ports(1 + len(chosen))
    bench = protocols_bench.Bench(command, chosen, types.SimpleNamespace(ports={}), ports, folder, stack)
    return {one.name: bench.run(one) for one in chosen}


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="cases by name, with wildcards")
    parser.add_argument("--self", action="store_true", help="Envoy on both sides")
    parser.add_argument("--wrong", action="store_true", help="Envoy without the limits on one side")
    parser.add_argument("--show", action="store_true", help="prints what Envoy's side of each case was")
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"], help="Ringway's; default: both")
    arguments = parser.parse_args()

    pattern, arguments.only = arguments.only, "some of the cases of protocols.toml, whose other differences do not show here"
    chosen = [one for one in CASES if fnmatch.fnmatchcase(one.name, pattern)]
    flags = ["--disable-hot-restart", "-l", "warning", "--file-flush-interval-msec", "5"]
    flags += ["--config-yaml", json.dumps({"layered_runtime": RUNTIME})]
    commands = {"envoy": [rig.envoy(), *flags]}
    if arguments.self or arguments.wrong:
        commands["envoy again"] = commands["envoy"]
    else:
        commands.update({backend: [rig.ringway(), *flags, "--io-backend", backend] for backend in arguments.backend or ["io_uring", "epoll"]})
    found = {name: {} for name in commands}
    for name, command in commands.items():
        for workers, some in (("1", [one for one in chosen if one.name not in WIDE]), ("2", [one for one in chosen if one.name in WIDE])):
            if arguments.wrong and name != "envoy":
                for one in some:
                    one.cluster.pop("circuit_breakers", None)
            with contextlib.ExitStack() as stack:
                found[name].update(results([*command, "--concurrency", workers], some, stack) if some else {})
    entries = protocols.listed(arguments)
    if arguments.wrong:
        with contextlib.suppress(rig.Failed):
            protocols.report(chosen, found, entries, arguments)
            raise SystemExit("without limits nothing differs: the comparison sees nothing")
        return
    protocols.report(chosen, found, entries, arguments)


if __name__ == "__main__":
    rig.main(run)
