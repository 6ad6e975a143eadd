"""Load reports (LRS) of Envoy and of Ringway side by side: a server that follows a script asks both, the same traffic goes through both, and what
they have told must be equal: counts by cluster, locality, priority and endpoint, what is dropped, what is in progress, what endpoints report of their
load (ORCA), what follows a broken stream.

    python3 tests/xds/load_reports.py           # needs Envoy 1.40, a build of Ringway, grpcio and xds-protos (`.ci/run install`)
    python3 tests/xds/load_reports.py --self    # Envoy on both sides: proves that the comparison is stable
    python3 tests/xds/load_reports.py --wrong   # Ringway with fewer requests: proves that it is seen
    python3 tests/xds/load_reports.py --show    # with what Envoy has told
"""

import argparse
import base64
import collections
import concurrent.futures
import contextlib
import http.client
import http.server
import json
import pathlib
import pprint
import struct
import tempfile
import threading
import time

import grpc
from envoy.service.load_stats.v3 import lrs_pb2, lrs_pb2_grpc

import peers  # noqa: F401 (before rig)
import rig

EVERY_S = 0.5
SLOW_S = 30.0  # what may take a reconnection
BOOTSTRAP = """
node: {{id: test-id, cluster: test-cluster, locality: {{region: r, zone: z}}, client_features: [mine]}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
{reporting}static_resources:
  listeners:
  - name: web
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {{match: {{prefix: /svc/}}, route: {{cluster: svc, prefix_rewrite: /}}}}
              - {{match: {{prefix: /fresh/}}, route: {{cluster: fresh, prefix_rewrite: /}}}}
              - {{match: {{prefix: /spread/}}, route: {{cluster: spread, prefix_rewrite: /}}}}
              - {{match: {{prefix: /tight/}}, route: {{cluster: tight, prefix_rewrite: /}}}}
              - {{match: {{prefix: /gone/}}, route: {{cluster: gone, prefix_rewrite: /}}}}
              - {{match: {{prefix: /spared/}}, route: {{cluster: spared, prefix_rewrite: /}}}}
              - {{match: {{prefix: /half/}}, route: {{cluster: half, prefix_rewrite: /}}}}
              - {{match: {{prefix: /metered/}}, route: {{cluster: metered, prefix_rewrite: /}}}}
              - {{match: {{prefix: /all/}}, route: {{cluster: all, prefix_rewrite: /}}}}
              - {{match: {{prefix: /}}, route: {{cluster: grpc}}}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: lrs
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment: {{cluster_name: lrs, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {lrs}}}}}}}}}]}}]}}
{clusters}"""
HTTP_OPTIONS = (
    'typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: '
    '{"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: %s}}, '
)
SOME_METRICS = ["cpu_utilization", "eps", "eps", "named_metrics.a", "named_metrics.absent", "utilization.*", "no.metric", "request_cost.c"]
ALL_METRICS = ["application_utilization", "cpu_utilization", "mem_utilization", "eps", "rps_fractional", "named_metrics.*", "utilization.*", "request_cost.*", "named_metrics.a"]
HEADER = "endpoint-load-metrics"
REPORTING = """cluster_manager:
  load_stats_config:
    api_type: GRPC
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: lrs}}]
"""


def cluster(name, localities, more="", policy=""):
    """A cluster of localities: zone, priority, ports; the fields `more` are its own, `policy` those of its endpoints."""
    listed = []
    for zone, priority, ports in localities:
        endpoints = ", ".join(f"{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}" for port in ports)
        listed.append(f"{{locality: {{region: r, zone: {zone}}}, priority: {priority}, lb_endpoints: [{endpoints}]}}")
    return f"  - {{name: {name}, type: STATIC, connect_timeout: 1s, {more}load_assignment: {{cluster_name: {name}, policy: {{{policy}}}, endpoints: [{', '.join(listed)}]}}}}\n"


class Origin(http.server.ThreadingHTTPServer):
    """Answers with the status that the path names; `/hold` once it is let go, `/reset` never. Headers and trailers of an answer are those that
    the request's `x-answer` names, trailers of `/late` come once it is let go."""

    daemon_threads = True

    def __init__(self):
        self.let_go = threading.Event()
        super().__init__(("127.0.0.1", 0), Answering)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]


class Answering(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        wish = self.path.strip("/")
        if wish == "reset":
            self.close_connection = True
            return
        if wish == "hold":
            self.server.let_go.wait(rig.DEADLINE_S)
        answer = json.loads(self.headers.get("x-answer", "{}"))
        trailers = answer.get("trailers")
        self.send_response(int(wish) if wish.isdigit() else 200)
        for name, value in answer.get("headers", []):
            self.send_header(name, value)
        self.send_header(*(("content-length", "0") if trailers is None else ("transfer-encoding", "chunked")))
        self.end_headers()
        if trailers is not None:
            self.wfile.flush()
            if wish == "late":
                self.server.let_go.wait(rig.DEADLINE_S)
            lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            self.wfile.write(f"0\r\n{lines}\r\n".encode())

    def log_message(self, *_):
        pass


class Rpc(grpc.GenericRpcHandler):
    """Reports its load in the trailers of every call, as gRPC does: the name of the method is what it says."""

    def __init__(self):
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, details):
        def answer(request, context):
            context.set_trailing_metadata([("endpoint-load-metrics-bin", request)])
            if details.method.endswith("/fail"):
                context.abort(grpc.StatusCode.UNAVAILABLE, "as asked")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


class Reporting:
    """One stream of reports."""

    def __init__(self, changed):
        self.changed = changed
        self.reports = []
        self.out = []
        self.over = None
        self.gone = False

    def ask(self, clusters=(), every_s=EVERY_S, everything=False, by_endpoint=False):
        response = lrs_pb2.LoadStatsResponse(clusters=clusters, send_all_clusters=everything, report_endpoint_granularity=by_endpoint)
        response.load_reporting_interval.FromNanoseconds(int(every_s * 1e9))
        with self.changed:
            self.out.append(response)
            self.changed.notify_all()

    def close(self, code=""):
        with self.changed:
            self.over = code
            self.changed.notify_all()

    def wait(self, condition, what, deadline_s=rig.DEADLINE_S):
        with self.changed:
            if not self.changed.wait_for(condition, deadline_s):
                raise rig.Failed(f"{what}: {[str(report.cluster_stats) for report in self.reports]}")

    def more(self, count=1):
        """Waits for so many reports more."""
        with self.changed:
            until = len(self.reports) + count
        self.wait(lambda: len(self.reports) >= until, f"{count} reports more")

    def read(self, requests):
        with contextlib.suppress(grpc.RpcError):
            for report in requests:
                with self.changed:
                    self.reports.append(report)
                    self.changed.notify_all()
        with self.changed:
            self.gone = True
            self.changed.notify_all()

    def responses(self, context):
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.out or self.over is not None or self.gone)
                if self.gone:
                    return
                if not self.out:
                    break
                response = self.out.pop(0)
            yield response
        if self.over:
            context.abort(getattr(grpc.StatusCode, self.over), "as the script says")


class Server(lrs_pb2_grpc.LoadReportingServiceServicer):
    """Who is told."""

    def __init__(self):
        self.changed = threading.Condition()
        self.streams = []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        lrs_pb2_grpc.add_LoadReportingServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def StreamLoadStats(self, requests, context):
        stream = Reporting(self.changed)
        with self.changed:
            self.streams.append(stream)
            self.changed.notify_all()
        threading.Thread(target=stream.read, args=(requests,), daemon=True).start()
        yield from stream.responses(context)

    def stream(self, number, deadline_s=rig.DEADLINE_S):
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.streams) >= number, deadline_s):
                raise rig.Failed(f"stream {number} was not opened")
        return self.streams[number - 1]


class Play:
    """A proxy, whom it tells, and what was seen."""

    def __init__(self, argv, folder, fewer, reporting=True):
        self.admin, self.port, closed = rig.free_ports(3)
        self.facts = {}
        self.fewer = fewer
        self.stack = contextlib.ExitStack()
        self.origins = [Origin() for _ in range(3)]
        self.server = Server()
        self.rpc = Rpc()
        self.stack.callback(lambda: self.rpc.server.stop(0).wait())
        self.stack.callback(lambda: self.server.server.stop(0).wait())
        first, second, third = (origin.port for origin in self.origins)
        limits = "circuit_breakers: {thresholds: [{max_requests: 1}]}, "
        # Of resets alone: on a connection that has served before, Ringway repeats such a request once, and tells both.
        clusters = cluster("fresh", [("a", 0, [first])])
        clusters += cluster("svc", [("a", 0, [first, second]), ("b", 1, [third])], "lrs_server: {self: {}}, ")
        clusters += cluster("spread", [("b", 0, [first]), ("a", 0, [second, third])]) + cluster("tight", [("a", 0, [first])], limits)
        clusters += cluster("gone", [("a", 0, [closed])])
        dropping = "drop_overloads: [{category: %s, drop_percentage: {numerator: %s, denominator: TEN_THOUSAND}}]"
        clusters += cluster("spared", [("a", 0, [first])], policy=dropping % ("lb", 10_000))
        clusters += cluster("half", [("a", 0, [first])], policy=dropping % ("throttle", 5_000))
        trailers = HTTP_OPTIONS % "{http_protocol_options: {enable_trailers: true}}"
        listed = 'lrs_report_endpoint_metrics: ["%s"], '
        some = listed % '", "'.join(SOME_METRICS) + trailers
        clusters += cluster("metered", [("a", 0, [first, second]), ("b", 1, [third])], some)
        clusters += cluster("all", [("a", 0, [first])], listed % '", "'.join(ALL_METRICS) + trailers)
        clusters += cluster("grpc", [("a", 0, [self.rpc.port])], listed % '", "'.join(ALL_METRICS) + HTTP_OPTIONS % "{http2_protocol_options: {}}")
        text = BOOTSTRAP.format(admin=self.admin, port=self.port, lrs=self.server.port, clusters=clusters, reporting=REPORTING if reporting else "")
        path = folder / f"{self.server.port}.yaml"
        path.write_text(text, encoding="utf-8")
        self.proxy = self.stack.enter_context(rig.Process([*argv, "-c", path], ready_port=self.admin))
        rig.wait_for(lambda: rig.accepts(self.port), "the listener")

    def get(self, path, count=1):
        """Status of so many requests, each on a connection of its own."""
        return sorted({status for status, _, _ in self.answers(path, count)})

    def answers(self, path, count):
        """What is answered to them, each on a connection of its own: status, body, headers that tell of overload."""
        answers = []
        for _ in range(count - (self.fewer and count > 1)):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=rig.DEADLINE_S)
            connection.request("GET", path)
            response = connection.getresponse()
            own = sorted(header for header in response.getheaders() if "overload" in header[0].lower())
            answers.append((response.status, response.read().decode(), own))
            connection.close()
        return answers

    def ask(self, path, **answer):
        """Asks for an answer with these headers and trailers: its status, and what headers it has of load."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=rig.DEADLINE_S)
        connection.request("GET", path, headers={"x-answer": json.dumps(answer)})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status, [header for header in response.getheaders() if HEADER in header[0].lower()]

    def stats(self):
        url = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=rig.DEADLINE_S)
        url.request("GET", "/stats?format=json&filter=load_reporter")
        listed = json.loads(url.getresponse().read())["stats"]
        return {each["name"]: each["value"] for each in listed if "name" in each}

    def note(self, what, value):
        self.facts[what] = value


def told(reports, by_endpoint=None):
    """What reports have told, added up: by cluster and locality, or by cluster and endpoint."""
    sums = collections.Counter()
    for report in reports:
        for one in report.cluster_stats:
            sums[one.cluster_name, "dropped"] += one.total_dropped_requests
            for each in one.dropped_requests:
                sums[one.cluster_name, "dropped", each.category] += each.dropped_count
            for locality in one.upstream_locality_stats:
                place = (one.cluster_name, locality.locality.region, locality.locality.zone, locality.priority)
                for each in locality.upstream_endpoint_stats if by_endpoint else [locality]:
                    if by_endpoint:
                        place = (one.cluster_name, by_endpoint[each.address.socket_address.port_value])
                    sums[*place, "good"] += each.total_successful_requests
                    sums[*place, "bad"] += each.total_error_requests
                    sums[*place, "issued"] += each.total_issued_requests
    return {key: value for key, value in sorted(sums.items()) if value}


def issued(reports, name):
    return sum(locality.total_issued_requests for report in reports for one in report.cluster_stats if one.cluster_name == name for locality in one.upstream_locality_stats)


def double(field, value):
    """A field of protobuf, as its bytes; of so few that no length takes two."""
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


def entry(field, name, value):
    content = bytes([1 << 3 | 2, len(name)]) + name.encode() + double(2, value)
    return bytes([field << 3 | 2, len(content)]) + content


def metrics(reports, name, endpoints=False):
    """What was told of load, added up: by zone, or by endpoint, and name: in how many requests, and the sum."""
    sums = collections.defaultdict(lambda: (0, 0.0))
    for report in reports:
        for one in report.cluster_stats:
            for locality in one.upstream_locality_stats if one.cluster_name == name else []:
                for each in locality.upstream_endpoint_stats if endpoints else [locality]:
                    place = each.address.socket_address.port_value if endpoints else locality.locality.zone
                    for metric in each.load_metric_stats:
                        count, total = sums[place, metric.metric_name]
                        sums[place, metric.metric_name] = (count + metric.num_requests_finished_with_metric, total + metric.total_metric_value)
    return {key: (count, repr(total)) for key, (count, total) in sorted(sums.items())}


def load_metrics(play):
    """What endpoints report of their load: which notations are understood, in headers and in trailers, and as what they are told. Nothing is told of
    clusters whose list is empty, and the client gets the headers all the same."""
    stream = play.server.stream(1)
    stream.ask(["metered", "all", "svc"])
    stream.more(2)
    begun = len(stream.reports)
    wire = double(1, 0.5) + entry(8, "a", 4) + entry(8, "b", 0.25) + entry(5, "u", 8) + entry(4, "c", 16) + double(7, 2) + double(9, 64) + double(2, 32) + double(6, 128)
    encoded = base64.b64encode(wire).decode()
    reports = [
        [(HEADER, "TEXT cpu_utilization:0.5, eps:2,named_metrics.a:4,utilization.u:8")],
        [(HEADER, 'JSON {"cpuUtilization": 0.5, "eps": "2", "named_metrics": {"a": 4, "b": 0.25}, "request_cost": {"c": 16}}')],
        [(HEADER, "BIN " + encoded)],
        [(HEADER + "-bin", encoded)],
        [(HEADER + "-bin", encoded.rstrip("=")), (HEADER, "TEXT cpu_utilization:1024")],
        [(HEADER, "TEXT eps:1"), (HEADER, "TEXT eps:1024")],
        [(HEADER, "TEXT ,")],
        [(HEADER, "TEXT eps:-1")],
        [(HEADER, 'JSON {"eps": -1, "mem_utilization": 1}')],
        [(HEADER, "TEXT eps:1,eps:2")],
        [(HEADER, "TEXT other:1")],
        [(HEADER, 'JSON {"other": 1}')],
        [(HEADER, "XML 1")],
        [(HEADER + "-bin", "?"), (HEADER, "TEXT eps:1024")],
        [("x-" + HEADER, "TEXT eps:1024")],
    ]
    seen = []
    for path in ["metered", "all", "svc"]:
        for each in reports:
            seen.append(play.ask(f"/{path}/200", headers=each) == (200, each))
            play.ask(f"/{path}/200", trailers=each)
        play.ask(f"/{path}/200", headers=[(HEADER, "TEXT eps:4")], trailers=[(HEADER, "TEXT eps:1024")])
        play.ask(f"/{path}/200", headers=[(HEADER, "XML 4")], trailers=[(HEADER, "TEXT eps:4")])
        play.ask(f"/{path}/503", headers=[(HEADER, "TEXT eps:4")])
        if not play.fewer:
            play.ask(f"/{path}/404", headers=[(HEADER, "TEXT eps:4")])
    sent = (2 * len(reports) + 4) - play.fewer
    until(stream, begun, lambda told: all(issued(told, name) >= sent for name in ("metered", "all", "svc")))
    stream.more(2)
    for name in ("metered", "all", "svc"):
        play.note(name, metrics(stream.reports[begun:], name))
    play.note("the client gets them", all(seen))


# Of each notation what is taken and what is not, odd ones above all. Hexadecimal numbers are not among them: Ringway takes none.
TEXTS = [
    "eps:1", " eps: 1 ", "eps:\t1\t,rps_fractional:2", "eps :1", "eps:1,,", ",", "eps:+1", "eps:.5", "eps:5.", "eps:1E2", "eps:-0", "eps:1e-400", "eps:1e400",
    "eps:-1", "eps:inf", "eps:nan", "eps:1e", "eps:", "eps", ":1", "::1", "eps::1", "eps:1:2", "eps:1 rps_fractional:2", "eps:1;rps_fractional:2", "eps:+-1", "eps:1_0",
    '"eps:1"', "eps:1,eps:1", "eps:1,rps_fractional:x", "named_metrics.a.b:1", "named_metrics.*:1", "named_metrics.a b:1", "named_metrics.:1", "named_metrics.a:1,named_metrics.a:2",
    "named_metrics.a:1,utilization.a:2", "utilization.:1", "utilization.a:-1", "request_cost.a:1", "rps:1", "other:1",
]
OBJECTS = [
    "{}", "{ } ", "{eps:1}", '{"eps":1,"eps":2}', '{"eps":1,"eps":null}', '{"eps":-1}', '{"eps":" 1 "}', '{"eps":"+1"}', '{"eps":"1e1"}', "{'eps':'1'}", "{eps:1,}", '{"eps":"\\u0031\\n"}',
    '{"\\u0065ps":1}', '{"cpuUtilization":1,"memUtilization":"NaN"}', '{"application_utilization":"-Infinity"}', '{"rpsFractional":1e+2}', '{"rps":5}', '{"rps":"1e3"}', '{"rps":5.5}',
    '{"rps":-1}', '{"rps":18446744073709551615}', '{"rps":18446744073709551616}', '{"rps":" 5"}', '{"named_metrics":null}', '{"named_metrics":{"a":null,"":1}}',
    '{"named_metrics":{"a":1},"namedMetrics":{"a":2}}', '{"named_metrics":{"a":1,"a":2}}', '{"named_metrics":{"a":1},"named_metrics":{"a":1,"a":2}}', '{"utilization":{nullx:1,_a1:2,}}',
    '{"requestCost":{\'a"b\':1,"a\'b":2}}', '{"named_metrics":{"\\ud83d\\ude00\\u00e9\\/\\t":1}}', '{"named_metrics":{"\\ud83d":1}}', '{"named_metrics":{"\\udc00":1}}', '{"named_metrics":{"\\x41":1}}',
    '{"named_metrics":{a.b:1}}', '{"named_metrics":{1:1}}', '{"named_metrics":{null:1}}', '{"named_metrics":[]}', '{"named_metrics":{"a":true}}', '{"named_metrics":{,}}',
    "", "[]", "null", "{", "{,}", "{eps:1,,}", "{eps:1", "{} x", '{"eps":1 "rps":2}', '{"eps"}', '{"eps":}', '{"other":1}', '{"EPS":1}', '{"7":1}', "{true:1}", '{"eps":NaN}', '{"eps":01}', '{"eps":.5}',
    '{"eps":+5}', '{"eps":5.}', '{"eps":1e400}', '{"eps":1e}', '{"eps":1a}', '{"eps":true}', '{"eps":""}', '{"eps":{}}', '{"eps":nullx}',
]
EPS = double(7, 1)
MESSAGES = [
    EPS + double(7, 2), entry(8, "a", 1) + entry(8, "a", 2), bytes([66, 0]), bytes([66, 3, 10, 1, 97]), bytes([66, 3, 10, 1, 255]), EPS[:-1], bytes([24, 7]) + EPS, bytes([56, 1]) + EPS,
    bytes([211, 5]) + EPS + bytes([212, 5]), bytes([211, 5]) + EPS + bytes([220, 5]), bytes([211, 5]) * 100 + bytes([212, 5]) * 100, bytes([211, 5]) * 101 + bytes([212, 5]) * 101,
    bytes([212, 5]), bytes([0, 1]), bytes([214, 5, 0]), bytes([24]) + b"\xff" * 9 + b"\1", bytes([24]) + b"\xff" * 10 + b"\1", double(2, float("nan")), double(6, -1), bytes([66, 128, 128, 128, 128, 1]),
]


def load_metrics_notations(play):
    """The notations in every oddity that was thought of: how many are understood, and as what."""
    stream = play.server.stream(1)
    stream.ask(["all"])
    stream.more(2)
    encoded = [base64.b64encode(message).decode() for message in MESSAGES]
    padded = base64.b64encode(EPS + bytes([24, 7])).decode().rstrip("=")
    padded = [padded + rest for rest in ("", "=", "==", "===", "A", "AA", "AAA")] + [padded[:-1] + "/", "", "=", "A", padded + "-"]
    kinds = {"TEXT ": TEXTS, "JSON ": OBJECTS, "BIN ": encoded + padded}
    for kind, values in kinds.items():
        begun = len(stream.reports)
        for value in values[play.fewer :]:
            play.ask("/all/200", headers=[(HEADER, kind + value)])
        until(stream, begun, lambda told, begun=begun, values=values: issued(told, "all") >= len(values) - play.fewer)
        stream.more()
        play.note(kind, metrics(stream.reports[begun:], "all"))


def load_metrics_by_endpoint(play):
    """The same of each endpoint; a period begins with nothing, whatever was told before."""
    play.ask("/metered/200", headers=[(HEADER, "TEXT eps:1024")])
    stream = play.server.stream(1)
    stream.ask(["metered"], by_endpoint=True)
    stream.more(2)
    play.note("before anybody asked", metrics(stream.reports, "metered"))
    for values in (["1e300", "1"], ["0.5", "0.25"], ["0.125", "8"]):
        begun = len(stream.reports)
        for nth in range(12 - play.fewer):
            play.ask("/metered/200", headers=[(HEADER, f"TEXT cpu_utilization:{values[nth % 2]},named_metrics.a:1")])
        until(stream, begun, lambda told, begun=begun: issued(told, "metered") >= 12 - play.fewer)
        stream.more()
        reports = stream.reports[begun:]
        told = metrics(reports, "metered", endpoints=True)
        play.note(f"who {values}", sorted({[origin.port for origin in play.origins].index(port) for port, _ in told}))
        play.note(f"count {values}", sum(count for (_, name), (count, _) in told.items() if name == "named_metrics.a"))
        play.note(f"sum {values}", metrics(reports, "metered"))


def load_metrics_alone(play):
    """Trailers that come in a later period than everything else of their request."""
    stream = play.server.stream(1)
    stream.ask(["metered"], by_endpoint=True)
    stream.more(2)
    begun = len(stream.reports)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        held = pool.submit(play.ask, "/metered/late", trailers=[(HEADER, "TEXT eps:4")])
        until(stream, begun, lambda told: issued(told, "metered") >= 1)
        stream.more(2)
        for origin in play.origins:
            origin.let_go.set()
        held.result()
    stream.more(3)
    play.note("what was told", metrics(stream.reports[begun:], "metered"))
    play.note("of endpoints", sorted(metrics(stream.reports[begun:], "metered", endpoints=True).values()))


def load_metrics_of_grpc(play):
    """Trailers of HTTP/2, in Base64 without padding."""
    stream = play.server.stream(1)
    stream.ask(["grpc"])
    stream.more(2)
    begun = len(stream.reports)
    with grpc.insecure_channel(f"127.0.0.1:{play.port}") as channel:
        for nth in range(6 - play.fewer):
            call = channel.unary_unary("/test.Service/" + ("fail" if nth == 5 else "say"))
            message = double(1, 0.5) + entry(8, "calls" + "x" * nth, 1) + entry(8, "a", 2)
            with contextlib.suppress(grpc.RpcError):
                call(message, timeout=rig.DEADLINE_S)
    until(stream, begun, lambda told: issued(told, "grpc") >= 6 - play.fewer)
    stream.more(2)
    play.note("what was told", metrics(stream.reports[begun:], "grpc"))


def by_locality(play):
    """Nothing is told before it is asked; then counts by locality and priority, of the clusters that were asked for alone."""
    play.get("/svc/200", 5)
    stream = play.server.stream(1)
    stream.wait(lambda: stream.reports, "the first report")
    first = stream.reports[0]
    play.note("who tells", (first.node.id, first.node.cluster, first.node.locality.zone, sorted(first.node.client_features)))
    play.note("told unasked", len(first.cluster_stats))
    stream.ask(["svc", "fresh", "spread", "nobody"])
    stream.more()
    begun = len(stream.reports)
    play.note("statuses", [play.get("/svc/200", 12), play.get("/svc/500", 4), play.get("/svc/404", 3), play.get("/fresh/reset", 2), play.get("/spread/200", 9)])
    play.get("/tight/200", 3)
    until(stream, begun, lambda reports: issued(reports, "svc") >= 19 and issued(reports, "fresh") >= 2 and issued(reports, "spread") >= 9)
    reports = stream.reports[begun:]
    sums = told(reports)
    play.note("sums of svc", {key: value for key, value in sums.items() if key[0] in ("svc", "fresh")})
    play.note("sum of spread", sum(value for key, value in sums.items() if key[0] == "spread" and key[-1] == "issued"))
    play.note("clusters", sorted({one.cluster_name for report in reports for one in report.cluster_stats}))
    play.note("service names", sorted({one.cluster_service_name for report in reports for one in report.cluster_stats}))
    intervals = [one.load_report_interval.ToMicroseconds() / 1e6 for report in reports for one in report.cluster_stats]
    play.note("intervals are right", all(EVERY_S * 0.9 <= each <= EVERY_S * 3 for each in intervals))
    play.note("each report has the node", all(report.node.id == "test-id" for report in reports))
    play.note("endpoints unasked", any(locality.upstream_endpoint_stats for report in reports for one in report.cluster_stats for locality in one.upstream_locality_stats))
    stats = play.stats()
    play.note("statistics", sorted(stats))
    play.note("asked", stats["load_reporter.requests"])
    play.note("reports are counted", abs(stats["load_reporter.responses"] - len(stream.reports)) <= 1)


def by_endpoint(play):
    """Each endpoint by itself; endpoints that had nothing are left out."""
    stream = play.server.stream(1)
    stream.ask(["spread"], by_endpoint=True)
    stream.more(2)
    begun = len(stream.reports)
    play.get("/spread/200", 30)
    until(stream, begun, lambda reports: issued(reports, "spread") >= 30)
    reports = stream.reports[begun:]
    names = {origin.port: f"origin {nth}" for nth, origin in enumerate(play.origins)}
    localities, endpoints = told(reports), told(reports, names)
    play.note("who was told of", sorted(endpoints))
    play.note("they add up", sum(localities.values()) == sum(endpoints.values()))
    play.note("in all", sum(value for key, value in endpoints.items() if key[-1] == "issued"))


def all_clusters(play):
    """Whoever asks for all is told of all, also of those that had nothing; whoever asks for others then is told of those alone."""
    stream = play.server.stream(1)
    stream.ask(everything=True)
    stream.more(2)
    play.note("clusters", sorted(one.cluster_name for one in stream.reports[-1].cluster_stats))
    stream.ask(["svc"])
    stream.more(2)
    play.note("clusters then", sorted(one.cluster_name for one in stream.reports[-1].cluster_stats))
    stream.ask([])
    stream.more(2)
    play.note("clusters in the end", sorted(one.cluster_name for one in stream.reports[-1].cluster_stats))


def in_progress(play):
    """A request that takes longer than a period: when it is told of, and as what."""
    stream = play.server.stream(1)
    stream.ask(["svc"])
    stream.more(2)
    begun = len(stream.reports)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        held = pool.submit(play.get, "/svc/hold")
        until(stream, begun, lambda reports: issued(reports, "svc") == 1)
        stream.more(2)
        stats = [[(locality.total_requests_in_progress, locality.total_issued_requests, locality.total_successful_requests)
                  for one in report.cluster_stats for locality in one.upstream_locality_stats] for report in stream.reports[begun:]]
        play.note("while it lasts", [each for each in stats if each][:3])
        quiet = len(stream.reports)
        for origin in play.origins:
            origin.let_go.set()
        play.note("its status", held.result())
        until(stream, quiet, lambda reports: told(reports).get(("svc", "r", "a", 0, "good")) == 1)
    ended = len(stream.reports)
    stream.more(2)
    play.note("once it is over", told(stream.reports[quiet:]))
    play.note("then", [len(one.upstream_locality_stats) for report in stream.reports[ended:] for one in report.cluster_stats][:2])


def dropped(play):
    """What circuit breakers refuse."""
    stream = play.server.stream(1)
    stream.ask(["tight"])
    stream.more(2)
    begun = len(stream.reports)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        held = pool.submit(play.get, "/tight/hold")
        until(stream, begun, lambda reports: issued(reports, "tight") == 1)
        play.note("statuses", play.get("/tight/200", 5))
        until(stream, begun, lambda reports: told(reports).get(("tight", "dropped"), 0) >= 5)
        play.origins[0].let_go.set()
        held.result()
    until(stream, begun, lambda reports: told(reports).get(("tight", "r", "a", 0, "good")) == 1)
    play.note("sums", told(stream.reports[begun:]))


def spared(play):
    """What `drop_overloads` drops, all requests or a share: how it is answered, and as what it is told."""
    stream = play.server.stream(1)
    stream.ask(["spared", "half"])
    stream.more(2)
    begun = len(stream.reports)
    play.note("all", sorted({repr(each) for each in play.answers("/spared/200", 6)}))
    play.note("half", sorted({repr(each) for each in play.answers("/half/200", 80)}))
    until(stream, begun, lambda reports: told(reports).get(("spared", "dropped")) == 6)
    until(stream, begun, lambda reports: issued(reports, "half") + told(reports).get(("half", "dropped"), 0) == 80)
    sums = told(stream.reports[begun:])
    play.note("sums of all", {key: value for key, value in sums.items() if key[0] == "spared"})
    play.note("by category as in all", sums["half", "dropped"] == sums["half", "dropped", "throttle"])
    play.note("issued as good", sums["half", "r", "a", 0, "issued"] == sums["half", "r", "a", 0, "good"])


def endpoint_is_gone(play):
    """Where no connection can be made no request is issued, and some have failed."""
    stream = play.server.stream(1)
    stream.ask(["gone", "svc"])
    stream.more(2)
    begun = len(stream.reports)
    play.note("statuses", play.get("/gone/200", 3))
    until(stream, begun, lambda reports: told(reports).get(("gone", "r", "a", 0, "bad")) == 3)
    play.note("sums", told(stream.reports[begun:]))


def stream_breaks(play, code="UNAVAILABLE"):
    """What comes while there is no stream is told on the next one, at once."""
    stream = play.server.stream(1)
    stream.ask(["svc"])
    stream.more(2)
    stream.close(code)
    play.note("statuses", play.get("/svc/200", 7))
    following = play.server.stream(2, SLOW_S)
    following.wait(lambda: following.reports, "the first report of the next stream")
    play.note("told at once", told(following.reports[:1]))
    following.more(2)
    play.note("goes on unasked", len(following.reports[1].cluster_stats))
    play.get("/svc/200", 2)
    until(following, 1, lambda reports: issued(reports, "svc") >= 2)
    play.note("then", told(following.reports[1:]))
    stats = play.stats()
    play.note("errors", stats["load_reporter.errors"])
    play.note("retries", stats["load_reporter.retries"])


def stream_ends(play):
    """The same when the server ends it in order."""
    stream_breaks(play, "")


def nobody_is_configured(play):
    """Without load_stats_config nothing is told, whatever a cluster has in lrs_server."""
    play.get("/svc/200", 3)
    time.sleep(2 * EVERY_S)
    play.note("streams", len(play.server.streams))


LOAD_METRICS = [load_metrics, load_metrics_notations, load_metrics_by_endpoint, load_metrics_alone, load_metrics_of_grpc]
SCRIPTS = [*LOAD_METRICS, by_locality, by_endpoint, all_clusters, in_progress, dropped, spared, endpoint_is_gone, stream_breaks, stream_ends, nobody_is_configured]


def until(stream, begun, condition):
    stream.wait(lambda: condition(stream.reports[begun:]), "what is told")


def play(argv, script, folder, fewer):
    one = Play(argv, folder, fewer, script is not nobody_is_configured)
    with one.stack:
        try:
            script(one)
        except (rig.Failed, OSError) as failure:
            one.note("failed", str(failure))
        one.proxy.check()
    return one.facts


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one script by its name")
    parser.add_argument("--self", action="store_true", help="Envoy on both sides")
    parser.add_argument("--wrong", action="store_true", help="fewer requests through one of both")
    parser.add_argument("--show", action="store_true", help="prints Envoy's facts")
    arguments = parser.parse_args()
    flags = ["--concurrency", "2", "--disable-hot-restart", "-l", "warning"]
    both = [[rig.envoy(), *flags], [rig.envoy() if arguments.self else rig.ringway(), *flags]]
    bad = 0
    with tempfile.TemporaryDirectory() as name, concurrent.futures.ThreadPoolExecutor(6) as pool:
        chosen = [script for script in SCRIPTS if arguments.only in (None, script.__name__)]
        pending = [(script, [pool.submit(play, argv, script, pathlib.Path(name), arguments.wrong and nth == 1) for nth, argv in enumerate(both)]) for script in chosen]
        for script, results in pending:
            theirs, ours = (result.result() for result in results)
            if arguments.show:
                print(f"=== {script.__name__}")
                pprint.pp(theirs, width=160)
            if "failed" in theirs:
                bad += 1
                print(f"{script.__name__}: Envoy does not follow the script: {theirs['failed']}")
            for fact in sorted(theirs.keys() | ours.keys()):
                pair = theirs.get(fact, "(absent)"), ours.get(fact, "(absent)")
                if pair[0] != pair[1]:
                    bad += 1
                    print(f"{script.__name__}: {fact}\n    Envoy:   {pair[0]}\n    Ringway: {pair[1]}")
    print(f"{len(pending)} scripts on each of both, {bad} differences")
    if bad and not arguments.wrong or arguments.wrong and not bad:
        raise rig.Failed("Ringway and Envoy differ" if bad else "what is wrong was not seen")


if __name__ == "__main__":
    rig.main(run)
