"""What control planes do with secrets: more scripts, of certificates that listeners and clusters name."""

import peers  # noqa: F401 (before rig)
import resources as made
import rig
from scripts import script, subscribed


def protected(play, *secrets):
    """One listener under TLS whose certificate is the secret `server`, its routes and a cluster."""
    play.begin()
    play.stream.asked("CDS")
    play.set("CDS", {"svc": made.static_cluster("svc", play.origins["a"].port)})
    play.stream.asked("LDS")
    play.set("LDS", {"web": made.listener("web", play.port, tls="server")})
    play.stream.asked("SDS")
    play.stream.asked("RDS")
    play.set("RDS", {"routes": made.routes(rest="svc")})
    for certificate, key, shown in secrets:
        play.set("SDS", {"server": made.secret("server", certificate, key)})
        shows(play, shown)


def shows(play, certificate, port=None):
    rig.wait_for(lambda: play.certificate(port) == certificate, "the certificate")


@script
def certificate_comes(play):
    """K1, K4: a listener waits for its certificate; K2: a new one is shown to new connections; a broken one leaves it."""
    pairs = play.origins["certificates"]
    protected(play)
    play.stream.settle()
    play.note("before", play.certificate())
    play.set("SDS", {"server": made.secret("server", *pairs[0][:2])})
    shows(play, pairs[0][2])
    play.set("SDS", {"server": made.secret("server", *pairs[1][:2])})
    shows(play, pairs[1][2])
    play.note("answer to a broken one", play.set("SDS", {"server": made.secret("server", pairs[0][0], pairs[1][1])}))
    shows(play, pairs[1][2])


@script
def certificate_is_removed(play):
    """K3: a certificate that the control plane says is gone, or leaves out, stays (envoy#32961)."""
    pairs = play.origins["certificates"]
    protected(play, pairs[0])
    play.note("answer", play.set("SDS", {}, remove=["server"]))
    shows(play, pairs[0][2])
    play.note("answer then", play.set("SDS", {"server": made.secret("server", *pairs[1][:2])}))
    shows(play, pairs[1][2])


@script
def certificate_does_not_come(play):
    """K4: after initial_fetch_timeout the listener is there and refuses connections, until the certificate comes."""
    pair = play.origins["certificates"][0]
    listener = made.listener("web", play.port, tls="server", fetch_timeout="0.3s")
    play.begin()
    play.stream.asked("CDS")
    play.set("CDS", {"svc": made.static_cluster("svc", play.origins["a"].port)})
    play.stream.asked("LDS")
    play.set("LDS", {"web": listener})
    play.stream.asked("SDS")
    play.stream.asked("RDS")
    play.set("RDS", {"routes": made.routes(rest="svc")})
    rig.wait_for(lambda: rig.accepts(play.port), "the listener")
    play.note("plain text is answered", play.get() in ("a", "503"))
    rig.wait_for(lambda: play.stats_of("listener.127.0.0.1_.*downstream_context_secrets_not_ready") > 0, "the counter")
    play.set("SDS", {"server": made.secret("server", *pair[:2])})
    shows(play, pair[2])


@script
def certificate_of_nobody(play):
    """S4, S6: a secret that nobody names is not asked for any more, and is left alone."""
    pair = play.origins["certificates"][0]
    protected(play, pair)
    play.set("LDS", {}, remove=["web"])
    play.stream.settle(1.0)


@script
def certificate_of_two(play):
    """One name for two listeners: it is asked for once, and the second has it at once."""
    pair = play.origins["certificates"][0]
    protected(play, pair)
    play.set("LDS", {"more": made.listener("more", play.other_port, route="others", tls="server")})
    play.set("RDS", {"others": made.routes("others", rest="svc")})
    shows(play, pair[2], play.other_port)
    shows(play, pair[2])


@script(counts=False)
def certificate_over_a_reconnection(play):
    """R4: what is there is said, and stays; what is new is taken."""
    pairs = play.origins["certificates"]
    protected(play, pairs[0])
    play.stream.close()
    play.begin(2)
    play.stream.settle(1.0)
    shows(play, pairs[0][2])
    play.set("SDS", {"server": made.secret("server", *pairs[1][:2])})
    shows(play, pairs[1][2])


@script
def certificate_with_another_name(play):
    """S4: a secret that nobody asked for beside the one that is asked for."""
    pairs = play.origins["certificates"]
    protected(play, pairs[0])
    play.change("SDS", {"server": made.secret("server", *pairs[1][:2]), "other": made.secret("other", *pairs[0][:2])})
    play.tell("SDS")
    play.note("answer", play.answer("SDS"))
    shows(play, pairs[1][2])


@script
def cluster_waits_for_a_certificate(play):
    """O3, K1: a cluster whose client certificate is told waits for it; the one before it serves."""
    pair = play.origins["certificates"][0]
    play.begin()
    play.stream.asked("CDS")
    play.set("CDS", {"svc": made.static_cluster("svc", play.origins["a"].port)})
    play.stream.asked("LDS")
    play.set("LDS", {"web": made.listener("web", play.port)})
    play.stream.asked("RDS")
    play.set("RDS", {"routes": made.routes(rest="svc")})
    play.becomes("a")
    play.change("CDS", {"svc": made.static_cluster("svc", play.origins["b"].port, transport_socket=made.client_tls("client"))})
    play.tell("CDS")
    play.stream.asked("SDS", lambda request: "client" in subscribed(request))
    play.stays("a")
    play.set("SDS", {"client": made.secret("client", *pair[:2])})
    # The origin speaks plain text.
    play.becomes("503")
