"""gRPC's interoperability suite through Ringway: grpc-go's client in front, grpc-go's server behind, HTTP/2 on both sides; every case
that needs no credentials and that passes without a proxy (those of ORCA do not, with this server), one after the other and several at once; then what the client must see when there is no server.

    python3 tests/peers/grpc.py [--backend io_uring|epoll]...   # default: both
    python3 tests/peers/grpc.py --proxy envoy                   # through Envoy: proves the rig

Client and server are built from a pinned version of grpc-go; `.ci/run install` does that.
"""

import argparse
import concurrent.futures
import json
import pathlib
import re
import subprocess
import tempfile
import urllib.request

import rig

CASES = [
    "empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream", "timeout_on_sleeping_server",
    "cancel_after_begin", "cancel_after_first_response", "status_code_and_message", "special_status_message", "custom_metadata",
    "unimplemented_method", "unimplemented_service",
]
SOAK = ["rpc_soak", "channel_soak"]
AT_ONCE = 8  # clients of the concurrent round
CASE_S = 60  # longest time of one case

BOOTSTRAP = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: @admin@}}}
static_resources:
  listeners:
  - name: grpc
    address: {socket_address: {address: 127.0.0.1, port_value: @grpc@}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: grpc
          codec_type: HTTP2
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /, grpc: {}}
                route: {cluster: @cluster@, max_stream_duration: {grpc_timeout_header_max: 30s}}
          http_filters:
          - name: envoy.filters.http.grpc_web
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb}
          - name: envoy.filters.http.grpc_http1_bridge
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_http1_bridge.v3.Config}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: @cluster@
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: @cluster@
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @server@}}}}]}]
"""


def program(name):
    return rig.binary(f"RINGWAY_GRPC_{name.upper()}", f"grpc-interop-{name}", rig.ROOT / "target/grpc-interop" / name)


def run_case(case, port, *more):
    """One case; its client's words when it fails."""
    argv = [program("client"), "--server_host=127.0.0.1", f"--server_port={port}", f"--test_case={case}", *more]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=CASE_S, check=False)
    except subprocess.TimeoutExpired as late:
        return f"{case}: no end after {CASE_S} s\n{late.stderr or ''}"
    return None if done.returncode == 0 else f"{case}: ended with {done.returncode}\n{done.stdout}{done.stderr}"


def run_all(port, label):
    failures = [failure for case in CASES if (failure := run_case(case, port))]
    soak = ["--soak_iterations=200", "--soak_overall_timeout_seconds=50", "--soak_request_size=10000", "--soak_response_size=20000"]
    failures += [failure for case in SOAK if (failure := run_case(case, port, *soak))]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        failures += [failure for failure in pool.map(lambda case: run_case(case, port), CASES * 2) if failure]
    if failures:
        raise rig.Failed(f"{label}: {len(failures)} failures\n" + "\n".join(failures))
    print(f"{label}: {len(CASES) + len(SOAK)} cases, then {2 * len(CASES)} with {AT_ONCE} clients at once: all passed")


def stats(admin):
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?format=json", timeout=5) as answer:
        return {entry["name"]: entry["value"] for entry in json.load(answer)["stats"] if "name" in entry}


def through(command, label):
    ports = dict(zip(("admin", "grpc", "server"), rig.free_ports(3), strict=True))
    with tempfile.TemporaryDirectory(prefix="ringway-grpc-") as folder:
        path = pathlib.Path(folder) / "bootstrap.yaml"
        values = {**ports, "cluster": "interop"}
        path.write_text(re.sub(r"@([a-z]+)@", lambda match: str(values[match[1]]), BOOTSTRAP))
        with rig.Process([*command, "-c", path], ready_port=ports["grpc"]):
            with rig.Process([program("server"), f"--port={ports['server']}"], ready_port=ports["server"]):
                run_all(ports["grpc"], label)
            # The server is gone: a client gets a status, not a broken stream.
            failure = run_case("empty_unary", ports["grpc"])
            if failure is None or "Unavailable" not in failure:
                raise rig.Failed(f"{label}: without a server the client should see Unavailable, and saw: {failure}")
            left = lambda: stats(ports["admin"]).get("http.grpc.downstream_rq_active", 0) == 0  # noqa: E731
            rig.wait_for(left, "every request to end")


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
