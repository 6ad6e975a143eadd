"""What Envoy Gateway is told in tests/xds/envoy_gateway.py, as data: a gateway of whose fields Ringway has all, and one listener more for
each kind of policy that it may lack something of.
"""

import base64
import dataclasses
import json

API = "gateway.networking.k8s.io/v1"
OWN = "gateway.envoyproxy.io/v1alpha1"
GATEWAY = "eg"
# Listeners of the first gateway: protocol, and which secret's certificate.
LISTENERS = {
    "http": ("HTTP", None),
    "https": ("HTTPS", "front"),
    "mutual": ("HTTPS", "front"),
    "tcp": ("TCP", None),
    "pass": ("TLS", None),
}
# More of them, in use while the gateway changes.
SPARE = ("spare",)


@dataclasses.dataclass(frozen=True)
class State:
    """What changes while requests are under way."""

    generation: int = 0
    # Which origins the moving backend has, and how /weights is shared.
    moving: tuple = ("a", "b")
    weights: tuple = (9, 1)
    # Which certificate the front has.
    certificate: str = "front"
    spare: bool = False
    balancing: str = "LeastRequest"
    idle_timeout: str = "300s"


def resource(api, kind, name, spec, **more):
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **({"spec": spec} if spec is not None else {}), **more}


def backend(name, *ports, **spec):
    return resource(OWN, "Backend", name, {"endpoints": [{"ip": {"address": "127.0.0.1", "port": port}} for port in ports], **spec})


def to(*names, **more):
    return [{"group": "gateway.envoyproxy.io", "kind": "Backend", "name": name, **more} for name in names]


def route(kind, name, section, hostnames, rules):
    spec = {"parentRefs": [{"name": GATEWAY, "sectionName": each} for each in section.split()], "rules": rules}
    return resource(API, kind, name, {**spec, **({"hostnames": list(hostnames)} if hostnames else {})})


def rule(path, backends, kind="PathPrefix", filters=(), match=None, **more):
    value = {"matches": [{"path": {"type": kind, "value": path}, **(match or {})}], **more}
    if backends:
        value["backendRefs"] = backends
    if filters:
        value["filters"] = list(filters)
    return value


def aimed(kind, name, section=None):
    return {"group": "gateway.networking.k8s.io", "kind": kind, "name": name, **({"sectionName": section} if section else {})}


def policy(kind, name, target, **spec):
    return resource(OWN, kind, name, {"targetRefs": [target], **spec})


def secret(name, folder, pair):
    data = {key: base64.b64encode((folder / f"{pair}.{end}").read_bytes()).decode() for key, end in (("tls.crt", "pem"), ("tls.key", "key"))}
    return resource("v1", "Secret", name, None, type="kubernetes.io/tls", data=data)


def listener(name, port, protocol, certificate):
    value = {"name": name, "port": port, "protocol": protocol, "allowedRoutes": {"namespaces": {"from": "All"}}}
    if certificate:
        value["tls"] = {"mode": "Terminate", "certificateRefs": [{"name": certificate}]}
    elif protocol == "TLS":
        value["tls"] = {"mode": "Passthrough"}
    return value


def proxy(version, arguments, log, levels):
    """Which binary Envoy Gateway starts, with what; one worker more than one, and an access log."""
    text = {key: f"%{value}%" for key, value in {
        "method": "REQ(:METHOD)", "path": "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)", "code": "RESPONSE_CODE", "flags": "RESPONSE_FLAGS",
        "details": "RESPONSE_CODE_DETAILS", "cluster": "UPSTREAM_CLUSTER", "host": "REQ(:AUTHORITY)", "protocol": "PROTOCOL"}.items()}
    return resource(OWN, "EnvoyProxy", "proxy", {
        "provider": {"type": "Host", "host": {"envoyVersion": version}},
        "concurrency": 2,
        "logging": {"level": levels},
        "extraArgs": list(arguments),
        "shutdown": {"drainTimeout": "60s"},
        "telemetry": {"accessLog": {"settings": [{"format": {"type": "JSON", "json": text}, "sinks": [{"type": "File", "file": {"path": str(log)}}]}]}},
    })


def gateway(listeners):
    reference = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "proxy", "namespace": "envoy-gateway-system"}
    spec = {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller", "parametersRef": reference}
    return [resource(API, "GatewayClass", GATEWAY, spec), resource(API, "Gateway", GATEWAY, {"gatewayClassName": GATEWAY, "listeners": listeners})]


def modified(kind, **changes):
    """A filter that changes headers."""
    field = kind[0].lower() + kind[1:]
    pairs = {key: [{"name": name, "value": value} for name, value in changes[key].items()] for key in ("set", "add") if key in changes}
    return {"type": kind, field: {**pairs, **({"remove": changes["remove"]} if "remove" in changes else {})}}


def replaced(path, value):
    return {"type": path, path[0].lower() + path[1:]: value}


def extension(name):
    return {"type": "ExtensionRef", "extensionRef": {"group": "gateway.envoyproxy.io", "kind": "HTTPRouteFilter", "name": name}}


def http_rules(state):
    """Rules of the host www.test."""
    header = lambda name, value, kind="Exact": {"headers": [{"type": kind, "name": name, "value": value}]}
    redirect = lambda **what: {"type": "RequestRedirect", "requestRedirect": what}
    rewrite = lambda **what: {"type": "URLRewrite", "urlRewrite": what}
    weighted = [{**to(name)[0], "weight": weight} for name, weight in zip(("a", "b"), state.weights)]
    return [
        rule("/exact", to("a"), "Exact"),
        rule("/prefix", to("b")),
        rule("/regex/[0-9]+", to("c"), "RegularExpression"),
        rule("/match", to("a")),
        rule("/match", to("b"), match=header("x-canary", "yes")),
        rule("/match", to("c"), match=header("x-team", "blue.*", "RegularExpression")),
        rule("/match", to("c"), match={"method": "POST"}),
        rule("/match", to("b"), match={"queryParams": [{"name": "v", "value": "2"}]}),
        rule("/weights", weighted),
        rule("/redirect", None, filters=[redirect(scheme="https", hostname="other.test", port=8443, path=replaced("ReplaceFullPath", "/there"), statusCode=301)]),
        rule("/redirect-prefix", None, filters=[redirect(path=replaced("ReplacePrefixMatch", "/new"), statusCode=302)]),
        rule("/rewrite", to("a"), filters=[rewrite(hostname="inner.test", path=replaced("ReplacePrefixMatch", "/inner"))]),
        rule("/rewrite-full", to("a"), filters=[rewrite(path=replaced("ReplaceFullPath", "/full"))]),
        rule("/rewrite-regex", to("a"), filters=[extension("regex")]),
        rule("/headers", to("a"), filters=[
            modified("RequestHeaderModifier", set={"x-set": "set"}, add={"x-added": "added"}, remove=["x-removed"]),
            modified("ResponseHeaderModifier", set={"x-answer": "set"}, add={"x-more": "added"}, remove=["x-origin"]),
        ]),
        rule("/timeout", to("a"), timeouts={"request": "300ms"}),
        rule("/socket", to("a")),
        rule("/tls", to("secured")),
    ]


def carried(state, ports, folder, binary):
    """The gateway of whose fields Ringway has all. `binary`: version, arguments, access log, levels of the log."""
    names = [*LISTENERS, *(SPARE if state.spare else ())]
    listeners = [listener(name, ports[name], *LISTENERS.get(name, ("HTTP", None))) for name in names]
    marker = modified("ResponseHeaderModifier", set={"x-generation": str(state.generation)})
    clients = {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "authority"}]}
    return [
        *gateway(listeners), proxy(*binary),
        secret("front", folder, state.certificate),
        resource("v1", "ConfigMap", "authority", None, data={"ca.crt": (folder / "ca.pem").read_text()}),
        *(backend(name, ports[name]) for name in "abc"),
        backend("all", *(ports[name] for name in "abc")),
        backend("moving", *(ports[name] for name in state.moving)),
        backend("secured", ports["secured"]), backend("opaque", ports["secured"]), backend("rpc", ports["rpc"], appProtocols=["gateway.envoyproxy.io/h2c"]), backend("bytes", ports["bytes"]),
        # A route has sixteen rules at most.
        *(route("HTTPRoute", f"main-{at}", "http", ["www.test"], http_rules(state)[at : at + 10]) for at in (0, 10)),
        route("HTTPRoute", "wild", "http", ["*.wild.test"], [rule("/", to("b"))]),
        route("HTTPRoute", "moving", "http https", ["moving.test"], [rule("/", to("moving"), filters=[marker])]),
        route("HTTPRoute", "secure", "https mutual", ["www.test"], [rule("/", to("a"))]),
        route("HTTPRoute", "broken", "http", ["broken.test"], [rule("/", to("a"))]),
        route("HTTPRoute", "turns", "http", ["turns.test"], [rule("/", to("all"))]),
        route("HTTPRoute", "allowed", "http", ["allowed.test"], [rule("/", to("a"))]),
        *([route("HTTPRoute", "spare", "spare", [], [rule("/", to("c"))])] if state.spare else []),
        route("TCPRoute", "bytes", "tcp", [], [{"backendRefs": to("bytes")}]),
        route("TLSRoute", "pass", "pass", ["origin.test"], [{"backendRefs": to("opaque")}]),
        resource(OWN, "HTTPRouteFilter", "regex", {"urlRewrite": {"path": {
            "type": "ReplaceRegexMatch", "replaceRegexMatch": {"pattern": "^/rewrite-regex/([a-z]+)", "substitution": "/done/\\1"}}}}),
        resource(API, "BackendTLSPolicy", "secured", {
            "targetRefs": [{"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "secured"}],
            "validation": {**clients, "hostname": "origin.test"}}),
        policy("BackendTrafficPolicy", "broken", aimed("HTTPRoute", "broken"),
               circuitBreaker={"maxConnections": 10, "maxPendingRequests": 10, "maxParallelRequests": 1, "perEndpoint": {"maxConnections": 5}}),
        policy("BackendTrafficPolicy", "turns", aimed("HTTPRoute", "turns"), loadBalancer={"type": "RoundRobin"},
               timeout={"tcp": {"connectTimeout": "3s"}, "http": {"connectionIdleTimeout": "90s", "maxConnectionDuration": "600s", "requestTimeout": "20s"}},
               tcpKeepalive={"probes": 3, "idleTime": "60s", "interval": "10s"}, connection={"bufferLimit": "64Ki"}),
        policy("BackendTrafficPolicy", "moving", aimed("HTTPRoute", "moving"), loadBalancer={"type": state.balancing}),
        policy("SecurityPolicy", "allowed", aimed("HTTPRoute", "allowed"), authorization={"defaultAction": "Deny", "rules": [
            {"name": "ours", "action": "Allow", "principal": {"clientCIDRs": ["127.7.0.0/16", "2001:db8::/32"]}},
            {"name": "named", "action": "Allow", "operation": {"methods": ["GET"]}, "principal": {"headers": [{"name": "x-pass", "values": ["one", "two"]}]}},
            {"name": "both", "action": "Allow", "principal": {"headers": [{"name": "x-left", "values": ["l"]}, {"name": "x-right", "values": ["r"]}]}}]}),
        policy("ClientTrafficPolicy", "http", aimed("Gateway", GATEWAY, "http"),
               headers={"withUnderscoresAction": "RejectRequest", "enableEnvoyHeaders": True},
               path={"escapedSlashesAction": "UnescapeAndRedirect"},
               timeout={"http": {"requestReceivedTimeout": "30s", "idleTimeout": state.idle_timeout, "streamIdleTimeout": "60s"}},
               connection={"bufferLimit": "64Ki", "connectionLimit": {"value": 1000}},
               http2={"maxConcurrentStreams": 50, "initialStreamWindowSize": "64Ki", "initialConnectionWindowSize": "1Mi"}),
        policy("ClientTrafficPolicy", "mutual", aimed("Gateway", GATEWAY, "mutual"),
               tls={"minVersion": "1.2", "maxVersion": "1.3", "clientValidation": clients},
               headers={"xForwardedClientCert": {"mode": "SanitizeSet", "certDetailsToAdd": ["Subject", "DNS"]}}),
    ]


def wide():
    """Policies that Ringway may lack something of: name, and what is sent for it besides a listener and a route of its own, with one backend."""
    route_policy = lambda kind, **spec: lambda name: [policy(kind, name, aimed("HTTPRoute", name), **spec)]
    client_policy = lambda **spec: lambda name: [policy("ClientTrafficPolicy", name, aimed("Gateway", GATEWAY, name), **spec)]
    traffic = lambda **spec: route_policy("BackendTrafficPolicy", **spec)
    security = lambda **spec: route_policy("SecurityPolicy", **spec)
    extended = lambda **spec: route_policy("EnvoyExtensionPolicy", **spec)
    opaque = lambda name, **text: resource("v1", "Secret", name, None, data={key: base64.b64encode(value.encode()).decode() for key, value in text.items()})
    checked = {"timeout": "1s", "interval": "3s", "unhealthyThreshold": 3, "healthyThreshold": 1}
    keys = json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "one"}]})
    token = {"name": "local", "issuer": "https://issuer.test", "localJWKS": {"type": "Inline", "inline": keys}}
    return {
        # It has a filter for statistics of gRPC.
        "grpc-route": lambda name: [route("GRPCRoute", name, name, [], [
            {"matches": [{"method": {"type": "Exact", "service": "test.Echo", "method": "Say"}}], "backendRefs": to("rpc")}])],
        "retry": traffic(retry={"numRetries": 2, "retryOn": {"triggers": ["connect-failure", "retriable-status-codes"], "httpStatusCodes": [503]},
                                "perRetry": {"timeout": "250ms", "backOff": {"baseInterval": "10ms", "maxInterval": "100ms"}}}),
        "retry-budget": traffic(circuitBreaker={"retryBudget": {"percent": {"numerator": 20}, "minRetryConcurrency": 3}}),
        "active-http": traffic(healthCheck={"active": {**checked, "type": "HTTP", "http": {"path": "/healthz", "expectedStatuses": [200]}}}),
        "active-tcp": traffic(healthCheck={"active": {**checked, "type": "TCP", "tcp": {}}}),
        "active-grpc": traffic(healthCheck={"active": {**checked, "type": "GRPC", "grpc": {"service": "test.Echo"}}}),
        "passive": traffic(healthCheck={"passive": {"consecutive5XxErrors": 3, "interval": "5s", "baseEjectionTime": "10s", "maxEjectionPercent": 50}}),
        "slow-start": traffic(loadBalancer={"type": "RoundRobin", "slowStart": {"window": "10s"}}),
        "random": traffic(loadBalancer={"type": "Random"}),
        "override": traffic(loadBalancer={"type": "RoundRobin", "endpointOverride": {"extractFrom": [{"header": "x-endpoint"}]}}),
        "utilization": traffic(loadBalancer={"type": "BackendUtilization", "backendUtilization": {"blackoutPeriod": "10s"}}),
        "proxy-protocol": traffic(proxyProtocol={"version": "V2"}),
        "preconnect": traffic(connection={"preconnect": {"perEndpointPercent": 150}}),
        "local-limit": traffic(rateLimit={"type": "Local", "local": {"rules": [{"limit": {"requests": 1000, "unit": "Second"}}]}}),
        "fault": traffic(faultInjection={"delay": {"fixedDelay": "1ms", "percentage": 1}, "abort": {"httpStatus": 503, "percentage": 1}}),
        "admission": traffic(admissionControl={"samplingWindow": "30s", "minSuccessRate": 95}),
        "bandwidth": traffic(bandwidthLimit={"response": {"limit": {"value": "10Mi", "unit": "Second"}}}),
        "compression": traffic(compression=[{"type": "Gzip", "gzip": {}}]),
        "response-override": traffic(responseOverride=[{"match": {"statusCodes": [{"type": "Value", "value": 404}]},
                                                        "response": {"contentType": "text/plain", "body": {"type": "Inline", "inline": "gone"}}}]),
        "request-buffer": traffic(requestBuffer={"limit": "64Ki"}),
        "upgrade-connect": traffic(httpUpgrade=[{"type": "websocket"}, {"type": "CONNECT", "connect": {"terminate": True}}]),
        "cors": security(cors={"allowOrigins": ["https://www.test"], "allowMethods": ["GET"], "maxAge": "60s"}),
        "csrf": security(csrf={"additionalOrigins": ["https://www.test"]}),
        "basic": lambda name: [*security(basicAuth={"users": {"name": "users"}})(name), opaque("users", **{".htpasswd": "user:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n"})],
        "api-key": lambda name: [*security(apiKeyAuth={"credentialRefs": [{"name": "clients"}], "extractFrom": [{"headers": ["x-key"]}]})(name), opaque("clients", one="key")],
        "jwt": security(jwt={"providers": [token]}),
        "jwt-claims": security(jwt={"providers": [token]}, authorization={"defaultAction": "Deny", "rules": [
            {"action": "Allow", "principal": {"jwt": {"provider": "local", "claims": [{"name": "role", "values": ["admin"]}]}}}]}),
        "ext-auth": security(extAuth={"http": {"backendRefs": to("a"), "path": "/check"}}),
        "ext-auth-grpc": security(extAuth={"grpc": {"backendRefs": to("rpc")}}),
        "cel": security(authorization={"defaultAction": "Deny", "rules": [{"action": "Allow", "cel": "request.method == 'GET'"}]}),
        "ext-proc": extended(extProc=[{"backendRefs": to("rpc"), "processingMode": {"request": {}}}]),
        "lua": extended(lua=[{"type": "Inline", "inline": "function envoy_on_request(handle) handle:headers():add('x-lua', 'yes') end"}]),
        "grpc-web": client_policy(grpc={"enableWeb": True}),
        "health-path": client_policy(healthCheck={"path": "/healthz"}),
        "preserve-case": client_policy(http1={"preserveHeaderCase": True, "enableTrailers": True, "http10": {}}),
        "tcp-keepalive": client_policy(tcpKeepalive={"probes": 3, "idleTime": "60s", "interval": "10s"}),
        "from-proxy": client_policy(proxyProtocol={"optional": True}),
        "forwarded-for": client_policy(clientIPDetection={"xForwardedFor": {"numTrustedHops": 1}}),
        "early-headers": client_policy(headers={"earlyRequestHeaders": {"set": [{"name": "x-early", "value": "yes"}]}}),
        "by-header": client_policy(clientIPDetection={"customHeader": {"name": "x-client", "failClosed": True}}),
        "request-id": client_policy(headers={"requestID": "PreserveOrGenerate", "lateResponseHeaders": {"set": [{"name": "x-late", "value": "yes"}]}}),
        "http2-errors": client_policy(http2={"onInvalidMessage": "TerminateStream", "connectionKeepalive": {"interval": "30s", "timeout": "5s"}}),
        "inspection": client_policy(timeout={"tcp": {"idleTimeout": "600s", "connectionInspectionTimeout": "5s"}}, scheme="MatchBackend"),
    }


# Features of routes themselves: what is added to the only rule.
WIDE_RULES = {
    "mirror": {"filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": to("b")[0]}}]},
    "sticky": {"sessionPersistence": {"sessionName": "session", "type": "Cookie", "absoluteTimeout": "3600s"}},
    "cors-filter": {"filters": [{"type": "CORS", "cors": {"allowOrigins": ["https://www.test"]}}]},
    "route-retry": {"retry": {"attempts": 2, "backoff": "10ms", "codes": [503]}},
    "cookies": {"filters": [extension("cookies")]},
    "injected": {"filters": [extension("injected")]},
    "direct": {"filters": [extension("direct")]},
}


def widened(base, state, ports):
    """`base` and a listener for each of the features: everything is sent at once, and each is judged by itself."""
    features = wide()
    names = [*features, *WIDE_RULES]
    listeners = [listener(name, ports[name], *LISTENERS.get(name, ("HTTP", None))) for name in LISTENERS]
    listeners += [listener(name, ports[name], "HTTP", None) for name in names]
    more = []
    for name in names:
        # Health checks by gRPC need endpoints that speak HTTP/2.
        backends = {"active-grpc": to("rpc"), "direct": None}.get(name, to("a"))
        if name != "grpc-route":
            more.append(route("HTTPRoute", name, name, [], [rule("/", backends, **WIDE_RULES.get(name, {}))]))
        if name in features:
            more += features[name](name)
    more += [
        resource(OWN, "HTTPRouteFilter", "cookies", {"matches": [{"cookies": [{"type": "Exact", "name": "kind", "value": "good"}]}]}),
        resource(OWN, "HTTPRouteFilter", "injected", {"credentialInjection": {"overwrite": True, "credential": {"valueRef": {"name": "credential"}}}}),
        resource(OWN, "HTTPRouteFilter", "direct", {"directResponse": {
            "statusCode": 418, "contentType": "text/plain", "body": {"type": "Inline", "inline": "short and stout"}}}),
        resource("v1", "Secret", "credential", None, data={"credential": base64.b64encode(b"Basic dXNlcjpwYXNz").decode()}),
    ]
    kept = [each for each in base if each["kind"] not in ("GatewayClass", "Gateway")]
    return [*gateway(listeners), *kept, *more]


def text(resources):
    """As a file: documents of JSON, which is YAML."""
    return "".join(f"---\n{json.dumps(each)}\n" for each in resources)
