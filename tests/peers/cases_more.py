"""More cases of the differential test: the option matrix of routes and connection managers, framing at its edges, tunnels, ends of connections."""

from cases import ARRIVED, CONTINUE, EOF, case, get, reply, request, response
from upstream import Reply

MORE = "more.test"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def more(name, path, *fields, host=MORE, **rest):
    get(name, path, *fields, host=host, **rest)


def post(name, *fields, body=b"", path="/path", host="any.test", **more):
    case(name, request(f"POST {path}", *fields, host=host, body=body), methods=("POST",), **more)


# --- redirects
for path in ("301/a?b=c", "303/a?b=c", "80/a", "https443/a", "https8443/a?b=c", "hostport/a?b#c", "v6host/a", "pathstrip/a?b=c", "pathstrip", "prefixq/a?b=c", "prefixq",
             "exact", "exact?a=b", "sep", "sep/", "sep/a/b?c", "regex/abc?d", "rewrite/a?key=value", "rewrite/x=y?a=b&c=d", "rx/abc/d?e=f"):
    more(f"r-{path}", f"/r/{path}")
    more(f"r-port-{path}", f"/r/{path}", host="more.test:81")
for path in ("303", "80", "https443", "https8443", "hostport"):
    more(f"r-v6-{path}", f"/r/{path}", host="[2001:db8::1]")
    more(f"r-v6-port-{path}", f"/r/{path}", host="[2001:db8::1]:81")
    more(f"r-proto-{path}", f"/r/{path}", "x-forwarded-proto: https")
more("r-post-303", "/r/303")
post("r-post", "content-length: 4", body=b"body", path="/r/301", host=MORE)

# --- direct responses
for path in ("body", "304", "404", "599"):
    more(f"d-{path}", f"/d/{path}")
    case(f"d-head-{path}", request(f"HEAD /d/{path}", host=MORE), methods=("HEAD",))
post("d-post-chunked", "transfer-encoding: chunked", body=b"4\r\nbody\r\n0\r\n\r\n", path="/d/body", host=MORE)
post("d-post-expect", "content-length: 4", "expect: 100-continue", path="/d/body", host=MORE)

# --- header matchers
for name, path, *fields in (
    ("range-low", "a", "x-r: -5"), ("range-high", "a", "x-r: 5"), ("range-zero", "a", "x-r: 0"), ("range-plus", "a", "x-r: +1"), ("range-space", "a", "x-r:  1 "), ("range-empty", "a", "x-r:"),
    ("range-hex", "a", "x-r: 0x1"), ("range-zeros", "a", "x-r: 0001"), ("range-minus-zero", "a", "x-r: -0"), ("range-huge", "a", "x-r: 99999999999999999999"), ("range-fraction", "a", "x-r: 1.0"),
    ("ignore-case", "a", "x-ic: vAlUE"), ("ignore-case-not", "a", "x-ic: valuex"), ("contains-ignore", "a", "x-ci: aMIDb"), ("prefix-ignore", "a", "x-pi: PREx"),
    ("absent", "absent"), ("absent-not", "absent", "x-not: 1"), ("notpresent", "notpresent"), ("notpresent-not", "notpresent", "x-not:"),
    ("rxinv-missing", "rxinv"), ("rxinv-match", "rxinv", "x-v: aaa"), ("rxinv-other", "rxinv", "x-v: b"), ("rxinv-two", "rxinv", "x-v: b", "x-v: aaa"), ("rxinv-two-other", "rxinv", "x-v: aaa", "x-v: b"),
    ("treat-missing", "treat"), ("treat-other", "treat", "x-v: b"), ("treat-match", "treat", "x-v: a"),
    ("pseudo", "host?x=1"), ("pseudo-not", "host?x=2"), ("hosthdr", "hosthdr"), ("te-trailers", "te", "te: trailers"), ("te-gzip", "te", "te: gzip"), ("conn-close", "conn", "connection: close"),
    ("conn-keep", "conn", "connection: keep-alive"), ("conn-listed", "conn", "connection: x-a"), ("xff", "xff"), ("xfp", "xfp"), ("id", "id"),
):
    more(f"m-{name}", f"/m/{path}", *fields)
post("m-length", "content-length: 4", body=b"body", path="/m/cl", host=MORE)
post("m-length-zeros", "content-length: 04", body=b"body", path="/m/cl", host=MORE)
post("m-length-not", "content-length: 3", body=b"bod", path="/m/cl", host=MORE)
post("m-chunked", "transfer-encoding: chunked", body=b"0\r\n\r\n", path="/m/tenc", host=MORE)
more("m-xff-edge", "/m/xff", listener="edge")

# --- query parameters
for query in ("a=px", "a=x", "a=x&a=px", "a=px&a=x", "A=px", "a=", "a", "%61=px", "b=xS", "b=S%53", "c=12", "c=12a", "c=", "c", "c=1&c=x", "d=", "d", "d=x", "e%20f=g%20h", "e+f=g+h", "e f", "yes", "yes&no", "no&yes=1", "yes&no=",
              "x=1&y=2", "x=1;y=2", "y=2&x=1", "x=1&y=", "x=1=2&y=2", "&&a=px&&", "a=px#a", "=a&a=px", "a==px", "?a=px"):
    more(f"q-{query}", f"/q/?{query}")

# --- paths: matching and rewriting
for path in ("/ci/PREFIX/x", "/CI/Prefixed", "/ci/eXact", "/ci/exact/x", "/ci/exact?A=b", "/CI/SEP", "/ci/sep/x?y", "/ci/sepx", "/p/slash/", "/p/slash/a?b", "/p/slash", "/p/noslash", "/p/noslash/a", "/p/noslashx",
             "/p/noslash?a=b", "/p/query/a", "/p/query?b=c", "/p/query", "/p/exact", "/p/exact?a=b", "/p/exact/", "/p/rx/abc", "/p/rx/abc?d=e", "/p/sep", "/p/sep/", "/p/sep/a?b", "/p/sep?x", "/p/regex/aB?cd", "/p/rgroup?x=y",
             "/p/rempty", "/p/rempty/x", "/p/rempty?x", "/p/%73lash/", "/P/slash/", "/p/slash/%2e%2e/x", "/p/slash//x", "/p/slash/../x", "//p/slash/x", "/f/all", "/f/none", "/f/key", "/f/million",
             "/h/lit", "/h/header", "/h/auto", "/h/autononame", "/h/regex/abc/d?e", "/h/regex/123", "/c/503", "/c/500", "/w/cheader", "/e/?a=1&b=2", "/?" + "q" * 3000, "/x?a=\xe9", "/x\"y", "/x<y>", "/x\\y", "/x^y`z{|}", "/~x", "/x%", "/x%4", "/*", "/x*", "/a?b?c", "/a??", "/a?#", "/;x"):
    more(f"path-{path[:40]}", path)
more("h-header-given", "/h/header", "x-host: given.test:8")
more("h-header-empty", "/h/header", "x-host:")
more("h-header-twice", "/h/header", "x-host: a.test", "x-host: b.test")
more("h-auto-xfh", "/h/autononame", "x-forwarded-host: before.test")
for value in ("0", "49", "50", "99", "100", "150"):
    more(f"w-header-{value}", "/w/header", f"x-random: {value}")
more("w-cheader-two", "/w/cheader", "x-cluster: two", "x-gone: 1", replies=reply("200 OK", "x-up: 1"))
more("w-cheader-unknown", "/w/cheader", "x-cluster: nowhere")
for content in ("application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpcx", "text/plain"):
    more(f"g-{content}", "/g/x", f"content-type: {content}")
    case(f"g-post-{content}", request("POST /g/x", f"content-type: {content}", "content-length: 0", host=MORE), methods=("POST",))
    case(f"g-missing-{content}", request("POST /c/503", f"content-type: {content}", "content-length: 0", host=MORE), methods=("POST",))

# --- header changes
more("e-all", "/e/x?a=value", "x-append: c", "x-append: d", "x-absent: c", "x-over: c", "x-over: d", "x-existing: c", "x-two: c", "user-agent: ua", "x-src: abcdefgh", "x-remove: 1", "X-Remove-Too: 2",
     replies=reply("200 OK", "x-up: one", "x-hide: 1", "x-hide: 2", "content-type: text/html"))
more("e-none", "/e/x", replies=reply("200 OK"))
more("e-chunked", "/e/x", replies=(Reply(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"),))
more("e-local", "/e/x", replies=(Reply(b"", then="close"),))
more("attempts-given", "/x", "x-envoy-attempt-count: 7")

for path in ("/hop/own", "/hop/x"):
    more(f"hop-added-{path}", path)

# --- the router without x-envoy headers, names as they came
get("shy", "/path", "X-MiXeD: v", "User-Agent: UA", listener="shy", replies=reply("200 Fine", "X-Resp: V", "sErver: up", "Date: Tue, 15 Nov 1994 08:12:31 GMT"))
for listener in ("shy", "plain", "proper"):
    more(f"spelling-{listener}", "/preserving", "X-MiXeD: v", "User-Agent: UA", "X-Two: 1", "x-tWO: 2", listener=listener, replies=reply("200 Fine", "X-Resp: V", "x-resP: W", "sErver: up", "Date: Tue, 15 Nov 1994 08:12:31 GMT"))
    more(f"spelling-chunked-{listener}", "/preserving", "X-MiXeD: v", listener=listener, replies=(Reply(CHUNKED.replace(b"transfer-encoding", b"Transfer-ENCODING") + b"0\r\n\r\n"),))
    more(f"spelling-local-{listener}", "/c/500", "X-MiXeD: v", listener=listener)
get("shy-no-agent", "/path", listener="shy")
get("shy-timeout", "/path", "x-envoy-expected-rq-timeout-ms: 100", listener="shy", replies=(Reply(then="hang"),))
get("shy-rewrite", "/prefix/x", listener="shy")
get("shy-envoy", "/path", "x-envoy-upstream-rq-timeout-ms: 5000", "x-envoy-internal: true", listener="shy")
get("shy-proto", "/r/80", "x-forwarded-proto: http", listener="shy", host=MORE)
get("shy-forwarded-port", "/path", "x-forwarded-port: 77", listener="shy")
get("shy-via", "/path", "via: 1.1 a", listener="shy", replies=reply("200 OK", "via: 1.1 b"))
get("shy-big-head", "/path", "x-big: " + "b" * 90000, listener="shy")
get("shy-local", "/no-cluster", listener="shy")
post("shy-both-lengths", "content-length: 9", "transfer-encoding: chunked", body=b"4\r\nbody\r\n0\r\n\r\n", listener="shy")
post("shy-trailers", "Transfer-Encoding: chunked", "Trailer: X-T", "TE: trailers", body=b"4\r\nbody\r\n0\r\nX-T: v\r\n\r\n", path="/trailers", host=MORE, listener="shy", replies=(Reply(CHUNKED + b"2\r\nok\r\n0\r\nX-T: w\r\n\r\n"),))

# --- trailers
TRAILERS = b"4\r\nbody\r\n0\r\nx-t: v\r\n\r\n"
post("trailers-client-only", "transfer-encoding: chunked", body=TRAILERS, listener="old", replies=(Reply(CHUNKED + b"2\r\nok\r\n0\r\nx-t: w\r\n\r\n"),))
post("trailers-upstream-only", "transfer-encoding: chunked", body=TRAILERS, path="/trailers", host=MORE, replies=(Reply(CHUNKED + b"2\r\nok\r\n0\r\nx-t: w\r\n\r\n"),))
post("trailers-both", "transfer-encoding: chunked", body=TRAILERS, path="/trailers", host=MORE, listener="old", replies=(Reply(CHUNKED + b"2\r\nok\r\n0\r\nx-t: w\r\nx-u: y\r\nx-t: z\r\n\r\n"),))
post("trailers-of-request-only", "transfer-encoding: chunked", body=TRAILERS, path="/trailers", host=MORE, listener="old", replies=(Reply(CHUNKED + b"2\r\nok\r\n0\r\n\r\n"),))
post("trailers-without-body", "transfer-encoding: chunked", body=b"0\r\nx-t: v\r\n\r\n", path="/trailers", host=MORE, listener="old", replies=(Reply(CHUNKED + b"0\r\nx-t: w\r\n\r\n"),))
post("trailers-forbidden", "transfer-encoding: chunked", body=b"4\r\nbody\r\n0\r\nhost: evil\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\nx-t: v\r\n\r\n", path="/trailers", host=MORE, listener="old")
post("trailers-bad", "transfer-encoding: chunked", body=b"4\r\nbody\r\n0\r\nx t: v\r\n\r\n", path="/trailers", host=MORE, listener="old")
case("trailers-http10", b"GET /trailers HTTP/1.0\r\nhost: more.test\r\n\r\n", listener="old", replies=(Reply(CHUNKED + b"2\r\nok\r\n0\r\nx-t: w\r\n\r\n"),))
get("response-trailers-grpc", "/trailers", "content-type: application/grpc", host=MORE, listener="old", replies=(Reply(b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 5\r\n\r\n"),))

# --- upstream responses, framing
for name, raw in {
    "http10-keep-alive": b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello",
    "version-1.2": b"HTTP/1.2 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "version-2": b"HTTP/2.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "lower-version": b"http/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "status-99": b"HTTP/1.1 99 No\r\ncontent-length: 5\r\n\r\nhello",
    "status-1000": b"HTTP/1.1 1000 No\r\ncontent-length: 5\r\n\r\nhello",
    "status-text": b"HTTP/1.1 abc No\r\ncontent-length: 5\r\n\r\nhello",
    "status-two-spaces": b"HTTP/1.1  200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "status-600": b"HTTP/1.1 600 Odd\r\ncontent-length: 5\r\n\r\nhello",
    "reason-latin1": b"HTTP/1.1 200 caf\xe9\r\ncontent-length: 5\r\n\r\nhello",
    "two-same-lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "length-list": b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello",
    "length-plus": b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
    "length-space": b"HTTP/1.1 200 OK\r\ncontent-length: 5 \r\n\r\nhello",
    "length-zeros": b"HTTP/1.1 200 OK\r\ncontent-length: 005\r\n\r\nhello",
    "length-huge": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nhello",
    "length-empty": b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
    "te-identity": b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nhello",
    "te-gzip": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhello",
    "te-gzip-chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "te-chunked-twice": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "te-upper": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "te-http10": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "fold": b"HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\ncontent-length: 5\r\n\r\nhello",
    "bare-lf": b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello",
    "bare-cr": b"HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 5\r\n\r\nhello",
    "nul": b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 5\r\n\r\nhello",
    "space-before-colon": b"HTTP/1.1 200 OK\r\nx : a\r\ncontent-length: 5\r\n\r\nhello",
    "no-colon": b"HTTP/1.1 200 OK\r\nnocolon\r\ncontent-length: 5\r\n\r\nhello",
    "empty-name": b"HTTP/1.1 200 OK\r\n: a\r\ncontent-length: 5\r\n\r\nhello",
    "latin1-value": b"HTTP/1.1 200 OK\r\nx: caf\xe9\r\ncontent-length: 5\r\n\r\nhello",
    "underscore": b"HTTP/1.1 200 OK\r\nx_y: a\r\ncontent-length: 5\r\n\r\nhello",
    "leading-crlf": b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "304-chunked": b"HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n",
    "204-chunked": b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "204-length-zero": b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
    "205-length": b"HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n",
    "101-unasked": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "100-then-final": b"HTTP/1.1 100 Continue\r\n\r\n" + response(),
    "many-interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 5 + response(),
    "100-length": b"HTTP/1.1 100 Continue\r\ncontent-length: 5\r\n\r\n" + response(),
    "excess-bytes": response() + b"excess",
    "two-responses": response() + response("500 Smuggled", body=b"other"),
    "chunked-extension": CHUNKED + b"5;a=b\r\nhello\r\n0;c\r\n\r\n",
    "chunked-upper": CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n",
    "chunked-zeros": CHUNKED + b"0005\r\nhello\r\n000\r\n\r\n",
    "chunked-lf": CHUNKED + b"5\nhello\n0\n\n",
    "chunked-space": CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
    "chunked-huge": CHUNKED + b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunked-minus": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "chunked-long": CHUNKED + b"3\r\nhello\r\n0\r\n\r\n",
    "cut-chunked": CHUNKED + b"5\r\nhello\r\n",
    "cut-last-chunk": CHUNKED + b"5\r\nhello\r\n0\r\n",
    "cut-status-line": b"HTTP/1.1 20",
    "cut-interim": b"HTTP/1.1 100 Continue\r\n\r\n",
    "set-cookies": b"HTTP/1.1 200 OK\r\nset-cookie: a\r\nset-cookie: b\r\nvary: x\r\nvary: y\r\ncontent-length: 0\r\n\r\n",
    "connection-list": b"HTTP/1.1 200 OK\r\nconnection: close, x-a\r\nx-a: 1\r\ncontent-length: 5\r\n\r\nhello",
    "proxy-connection": b"HTTP/1.1 200 OK\r\nproxy-connection: close\r\ncontent-length: 5\r\n\r\nhello",
    "keep-alive": b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=9\r\ncontent-length: 5\r\n\r\nhello",
    "envoy-headers": b"HTTP/1.1 200 OK\r\nx-envoy-upstream-service-time: 99\r\nx-envoy-attempt-count: 9\r\nx-request-id: up\r\nx-envoy-overloaded: true\r\ncontent-length: 5\r\n\r\nhello",
    "date": b"HTTP/1.1 200 OK\r\ndate: yesterday\r\ncontent-length: 5\r\n\r\nhello",
    "head-60k": b"HTTP/1.1 200 OK\r\nx-big: " + b"z" * 60000 + b"\r\ncontent-length: 5\r\n\r\nhello",
}.items():
    get(f"up-{name}", replies=(Reply(raw, then="close"),))
    if not name.startswith(("cut", "chunked", "head-60k")):
        case(f"up-head-{name}", request("HEAD /path"), methods=("HEAD",), replies=(Reply(raw, then="close"),))
get("up-reset-in-body", replies=(Reply(early=b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello", then="reset"),))
get("up-reset-in-chunked", replies=(Reply(early=CHUNKED + b"5\r\nhello\r\n", then="reset"),))
get("up-reset-in-head", replies=(Reply(early=b"HTTP/1.1 200 OK\r\ncontent-le", then="reset"),))
get("up-reset-until-close", replies=(Reply(early=b"HTTP/1.1 200 OK\r\n\r\nhello", then="reset"),))
get("up-two-requests-excess", replies=(Reply(response() + b"excess"), Reply(response("201 Created"))))
case("up-excess-sequential", [request("GET /path"), 1, request("GET /path")], methods=("GET", "GET"), replies=(Reply(response() + response("500 Smuggled", body=b"other")), Reply(response("201 Created"))))
for size in (1, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 65537, 131072, 1048575):
    get(f"up-size-{size}", replies=reply(body=b"s" * size))
    get(f"up-size-chunked-{size}", replies=(Reply(CHUNKED + b"%x\r\n" % size + b"s" * size + b"\r\n0\r\n\r\n"),))
    post(f"size-{size}", f"content-length: {size}", body=b"s" * size)
    post(f"size-chunked-{size}", "transfer-encoding: chunked", body=b"%x\r\n" % size + b"s" * size + b"\r\n0\r\n\r\n")
get("up-tiny-chunks", replies=(Reply(CHUNKED + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"),))
post("tiny-chunks", "transfer-encoding: chunked", body=b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")

# --- requests, framing and targets
for name, raw in {
    "host-empty-port": b"GET / HTTP/1.1\r\nhost: a.test:\r\n\r\n",
    "host-bad-port": b"GET / HTTP/1.1\r\nhost: a.test:abc\r\n\r\n",
    "host-port-zero": b"GET / HTTP/1.1\r\nhost: a.test:0\r\n\r\n",
    "host-port-large": b"GET / HTTP/1.1\r\nhost: a.test:65536\r\n\r\n",
    "host-port-zeros": b"GET / HTTP/1.1\r\nhost: a.test:00080\r\n\r\n",
    "host-port-plus": b"GET / HTTP/1.1\r\nhost: a.test:+80\r\n\r\n",
    "host-two-ports": b"GET / HTTP/1.1\r\nhost: a.test:80:81\r\n\r\n",
    "host-only-port": b"GET / HTTP/1.1\r\nhost: :80\r\n\r\n",
    "host-v6-bare": b"GET / HTTP/1.1\r\nhost: ::1\r\n\r\n",
    "host-v6-zone": b"GET / HTTP/1.1\r\nhost: [fe80::1%25eth0]\r\n\r\n",
    "host-v6-open": b"GET / HTTP/1.1\r\nhost: [::1\r\n\r\n",
    "host-v6-junk": b"GET / HTTP/1.1\r\nhost: [::1]x\r\n\r\n",
    "host-v6-bad": b"GET / HTTP/1.1\r\nhost: [zz::1]\r\n\r\n",
    "host-underscore": b"GET / HTTP/1.1\r\nhost: a_b.test\r\n\r\n",
    "host-percent": b"GET / HTTP/1.1\r\nhost: a%20b.test\r\n\r\n",
    "host-slash": b"GET / HTTP/1.1\r\nhost: a.test/x\r\n\r\n",
    "host-query": b"GET / HTTP/1.1\r\nhost: a.test?x\r\n\r\n",
    "host-fragment": b"GET / HTTP/1.1\r\nhost: a.test#x\r\n\r\n",
    "host-backslash": b"GET / HTTP/1.1\r\nhost: a.test\\x\r\n\r\n",
    "host-comma": b"GET / HTTP/1.1\r\nhost: a.test,b.test\r\n\r\n",
    "host-quote": b"GET / HTTP/1.1\r\nhost: \"a.test\"\r\n\r\n",
    "host-angle": b"GET / HTTP/1.1\r\nhost: <a>\r\n\r\n",
    "host-latin1": b"GET / HTTP/1.1\r\nhost: caf\xe9.test\r\n\r\n",
    "host-scheme": b"GET / HTTP/1.1\r\nhost: http://a.test\r\n\r\n",
    "host-dots": b"GET / HTTP/1.1\r\nhost: ..\r\n\r\n",
    "host-star": b"GET / HTTP/1.1\r\nhost: *\r\n\r\n",
    "host-spaces": b"GET / HTTP/1.1\r\nhost:   exact.test  \r\n\r\n",
    "host-subdelims": b"GET / HTTP/1.1\r\nhost: a!$&'()*+;=b\r\n\r\n",
    "host-long": b"GET / HTTP/1.1\r\nhost: " + b"h" * 300 + b"\r\n\r\n",
    "absolute-userinfo": b"GET http://u:p@exact.test/ HTTP/1.1\r\nhost: exact.test\r\n\r\n",
    "absolute-port": b"GET http://exact.test:80/ HTTP/1.1\r\nhost: other.test\r\n\r\n",
    "absolute-v6": b"GET http://[::1]:80/x HTTP/1.1\r\nhost: other.test\r\n\r\n",
    "absolute-upper": b"GET HTTP://EXACT.test/ HTTP/1.1\r\nhost: other.test\r\n\r\n",
    "absolute-ftp": b"GET ftp://exact.test/ HTTP/1.1\r\nhost: other.test\r\n\r\n",
    "absolute-no-host": b"GET http:///x HTTP/1.1\r\nhost: other.test\r\n\r\n",
    "absolute-one-slash": b"GET http:/exact.test HTTP/1.1\r\nhost: other.test\r\n\r\n",
    "absolute-fragment": b"GET http://exact.test/#a HTTP/1.1\r\nhost: other.test\r\n\r\n",
    "absolute-options": b"OPTIONS http://exact.test HTTP/1.1\r\nhost: other.test\r\n\r\n",
    "absolute-empty-host-field": b"GET http://exact.test/ HTTP/1.1\r\nhost:\r\n\r\n",
    "absolute-bad-host-field": b"GET http://exact.test/ HTTP/1.1\r\nhost: a b\r\n\r\n",
    "authority-form-get": b"GET exact.test:80 HTTP/1.1\r\nhost: exact.test\r\n\r\n",
    "target-empty": b"GET  HTTP/1.1\r\nhost: a\r\n\r\n",
    "target-query-only": b"GET ?a=b HTTP/1.1\r\nhost: a\r\n\r\n",
    "target-double-slash": b"GET //exact.test/x HTTP/1.1\r\nhost: a\r\n\r\n",
    "target-star-slash": b"GET */ HTTP/1.1\r\nhost: a\r\n\r\n",
    "method-long": b"M" * 100 + b" / HTTP/1.1\r\nhost: a\r\n\r\n",
    "method-empty": b" / HTTP/1.1\r\nhost: a\r\n\r\n",
    "method-colon": b"GE:T / HTTP/1.1\r\nhost: a\r\n\r\n",
    "version-missing-minor": b"GET / HTTP/1\r\nhost: a\r\n\r\n",
    "version-1.10": b"GET / HTTP/1.10\r\nhost: a\r\n\r\n",
    "version-01.1": b"GET / HTTP/01.1\r\nhost: a\r\n\r\n",
    "version-0.9": b"GET / HTTP/0.9\r\nhost: a\r\n\r\n",
    "version-trailing-space": b"GET / HTTP/1.1 \r\nhost: a\r\n\r\n",
    "version-other": b"GET / ICE/1.0\r\nhost: a\r\n\r\n",
    "te-chunked-space": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked \r\n\r\n0\r\n\r\n",
    "te-tab-chunked": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\tchunked\r\n\r\n0\r\n\r\n",
    "te-vtab": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "te-quoted": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    "te-param": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "te-comma": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "te-empty": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\r\n\r\n",
    "te-empty-then-chunked": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "te-identity-chunked": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "te-identity-then-length": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\ncontent-length: 4\r\n\r\nbody",
    "te-after-length": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "te-space-colon": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "te-underscore": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer_encoding: chunked\r\ncontent-length: 4\r\n\r\nbody",
    "te-get": b"GET /path HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "length-space": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4 \r\n\r\nbody",
    "length-two-words": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4 4\r\n\r\nbody",
    "length-zeros": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0004\r\n\r\nbody",
    "length-trailing": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4x\r\n\r\nbody",
    "length-comma": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4,\r\n\r\nbody",
    "length-64-bit": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551616\r\n\r\nbody",
    "length-underscore": b"POST / HTTP/1.1\r\nhost: a\r\ncontent_length: 4\r\ncontent-length: 0\r\n\r\n",
    "chunk-space-before": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n 4\r\nbody\r\n0\r\n\r\n",
    "chunk-space-after": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4 \r\nbody\r\n0\r\n\r\n",
    "chunk-extension-space": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4 ; a\r\nbody\r\n0\r\n\r\n",
    "chunk-extension-quoted": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4;a=\"b;c\"\r\nbody\r\n0\r\n\r\n",
    "chunk-extension-long": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4;" + b"x" * 20000 + b"\r\nbody\r\n0\r\n\r\n",
    "chunk-extension-cr": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4;a\rb\r\nbody\r\n0\r\n\r\n",
    "chunk-semicolon-only": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n;\r\n0\r\n\r\n",
    "chunk-comma": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4,4\r\nbody\r\n0\r\n\r\n",
    "chunk-short": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbody\r\n0\r\n\r\n",
    "chunk-cr-only": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\rbody\r0\r\r",
    "chunk-end-no-crlf": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "chunk-trailer-fold": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\r\n c\r\n\r\n",
    "upgrade-without-connection": b"GET /path HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n\r\n",
    "connection-upgrade-only": b"GET /path HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n\r\n",
    "connection-twice": b"GET /path HTTP/1.1\r\nhost: a\r\nconnection: x-a\r\nconnection: close\r\nx-a: 1\r\n\r\n",
    "connection-odd": b"GET /path HTTP/1.1\r\nhost: a\r\nconnection: ,,close,\r\n\r\n",
    "connection-te": b"GET /path HTTP/1.1\r\nhost: a\r\nconnection: te\r\nte: trailers\r\n\r\n",
    "connection-te-list": b"GET /path HTTP/1.1\r\nhost: a\r\nconnection: te\r\nte: gzip, trailers\r\n\r\n",
    "connection-cookie": b"GET /path HTTP/1.1\r\nhost: a\r\nconnection: cookie\r\ncookie: a=b\r\n\r\n",
    "connection-authorization": b"GET /path HTTP/1.1\r\nhost: a\r\nconnection: authorization\r\nauthorization: x\r\n\r\n",
    "connection-length": b"POST /path HTTP/1.1\r\nhost: a\r\nconnection: content-length\r\ncontent-length: 4\r\n\r\nbody",
    "connection-te-coding": b"POST /path HTTP/1.1\r\nhost: a\r\nconnection: transfer-encoding\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "connection-pseudo": b"GET /path HTTP/1.1\r\nhost: a\r\nconnection: :path\r\n\r\n",
    "connection-many": b"GET /path HTTP/1.1\r\nhost: a\r\nconnection: " + b",".join(b"x-%d" % n for n in range(12)) + b"\r\n\r\n",
    "proxy-connection-close": b"GET /path HTTP/1.1\r\nhost: a\r\nproxy-connection: close\r\n\r\n",
    "pseudo-header": b"GET /path HTTP/1.1\r\nhost: a\r\n:path: /evil\r\n\r\n",
    "many-crlf": b"\r\n\r\n\r\nGET /path HTTP/1.1\r\nhost: a\r\n\r\n",
    "lf-first": b"\nGET /path HTTP/1.1\r\nhost: a\r\n\r\n",
    "value-trailing-space": b"GET /path HTTP/1.1\r\nhost: a\r\nx-a: b  \t \r\n\r\n",
    "value-ff": b"GET /path HTTP/1.1\r\nhost: a\r\nx-a: b\x0cc\r\n\r\n",
    "value-esc": b"GET /path HTTP/1.1\r\nhost: a\r\nx-a: b\x1bc\r\n\r\n",
    "name-latin1": b"GET /path HTTP/1.1\r\nhost: a\r\nx-\xe9: b\r\n\r\n",
    "name-slash": b"GET /path HTTP/1.1\r\nhost: a\r\nx/a: b\r\n\r\n",
    "expect-get": b"GET /path HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n\r\n",
    "expect-upper": b"POST /path HTTP/1.1\r\nhost: a\r\nexpect: 100-CONTINUE\r\ncontent-length: 4\r\n\r\nbody",
    "expect-zero-length": b"POST /path HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 0\r\n\r\n",
    "expect-list": b"POST /path HTTP/1.1\r\nhost: a\r\nexpect: 100-continue, other\r\ncontent-length: 4\r\n\r\nbody",
    "expect-404": b"POST /c/500 HTTP/1.1\r\nhost: more.test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n",
    "h2-upgrade": b"GET /path HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c, websocket\r\n\r\n",
}.items():
    case(f"rq-{name}", raw, methods=(raw.split(b" ")[0].decode("latin1") if raw.startswith((b"HEAD", b"CONNECT")) else "GET",))
for name, raw in {
    "host-empty": b"GET /path HTTP/1.0\r\nhost:\r\n\r\n",
    "chunked": b"POST /path HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "post-no-length": b"POST /path HTTP/1.0\r\nhost: a\r\n\r\nbody",
    "keep-alive-chunked": b"GET /trailers HTTP/1.0\r\nhost: more.test\r\nconnection: keep-alive\r\n\r\n",
    "keep-alive-header": b"GET /path HTTP/1.0\r\nhost: a\r\nkeep-alive: 300\r\nconnection: Keep-Alive\r\n\r\n",
    "absolute": b"GET http://exact.test/x HTTP/1.0\r\n\r\n",
    "expect": b"POST /path HTTP/1.0\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\nbody",
    "upgrade": b"GET /path HTTP/1.0\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "local": b"GET /direct/503 HTTP/1.0\r\nhost: a\r\n\r\n",
    "local-keep-alive": b"GET /direct/503 HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n",
    "404": b"GET / HTTP/1.0\r\nhost: noroutes.test\r\n\r\n",
    "te-gzip": b"GET /path HTTP/1.0\r\nhost: a\r\nte: trailers\r\n\r\n",
}.items():
    case(f"h10-{name}", raw, listener="old")
case("h10-head", b"HEAD /path HTTP/1.0\r\nhost: a\r\n\r\n", listener="old", methods=("HEAD",), replies=(Reply(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),))
case("h10-until-close", b"GET /path HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n", listener="old", replies=(Reply(b"HTTP/1.1 200 OK\r\n\r\nuntil close", then="close"),))
case("h10-204", b"GET /path HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n", listener="old", replies=reply("204 No Content", body=b"", length=False))
case("h10-two", [b"GET /path HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n", 1, b"GET /path HTTP/1.0\r\nhost: a\r\n\r\n"], listener="old", methods=("GET", "GET"))

# --- pipelining, early answers, connections
case("pipelined-bad-second", request("GET /path") + b"bad\r\n\r\n", methods=("GET", "GET"))
case("pipelined-bad-then-good", b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n" + request("GET /path"), methods=("GET",))
case("pipelined-close-first", request("GET /path", "connection: close") + request("GET /path"), methods=("GET",))
case("pipelined-upstream-fails", request("GET /path") + request("GET /path"), methods=("GET", "GET"), replies=(Reply(b"", then="close"), Reply()))
case("pipelined-many", request("GET /path") * 30, methods=("GET",) * 30)
case("pipelined-chunked", (request("POST /path", "transfer-encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n")) * 3, methods=("POST",) * 3)
case("early-large", request("POST /path", "content-length: 3000000", body=b"x" * 1000), methods=("POST",), replies=(Reply(early=response("413 Payload Too Large"), then="hang"),))
case("early-close", request("POST /path", "content-length: 3000000", body=b"x" * 1000), methods=("POST",), replies=(Reply(early=b"HTTP/1.1 413 Payload Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig", then="hang"),))
case("early-chunked", [request("POST /path", "transfer-encoding: chunked"), b"3\r\nabc\r\n", 1], methods=("POST",), replies=(Reply(early=response("200 OK"), then="hang"),))
case("early-while-uploading", [request("POST /path", "content-length: 6"), b"abc", CONTINUE, b"def"], methods=("POST",), listener="proper", replies=(Reply(early=b"HTTP/1.1 100 Continue\r\n\r\n"),))
case("body-stops", [request("POST /path", "content-length: 6"), b"abc"], methods=("POST",), listener="tight")
case("body-stops-local", [request("POST /direct/503", "content-length: 6"), b"abc"], methods=("POST",), listener="tight")
case("head-stops", b"GET / HTTP/1.1\r\nhost: a\r\nx", listener="tight")
case("head-one-byte", b"G", listener="tight")
case("silent", b"", listener="tight")
case("silent-after-answer", [request("GET /path"), 1], methods=("GET", "GET"), listener="tight")
case("max-requests", request("GET /path") * 3, methods=("GET", "GET"), listener="tight")
case("upstream-silent", request("GET /path"), listener="tight", replies=(Reply(then="hang"),))
case("upstream-stops-in-body", request("GET /path"), listener="tight", replies=(Reply(early=b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", then="hang"),))
case("upstream-stops-in-head", request("GET /path"), listener="tight", replies=(Reply(early=b"HTTP/1.1 200 OK\r\ncontent-le", then="hang"),))
case("capped-upstream-silent", request("GET /path"), listener="capped", replies=(Reply(then="hang"),))
case("capped-in-body", request("GET /path"), listener="capped", replies=(Reply(early=b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", then="hang"),))
case("capped-body-stops", [request("POST /path", "content-length: 6"), b"abc"], methods=("POST",), listener="capped")
case("capped-silent", b"", listener="capped")
case("capped-head-stops", b"GET / HTTP/1.1\r\n", listener="capped")
for path in ("route", "max", "idle"):
    more(f"t-{path}-silent", f"/t/{path}", replies=(Reply(then="hang"),))
    more(f"t-{path}-in-body", f"/t/{path}", replies=(Reply(early=b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", then="hang"),))
    case(f"t-{path}-body-stops", [request(f"POST /t/{path}", "content-length: 6", host=MORE), b"abc"], methods=("POST",))
more("t-grpc", "/t/grpc", "grpc-timeout: 5S", replies=(Reply(then="hang"),))
more("t-header", "/t/none", "x-envoy-upstream-rq-timeout-ms: 100", replies=(Reply(then="hang"),))
more("t-header-per-try", "/t/none", "x-envoy-upstream-rq-per-try-timeout-ms: 100", replies=(Reply(then="hang"),))
more("t-header-bad", "/x", "x-envoy-upstream-rq-timeout-ms: abc")
more("t-header-zero", "/t/route", "x-envoy-upstream-rq-timeout-ms: 0")
more("t-header-idle", "/t/none", "x-envoy-upstream-stream-duration-ms: 100")

# --- trusted clients
STEERING = ("retry-on: 5xx", "retry-grpc-on: cancelled", "max-retries: 2", "retriable-header-names: x-a", "retriable-status-codes: 418", "hedge-on-per-try-timeout: false",
            "upstream-alt-stat-name: other", "upstream-rq-timeout-alt-response: 1", "ip-tags: a", "original-path: /b", "decorator-operation: a", "downstream-service-node: n")
PER_TRY = "x-envoy-upstream-rq-per-try-timeout-ms: 100"
ALTERNATIVE = "x-envoy-upstream-rq-timeout-alt-response: 1"
more("in-plain", "/x", listener="trusted")
more("in-steering", "/x", *(f"x-envoy-{field}" for field in STEERING), listener="trusted")
more("in-request-id", "/x", "x-request-id: mine", listener="trusted")
more("in-per-try", "/t/none", PER_TRY, listener="trusted", replies=(Reply(then="hang"),))
more("in-per-try-alternative", "/t/none", PER_TRY, ALTERNATIVE, listener="trusted", replies=(Reply(then="hang"),))
more("in-per-try-in-body", "/t/none", "x-envoy-upstream-rq-per-try-timeout-ms: 500", listener="trusted", replies=(Reply(early=b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", then="hang"),))
more("in-per-try-beyond", "/t/route", "x-envoy-upstream-rq-per-try-timeout-ms: 5000", listener="trusted", replies=(Reply(then="hang"),))
more("in-timeout", "/t/none", "x-envoy-upstream-rq-timeout-ms: 100", listener="trusted", replies=(Reply(then="hang"),))
more("in-timeout-alternative", "/t/none", "x-envoy-upstream-rq-timeout-ms: 100", ALTERNATIVE, listener="trusted", replies=(Reply(then="hang"),))

# --- no filters
get("nofilters", listener="nofilters")
get("nofilters-404", host="noroutes.test", listener="nofilters")
get("nofilters-direct", "/direct/503", listener="nofilters")
get("nofilters-redirect", "/redirect/host", listener="nofilters")
case("nofilters-bad", b"bad\r\n\r\n", listener="nofilters")
post("nofilters-post", "content-length: 4", body=b"body", listener="nofilters")

# --- tunnels
UPGRADE = ("connection: Upgrade", "upgrade: websocket")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
get("tn-websocket", "/", *UPGRADE, listener="tunnels", replies=(Reply(SWITCH),), tunnel=b"ping")
get("tn-websocket-early-data", "/", *UPGRADE, listener="tunnels", replies=(Reply(SWITCH + b"early"),))
get("tn-websocket-upstream-closes", "/", *UPGRADE, listener="tunnels", replies=(Reply(SWITCH, then="end"),))
get("tn-websocket-upstream-resets", "/", *UPGRADE, listener="tunnels", replies=(Reply(early=SWITCH, then="reset"),))
get("tn-websocket-200", "/", *UPGRADE, listener="tunnels", replies=reply("200 OK"))
get("tn-websocket-other-protocol", "/", *UPGRADE, listener="tunnels", replies=(Reply(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: other\r\n\r\n"),), tunnel=b"ping")
get("tn-websocket-101-bare", "/", *UPGRADE, listener="tunnels", replies=(Reply(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),), tunnel=b"ping")
for path in ("/redirect/host", "/direct/503", "/no-cluster", "/nowhere"):
    get(f"upgrade-other-{path}", path, "connection: upgrade", "upgrade: other", host="noroutes.test" if path == "/nowhere" else "any.test")
    get(f"upgrade-websocket-{path}", path, *UPGRADE, host="noroutes.test" if path == "/nowhere" else "any.test")
get("tn-websocket-upper", "/", "connection: keep-alive, UPGRADE", "upgrade: WebSocket", listener="tunnels", replies=(Reply(SWITCH),), tunnel=b"ping")
get("tn-websocket-timeout", "/", *UPGRADE, listener="tunnels", replies=(Reply(then="hang"),))
get("tn-other-global", "/x", "connection: upgrade", "upgrade: other", listener="tunnels", replies=(Reply(SWITCH),))
get("tn-other-route", "/other", "connection: upgrade", "upgrade: other", listener="tunnels", replies=(Reply(SWITCH),), tunnel=b"ping")
get("tn-two-protocols", "/", "connection: upgrade", "upgrade: websocket, other", listener="tunnels", replies=(Reply(SWITCH),))
post("tn-websocket-post", *UPGRADE, "content-length: 4", body=b"body", listener="tunnels", replies=(Reply(SWITCH),))
get("tn-websocket-refused-close", "/", *UPGRADE, listener="tunnels", replies=(Reply(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", then="close"),))
get("tn-websocket-426", "/", *UPGRADE, listener="tunnels", replies=reply("426 Upgrade Required", "upgrade: websocket", "connection: upgrade"))
get("tn-websocket-upstream-dies", "/", *UPGRADE, listener="tunnels", replies=(Reply(b"", then="close"),))


def connect(name, *fields, target="a.test:443", host="a.test:443", **rest):
    head = "\r\n".join([f"CONNECT {target} HTTP/1.1", f"host: {host}", *fields]) + "\r\n\r\n"
    case(name, head.encode(), methods=("CONNECT",), listener="tunnels", **rest)


CONNECTED = b"HTTP/1.1 200 OK\r\n\r\n"
connect("tn-connect", replies=(Reply(CONNECTED),), tunnel=b"ping")
connect("tn-connect-length", replies=(Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),), tunnel=b"ping")
connect("tn-connect-204", replies=(Reply(b"HTTP/1.1 204 No Content\r\n\r\n"),))
connect("tn-connect-refused", replies=reply("403 Forbidden"))
connect("tn-connect-407", replies=reply("407 Proxy Authentication Required", "proxy-authenticate: Basic"))
connect("tn-connect-dies", replies=(Reply(b"", then="close"),))
connect("tn-connect-upstream-closes", replies=(Reply(early=CONNECTED, then="end"),))
connect("tn-connect-off", "x-off: 1")
connect("tn-connect-other-host", host="b.test:1", replies=(Reply(CONNECTED),), tunnel=b"ping")
connect("tn-connect-no-port", target="a.test", host="a.test", replies=(Reply(CONNECTED),))
connect("tn-connect-path", target="/path")
connect("tn-connect-absolute", target="http://a.test/")
connect("tn-connect-bad-port", target="a.test:port")
connect("tn-connect-v6", target="[::1]:443", host="[::1]:443", replies=(Reply(CONNECTED),), tunnel=b"ping")
connect("tn-connect-body", "content-length: 4")
connect("tn-connect-chunked", "transfer-encoding: chunked")
case("tn-connect-no-host", b"CONNECT a.test:443 HTTP/1.1\r\n\r\n", methods=("CONNECT",), listener="tunnels", replies=(Reply(CONNECTED),))

# --- local replies
for path, *fields in (("/no-cluster",), ("/no-cluster", "x-map: and"), ("/c/500",), ("/refused",), ("/refused", "x-map: and"), ("/direct/204",), ("/direct/empty",), ("/direct/503",), ("/redirect/host",), ("/redirect/host", "x-map: and"), ("/d/404",), ("/d/304",)):
    host = MORE if path.startswith(("/c/", "/d/")) else "any.test"
    get(f"map-{path}-{len(fields)}", path, *fields, listener="mapped", host=host)
    case(f"map-head-{path}-{len(fields)}", request(f"HEAD {path}", *fields, host=host), methods=("HEAD",), listener="mapped")
get("map-no-route", host="noroutes.test", listener="mapped")
get("map-upstream-error", replies=reply("503 Service Unavailable"), listener="mapped")
get("map-timeout", "/timeout", listener="mapped", replies=(Reply(then="hang"),))
case("map-bad", b"bad\r\n\r\n", listener="mapped")
get("map-grpc", "/no-cluster", "content-type: application/grpc", listener="mapped")
