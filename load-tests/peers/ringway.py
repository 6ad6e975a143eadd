"""Ringway itself, once on io_uring and once on epoll; the bootstrap is Envoy's."""

import hashlib
import pathlib

from loads import errors
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
        if setup.reloads:
            raise errors.Unsupported("not offered: a changed file needs a new process")
        text = f"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {place.admin}}}}}}}\n"
        text += "static_resources:\n  listeners:\n" + envoy.indent(envoy.listener(setup, place), 2)
        text += "  clusters:\n" + envoy.clusters(setup, place)
        file = place.folder / "ringway.yaml"
        file.write_text(text)
        # The limits that Envoy must be given are fields that Ringway may not enforce yet.
        options = ["--concurrency", setup.workers, "--io-backend", self.backend, "-l", "error", "--allow-unimplemented"]
        return [self.binary, "-c", file, *options]


ORDER = 1
PEERS = [Ringway("ringway", "io_uring", "#e4572e"), Ringway("ringway-epoll", "epoll", "#f4a261")]
