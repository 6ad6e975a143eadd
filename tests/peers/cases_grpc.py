"""Cases of the differential test: gRPC-Web, the HTTP/1 bridge, gRPC's timeouts, and replies of the proxy's own to gRPC clients."""

import base64

from cases import case, request
from upstream import Reply

FRAME = b"\0\0\0\0\x05hello"
TEXT = base64.b64encode(FRAME)
WEB, WEB_TEXT, GRPC = "application/grpc-web", "application/grpc-web-text", "application/grpc"


def answer(body, *trailers, kind=GRPC, status="200 OK", fields=()):
    """A chunked response of these pieces."""
    head = [f"HTTP/1.1 {status}", f"content-type: {kind}", "transfer-encoding: chunked", *fields, "", ""]
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in body)
    ends = "".join(f"{line}\r\n" for line in trailers)
    return (Reply("\r\n".join(head).encode("latin1") + pieces + b"0\r\n" + ends.encode("latin1") + b"\r\n"),)


def grpc(name, *fields, path="/s.S/M", kind=GRPC, body=FRAME, replies=None, **more):
    replies = answer([FRAME], "grpc-status: 0") if replies is None else replies
    fields = (f"content-type: {kind}", *fields, f"content-length: {len(body)}")
    case(f"grpc-{name}", request(f"POST {path}", *fields, body=body), listener="grpc", methods=("POST",), replies=replies, **more)


# --- gRPC-Web
for kind in (WEB, WEB + "+proto", WEB + "+json", WEB + "; charset=utf-8", WEB.upper()):
    grpc(f"web-type-{kind}", kind=kind)
for accept in ("*/*", WEB, WEB_TEXT, WEB_TEXT + "+proto", WEB_TEXT + ", */*"):
    grpc(f"web-accept-{accept}", f"accept: {accept}", kind=WEB)
    grpc(f"web-text-accept-{accept}", f"accept: {accept}", kind=WEB_TEXT, body=TEXT)
grpc("web-headers", "te: gzip", "grpc-accept-encoding: br", "x-grpc-web: 1", kind=WEB)
for name, body in {
    "two": TEXT + base64.b64encode(FRAME), "whole": base64.b64encode(FRAME + FRAME), "size": TEXT[:-1], "byte": b"A", "space": TEXT[:4] + b" " + TEXT[5:],
    "line": TEXT + b"\r\n", "url": b"AAAA_-==", "padding": b"====", "left-over": b"AAAB/x==", "binary": FRAME, "empty": b"",
}.items():
    grpc(f"web-text-{name}", kind=WEB_TEXT, body=body)
for accept in (WEB, WEB_TEXT):
    def web(name, replies, accept=accept):
        grpc(f"answer-{name}-{accept}", f"accept: {accept}", kind=WEB, replies=replies)
    web("trailers", answer([FRAME], "grpc-status: 5", "grpc-message: not%20found", "X-Mixed: Case", "x-two: 1", "x-two: 2"))
    web("frames", answer([FRAME[:3], FRAME[3:] + FRAME + b"\0\0\0\0\0"], "grpc-status: 0"))
    web("no-body", answer([], "grpc-status: 0"))
    web("at-once", (Reply(b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 12\r\ngrpc-message: no\r\ncontent-length: 0\r\n\r\n"),))
    web("html-503", (Reply(b"HTTP/1.1 503 Down\r\ncontent-type: text/html\r\ncontent-length: 12\r\n\r\n<b>100%~</b>"),))
    web("html-200", answer([b"page ", b"\xc3\xa9\n"], kind="text/html"))
    web("html-trailers", answer([b"page"], "x-t: 1", kind="text/html"))
    web("empty-404", (Reply(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n"),))
    web("html-long", answer([b"x" * 9000, b"y" * 9000], kind="text/html"))
    web("own-web", answer([FRAME, b"\x80\0\0\0\x00"], kind=WEB + "+proto"))
    web("grpc-500", answer([FRAME], "grpc-status: 0", status="500 Oops"))

# --- the bridge
for status in ("0", "7", "00", "junk", ""):
    grpc(f"bridge-status-{status}", replies=answer([FRAME], f"grpc-status: {status}", "grpc-message: why%21"))
grpc("bridge-no-status", replies=answer([FRAME], "x-t: 1"))
grpc("bridge-no-trailers", replies=answer([FRAME]))
grpc("bridge-no-body", replies=answer([], "grpc-status: 3"))
grpc("bridge-at-once", replies=(Reply(b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 12\r\ncontent-length: 0\r\n\r\n"),))
grpc("bridge-html", replies=(Reply(b"HTTP/1.1 503 Down\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\ndown"),))
grpc("bridge-pieces", replies=answer([FRAME[:2], FRAME[2:], FRAME * 500], "grpc-status: 0"))
grpc("bridge-query", path="/s.S/M?a=b?c")
grpc("bridge-plus", kind="application/grpc+proto")
grpc("bridge-other", path="/s.S/M?a=b", kind="application/json")
PROTOBUF = "application/x-protobuf"
grpc("protobuf", kind=PROTOBUF, body=b"hello", path="/s.S/M?q")
grpc("protobuf-empty", kind=PROTOBUF, body=b"")
grpc("protobuf-large", kind=PROTOBUF, body=b"p" * 100000)
grpc("protobuf-error", kind=PROTOBUF, body=b"hello", replies=answer([], "grpc-status: 5"))
grpc("protobuf-other", kind=PROTOBUF + "; a=b", body=b"hello")

# --- filters switched off by a route
for kind in (WEB, GRPC, PROTOBUF):
    grpc(f"off-{kind}", kind=kind, path="/off?q")

# --- replies of the proxy's own
for kind in (GRPC, GRPC + "+proto", WEB, WEB_TEXT, PROTOBUF, "text/plain"):
    for path in ("/direct", "/none"):
        grpc(f"own{path}-{kind}", f"accept: {kind}", kind=kind, path=path, body=TEXT if kind == WEB_TEXT else FRAME)

# --- timeouts
for where in ("cap", "offset", "own", "old"):
    # What is shorter than an answer takes is a race (of the old kind: what is left of it).
    for asked in ("5S", "1500m", "99999999H", "1M", "123456789S", "5", "S", "-5S", "5s", "") if where == "old" else ("5S", "1500m", "99999999H", "100000u", "99999999n", "1M", "123456789S", "5", "S", "-5S", "5s", ""):
        grpc(f"timeout-{where}-{asked}", f"grpc-timeout: {asked}", path=f"/timeout/{where}")
    grpc(f"timeout-{where}", path=f"/timeout/{where}")
    grpc(f"timeout-{where}-json", "grpc-timeout: 5S", kind="application/json", path=f"/timeout/{where}")
