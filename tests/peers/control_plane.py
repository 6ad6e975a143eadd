"""A control plane that tells endpoints: ADS, the state of the world, frame by frame and field by field.

Python's standard library only, for rigs that want a control plane to be there and nothing else of it; what one may ask and answer is tests/xds's.
"""

import contextlib
import socket
import struct
import threading

import raw_http2 as h2
import rig

ASSIGNMENT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
HEAD = [(":status", "200"), ("content-type", "application/grpc")]
FRAME_BYTES = 16_384


def varint(value):
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number, value):
    """A field of a message: a number, text, or a message's bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(message):
    """Number and value of each field, of which only these kinds come: numbers and bytes."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                return value

    while at < len(message):
        tag = number()
        if tag & 7 not in (0, 2):
            raise rig.Failed(f"a field of kind {tag & 7} in a request for discovery")
        value = number()
        if tag & 7 == 2:
            at += value
            value = message[at - value : at]
        yield tag >> 3, value


def assignment(cluster, endpoints):
    """envoy.config.endpoint.v3.ClusterLoadAssignment, all in one locality."""
    told = b"".join(field(2, field(1, field(1, field(1, field(2, address) + field(3, port))))) for address, port in endpoints)
    return field(1, cluster) + field(2, told)


class ControlPlane:
    """`endpoints`: addresses and ports by cluster. A proxy is told those that it asks for, again when it asks for others."""

    def __init__(self, endpoints):
        self.endpoints = endpoints
        # Names of the response that was last taken, and what was said of others.
        self.taken, self.refused = set(), []

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        # A thread that waits in accept() would keep it open.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def wait_taken(self):
        """Until the proxy has taken all."""

        def all_taken():
            if self.refused:
                raise rig.Failed(f"the proxy refused endpoints: {self.refused[0]}")
            return self.taken == set(self.endpoints)

        rig.wait_for(all_taken, "the proxy to take its endpoints")

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        reader = rig.Reader(connection)
        with connection, contextlib.suppress(OSError, EOFError):
            if reader.exactly(len(h2.PREFACE)) != h2.PREFACE:
                return
            connection.sendall(h2.settings())
            streams = {}
            while True:
                length, kind, flags, stream = struct.unpack(">IBBI", b"\0" + reader.exactly(9))
                payload = reader.exactly(length)
                if kind == h2.SETTINGS and not flags & h2.ACK:
                    connection.sendall(h2.frame(h2.SETTINGS, h2.ACK))
                elif kind == h2.PING and not flags & h2.ACK:
                    connection.sendall(h2.frame(h2.PING, h2.ACK, 0, payload))
                elif kind == h2.HEADERS:
                    streams[stream] = Stream(self, connection, stream)
                elif kind == h2.DATA and payload:
                    connection.sendall(h2.window_update(0, length) + h2.window_update(stream, length))
                    streams[stream].take(payload)


class Stream:
    """One call of StreamAggregatedResources. What is told of endpoints is to fit into the first window, 64 KiB."""

    def __init__(self, plane, connection, number):
        self.plane, self.connection, self.number = plane, connection, number
        self.data, self.nonce, self.told = b"", 0, None
        connection.sendall(h2.frame(h2.HEADERS, h2.END_HEADERS, number, h2.block(HEAD)))

    def take(self, data):
        self.data += data
        while len(self.data) >= 5 and len(self.data) >= 5 + int.from_bytes(self.data[1:5], "big"):
            end = 5 + int.from_bytes(self.data[1:5], "big")
            message, self.data = self.data[5:end], self.data[end:]
            self.request(list(fields(message)))

    def request(self, message):
        """envoy.service.discovery.v3.DiscoveryRequest."""
        one = dict(message)
        if one.get(4) != ASSIGNMENT.encode():
            return
        names = {value.decode() for number, value in message if number == 3}
        if 6 in one:
            self.plane.refused.append(one[6])
        elif one.get(5) == str(self.nonce).encode():
            self.plane.taken = set(self.told)
        if names != self.told:
            self.tell(names)

    def tell(self, names):
        """envoy.service.discovery.v3.DiscoveryResponse."""
        self.told, self.nonce = names, self.nonce + 1
        known = [assignment(name, self.plane.endpoints[name]) for name in sorted(names) if name in self.plane.endpoints]
        resources = b"".join(field(2, field(1, ASSIGNMENT) + field(2, each)) for each in known)
        response = field(1, "1") + resources + field(4, ASSIGNMENT) + field(5, str(self.nonce))
        message = b"\0" + struct.pack(">I", len(response)) + response
        for at in range(0, len(message), FRAME_BYTES):
            self.connection.sendall(h2.frame(h2.DATA, 0, self.number, message[at : at + FRAME_BYTES]))
