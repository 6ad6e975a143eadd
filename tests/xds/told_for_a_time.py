"""What control planes tell for a time (xDS TTL): more scripts."""

import peers  # noqa: F401 (before rig)
import resources as made
from runtime import LAYERS, begun, shows
from scripts import script, usual

TTL_S = 3  # long enough for it to be seen before


@script(layers=LAYERS)
def runtime_for_a_time(play):
    """N9: values whose time to live is over are as if removed, and there again when they are told again, from then on for good."""
    begun(play, share=0)
    play.becomes("a")
    for version, ttls in (("for a time", {"values": TTL_S}), ("for good", None)):
        play.stream.push("RTDS", version, [("values", made.runtime("values", share=100))], ttls=ttls)
        play.note(f"answer: {version}", play.answer("RTDS"))
        play.becomes("b")
        if ttls:
            play.becomes("a")
            play.note("shown", shows(play, "share"))
    play.stays("b")
    play.note("stats", play.runtime_stats())


@script
def cluster_for_a_time(play):
    """N9: a cluster whose time to live is over is as if removed, and its endpoints are asked for no more."""
    usual(play, "other")
    play.set("EDS", {"other": made.endpoints("other", play.origins["b"].port)})
    play.set("RDS", {"routes": made.routes(b="other", rest="svc")})
    play.becomes("b", "/b")
    play.stream.push("CDS", "for a time", list(play.state["CDS"].items()), ttls={"other": TTL_S})
    play.note("answer", play.answer("CDS"))
    play.becomes("503", "/b")
    play.stays("a")
