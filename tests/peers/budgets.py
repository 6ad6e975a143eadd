"""Budgets of the release build: resident memory idle, per idle connection, under TLS and relayed too, per cluster and route, after bursts; that the ledger adds up; the size of the binary.

    python3 tests/peers/budgets.py

One route, each back end. An idle connection is a keep-alive connection that has carried one request.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import resource
import socket
import ssl
import struct
import subprocess
import tempfile
import urllib.request

import crowd
import rig

IDLE_KB_MAX = 6 * 1024  # resident, one route and two workers
CONNECTION_KB_MAX = 1.3  # resident, each of the first CONNECTIONS idle ones
CONNECTIONS = 2000
# The same under TLS, by what the client and the proxy agree on. Of the first more than half is rustls' and AWS-LC's.
TLS_CONNECTION_KB_MAX = {"http/1.1": 4.9, "h2": 31.0}
RELAYED_KB_MAX = 1.55  # resident, each of the first CONNECTIONS idle ones of the TCP proxy: two sockets each
PAIR_KB_MAX = 2.0  # resident, each of PAIRS virtual hosts with a route and a cluster of their own
PAIRS = 5000
CONTRACT_KB_MAX = 10_000  # resident, four workers and CONTRACT_CONNECTIONS idle ones
CONTRACT_CONNECTIONS = 1000
BURST = 5000  # connections at once, and as many to the upstream
AFTER_BURST_MAX = 1.10  # resident at rest after a burst, over what it was before
WARM_UP = 100  # connections before, at once, of each kind
REST_S = 15  # within so many seconds
SETTLED_S = 30  # a sample takes long on a busy machine
LEDGER_OFF_MAX = 0.10  # of resident memory that the lines may be off
BINARY_MB_MAX = 25  # with symbols

# Idle connections to the upstream go soon after a burst.
SHORT_IDLE = """    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        common_http_protocol_options: {idle_timeout: 1s}
        explicit_http_config: {http_protocol_options: {}}
"""

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

# The filters of the listener, relayed.
TCP_PROXY = """\
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: one
"""

# The chain of the listener, under TLS.
TLS = """\
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{certificate_chain: {filename: @folder@/cert.pem}, private_key: {filename: @folder@/key.pem}}]
      filters:
"""


def memory_kb(pid, field):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        return int(re.search(rf"^{field}: +(\d+) kB", rollup.read(), re.MULTILINE)[1])


def settled_kb(pid, samples=20):
    """Resident memory once so many samples in a row, 10 ms apart, were the same."""
    last = []

    def steady():
        last.append(memory_kb(pid, "Rss"))
        return len(last) >= samples and len(set(last[-samples:])) == 1

    rig.wait_for(steady, "resident memory to settle", SETTLED_S)
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
            argv = [rig.ringway(), "--disable-hot-restart", "-c", file.name, "--concurrency", "2", "-l", "error"]
            with rig.Process(argv, ready_port=port) as proxy:
                resident.append(settled_kb(proxy.pid))
    each = (resident[1] - resident[0]) / PAIRS
    print(f"each of {PAIRS} virtual hosts, routes and clusters: {each:.2f} kB")
    return [f"{each:.2f} kB per virtual host, route and cluster, more than {PAIR_KB_MAX}"] if each > PAIR_KB_MAX else []


def exchange(connection):
    connection.sendall(crowd.GET)
    message = rig.Reader(connection).message(is_response=True)
    if message.status != 200:
        raise rig.Failed(f"answered {message.start_line}")


class Proxy(rig.Process):
    """Ringway in front of `upstream`; with TLS, by a folder's certificate, if there is one; `relays`: it looks at no byte."""

    def __init__(self, backend, workers, upstream, certificate=None, relays=False):
        self.port, self.admin = rig.free_ports(2)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            text = BOOTSTRAP.replace("@http@", str(self.port)).replace("@one@", str(upstream.port))
            text = text.replace("    connect_timeout: 1s\n", SHORT_IDLE)
            if relays:
                head, _, rest = text.partition("    - filters:\n")
                text = f"{head}    - filters:\n{TCP_PROXY}  clusters:{rest.partition('  clusters:')[2]}"
            if certificate:
                text = text.replace("    - filters:\n", TLS.replace("@folder@", str(certificate)))
            file.write(f"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {self.admin}}}}}}}\n{text}")
            file.flush()
            argv = [rig.ringway(), "--disable-hot-restart", "-c", file.name, "--concurrency", str(workers), "--io-backend", backend, "-l", "error"]
            super().__init__(argv, ready_port=self.port)

    def warm_up(self):
        """The path's code and first chunks are not the connections' own, nor is the admin endpoint's code."""
        self.ledger()
        for request in (crowd.GET, crowd.UPLOAD, crowd.DOWNLOAD):
            with crowd.clients(self.port, WARM_UP, request):
                pass

    def ledger(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/memory?ledger", timeout=rig.DEADLINE_S) as answer:
            return json.load(answer)["ledger"]


def lines(ledger):
    """All lines of a ledger but the total and what nobody knows."""
    for name, value in ledger.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{part}", bytes_) for part, bytes_ in value.items())
        elif name not in ("resident", "unaccounted"):
            yield name, value


def ledger_failures(proxy, what):
    ledger = proxy.ledger()
    resident = memory_kb(proxy.pid, "Rss") * 1024
    known = sum(bytes_ for _, bytes_ in lines(ledger))
    print(f"  ledger {what}: {known / 1024:.0f} of {resident / 1024:.0f} kB: " + ", ".join(f"{name} {bytes_ / 1024:.0f}" for name, bytes_ in lines(ledger)))
    failures = []
    if abs(known - resident) > LEDGER_OFF_MAX * resident:
        failures.append(f"ledger {what}: {known} bytes are known, {resident} resident")
    # An unknown heap would be taken for free pages.
    if not 0 < ledger["heap"]["free_and_overhead"] < resident / 2:
        failures.append(f"ledger {what}: {ledger['heap']['free_and_overhead']} bytes of the heap are free or overhead")
    return failures


def measure(backend, upstream):
    """Idle, and each idle connection."""
    with Proxy(backend, 2, upstream) as proxy, contextlib.ExitStack() as open_connections:
        idle = settled_kb(proxy.pid)
        private = memory_kb(proxy.pid, "Private_Dirty")
        proxy.warm_up()
        before = settled_kb(proxy.pid, 250)
        for _ in range(CONNECTIONS):
            exchange(open_connections.enter_context(socket.create_connection(("127.0.0.1", proxy.port))))
        each = (settled_kb(proxy.pid) - before) / CONNECTIONS
    print(f"{backend}: idle {idle} kB resident ({private} kB private and dirty), {each:.2f} kB for each of {CONNECTIONS} idle connections")
    failures = []
    if idle > IDLE_KB_MAX:
        failures.append(f"{backend}: idle memory {idle} kB, more than {IDLE_KB_MAX}")
    if each > CONNECTION_KB_MAX:
        failures.append(f"{backend}: {each:.2f} kB per idle connection, more than {CONNECTION_KB_MAX}")
    return failures


def exchange_http2(connection):
    """A GET as raw frames, up to the end of its stream."""
    request = bytes([0x82, 0x87, 0x84, 0x41, 1]) + b"a"
    frames = (4, 0, 0, b""), (1, 5, 1, request)
    head = [struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload for kind, flags, stream, payload in frames]
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"".join(head))
    reader = rig.Reader(connection)
    ended = acknowledged = False
    while not (ended and acknowledged):
        length, kind, flags, stream = struct.unpack(">IBBI", b"\0" + reader.exactly(9))
        payload = reader.exactly(length)
        # :status 200 is the first field, by index.
        if kind == 1 and payload[:1] != b"\x88":
            raise rig.Failed(f"answered {payload!r}")
        if kind in (3, 7):
            raise rig.Failed(f"broken off: {payload!r}")
        if kind == 4 and not flags:
            connection.sendall(b"\0\0\0\4\1\0\0\0\0")
            acknowledged = True
        ended |= stream == 1 and bool(flags & 1)


def measure_tls(backend, upstream):
    """Each idle connection under TLS, of either protocol, after one request."""
    failures = []
    for protocol, limit in TLS_CONNECTION_KB_MAX.items():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([protocol])

        def connect(stack, port):
            secure = stack.enter_context(context.wrap_socket(socket.create_connection(("127.0.0.1", port))))
            if secure.selected_alpn_protocol() != protocol:
                raise rig.Failed(f"agreed on {secure.selected_alpn_protocol()}")
            (exchange if protocol == "http/1.1" else exchange_http2)(secure)

        with tempfile.TemporaryDirectory() as folder:
            make = [rig.binary("RINGWAY_OPENSSL", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-subj", "/CN=budget.test", "-days", "2", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
            subprocess.run(make, check=True, capture_output=True)
            with Proxy(backend, 2, upstream, pathlib.Path(folder)) as proxy, contextlib.ExitStack() as open_connections:
                with contextlib.ExitStack() as closed:
                    for _ in range(WARM_UP):
                        connect(closed, proxy.port)
                before = settled_kb(proxy.pid, 250)
                for _ in range(CONNECTIONS):
                    connect(open_connections, proxy.port)
                each = (settled_kb(proxy.pid, 250) - before) / CONNECTIONS
        print(f"{backend}: {each:.2f} kB for each of {CONNECTIONS} idle connections under TLS, {protocol}")
        if each > limit:
            failures.append(f"{backend}: {each:.2f} kB per idle connection under TLS, {protocol}, more than {limit}")
    return failures


def measure_relayed(backend, upstream):
    """Each idle connection that is relayed, once it has carried bytes both ways."""
    with Proxy(backend, 2, upstream, relays=True) as proxy, contextlib.ExitStack() as open_connections:
        proxy.warm_up()
        before = settled_kb(proxy.pid, 250)
        for _ in range(CONNECTIONS):
            exchange(open_connections.enter_context(socket.create_connection(("127.0.0.1", proxy.port))))
        each = (settled_kb(proxy.pid, 250) - before) / CONNECTIONS
        failures = ledger_failures(proxy, f"with {CONNECTIONS} relayed connections")
    print(f"{backend}: {each:.2f} kB for each of {CONNECTIONS} idle connections that are relayed")
    if each > RELAYED_KB_MAX:
        failures.append(f"{each:.2f} kB per idle connection that is relayed, more than {RELAYED_KB_MAX}")
    return [f"{backend}: {failure}" for failure in failures]


def measure_contract(backend, upstream):
    """Four workers with a thousand idle connections."""
    with Proxy(backend, 4, upstream) as proxy, contextlib.ExitStack() as open_connections:
        for _ in range(CONTRACT_CONNECTIONS):
            exchange(open_connections.enter_context(socket.create_connection(("127.0.0.1", proxy.port))))
        resident = settled_kb(proxy.pid, 250)
        failures = ledger_failures(proxy, "with idle connections")
    print(f"{backend}: {resident} kB resident with 4 workers and {CONTRACT_CONNECTIONS} idle connections")
    if resident > CONTRACT_KB_MAX:
        failures.append(f"{resident} kB with {CONTRACT_CONNECTIONS} idle connections, more than {CONTRACT_KB_MAX}")
    return [f"{backend}: {failure}" for failure in failures]


def measure_bursts(backend, upstream):
    """What bursts leave behind. The upstream's connections go a second after they were last used."""
    failures = []
    with Proxy(backend, 2, upstream) as proxy:
        proxy.warm_up()
        idle = settled_kb(proxy.pid, 250)
        failures += ledger_failures(proxy, "at rest")
        allowed = idle * AFTER_BURST_MAX
        for what, request in (("idle", crowd.GET), ("uploading", crowd.UPLOAD), ("downloading", crowd.DOWNLOAD)):
            with crowd.clients(proxy.port, BURST, request):
                most = memory_kb(proxy.pid, "Rss")
                if request == crowd.GET:
                    # What the workers report follows a second later.
                    settled_kb(proxy.pid, 250)
                    failures += ledger_failures(proxy, f"with {BURST} idle connections")
            with contextlib.suppress(rig.Failed):
                rig.wait_for(lambda: memory_kb(proxy.pid, "Rss") <= allowed, "memory to be given back", REST_S)
            after = memory_kb(proxy.pid, "Rss")
            print(f"{backend}: {idle} kB at rest, {most} with {BURST} connections {what}, {after} when they are gone ({after / idle:.3f} x)")
            if after > allowed:
                failures.append(f"{after} kB at rest after {BURST} connections {what}, {idle} before")
        failures += ledger_failures(proxy, "after the bursts")
    return [f"{backend}: {failure}" for failure in failures]


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * BURST + 1000), hard))
    size = os.path.getsize(rig.ringway()) / 1e6
    print(f"binary: {size:.1f} MB on disk")
    failures = [f"binary: {size:.1f} MB, more than {BINARY_MB_MAX}"] if size > BINARY_MB_MAX else []
    with crowd.Upstream() as upstream:
        for backend in parser.parse_args().backend or ["io_uring", "epoll"]:
            for measured in (measure, measure_tls, measure_relayed, measure_contract, measure_bursts):
                failures += measured(backend, upstream)
    failures += measure_pairs()
    if failures:
        raise rig.Failed("\n".join(failures))


if __name__ == "__main__":
    rig.main(run)
