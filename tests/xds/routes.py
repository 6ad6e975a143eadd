"""What control planes do to routes: scripts as those of scripts.py, for a listener of the bootstrap whose routes come by RDS."""

import peers  # noqa: F401 (before rig)
import resources as made
from endpoints import LISTED
from scripts import SLOW_S, any_of, ready, script, subscribed


def with_routes(function=None, **options):
    return script(function, endpoints_only=True, rds=True, **options)


def begin(play):
    """The endpoints; the routes have not been told yet."""
    play.begin()
    play.stream.asked("EDS", lambda request: set(LISTED) <= set(subscribed(request)))
    play.set("EDS", {"svc": made.endpoints("svc", play.origins["a"].port), "other": made.endpoints("other", play.origins["b"].port)})
    play.stream.asked("RDS", lambda request: "routes" in subscribed(request))


def usual(play):
    begin(play)
    play.set("RDS", {"routes": made.routes(rest="svc")})
    play.becomes("a")


@with_routes
def rds_begins(play):
    """S2, O5: the proxy is not ready before the routes are there."""
    begin(play)
    play.stream.settle()
    play.note("live before", b"LIVE" in ready(play))
    play.note("answer", play.set("RDS", {"routes": made.routes(rest="svc")}))
    play.becomes("a")


@with_routes
def rds_changes(play):
    """N1, N2: each change is live, on a connection that stays, and acknowledged once."""
    usual(play)
    for turn, table in enumerate([{"rest": "other"}, {"b": "other", "rest": "svc"}, {"rest": "svc"}, {"b": "other", "rest": "svc"}]):
        play.note(f"answer {turn}", play.set("RDS", {"routes": made.routes(**table)}))
        play.becomes("b" if table["rest"] == "other" else "a")
        play.becomes("b" if "b" in table or table["rest"] == "other" else "a", "/b")


@with_routes
def rds_without_hosts(play):
    """A table without virtual hosts answers 404."""
    usual(play)
    empty = made.routes(rest="svc")
    del empty.virtual_hosts[:]
    play.note("answer", play.set("RDS", {"routes": empty}))
    play.becomes("404")
    play.note("answer then", play.set("RDS", {"routes": made.routes(rest="svc")}))
    play.becomes("a")


@with_routes
def rds_left_out(play):
    """N7: a table that is left out or removed is kept."""
    usual(play)
    play.note("answer", play.set("RDS", {}, remove=["routes"]))
    play.stays("a")


@with_routes
def rds_to_nowhere(play):
    """O2: a route to a cluster that is not there answers 503; the table is taken."""
    usual(play)
    play.note("answer", play.set("RDS", {"routes": made.routes(b="nowhere", rest="svc")}))
    play.becomes("503", "/b")
    play.stays("a")


@with_routes
def rds_validates_clusters(play):
    """O2: ... unless the table asks for its clusters."""
    usual(play)
    table = made.routes(b="nowhere", rest="other")
    table.validate_clusters.value = True
    play.note("answer", play.set("RDS", {"routes": table}))
    play.stays("a")
    play.note("answer then", play.set("RDS", {"routes": made.routes(rest="other")}))
    play.becomes("b")


@with_routes
def rds_bad_expression(play):
    """P1, D2: what cannot be compiled is refused; the old routes stay, and a good table is taken."""
    usual(play)
    bad = made.routes(b="other", rest="svc")
    bad.virtual_hosts[0].routes[0].match.safe_regex.regex = "("
    play.note("answer", play.set("RDS", {"routes": bad}))
    play.stays("a", "/b")
    play.note("answer then", play.set("RDS", {"routes": made.routes(b="other", rest="svc")}))
    play.becomes("b", "/b")


@with_routes
def rds_breaks_a_constraint(play):
    """Y1: what the API's own rules refuse."""
    usual(play)
    bad = made.routes(rest="other")
    bad.virtual_hosts[0].name = ""
    play.note("answer", play.set("RDS", {"routes": bad}))
    play.stays("a")


@with_routes
def rds_duplicate_domains(play):
    """Two virtual hosts of one domain."""
    usual(play)
    bad = made.routes(rest="other")
    bad.virtual_hosts.add().CopyFrom(bad.virtual_hosts[0])
    bad.virtual_hosts[1].name = "again"
    play.note("answer", play.set("RDS", {"routes": bad}))
    play.stays("a")


@with_routes
def rds_unasked(play):
    """S4: tables that nobody has asked for."""
    usual(play)
    play.stream.push("RDS", "7", [("routes", play.state["RDS"]["routes"]), ("others", made.routes("others", rest="other"))])
    play.note("answer", play.answer("RDS"))
    play.stays("a")


@with_routes
def rds_same_again(play):
    """N1: what is known is acknowledged and changes nothing."""
    usual(play)
    for turn in range(3):
        play.stream.push("RDS", str(play.versions["RDS"]), play.state["RDS"].items())
        play.note(f"answer {turn}", play.answer("RDS"))
    play.stays("a")


@with_routes
def rds_many_at_once(play):
    """N1: every one of many responses is answered once and in order; the last one is live."""
    usual(play)
    nonces = [play.stream.push("RDS", str(10 + turn), [("routes", made.routes(rest=("svc", "other")[turn % 2]))]) for turn in range(40)]
    play.becomes("b")
    play.stream.settle()
    play.stays("b")
    answered = [request.nonce for request in play.stream.requests if request.answer != "asks"]
    play.note("answered in order", [nonce for nonce in answered if nonce in nonces] == nonces)


@with_routes
def rds_garbage(play):
    """Bytes that are no table, and resources of another type."""
    usual(play)
    play.stream.push("RDS", "7", [("routes", any_of(made.TYPES["RDS"], b"\xff\xff\xff\xff"))])
    play.note("answer", play.answer("RDS"))
    play.stream.push("RDS", "8", [("routes", any_of(made.TYPES["EDS"], b""))])
    play.note("answer to another type", play.answer("RDS"))
    play.stays("a")
    play.note("answer then", play.set("RDS", {"routes": made.routes(rest="other")}))
    play.becomes("b")


@with_routes
def rds_one_type_refused(play):
    """A refusal of routes does not touch endpoints, nor the other way round."""
    usual(play)
    bad = made.routes(rest="other")
    bad.virtual_hosts[0].name = ""
    play.note("answer", play.set("RDS", {"routes": bad}))
    play.note("answer to endpoints", play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)}))
    play.becomes("b")


@with_routes
def rds_stream_ends(play):
    """N4, R4: both types are asked for again, with versions and without nonces."""
    usual(play)
    play.stream.settle()
    play.stream.close()
    play.begin(2)
    play.stays("a")
    play.stream.settle(1.0)
    play.set("RDS", {"routes": made.routes(rest="other")})
    play.becomes("b")


@with_routes(counts=False)
def rds_control_plane_dies(play):
    """R1: traffic goes on without it; it is found again."""
    usual(play)
    play.server.stop()
    play.stays("a")
    play.server.start()
    play.begin(2, SLOW_S)
    play.stream.settle(1.0)
    play.set("RDS", {"routes": made.routes(rest="other")})
    play.becomes("b")


@with_routes(fetch_timeout="0.3s")
def rds_never_comes(play):
    """initial_fetch_timeout: the proxy serves without routes; those that come later are used."""
    begin(play)
    play.becomes("404")
    play.note("answer", play.set("RDS", {"routes": made.routes(rest="svc")}))
    play.becomes("a")


@with_routes
def rds_first_is_bad(play):
    """A first answer that is no good does not keep the proxy from its start: nothing has a route."""
    begin(play)
    bad = made.routes(rest="svc")
    bad.virtual_hosts[0].name = ""
    play.note("answer", play.set("RDS", {"routes": bad}))
    play.becomes("404")
    play.note("answer then", play.set("RDS", {"routes": made.routes(rest="svc")}))
    play.becomes("a")
