"""Matchers (`xds.type.matcher.v3.Matcher`), drawn from a seed: what the tests of filter chains and of access by role have in common."""

import dataclasses

TYPE = "type.googleapis.com"
NETWORK = f"{TYPE}/envoy.extensions.matching.common_inputs.network.v3"
SSL = f"{TYPE}/envoy.extensions.matching.common_inputs.ssl.v3"
METADATA = f"{TYPE}/envoy.extensions.matching.input_matchers.metadata.v3.Metadata"
DEPTH_MAX = 3


@dataclasses.dataclass
class Input:
    """What is matched, texts that it may be, and whether they are addresses, or ports: the listener's own is another at each start, so
    that parts of it say nothing."""

    message: dict
    texts: list
    address: bool = False
    port: bool = False


def extension(message):
    return {"name": "drawn", "typed_config": message}


def network_inputs(addresses, ports, source_ports, names):
    """Those that all matchers have."""
    return [
        Input({"@type": f"{NETWORK}.DestinationIPInput"}, addresses, True), Input({"@type": f"{NETWORK}.SourceIPInput"}, addresses, True),
        Input({"@type": f"{NETWORK}.DirectSourceIPInput"}, addresses, True), Input({"@type": f"{NETWORK}.DestinationPortInput"}, ports, port=True),
        Input({"@type": f"{NETWORK}.SourcePortInput"}, source_ports, port=True), Input({"@type": f"{NETWORK}.ServerNameInput"}, names),
    ]


def ssl_inputs(uris, names, subjects):
    return [Input({"@type": f"{SSL}.UriSanInput"}, uris), Input({"@type": f"{SSL}.DnsSanInput"}, names), Input({"@type": f"{SSL}.SubjectInput"}, subjects)]


def header_input(name, texts):
    return Input({"@type": f"{TYPE}/envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": name}, texts)


class Matchers:
    """`action` draws the configuration of an action, `noted` a condition on dynamic metadata (`MetadataMatcher`), where there may be some.
    Without `keep_matching`: RBAC refuses it, and Envoy 1.40 crashes where a filter chain's matcher comes to it."""

    def __init__(self, rng, inputs, ranges, action, noted=None):
        self.rng, self.inputs, self.ranges, self.action, self.noted = rng, inputs, ranges, action, noted

    def likely(self, share):
        return self.rng.random() < share

    def matcher(self, depth=0):
        matcher = {}
        if self.likely(0.97):
            matcher = self.tree(depth) if self.likely(0.65) else {"matcher_list": {"matchers": [
                {"predicate": self.predicate(), "on_match": self.on_match(depth)} for _ in range(self.rng.randint(1, 4))]}}
        if self.likely(0.35):
            matcher["on_no_match"] = self.on_match(depth)
        return matcher

    def on_match(self, depth):
        # What leads nowhere shows where matching goes on.
        deeper = depth < DEPTH_MAX and self.likely(0.45)
        return {"matcher": self.matcher(depth + 1)} if deeper else {"action": extension(self.action())}

    def tree(self, depth):
        source = self.rng.choice(self.inputs)
        kind = "exact" if source.port else self.rng.choice(["exact", "exact", "prefix", "names", *["ranges"] * (4 if source.address else 1)])
        tree = {"input": extension(source.message)}
        if kind == "ranges":
            tree["custom_match"] = extension({"@type": f"{TYPE}/xds.type.matcher.v3.IPMatcher", "range_matchers": [
                {"ranges": [self.range() for _ in range(self.rng.randint(1, 3))], "on_match": self.on_match(depth), **({"exclusive": True} if self.likely(0.3) else {})}
                for _ in range(self.rng.randint(1, 5))]})
        elif kind == "names":
            drawn = list(dict.fromkeys(self.domain(source) for _ in range(self.rng.randint(1, 8))))
            groups = [[name for at, name in enumerate(drawn) if at % 3 == rest] for rest in range(3)]
            tree["custom_match"] = extension({"@type": f"{TYPE}/xds.type.matcher.v3.ServerNameMatcher", "domain_matchers": [
                {"domains": group, "on_match": self.on_match(depth)} for group in groups if group]})
        else:
            keys = {self.key(source, kind) for _ in range(self.rng.randint(1, 5))}
            # Sorted: a set's order is not the seed's.
            tree[f"{kind}_match_map"] = {"map": {key: self.on_match(depth) for key in sorted(keys)}}
        return {"matcher_tree": tree}

    def range(self):
        address, _, length = self.rng.choice(self.ranges).partition("/")
        return {"address_prefix": address, "prefix_len": int(length)}

    def domain(self, source):
        name = self.rng.choice(source.texts).replace("*", "")
        labels = name.split(".")
        end = ".".join(labels[self.rng.randrange(len(labels)):])
        return self.rng.choice(["*", *[name or "a"] * 2, *[f"*.{end or 'com'}"] * 4])

    def key(self, source, kind):
        text = self.rng.choice(source.texts)
        if kind == "prefix" and self.likely(0.8):
            return text[: self.rng.randint(0, len(text))]
        return text

    def predicate(self, depth=0):
        kind = self.rng.choices(["single", "or", "and", "not"][: 4 if depth < 3 else 1], [6, 2, 2, 2][: 4 if depth < 3 else 1])[0]
        if kind == "single":
            if self.noted and self.likely(0.5):
                return self.metadata()
            source = self.rng.choice(self.inputs)
            return {"single_predicate": {"input": extension(source.message), "value_match": self.string(source)}}
        if kind == "not":
            return {"not_matcher": self.predicate(depth + 1)}
        return {f"{kind}_matcher": {"predicate": [self.predicate(depth + 1) for _ in range(self.rng.randint(2, 3))]}}

    def metadata(self):
        noted = self.noted()
        place = {key: noted.pop(key) for key in ("filter", "path")}
        return {"single_predicate": {"input": extension({"@type": f"{NETWORK}.DynamicMetadataInput", **place}), "custom_match": extension({"@type": METADATA, **noted})}}

    def string(self, source):
        text = self.rng.choice(source.texts)
        if source.port:
            return {"exact": text}
        some = text or "a"
        cut = self.rng.randint(1, len(some))
        return self.rng.choice([
            {"exact": text}, {"exact": some.upper(), "ignore_case": True}, {"prefix": some[:cut]}, {"suffix": some[-cut:]}, {"contains": some[cut - 1:]},
            {"safe_regex": {"google_re2": {}, "regex": self.rng.choice([".*", "[a-z.]*", "[0-9.]+", "()", ".*[05]"])}},
        ])
