"""What every test against real parts needs: free ports, processes that are ended by their own handle, raw HTTP/1.1 exchanges.

Python's standard library only. Everything listens on the loopback; nothing outlives the test.
"""

import contextlib
import functools
import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEADLINE_S = 10.0
FAMILY = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET


class Failed(Exception):
    """The test cannot go on; its text is the whole report."""


# How the configuration of every nginx of the tests begins, up to its servers and the end of `http`; @folder@ is its own.
NGINX_BEGIN = """
daemon off; worker_processes 1; pid @folder@/nginx.pid; error_log @folder@/error.log warn;
events { worker_connections 1024; }
http {
  access_log off; keepalive_requests 1000000; client_max_body_size 64m;
  client_body_temp_path @folder@/body; proxy_temp_path @folder@/proxy; fastcgi_temp_path @folder@/fastcgi;
  uwsgi_temp_path @folder@/uwsgi; scgi_temp_path @folder@/scgi;
"""


def binary(variable, name, *more):
    """Path of a program: from the environment, from PATH, or from the usual places. Its absence fails the test."""
    candidates = [os.environ.get(variable), shutil.which(name), *more]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return str(candidate)
    raise Failed(f"{name} is not installed (set {variable}, or run `.ci/run install`)")


def ringway():
    return binary("RINGWAY_BIN", "ringway", ROOT / "target/release/ringway", ROOT / "target/debug/ringway")


def envoy():
    return binary("RINGWAY_ENVOY", "envoy", ROOT / "target/peers-venv/bin/envoy")


def self_signed(folder):
    """A certificate that nobody vouches for, `cert.pem`, and its key, `key.pem`."""
    argv = [binary("RINGWAY_OPENSSL", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", "/CN=rig.test", "-days", "2", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"openssl made no certificate: {done.stderr}")


GIVEN = set()
GIVING = threading.Lock()
# Rigs that can run at once in one network, and what says which of them has which ports: a socket for each, open while it runs.
SHARES = 4
HOLDING = []


@functools.cache
def named():
    """Numbers that cases and configurations name: a port among them would be taken for what they say, or masked in it."""
    paths = [path for folder in ("peers", "xds") for path in (ROOT / "tests" / folder).iterdir()]
    texts = [path.read_text() for path in paths if path.suffix in (".py", ".yaml", ".toml")]
    return {int(number) for text in texts for number in re.findall(r"\d{4,5}", text)}


@functools.cache
def share():
    """The ports that this process may give, nobody else's as long as it runs: a port is free for a moment between its choice and its server.
    They are below those that the kernel gives to clients."""
    lowest = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    size = (lowest - lowest // 4) // SHARES
    for number in range(SHARES):
        holder = socket.socket(socket.AF_UNIX)
        try:
            # An abstract name: of this network, as ports are, and gone with the process, however it ends.
            holder.bind(f"\0ringway-rig-ports-{number}")
        except OSError:
            holder.close()
        else:
            HOLDING.append(holder)
            first = lowest // 4 + number * size
            return range(first, first + size)
    raise Failed(f"{SHARES} rigs run already, and have all ports between them")


def free_ports(count):
    """Ports that nobody listens on, that no case names and that were not given before, neither here nor by another rig, all different, and
    below those that the kernel gives to clients: a connection cannot take one before its server does, nor another server, since two may
    share a port."""
    found = []
    with GIVING, contextlib.ExitStack() as held:
        ports = share()
        if len(GIVEN) > len(ports) // 2:
            GIVEN.clear()
        for port in random.SystemRandom().sample(ports, len(ports)):
            if port in GIVEN or port in named():
                continue
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_server(("", port), family=FAMILY, dualstack_ipv6=FAMILY == socket.AF_INET6))
                found.append(port)
            if len(found) == count:
                GIVEN.update(found)
                return found
    raise Failed(f"fewer than {count} ports are free from {ports.start} to {ports.stop - 1}")


def wait_for(condition, what, deadline_s=DEADLINE_S):
    """Polls until `condition()` is true; its last value."""
    until = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise Failed(f"gave up after {deadline_s:.0f} s waiting for {what}")
        time.sleep(0.01)


def accepts(port, address="127.0.0.1"):
    with contextlib.suppress(OSError):
        socket.create_connection((address, port), 1).close()
        return True
    return False


class Process:
    """A program under test: its output goes to a file, and its end is awaited."""

    def __init__(self, argv, ready_port=None, env=None, cwd=None, address="127.0.0.1"):
        self.log = tempfile.NamedTemporaryFile(prefix="peer-", suffix=".log", delete=False)
        self.argv = [str(part) for part in argv]
        # Until it executes, the child holds every socket of this process: a port that is looked at meanwhile would stay taken.
        with GIVING:
            self.process = subprocess.Popen(
                self.argv, stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, cwd=cwd
            )
        self.pid = self.process.pid
        if ready_port:
            try:
                wait_for(lambda: self.check() and accepts(ready_port, address), f"{self.argv[0]} on port {ready_port}")
            except Failed as failure:
                self.stop()
                raise Failed(f"{failure}\n{self.output()}") from None

    def check(self):
        if self.process.poll() is not None:
            raise Failed(f"{' '.join(self.argv)} ended with {self.process.returncode}")
        return True

    def output(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def stop(self):
        """Asks it to end; its exit code. After the deadline it is killed, which is a failure of its own."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise Failed(f"{self.argv[0]} did not end on SIGTERM\n{self.output()}") from None
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            if kind is None:
                self.stop()
            else:
                with contextlib.suppress(Failed):
                    self.stop()
                print(f"--- output of {self.argv[0]}\n{self.output()[-4000:]}", file=sys.stderr)
        finally:
            self.log.close()
            os.unlink(self.log.name)


class Message:
    """A request or a response as it came over the wire."""

    def __init__(self, start_line, headers, body, framing, trailers=()):
        self.start_line = start_line
        self.headers = headers  # (name in lower case, value), in order
        self.body = body
        self.framing = framing  # "length", "chunked", "close" or "none"
        self.trailers = list(trailers)

    @property
    def status(self):
        return int(self.start_line.split(b" ", 2)[1])

    def values(self, name):
        return [value for key, value in self.headers if key == name]


class Fields(list):
    """Pairs of name (in lower case) and value, and the names as they were spelt."""

    def __init__(self):
        super().__init__()
        self.names = set()


class Reader:
    """Takes messages off a socket."""

    def __init__(self, sock):
        self.sock = sock
        self.data = b""
        self.eof = False

    def fill(self):
        try:
            chunk = self.sock.recv(65536)
        except ConnectionError:
            chunk = b""
        if not chunk:
            self.eof = True
        self.data += chunk
        return bool(chunk)

    def until(self, mark):
        while mark not in self.data:
            if not self.fill():
                raise EOFError
        head, self.data = self.data.split(mark, 1)
        return head

    def exactly(self, count):
        while len(self.data) < count:
            if not self.fill():
                raise EOFError
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def rest(self):
        while self.fill():
            pass
        taken, self.data = self.data, b""
        return taken

    def fields(self, block):
        fields = Fields()
        for line in block.split(b"\r\n"):
            if line:
                name, _, value = line.partition(b":")
                fields.names.add(name.decode("latin1"))
                fields.append((name.strip().lower().decode("latin1"), value.strip().decode("latin1")))
        return fields

    def head(self):
        block = self.until(b"\r\n\r\n")
        while block.startswith(b"\r\n"):
            block = block[2:]
        start_line, _, rest = block.partition(b"\r\n")
        return start_line, self.fields(rest)

    def chunked(self):
        body = b""
        while True:
            size = int(self.until(b"\r\n").split(b";")[0], 16)
            if size == 0:
                break
            body += self.exactly(size)
            self.exactly(2)
        trailers = b""
        while line := self.until(b"\r\n"):
            trailers += line + b"\r\n"
        return body, self.fields(trailers)

    def message(self, is_response=False, has_body=True):
        """The next message; raises EOFError when the peer closed before one was complete."""
        start_line, headers = self.head()
        names = {}
        for name, value in headers:
            names.setdefault(name, value)
        if is_response:
            status = int(start_line.split(b" ", 2)[1])
            has_body = has_body and status >= 200 and status not in (204, 304)
        if not has_body:
            return Message(start_line, headers, b"", "none")
        if names.get("transfer-encoding", "").lower().endswith("chunked"):
            body, trailers = self.chunked()
            return Message(start_line, headers, body, "chunked", trailers)
        if "content-length" in names:
            return Message(start_line, headers, self.exactly(int(names["content-length"])), "length")
        if is_response:
            return Message(start_line, headers, self.rest(), "close")
        return Message(start_line, headers, b"", "none")


def main(run):
    """Runs a test script: prints why it failed and sets the exit code."""
    try:
        run()
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
