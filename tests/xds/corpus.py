"""Other people's resources, each told by delta ADS: it is taken, and `/config_dump` gives back what was sent (but for endpoints), or it is refused by name with the
field and the reason; what of them is not implemented is listed by field.

    python3 tests/xds/corpus.py                    # needs a build of Ringway, grpcio, xds-protos and PyYAML (`.ci/run install`)
    python3 tests/xds/corpus.py --only '*jwt*'     # some files

The folder is not part of this repository: `RINGWAY_CORPUS` names it. A listener's address becomes one of this machine; nothing else is changed.
"""

import argparse
import collections
import fnmatch
import importlib
import json
import os
import pathlib
import pkgutil
import re
import tempfile

import envoy
import yaml
from google.protobuf import json_format

import peers  # noqa: F401 (before rig)
import resources as made
import rig
from play import Play

# Written over what was blanked out, where base64 or an address must stand.
BLANKED = {"CERT_REDACTED": "Q0VSVA==", "IP_REDACTED": "127.0.0.1", "ADMIN_REDACTED": "127.0.0.1"}
# What `/config_dump` has in place of secrets, as text and as bytes.
REDACTED = ("[redacted]", "W3JlZGFjdGVkXQ==")
LACKS = re.compile(r"xDS: (\S+): (\S+): not implemented yet")
INDEX = re.compile(r"\[\d+\]")
OF_FILE = {"clusters": "CDS", "endpoints": "EDS", "listeners": "LDS", "routes": "RDS", "secrets": "SDS"}
# Where `/config_dump` has what was told.
DUMPED = {"CDS": "cluster", "LDS": "listener", "RDS": "route_config", "SDS": "secret"}
# The resources that those of other types are told for.
CARRIER = "carrier"


def import_all():
    """Every message of the API is known to the JSON reader."""
    for module in pkgutil.walk_packages(envoy.__path__, "envoy."):
        if module.name.endswith("_pb2"):
            importlib.import_module(module.name)


def listed(folder):
    """Type and content of every resource there, with its file."""
    for path in sorted(folder.glob("*/*")):
        text = path.read_text(encoding="utf-8")
        for blanked, written in BLANKED.items():
            text = text.replace(blanked, written)
        content = yaml.load(text, yaml.CSafeLoader)
        yield from ((path.name, kind, each) for kind, each in of_file(path, content))


def of_file(path, content):
    part = path.name.split(".")[-2]
    if path.parent.name == "envoy-gateway-xds":
        return [(OF_FILE[part], each) for each in content]
    if "xds" in content:
        return [(made.kind_of(url), each) for url, named in content["xds"].items() for each in named.values()]
    if "static_resources" in content:
        static = content["static_resources"]
        return [(OF_FILE[part], each) for part in ("clusters", "listeners", "secrets") for each in static.get(part) or ()]
    if set(content) == {"resources"}:
        told = [each["resource"] for each in content["resources"]]
        return [(made.kind_of(each["@type"]), {key: value for key, value in each.items() if key != "@type"}) for each in told]
    return [("LDS" if "filterChains" in content or "listener" in path.name else "CDS", content)]


class Corpus:
    """A proxy that is told one resource after the other."""

    def __init__(self, play):
        self.play = play
        self.count = 0

    def begin(self):
        self.play.begin()
        for kind in ("CDS", "LDS"):
            self.play.stream.asked(kind)
            self.push(kind, {})

    def push(self, kind, resources, removed=()):
        """The answer to a response."""
        self.count += 1
        self.play.stream.push(kind, str(self.count), resources.items(), removed)
        return self.play.stream.answered(kind)

    def tell(self, kind, name, resource):
        """Tells it, and takes it back; what was said of it, and what the dump had."""
        carried = self.carry(kind, name)
        answer = self.push(kind, {name: resource})
        dumped = self.dumped(kind, name) if answer.error is None and kind in DUMPED else None
        if carried:
            self.push(carried, {}, [CARRIER])
        else:
            self.push(kind, {}, [name])
        return answer.error, dumped

    def carry(self, kind, name):
        """Has the proxy ask for it; the type of the resource for which it does."""
        if kind == "EDS":
            self.push("CDS", {CARRIER: made.cluster(CARRIER, eds_cluster_config={"eds_config": made.ADS, "service_name": name})})
        elif kind == "RDS":
            self.push("LDS", {CARRIER: made.listener(CARRIER, self.play.other_port, route=name)})
        elif kind == "SDS":
            self.push("LDS", {CARRIER: made.listener(CARRIER, self.play.other_port, tls=name)})
        else:
            return None
        self.play.stream.asked(kind, lambda request: name in request.raw.resource_names_subscribe)
        return "CDS" if kind == "EDS" else "LDS"

    def dumped(self, kind, name):
        """What `/config_dump` gives back of it."""
        for section in self.play.admin_json("/config_dump")["configs"]:
            for key, entries in section.items():
                for entry in entries if key.startswith("dynamic") else ():
                    state = entry.get("active_state") or entry.get("warming_state") or entry
                    found = state.get(DUMPED[kind])
                    if found and found.get("name") == name:
                        return json_format.ParseDict({key: value for key, value in found.items() if key != "@type"}, made.MESSAGES[kind]())
        return None


def local(kind, resource, port):
    """A listener on an address of this machine."""
    if kind == "LDS":
        for address in [resource.address, *(each.address for each in resource.additional_addresses)]:
            if address.HasField("socket_address"):
                address.socket_address.address = "127.0.0.1"
                address.socket_address.port_value = port
                port += 1
    return resource


def name_of(kind, resource):
    return resource.cluster_name if kind == "EDS" else resource.name


def play_all(corpus, chosen):
    """How many of each type were taken or refused, refusals by reason, and what is wrong."""
    told, reasons, wrong = collections.Counter(), collections.Counter(), []
    port = corpus.play.port
    for file, kind, content in chosen:
        try:
            resource = json_format.ParseDict(content, made.MESSAGES[kind]())
        except json_format.ParseError as error:
            told[kind, "not of this API"] += 1
            reasons[f"not of the API of xds-protos: {str(error).rpartition(': ')[2][:100]}"] += 1
            continue
        name = name_of(kind, resource)
        if not name:
            told[kind, "without a name"] += 1
            continue
        refused, dumped = corpus.tell(kind, name, local(kind, resource, port))
        told[kind, "taken" if refused is None else "refused"] += 1
        if refused is None:
            # The dump has endpoints as they are used, not as they were told.
            if kind not in ("SDS", "EDS") and (difference := first_difference(dumped, resource)):
                wrong.append(f"{file}: {name}: dumped otherwise: {difference}")
            continue
        if name not in refused:
            wrong.append(f"{file}: {name} is not named: {refused}")
        reasons[INDEX.sub("[]", refused.replace(name, "NAME"))] += 1
    return told, reasons, wrong


def first_difference(dumped, sent):
    """Where a dump is not what was sent, but for secrets; `None`: nowhere."""
    if dumped is None:
        return "not at all"
    ours, theirs = (json.dumps(json_format.MessageToDict(each), indent=1, sort_keys=True).splitlines() for each in (dumped, sent))
    if len(ours) != len(theirs):
        return f"{len(ours)} lines where {len(theirs)} were sent"
    pairs = ((our.strip(), their.strip()) for our, their in zip(ours, theirs))
    return next((f"{our} where {their} was sent" for our, their in pairs if our != their and not any(text in our for text in REDACTED)), None)


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="files by name, with wildcards")
    arguments = parser.parse_args()
    folder = pathlib.Path(os.environ["RINGWAY_CORPUS"])
    import_all()
    chosen = [each for each in listed(folder) if fnmatch.fnmatchcase(each[0], arguments.only)]
    argv = [rig.ringway(), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    with tempfile.TemporaryDirectory() as scratch, Play(argv, True, {}, pathlib.Path(scratch)) as play:
        corpus = Corpus(play)
        corpus.begin()
        told, reasons, wrong = play_all(corpus, chosen)
        lacking = collections.Counter(path for _, path in LACKS.findall(play.proxy.output()))
        panics = play.stats_of("ringway.panics")
    for (kind, what), count in sorted(told.items()):
        print(f"{count:6}  {kind} {what}")
    for what, counts in (("refused", reasons), ("not implemented", lacking)):
        for reason, count in counts.most_common():
            print(f"{count:6}  {what}: {reason}")
    if not told or panics or wrong:
        raise rig.Failed(f"{len(wrong)} wrong, {panics} panics:\n  " + "\n  ".join(wrong[:40]))


if __name__ == "__main__":
    rig.main(run)
