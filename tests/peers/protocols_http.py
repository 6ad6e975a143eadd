"""Bytes of HTTP/1.1 connections, and of tunnels within: what the counters of both sides say, and the log of the listener."""

import contextlib
import socket
import time

import rig
from protocols_case import FORMAT, case, read, typed
from protocols_programs import WHO_ENDS

# Nobody adds to the answers, and nothing of a request is drawn or measured.
ANSWER = "HTTP/1.1 200 OK\r\nserver: a\r\ndate: now\r\n"
WEBSOCKET = (
    b"GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nserver: a\r\ndate: now\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def chains(name, folder, _programs):
    """HTTP to the case's cluster, and a log of the listener."""
    router = typed("router", "filters.http.router.v3.Router", suppress_envoy_headers=True)
    here = {"match": {"path": "/here"}, "direct_response": {"status": 200, "body": {"inline_string": "here"}}}
    routes = [here, {"match": {"prefix": "/"}, "route": {"cluster": name}}]
    manager = typed(
        "hcm", "filters.network.http_connection_manager.v3.HttpConnectionManager", stat_prefix=name, generate_request_id=False,
        server_header_transformation="PASS_THROUGH", upgrade_configs=[{"upgrade_type": "websocket"}],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}, http_filters=[router],
    )
    log = typed("file", "access_loggers.file.v3.FileAccessLog", path=str(folder / f"{name}.log"), log_format={"text_format_source": {"inline_string": FORMAT}})
    return {"filter_chains": [{"filters": [manager]}], "access_log": [log]}


def answering(connection):
    """Answers requests by their paths; after a switch it repeats what it hears."""
    reader = connection.makefile("rb")
    while line := reader.readline():
        method, path, _ = line.decode().split(" ")
        fields = {}
        while (line := reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            fields[name.lower()] = value.strip()
        if "upgrade" in fields:
            connection.sendall(SWITCHED)
            with contextlib.suppress(ConnectionError):
                while data := reader.read1():
                    connection.sendall(data)
            return
        body = b""
        if fields.get("transfer-encoding") == "chunked":
            while count := int(reader.readline(), 16):
                body += reader.read(count)
                reader.readline()
            reader.readline()
        else:
            body = reader.read(int(fields.get("content-length", 0)))
        if path == "/chunked":
            answer = f"{ANSWER}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode()
        else:
            answer = f"{ANSWER}content-length: {len(body) + 300_000 * (path == '/large')}\r\n\r\n".encode()
            if method != "HEAD":
                answer += body + b"x" * 300_000 * (path == "/large")
        if path == "/close":
            answer = answer.replace(b"content-length", b"connection: close\r\ncontent-length", 1)
        connection.sendall(answer)
        if path == "/close":
            return


def counted(at):
    """The four counters."""
    names = (
        *(f"http.{at.name}.downstream_cx_{way}_bytes_total" for way in ("rx", "tx")),
        *(f"cluster.{at.name}.upstream_cx_{way}_bytes_total" for way in ("rx", "tx")),
    )
    stats = at.bench.stats()
    return {name.replace(at.name, "*"): stats.get(name, 0) for name in names}


def resting(at):
    """The counters once they rest: the last send may be counted a moment after it has arrived. Asking takes long beside other cases."""
    seen = []

    def rests():
        time.sleep(0.2)  # Between two looks: what all cases have is a lot to read, and they share a process.
        seen.append(counted(at))
        return seen[-2:].count(seen[-1]) == 2

    rig.wait_for(rests, "the counters to rest", 30)
    return seen[-1]


def finish(client, at):
    """What still comes after the client's end, and what was counted in all."""
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_WR)
    rest = read(client)
    client.close()
    at.await_stat(f"http.{at.name}.downstream_cx_active", 0)
    rig.wait_for(lambda: not at.stat(f"cluster.{at.name}.upstream_rq_active"), "the request to be over")
    return {"rest": f"{len(rest[0])} bytes", **counted(at)}


def post(path, body):
    return f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


# What is asked, and how the answer ends.
ASKED = [
    (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\r\n\r\n"),
    (b"HEAD /large HTTP/1.1\r\nhost: a\r\n\r\n", b"\r\n\r\n"),
    (b"GET /chunked HTTP/1.1\r\nhost: a\r\n\r\n", b"0\r\n\r\n"),
    (b"GET /here HTTP/1.1\r\nhost: a\r\n\r\n", b"here"),
    (b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n", b"x" * 1000),
    (post("/", b"abc"), b"abc"),
    (post("/", b"y" * 400_000 + b"end"), b"yend"),
]


def until(client, end, count=0):
    """Reads until what came ends so, and is so much."""
    got = b""
    while not got.endswith(end) or len(got) < count:
        part = client.recv(1 << 16)
        if not part:
            raise rig.Failed(f"an end after {got[-100:]}")
        got += part
    return got


# Envoy counts the 100 Continue that it gives as a response, and has what it read last for buffered; here a connection that its endpoint
# does not keep ends with its last request counted as under way.
OTHERWISE = "downstream_rq_(1xx|completed)|buffered|destroy_with_active_rq"


@case("http-bytes", servers={"one": answering}, chains=chains, uncounted=f"{WHO_ENDS}|{OTHERWISE}")
def bytes_of_requests(at):
    client, facts = at.connect(), {}
    for number, (request, end) in enumerate(ASKED):
        client.sendall(request)
        until(client, end, 300_000 if b"GET /large" in request else len(request) - 200)
        facts.update({f"{number}: {name}": value for name, value in resting(at).items()})
    client.sendall(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    until(client, b"\r\n\r\n")
    client.sendall(b"ok")
    until(client, b"ok")
    client.sendall(b"POST /close HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    until(client, b"abc")
    return {**facts, **finish(client, at)}


@case("http-bytes-tunnel", servers={"one": answering}, chains=chains, uncounted=WHO_ENDS)
def bytes_of_a_tunnel(at):
    client = at.connect()
    client.sendall(WEBSOCKET)
    until(client, b"\r\n\r\n")
    client.sendall(b"z" * 100_000)
    until(client, b"z", 100_000)
    return {**{f"during: {name}": value for name, value in resting(at).items()}, **finish(client, at)}


@case("http-bytes-refused", servers={"one": answering}, chains=chains, uncounted=WHO_ENDS)
def bytes_of_what_is_refused(at):
    client = at.connect()
    client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nno header\r\n\r\n")
    until(client, b"Bad Request")
    facts = finish(client, at)
    return facts
