"""Budgets of the release build: resident memory when idle, per idle connection, per cluster and route, and the size of the binary.

    python3 tests/peers/budgets.py

One route, two workers, each back end. An idle connection is a keep-alive connection that has carried one request.
"""

import argparse
import contextlib
import os
import re
import resource
import socket
import tempfile

import rig
from upstream import Upstream

IDLE_KB_MAX = 6 * 1024  # resident, one route and two workers
CONNECTION_KB_MAX = 1.5  # resident, each of the first CONNECTIONS idle ones
CONNECTIONS = 2000
PAIR_KB_MAX = 6.5  # resident, each of PAIRS virtual hosts with a route and a cluster of their own
PAIRS = 5000
BINARY_MB_MAX = 25  # with symbols

BOOTSTRAP = """
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: @http@}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: one}}]}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: one
    connect_timeout: 1s
    load_assignment: {cluster_name: one, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @one@}}}}]}]}
"""


def memory_kb(pid, field):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        return int(re.search(rf"^{field}: +(\d+) kB", rollup.read(), re.MULTILINE)[1])


def settled_kb(pid):
    """Resident memory once it has stopped changing."""
    last = []

    def steady():
        last.append(memory_kb(pid, "Rss"))
        return len(last) >= 20 and len(set(last[-20:])) == 1

    rig.wait_for(steady, "resident memory to settle")
    return last[-1]


def pairs(port, count):
    """A bootstrap of so many virtual hosts, each with a route to a cluster of its own."""
    head, _, rest = BOOTSTRAP.partition("            virtual_hosts:")
    filters, _, cluster = rest[rest.index("\n") + 1 :].partition("  - name: one\n")
    hosts = "".join(
        f"            - {{name: v{n}, domains: [h{n}.test], routes: [{{match: {{prefix: /}}, route: {{cluster: c{n}}}}}]}}\n"
        for n in range(count)
    )
    clusters = "".join(("  - name: one\n" + cluster).replace("one\n", f"c{n}\n").replace(": one,", f": c{n},") for n in range(count))
    text = f"{head}            virtual_hosts:\n{hosts}{filters}{clusters}"
    return text.replace("@http@", str(port)).replace("@one@", "1")


def measure_pairs():
    """Resident memory of each of many clusters and routes that no request has asked for."""
    resident = []
    for count in (1, 1 + PAIRS):
        (port,) = rig.free_ports(1)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(pairs(port, count))
            file.flush()
            argv = [rig.ringway(), "-c", file.name, "--concurrency", "2", "-l", "error"]
            with rig.Process(argv, ready_port=port) as proxy:
                resident.append(settled_kb(proxy.pid))
    each = (resident[1] - resident[0]) / PAIRS
    print(f"each of {PAIRS} virtual hosts, routes and clusters: {each:.2f} kB")
    return [f"{each:.2f} kB per virtual host, route and cluster, more than {PAIR_KB_MAX}"] if each > PAIR_KB_MAX else []


def exchange(connection):
    connection.sendall(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n")
    message = rig.Reader(connection).message(is_response=True)
    if message.status != 200:
        raise rig.Failed(f"answered {message.start_line}")


def measure(backend):
    upstream = Upstream("one")
    (port,) = rig.free_ports(1)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(BOOTSTRAP.replace("@http@", str(port)).replace("@one@", str(upstream.port)))
        file.flush()
        argv = [rig.ringway(), "-c", file.name, "--concurrency", "2", "--io-backend", backend, "-l", "error"]
        with rig.Process(argv, ready_port=port) as proxy, contextlib.ExitStack() as open_connections:
            idle = settled_kb(proxy.pid)
            private = memory_kb(proxy.pid, "Private_Dirty")
            # The path's code and first chunks are not the connections' own.
            for _ in range(100):
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    exchange(connection)
            before = settled_kb(proxy.pid)
            for _ in range(CONNECTIONS):
                exchange(open_connections.enter_context(socket.create_connection(("127.0.0.1", port))))
            each = (settled_kb(proxy.pid) - before) / CONNECTIONS
    print(f"{backend}: idle {idle} kB resident ({private} kB private and dirty), {each:.2f} kB for each of {CONNECTIONS} idle connections")
    failures = []
    if idle > IDLE_KB_MAX:
        failures.append(f"{backend}: idle memory {idle} kB, more than {IDLE_KB_MAX}")
    if each > CONNECTION_KB_MAX:
        failures.append(f"{backend}: {each:.2f} kB per idle connection, more than {CONNECTION_KB_MAX}")
    return failures


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * CONNECTIONS + 1000), hard))
    size = os.path.getsize(rig.ringway()) / 1e6
    print(f"binary: {size:.1f} MB on disk")
    failures = [f"binary: {size:.1f} MB, more than {BINARY_MB_MAX}"] if size > BINARY_MB_MAX else []
    for backend in parser.parse_args().backend or ["io_uring", "epoll"]:
        failures += measure(backend)
    failures += measure_pairs()
    if failures:
        raise rig.Failed("\n".join(failures))


if __name__ == "__main__":
    rig.main(run)
