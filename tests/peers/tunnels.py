"""Chains of two proxies: a client's bytes go into a tunnel at the first (`tunneling_config`), over HTTP/1.1 or HTTP/2, and leave it at the second
(CONNECT or POST that ends there), which reaches the server. Every mix of Envoy and Ringway; what client and server saw, what arrived of the
request at the second and what both recorded must be as with Envoy in both places, but for what tunnels.toml lists with a reason.

    python3 tests/peers/tunnels.py                   # needs Envoy 1.40 and a build of Ringway (`.ci/run install`)
    python3 tests/peers/tunnels.py --only 'reset-*'  # some cases
    python3 tests/peers/tunnels.py --self            # Envoy in all places: proves that the comparison is stable
    python3 tests/peers/tunnels.py --show            # with Envoy's facts, for a reader
"""

import argparse
import concurrent.futures
import contextlib
import fnmatch
import json
import pathlib
import socket
import tempfile
import time
import urllib.request

import differential
import protocols_bench
import protocols_case
import protocols_ends  # noqa: F401 (adds its cases)
import rig
from protocols_case import HELD_S, QUIET_S, Server, address, cluster, echo, read, told, typed

# How each ends is told by what both sides saw; these have one server and nothing else of their own.
ENDS = [
    "exchange", "server-first", "half-close-client", "half-close-client-at-once", "half-close-server-then-silence",
    "reset-client-idle", "close-client-idle", "reset-client-downloading", "close-client-downloading", "reset-server-idle", "reset-server-uploading",
    "close-server-uploading", "close-server-after-answer", "close-client-after-upload",
]
PROTOCOLS = {"1": {}, "2": {"http2_protocol_options": {}}}
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
HEAD = (
    "%REQ(:METHOD)% %REQ(:AUTHORITY)% %REQ(:PATH)% %REQ(:SCHEME)% %PROTOCOL% one=%REQ(x-one)% two=%REQ(x-two)% "
    "length=%REQ(content-length)% coding=%REQ(transfer-encoding)% status=%RESPONSE_CODE%\n"
)
LARGE = bytes(range(256)) * 40_000
WAYS = ["connect", "post"]


def both_ways(connection):
    """Sends as much as it gets, at once."""
    got = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sending = pool.submit(connection.sendall, LARGE[::-1])
        got = read(connection, len(LARGE))
        sending.result()
    return told(got)


def large(at):
    with at.connect() as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        sending = pool.submit(client.sendall, LARGE)
        got = read(client, len(LARGE))
        sending.result()
        return {"client": told(got), "server": at.one.said()}


def many(at):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(at.connect()) for _ in range(50)]
        for number, client in enumerate(clients):
            client.sendall(b"%03d" % number * 1000)
        got = [read(client, 3000) for client in clients]
    return {"all": all(each == (b"%03d" % number * 1000, "whole") for number, each in enumerate(got))}


def slow(connection):
    time.sleep(2 * QUIET_S)
    return told(read(connection, len(LARGE)))


def slow_server(at):
    """Who takes nothing for a while gets all of it."""
    with at.connect() as client:
        client.sendall(LARGE)
        return {"server": at.one.said()}


OWN = {"large": (both_ways, large), "many": (echo, many), "slow-server": (slow, slow_server)}


class At(protocols_bench.At):
    """One case at a chain."""

    def stat(self, name):
        raise rig.Failed(f"{self.name} asks for {name}")


class Chain:
    """Two proxies with all cases in them."""

    def __init__(self, commands, chosen, protocol, way, folder, stack):
        self.folder, self.programs, self.names = folder, None, {}
        ports = iter(rig.free_ports(len(chosen) + 3))
        admins, middle = (next(ports), next(ports)), next(ports)
        post = way == "post"
        asked = {"use_post": True, "post_path": "/tunnel"} if post else {}
        added = [{"header": {"key": "x-one", "value": "1"}}, {"header": {"key": "x-two", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}]
        listeners, hosts, clusters = [], [], []
        self.places = {}
        for name, (script, perform) in chosen.items():
            server, port = Server(script), next(ports)
            tunnel = {"hostname": f"{name}.test:443", "headers_to_add": added, **asked}
            proxy = protocols_case.tcp_proxy(name, folder, cluster="second", tunneling_config=tunnel)
            listeners.append({"name": name, "address": address(port), "filter_chains": [{"filters": [proxy]}]})
            match = {"path": "/tunnel"} if post else {"connect_matcher": {}}
            ends = {"upgrade_type": "CONNECT", "connect_config": {"allow_post": True} if post else {}}
            hosts.append({"name": name, "domains": [f"{name}.test:443"], "routes": [{"match": match, "route": {"cluster": name, "upgrade_configs": [ends]}}]})
            clusters.append(cluster(name, [server.port], {}))
            case = type("Case", (), {"name": name, "perform": perform})
            self.places[name] = At(case, port, {"one": server}, self)
        options = {"@type": f"type.googleapis.com/{OPTIONS}", "explicit_http_config": PROTOCOLS[protocol] or {"http_protocol_options": {}}}
        second = cluster("second", [middle], {"typed_extension_protocol_options": {OPTIONS: options}})
        log = typed("file", "access_loggers.file.v3.FileAccessLog", path=str(folder / "second.log"), log_format={"text_format_source": {"inline_string": HEAD}})
        manager = typed(
            "envoy.filters.network.http_connection_manager", "filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="second", codec_type="AUTO", upgrade_configs=[{"upgrade_type": "CONNECT"}], http2_protocol_options={"allow_connect": True},
            route_config={"virtual_hosts": hosts}, http_filters=[typed("router", "filters.http.router.v3.Router")], access_log=[log],
        )
        ends = {"name": "second", "address": address(middle), "filter_chains": [{"filters": [manager]}]}
        self.admins = admins
        for number, (command, every) in enumerate(zip(commands, [(listeners, [second]), ([ends], clusters)])):
            path = folder / f"{number}.json"
            resources = {"listeners": every[0], "clusters": every[1]}
            path.write_text(json.dumps({"admin": {"address": address(admins[number])}, "static_resources": resources}, indent=1))
            stack.enter_context(rig.Process([*command, "-c", path], ready_port=admins[number]))
            rig.wait_for(lambda: self.stats(number).get("listener_manager.total_listeners_active") == len(every[0]), "every listener")

    def stats(self, number):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admins[number]}/stats?format=json", timeout=HELD_S) as answer:
            return {each["name"]: each["value"] for each in json.load(answer)["stats"] if "name" in each}

    def run(self, name):
        at = self.places[name]
        try:
            facts = {key: str(value) for key, value in at.case.perform(at).items()}
        except (OSError, EOFError, rig.Failed) as failure:
            facts = {"failed": repr(failure)}
        return facts

    def settled(self, found):
        """What both recorded, once all has ended."""
        active = lambda: [self.stats(1).get(f"cluster.{name}.upstream_cx_active", 0) for name in found]  # noqa: E731
        try:
            rig.wait_for(lambda: not any(active()), "all connections to end", HELD_S)
        except rig.Failed:
            for name, count in zip(found, active()):
                if count:
                    found[name]["left"] = f"{count} connections"
        # Written within milliseconds of the end.
        count = lambda: sum(1 for _ in (self.folder / "second.log").open())  # noqa: E731
        with contextlib.suppress(rig.Failed):
            rig.wait_for(lambda: count() >= sum(at.one.accepted for at in self.places.values()), "the log of the second", 2)
        lines = (self.folder / "second.log").read_text().splitlines()
        for name, facts in found.items():
            facts["heads"] = str(sorted({line for line in lines if f" {name}.test:443 " in line}))


def run_chain(commands, chosen, protocol, way):
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chain = Chain(commands, chosen, protocol, way, folder, stack)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = dict(zip(chosen, pool.map(chain.run, chosen)))
        chain.settled(found)
        return found


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="cases by name, with wildcards")
    parser.add_argument("--self", action="store_true", help="Envoy in all places")
    parser.add_argument("--show", action="store_true", help="prints what Envoy's chains came to")
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"], help="Ringway's; default: both")
    arguments = parser.parse_args()
    ends = {case.name: (case.servers["one"], case.perform) for case in protocols_case.CASES if case.name in ENDS}
    if len(ends) != len(ENDS):
        raise rig.Failed(f"no such cases: {set(ENDS) - set(ends)}")
    chosen = {name: case for name, case in {**ends, **OWN}.items() if fnmatch.fnmatchcase(name, arguments.only)}
    flags = ["--concurrency", "2", "--disable-hot-restart", "-l", "warning", "--file-flush-interval-msec", "5", "--drain-time-s", "1"]
    envoy = [rig.envoy(), *flags]
    if arguments.self:
        pairs = {"envoy again": (envoy, envoy)}
    else:
        pairs = {}
        for backend in arguments.backend or ["io_uring", "epoll"]:
            ours = [rig.ringway(), *flags, "--io-backend", backend]
            pairs.update({f"{backend} to envoy": (ours, envoy), f"envoy to {backend}": (envoy, ours), f"{backend} to {backend}": (ours, ours)})
    entries = [] if arguments.self else differential.listed("tunnels.toml")
    lines = []
    for protocol in PROTOCOLS:
        for way in WAYS:
            # Envoy's first place dies of a response to POST that ends over HTTP/1.1.
            if way == "post" and protocol == "1":
                continue
            place = f"{way}-{protocol}"
            reference = run_chain((envoy, envoy), chosen, protocol, way)
            if arguments.show:
                for name, facts in reference.items():
                    print(f"{place} {name}\n" + "".join(f"    {key}: {value}\n" for key, value in sorted(facts.items())), end="")
            for pair, commands in pairs.items():
                found = run_chain(commands, chosen, protocol, way)
                agree = 0
                for name in chosen:
                    unlisted = [
                        f"{place} {pair}: {name}: {field}\n    envoy to envoy: {theirs}\n    {pair}: {ours}"
                        for field, theirs, ours in differential.differences(found[name], reference[name])
                        if not differential.accounted(entries, f"{place} {pair.replace('io_uring', 'ringway').replace('epoll', 'ringway')} {name}", field, theirs, ours)
                    ]
                    agree += not unlisted
                    lines += unlisted
                print(f"{place} {pair}: {agree} of {len(chosen)} cases as with Envoy in both places", flush=True)
    for line in lines:
        print(line)
    stale = [entry for entry in entries if not entry["used"]] if arguments.only == "*" and not arguments.backend else []
    for entry in stale:
        print(f"listed, but no longer different: {entry['cases']} {entry['fields']}")
    if lines or stale:
        raise rig.Failed("chains differ")


if __name__ == "__main__":
    rig.main(run)
