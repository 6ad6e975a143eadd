"""Load generators: wrk (closed loop), h2load (HTTP/2, and a second opinion on wrk), and our own for fixed rates, exact counts and TLS
handshakes.

Pure parsers of what they print, and thin runners. Every runner fails when the generator saw an error.
"""

import dataclasses
import json
import re

from loads import errors

UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


@dataclasses.dataclass
class Load:
    """What a generator counted."""

    requests: int
    per_second: float
    errors: int = 0
    latency_us: dict = dataclasses.field(default_factory=dict)


def parse_wrk(text):
    """wrk's report, with `--latency`."""
    count = re.search(r"^\s*(\d+) requests in ", text, re.MULTILINE)
    rate = re.search(r"^Requests/sec:\s+([\d.]+)", text, re.MULTILINE)
    if not count or not rate:
        raise errors.Failed(f"wrk's report is not understood: {text[-400:]}")
    failed = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    latency = {
        f"p{percent}": float(value) * UNITS_US[unit]
        for percent, value, unit in re.findall(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
    }
    longest = re.search(r"^\s+Latency\s+\S+\s+\S+\s+([\d.]+)(us|ms|s|m)\s", text, re.MULTILINE)
    if longest:
        latency["max"] = float(longest[1]) * UNITS_US[longest[2]]
    total = sum(map(int, failed.groups())) if failed else 0
    return Load(int(count[1]), float(rate[1]), total + (int(refused[1]) if refused else 0), latency)


def parse_h2load(text):
    """h2load's report of a run with `-D`."""
    rate = re.search(r"^finished in .*?, ([\d.]+) req/s", text, re.MULTILINE)
    counts = re.search(
        r"^requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout",
        text,
        re.MULTILINE,
    )
    codes = re.search(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text, re.MULTILINE)
    if not rate or not counts or not codes:
        raise errors.Failed(f"h2load's report is not understood: {text[-400:]}")
    succeeded, failed, _errored, _timeout = map(int, counts.groups())
    # "errored" and "timeout" are parts of "failed"; a refused request is "succeeded" to h2load.
    refused = sum(map(int, codes.groups()[1:]))
    latency = {}
    line = re.search(r"^time for request:\s+([\d.]+)(us|ms|s|m)\s+([\d.]+)(us|ms|s|m)", text, re.MULTILINE)
    if line:
        latency["max"] = float(line[3]) * UNITS_US[line[4]]
    return Load(succeeded, float(rate[1]), failed + refused, latency)


def parse_own(text):
    """The last line of our generator's output: one JSON object."""
    try:
        said = json.loads(text.strip().rpartition("\n")[2])
        return Load(said["requests"], said["per_second"], said["errors"], said["latency_us"])
    except (ValueError, KeyError) as error:
        raise errors.Failed(f"the generator's report is not understood: {text[-400:]}") from error


class Generators:
    """Runs them on the generator's core."""

    def __init__(self, tools, processes, core, folder):
        self.tools, self.processes, self.core, self.folder = tools, processes, core, folder

    def find(self):
        self.tools.debian("wrk", "wrk")
        self.tools.debian("h2load", "nghttp2-client")
        self.tools.crate("load-tests/generator", "generator")

    def wrk(self, port, path, connections, seconds, host="load.test", headers=(), script=None, tolerant=False, tls=False):
        """Keeps `connections` busy. `script` is Lua."""
        argv = [self.tools.debian("wrk", "wrk"), "-t1", f"-c{connections}", f"-d{seconds}", "--latency"]
        for header in (f"Host: {host}", *headers):
            argv += ["-H", header]
        if script:
            file = self.folder / "wrk.lua"
            file.write_text(script)
            argv += ["-s", file]
        said = self.run([*argv, url(port, path, tls)], seconds)
        return checked("wrk", parse_wrk(said), tolerant)

    def h2load(self, port, path, connections, seconds, streams=None, headers=(), body=b"", tls=False):
        """The same through h2load: HTTP/1.1, or HTTP/2 with so many streams at once on each connection."""
        argv = [self.tools.debian("h2load", "nghttp2-client"), "-t1", f"-c{connections}", f"-D{seconds}"]
        argv += [f"-m{streams}"] if streams else ["--h1"]
        for header in headers:
            argv += ["-H", header]
        if body:
            file = self.folder / "h2load.body"
            file.write_bytes(body)
            argv += ["-d", file]
        said = self.run([*argv, url(port, path, tls)], seconds)
        return checked("h2load", parse_h2load(said), False)

    def handshakes(self, port, identity, connections, seconds, resumes):
        """A TLS connection for each request, `connections` at a time; all full handshakes, or all resumed ones."""
        kind = "resumed" if resumes else "full"
        options = ("--handshakes", kind, "--authority", identity.authority, "--seconds", seconds)
        return self.own(port, "/", connections, *options, seconds=seconds)

    def own(self, port, path, connections, *options, seconds=60):
        """Fixed rate (`--rate R --seconds S`) or an exact count (`--requests N`), optionally with a body."""
        argv = [self.tools.crate("load-tests/generator", "generator"), f"127.0.0.1:{port}", path, str(connections)]
        return checked("the generator", parse_own(self.run([*argv, *map(str, options)], seconds)), False)

    def run(self, argv, seconds):
        return self.processes.run(argv, self.core, seconds + 60, self.folder / "generator.log")


def url(port, path, tls):
    return f"{'https' if tls else 'http'}://127.0.0.1:{port}{path}"


def checked(name, load, tolerant):
    if load.errors and not tolerant:
        raise errors.Failed(f"{name} saw {load.errors} errors in {load.requests} requests")
    if not load.requests:
        raise errors.Failed(f"{name} had no answer")
    return load
