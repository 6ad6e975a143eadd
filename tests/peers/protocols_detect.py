"""Protocols told apart on one port, as Linkerd does it: HTTP/1, HTTP/2 without an upgrade, TLS and whatever else, by tls_inspector, http_inspector and
filter chains, within a bounded wait; servers that speak first, and clients that say too little."""

import contextlib
import threading
import time

import rig
from protocols_case import QUIET_S, case, echo, ended, read, reset, send, tcp_proxy, told, typed
from protocols_ends import on_time
from protocols_filters import TLS_CLUSTERS, shown
from protocols_flow import BLOCK
from protocols_programs import WHO_ENDS, expect, mariadb_client
from protocols_servers import tool

WAIT_S = 0.5  # bound of the wait
LONG_S = 2.5
# For what ends before: looking at the counters takes seconds where many cases run on a busy machine, and Envoy may wait to the end.
LONGER_S = 8
CURL = ["-sS", "--max-time", "20", "-w", " %{http_version} %{http_code}"]
INSPECTORS = [typed(name, f"filters.listener.{name}.v3.{message}") for name, message in (("tls_inspector", "TlsInspector"), ("http_inspector", "HttpInspector"))]
SILENT = 300
# What a connection may cost of which nothing is known yet: no buffer is full, and no filter has begun.
SILENT_KB_MAX = 40


def http(name, codec):
    """Answers by itself; the codec takes only what it is meant for."""
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": f"{name} of {codec}"}}}
    router = typed("router", "filters.http.router.v3.Router")
    return typed("hcm", "filters.network.http_connection_manager.v3.HttpConnectionManager", stat_prefix=f"{name}-{codec}", codec_type=codec,
                 http_protocol_options={"accept_http_10": True},
                 route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}, http_filters=[router])


def detecting(continues=True, wait_s=WAIT_S, tls=""):
    """Chains of one listener; the cluster of TLS by the end of its name."""

    def chains(name, folder, _programs):
        def chain(key, match, last):
            return {"name": key, "filter_chain_match": match, "filters": [last]}

        return {
            "listener_filters": INSPECTORS, "listener_filters_timeout": f"{wait_s}s", "continue_on_listener_filters_timeout": continues,
            "filter_chains": [
                chain("tls", {"transport_protocol": "tls"}, tcp_proxy(name, folder, cluster=f"{name}{tls}")),
                chain("http1", {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.0", "http/1.1"]}, http(name, "HTTP1")),
                chain("http2", {"transport_protocol": "raw_buffer", "application_protocols": ["h2c"]}, http(name, "HTTP2")),
            ],
            "default_filter_chain": {"name": "opaque", "filters": [tcp_proxy(name, folder)]},
        }

    return chains


def inspected(at):
    return {name: value for name, value in at.bench.stats().items() if name.startswith(("tls_inspector.", "http_inspector.")) and "bytes" not in name}


def curl(at, *more):
    return tool([rig.binary("CURL", "curl"), *CURL, *more, f"http://127.0.0.1:{at.port}/"]).decode()


@case("detect", clusters={"": ["one"], "-a": TLS_CLUSTERS["-a"]}, chains=detecting(tls="-a"), loose=True, uncounted=WHO_ENDS, alone=True)
def detect(at):
    """All of them on one port, with counters that belong to the whole process."""
    before = inspected(at)
    facts = {
        "HTTP/1.1": curl(at, "--http1.1"), "HTTP/1.0": curl(at, "--http1.0"), "HTTP/2": curl(at, "--http2-prior-knowledge"), "TLS": shown(at, "a.example"),
    }
    expect([facts[name].split()[2] for name in ("HTTP/1.1", "HTTP/1.0", "HTTP/2")], ["HTTP1", "HTTP1", "HTTP2"], "who answers")
    expect(facts["TLS"], "a, answered", "the server behind TLS")
    for what, data in (("bytes", b"\x05\x01\x00not a protocol\n" * 9), ("nearly HTTP", b"GET / HTTX/1.1\r\n\r\n"), ("nearly TLS", b"\x16\x02\x01\x00\x05\x01" * 9),
                       ("much of it", BLOCK)):
        with at.connect() as client:
            sender = threading.Thread(target=send, args=(client, data))
            sender.start()
            got = read(client, len(data))
            sender.join()
            ended(client)
            expect(got, (data, "whole"), what)
            facts[what] = told(read(client))
    after = inspected(at)
    return {**facts, **{name: after[name] - before.get(name, 0) for name in after}}


@case("detect-in-pieces", chains=detecting(wait_s=20))
def detect_in_pieces(at):
    """However it is cut: byte by byte no decision is made too early."""
    facts = {}
    for what, data, awaited in (("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", None), ("bytes", b"POSTBOX and more\n" * 4, 68)):
        with at.connect() as client:
            for at_byte in range(len(data)):
                client.sendall(data[at_byte : at_byte + 1])
                time.sleep(0.002)
            got, end = read(client, awaited)
            facts[what] = f"{got[:15]} {got.rpartition(b'-')[2] if awaited is None else got == data}, then {end}"
    return facts


# --- the server speaks first


def greet(connection):
    connection.sendall(b"220 ready\r\n")
    got = read(connection)
    connection.sendall(b"221 bye\r\n")
    return told(got)


@case("detect-server-first", servers={"one": greet}, chains=detecting())
def detect_server_first(at):
    """The greeting comes once the wait is over; what is sent after it is nobody's to inspect."""
    begun = time.monotonic()
    with at.connect() as client:
        greeting = read(client, 11)
        waited = on_time(begun, WAIT_S)
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        ended(client)
        return {"greeting": told(greeting), "wait": waited, "end": told(read(client)), "server": at.one.said()}


@case("detect-server-first-strictly", servers={"one": greet}, chains=detecting(continues=False))
def detect_server_first_strictly(at):
    """Without leave to go on, the wait ends the connection."""
    begun = time.monotonic()
    with at.connect() as client:
        got = read(client)
        return {"client": told(got), "wait": on_time(begun, WAIT_S), "reached": at.one.accepted}


@case("detect-mariadb", servers={}, clusters={"": ["mariadb"]}, chains=detecting(wait_s=0.2), loose=True, uncounted=WHO_ENDS, within_s=5.0)
def detect_mariadb(at):
    expect(mariadb_client(at, b"select repeat('x', 500000);"), b"x" * 500_000 + b"\n", "an answer")
    return {}


@case("detect-smtp", servers={}, clusters={"": ["smtp"]}, chains=detecting(), loose=True, uncounted=WHO_ENDS, within_s=5.0)
def detect_smtp(at):
    """A client may speak first all the same, or not at all."""
    begun = time.monotonic()
    with at.connect() as client:
        greeting = read(client, 4)
        waited = on_time(begun, WAIT_S)
    with at.connect() as client:
        client.sendall(b"EHLO me\r\nQUIT\r\n")
        hasty = read(client)[0].split()[0]
    return {"greeting": told(greeting), "wait": waited, "hasty": hasty}


# --- clients that say too little


def drip(at, data, every_s):
    """A byte at a time until the connection is over: how long that took, and what came."""
    begun, sent = time.monotonic(), 0

    def over(got):
        return {"end": told(got), "when": on_time(begun, WAIT_S), "cut": sent < len(data)}

    with at.connect() as client:
        for number in range(len(data)):
            if send(client, data[number : number + 1]) != "sent":
                # The end came between two bytes, and the second was refused.
                return over(read(client))
            sent += 1
            got = read(client, 1, within=every_s)
            if got[1] != "open":
                return over(got)
        ended(client)
        return {"end": told(read(client)), "cut": False}


@case("detect-dripping-http", chains=detecting(continues=False))
def detect_dripping_http(at):
    """Bytes do not put off the end of the wait."""
    return drip(at, b"GET /" + b"a" * 100, 0.1)


@case("detect-dripping-tls", chains=detecting(continues=False))
def detect_dripping_tls(at):
    return drip(at, b"\x16\x03\x01\x01\x00\x01" + bytes(100), 0.1)


@case("detect-dripping-on", chains=detecting(), servers={"one": lambda connection: told(read(connection))})
def detect_dripping_on(at):
    """With leave to go on, the endpoint gets every byte, those of the wait too, once each."""
    with at.connect() as client:
        for byte in b"GET /abcdefghij":
            client.sendall(bytes([byte]))
            time.sleep(WAIT_S / 8)
        ended(client)
        return {"client": told(read(client)), "server": at.one.said()}


@case("detect-end-amid", chains=detecting(wait_s=LONGER_S), servers={"one": echo})
def detect_end_amid(at):
    """The end comes before a decision: nothing, and the beginning of either."""
    facts = {}
    for data in (b"", b"GET", b"\x16\x03\x01"):
        with at.connect() as client:
            client.sendall(data)
            if data:
                # The end does not come with the bytes.
                time.sleep(QUIET_S)
            ended(client)
            facts[f"{data!r}"] = told(read(client))
    return {**facts, "reached": at.one.accepted}


@case("detect-reset-amid", chains=detecting(wait_s=LONGER_S))
def detect_reset_amid(at):
    for data in (b"", b"GET", b"\x16\x03\x01"):
        client = at.connect()
        at.await_stat(f"listener.{at.name}.downstream_pre_cx_active", 1)
        client.sendall(data)
        if data:
            time.sleep(QUIET_S)
        reset(client)
        at.await_stat(f"listener.{at.name}.downstream_pre_cx_active", 0)
    return {"reached": at.one.accepted}


@case("detect-reset-behind-bytes", chains=detecting(), alone=True)
def detect_reset_behind_bytes(at):
    """The bytes and the reset behind them are both there when the proxy looks."""
    for data in (b"GET", b"\x16\x03\x01"):
        client = at.connect()
        at.await_stat(f"listener.{at.name}.downstream_pre_cx_active", 1)
        with at.bench.stopped():
            client.sendall(data)
            reset(client)
        at.await_stat(f"listener.{at.name}.downstream_pre_cx_active", 0)
    return {"reached": at.one.accepted}


def say_line(at, length):
    """Nothing but the beginning of a method."""
    with at.connect() as client:
        sender = threading.Thread(target=send, args=(client, b"A" * length))
        sender.start()
        got, end = read(client, length)
        sender.join()
        return {"client": f"{len(got)} bytes, {end if end == 'whole' else 'ended'}"}


@case("detect-long-line", chains=detecting())
def detect_long_line(at):
    return say_line(at, 50_000)


@case("detect-endless-line", chains=detecting())
def detect_endless_line(at):
    """More than is ever looked at."""
    return say_line(at, 300_000)


@case("detect-silent-many", chains=detecting(continues=False, wait_s=LONG_S), alone=True)
def detect_silent_many(at):
    """Who says nothing, or one byte and then nothing, costs little and is cut."""
    before, begun = at.bench.rss_mb(), time.monotonic()
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(at.connect()) for _ in range(SILENT)]
        for number, client in enumerate(clients):
            client.sendall((b"", b"G", b"\x16")[number % 3])
        at.await_stat(f"listener.{at.name}.downstream_pre_cx_active", SILENT)
        each_kb = (at.bench.rss_mb() - before) * 1024 / SILENT
        ends = {told(read(client)).rpartition(" ")[2] for client in clients}
        return {"ends": sorted(ends), "when": on_time(begun, LONG_S), "cost": "bounded" if each_kb < SILENT_KB_MAX else f"{each_kb:.1f} KB each"}
