"""Envoy and Ringway, on each of its back ends, beside each other on listeners and connections that a seed draws: which listeners load, what every
connection got, what was counted. What filter_chains.py and network_rbac.py have in common."""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import random
import subprocess
import tempfile
import urllib.request

import rig
from filter_chains_cases import SOURCE_PORTS, bootstrap

PER_LISTENER = 25
PER_PROCESS = 60
SHOWN = 10
SMALL = 3  # of those shown, made small
CLIENTS = 16
FLAGS = ["--concurrency", "2", "--disable-hot-restart", "-l", "error", "--file-flush-interval-msec", "50"]


class Peer:
    """A proxy as it is asked here."""

    def __init__(self, name, argv, validating, changed=str):
        self.name, self.argv, self.validating = name, argv, validating
        self.changed = changed  # what it is given of a bootstrap

    def verdict(self, path):
        done = subprocess.run([*self.validating, "--mode", "validate", "-c", str(path)], capture_output=True, text=True, errors="replace",
                              timeout=60, check=False)
        return done.returncode == 0, (done.stdout + done.stderr).strip()


@dataclasses.dataclass(frozen=True)
class Way:
    """How connections are asked and what is counted of a listener; what kind an answer is; what makes a difference small, if anything does."""

    ask: object
    count: object
    kind: object = str
    shrink: object = None


def answers(peer, listeners, connections, way):
    """What every connection got, by listener, the counters and the records; None and what the proxy said if it does not start."""
    free = rig.free_ports(len(listeners) + 1)
    own = dict(zip((listener.name for listener in listeners), free[1:]))
    ports = {name: {"own": port} | source_ports() for name, port in own.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "bootstrap.json"
        log = pathlib.Path(folder) / "access.log"
        path.write_text(peer.changed(bootstrap(free[0], listeners, ports, log)), encoding="utf-8")
        proxy = None
        try:
            proxy = rig.Process([*peer.argv, "-c", path], ready_port=free[0])
            rig.wait_for(lambda: proxy.check() and live(free[0]), f"{peer.name} to be ready")
        except rig.Failed as failure:
            said = f"{failure}\n{proxy.output() if proxy else ''}"
            if proxy:
                proxy.stop()
            return None, said
        with proxy, concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            # One after the other per listener: two connections may want the same ports.
            def ask_all(listener):
                return [way.ask(connection, own[listener.name], ports[listener.name]) for connection in connections[listener.name]]

            got = dict(zip(own, pool.map(ask_all, listeners)))
            proxy.check()
            counted = way.count(counters(free[0]), listeners)
            records = recorded(log, sum(map(len, connections.values())))
            return got, {name: (counted[name], records[name]) for name in own}


def recorded(log, wanted):
    """What listeners have recorded of their connections, by listener: every connection, in some order."""
    with contextlib.suppress(rig.Failed):
        # Too few show in the comparison.
        rig.wait_for(lambda: log.read_bytes().count(b"\n") >= wanted, "all records", 5)
    found = collections.defaultdict(collections.Counter)
    for line in log.read_text(errors="replace").splitlines():
        name, _, record = line.partition(": ")
        found[name][record] += 1
    return found


def live(admin):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=2) as answer:
        return answer.status == 200
    return False


def counters(admin):
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?format=json", timeout=rig.DEADLINE_S) as answer:
        return {each["name"]: each.get("value") for each in json.load(answer)["stats"] if "name" in each}


@functools.cache
def source_ports():
    """Ports that clients bind: no other connection and no server has them by chance."""
    return dict(zip(SOURCE_PORTS, rig.free_ports(len(SOURCE_PORTS))))


def load(peers, listeners):
    """Verdicts on each listener alone, by name: (loads, what was said) per peer."""
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        def judge(listener):
            path = pathlib.Path(folder) / f"{listener.name}.json"
            path.write_text(bootstrap(0, [listener], {listener.name: {"own": 1} | source_ports()}), encoding="utf-8")
            return [peer.verdict(path) for peer in peers]

        return dict(zip((listener.name for listener in listeners), pool.map(judge, listeners)))


class Report:
    """Prints differences, not too many of a kind."""

    def __init__(self, peers):
        self.peers = peers
        self.found, self.shown = collections.Counter(), collections.Counter()
        self.made_small = 0

    def difference(self, kind, what, listener, theirs, ours, connection=None, pair=None):
        self.found[kind] += 1
        self.shown[kind] += 1
        if self.shown[kind] > SHOWN:
            return
        print(f"--- {what}\n{listener}")
        if connection is not None:
            print(f"  connection: {connection}")
        for peer, answer in zip(pair or self.peers, (theirs, ours)):
            print(f"  {peer.name}: {answer!r}", flush=True)


def compare_verdicts(peers, report, listeners, whats):
    """Whether both load each listener alone, the same way, on whatever back end; those that both load."""
    said = load(peers[:2], listeners)
    for listener, what in zip(listeners, whats):
        if said[listener.name][0][0] != said[listener.name][1][0]:
            report.difference("load", f"load of {listener.name}{what and ': '}{what}", listener, *(
                f"{'accepts' if verdict else 'refuses'}: {text[-300:]}" for verdict, text in said[listener.name]))
    refused = collections.Counter(what for listener, what in zip(listeners, whats) if not said[listener.name][0][0])
    return [listener for listener in listeners if all(verdict for verdict, _ in said[listener.name])], refused


def compare_batch(peers, report, listeners, connections, tally, way):
    """The same listeners and connections through all, one after the other."""
    results = [answers(peer, listeners, connections, way) for peer in peers]
    if any(got is None for got, _ in results):
        # Without those of which one of them alone will not start.
        fine, _ = compare_verdicts(peers, report, listeners, [""] * len(listeners))
        if not fine or len(fine) == len(listeners):
            raise rig.Failed("\n".join(said[-3000:] for got, said in results if got is None))
        compare_batch(peers, report, fine, connections, tally, way)
        return
    for listener in listeners:
        tally.update(map(way.kind, results[0][0][listener.name]))
    for peer, result in zip(peers[1:], results[1:]):
        compare_results((peers[0], peer), report, listeners, connections, (results[0], result), way)


def compare_results(pair, report, listeners, connections, results, way):
    """What came of the same listeners and connections in two of them."""
    (theirs, their_counters), (ours, our_counters) = results
    for listener in listeners:
        name = listener.name
        pairs = list(zip(connections[name], theirs[name], ours[name]))
        wrong = [each for each in pairs if each[1] != each[2]]
        if wrong:
            report.found["connection"] += len(wrong) - 1  # one of them is printed
            connection, their_answer, our_answer = wrong[0]
            what = f"a connection to {name} ({len(wrong)} of {len(pairs)} differ)"
            if way.shrink and report.made_small < SMALL:
                report.made_small += 1
                report.difference("connection", f"{what}, made small", *way.shrink(pair, listener, connection, their_answer, our_answer), pair=pair)
            else:
                report.difference("connection", what, listener, their_answer, our_answer, connection, pair)
        if not wrong and their_counters[name] != our_counters[name]:
            (their_counted, their_records), (our_counted, our_records) = their_counters[name], our_counters[name]
            # Of the records, what only one of them has.
            report.difference("counter", f"the counters or records of {name}", listener, (their_counted, their_records - our_records),
                              (our_counted, our_records - their_records), pair=pair)


def decide(arguments, peers, report, draw, doubtful, listener, way):
    """Verdicts on what may not load, then the answers to connections: of what kinds they were. `doubtful` and `listener` draw one of a name."""
    drawn = [doubtful(f"doubtful{number}") for number in range(max(1, arguments.cases // 25))]
    _, refused = compare_verdicts(peers, report, *zip(*drawn))
    print(f"{len(drawn)} doubtful listeners: {refused.total()} refused by Envoy for {len(refused)} reasons", flush=True)
    listeners = [listener(f"listener{number}") for number in range(-(-arguments.cases // PER_LISTENER))]
    connections = {each.name: [draw.connection(each) for _ in range(PER_LISTENER)] for each in listeners}
    tally = collections.Counter()
    for at in range(0, len(listeners), PER_PROCESS):
        compare_batch(peers, report, listeners[at : at + PER_PROCESS], connections, tally, way)
    print(f"{tally.total()} decisions: {dict(tally)}", flush=True)
    return tally


def begin(description, cases, wrong):
    """The arguments, and those to compare with the first. `wrong` makes of a bootstrap one that must show."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--cases", type=int, default=cases, help="decisions")
    parser.add_argument("--self", action="store_true", help="Envoy on both sides")
    parser.add_argument("--wrong", action="store_true", help="Envoy on both sides, one of them made wrong: that must show")
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"], help="Ringway's; by default both, on the same cases")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)

    envoy = Peer("Envoy", [rig.envoy(), *FLAGS], [rig.envoy(), "-l", "error"])
    if arguments.self or arguments.wrong:
        others = [Peer("Envoy again", envoy.argv, envoy.validating, wrong if arguments.wrong else str)]
    else:
        others = [
            Peer(f"Ringway on {backend}", [rig.ringway(), *FLAGS, "--io-backend", backend], [rig.ringway(), "--allow-unimplemented"])
            for backend in arguments.backend or ["io_uring", "epoll"]]
    return arguments, [envoy, *others]


def finish(arguments, report):
    found = report.found.total()
    print(f"{found} differences {dict(report.found) if found else ''} (seed {arguments.seed})")
    if arguments.wrong:
        if not found:
            raise rig.Failed("what was made wrong did not show")
    elif found:
        first, *others = (peer.name for peer in report.peers)
        raise rig.Failed(f"{first} and {' or '.join(others)} differ")
