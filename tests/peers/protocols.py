"""Real protocols, unmodified, and connections that end in every way, through `tcp_proxy` and the other network filters: the same bootstrap
for Envoy and for Ringway. What both sides of every connection saw, the counters and the access log must be equal, but for the differences that
protocols.toml lists with a reason. A listed difference that no longer shows is an error too.

    python3 tests/peers/protocols.py                   # needs Envoy 1.40, a build of Ringway and the servers (`.ci/run install`)
    python3 tests/peers/protocols.py --only 'reset-*'  # some cases
    python3 tests/peers/protocols.py --self            # Envoy against itself: proves that the comparison is stable
    python3 tests/peers/protocols.py --show            # with Envoy's facts, for a reader
"""

import argparse
import concurrent.futures
import contextlib
import fnmatch
import pathlib
import tempfile

import differential
import protocols_bench
import protocols_case
import protocols_detect  # noqa: F401 (adds its cases)
import protocols_ends  # noqa: F401 (adds its cases)
import protocols_filters  # noqa: F401 (adds its cases)
import protocols_flow  # noqa: F401 (adds its cases)
import protocols_http  # noqa: F401 (adds its cases)
import protocols_programs  # noqa: F401 (adds its cases)
import protocols_random  # noqa: F401 (adds its cases)
import protocols_servers
import protocols_tunnels  # noqa: F401 (adds its cases)
import rig

AT_ONCE = 8  # cases of one proxy; most of them wait
AGAIN_MAX = 3  # cases that are looked at once more where they differ


def run_small(command, chosen, programs, ports, stack):
    """A proxy, and the facts of all cases that may run side by side: most of them wait."""
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    bench = protocols_bench.Bench(command, chosen, programs, ports, folder, stack)
    small = [one for one in chosen if not one.alone]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return bench, dict(zip([one.name for one in small], pool.map(bench.run, small)))


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="cases by name, with wildcards")
    parser.add_argument("--self", action="store_true", help="Envoy on both sides")
    parser.add_argument("--show", action="store_true", help="prints what Envoy's side of each case was")
    parser.add_argument("--concurrency", default="2", help="workers of all proxies")
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"], help="Ringway's; default: both")
    arguments = parser.parse_args()

    chosen = [case for case in protocols_case.CASES if fnmatch.fnmatchcase(case.name, arguments.only)]
    if not chosen:
        raise rig.Failed(f"no case is named {arguments.only}")
    flags = ["--concurrency", arguments.concurrency, "--disable-hot-restart", "-l", "warning", "--file-flush-interval-msec", "5"]
    commands = {"envoy": [rig.envoy(), *flags]}
    if arguments.self:
        commands["envoy again"] = commands["envoy"]
    else:
        commands.update({backend: [rig.ringway(), *flags, "--io-backend", backend] for backend in arguments.backend or ["io_uring", "epoll"]})
    with protocols_servers.running(chosen) as programs:
        found = play(commands, chosen, programs)
        entries = listed(arguments)
        # A machine that stands still for a moment, in one of a thousand waits, is no difference: that shows again.
        again = [one for one in chosen if unlisted(one, found, entries)]
        if 0 < len(again) <= AGAIN_MAX:
            for one in again:
                print("once more: " + "; ".join(unlisted(one, found, entries)))
            for name, results in play(commands, again, programs).items():
                found[name].update(results)
    report(chosen, found, entries, arguments)


def play(commands, chosen, programs):
    """The facts of all cases of each proxy."""
    with contextlib.ExitStack() as stack:
        count = 1 + len(chosen)
        ports = rig.free_ports(len(commands) * count)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            started = [
                pool.submit(run_small, command, chosen, programs, ports[index * count : (index + 1) * count], stack)
                for index, command in enumerate(commands.values())
            ]
            every = [each.result() for each in started]
        # One at a time: memory and bulk are not to be disturbed.
        for bench, results in every:
            results.update({one.name: bench.run(one) for one in chosen if one.alone})
    return {name: results for name, (_, results) in zip(commands, every)}


def telling(ours, theirs):
    """Differences; of a case that came to no end only that it did: the counters follow from it."""
    found = list(differential.differences(ours, theirs))
    return [each for each in found if each[0] in ("refused", "failed", "settled")] or found


def listed(arguments):
    """Differences with a reason."""
    return [] if arguments.self else differential.listed("protocols.toml")


def unlisted(one, found, entries):
    """How a case of any proxy differs from Envoy's, and is not listed."""
    reference = found["envoy"][one.name]
    # Two that fail alike prove nothing.
    lines = [f"{one.name}: {word} by Envoy: {reference[word]}" for word in ("refused", "failed") if word in reference]
    for name, results in found.items():
        for field, theirs, ours in telling(results[one.name], reference) if name != "envoy" else ():
            if not differential.accounted(entries, one.name, field, theirs, ours):
                lines.append(f"{one.name}: {field}\n    envoy:   {theirs}\n    {name + ':':8} {ours}")
    return lines


def report(chosen, found, entries, arguments):
    """What differs from Envoy, case by case."""
    if arguments.show:
        for one in chosen:
            print(f"{one.name}\n" + "".join(f"    {key}: {value}\n" for key, value in sorted(found["envoy"][one.name].items())), end="")
    lines = {one.name: unlisted(one, found, entries) for one in chosen}
    differing = [name for name, told in lines.items() if told]
    print(f"{', '.join(name for name in found if name != 'envoy')}: {len(chosen) - len(differing)} of {len(chosen)} cases agree with Envoy")
    stale = [entry for entry in entries if not entry["used"]] if arguments.only == "*" else []
    for name in differing:
        print("\n".join(lines[name]))
    for entry in stale:
        print(f"listed, but no longer different: {entry['cases']} {entry['fields']}")
    if differing or stale:
        raise rig.Failed("Ringway and Envoy differ, or a case fails")


if __name__ == "__main__":
    rig.main(run)
