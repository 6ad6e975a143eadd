"""The real servers behind protocols.py: each listens on the loopback, keeps its data in a temporary folder, and runs as the unprivileged user
that it insists on where the test is root's. Started for the cases that need them, and shared by both proxies."""

import concurrent.futures
import contextlib
import glob
import os
import pathlib
import pwd
import subprocess
import tempfile

import grpc
import rig
import websocket
from protocols_case import quiet_ports

RUN_S = 90  # longest time of one run of a tool


def tool(argv, given=None, allowed=(0,)):
    """What a program says on standard output."""
    argv = [str(part) for part in argv]
    try:
        done = subprocess.run(argv, input=given or b"", capture_output=True, timeout=RUN_S, check=False)
    except subprocess.TimeoutExpired as late:
        raise rig.Failed(f"{' '.join(argv)}: no end after {RUN_S} s\n{(late.stderr or b'').decode(errors='replace')[-2000:]}") from None
    if done.returncode not in allowed:
        said = (done.stdout[-2000:] + done.stderr[-2000:]).decode(errors="replace")
        raise rig.Failed(f"{' '.join(argv)} ended with {done.returncode}\n{said}")
    return done.stdout


def unprivileged(user, folder):
    """What runs a server as another user, to whom the folder is given; nothing where the test itself is nobody special."""
    if os.getuid() != 0:
        return []
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise rig.Failed(f"there is no user {user} (run `.ci/run install`)") from None
    os.chown(folder, found.pw_uid, found.pw_gid)
    return [rig.binary("RINGWAY_SETPRIV", "setpriv"), "--reuid", user, "--regid", found.pw_gid, "--clear-groups"]


def postgres_program(name):
    """Debian keeps them out of PATH, by version."""
    return rig.binary(f"RINGWAY_{name.upper()}", name, *sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), reverse=True))


def postgres(folder, port):
    become = unprivileged("postgres", folder)
    tool([*become, postgres_program("initdb"), "-D", folder / "data", "-A", "trust", "-U", "postgres", "--no-sync", "--no-locale", "-E", "UTF8"])
    argv = [*become, postgres_program("postgres"), "-D", folder / "data", "-p", port, "-h", "127.0.0.1", "-k", "", "-F"]
    process = rig.Process(argv, port)
    ready = [postgres_program("pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
    rig.wait_for(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, "PostgreSQL")
    return process


def redis(folder, port):
    argv = [rig.binary("RINGWAY_REDIS", "redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
    return rig.Process(argv, port)


def mariadb(folder, port):
    become = unprivileged("mysql", folder)
    data = ["--no-defaults", f"--datadir={folder / 'data'}"]
    tool([*become, rig.binary("RINGWAY_MARIADB_INSTALL", "mariadb-install-db"), *data, "--auth-root-authentication-method=normal", "--skip-test-db"])
    own = [f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}", f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve"]
    server = rig.binary("RINGWAY_MARIADBD", "mariadbd", "/usr/sbin/mariadbd")
    return rig.Process([*become, server, *data, *own, "--max-allowed-packet=64M", "--innodb-buffer-pool-size=16M"], port)


def smtp(folder, port):
    """Every message becomes a file of a Maildir."""
    python = websocket.parts()[0]
    return rig.Process([python, "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{port}", "-c", "aiosmtpd.handlers.Mailbox", folder / "mail"], port)


SSHD = """
ListenAddress 127.0.0.1:@port@
HostKey @folder@/host
AuthorizedKeysFile @folder@/client.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""


def ssh(folder, port):
    for name in ("host", "client"):
        tool([rig.binary("RINGWAY_SSH_KEYGEN", "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", folder / name])
    (folder / "sshd.conf").write_text(SSHD.replace("@port@", str(port)).replace("@folder@", str(folder)))
    if os.getuid() == 0:
        # Where it gives up its rights; Debian's service makes it.
        pathlib.Path("/run/sshd").mkdir(exist_ok=True)
    return rig.Process([rig.binary("RINGWAY_SSHD", "sshd", "/usr/sbin/sshd"), "-D", "-e", "-f", folder / "sshd.conf"], port)


def tls(name):
    def start(folder, port):
        argv = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", folder / "key", "-out", folder / "certificate"]
        openssl = rig.binary("RINGWAY_OPENSSL", "openssl")
        tool([openssl, *argv, "-subj", f"/CN={name}", "-days", "2", "-addext", f"subjectAltName=DNS:{name}.example"])
        return rig.Process([openssl, "s_server", "-accept", f"127.0.0.1:{port}", "-www", "-quiet", "-cert", folder / "certificate", "-key", folder / "key"], port)

    return start


def http2(folder, port):
    (folder / "file").write_bytes(bytes(range(256)) * 40_000)
    return rig.Process([rig.binary("RINGWAY_NGHTTPD", "nghttpd"), "--no-tls", "-a", "127.0.0.1", "-d", folder, port], port)


SERVERS = {
    "postgres": postgres, "redis": redis, "mariadb": mariadb, "smtp": smtp, "ssh": ssh, "tls-a": tls("a"), "tls-b": tls("b"), "tls-default": tls("default"),
    "http2": http2,
    "websocket": lambda folder, port: rig.Process(websocket.parts("serve", port), port),
    "grpc": lambda folder, port: rig.Process([grpc.program("server"), f"--port={port}"], port),
}


class Running:
    """Ports and folders of the servers, by name."""

    def __init__(self, folder):
        self.folder, self.ports = folder, {}


@contextlib.contextmanager
def running(chosen):
    """The servers behind these cases."""
    needed = [name for name in SERVERS if any(name in endpoints for one in chosen for endpoints in one.clusters.values())]
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        found = Running(folder)

        def start(name, port):
            (folder / name).mkdir()
            stack.enter_context(SERVERS[name](folder / name, port))
            found.ports[name] = port

        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(start, needed, quiet_ports(len(needed))))
        yield found
