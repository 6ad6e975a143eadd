"""Listeners with filter chains and connections to them, drawn from a small universe so that criteria meet; and how both are written
down. `filter_chains.py` asks Envoy and Ringway about them.

A chain's filter answers with the chain's name and closes: which chain took a connection can be read without a handshake. Ports are
names until a bootstrap is written: `own` is the listener's, `s1` and `s2` are ports that a client binds; in texts `$own` and so on.
"""

import base64
import collections
import copy
import dataclasses
import ipaddress
import itertools
import json

from connections import Connection, Proxied
from matchers import NETWORK, Input, Matchers, extension, network_inputs

TYPE = "type.googleapis.com/envoy.extensions.filters"
LOOPBACK = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.1.0.1", "127.1.2.3"]
ELSEWHERE = ["10.0.0.1", "10.1.2.3", "192.0.2.7", "2001:db8::1", "2001:db8:1::2", "::1", "fe80::1", *LOOPBACK]
RANGES = ["127.0.0.0/8", "127.0.0.0/24", "127.0.0.0/30", "127.0.0.2/31", "127.0.0.1/32", "127.0.0.2/32", "127.1.0.0/16", "127.1.2.3/32", "::1/128",
          "::/64", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "192.0.2.0/24", "2001:db8::/32", "2001:db8:1::/48", "fe80::/10", "128.0.0.0/1", "0.0.0.0/0", "::/0"]
PORTS = ["own", 443, 8443]
SOURCE_PORTS = ["s1", "s2"]
MORE_SOURCE_PORTS = [1000, 65535]  # in a PROXY protocol header only
NAMES = ["a.example.com", "b.example.com", "example.com", "*.example.com", "*.a.example.com", "*.com", "b.test", "*.test", "com", "A.Example.COM",
         "*.B.test", ".example.com", "xn--bcher-kva.test", "10.0.0.1"]
SNI = ["a.example.com", "b.example.com", "c.a.example.com", "d.c.a.example.com", "example.com", "example.org", "b.test", "x.b.test", "test",
       "com", "A.EXAMPLE.com", "b.Test", "a.example.com.", ".example.com", "..com", "10.0.0.1", "xn--bcher-kva.test", "a_b.example.com"]
ODD_SNI = ["", "a\0.example.com", "*.example.com", "example.com" * 30, "a b.com", "\xe9.example.com"]
ALPN = ["h2", "http/1.1", "foo", "http/1.0", "h2c"]
TRANSPORT = ["tls", "raw_buffer"]
# In the order of precedence.
FIELDS = ["destination_port", "prefix_ranges", "server_names", "transport_protocol", "application_protocols", "direct_source_prefix_ranges", "source_type",
          "source_prefix_ranges", "source_ports"]
SOURCE_TYPES = ["ANY", "SAME_IP_OR_LOOPBACK", "EXTERNAL"]
INSPECTORS = {
    "tls": {"name": "tls", "typed_config": {"@type": f"{TYPE}.listener.tls_inspector.v3.TlsInspector"}},
    "http": {"name": "http", "typed_config": {"@type": f"{TYPE}.listener.http_inspector.v3.HttpInspector"}},
    "proxy": {"name": "proxy", "typed_config": {"@type": f"{TYPE}.listener.proxy_protocol.v3.ProxyProtocol"}},
    "proxy or not": {"name": "proxy", "typed_config": {"@type": f"{TYPE}.listener.proxy_protocol.v3.ProxyProtocol",
                                                       "allow_requests_without_proxy_protocol": True}},
}
LISTENER_FILTERS = [(12, ["tls"]), (6, ["tls", "http"]), (2, ["http", "tls"]), (2, ["http"]), (3, []), (6, ["proxy", "tls"]), (4, ["proxy", "tls", "http"]),
                    (2, ["proxy"]), (3, ["proxy or not", "tls"]), (1, ["proxy or not", "http"]), (1, ["tls", "proxy"])]
# A listener takes every loopback address: the wildcard address, but of the loopback device (SO_BINDTODEVICE).
DEVICE = [{"level": 1, "name": 25, "buf_value": base64.b64encode(b"lo\0").decode(), "state": "STATE_PREBIND"}]
ADDRESSES = {
    "v4": ({"address": "0.0.0.0"}, DEVICE, LOOPBACK),
    "one": ({"address": "127.0.0.1"}, [], ["127.0.0.1"]),
    "v6": ({"address": "::1"}, [], ["::1"]),
    "both": ({"address": "::", "ipv4_compat": True}, DEVICE, [*LOOPBACK, "::1"]),
}
# What a listener records of every connection; the name of the file comes later.
RECORD = "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %FILTER_CHAIN_NAME% %PROTOCOL% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% " \
         "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %CONNECTION_TERMINATION_DETAILS% " \
         "%DYNAMIC_METADATA(envoy.filters.network.rbac)% %DYNAMIC_METADATA(envoy.common:access_log_hint)%"
SHORT = "0.1s"  # listener_filters_timeout where a client keeps silent


@dataclasses.dataclass
class Chain:
    name: str
    match: dict | None
    empty: bool = False  # without filters
    clusters = ()  # that its filters name

    def written(self):
        message = {"name": self.name} if self.name else {}
        if self.match is not None:
            message["filter_chain_match"] = self.match
        greeting = {"@type": f"{TYPE}.network.direct_response.v3.Config", "response": {"inline_string": f"{self.name or 'nameless'}\n"}}
        return message | {"filters": [] if self.empty else [{"name": "greeting", "typed_config": greeting}]}

    def __str__(self):
        match = "(no match)" if self.match is None else json.dumps(self.match)
        return f"{self.name or '(nameless)'}{' without filters' if self.empty else ''}: {match}"


@dataclasses.dataclass
class Listener:
    name: str
    address: str
    filters: list
    chains: list
    default: Chain | None = None
    continues: bool | None = None  # what happens to a silent client after `SHORT`; None: there is none
    more: dict = dataclasses.field(default_factory=dict)  # fields as they are

    @property
    def destinations(self):
        return ADDRESSES[self.address][2]

    def written(self):
        address, options, _ = ADDRESSES[self.address]
        message = {
            "name": self.name, "stat_prefix": self.name, "address": {"socket_address": {**address, "port_value": "@own@"}}, "socket_options": options,
            "listener_filters": [INSPECTORS[each] for each in self.filters], "filter_chains": [chain.written() for chain in self.chains],
        }
        log = {"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "@log@",
               "log_format": {"text_format_source": {"inline_string": f"{self.name}: {RECORD}\n"}}}
        message["access_log"] = [{"name": "file", "typed_config": log}]
        if self.default:
            message["default_filter_chain"] = self.default.written()
        if self.continues is not None:
            message |= {"listener_filters_timeout": SHORT, "continue_on_listener_filters_timeout": self.continues}
        return message | self.more

    def __str__(self):
        lines = [f"address {self.address}, listener filters {self.filters}"]
        if self.continues is not None:
            lines.append(f"silent clients after {SHORT}: {'go on' if self.continues else 'are closed'}")
        for word, chain in [("chain", chain) for chain in self.chains] + [("default", self.default)] * bool(self.default):
            lines.append(f"{word} {chain}")
        lines += [json.dumps(self.more)] if self.more else []
        return "\n".join(f"    {line}" for line in lines)


def bootstrap(admin, listeners, ports, log="/dev/null"):
    """The text of a bootstrap with these listeners; `ports`: what the names of ports stand for, by listener; `log`: what they write."""
    messages = []
    for listener in listeners:
        text = json.dumps(listener.written()).replace("@own@", "own").replace("@log@", str(log))
        for name, port in ports[listener.name].items():
            text = text.replace(f'"{name}"', str(port)).replace(f"${name}", str(port))
        messages.append(text)
    clusters = {cluster["name"]: cluster for listener in listeners for chain in listener.chains for cluster in chain.clusters}
    return (f'{{"admin": {{"address": {{"socket_address": {{"address": "127.0.0.1", "port_value": {admin}}}}}}},\n'
            f'"static_resources": {{"clusters": {json.dumps(list(clusters.values()))}, "listeners": [\n' + ",\n".join(messages) + "\n]}}")


def network(text):
    address, _, length = text.partition("/")
    return {"address_prefix": address, "prefix_len": int(length)}


def leaves(listener):
    """Every combination of criteria that a chain asks for, in the order of their precedence; "" where it asks for nothing."""
    for chain in listener.chains:
        match = chain.match or {}

        def values(field, change=lambda value: value):
            value = match.get(field) or ""
            return [change(each) for each in value] if isinstance(value, list) and value else [value]

        def cidr(value):
            return ipaddress.ip_network(f"{value['address_prefix']}/{value['prefix_len']}", strict=False)

        yield from itertools.product(
            values("destination_port"), values("prefix_ranges", cidr), values("server_names", lambda name: name.lower().removeprefix("*")),
            values("transport_protocol"), values("application_protocols"), values("direct_source_prefix_ranges", cidr),
            [match.get("source_type", "ANY")], values("source_prefix_ranges", cidr), values("source_ports"))


def overlap(listener):
    """Whether two chains, or one with itself, want the same connections: what nobody may load."""
    combinations = collections.Counter(leaves(listener))
    return any(count > 1 for count in combinations.values())


def ambiguous(listener):
    """Whether a range that holds every address is beside a chain that asks for none: which one Envoy takes is chance, from one start to
    the next."""
    beside = collections.defaultdict(set)
    for leaf in leaves(listener):
        for at in (1, 5, 7):
            if not leaf[at] or leaf[at].prefixlen == 0:
                beside[leaf[:at]].add(bool(leaf[at]))
    return any(len(kinds) > 1 for kinds in beside.values())


class Generator:
    def __init__(self, rng):
        self.rng = rng

    def some(self, values, most):
        return self.rng.sample(values, min(len(values), self.rng.randint(1, most)))

    def likely(self, share):
        return self.rng.random() < share

    def match(self, pool):
        match = {}

        def ranges(most):
            return [network(each) for each in self.some(pool["ranges"], most)]

        for share, field, value in (
            (0.2, "destination_port", lambda: self.rng.choice(PORTS)), (0.35, "prefix_ranges", lambda: ranges(2)),
            (0.45, "server_names", lambda: self.some(pool["names"], 3)), (0.35, "transport_protocol", lambda: self.rng.choice(TRANSPORT)),
            (0.3, "application_protocols", lambda: self.some(pool["alpn"], 2)), (0.25, "direct_source_prefix_ranges", lambda: ranges(2)),
            (0.35, "source_type", lambda: self.rng.choice(SOURCE_TYPES)), (0.3, "source_prefix_ranges", lambda: ranges(2)),
            (0.25, "source_ports", lambda: self.some(pool["source_ports"], 2)),
        ):
            # Few criteria at a time: each shows in some listener's chains alone.
            if field in pool["fields"] and self.likely(share * pool["density"]):
                match[field] = value()
        return match

    def listener(self, name):
        """One that loads."""
        while True:
            filters = self.rng.choices([filters for _, filters in LISTENER_FILTERS], [weight for weight, _ in LISTENER_FILTERS])[0]
            address = self.rng.choices(["v4", "one", "v6", "both"], [6, 1, 2, 3])[0]
            # Criteria of every kind, few chains of which meet; or two or three that follow each other, often: that shows their order.
            close = self.likely(0.5)
            start = self.rng.randrange(len(FIELDS) - 1)
            ranges = [each for each in RANGES if each.startswith("127.")] if close and self.likely(0.6) else RANGES
            pool = {
                "ranges": self.rng.sample(ranges, 4 if close else 6), "names": self.rng.sample(NAMES, 5), "alpn": self.rng.sample(ALPN, 3),
                "fields": FIELDS[start : start + self.rng.randint(2, 3)] if close else self.some(FIELDS, len(FIELDS)), "density": 1.8 if close else 1.0,
                "source_ports": SOURCE_PORTS + MORE_SOURCE_PORTS * any("proxy" in each for each in filters),
            }
            chains = [Chain(f"chain{index}", self.match(pool), empty=self.likely(0.03)) for index in range(self.rng.randint(1, 8))]
            default = Chain("otherwise", self.match(pool) if self.likely(0.2) else None) if self.likely(0.4) else None
            continues = self.likely(0.5) if filters and self.likely(0.15) else None
            made = Listener(name, address, filters, chains, default, continues)
            if not overlap(made) and not ambiguous(made):
                if self.likely(0.35):
                    made.more["filter_chain_matcher"] = self.matcher(pool, [chain.name for chain in chains])
                return made

    def matcher(self, pool, names):
        """What chooses the chain in place of the chains' matches; a name may be no chain's."""
        def action():
            return {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": self.rng.choice([*names * 3, "nobody"])}

        ports = [f"${port}" if isinstance(port, str) else str(port) for port in PORTS]
        source_ports = [f"${port}" if isinstance(port, str) else str(port) for port in pool["source_ports"]]
        inputs = network_inputs(ELSEWHERE, ports, source_ports, [*SNI, *SNI, ""])
        inputs += [Input({"@type": f"{NETWORK}.SourceTypeInput"}, ["local", ""]), Input({"@type": f"{NETWORK}.TransportProtocolInput"}, TRANSPORT),
                   Input({"@type": f"{NETWORK}.ApplicationProtocolInput"}, ["'h2'", "'http/1.1'", "'h2','http/1.1'", "'http/1.0'", "'foo'", "'h2c'"])]
        return Matchers(self.rng, inputs, pool["ranges"], action).matcher()

    def doubtful(self, name):
        """One that an oddity may keep from loading, and what the oddity is."""
        made = self.listener(name)
        chain = self.rng.choice(made.chains)
        match = chain.match
        twin = Chain("twin", copy.deepcopy(match))

        def again(change=lambda match: None):
            made.chains.insert(self.rng.randint(0, len(made.chains)), twin)
            change(twin.match)

        def part_of(field, values):
            match[field] = values
            again(lambda match: match.update({field: values[:1]}))

        def put(field, value):
            match[field] = value

        long = self.rng.choice([33, 64, 128, 129, 255])
        oddities = {
            "the same match twice": again,
            "no match twice": lambda: (made.chains.append(Chain("one", None)), made.chains.append(Chain("two", self.rng.choice([None, {}])))),
            "names in other case": lambda: (put("server_names", ["a.example.com"]), again(lambda match: match.update(server_names=["A.Example.COM"]))),
            "a wildcard and a suffix": lambda: (put("server_names", ["*.example.com"]), again(lambda match: match.update(server_names=[".example.com"]))),
            "names that overlap": lambda: part_of("server_names", ["a.test", "b.test"]),
            "protocols that overlap": lambda: part_of("application_protocols", ["h2", "foo"]),
            "ports that overlap": lambda: part_of("source_ports", [7, 8]),
            "ranges that overlap": lambda: part_of("prefix_ranges", [network("127.0.0.0/8"), network("10.0.0.0/8")]),
            "ranges alike but for host bits": lambda: (put("prefix_ranges", [network("127.0.0.0/8")]),
                                                       again(lambda match: match.update(prefix_ranges=[network("127.1.2.3/8")]))),
            "source ranges alike but for host bits": lambda: (put("source_prefix_ranges", [network("10.0.0.0/8")]),
                                                              again(lambda match: match.update(source_prefix_ranges=[network("10.9.9.9/8")]))),
            "lists in other order": lambda: (put("source_ports", [7, 8]), again(lambda match: match.update(source_ports=[8, 7]))),
            "ranges that nest": lambda: (put("prefix_ranges", [network("10.0.0.0/8")]), again(lambda match: match.update(prefix_ranges=[network("10.0.0.0/9")]))),
            "source type ANY written": lambda: (match.pop("source_type", None), twin.match.update(source_type="ANY"), again()),
            "another source type": lambda: (put("source_type", "EXTERNAL"), again(lambda match: match.update(source_type="SAME_IP_OR_LOOPBACK"))),
            "a name twice in one chain": lambda: put("server_names", ["a.test", "b.test", "a.test"]),
            "a name twice in other case": lambda: put("server_names", ["a.test", "A.test"]),
            "a port twice in one chain": lambda: put("source_ports", [7, 7]),
            "a protocol twice in one chain": lambda: put("application_protocols", ["h2", "h2"]),
            "a range twice in one chain": lambda: put("source_prefix_ranges", [network("10.0.0.0/8"), network("10.0.0.1/8")]),
            "server name": lambda: put("server_names", [self.rng.choice(
                ["*", "a.*.com", "*a.com", "*.", "*.*.com", "a*", "a.*", "**.com", "", ".", "a..b", "*.a.*", "x y", "a" * 300])]),
            "transport protocol": lambda: put("transport_protocol", self.rng.choice(["", "TLS", "quic", "anything"])),
            "application protocol": lambda: put("application_protocols", [self.rng.choice(["", "H2", "*", "a" * 300])]),
            "address suffix": lambda: put("address_suffix", self.rng.choice(["", "127.0.0.1", "x"])),
            "suffix length": lambda: put("suffix_len", self.rng.choice([0, 8, 129])),
            "destination port": lambda: put("destination_port", self.rng.choice([0, 1, 65535, 65536, -1])),
            "source port": lambda: put("source_ports", [self.rng.choice([0, 1, 65535, 65536])]),
            "prefix length": lambda: put("prefix_ranges", [{"address_prefix": self.rng.choice(["10.0.0.1", "2001:db8::1"]), "prefix_len": long}]),
            "prefix without length": lambda: put("source_prefix_ranges", [{"address_prefix": self.rng.choice(["10.0.0.1", "2001:db8::1"])}]),
            "prefix": lambda: put(self.rng.choice(["prefix_ranges", "source_prefix_ranges", "direct_source_prefix_ranges"]), [{
                "address_prefix": self.rng.choice(["", "300.1.1.1", "a.test", "10.0.0", "::1%lo", "10.0.0.1:80", "[::1]", "::ffff:10.0.0.1"]), "prefix_len": 8}]),
            "source type": lambda: put("source_type", self.rng.choice(["", "LOCAL", 2, 3, "external"])),
            "a field that is none": lambda: put("source_portss", [1]),
            "nameless chains": lambda: [setattr(each, "name", "") for each in made.chains],
            "the same name twice": lambda: [setattr(each, "name", "same") for each in made.chains],
            "default chain with a match of a chain": lambda: setattr(made, "default", Chain("otherwise", copy.deepcopy(match))),
            "default chain with a wrong match": lambda: setattr(made, "default", Chain("otherwise", {"address_suffix": "x", "server_names": ["a.*.b"]})),
            "default chain without filters": lambda: setattr(made, "default", Chain("otherwise", None, empty=True)),
            "only a default chain": lambda: (made.chains.clear(), setattr(made, "default", Chain("otherwise", None))),
            "no chain at all": lambda: (made.chains.clear(), setattr(made, "default", None)),
            "empty matches are none": lambda: (put("server_names", []), again(lambda match: match.update(source_ports=[]))),
        }
        def matched(matcher):
            made.more["filter_chain_matcher"] = matcher

        def by(kind, tree, source="SourceIPInput", package=NETWORK):
            matched({"matcher_tree": {"input": extension({"@type": f"{package}.{source}"}), kind: tree}})

        def custom(message, **fields):
            by("custom_match", extension({"@type": f"type.googleapis.com/xds.type.matcher.v3.{message}", **fields}))

        def names(*domains):
            custom("ServerNameMatcher", domain_matchers=[{"domains": list(domains), "on_match": to_chain}])

        def predicate(of):
            matched({"matcher_list": {"matchers": [{"predicate": of, "on_match": to_chain}]}})

        to_chain = {"action": extension({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "chain0"})}
        single = {"single_predicate": {"input": extension({"@type": f"{NETWORK}.SourceIPInput"}), "value_match": {"exact": "x"}}}
        oddities |= {
            "an empty matcher": lambda: matched({}), "an empty on_no_match": lambda: matched({"on_no_match": {}}),
            "a matcher of nameless chains": lambda: (matched({}), setattr(chain, "name", "")),
            "a matcher of chains of one name": lambda: (matched({}), again()), "a matcher and an overlap": lambda: (matched({}), again(), setattr(twin, "name", "chain0")),
            "a matcher and a default chain without name": lambda: (matched({}), setattr(made, "default", Chain("", None))),
            "a matcher and a wrong match": lambda: (matched({}), put(*self.rng.choice(
                [("server_names", ["a.*.b"]), ("address_suffix", "x"), ("suffix_len", 8), ("destination_port", 0), ("prefix_ranges", [network("x/8")])]))),
            "an empty map": lambda: by("exact_match_map", {}), "an empty key": lambda: by("prefix_match_map", {"map": {"": to_chain}}),
            "a key that leads to nothing": lambda: by("exact_match_map", {"map": {"a": {}}}),
            "an action of another type": lambda: matched({"on_no_match": {"action": extension({"@type": "type.googleapis.com/google.protobuf.Empty"})}}),
            "an input of another kind": lambda: by("exact_match_map", {"map": {"a": to_chain}}, "HttpRequestHeaderMatchInput", "type.googleapis.com/envoy.type.matcher.v3"),
            "an input of certificates": lambda: by("exact_match_map", {"map": {"a": to_chain}}, "UriSanInput", "type.googleapis.com/envoy.extensions.matching.common_inputs.ssl.v3"),
            "a matcher without ranges": lambda: custom("IPMatcher"), "a range matcher without ranges": lambda: custom("IPMatcher", range_matchers=[{"on_match": to_chain}]),
            "a range that is none": lambda: custom("IPMatcher", range_matchers=[{"ranges": [network(self.rng.choice(["x/8", "::/129", "10.0.0.0/33", "1.2.3/8"]))], "on_match": to_chain}]),
            "a matcher without names": lambda: custom("ServerNameMatcher"), "no names in a matcher": lambda: names(),
            "a name of a matcher": lambda: names(self.rng.choice(["*", "*.", "*a", "a.*", "*.*", "*.a.*", "", ".", "**", "*.a", "*..", "A.b", "*.A"])),
            "a name twice in a matcher": lambda: names("a", self.rng.choice(["a", "A"])),
            "one or": lambda: predicate({"or_matcher": {"predicate": [single]}}), "two and": lambda: predicate({"and_matcher": {"predicate": [single, single]}}),
            "an empty predicate": lambda: predicate({}), "not nothing": lambda: predicate({"not_matcher": {}}),
            "an expression that is none": lambda: predicate({"single_predicate": {**single["single_predicate"], "value_match": {"safe_regex": {"google_re2": {}, "regex": "("}}}}),
            "an expression without an engine": lambda: predicate({"single_predicate": {**single["single_predicate"], "value_match": {"safe_regex": {"regex": "a"}}}}),
            "an empty list": lambda: matched({"matcher_list": {}}), "keep_matching": lambda: matched({"on_no_match": {**to_chain, "keep_matching": True}}),
        }
        oddity = self.rng.choice(sorted(oddities))
        oddities[oddity]()
        return made, oddity

    def connection(self, listener):
        """One that meets a chain's criteria, most of the time but for one or two."""
        match = self.rng.choice(listener.chains).match or {} if listener.chains and self.likely(0.9) else {}
        miss = self.rng.choice([0, 0.1, 0.3])
        wanted = {field: value for field, value in match.items() if not self.likely(miss)}

        def within(field, values):
            ranges = [ipaddress.ip_network(f"{each['address_prefix']}/{each['prefix_len']}", strict=False) for each in wanted.get(field, ())]
            inside = [each for each in values if any(ipaddress.ip_address(each) in one for one in ranges)]
            return self.rng.choice(inside or values)

        def sibling(address, values):
            return [each for each in values if (":" in each) == (":" in address)]

        takes_header = any("proxy" in each for each in listener.filters)
        header = takes_header and self.likely(0.85)
        port = wanted.get("destination_port") or self.rng.choice(PORTS)
        sources = [each for each in wanted.get("source_ports", ()) if header or each in SOURCE_PORTS]
        source_port = self.rng.choice(sources or [*SOURCE_PORTS, 0])
        if header:
            said = within("prefix_ranges", ELSEWHERE)
            form = self.rng.choices(["v1", "v2", "unknown", "local"], [8, 8, 1, 1])[0]
            # The same address on both sides is a criterion of its own.
            same = said if wanted.get("source_type") == "SAME_IP_OR_LOOPBACK" and self.likely(0.5) else None
            proxied = Proxied(form, same or within("source_prefix_ranges", sibling(said, ELSEWHERE)), said, source_port or 1000, port)
            destination = self.rng.choice(listener.destinations)
            source = within("direct_source_prefix_ranges", sibling(destination, [*LOOPBACK, "::1"]))
            source_port = self.rng.choice([*SOURCE_PORTS, 0])
        else:
            proxied = None
            destination = within("prefix_ranges", listener.destinations)
            field = self.rng.choice(["source_prefix_ranges", "direct_source_prefix_ranges"])
            source = within(field if field in wanted else "source_prefix_ranges" if "source_prefix_ranges" in wanted else "direct_source_prefix_ranges",
                            sibling(destination, [*LOOPBACK, "::1"]))
        first, sni, alpn = self.first(wanted, listener, header)
        # What Envoy's HTTP inspector makes of a request line in pieces depends on when they come.
        whole = "http" in listener.filters and first in ("http", "http10", "h2c")
        return Connection(source, destination, source_port, proxied, first, sni, alpn, 1 if whole else self.rng.choice([1, 1, 1, 2, 5]))

    def first(self, wanted, listener, header):
        """The first bytes: their kind, the server name and the protocols."""
        secure = self.likely({"tls": 1, "raw_buffer": 0}.get(wanted.get("transport_protocol"), 0.85 if "server_names" in wanted else 0.6))
        wants = wanted.get("application_protocols", [])
        if listener.continues is not None and self.likely(0.2):
            return self.rng.choice(["nothing", "half"]), "a.example.com", ()
        # Behind a filter that waits for more: elsewhere it is a race whether the end comes before the chain is chosen. Behind a header
        # it is one whether Envoy reads that before it sees the end, and records what it says.
        if listener.filters and "proxy" not in listener.filters[-1] and not header and self.likely(0.02):
            return "end", None, ()
        if not secure:
            kinds = {"http/1.1": "http", "http/1.0": "http10", "h2c": "h2c"}
            return self.rng.choice([kinds[each] for each in wants if each in kinds] or ["http", "http10", "h2c", "bytes"]), None, ()
        name = self.rng.choice(wanted.get("server_names", SNI))
        if name.startswith(("*", ".")):
            name = self.rng.choice(["x", "a", "c.a", "A.b"]) + name.removeprefix("*")
        if self.likely(0.15):
            name = self.rng.choice([*SNI, *ODD_SNI])
        if self.likely(0.1):
            name = None
        alpn = tuple(dict.fromkeys([*(self.rng.sample(ALPN, self.rng.randint(1, 4)) if self.likely(0.5) else ()), *self.rng.sample(wants, len(wants))]))
        plain = name is None or (name not in ODD_SNI and not name.startswith(".") and ".." not in name)
        return "openssl" if plain and self.likely(0.3) else "tls", name, alpn
