"""Envoy Gateway, standalone, with Ringway in Envoy's place: it reads resources of the Gateway API from a file, starts the proxy with arguments and
a bootstrap of its own, and tells it everything else by delta ADS over mutual TLS.

    sudo unshare -n target/xds-venv/bin/python tests/xds/envoy_gateway.py      # needs Envoy Gateway, Envoy and a build of Ringway
    ... envoy_gateway.py --only envoy                                            # one of envoy, io_uring, epoll

Envoy comes first, and what it answers is what both back ends of Ringway must answer. Then the resources change while requests are under way, of
which none may fail; at last a listener comes for each of many policies, and what Ringway refuses of them or does not implement is listed by count.
Envoy Gateway has ports that cannot be changed, hence a network of its own.
"""

import argparse
import collections
import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import tomllib

import peers  # noqa: F401 (before rig)

import envoy_gateway_parts as parts
import envoy_gateway_resources as resources
import rig

# What Envoy Gateway's own servers listen on: xDS, readiness, Wasm modules.
TAKEN_PORTS = (18000, 8081, 18002)
ENVOY_VERSION = "1.40.0"
PROXIES = {"envoy": [], "io_uring": ["--io-backend", "io_uring"], "epoll": ["--io-backend", "epoll"]}
NAMESPACE = "envoy-gateway-system"
START_S = 30.0
# What Ringway lacks of the policies; a change that implements something lowers it there.
LACKING = pathlib.Path(__file__).with_name("envoy_gateway.toml")
UPGRADE = b"GET /socket HTTP/1.1\r\nhost: www.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
LACKS = re.compile(r"xDS: (\S+): (\S+): not implemented yet")
RELOAD = re.compile(r"^.*(?:failed to|error when) reload resources.*$", re.M)
# The listener by which orchestrators ask whether the proxy is ready; Envoy Gateway always sends it.
READY = "envoy-gateway-proxy-ready-0.0.0.0-19003"
# Asked until it is served.
WAITING = "/prefix/ready"
INDEX = re.compile(r"\[\d+\]")


class Gateway:
    """Envoy Gateway, and the proxy that it has started."""

    def __init__(self, name, binary, ports, folder):
        self.name, self.ports, self.certificates = name, ports, folder
        self.folder = folder / name
        self.log = self.folder / "access.log"
        self.state = resources.State()
        self.binary = binary
        program = rig.binary("RINGWAY_ENVOY_GATEWAY", "envoy-gateway", rig.ROOT / "target/go/envoy-gateway")
        homes = {key: self.folder / key for key in ("configHome", "dataHome", "stateHome", "runtimeDir")}
        self.watched = self.folder / "resources"
        link = homes["dataHome"] / "envoy-versions" / ENVOY_VERSION / "bin" / "envoy"
        for each in (self.watched, link.parent, *homes.values()):
            each.mkdir(parents=True, exist_ok=True)
        link.symlink_to(binary)
        self.runtime = homes["runtimeDir"]
        config = self.folder / "envoy-gateway.json"
        config.write_text(json.dumps({
            "apiVersion": resources.OWN, "kind": "EnvoyGateway",
            "gateway": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
            "provider": {"type": "Custom", "custom": {
                "resource": {"type": "File", "file": {"paths": [str(self.watched)]}},
                "infrastructure": {"type": "Host", "host": {key: str(value) for key, value in homes.items()}}}},
            "logging": {"level": {"default": "warn"}},
            "telemetry": {"metrics": {"prometheus": {"disable": True}}},
            "admin": {"address": {"host": "127.0.0.1", "port": ports["admin"]}},
            "extensionApis": {"enableBackend": True, "enableLua": True},
        }))
        self.tell(self.carried())
        environment = {"HOME": str(self.folder), "PATH": os.environ["PATH"]}
        made = subprocess.run([program, "certgen", "--local", "--config-home", homes["configHome"]], env=environment, capture_output=True, text=True, check=False)
        if made.returncode:
            raise rig.Failed(f"envoy-gateway certgen: {made.stderr}{made.stdout}")
        self.process = rig.Process([program, "server", "--config-path", config], env=environment)
        self.output = open(self.process.log.name, encoding="utf-8", errors="replace")
        self.admin = self.pid = None

    def carried(self):
        arguments = ["--disable-hot-restart", "--file-flush-interval-msec", "100", *PROXIES[self.name]]
        levels = {"default": "warn"}
        if self.name != "envoy":
            # Ringway says there which fields it lacks: once as a warning, and for each resource at debug level.
            levels = {"default": "debug"} | dict.fromkeys(("upstream", "http", "connection", "admin", "client", "filter", "main", "router", "runtime"), "warn")
        return resources.carried(self.state, self.ports, self.certificates, (ENVOY_VERSION, arguments, self.log, levels))

    def tell(self, told):
        """All at once: Envoy Gateway reads the file when its name comes."""
        beside = self.folder / "next"
        beside.write_text(resources.text(told))
        beside.replace(self.watched / "resources.yaml")

    def become(self, **changes):
        self.state = dataclasses.replace(self.state, generation=self.state.generation + 1, **changes)
        self.tell(self.carried())

    def said(self):
        """What it has said since this was asked last."""
        return self.output.read()

    def wait(self, condition, what, deadline_s=rig.DEADLINE_S):
        def held():
            self.process.check()
            if wrong := RELOAD.search(self.said()):
                raise rig.Failed(wrong[0])
            with contextlib.suppress(OSError, http.client.HTTPException):
                return condition()
            return False

        return rig.wait_for(held, f"{what}, {self.name}", deadline_s)

    def started(self):
        """Waits for the proxy's admin interface, and until everything is served."""
        address = self.wait(lambda: next((text for path in self.runtime.glob("*/admin-address.txt") if (text := path.read_text().strip())), None), "the proxy", START_S)
        self.admin = int(address.rpartition(":")[2])
        self.wait(lambda: self.get("/ready").strip() == "LIVE", "readiness", START_S)
        children = [int(pid) for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir() for pid in (task / "children").read_text().split()]
        runs = lambda pid: os.path.realpath(f"/proc/{pid}/exe")
        # Envoy may be a script that becomes another program.
        self.pid = next((pid for pid in children if self.name == "envoy" or runs(pid) == os.path.realpath(self.binary)), None)
        if self.pid is None:
            raise rig.Failed(f"Envoy Gateway has not started {self.binary}, but {[runs(pid) for pid in children]}")
        for name in resources.LISTENERS:
            self.wait(lambda: rig.accepts(self.ports[name]), f"listener {name}")
        self.wait(lambda: parts.ask(self.ports["http"], WAITING).status == 200, "routes")
        self.serves(self.state.generation)

    def serves(self, generation, deadline_s=START_S):
        """Waits until new connections of all workers have the generation's routes. Envoy Gateway takes 30 ms for each resource that it reads."""
        def all_of_them():
            return all(parts.ask(self.ports["http"], "/", host="moving.test").header("x-generation") == str(generation) for _ in range(6))

        self.wait(all_of_them, f"generation {generation}", deadline_s)

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=rig.DEADLINE_S)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def quarantined(self):
        """Resources that Ringway does not use: name and why. Envoy has no such list; its listeners have an error."""
        if self.name != "envoy":
            return {each["name"]: each["details"] for each in json.loads(self.get("/quarantine"))["resources"]}
        told = json.loads(self.get("/config_dump?resource=dynamic_listeners"))
        return {each["name"]: each["error_state"]["details"] for each in told.get("configs", []) if "error_state" in each}

    def listeners(self):
        return {each["name"] for each in json.loads(self.get("/listeners?format=json")).get("listener_statuses", [])}

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.output.close()
        self.process.__exit__(kind, value, trace)
        if self.pid is not None and pathlib.Path(f"/proc/{self.pid}").exists():
            rig.wait_for(lambda: not pathlib.Path(f"/proc/{self.pid}").exists(), "the end of the proxy")


class Checks:
    """What is asked of a gateway, what it must answer, and everything of the answers for comparing proxies."""

    def __init__(self, gateway, origins):
        self.gateway, self.origins, self.ports = gateway, origins, gateway.ports
        self.compared, self.wrong, self.count = {}, [], 0

    def is_(self, what, got, wanted):
        self.count += 1
        if got != wanted:
            self.wrong.append(f"{what}: {got!r}, not {wanted!r}")

    def ask(self, path, **more):
        answer = parts.ask(self.ports["http"], path, **more)
        self.compared[f"{path} {sorted(more.items())}"] = answer.compared()
        return answer

    def run(self):
        self.matches()
        self.filters()
        self.policies()
        self.limits()
        self.protocols()

    def matches(self):
        pair = lambda answer: (answer.status, answer.origin)
        for path, more, wanted in (
            ("/exact", {}, (200, "a")), ("/exact/x", {}, (404, None)), ("/prefix/deep", {}, (200, "b")), ("/prefixed", {}, (404, None)),
            ("/regex/12", {}, (200, "c")), ("/regex/x", {}, (404, None)), ("/match", {}, (200, "a")),
            ("/match", {"headers": [("x-canary", "yes")]}, (200, "b")), ("/match", {"headers": [("x-team", "bluebird")]}, (200, "c")),
            ("/match", {"method": "POST", "body": b"posted"}, (200, "c")), ("/match?v=2", {}, (200, "b")), ("/match?v=3", {}, (200, "a")),
            ("/exact", {"host": "nobody.test"}, (404, None)), ("/any", {"host": "one.wild.test"}, (200, "b")), ("/any", {"host": "wild.test"}, (404, None)),
        ):
            self.is_(f"{path} {more}", pair(self.ask(path, **more)), wanted)

    def filters(self):
        place = lambda answer: (answer.status, parts.PORT.sub(":PORT", answer.header("location") or ""))
        self.is_("redirect", place(self.ask("/redirect?a=b")), (301, "https://other.test:PORT/there?a=b"))
        self.is_("redirect of a prefix", self.ask("/redirect-prefix/x").status, 302)
        rewritten = self.ask("/rewrite/x?a=b")
        self.is_("rewrite", (rewritten.seen.get("path"), rewritten.asked("host")), ("/inner/x?a=b", "inner.test"))
        self.is_("full rewrite", self.ask("/rewrite-full/x").seen.get("path"), "/full")
        self.is_("rewrite by expression", self.ask("/rewrite-regex/abc/d").seen.get("path"), "/done/abc/d")
        changed = self.ask("/headers", headers=[("x-set", "before"), ("x-removed", "here"), ("x-added", "first")])
        self.is_("request headers", [changed.asked("x-set"), changed.asked("x-removed")], ["set", None])
        self.is_("response headers", [changed.header("x-answer"), changed.header("x-more"), changed.header("x-origin")], ["set", "added", None])
        self.is_("TLS towards the origin", self.ask("/tls/x").origin, "secured")

    def policies(self):
        self.is_("nobody is allowed", self.ask("/", host="allowed.test").status, 403)
        self.is_("ours are allowed, by their address", self.ask("/", host="allowed.test", source="127.7.0.1").status, 200)
        self.is_("others are not", self.ask("/", host="allowed.test", source="127.8.0.1").status, 403)
        named = {"host": "allowed.test", "headers": [("x-pass", "two")]}
        self.is_("a header is a pass", self.ask("/", **named).status, 200)
        self.is_("for reading alone", self.ask("/", method="DELETE", **named).status, 403)
        for headers, wanted in ([("x-left", "l")], 403), ([("x-left", "l"), ("x-right", "r")], 200), ([("x-left", "l"), ("x-right", "l")], 403):
            self.is_(f"both headers: {headers}", self.ask("/", host="allowed.test", method="PUT", headers=headers).status, wanted)
        self.is_("names with underscores", self.ask("/exact", headers=[("x_y", "z")]).status, 400)
        escaped = self.ask("/exact%2Fa")
        self.is_("escaped slashes", (escaped.status, escaped.header("location")), (307, "/exact/a"))
        self.is_("slashes are merged", self.ask("//exact").origin, "a")

    def limits(self):
        self.is_("timeout of the request", self.ask("/timeout/hang").status, 504)
        self.let_go("a")
        answers = []
        first = threading.Thread(target=lambda: answers.append(parts.ask(self.ports["http"], "/hang", host="broken.test").status), daemon=True)
        first.start()
        if not self.origins["a"].hanging.acquire(timeout=rig.DEADLINE_S):
            raise rig.Failed(f"{self.gateway.name}: no request came to the origin")
        self.is_("circuit breaker", self.ask("/", host="broken.test").status, 503)
        self.let_go("a")
        first.join(rig.DEADLINE_S)
        self.is_("the request within the limit", answers, [200])
        with parts.Client(self.ports["http"]) as client:
            turns = collections.Counter(client.ask("/", host="turns.test").origin for _ in range(30))
            shares = collections.Counter(client.ask("/weights").origin for _ in range(200))
        self.is_("in turns", turns, {"a": 10, "b": 10, "c": 10})
        self.is_("weights", sum(shares.values()) == 200 and 3 <= shares["b"] <= 45, True)

    def let_go(self, name):
        """What hangs at an origin, and nothing that comes later."""
        origin = self.origins[name]
        origin.go.set()
        origin.go = threading.Event()
        while origin.hanging.acquire(blocking=False):
            pass

    def protocols(self):
        folder = self.gateway.certificates
        anybody, known = parts.trusting(folder), parts.trusting(folder, "client")
        secure = parts.ask(self.ports["https"], "/s", anybody)
        self.compared["https"] = secure.compared()
        self.is_("HTTPS", (secure.origin, secure.asked("x-forwarded-proto")), ("a", "https"))
        mutual = parts.ask(self.ports["mutual"], "/m", known, headers=[("x-forwarded-client-cert", "By=me")])
        self.compared["mutual"] = mutual.compared()
        self.is_("mutual TLS", (mutual.origin, "By=me" in (mutual.asked("x-forwarded-client-cert") or "By=me")), ("a", False))
        try:
            answered = parts.ask(self.ports["mutual"], "/m", anybody).status
        except OSError:
            answered = "refused"
        self.is_("mutual TLS without a certificate", answered, "refused")
        self.is_("passed through", parts.shown(self.ports["pass"], anybody, "origin.test"), serial(folder, "origin"))
        try:
            answered = parts.shown(self.ports["pass"], anybody, "other.test")
        except OSError:
            answered = "refused"
        self.is_("nobody's name", answered, "refused")
        with socket.create_connection(("127.0.0.1", self.ports["tcp"]), rig.DEADLINE_S) as sock:
            sock.sendall(b"x" * 100_000)
            sock.shutdown(socket.SHUT_WR)
            self.is_("bytes", len(b"".join(iter(lambda: sock.recv(65536), b""))), 100_000)


def serial(folder, name):
    """The serial number of a certificate, as Python's TLS shows it."""
    return ssl._ssl._test_decode_cert(str(folder / f"{name}.pem"))["serialNumber"]


class Held:
    """An upgraded connection and a relayed one that live through all changes."""

    def __init__(self, ports):
        self.upgraded = socket.create_connection(("127.0.0.1", ports["http"]), rig.DEADLINE_S)
        self.upgraded.sendall(UPGRADE)
        self.file = self.upgraded.makefile("rb")
        if b" 101 " not in (line := self.file.readline()):
            raise rig.Failed(f"not upgraded: {line}")
        while self.file.readline().strip():
            pass
        self.relayed = socket.create_connection(("127.0.0.1", ports["tcp"]), rig.DEADLINE_S)

    def check(self):
        for sock, what in ((self.upgraded, "upgraded"), (self.relayed, "relayed")):
            sock.sendall(b"still there\n")
            got = self.file.readline() if what == "upgraded" else sock.recv(100)
            if got != b"still there\n":
                raise rig.Failed(f"the {what} connection is gone: {got}")

    def close(self):
        self.file.close()
        self.upgraded.close()
        self.relayed.close()


def change(gateway, load, context):
    """Everything that may change; each change is waited for where it can be seen."""
    ports, folder = gateway.ports, gateway.certificates
    def origins():
        with parts.Client(ports["http"]) as client:
            return {client.ask("/", host="moving.test").origin for _ in range(12)}

    def shares():
        with parts.Client(ports["http"]) as client:
            return collections.Counter(client.ask("/weights").origin for _ in range(60))

    seen = [
        ({"weights": (1, 9)}, lambda: shares()["b"] > 30),
        ({"moving": ("a", "b", "c")}, lambda: "c" in origins()),
        ({"certificate": "successor"}, lambda: parts.shown(ports["https"], context) == serial(folder, "successor")),
        ({"spare": True}, lambda: parts.ask(ports["spare"], "/").origin == "c"),
        ({"balancing": "RoundRobin"}, lambda: origins() == {"a", "b", "c"}),
        ({"idle_timeout": "200s"}, lambda: True),
        ({"moving": ("c",)}, lambda: origins() == {"c"}),
        ({"spare": False}, lambda: not rig.accepts(ports["spare"])),
        ({"certificate": "front", "balancing": "LeastRequest"}, lambda: parts.shown(ports["https"], context) == serial(folder, "front")),
        ({"moving": ("a", "b"), "weights": (9, 1), "idle_timeout": "300s"}, lambda: origins() <= {"a", "b"} and shares()["a"] > 30),
    ]
    count = 0
    for changes, is_seen in seen:
        gateway.become(**changes)
        gateway.serves(gateway.state.generation)
        gateway.wait(is_seen, f"{changes}")
        load.more(20)
        count += 1
    return count


def widen(gateway, load):
    """A listener for each policy: those in use, those refused with their reasons, and the fields that are lacking, by resource."""
    gateway.state = dataclasses.replace(gateway.state, generation=gateway.state.generation + 1)
    gateway.tell(resources.widened(gateway.carried(), gateway.state, gateway.ports))
    gateway.serves(gateway.state.generation)
    names = [*resources.wide(), *resources.WIDE_RULES]
    full = {f"{NAMESPACE}/{resources.GATEWAY}/{name}": name for name in names}
    gateway.wait(lambda: set(full) <= gateway.listeners() | set(gateway.quarantined()), "every listener of the many", START_S)
    refused = gateway.quarantined()
    load.more(50)
    answers = {}
    for name in names:
        try:
            answers[name] = parts.ask(gateway.ports[name], "/").status
        except (OSError, http.client.HTTPException) as error:
            answers[name] = type(error).__name__
    lacking = collections.defaultdict(set)
    for resource, path in LACKS.findall(gateway.process.output()):
        lacking[INDEX.sub("[]", path)].add(resource)
    return answers, refused, lacking


def logged(gateway):
    """Lines of the access log, without what waits and what is drawn: workers write theirs in any order."""
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    drawn = ("/weights", WAITING)
    # Envoy has no method where it refuses a head while it reads it.
    lines = [line for line in lines if line.get("details") != "http1.unexpected_underscore"]
    return {json.dumps(line, sort_keys=True) for line in lines if line.get("method") and line["path"] not in drawn and line["host"] != "moving.test"}


def one(name, ports, folder, origins, reference):
    """All of it with one proxy; what must be the same with the next."""
    started = time.monotonic()
    with Gateway(name, rig.envoy() if name == "envoy" else rig.ringway(), ports, folder) as gateway:
        gateway.started()
        checks = Checks(gateway, origins)
        checks.run()
        # Envoy writes them in order, and the last request is to /m; then as many as Envoy's.
        with contextlib.suppress(rig.Failed):
            gateway.wait(lambda: logged(gateway) >= reference["log"] if reference else '"/m"' in gateway.log.read_text(), "the access log")
        quarantined = gateway.quarantined()
        quarantined.pop(READY, None)
        if quarantined:
            checks.wrong.append(f"refused: {quarantined}")
        told = {"answers": checks.compared, "log": logged(gateway)}
        context = parts.trusting(folder)
        held = Held(ports)
        with contextlib.closing(held), parts.Load(ports, context) as load:
            changes = change(gateway, load, context)
            answers, refused, lacking = widen(gateway, load)
            gateway.become()
            gateway.serves(gateway.state.generation)
            gateway.wait(lambda: set(gateway.quarantined()) <= {READY}, "the end of all that was refused")
            held.check()
        print(f"{name}: {checks.count} checks, {changes} changes, {load.answered} requests under way, {len(load.failed)} failed, "
              f"{time.monotonic() - started:.0f} s", flush=True)
        wrong = checks.wrong + [f"a request failed: {each}" for each in load.failed[:5]]
        told["wide"] = answers
        wrong += report(name, told, counted(refused, lacking), reference)
        if reference:
            wrong += differences(reference, told)
        panics = gateway.get("/stats?filter=^ringway.panics$").strip()
        if panics and not panics.endswith(" 0"):
            wrong.append(panics)
    if wrong:
        raise rig.Failed(f"{name}:\n  " + "\n  ".join(wrong))
    return told


def counted(refused, lacking):
    """What is refused, by reason, and what is not implemented, by field: how many resources each."""
    reasons = collections.Counter(INDEX.sub("[]", details) for details in refused.values())
    return {"refused": dict(reasons), "not_implemented": {path: len(names) for path, names in lacking.items()}}


def report(name, told, lacks, reference):
    """Prints what a proxy lacks, by count; what of it is not as listed."""
    print(f"{name}: {len(told['wide'])} policies more, of which it lacks{table(lacks)}", flush=True)
    if not reference:
        print(f"{name}: their answers: {told['wide']}", flush=True)
        return []
    other = {key: f"{reference['wide'][key]} {value}" for key, value in told["wide"].items() if value != reference["wide"][key]}
    print(f"{name}: answers that differ from Envoy's: {other}", flush=True)
    listed = tomllib.loads(LACKING.read_text(encoding="utf-8"))
    return [] if listed == lacks else [f"{LACKING.name} says otherwise of what is lacking; now it is\n{toml(lacks)}"]


def table(lacks):
    lines = [(count, f"{kind.replace('_', ' ')}: {what}") for kind, counts in lacks.items() for what, count in counts.items()]
    return "".join(f"\n{count:6}  {what}" for count, what in sorted(lines, key=lambda line: (-line[0], line[1]))) or " nothing"


def toml(lacks):
    return "\n".join(f"[{kind}]\n" + "".join(f"{json.dumps(what)} = {count}\n" for what, count in sorted(counts.items())) for kind, counts in lacks.items())


def differences(reference, told):
    wrong = []
    for key, value in reference["answers"].items():
        if told["answers"].get(key) != value:
            wrong.append(f"{key}: differs from Envoy\n    {value}\n    {told['answers'].get(key)}")
    for what, lines, other in (("Envoy", reference["log"], told["log"]), ("Ringway", told["log"], reference["log"])):
        wrong += [f"access log, only of {what}: {line}" for line in sorted(lines - other)]
    return wrong


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PROXIES, help="one proxy")
    arguments = parser.parse_args()
    subprocess.run([rig.binary("IP", "ip", "/usr/sbin/ip"), "link", "set", "lo", "up"], check=False, capture_output=True)
    if taken := [port for port in TAKEN_PORTS if rig.accepts(port)]:
        raise rig.Failed(f"Envoy Gateway needs the ports {taken}, which are taken: a network of its own is made by `unshare -n`")
    names = [*"abc", "secured", "rpc", "bytes", "admin", *resources.LISTENERS, *resources.SPARE, *resources.wide(), *resources.WIDE_RULES]
    ports = dict(zip(names, rig.free_ports(len(names))))
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = pathlib.Path(scratch)
        parts.certificates(folder)
        origins = {name: stack.enter_context(parts.Origin(name, ports[name])) for name in "abc"}
        origins["secured"] = stack.enter_context(parts.Origin("secured", ports["secured"], folder / "origin"))
        stack.enter_context(parts.rpc(ports["rpc"]))
        stack.enter_context(parts.Bytes(ports["bytes"]))
        reference = None
        for name in [arguments.only] if arguments.only else PROXIES:
            told = one(name, ports, folder, origins, reference)
            reference = reference or told


if __name__ == "__main__":
    rig.main(run)
