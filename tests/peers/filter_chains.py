"""Which filter chain takes a connection, and which listeners load: Envoy and Ringway must decide alike, on listeners and connections
that a seed draws. A few decisions are taken by real TLS handshakes too, with a certificate per chain (`filter_chains_tls.py`).

    python3 tests/peers/filter_chains.py                          # needs Envoy 1.40 and a build of Ringway
    python3 tests/peers/filter_chains.py --seed 7 --cases 10000   # what an earlier run printed, or more of it
    python3 tests/peers/filter_chains.py --self                   # Envoy against itself: proves that the comparison is stable
    python3 tests/peers/filter_chains.py --wrong                  # Envoy against itself with two names exchanged: must find differences

Every difference is printed with the listener's chains, the connection and both answers; the first few are made small before.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import json
import os
import pathlib
import random
import re
import socket
import ssl
import subprocess
import tempfile
import urllib.request

import filter_chains_tls
import rig
from connections import OPEN, perform
from filter_chains_cases import SOURCE_PORTS, Generator, ambiguous, bootstrap, overlap

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


def answers(peer, listeners, connections, ask=perform, count=None):
    """What every connection got, by listener, and the counters; None and what the proxy said if it does not start."""
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
                return [ask(connection, own[listener.name], ports[listener.name]) for connection in connections[listener.name]]

            got = dict(zip(own, pool.map(ask_all, listeners)))
            proxy.check()
            counted = (count or unmatched)(counters(free[0]), listeners)
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


def unmatched(found, listeners):
    return {listener.name: {"no_filter_chain_match": found.get(f"listener.{listener.name}.no_filter_chain_match", "(absent)")} for listener in listeners}


@functools.cache
def source_ports():
    """Two ports that clients bind: below those that the kernel gives out, so that no other connection has them by chance."""
    lowest = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = []
    for port in random.Random().sample(range(lowest // 2, lowest), min(100, lowest // 2)):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("0.0.0.0", port))
            found.append(port)
        if len(found) == len(SOURCE_PORTS):
            return dict(zip(SOURCE_PORTS, found))
    raise rig.Failed("no port is free for clients")



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

    def difference(self, kind, what, listener, theirs, ours, connection=None):
        self.found[kind] += 1
        self.shown[kind] += 1
        if self.shown[kind] > SHOWN:
            return
        print(f"--- {what}\n{listener}")
        if connection is not None:
            print(f"  connection: {connection}")
        for peer, answer in zip(self.peers, (theirs, ours)):
            print(f"  {peer.name}: {answer!r}", flush=True)


def compare_verdicts(peers, report, listeners, whats):
    """Whether both load each listener alone, the same way; those that both load."""
    said = load(peers, listeners)
    for listener, what in zip(listeners, whats):
        if said[listener.name][0][0] != said[listener.name][1][0]:
            report.difference("load", f"load of {listener.name}{what and ': '}{what}", listener, *(
                f"{'accepts' if verdict else 'refuses'}: {text[-300:]}" for verdict, text in said[listener.name]))
    refused = collections.Counter(what for listener, what in zip(listeners, whats) if not said[listener.name][0][0])
    return [listener for listener in listeners if all(verdict for verdict, _ in said[listener.name])], refused


def compare_batch(peers, report, listeners, connections, tally, ask=perform, count=None):
    """The same listeners and connections through both, one after the other."""
    results = [answers(peer, listeners, connections, ask, count) for peer in peers]
    if any(got is None for got, _ in results):
        # Without those of which one of them alone will not start.
        fine, _ = compare_verdicts(peers, report, listeners, [""] * len(listeners))
        if not fine or len(fine) == len(listeners):
            raise rig.Failed("\n".join(said[-3000:] for got, said in results if got is None))
        compare_batch(peers, report, fine, connections, tally, ask, count)
        return
    (theirs, their_counters), (ours, our_counters) = results
    for listener in listeners:
        name = listener.name
        pairs = list(zip(connections[name], theirs[name], ours[name]))
        tally.update(kind(their_answer) if ask is perform else their_answer for _, their_answer, _ in pairs)
        wrong = [pair for pair in pairs if pair[1] != pair[2]]
        if wrong:
            report.found["connection"] += len(wrong) - 1  # one of them is printed
            connection, their_answer, our_answer = wrong[0]
            what = f"a connection to {name} ({len(wrong)} of {len(pairs)} differ)"
            if ask is perform and report.made_small < SMALL:
                report.made_small += 1
                report.difference("connection", f"{what}, made small", *shrink(peers, listener, connection, their_answer, our_answer))
            else:
                report.difference("connection", what, listener, their_answer, our_answer, connection)
        if not wrong and their_counters[name] != our_counters[name]:
            (their_counted, their_records), (our_counted, our_records) = their_counters[name], our_counters[name]
            # Of the records, what only one of them has.
            report.difference("counter", f"the counters or records of {name}", listener, (their_counted, their_records - our_records),
                              (our_counted, our_records - their_records))


def kind(answer):
    if answer.endswith(OPEN):
        return "left open"
    return {"": "closed", "otherwise\n": "default chain"}.get(answer, "a chain")


def handshakes(peers, report, rng):
    with filter_chains_tls.certificates() as certificates:
        names = {ssl.PEM_cert_to_DER_cert(path.read_text()): f"certificate {path.stem}" for path in certificates}
        drawn = list(filter_chains_tls.listeners(rng, certificates))
        tally = collections.Counter()
        compare_batch(peers, report, [listener for listener, _ in drawn], {listener.name: asked for listener, asked in drawn}, tally,
                      functools.partial(filter_chains_tls.shake, names=names))
    answered = sum(count for answer, count in tally.items() if answer.startswith("certificate"))
    print(f"{tally.total()} connections to chains with certificates, {answered} handshakes", flush=True)
    if answered < tally.total() // 4:
        raise rig.Failed("too few handshakes were done")


def smaller(listener, connection):
    """Pairs that have one thing less."""
    def of_listener(change):
        made = copy.deepcopy(listener)
        change(made)
        return made, connection

    for index, chain in enumerate(listener.chains):
        if len(listener.chains) > 1:
            yield of_listener(lambda made: made.chains.pop(index))
        for field, value in (chain.match or {}).items():
            yield of_listener(lambda made: made.chains[index].match.pop(field))
            for at in range(len(value) if isinstance(value, list) and len(value) > 1 else 0):
                yield of_listener(lambda made: made.chains[index].match[field].pop(at))
    if listener.default:
        yield of_listener(lambda made: setattr(made, "default", None))
    if listener.continues is not None and connection.first not in ("nothing", "half"):
        yield of_listener(lambda made: setattr(made, "continues", None))
    for index, name in enumerate(listener.filters):
        if "proxy" not in name or connection.proxied is None:
            yield of_listener(lambda made: made.filters.pop(index))
    for change in ({"sni": None}, {"alpn": connection.alpn[:-1]}, {"alpn": connection.alpn[1:]}, {"source_port": 0}, {"pieces": 1}, {"first": "tls"}):
        made = dataclasses.replace(connection, **change)
        if made != connection and (connection.first in ("openssl", "tls") or "first" not in change):
            yield listener, made


def shrink(peers, listener, connection, theirs, ours):
    """The listener and the connection with as little in them as still shows a difference, and both answers in between."""
    for _ in range(40):
        tries = []
        for made, asked in smaller(listener, connection):
            if not overlap(made) and not ambiguous(made):
                tries.append((dataclasses.replace(made, name=f"try{len(tries)}"), asked))
        if not tries:
            break
        listeners, connections = [made for made, _ in tries], {made.name: [asked] for made, asked in tries}
        (their_answers, _), (our_answers, _) = (answers(peer, listeners, connections) for peer in peers)
        if their_answers is None or our_answers is None:
            break
        shows = next(((made, asked) for made, asked in tries if their_answers[made.name] != our_answers[made.name]), None)
        if shows is None:
            break
        listener, connection = shows
        theirs, ours = their_answers[listener.name][0], our_answers[listener.name][0]
    return listener, theirs, ours, connection


def exchanged(text):
    """A bootstrap that must show: the answers of two chains exchanged."""
    return re.sub(r'("inline_string": "chain)([01])', lambda match: f"{match[1]}{1 - int(match[2])}", text)


def begin(description, cases, wrong):
    """The arguments, and the two to compare. `wrong` makes of a bootstrap one that must show."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--cases", type=int, default=cases, help="decisions")
    parser.add_argument("--self", action="store_true", help="Envoy on both sides")
    parser.add_argument("--wrong", action="store_true", help="Envoy on both sides, one of them made wrong: that must show")
    parser.add_argument("--io-backend", default="auto", help="Ringway's")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)

    envoy = Peer("Envoy", [rig.envoy(), *FLAGS], [rig.envoy(), "-l", "error"])
    if arguments.self or arguments.wrong:
        other = Peer("Envoy again", envoy.argv, envoy.validating, wrong if arguments.wrong else str)
    else:
        other = Peer("Ringway", [rig.ringway(), *FLAGS, "--io-backend", arguments.io_backend], [rig.ringway(), "--allow-unimplemented"])
    return arguments, [envoy, other]


def finish(arguments, report):
    found = report.found.total()
    print(f"{found} differences {dict(report.found) if found else ''} (seed {arguments.seed})")
    if arguments.wrong:
        if not found:
            raise rig.Failed("what was made wrong did not show")
    elif found:
        raise rig.Failed(f"{report.peers[0].name} and {report.peers[1].name} differ")


def run():
    arguments, peers = begin(__doc__, 4000, exchanged)
    report = Report(peers)
    draw = Generator(random.Random(arguments.seed))
    doubtful, oddities = zip(*(draw.doubtful(f"doubtful{number}") for number in range(max(1, arguments.cases // 25))))
    _, refused = compare_verdicts(peers, report, doubtful, oddities)
    print(f"{len(doubtful)} doubtful listeners: {refused.total()} refused by Envoy for {len(refused)} reasons", flush=True)
    listeners = [draw.listener(f"listener{number}") for number in range(-(-arguments.cases // PER_LISTENER))]
    connections = {listener.name: [draw.connection(listener) for _ in range(PER_LISTENER)] for listener in listeners}
    tally = collections.Counter()
    for at in range(0, len(listeners), PER_PROCESS):
        compare_batch(peers, report, listeners[at : at + PER_PROCESS], connections, tally)
    print(f"{tally.total()} decisions: {dict(tally)}", flush=True)
    if tally.total() >= 1000 and (tally["a chain"] < tally.total() // 4 or not tally["default chain"] or not tally["closed"] or tally["left open"]):
        raise rig.Failed("these cases ask too little: chains, default chains and closed connections all have to be there, and no open ones")
    handshakes(peers, report, random.Random(arguments.seed))
    finish(arguments, report)


if __name__ == "__main__":
    rig.main(run)
