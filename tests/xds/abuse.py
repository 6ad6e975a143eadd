"""A control plane that fails, lies, floods and sends too much, while clients ask without a pause: every request is answered, and what that costs
them and the proxy's memory is told, Envoy's beside it, and has limits for Ringway.

    python3 tests/xds/abuse.py                # needs builds of Ringway and Envoy, nginx, wrk, grpcio and xds-protos (`.ci/run install`)
    python3 tests/xds/abuse.py --only flooded
    python3 tests/xds/abuse.py --brief        # less of everything but the large response, Ringway alone, each back end and each variant once
"""

import argparse
import contextlib
import dataclasses
import pathlib
import random
import re
import signal
import subprocess
import tempfile
import time

from google.protobuf import any_pb2

import churn
import peers  # noqa: F401 (before rig)
import resources as made
import rig
from play import Play
from resources import TYPES
from server import packed

LARGE_BYTES = 64 << 20
LARGE_CLUSTERS = 4096
UPDATES_PER_S = 10_000
# Of what wrk says: a phase may not add so much to the 99th percentile of the quiet one. Both cores are busy with the control plane itself.
P99_MS_MAX = 250.0
# Resident memory over that of the quiet phase: after each phase but the one with the large response, and of that once it is taken back; and the
# most there ever was, of which the large response is in use several times: as it came, as messages, and as what is kept of it.
GROWTH_KB_MAX = 16 << 10
PEAK_KB_MAX = 8 * LARGE_BYTES >> 10
GIVEN_BACK_S = 30.0  # within which it is
WORLD = ("CDS", "EDS", "LDS", "RDS")
# What garbage is called where the proxy asks by name.
TOLD = {"EDS": "svc", "RDS": "routes"}


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much there is of each phase."""

    quiet_s: float
    restarts: int
    garbage: int
    flood_s: float


WHOLE = Amount(quiet_s=3.0, restarts=10, garbage=500, flood_s=5.0)
BRIEF = Amount(quiet_s=1.0, restarts=3, garbage=100, flood_s=2.0)


class Clients:
    """Clients that ask until they are told to end; their 99th percentile, and how many were answered: all were, and rightly."""

    def __init__(self, port):
        argv = [rig.binary("WRK", "wrk"), "-t1", f"-c{churn.CLIENTS}", "-d1h", "--latency", f"http://127.0.0.1:{port}"]
        self.wrk = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end(self):
        self.wrk.send_signal(signal.SIGINT)
        said, _ = self.wrk.communicate(timeout=rig.DEADLINE_S)
        count = re.search(r"(\d+) requests in", said)
        if not count or not int(count[1]) or "Socket errors" in said or "Non-2xx" in said:
            raise rig.Failed(f"not all requests were answered: {said[-2000:]}")
        value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", said).groups()
        return int(count[1]), float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wrk.kill()
        self.wrk.wait()


class Abused:
    """A proxy and its control plane, in one variant."""

    def __init__(self, play, chance, amount):
        self.play, self.chance, self.amount = play, chance, amount
        self.ports = play.origins["ports"]

    def begin(self):
        self.play.world(
            {"svc": made.cluster("svc")},
            {"svc": made.endpoints("svc", self.ports[0])},
            {"web": made.listener("web", self.play.port)},
            {"routes": made.routes(rest="svc")},
        )
        self.play.becomes("a")

    # --- phases

    def quiet(self):
        time.sleep(self.amount.quiet_s)

    def restarted(self):
        """Killed and started again; what it says then is what it has said."""
        play = self.play
        for _ in range(self.amount.restarts):
            count = len(play.server.streams)
            play.server.stop()
            play.server.start()
            play.begin(count + 1)
            for kind in WORLD:
                play.stream.asked(kind)
                play.tell(kind)
                if play.answer(kind) != "ACK":
                    raise rig.Failed(f"{kind} was refused after a restart")

    def lied_to(self):
        """Bytes that are no message, of any type; each is refused, and the stream stays."""
        play, number = self.play, play_number(self.play)
        for index in range(self.amount.garbage):
            kind = self.chance.choice(WORLD)
            broken = any_pb2.Any(type_url=TYPES[kind], value=b"\xff" + self.chance.randbytes(self.chance.randint(0, 2000)))
            play.stream.push(kind, f"garbage {index}", [(TOLD.get(kind, "garbage"), broken)])
            if (answer := play.stream.answered(kind).answer) != "NACK":
                raise rig.Failed(f"garbage of {kind}: {answer}")
        if play_number(play) != number:
            raise rig.Failed("a stream was given up")
        # What was refused last is not what is there.
        for kind in WORLD:
            play.versions[kind] += 1
            if not play.is_delta:
                play.tell(kind)
                play.answer(kind)

    def overfed(self):
        """A response of 64 MiB, taken and taken back."""
        play = self.play
        filling = "x" * (LARGE_BYTES // LARGE_CLUSTERS)
        more = {
            f"large-{number}": packed(made.static_cluster(f"large-{number}", self.ports[0], metadata={"filter_metadata": {"filling": {"text": filling}}}))
            for number in range(LARGE_CLUSTERS)
        }
        for change in (lambda: play.change("CDS", more), lambda: play.change("CDS", {}, set(more))):
            change()
            play.tell("CDS")
            answer = play.stream.answered("CDS", 10 * rig.DEADLINE_S).answer
            if answer != "ACK":
                raise rig.Failed(f"a large response: {answer}")

    def flooded(self):
        """As many updates of endpoints as the control plane can make of 10,000 a second, none waited for."""
        play = self.play
        states = [[("svc", packed(made.endpoints("svc", *ports)))] for ports in (self.ports, self.ports[:1])]
        begun, sent = time.monotonic(), 0
        while (elapsed := time.monotonic() - begun) < self.amount.flood_s:
            for _ in range(max(0, int(elapsed * UPDATES_PER_S) - sent)):
                sent += 1
                play.stream.push("EDS", f"flood {sent}", states[sent % 2])
            time.sleep(0.001)
        # Its answer is the last, and looked for there: there are tens of thousands.
        nonce = play.stream.push("EDS", "flood's end", states[1])
        rig.wait_for(lambda: any(each.nonce == nonce for each in play.stream.requests[-10:]), "the last update to be taken", 10 * rig.DEADLINE_S)
        took = time.monotonic() - begun
        play.stream.requests.clear()
        play.versions["EDS"] += 1
        return f"{sent / took:.0f} updates/s"

    # --- what they cost

    def during(self, phase):
        """A phase under load."""
        with Clients(self.play.port) as clients:
            said = getattr(self, phase)()
            answered, p99 = clients.end()
        self.play.proxy.check()
        return answered, p99, churn.resident_kb(self.play.proxy.pid), said


def play_number(play):
    return len(play.server.streams)


PHASES = ("quiet", "restarted", "lied_to", "flooded", "overfed")


def peak_kb(pid):
    """The most memory that was resident ever."""
    return int(re.search(r"^VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.M)[1])


def memory_failures(pid, before):
    """What is wrong with memory in the end."""
    allowed = before + GROWTH_KB_MAX
    with contextlib.suppress(rig.Failed):
        rig.wait_for(lambda: churn.resident_kb(pid) <= allowed, "memory to be given back", GIVEN_BACK_S)
    after, most = churn.resident_kb(pid), peak_kb(pid)
    print(f"  memory: {before / 1024:.1f} MB when all is quiet, {most / 1024:.1f} at most, {after / 1024:.1f} in the end", flush=True)
    failures = []
    if after > allowed:
        failures.append(f"{after} kB are resident in the end, {before} when all is quiet")
    if most > before + PEAK_KB_MAX:
        failures.append(f"{most} kB were resident, {before} when all is quiet")
    return failures


def one(name, argv, is_delta, phases, seed, amount, origins, folder):
    what = f"{name}, {'delta' if is_delta else 'state of the world'}"
    wrong = []
    with Play(argv, is_delta, origins, folder) as play:
        abused = Abused(play, random.Random(seed), amount)
        abused.begin()
        quiet = before = None
        for phase in phases:
            answered, p99, resident, said = abused.during(phase)
            quiet, before = quiet or p99, before or resident
            print(f"{what}, {phase}: {answered} requests, none failed; 99 %: {p99:.1f} ms; {resident / 1024:.1f} MB{f'; {said}' if said else ''}", flush=True)
            if name != "envoy" and p99 > quiet + P99_MS_MAX:
                wrong.append(f"{what}, {phase}: the 99th percentile is {p99:.1f} ms, {quiet:.1f} when all is quiet")
            if name != "envoy" and phase != "overfed" and resident > before + GROWTH_KB_MAX:
                wrong.append(f"{what}, {phase}: {resident} kB are resident, {before} when all is quiet")
        play.becomes("a")
        if name != "envoy":
            wrong += [f"{what}: {failure}" for failure in memory_failures(play.proxy.pid, before)]
            if panics := play.stats_of("ringway.panics"):
                wrong.append(f"{what}: {panics} panics")
    return wrong


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PHASES)
    parser.add_argument("--no-envoy", action="store_true")
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    flags = ["--concurrency", "2", "--disable-hot-restart", "-l", "error"]
    commands = {backend: [rig.ringway(), *flags, "--io-backend", backend] for backend in ("io_uring", "epoll")}
    if not arguments.no_envoy and not arguments.brief:
        commands["envoy"] = [rig.envoy(), *flags]
    amount = BRIEF if arguments.brief else WHOLE
    # Of brief runs each has its back end and its variant.
    runs = zip(commands, (False, True)) if arguments.brief else [(proxy, is_delta) for proxy in commands for is_delta in (False, True)]
    phases = ["quiet", arguments.only] if arguments.only else PHASES
    ports, wrong = rig.free_ports(2), []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        conf = folder / "nginx.conf"
        # Both endpoints say the same: who answers is not the question.
        conf.write_text(churn.NGINX.replace("200 b", "200 a").replace("@folder@", name).replace("@a@", str(ports[0])).replace("@b@", str(ports[1])), encoding="utf-8")
        stack.enter_context(rig.Process([rig.binary("NGINX", "nginx", "/usr/sbin/nginx"), "-c", conf, "-p", folder], ports[0]))
        for proxy, is_delta in runs:
            wrong += one(proxy, commands[proxy], is_delta, phases, arguments.seed, amount, {"ports": ports}, folder)
    if wrong:
        raise rig.Failed("\n".join(wrong))


if __name__ == "__main__":
    rig.main(run)
