"""Resources whose source is `self`, the server that they came from: more scripts."""

import peers  # noqa: F401 (before rig)
import resources as made
from scripts import script, usual

SELF = {"self": {}, "resource_api_version": "V3"}


def refused(play, kind, resource):
    """Notes how a response with this resource beside the others is answered, and whether the answer names it."""
    play.change(kind, resource)
    play.tell(kind)
    answer = play.stream.answered(kind)
    (name,) = resource
    play.note(f"answer to {kind}", answer.answer)
    play.note(f"{kind} is named", name in (answer.error or ""))
    play.stays("a")


@script(counts=False)
def source_of_endpoints_is_self(play):
    usual(play)
    refused(play, "CDS", {"more": made.cluster("more", eds_cluster_config={"eds_config": SELF})})


@script(counts=False)
def source_of_routes_is_self(play):
    usual(play)
    refused(play, "LDS", {"more": made.listener("more", play.other_port, source=SELF)})


@script(counts=False)
def source_of_secrets_is_self(play):
    usual(play)
    secured = made.transport_socket("Upstream", "secret", source=SELF)
    refused(play, "CDS", {"more": made.static_cluster("more", play.origins["b"].port, transport_socket=secured)})


@script(counts=False)
def load_reports_go_to_self(play):
    """`lrs_server` of a cluster is taken, whatever is done with it."""
    usual(play)
    refused(play, "CDS", {"more": made.static_cluster("more", play.origins["b"].port, lrs_server=SELF, lrs_report_endpoint_metrics=["cpu_utilization"])})
    play.set("RDS", {"routes": made.routes(b="more", rest="svc")})
    play.becomes("b", "/b")
