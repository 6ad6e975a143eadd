"""How connections end: FIN and RST from either side, at once, idle and in the middle of data; no endpoint; timeouts. What each side of the
proxy saw is the fact."""

import errno
import select
import socket
import threading
import time

import rig
from protocols_case import QUIET_S, case, echo, read, reset, send, told

SMALL = bytes(range(256)) * 400  # more than one segment, less than any buffer
TIMEOUT_S = 0.6
SOON_S = 2.0  # how late a timeout may be on a busy machine


def ask(connection, data=b"ping"):
    """An exchange with an echo: the connection is known to go through."""
    connection.sendall(data)
    got = read(connection, len(data))
    if got != (data, "whole"):
        raise rig.Failed(f"an echo answered {told(got)}")


def on_time(begun, timeout_s=TIMEOUT_S):
    """Whether now is when a timer of the proxy's should end that it began after `begun`."""
    took = time.monotonic() - begun
    return "on time" if 0.9 * timeout_s <= took <= timeout_s + SOON_S else f"after {took:.2f} s"


@case("exchange")
def exchange(at):
    with at.connect() as client:
        ask(client)
    return {"server": at.one.said()}


def speak_first(connection):
    connection.sendall(b"220 ready\r\n")
    got = read(connection)
    return told(got)


@case("server-first", servers={"one": speak_first})
def server_first(at):
    with at.connect() as client:
        greeting = read(client, 11)
        client.sendall(b"quit")
    return {"client": told(greeting), "server": at.one.said()}


# --- half-closed


def answer_after_end(connection):
    got = read(connection)
    connection.sendall(SMALL)
    return told(got)


@case("half-close-client", servers={"one": answer_after_end})
def half_close_client(at):
    with at.connect() as client:
        client.sendall(SMALL[:-1])
        client.shutdown(socket.SHUT_WR)
        got = read(client)
    return {"client": told(got), "server": at.one.said()}


@case("half-close-client-at-once", servers={"one": answer_after_end})
def half_close_client_at_once(at):
    """Its end may reach the proxy before there is a connection to the endpoint."""
    with at.connect() as client:
        client.shutdown(socket.SHUT_WR)
        got = read(client)
    return {"client": told(got), "server": at.one.said()}


def end_then_read(connection):
    connection.sendall(SMALL[:-2])
    connection.shutdown(socket.SHUT_WR)
    return told(read(connection))


@case("half-close-server", servers={"one": end_then_read}, uncounted="upstream_flush_total")
def half_close_server(at):
    with at.connect() as client:
        got = read(client)
        sent = send(client, SMALL)
        client.shutdown(socket.SHUT_WR)
        after = read(client)
    return {"client": told(got), "sent": sent, "after": told(after), "server": at.one.said()}


@case("half-close-server-then-silence", servers={"one": end_then_read}, uncounted="upstream_flush_total")
def half_close_server_then_silence(at):
    """The other direction stays open for as long as the client wants."""
    with at.connect() as client:
        got = read(client)
        after = read(client, within=QUIET_S)
        time.sleep(QUIET_S)
        sent = send(client, b"late")
    return {"client": told(got), "after": told(after), "sent": sent, "server": at.one.said()}


def end_then_reset(connection):
    connection.shutdown(socket.SHUT_WR)
    got = read(connection, 4)
    reset(connection)
    return told(got)


@case("half-close-server-then-reset", servers={"one": end_then_reset})
def half_close_server_then_reset(at):
    with at.connect() as client:
        got = read(client)
        client.sendall(b"last")
        at.one.said()
        settle(client)
        after = state(client)
    return {"client": told(got), "after": after, "server": at.one.said()}


@case("half-close-client-then-reset", servers={"one": answer_after_end})
def half_close_client_then_reset(at):
    client = at.connect()
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    got = read(client, 10)
    reset(client)
    return {"client": told(got), "server": at.one.said()}


def settle(connection):
    """Waits until the kernel has something to say about a connection, or says nothing for a while."""
    poll = select.poll()
    poll.register(connection, select.POLLERR | select.POLLHUP)
    poll.poll(QUIET_S * 1000)


def state(connection):
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode.get(error, "no error")


# --- resets


def record_after_echo(connection):
    data, end = read(connection, 4)
    connection.sendall(data)
    return told(read(connection))


@case("reset-client-idle", servers={"one": record_after_echo})
def reset_client_idle(at):
    client = at.connect()
    ask(client)
    reset(client)
    return {"server": at.one.said()}


@case("close-client-idle", servers={"one": record_after_echo})
def close_client_idle(at):
    client = at.connect()
    ask(client)
    client.close()
    return {"server": at.one.said()}


def pour(connection):
    """Sends without end, while another thread sees how the other side ends."""
    seen = []
    reader = threading.Thread(target=lambda: seen.append(read(connection)[1]))
    reader.start()
    while send(connection, SMALL) == "sent":
        pass
    reader.join()
    # A proxy that learns of a reset by writing tells it as an end, one that learns by reading as a reset: Envoy does either, as it happens.
    return "saw an end" if seen[0] in ("fin", "reset") else f"saw {seen[0]}"


@case("reset-client-downloading", servers={"one": pour}, loose=True)
def reset_client_downloading(at):
    client = at.connect()
    got = read(client, 1 << 20)
    reset(client)
    return {"client": told((b"", got[1])), "server": at.one.said()}


@case("close-client-downloading", servers={"one": pour}, loose=True)
def close_client_downloading(at):
    """With bytes in its buffer that it never reads: its kernel resets."""
    client = at.connect()
    got = read(client, 1 << 20)
    client.close()
    return {"client": told((b"", got[1])), "server": at.one.said()}


def swallow(connection):
    # A reset takes with it what was not read.
    return read(connection)[1]


@case("reset-client-uploading", servers={"one": swallow}, loose=True)
def reset_client_uploading(at):
    client = at.connect()
    client.sendall(SMALL * 20)
    at.one.reached()
    reset(client)
    return {"server": at.one.said()}


def reset_after_echo(connection):
    data, _ = read(connection, 4)
    connection.sendall(data)
    # The other side has it, and says so.
    read(connection, 1)
    reset(connection)
    return "reset"


@case("reset-server-idle", servers={"one": reset_after_echo})
def reset_server_idle(at):
    with at.connect() as client:
        ask(client)
        client.sendall(b"!")
        got = read(client)
    return {"client": told(got), "server": at.one.said()}


def reset_amid(connection):
    read(connection, 1 << 20)
    reset(connection)
    return "reset"


@case("reset-server-uploading", servers={"one": reset_amid}, loose=True)
def reset_server_uploading(at):
    with at.connect() as client:
        word = pour(client)
    return {"client": word, "server": at.one.said()}


def close_amid(connection):
    read(connection, 1 << 20)
    return "closed"


@case("close-server-uploading", servers={"one": close_amid}, loose=True)
def close_server_uploading(at):
    with at.connect() as client:
        word = pour(client)
    return {"client": word, "server": at.one.said()}


@case("reset-server-at-once", servers={"one": lambda connection: reset(connection)})
def reset_server_at_once(at):
    with at.connect() as client:
        got = read(client)
    return {"client": told(got), "server": at.one.said()}


@case("close-server-at-once", servers={"one": lambda connection: "closed"})
def close_server_at_once(at):
    with at.connect() as client:
        got = read(client)
        client.shutdown(socket.SHUT_WR)
    return {"client": told(got), "server": at.one.said()}


def say_and_close(connection):
    connection.sendall(SMALL * 8)
    return "closed"


@case("close-server-after-answer", servers={"one": say_and_close})
def close_server_after_answer(at):
    """All of the answer arrives before the end."""
    with at.connect() as client:
        got = read(client)
    return {"client": told(got), "server": at.one.said()}


@case("close-client-after-upload", servers={"one": lambda connection: told(read(connection))})
def close_client_after_upload(at):
    """All of the upload arrives, though the client is gone long before."""
    client = at.connect()
    client.sendall(SMALL * 8)
    client.close()
    return {"server": at.one.said()}


@case("reset-at-once-by-many", proxy={"access_log": []}, uncounted="(?<!_active)$")
def reset_at_once_by_many(at):
    """Some are gone before they are accepted, some while the endpoint is connected: nothing of them stays."""
    for _ in range(200):
        reset(at.connect())
    at.await_stat(f"cluster.{at.name}.upstream_cx_active", 0)
    with at.connect() as client:
        ask(client)
    return {}


# --- no endpoint


@case("refused", clusters={"": ["refusing"]})
def refused(at):
    with at.connect() as client:
        got = read(client)
    return {"client": told(got)}


@case("refused-attempts", clusters={"": ["refusing"]}, proxy={"max_connect_attempts": 3})
def refused_attempts(at):
    with at.connect() as client:
        got = read(client)
    return {"client": told(got)}


@case("refused-at-one-of-three", servers={"one": echo, "two": echo}, clusters={"": ["one", "refusing", "two"]}, proxy={"max_connect_attempts": 4}, shared=True)
def refused_at_one_of_three(at):
    """Everybody is served, whatever the endpoint that is tried first."""
    for _ in range(12):
        with at.connect() as client:
            ask(client)
            client.shutdown(socket.SHUT_WR)
            read(client)
    return {"served": at.one.accepted + at.servers["two"].accepted, "both": min(at.one.accepted, at.servers["two"].accepted) > 0}


@case("connect-timeout", clusters={"": ["silent"]}, cluster={"connect_timeout": f"{TIMEOUT_S}s"})
def connect_timeout(at):
    begun = time.monotonic()
    with at.connect() as client:
        got = read(client)
        return {"client": told(got), "end": on_time(begun)}


@case("connect-timeout-attempts", clusters={"": ["silent"]}, cluster={"connect_timeout": f"{TIMEOUT_S}s"}, proxy={"max_connect_attempts": 2})
def connect_timeout_attempts(at):
    begun = time.monotonic()
    with at.connect() as client:
        got = read(client)
        return {"client": told(got), "end": on_time(begun, 2 * TIMEOUT_S)}


@case("gone-while-connecting", clusters={"": ["silent"]}, cluster={"connect_timeout": "1s"})
def gone_while_connecting(at):
    with at.connect():
        at.await_stat(f"cluster.{at.name}.upstream_cx_active", 1)
    return {}


@case("reset-while-connecting", clusters={"": ["silent"]}, cluster={"connect_timeout": "1s"})
def reset_while_connecting(at):
    client = at.connect()
    at.await_stat(f"cluster.{at.name}.upstream_cx_active", 1)
    reset(client)
    return {}


@case("unknown-cluster", clusters={}, proxy={"cluster": "nobody"})
def unknown_cluster(at):
    with at.connect() as client:
        got = read(client)
    return {"client": told(got)}


@case("no-endpoints", clusters={"": []})
def no_endpoints(at):
    with at.connect() as client:
        got = read(client)
    return {"client": told(got)}


@case("connections-bounded", cluster={"circuit_breakers": {"thresholds": [{"max_connections": 1}]}})
def connections_bounded(at):
    with at.connect() as first:
        ask(first)
        with at.connect() as second:
            got = read(second)
        ask(first)
    return {"second": told(got), "server": at.one.said()}


# --- timeouts


@case("idle", proxy={"idle_timeout": f"{TIMEOUT_S}s"}, servers={"one": record_after_echo})
def idle(at):
    begun = time.monotonic()  # before the exchange: the answer may be long on its way when this thread sees it
    with at.connect() as client:
        ask(client)
        got = read(client)
        return {"client": told(got), "end": on_time(begun), "server": at.one.said()}


@case("idle-from-the-start", proxy={"idle_timeout": f"{TIMEOUT_S}s"}, servers={"one": lambda connection: told(read(connection))})
def idle_from_the_start(at):
    begun = time.monotonic()
    with at.connect() as client:
        got = read(client)
        return {"client": told(got), "end": on_time(begun), "server": at.one.said()}


@case("idle-but-for-one-direction", proxy={"idle_timeout": f"{TIMEOUT_S}s"}, servers={"one": lambda connection: told(read(connection))})
def idle_but_for_one_direction(at):
    """Bytes of either direction keep it, for longer than the timeout."""
    with at.connect() as client:
        for _ in range(12):
            client.sendall(b"x")
            time.sleep(TIMEOUT_S / 4)
    return {"server": at.one.said()}


@case("idle-half-closed", proxy={"idle_timeout": f"{TIMEOUT_S}s"}, servers={"one": end_then_read})
def idle_half_closed(at):
    with at.connect() as client:
        got = read(client)
        said = at.one.said()
        settle(client)
    return {"client": told(got), "server": said}


@case("duration", proxy={"max_downstream_connection_duration": f"{TIMEOUT_S}s"}, loose=True)
def duration(at):
    """However busy it is."""
    begun = time.monotonic()
    with at.connect() as client:
        count = 0
        while time.monotonic() - begun < TIMEOUT_S + SOON_S:
            if send(client, b"x") != "sent" or read(client, 1)[1] != "whole":
                break
            count += 1
            time.sleep(0.02)
        return {"exchanges": count > 1, "end": on_time(begun)}


@case("duration-silent", proxy={"max_downstream_connection_duration": f"{TIMEOUT_S}s"}, servers={"one": record_after_echo})
def duration_silent(at):
    begun = time.monotonic()
    with at.connect() as client:
        ask(client)
        got = read(client)
        return {"client": told(got), "end": on_time(begun), "server": at.one.said()}


# --- no endpoint before the client has said something

ON_DATA = {"upstream_connect_mode": "ON_DOWNSTREAM_DATA", "max_early_data_bytes": 1000}


@case("on-data", proxy=ON_DATA)
def on_data(at):
    """What the client says first is more than may wait for the endpoint: all of it arrives."""
    with at.connect() as client:
        time.sleep(QUIET_S)
        before = at.one.accepted
        client.sendall(SMALL)
        got = read(client, len(SMALL))
        client.shutdown(socket.SHUT_WR)
        after = read(client)
    return {"reached before": before, "client": told(got), "after": told(after), "server": at.one.said()}


@case("on-data-end", proxy={**ON_DATA, "idle_timeout": f"{TIMEOUT_S}s"})
def on_data_end(at):
    """The client ends without having said anything."""
    begun = time.monotonic()
    with at.connect() as client:
        client.shutdown(socket.SHUT_WR)
        got = read(client)
        return {"client": told(got), "end": on_time(begun), "reached": at.one.accepted}


@case("on-data-idle", proxy={**ON_DATA, "idle_timeout": f"{TIMEOUT_S}s"})
def on_data_idle(at):
    begun = time.monotonic()
    with at.connect() as client:
        got = read(client)
        return {"client": told(got), "end": on_time(begun), "reached": at.one.accepted}


@case("on-data-server-first", proxy=ON_DATA, servers={"one": speak_first})
def on_data_server_first(at):
    """An endpoint that would greet is not there to do so."""
    with at.connect() as client:
        silence = read(client, within=QUIET_S)
        before = at.one.accepted
        client.sendall(b"ehlo")
        greeting = read(client, 11)
    return {"silence": told(silence), "reached before": before, "greeting": told(greeting), "server": at.one.said()}
