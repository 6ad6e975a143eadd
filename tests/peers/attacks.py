"""HTTP/2 and TLS under attack: hostile clients and hostile upstreams, raw frames and records, while a bystander on the same worker is served.

    python3 tests/peers/attacks.py [--backend io_uring|epoll]... [--only NAME]...   # default: both, all

For each attack a fresh Ringway with one worker and nginx behind it, one back end after the other; both at once where an attack
is mostly waiting. Asserted: the bystander's 99th percentile stays under
250 ms (beside it a witness asks nginx directly: where that one's percentile is no better than half of the limit, the machine
was not fit to tell, and the attack is made again, at most twice) and none of its requests fails, resident memory does not grow by more than 16 MB, the attack is counted under Envoy's
name, the attacker is told why where the protocol has words for it, and afterwards everything is served as before. Then
malformed heads of either side, one by one: none reaches the other.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import http.client
import itertools
import json
import multiprocessing
import pathlib
import resource
import select
import socket
import struct
import tempfile
import time
import urllib.request

import http2
import raw_http2 as h2
import rig

ATTACK_S = 2.0
P99_MS_MAX = 250
# Attempts at a figure that the machine lets be told.
ATTEMPTS = 3
GROWTH_KB_MAX = 16 * 1024
STREAMS = 1024
UPLOADS = 512
BIG_BYTES = 1 << 20
CALM = h2.ENHANCE_YOUR_CALM
# Clients that begin a handshake and never end it; Ringway gives one 15 seconds.
HELLOS = 2000
HELLOS_S = 45


# === attacks of a client ===


def odd(start=1):
    return itertools.count(start, 2)


def pour(client, pieces):
    """Sends pieces until the connection is over or they end. What was said at the end is waited for."""
    for piece in pieces:
        if client.is_over() or not client.send(piece):
            client.wait_over(10)
            return
    client.wait_over(1)


def joined(pieces, count=200):
    while batch := list(itertools.islice(pieces, count)):
        yield b"".join(batch)


def again_and_again(make, *options):
    """An attack that opens connection after connection and pours into each what `make()` gives; the codes of the GOAWAYs."""

    def run(port):
        codes = []
        until = time.monotonic() + ATTACK_S
        while time.monotonic() < until:
            with h2.Client(port, *options) as client:
                pour(client, make())
                codes.append(client.goaway)
        return codes

    return run


def flood(*frames, first=b""):
    """The same frames over and over, for as long as they are taken."""
    return again_and_again(lambda: itertools.chain([first], itertools.repeat(b"".join(frames) * 100, 10_000)))


def per_stream(make):
    """`make(stream)` on stream after stream, a batch at a time."""
    return again_and_again(lambda: joined((make(stream) for stream in itertools.islice(odd(), 100_000)), 20))


def slow_rapid_reset(port):
    """Each request has been sent on when it is reset: the codec has nothing to count."""
    with h2.Client(port) as client:
        for stream in itertools.islice(odd(), 5000):
            if client.is_over() or not client.send(h2.request(stream)):
                break
            time.sleep(0.0005)
            client.send(h2.reset(stream))
        client.wait_over(1)
        return [client.goaway]


def with_path(path, *more):
    return [(name, path if name == ":path" else value) for name, value in h2.GET] + list(more)


def post(*more):
    return [(name, "POST" if name == ":method" else value) for name, value in h2.GET] + list(more)


def offence(make, fields=None):
    """MadeYouReset: a request that goes to the endpoint, then something for which this side has to reset it."""
    fields = fields or with_path("/big")
    return per_stream(lambda stream: h2.request(stream, fields, flags=h2.END_HEADERS) + make(stream))


def hold(*options, reads=True, path="/big", connections=1, meanwhile=None):
    """Streams whose responses are not taken."""

    def run(port):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(h2.Client(port, *options, reads=reads)) for _ in range(connections)]
            streams = STREAMS // connections
            for client in clients:
                for piece in joined(h2.request(stream, with_path(path)) for stream in itertools.islice(odd(), streams)):
                    client.send(piece)
            until = time.monotonic() + ATTACK_S
            while time.monotonic() < until:
                if meanwhile:
                    for client in clients:
                        meanwhile(client)
                else:
                    time.sleep(0.05)
            return [client.goaway for client in clients]

    return run


def drip(client):
    """A byte of window for each stream."""
    for piece in joined(h2.window_update(stream, 1) for stream in itertools.islice(odd(), STREAMS)):
        client.send(piece)
    time.sleep(0.1)


def swing(client):
    """Every stream's window up and down: work for all of them per frame."""
    client.send((h2.settings((h2.INITIAL_WINDOW_SIZE, 1)) + h2.settings((h2.INITIAL_WINDOW_SIZE, 0))) * 20)
    time.sleep(0.1)


def bomb():
    """One large header into the table, then as many references to it as a frame holds, on stream after stream."""
    yield h2.frame(h2.HEADERS, 5, 1, h2.block(h2.GET) + h2.block([("x", "y" * 4000)], indexed=True))
    for stream in itertools.islice(odd(3), 1000):
        yield h2.frame(h2.HEADERS, 5, stream, h2.block(h2.GET) + b"\xbe" * 16_000)


def small_bomb():
    """The same, a little over what a head may have: refused stream by stream."""
    yield h2.frame(h2.HEADERS, 5, 1, h2.block(h2.GET) + h2.block([("x", "y" * 4000)], indexed=True))
    for stream in itertools.islice(odd(3), 2000):
        yield h2.frame(h2.HEADERS, 5, stream, h2.block(h2.GET) + b"\xbe" * 20)


def crumbs():
    for stream in itertools.islice(odd(), 300):
        yield h2.frame(h2.HEADERS, 5, stream, h2.block(h2.GET) + b"\x60\x01a" + b"\xbe" * 1000)


def continuations(payload):
    begin = h2.frame(h2.HEADERS, h2.END_STREAM, 1, h2.block(h2.GET))
    return again_and_again(lambda: itertools.chain([begin], itertools.repeat(h2.frame(h2.CONTINUATION, 0, 1, payload), 100_000)))


OPEN = h2.request(1, post(), flags=h2.END_HEADERS)
SHORT = [("content-length", "1")]



def single_bytes():
    """A body in frames of a byte, to an endpoint that takes none: what they cost is not what the window counts."""
    yield h2.request(1, post(), flags=h2.END_HEADERS)
    for _ in range(2000):
        yield h2.frame(h2.DATA, 0, 1, b"x") * 500


def hello(size):
    """The records of a ClientHello whose message has so many bytes: what a client offers, and padding."""
    before = b"\3\3" + bytes(range(32)) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    padding = size - len(before) - 6
    body = before + struct.pack(">HHH", padding + 4, 21, padding) + bytes(padding)
    message = b"\1" + struct.pack(">I", len(body))[1:] + body
    pieces = [message[at : at + 16_384] for at in range(0, len(message), 16_384)]
    return b"".join(b"\x16\3\1" + struct.pack(">H", len(piece)) + piece for piece in pieces)


def hellos(data, at_a_time):
    """So many clients that each send the beginning of a ClientHello, in pieces by turns, and then nothing; how each ended."""

    def run(port):
        with contextlib.ExitStack() as stack, select.epoll() as ready:
            clients = {}
            for _ in range(HELLOS):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                ready.register(client, select.EPOLLIN)
            for at in range(0, len(data), at_a_time):
                for client in clients.values():
                    # Some are refused meanwhile.
                    with contextlib.suppress(OSError):
                        client.sendall(data[at : at + at_a_time])
            outcomes, last = [], dict.fromkeys(clients, b"")
            until = time.monotonic() + HELLOS_S
            while clients:
                for fd, _ in ready.poll(1):
                    said = b""
                    with contextlib.suppress(OSError):
                        said = clients[fd].recv(4096)
                    if said:
                        last[fd] = said
                    else:
                        ready.unregister(fd)
                        del clients[fd]
                        outcomes.append("alert" if last[fd][:1] == b"\x15" else "cut")
                if time.monotonic() > until:
                    raise rig.Failed(f"{len(clients)} of {HELLOS} unfinished handshakes go on after {HELLOS_S} s")
            return outcomes

    return run


# === attacks of an upstream ===


def head(stream, fields=((":status", "200"),), flags=h2.END_HEADERS):
    return h2.frame(h2.HEADERS, flags, stream, h2.block(fields))


def answers_with(*frames, first=None, count=10_000):
    """An upstream that answers with frames over and over; each may be a function of the stream."""

    def answer(sock, stream):
        make = [each(stream) if callable(each) else each for each in frames]
        sock.sendall(first(stream) if first else b"")
        for _ in range(count):
            sock.sendall(b"".join(make) * 100)

    return answer


def response_bomb(sock, stream):
    sock.sendall(head(stream, [(":status", "103"), ("x", "y")]))
    sock.sendall(h2.frame(h2.HEADERS, 4, stream, b"\x88" + h2.block([("x", "y" * 4000)], indexed=True) + b"\xbe" * 12_000))


def continuation_response(sock, stream):
    sock.sendall(h2.frame(h2.HEADERS, 0, stream, b"\x88"))
    for _ in range(100_000):
        sock.sendall(h2.frame(h2.CONTINUATION, 0, stream, h2.block([("x", "y" * 1000)]) * 10))


def overflow(sock, stream):
    """More bytes than the window has room for."""
    sock.sendall(head(stream) + h2.frame(h2.DATA, 0, stream, b"x" * 16_384) * 1000)


def ask(port):
    """The final status of a request in HTTP/1.1, whose body came to its end."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n")
        reader = rig.Reader(sock)
        while (answer := reader.message(is_response=True)).status < 200:
            pass
        return answer.status


def asks(port):
    """Request after request in HTTP/1.1; how each ended."""
    outcomes = []
    until = time.monotonic() + ATTACK_S
    while time.monotonic() < until:
        try:
            outcomes.append(ask(port))
        except TimeoutError:
            raise rig.Failed("a request to a hostile upstream hangs") from None
        except (EOFError, OSError):
            outcomes.append(None)
    return outcomes


def asks_without_reading(port):
    """Streams to the hostile upstream, whose responses are not taken off the socket."""
    return hold((h2.INITIAL_WINDOW_SIZE, h2.WINDOW_MAX), reads=False)(port)


def uploads_of(frame_bytes):
    """As many bytes as the proxy gives windows for, in such frames on many streams by turns, to an upstream that takes none."""

    def run(port):
        with h2.Client(port) as client:
            streams = list(itertools.islice(odd(), UPLOADS))
            for piece in joined(h2.request(stream, post(), flags=h2.END_HEADERS) for stream in streams):
                client.send(piece)
            sent = collections.Counter()
            until = time.monotonic() + ATTACK_S
            while time.monotonic() < until and not client.is_over():
                frames = b"".join(upload(client, stream, sent, frame_bytes) for stream in streams)
                if not frames:
                    time.sleep(0.01)
                client.send(frames)
            return [client.goaway]

    return run


def upload(client, stream, sent, frame_bytes):
    """The stream's next frame, as far as its window and the connection's have room."""
    room = min(frame_bytes, client.window(stream) - sent[stream], client.window(0) - sent[0])
    if room <= 0:
        return b""
    sent.update({stream: room, 0: room})
    return h2.frame(h2.DATA, 0, stream, b"x" * room)


# === the table ===


class Attack:
    """`counters`: names that must have moved. `goaway`: the code that each connection of the attacker must have been given."""

    def __init__(self, run, *counters, goaway=None, upstream=None, options=(), status=None, listener=None):
        self.run, self.counters, self.goaway = run, counters, goaway
        self.upstream, self.options, self.status = upstream, options, status
        self.listener = listener or ("hostile" if upstream else "one")


CONTROL, EMPTY = "http2.outbound_control_flood", "http2.inbound_empty_frames_flood"
PRIORITIES, UPDATES = "http2.inbound_priority_frames_flood", "http2.inbound_window_update_frames_flood"
OVERFLOW, GOAWAYS = "http2.header_overflow", "http2.goaway_sent"
PAUSED, PAUSED_FOR_SILENT = (f"http.{name}.downstream_flow_control_paused_reading_total" for name in ("hostile", "silent"))
UNTAKEN = "cluster.one.upstream_flow_control_paused_reading_total"
UNFINISHED = "listener.tls.downstream_cx_transport_socket_connect_timeout"
REFUSED = "ringway.tls.unfinished_messages_refused"


def of_cluster(name):
    return f"cluster.hostile.{name}"


ATTACKS = {
    "rapid_reset": Attack(per_stream(lambda s: h2.request(s) + h2.reset(s)), "http2.rx_reset", GOAWAYS, goaway=CALM),
    "rapid_reset_of_forwarded_requests": Attack(
        slow_rapid_reset,
        "http2.rx_reset",
        "http.hostile.downstream_rq_too_many_premature_resets",
        goaway=CALM,
        upstream=lambda sock, stream: None,
    ),
    "made_you_reset_by_an_update_of_zero": Attack(offence(lambda s: h2.window_update(s, 0)), GOAWAYS, goaway=h2.PROTOCOL_ERROR),
    "made_you_reset_by_a_window_overflow": Attack(
        offence(lambda s: h2.window_update(s, h2.WINDOW_MAX)), GOAWAYS, goaway=CALM
    ),
    "made_you_reset_by_too_much_data": Attack(
        offence(lambda s: h2.frame(h2.DATA, 0, s, b"xx"), post(*SHORT)), GOAWAYS, goaway=CALM
    ),
    "made_you_reset_by_a_priority_on_itself": Attack(
        offence(lambda s: h2.frame(h2.PRIORITY, 0, s, struct.pack(">IB", s, 1))), GOAWAYS, goaway=CALM
    ),
    "made_you_reset_by_trailers": Attack(
        offence(lambda s: h2.frame(h2.HEADERS, 5, s, h2.block([("x", " a")])), post()),
        "http.one.downstream_rq_too_many_premature_resets",
        # Trailers of a stream that was refused, there being too many, are an error to the codec.
        goaway={CALM, h2.PROTOCOL_ERROR},
    ),
    "continuations_without_content": Attack(continuations(b""), EMPTY, goaway=CALM),
    "continuations_of_small_fields": Attack(continuations(h2.block([("x", "y")])), OVERFLOW, GOAWAYS, goaway=CALM),
    "continuations_of_large_fields": Attack(continuations(h2.block([("x", "y" * 1000)]) * 10), OVERFLOW, GOAWAYS, goaway=CALM),
    "settings": Attack(flood(h2.settings()), CONTROL, goaway=CALM),
    "settings_that_change": Attack(
        flood(h2.settings((h2.HEADER_TABLE_SIZE, 0)), h2.settings((h2.HEADER_TABLE_SIZE, 4096))), CONTROL, goaway=CALM
    ),
    "pings": Attack(flood(h2.frame(h2.PING, 0, 0, b"12345678")), CONTROL, goaway=CALM),
    "unknown_frames": Attack(flood(h2.frame(0x42, 0, 0, b"")), CONTROL, goaway=CALM),
    "priorities": Attack(flood(h2.frame(h2.PRIORITY, 0, 1, struct.pack(">IB", 0, 1))), PRIORITIES, goaway=CALM),
    "window_updates": Attack(flood(h2.window_update(0, 1)), UPDATES, goaway=CALM),
    "window_updates_of_a_stream": Attack(flood(h2.window_update(1, 1), first=OPEN), UPDATES, goaway=CALM),
    "empty_data": Attack(flood(h2.frame(h2.DATA, 0, 1), first=OPEN), EMPTY, goaway=CALM),
    # A window of them waits, put together; what comes beyond it costs its stream, and the connection if it goes on.
    "data_in_single_bytes": Attack(
        again_and_again(single_bytes),
        "http.hostile.downstream_cx_http2_total",
        goaway={None, CALM},
        upstream=lambda sock, stream: time.sleep(10),
    ),
    "data_in_single_bytes_to_http1": Attack(again_and_again(single_bytes)),
    "hpack_bomb": Attack(again_and_again(bomb), OVERFLOW, GOAWAYS, goaway=CALM),
    "small_hpack_bombs": Attack(again_and_again(small_bomb)),
    "crumbs_of_cookies": Attack(again_and_again(crumbs)),
    "zero_windows": Attack(hold((h2.INITIAL_WINDOW_SIZE, 0)), UNTAKEN),
    "zero_windows_of_several_connections": Attack(hold((h2.INITIAL_WINDOW_SIZE, 0), connections=8), UNTAKEN),
    "zero_window_of_the_connection": Attack(hold((h2.INITIAL_WINDOW_SIZE, h2.WINDOW_MAX)), UNTAKEN),
    "windows_of_a_byte": Attack(hold((h2.INITIAL_WINDOW_SIZE, 0), meanwhile=drip), UNTAKEN),
    "windows_that_swing": Attack(hold((h2.INITIAL_WINDOW_SIZE, 0), meanwhile=swing), UNTAKEN),
    "slow_reader": Attack(hold((h2.INITIAL_WINDOW_SIZE, h2.WINDOW_MAX), reads=False), UNTAKEN),
    "slow_reader_of_small_responses": Attack(hold((h2.INITIAL_WINDOW_SIZE, h2.WINDOW_MAX), reads=False, path="/index.html")),
    # Only so many bytes of unfinished messages are kept; those who began first are refused as others come.
    "hellos_of_a_record_without_an_end": Attack(hellos(hello(18_000)[:17_500], 17_500), UNFINISHED, REFUSED, listener="tls"),
    "hellos_in_pages_without_an_end": Attack(hellos(hello(12_000)[:11_500], 2_500), UNFINISHED, REFUSED, listener="tls"),
    "large_hellos_without_an_end": Attack(hellos(hello(24_000)[:22_000], 22_000), UNFINISHED, REFUSED, listener="tls"),
    "hellos_in_single_bytes_without_an_end": Attack(hellos(hello(220)[:100], 1), UNFINISHED, REFUSED, listener="tls"),
    "upstream_settings": Attack(asks, of_cluster(CONTROL), upstream=answers_with(h2.settings())),
    "upstream_pings": Attack(asks, of_cluster(CONTROL), upstream=answers_with(h2.frame(h2.PING, 0, 0, b"12345678"))),
    "upstream_priorities": Attack(
        asks, of_cluster(PRIORITIES), upstream=answers_with(h2.frame(h2.PRIORITY, 0, 1, struct.pack(">IB", 0, 1)))
    ),
    "upstream_window_updates": Attack(asks, of_cluster(UPDATES), upstream=answers_with(h2.window_update(0, 1))),
    "upstream_empty_data": Attack(
        asks, of_cluster(EMPTY), upstream=answers_with(lambda s: h2.frame(h2.DATA, 0, s), first=head)
    ),
    "upstream_continuations": Attack(asks, of_cluster(OVERFLOW), upstream=continuation_response),
    "upstream_hpack_bomb": Attack(asks, of_cluster(OVERFLOW), upstream=response_bomb),
    "upstream_data_beyond_the_window": Attack(
        asks_without_reading, of_cluster("http2.tx_reset"), upstream=overflow
    ),
    "upstream_resets": Attack(asks, of_cluster("http2.rx_reset"), upstream=answers_with(h2.reset, count=1), status=503),
    "upstream_interim_responses": Attack(asks, upstream=answers_with(lambda s: head(s, [(":status", "103")]))),
    "upstream_interim_responses_to_a_slow_reader": Attack(
        asks_without_reading, upstream=answers_with(lambda s: head(s, [(":status", "103"), ("x", "y" * 100)]), count=20)
    ),
    "upstream_zero_windows": Attack(
        uploads_of(16_384), PAUSED, upstream=lambda sock, stream: None, options=((h2.INITIAL_WINDOW_SIZE, 0),)
    ),
    "upstream_zero_windows_and_single_bytes": Attack(
        uploads_of(1), upstream=lambda sock, stream: None, options=((h2.INITIAL_WINDOW_SIZE, 0),), goaway={None}
    ),
    "uploads_to_a_silent_endpoint": Attack(uploads_of(16_384), PAUSED_FOR_SILENT, listener="silent"),
}

# Whose clients do nothing most of the time: both back ends have them at once.
WAITING = {name for name, attack in ATTACKS.items() if attack.listener == "tls"}


# === what is watched ===


class Apart:
    """Runs a function in a process of its own; its result, or its failure."""

    def __init__(self, function, *arguments):
        self.receiver, sender = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.Process(target=self.run, args=(sender, function, *arguments), daemon=True)
        self.process.start()
        sender.close()

    @staticmethod
    def run(sender, function, *arguments):
        try:
            sender.send((True, function(*arguments)))
        except Exception as error:  # Whatever it is, the test reports it.
            sender.send((False, f"{type(error).__name__}: {error}"))

    def result(self, seconds=60):
        if not self.receiver.poll(seconds):
            self.process.terminate()
            raise rig.Failed("a client did not end")
        try:
            done, value = self.receiver.recv()
        except EOFError:
            done, value = False, "a client's process died"
        self.process.join()
        if not done:
            raise rig.Failed(value)
        return value


def bystander(port, stop):
    """Asks in both versions by turns, a hundred times a second; the milliseconds of each answer."""
    took = []
    first = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    second = socket.create_connection(("127.0.0.1", port), 10)
    second.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    second.sendall(h2.PREFACE + h2.settings() + h2.window_update(0, 1 << 30))
    incoming = h2.frames(second)
    for stream in odd():
        if stop.is_set():
            return took
        begun = time.monotonic()
        first.request("GET", "/index.html")
        answer = first.getresponse()
        if (answer.status, answer.read()) != (200, b"hello\n"):
            raise rig.Failed(f"the bystander got {answer.status}")
        then = time.monotonic()
        second.sendall(h2.request(stream))
        body = b""
        for kind, flags, on, payload in incoming:
            if kind in (h2.RST_STREAM, h2.GOAWAY):
                raise rig.Failed(f"the bystander's stream ended with {payload!r}")
            if on == stream and kind == h2.DATA:
                body += payload
            if on == stream and kind in (h2.DATA, h2.HEADERS) and flags & h2.END_STREAM:
                break
        if body != b"hello\n":
            raise rig.Failed("the bystander's stream broke")
        now = time.monotonic()
        took += [(then - begun) * 1000, (now - then) * 1000]
        time.sleep(max(0, 0.02 - (now - begun)))
    return took


def witness(port, stop):
    """Asks the endpoint itself as often as the bystander asks the proxy; the milliseconds of each answer."""
    took = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while not stop.is_set():
        begun = time.monotonic()
        connection.request("GET", "/index.html")
        connection.getresponse().read()
        now = time.monotonic()
        took.append((now - begun) * 1000)
        time.sleep(max(0, 0.02 - (now - begun)))
    return took


def memory_kb(pid, what):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1])
    raise rig.Failed(f"{what} of the proxy is unknown")


def stats(admin):
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?format=json", timeout=10) as answer:
        return {entry["name"]: entry["value"] for entry in json.load(answer)["stats"] if "value" in entry}


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def serves(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/big")
    body = connection.getresponse().read()
    connection.close()
    http2.check(len(body) == BIG_BYTES, f"{len(body)} bytes of /big came after the attack")


# === the runs ===


TLS = """\
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context: {tls_certificates: [{certificate_chain: {filename: @folder@/cert.pem}, private_key: {filename: @folder@/key.pem}}]}
      filters:
"""


# Whole attacks go through: what circuit breakers refuse by default would show nothing of the rest.
LIMITS = """
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}"""


# An endpoint that never reads: the kernel takes its connections, and of each a little.
KERNEL_BYTES = 8192
LITTLE = f"""
    upstream_bind_config: {{socket_options: [{{level: {socket.SOL_SOCKET}, name: {socket.SO_SNDBUF}, int_value: {KERNEL_BYTES}}}]}}"""


@contextlib.contextmanager
def proxy(backend, nginx_port, hostile_port):
    silent = socket.socket()
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
    silent.bind(("127.0.0.1", 0))
    silent.listen(UPLOADS)
    ports = dict(zip(["admin", "one", "hostile", "silent", "tls"], rig.free_ports(5)))
    listener = http2.LISTENER.replace("codec_type: HTTP2", "codec_type: AUTO")
    secure = http2.fill(listener, name="one", port=ports["tls"]).replace("name: one\n    address", "name: tls\n    stat_prefix: tls\n    address")
    text = (
        f"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {ports['admin']}}}}}}}\n"
        "static_resources:\n  listeners:"
        + http2.fill(listener, name="one", port=ports["one"])
        + http2.fill(listener, name="hostile", port=ports["hostile"])
        + http2.fill(listener, name="silent", port=ports["silent"])
        + secure.replace("    - filters:\n", TLS)
        + "  clusters:"
        + http2.fill(http2.CLUSTER, name="one", port=nginx_port, options=LIMITS)
        + http2.fill(http2.CLUSTER, name="hostile", port=hostile_port, options=http2.HTTP2_OPTIONS + LIMITS)
        + http2.fill(http2.CLUSTER, name="silent", port=silent.getsockname()[1], options=LIMITS + LITTLE)
    )
    with silent, tempfile.TemporaryDirectory() as folder:
        rig.self_signed(folder)
        path = pathlib.Path(folder) / "bootstrap.yaml"
        path.write_text(text.replace("@folder@", folder))
        argv = [rig.ringway(), "-c", path, "--io-backend", backend, "--concurrency", 1]
        with rig.Process(argv, ports["one"]) as process:
            yield process, ports


def launch(backend, nginx_port, name):
    """What is wrong after the attack; it is made again while the machine is too busy to tell what a bystander feels."""
    for attempt in range(1, ATTEMPTS + 1):
        problems, slow, beside = attempt_of(backend, nginx_port, name)
        if not slow:
            return problems
        if problems or beside < P99_MS_MAX / 2 or attempt == ATTEMPTS:
            return [*problems, f"{slow}, the witness's {beside:.0f} ms"]
        print(f"{backend} {name}: {slow}, the witness's {beside:.0f} ms: again", flush=True)


def attempt_of(backend, nginx_port, name):
    """What is wrong, the bystander's percentile in words if it is beyond the limit, and the witness's."""
    attack = ATTACKS[name]
    with contextlib.ExitStack() as stack:
        hostile = stack.enter_context(h2.Upstream(attack.upstream, attack.options)).port if attack.upstream else 1
        process, ports = stack.enter_context(proxy(backend, nginx_port, hostile))
        stop = multiprocessing.Event()
        watcher, beside = Apart(bystander, ports["one"], stop), Apart(witness, nginx_port, stop)
        rig.wait_for(lambda: stats(ports["admin"])["http.one.downstream_rq_2xx"] > 40, "the bystander")
        before, resident = stats(ports["admin"]), memory_kb(process.pid, "VmRSS")
        pathlib.Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        told = Apart(attack.run, ports[attack.listener]).result()
        process.check()
        peak = memory_kb(process.pid, "VmHWM")
        stop.set()
        took, direct = watcher.result(), percentile(beside.result(), 0.99)
        after = stats(ports["admin"])
        serves(ports["one"])
        moved = [counter for counter in attack.counters if after.get(counter, 0) > before.get(counter, 0)]
        p99 = percentile(took, 0.99)
        said = {code: told.count(code) for code in set(told)}
        print(
            f"{backend} {name}: bystander p99 {p99:.1f} ms of {len(took)}, most {max(took):.1f}, witness {direct:.1f}; "
            f"resident {resident} kB, grew {peak - resident} kB; attacker was told {said}",
            flush=True,
        )
        problems = []
        slow = f"the bystander's p99 was {p99:.0f} ms" if p99 >= P99_MS_MAX else None
        if peak - resident > GROWTH_KB_MAX:
            problems.append(f"memory grew by {peak - resident} kB")
        # Whose streams were refused, there being too many, before the rest of its attack arrived, was ended by the codec.
        was_cut = isinstance(attack.goaway, set) and set(told) == {h2.PROTOCOL_ERROR}
        if missing := set() if was_cut else set(attack.counters) - set(moved):
            problems.append(f"not counted: {', '.join(sorted(missing))}")
        goaways = attack.goaway if isinstance(attack.goaway, set) else {attack.goaway}
        if attack.goaway is not None and not set(told) <= goaways:
            problems.append(f"GOAWAYs with {said} instead of {attack.goaway}")
        if attack.upstream and attack.run is asks and not set(told) <= {None, 200, 502, 503}:
            problems.append(f"answers {said}")
        if attack.status and set(told) != {attack.status}:
            problems.append(f"answers {said} instead of {attack.status}")
        return problems, slow, direct


NAMES = [("connection", "keep-alive"), ("keep-alive", "1"), ("proxy-connection", "close"), ("transfer-encoding", "chunked")]
FIELDS = NAMES + [
    ("X-Upper", "a"), ("x y", "a"), ("x:y", "a"), ("", "a"), ("x\0", "a"), ("x\r", "a"), ("x\xe9", "a"),
    ("x", "a\r\nb: c"), ("x", "a\nb"), ("x", "a\rb"), ("x", "a\0"), ("x", " a"), ("x", "a "), ("x", "\ta"), ("x", "a\x7f"),
    ("content-length", "1x"), ("content-length", "+1"), ("content-length", "-1"), ("content-length", ""),
]  # fmt: skip


def without(*names):
    return [field for field in h2.GET if field[0] not in names]


def other(name, value):
    return [(each, value if each == name else had) for each, had in h2.GET]


REQUESTS = (
    [h2.GET + [field] for field in FIELDS]
    + [without(name) for name in (":method", ":scheme", ":path", ":authority")]
    + [h2.GET + [field] for field in h2.GET]
    + [h2.GET[1:] + [("x", "a"), h2.GET[0]]]
    + [h2.GET + [(":status", "200")], h2.GET + [(":x", "a")], h2.GET + [(":", "a")]]
    + [other(":path", path) for path in ("", "index.html", "*", "/a b", "/a\tb", "/a\0", "/a\r\nb", "http://b/")]
    + [other(":method", method) for method in ("", "GE T", "GET\r\n", "GET /x HTTP/1.1\r\nHost: b\r\n\r\nGET")]
    + [other(":scheme", scheme) for scheme in ("", "h ttp", "ftp", "http\r\n")]
    + [other(":authority", authority) for authority in ("", "a b", "a\r\nb", "a/b", "u@a", "a\0")]
    + [other(":method", "CONNECT")]
    + [h2.GET + [("host", "b.test")], h2.GET + [("host", "a.test"), ("host", "a.test")]]
    + [h2.GET + [("upgrade", "h2c")], h2.GET + [("te", "gzip")], h2.GET + [("content-length", "5")]]
    + [h2.GET + [("content-length", "0"), ("content-length", "0")]]
)

# A request's pseudo-header in a response is the one that is not refused: the codec drops it.
RESPONSES = (
    [[(":status", "200"), field] for field in FIELDS]
    + [[], [("x", "a")], [("x", "a"), (":status", "200")], [(":status", "200"), (":status", "200")]]
    + [[(":status", status)] for status in ("", "20", "2000", "abc", "+20", "099", "101", "200 OK", "200\r\n")]
    + [[(":status", "200"), (name, "a")] for name in (":x", "upgrade")]
    + [[(":status", "200"), ("content-length", "5"), ("content-length", "5")]]
)


def refused_request(port, fields):
    """Whether it is answered with an error or its stream reset; the connection may end with it."""
    with h2.Client(port) as client:
        client.send(h2.request(1, fields))
        rig.wait_for(lambda: 1 in client.resets or 1 in client.heads or client.is_over(), f"an answer to {fields}")
        # An indexed 400, or literals whose name is `:status` by index.
        first = client.heads.get(1, b"")[:4]
        return not first or first[:1] == b"\x8c" or b"4" in first[1:4] or first[:1] in (b"\x48", b"\x08")


def malformed(backend, nginx_port):
    queue = multiprocessing.Queue()

    def answer(sock, stream):
        fields = queue.get(timeout=5)
        sock.sendall(head(stream, fields, flags=h2.END_HEADERS) + h2.frame(h2.DATA, h2.END_STREAM, stream, b"12345"))

    with h2.Upstream(answer) as hostile, proxy(backend, nginx_port, hostile.port) as (process, ports):
        passed = [fields for fields in REQUESTS if not refused_request(ports["one"], fields)]
        http2.check(stats(ports["admin"])["cluster.one.upstream_rq_total"] == 0, "a malformed request reached the endpoint")
        serves(ports["one"])
        for fields in RESPONSES:
            queue.put(fields)
            connection = http.client.HTTPConnection("127.0.0.1", ports["hostile"], timeout=5)
            connection.request("GET", "/")
            status = connection.getresponse().status
            connection.close()
            passed += [] if status in (502, 503) else [fields]
        http2.check(not passed, f"not refused: {passed}")
        process.check()
        queue.put([(":status", "200"), ("content-length", "5")])
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['hostile']}/", timeout=5) as sound:
            http2.check(sound.read() == b"12345", "a sound response did not pass")
    print(f"{backend} malformed: {len(REQUESTS)} requests and {len(RESPONSES)} responses refused", flush=True)


def judge(backend, nginx_port, name):
    """What is wrong, each with whose it is."""
    try:
        problems = malformed(backend, nginx_port) if name == "malformed" else launch(backend, nginx_port, name)
    except rig.Failed as failure:
        problems = [str(failure)]
    return [f"{backend} {name}: {problem}" for problem in problems or []]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"])
    parser.add_argument("--only", action="append", choices=["malformed", *ATTACKS], metavar="NAME")
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * HELLOS)), hard))
    (port,) = rig.free_ports(1)
    failed = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        (folder / "files").mkdir()
        (folder / "files/index.html").write_text("hello\n")
        (folder / "files/big").write_bytes(bytes(BIG_BYTES))
        conf = http2.fill(http2.NGINX, folder=folder, port=port).replace("worker_connections 1024", "worker_connections 4096")
        # A thousand connections at once are to be no attack on the endpoint, nor on the kernel's memory.
        conf = conf.replace("default_server", "default_server backlog=4096 sndbuf=64k")
        (folder / "nginx.conf").write_text(conf)
        nginx = [rig.binary("NGINX", "nginx", "/usr/sbin/nginx"), "-c", folder / "nginx.conf", "-p", folder]
        with rig.Process(nginx, port):
            backends = arguments.backend or ["io_uring", "epoll"]
            for attack in arguments.only or ["malformed", *ATTACKS]:
                if attack in WAITING:
                    with concurrent.futures.ThreadPoolExecutor(len(backends)) as pool:
                        told = list(pool.map(judge, backends, itertools.repeat(port), itertools.repeat(attack)))
                else:
                    told = [judge(backend, port, attack) for backend in backends]
                failed += itertools.chain.from_iterable(told)
    if failed:
        raise rig.Failed("\n" + "\n".join(failed))


if __name__ == "__main__":
    rig.main(main)
