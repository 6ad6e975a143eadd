"""The other network filters: echo, direct_response, connection_limit, local_ratelimit and sni_cluster; and chains told apart by server name, in
front of real TLS servers."""

import contextlib
import re
import socket
import ssl
import time

import rig
from protocols_case import case, describe, ended, read, send, tcp_proxy, told, typed
from protocols_programs import WHO_ENDS
from protocols_servers import joined, tool

FILTERS = "filters.network."
DELAY_S = 0.6
INSPECTOR = {"listener_filters": [typed("tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector")]}


# --- echo


@case("echo", servers={}, clusters={}, proxy=None, filters=[typed("envoy.filters.network.echo", FILTERS + "echo.v3.Echo")])
def echoes(at):
    data = bytes(range(256)) * 2000
    with at.connect() as client:
        client.sendall(data)
        got = read(client, len(data))
        client.shutdown(socket.SHUT_WR)
        end = read(client)
    return {"client": told(got), "same": got[0] == data, "end": told(end)}


# --- direct_response


def direct(text):
    return [typed("envoy.filters.network.direct_response", FILTERS + "direct_response.v3.Config", response={"inline_string": text} if text else None)]


ANSWER = "not here\n" * 1000


@case("direct-response", servers={}, clusters={}, proxy=None, filters=direct(ANSWER))
def direct_response(at):
    with at.connect() as client:
        return {"client": told(read(client))}


@case("direct-response-empty", servers={}, clusters={}, proxy=None, filters=direct(""))
def direct_response_empty(at):
    with at.connect() as client:
        return {"client": told(read(client))}


# --- connection_limit


def connection_limit(name, **fields):
    return typed("envoy.filters.network.connection_limit", FILTERS + "connection_limit.v3.ConnectionLimit", stat_prefix=name, **fields)


def ask(connection):
    connection.sendall(b"ping")
    return told(read(connection, 4))


def served_again(at):
    """Whether somebody is let in once the others have gone."""
    at.await_stat(f"connection_limit.{at.name}.active_connections", 0)
    with at.connect() as client:
        return ask(client)


@case("connection-limit", filters=[connection_limit("connection-limit", max_connections=2)])
def limits(at):
    with at.connect() as first, at.connect() as second:
        facts = {"first": ask(first), "second": ask(second)}
        with at.connect() as third:
            facts["third"] = told(read(third))
        facts["active"] = at.stat(f"connection_limit.{at.name}.active_connections")
        facts["first again"] = ask(first)
    facts["after"] = served_again(at)
    return facts


@case("connection-limit-delay", filters=[connection_limit("connection-limit-delay", max_connections=1, delay=f"{DELAY_S}s")])
def limits_later(at):
    with at.connect() as first:
        facts = {"first": ask(first)}
        begun = time.monotonic()
        with at.connect() as second:
            second.sendall(b"ping")
            facts["second"] = told(read(second))
            took = time.monotonic() - begun
        facts["delay"] = "as told" if 0.9 * DELAY_S <= took < DELAY_S + 2 else f"{took:.2f} s"
        facts["first again"] = ask(first)
    facts["after"] = served_again(at)
    return facts


@case("connection-limit-gone-while-delayed", filters=[connection_limit("connection-limit-gone-while-delayed", max_connections=1, delay="1s")])
def limits_gone(at):
    """Who is refused and leaves by himself is not counted off twice."""
    with at.connect() as first:
        facts = {"first": ask(first)}
        with at.connect():
            at.await_stat(f"connection_limit.{at.name}.limited_connections", 1)
        facts["first again"] = ask(first)
    facts["after"] = served_again(at)
    return facts


@case("connection-limit-kept", filters=[connection_limit("connection-limit-kept", max_connections=1, delay="10s")])
def limits_kept(at):
    """Who is kept for a time counts meanwhile."""
    with at.connect() as first:
        facts = {"first": ask(first)}
        kept = at.connect()
        at.await_stat(f"connection_limit.{at.name}.active_connections", 2)
    with kept:
        at.await_stat(f"connection_limit.{at.name}.active_connections", 1)
        with at.connect():
            at.await_stat(f"connection_limit.{at.name}.limited_connections", 2)
    facts["after"] = served_again(at)
    return facts


# --- local_ratelimit


def ratelimit(name, **bucket):
    return typed("envoy.filters.network.local_ratelimit", FILTERS + "local_ratelimit.v3.LocalRateLimit", stat_prefix=name, token_bucket=bucket)


def tries(at, count):
    facts = {}
    for number in range(count):
        with at.connect() as client:
            send(client, b"ping")
            got = read(client, 4)
            # Refused before or after these bytes came, it sees an end or a reset.
            facts[f"connection {number}"] = told(got) if got[1] == "whole" else "refused"
    return facts


@case("ratelimit", filters=[ratelimit("ratelimit", max_tokens=3, tokens_per_fill=3, fill_interval="60s")])
def ratelimited(at):
    return tries(at, 5)


@case("ratelimit-silent", filters=[ratelimit("ratelimit-silent", max_tokens=1, tokens_per_fill=1, fill_interval="60s")])
def ratelimited_silent(at):
    with at.connect() as first:
        facts = {"first": ask(first)}
        with at.connect() as second:
            facts["second"] = told(read(second))
    return facts


@case("ratelimit-refilled", filters=[ratelimit("ratelimit-refilled", max_tokens=2, tokens_per_fill=1, fill_interval=f"{DELAY_S}s")], shared=True, uncounted="rate_limited|cx_|bytes")
def refilled(at):
    """One token an interval, and never more than fit."""
    facts = {}
    for number in range(2):
        with at.connect() as client:
            facts[f"connection {number}"] = ask(client)
    begun, served = time.monotonic(), 0
    while time.monotonic() - begun < 3.5 * DELAY_S:
        with at.connect() as client:
            served += send(client, b"ping") == "sent" and read(client, 4)[1] == "whole"
        time.sleep(0.02)
    facts["served in three and a half intervals"] = "as told" if 3 <= served <= 4 else served
    return facts


# --- sni_cluster, and chains by server names


def hello(name):
    """What a TLS client sends first."""
    context = ssl.create_default_context()
    context.check_hostname = bool(name)
    if not name:
        context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def record(connection):
    """The end of a hello is not told from a part of it by its first bytes alone: a whole record is."""
    head, end = read(connection, 5)
    if end != "whole":
        return told((head, end))
    body, end = read(connection, int.from_bytes(head[3:5]))
    connection.sendall(b"seen")
    return f"a hello, {end}, then {read(connection)[1]}"


def pieces(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


SNI = [typed("envoy.filters.network.sni_cluster", FILTERS + "sni_cluster.v3.SniCluster")]


@case("sni-cluster", servers={"one": record, "two": record}, clusters={"": ["one"], "-two": ["two"]}, filters=SNI, listener=INSPECTOR)
def sni_cluster(at):
    """The server name is the name of the cluster; without one, TcpProxy's."""
    facts = {}
    for name in ("sni-cluster-two", "sni-cluster", None, "nobody.example"):
        with at.connect() as client:
            client.sendall(hello(name))
            got = read(client, 4)
            ended(client)
            facts[f"{name}"] = f"{told(got)}; {told(read(client)) if got[1] == 'whole' else ''}"
    return {**facts, "one": at.one.said(2), "two": at.servers["two"].said()}


@case("sni-cluster-in-pieces", servers={"one": record, "two": record}, clusters={"": ["one"], "-two": ["two"]}, filters=SNI, listener=INSPECTOR)
def sni_cluster_in_pieces(at):
    with at.connect() as client:
        for part in pieces(hello("sni-cluster-in-pieces-two"), 50):
            client.sendall(part)
            time.sleep(0.005)
        facts = {"client": told(read(client, 4))}
    return {**facts, "two": at.servers["two"].said()}


CHAINS = {"a": ["a.example"], "b": ["b.example", "*.b.example"]}


def by_name(name, folder, programs):
    chains = [
        {"name": key, "filter_chain_match": {"transport_protocol": "tls", "server_names": names}, "filters": [tcp_proxy(name, folder, cluster=f"{name}-{key}")]}
        for key, names in CHAINS.items()
    ]
    return {**INSPECTOR, "filter_chains": chains, "default_filter_chain": {"name": "default", "filters": [tcp_proxy(name, folder, cluster=f"{name}-default")]}}


def without_default(name, folder, programs):
    return {key: value for key, value in by_name(name, folder, programs).items() if key != "default_filter_chain"}


TLS_CLUSTERS = {"-a": ["tls-a"], "-b": ["tls-b"], "-default": ["tls-default"]}
NAMES = {"a.example": "a", "b.example": "b", "deep.b.example": "b", "c.example": "default", "": "default"}


def shown(at, name):
    """Whose certificate a client of openssl is shown, and what the server behind says."""
    asked = ["-servername", name] if name else ["-noservername"]
    argv = [rig.binary("RINGWAY_OPENSSL", "openssl"), "s_client", "-connect", joined(at.address, at.port), "-ign_eof", *asked]
    done = tool(argv, given=b"GET / HTTP/1.0\r\n\r\n", allowed=(0, 1)).decode(errors="replace")
    subject = re.search(r"subject=.*?CN ?= ?(\S+)", done)
    return f"{subject[1] if subject else 'nobody'}, {'answered' if 'HTTP/1.0 200 ok' in done else 'no answer'}"


@case("tls-by-name", servers={}, clusters=TLS_CLUSTERS, chains=by_name, loose=True, uncounted=WHO_ENDS)
def tls_by_name(at):
    """TLS is end to end: the certificate is the server's own, and tells which one it is."""
    facts = {name or "no name": shown(at, name) for name in NAMES}
    for name, wanted in NAMES.items():
        if facts[name or "no name"] != f"{wanted}, answered":
            raise rig.Failed(f"{name!r} was shown {facts[name or 'no name']}, not {wanted}")
    # Verified, by curl.
    for name in ("a.example", "b.example"):
        argv = [rig.binary("RINGWAY_CURL", "curl"), "-sS", "--cacert", at.programs.folder / f"tls-{name[0]}" / "certificate", "--resolve", f"{name}:{at.port}:127.0.0.1",
                "-o", "/dev/null", "-w", "%{http_code} %{ssl_verify_result}", f"https://{name}:{at.port}/"]
        facts[f"curl {name}"] = tool(argv)
    return facts


@case("tls-by-name-without-default", servers={}, clusters=TLS_CLUSTERS, chains=without_default, loose=True, uncounted=WHO_ENDS)
def tls_by_name_without_default(at):
    facts = {name or "no name": shown(at, name) for name in ("a.example", "c.example", "")}
    with at.connect() as client:
        send(client, b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        facts["no TLS"] = told(read(client))
    return facts


# --- TLS at one side of the proxy


def terminating(name, folder, programs):
    keys = programs.folder / "tls-a"
    certificate = {"certificate_chain": {"filename": str(keys / "certificate")}, "private_key": {"filename": str(keys / "key")}}
    socket_ = typed("tls", "transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context={"tls_certificates": [certificate]})
    return {"filter_chains": [{"transport_socket": socket_, "filters": [tcp_proxy(name, folder)]}]}


def whole(connection):
    """Echoes one message, then tells how the rest ends."""
    data, end = read(connection, len(MESSAGE))
    connection.sendall(data)
    return f"{describe(data)}, {end}; {told(read(connection))}"


MESSAGE = bytes(range(256)) * 2000


def tls_client(at):
    context = ssl.create_default_context(cafile=at.programs.folder / "tls-a" / "certificate")
    client = context.wrap_socket(at.connect(), server_hostname="a.example", suppress_ragged_eofs=False)
    client.sendall(MESSAGE)
    got = b""
    while len(got) < len(MESSAGE):
        got += client.recv(1 << 16)
    return client, got


# The second cluster is there for its endpoint's certificate.
@case("tls-terminated", servers={"one": whole}, clusters={"": ["one"], "-keys": ["tls-a"]}, chains=terminating)
def tls_terminated(at):
    """An announced end passes on as an end, and is answered by one."""
    client, got = tls_client(at)
    with client.unwrap() as below:
        end = told(read(below))
    return {"client": describe(got), "below": end, "server": at.one.said()}


@case("tls-terminated-cut", servers={"one": whole}, clusters={"": ["one"], "-keys": ["tls-a"]}, chains=terminating)
def tls_terminated_cut(at):
    """An end of TCP that TLS did not announce."""
    client, got = tls_client(at)
    client.shutdown(socket.SHUT_WR)
    client.close()
    return {"client": describe(got), "server": at.one.said()}


ORIGINATING = {"transport_socket": typed("tls", "transport_sockets.tls.v3.UpstreamTlsContext", sni="a.example")}


@case("tls-originated", servers={}, clusters={"": ["tls-a"]}, cluster=ORIGINATING, loose=True)
def tls_originated(at):
    """A client without TLS at a server that wants it."""
    with at.connect() as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data, end = read(client)
    return {"client": f"{'answered' if data.startswith(b'HTTP/1.0 200 ok') else describe(data)}, then {end}"}


@case("tls-originated-refused", clusters={"": ["one"]}, servers={"one": lambda connection: read(connection, 5)[1]}, cluster=ORIGINATING)
def tls_originated_refused(at):
    """An endpoint that ends the handshake."""
    with at.connect() as client:
        got = read(client)
    return {"client": told(got), "server": at.one.said()}


@case("tls-inspector", servers={}, clusters={}, proxy=None, filters=direct("end"), listener=INSPECTOR, alone=True)
def tls_inspector(at):
    """Its counters, after those of all other cases, and a client that says something else: of `tls_not_found` what that one adds, since of the
    connections of detect-* Envoy counts fewer there than Ringway."""
    other = "tls_inspector.tls_not_found"
    before = at.bench.stats().get(other, 0)
    with at.connect() as client:
        send(client, b"GET / HTTP/1.1\r\n\r\n")
        read(client)
    counted = {name: value for name, value in at.bench.stats().items() if name.startswith("tls_inspector.") and value}
    return {**counted, other: counted.get(other, 0) - before}
