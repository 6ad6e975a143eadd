"""The rig's own clients, for checks and idle connections: HTTP/1.1 and HTTP/2, with TLS 1.3 and without.

All are used as `http.client.HTTPConnection` is: `request`, `getresponse`, `close`. HTTP/2 is the `h2` package's, one request at a time;
what goes wrong there is an `OSError`.
"""

import contextlib
import functools
import http.client
import socket
import ssl

READ_BYTES = 65536


def connect(port, tls, http2, identity, timeout_s=30):
    """A client of 127.0.0.1 that connects with its first request."""
    context = trusting(identity.authority, "h2" if http2 else "http/1.1") if tls else None
    if http2:
        return Http2(port, context, timeout_s)
    if tls:
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout_s, context=context)
    return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)


@functools.cache
def trusting(authority, protocol):
    """TLS 1.3 with this authority alone, and nothing but the protocol."""
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([protocol])
    return context


class Response:
    """What a request got; its body is complete."""

    def __init__(self):
        self.status = None
        self.headers = {}
        self.trailers = {}
        self.body = b""
        self.is_complete = False

    def read(self):
        return self.body


class Http2:
    """One connection, opened by its first request and by the next one after `close`."""

    def __init__(self, port, context, timeout_s):
        self.port, self.context, self.timeout_s = port, context, timeout_s
        self.socket = None

    def open(self):
        import h2.config
        import h2.connection

        self.socket = socket.create_connection(("127.0.0.1", self.port), self.timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context:
            self.socket = self.context.wrap_socket(self.socket, server_hostname="127.0.0.1")
            if self.socket.selected_alpn_protocol() != "h2":
                raise ConnectionError(f"ALPN chose {self.socket.selected_alpn_protocol()}, not h2")
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()

    def request(self, method, path, body=None, headers=()):
        """Sends it whole."""
        if not self.socket:
            self.open()
        headers = dict(headers)
        scheme = "https" if self.context else "http"
        fields = {":method": method, ":scheme": scheme, ":authority": headers.pop("Host", "load.test"), ":path": path}
        fields |= {name.lower(): value for name, value in headers.items()}
        if body:
            fields["content-length"] = str(len(body))
        self.response = Response()
        with violations():
            stream = self.h2.get_next_available_stream_id()
            self.h2.send_headers(stream, list(fields.items()), end_stream=not body)
            while body:
                room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(body))
                if not room:
                    self.receive()
                    continue
                piece, body = body[:room], body[room:]
                self.h2.send_data(stream, piece, end_stream=not body)
        self.send()

    def getresponse(self):
        while not self.response.is_complete:
            self.receive()
        return self.response

    def send(self):
        self.socket.sendall(self.h2.data_to_send())

    def receive(self):
        """Takes what has come, and answers it where the protocol wants that."""
        import h2.events

        self.send()
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise ConnectionError("the connection ended instead of answering")
        with violations():
            for event in self.h2.receive_data(data):
                self.take(event, h2.events)
        self.send()

    def take(self, event, events):
        response = self.response
        match event:
            case events.ResponseReceived():
                response.headers = dict(event.headers)
                response.status = int(response.headers[":status"])
            case events.DataReceived():
                response.body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case events.TrailersReceived():
                response.trailers = dict(event.headers)
            case events.StreamEnded():
                response.is_complete = True
            case events.StreamReset() | events.ConnectionTerminated():
                raise ConnectionError(f"HTTP/2: {event}")

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = None


@contextlib.contextmanager
def violations():
    """What the package finds wrong, as a lost connection."""
    import h2.exceptions

    try:
        yield
    except h2.exceptions.H2Error as error:
        raise ConnectionError(f"HTTP/2: {error!r}") from error
