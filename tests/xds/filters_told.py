"""What control planes do with HTTP filters (ECDS): more scripts."""

import peers  # noqa: F401 (before rig)
import resources as made
from scripts import SLOW_S, script, subscribed

BOTH = ("rbac.v3.RBAC", "grpc_web.v3.GrpcWeb")


def begun(play, *filters, **listener):
    """The usual world, up to a listener with these filters and its routes: everything goes to `a`."""
    play.begin()
    play.stream.asked("CDS")
    play.set("CDS", {"svc": made.static_cluster("svc", play.origins["a"].port)})
    play.stream.asked("LDS")
    play.change("LDS", {"web": made.listener("web", play.port, filters=filters, **listener)})
    play.tell("LDS")
    play.stream.asked("RDS")
    play.set("RDS", {"routes": made.routes(rest="svc")})


def tell(play, *prefixes, names=("access", "more")):
    """Tells filters that deny these prefixes, the first under the name `access`; the answer."""
    return play.set("ECDS", {name: made.extension(name, made.denial(prefix)) for name, prefix in zip(names, prefixes)})


def shown(play):
    """What `/config_dump` says of filters that are used. Ringway names those of which there is none, too, and how they stand."""
    sections = [each for each in play.admin_json("/config_dump")["configs"] if each["@type"].endswith("EcdsConfigDump")]
    filters = [each for section in sections for each in section.get("ecds_filters", []) if "version_info" in each]
    return sorted((each["version_info"], each["ecds_filter"]["name"], each["ecds_filter"]["typed_config"]["@type"]) for each in filters)


def noted(play):
    play.note("stats of filters", play.filter_stats())
    play.note("dump", shown(play))


@script
def filter_comes(play):
    """O5: a listener waits for its filter; another is live for the next request, and acknowledged once."""
    begun(play, made.told_filter("access"))
    play.stream.asked("ECDS")
    play.stream.settle()
    play.note("before", play.get())
    play.note("answer", tell(play, "/b"))
    play.becomes("403", "/b")
    play.stays("a")
    play.note("answer then", tell(play, "/c"))
    play.becomes("403", "/c")
    play.stays("a", "/b")
    noted(play)
    order = [request.kind for request in play.stream.requests if request.answer == "asks" and not request.nonce]
    play.note("types in order", list(dict.fromkeys(order)))


@script
def filter_is_told_again(play):
    """The same once more changes nothing, and is acknowledged."""
    begun(play, made.told_filter("access"))
    play.stream.asked("ECDS")
    tell(play, "/b")
    play.becomes("403", "/b")
    play.tell_again("ECDS")
    play.note("answer", play.answer("ECDS"))
    play.stays("403", "/b")
    noted(play)


@script
def filter_is_no_good(play):
    """N2: what cannot stand there is refused, and the last one stays."""
    begun(play, made.told_filter("access", types=(*BOTH, "router.v3.Router")))
    play.stream.asked("ECDS")
    tell(play, "/b")
    play.becomes("403", "/b")
    unknown = {"@type": f"{made.PREFIX}google.protobuf.StringValue", "value": "x"}
    for what, config in [("type", unknown), ("terminal", made.typed("router.v3.Router"))]:
        play.note(f"answer to a bad {what}", play.set("ECDS", {"access": made.extension("access", config)}))
        play.stays("403", "/b")
    play.note("answer then", tell(play, "/c"))
    play.becomes("403", "/c")
    noted(play)


@script
def filter_is_no_good_at_first(play):
    """The listener does not wait for a better one: requests are answered 500."""
    begun(play, made.told_filter("access"))
    play.stream.asked("ECDS")
    play.note("answer", play.set("ECDS", {"access": made.extension("access", made.typed("router.v3.Router"))}))
    play.becomes("500")
    play.note("dump before", shown(play))
    tell(play, "/b")
    play.becomes("a")
    play.becomes("403", "/b")
    noted(play)


@script(counts=False)
def filter_does_not_come(play):
    """After initial_fetch_timeout the listener goes without."""
    begun(play, made.told_filter("access", fetch_timeout="0.5s"))
    play.stream.asked("ECDS")
    play.becomes("500", deadline_s=SLOW_S)
    play.note("stats before", play.filter_stats())
    tell(play, "/b")
    play.becomes("a")
    noted(play)


@script
def filter_has_a_default(play):
    """The listener waits nevertheless; the default is in the place of what is no good."""
    begun(play, made.told_filter("access", default_config=made.denial("/d")))
    play.stream.asked("ECDS")
    play.stream.settle()
    play.note("before", play.get())
    play.note("answer", play.set("ECDS", {"access": made.extension("access", made.typed("router.v3.Router"))}))
    play.becomes("403", "/d")
    play.stays("a")
    tell(play, "/b")
    play.becomes("403", "/b")
    play.stays("a", "/d")
    noted(play)


@script
def filter_has_a_default_at_once(play):
    """Without warming the default serves until a filter comes."""
    begun(play, made.told_filter("access", default_config=made.denial("/d"), apply_default_config_without_warming=True))
    play.becomes("403", "/d")
    play.stays("a")
    play.stream.asked("ECDS")
    tell(play, "/b")
    play.becomes("403", "/b")
    play.stays("a", "/d")
    noted(play)


@script
def filter_is_removed(play):
    """In delta one that is removed is gone; a state of the world that leaves it out says nothing."""
    begun(play, made.told_filter("access"), made.told_filter("more", default_config=made.denial("/d")))
    play.stream.asked("ECDS", lambda request: {"access", "more"} <= set(subscribed(request)) or "more" in subscribed(request))
    tell(play, "/b", "/c")
    play.becomes("403", "/b")
    play.becomes("403", "/c")
    play.note("answer", play.set("ECDS", {}, remove=["more"]))
    play.becomes("403" if play.is_delta else "a", "/d")
    play.stays("a" if play.is_delta else "403", "/c")
    play.note("answer then", play.set("ECDS", {}, remove=["access"]))
    play.becomes("500" if play.is_delta else "a", "/x")
    noted(play)
    tell(play, "/b")
    play.becomes("a", "/x")
    play.note("stats in the end", play.filter_stats())


@script
def filter_of_two_listeners(play):
    """What does not fit all who ask for a name is refused; a listener that comes later and does not fit goes with its default."""
    begun(play, made.told_filter("access", types=BOTH))
    play.stream.asked("ECDS")
    tell(play, "/b")
    play.becomes("403", "/b")
    only_web = made.told_filter("access", types=("grpc_web.v3.GrpcWeb",), default_config=made.typed("grpc_web.v3.GrpcWeb"))
    play.set("LDS", {"more": made.listener("more", play.other_port, filters=(only_web,))})
    play.becomes("a", "/b", port=play.other_port)
    play.stays("403", "/b")
    play.note("answer to what one cannot have", tell(play, "/c"))
    play.stays("403", "/b")
    play.note("answer to what both can have", play.set("ECDS", {"access": made.extension("access", made.typed("grpc_web.v3.GrpcWeb"))}))
    play.becomes("a", "/b")
    noted(play)


@script
def filter_is_off(play):
    """One that is disabled and did not come is not missed."""
    begun(play, made.told_filter("access", disabled=True, fetch_timeout="0.5s"))
    play.stream.asked("ECDS")
    play.becomes("a", deadline_s=SLOW_S)


@script
def filter_is_the_last(play):
    """The router may be told, and nothing else where it is the last."""
    play.begin()
    play.stream.asked("CDS")
    play.set("CDS", {"svc": made.static_cluster("svc", play.origins["a"].port)})
    play.stream.asked("LDS")
    listener = made.listener("web", play.port)
    manager = made.any_pb2.Any()
    manager.CopyFrom(listener.filter_chains[0].filters[0].typed_config)
    message = made.http_connection_manager_pb2.HttpConnectionManager()
    manager.Unpack(message)
    del message.http_filters[:]
    made.json_format.ParseDict(made.told_filter("last", types=("router.v3.Router", "rbac.v3.RBAC")), message.http_filters.add())
    listener.filter_chains[0].filters[0].typed_config.Pack(message)
    play.set("LDS", {"web": listener})
    play.stream.asked("RDS")
    play.set("RDS", {"routes": made.routes(rest="svc")})
    play.stream.asked("ECDS")
    play.note("answer", play.set("ECDS", {"last": made.extension("last", made.denial("/"))}))
    play.becomes("500")
    play.note("answer then", play.set("ECDS", {"last": made.extension("last", made.typed("router.v3.Router"))}))
    play.becomes("a")
    noted(play)


@script
def filter_that_cannot_be_told(play):
    """Listeners that Envoy does not take."""
    begun(play)
    play.becomes("a")
    for number, (what, more) in enumerate([
        ("at once without a default", {"apply_default_config_without_warming": True}),
        ("default of another type", {"default_config": made.typed("grpc_web.v3.GrpcWeb")}),
        ("default that ends the chain", {"types": ("router.v3.Router",), "default_config": made.typed("router.v3.Router")}),
        ("without types", {"types": ()}),
    ]):
        filters = (made.told_filter("access", **more),)
        name = f"bad{number}"
        play.change("LDS", {name: made.listener(name, play.other_port, filters=filters)})
        play.tell("LDS")
        play.note(what, play.answer("LDS"))
        play.set("LDS", {}, remove=[name])
    play.stays("a")


@script
def filter_goes_with_its_listener(play):
    """S6: what nobody asks for any more is not asked for."""
    begun(play, made.told_filter("access"))
    play.stream.asked("ECDS")
    tell(play, "/b")
    play.becomes("403", "/b")
    play.set("LDS", {"more": made.listener("more", play.other_port)})
    play.becomes("a", port=play.other_port)
    play.set("LDS", {}, remove=["web"])
    play.becomes("refused", "/b", deadline_s=SLOW_S)
    play.stays("a", port=play.other_port)


@script(counts=False)
def filter_over_a_reconnection(play):
    """R4: what is there is said, and stays; what is new is taken."""
    begun(play, made.told_filter("access"))
    play.stream.asked("ECDS")
    tell(play, "/b")
    play.becomes("403", "/b")
    play.stream.close()
    play.begin(2, SLOW_S)
    play.stream.asked("ECDS")
    play.stream.settle()
    play.stays("403", "/b")
    tell(play, "/c")
    play.becomes("403", "/c")


@script
def filter_of_another_name(play):
    """S4: a filter that nobody asked for beside the one that is asked for."""
    begun(play, made.told_filter("access"))
    play.stream.asked("ECDS")
    play.change("ECDS", {"access": made.extension("access", made.denial("/b")), "strange": made.extension("strange", made.denial("/"))})
    play.tell("ECDS")
    play.note("answer", play.answer("ECDS"))
    play.stream.settle()
    play.note("then", [play.get(), play.get("/b")])
    noted(play)
