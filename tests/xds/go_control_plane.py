"""go-control-plane's own integration suite with Ringway in Envoy's place: its control plane tells a proxy snapshots, and its clients must get their
answers through every listener after each. Virtual hosts it tells in the mode `delta` alone.

    python3 tests/xds/go_control_plane.py                 # needs go and a build of Ringway
    python3 tests/xds/go_control_plane.py --envoy         # with Envoy itself
    python3 tests/xds/go_control_plane.py --only 'delta*' # some runs
"""

import argparse
import concurrent.futures
import contextlib
import fnmatch
import json
import os
import pathlib
import re
import subprocess
import tempfile

import peers  # noqa: F401 (before rig)
import rig

MODULE = "github.com/envoyproxy/go-control-plane"
VERSION = "v0.14.0"
MESSAGE = "Hi, there!\n"
# The ports of the suite's bootstraps: its control plane, the access log's server, the admin interface.
PORTS = ("18000", "18090", "19000")
DEADLINE_S = 120
# Run: management protocol, further arguments.
RUNS = {
    f"{mode}{', tls' if tls else ''}{', mux' if mux else ''}": (mode, [*(["-tls"] if tls else []), *(["-mux"] if mux else [])])
    for mode in ("ads", "delta-ads", "xds", "delta")
    for tls in (False, True)
    for mux in ((False, True) if mode == "xds" and not tls else (False,))
}


def programs(folder):
    """The suite's programs, built; and where its bootstraps are. Its module replaces parts of itself by folders that it comes without."""
    said = subprocess.run(["go", "mod", "download", "-json", f"{MODULE}@{VERSION}"], capture_output=True, text=True, check=False)
    if said.returncode:
        raise rig.Failed(f"go mod download: {said.stderr}{said.stdout}")
    source = pathlib.Path(json.loads(said.stdout)["Dir"])
    module = folder / "suite.mod"
    module.write_text(re.sub(r"(?ms)^replace \(.*?^\)", "", (source / "go.mod").read_text(encoding="utf-8")), encoding="utf-8")
    module.with_suffix(".sum").write_bytes((source / "go.sum").read_bytes())
    for name, package in (("test", "./pkg/test/main"), ("upstream", "./internal/upstream")):
        built = subprocess.run(
            ["go", "build", "-mod=mod", f"-modfile={module}", "-o", folder / name, package], cwd=source, capture_output=True, text=True, check=False
        )
        if built.returncode:
            raise rig.Failed(f"go build {package}: {built.stderr}")
    return source / "sample"


def one(name, argv, folder, samples):
    """Runs the suite once; its output, and whether it passed."""
    mode, more = RUNS[name]
    listeners = 16
    gateway, upstream, *ports = rig.free_ports(2 + len(PORTS))
    base = consecutive(listeners)
    text = (samples / f"bootstrap-{mode}.yaml").read_text(encoding="utf-8")
    for old, new in zip(PORTS, ports):
        text = text.replace(old, str(new))
    bootstrap = folder / f"{base}.yaml"
    bootstrap.write_text(text, encoding="utf-8")
    flags = {"port": ports[0], "als": ports[1], "gateway": gateway, "upstream": upstream, "base": base, "xds": mode, "message": MESSAGE,
             "scopedhttp": 1, "delay": "200ms"}
    suite = [folder / "test", *(f"-{flag}={value}" for flag, value in flags.items()), *more]
    with contextlib.ExitStack() as stack:
        stack.enter_context(rig.Process([folder / "upstream", f"-message={MESSAGE}", f"-upstream={upstream}"], upstream))
        proxy = stack.enter_context(rig.Process([*argv, "-c", bootstrap, "--drain-time-s", "1"], ports[2]))
        done = subprocess.run([str(part) for part in suite], capture_output=True, text=True, check=False, timeout=DEADLINE_S)
        proxy.check()
        return done.returncode == 0, done.stderr + done.stdout + proxy.output()


def consecutive(count):
    """The first of so many ports in a row that are free and that nobody was given, nor is given from now on."""
    while True:
        [base] = rig.free_ports(1)
        row = range(base, base + count)
        with rig.GIVING:
            spared = rig.GIVEN | rig.named()
            if row[-1] in rig.share() and spared.isdisjoint(row[1:]) and not any(rig.accepts(port) for port in row):
                rig.GIVEN.update(row)
                return base


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="runs by name, with wildcards")
    parser.add_argument("--envoy", action="store_true", help="Envoy instead of Ringway")
    arguments = parser.parse_args()
    chosen = [name for name in RUNS if fnmatch.fnmatchcase(name, arguments.only)]
    if not chosen:
        raise rig.Failed(f"no run is named {arguments.only}")
    argv = [rig.envoy() if arguments.envoy else rig.ringway(), "--concurrency", "2", "--disable-hot-restart", "-l", "warning"]
    with tempfile.TemporaryDirectory() as name, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = pathlib.Path(name)
        samples = programs(folder)
        results = dict(zip(chosen, pool.map(lambda each: one(each, argv, folder, samples), chosen)))
    for name, (passed, output) in results.items():
        if not passed:
            print(f"--- {name}\n{output[-6000:]}")
    failed = [name for name, (passed, _) in results.items() if not passed]
    print(f"{len(results) - len(failed)} of {len(results)} runs passed" + (f"; failed: {'; '.join(failed)}" if failed else ""))
    if failed:
        raise rig.Failed("go-control-plane's suite did not pass")


if __name__ == "__main__":
    rig.main(run)
