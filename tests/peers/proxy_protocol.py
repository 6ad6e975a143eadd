"""PROXY headers good and bad through Envoy and through Ringway: the same connections are served, with the same addresses; the same is counted;
and endpoints are told the same.

    python3 tests/peers/proxy_protocol.py [--backend io_uring|epoll]...   # default: both

Answers name the addresses that the proxy believes in. What has a port of the client's own choosing is compared without it.
"""

import argparse
import contextlib
import pathlib
import random
import re
import socket
import struct
import tempfile
import threading
import urllib.request

import rig

SEED = 1
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
INET = bytes([1, 2, 3, 4, 5, 6, 7, 8]) + struct.pack(">HH", 1000, 2000)
INET6 = bytes(range(1, 33)) + struct.pack(">HH", 1000, 2000)
FILTER = "type.googleapis.com/envoy.extensions.filters.listener"
LISTENERS = {
    "strict": [("proxy_protocol", "ProxyProtocol", "rules: [{tlv_type: 234, on_tlv_present: {key: vpc}}], pass_through_tlvs: {}")],
    "lenient": [("proxy_protocol", "ProxyProtocol", "allow_requests_without_proxy_protocol: true, stat_prefix: lenient")],
    "stated": [("proxy_protocol", "ProxyProtocol", "rules: [{tlv_type: 234, on_tlv_present: {key: vpc}}], tlv_location: FILTER_STATE, stat_prefix: stated")],
    "second": [("proxy_protocol", "ProxyProtocol", "disallowed_versions: [V1], stat_prefix: second")],
    "either": [("proxy_protocol", "ProxyProtocol", "disallowed_versions: [V2], allow_requests_without_proxy_protocol: true, stat_prefix: either")],
    "untold": [("proxy_protocol", "ProxyProtocol", "allow_requests_without_proxy_protocol: true, stat_prefix: untold")],
    "inspected": [("proxy_protocol", "ProxyProtocol", "stat_prefix: inspected"), ("tls_inspector", "TlsInspector", ""), ("http_inspector", "HttpInspector", "")],
}
# Listeners that relay to the cluster v2 with TLVs of their own, by how these go together with those of a header.
RELAYS = {"absent": "ADD_IF_ABSENT", "overwritten": "OVERWRITE_BY_TYPE_IF_EXISTS_OR_ADD", "appended": "APPEND_IF_EXISTS_OR_ADD"}
OWN_TLVS = """[
          {type: 6, format_string: {text_format_source: {inline_string: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_HOST%"}}},
          {type: 234, value: b3du}, {type: 5, value: bmV2ZXI=}, {type: 6, value: b25l}]"""
# Clusters whose endpoint answers what their connections begin with.
CLUSTERS = {"v1": "version: V1", "v2": "version: V2, pass_through_tlvs: {}, added_tlvs: [{type: 5, value: b3du}]", "default": "",
            "host": "version: V2, pass_through_tlvs: {}, added_tlvs: [{type: 5, value: b3du}, {type: 6, value: b3du}]"}
# What the endpoint of the last of them has in its metadata.
HOST_TLVS = """, metadata: {typed_filter_metadata: {envoy.transport_sockets.proxy_protocol: {
      "@type": type.googleapis.com/envoy.config.core.v3.PerHostConfig, added_tlvs: [{type: 5, value: aG9zdA==}, {type: 8, value: aG9zdA==}]}}}"""
COUNTERS = r"^(proxy_proto\.|downstream_cx_proxy_proto_error|http_inspector\.|tls_inspector\.)"


def v2(command=0x21, family=0x11, body=INET, length=None):
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(body) if length is None else length) + body


def tlv(kind, value):
    return bytes([kind]) + struct.pack(">H", len(value)) + value


def line(text):
    return f"PROXY {text}\r\n".encode("latin1")


LINES = [
    "TCP4 1.2.3.4 5.6.7.8 1000 2000", "TCP6 1:2::3 5::6 1000 2000", "UNKNOWN", "UNKNOWN a b c d e f g", " TCP4 1.2.3.4 5.6.7.8 1 2",
    "TCP4 1.2.3.4  5.6.7.8 1 2", "TCP5 1.2.3.4 5.6.7.8 1 2", "TCP4 1.2.3.4 5.6.7.8 0 2", "TCP4 1.2.3.4 5.6.7.8 65536 2",
    "TCP4 1.2.3.4 5.6.7.8 0080 02", "TCP4 1.2.3.4 5.6.7.8 +80 2", "TCP4 1.2.3.4 5.6.7.8 -80 2", "TCP4 1.2.3.4 5.6.7.8 80",
    "TCP4 1.2.3.4 5.6.7.8 1 2 3", "TCP4 01.2.3.4 5.6.7.8 1 2", "TCP4 1::2 3::4 1 2", "TCP6 1.2.3.4 5.6.7.8 1 2",
    "TCP6 ::ffff:1.2.3.4 ::ffff:5.6.7.8 1 2", "TCP6 fe80::1%1 fe80::2 1 2", "TCP4 0.0.0.0 5.6.7.8 1 2", "TCP4 255.255.255.255 5.6.7.8 1 2",
    "TCP4 224.0.0.1 5.6.7.8 1 2", "TCP4 1.2.3.4 0.0.0.0 1 2", "TCP6 :: 5::6 1 2", "TCP6 ff02::1 5::6 1 2", "TCP4 127.0.0.1 127.0.0.1 1 2",
    "TCP4 1.2.3.4 5.6.7.8 1 2 \t\v ", "TCP4 1.2.3.4 5.6.7.8 1\r 2", "TCP4 1.2.3.4 5.6.7.8 1 2\0", "UNKNOWN\t", "UNKNOWNX", "", "TCP4",
    "TCP4 1.2.3.4:5 5.6.7.8 1 2", "TCP6 [1::2] [3::4] 1 2", "TCP6 1::2%x 3::4 1 2", "tcp4 1.2.3.4 5.6.7.8 1 2", "TCP4 1.2.3 5.6.7.8 1 2",
    *("UNKNOWN " + "x" * (length - 16) for length in (107, 108, 109, 200, 3000)),
]
CASES = {
    **{f"v1 {text[:40]!r}": line(text) for text in LINES},
    "v1 ends in LF": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
    "v1 in lower case": b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1 behind a space": b" PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1 with a tab": b"PROXY\tTCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1 without more": b"PROXY\r\n",
    "none": b"", "an empty line": b"\r\n", "two empty lines": b"\r\n\r\n",
    "v2": v2(), "v2 of IPv6": v2(family=0x21, body=INET6), "v2 of datagrams": v2(family=0x12), "v2 unspecified": v2(family=0, body=b""),
    "v2 unspecified with addresses": v2(family=0), "v2 of no family": v2(family=1), "v2 of no transport": v2(family=0x10),
    "v2 of unix": v2(family=0x31, body=bytes(216)), "v2 of transport 3": v2(family=0x13), "v2 local": v2(command=0x20, family=0, body=b""),
    "v2 local with addresses": v2(command=0x20), "v2 local of unix": v2(command=0x20, family=0x31, body=b"\1" * 216),
    "v2 local with rubbish": v2(command=0x20, body=INET + b"\xea\0\5abc"), "v2 command 2": v2(command=0x22), "v2 version 1": v2(command=0x11),
    "v2 version 3": v2(command=0x31), "v2 too short": v2(length=11), "v2 one byte too long": v2(length=13),
    "v2 of IPv6 too short": v2(family=0x21), "v2 with a byte behind": v2(body=INET + b"\0"), "v2 with half a TLV": v2(body=INET + b"\xea\0"),
    "v2 with a TLV cut off": v2(body=INET + b"\xea\0\5abc"), "v2 with an empty TLV": v2(body=INET + tlv(234, b"")),
    "v2 with TLVs": v2(body=INET + tlv(234, b"vpc") + tlv(2, b"host")), "v2 with a TLV twice": v2(body=INET + tlv(234, b"a") + tlv(234, b"b")),
    "v2 with a wrong checksum": v2(body=INET + tlv(3, b"\1\2\3\4")), "v2 with a large TLV": v2(body=INET + tlv(4, bytes(60_000))),
    "v2 as large as can be": v2(body=INET + tlv(4, bytes(65_535 - 15))), "v2 from nowhere": v2(body=bytes(4) + INET[4:]),
    "v2 from a group": v2(body=bytes([224, 0, 0, 1]) + INET[4:]), "v2 to all": v2(body=INET[:4] + b"\xff" * 4 + INET[8:]),
    "v2 with ports 0": v2(body=INET[:8] + bytes(4)), "v2 of IPv6 from nowhere": v2(family=0x21, body=bytes(16) + INET6[16:]),
    "v2 of mapped addresses": v2(family=0x21, body=(bytes(10) + b"\xff\xff\1\2\3\4") * 2 + bytes([0, 1, 0, 2])),
    "v2 twice": v2() + v2(), "v1, then v2": line(LINES[0]) + v2(), "a wrong signature": SIGNATURE[:11] + b"x" + v2()[12:],
}


def from_port(number):
    return INET[:8] + struct.pack(">HH", number, 2000)


# Each from a port of its own: Envoy has clients of one address share connections, whatever their TLVs are.
PASSED = {
    "a line": line("TCP4 1.2.3.4 5.6.7.8 1 2"), "a line of IPv6": line("TCP6 1::2 3::4 2 3"), "nobody's line": line("UNKNOWN"), "v2": v2(body=from_port(3)),
    "v2 of IPv6": v2(family=0x21, body=INET6), "v2 with TLVs": v2(body=from_port(4) + tlv(234, b"vpc") + tlv(2, b"host")), "v2 local": CASES["v2 local"],
    "v2 with a TLV twice": v2(body=from_port(5) + tlv(234, b"a") + tlv(234, b"b")), "v2 with a TLV that is added": v2(body=from_port(6) + tlv(5, b"x") + tlv(6, b"y")),
}
# Not of the PROXY protocol: here texts of addresses have no zone, and a request begins at once.
DIFFERENT = re.compile(r"fe80::1%1|^two empty lines$")


def config(ports, relays, admin, endpoint):
    """One bootstrap for both."""
    def one(name, port):
        filters = ", ".join(
            f'{{name: {kind}, typed_config: {{"@type": {FILTER}.{kind}.v3.{message}{", " + more if more else ""}}}}}'
            for kind, message, more in LISTENERS[name]
        )
        routes = "".join(f"{{match: {{prefix: /{cluster}}}, route: {{cluster: {cluster}}}}}, " for cluster in CLUSTERS)
        return f"""
  - name: {name}
    stat_prefix: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    listener_filters: [{filters}]
    filter_chains:
    - filters: [{{name: hcm, typed_config: {{
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
        stat_prefix: {name}, use_remote_address: true, delayed_close_timeout: 0.1s, add_proxy_protocol_connection_state: {str(name != "untold").lower()},
        route_config: {{
          response_headers_to_add: [
            {{header: {{key: x-remote, value: "%DOWNSTREAM_REMOTE_ADDRESS%"}}}},
            {{header: {{key: x-direct, value: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}}}},
            {{header: {{key: x-local, value: "%DOWNSTREAM_LOCAL_ADDRESS%"}}}},
            {{header: {{key: x-direct-local, value: "%DOWNSTREAM_DIRECT_LOCAL_ADDRESS%"}}}},
            {{header: {{key: x-forwarded, value: "%REQ(X-FORWARDED-FOR)%"}}}},
            {{header: {{key: x-stated, value: "%FILTER_STATE(envoy.network.proxy_protocol.tlv:FIELD:vpc)%"}}}},
            {{header: {{key: x-noted, value: "%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:vpc)%"}}}}],
          virtual_hosts: [{{name: all, domains: ["*"], routes: [{routes}{{match: {{prefix: /}}, direct_response: {{status: 200}}}}]}}]}},
        http_filters: [{{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]"""

    def relay(name, port):
        return f"""
  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    listener_filters: [{{name: proxy, typed_config: {{"@type": {FILTER}.proxy_protocol.v3.ProxyProtocol, allow_requests_without_proxy_protocol: true, pass_through_tlvs: {{}}}}}}]
    filter_chains:
    - filters: [{{name: relay, typed_config: {{
        "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy,
        stat_prefix: {name}, cluster: v2, proxy_protocol_tlv_merge_policy: {RELAYS[name]}, proxy_protocol_tlvs: {OWN_TLVS}}}}}]"""

    def cluster(name):
        return f"""
  - name: {name}
    load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {endpoint}}}}}}}{HOST_TLVS if name == "host" else ""}}}]}}]}}
    transport_socket:
      name: proxy
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport
        config: {{{CLUSTERS[name]}}}
        transport_socket: {{name: raw, typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}}"""

    return (
        f"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}\nstatic_resources:\n  listeners:"
        + "".join(one(name, port) for name, port in ports.items())
        + "".join(relay(name, port) for name, port in relays.items())
        + "\n  clusters:"
        + "".join(cluster(name) for name in CLUSTERS)
    )


class Endpoint:
    """Answers each request with what its connection began with, in hexadecimal digits."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.socket.accept()[0],), daemon=True).start()

    def serve(self, peer):
        with peer, contextlib.suppress(OSError, EOFError):
            reader = rig.Reader(peer)
            start = reader.exactly(5)
            if start == b"PROXY":
                header = start + reader.until(b"\r\n") + b"\r\n"
            else:
                start += reader.exactly(11)
                header = start + reader.exactly(struct.unpack(">H", start[14:])[0])
            while True:
                request = reader.message()
                body = header.hex().encode()
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                if "close" in request.values("connection"):
                    # Relayed: the client waits for the end.
                    return


def ask(port, header, pieces, path="/x"):
    """What comes of a header and a request: addresses, or how it ended."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(rig.DEADLINE_S)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = header + f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
        answer = b""
        own = client.getsockname()[1]
        with contextlib.suppress(ConnectionError):
            for piece in pieces(request):
                client.sendall(piece)
            while part := client.recv(65536):
                answer += part
    if not answer:
        return ("closed",)
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin1").split("\r\n")
    # The client's port is its own, and the listener's the proxy's.
    texts = [status, *sorted(field for field in fields if field.lower().startswith("x-") and "envoy" not in field.lower()), body.decode("latin1")]
    told = struct.pack(">H", own).hex(), struct.pack(">H", port).hex(), str(own).encode().hex(), str(port).encode().hex()
    for number, name in ((f":{own}", ":CLIENT"), (f":{port}", ":LISTENER"), (told[2], "CLIENT"), (told[3], "LISTENER"), (told[0] + told[1], "PORTS")):
        texts = [text.replace(number, name) for text in texts]
    return tuple(texts)


def counters(admin):
    text = urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats", timeout=rig.DEADLINE_S).read().decode()
    found = {}
    for entry in text.splitlines():
        name, _, value = entry.partition(": ")
        if re.match(COUNTERS, name) and value.isdigit():
            found[name] = int(value)
    return found


def whole(data):
    return [data]


def cut_somewhere(seed):
    def cut(data):
        rng = random.Random(seed)
        places = sorted({0, len(data), *(rng.randrange(len(data)) for _ in range(4))})
        return [data[first:last] for first, last in zip(places, places[1:])]
    return cut


def results(argv, bootstrap, ports, relays, admin):
    with rig.Process(argv + ["-c", bootstrap], admin):
        for name, port in (ports | relays).items():
            rig.wait_for(lambda: rig.accepts(port), f"{name} to listen")
        found = {(name, case): ask(port, header, whole) for name, port in ports.items() for case, header in CASES.items()}
        for cluster in CLUSTERS:
            for case, header in PASSED.items():
                found[cluster, case] = ask(ports["strict"], header, whole, f"/{cluster}")
        # Without a client version 1 names the connection's own ends, whose port is of the proxy's choosing.
        for cluster, case, header in [("v1", "a line", PASSED["a line"]), ("v2", "a line", PASSED["a line"]), ("v2", "no header", b"")]:
            found[f"{cluster} untold", case] = ask(ports["untold"], header, whole, f"/{cluster}")
        for name, port in relays.items():
            for case, header in (PASSED | {"no header": b""}).items():
                found[name, case] = ask(port, header, whole)
        # Where a header is cut decides which mistake is seen first: what is counted is compared without.
        counted = counters(admin)
        for name, port in ports.items():
            for case, header in CASES.items():
                cut = ask(port, header, cut_somewhere(f"{SEED} {case}"))
                if cut != found[name, case]:
                    raise rig.Failed(f"{argv[0]}: {name}, {case}: {found[name, case]}, and in pieces {cut}")
        return found, counted


def run_backend(backend):
    names = [*LISTENERS, *RELAYS]
    endpoint = Endpoint()
    proxies = {
        "envoy": [rig.envoy(), "--concurrency", "1", "--disable-hot-restart", "-l", "error"],
        "ringway": [rig.ringway(), "--concurrency", "1", "--disable-hot-restart", "--io-backend", backend, "-l", "warning"],
    }
    seen = {}
    for proxy, argv in proxies.items():
        admin, *numbers = rig.free_ports(1 + len(names))
        ports = dict(zip(names, numbers))
        relays = {name: ports.pop(name) for name in RELAYS}
        with tempfile.TemporaryDirectory() as folder:
            bootstrap = pathlib.Path(folder) / "bootstrap.yaml"
            bootstrap.write_text(config(ports, relays, admin, endpoint.port))
            seen[proxy] = results(argv, bootstrap, ports, relays, admin)
    (theirs, their_counts), (ours, our_counts) = seen["envoy"], seen["ringway"]
    differences = [f"{key}: Envoy {theirs[key]}, here {ours[key]}" for key in theirs if theirs[key] != ours[key] and not DIFFERENT.search(key[1])]
    differences += [f"{name}: Envoy {count}, here {our_counts.get(name)}" for name, count in their_counts.items() if our_counts.get(name) != count]
    if differences:
        raise rig.Failed("\n".join(differences))
    served = sum(found != ("closed",) for found in ours.values())
    decisions = [key for key in theirs if (theirs[key] == ("closed",)) != (ours[key] == ("closed",))]
    if decisions:
        raise rig.Failed(f"served by one and not by the other: {decisions}")
    print(f"{backend}: {len(ours)} cases as in Envoy, {served} of them served; {len(their_counts)} counters agree")


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"])
    for backend in parser.parse_args().backend or ["io_uring", "epoll"]:
        run_backend(backend)


if __name__ == "__main__":
    rig.main(run)
