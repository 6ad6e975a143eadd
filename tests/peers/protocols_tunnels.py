"""Tunnels through an HTTP proxy (`tunneling_config`): what is asked for, with which head, what answers make a tunnel, and how one ends. The
endpoints are scripts that speak just enough HTTP/1.1 or HTTP/2. Chains of two real proxies are tunnels.py's."""

import contextlib
import socket
import time

import raw_http2
from protocols_case import QUIET_S, case, describe, echo, read, reset, send, told
from protocols_ends import SMALL, TIMEOUT_S, on_time

HTTP2 = {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    # What nobody uses any more ends within the case.
    "common_http_protocol_options": {"idle_timeout": "0.5s"}, "explicit_http_config": {"http2_protocol_options": {}}}}}
# Heads are compressed in more than one way, windows opened as it pleases; and who ends a connection that nobody uses is a matter of timing.
HTTP2_UNCOUNTED = r"upstream_cx_[rt]x_bytes|upstream_cx_idle_timeout|upstream_cx_destroy_(local|remote)$"
OK = b"HTTP/1.1 200 OK\r\n\r\n"
LARGE = bytes(range(256)) * 12_000


def tunnel(hostname="host.test:443", **fields):
    return {"tunneling_config": {"hostname": hostname, **fields}}


# --- an HTTP/1.1 proxy


def head_of(connection):
    """A request's head, and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(1 << 16)
        if not part:
            return data, b""
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def proxy(answer=OK, then=echo, knows=True):
    """Takes note of the head and answers, then goes on as an endpoint in the tunnel does."""

    def script(connection):
        head, rest = head_of(connection)
        if answer:
            connection.sendall(answer)
        if rest:
            return f"{describe(head)} and before the answer {describe(rest)}"
        word = then(connection)
        return f"{head.decode()} | {word}" if knows else word

    return script


def hears(connection):
    return told(read(connection))


def ask(at, data=b"ping"):
    with at.connect() as client:
        client.sendall(data)
        got = read(client, len(data))
        # With bytes unread in the kernel a close is a reset: a matter of timing.
        return {"client": "nothing" if got[0] == b"" else told(got)}


def asked(at):
    facts = ask(at)
    return {**facts, "server": at.one.said()}


HEADS = {
    "plain": tunnel(),
    "post": tunnel(use_post=True),
    "post-path": tunnel(use_post=True, post_path="/tunnel?x"),
    "headers": tunnel(headers_to_add=[
        {"header": {"key": "X-One", "value": "1"}}, {"header": {"key": "x-one", "value": "2"}}, {"header": {"key": "x-address", "value": "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"}},
        {"header": {"key": "x-none", "value": "%REQUESTED_SERVER_NAME%"}}, {"header": {"key": "x-kept", "value": "%REQUESTED_SERVER_NAME%"}, "keep_empty_value": True},
        {"header": {"key": "x-three", "value": "3"}, "append_action": "OVERWRITE_IF_EXISTS"}, {"header": {"key": "x-four", "value": "4"}, "append_action": "ADD_IF_ABSENT"},
        {"header": {"key": "proxy-authorization", "value": "Basic YTpi"}},
    ]),
    "hostname": tunnel("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%:1"),
    "hostname-empty": tunnel("%REQUESTED_SERVER_NAME%:443"),
    "hostname-v6": tunnel("[::1]:443"),
    "no-port": tunnel("host.test"),
}
for name, fields in HEADS.items():
    case(f"tunnel-head-{name}", servers={"one": proxy()}, proxy=fields)(asked)


def body_until_end(connection):
    """A request's body to its last chunk; then the response's."""
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        part = connection.recv(1 << 16)
        if not part:
            return f"{describe(data)}, then fin"
        data += part
    connection.sendall(b"0\r\n\r\n")
    return describe(data)


@case("tunnel-post-bytes", servers={"one": proxy(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", body_until_end)}, proxy=tunnel(use_post=True))
def post_bytes(at):
    with at.connect() as client:
        got = read(client, 5)
        client.sendall(b"ping")
        time.sleep(QUIET_S)
        client.shutdown(socket.SHUT_WR)
        return {"client": told(got), "server": at.one.said()}


# That a response to POST ends over HTTP/1.1 is not asked here: Envoy 1.40 dies of it.

# --- answers

ANSWERS = {
    "201": b"HTTP/1.1 201 Created\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    "close": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
    "http-1-0": b"HTTP/1.0 200 OK\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + OK,
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "101": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "301": b"HTTP/1.1 301 Moved\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
    "403": b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
    "407": b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
    "503": b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
    "malformed": b"SSH-2.0-OpenSSH_9\r\n\r\n",
    "large": b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"v" * 4000) for n in range(40)) + b"\r\n",
    "many": b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: 1\r\n" % n for n in range(200)) + b"\r\n",
}
for name, answer in ANSWERS.items():
    # How much of an answer is read that is too large depends on the size of buffers.
    case(f"tunnel-answer-{name}", servers={"one": proxy(answer, knows=False)}, proxy=tunnel(), loose=name in ("403", "large", "many"))(ask)


@case("tunnel-answer-and-bytes", servers={"one": proxy(OK + b"hello", hears)}, proxy=tunnel())
def answer_and_bytes(at):
    with at.connect() as client:
        got = read(client, 5)
    return {"client": told(got), "server": at.one.said()}


def hangs_up(connection):
    connection.close()
    return "closed"


case("tunnel-answer-cut", servers={"one": proxy(b"HTTP/1.1 200 O", hangs_up, knows=False)}, proxy=tunnel(), uncounted="protocol_error")(ask)
case("tunnel-answer-none", servers={"one": proxy(b"", hangs_up, knows=False)}, proxy=tunnel())(ask)
case("tunnel-answer-reset", servers={"one": proxy(b"", lambda connection: reset(connection) or "reset", knows=False)}, proxy=tunnel())(ask)
case("tunnel-refused-attempts", servers={"one": proxy(ANSWERS["503"], knows=False)}, proxy={**tunnel(), "max_connect_attempts": 3})(ask)
case("tunnel-refused-endpoint", clusters={"": ["refusing"]}, proxy=tunnel())(ask)
case("tunnel-refused-endpoint-attempts", clusters={"": ["refusing"]}, proxy={**tunnel(), "max_connect_attempts": 3})(ask)


class ThirdTime:
    """Refuses twice."""

    def __init__(self):
        self.count = 0

    def __call__(self, connection):
        self.count += 1
        return proxy(ANSWERS["503"] if self.count < 3 else OK, knows=False)(connection)


case("tunnel-third-attempt", servers={"one": ThirdTime}, proxy={**tunnel(), "max_connect_attempts": 3})(ask)


@case("tunnel-answer-late", servers={"one": proxy(b"", hears, knows=False)}, proxy={**tunnel(), "idle_timeout": f"{TIMEOUT_S}s"})
def answer_late(at):
    """No answer within the idle timeout."""
    begun = time.monotonic()
    with at.connect() as client:
        got = read(client)
        return {"client": told(got), "end": on_time(begun), "server": at.one.said()}


@case("tunnel-answer-later-than-life", servers={"one": proxy(b"", hears, knows=False)}, proxy={**tunnel(), "max_downstream_connection_duration": f"{TIMEOUT_S}s"})
def answer_later_than_life(at):
    return answer_late(at)


@case("tunnel-client-resets-before-answer", servers={"one": proxy(b"", hears, knows=False)}, proxy={**tunnel(), "idle_timeout": "1.5s"})
def client_resets_before_answer(at):
    client = at.connect()
    at.one.reached()
    time.sleep(QUIET_S)
    reset(client)
    return {"server": at.one.said()}


def answers_late(connection):
    head_of(connection)
    time.sleep(QUIET_S)
    connection.sendall(OK)
    return hears(connection)


@case("tunnel-client-early", servers={"one": answers_late}, proxy=tunnel())
def client_early(at):
    """What a client says before the answer waits for it."""
    with at.connect() as client:
        client.sendall(SMALL)
        client.shutdown(socket.SHUT_WR)
        got = read(client)
    return {"client": told(got), "server": at.one.said()}


# --- ends in an HTTP/1.1 tunnel


def tells_end(connection):
    got = read(connection)
    connection.sendall(SMALL)
    return told(got)


@case("tunnel-half-close-client", servers={"one": proxy(then=tells_end, knows=False)}, proxy=tunnel())
def half_close_client(at):
    with at.connect() as client:
        client.sendall(SMALL[:-1])
        client.shutdown(socket.SHUT_WR)
        got = read(client)
    return {"client": told(got), "server": at.one.said()}


def ends_first(connection):
    connection.sendall(SMALL[:-2])
    connection.shutdown(socket.SHUT_WR)
    return told(read(connection))


@case("tunnel-half-close-server", servers={"one": proxy(then=ends_first, knows=False)}, proxy=tunnel())
def half_close_server(at):
    with at.connect() as client:
        got = read(client)
        sent = send(client, b"more")
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
    return {"client": told(got), "sent": sent, "server": at.one.said()}


@case("tunnel-reset-client", servers={"one": proxy(then=hears, knows=False)}, proxy=tunnel())
def reset_client(at):
    client = at.connect()
    client.sendall(b"ping")
    at.await_stat(f"cluster.{at.name}.upstream_cx_active", 1)
    time.sleep(QUIET_S)
    reset(client)
    return {"server": at.one.said()}


def resets(connection):
    read(connection, 4)
    reset(connection)
    return "reset"


@case("tunnel-reset-server", servers={"one": proxy(then=resets, knows=False)}, proxy=tunnel())
def reset_server(at):
    return ask(at)


@case("tunnel-idle", servers={"one": proxy(then=hears, knows=False)}, proxy={**tunnel(), "idle_timeout": f"{TIMEOUT_S}s"})
def idle(at):
    begun = time.monotonic()
    with at.connect() as client:
        got = read(client)
        return {"client": told(got), "end": on_time(begun), "server": at.one.said()}


# --- an HTTP/2 proxy


def speaks_http2(answer):
    """Does `answer(connection, stream, kind, flags, payload)` with every frame of a stream, until that says something."""

    def script(connection):
        preface = b""
        while len(preface) < len(raw_http2.PREFACE):
            preface += connection.recv(len(raw_http2.PREFACE) - len(preface)) or exit_at_end()
        connection.sendall(raw_http2.settings())
        for kind, flags, stream, payload in raw_http2.frames(connection):
            if kind == raw_http2.SETTINGS and not flags & raw_http2.ACK:
                connection.sendall(raw_http2.frame(raw_http2.SETTINGS, raw_http2.ACK))
            elif kind == raw_http2.DATA and payload:
                connection.sendall(raw_http2.window_update(0, len(payload)) + raw_http2.window_update(stream, len(payload)))
            if stream and (word := answer(connection, stream, kind, flags, payload)):
                return word
        return "the connection ended"

    return script


def exit_at_end():
    raise ConnectionResetError


def status(stream, code, *fields, ends=False):
    flags = raw_http2.END_HEADERS | (raw_http2.END_STREAM if ends else 0)
    return raw_http2.request(stream, [(":status", str(code)), *fields], flags)


def data(stream, payload, ends=False):
    return raw_http2.frame(raw_http2.DATA, raw_http2.END_STREAM if ends else 0, stream, payload)


def answers(*parts, echoes=True):
    """Answers the request with these frames, made of its stream; then sends back what it gets."""

    def answer(connection, stream, kind, flags, payload):
        if kind == raw_http2.HEADERS:
            for part in parts:
                connection.sendall(part(stream))
        elif kind == raw_http2.DATA and echoes:
            connection.sendall(data(stream, payload, bool(flags & raw_http2.END_STREAM)))
        return None

    return speaks_http2(answer)


ANSWERS_2 = {
    "200": [lambda s: status(s, 200)],
    "201": [lambda s: status(s, 201)],
    "204": [lambda s: status(s, 204)],
    "length": [lambda s: status(s, 200, ("content-length", "3"))],
    "interim": [lambda s: status(s, 103), lambda s: status(s, 200)],
    "200-and-end": [lambda s: status(s, 200, ends=True)],
    "403": [lambda s: status(s, 403, ends=True)],
    "503-with-body": [lambda s: status(s, 503), lambda s: data(s, b"no", True)],
    "reset": [lambda s: raw_http2.reset(s)],
    "refused": [lambda s: raw_http2.reset(s, 7)],
    "goaway": [lambda s: raw_http2.frame(raw_http2.GOAWAY, 0, 0, b"\0" * 8)],
    "malformed": [lambda s: status(s, 200, ("Upper", "case"))],
    "large": [lambda s: status(s, 200, *[(f"x-{n}", "v" * 150) for n in range(90)])],
}
for name, parts in ANSWERS_2.items():
    case(f"tunnel-2-answer-{name}", servers={"one": answers(*parts)}, cluster=HTTP2, uncounted=HTTP2_UNCOUNTED, proxy=tunnel())(ask)

case("tunnel-2-answer-post-201", servers={"one": answers(*ANSWERS_2["201"])}, cluster=HTTP2, uncounted=HTTP2_UNCOUNTED, proxy=tunnel(use_post=True))(ask)
case("tunnel-2-answer-post-200", servers={"one": answers(*ANSWERS_2["200"])}, cluster=HTTP2, uncounted=HTTP2_UNCOUNTED, proxy=tunnel(use_post=True))(ask)
case("tunnel-2-refused-attempts", servers={"one": answers(*ANSWERS_2["403"])}, cluster=HTTP2, uncounted=HTTP2_UNCOUNTED, proxy={**tunnel(), "max_connect_attempts": 3})(ask)
case("tunnel-2-refused-endpoint", clusters={"": ["refusing"]}, cluster=HTTP2, uncounted=HTTP2_UNCOUNTED, proxy=tunnel())(ask)


@case("tunnel-2-answer-late", servers={"one": answers()}, cluster=HTTP2, uncounted=HTTP2_UNCOUNTED, proxy={**tunnel(), "idle_timeout": f"{TIMEOUT_S}s"})
def late_2(at):
    begun = time.monotonic()
    with at.connect() as client:
        got = read(client)
        return {"client": told(got), "end": on_time(begun)}


def until_end(then):
    """Opens the tunnel; with the client's end it does `then`, whose word is the last."""
    heard = {}  # of each connection: those of several proxies may be open at once

    def answer(connection, stream, kind, flags, payload):
        if kind == raw_http2.HEADERS:
            connection.sendall(status(stream, 200))
            heard[connection] = bytearray()
        elif kind == raw_http2.RST_STREAM:
            return f"{describe(heard[connection])}, then a reset"
        elif kind == raw_http2.DATA:
            heard[connection] += payload
            if flags & raw_http2.END_STREAM:
                then(connection, stream)
                return f"{describe(heard[connection])}, then the end"
        return None

    return speaks_http2(answer)


@case("tunnel-2-half-close-client", servers={"one": until_end(lambda c, s: c.sendall(data(s, SMALL[:10_000], True)) or read(c, within=QUIET_S))}, cluster=HTTP2, uncounted=HTTP2_UNCOUNTED, proxy=tunnel())
def half_close_client_2(at):
    return half_close_client(at)


@case("tunnel-2-trailers", servers={"one": answers(lambda s: status(s, 200), lambda s: data(s, b"hello"), lambda s: raw_http2.request(s, [("x-end", "1")]), echoes=False)},
      cluster=HTTP2, uncounted=HTTP2_UNCOUNTED, proxy=tunnel())
def trailers_2(at):
    with at.connect() as client:
        return {"client": told(read(client))}


@case("tunnel-2-half-close-server", servers={"one": answers(lambda s: status(s, 200), lambda s: data(s, b"hello", True), echoes=False)}, cluster=HTTP2, uncounted=HTTP2_UNCOUNTED, proxy=tunnel())
def half_close_server_2(at):
    with at.connect() as client:
        got = read(client)
        sent = send(client, b"more")
        return {"client": told(got), "sent": sent}


# What came before the end is whole, whatever the code behind it.
for code in (0, 2):
    @case(f"tunnel-2-end-and-reset-{code}", cluster=HTTP2, uncounted=HTTP2_UNCOUNTED + "|upstream_rq_rx_reset", proxy=tunnel(), servers={"one": answers(
        lambda s: status(s, 200), lambda s, code=code: data(s, SMALL[:10_000]) + data(s, SMALL[:10_000], True) + raw_http2.reset(s, code), echoes=False)})
    def end_and_reset_2(at):
        with at.connect() as client:
            return {"client": told(read(client))}


@case("tunnel-2-reset-client", servers={"one": until_end(lambda c, s: None)}, cluster=HTTP2, uncounted=HTTP2_UNCOUNTED, proxy=tunnel())
def reset_client_2(at):
    client = at.connect()
    client.sendall(b"ping")
    at.one.reached()
    time.sleep(QUIET_S)
    reset(client)
    return {"server": at.one.said()}


def resets_after_ping(connection, stream, kind, flags, payload):
    if kind == raw_http2.HEADERS:
        connection.sendall(status(stream, 200) + data(stream, b"hello"))
    elif kind == raw_http2.DATA:
        connection.sendall(raw_http2.reset(stream))


@case("tunnel-2-reset-server", servers={"one": speaks_http2(resets_after_ping)}, cluster=HTTP2, uncounted=HTTP2_UNCOUNTED, proxy=tunnel())
def reset_server_2(at):
    with at.connect() as client:
        got = read(client, 5)
        client.sendall(b"ping")
        return {"client": told(got), "then": told(read(client))}


@case("tunnel-2-shared", servers={"one": answers(*ANSWERS_2["200"])}, cluster=HTTP2, uncounted=HTTP2_UNCOUNTED, proxy=tunnel(), shared=True)
def shared_2(at):
    """Many tunnels at once, few connections."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(at.connect()) for _ in range(20)]
        for number, client in enumerate(clients):
            client.sendall(b"%02d" % number)
        got = [read(client, 2) for client in clients]
    return {"client": all(each == (b"%02d" % number, "whole") for number, each in enumerate(got)), "few": at.one.accepted <= 4}
