"""What control planes do to endpoints: scripts as those of scripts.py, for clusters and routes that the bootstrap has."""

import peers  # noqa: F401 (before rig)
import resources as made
from scripts import SLOW_S, any_of, ready, script, subscribed

LISTED = ("svc", "other")  # clusters of the bootstrap


def endpoints_only(function=None, **options):
    return script(function, endpoints_only=True, **options)


def usual(play):
    """Both clusters lead to the same origin."""
    play.begin()
    play.stream.asked("EDS", lambda request: set(LISTED) <= set(subscribed(request)))
    play.set("EDS", {name: made.endpoints(name, play.origins["a"].port) for name in LISTED})
    play.becomes("a")
    play.becomes("a", "/b")


def broken(name, **wrong):
    """Endpoints with an address that is none."""
    resource = made.endpoints(name, 1)
    address = resource.endpoints[0].lb_endpoints[0].endpoint.address.socket_address
    for field, value in (wrong or {"address": "no address"}).items():
        setattr(address, field, value)
    return resource


@endpoints_only
def eds_begins(play):
    """S2, S3, I1: the proxy is not ready before the endpoints are there; both clusters are asked for."""
    play.begin()
    play.stream.asked("EDS", lambda request: set(LISTED) <= set(subscribed(request)))
    play.note("live before", b"LIVE" in ready(play))
    play.set("EDS", {"svc": made.endpoints("svc", play.origins["a"].port)})
    play.stream.settle()
    play.note("live with one of two", b"LIVE" in ready(play))
    play.set("EDS", {"other": made.endpoints("other", play.origins["b"].port)})
    play.becomes("a")
    play.becomes("b", "/b")


@endpoints_only
def eds_changes(play):
    """N1, N2, N6: each change is live and acknowledged once; what does not change stays."""
    usual(play)
    for turn in range(4):
        name = "ba"[turn % 2]
        play.note(f"answer {turn}", play.set("EDS", {"svc": made.endpoints("svc", play.origins[name].port)}))
        play.becomes(name)
    play.stays("a", "/b")


@endpoints_only
def eds_all_go(play):
    """Without endpoints requests are answered 503, and served again when there are some."""
    usual(play)
    play.note("answer", play.set("EDS", {"svc": made.endpoints("svc")}))
    play.becomes("503")
    play.stays("a", "/b")
    play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)})
    play.becomes("b")


@endpoints_only
def eds_left_out(play):
    """N7: endpoints that a state of the world leaves out are kept; what delta removes, too, since the cluster is still there."""
    usual(play)
    play.note("answer", play.set("EDS", {}, remove=["other"]))
    play.stays("a", "/b")
    play.stays("a")


@endpoints_only
def eds_bad_beside_good(play):
    """P1, N2: the good ones of a response are used, the bad one is named and stays as it was."""
    usual(play)
    play.change("EDS", {"svc": broken("svc"), "other": made.endpoints("other", play.origins["b"].port)})
    play.tell("EDS")
    answer = play.stream.answered("EDS")
    play.note("answer", answer.answer)
    play.note("names the reason", "no address" in (answer.error or ""))
    play.stays("a")
    play.note("the good one", play.get("/b"))


@endpoints_only
def eds_breaks_a_constraint(play):
    """Y1: what the API's own rules refuse; a later response is good."""
    usual(play)
    play.note("answer", play.set("EDS", {"svc": broken("svc", address="127.0.0.1", port_value=70000)}))
    play.stays("a")
    play.note("answer then", play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)}))
    play.becomes("b")


@endpoints_only
def eds_twice(play):
    """S5: a resource that stands twice in a response."""
    usual(play)
    play.stream.push("EDS", "7", [("svc", play.state["EDS"]["svc"])] * 2)
    play.note("answer", play.answer("EDS"))
    play.stays("a")


@endpoints_only
def eds_unasked(play):
    """S4: resources that nobody has asked for."""
    usual(play)
    play.stream.push("EDS", "7", [("svc", play.state["EDS"]["svc"]), ("nobody", made.endpoints("nobody", play.origins["b"].port))])
    play.note("answer", play.answer("EDS"))
    play.stream.push("EDS", "8", [("svc", play.state["EDS"]["svc"]), ("nobody", broken("nobody"))])
    play.note("answer to a bad one", play.answer("EDS"))
    play.stays("a")


@endpoints_only
def eds_same_again(play):
    """N1: what is known is acknowledged and changes nothing."""
    usual(play)
    for turn in range(3):
        play.stream.push("EDS", str(play.versions["EDS"]), play.state["EDS"].items())
        play.note(f"answer {turn}", play.answer("EDS"))
    play.stays("a")


@endpoints_only
def eds_many_at_once(play):
    """N1, R10: every one of many responses is answered once and in order; the last one is live."""
    usual(play)
    nonces = [play.stream.push("EDS", str(10 + turn), [("svc", made.endpoints("svc", play.origins["ab"[turn % 2]].port))]) for turn in range(40)]
    play.becomes("b")
    play.stream.settle()
    play.stays("b")
    answered = [request.nonce for request in play.stream.requests if request.answer != "asks"]
    play.note("answered in order", [nonce for nonce in answered if nonce in nonces] == nonces)


@endpoints_only
def eds_empty_response(play):
    """A response without resources."""
    usual(play)
    play.stream.push("EDS", "7", [])
    play.note("answer", play.answer("EDS"))
    play.stays("a")


@endpoints_only
def eds_garbage(play):
    """Bytes that are no resource, and resources of another type: refused; the next response is taken."""
    usual(play)
    play.stream.push("EDS", "7", [("svc", any_of(made.TYPES["EDS"], b"\xff\xff\xff\xff"))])
    play.note("answer", play.answer("EDS"))
    play.stream.push("EDS", "8", [("svc", any_of(made.TYPES["CDS"], b""))])
    play.note("answer to another type", play.answer("EDS"))
    play.stays("a")
    play.note("answer then", play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)}))
    play.becomes("b")


@endpoints_only
def eds_type_that_nobody_asked_for(play):
    """A response of another type."""
    usual(play)
    play.stream.push("SDS", "7", [])
    play.stream.settle()
    play.note("answer then", play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)}))
    play.becomes("b")


@endpoints_only
def eds_same_refusal_again(play):
    """D1, D2: a server that sends what was refused again and again; what mends it is taken."""
    usual(play)
    answered = 0
    for _ in range(6):
        play.stream.push("EDS", "7", [("svc", broken("svc"))])
        answered += play.answer("EDS") == "NACK"
    play.note("refused", answered)
    play.note("answer then", play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)}))
    play.becomes("b")


@endpoints_only
def eds_stream_ends(play):
    """N4, R3, R4: the next stream asks for everything, with versions and without nonces; traffic goes on."""
    usual(play)
    play.stream.settle()
    play.stream.close()
    play.begin(2)
    play.stays("a")
    play.stream.settle(1.0)
    play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)})
    play.becomes("b")


@endpoints_only
def eds_stream_breaks(play):
    """R1, R2: as before, with an error."""
    usual(play)
    play.stream.settle()
    play.stream.close("UNAVAILABLE")
    play.begin(2)
    play.stays("a")
    play.stream.settle(1.0)


@endpoints_only
def eds_refused_then_reconnected(play):
    """R5: what was refused is asked for again, and no refusal goes to the new stream."""
    usual(play)
    play.stream.push("EDS", "7", [("svc", broken("svc"))])
    play.note("answer", play.answer("EDS"))
    play.stream.settle()
    play.stream.close()
    play.begin(2)
    play.note("says of the refusal", play.stream.asked("EDS").answer)
    play.stream.settle(1.0)
    play.note("answer then", play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)}))
    play.becomes("b")


@endpoints_only(counts=False)
def eds_control_plane_dies(play):
    """R1: traffic goes on without it; it is found again."""
    usual(play)
    play.server.stop()
    play.stays("a")
    play.stays("a", "/b")
    play.server.start()
    play.begin(2, SLOW_S)
    play.stream.settle(1.0)
    play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)})
    play.becomes("b")


@endpoints_only(starts_server=False, counts=False)
def eds_control_plane_comes_late(play):
    """R1: a proxy that begins without it."""
    play.server.start()
    play.begin(1, SLOW_S)
    usual(play)


@endpoints_only(fetch_timeout="0.3s")
def eds_never_comes(play):
    """O3: after initial_fetch_timeout the proxy serves, and answers 503; endpoints that come later are used."""
    play.begin()
    play.stream.asked("EDS", lambda request: set(LISTED) <= set(subscribed(request)))
    play.becomes("503")
    play.note("answer", play.set("EDS", {"svc": made.endpoints("svc", play.origins["a"].port)}))
    play.becomes("a")
    play.stays("503", "/b")


@endpoints_only
def eds_health_and_priorities(play):
    """What else endpoints say: health as the control plane sees it, priorities."""
    usual(play)
    ports = [play.origins[name].port for name in "ab"]
    both = made.endpoints("svc", *ports)
    both.endpoints[0].lb_endpoints[0].health_status = 2
    play.note("answer to an unhealthy one", play.set("EDS", {"svc": both}))
    play.becomes("b")
    play.note("all go to the healthy one", {play.get() for _ in range(10)} == {"b"})
    second = made.endpoints("svc", ports[0])
    second.endpoints.add().CopyFrom(both.endpoints[0])
    second.endpoints[1].priority = 1
    del second.endpoints[1].lb_endpoints[0]
    play.note("answer to priorities", play.set("EDS", {"svc": second}))
    play.becomes("a")
    play.note("all go to the first priority", {play.get() for _ in range(10)} == {"a"})


@endpoints_only
def eds_large(play):
    """R9: a response of more than 4 MiB."""
    usual(play)
    many = made.endpoints("svc", *[play.origins["b"].port] * 8)
    for index in range(8):
        many.endpoints[0].lb_endpoints[index].metadata.filter_metadata["pad"].update({"a": "x" * 700_000})
    play.note("answer", play.set("EDS", {"svc": many}))
    play.becomes("b")


@endpoints_only
def eds_gap_in_priorities(play):
    """A priority that is left out."""
    usual(play)
    gap = made.endpoints("svc", play.origins["b"].port)
    gap.endpoints[0].priority = 1
    play.note("answer", play.set("EDS", {"svc": gap}))
    play.stream.settle()
    play.note("then", play.get())


@endpoints_only
def eds_of_nobody_alone(play):
    """The name within is not the one that was asked for."""
    usual(play)
    play.stream.push("EDS", "7", [("svc", made.endpoints("else", play.origins["b"].port))])
    play.note("answer", play.answer("EDS"))
    play.stays("a")


@endpoints_only
def eds_first_is_bad(play):
    """A first answer that is no good does not keep the proxy from its start."""
    play.begin()
    play.stream.asked("EDS", lambda request: set(LISTED) <= set(subscribed(request)))
    play.change("EDS", {"svc": broken("svc")})
    play.tell("EDS")
    play.note("answer", play.answer("EDS"))
    play.change("EDS", {"other": made.endpoints("other", play.origins["b"].port)}, remove=["svc"])
    play.tell("EDS")
    play.note("answer then", play.answer("EDS"))
    play.becomes("b", "/b")
    play.note("without endpoints", play.get())
