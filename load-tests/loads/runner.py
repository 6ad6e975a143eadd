"""Runs scenarios: peers in turns within every round, one proxy alone on its core, generator and origin on the other."""

import contextlib
import dataclasses
import pathlib
import sys
import tempfile
import time

from loads import clean, errors, generators, host, identity, process, tools, upstream
from peers import Place, Running


@dataclasses.dataclass
class Options:
    """What the command line asks for."""

    # `None`: as many as each scenario needs.
    rounds: int | None
    seconds: int
    proxy_core: str
    load_core: str
    # Another one than the machine's: in a network of the run's own.
    congestion_control: str | None = None


class Bench:
    """What scenarios work with."""

    def __init__(self, options, found, processes, folder):
        self.options, self.processes, self.folder = options, processes, folder
        self.seconds = options.seconds
        # Rates that this run has found out, by scenario.
        self.rates = {}
        self.generators = generators.Generators(found, processes, options.load_core, folder)
        self.files = None
        self.identity = identity.make(found, folder)
        # By the origin's name.
        self.upstream_ports = {}

    def start_upstream(self, nginx, sizes):
        """The origin server and its echo; returns the echo, a context manager."""
        self.files = upstream.Files(self.folder, sizes)
        echo = upstream.EchoServer(("127.0.0.1", 0), upstream.Echo)
        (port,) = host.free_ports(1)
        config = upstream.write_config(self.folder, port, echo.server_address[1])
        self.processes.start([nginx, "-c", config], self.options.load_core, self.folder / "upstream.out")
        self.upstream_ports[upstream.HTTP1.name] = port
        return echo

    def start_http2_upstream(self, nghttpd, origin):
        (port,) = host.free_ports(1)
        command = upstream.nghttpd(nghttpd, origin, port, self.folder)
        self.processes.start(command, self.options.load_core, self.folder / f"{origin.name}.out")
        self.upstream_ports[origin.name] = port

    def start(self, peer, setup):
        """A proxy that answers."""
        port, admin = host.free_ports(2)
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{peer.name}-", dir=self.folder))
        place = Place(port, admin, self.upstream_ports[upstream.origin(setup).name], folder, self.identity)
        if peer.kind == "direct":
            return Running(peer, setup, place, None)
        command = peer.command(setup, place)
        begun = time.monotonic()
        started = self.processes.start(command, self.options.proxy_core, folder / "log")
        running = Running(peer, setup, place, started)
        running.wait_ready()
        running.started_s = time.monotonic() - begun
        return running

    def end(self, running):
        if running.process:
            self.processes.end(running.process)


class Progress:
    """One line on a terminal; a line per scenario elsewhere."""

    def __init__(self, total):
        self.total, self.done = total, 0
        self.begun = time.monotonic()
        self.live = sys.stderr.isatty()
        self.last = ""

    def step(self, scenario, number, rounds, peer):
        self.done += 1
        left = (time.monotonic() - self.begun) / self.done * (self.total - self.done)
        what = f"{scenario}: round {number}/{rounds}, {peer}" if self.live else scenario
        if self.live:
            sys.stderr.write(f"\r\x1b[K[{self.done}/{self.total}, {left / 60:.0f} min left] {what}")
            sys.stderr.flush()
        elif what != self.last:
            print(f"[{self.done}/{self.total}, {left / 60:.0f} min left] {what}", file=sys.stderr, flush=True)
        self.last = what

    def skip(self, turns):
        """Turns that a peer will not have."""
        self.total -= turns

    def end(self):
        if self.live:
            sys.stderr.write("\r\x1b[K")


def run(options, found, scenarios, peers, results, save):
    """Fills `results`, and calls `save` after every scenario; what failed is in `results.failures`, and has no figures."""
    host.stay_on(options.load_core)
    total = sum(
        (rounds_of(scenario, options) + scenario.warms_up) * len(taking(scenario, peers)) for scenario in scenarios
    )
    progress = Progress(total)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ringway-load-")))
        # nginx's workers are another user's when the rig is root, and read the origin's files.
        folder.chmod(0o755)
        processes = stack.enter_context(process.Processes())
        bench = Bench(options, found, processes, folder)
        bench.generators.find()
        nginx = found.debian("nginx", "nginx-light")
        others = sorted({upstream.origin(scenario.setup) for scenario in scenarios} - {upstream.HTTP1}, key=lambda one: one.name)
        nghttpd = found.debian("nghttpd", "nghttp2-server") if others else None
        if any(scenario.setup.http2 for scenario in scenarios):
            found.library()
        # All is installed by now.
        if options.congestion_control:
            host.own_network(options.congestion_control)
        sizes = [size for scenario in scenarios for size in scenario.files]
        stack.enter_context(bench.start_upstream(nginx, dict.fromkeys(sizes)))
        for origin in others:
            bench.start_http2_upstream(nghttpd, origin)
        turns = Turns(bench, results, progress)
        for scenario in scenarios:
            turns.scenario(scenario, peers)
            save()
        turns.end_all()
    progress.end()


def rounds_of(scenario, options):
    return min(options.rounds or scenario.rounds, scenario.rounds_max)


def taking(scenario, peers):
    """The peers that a scenario is for: the others have no turn, and no line under *Not measured*."""
    return [peer for peer in peers if scenario.is_for(peer)]


class Turns:
    """The peers that run now, and their turns."""

    def __init__(self, bench, results, progress):
        self.bench, self.results, self.progress = bench, results, progress
        self.setup = None
        self.running = {}

    def scenario(self, scenario, peers):
        if scenario.starts or scenario.setup != self.setup:
            self.end_all()
        going = taking(scenario, peers)
        rounds = rounds_of(scenario, self.bench.options)
        for number in range(0 if scenario.warms_up else 1, rounds + 1):
            for peer in going[:]:
                self.progress.step(scenario.name, number, rounds, peer.name)
                try:
                    values = self.turn(scenario, peer)
                except errors.Unsupported as reason:
                    going.remove(peer)
                    self.results.notes[scenario.name, peer.name] = str(reason)
                    self.progress.skip(rounds - number)
                except errors.Failed as error:
                    going.remove(peer)
                    self.progress.skip(rounds - number)
                    self.fail(scenario, peer, error)
                else:
                    if number:
                        self.results.add(scenario.name, peer.name, number, values)

    def ensure(self, setup, peer):
        """The peer's running process for this setup; a dead one is started anew."""
        self.setup = setup
        running = self.running.get(peer.name)
        if running and running.process and not running.process.is_alive():
            self.bench.end(self.running.pop(peer.name))
            running = None
        if not running:
            running = self.running[peer.name] = self.bench.start(peer, setup)
        return running

    def turn(self, scenario, peer):
        if not scenario.starts:
            return scenario.measure(self.bench, self.ensure(scenario.setup, peer))
        running = self.bench.start(peer, scenario.setup)
        try:
            return scenario.measure(self.bench, running)
        finally:
            self.bench.end(running)

    def fail(self, scenario, peer, error):
        why = clean.text(str(error))
        self.results.fail(scenario.name, peer.name, why)
        tools.say(f"FAILED: {scenario.name}, {peer.name}: {why}")

    def end_all(self):
        for running in self.running.values():
            self.bench.end(running)
        self.running = {}
        self.setup = None
