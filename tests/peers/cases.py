"""The requests of the differential test: what is sent to which listener, and what the upstream answers.

`send` is the bytes of the client's side in steps: bytes are written, an int waits until so many final responses have arrived,
`EOF` closes the write side,
`CONTINUE` waits for an interim response, `ARRIVED` until the upstream has the request. `methods` are the methods of the expected responses (HEAD has no body); their number is how many
responses are read. A name is the key of differences.toml, so it stays.
"""

import dataclasses

from upstream import Reply

EOF = object()
CONTINUE = object()
ARRIVED = object()


@dataclasses.dataclass
class Case:
    name: str
    send: list
    listener: str = "plain"
    methods: tuple = ("GET",)
    replies: tuple = ()
    tunnel: bytes = b""  # after the last response: bytes that must come back before the client closes


CASES = []


def case(name, send, **more):
    steps = send if isinstance(send, list) else [send]
    CASES.append(Case(name, steps, **more))


def request(line, *fields, host="any.test", body=b""):
    head = [line + " HTTP/1.1", f"host: {host}", *fields]
    return "\r\n".join(head).encode("latin1") + b"\r\n\r\n" + body


def get(name, path="/", *fields, host="any.test", **more):
    case(name, request("GET " + path, *fields, host=host), **more)


def response(status="200 OK", *fields, body=b"hello", length=True):
    framing = [f"content-length: {len(body)}"] if length else []
    return "\r\n".join([f"HTTP/1.1 {status}", *framing, *fields]).encode("latin1") + b"\r\n\r\n" + body


def reply(*arguments, then="keep", early=b"", **more):
    return (Reply(response(*arguments, **more), then=then, early=early),)


# --- methods and bodies
get("get")
for method in ("OPTIONS", "DELETE", "PATCH", "PROPFIND", "TRACE", "X-CUSTOM", "get"):
    case(f"method-{method}", request(f"{method} /path"), methods=(method,))
case("head", request("HEAD /path"), methods=("HEAD",), replies=reply(body=b"", length=False) + ())
case("head-with-length", request("HEAD /path"), methods=("HEAD",), replies=(Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"),))
case("post-length", request("POST /path", "content-length: 4", body=b"body"), methods=("POST",))
case("post-empty", request("POST /path", "content-length: 0"), methods=("POST",))
case("post-no-framing", request("POST /path"), methods=("POST",))
case("post-chunked", request("POST /path", "transfer-encoding: chunked", body=b"4\r\nbody\r\n0\r\n\r\n"), methods=("POST",))
case("post-chunked-extension", request("POST /path", "transfer-encoding: chunked", body=b"4;a=b\r\nbody\r\n0\r\n\r\n"), methods=("POST",))
case("post-chunked-upper-hex", request("POST /path", "Transfer-Encoding: CHUNKED", body=b"A\r\n0123456789\r\n0\r\n\r\n"), methods=("POST",))
case("post-chunked-trailers", request("POST /path", "transfer-encoding: chunked", body=b"4\r\nbody\r\n0\r\nx-trailer: t\r\n\r\n"), methods=("POST",))
case("post-chunked-trailers-enabled", request("POST /path", "transfer-encoding: chunked", body=b"4\r\nbody\r\n0\r\nx-trailer: t\r\n\r\n"), listener="old", methods=("POST",))
case("post-large", request("POST /path", "content-length: 1048576", body=b"x" * 1048576), methods=("POST",))
case("get-with-body", request("GET /path", "content-length: 3", body=b"abc"))
case("delete-with-body", request("DELETE /path", "content-length: 3", body=b"abc"), methods=("DELETE",))
case("body-in-pieces", [request("POST /path", "content-length: 8"), b"abcd", b"efgh"], methods=("POST",))

# --- responses
get("response-chunked", replies=(Reply(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),))
get("response-chunked-trailers", replies=(Reply(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n"),))
get("response-until-close", replies=(Reply(b"HTTP/1.1 200 OK\r\n\r\nuntil close", then="close"),))
get("response-http10", replies=(Reply(b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", then="close"),))
get("response-connection-close", replies=reply("200 OK", "connection: close", then="close"))
get("response-204", replies=reply("204 No Content", body=b"", length=False))
get("response-304", replies=reply("304 Not Modified", "etag: \"a\"", body=b"", length=False))
get("response-304-with-length", replies=(Reply(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\n\r\n"),))
get("response-reason", replies=reply("200 Splendid"))
get("response-no-reason", replies=(Reply(b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok"),))
get("response-status-599", replies=reply("599 Odd"))
get("response-500", replies=reply("500 Internal Server Error"))
get("response-server-header", replies=reply("200 OK", "server: upstream", "date: Tue, 15 Nov 1994 08:12:31 GMT"))
get("response-server-passed", listener="skip_xff", replies=reply("200 OK", "server: upstream"))
get("response-server-absent", listener="skip_xff")
get("response-server-if-absent", listener="keep_id")
get("response-server-if-absent-kept", listener="keep_id", replies=reply("200 OK", "server: upstream"))
get("response-repeated", replies=reply("200 OK", "set-cookie: a=1", "set-cookie: b=2", "x-a: 1", "x-a: 2"))
get("response-case", replies=reply("200 OK", "X-Mixed-Case: Value", "ETag: \"x\""))
get("response-case-proper", listener="proper", replies=reply("200 OK", "x-mixed-case: Value", "etag: \"x\""))
get("response-hop-by-hop", replies=reply("200 OK", "connection: x-hop", "x-hop: 1", "keep-alive: timeout=5", "proxy-connection: close", "upgrade: h2c"))
get("response-103", replies=(Reply(b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n" + response()),))
get("response-102", replies=(Reply(b"HTTP/1.1 102 Processing\r\n\r\n" + response()),))
get("response-empty-value", replies=reply("200 OK", "x-empty:"))
get("response-large", replies=reply(body=b"y" * 1048576))
get("response-early", replies=reply("413 Payload Too Large"))
get("response-to-head-chunked", "/path", replies=(Reply(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),))
case("response-head-chunked", request("HEAD /path"), methods=("HEAD",), replies=(Reply(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),))
case("expect-continue", [request("POST /path", "expect: 100-continue", "content-length: 4"), b"body"], methods=("POST",))
case("expect-continue-awaited", [request("POST /path", "expect: 100-continue", "content-length: 4"), CONTINUE, b"body"], methods=("POST",))
case("expect-continue-refused", request("POST /direct/503", "expect: 100-continue", "content-length: 4"), methods=("POST",))
case("expect-continue-proxied-awaited", [request("POST /path", "expect: 100-continue", "content-length: 4"), CONTINUE, b"body"], listener="proper", methods=("POST",), replies=(Reply(early=b"HTTP/1.1 100 Continue\r\n\r\n"),))
case("expect-continue-proxied", [request("POST /path", "expect: 100-continue", "content-length: 4"), b"body"], listener="proper", methods=("POST",), replies=(Reply(early=b"HTTP/1.1 100 Continue\r\n\r\n"),))
case("expect-other", request("POST /path", "expect: something", "content-length: 4", body=b"body"), methods=("POST",))

# --- malformed responses
get("bad-response-garbage", replies=(Reply(b"this is not http\r\n\r\n", then="close"),))
get("bad-response-two-lengths", replies=(Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", then="close"),))
get("bad-response-length-and-chunked", replies=(Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", then="close"),))
get("bad-response-negative-length", replies=(Reply(b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello", then="close"),))
get("bad-response-chunk-size", replies=(Reply(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", then="close"),))
get("bad-response-truncated", replies=(Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello", then="close"),))
get("bad-response-truncated-head", replies=(Reply(b"HTTP/1.1 200 OK\r\ncontent-le", then="close"),))
get("bad-response-huge-head", replies=(Reply(b"HTTP/1.1 200 OK\r\nx-big: " + b"z" * 80000 + b"\r\ncontent-length: 0\r\n\r\n", then="close"),))
get("bad-response-head-70000", replies=(Reply(b"HTTP/1.1 200 OK\r\nx-big: " + b"z" * 70000 + b"\r\ncontent-length: 0\r\n\r\n"),))
get("bad-response-head-90000", replies=(Reply(b"HTTP/1.1 200 OK\r\nx-big: " + b"z" * 90000 + b"\r\ncontent-length: 0\r\n\r\n", then="close"),))
get("bad-response-head-120-headers", replies=reply("200 OK", *[f"x-{n}: {n}" for n in range(120)]))
get("bad-response-204-body", replies=(Reply(b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello", then="close"),))
get("upstream-closes", replies=(Reply(b"", then="close"),))
get("upstream-resets", replies=(Reply(b"", then="reset"),))

# --- request headers
get("odd-spaces", "/path", "x-spaces:   a  b   ")
get("odd-empty", "/path", "x-empty:")
get("odd-tab", "/path", "x-tab:\ta\tb")
get("odd-repeated", "/path", "x-a: 1", "x-b: 2", "x-a: 3", "accept: a", "accept: b")
get("odd-latin1", "/path", "x-latin: caf\xe9")
get("odd-symbols", "/path", "x-!#$%&'*+-.^_`|~: v")
get("odd-case", "/path", "X-MiXeD: v", "USER-AGENT: ua")
get("odd-case-proper", "/path", "X-MiXeD: v", "USER-AGENT: ua", listener="proper")
get("odd-te", "/path", "te: trailers")
get("odd-te-gzip", "/path", "te: gzip")
get("odd-underscore", "/path", "x_under: v")
get("odd-underscore-drop", "/path", "x_under: v", listener="old")
get("odd-underscore-reject", "/path", "x_under: v", listener="slash_reject")
get("odd-cookies", "/path", "cookie: a=1", "cookie: b=2")
get("hop-by-hop", "/path", "connection: x-hop", "x-hop: 1", "keep-alive: timeout=5", "proxy-connection: keep-alive")
get("hop-close", "/path", "connection: close")
get("hop-close-listed", "/path", "connection: x-hop, close", "x-hop: 1")
get("hop-keep-alive", "/path", "connection: keep-alive")
get("hop-names-host", "/path", "connection: host")
get("hop-names-xff", "/path", "connection: x-forwarded-for", "x-forwarded-for: 1.1.1.1", listener="edge")
get("hop-proxy-authorization", "/path", "proxy-authorization: Basic eDp5")
get("envoy-headers", "/path", "x-envoy-upstream-rq-timeout-ms: 5000", "x-envoy-max-retries: 2", "x-envoy-expected-rq-timeout-ms: 3", "x-envoy-internal: true")
get("envoy-headers-edge", "/path", "x-envoy-upstream-rq-timeout-ms: 5000", "x-envoy-internal: true", "x-envoy-decorator-operation: a", "x-envoy-original-path: /b", listener="edge")
get("envoy-headers-external", "/path", "x-forwarded-for: 8.8.8.8", "x-envoy-upstream-rq-timeout-ms: 5000", "x-envoy-internal: true", "x-envoy-max-retries: 1", listener="edge_one_hop")
get("forwarded-proto", "/path", "x-forwarded-proto: https")
get("forwarded-proto-edge", "/path", "x-forwarded-proto: https", listener="edge")
get("forwarded-host", "/path", "x-forwarded-host: other.test")
get("xff-none")
get("xff-none-edge", listener="edge")
get("xff-given", "/path", "x-forwarded-for: 1.2.3.4")
get("xff-given-internal", "/path", "x-forwarded-for: 10.1.2.3")
get("xff-given-edge", "/path", "x-forwarded-for: 1.2.3.4", listener="edge")
get("xff-two-edge", "/path", "x-forwarded-for: 1.2.3.4, 5.6.7.8", listener="edge")
get("xff-two-headers-edge", "/path", "x-forwarded-for: 1.2.3.4", "x-forwarded-for: 5.6.7.8", listener="edge")
get("xff-one-hop", "/path", "x-forwarded-for: 1.2.3.4, 5.6.7.8", listener="edge_one_hop")
get("xff-one-hop-none", listener="edge_one_hop")
get("xff-one-hop-bad", "/path", "x-forwarded-for: not-an-address", listener="edge_one_hop")
get("xff-inner-one-hop", "/path", "x-forwarded-for: 1.2.3.4, 5.6.7.8", listener="inner_one_hop")
get("xff-inner-one-hop-address", "/", "x-forwarded-for: 1.2.3.4, 5.6.7.8", host="headers.test", listener="inner_one_hop")
get("xff-address", "/", "x-forwarded-for: 1.2.3.4", host="headers.test")
get("xff-skip", "/path", "x-forwarded-for: 1.2.3.4", listener="skip_xff")
get("xff-ipv6", "/path", "x-forwarded-for: 2001:db8::1", listener="edge_one_hop")
get("request-id-none")
get("request-id-given-internal", "/path", "x-request-id: mine")
get("request-id-given-edge", "/path", "x-request-id: mine", "x-forwarded-for: 8.8.8.8", listener="edge_one_hop")
get("request-id-not-generated", listener="skip_xff")
get("request-id-kept", "/path", "x-request-id: mine", "x-forwarded-for: 8.8.8.8", listener="keep_id")
get("request-id-in-response", listener="keep_id")
for name, *values in (("url", "https://x.test:8443/a?b=c"), ("relative", "/a/b"), ("fragment", "http://x.test/#f"), ("user", "http://u:p@x.test/"), ("blank", "about:blank"), ("spaces", "a b"),
                      ("host", "http://x.test"), ("query", "http://x.test?a"), ("upper", "HTTP://X.test/"), ("v6", "http://[::1]:80/a"), ("two", "http://x.test/a", "http://x.test/b"), ("empty", "")):
    get(f"referer-{name}", "/path", *(f"referer: {value}" for value in values))
get("via-given", "/path", "via: 1.1 somebody", listener="skip_xff", replies=reply("200 OK", "via: 1.0 up"))

# --- header manipulation
get("headers-levels", "/", "x-drop: 1", "x-present: abcdef", "cookie: a=b", host="headers.test", replies=reply("200 OK", "x-drop-response: 1", "x-drop-config: 1", "x-up: from-upstream"))
get("headers-actions", "/a?b=c", "x-level: client", "x-overwrite: client", "x-absent-only: client", "x-exists-only: client", host="headers.test", replies=reply("200 OK", "x-level: upstream", "x-set: upstream"))
get("headers-on-local-reply", "/x", host="nowhere.headers.test")
case("headers-on-timeout", request("GET /timeout"), replies=(Reply(then="hang"),))

# --- hosts
for host in ("exact.test", "EXACT.test", "exact.test:80", "exact.test.", "port.test:8080", "port.test", "a.suffix.test", ".suffix.test",
             "suffix.test", "x-suffix.test", "a.b.suffix.test", "a.longer.suffix.test", "prefix.anything", "prefix.", "a.prefix.b", "noroutes.test", "[::1]", "[::1]:80", "127.0.0.1"):
    get(f"host-{host}", host=host)
for host in ("exact.test:80", "exact.test:1234", "[::1]:80"):
    get(f"host-stripped-{host}", host=host, listener="slash_redirect")
for host in ("exact.test.", "exact.test.:80", "exact.test:9"):
    get(f"host-trailing-dot-{host}", host=host, listener="slash_reject")
case("host-missing", b"GET / HTTP/1.1\r\n\r\n")
case("host-empty", b"GET / HTTP/1.1\r\nhost:\r\n\r\n")
case("host-twice", b"GET / HTTP/1.1\r\nhost: a.test\r\nhost: b.test\r\n\r\n")
case("host-twice-same", b"GET / HTTP/1.1\r\nhost: a.test\r\nhost: a.test\r\n\r\n")
case("host-bad", b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n")
case("host-userinfo", b"GET / HTTP/1.1\r\nhost: user@exact.test\r\n\r\n")
case("absolute-form", b"GET http://exact.test/x HTTP/1.1\r\nhost: other.test\r\n\r\n")
case("absolute-form-proxied", b"GET http://absolute.test/path?q=1 HTTP/1.1\r\nhost: other.test\r\n\r\n")
case("absolute-form-no-path", b"GET http://absolute.test HTTP/1.1\r\nhost: other.test\r\n\r\n")
case("absolute-form-query", b"GET http://absolute.test?a=b HTTP/1.1\r\nhost: other.test\r\n\r\n")
case("absolute-form-https", b"GET https://absolute.test/path HTTP/1.1\r\nhost: other.test\r\n\r\n")
case("absolute-form-no-host", b"GET http://absolute.test/path HTTP/1.1\r\n\r\n")
case("asterisk-form", request("OPTIONS *"), methods=("OPTIONS",))
case("asterisk-get", request("GET *"))

# --- paths
for name, path in {
    "plain": "/path", "query": "/path?a=b&c=d", "question": "/path?", "fragment": "/path#frag", "fragment-query": "/path?a#b", "case": "/cAsE", "case-query": "/CASE?x",
    "prefix": "/prefix/a/b?c", "prefix-bare": "/prefix", "strip": "/strip/a", "strip-root": "/strip/", "separated": "/separated", "separated-child": "/separated/a",
    "separated-not": "/separatedx", "separated-query": "/separated?a=b", "regex": "/regex/42/end", "regex-query": "/regex/42/end?x=y", "regex-not": "/regex/x/end",
    "host-rewrite": "/host-rewrite", "append-host": "/append-host", "host-regex": "/host-regex/abc/d?e", "never": "/never", "encoded": "/a%20b%2Fc", "utf8": "/caf\xc3\xa9",
    "dot": "/a/./b/../path", "slashes": "//path//x", "no-slash": "path", "semicolon": "/path;a=b", "pipe": "/a|b", "quote": "/a\"b", "brackets": "/a[b]{c}", "percent-bad": "/a%zz",
    "long": "/" + "l" * 4000,
}.items():
    get(f"path-{name}", path)
get("path-host-header", "/host-header", "x-new-host: from-header.test")
get("path-host-header-missing", "/host-header")
get("path-append-host-chain", "/append-host", "x-forwarded-host: first.test")
for name, path in {
    "dots": "/a/./b/../path", "above-root": "/../../path", "encoded-dots": "/a/%2e%2e/path", "slashes": "//path///x//", "escaped-slash": "/a%2Fb", "escaped-backslash": "/a%5Cb%5cc",
    "backslash": "/a\\b", "query": "/a//b?c=//d/../e", "trailing-dots": "/a/b/..", "unreserved": "/%7Epath%41", "encoded-slash-dots": "/a%2f..%2fpath", "null": "/a%00b", "fragment": "/path#a", "fragment-query": "/path?a#b",
}.items():
    for listener in ("normal", "slash_redirect", "slash_reject"):
        get(f"{listener}-{name}", path, listener=listener)

# --- matching
for name, path, *fields in (
    ("exact", "/match", "x-kind: exact"), ("exact-case", "/match", "x-kind: EXACT"), ("prefix", "/match", "x-kind: prefix"), ("suffix", "/match", "x-kind: SufFIX"),
    ("contains", "/match", "x-kind: amidst"), ("regex", "/match", "x-kind: r12"), ("regex-partial", "/match", "x-kind: xr12"), ("range-in", "/match", "x-number: 10"),
    ("range-out", "/match", "x-number: 20"), ("range-text", "/match", "x-number: 12a"), ("present", "/match", "x-there:"), ("inverted-missing", "/match", "x-need: 1"),
    ("inverted", "/match", "x-need: 1", "x-inverted: yes"), ("inverted-no", "/match", "x-need: 1", "x-inverted: no"), ("missing-as-empty", "/match", "x-treat: 1"),
    ("joined-lines", "/joined", "x-kind: a", "x-kind: b"), ("joined-line", "/joined", "x-kind: a,b"), ("joined-line-space", "/joined", "x-kind: a, b"),
    ("joined-inverted-lines", "/joined", "x-need: 1", "x-kind: c", "x-kind: d"), ("joined-inverted-line", "/joined", "x-need: 1", "x-kind: c,d"),
    ("joined-regex-lines", "/joined", "x-kind: e", "x-kind: f"), ("joined-three-lines", "/joined", "x-kind: z", "x-kind: a", "x-kind: b"),
    ("range-two-lines", "/match", "x-number: 5", "x-number: 15"), ("range-inverted-two-lines", "/joined", "x-number: 5", "x-number: 15"),
    ("range-inverted-outside", "/joined", "x-number: 5", "x-number: 6"), ("range-inverted-text", "/joined", "x-number: x"),
    ("query", "/match?q=one"), ("query-other", "/match?q=two"), ("query-flag", "/match?flag"), ("query-flag-value", "/match?a=b&flag=x"), ("query-encoded", "/match?q=%6fne"),
    ("two-values", "/match", "x-kind: exact", "x-kind: other"), ("two-values-second", "/match", "x-kind: other", "x-kind: exact"),
    ("two-values-joined", "/match", "x-kind: m", "x-kind: id"), ("two-values-contains", "/match", "x-kind: other", "x-kind: amidst"),
    ("two-values-inverted", "/match", "x-need: 1", "x-inverted: no", "x-inverted: yes"), ("comma-value", "/match", "x-kind: exact,other"), ("none", "/match"),
):
    get(f"match-{name}", path, *fields)
case("match-method", request("DELETE /match"), methods=("DELETE",))

# --- redirects, direct responses
for path in ("host", "host?a=b", "port", "https", "scheme", "path", "path?a=b", "query?a=b", "prefix/x?a=b", "strip?a=b", "regex/x?a=b"):
    get(f"redirect-{path}", f"/redirect/{path}", host="from.test")
get("redirect-port-host", "/redirect/port", host="from.test:9000")
get("redirect-https-port", "/redirect/https", host="from.test:80")
get("redirect-host-port", "/redirect/host", host="from.test:9000")
case("redirect-post", request("POST /redirect/path", "content-length: 4", body=b"body"), methods=("POST",))
case("redirect-head", request("HEAD /redirect/path"), methods=("HEAD",))
for path in ("204", "503", "empty"):
    get(f"direct-{path}", f"/direct/{path}")
case("direct-head", request("HEAD /direct/503"), methods=("HEAD",))
case("direct-post", request("POST /direct/503", "content-length: 4", body=b"body"), methods=("POST",))

# --- clusters
get("weighted", "/weighted")
get("cluster-header", "/cluster-header", "x-cluster: two")
get("cluster-header-unknown", "/cluster-header", "x-cluster: nowhere")
get("cluster-header-missing", "/cluster-header")
get("no-cluster", "/no-cluster")
get("no-cluster-404", "/no-cluster-404")
get("refused", "/refused")
case("refused-post", request("POST /refused", "content-length: 4", body=b"body"), methods=("POST",))
get("no-hosts", "/no-hosts")
case("timeout", request("GET /timeout"), replies=(Reply(then="hang"),))
case("timeout-header", request("GET /path", "x-envoy-upstream-rq-timeout-ms: 100"), replies=(Reply(then="hang"),))
case("idle-timeout", request("GET /idle-timeout"), replies=(Reply(then="hang"),))
case("request-timeout", request("POST /path", "content-length: 10", body=b"part"), listener="old", methods=("POST",))
case("headers-timeout", b"GET / HTTP/1.1\r\nhost: a", listener="slash_reject")

# --- local replies
get("local-404-mapped", "/", host="noroutes.test", listener="proper")
get("local-503-formatted", "/no-cluster", listener="proper")
case("local-head", request("HEAD /no-cluster"), methods=("HEAD",))

# --- connections
case("pipelined", request("GET /path") + request("POST /path", "content-length: 2", body=b"ab") + request("GET /direct/503"), methods=("GET", "POST", "GET"))
case("pipelined-head", request("HEAD /path") + request("GET /path"), methods=("HEAD", "GET"), replies=(Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"), Reply()))
case("sequential", [request("GET /path"), 1, request("GET /path")], methods=("GET", "GET"))
case("sequential-close", [request("GET /path"), 1, request("GET /path", "connection: close")], methods=("GET", "GET"))
case("leading-crlf", b"\r\n" + request("GET /path"))
case("half-close", [request("GET /path"), ARRIVED, EOF], replies=(Reply(then="hang"),))
case("half-close-after-answer", [request("GET /path"), 1, EOF])
case("http10-refused", b"GET /path HTTP/1.0\r\nhost: a.test\r\n\r\n")
case("http10", b"GET /path HTTP/1.0\r\nhost: a.test\r\n\r\n", listener="old")
case("http10-no-host", b"GET /path HTTP/1.0\r\n\r\n", listener="old")
case("http10-keep-alive", b"GET /path HTTP/1.0\r\nhost: a.test\r\nconnection: keep-alive\r\n\r\n", listener="old")
case("http10-chunked-response", b"GET /path HTTP/1.0\r\nhost: a.test\r\n\r\n", listener="old", replies=(Reply(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),))
case("http10-post", b"POST /path HTTP/1.0\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nab", listener="old", methods=("POST",))
case("websocket", request("GET /path", "connection: Upgrade", "upgrade: websocket", "sec-websocket-key: a"), replies=(Reply(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"),), tunnel=b"ping")
case("websocket-refused", request("GET /path", "connection: Upgrade", "upgrade: websocket"), replies=reply("403 Forbidden"))
case("websocket-disabled", request("GET /no-websocket", "connection: Upgrade", "upgrade: websocket"))
case("upgrade-unknown", request("GET /path", "connection: Upgrade", "upgrade: other"))
case("upgrade-h2c", request("GET /path", "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAARAAAAAAAIAAAAA"))
case("connect", b"CONNECT a.test:80 HTTP/1.1\r\nhost: a.test:80\r\n\r\n", methods=("CONNECT",))

# --- malformed requests
for name, raw in {
    "garbage": b"this is not http\r\n\r\n",
    "no-version": b"GET /\r\nhost: a\r\n\r\n",
    "version-2": b"GET / HTTP/2.0\r\nhost: a\r\n\r\n",
    "version-1.2": b"GET / HTTP/1.2\r\nhost: a\r\n\r\n",
    "two-lengths": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nbody",
    "two-same-lengths": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nbody",
    "length-list": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4, 4\r\n\r\nbody",
    "signed-length": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +4\r\n\r\nbody",
    "negative-length": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -4\r\n\r\nbody",
    "hex-length": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x4\r\n\r\nbody",
    "empty-length": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\n",
    "huge-length": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\nbody",
    "length-and-chunked": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "te-identity": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\n\r\n",
    "te-gzip-chunked": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "te-chunked-gzip": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "te-twice": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "te-odd-name": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "te-http10": b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "space-before-colon": b"GET / HTTP/1.1\r\nhost: a\r\nx-a : b\r\n\r\n",
    "space-in-name": b"GET / HTTP/1.1\r\nhost: a\r\nx a: b\r\n\r\n",
    "empty-name": b"GET / HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n",
    "no-colon": b"GET / HTTP/1.1\r\nhost: a\r\nnocolon\r\n\r\n",
    "leading-space": b"GET / HTTP/1.1\r\n host: a\r\n\r\n",
    "fold": b"GET / HTTP/1.1\r\nhost: a\r\nx-a: b\r\n c\r\n\r\n",
    "bare-lf": b"GET / HTTP/1.1\nhost: a\n\n",
    "bare-lf-in-head": b"GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n",
    "bare-cr": b"GET / HTTP/1.1\r\nhost: a\r\nx: y\rz\r\n\r\n",
    "nul": b"GET / HTTP/1.1\r\nhost: a\r\nx: y\0z\r\n\r\n",
    "control": b"GET / HTTP/1.1\r\nhost: a\r\nx: y\x01z\r\n\r\n",
    "del": b"GET / HTTP/1.1\r\nhost: a\r\nx: y\x7fz\r\n\r\n",
    "control-in-path": b"GET /a\x01b HTTP/1.1\r\nhost: a\r\n\r\n",
    "space-in-path": b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
    "two-spaces": b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
    "tab-in-line": b"GET\t/\tHTTP/1.1\r\nhost: a\r\n\r\n",
    "bad-method": b"G@T / HTTP/1.1\r\nhost: a\r\n\r\n",
    "lower-http": b"GET / http/1.1\r\nhost: a\r\n\r\n",
    "chunk-size-sign": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n+4\r\nbody\r\n0\r\n\r\n",
    "chunk-size-empty": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\r\nbody\r\n0\r\n\r\n",
    "chunk-size-0x": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n",
    "chunk-size-huge": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nbody\r\n0\r\n\r\n",
    "chunk-no-crlf": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbodyXX0\r\n\r\n",
    "chunk-bare-lf": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\nbody\n0\n\n",
    "chunk-extension-lf": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4;a\nb\r\nbody\r\n0\r\n\r\n",
    "h2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}.items():
    case(f"bad-{name}", raw, methods=("POST",))
case("limit-header-bytes", request("GET /path", "x-big: " + "b" * 70000))
case("limit-header-bytes-small", request("GET /path", "x-big: " + "b" * 2000), listener="slash_reject")
case("limit-path-bytes-small", request("GET /" + "p" * 2000), listener="slash_reject")
case("limit-header-count", request("GET /path", *[f"x-{n}: {n}" for n in range(120)]))
case("limit-header-count-small", request("GET /path", *[f"x-{n}: {n}" for n in range(25)]), listener="slash_reject")
case("truncated-body", [request("POST /path", "content-length: 10", body=b"part"), EOF], methods=("POST",))
case("truncated-head", [b"GET / HTTP/1.1\r\nhost: a", EOF])
