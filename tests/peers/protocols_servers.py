"""The real servers behind protocols.py and capture_programs.py: each listens on the loopback or on the addresses that it is given, keeps its
data in a temporary folder, and runs as the unprivileged user that it insists on where the test is root's. Started for those that need them,
and shared by all proxies."""

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

RUN_S = 90  # longest time of one run of a tool
LOOPBACK = ("127.0.0.1",)


def joined(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def each(addresses, start):
    """A process for each address, for servers that take only one."""
    with contextlib.ExitStack() as stack:
        for address in addresses:
            stack.enter_context(start(address))
        return stack.pop_all()


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


def postgres(folder, port, addresses):
    become = unprivileged("postgres", folder)
    tool([*become, postgres_program("initdb"), "-D", folder / "data", "-A", "trust", "-U", "postgres", "--no-sync", "--no-locale", "-E", "UTF8"])
    # From elsewhere than the loopback, too.
    with open(folder / "data" / "pg_hba.conf", "a") as trusted:
        trusted.write("host all all all trust\n")
    argv = [*become, postgres_program("postgres"), "-D", folder / "data", "-p", port, "-h", ",".join(addresses), "-k", "", "-F"]
    process = rig.Process(argv, port, address=addresses[-1])
    ready = [postgres_program("pg_isready"), "-h", addresses[0], "-p", str(port), "-U", "postgres"]
    rig.wait_for(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, "PostgreSQL")
    return process


def redis(folder, port, addresses):
    # Clients from elsewhere need no password.
    own = ["--port", port, "--bind", *addresses, "--protected-mode", "no"]
    return rig.Process([rig.binary("RINGWAY_REDIS", "redis-server"), *own, "--save", "", "--appendonly", "no", "--dir", folder], port, address=addresses[-1])


def mariadb(folder, port, addresses):
    become = unprivileged("mysql", folder)
    data = ["--no-defaults", f"--datadir={folder / 'data'}"]
    tool([*become, rig.binary("RINGWAY_MARIADB_INSTALL", "mariadb-install-db"), *data, "--auth-root-authentication-method=normal", "--skip-test-db"])
    # Who comes from elsewhere than the loopback is nobody it knows.
    (folder / "anybody.sql").write_text("create user if not exists root@'%';\n")
    # It takes one address, or all.
    bound = addresses[0] if len(addresses) == 1 else "*"
    own = [f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}", f"--port={port}", f"--bind-address={bound}", "--skip-name-resolve"]
    server = rig.binary("RINGWAY_MARIADBD", "mariadbd", "/usr/sbin/mariadbd")
    small = ["--max-allowed-packet=64M", "--innodb-buffer-pool-size=16M"]
    return rig.Process([*become, server, *data, *own, *small, f"--init-file={folder / 'anybody.sql'}"], port, address=addresses[-1])


def smtp(folder, port, addresses):
    """Every message becomes a file of a Maildir."""
    python = websocket.parts()[0]

    def start(address):
        # Without brackets: the port is what follows the last colon.
        argv = [python, "-m", "aiosmtpd", "-n", "-l", f"{address}:{port}", "-c", "aiosmtpd.handlers.Mailbox", folder / "mail"]
        return rig.Process(argv, port, address=address)

    return each(addresses, start)


SSHD = """
@listen@
HostKey @folder@/host
AuthorizedKeysFile @folder@/client.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""


def ssh(folder, port, addresses):
    for name in ("host", "client"):
        tool([rig.binary("RINGWAY_SSH_KEYGEN", "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", folder / name])
    listen = "\n".join(f"ListenAddress {joined(address, port)}" for address in addresses)
    (folder / "sshd.conf").write_text(SSHD.replace("@listen@", listen).replace("@folder@", str(folder)))
    if os.getuid() == 0:
        # Where it gives up its rights; Debian's service makes it.
        pathlib.Path("/run/sshd").mkdir(exist_ok=True)
    return rig.Process([rig.binary("RINGWAY_SSHD", "sshd", "/usr/sbin/sshd"), "-D", "-e", "-f", folder / "sshd.conf"], port, address=addresses[-1])


def tls(name):
    def start(folder, port, addresses):
        argv = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", folder / "key", "-out", folder / "certificate"]
        openssl = rig.binary("RINGWAY_OPENSSL", "openssl")
        tool([openssl, *argv, "-subj", f"/CN={name}", "-days", "2", "-addext", f"subjectAltName=DNS:{name}.example"])
        serve = ["-www", "-quiet", "-cert", folder / "certificate", "-key", folder / "key"]
        return each(addresses, lambda address: rig.Process([openssl, "s_server", "-accept", joined(address, port), *serve], port, address=address))

    return start


def http2(folder, port, addresses):
    (folder / "file").write_bytes(bytes(range(256)) * 40_000)
    nghttpd = [rig.binary("RINGWAY_NGHTTPD", "nghttpd"), "--no-tls", "-d", folder]
    return each(addresses, lambda address: rig.Process([*nghttpd, "-a", address, port], port, address=address))


def websockets(_folder, port, addresses):
    if addresses != LOOPBACK:
        raise rig.Failed("the server of WebSockets knows only the loopback")
    return rig.Process(websocket.parts("serve", port), port)


def grpc_interop(_folder, port, addresses):
    """It listens on all addresses."""
    return rig.Process([grpc.program("server"), f"--port={port}"], port, address=addresses[-1])


SERVERS = {
    "postgres": postgres, "redis": redis, "mariadb": mariadb, "smtp": smtp, "ssh": ssh, "tls-a": tls("a"), "tls-b": tls("b"), "tls-default": tls("default"),
    "http2": http2, "websocket": websockets, "grpc": grpc_interop,
}


class Running:
    """Ports and folders of the servers, by name."""

    def __init__(self, folder):
        self.folder, self.ports = folder, {}


def running(chosen):
    """The servers behind these cases."""
    needed = [name for name in SERVERS if any(name in endpoints for one in chosen for endpoints in one.clusters.values())]
    return started(dict(zip(needed, rig.free_ports(len(needed)))))


@contextlib.contextmanager
def started(ports, addresses=LOOPBACK):
    """These servers, by name, on their ports; in the network of the thread that enters."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        found = Running(folder)

        def start(name, port):
            (folder / name).mkdir()
            stack.enter_context(SERVERS[name](folder / name, port, addresses))
            found.ports[name] = port

        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(start, ports, ports.values()))
        yield found
