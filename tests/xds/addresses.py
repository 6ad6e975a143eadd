"""Listeners whose address cannot be had: more scripts, of what is told of them, what serves on, and when they are tried again."""

import contextlib
import http.client
import json
import pathlib
import socket
import tempfile

import peers  # noqa: F401 (before rig)
import resources as made
import rig
from scripts import script, subscribed, usual


@contextlib.contextmanager
def taken_port():
    """A port of which somebody else has the socket."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def refused(play, what, *words):
    """Notes how the last response of listeners was answered, and which words the reason has."""
    answer = play.stream.answered("LDS")
    play.note(f"answer to {what}", answer.answer)
    play.note(f"words of {what}", {word: word.lower() in (answer.error or "").lower() for word in words})


def states(play, what):
    """Notes which states listeners have, and what is said of those that failed."""
    found = {}
    for section in json.loads(play.admin_get("/config_dump"))["configs"]:
        for entry in section.get("dynamic_listeners", []):
            error = entry.get("error_state", {})
            # Envoy has an entry of its own, without a name, for what has failed.
            one = found.setdefault(entry.get("name") or error["failed_configuration"]["name"], {"states": []})
            one["states"] = sorted({*one["states"], *(part for part in entry if part in ("active_state", "warming_state", "error_state"))})
            if error:
                one["failed"] = error["failed_configuration"]["name"]
                one["says why"] = any(word in error["details"].lower() for word in ("in use", "cannot assign", "address"))
    play.note(f"states of {what}", found)


@script
def address_is_in_use(play):
    """A listener whose port somebody else has: refused by name, the other one of the response serves, and with the port free it is taken."""
    usual(play)
    with taken_port() as port:
        play.change("LDS", {"more": made.listener("more", port), "good": made.listener("good", play.other_port)})
        play.tell("LDS")
        refused(play, "it", "more", "already in use", "good")
        play.becomes("a", port=play.other_port)
        play.stream.settle()
        states(play, "it")
        play.note("counted", play.stats_of("listener_manager.listener_create_failure") > 0)
        # The same once more, as it was.
        play.tell_again("LDS")
        refused(play, "it once more", "more", "already in use", "good")
        play.stays("a")
    play.tell_again("LDS")
    refused(play, "it with the port free")
    play.becomes("a", port=port)
    play.stays("a", port=play.other_port)
    states(play, "it then")


@script
def address_changes_to_one_in_use(play):
    """A listener that moves to a port somebody else has: it stays where it was, as it was."""
    usual(play)
    with taken_port() as port:
        play.change("LDS", {"web": made.listener("web", port, per_connection_buffer_limit_bytes=4096)})
        play.tell("LDS")
        refused(play, "it", "web", "already in use")
        play.stays("a")
        states(play, "it")
    play.note("answer to another place", play.set("LDS", {"web": made.listener("web", play.other_port)}))
    play.becomes("a", port=play.other_port)
    play.becomes("refused")
    states(play, "it then")


@script
def address_is_not_here(play):
    """A listener on an address that this host does not have."""
    usual(play)
    play.change("LDS", {"more": made.listener("more", play.other_port, address=made.address(play.other_port, "192.0.2.1"))})
    play.tell("LDS")
    refused(play, "it", "more", "cannot assign requested address")
    states(play, "it")
    play.note("answer to its end", play.set("LDS", {}, remove=["more"]))
    play.stays("a")
    states(play, "it then")


@script
def address_of_another_listener(play):
    """Two listeners with one address: the first keeps it."""
    usual(play)
    play.change("LDS", {"more": made.listener("more", play.port)})
    play.tell("LDS")
    refused(play, "it", "more", "address")
    play.stays("a")
    states(play, "it")
    play.note("answer to another place", play.set("LDS", {"more": made.listener("more", play.other_port)}))
    play.becomes("a", port=play.other_port)


@script
def address_is_in_use_and_routes_are_to_come(play):
    """A listener that would wait for its routes is refused at once, and they are not asked for."""
    usual(play)
    with taken_port() as port:
        play.change("LDS", {"more": made.listener("more", port, "others")})
        play.tell("LDS")
        refused(play, "it", "more", "already in use")
        play.stream.settle()
        states(play, "it")
    play.tell_again("LDS")
    play.stream.asked("RDS", lambda request: "others" in subscribed(request))
    refused(play, "it with the port free")
    play.set("RDS", {"others": made.routes("others", rest="svc")})
    play.becomes("a", port=port)


@script
def address_is_in_use_at_the_start(play):
    """The first listeners that are told: one without its port does not keep the process from its start."""
    play.begin()
    play.stream.asked("CDS")
    play.set("CDS", {"svc": made.static_cluster("svc", play.origins["a"].port)})
    play.stream.asked("LDS")
    with taken_port() as port:
        play.change("LDS", {"more": made.listener("more", port), "web": made.listener("web", play.port)})
        play.tell("LDS")
        refused(play, "them", "more", "already in use", "web")
        play.stream.asked("RDS")
        play.set("RDS", {"routes": made.routes(rest="svc")})
        play.becomes("a")
        rig.wait_for(lambda: b"LIVE" in play.admin_get("/ready"), "/ready")
    play.tell_again("LDS")
    refused(play, "them with the port free")
    play.becomes("a", port=port)


@script
def address_changes_hands(play):
    """The address of a listener that is gone is another's, in the same response and in the next."""
    usual(play)
    play.note("answer to one", play.set("LDS", {"more": made.listener("more", play.other_port)}))
    play.becomes("a", port=play.other_port)
    play.note("answer to the next", play.set("LDS", {"next": made.listener("next", play.other_port)}, remove=["more"]))
    play.becomes("a", port=play.other_port)
    play.note("answer to its end", play.set("LDS", {}, remove=["next"]))
    play.note("answer to the last", play.set("LDS", {"last": made.listener("last", play.other_port)}))
    play.becomes("a", port=play.other_port)
    play.stays("a")


def listens(play, text):
    """Waits until the proxy says that it listens there."""
    rig.wait_for(lambda: text in play.admin_get("/listeners").decode(), f"{text} in /listeners")


def any_or_one(play, name, ip, route="routes", **more):
    return {name: made.listener(name, play.other_port, route, address=made.address(play.other_port, ip), **more)}


@script
def address_widens_and_narrows(play):
    """A listener moves between any address and one of those, at the port that it has."""
    usual(play)
    for turn, ip in enumerate(("0.0.0.0", "127.0.0.1", "0.0.0.0")):
        play.note(f"answer {turn}", play.set("LDS", any_or_one(play, "more", ip)))
        listens(play, f"more::{ip}:{play.other_port}")
        play.becomes("a", port=play.other_port)


@script
def address_within_any_changes_hands(play):
    """One response takes a listener at any address away and brings one at an address of those, and the other way round."""
    usual(play)
    for turn, (name, ip, gone) in enumerate((("more", "0.0.0.0", []), ("next", "127.0.0.1", ["more"]), ("last", "0.0.0.0", ["next"]))):
        play.note(f"answer {turn}", play.set("LDS", any_or_one(play, name, ip), remove=gone))
        listens(play, f"{name}::{ip}:{play.other_port}")
        play.becomes("a", port=play.other_port)


@script
def address_beside_any(play):
    """A listener at any address, and another at one of those: who connects there is the latter's."""
    usual(play, "other")
    play.set("EDS", {"other": made.endpoints("other", play.origins["b"].port)})
    play.note("answer to any", play.set("LDS", any_or_one(play, "more", "0.0.0.0")))
    play.becomes("a", port=play.other_port)
    play.change("LDS", any_or_one(play, "next", "127.0.0.1", "others"))
    play.tell("LDS")
    play.stream.asked("RDS", lambda request: "others" in subscribed(request))
    play.note("answer to one", play.answer("LDS"))
    play.set("RDS", {"others": made.routes("others", rest="other")})
    play.becomes("b", port=play.other_port)


@script
def address_that_is_not_shared(play):
    """With one socket for all workers: what changes of how the listener binds."""
    usual(play)
    for what, more in {
        "it": {},
        "another queue": {"tcp_backlog_size": 77},
        "freebind": {"tcp_backlog_size": 77, "freebind": True},
        "a socket for each": {"enable_reuse_port": True},
        "one address of any": {"address": made.address(play.other_port, "0.0.0.0")},
    }.items():
        play.note(f"answer to {what}", play.set("LDS", {"more": made.listener("more", play.other_port, **({"enable_reuse_port": False} | more))}))
        play.becomes("a", port=play.other_port)


class AtPath(http.client.HTTPConnection):
    """A client of a Unix socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(rig.DEADLINE_S)
        self.sock.connect(self.host)


@script
def address_is_a_file(play):
    """A listener at a Unix socket: the mode of its file changes, then its queue, then its name."""
    usual(play)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "socket")

        def tell(what, name, mode, remove=(), **more):
            address = {"pipe": {"path": str(path), "mode": mode}}
            play.note(f"answer to {what}", play.set("LDS", {name: made.listener(name, 1, address=address, **more)}, remove=remove))
            listens(play, f"{name}::{path}")
            play.stream.settle()
            connection = AtPath(str(path))
            connection.request("GET", "/", headers={"host": "a"})
            play.note(f"status of {what}", connection.getresponse().status)
            connection.close()
            play.note(f"mode of {what}", oct(path.stat().st_mode & 0o777))

        tell("it", "more", 0o600)
        tell("another mode", "more", 0o660)
        tell("another queue", "more", 0o660, tcp_backlog_size=77)
        tell("another name", "next", 0o640, remove=["more"])


@script
def address_is_left_by_a_move(play):
    """One response moves a listener, and brings another, whose name comes before, to where it was."""
    usual(play)
    moved = {"web": made.listener("web", play.other_port), "early": made.listener("early", play.port)}
    play.note("answer", play.set("LDS", moved))
    for name, port in (("web", play.other_port), ("early", play.port)):
        listens(play, f"{name}::127.0.0.1:{port}")
        play.becomes("a", port=port)
