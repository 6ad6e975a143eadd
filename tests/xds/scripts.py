"""What control planes do: each script is told to both proxies, in both variants of ADS."""

import peers  # noqa: F401 (before rig)
import resources as made
import rig

SCRIPTS = {}
SLOW_S = 20.0  # what may take a reconnection


def script(function=None, **options):
    """Adds a script; its options are those of its play."""
    if function is None:
        return lambda function: script(function, **options)
    SCRIPTS[function.__name__.replace("_", "-")] = (function, options)
    return function


def usual(play, *more_clusters):
    """One cluster by EDS, one listener, its routes."""
    origin = play.origins
    clusters = {name: made.cluster(name) for name in ("svc", *more_clusters)}
    endpoints = {name: made.endpoints(name, origin["a"].port) for name in clusters}
    play.world(clusters, endpoints, {"web": made.listener("web", play.port)}, {"routes": made.routes(rest="svc")})
    play.becomes("a")


@script
def begins(play):
    """S1, N2, I1: what is asked first, in which order, and with which acknowledgements."""
    usual(play)
    order = [request.kind for request in play.stream.requests if request.answer == "asks" and not request.nonce]
    play.note("types in order", list(dict.fromkeys(order)))


@script
def endpoints_change(play):
    """N1, N2: a change of endpoints is live, and acknowledged once."""
    usual(play)
    play.note("answer", play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)}))
    play.becomes("b")


@script
def endpoints_all_go(play):
    """Without endpoints requests are answered 503; with them again they are served."""
    usual(play)
    play.set("EDS", {"svc": made.endpoints("svc")})
    play.becomes("503")
    play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)})
    play.becomes("b")


@script
def routes_change(play):
    """Routes change between clusters that are there."""
    usual(play, "other")
    play.set("EDS", {"other": made.endpoints("other", play.origins["b"].port)})
    play.note("answer", play.set("RDS", {"routes": made.routes(b="other", rest="svc")}))
    play.becomes("b", "/b")
    play.stays("a")


@script
def cluster_comes(play):
    """S3, O2, O3: a cluster more: its endpoints are asked for; a route to it answers 503 before it is there."""
    usual(play)
    play.set("RDS", {"routes": made.routes(b="later", rest="svc")})
    play.becomes("503", "/b")
    play.change("EDS", {"later": made.endpoints("later", play.origins["b"].port)})
    play.change("CDS", {"later": made.cluster("later")})
    play.tell("CDS")
    play.stream.asked("EDS", lambda request: "later" in subscribed(request))
    play.tell("EDS")
    play.becomes("b", "/b")
    play.stays("a")


@script
def cluster_goes(play):
    """N7, S6: a cluster that is left out is gone, and its endpoints are no longer asked for."""
    usual(play, "other")
    play.set("RDS", {"routes": made.routes(b="other", rest="svc")})
    play.becomes("a", "/b")
    play.note("answer", play.set("CDS", {}, remove=["other"]))
    play.becomes("503", "/b")
    play.stays("a")


@script
def all_clusters_go(play):
    """N7: an empty response removes all."""
    usual(play)
    play.note("answer", play.set("CDS", {}, remove=["svc"]))
    play.becomes("503")


@script
def endpoints_left_out(play):
    """N7: endpoints that a response leaves out are kept (state of the world); delta says what it removes, and that is not removed either."""
    usual(play, "other")
    play.set("RDS", {"routes": made.routes(b="other", rest="svc")})
    play.becomes("a", "/b")
    play.note("answer", play.set("EDS", {}, remove=["other"]))
    play.stays("a", "/b")


@script(counts=False)
def cluster_changes(play):
    """O4: a changed cluster serves on while its successor warms; with endpoints told again it is live."""
    usual(play)
    play.change("CDS", {"svc": made.cluster("svc", connect_timeout="2s")})
    play.tell("CDS")
    play.stays("a")
    play.change("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)})
    play.tell("EDS")
    play.becomes("b")


@script
def cluster_changes_and_nothing_follows(play):
    """O4: no control plane has to tell the same endpoints again (go-control-plane#245)."""
    usual(play)
    play.set("CDS", {"svc": made.static_cluster("svc", play.origins["b"].port)})
    play.becomes("b")


@script
def bad_cluster_beside_good_ones(play):
    """P1, N2: the good ones of a response are live, the bad one is named, its last good version stays."""
    usual(play)
    bad = made.static_cluster("bad", play.origins["b"].port)
    bad.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address = "no address"
    play.change("CDS", {"bad": bad, "good": made.static_cluster("good", play.origins["b"].port)})
    play.tell("CDS")
    answer = play.stream.answered("CDS")
    play.note("answer", answer.answer)
    play.note("names it", "bad" in (answer.error or ""))
    play.set("RDS", {"routes": made.routes(b="good", c="bad", rest="svc")})
    play.becomes("b", "/b")
    play.stays("503", "/c")
    play.stays("a")


@script
def constraint_is_broken(play):
    """P1, Y1: what the API's own rules refuse."""
    usual(play)
    play.change("CDS", {"bad": made.static_cluster("bad", play.origins["b"].port, connect_timeout="-1s"),
                        "good": made.static_cluster("good", play.origins["b"].port)})
    play.tell("CDS")
    play.note("answer", play.answer("CDS"))
    play.stays("a")


@script
def bad_is_mended(play):
    """D2: a response that mends a refused one is taken at once."""
    usual(play)
    broken = made.listener("web", play.port)
    broken.filter_chains[0].filters[0].name = ""
    broken.filter_chains[0].filters[0].ClearField("typed_config")
    play.note("answer", play.set("LDS", {"web": broken}))
    play.stays("a")
    play.note("answer then", play.set("LDS", {"web": made.listener("web", play.port, per_connection_buffer_limit_bytes=4096)}))
    play.becomes("a")


@script
def removed_beside_a_bad_one(play):
    """P2: a removal in a refused response (envoy#12592)."""
    usual(play)
    play.set("LDS", {"more": made.listener("more", play.other_port)})
    play.becomes("a", port=play.other_port)
    broken = made.listener("broken", play.other_port)
    broken.filter_chains[0].filters[0].name = ""
    broken.filter_chains[0].filters[0].ClearField("typed_config")
    play.change("LDS", {"broken": broken}, remove=["more"])
    play.tell("LDS")
    play.note("answer", play.answer("LDS"))
    play.stream.settle()
    play.note("the removed one", play.get(port=play.other_port))
    play.stays("a")


@script
def duplicates(play):
    """S5: a resource twice in a response."""
    usual(play)
    play.stream.push("CDS", "7", [("svc", play.state["CDS"]["svc"])] * 2)
    play.note("answer", play.answer("CDS"))
    play.stays("a")


@script
def unasked(play):
    """S4: resources that nobody has asked for are ignored."""
    usual(play)
    nobody = made.endpoints("nobody", play.origins["b"].port)
    play.stream.push("EDS", "7", [("svc", play.state["EDS"]["svc"]), ("nobody", nobody)])
    play.note("answer", play.answer("EDS"))
    play.stays("a")


@script
def same_again(play):
    """N1: what is known already is acknowledged, and changes nothing."""
    usual(play)
    for kind in ("CDS", "EDS", "LDS", "RDS"):
        play.stream.push(kind, str(play.versions[kind]), play.state[kind].items())
        play.note(f"answer to {kind}", play.answer(kind))
    play.stays("a")


@script
def two_at_once(play):
    """N1: each of two responses is answered."""
    usual(play)
    first = play.stream.push("EDS", "7", [("svc", made.endpoints("svc", play.origins["a"].port))])
    second = play.stream.push("EDS", "8", [("svc", made.endpoints("svc", play.origins["b"].port))])
    play.becomes("b")
    play.stream.settle()
    nonces = [request.nonce for request in play.stream.requests if request.kind == "EDS"]
    play.note("answered", [nonces.count(first), nonces.count(second)])


@script
def listener_comes_and_goes(play):
    """A listener more, and gone again: its port is closed."""
    usual(play)
    play.note("answer", play.set("LDS", {"more": made.listener("more", play.other_port)}))
    play.becomes("a", port=play.other_port)
    play.note("answer to its end", play.set("LDS", {}, remove=["more"]))
    play.becomes("refused", port=play.other_port)
    play.stays("a")


@script
def listener_waits_for_its_routes(play):
    """O5: a listener serves once its routes are there; before, the port is closed."""
    usual(play)
    play.change("LDS", {"more": made.listener("more", play.other_port, "others")})
    play.tell("LDS")
    play.stream.asked("RDS", lambda request: "others" in subscribed(request))
    play.stays("refused", port=play.other_port)
    play.set("RDS", {"others": made.routes("others", rest="svc")})
    play.becomes("a", port=play.other_port)


@script
def listener_changes(play):
    """O5: a listener that changes goes on serving; its connections, too."""
    usual(play)
    play.change("LDS", {"web": made.listener("web", play.port, "others")})
    play.tell("LDS")
    play.stream.asked("RDS", lambda request: "others" in subscribed(request))
    play.stays("a")
    play.set("RDS", {"others": made.routes("others", rest="svc")})
    play.becomes("a")


@script
def listener_changes_without_its_table(play):
    """N7, O5: a table that is left out or removed stays in use, and so it does for a listener that changes then."""
    usual(play)
    play.note("answer of the table", play.set("RDS", {}, remove=["routes"]))
    play.note("answer", play.set("LDS", {"web": made.listener("web", play.port, upgrades=["websocket"])}))
    play.stays("a")


@script
def listener_of_unknown_cluster(play):
    """LDS is not refused because a cluster is not there (envoy#5933)."""
    usual(play)
    play.note("answer", play.set("LDS", {"tcp": made.tcp_listener("tcp", play.other_port, "nowhere")}))
    play.stays("a")


@script
def stream_ends(play):
    """N4, R3, R4: the next stream asks for everything, with versions and without nonces; traffic goes on."""
    usual(play)
    play.stream.settle()
    play.stream.close()
    play.begin(2)
    play.stays("a")
    play.stream.settle(1.0)
    play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)})
    play.becomes("b")


@script
def stream_breaks(play):
    """R1, R2: as before, with an error."""
    usual(play)
    play.stream.settle()
    play.stream.close("UNAVAILABLE")
    play.begin(2)
    play.stream.settle(1.0)
    play.stays("a")


@script(counts=False)
def control_plane_dies(play):
    """R1: traffic goes on without it; it is found again."""
    usual(play)
    play.server.stop()
    play.stays("a")
    play.server.start()
    play.begin(2, SLOW_S)
    play.stream.settle(1.0)
    play.set("EDS", {"svc": made.endpoints("svc", play.origins["b"].port)})
    play.becomes("b")


@script(starts_server=False, counts=False)
def control_plane_comes_late(play):
    """R1: a proxy that begins without it."""
    play.server.start()
    play.begin(1, SLOW_S)
    usual(play)


@script
def refused_then_reconnected(play):
    """R5: what was refused is asked for again (envoy#34334), and no refusal goes to the new stream."""
    usual(play)
    play.stream.push("CDS", "7", [("svc", made.cluster("svc", connect_timeout="-1s"))])
    play.note("answer", play.answer("CDS"))
    play.stream.settle()
    play.stream.close()
    play.begin(2)
    asked = play.stream.asked("CDS")
    play.note("says of the refusal", asked.answer)
    play.stream.settle(1.0)
    play.note("answer then", play.set("CDS", {"more": made.static_cluster("more", play.origins["b"].port)}))
    play.stays("a")


@script
def reconnected_while_warming(play):
    """R5: a cluster that waits for its endpoints gets them from the next stream."""
    usual(play)
    play.change("CDS", {"later": made.cluster("later")})
    play.tell("CDS")
    play.stream.asked("EDS", lambda request: "later" in subscribed(request))
    play.stream.settle()
    play.stream.close()
    play.begin(2)
    play.stream.asked("EDS", lambda request: "later" in subscribed(request))
    play.stream.settle(1.0)
    play.has["EDS"] = {}
    play.change("EDS", {"later": made.endpoints("later", play.origins["b"].port)})
    play.tell("EDS")
    play.stream.asked("CDS")
    play.set("RDS", {"routes": made.routes(b="later", rest="svc")})
    play.becomes("b", "/b")


@script
def endpoints_never_come(play):
    """O3: after initial_fetch_timeout a cluster is there without endpoints."""
    origin = play.origins["a"]
    slow = made.cluster("slow")
    slow.eds_cluster_config.eds_config.initial_fetch_timeout.nanos = 300_000_000
    play.begin()
    play.stream.asked("CDS")
    play.set("CDS", {"slow": slow, "svc": made.static_cluster("svc", origin.port)})
    play.stream.asked("LDS")
    play.set("LDS", {"web": made.listener("web", play.port)})
    play.stream.asked("RDS")
    play.set("RDS", {"routes": made.routes(b="slow", rest="svc")})
    play.becomes("a")
    play.stays("503", "/b")


@script(fetch_timeout="0.3s")
def nothing_comes(play):
    """initial_fetch_timeout of CDS and LDS: the proxy is ready without them."""
    play.begin()
    play.stream.asked("CDS")
    rig.wait_for(lambda: b"LIVE" in ready(play), "/ready")
    play.stream.asked("LDS")
    play.stream.settle()


@script
def large(play):
    """R9: a response of more than 4 MiB."""
    usual(play)
    padding = "x" * 8000
    many = {f"c{index}": made.static_cluster(f"c{index}", play.origins["b"].port, metadata={"filter_metadata": {"pad": {"a": padding}}}) for index in range(1000)}
    play.note("answer", play.set("CDS", many))
    play.set("RDS", {"routes": made.routes(b="c999", rest="svc")})
    play.becomes("b", "/b")


@script
def garbage(play):
    """Bytes that are no resource: refused; the proxy serves on, and takes the next response."""
    usual(play)
    broken = made.TYPES["CDS"]
    play.stream.push("CDS", "7", [("svc", any_of(broken, b"\xff\xff\xff\xff"))])
    play.note("answer", play.answer("CDS"))
    play.stream.push("CDS", "8", [("svc", any_of(made.TYPES["LDS"], b""))])
    play.note("answer to another type", play.answer("CDS"))
    play.stays("a")
    play.note("answer then", play.set("CDS", {"more": made.static_cluster("more", play.origins["b"].port)}))


@script
def same_refusal_again(play):
    """D1: a server that sends the same bad response again and again."""
    usual(play)
    bad = [("svc", made.cluster("svc", connect_timeout="-1s"))]
    answered = 0
    for turn in range(8):
        play.stream.push("CDS", "7", bad)
        answered += play.answer("CDS") == "NACK"
    play.note("refused", answered)
    play.note("answer then", play.set("CDS", {"more": made.static_cluster("more", play.origins["b"].port)}))
    play.stays("a")


def any_of(url, content):
    return made.any_pb2.Any(type_url=url, value=content)


def ready(play):
    try:
        return play.admin_get("/ready")
    except OSError:
        return b""


def subscribed(request):
    """The names that a request asks for."""
    raw = request.raw
    return raw.resource_names if hasattr(raw, "resource_names") else raw.resource_names_subscribe
