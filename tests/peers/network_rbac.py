"""The network RBAC filter: Envoy and Ringway must let the same connections through, on rules and connections that a seed draws, refuse
the same rules at load, and count alike.

    python3 tests/peers/network_rbac.py                          # needs Envoy 1.40 and a build of Ringway
    python3 tests/peers/network_rbac.py --seed 7 --cases 10000   # what an earlier run printed, or more of it
    python3 tests/peers/network_rbac.py --self                   # Envoy against itself: proves that the comparison is stable
    python3 tests/peers/network_rbac.py --wrong                  # and with some actions exchanged: must find differences

Behind the rules is an echo: who comes through gets its bytes back, who does not is closed. Some rules are followed by a direct response,
which answers before the rules are asked, since they wait for the first byte. Some listeners speak TLS and ask for certificates (those of rbac.py):
their clients make real handshakes, and the echo is an endpoint behind a TCP proxy.
"""

import contextlib
import copy
import dataclasses
import functools
import json
import pathlib
import random
import ssl
import tempfile

import protocols_case
import rbac
import rig
from connections import OPEN, Connection, opened, perform
from decisions import Report, Way, begin, decide, finish
from filter_chains_cases import ELSEWHERE, LISTENER_FILTERS, RANGES, SNI, TYPE, Chain, Generator, Listener, network
from matchers import Matchers, extension, network_inputs, ssl_inputs

MARK = b"\nthe last line of all\n"
SECURE_SHARE = 0.25  # of the listeners
SECURE = "under TLS, "  # what came of a handshake begins so
SECURE_FILTERS = [["tls"], ["tls"], ["tls"], ["proxy", "tls"], ["proxy", "tls"], []]
# Names that a TLS library writes.
SECURE_NAMES = ["a.example.com", "b.example.com", "c.a.example.com", "example.com", "example.org", "b.test", "A.EXAMPLE.com", None]


@dataclasses.dataclass(frozen=True)
class Shaken(Connection):
    """One that makes a handshake of the version `first`, and shows this certificate of rbac.py."""

    certificate: str = "none"


@dataclasses.dataclass
class Guarded(Chain):
    """RBAC filters, and what is behind them."""

    rules: list = dataclasses.field(default_factory=list)
    echo: bool = True

    def behind(self, message):
        return [{"name": "echo", "typed_config": {"@type": f"{TYPE}.network.echo.v3.Echo"}}] if self.echo else message["filters"]

    def written(self):
        message = super().written()
        guards = [{"name": f"rbac{index}", "typed_config": {"@type": f"{TYPE}.network.rbac.v3.RBAC", **rules}} for index, rules in enumerate(self.rules)]
        return message | {"filters": guards + self.behind(message)}

    def __str__(self):
        return f"{self.name}, {'an echo' if self.echo else 'a direct response'} behind:" + "".join(f"\n      {json.dumps(rules)}" for rules in self.rules)


@dataclasses.dataclass
class Secured(Guarded):
    """The same under TLS, with the certificates of a folder; behind is a TCP proxy in front of an echo on this port."""

    folder: pathlib.Path | None = None
    port: int = 0

    @property
    def clusters(self):
        endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.port}}}
        return [{"name": "echo", "load_assignment": {"cluster_name": "echo", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]}}]

    def behind(self, message):
        return [{"name": "tcp", "typed_config": {"@type": f"{TYPE}.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "tcp", "cluster": "echo"}}]

    def written(self):
        return super().written() | rbac.tls_socket(self.folder)

    def __str__(self):
        return f"under TLS, {super().__str__()}"


class Rules(Generator):
    """`folder`: of the certificates; `port`: of the echo behind TCP proxies."""

    def __init__(self, rng, folder, port):
        super().__init__(rng)
        self.folder, self.port = folder, port
        self.secure = False  # whether rules are drawn for connections under TLS

    def text(self):
        """A string matcher for server names."""
        name = self.rng.choice(SNI)
        return self.rng.choice([
            {"exact": name}, {"exact": name.lower()}, {"prefix": name[:3] or "a"}, {"suffix": name[-4:] or "m"}, {"contains": "example"},
            {"exact": name.upper(), "ignore_case": True}, {"suffix": ".COM", "ignore_case": True},
            {"safe_regex": {"regex": self.rng.choice([r".*\.example\.com", r"[ab]\..*", "example", "a?", r"(?i).*\.COM", r"^b\.test$"])}},
        ])

    def permission(self, depth=0):
        kinds = {
            "any": lambda: True, "destination_ip": lambda: network(self.rng.choice(RANGES)),
            "destination_port": lambda: self.rng.choice(["own", 443, 8443]),
            "destination_port_range": lambda: self.rng.choice([{"start": 443, "end": 444}, {"start": 442, "end": 443}, {"start": 1, "end": 1024}, {"end": 65536}]),
            "requested_server_name": self.text, "url_path": lambda: {"path": {"prefix": "/"}}, "metadata": self.noted,
            "not_rule": lambda: self.permission(depth + 1), "and_rules": lambda: {"rules": self.many(self.permission, depth)},
            "or_rules": lambda: {"rules": self.many(self.permission, depth)},
        }
        return self.one_of(kinds, depth, [2, 5, 3, 3, 5, 1, 2, 3, 3, 2])

    def noted(self):
        """A condition on what shadow rules have noted before."""
        key = self.rng.choice(["shadow_engine_result", "shadow_engine_result", "shadow_shadow_engine_result", "shadow_effective_policy_id", "nothing"])
        value = self.rng.choice([{"string_match": {"exact": "allowed"}}, {"string_match": {"prefix": "policy"}}, {"present_match": True}, {"bool_match": True}])
        return {"filter": "envoy.filters.network.rbac", "path": [{"key": key}], "value": value, "invert": self.likely(0.3)}

    def identity(self):
        """A string matcher for what certificates say."""
        text = self.rng.choice(rbac.IDENTITIES)
        some = text or "a"
        cut = self.rng.randint(1, len(some))
        return self.rng.choice([
            {"exact": text}, {"exact": text}, {"exact": some.swapcase(), "ignore_case": True}, {"prefix": some[:cut]}, {"suffix": some[-cut:]},
            {"contains": some[cut - 1:]}, {"safe_regex": {"regex": self.rng.choice(rbac.IDENTITY_PATTERNS)}},
        ])

    def authenticated(self):
        if self.secure:
            return {"principal_name": self.identity()} if self.likely(0.85) else {}
        return self.rng.choice([{}, {"principal_name": {"contains": "a"}}, {"principal_name": {"exact": "spiffe://a/b"}}])

    def principal(self, depth=0):
        kinds = {
            "any": lambda: True, "source_ip": lambda: network(self.rng.choice(RANGES)),
            "direct_remote_ip": lambda: network(self.rng.choice(RANGES)), "remote_ip": lambda: network(self.rng.choice(RANGES)),
            "authenticated": self.authenticated,
            "url_path": lambda: {"path": {"prefix": "/"}}, "sourced_metadata": lambda: {"metadata_matcher": self.noted()},
            "not_id": lambda: self.principal(depth + 1), "and_ids": lambda: {"ids": self.many(self.principal, depth)},
            "or_ids": lambda: {"ids": self.many(self.principal, depth)},
        }
        # Without TLS nobody is authenticated: few ask.
        return self.one_of(kinds, depth, [3, 3, 4, 5, 12 if self.secure else 1, 1, 2, 3, 3, 2])

    def one_of(self, kinds, depth, weights):
        """One kind; those that hold others, the last three, not too deep."""
        kept = len(kinds) - 3 * (depth > 2)
        kind = self.rng.choices(list(kinds)[:kept], weights[:kept])[0]
        return {kind: kinds[kind]()}

    def many(self, one, depth):
        return [one(depth + 1) for _ in range(self.rng.randint(1, 3))]

    def policies(self):
        return {
            "action": self.rng.choices(["ALLOW", "DENY", "LOG"], [4, 4, 1])[0],
            "policies": {f"policy{number}": {"permissions": self.many(self.permission, 0), "principals": self.many(self.principal, 0)}
                         for number in range(self.rng.choice([0, 1, 1, 1, 2, 3]))},
        }

    def matcher(self):
        def action():
            return {"@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": self.rng.choice(["a", "b c", "d"]),
                    "action": self.rng.choices(["ALLOW", "DENY", "LOG"], [4, 3, 1])[0]}

        inputs = network_inputs(ELSEWHERE, ["$own", "443", "8443"], ["$s1", "$s2", "1000"], [*SNI, ""])
        # Without TLS nothing that asks for a certificate can be decided: few do.
        inputs = inputs + rbac.certificate_inputs() * 2 if self.secure else inputs * 6 + ssl_inputs(["spiffe://a/b"], ["a.test"], ["CN=a"])
        return Matchers(self.rng, inputs, RANGES, action).matcher()

    def guard(self, prefix):
        rules = {"stat_prefix": f"{prefix}."}
        if self.likely(0.9):
            rules["rules"] = self.policies()
        if self.likely(0.5):
            rules["shadow_rules"] = self.policies()
        # Where there is one, the rules are ignored.
        if self.likely(0.3):
            rules["matcher"] = self.matcher()
        if self.likely(0.2):
            rules["shadow_matcher"] = self.matcher()
        if self.likely(0.2):
            rules["shadow_rules_stat_prefix"] = "shadow_"
        if self.likely(0.3):
            rules["enforcement_type"] = self.rng.choice(["CONTINUOUS", "ONE_TIME_ON_FIRST_BYTE"])
        if self.likely(0.1):
            rules["delay_deny"] = "0.05s"
        return rules

    def guards(self, name):
        return [self.guard(f"{name}.{number}") for number in range(self.rng.choice([1, 1, 1, 2]))]

    def guarded(self, name):
        self.secure = self.likely(SECURE_SHARE)
        address = self.rng.choice(["v4", "v4", "v6", "both"])
        if self.secure:
            chain = Secured("greeting", None, False, self.guards(name), True, self.folder, self.port)
            return Listener(name, address, self.rng.choice(SECURE_FILTERS), [chain])
        filters = self.rng.choices([filters for _, filters in LISTENER_FILTERS], [weight for weight, _ in LISTENER_FILTERS])[0]
        return Listener(name, address, filters, [Guarded("greeting", None, False, self.guards(name), self.likely(0.95))])

    def doubtful(self, name):
        """Rules that an oddity may keep from loading, and what the oddity is."""
        made = self.guarded(name)
        rules = made.chains[0].rules[0]
        policy = {"permissions": [{"any": True}], "principals": [{"any": True}]}
        rules["rules"] = {"action": "ALLOW", "policies": {"policy": policy}}
        # A matcher would decide in their place: of such rules Envoy looks for headers only, Ringway at all of them.
        rules.pop("matcher", None)
        rules.pop("shadow_matcher", None)
        # Of a request there is nothing to know here.
        header = {"header": {"name": "x", "present_match": True}}
        permissions = {
            "no rule": {}, "any: false": {"any": False}, "an empty and": {"and_rules": {"rules": []}}, "an empty or": {"or_rules": {}},
            "an empty not": {"not_rule": {}}, "port 0": {"destination_port": 0}, "port 65535": {"destination_port": 65535},
            "port 65536": {"destination_port": 65536}, "an empty range": {"destination_port_range": {"start": 5, "end": 5}},
            "a range of nothing": {"destination_port_range": {}}, "a range backwards": {"destination_port_range": {"start": 6, "end": 5}},
            "a range from below": {"destination_port_range": {"start": -1, "end": 5}}, "a range to above": {"destination_port_range": {"start": 1, "end": 65537}},
            "a range to the end": {"destination_port_range": {"start": 65535, "end": 65536}}, "a prefix of 33 bits": {"destination_ip": network("10.0.0.0/33")},
            "a prefix that is none": {"destination_ip": {"address_prefix": "a.test", "prefix_len": 8}},
            "an empty string matcher": {"requested_server_name": {}}, "an empty prefix": {"requested_server_name": {"prefix": ""}},
            "an empty exact name": {"requested_server_name": {"exact": ""}}, "a bad expression": {"requested_server_name": {"safe_regex": {"regex": "("}}},
            "an empty expression": {"requested_server_name": {"safe_regex": {"regex": ""}}},
            "a header without name": {"header": {"name": "", "present_match": True}}, "a header": header, "a header below not": {"not_rule": header},
            "a header below and and or": {"and_rules": {"rules": [{"any": True}, {"or_rules": {"rules": [header]}}]}}, "a path without matcher": {"url_path": {}},
            "metadata without path": {"metadata": {"filter": "a", "value": {"bool_match": True}}}, "two rules": {"any": True, "destination_port": 1},
        }
        # Filter state is left out: here a connection has none, and the rules that ask for it are refused.
        principals = {
            "a header as principal": header, "a header below not and or as principal": {"not_id": {"or_ids": {"ids": [header]}}},
            "no identifier": {}, "any: false as principal": {"any": False}, "an empty and of principals": {"and_ids": {"ids": []}},
            "an empty or of principals": {"or_ids": {}}, "an empty not of a principal": {"not_id": {}}, "authenticated": {"authenticated": {}},
            "authenticated by a bad expression": {"authenticated": {"principal_name": {"safe_regex": {"regex": "["}}}},
            "a source that is none": {"source_ip": {"address_prefix": "1.2.3", "prefix_len": 8}},
            "a source without prefix": {"remote_ip": {}}, "a direct source without length": {"direct_remote_ip": {"address_prefix": "10.0.0.0"}},
        }
        others = {
            "no permissions": lambda: policy.update(permissions=[]), "no principals": lambda: policy.update(principals=[]),
            "no policies": lambda: rules["rules"].update(policies={}), "no rules": lambda: rules.pop("rules"), "empty rules": lambda: rules.update(rules={}),
            "no stat_prefix": lambda: rules.pop("stat_prefix"), "an action that is none": lambda: rules["rules"].update(action="REFUSE"),
            "an action by number": lambda: rules["rules"].update(action=self.rng.choice([0, 1, 2, 3])),
            "an enforcement by number": lambda: rules.update(enforcement_type=self.rng.choice([0, 1])),
            "a nameless policy": lambda: rules["rules"]["policies"].update({"": copy.deepcopy(policy)}),
            "shadow rules with an oddity": lambda: rules.update(shadow_rules={"policies": {"a": {"permissions": [{"any": True}]}}}),
            "a header in shadow rules": lambda: rules.update(shadow_rules={"policies": {"a": {**policy, "permissions": [header]}}}),
            "a delay below nothing": lambda: rules.update(delay_deny=self.rng.choice(["-1s", "0s"])),
            "a bad expression below not and or": lambda: policy.update(permissions=[{"not_rule": {"or_rules": {"rules": [permissions["a bad expression"]]}}}]),
        }
        allow = {"action": extension({"@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": "a"})}
        map_of = {"exact_match_map": {"map": {"a": allow}}}

        def matched(source, fields=(), **more):
            rules["matcher"] = {"matcher_tree": {"input": extension({"@type": f"type.googleapis.com/{source}", **dict(fields)}), **map_of}, **more}

        inputs = "envoy.extensions.matching.common_inputs.network.v3"
        others |= {
            "an empty matcher": lambda: rules.update(matcher={}), "an empty shadow matcher": lambda: rules.update(shadow_matcher={}),
            "a matcher of headers": lambda: matched("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", on_no_match=allow),
            "a matcher of the kind of source": lambda: matched(f"{inputs}.SourceTypeInput"), "a matcher of protocols": lambda: matched(f"{inputs}.ApplicationProtocolInput"),
            "a matcher of the transport": lambda: matched(f"{inputs}.TransportProtocolInput"), "a matcher of names": lambda: matched(f"{inputs}.ServerNameInput"),
            "a matcher of metadata": lambda: matched(f"{inputs}.DynamicMetadataInput", {"filter": "a", "path": [{"key": "b"}]}),
            "keep_matching": lambda: matched(f"{inputs}.SourceIPInput", on_no_match={**allow, "keep_matching": self.likely(0.7)}),
            "a matcher beside rules that are none": lambda: (matched(f"{inputs}.SourceIPInput"), policy.update(permissions=[header])),
            "an action without name": lambda: matched(f"{inputs}.SourceIPInput", on_no_match={"action": extension({"@type": "type.googleapis.com/envoy.config.rbac.v3.Action"})}),
            "an action of another type": lambda: matched(f"{inputs}.SourceIPInput", on_no_match={"action": extension({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "a"})}),
        }
        oddity = self.rng.choice([*permissions, *principals, *others])
        if oddity in others:
            others[oddity]()
        else:
            field, value = ("permissions", permissions[oddity]) if oddity in permissions else ("principals", principals[oddity])
            policy[field].insert(self.rng.randint(0, 1), value)
        return made, oddity

    def connection(self, listener):
        while True:
            made = super().connection(listener)
            if isinstance(listener.chains[0], Secured):
                return self.shaken(made)
            if made.first not in ("end", "nothing", "half"):
                # At once: how often a filter that asks again is asked depends on the reads.
                return dataclasses.replace(made, pieces=1)

    def shaken(self, made):
        """A connection from and to the same addresses that makes a handshake."""
        version, certificate = self.rng.choice(["TLSv1_2", "TLSv1_3"]), self.rng.choice(list(rbac.CERTIFICATES))
        return Shaken(made.source, made.destination, made.source_port, made.proxied, version, self.rng.choice(SECURE_NAMES), (), 1, certificate)


def shake_hands(sock, connection, folder):
    """A handshake over a new connection; who the server is does not matter."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion[connection.first]
    if rbac.CERTIFICATES[connection.certificate]:
        context.load_cert_chain(folder / f"{connection.certificate}.pem", folder / f"{connection.certificate}.key")
    return context.wrap_socket(sock, server_hostname=connection.sni)


def ask_securely(connection, port, ports, folder):
    """What comes of a handshake and the mark behind it."""
    with opened(connection, port, ports) as sock:
        got = b""
        try:
            if connection.proxied:
                sock.sendall(connection.proxied.header(ports))
            secure = shake_hands(sock, connection, folder)
        except OSError:
            return "no handshake"
        with secure:
            try:
                secure.sendall(MARK)
                while not got.endswith(MARK) and (chunk := secure.recv(65536)):
                    got += chunk
            except TimeoutError:
                return f"left open after {len(got)} bytes"
            except OSError:
                # A reset, or what TLS makes of one.
                pass
    return "through" if got == MARK else got and f"answered {got[:100]!r}" or "closed"


def ask(connection, port, ports, folder):
    if isinstance(connection, Shaken):
        return SECURE + ask_securely(connection, port, ports, folder)
    got = perform(connection, port, ports, MARK)
    if got.endswith(OPEN):
        return f"left open after {len(got) - len(OPEN)} bytes"
    return "through" if got.endswith(MARK.decode()) else got and f"answered {got[:100]!r}" or "closed"


def counted(found, listeners):
    """What the filters count, whatever the prefix of their shadow rules; a policy's own counters too."""
    by_listener = {listener.name: {} for listener in listeners}
    for name, value in found.items():
        owner, _, rest = name.partition(".")
        if owner in by_listener and ".rbac." in f".{rest}":
            by_listener[owner][rest] = value
    return by_listener


def exchanged(text):
    """A bootstrap that must show: DENY is ALLOW."""
    return text.replace('"action": "DENY"', '"action": "ALLOW"')


def enough(tally):
    """Many have to come through and many to be closed, with TLS and without."""
    for prefix, part in (("", 5), (SECURE, 10)):
        count = sum(many for answer, many in tally.items() if answer.startswith(SECURE) == bool(prefix))
        if min(tally[f"{prefix}through"], tally[f"{prefix}closed"]) < max(1, count // part):
            raise rig.Failed(f"these cases ask too little: {prefix}many have to come through, and many to be closed")


def run():
    arguments, peers = begin(__doc__, 3000, exchanged)
    report = Report(peers)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="network-rbac-")))
        rbac.make_certificates(folder)
        endpoint = protocols_case.Server(protocols_case.echo)
        stack.callback(endpoint.stop)
        draw = Rules(random.Random(arguments.seed), folder, endpoint.port)
        tally = decide(arguments, peers, report, draw, draw.doubtful, draw.guarded, Way(functools.partial(ask, folder=folder), counted))
    if tally.total() >= 1000:
        enough(tally)
    finish(arguments, report)


if __name__ == "__main__":
    rig.main(run)
