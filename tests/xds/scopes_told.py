"""What control planes do with scopes of routes (SRDS): more scripts."""

import peers  # noqa: F401 (before rig)
import resources as made
from scripts import script, subscribed


def begun(play, **scopes):
    """A world whose listener has these scopes, by their names: keys and names of routes. Routes are still to come."""
    play.begin()
    play.stream.asked("CDS")
    play.set("CDS", {name: made.static_cluster(name, play.origins[name].port) for name in ("a", "b")})
    play.stream.asked("LDS")
    play.change("LDS", {"web": made.listener("web", play.port, scoped=made.told_scopes("s"))})
    play.tell("LDS")
    play.stream.asked("SRDS")
    play.note("answer", tell(play, **scopes))


def tell(play, remove=(), **scopes):
    return play.set("SRDS", {name: made.scope(name, key, route) for name, (key, route) in scopes.items()}, remove=list(remove))


def asked_for(play, *routes):
    play.stream.asked("RDS", lambda request: set(routes) <= set(subscribed(request)))


@script
def scope_comes_with_its_routes(play):
    """O5: a listener waits for its scopes and their routes; of a later one they are waited for without it."""
    begun(play, first=("one", "t"))
    asked_for(play, "t")
    play.stream.settle()
    play.note("before", play.get("/one"))
    play.set("RDS", {"t": made.routes("t", rest="a")})
    play.becomes("a", "/one")
    play.stays("404", "/two")
    play.note("answer then", tell(play, second=("two", "u")))
    asked_for(play, "u")
    play.stays("404", "/two")
    play.set("RDS", {"u": made.routes("u", rest="b")})
    play.becomes("b", "/two")
    play.stays("a", "/one")


@script
def scopes_do_not_agree(play):
    """Two scopes of one key refuse the whole response, and the last ones stay."""
    begun(play, first=("one", "t"))
    asked_for(play, "t")
    play.set("RDS", {"t": made.routes("t", rest="a")})
    play.becomes("a", "/one")
    play.note("answer to a key that is taken", tell(play, second=("two", "t"), third=("two", "t")))
    play.stays("a", "/one")
    play.stays("404", "/two")
    play.note("answer once one is gone", tell(play, remove=["third"], second=("three", "t")))
    play.becomes("a", "/three")


@script
def key_goes_to_another_scope(play):
    """Removals come before additions."""
    begun(play, first=("one", "t"))
    asked_for(play, "t")
    play.set("RDS", {"t": made.routes("t", rest="a")})
    play.becomes("a", "/one")
    play.note("answer", tell(play, remove=["first"], second=("one", "t")))
    play.stays("a", "/one")
