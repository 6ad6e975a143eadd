"""Ringway itself, once on io_uring and once on epoll; the bootstrap is Envoy's."""

import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import pathlib
import re
import subprocess
import time

from loads import errors
from loads import process as processes
from loads import tools as installed
from peers import Peer
from peers import envoy


class Ringway(Peer):
    kind = "ringway"

    def __init__(self, name, backend, color):
        self.name, self.backend, self.color = name, backend, color

    def find(self, tools):
        self.binary = tools.ringway()
        # Its version is the same from commit to commit; figures of two builds are not to stand in one table.
        digest = hashlib.sha256(pathlib.Path(self.binary).read_bytes()).hexdigest()
        return f"{installed.version([self.binary, '--version'])}, SHA-256 {digest[:10]}"

    def command(self, setup, place):
        text = f"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {place.admin}}}}}}}\n"
        text += "static_resources:\n  listeners:\n" + envoy.indent(envoy.listener(setup, place), 2)
        text += "  clusters:\n" + envoy.clusters(setup, place)
        file = place.folder / "ringway.yaml"
        file.write_text(text)
        if not setup.is_plain():
            self.require_offered(file)
        options = ["--concurrency", setup.workers, "--io-backend", self.backend, "-l", "error"]
        # A reload is a hot restart: the next process is of the next epoch, and this one serves what it has until its
        # clients are gone, for two seconds at most.
        if not setup.reloads:
            return [self.binary, "-c", file, *options, "--disable-hot-restart"]
        options += ["--socket-path", f"@{place.folder.name}", "--drain-time-s", "2", "--drain-strategy", "immediate"]
        return [self.binary, "-c", file, *options, "--parent-shutdown-time-s", "2", "--restart-epoch", "0"]

    def require_offered(self, file):
        """TLS and HTTP/2 come with later versions: one that refuses them says so itself."""
        argv = [self.binary, "-c", file, "--mode", "validate", "-l", "error"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stdout + done.stderr
            reasons = re.findall(r"does not implement \((.*)\)$", said, re.MULTILINE)
            if not reasons:
                raise errors.Failed(f"the configuration is not taken: {said.strip()[-600:]}")
            raise errors.Unsupported(f"not offered: {', '.join(dict.fromkeys(reasons))}")

    def reload(self, process, setup, place):
        epoch = process.next_epoch = getattr(process, "next_epoch", 0) + 1
        command = [*self.command(setup, place)[:-1], epoch]
        process.take_place(STARTER.submit(processes.Process, command, process.core, process.log).result())
        until = time.monotonic() + 10
        while epoch_at(place.admin) != epoch:
            process.require_alive()
            if time.monotonic() > until:
                raise errors.Failed(f"epoch {epoch} did not take over within 10 s")
            time.sleep(0.02)


# The kernel ends what a thread has started with that thread, and the one that reloads ends with its turn.
STARTER = concurrent.futures.ThreadPoolExecutor(1)


def epoch_at(admin):
    """The epoch of the process that answers at the admin endpoint."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=5)
        connection.request("GET", "/server_info", headers={"Connection": "close"})
        info = json.loads(connection.getresponse().read())
        connection.close()
        return info["command_line_options"]["restart_epoch"]
    return None


ORDER = 1
PEERS = [Ringway("ringway", "io_uring", "#e4572e"), Ringway("ringway-epoll", "epoll", "#f4a261")]
