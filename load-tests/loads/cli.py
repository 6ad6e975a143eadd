"""The command line of `load-tests/run`."""

import argparse
import fnmatch
import os
import pathlib
import signal
import sys
import time

import peers as all_peers
import scenarios as all_scenarios
from loads import charts, clean, errors, host, results, runner, table, tools

OUT = tools.ROOT / "load-tests/out"
GIVEN = ("ringway", "envoy", "nginx", "haproxy", "wrk", "h2load", "nghttpd", "pingora-peer", "runtimes", "generator")
# More than that a machine for such tests does not have.
WORKERS_MAX = 1024
SMOKE = {
    "scenarios": "keep-alive-64,connection-per-request,down-64k,up-64k,slow-clients,reload,latency-1000,spread-2,https-32,handshake-full,handshake-resumed,"
    "h2-h2-8x32,h2-h1-8x32,h1-h2-64,grpc-8x32,tcp-down-1m,tcp-connections",
    "rounds": 1,
    "seconds": 1,
}


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="load-tests/run",
        description="Measures Ringway and its peers in turns: CPU time per request, throughput, latency, memory. "
        "Writes results.md, results.csv, run.json and charts.",
    )
    parser.add_argument("--list", action="store_true", help="print scenarios and peers, and end")
    parser.add_argument("--scenarios", default="*", help="names or patterns, separated by commas [default: all]")
    parser.add_argument("--peers", default="*", help="names or patterns, separated by commas [default: all]")
    parser.add_argument("--rounds", type=int, help="rounds in which every peer has its turn [default: 8 where speed has a target, else 3]")
    parser.add_argument("--seconds", type=int, default=1, help="length of a turn [default: 1]")
    parser.add_argument("--workers", type=int, help="workers of the scenarios that spread connections [default: 2]")
    parser.add_argument("--proxy-core", default="0", help="CPU of the proxy under test [default: 0]")
    parser.add_argument("--load-core", default="1", help="CPU of the load generator and the origin [default: 1]")
    parser.add_argument("--congestion-control", metavar="NAME", help="measure in a network namespace with this one, such as reno; needs root [default: the machine's]")
    parser.add_argument("--output", type=pathlib.Path, help="folder of the results [default: load-tests/out/TIME]")
    parser.add_argument("--append", action="store_true", help="add to the results in --output; scenarios that are complete there are left out")
    parser.add_argument("--smoke", action="store_true", help="one round of one second, a few scenarios: does it all work?")
    parser.add_argument("--no-install", action="store_true", help="fail where a peer is missing instead of installing it")
    for name in GIVEN:
        parser.add_argument(f"--{name}", metavar="PATH", help=argparse.SUPPRESS)
    parser.epilog = f"Programs to use instead of those found or built: {', '.join(f'--{name} PATH' for name in GIVEN)}."
    options = parser.parse_args(arguments)
    if options.smoke:
        vars(options).update(SMOKE)
    if (options.rounds is not None and options.rounds < 1) or options.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    if options.workers is not None and not 1 <= options.workers <= WORKERS_MAX:
        parser.error(f"--workers is from 1 to {WORKERS_MAX}")
    if options.append and not options.output:
        parser.error("--append needs --output")
    return options


def chosen(known, patterns, what):
    """The known ones that match, in their own order; a pattern that matches nothing is an error."""
    wanted = set()
    for pattern in patterns.split(","):
        matching = fnmatch.filter(known, pattern.strip())
        if not matching:
            raise errors.Failed(f"no {what} is called {pattern.strip()!r}: {', '.join(known)}")
        wanted.update(matching)
    return [value for name, value in known.items() if name in wanted]


def main(arguments=None):
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.umask(0o022)
    try:
        if options.list:
            return listing()
        return measure(options)
    except errors.Failed as error:
        tools.say(str(error))
        return 1
    except KeyboardInterrupt:
        tools.say("interrupted; complete scenarios are in the results, no process is left behind")
        return 130


def listing():
    for name, scenario in all_scenarios.known().items():
        print(f"{name:24} {scenario.title}")
    print()
    print("peers:", ", ".join(all_peers.known()))
    return 0


def measure(options):
    known, known_peers = all_scenarios.known(options.workers), all_peers.known()
    scenarios = chosen(known, options.scenarios, "scenario")
    peers = chosen(known_peers, options.peers, "peer")
    given = {name: vars(options)[name.replace("-", "_")] for name in GIVEN}
    found = tools.Tools({name: path for name, path in given.items() if path}, not options.no_install)
    versions = {peer.name: peer.find(found) for peer in peers}
    host.raise_descriptor_limit()
    folder = options.output or OUT / time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    # Also those of an earlier part with another number of workers.
    titles = {name: scenario.title for name, scenario in {**all_scenarios.known(), **known}.items()}
    kept = results.open_in(folder, titles, versions, host.description(options.congestion_control), list(known_peers), options.append)
    scenarios = [scenario for scenario in scenarios if scenario.name not in kept.complete()]
    if not scenarios:
        tools.say(f"all of these scenarios are complete in {folder}")
        return 0
    for scenario in scenarios:
        kept.forget(scenario.name)
    paths = {f"--{name}" for name in (*GIVEN, "output")}
    date = time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC"
    kept.runs.append({"date": date, "command": clean.command(sys.argv[1:], paths), "revision": found.revision()})
    colors = {peer.name: peer.color for peer in known_peers.values()}
    folder.mkdir(parents=True, exist_ok=True)

    def save():
        """After every scenario: an interruption costs no more than the one that was running."""
        kept.write(folder)
        text = table.render(kept, charts.write(kept, colors, folder))
        (folder / "results.md").write_text(text, encoding="utf-8")

    cores = runner.Options(options.rounds, options.seconds, options.proxy_core, options.load_core, options.congestion_control)
    runner.run(cores, found, scenarios, peers, kept, save)
    print((folder / "results.md").read_text(encoding="utf-8"))
    tools.say(f"results in {folder}")
    return 1 if kept.failures else 0
