"""What the cases of protocols.py are made of: a listener each with its own clusters, endpoints that follow a script, and the facts of
how connections end.

Every case has its name for listener, stat_prefix and access log, so that cases may run side by side and their counters stay apart.
"""

import contextlib
import dataclasses
import hashlib
import socket
import struct
import threading

import rig

HELD_S = 20.0  # longest wait for what should come
QUIET_S = 0.3  # how long a connection that should stay open is watched
EXTENSIONS = "type.googleapis.com/envoy.extensions."
FORMAT = (
    "flags=%RESPONSE_FLAGS% received=%BYTES_RECEIVED% sent=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% host=%UPSTREAM_HOST% "
    "remote=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% sni=%REQUESTED_SERVER_NAME% details=%CONNECTION_TERMINATION_DETAILS%\n"
)


# --- ends of connections


def reset(connection):
    """Ends it by RST: what was not sent yet is gone, and the other side is told so."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def send(connection, data):
    """How sending everything ended: "sent", or what the peer did instead."""
    try:
        connection.sendall(data)
        return "sent"
    except TimeoutError:
        return "stuck"
    except ConnectionError:
        return "refused"


def read(connection, count=None, within=HELD_S):
    """Bytes up to `count` or to the end, and how they ended: "fin", "reset", "open" (nothing more within the time) or "whole"."""
    data = bytearray()
    connection.settimeout(within)
    try:
        while count is None or len(data) < count:
            part = connection.recv(1 << 18 if count is None else min(count - len(data), 1 << 18))
            if not part:
                return bytes(data), "fin"
            data += part
    except TimeoutError:
        return bytes(data), "open"
    except ConnectionError:
        return bytes(data), "reset"
    finally:
        with contextlib.suppress(OSError):
            connection.settimeout(HELD_S)
    return bytes(data), "whole"


def ended(connection):
    """No more is sent; the peer may have ended it before."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


def describe(data):
    """Bytes for a reader; they are equal if this is."""
    if len(data) <= 60:
        return ascii(bytes(data))[2:-1]
    return f"{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:12]}"


def told(got):
    """What `read` returned, as one fact."""
    data, end = got
    return f"{describe(data)}, then {end}"


# --- endpoints


def echo(connection):
    """Sends back what it gets; ends when the other side does."""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            connection.sendall(data)


class Server:
    """An endpoint: each connection is a thread that follows the script, whose word is kept."""

    def __init__(self, script, place=("127.0.0.1", 0)):
        # A class is a script with a state of its own.
        self.script, self.words, self.accepted = script() if isinstance(script, type) else script, [], 0
        self.changed = threading.Condition()
        family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        self.listener = socket.create_server(place, family=family, backlog=1024)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def stop(self):
        """Takes no more connections; who waits for one is told."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(HELD_S)
                with self.changed:
                    self.accepted += 1
                    self.changed.notify_all()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with contextlib.closing(connection):
            try:
                word = self.script(connection)
            except OSError as error:
                word = f"failed: {type(error).__name__}"
        with self.changed:
            self.words.append(word)
            self.changed.notify_all()

    def wait(self, condition, what):
        with self.changed:
            if not self.changed.wait_for(condition, HELD_S):
                raise rig.Failed(f"gave up waiting for {what}; accepted {self.accepted}, ended {self.words}")

    def said(self, count=1):
        """What the scripts of so many connections said; all of them, once they have ended."""
        self.wait(lambda: len(self.words) >= count, f"{count} connections of an endpoint to end")
        return list(self.words)

    def reached(self, count=1):
        self.wait(lambda: self.accepted >= count, f"{count} connections at an endpoint")


class Nowhere:
    """Endpoints that cannot be reached: a port held by nobody who listens, and one whose queue of connections is full."""

    def __init__(self):
        self.refusing = socket.socket()
        self.refusing.bind(("127.0.0.1", 0))
        self.silent = socket.socket()
        self.silent.bind(("127.0.0.1", 0))
        self.silent.listen(0)
        self.queued = []
        # SYNs beyond the queue are dropped; how many it takes is the kernel's affair.
        while True:
            waiting = socket.socket()
            self.queued.append(waiting)
            waiting.settimeout(0.2)
            try:
                waiting.connect(self.silent.getsockname())
            except TimeoutError:
                break
        self.ports = {"refusing": self.refusing.getsockname()[1], "silent": self.silent.getsockname()[1]}


# --- cases


@dataclasses.dataclass
class Case:
    name: str
    perform: object
    # Scripts of endpoints by name.
    servers: dict
    # Endpoints by the end of a cluster's name: names of servers, of `Nowhere`, or of protocols_servers.py.
    clusters: dict
    # More fields of the clusters, of TcpProxy (None: there is none), and filters before it.
    cluster: dict
    proxy: dict
    filters: list
    # More fields of the listener; whole chains in place of the usual one, by a function of the case.
    listener: dict
    chains: object
    # How many bytes got through is a matter of timing; how connections are shared out one of chance; and so are some counters (a pattern).
    loose: bool
    shared: bool
    uncounted: str
    # Nothing else runs beside it.
    alone: bool
    # How soon all of its connections have ended.
    within_s: float


CASES = []


def case(name, servers=None, clusters=None, cluster=None, proxy=(), filters=(), listener=None, chains=None, loose=False, shared=False, uncounted=None, alone=False, within_s=3.0):
    """Adds a case: `Case` has the meanings."""

    def add(perform):
        both = {"one": echo} if servers is None else servers
        CASES.append(Case(
            name, perform, both, {"": ["one"]} if clusters is None else clusters, cluster or {}, None if proxy is None else dict(proxy),
            list(filters), listener or {}, chains, loose, shared, uncounted, alone, within_s,
        ))
        return perform

    return add


def typed(name, message, **fields):
    """An extension with its configuration."""
    return {"name": name, "typed_config": {"@type": EXTENSIONS + message, **fields}}


def tcp_proxy(name, folder, **fields):
    if "cluster" not in fields and "weighted_clusters" not in fields:
        fields["cluster"] = name
    log = typed("file", "access_loggers.file.v3.FileAccessLog", path=str(folder / f"{name}.log"), log_format={"text_format_source": {"inline_string": FORMAT}})
    return typed("envoy.filters.network.tcp_proxy", "filters.network.tcp_proxy.v3.TcpProxy", stat_prefix=name, **{"access_log": [log], **fields})


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def listener(one, port, folder, programs):
    proxies = [] if one.proxy is None else [tcp_proxy(one.name, folder, **one.proxy)]
    chains = one.chains(one.name, folder, programs) if one.chains else {"filter_chains": [{"filters": [*one.filters, *proxies]}]}
    return {"name": one.name, "stat_prefix": one.name, "address": address(port), **chains, **one.listener}


def cluster(name, ports, fields):
    endpoints = [{"endpoint": {"address": address(port)}} for port in ports]
    return {"name": name, "connect_timeout": "5s", **fields, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}}
