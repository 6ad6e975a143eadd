"""Debian's packages of other suites, kernels above all, without installing them and without touching the machine's own package sources.

Each suite is asked through apt with folders of its own, at the archive that the machine's own sources name.
"""

import pathlib
import subprocess

import rig

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# The smallest flavour: it has the serial console, the loopback and seccomp built in, so no module is needed.
PACKAGE = "linux-image-cloud-amd64"
DEADLINE_S = 300


def run(argv, **options):
    try:
        done = subprocess.run(argv, capture_output=True, timeout=DEADLINE_S, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise rig.Failed(f"{argv[0]}: {error}") from None
    if done.returncode != 0:
        raise rig.Failed(f"{' '.join(map(str, argv))}: exit code {done.returncode}\n{done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def archive():
    """Where this machine gets its Debian from."""
    wanted = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    for line in run(["apt-get", "indextargets", "--no-release-info", "--format", wanted, "Created-By: Packages"]).decode().splitlines():
        uri, suite, component = line.split()
        # `bookworm-security` and the like have archives of their own.
        if component == "main" and "-" not in suite:
            return uri
    raise rig.Failed("this machine's package sources name no Debian archive")


class Suite:
    """One suite of the archive, as apt sees it from a folder of ours."""

    def __init__(self, folder, name):
        self.folder = pathlib.Path(folder)
        for part in ["lists/partial", "cache/archives/partial", "state"]:
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        sources = self.folder / "sources.list"
        sources.write_text(f"deb [signed-by={KEYRING}] {archive()} {name} main\n", encoding="ascii")
        self.options = []
        for key, value in {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State": self.folder / "state",
            "Dir::State::Lists": self.folder / "lists",
            "Dir::State::Status": "/dev/null",
            "Dir::Cache": self.folder / "cache",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": 3,
        }.items():
            self.options += ["-o", f"{key}={value}"]

    def newest(self):
        """The package that holds the suite's newest kernel."""
        depends = run(["apt-cache", *self.options, "depends", PACKAGE]).decode()
        names = [word for word in depends.split() if word.startswith("linux-image-") and word != PACKAGE]
        if len(names) != 1:
            raise rig.Failed(f"{PACKAGE} depends on {names or 'nothing'}, which is not one kernel")
        return names[0]

    def update(self):
        run(["apt-get", *self.options, "update"])

    def download(self, names):
        """Paths of these packages."""
        run(["apt-get", *self.options, "download", *names], cwd=self.folder)
        return [next(self.folder.glob(f"{name}_*.deb")) for name in names]

    def kernel(self):
        """Its newest kernel: name and bytes of the image."""
        self.update()
        name = self.newest()
        (package,) = self.download([name])
        files = run(["dpkg-deb", "--fsys-tarfile", package])
        package.unlink()
        return name, run(["tar", "--extract", "--to-stdout", "--wildcards", "./boot/vmlinuz-*"], input=files)


def kernel(folder, version, suite):
    """Path of the image of a kernel, fetched if it is not there yet."""
    folder = pathlib.Path(folder)
    image = folder / f"vmlinuz-{version}"
    if not image.exists():
        name, content = Suite(folder / suite, suite).kernel()
        if not name.startswith(f"linux-image-{version}."):
            raise rig.Failed(f"{suite} has {name}, not Linux {version}")
        part = image.with_suffix(".part")
        part.write_bytes(content)
        part.rename(image)
        print(f"fetched {name} from {suite}")
    return image
