"""A proxy with all cases of protocols.py in it: its bootstrap, and what a case leaves behind in counters and access log."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import urllib.request

import rig
from protocols_case import HELD_S, Nowhere, Server, address, cluster, listener


class At:
    """One case at one proxy."""

    address = "127.0.0.1"

    def __init__(self, one, port, servers, bench):
        self.name, self.case, self.port, self.servers, self.bench = one.name, one, port, servers, bench
        self.programs = bench.programs
        # Nobody else's: what clients leave in servers has it in its name.
        self.key = f"{port}"

    def connect(self):
        connection = socket.socket()
        # With a timeout it would fail where it is reset at once, as if there had been no connection.
        connection.connect(("127.0.0.1", self.port))
        connection.settimeout(HELD_S)
        # It may be over already.
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    @property
    def one(self):
        return self.servers["one"]

    def stat(self, name):
        return self.bench.stats().get(name, 0)

    def await_stat(self, name, value):
        rig.wait_for(lambda: self.stat(name) == value, f"{self.name}: {name} to be {value}")


class Bench:
    """A proxy with all cases in it."""

    def __init__(self, command, chosen, programs, ports, folder, stack):
        self.folder, self.programs, self.nowhere = folder, programs, Nowhere()
        self.admin, *ports = ports
        self.places, self.names = {}, {}
        # Cases whose configuration is refused, with the reason.
        self.refused = {}
        parts = {}
        for one, port in zip(chosen, ports):
            servers = {name: Server(script) for name, script in one.servers.items()}
            known = {**programs.ports, **self.nowhere.ports, **{name: server.port for name, server in servers.items()}}
            clusters = []
            for end, endpoints in one.clusters.items():
                clusters.append(cluster(one.name + end, [known[name] for name in endpoints], one.cluster))
                self.names.update({known[name]: name for name in endpoints})
            parts[one.name] = ([listener(one, port, folder, programs)], clusters)
            self.places[one.name] = At(one, port, servers, self)
            self.names[port] = "listener"
        if self.refuses(command, parts.values()):
            for name, part in parts.items():
                if reason := self.refuses(command, [part]):
                    self.refused[name] = reason
                    del self.places[name]
        path = self.write(part for name, part in parts.items() if name not in self.refused)
        self.process = stack.enter_context(rig.Process([*command, "-c", path], ready_port=self.admin))
        rig.wait_for(self.listens, "every listener")

    def write(self, parts):
        path = self.folder / "bootstrap.json"
        every = {"listeners": [], "clusters": []}
        for listeners, clusters in parts:
            every["listeners"] += listeners
            every["clusters"] += clusters
        path.write_text(json.dumps({"admin": {"address": address(self.admin)}, "static_resources": every}, indent=1))
        return path

    def refuses(self, command, parts):
        """Why a proxy does not take this configuration, in its words; nothing if it does."""
        argv = [str(part) for part in [*command, "-c", self.write(parts), "--mode", "validate"]]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return (done.stdout + done.stderr).strip()[-600:] or f"ended with {done.returncode}" if done.returncode else ""

    def listens(self):
        self.process.check()
        return self.stats().get("listener_manager.total_listeners_active") == len(self.places)

    def stats(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/stats?format=json", timeout=HELD_S) as answer:
            return {each["name"]: each["value"] for each in json.load(answer)["stats"] if "name" in each}

    @contextlib.contextmanager
    def stopped(self):
        """The proxy does nothing meanwhile: what comes to it comes at once."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def rss_mb(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def run(self, one):
        """The facts of a case."""
        if one.name in self.refused:
            return {"refused": self.refused[one.name]}
        at = self.places[one.name]
        try:
            facts = {key: str(value) for key, value in one.perform(at).items()}
        except (OSError, EOFError) as error:
            facts = {"failed": repr(error)}
        except rig.Failed as failure:
            facts = {"failed": str(failure)}
        self.process.check()
        facts.update(self.settled(one))
        return facts

    def settled(self, one):
        """Counters and log of a case, after all of its connections have ended."""
        ended = lambda: not any(value for name, value in self.counted(one).items() if name.endswith("_cx_active"))  # noqa: E731
        facts = {}
        try:
            rig.wait_for(ended, "all connections to end", one.within_s)
        except rig.Failed as failure:
            facts["settled"] = str(failure)
        lines = self.log(one)
        counted = self.counted(one)
        if one.loose:
            lines = [re.sub(r"(received|sent)=[1-9]\d*", r"\1=some", line) for line in lines]
            if len(one.servers) > 1:
                # Which of them is first is drawn.
                lines = [re.sub(r"host=<\w+>", "host=<one of them>", line) for line in lines]
            counted = {name: "some" if "bytes_total" in name else value for name, value in counted.items()}
        if one.shared:
            lines = [re.search(r"cluster=\S+ host=\S+", line)[0] for line in lines]
        for line in set(lines):
            facts[f"log: {line}"] = "some times" if one.shared else f"{lines.count(line)} times"
        # A counter that is absent has counted nothing.
        facts.update({f"stat: {name.replace(f'.{one.name}', '.*', 1)}": str(value) for name, value in counted.items() if value})
        return facts

    def counted(self, one):
        wanted = re.compile(
            rf"(listener|tcp|connection_limit|local_rate_limit)\.{re.escape(one.name)}\."
            rf"|cluster\.{re.escape(one.name)}(?:{'|'.join(map(re.escape, one.clusters)) or ''})\.upstream_"
        )
        # How often reading pauses depends on the size of buffers, and how long things took on the machine.
        patterns = ["flow_control", r"worker_\d", "_ms$", one.uncounted, "^cluster" if one.shared else None]
        passed_over = re.compile("|".join(filter(None, patterns)))
        return {name: value for name, value in self.stats().items() if wanted.match(name) and not passed_over.search(name)}

    def log(self, one):
        """The lines, once there is one for each connection that came to the filter."""
        path = self.folder / f"{one.name}.log"
        count = self.stats().get(f"tcp.{one.name}.downstream_cx_total", 0)
        lines = lambda: path.read_text().splitlines() if path.exists() else []  # noqa: E731
        with contextlib.suppress(rig.Failed):
            rig.wait_for(lambda: len(lines()) >= count, "the access log", 2)
        return [re.sub(r"host=127\.0\.0\.1:(\d+)", lambda match: f"host=<{self.names.get(int(match[1]), 'another')}>", line) for line in lines()]
