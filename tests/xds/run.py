"""A scripted control plane for Envoy and for Ringway: each script is played to both, by ADS as state of the world and as delta. What was asked for,
in which words, and what clients saw must be equal, but for the differences that differences.toml lists with a reason; one that no longer shows is an error.

    python3 tests/xds/run.py                   # needs Envoy 1.40, a build of Ringway, grpcio and xds-protos (`.ci/run install`)
    python3 tests/xds/run.py --only 'stream-*' # some scripts
    python3 tests/xds/run.py --self            # Envoy against itself: proves that the comparison is stable
    python3 tests/xds/run.py --show            # with Envoy's facts, for a reader
"""

import argparse
import concurrent.futures
import fnmatch
import pathlib
import pprint
import tempfile
import tomllib

import peers  # noqa: F401 (before rig)
import addresses  # noqa: F401 (adds scripts)
import endpoints  # noqa: F401 (adds scripts)
import filters_told  # noqa: F401 (adds scripts)
import scopes_told  # noqa: F401
import rig
import routes  # noqa: F401 (adds scripts)
import runtime  # noqa: F401 (adds scripts)
import scripts
import sources  # noqa: F401 (adds scripts)
import secrets_told  # noqa: F401 (adds scripts)
import told_for_a_time  # noqa: F401 (adds scripts)
from play import Origin, Play
from tls import openssl

AT_ONCE = 6  # plays; most of them wait
VARIANTS = {"sotw": False, "delta": True}


def certificates(folder):
    """Certificates with their keys, and what a client is shown of each."""
    made = []
    for number in range(2):
        openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{number}.key",
                "-out", f"{number}.pem", "-subj", f"/CN=server{number}", "-days", "2")
        openssl(folder, "x509", "-in", f"{number}.pem", "-outform", "DER", "-out", f"{number}.der")
        read = [(folder / f"{number}.{kind}").read_bytes() for kind in ("pem", "key", "der")]
        made.append((read[0].decode(), read[1].decode(), read[2]))
    return made


def play(argv, name, is_delta, origins, folder):
    """The facts of a script on a proxy; counters only where how often something is tried is not chance."""
    function, options = scripts.SCRIPTS[name]
    counts = options.get("counts", True)
    options = {key: value for key, value in options.items() if key != "counts"}
    with Play(argv, is_delta, origins, folder, **options) as one:
        try:
            function(one)
            failed = None
        except (rig.Failed, OSError) as failure:
            failed = str(failure)
        facts = one.facts | one.transcript()
        if failed:
            facts["failed"] = failed
        if counts:
            facts |= {f"stat: {stat}": value for stat, value in one.stats().items()}
        one.proxy.check()
    return facts


def differences(theirs, ours):
    """Names of facts that differ, with both values."""
    for name in sorted(theirs.keys() | ours.keys()):
        pair = theirs.get(name, "(absent)"), ours.get(name, "(absent)")
        if pair[0] != pair[1]:
            yield name, *pair


def listed():
    path = pathlib.Path(__file__).with_name("differences.toml")
    return tomllib.loads(path.read_text(encoding="utf-8")).get("difference", []) if path.exists() else []


def matches(entry, case, fact):
    return any(fnmatch.fnmatchcase(case, each) for each in entry["cases"]) and any(fnmatch.fnmatchcase(fact, each) for each in entry["facts"])


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="scripts by name, with wildcards")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="of ADS; default: both")
    parser.add_argument("--self", action="store_true", help="Envoy on both sides")
    parser.add_argument("--show", action="store_true", help="prints Envoy's facts")
    arguments = parser.parse_args()
    chosen = [name for name in scripts.SCRIPTS if fnmatch.fnmatchcase(name, arguments.only)]
    if not chosen:
        raise rig.Failed(f"no script is named {arguments.only}")
    flags = ["--concurrency", "2", "--disable-hot-restart", "-l", "warning"]
    peers = [[rig.envoy(), *flags], [rig.envoy() if arguments.self else rig.ringway(), *flags]]
    with tempfile.TemporaryDirectory() as name, concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        folder = pathlib.Path(name)
        origins = {name: Origin(name) for name in "ab"} | {"certificates": certificates(folder)}
        pending = {
            f"{script}, {variant}": [pool.submit(play, argv, script, VARIANTS[variant], origins, folder) for argv in peers]
            for script in chosen
            for variant in arguments.variant or VARIANTS
        }
        found = {case: [each.result() for each in both] for case, both in pending.items()}
    report(found, arguments)


def report(found, arguments):
    entries = listed()
    shown = [False] * len(entries)
    bad = 0
    for case, (theirs, ours) in found.items():
        if arguments.show:
            print(f"=== {case}")
            pprint.pp(theirs, width=160)
        if "failed" in theirs:
            bad += 1
            print(f"{case}: Envoy does not follow the script: {theirs['failed']}")
        for fact, expected, got in differences(theirs, ours):
            reasons = [index for index, entry in enumerate(entries) if matches(entry, case, fact)]
            for index in reasons:
                shown[index] = True
            if not reasons or arguments.self:
                bad += 1
                print(f"{case}: {fact}\n    Envoy:   {pprint.pformat(expected, width=160)}\n    Ringway: {pprint.pformat(got, width=160)}")
    whole = arguments.only == "*" and not arguments.variant and not arguments.self
    unseen = [entry for entry, seen in zip(entries, shown) if not seen] if whole else []
    for entry in unseen:
        print(f"listed, and no longer there: {entry}")
    print(f"{len(found)} plays on each of both, {bad} unlisted differences, {len(entries)} listed")
    if bad or unseen:
        raise rig.Failed("Ringway and Envoy differ")


if __name__ == "__main__":
    rig.main(run)
