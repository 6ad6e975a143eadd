"""What control planes do with runtime values (RTDS): more scripts."""

import peers  # noqa: F401 (before rig)
import resources as made
import rig
from scripts import SLOW_S, script, subscribed

LAYERS = """layered_runtime:
  layers:
  - name: fixed
    static_layer: {{share: 0, low: 1}}
  - name: told
    rtds_layer: {{name: values, rtds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: {fetch_timeout}}}}}
  - name: admin
    admin_layer: {{}}
"""
TWO_LAYERS = LAYERS.replace("  - name: admin\n", """  - name: more
    rtds_layer: {{name: others, rtds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: {fetch_timeout}}}}}
  - name: admin
""")


def begun(play, **values):
    """The usual world behind a layer that is told these values, and a route whose share the key `share` says: it answers 201."""
    play.begin()
    play.stream.asked("RTDS")
    play.set("RTDS", {"values": made.runtime("values", **values)})
    play.stream.asked("CDS")
    play.set("CDS", {"svc": made.static_cluster("svc", play.origins["a"].port), "other": made.static_cluster("other", play.origins["b"].port)})
    play.stream.asked("LDS")
    play.set("LDS", {"web": made.listener("web", play.port)})
    play.stream.asked("RDS")
    play.set("RDS", {"routes": shared_routes()})
    rig.wait_for(lambda: play.get() != "refused", "the listener")


def shared_routes():
    shared = {"match": {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": 0}, "runtime_key": "share"}}, "route": {"cluster": "other"}}
    weights = {"runtime_key_prefix": "weights", "clusters": [{"name": "svc", "weight": 1}, {"name": "other", "weight": 0}]}
    weighted = {"match": {"prefix": "/w"}, "route": {"weighted_clusters": weights}}
    rest = {"match": {"prefix": "/"}, "route": {"cluster": "svc"}}
    return made.made("RDS", {"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [weighted, shared, rest]}]})


def shows(play, key):
    """What `/runtime` says of a key."""
    return play.admin_json("/runtime")["entries"].get(key)


@script(layers=LAYERS)
def runtime_comes_first(play):
    """Nothing else is asked for before the values are there."""
    play.begin()
    play.stream.asked("RTDS")
    play.stream.settle(1.0)
    play.note("asked before", sorted({request.kind for request in play.stream.requests}))
    play.note("state before", play.server_state())
    play.set("RTDS", {"values": made.runtime("values", share=100)})
    play.stream.asked("CDS")
    play.set("CDS", {"svc": made.static_cluster("svc", play.origins["a"].port), "other": made.static_cluster("other", play.origins["b"].port)})
    play.stream.asked("LDS")
    play.set("LDS", {"web": made.listener("web", play.port)})
    play.stream.asked("RDS")
    play.set("RDS", {"routes": shared_routes()})
    play.becomes("b")
    play.note("stats", play.runtime_stats())


@script(layers=LAYERS)
def runtime_changes(play):
    """A value is live for requests that begin, over the layers below and under those above."""
    begun(play, share=100)
    play.becomes("b")
    play.note("answer", play.set("RTDS", {"values": made.runtime("values", share={"numerator": 0, "denominator": "MILLION"})}))
    play.becomes("a")
    play.set("RTDS", {"values": made.runtime("values", share="100", more={"nested": 1.5, "truth": True, "text": "x"})})
    play.becomes("b")
    for key in ("share", "low", "more.nested", "more.truth", "more.text"):
        play.note(f"shown: {key}", shows(play, key))
    play.admin_post("/runtime_modify?share=0")
    play.becomes("a")
    play.set("RTDS", {"values": made.runtime("values", share=50)})
    play.stays("a")
    play.admin_post("/runtime_modify?share=")
    play.set("RTDS", {"values": made.runtime("values", share=100)})
    play.becomes("b")
    play.note("stats", play.runtime_stats())


@script(layers=LAYERS)
def runtime_weights(play):
    """Weights of clusters; none at all is no route."""
    begun(play)
    play.becomes("a", "/w")
    play.set("RTDS", {"values": made.runtime("values", weights={"svc": 0, "other": 1})})
    play.becomes("b", "/w")
    play.set("RTDS", {"values": made.runtime("values", weights={"svc": 0, "other": 0})})
    play.becomes("a", "/w")
    play.set("RTDS", {"values": made.runtime("values")})
    play.becomes("a", "/w")


@script(layers=LAYERS)
def runtime_weights_while_a_listener_changes(play):
    """A table that was taken goes on in a listener that changes or comes while no cluster in it has a weight; told anew, it is refused."""
    begun(play, share=100)
    play.becomes("a", "/w")
    play.set("RTDS", {"values": made.runtime("values", share=100, weights={"svc": 0, "other": 0})})
    play.becomes("b", "/w")
    changed = {"web": made.listener("web", play.port, per_connection_buffer_limit_bytes=4096), "more": made.listener("more", play.other_port)}
    play.note("answer", play.set("LDS", changed))
    play.becomes("b", "/w", port=play.other_port)
    play.stays("b", "/w")
    play.set("RTDS", {"values": made.runtime("values", share=100)})
    for port in (play.port, play.other_port):
        play.becomes("a", "/w", port=port)
    play.set("RTDS", {"values": made.runtime("values", share=100, weights={"svc": 0, "other": 0})})
    play.becomes("b", "/w")
    again = shared_routes()
    again.internal_only_headers.append("x-a")
    play.change("RDS", {"routes": again})
    play.tell("RDS")
    play.note("answer to the table anew", play.answer("RDS"))
    play.stays("b", "/w")


@script(layers=LAYERS)
def runtime_is_no_good(play):
    """What is no value is refused, and what was before stays."""
    begun(play, share=100)
    play.note("answer", play.set("RTDS", {"values": made.runtime("values", share=[1])}))
    play.stays("b")
    play.note("answer to null", play.set("RTDS", {"values": made.runtime("values", share={"a": None})}))
    play.stays("b")
    play.note("answer then", play.set("RTDS", {"values": made.runtime("values", share=0)}))
    play.becomes("a")
    play.note("stats", play.runtime_stats())


@script(layers=LAYERS)
def runtime_is_no_good_at_first(play):
    """The start does not wait for a better one."""
    play.begin()
    play.stream.asked("RTDS")
    play.note("answer", play.set("RTDS", {"values": made.runtime("values", share=[1])}))
    play.stream.asked("CDS")
    play.set("CDS", {"svc": made.static_cluster("svc", play.origins["a"].port)})
    play.stream.asked("LDS")


@script(layers=LAYERS)
def runtime_is_removed(play):
    """In delta a layer that is removed has no values; a state of the world that leaves it out says nothing."""
    begun(play, share=100)
    play.becomes("b")
    play.note("answer", play.set("RTDS", {}, remove=["values"]))
    play.stays("a" if play.is_delta else "b")
    play.note("layers", play.admin_json("/runtime")["layers"])
    play.set("RTDS", {"values": made.runtime("values", share=100)})
    play.becomes("b")
    play.note("stats", play.runtime_stats())


@script(layers=LAYERS)
def runtime_has_an_error(play):
    """The control plane says that it cannot tell the layer now: what it has told before stays, and what it tells next is taken."""
    begun(play, share=100)
    play.becomes("b")
    play.stream.push("RTDS", "broken", [], errors=["values"])
    play.note("answer", play.answer("RTDS"))
    play.stays("b")
    play.set("RTDS", {"values": made.runtime("values", share=0)})
    play.becomes("a")


@script(layers=LAYERS)
def runtime_of_another_name(play):
    """S4: a layer that nobody asked for beside the one that is asked for."""
    begun(play, share=0)
    play.change("RTDS", {"values": made.runtime("values", share=100), "strange": made.runtime("strange", share=0)})
    play.tell("RTDS")
    play.note("answer", play.answer("RTDS"))
    play.stream.settle()
    play.note("then", play.get())


@script(layers=LAYERS, fetch_timeout="0.5s")
def runtime_does_not_come(play):
    """After initial_fetch_timeout the start goes on without, and waits for the rest anew."""
    play.begin()
    play.stream.asked("RTDS")
    play.stream.asked("CDS")
    play.set("CDS", {"svc": made.static_cluster("svc", play.origins["a"].port), "other": made.static_cluster("other", play.origins["b"].port)})
    play.stream.asked("LDS")
    play.set("LDS", {"web": made.listener("web", play.port)})
    play.stream.asked("RDS")
    play.set("RDS", {"routes": shared_routes()})
    play.becomes("a")
    play.set("RTDS", {"values": made.runtime("values", share=100)})
    play.becomes("b")
    play.note("stats", play.runtime_stats())


@script(layers=TWO_LAYERS)
def runtime_of_two_layers(play):
    """The later layer is over the earlier one."""
    play.begin()
    play.stream.asked("RTDS")
    play.change("RTDS", {"values": made.runtime("values", share=0, a=1), "others": made.runtime("others", share=100)})
    play.stream.asked("RTDS", lambda request: "others" in subscribed(request)) if "others" not in subscribed(play.stream.requests[0]) else None
    play.tell("RTDS")
    play.stream.asked("CDS")
    play.set("CDS", {"svc": made.static_cluster("svc", play.origins["a"].port)})
    play.stream.asked("LDS")
    play.note("shown", shows(play, "share"))
    play.note("shown: a", shows(play, "a"))


@script(layers=LAYERS, counts=False)
def runtime_over_a_reconnection(play):
    """R4: what is there is said, and stays; what is new is taken."""
    begun(play, share=100)
    play.becomes("b")
    play.stream.close()
    play.begin(2, SLOW_S)
    play.stream.asked("RTDS")
    play.stream.settle()
    play.stays("b")
    play.set("RTDS", {"values": made.runtime("values", share=0)})
    play.becomes("a")
