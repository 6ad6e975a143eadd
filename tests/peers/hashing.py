"""Balancers that hash: Envoy and Ringway must send the same request to the same endpoint, on clusters, hash policies and requests that a seed
draws, give the same cookies, and show the same sizes of rings and tables. Least request, random and localities by weight have to have the right shares.

    python3 tests/peers/hashing.py                          # needs Envoy 1.40 and a build of Ringway
    python3 tests/peers/hashing.py --seed 7 --cases 10000   # what an earlier run printed, or more of it
    python3 tests/peers/hashing.py --self                   # Envoy against itself: proves that the comparison is stable
    python3 tests/peers/hashing.py --wrong                  # and with another hash on some rings: must find differences

Endpoints are small servers that say who they are, the same for both proxies, since their addresses are hashed. Clients have addresses of the
loopback's network. The value of a cookie that is given says the connection, and with it the proxy's port: it is compared with what it must be, the
rest of the cookie with Envoy's, and a second request with it has to have the endpoint of the first.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import queue
import random
import re
import socket
import struct
import tempfile
import threading

import raw_http2
import rig
from decisions import Report, begin, counters, finish, live

TYPE = "type.googleapis.com/envoy.extensions"
ENDPOINTS = 7
PER_CLUSTER = 20
HELD = 12  # requests under way at once, where the load is bounded
SHARES = 700
PRIMES = [2, 3, 7, 11, 101, 1009, 65_537]
VALUES = ["", "a", "b", "1", "user-17", "Ünï".encode().decode("latin1"), "a b", "0123456789" * 9]
# What is drawn at random beside: enough to reach every endpoint.
TOKEN = "abcdefghijklmnopqrstuvwxyz0123456789"
SIZES = re.compile(r"^cluster\.(\w+)\.(ring_hash_lb\.\w+|maglev_lb\.\w+)$")


def xxh64(data):
    """XXH64 with seed 0."""
    mask = (1 << 64) - 1
    one, two, three, four, five = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)

    def turn(value, bits):
        return (value << bits | value >> (64 - bits)) & mask

    def mix(state, lane):
        return turn((state + lane * two) & mask, 31) * one & mask

    at = 0
    if len(data) >= 32:
        states = [(one + two) & mask, two, 0, -one & mask]
        while len(data) - at >= 32:
            states = [mix(state, lane) for state, lane in zip(states, struct.unpack_from("<4Q", data, at))]
            at += 32
        found = sum(turn(state, bits) for state, bits in zip(states, (1, 7, 12, 18))) & mask
        for state in states:
            found = ((found ^ mix(0, state)) * one + four) & mask
    else:
        found = five
    found = (found + len(data)) & mask
    while len(data) - at >= 8:
        found = (turn(found ^ mix(0, struct.unpack_from("<Q", data, at)[0]), 27) * one + four) & mask
        at += 8
    if len(data) - at >= 4:
        found = (turn(found ^ struct.unpack_from("<I", data, at)[0] * one & mask, 23) * two + three) & mask
        at += 4
    for byte in data[at:]:
        found = turn(found ^ byte * five & mask, 11) * one & mask
    for bits, factor in ((33, two), (29, three), (32, 1)):
        found = (found ^ found >> bits) * factor & mask
    return found


class Endpoints:
    """Servers that answer with their names. A request with `x-hold` is answered once `release` is set."""

    def __init__(self):
        self.arrived = queue.Queue()
        self.release = threading.Event()
        self.listeners = [socket.create_server(("127.0.0.1", port)) for port in rig.free_ports(ENDPOINTS)]
        self.ports = [listener.getsockname()[1] for listener in self.listeners]
        for number, listener in enumerate(self.listeners):
            threading.Thread(target=self.accept, args=(listener, f"e{number}"), daemon=True).start()

    def accept(self, listener, name):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=self.serve, args=(sock, name), daemon=True).start()

    def serve(self, sock, name):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = rig.Reader(sock)
        with contextlib.suppress(OSError, EOFError), sock:
            while True:
                request = reader.message()
                if request.values("x-hold"):
                    self.arrived.put(name)
                    self.release.wait()
                sock.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: {len(name)}\r\n\r\n{name}".encode())

    def close(self):
        self.release.set()
        for listener in self.listeners:
            listener.close()


@dataclasses.dataclass
class Case:
    """A cluster, how its requests are hashed, and the requests."""

    name: str
    cluster: dict
    route: dict
    tcp: bool = False
    edited: bool = False  # the route gives a header to its requests, which are hashed with it
    requests: list = dataclasses.field(default_factory=list)

    def __str__(self):
        return f"  cluster: {json.dumps(self.cluster)}\n  route: {json.dumps(self.route)}"


@dataclasses.dataclass
class Request:
    path: str
    headers: list
    source: str
    direct: bool = True
    http2: bool = False


class Draw:
    def __init__(self, rng, ports):
        self.rng, self.ports = rng, ports

    def chance(self, share):
        return self.rng.random() < share

    def token(self):
        return "".join(self.rng.choices(TOKEN, k=self.rng.randint(1, 24)))

    def endpoint(self, number):
        rng = self.rng
        endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.ports[number]}}}
        if self.chance(0.5):
            endpoint["hostname"] = f"host-{number}.test"
        made = {"endpoint": endpoint}
        if self.chance(0.2):
            key = rng.choice([f"key-{number}", f"key-{number}", number])
            made["metadata"] = {"filter_metadata": {"envoy.lb": {"hash_key": key, "other": "x"}}}
        return made

    def cluster(self, name, factor=None):
        """A cluster whose balancer hashes."""
        rng = self.rng
        numbers = rng.sample(range(ENDPOINTS), rng.randint(3, ENDPOINTS))
        weighted, ill, levels = self.chance(0.5), self.chance(0.3), 2 if self.chance(0.2) else 1
        # Their names are in another order than they are, and some have no weight.
        by_locality, zones = self.chance(0.3), rng.sample("abc", rng.choice([1, 1, 2, 3]))
        localities = [{"priority": level, "locality": {"zone": zone}, "lb_endpoints": []} for level in range(levels) for zone in zones]
        for locality in localities:
            if self.chance(0.9):
                locality["load_balancing_weight"] = rng.choice([1, 1, 2, 5, 100])
        for place, number in enumerate(numbers):
            made = self.endpoint(number)
            if weighted and self.chance(0.8):
                made["load_balancing_weight"] = rng.choice([1, 1, 2, 3, 7, 50, 128])
            if ill and self.chance(0.4):
                made["health_status"] = rng.choice(["UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED", "HEALTHY"])
            localities[place % len(localities)]["lb_endpoints"].append(made)
        made = {"name": name, "connect_timeout": "5s", "load_assignment": {"cluster_name": name, "endpoints": localities}}
        common = {}
        if self.chance(0.3):
            common["use_hostname_for_hashing"] = True
            made["type"] = "STRICT_DNS"
            for each in (each for locality in localities for each in locality["lb_endpoints"]):
                # Of several endpoints without a name it would be chance which has a place.
                port = each["endpoint"]["address"]["socket_address"]["port_value"]
                each["endpoint"].setdefault("hostname", f"host-{self.ports.index(port)}.test")
        if factor:
            common["hash_balance_factor"] = factor
        old = self.chance(0.5)
        if self.chance(0.6):
            config, kind = self.ring(), ("RING_HASH", "ring_hash_lb_config", "ring_hash.v3.RingHash")
        else:
            config, kind = {"table_size": rng.choice(PRIMES)} if self.chance(0.7) else {}, ("MAGLEV", "maglev_lb_config", "maglev.v3.Maglev")
        if old:
            made |= {"lb_policy": kind[0], "common_lb_config": {"consistent_hashing_lb_config": common}}
            if by_locality:
                made["common_lb_config"]["locality_weighted_lb_config"] = {}
            return made | ({kind[1]: config} if config else {})
        if kind[0] == "RING_HASH" and self.chance(0.3):
            config |= common  # deprecated, and still read
        elif common or self.chance(0.5):
            config["consistent_hashing_lb_config"] = common
        if by_locality:
            config["locality_weighted_lb_config"] = {}
        unknown = {"name": "unknown", "typed_config": {"@type": f"{TYPE}.load_balancing_policies.round_robin.v3.RoundRobin"}}
        extension = {"name": "x", "typed_config": {"@type": f"{TYPE}.load_balancing_policies.{kind[2]}", **config}}
        policies = [{"typed_extension_config": extension}] + ([{"typed_extension_config": unknown}] if self.chance(0.3) else [])
        return made | {"load_balancing_policy": {"policies": policies}}

    def ring(self):
        rng, config = self.rng, {}
        if self.chance(0.7):
            config["minimum_ring_size"] = rng.choice([1, 7, 64, 1000, 5000, 100_000])
        if self.chance(0.3):
            config["maximum_ring_size"] = max(config.get("minimum_ring_size", 1024), rng.choice([1, 10, 2000, 200_000]))
        if self.chance(0.6):
            config["hash_function"] = rng.choice(["XX_HASH", "MURMUR_HASH_2", "MURMUR_HASH_2"])
        return config

    def policy(self):
        rng = self.rng
        kind = rng.choice(["header", "header", "cookie", "cookie", "connection_properties", "query_parameter"])
        if kind == "header":
            policy = {"header_name": rng.choice(["x-a", "x-b", "X-A", ":path", ":authority", "x-forwarded-for", "user-agent"])}
            if self.chance(0.3):
                pattern, substitution = rng.choice([("[0-9]+", ""), ("^(.)(.*)$", r"\2\1"), ("a", r"\0\0"), ("x*", "-"), (".*", "all"), (r"^/\d+/", "/")])
                policy["regex_rewrite"] = {"pattern": {"regex": pattern}, "substitution": substitution}
        elif kind == "cookie":
            policy = {"name": rng.choice(["c", "session"])}
            if self.chance(0.6):
                policy["ttl"] = rng.choice(["0s", "1s", "3600s", "1.5s", "0.5s"])
            if self.chance(0.5):
                policy["path"] = rng.choice(["/", "/p", "/a b"])
            if self.chance(0.4):
                policy["attributes"] = [{"name": "SameSite", "value": "Strict"}, {"name": "Secure"}, {"name": "x", "value": "1; y"}][: rng.randint(1, 3)]
        elif kind == "connection_properties":
            policy = {"source_ip": self.chance(0.9)}
        else:
            policy = {"name": rng.choice(["q", "user"])}
        return {kind: policy} | ({"terminal": True} if self.chance(0.3) else {})

    def case(self, number):
        name = f"c{number}"
        if self.chance(0.1):
            made = Case(name, self.cluster(name), {"hash_policy": [{"source_ip": {}}]}, tcp=True)
        else:
            made = Case(name, self.cluster(name), {"hash_policy": [self.policy() for _ in range(self.rng.choice([1, 1, 1, 2, 3]))]})
            if self.chance(0.3):
                made.route["prefix_rewrite"] = "/new/"
            made.edited = self.chance(0.3)
        made.requests = [self.request(number) for _ in range(PER_CLUSTER)]
        return made

    def value(self):
        return self.rng.choice(VALUES) if self.chance(0.2) else self.token()

    def request(self, number):
        rng, headers = self.rng, []
        for name in ("x-a", "x-b", "user-agent"):
            headers += [(name, self.value()) for _ in range(rng.choice([0, 1, 1, 1, 2, 3] if name != "user-agent" else [0, 1]))]
        if self.chance(0.7):
            headers.append(("cookie", self.cookies()))
            if self.chance(0.1):
                headers.append(("cookie", self.cookies()))
        if self.chance(0.5):
            headers.append(("x-forwarded-for", rng.choice(["10.1.2.3", "192.168.7.1, 10.9.9.9", "2001:db8::7", "::ffff:10.1.2.3", "nobody", "127.0.0.1"])))
        rng.shuffle(headers)
        parameters = [f"{name}={self.token()}" if self.chance(0.8) else name for name in rng.choices(["q", "user", "Q", "other"], k=rng.randint(0, 3))]
        query = rng.choice(["?", "?", "?&", ""]) + "&".join(parameters) if parameters else rng.choice(["", "", "?"])
        source = "127." + ".".join(str(rng.randint(0, 255)) for _ in range(2)) + f".{rng.randint(1, 254)}"
        return Request(f"/{number}/{self.token()}{query}", headers, source, direct=self.chance(0.6), http2=self.chance(0.2))

    def cookies(self):
        rng = self.rng
        pairs = []
        for _ in range(rng.randint(1, 3)):
            name, value = rng.choice(["c", "c", "session", "C", "other"]), self.token()
            pairs.append(rng.choice([f"{name}={value}", f"{name}={value}", f'{name}="{value}"', f"{name}=", f"{name} ={value}", name, f"{name}=a=b"]))
        return rng.choice(["; ", "; ", ";", ";  "]).join(pairs)


def bootstrap(admin, ports, cases, shares):
    """One for both, but for the ports of its listeners, the last of `ports` the first case's that is no HTTP."""
    def routes():
        for case in cases:
            if not case.tcp:
                yield {"match": {"prefix": f"/{case.name[1:]}/"}, "route": {"cluster": case.name, **case.route},
                       "request_headers_to_add": [{"header": {"key": "x-a", "value": "%REQ(x-b)%."}}] if case.edited else [],
                       "response_headers_to_remove": ["set-cookie"] if case.name.endswith("9") else []}
        for cluster in shares:
            yield {"match": {"prefix": f"/{cluster['name']}/"}, "route": {"cluster": cluster["name"]}}

    def listener(name, port, filters):
        address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        return {"name": name, "address": address, "filter_chains": [{"filters": filters}]}

    def http(direct):
        return [{"name": "http", "typed_config": {
            "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "h", "use_remote_address": direct,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes())}]},
            "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}}]}}]

    def tcp(case):
        return [{"name": "tcp", "typed_config": {"@type": f"{TYPE}.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": case.name, **case.route}}]

    listeners = [listener("direct", ports[0], http(True)), listener("behind", ports[1], http(False))]
    listeners += [listener(case.name, port, tcp(case)) for case, port in zip((case for case in cases if case.tcp), ports[2:])]
    return json.dumps({"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
                       "static_resources": {"listeners": listeners, "clusters": [case.cluster for case in cases] + shares}})


def connect(port, source):
    sock = socket.socket()
    sock.settimeout(rig.DEADLINE_S)
    sock.bind((source, 0))
    sock.connect(("127.0.0.1", port))
    return sock


def head(path, headers):
    lines = [f"GET {path} HTTP/1.1", "host: hash.test", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin1")


def ask(sock, path, headers):
    """The answer on a connection of HTTP/1.1: who it is from, and the cookies it gives."""
    sock.sendall(head(path, headers))
    answer = rig.Reader(sock).message(is_response=True)
    return f"{answer.status} {answer.body.decode()[:40]}", answer.values("set-cookie")


def ask_http2(sock, path, headers):
    """The answer's content on a new connection of HTTP/2."""
    fields = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "hash.test"), *headers]
    sock.sendall(raw_http2.PREFACE + raw_http2.settings() + raw_http2.request(1, fields))
    body = b""
    for kind, flags, stream, payload in raw_http2.frames(sock):
        body += payload if kind == raw_http2.DATA and stream == 1 else b""
        if stream == 1 and flags & raw_http2.END_STREAM:
            return f"200 {body.decode()[:40]}"
    raise rig.Failed(f"no answer to {path} {headers}")


def has_hash(case, request):
    """Whether any policy hashes; else any endpoint is right."""
    named = {":path", ":authority", *(name for name, _ in request.headers), *(["x-forwarded-for"] if request.direct else []),
             *(["x-a"] if case.edited else [])}
    for policy in case.route["hash_policy"]:
        if "header" in policy and policy["header"]["header_name"].lower() in named:
            return True
        if "connection_properties" in policy and policy["connection_properties"]["source_ip"] or "source_ip" in policy:
            return True
        if "cookie" in policy and ("ttl" in policy["cookie"] or cookie(request, policy["cookie"]["name"])):
            return True
        if "query_parameter" in policy:
            pairs = request.path.partition("?")[2].split("&")
            if any(pair.partition("=")[0] == policy["query_parameter"]["name"] for pair in pairs):
                return True
    return False


def cookie(request, name):
    for pair in ";".join(value for key, value in request.headers if key == "cookie").split(";"):
        key, equals, value = pair.lstrip(" ").partition("=")
        if equals and key == name:
            return value[1:-1] if len(value) >= 2 and value[0] == value[-1] == '"' else value
    return ""


def gives_cookie(case, request):
    return any("ttl" in policy.get("cookie", {}) and not cookie(request, policy["cookie"]["name"]) for policy in case.route["hash_policy"])


def answered(case, request, ports):
    """What the request got: an endpoint where the request's hash alone says which, and the cookies with their values in place of the addresses."""
    if case.tcp:
        with connect(ports[0], request.source) as sock:
            return ask(sock, "/", [])[0]
    port = ports[0 if request.direct else 1]
    with connect(port, request.source) as sock:
        if request.http2:
            # Cookies may come in pieces here; they count as one line.
            pieces = [(key, piece) for key, value in request.headers for piece in ([each.strip() for each in value.split(";")] if key == "cookie" else [value])]
            who = ask_http2(sock, request.path, pieces)
            return who if has_hash(case, request) and not gives_cookie(case, request) else who[:4]
        who, given = ask(sock, request.path, request.headers)
        address = "{}:{}".format(*sock.getsockname()) + f"127.0.0.1:{port}"
    value = f'"{xxh64(address.encode()):016x}"'
    if given:
        # Each name once: a second request has the first one's cookie for all policies of that name.
        names = list(dict.fromkeys(each.partition("=")[0] for each in given))
        headers = [*request.headers, *(("cookie", f"{name}={value}") for name in names if not cookie(request, name))]
        headers = [(key, text) for key, text in headers if key != "cookie"] + [("cookie", "; ".join(
            [f"{name}={value}" for name in names] + [text for key, text in headers if key == "cookie"]))]
        with connect(port, request.source) as sock:
            again = ask(sock, request.path, headers)
        back = "led back" if again == (who, []) else f"{who}, and with its cookie {again}"
        if any(sum(policy.get("cookie", {}).get("name") == name for policy in case.route["hash_policy"]) > 1 for name in names):
            back = "led elsewhere"  # what was hashed once is hashed twice then
        return f"{who[:4]} {[each.replace(value, 'CONNECTION') for each in given]} {back}"
    return who if has_hash(case, request) and not gives_cookie(case, request) else who[:4]


def held(case, request, port, endpoints):
    """Where requests of one hash go while those before are under way."""
    endpoints.release.clear()
    with contextlib.ExitStack() as open_:
        found, socks = [], []
        for _ in range(HELD):
            sock = open_.enter_context(connect(port, "127.0.0.1"))
            sock.sendall(head(request.path, [*request.headers, ("x-hold", "1")]))
            socks.append(sock)
            try:
                found.append(endpoints.arrived.get(timeout=rig.DEADLINE_S))
            except queue.Empty:
                found.append("nobody")
                break
        endpoints.release.set()
        for sock in socks:
            rig.Reader(sock).message(is_response=True)
    return found


def share_clusters(ports):
    """Balancers whose choice is chance: what they are asked of three endpoints."""
    def made(name, fields, weights=(1, 1, 1)):
        each = [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}, "load_balancing_weight": weight}
                for port, weight in zip(ports, weights)]
        return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": each}]}, **fields}

    def located(name, fields, *localities):
        """Localities: weight, priority, and endpoints, each with its health if it has one."""
        def endpoint(number, health="HEALTHY"):
            return {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": ports[number]}}}, "health_status": health}

        made = [{"locality": {"zone": f"z{place}"}, "priority": priority, "lb_endpoints": [endpoint(*each) for each in endpoints],
                 **({"load_balancing_weight": weight} if weight else {})} for place, (weight, priority, endpoints) in enumerate(localities)]
        return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": made}, **fields}

    def extension(kind, **fields):
        return {"load_balancing_policy": {"policies": [{"typed_extension_config": {
            "name": "x", "typed_config": {"@type": f"{TYPE}.load_balancing_policies.{kind}", **fields}}}]}}

    by_locality = {"common_lb_config": {"locality_weighted_lb_config": {}}}
    return [
        made("random", {"lb_policy": "RANDOM"}, (1, 9, 1)), made("random_extension", extension("random.v3.Random")),
        made("least", {"lb_policy": "LEAST_REQUEST"}), made("least_of_five", {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"choice_count": 5}}),
        made("least_weighted", {"lb_policy": "LEAST_REQUEST"}, (1, 2, 4)), made("full_scan", extension("least_request.v3.LeastRequest", selection_method="FULL_SCAN")),
        located("two_localities", by_locality, (1, 0, [(0,)]), (3, 0, [(1,), (2,)])),
        located("two_localities_at_random", {**by_locality, "lb_policy": "RANDOM"}, (1, 0, [(0,)]), (3, 0, [(1,), (2,)])),
        located("two_localities_by_extension", extension("least_request.v3.LeastRequest", locality_lb_config=by_locality["common_lb_config"]),
                (2, 0, [(0,)]), (1, 0, [(1,), (2,)])),
        located("half_a_locality", by_locality, (1, 0, [(0,)]), (1, 0, [(1,), (2, "UNHEALTHY")])),
        located("locality_without_weight", by_locality, (1, 0, [(0,)]), (0, 0, [(1,), (2,)])),
        located("localities_without_weights", by_locality, (0, 0, [(0,)]), (0, 0, [(1,), (2,)])),
        located("localities_ignored", {}, (1, 0, [(0,)]), (9, 0, [(1,), (2,)])),
        located("localities_and_priorities", by_locality, (1, 0, [(0,)]), (1, 0, [(1, "UNHEALTHY")]), (2, 1, [(2,)])),
        located("degraded_locality", by_locality, (1, 0, [(0,)]), (3, 0, [(1, "DEGRADED"), (2, "DEGRADED")])),
        located("localities_in_panic", by_locality, (1, 0, [(0,)]), (9, 0, [(1, "UNHEALTHY"), (2, "UNHEALTHY")])),
        made("unbiased", {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"active_request_bias": {"default_value": 0, "runtime_key": "a.b"}}}, (1, 2, 4)),
    ]


def shares_of(name, port, endpoints):
    """The share of each endpoint while one request of the first is under way."""
    endpoints.release.clear()
    seen = {f"e{number}": 0 for number in range(3)}
    with contextlib.ExitStack() as open_:
        waiting = []
        while True:
            sock = open_.enter_context(connect(port, "127.0.0.1"))
            sock.sendall(head(f"/{name}/", [("x-hold", "1")]))
            waiting.append(sock)
            # Until the first endpoint has one, and nobody else.
            if endpoints.arrived.get(timeout=rig.DEADLINE_S) == "e0":
                break
            endpoints.release.set()
            rig.Reader(waiting.pop()).message(is_response=True)
            endpoints.release.clear()
        with connect(port, "127.0.0.1") as sock:
            for _ in range(SHARES):
                seen[ask(sock, f"/{name}/", [])[0][4:]] += 1
        endpoints.release.set()
        rig.Reader(waiting[0]).message(is_response=True)
    return [count / SHARES for count in seen.values()]


def answers(peer, cases, bounded, shares, endpoints):
    admin, *ports = rig.free_ports(3 + sum(case.tcp for case in cases))
    own = dict(zip((case.name for case in cases if case.tcp), ports[2:]))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "bootstrap.json"
        path.write_text(peer.changed(bootstrap(admin, ports, [*cases, *bounded], shares)), encoding="utf-8")
        with rig.Process([*peer.argv, "-c", path], ready_port=admin) as proxy:
            rig.wait_for(lambda: proxy.check() and live(admin), f"{peer.name} to be ready")
            got = {case.name: [answered(case, request, [own[case.name]] if case.tcp else ports) for request in case.requests] for case in cases}
            got |= {case.name: [held(case, request, ports[0], endpoints) for request in case.requests] for case in bounded}
            parts = {cluster["name"]: shares_of(cluster["name"], ports[0], endpoints) for cluster in shares}
            proxy.check()
            sizes = {}
            for name, value in counters(admin).items():
                if found := SIZES.match(name):
                    sizes.setdefault(found[1], {})[found[2]] = value
            return got, sizes, parts


def oddities(draw):
    """Clusters and policies that may not load."""
    extension = f"{TYPE}.load_balancing_policies"
    clusters = [{"lb_policy": "RING_HASH", "ring_hash_lb_config": fields} for fields in (
        {"minimum_ring_size": 0}, {"minimum_ring_size": 8_388_608}, {"minimum_ring_size": 8_388_609}, {"maximum_ring_size": 8_388_609}, {"maximum_ring_size": 0},
        {"maximum_ring_size": 1023}, {"minimum_ring_size": 5, "maximum_ring_size": 4}, {"hash_function": 2}, {"minimum_ring_size": 0, "maximum_ring_size": 0})]
    clusters += [{"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": size}} for size in (0, 1, 2, 4, 65_536, 5_000_011, 5_000_012, 5_000_017)]
    clusters += [{"lb_policy": "LEAST_REQUEST", "least_request_lb_config": fields} for fields in (
        {"choice_count": 1}, {"choice_count": 2}, {"active_request_bias": {"default_value": -1, "runtime_key": "a"}}, {"active_request_bias": {"default_value": 1}})]
    clusters += [{"lb_policy": "MAGLEV", "common_lb_config": {"consistent_hashing_lb_config": {"hash_balance_factor": factor}}} for factor in (0, 1, 99, 100)]
    clusters += [{"lb_policy": "RING_HASH", "maglev_lb_config": {"table_size": 7}}, {"lb_policy": "RANDOM", "ring_hash_lb_config": {"minimum_ring_size": 7}}]
    clusters += [{"load_balancing_policy": {"policies": [{"typed_extension_config": {"name": "x", "typed_config": {"@type": f"{extension}.{kind}", **fields}}}]}}
                 for kind, fields in (
                     # The API's own bounds are left out: Envoy does not hold these extensions to them.
                     ("ring_hash.v3.RingHash", {"minimum_ring_size": 9_000_000}),
                     ("ring_hash.v3.RingHash", {"maximum_ring_size": 7}), ("maglev.v3.Maglev", {"table_size": 6}),
                     ("least_request.v3.LeastRequest", {"enable_full_scan": True}), ("random.v3.Random", {}))]
    # What Ringway refuses on purpose is left out: names that no header has, and line breaks in what becomes a cookie.
    policies = [
        {}, {"terminal": True}, {"header": {}}, {"header": {"header_name": "x", "regex_rewrite": {"pattern": {"regex": "("}}}},
        {"header": {"header_name": "x", "regex_rewrite": {"pattern": {"regex": ""}, "substitution": "x"}}}, {"header": {"header_name": "x", "regex_rewrite": {}}},
        {"cookie": {}}, {"cookie": {"name": "c", "ttl": "-1s"}}, {"cookie": {"name": "c", "attributes": [{}]}},
        {"cookie": {"name": "c", "attributes": [{"name": "x", "value": "a\rb"}]}}, {"cookie": {"name": "c", "attributes": [{"name": "a\nb"}]}},
        {"connection_properties": {}}, {"query_parameter": {}}, {"filter_state": {}}, {"filter_state": {"key": "x"}},
    ]
    plain = {"hash_policy": [{"header": {"header_name": "x"}}]}
    cluster = draw.cluster("c0")
    for name in ("lb_policy", "common_lb_config", "ring_hash_lb_config", "maglev_lb_config", "load_balancing_policy"):
        cluster.pop(name, None)
    yield from (Case("c0", cluster | fields, plain) for fields in clusters)
    yield from (Case("c0", cluster, {"hash_policy": [policy]}) for policy in policies)
    yield from (Case("c0", cluster, {"hash_policy": policies}, tcp=True) for policies in (
        [], [{}], [{"source_ip": {}}], [{"source_ip": {}}, {"source_ip": {}}], [{"filter_state": {}}], [{"filter_state": {"key": "x"}}]))


def verdicts(peers, report, draw):
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "bootstrap.json"
        for case in oddities(draw):
            path.write_text(bootstrap(1, [2, 3, 4], [case], []), encoding="utf-8")
            said = [peer.verdict(path) for peer in peers]
            refused += not said[0][0]
            if said[0][0] != said[1][0]:
                report.difference("load", "load", case, *(f"{'accepts' if good else 'refuses'}: {text[-300:]}" for good, text in said))
    print(f"{refused} of the odd ones refused by Envoy", flush=True)


def exchanged(text):
    """A bootstrap that must show: other hashes."""
    return text.replace('"MURMUR_HASH_2"', '"XX_HASH"')


def compare(peers, report, cases, bounded, endpoints):
    shares = share_clusters(endpoints.ports)
    (theirs, their_sizes, their_shares), (ours, our_sizes, our_shares) = (answers(peer, cases, bounded, shares, endpoints) for peer in peers)
    for case in [*cases, *bounded]:
        pairs = list(zip(case.requests, theirs[case.name], ours[case.name]))
        wrong = [pair for pair in pairs if pair[1] != pair[2]]
        if wrong:
            report.found["request"] += len(wrong) - 1
            request, their_answer, our_answer = wrong[0]
            report.difference("request", f"{len(wrong)} of {len(pairs)} requests", case, their_answer, our_answer, request)
        their_size, our_size = their_sizes.get(case.name, {}), our_sizes.get(case.name, {})
        # Envoy shows the table of its last priority, Ringway that of the last one which gets requests.
        levels = len({locality["priority"] for locality in case.cluster["load_assignment"]["endpoints"]})
        # Without endpoints that may be used Envoy goes on showing the table before; which requests are answered is compared above.
        if levels == 1 and any(our_size.values()) and any(our_size.get(name) != value for name, value in their_size.items()):
            report.difference("size", f"sizes of {case.name}", case, their_size, our_size)
    for name, their_parts in their_shares.items():
        # Two draws of the same chance: their difference has twice the variance. Six deviations are allowed.
        if any(abs(a - b) > 6 * math.sqrt(2 * max(a * (1 - a), 0.01) / SHARES) for a, b in zip(their_parts, our_shares[name])):
            report.difference("share", f"shares of {name}", name, their_parts, our_shares[name])
    exact = [answer for case in cases for answer in theirs[case.name] if answer[4:5] == "e"]
    given = [answer for case in cases for answer in theirs[case.name] if "led back" in answer]
    print(f"{len(exact)} requests by their hash to {len(set(exact))} endpoints, {len(given)} given cookies, {sum(len(case.requests) for case in bounded)} times "
          f"{HELD} under way; shares {({name: [round(part, 2) for part in parts] for name, parts in their_shares.items()})}", flush=True)
    if any(answer.startswith("5") or "and with its cookie" in answer for case in cases for answer in theirs[case.name]):
        print("some requests of Envoy's found no endpoint or were not led back: compared all the same", flush=True)
    if len(exact) < len(cases) * PER_CLUSTER // 3 or not given:
        raise rig.Failed("these cases ask too little")


def run():
    arguments, peers = begin(__doc__, 1200, exchanged)
    # What is compared here knows nothing of back ends: one is enough.
    peers = peers[:2]
    for peer in peers:
        # What is under way is counted per worker.
        peer.argv = [*peer.argv[:1], "--concurrency", "1", *peer.argv[3:]]
    report = Report(peers)
    endpoints = Endpoints()
    try:
        draw = Draw(random.Random(arguments.seed), endpoints.ports)
        verdicts(peers, report, draw)
        cases = [draw.case(number) for number in range(-(-arguments.cases // PER_CLUSTER))]
        bounded = []
        for number in range(len(cases), len(cases) + max(2, len(cases) // 10)):
            factor = draw.rng.choice([100, 110, 150, 200, 1000])
            case = Case(f"c{number}", draw.cluster(f"c{number}", factor), {"hash_policy": [{"header": {"header_name": "x-key"}}]})
            case.requests = [Request(f"/{number}/", [("x-key", draw.token())], "127.0.0.1") for _ in range(4)]
            bounded.append(case)
        compare(peers, report, cases, bounded, endpoints)
    finally:
        endpoints.close()
    finish(arguments, report)


if __name__ == "__main__":
    rig.main(run)
