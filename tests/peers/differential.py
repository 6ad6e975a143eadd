"""The same bootstrap and the same requests through Envoy and through Ringway: what the client got and what the upstream saw must be
equal, but for the differences that differences.toml lists with a reason. A listed difference that no longer shows is an error too.

    python3 tests/peers/differential.py                 # needs Envoy 1.40 and a build of Ringway
    python3 tests/peers/differential.py --only 'xff-*'  # some cases
    python3 tests/peers/differential.py --self          # Envoy against itself: proves that the comparison is stable
"""

import argparse
import collections
import concurrent.futures
import contextlib
import fnmatch
import json
import pathlib
import re
import select
import socket
import tempfile
import time
import tomllib

import cases
import cases_grpc  # noqa: F401 (adds its cases)
import cases_more  # noqa: F401 (adds its cases)
import rig
from upstream import Upstream

HERE = pathlib.Path(__file__).parent
ANSWER_S = 2.0  # longest wait for a response
QUIET_S = 0.05  # how long a connection that should stay open is watched for a close
AT_ONCE = 3  # proxies of each kind, which share out the cases: most of the time all wait for what must not come

UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")


def bootstrap(ports, folder):
    text = (HERE / "differential.yaml").read_text()
    values = {**ports, "folder": folder}
    return re.sub(r"@([a-z_]+)@", lambda match: str(values[match[1]]), text)


def perform(case, port, upstreams):
    """Sends the case; what came back, as comparable facts."""
    facts = {}
    answers, interim = [], []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(ANSWER_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = rig.Reader(connection)

        def receive(count):
            while len(answers) < count:
                method = case.methods[len(answers)]
                message = reader.message(is_response=True, has_body=method != "HEAD")
                (interim if 100 <= message.status < 200 and message.status != 101 else answers).append(message)

        end = "open"
        try:
            for step in case.send:
                if isinstance(step, int):
                    receive(step)
                elif step is cases.CONTINUE:
                    interim.append(reader.message(is_response=True))
                elif step is cases.ARRIVED:
                    rig.wait_for(lambda: any(upstream.recorded() for upstream in upstreams), "the request to arrive", ANSWER_S)
                elif step is cases.EOF:
                    connection.shutdown(socket.SHUT_WR)
                else:
                    with contextlib.suppress(ConnectionError):
                        connection.sendall(step)
            receive(len(case.methods))
            if case.tunnel:
                connection.sendall(case.tunnel)
                facts["tunnel"] = reader.exactly(len(case.tunnel)).decode("latin1")
                connection.shutdown(socket.SHUT_WR)
            end = closes(connection, answers[-1], reader)
        except EOFError:
            end = "closed before an answer"
            if reader.data:
                facts["partial"] = reader.data[:200].decode("latin1")
        except TimeoutError:
            end = "no answer"
        facts["end"] = end
    for index, message in enumerate(interim):
        facts[f"interim.{index}.status"] = str(message.status)
    for index, message in enumerate(answers):
        facts.update(response_facts(f"response.{index}", message))
    return facts


def settle(case):
    """A client that has gone leaves the proxy to finish on its own: what reaches the upstream late must not count for the next case."""
    if cases.EOF in case.send or case.tunnel or case.listener == "tunnels":
        time.sleep(0.2)


def closes(connection, last, reader):
    """Whether the proxy ends the connection after the last response."""
    expects_close = "close" in last.values("connection") or last.framing == "close" or last.start_line.startswith(b"HTTP/1.0")
    if reader.eof:
        return "closed"
    until = time.monotonic() + (ANSWER_S if expects_close else QUIET_S)
    while (left := until - time.monotonic()) > 0:
        if select.select([connection], [], [], left)[0]:
            if not reader.fill():
                return "closed"
            return "unexpected bytes: " + reader.data[:80].decode("latin1")
    return "open"


def response_facts(prefix, message):
    facts = {f"{prefix}.status": message.start_line.decode("latin1"), f"{prefix}.framing": message.framing}
    facts.update(header_facts(prefix, message.headers))
    facts.update(header_facts(f"{prefix}.trailer", message.trailers))
    facts[f"{prefix}.body"] = describe(message.body)
    return facts


def describe(body):
    if len(body) > 300:
        return f"{len(body)} bytes, of {sorted(set(body))[:4]}"
    return body.decode("latin1")


def header_facts(prefix, headers):
    """Values by name. The order of different names carries no meaning, that of one name's values does."""
    facts = {}
    odd = sorted(name for name in getattr(headers, "names", ()) if name != name.lower())
    if odd:
        facts[f"{prefix}.spelling"] = " ".join(odd)
    for name, value in headers:
        if name == "date" and value != "then":
            value = "<date>"
        elif name == "x-envoy-upstream-service-time" and value.isdigit():
            value = "<ms>"
        elif name == "x-request-id" and UUID.match(value):
            value = "<uuid>"
        elif len(value) > 300:
            value = f"{len(value)} bytes"
        key = f"{prefix}.header.{name}"
        facts[key] = f"{facts[key]} | {value}" if key in facts else value
    return facts


def upstream_facts(upstreams):
    facts = {}
    for upstream in upstreams:
        for index, request in enumerate(upstream.recorded()):
            prefix = f"upstream.{upstream.name}.{index}"
            facts[f"{prefix}.line"] = request["start_line"].decode("latin1")
            facts[f"{prefix}.framing"] = request["framing"]
            facts[f"{prefix}.body"] = describe(request["body"])
            facts.update(header_facts(prefix, request["headers"]))
            facts.update(header_facts(f"{prefix}.trailer", request["trailers"]))
    return facts


def run_all(command, chosen, upstreams, ports):
    """The facts of these cases through one proxy."""
    results = {}
    ports = {**ports, **{upstream.name: upstream.port for upstream in upstreams}}
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "bootstrap.yaml"
        path.write_text(bootstrap(ports, folder))
        log = AccessLog(folder / "access.log", ports["plain"])
        proxy = stack.enter_context(rig.Process([*command, "-c", path], ready_port=ports["plain"]))
        for listener in {case.listener for case in chosen}:
            rig.wait_for(lambda: rig.accepts(ports[listener]), f"listener {listener}")
        for case in chosen:
            for upstream in upstreams:
                upstream.use(case.replies)
            try:
                facts = perform(case, ports[case.listener], upstreams)
            except ConnectionRefusedError:
                proxy.check()
                raise
            settle(case)
            facts.update(upstream_facts(upstreams))
            facts.update(log_facts(log.records(case)))
            proxy.check()
            results[case.name] = {key: mask(value, ports) for key, value in facts.items()}
    return results


def mask(value, ports):
    for name, port in ports.items():
        value = re.sub(rf"(?<![^:/]){port}(?![0-9])", f"<{name}>", value)
    return value


class AccessLog:
    """What the proxy has recorded of each case: the lines before the mark that a request of its own leaves."""

    def __init__(self, path, port):
        self.path = path
        self.port = port
        self.taken = 0  # bytes of the file that belong to earlier cases

    def records(self, case):
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: mark.test\r\nconnection: close\r\n\r\n")
            rig.Reader(connection).rest()
        return rig.wait_for(self.until_mark, f"the access log's mark after {case.name}")[:-1]

    def until_mark(self):
        if not self.path.exists():
            return None
        with self.path.open("rb") as file:
            file.seek(self.taken)
            text = file.read()
        found, taken = [], 0
        for line in text.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            taken += len(line)
            found.append(json.loads(line))
            if found[-1]["authority"] == "mark.test":
                self.taken += taken
                return found
        return None


def log_facts(records):
    facts = {}
    for index, record in enumerate(records):
        record["has"] = sorted(name for name, took in record["has"].items() if took is not None)
        for name, value in record.items():
            if isinstance(value, str) and len(value) > 300:
                value = f"{len(value)} bytes"
            facts[f"log.{index}.{name}"] = value if isinstance(value, str) else json.dumps(value)
    return facts


def differences(ours, theirs):
    for key in sorted(set(ours) | set(theirs)):
        if ours.get(key) != theirs.get(key):
            yield key, theirs.get(key, "(absent)"), ours.get(key, "(absent)")


def listed(name="differences.toml"):
    path = HERE / name
    entries = tomllib.loads(path.read_text())["difference"] if path.exists() else []
    for entry in entries:
        if not entry.get("reason"):
            raise rig.Failed(f"a difference without a reason: {entry}")
        entry["used"] = 0
    return entries


def accounted(entries, name, field, theirs, ours):
    facts = {"cases": name, "fields": field, "envoy": theirs, "ringway": ours}
    for entry in entries:
        if all(any(fnmatch.fnmatchcase(fact, pattern) for pattern in entry.get(key, ["*"])) for key, fact in facts.items()):
            entry["used"] += 1
            return True
    return False


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="cases by name, with wildcards")
    parser.add_argument("--self", action="store_true", help="Envoy on both sides")
    parser.add_argument("--io-backend", default="auto", help="Ringway's")
    arguments = parser.parse_args()

    chosen = [case for case in cases.CASES if fnmatch.fnmatchcase(case.name, arguments.only)]
    flags = ["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "--file-flush-interval-msec", "5"]
    envoy = [rig.envoy(), *flags]
    ours = envoy if arguments.self else [rig.ringway(), *flags, "--io-backend", arguments.io_backend]
    # In their order: what a case leaves on a connection, the next one may meet.
    each = -(-len(chosen) // AT_ONCE)
    shares = [chosen[first : first + each] for first in range(0, len(chosen), max(each, 1))]
    commands = [envoy] * len(shares) + [ours] * len(shares)
    upstreams = [[Upstream("one"), Upstream("two")] for _ in commands]
    names = sorted(set(re.findall(r"@([a-z_]+)@", (HERE / "differential.yaml").read_text())) - {"folder"})
    # All at once, so that all are different: some must stay without a listener.
    free = rig.free_ports(len(names) * len(commands))
    ports = [dict(zip(names, free[side :: len(commands)])) for side, _ in enumerate(commands)]
    with concurrent.futures.ThreadPoolExecutor(2 * AT_ONCE) as pool:
        found = list(pool.map(run_all, commands, shares * 2, upstreams, ports))
    theirs_facts, ours_facts = (dict(collections.ChainMap(*half)) for half in (found[: len(shares)], found[len(shares) :]))

    entries = [] if arguments.self else listed()
    unlisted = []
    for case in chosen:
        for field, theirs, ours_value in differences(ours_facts[case.name], theirs_facts[case.name]):
            if not accounted(entries, case.name, field, theirs, ours_value):
                unlisted.append(f"{case.name}: {field}\n    envoy:   {theirs}\n    ringway: {ours_value}")
    stale = [entry for entry in entries if not entry["used"]] if arguments.only == "*" else []
    for line in unlisted:
        print(line)
    for entry in stale:
        print(f"listed, but no longer different: {entry['cases']} {entry['fields']}")
    failed = {line.split(":", 1)[0] for line in unlisted}
    print(f"{len(chosen) - len(failed)} of {len(chosen)} cases agree with Envoy, {len(entries)} listed differences, {len(unlisted)} unlisted")
    if unlisted or stale:
        raise rig.Failed("Ringway and Envoy differ")


if __name__ == "__main__":
    rig.main(run)
