"""One script on one proxy: its control plane, its origins, its clients, and what was seen."""

import contextlib
import http.client
import http.server
import json
import socket
import ssl
import threading
import time
import urllib.request

import peers  # noqa: F401 (before rig)
import rig
from resources import TYPES
from server import Server

BOOTSTRAP = """
node: {{id: test-id, cluster: test-cluster, locality: {{region: r, zone: z}}, metadata: {{role: edge}}}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]
{dynamic}static_resources:
{listeners}  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment: {{cluster_name: xds, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {xds}}}}}}}}}]}}]}}
"""
CDS = """  cds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: {fetch_timeout}}}
"""
LDS = """  lds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: {fetch_timeout}}}
"""
# In place of what comes by LDS and CDS: a listener of the bootstrap, and clusters whose endpoints come by EDS.
LISTENER = """  listeners:
  - name: web
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          {routes}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"""
ROUTES = """route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: /b}, route: {cluster: other}}, {match: {prefix: /}, route: {cluster: svc}}]}"""
RDS = "rds: {{route_config_name: routes, config_source: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: {fetch_timeout}}}}}"
CLUSTER = """  - name: {name}
    type: EDS
    connect_timeout: 1s
    eds_cluster_config: {{eds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: {fetch_timeout}}}}}
"""
# How long counts stay as they are before they are taken for the last.
SETTLED_S = 0.2
# Statistics that both count alike; what is left out counts requests or time.
COUNTED = ("update_success", "update_rejected", "update_failure", "update_attempt", "init_fetch_timeout", "listener_added", "listener_modified",
           "listener_removed", "cluster_added", "cluster_modified", "cluster_removed", "active_clusters", "total_listeners_active", "connected_state", "num_keys", "num_layers")


class Origin(http.server.ThreadingHTTPServer):
    """Answers its own name."""

    daemon_threads = True

    def __init__(self, name):
        self.name = name.encode()
        super().__init__(("127.0.0.1", 0), Answering)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]


class Answering(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", str(len(self.server.name)))
        self.end_headers()
        self.wfile.write(self.server.name)

    def log_message(self, *_):
        pass


class Play:
    """See the file's head."""

    def __init__(self, argv, is_delta, origins, folder, starts_server=True, fetch_timeout="15s", endpoints_only=False, rds=False, layers=""):
        self.admin, self.port, self.other_port, xds = rig.free_ports(4)
        self.origins = origins
        self.facts = {}
        self.state = {kind: {} for kind in TYPES}
        self.versions = dict.fromkeys(TYPES, 0)
        self.has = {kind: {} for kind in TYPES}  # what the proxy holds, for a stream that goes on from there
        self.is_delta = is_delta
        self.stack = contextlib.ExitStack()
        self.server = Server(is_delta, xds)
        self.stack.callback(self.server.stop)
        if not starts_server:
            self.server.stop()
        self.stream = None
        path = folder / f"{xds}.yaml"
        api_type = "DELTA_GRPC" if is_delta else "GRPC"
        self.asks_for_all = not endpoints_only
        dynamic, listeners, clusters = (CDS + LDS).format(fetch_timeout=fetch_timeout), "", ""
        if endpoints_only:
            dynamic, listeners = "", LISTENER.format(port=self.port, routes=RDS.format(fetch_timeout=fetch_timeout) if rds else ROUTES)
            clusters = "".join(CLUSTER.format(name=name, fetch_timeout=fetch_timeout) for name in ("svc", "other"))
        text = BOOTSTRAP.format(admin=self.admin, xds=xds, api_type=api_type, dynamic=dynamic, listeners=listeners)
        path.write_text(text + clusters + layers.format(fetch_timeout=fetch_timeout), encoding="utf-8")
        # Whatever it makes of relative paths (Unix sockets) stays in the folder.
        self.proxy = self.stack.enter_context(rig.Process([*argv, "-c", path], ready_port=self.admin, cwd=folder))

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.stack.__exit__(*raised)

    # --- the control plane

    def begin(self, number=1, deadline_s=rig.DEADLINE_S):
        """The stream of this number is what is spoken on from here."""
        self.stream = self.server.stream(number, deadline_s)
        return self.stream

    def set(self, kind, resources, remove=()):
        """Changes the state of a type and tells it; the answer to it."""
        self.change(kind, resources, remove)
        self.tell(kind)
        return self.answer(kind)

    def change(self, kind, resources, remove=()):
        self.state[kind] = {name: each for name, each in self.state[kind].items() if name not in remove} | resources
        self.versions[kind] += 1

    def tell(self, kind):
        nonce = self.stream.put(kind, str(self.versions[kind]), self.state[kind], self.has[kind])
        self.has[kind] = dict(self.state[kind])
        return nonce

    def tell_again(self, kind):
        """Tells the same once more: all of it, whatever has been told."""
        return self.stream.push(kind, str(self.versions[kind]), self.state[kind].items())

    def answer(self, kind):
        return self.stream.answered(kind).answer

    def world(self, clusters, endpoints, listeners, routes, secrets=None, filters=None):
        """Tells a whole configuration to a proxy that begins, type by type as it asks."""
        self.begin()
        for kind, state in (("CDS", clusters), ("EDS", endpoints), ("LDS", listeners), ("SDS", secrets), ("RDS", routes), ("ECDS", filters)):
            if state and not (kind == "LDS" and not self.asks_for_all):
                self.stream.asked(kind)
                self.set(kind, state)

    # --- what is seen

    def note(self, what, value):
        self.facts[what] = value

    def get(self, path="/", port=None):
        """Body of an answer, or its status, or why there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=rig.DEADLINE_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
            return body if answer.status == 200 else str(answer.status)
        except ConnectionRefusedError:
            return "refused"
        except (ConnectionError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()

    def becomes(self, wanted, path="/", port=None, deadline_s=rig.DEADLINE_S):
        """Waits for an answer."""
        last = []

        def matches():
            last[:] = [self.get(path, port)]
            return last[0] == wanted

        try:
            rig.wait_for(matches, f"{path} to be answered {wanted}", deadline_s)
        except rig.Failed as failure:
            raise rig.Failed(f"{failure}, last {last[0]}") from None

    def stays(self, wanted, path="/", port=None):
        """It is so now, and after everything has come to rest."""
        if self.stream and not self.stream.gone:
            self.stream.settle()
        found = self.get(path, port)
        if found != wanted:
            raise rig.Failed(f"{path} is answered {found}, not {wanted}")

    def certificate(self, port=None):
        """Common name of the certificate that a listener shows, or why there is none."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection(("127.0.0.1", port or self.port), rig.DEADLINE_S) as sock, context.wrap_socket(sock) as secure:
                return secure.getpeercert(binary_form=True)
        except (OSError, ssl.SSLError) as error:
            return type(error).__name__

    def admin_get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=rig.DEADLINE_S) as answer:
            return answer.read()

    def admin_json(self, path):
        return json.loads(self.admin_get(path))

    def admin_post(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", data=b"", timeout=rig.DEADLINE_S) as answer:
            return answer.read()

    def server_state(self):
        return self.admin_json("/server_info")["state"]

    def runtime_stats(self):
        """What is counted of runtime layers, but for versions and for how often they were loaded before anything was told."""
        listed = self.admin_json("/stats?format=json&filter=^runtime")["stats"]
        left_out = ("version", "version_text", "update_time", "load_success", "override_dir_not_exists")
        return {each["name"]: each["value"] for each in listed if "name" in each and not each["name"].endswith(left_out)}

    def filter_stats(self):
        """What is counted of filters that are told, by themselves.

        Envoy counts a change when the last worker has it, and requests are served by it before: what has stayed for a while counts.
        """
        until, before = time.monotonic() + rig.DEADLINE_S, None
        while (counted := self.filter_stats_now()) != before and time.monotonic() < until:
            before = counted
            time.sleep(SETTLED_S)
        return counted

    def filter_stats_now(self):
        listed = self.admin_json("/stats?format=json&filter=^extension_config_discovery")["stats"]
        counted = {each["name"]: each["value"] for each in listed if "name" in each}
        return {name: value for name, value in counted.items() if name.endswith(("config_reload", "config_fail", "config_conflict"))}

    def stats(self):
        listed = json.loads(self.admin_get("/stats?format=json"))["stats"]
        # Ringway shows those of clusters that nobody asks for, too: 0.
        left_out = ("cluster.xds.", "ringway.", *(() if self.asks_for_all else ("cluster_manager.cds.", "listener_manager.lds.")))
        counted = {each["name"]: each["value"] for each in listed if each.get("name", "").endswith(COUNTED) and not each["name"].startswith(left_out)}
        # Ringway has rows, of 0, where Envoy has none: of clusters whose endpoints nobody tells, of runtime layers where there are none.
        return {name: value for name, value in counted.items() if value or not name.startswith(("cluster.", "runtime."))}

    def stats_of(self, name):
        """One statistic."""
        listed = json.loads(self.admin_get(f"/stats?format=json&filter=^{name}$"))["stats"]
        return sum(each["value"] for each in listed)

    def clients(self):
        """Status of each dynamic resource that `/config_dump` shows, by name."""
        found = {}
        for section in json.loads(self.admin_get("/config_dump?include_eds"))["configs"]:
            for key, entries in section.items():
                if key.startswith("dynamic") and isinstance(entries, list):
                    for entry in entries:
                        found[f"{key}: {name_of(entry)}"] = sorted(part for part in entry if part.endswith("state")) or entry.get("client_status", "")
        return found

    def transcript(self):
        """All requests of all streams by type, as facts."""
        told = {}
        for stream in self.server.streams:
            stream.settle() if not stream.gone else None
            for request in stream.requests:
                told.setdefault(f"stream {stream.number}, {request.kind}", []).append(request.facts())
        return told


def name_of(entry):
    inner = entry.get("active_state", entry)
    for part in ("cluster", "listener", "route_config", "endpoint_config", "secret"):
        if part in inner:
            return inner[part].get("name") or inner[part].get("cluster_name")
    return entry.get("name", "?")
