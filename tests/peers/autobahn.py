"""Autobahn's WebSocket test suite as a client: 517 conversations with a server, and its verdict on each.

    python3 tests/peers/autobahn.py    # installs it below target/

It is written in Python 2, which no current Debian has: the interpreter is Debian 11's PyPy, unpacked below target/ and not installed, and the
suite with what it needs lies beside it, pinned. Nothing else of this repository runs there. It talks without TLS, so that no such library is
needed.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import rig

sys.path.append(str(rig.ROOT / "tests/kernels"))

import packages  # noqa: E402 (Debian's packages of another suite)

HOME = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", rig.ROOT / "target")) / "autobahn"
SUITE = "bullseye"
INTERPRETER = ["libffi7", "libssl1.1", "pypy", "pypy-dev", "pypy-lib"]
# The last ones for Python 2; the one that Twisted's installation imports.
INSTALLERS = ["pip==20.3.4", "setuptools==44.1.1", "wheel==0.37.1", "incremental==16.10.1"]
PINNED = [
    "attrs==20.3.0",
    "autobahn==0.10.9",
    "autobahntestsuite==25.10.1",
    "Automat==20.2.0",
    "constantly==15.1.0",
    "hyperlink==21.0.0",
    "idna==2.10",
    "jinja2==2.11.3",
    "linecache2==1.0.0",
    "markupsafe==1.1.1",
    "PyHamcrest==1.9.0",
    "six==1.16.0",
    "traceback2==1.4.0",
    "Twisted==19.10.0",
    "txaio==2.1.0",
    "typing==3.10.0.0",
    "unittest2==1.1.0",
    "zope.interface==4.6.0",
]
# The suite imports Twisted's TLS whether it is used or not.
START = """
import sys, types, twisted.internet
tls = types.ModuleType("twisted.internet.ssl")
tls.ClientContextFactory = object
sys.modules["twisted.internet.ssl"] = twisted.internet.ssl = tls
from autobahntestsuite.wstest import run
run()
"""
# What a run of all cases may take at most.
DEADLINE_S = 3 * 3600
# What the suite saw of a conversation; durations and sizes of single reads are not the server's.
COMPARED = (
    "behavior",
    "behaviorClose",
    "received",
    "resultClose",
    "remoteCloseCode",
    "remoteCloseReason",
    "rxFrameStats",
    "wasClean",
    "wasNotCleanReason",
    "failedByMe",
)


def python(home):
    """The command and environment of its Python."""
    (libraries,) = home.glob("usr/lib/*-linux-gnu")
    environment = {
        "PATH": os.environ["PATH"],
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONUSERBASE": str(home / "site"),
        "PYTHONWARNINGS": "ignore",
        # Extensions in C are what slows PyPy down.
        "PURE_PYTHON": "1",
    }
    return home / "usr/bin/pypy", environment


def install():
    """Idempotent: what is there whole stays."""
    if HOME.exists():
        return
    HOME.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME.parent) as name:
        suite, home = packages.Suite(pathlib.Path(name, "suite"), SUITE), pathlib.Path(name, "home")
        suite.update()
        for package in suite.download(INTERPRETER):
            packages.run(["dpkg-deb", "--extract", package, home])
        wheels = home / "wheels"
        fetch = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version=2.7", f"--dest={wheels}"]
        packages.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *fetch, *INSTALLERS])
        interpreter, environment = python(home)
        (pip,) = wheels.glob("pip-*.whl")
        options = ["--quiet", "--user", "--no-deps", "--no-compile", "--no-warn-script-location"]
        with_pip = [interpreter, pip / "pip", "install", *options]
        for wanted in (INSTALLERS[1:], PINNED):
            packages.run([*with_pip, *wanted], env=environment)
        shutil.move(home, HOME)


def command(*options):
    """The suite's own program and its environment."""
    if not HOME.exists():
        raise rig.Failed(f"Autobahn's suite is not installed in {HOME} (run `.ci/run install`)")
    interpreter, environment = python(HOME)
    return [interpreter, "-u", "-c", START, *options], environment


def testee(port):
    """The suite's own server, which echoes. It answers frame by frame: what it does never hangs on how they came in packets."""
    argv, environment = command("-m", "testeeserver", "-w", f"ws://127.0.0.1:{port}")
    return rig.Process(argv, ready_port=port, env=environment)


def run(servers, path, cases, folder):
    """Talks to the servers (name to port) at once; what it found of each case, by server."""
    started = []
    try:
        for name, port in servers.items():
            spec = {
                "outdir": str(folder / name),
                "servers": [{"agent": name, "url": f"ws://127.0.0.1:{port}{path}"}],
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
            file = folder / f"{name}.json"
            file.write_text(json.dumps(spec))
            with open(folder / f"{name}.log", "wb") as log:
                argv, environment = command("-m", "fuzzingclient", "-s", file)
                started.append(subprocess.Popen(argv, env=environment, cwd=folder, stdout=log, stderr=log))
        for name, process in zip(servers, started):
            if process.wait(DEADLINE_S):
                raise rig.Failed(f"wstest ended with {process.returncode}\n{(folder / f'{name}.log').read_text()[-2000:]}")
    finally:
        for process in started:
            process.kill()
            process.wait()
    return {name: found(folder / name, name) for name in servers}


def found(folder, agent):
    """Its reports: case to compared facts."""
    index = json.loads((folder / "index.json").read_text())
    facts = {}
    for case, entry in index[agent].items():
        report = json.loads((folder / entry["reportfile"]).read_text())
        facts[case] = {key: report[key] for key in COMPARED}
        facts[case]["duration"] = report["duration"]
    return facts


if __name__ == "__main__":
    rig.main(install)
    print(f"Autobahn's test suite is in {HOME}")
