"""A pod as a mesh has it, in two networks of the test's own: nftables redirects whatever its programs open and whatever is opened to them to one
listener for each direction, which hands connections to listeners that have no socket or passes them on to where they were going. The same bootstrap
for Envoy and for Ringway: what both ends saw, the counters and the access log must be equal, for IPv4 and IPv6.

    sudo unshare -n python3 tests/peers/capture.py [--backend io_uring|epoll]...   # default: both
    sudo unshare -n python3 tests/peers/capture.py --self                          # Envoy against itself: proves that the comparison is stable
    sudo unshare -n python3 tests/peers/capture.py --show                          # with Envoy's facts

What the proxy opens itself is left alone: by its group, as sidecars have it, or by the mark of its sockets. Needs root, nft, ip and setpriv.
"""

import argparse
import concurrent.futures
import contextlib
import ctypes
import json
import os
import pathlib
import random
import re
import socket
import subprocess
import tempfile
import threading
import urllib.request

import differential
import rig
from protocols_case import HELD_S, Server, ended, read, reset, told, typed
from transparent import command

GROUP = MARK = 1337
OUTBOUND, INBOUND, ADMIN = 15001, 15006, 15000
POD = {4: "10.1.0.1", 6: "fd01::1"}
WORLD = {4: "10.1.0.2", 6: "fd01::2"}
# An address that nobody has: a listener without a socket stands for it.
SERVICE = {4: "10.96.0.10", 6: "fd96::10"}
LOCAL = {4: "127.0.0.1", 6: "::1"}
ANY = {4: "0.0.0.0", 6: "::"}
# Who connects to the pod's programs in the name of the proxy.
INBOUND_SOURCE = {4: "127.0.0.6", 6: "::6"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
EXCHANGES = 18  # bytes that come back, in both versions
ECHO, ORDERS, WEB, BANNER, RESETS, NOBODY, APPLICATION = 9000, 9001, 9002, 9003, 9004, 9005, 8080
LOG = (
    "flags=%RESPONSE_FLAGS% cluster=%UPSTREAM_CLUSTER% host=%UPSTREAM_HOST% to=%DOWNSTREAM_LOCAL_ADDRESS% at=%DOWNSTREAM_DIRECT_LOCAL_ADDRESS% "
    "from=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% as=%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% chain=%FILTER_CHAIN_NAME% received=%BYTES_RECEIVED% sent=%BYTES_SENT%\n"
)
RULES = f"""
table inet capture {{
  counter marked {{ }}
  counter grouped {{ }}
  chain outbound {{
    type nat hook output priority -100;
    meta mark {MARK} counter name marked return
    meta skgid {GROUP} counter name grouped return
    oifname "lo" return
    meta l4proto tcp redirect to :{OUTBOUND}
  }}
  chain inbound {{
    type nat hook prerouting priority -100;
    iifname "lo" return
    meta l4proto tcp redirect to :{INBOUND}
  }}
}}
"""


class Place:
    """A network, and the thread that lives in it: sockets stay in the network of the thread that made them."""

    def __init__(self, addresses, name, own):
        self.addresses, self.name = addresses, name
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        if own:
            self.do(self.leave)
        self.thread = self.do(threading.get_native_id)

    def leave(self):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x4000_0000):  # CLONE_NEWNET
            raise rig.Failed(f"unshare: {os.strerror(ctypes.get_errno())}")

    def do(self, action, *arguments):
        return self.pool.submit(action, *arguments).result()

    def serve(self, script, port, version):
        return self.do(Server, script, (self.addresses[version], port))

    def dial(self, version, address, port):
        made = self.do(socket.socket, FAMILY[version])
        made.settimeout(HELD_S)
        made.connect((address, port))
        return made


def lay_networks():
    """The pod's, which is the test's, and the world's, joined by a pair of links; the rules are the pod's."""
    ip, nft = rig.binary("IP", "ip", "/usr/sbin/ip"), rig.binary("NFT", "nft", "/usr/sbin/nft")
    pod, world = Place(POD, "pod", own=False), Place(WORLD, "world", own=True)
    command(ip, "link", "add", "pod", "type", "veth", "peer", "name", "world", "netns", str(world.thread))
    for place in (pod, world):
        for name in ("lo", place.name):
            place.do(command, ip, "link", "set", name, "up")
        place.do(command, ip, "address", "add", f"{place.addresses[4]}/24", "dev", place.name)
        place.do(command, ip, "address", "add", f"{place.addresses[6]}/64", "dev", place.name, "nodad")
    for version in (4, 6):
        command(ip, f"-{version}", "route", "add", SERVICE[version], "via", WORLD[version])
    command(ip, "address", "add", f"{INBOUND_SOURCE[6]}/128", "dev", "lo", "nodad")
    command(nft, "-f", "-", data=RULES)
    return pod, world


def counted_by_rules():
    """Packets that the rules left alone, by the reason."""
    said = subprocess.run([rig.binary("NFT", "nft", "/usr/sbin/nft"), "-j", "list", "counters"], capture_output=True, check=True).stdout
    return {each["counter"]["name"]: each["counter"]["packets"] for each in json.loads(said)["nftables"] if "counter" in each}


# --- the bootstrap


def place(address, port):
    return {"socket_address": {"address": address, "port_value": port}}


def chain(name, cluster, folder, match=None):
    log = typed("file", "access_loggers.file.v3.FileAccessLog", path=str(folder / "access.log"), log_format={"text_format_source": {"inline_string": LOG}})
    proxy = typed("tcp", "filters.network.tcp_proxy.v3.TcpProxy", stat_prefix=name, cluster=cluster, access_log=[log])
    return {"name": name, "filters": [proxy], **({"filter_chain_match": match} if match else {})}


def virtual(name, port, direction, chains, **fields):
    """Where the rules lead; who comes of himself is not passed on, since that would lead here again."""
    return {"name": name, "stat_prefix": name, "address": place(ANY[4], port), "additional_addresses": [{"address": place(ANY[6], port)}],
            "traffic_direction": direction, "filter_chains": chains, **fields}


def unbound(version, address, port, cluster, folder):
    name = f"{address}_{port}".replace(":", "_")
    return {"name": name, "stat_prefix": name, "address": place(address, port), "bind_to_port": False, "traffic_direction": "OUTBOUND",
            "filter_chains": [chain(f"out-{cluster}", f"{cluster}{version}", folder)]}


def fixed(name, address, port, **fields):
    return {"name": name, "connect_timeout": "5s", "load_assignment": {"cluster_name": name, "endpoints": [
        {"lb_endpoints": [{"endpoint": {"address": place(address, port)}}]}]}, **fields}


def passing(name, **bind):
    return {"name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "5s", "upstream_bind_config": bind}


def bootstrap(folder):
    def destination(port, **more):
        return {"destination_port": port, **more}

    listener_filters = [typed(name, f"filters.listener.{name}.v3.{message}")
                        for name, message in (("original_dst", "OriginalDst"), ("tls_inspector", "TlsInspector"), ("http_inspector", "HttpInspector"))]
    outbound = virtual("virtualOutbound", OUTBOUND, "OUTBOUND", [chain("out-blackhole", "BlackHole", folder, destination(OUTBOUND))],
                       use_original_dst=True, default_filter_chain=chain("out-passthrough", "Passthrough", folder))
    inbound = virtual("virtualInbound", INBOUND, "INBOUND", [
        chain("in-blackhole", "BlackHole", folder, destination(INBOUND)),
        *(chain(f"in-http-{version}", f"application{version}", folder,
                destination(APPLICATION, application_protocols=["http/1.1", "h2c"], prefix_ranges=[{"address_prefix": ANY[version], "prefix_len": 0}]))
          for version in (4, 6)),
        *(chain(f"in-tcp-{version}", f"application{version}", folder, destination(APPLICATION, prefix_ranges=[{"address_prefix": ANY[version], "prefix_len": 0}]))
          for version in (4, 6)),
        *(chain(f"in-passthrough-{version}", f"InboundPassthrough{version}", folder, {"prefix_ranges": [{"address_prefix": ANY[version], "prefix_len": 0}]})
          for version in (4, 6)),
    ], listener_filters=listener_filters, listener_filters_timeout="0.3s", continue_on_listener_filters_timeout=True)
    listeners, clusters = [outbound, inbound], [
        {"name": "BlackHole", "type": "STATIC", "connect_timeout": "1s"},
        passing("Passthrough", socket_options=[{"level": socket.SOL_SOCKET, "name": socket.SO_MARK, "int_value": MARK}]),
    ]
    for version in (4, 6):
        listeners += [unbound(version, SERVICE[version], 80, "orders", folder), unbound(version, ANY[version], 8081, "web", folder)]
        clusters += [
            fixed(f"orders{version}", WORLD[version], ORDERS), fixed(f"web{version}", WORLD[version], WEB),
            fixed(f"application{version}", LOCAL[version], APPLICATION),
            passing(f"InboundPassthrough{version}", source_address={"address": INBOUND_SOURCE[version], "port_value": 0}),
        ]
    path = folder / "bootstrap.json"
    path.write_text(json.dumps({"admin": {"address": place("127.0.0.1", ADMIN)}, "static_resources": {"listeners": listeners, "clusters": clusters}}))
    return path


# --- who speaks


def answer(connection):
    """The addresses as they are seen here, at the first byte; everything comes back at the end."""
    first, end = read(connection, 1)
    peer, own = connection.getpeername()[0], connection.getsockname()
    connection.sendall(f"{peer} at {own[0]} {own[1]}\n".encode())
    data, end = read(connection)
    connection.sendall(first + data)
    return end


def banner(connection):
    connection.sendall(b"220 ready\r\n")
    return told(read(connection))


def resets(connection):
    read(connection, 4)
    reset(connection)
    return "reset"


def ask(place, version, address, port, data):
    """What came back for these bytes and the end behind them. The end waits: it is not to come to filters that wait for bytes."""
    try:
        with place.dial(version, address, port) as client:
            client.sendall(data)
            head = bytearray()
            while not head.endswith(b"\n") and (part := client.recv(1)):
                head += part
            ended(client)
            got, end = read(client)
    except ConnectionError as error:
        return type(error).__name__
    return f"{told((head, end))}; {'the same' if got == data else told((got, end))}"


def hear(place, version, address, port, say=b""):
    """What comes without a question, or behind a few bytes."""
    try:
        with place.dial(version, address, port) as client:
            client.sendall(say)
            got = read(client, 11)
            ended(client)
            return f"{told(got)}; {told(read(client))}" if got[1] == "whole" else told(got)
    except ConnectionError as error:
        return type(error).__name__


def facts(pod, world, version):
    """What every connection came to, one after the other: the log has their order."""
    rng = random.Random(version)
    tiny, large = rng.randbytes(5), rng.randbytes(3_000_000)
    request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    out, application = world.addresses[version], pod.addresses[version]
    return {
        "out, to where it was going": ask(pod, version, out, ECHO, tiny),
        "out, much of it": ask(pod, version, out, ECHO, large),
        "out, to a listener without a socket": ask(pod, version, SERVICE[version], 80, tiny),
        "out, to one of any address": ask(pod, version, out, 8081, tiny),
        "out, an address of nobody to one of any address": ask(pod, version, SERVICE[version], 8081, tiny),
        "out, where the server speaks first": hear(pod, version, out, BANNER),
        "out, to one that resets": hear(pod, version, out, RESETS, b"four"),
        "out, to nobody": hear(pod, version, out, NOBODY),
        "out, to the proxy itself": hear(pod, version, LOCAL[version], OUTBOUND),
        "in, by its port": ask(world, version, application, APPLICATION, tiny),
        "in, by its port and protocol": ask(world, version, application, APPLICATION, request),
        "in, to where it was going": ask(world, version, application, ECHO, tiny),
        "in, much of it": ask(world, version, application, ECHO, large),
        "in, where the server speaks first": hear(world, version, application, BANNER),
        "in, to one that resets": hear(world, version, application, RESETS, b"four"),
        "in, to nobody": hear(world, version, application, NOBODY),
        "in, to the proxy itself": hear(world, version, application, INBOUND),
    }


def servers(pod, world, stack):
    for version in (4, 6):
        local = Place(LOCAL, "pod", own=False)
        for where, script, port in (
            (world, answer, ECHO), (world, answer, ORDERS), (world, answer, WEB), (world, banner, BANNER), (world, resets, RESETS),
            (pod, answer, ECHO), (pod, banner, BANNER), (pod, resets, RESETS), (local, answer, APPLICATION),
        ):
            stack.callback(where.serve(script, port, version).stop)


# --- a proxy, and what it leaves behind


def stats():
    with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}/stats?format=json", timeout=HELD_S) as answered:
        return {each["name"]: each["value"] for each in json.load(answered)["stats"] if "name" in each}


def counted():
    wanted = re.compile(r"listener\.(virtual|10\.|0\.|__|fd)|tcp\.(in|out)-|cluster\.[^.]+\.upstream_")
    # How often reading pauses depends on the size of buffers; which worker has how many is chance, and who ends first a matter of time.
    passed_over = re.compile(r"flow_control|worker_\d|_ms$|handed_over|upstream_flush_total")
    return {name: value for name, value in stats().items() if value and wanted.match(name) and not passed_over.search(name)}


def observe(argv, pod, world):
    """The facts of all connections through one proxy, its counters and its log."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        # The group that the rules leave alone writes its log here.
        folder.chmod(0o777)
        servers(pod, world, stack)
        setpriv = rig.binary("RINGWAY_SETPRIV", "setpriv")
        before = counted_by_rules()
        with rig.Process([setpriv, "--regid", GROUP, "--clear-groups", *argv, "-c", bootstrap(folder)], ADMIN):
            rig.wait_for(lambda: stats().get("listener_manager.total_listeners_active") == 6, "every listener")
            found = {f"IPv{version}: {what}": said for version in (4, 6) for what, said in facts(pod, world, version).items()}
            rig.wait_for(lambda: not any(value for name, value in counted().items() if name.endswith("_cx_active")), "all connections to end")
            total = sum(value for name, value in counted().items() if re.fullmatch(r"tcp\..*downstream_cx_total", name))
            lines = lambda: (folder / "access.log").read_text().splitlines()  # noqa: E731
            with contextlib.suppress(rig.Failed):
                rig.wait_for(lambda: len(lines()) >= total, "the access log", 2)
            found.update({f"log: {line}": f"{lines().count(line)} times" for line in set(lines())})
            found.update({f"stat: {name}": str(value) for name, value in counted().items()})
        after = counted_by_rules()
        # The rest was left alone for the other reason.
        if idle := [name for name in after if after[name] == before[name]]:
            raise rig.Failed(f"{argv[0]}: nothing was {' or '.join(idle)}")
        return found


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"])
    parser.add_argument("--self", action="store_true", help="Envoy on both sides")
    parser.add_argument("--show", action="store_true", help="prints Envoy's facts")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise rig.Failed("needs root")
    if len(socket.if_nameindex()) > 1:
        raise rig.Failed("needs a network of its own: unshare -n")
    pod, world = lay_networks()
    flags = ["--concurrency", "2", "--disable-hot-restart", "-l", "error", "--file-flush-interval-msec", "5"]
    envoy = [rig.envoy(), *flags]
    reference = observe(envoy, pod, world)
    if arguments.show:
        print("".join(f"{name}: {said}\n" for name, said in reference.items()))
    served = sum(said.endswith("the same") for said in reference.values())
    print(f"envoy: {served} exchanges, {len(reference)} facts")
    if served != EXCHANGES:
        raise rig.Failed("through Envoy too little came to its end: two that fail alike prove nothing")
    others = {"envoy again": envoy} if arguments.self else {
        backend: [rig.ringway(), *flags, "--io-backend", backend] for backend in arguments.backend or ["io_uring", "epoll"]}
    wrong = False
    for name, argv in others.items():
        differing = list(differential.differences(observe(argv, pod, world), reference))
        for what, theirs, ours in differing:
            print(f"{what}\n    envoy:   {theirs}\n    {name + ':':8} {ours}")
        print(f"{name}: captured in and out, IPv4 and IPv6: {len(differing)} differences")
        wrong |= bool(differing)
    if wrong:
        raise rig.Failed("Ringway and Envoy differ")


if __name__ == "__main__":
    rig.main(run)
