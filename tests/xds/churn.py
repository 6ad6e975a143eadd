"""A control plane that changes its mind all the time, by both variants of ADS: clients that ask without a pause are answered every time, connections
that were upgraded stay, and resident memory is what it was.

    python3 tests/xds/churn.py                    # needs a build of Ringway, nginx, wrk, grpcio and xds-protos (`.ci/run install`)
    python3 tests/xds/churn.py --changes 10000    # of endpoints, clusters, listeners, routes and filters; a seed is printed and may be given
"""

import argparse
import contextlib
import pathlib
import random
import re
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading

import peers  # noqa: F401 (before rig)
import resources as made
import rig
from play import Play

CLIENTS = 16
HELD = 200
WARM_UP = 100  # changes before memory is looked at
GROWTH_KB_MAX = 1500
UPGRADE = b"GET /held HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"


class Echo(socketserver.StreamRequestHandler):
    """Upgrades, and then says what it hears."""

    def handle(self):
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while heard := self.rfile.readline():
            self.wfile.write(heard)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = HELD

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Echo)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


NGINX = rig.NGINX_BEGIN + """
  server { listen 127.0.0.1:@a@; location / { return 200 a; } }
  server { listen 127.0.0.1:@b@; location / { return 200 b; } }
}
"""

WRK = """
local count = 0
request = function()
  count = count + 1
  return wrk.format("GET", count % 2 == 0 and "/" or "/b")
end
response = function(status, _, body)
  if status ~= 200 or (body ~= "a" and body ~= "b") then print("WRONG: " .. status .. " " .. body) end
end
"""


class Load:
    """Clients that ask until they are told to end."""

    def __init__(self, port, folder):
        script = folder / "churn.lua"
        script.write_text(WRK, encoding="utf-8")
        argv = [rig.binary("WRK", "wrk"), "-t1", f"-c{CLIENTS}", "-d1h", "-s", script, f"http://127.0.0.1:{port}"]
        self.wrk = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end(self):
        """How many requests were answered as they should be; all were."""
        self.wrk.send_signal(signal.SIGINT)
        said, _ = self.wrk.communicate(timeout=rig.DEADLINE_S)
        count = re.search(r"(\d+) requests in", said)
        if not count or "WRONG" in said or "Socket errors" in said or "Non-2xx" in said:
            raise rig.Failed(f"not all requests were answered: {said[-2000:]}")
        return int(count[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wrk.kill()
        self.wrk.wait()


class World:
    """What the control plane tells, changed at random."""

    def __init__(self, play, held_port, chance):
        self.play, self.chance = play, chance
        self.ports = play.origins["ports"]
        self.held = made.static_cluster("held", held_port)
        self.extra = 0

    def some_ports(self):
        return self.chance.sample(self.ports, self.chance.randint(1, 2))

    def begin(self):
        clusters = {name: made.cluster(name) for name in ("svc", "other")} | {"held": self.held}
        endpoints = {name: made.endpoints(name, self.ports[0]) for name in ("svc", "other")}
        self.play.world(clusters, endpoints, {"web": self.web()}, {"routes": self.routes()}, filters=self.filters())
        self.play.becomes("a")

    def web(self):
        return made.listener("web", self.play.port, upgrades=["websocket"], filters=[made.told_filter("access")],
                             per_connection_buffer_limit_bytes=self.chance.choice([65_536, 131_072]))

    def filters(self):
        """Of all that is asked for they deny nothing."""
        return {"access": made.extension("access", made.denial(f"/never{self.chance.randint(1, 9)}"))}

    def routes(self):
        return made.routes(held="held", b=self.chance.choice(["svc", "other"]), rest=self.chance.choice(["svc", "other"]))

    def change(self):
        """The type that has changed, and what is new and gone in it."""
        kind = self.chance.choice(["EDS", "CDS", "LDS", "RDS", "ECDS"])
        if kind == "EDS":
            return kind, {self.chance.choice(["svc", "other"]): None}, ()
        if kind == "ECDS":
            return kind, self.filters(), ()
        if kind == "RDS":
            return kind, {"routes": self.routes()}, ()
        if kind == "LDS":
            if self.chance.random() < 0.5:
                return kind, {"web": self.web()}, ()
            there = "more" in self.play.state["LDS"]
            return kind, {} if there else {"more": made.listener("more", self.play.other_port)}, ["more"] if there else ()
        if self.chance.random() < 0.5:
            name = self.chance.choice(["svc", "other"])
            return kind, {name: made.cluster(name, connect_timeout=f"{self.chance.randint(1, 9)}s")}, ()
        gone = [name for name in self.play.state["CDS"] if name.startswith("extra")]
        self.extra += 1
        return kind, {f"extra-{self.extra}": made.static_cluster(f"extra-{self.extra}", *self.ports)}, gone

    def step(self):
        kind, put, gone = self.change()
        if kind == "EDS":
            put = {name: made.endpoints(name, *self.some_ports()) for name in put}
        answer = self.play.set(kind, put, gone)
        if answer != "ACK":
            raise rig.Failed(f"{kind} {put}: {answer}")


def resident_kb(pid):
    return int(re.search(r"^VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.M)[1])


def hold(port, count, stack):
    """Connections that were upgraded."""
    held = []
    for _ in range(count):
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), rig.DEADLINE_S))
        client.sendall(UPGRADE)
        file = stack.enter_context(client.makefile("rb"))
        if b" 101 " not in file.readline():
            raise rig.Failed("not upgraded")
        while file.readline().strip():
            pass
        held.append((client, file))
    return held


def one(is_delta, changes, seed, origins, folder):
    what = "delta" if is_delta else "state of the world"
    argv = [rig.ringway(), "--concurrency", "2", "--disable-hot-restart", "-l", "warning"]
    with Play(argv, is_delta, origins, folder) as play, contextlib.ExitStack() as stack:
        world = World(play, origins["held"].server_address[1], random.Random(seed))
        world.begin()
        held = hold(play.port, HELD, stack)
        load = stack.enter_context(Load(play.port, folder))
        before = None
        for number in range(WARM_UP + changes):
            if number == WARM_UP:
                before = resident_kb(play.proxy.pid)
            world.step()
        answered = load.end()
        for client, file in held:
            client.sendall(b"still there\n")
            if file.readline() != b"still there\n":
                raise rig.Failed(f"{what}, seed {seed}: an upgraded connection is gone")
        grown = resident_kb(play.proxy.pid) - before
        panics = play.stats_of("ringway.panics")
        print(f"{what}: {changes} changes, {answered} requests, none failed; {HELD} upgraded connections stayed; memory {before} kB, {grown:+} kB", flush=True)
        play.proxy.check()
        if panics:
            raise rig.Failed(f"{what}, seed {seed}: {panics} panics")
        if grown > GROWTH_KB_MAX:
            raise rig.Failed(f"{what}, seed {seed}: memory grew by {grown} kB, more than {GROWTH_KB_MAX}")


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    ports = rig.free_ports(2)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        conf = folder / "nginx.conf"
        conf.write_text(NGINX.replace("@folder@", name).replace("@a@", str(ports[0])).replace("@b@", str(ports[1])), encoding="utf-8")
        with rig.Process([rig.binary("NGINX", "nginx", "/usr/sbin/nginx"), "-c", conf, "-p", folder], ports[0]):
            for is_delta in (False, True):
                one(is_delta, arguments.changes, arguments.seed, {"ports": ports, "held": EchoServer()}, folder)


if __name__ == "__main__":
    rig.main(run)
