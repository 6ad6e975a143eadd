"""Which filter chain takes a connection, and which listeners load: Envoy and Ringway must decide alike, on listeners and connections
that a seed draws. A few decisions are taken by real TLS handshakes too, with a certificate per chain (`filter_chains_tls.py`).

    python3 tests/peers/filter_chains.py                          # needs Envoy 1.40 and a build of Ringway
    python3 tests/peers/filter_chains.py --seed 7 --cases 10000   # what an earlier run printed, or more of it
    python3 tests/peers/filter_chains.py --self                   # Envoy against itself: proves that the comparison is stable
    python3 tests/peers/filter_chains.py --wrong                  # Envoy against itself with two names exchanged: must find differences

Every difference is printed with the listener's chains, the connection and both answers; the first few are made small before.
"""

import collections
import copy
import dataclasses
import functools
import random
import re
import ssl

import filter_chains_tls
import rig
from connections import OPEN, perform
from decisions import Report, Way, answers, begin, compare_batch, decide, finish
from filter_chains_cases import Generator, ambiguous, overlap


def unmatched(found, listeners):
    return {listener.name: {"no_filter_chain_match": found.get(f"listener.{listener.name}.no_filter_chain_match", "(absent)")} for listener in listeners}


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
                      Way(functools.partial(filter_chains_tls.shake, names=names), unmatched))
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
        (their_answers, _), (our_answers, _) = (answers(peer, listeners, connections, WAY) for peer in peers)
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


WAY = Way(perform, unmatched, kind, shrink)


def run():
    arguments, peers = begin(__doc__, 4000, exchanged)
    report = Report(peers)
    draw = Generator(random.Random(arguments.seed))
    tally = decide(arguments, peers, report, draw, draw.doubtful, draw.listener, WAY)
    if tally.total() >= 1000 and (tally["a chain"] < tally.total() // 4 or not tally["default chain"] or not tally["closed"] or tally["left open"]):
        raise rig.Failed("these cases ask too little: chains, default chains and closed connections all have to be there, and no open ones")
    handshakes(peers, report, random.Random(arguments.seed))
    finish(arguments, report)


if __name__ == "__main__":
    rig.main(run)
