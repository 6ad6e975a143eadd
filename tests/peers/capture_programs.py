"""Real programs that know of no proxy, in the pod of capture.py: what they open, and what is opened to them, nftables redirects to Ringway, which
passes it on to where it was going, or, by the server name of TLS, to the server of that name. The clients and servers are those of protocols.py:
PostgreSQL, Redis, MariaDB, mail, SSH, gRPC and TLS. Each has its conversation out of the pod and into it, over IPv4 and IPv6.

    sudo unshare -n python3 tests/peers/capture_programs.py [--backend io_uring|epoll]...   # default: both
    sudo unshare -n python3 tests/peers/capture_programs.py --proxy envoy                   # through Envoy: proves the rig

Needs root, nft, ip, setpriv and the programs (`.ci/run install`): without one of them it fails.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import tempfile
import time

import capture
import protocols_programs
import protocols_servers
import rig
from protocols_case import typed
from protocols_filters import shown
from protocols_programs import expect

# Those of the servers; each network has them to itself.
PORTS = {name: 9100 + number for number, name in enumerate(("postgres", "redis", "mariadb", "smtp", "ssh", "grpc", "tls-a", "tls-b", "tls-default"))}
# Who is led to a server of his own, whatever the address that the client has for him.
NAMED = ("a", "b")
# How long a client may say nothing before the server is thought to speak first.
FIRST_BYTES_S = 0.5


def tls_by_name(at):
    """All of them at the address of one server: the certificate tells whose connection it became."""
    found = {name: shown(at, f"{name}.example") for name in ("a", "b", "c")}
    expect(found, {"a": "a, answered", "b": "b, answered", "c": "default, answered"}, "who answers to a name")


# What clients do, and the server that they do it with.
CONVERSATIONS = {
    "postgres": protocols_programs.postgres, "redis": protocols_programs.redis, "mariadb": protocols_programs.mariadb, "smtp": protocols_programs.smtp,
    "ssh": protocols_programs.ssh, "grpc": protocols_programs.grpc_through, "tls-default": tls_by_name,
}


@dataclasses.dataclass
class At:
    """Where a conversation takes place, as the programs of protocols_programs.py are told."""

    name: str
    address: str
    port: int
    key: str
    programs: protocols_servers.Running


# --- the bootstrap


def chains(direction, folder, passing):
    """By server name to the server of that name, else to where the connection was going. `passing`: the cluster of either family."""
    found = []
    for version in (4, 6):
        family = {"prefix_ranges": [{"address_prefix": capture.ANY[version], "prefix_len": 0}]}
        for name in NAMED:
            own = f"{direction}-{name}-{version}"
            found.append(capture.chain(own, own, folder, {"server_names": [f"{name}.example"], **family}))
        found.append(capture.chain(f"{direction}-passthrough-{version}", passing[version], folder, family))
    return found


def listener(name, port, direction, chains):
    filters = [typed("original_dst", "filters.listener.original_dst.v3.OriginalDst"), typed("tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector")]
    return capture.virtual(name, port, direction, chains, listener_filters=filters, listener_filters_timeout=f"{FIRST_BYTES_S}s",
                           continue_on_listener_filters_timeout=True)


def clusters():
    mark = {"level": socket.SOL_SOCKET, "name": socket.SO_MARK, "int_value": capture.MARK}
    found = [capture.passing("Passthrough", socket_options=[mark])]
    for version in (4, 6):
        source = {"address": capture.INBOUND_SOURCE[version], "port_value": 0}
        found.append(capture.passing(f"InboundPassthrough{version}", source_address=source))
        for direction, addresses in (("out", capture.WORLD), ("in", capture.POD)):
            found += [capture.fixed(f"{direction}-{name}-{version}", addresses[version], PORTS[f"tls-{name}"]) for name in NAMED]
    return found


def bootstrap(folder):
    out = chains("out", folder, {4: "Passthrough", 6: "Passthrough"})
    into = chains("in", folder, {4: "InboundPassthrough4", 6: "InboundPassthrough6"})
    listeners = [listener("virtualOutbound", capture.OUTBOUND, "OUTBOUND", out), listener("virtualInbound", capture.INBOUND, "INBOUND", into)]
    path = folder / "bootstrap.json"
    path.write_text(json.dumps({
        "admin": {"address": capture.place("127.0.0.1", capture.ADMIN)}, "static_resources": {"listeners": listeners, "clusters": clusters()}}))
    return path


# --- who speaks


def serve(pod, world, stack):
    """All servers in either network, on its addresses of both families, by the name of the network."""
    starting = {
        place.name: place.pool.submit(stack.enter_context, protocols_servers.started(PORTS, tuple(place.addresses.values()))) for place in (pod, world)}
    # Whoever has started is ended, though another fails.
    concurrent.futures.wait(starting.values())
    return {name: each.result() for name, each in starting.items()}


def talk(here, there, programs, label):
    """Every client's conversation with its server in the other network: all at once, over IPv4 and then over IPv6. Threads are in the network of the
    one that starts them, and so are their programs."""

    def one(name, version):
        at = At(name, there.addresses[version], PORTS[name], f"{label}-{version}", programs)
        try:
            CONVERSATIONS[name](at)
        except (rig.Failed, OSError, EOFError) as error:
            raise rig.Failed(f"{label}, from the {here.name}, IPv{version}, {name}: {error or repr(error)}") from None

    with concurrent.futures.ThreadPoolExecutor(len(CONVERSATIONS)) as pool:
        for version in (4, 6):
            list(pool.map(lambda name: one(name, version), CONVERSATIONS))  # noqa: B023


def captured(label):
    """Every chain had its connections, and they have ended: nobody went past the proxy."""
    rig.wait_for(lambda: not any(value for name, value in capture.counted().items() if name.endswith("_cx_active")), f"{label}: all connections to end")
    found = capture.stats()
    least = {"passthrough": len(CONVERSATIONS), **{name: 1 for name in NAMED}}
    for direction in ("out", "in"):
        for version in (4, 6):
            for chain, wanted in least.items():
                name = f"tcp.{direction}-{chain}-{version}.downstream_cx_total"
                if found.get(name, 0) < wanted:
                    raise rig.Failed(f"{label}: {name} is {found.get(name, 0)}, less than {wanted}")


def through(argv, label, pod, world, programs):
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        # The group that the rules leave alone writes its log here.
        folder.chmod(0o777)
        setpriv = rig.binary("RINGWAY_SETPRIV", "setpriv")
        with rig.Process([setpriv, "--regid", capture.GROUP, "--clear-groups", *argv, "-c", bootstrap(folder)], capture.ADMIN) as proxy:
            rig.wait_for(lambda: capture.stats().get("listener_manager.total_listeners_active") == 2, "both listeners")
            talks = [here.pool.submit(talk, here, there, programs[there.name], label) for here, there in ((pod, world), (world, pod))]
            concurrent.futures.wait(talks)
            proxy.check()
            for each in talks:
                each.result()
            captured(label)
    print(f"{label}: {len(CONVERSATIONS)} programs, out and in, IPv4 and IPv6, {time.monotonic() - begun:.0f} s")


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"])
    parser.add_argument("--proxy", choices=["ringway", "envoy"], default="ringway")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise rig.Failed("needs root")
    if len(socket.if_nameindex()) > 1:
        raise rig.Failed("needs a network of its own: unshare -n")
    flags = ["--concurrency", "2", "--disable-hot-restart", "-l", "error"]
    commands = {"envoy": [rig.envoy(), *flags]} if arguments.proxy == "envoy" else {
        backend: [rig.ringway(), *flags, "--io-backend", backend] for backend in arguments.backend or ["io_uring", "epoll"]}
    pod, world = capture.lay_networks()
    with contextlib.ExitStack() as stack:
        programs = serve(pod, world, stack)
        for label, argv in commands.items():
            through(argv, label, pod, world, programs)


if __name__ == "__main__":
    rig.main(run)
