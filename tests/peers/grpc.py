"""gRPC through Ringway, plain on both sides and under TLS on both sides: grpc-go's interoperability suite, its client in front and its server
behind, every case that its own script runs, one after the other and most of them several at once; grpcurl, which asks a server by reflection
what it offers; then what a client must see when there is no server.

    python3 tests/peers/grpc.py [--backend io_uring|epoll]...   # default: both
    python3 tests/peers/grpc.py --proxy envoy                   # through Envoy: proves the rig

All programs are built from pinned versions; `.ci/run install` does that. The one that grpcurl asks is its project's own test server.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import tempfile
import urllib.request

import rig
import tls

CASES = [
    "empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream", "timeout_on_sleeping_server",
    "cancel_after_begin", "cancel_after_first_response", "status_code_and_message", "special_status_message", "custom_metadata",
    "unimplemented_method", "unimplemented_service",
]
# Reports of load, in trailers and in a stream of their own. The server lets one client at a time set what it reports.
ORCA = ["orca_per_rpc", "orca_oob"]
BALANCER = '--service_config_json={"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}'
SOAK = ["rpc_soak", "channel_soak"]
SOAKING = ["--soak_iterations=200", "--soak_overall_timeout_seconds=50", "--soak_request_size=10000", "--soak_response_size=20000"]
AT_ONCE = 8  # clients of the concurrent round
CASE_S = 60  # longest time of one case

BOOTSTRAP = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: @admin@}}}
static_resources:
  listeners:
@listeners@
  clusters:
@clusters@
"""
LISTENER = """\
  - name: @name@
    stat_prefix: @name@
    address: {socket_address: {address: 127.0.0.1, port_value: @port@}}
    filter_chains:
    - @transport@
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: @name@
          codec_type: HTTP2
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /testing., grpc: {}}
                route: {cluster: reflecting, timeout: 30s}
              - match: {prefix: /grpc.reflection., grpc: {}}
                route: {cluster: reflecting, timeout: 30s}
              - match: {prefix: /, grpc: {}}
                route: {cluster: @server@, max_stream_duration: {grpc_timeout_header_max: 30s}}
          http_filters:
          - name: envoy.filters.http.grpc_web
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb}
          - name: envoy.filters.http.grpc_http1_bridge
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_http1_bridge.v3.Config}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"""
CLUSTER = """\
  - name: @name@
    connect_timeout: 1s
    @transport@
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: @name@
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @port@}}}}]}]
"""
NO_TLS = "transport_socket: {name: raw, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}"
TLS_OF_CLIENTS = """transport_socket: {name: tls, typed_config: {"@type": @context@.DownstreamTlsContext, common_tls_context: {alpn_protocols: [h2],
        tls_certificates: [{certificate_chain: {filename: @folder@/server.pem}, private_key: {filename: @folder@/server.key}}]}}}"""
TLS_OF_SERVERS = """transport_socket: {name: tls, typed_config: {"@type": @context@.UpstreamTlsContext, sni: server.example, common_tls_context: {
      alpn_protocols: [h2], validation_context: {trusted_ca: {filename: @folder@/ca.pem},
      match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: server.example}}]}}}}"""
# The listener in front of each server, and whether either speaks TLS.
SIDES = {"grpc": ("interop", False), "grpcs": ("interops", True)}


def program(name):
    return rig.binary(f"RINGWAY_GRPC_{name.upper()}", f"grpc-interop-{name}", rig.ROOT / "target/grpc-interop" / name)


def run_case(case, port, *more, host="127.0.0.1"):
    """One case; its client's words when it fails."""
    argv = [program("client"), f"--server_host={host}", f"--server_port={port}", f"--test_case={case}", BALANCER, *more]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=CASE_S, check=False)
    except subprocess.TimeoutExpired as late:
        return f"{case}: no end after {CASE_S} s\n{late.stderr or ''}"
    return None if done.returncode == 0 else f"{case}: ended with {done.returncode}\n{done.stdout}{done.stderr}"


def run_all(port, label, *more):
    failures = [failure for case in CASES + ORCA if (failure := run_case(case, port, *more))]
    failures += [failure for case in SOAK if (failure := run_case(case, port, *SOAKING, *more))]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        failures += [failure for failure in pool.map(lambda case: run_case(case, port, *more), CASES * 2) if failure]
    if failures:
        raise rig.Failed(f"{label}: {len(failures)} failures\n" + "\n".join(failures))
    print(f"{label}: {len(CASES + ORCA + SOAK)} cases, then {2 * len(CASES)} with {AT_ONCE} clients at once: all passed")


def grpcurl(port, *words, said=(), options=()):
    """What it prints; it ends with 64 and the status of a call that failed."""
    argv = [program("grpcurl"), "-max-time", "20", *said, *options, f"127.0.0.1:{port}", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=CASE_S, check=False)
    return done.returncode, done.stdout, done.stderr


def run_grpcurl(port, label, *said):
    """Everything but the address is found by reflection, a call in both directions at once."""
    code, out, err = grpcurl(port, "list", said=said)
    services = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection", "testing.TestService"]
    tls.same((code, out.split(), err), (0, services, ""), f"{label}: what grpcurl lists")
    message = {"payload": {"body": "cmluZ3dheQ=="}}
    call = ["-d", json.dumps(message), "-H", "reply-with-headers: x-first: 1", "-H", "reply-with-trailers: x-last: 2", "-v"]
    code, out, err = grpcurl(port, "testing.TestService/UnaryCall", said=said, options=call)
    tls.same((code, err), (0, ""), f"{label}: grpcurl's call")
    contents = out.partition("Response contents:")[2].partition("Response trailers received:")[0]
    tls.same(json.loads(contents), message, f"{label}: the answer to grpcurl")
    for field in ("x-first: 1", "x-last: 2"):
        tls.has(out, field, f"{label}: the metadata of the answer to grpcurl")
    code, _, err = grpcurl(port, "testing.TestService/EmptyCall", said=said, options=["-H", "fail-early: 5"])
    tls.same(code, 64 + 5, f"{label}: the status of a call that fails")
    tls.has(err, "Code: NotFound", f"{label}: the status of a call that fails")
    print(f"{label}: grpcurl lists by reflection, calls, and is told a status")


def stats(admin):
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?format=json", timeout=5) as answer:
        return {entry["name"]: entry["value"] for entry in json.load(answer)["stats"] if "name" in entry}


def bootstrap(folder, ports):
    def side(is_tls, text):
        return (text if is_tls else NO_TLS).replace("@context@", tls.CONTEXT).replace("@folder@", str(folder))

    servers = {"reflecting": False, **dict(SIDES.values())}
    listeners = [
        tls.fill(LISTENER, name=name, port=ports[name], server=server, transport=side(is_tls, TLS_OF_CLIENTS))
        for name, (server, is_tls) in SIDES.items()
    ]
    clusters = [
        tls.fill(CLUSTER, name=name, port=ports[name], transport=side(is_tls, TLS_OF_SERVERS)) for name, is_tls in servers.items()
    ]
    return tls.fill(BOOTSTRAP, admin=ports["admin"], listeners="".join(listeners), clusters="".join(clusters))


def through(command, label):
    names = ["admin", *SIDES, "reflecting", *dict(SIDES.values())]
    ports = dict(zip(names, rig.free_ports(len(names)), strict=True))
    with tempfile.TemporaryDirectory(prefix="ringway-grpc-") as name:
        folder = pathlib.Path(name)
        tls.make_certificates(folder)
        (folder / "bootstrap.yaml").write_text(bootstrap(folder, ports))
        trusting = ["--use_tls", "--use_test_ca", f"--ca_file={folder / 'ca.pem'}", f"--server_host_override={tls.NAME}"]
        sides = {
            "grpc": (label, [], ["-plaintext"]),
            "grpcs": (f"{label}, TLS", trusting, ["-cacert", str(folder / "ca.pem"), "-authority", tls.NAME]),
        }
        own = ["--use_tls", f"--tls_cert_file={folder / 'server.pem'}", f"--tls_key_file={folder / 'server.key'}"]
        reflecting = [program("testserver"), "-q", "-p", ports["reflecting"]]
        with rig.Process([*command, "-c", folder / "bootstrap.yaml"], ready_port=ports["grpcs"]):
            with (
                rig.Process([program("server"), f"--port={ports['interop']}"], ready_port=ports["interop"]),
                rig.Process([program("server"), f"--port={ports['interops']}", *own], ready_port=ports["interops"]),
                rig.Process(reflecting, ready_port=ports["reflecting"]),
            ):
                for listener, (words, client, asks) in sides.items():
                    run_all(ports[listener], words, *client)
                    run_grpcurl(ports[listener], words, *asks)
            # The servers are gone: a client gets a status, not a broken stream.
            for listener, (words, client, _) in sides.items():
                failure = run_case("empty_unary", ports[listener], *client)
                if failure is None or "Unavailable" not in failure:
                    raise rig.Failed(f"{words}: without a server the client should see Unavailable, and saw: {failure}")
                left = lambda: stats(ports["admin"]).get(f"http.{listener}.downstream_rq_active", 0) == 0  # noqa: B023, E731
                rig.wait_for(left, "every request to end")
            told = stats(ports["admin"])
            for counter in ("listener.grpcs.ssl.handshake", "cluster.interops.ssl.handshake"):
                tls.same(told[counter] > 0, True, f"{label}: {counter} counts")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"])
    parser.add_argument("--proxy", choices=["ringway", "envoy"], default="ringway")
    options = parser.parse_args()
    (port,) = rig.free_ports(1)
    with rig.Process([program("server"), f"--port={port}"], ready_port=port):
        run_all(port, "directly")
    if options.proxy == "envoy":
        through([rig.envoy(), "--concurrency", "2", "--disable-hot-restart", "-l", "warning"], "through Envoy")
        return
    for backend in options.backend or ["io_uring", "epoll"]:
        through([rig.ringway(), "--io-backend", backend], f"through Ringway, {backend}")


if __name__ == "__main__":
    rig.main(main)
