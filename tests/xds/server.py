"""A control plane that does what a script says: both variants of ADS, every request kept.

A script tells it the state of each type; it sends what the variant sends of a change, and can be made to say anything else. Needs grpcio and
xds-protos (`.ci/run install`).
"""

import concurrent.futures
import contextlib
import dataclasses
import threading
import time

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2

import peers  # noqa: F401 (before rig)
import rig
from resources import TYPES, kind_of

QUIET_S = 0.4  # so long nothing comes when nothing more is to come
MESSAGE_BYTES_MAX = 256 << 20
UNAVAILABLE = 14  # google.rpc.Code


@dataclasses.dataclass
class Request:
    """A request as it came."""

    kind: str
    raw: object
    read: bool = False

    @property
    def error(self):
        return self.raw.error_detail.message if self.raw.HasField("error_detail") else None

    @property
    def nonce(self):
        return self.raw.response_nonce

    def facts(self):
        """What of it is compared: all but the node's text and the error's words."""
        raw = self.raw
        told = {"nonce": self.nonce, "node": bool(raw.node.id), "answer": self.answer}
        if isinstance(raw, discovery_pb2.DiscoveryRequest):
            return told | {"version": raw.version_info, "names": sorted(raw.resource_names)}
        return told | {
            "subscribe": sorted(raw.resource_names_subscribe),
            "unsubscribe": sorted(raw.resource_names_unsubscribe),
            "has": dict(sorted(raw.initial_resource_versions.items())),
        }

    @property
    def answer(self):
        if self.error is not None:
            return "NACK"
        return "ACK" if self.nonce else "asks"


class Stream:
    """One stream of the proxy."""

    def __init__(self, number, is_delta, changed):
        self.number = number
        self.is_delta = is_delta
        self.changed = changed
        self.requests = []
        self.out = []
        self.sent = 0  # responses
        self.nonces = {}  # the last one of each type
        self.told = {kind: {} for kind in TYPES}  # delta: what the proxy has
        self.over = None  # how the server ends it: "", or a status code
        self.gone = False

    # --- the script's side

    def push(self, kind, version, resources, removed=(), errors=(), ttls=None):
        """Sends a response as it is given: bytes of resources by name, or ready `Any`s, and names of which it cannot tell any; its nonce.

        `ttls`: for how many seconds those of these names are told.
        """
        with self.changed:
            self.sent += 1
            nonce = f"s{self.number}-{self.sent}"
            self.nonces[kind] = nonce
            if self.is_delta:
                response = discovery_pb2.DeltaDiscoveryResponse(type_url=TYPES[kind], nonce=nonce, system_version_info=version)
                response.removed_resources.extend(removed)
                for name, resource in resources:
                    wrapped = response.resources.add(name=name, version=version)
                    if resource is not None:
                        wrapped.resource.CopyFrom(packed(resource))
                    if name in (ttls or {}):
                        wrapped.ttl.FromSeconds(ttls[name])
            else:
                response = discovery_pb2.DiscoveryResponse(type_url=TYPES[kind], nonce=nonce, version_info=version)
                response.resources.extend(enveloped(name, resource, (ttls or {}).get(name)) for name, resource in resources)
            for name in errors:
                error = response.resource_errors.add()
                error.resource_name.name, error.error_detail.code, error.error_detail.message = name, UNAVAILABLE, "not now"
            self.out.append(response)
            self.changed.notify_all()
            return nonce

    def put(self, kind, version, state, was):
        """Tells the whole state of a type: all of it, or what has changed since the proxy was told."""
        if not self.is_delta:
            return self.push(kind, version, state.items())
        known = self.told[kind] or was
        changes = [(name, resource) for name, resource in state.items() if known.get(name) != resource]
        removed = [name for name in known if name not in state]
        self.told[kind] = dict(state)
        return self.push(kind, version, changes, removed)

    def close(self, code=""):
        with self.changed:
            self.over = code
            self.changed.notify_all()

    def wait(self, condition, what, deadline_s=rig.DEADLINE_S):
        with self.changed:
            if not self.changed.wait_for(lambda: condition() or self.gone, deadline_s) or not condition():
                raise rig.Failed(f"stream {self.number}{' (gone)' if self.gone else ''}: {what} did not come")
            return condition()

    def asked(self, kind, condition=lambda request: True, deadline_s=rig.DEADLINE_S):
        """The next request of a type that fits and was not read before."""

        def find():
            return next((each for each in self.requests if each.kind == kind and not each.read and condition(each)), None)

        found = self.wait(find, f"a request for {kind}", deadline_s)
        found.read = True
        return found

    def answered(self, kind, deadline_s=rig.DEADLINE_S):
        """What the last response of a type was answered with."""
        nonce = self.nonces[kind]
        return self.asked(kind, lambda request: request.nonce == nonce and request.answer != "asks", deadline_s)

    def settle(self, quiet_s=QUIET_S):
        """Waits until nothing more comes."""
        with self.changed:
            while True:
                count = len(self.requests)
                self.changed.wait_for(lambda: len(self.requests) > count, quiet_s)
                if len(self.requests) == count:
                    return

    # --- the wire's side

    def read(self, requests):
        try:
            for raw in requests:
                kind = kind_of(raw.type_url)
                with self.changed:
                    self.requests.append(Request(kind, raw))
                    self.changed.notify_all()
        except grpc.RpcError:
            pass
        with self.changed:
            self.gone = True
            self.changed.notify_all()

    def responses(self, context):
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.out or self.over is not None or self.gone)
                if self.gone:
                    return
                if not self.out:
                    break
                response = self.out.pop(0)
            yield response
        if self.over:
            context.abort(getattr(grpc.StatusCode, self.over), "as the script says")


class Server(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """The control plane: streams in the order in which they came."""

    def __init__(self, is_delta, port):
        self.is_delta = is_delta
        self.port = port
        self.changed = threading.Condition()
        self.streams = []
        self.refuses = False
        self.server = None
        self.start()

    def start(self):
        options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX), ("grpc.max_send_message_length", MESSAGE_BYTES_MAX), ("grpc.so_reuseport", 0)]
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=options)
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, self.server)
        rig.wait_for(self.listens, f"port {self.port}")
        self.server.start()

    def listens(self):
        """Whether it has its port: a process that another thread begins holds what this one had for a moment longer."""
        with contextlib.suppress(RuntimeError):
            return self.server.add_insecure_port(f"127.0.0.1:{self.port}")

    def stop(self):
        """As a control plane that is killed."""
        self.server.stop(0).wait()

    def stream(self, number, deadline_s=rig.DEADLINE_S):
        """The stream of this number, from 1 on."""
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.streams) >= number, deadline_s):
                raise rig.Failed(f"stream {number} was not opened")
            return self.streams[number - 1]

    def StreamAggregatedResources(self, requests, context):
        return self.serve(requests, context, False)

    def DeltaAggregatedResources(self, requests, context):
        return self.serve(requests, context, True)

    def serve(self, requests, context, is_delta):
        if is_delta != self.is_delta or self.refuses:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        with self.changed:
            stream = Stream(len(self.streams) + 1, is_delta, self.changed)
            self.streams.append(stream)
            self.changed.notify_all()
        threading.Thread(target=stream.read, args=(requests,), daemon=True).start()
        yield from stream.responses(context)

    def elapsed(self, condition, deadline_s):
        """How long it takes until something is so; `None`: longer."""
        begin = time.monotonic()
        with self.changed:
            return time.monotonic() - begin if self.changed.wait_for(condition, deadline_s) else None


def enveloped(name, resource, ttl_s):
    """A resource as a state of the world carries it: in an envelope, if it is told for so many seconds."""
    if ttl_s is None:
        return packed(resource)
    envelope = discovery_pb2.Resource(name=name, resource=packed(resource))
    envelope.ttl.FromSeconds(ttl_s)
    return packed(envelope)


def packed(resource):
    """A resource as a response carries it."""
    if isinstance(resource, any_pb2.Any):
        return resource
    found = any_pb2.Any()
    found.Pack(resource)
    return found
