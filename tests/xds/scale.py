"""A control plane with thousands of clusters: how long it takes until they serve, what each cluster with its route and each endpoint takes of
memory, which has limits, and what the change of one cluster's endpoints costs; both variants of ADS, both back ends.

    python3 tests/xds/scale.py                       # needs a build of Ringway, grpcio and xds-protos (`.ci/run install`)
    python3 tests/xds/scale.py --envoy               # Envoy, for comparison
    python3 tests/xds/scale.py --clusters 1000       # fewer
    python3 tests/xds/scale.py --mesh                # each has mutual TLS of its own and a regular expression of its own, none of which is used
"""

import argparse
import contextlib
import http.client
import pathlib
import re
import statistics
import tempfile
import time

import peers  # noqa: F401 (before rig)
import resources as made
import rig
from churn import resident_kb
from play import Origin, Play
from run import certificates
from server import packed

CLUSTERS = 10_000
ENDPOINTS = 5  # of each cluster, in the end; the first beside one origin
CHANGES = 50
DEADLINE_S = 120
RESTS_S = 8
# Limits that hold on any machine, with a part of the program itself that updates bring into memory: more than these are a mistake.
PAIR_KB_MAX = 2.5
MESH_PAIR_KB_MAX = 6.5
ENDPOINT_BYTES_MAX = 110


def cpu_ms(pid):
    """Time on a CPU of all threads of a process, user and kernel."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e6


def hosts(names, is_mesh=False):
    """Each a virtual host with a route of its own, in a mesh behind one by a regular expression; `svc` has all others."""
    expressions = {name: [{"match": {"safe_regex": {"regex": f"/{name}/v[0-9]+/items/[^/]+"}}, "direct_response": {"status": 404}}] if is_mesh else [] for name in names}
    told = [
        {"name": name, "domains": [f"{name}.test"], "routes": [*expressions[name], {"match": {"prefix": "/"}, "route": {"cluster": name}}]} for name in names
    ]
    return made.made("RDS", {"name": "routes", "virtual_hosts": [*told, {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "svc"}}]}]})


def mutual_tls(name):
    """How the clusters of a mesh reach endpoints that speak TLS; those here do not."""
    named = [{"name": each, "sds_config": made.ADS} for each in ("default", "ROOTCA")]
    identity = {"san_type": "URI", "matcher": {"exact": f"spiffe://cluster.local/ns/{name}/sa/default"}}
    rules = {"default_validation_context": {"match_typed_subject_alt_names": [identity]}, "validation_context_sds_secret_config": named[1]}
    common = {"alpn_protocols": ["istio", "h2"], "tls_certificate_sds_secret_configs": [named[0]], "combined_validation_context": rules}
    context = {"@type": f"{made.PREFIX}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "sni": f"outbound_.80_._.{name}.default.svc.cluster.local", "common_tls_context": common}
    plain = {"@type": f"{made.PREFIX}envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}
    return {
        "transport_socket_matches": [
            {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}},
            {"name": "tlsMode-disabled", "match": {}, "transport_socket": {"name": "envoy.transport_sockets.raw_buffer", "typed_config": plain}},
        ]
    }


def secrets(certificate, key):
    """Of a mesh: what a sidecar shows, and whom it trusts."""
    trust = made.made("SDS", {"name": "ROOTCA", "validation_context": {"trusted_ca": {"inline_string": certificate}}})
    return {"default": packed(made.secret("default", certificate, key)), "ROOTCA": packed(trust)}


def endpoints(name, origin, count, first=0):
    """The origin, and addresses that nobody asks."""
    told = made.assignment(name, origin.port)
    for number in range(first, first + count - 1):
        told["endpoints"][0]["lb_endpoints"].append({"endpoint": {"address": made.address(1 + number, f"127.{number % 200 + 1}.0.2")}})
    return packed(made.made("EDS", told))


class Scale:
    """A proxy and its control plane, in one variant."""

    def __init__(self, play, origin, count, pairs=None):
        self.play, self.origin, self.pairs = play, origin, pairs
        self.names = [f"c{number}" for number in range(count)]

    def begin(self):
        """A world of one cluster: what memory is held against."""
        play = self.play
        play.world({"svc": made.cluster("svc")}, {"svc": endpoints("svc", self.origin, 1)}, {"web": made.listener("web", play.port)}, {"routes": hosts([])})
        play.becomes(self.origin.name.decode())

    def serves_all(self):
        """The first and the last cluster answer, each by its own virtual host."""
        for name in (self.names[0], self.names[-1]):
            connection = http.client.HTTPConnection("127.0.0.1", self.play.port, timeout=rig.DEADLINE_S)
            with contextlib.closing(connection):
                connection.request("GET", "/", headers={"Host": f"{name}.test"})
                if (status := connection.getresponse().status) != 200:
                    raise rig.Failed(f"{name} answers {status}")

    def grow(self):
        """All clusters, their endpoints and their routes: seconds until the last is served, by the clock and of the proxy's CPU time."""
        play = self.play
        clusters = {name: packed(made.cluster(name, **(mutual_tls(name) if self.pairs else {}))) for name in self.names}
        few = {name: endpoints(name, self.origin, 1) for name in self.names}
        routes = {"routes": packed(hosts(self.names, bool(self.pairs)))}
        begun, cpu = time.monotonic(), cpu_ms(play.proxy.pid)
        play.change("CDS", clusters)
        play.tell("CDS")
        play.change("EDS", few)
        wanted = set(self.names)
        play.stream.wait(lambda: wanted <= self.subscribed(), "a subscription to all endpoints", DEADLINE_S)
        asked = time.monotonic()
        kinds = ["CDS", "EDS"]
        if self.pairs:
            play.stream.asked("SDS")
            play.change("SDS", secrets(*self.pairs[0][:2]))
            play.tell("SDS")
            kinds.append("SDS")
        play.tell("EDS")
        answers = [play.stream.answered(kind, DEADLINE_S).answer for kind in kinds]
        play.change("RDS", routes)
        play.tell("RDS")
        answers.append(play.stream.answered("RDS", DEADLINE_S).answer)
        took, used = time.monotonic() - begun, cpu_ms(play.proxy.pid) - cpu
        if set(answers) != {"ACK"}:
            raise rig.Failed(f"answers {answers}")
        return asked - begun, took, used / 1000

    def subscribed(self):
        """Names of clusters whose endpoints the proxy has asked for."""
        requests = [request.raw for request in self.play.stream.requests if request.kind == "EDS"]
        if self.play.is_delta:
            return {name for raw in requests for name in raw.resource_names_subscribe}
        return set(requests[-1].resource_names) if requests else set()

    def more_endpoints(self):
        """Each cluster has as many as it is to have."""
        play = self.play
        more = {name: endpoints(name, self.origin, ENDPOINTS, 4 * number) for number, name in enumerate(self.names)}
        begun = time.monotonic()
        play.change("EDS", more)
        play.tell("EDS")
        if play.stream.answered("EDS", DEADLINE_S).answer != "ACK":
            raise rig.Failed("endpoints were refused")
        return time.monotonic() - begun

    def certificate_changes(self):
        """CPU time of the proxy for another certificate of all clusters."""
        before = cpu_ms(self.play.proxy.pid)
        self.play.change("SDS", secrets(*self.pairs[1][:2]))
        self.play.tell("SDS")
        if self.play.stream.answered("SDS").answer != "ACK":
            raise rig.Failed("the certificate was refused")
        return settled(lambda: cpu_ms(self.play.proxy.pid)) - before

    def one_changes(self):
        """CPU time of the proxy for one cluster's endpoints that change, nothing else told."""
        play, each = self.play, []
        for number in range(CHANGES):
            name = self.names[number * 7 % len(self.names)]
            changed = endpoints(name, self.origin, ENDPOINTS + 1 + number % 2, 4 * number)
            play.versions["EDS"] += 1
            before = cpu_ms(play.proxy.pid)
            play.stream.push("EDS", str(play.versions["EDS"]), [(name, changed)])
            if play.stream.answered("EDS").answer != "ACK":
                raise rig.Failed("endpoints were refused")
            each.append(settled(lambda: cpu_ms(play.proxy.pid)) - before)
        return statistics.median(each)


def settled(read, quiet_s=0.05, deadline_s=5):
    """A figure once it has stood still for so long, or grows by next to nothing."""
    deadline, last = time.monotonic() + deadline_s, read()
    while time.monotonic() < deadline:
        time.sleep(quiet_s)
        now = read()
        if now - last < 0.05:
            return now
        last = now
    raise rig.Failed("a figure does not come to rest")


def memory_kb(pid):
    """All that is resident, and of it what is no page of a file, once what an update has brought in is given back: five seconds after
    the last one. Pages of the program come and go with what it does, a megabyte more or less, however many clusters there are."""
    return settled(lambda: resident_kb(pid), RESTS_S, 60), anonymous_kb(pid)


def anonymous_kb(pid):
    return int(re.search(r"^RssAnon:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.M)[1])


def one(argv, is_delta, count, what, is_mesh):
    origin = Origin("a")
    with tempfile.TemporaryDirectory() as folder, Play(argv, is_delta, {"a": origin}, pathlib.Path(folder)) as play:
        scale = Scale(play, origin, count, certificates(pathlib.Path(folder)) if is_mesh else None)
        scale.begin()
        all_before, before = memory_kb(play.proxy.pid)
        asked, took, used = scale.grow()
        _, with_routes = memory_kb(play.proxy.pid)
        # Before they have endpoints that nobody answers for.
        scale.serves_all()
        _, in_use = memory_kb(play.proxy.pid)
        more = scale.more_endpoints()
        all_after, with_endpoints = memory_kb(play.proxy.pid)
        change = scale.one_changes()
        rotation = f"; another certificate of all: {scale.certificate_changes():.0f} ms" if is_mesh else ""
        play.proxy.check()
    pair = (with_routes - before) / count
    endpoint = (with_endpoints - in_use) * 1024 / (count * (ENDPOINTS - 1))
    print(
        f"{what}, {'delta' if is_delta else 'state of the world'}: {count} clusters: asks for their endpoints after {asked:.2f} s, has taken all after {took:.2f} s "
        f"({used:.2f} s of CPU time); {pair:.2f} kB for a cluster, its first endpoint and route, {(in_use - with_routes) / count:.2f} more once it was asked for; {endpoint:.0f} bytes for each further endpoint of "
        f"{count * ENDPOINTS} ({more:.2f} s); {all_before / 1024:.1f} MB before, {all_after / 1024:.1f} MB in the end, with the program; one cluster's endpoints: {change:.2f} ms of CPU time{rotation}",
        flush=True,
    )
    wrong = []
    pair_max = MESH_PAIR_KB_MAX if is_mesh else PAIR_KB_MAX
    if pair > pair_max:
        wrong.append(f"{what}: {pair:.2f} kB for a cluster, its first endpoint and route, more than {pair_max}")
    if endpoint > ENDPOINT_BYTES_MAX:
        wrong.append(f"{what}: {endpoint:.0f} bytes for each further endpoint, more than {ENDPOINT_BYTES_MAX}")
    return wrong


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, default=CLUSTERS)
    parser.add_argument("--envoy", action="store_true", help="Envoy instead")
    parser.add_argument("--mesh", action="store_true", help="clusters as those of a mesh")
    parser.add_argument("--variant", choices=["sotw", "delta"], action="append")
    parser.add_argument("--backend", choices=["io_uring", "epoll"], action="append", help="default: both")
    arguments = parser.parse_args()
    flags = ["--concurrency", "2", "--disable-hot-restart", "-l", "error"]
    commands = {"envoy": [rig.envoy(), *flags]}
    if not arguments.envoy:
        commands = {backend: [rig.ringway(), *flags, "--io-backend", backend] for backend in arguments.backend or ("io_uring", "epoll")}
    wrong = []
    for what, argv in commands.items():
        for variant in arguments.variant or ["sotw", "delta"]:
            wrong += one(argv, variant == "delta", arguments.clusters, what, arguments.mesh)
    if wrong and not arguments.envoy:
        raise rig.Failed("\n".join(wrong))


if __name__ == "__main__":
    rig.main(run)
