"""Connections that the kernel leads to Ringway, in a network namespace of the test's own: `original_dst` knows where they were going, and with
`original_src` endpoints see the client's address.

    sudo unshare -n python3 tests/peers/transparent.py [--backend io_uring|epoll]...   # default: both

nftables redirects (REDIRECT) and leads to a transparent socket (TPROXY), for IPv4 and IPv6. Needs root, nft and ip.
"""

import argparse
import contextlib
import os
import pathlib
import socket
import subprocess
import tempfile
import threading

import rig

FILTER = "type.googleapis.com/envoy.extensions.filters.listener"
# Addresses of nobody: only the rules lead anywhere.
SOMEBODY = {socket.AF_INET: "192.0.2.9", socket.AF_INET6: "2001:db8::9"}
NOWHERE = {socket.AF_INET: "192.0.2.7", socket.AF_INET6: "2001:db8::7"}
REDIRECTED, TRANSPARENT, PLAIN = 8080, 8443, 7000
ENDPOINT = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "fd00::1"}
LOCAL = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def command(*argv, data=None):
    done = subprocess.run(argv, input=data, capture_output=True, text=True)
    if done.returncode:
        raise rig.Failed(f"{' '.join(argv)}: {done.stderr.strip()}")


def lay_network(ports):
    """The loopback, addresses of nobody behind it, and the rules."""
    ip, nft = rig.binary("IP", "ip", "/usr/sbin/ip"), rig.binary("NFT", "nft", "/usr/sbin/nft")
    command(ip, "link", "set", "lo", "up")
    # Who asks for addresses of nobody comes from here.
    command(ip, "address", "add", "198.51.100.1/32", "dev", "lo")
    command(ip, "address", "add", f"{ENDPOINT[socket.AF_INET6]}/128", "dev", "lo", "nodad")
    for version, address in (("-4", "192.0.2.0/24"), ("-6", "2001:db8::/32")):
        command(ip, version, "route", "replace", "local", address, "dev", "lo", "table", "100")
        command(ip, version, "rule", "add", "fwmark", "1", "lookup", "100")
        command(ip, version, "route", "replace", address, "dev", "lo")
    tproxy = "\n".join(
        f"    meta mark 1 {version} daddr {address} tcp dport {TRANSPARENT} tproxy {version} to {to}:{ports['transparent' + suffix]}"
        for version, address, to, suffix in (("ip", "192.0.2.0/24", "127.0.0.1", "4"), ("ip6", "2001:db8::/32", "[::1]", "6"))
    )
    command(nft, "-f", "-", data=f"""
table inet test {{
  chain redirected {{
    type nat hook output priority -100;
    meta nfproto ipv4 tcp dport {REDIRECTED} redirect to :{ports['redirected4']}
    meta nfproto ipv6 tcp dport {REDIRECTED} redirect to :{ports['redirected6']}
  }}
  chain marked {{
    type route hook output priority -150;
    tcp dport {TRANSPARENT} meta mark set 1
    ip daddr {SOMEBODY[socket.AF_INET]} meta mark set 1
    ip6 daddr {SOMEBODY[socket.AF_INET6]} meta mark set 1
  }}
  chain led {{
    type filter hook prerouting priority -150;
{tproxy}
  }}
}}
""")


def listener(name, family, port):
    transparent = "transparent: true" if name.startswith("transparent") else ""
    return f"""
  - name: {name}
    stat_prefix: {name}
    address: {{socket_address: {{address: "{LOCAL[family]}", port_value: {port}}}}}
    {transparent}
    listener_filters: [{{name: original_dst, typed_config: {{"@type": {FILTER}.original_dst.v3.OriginalDst}}}}]
    filter_chains:
    - filters: [{{name: hcm, typed_config: {{
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
        stat_prefix: {name},
        route_config: {{
          response_headers_to_add: [
            {{header: {{key: x-local, value: "%DOWNSTREAM_LOCAL_ADDRESS%"}}}},
            {{header: {{key: x-direct, value: "%DOWNSTREAM_DIRECT_LOCAL_ADDRESS%"}}}}],
          virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200}}}}]}}]}},
        http_filters: [{{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]"""


class Endpoint:
    """Answers each request with its peer's address."""

    def __init__(self, family):
        self.socket = socket.create_server((ENDPOINT[family], 0), family=family)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            peer, address = self.socket.accept()
            with peer, contextlib.suppress(OSError, EOFError):
                peer.settimeout(rig.DEADLINE_S)
                rig.Reader(peer).message()
                text = address[0].encode()
                peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


def seen_by_endpoint(family, port, client):
    """What an endpoint says of a connection that is made for a client."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(rig.DEADLINE_S)
        sock.connect((LOCAL[family], port))
        version = 4 if family == socket.AF_INET else 6
        sock.sendall(f"PROXY TCP{version} {client} {LOCAL[family]} 1000 2000\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        return rig.Reader(sock).message(is_response=True).body.decode()


def spoofing(name, family, port, endpoint):
    filters = ", ".join(
        f'{{name: {kind}, typed_config: {{"@type": {FILTER}.{kind}.v3.{message}{more}}}}}'
        for kind, message, more in (("proxy_protocol", "ProxyProtocol", ""), ("original_src", "OriginalSrc", ", mark: 7"))
    )
    return f"""
  - name: {name}
    stat_prefix: {name}
    address: {{socket_address: {{address: "{LOCAL[family]}", port_value: {port}}}}}
    listener_filters: [{filters}]
    filter_chains:
    - filters: [{{name: hcm, typed_config: {{
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
        stat_prefix: {name},
        route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: {name}}}}}]}}]}},
        http_filters: [{{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]""", f"""
  - name: {name}
    load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: "{ENDPOINT[family]}", port_value: {endpoint}}}}}}}}}]}}]}}"""


def ask(family, address, port):
    """Where the proxy says that a connection was going, and where it came."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(rig.DEADLINE_S)
        client.connect((address, port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        message = rig.Reader(client).message(is_response=True)
    return message.values("x-local"), message.values("x-direct")


def listens(family, port):
    with socket.socket(family, socket.SOCK_STREAM) as client, contextlib.suppress(OSError):
        client.connect((LOCAL[family], port))
        return True
    return False


def shown(family, address, port):
    return f"[{address}]:{port}" if family == socket.AF_INET6 else f"{address}:{port}"


def check(argv, ports, admin):
    families = {"4": socket.AF_INET, "6": socket.AF_INET6}
    endpoints = {suffix: Endpoint(family) for suffix, family in families.items()}
    spoofed = [spoofing(f"spoofing{suffix}", family, ports[f"spoofing{suffix}"], endpoints[suffix].port) for suffix, family in families.items()]
    with tempfile.TemporaryDirectory() as folder:
        bootstrap = pathlib.Path(folder) / "bootstrap.yaml"
        bootstrap.write_text(
            f"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}\nstatic_resources:\n  listeners:"
            + "".join(listener(name, families[name[-1]], port) for name, port in ports.items() if not name.startswith("spoofing"))
            + "".join(listeners for listeners, _ in spoofed)
            + "\n  clusters:"
            + "".join(clusters for _, clusters in spoofed)
        )
        with rig.Process([*argv, "-c", bootstrap], admin):
            for name, port in ports.items():
                rig.wait_for(lambda: listens(families[name[-1]], port), f"{name} to listen")
            for suffix, family in families.items():
                nowhere, local = NOWHERE[family], LOCAL[family]
                redirected, transparent = ports["redirected" + suffix], ports["transparent" + suffix]
                for case, address, port, meant, direct in (
                    ("redirected", nowhere, REDIRECTED, shown(family, nowhere, REDIRECTED), shown(family, local, redirected)),
                    ("transparent", nowhere, TRANSPARENT, shown(family, nowhere, TRANSPARENT), shown(family, local, transparent)),
                    ("not led here", local, redirected, shown(family, local, redirected), shown(family, local, redirected)),
                ):
                    found = ask(family, address, port)
                    if found != ([meant], [direct]):
                        raise rig.Failed(f"{argv[0]}: IPv{suffix}, {case}: {found}, not {meant}, {direct}")
                found = seen_by_endpoint(family, ports["spoofing" + suffix], SOMEBODY[family])
                if found != SOMEBODY[family]:
                    raise rig.Failed(f"{argv[0]}: IPv{suffix}: the endpoint sees {found!r}")


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"])
    backends = parser.parse_args().backend or ["io_uring", "epoll"]
    if os.geteuid() != 0:
        raise rig.Failed("needs root")
    if len(socket.if_nameindex()) > 1:
        raise rig.Failed("needs a network of its own: unshare -n")
    names = ("redirected4", "redirected6", "transparent4", "transparent6", "spoofing4", "spoofing6")
    ports = dict(zip(names, range(PLAIN, PLAIN + len(names))))
    admin = PLAIN + len(names)
    lay_network(ports)
    # What the test expects is Envoy's.
    check([rig.envoy(), "--concurrency", "1", "--disable-hot-restart", "-l", "error"], ports, admin)
    print("envoy: as expected")
    for backend in backends:
        check([rig.ringway(), "--concurrency", "1", "--disable-hot-restart", "--io-backend", backend, "-l", "warning"], ports, admin)
        print(f"{backend}: destinations restored for IPv4 and IPv6, redirected and transparent; endpoints see the client's address")


if __name__ == "__main__":
    rig.main(run)
