"""WebSocket through Ringway to real servers: Autobahn's suite, whose verdict on every case must be that on the server itself, and what the
suite does not look at: pings that pass as they are, single bytes, idle tunnels, the end, many clients at once.

    python3 tests/peers/websocket.py                      # both back ends, and Envoy for what is beside the suite
    python3 tests/peers/websocket.py --seed 7             # with the cases of compressed messages that an earlier run drew
    python3 tests/peers/websocket.py --all                # with all of them
    python3 tests/peers/websocket.py --cases '7.*' --backend epoll

What passes an upgrade at all, half-closes and bytes right behind the head are tests of tests/e2e/tunnels.rs.
"""

import argparse
import contextlib
import json
import pathlib
import random
import re
import socket
import subprocess
import tempfile
import time
import urllib.request

import autobahn
import rig

CASES = [f"{chapter}.*" for chapter in range(1, 12)]
# Those of compressed messages, a thousand messages each, 18 sizes and ways of cutting: five texts (12), seven offers of the extension (13). Some of
# them, others that a seed draws, and all of them with `--all`. For their time alone: a tunnel does not know what is compressed.
COMPRESSED = [f"{chapter}.{kind}.{size}" for chapter, kinds in ((12, 5), (13, 7)) for kind in range(1, kinds + 1) for size in range(1, 19)]
ALWAYS = ["12.1.1", "12.2.10", "12.4.4", "13.1.2", "13.3.8", "13.7.1"]
DRAWN = 12

BOOTSTRAP = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: @admin@}}}
static_resources:
  listeners:
  - &listener
    name: http
    address: {socket_address: {address: 127.0.0.1, port_value: @http@}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          upgrade_configs: [{upgrade_type: websocket}]
          stream_idle_timeout: @idle@
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              # It refuses a Host with another port than its own.
              - {match: {prefix: /autobahn}, route: {cluster: testee, timeout: 0s, host_rewrite_literal: "127.0.0.1:@testee@"}}
              - {match: {prefix: /}, route: {cluster: websockets, timeout: 0s}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: websockets
    connect_timeout: 1s
    load_assignment:
      cluster_name: websockets
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @upstream@}}}}]}]
  - name: testee
    connect_timeout: 1s
    load_assignment:
      cluster_name: testee
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @testee@}}}}]}]
"""
IDLE_S = 0.5
CROWD = 100
HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# RFC 6455, section 1.3, has the answer to that key.
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"


def parts(*arguments):
    """The command of one of the real ends."""
    python = pathlib.Path(rig.binary("RINGWAY_PEERS_PYTHON", "no-other-one", autobahn.HOME.parent / "peers-venv/bin/python"))
    return [python, pathlib.Path(__file__).with_name("websocket_parts.py"), *arguments]


def check(condition, what):
    if not condition:
        raise rig.Failed(what)


def frame(opcode, payload, mask=MASK, fin=True):
    """A frame as a client (masked) or a server sends it."""
    head = bytes([fin << 7 | opcode])
    masked = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([masked | len(payload)])
    else:
        head += bytes([masked | 126]) + len(payload).to_bytes(2)
    if not mask:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


class Client:
    """A connection that has been upgraded, byte by byte."""

    def __init__(self, port, path=b"/"):
        self.socket = socket.create_connection(("127.0.0.1", port), rig.DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = rig.Reader(self.socket)
        self.socket.sendall(HANDSHAKE % path)
        answer = self.reader.message(is_response=True)
        check(answer.status == 101, f"the upgrade was answered {answer.start_line}")
        check(answer.values("sec-websocket-accept") == [ACCEPT], f"another Sec-WebSocket-Accept: {answer.headers}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def expect(self, *frames):
        """These bytes, and no others."""
        wanted = b"".join(frames)
        got = self.reader.exactly(len(wanted))
        check(got == wanted, f"received {got[:200]!r}, not {wanted[:200]!r}")

    def send_apart(self, data, size=1):
        """As many packets."""
        for start in range(0, len(data), size):
            self.socket.sendall(data[start : start + size])

    def expect_end(self):
        rest = self.reader.rest()
        check(rest == b"", f"bytes before the end: {rest[:200]!r}")


def pings_pass_as_they_are(ports):
    with Client(ports["http"]) as client:
        # In the middle of a message, too.
        client.socket.sendall(frame(TEXT, b"first ", fin=False) + frame(PING, b"\x00\xffare you there") + frame(0, b"last"))
        client.expect(frame(PONG, b"\x00\xffare you there", mask=None), frame(TEXT, b"first last", mask=None))


def single_bytes_are_a_message(ports):
    content = bytes(index % 251 for index in range(3000))
    with Client(ports["http"]) as client:
        client.send_apart(frame(BINARY, content))
        client.expect(frame(BINARY, content, mask=None))
        client.send_apart(frame(PING, b"1") + frame(PING, b"2"))
        client.expect(frame(PONG, b"1", mask=None), frame(PONG, b"2", mask=None))


def server_speaks_first_in_frames_of_its_own(ports):
    with Client(ports["http"], b"/talk") as client:
        client.expect(frame(PING, b"are you there", mask=None))
        client.send_apart(frame(PONG, b"are you there"))
        # The last frame of a message that was not known to end is an empty one.
        pieces = [frame(0 if number else BINARY, b"%04d" % number, mask=None, fin=False) for number in range(100)]
        client.expect(*pieces, frame(0, b"", mask=None))
        reason = (4000).to_bytes(2) + b"that was all"
        client.expect(frame(CLOSE, reason, mask=None))
        client.socket.sendall(frame(CLOSE, reason))
        client.expect_end()


def server_ends_after_the_closing_handshake(ports):
    with Client(ports["http"]) as client:
        client.socket.sendall(frame(CLOSE, (1000).to_bytes(2) + b"bye"))
        client.expect(frame(CLOSE, (1000).to_bytes(2) + b"bye", mask=None))
        client.expect_end()


def idle_tunnel_ends_and_a_busy_one_stays(ports):
    with Client(ports["idle"]) as busy, Client(ports["idle"]) as idle:
        idle.socket.sendall(frame(PING, b"once"))
        idle.expect(frame(PONG, b"once", mask=None))
        begun = time.monotonic()
        # Pings of one client, at the pace that the other's silence gives.
        idle.socket.settimeout(IDLE_S / 5)
        while True:
            busy.socket.sendall(frame(PING, b"again"))
            busy.expect(frame(PONG, b"again", mask=None))
            with contextlib.suppress(TimeoutError):
                check(idle.socket.recv(100) == b"", "an idle tunnel said something")
                break
            check(time.monotonic() - begun < rig.DEADLINE_S, "an idle tunnel was not ended")
        took = time.monotonic() - begun
        check(took >= 0.9 * IDLE_S, f"an idle tunnel was ended after {took:.2f} s")
        # By now it is older than its own timeout, and has never been silent for as long.
        busy.socket.sendall(frame(PING, b"still"))
        busy.expect(frame(PONG, b"still", mask=None))


def idle_tunnel_costs_no_time(ports):
    with Client(ports["http"]) as client:
        client.socket.sendall(frame(PING, b"once"))
        client.expect(frame(PONG, b"once", mask=None))
        before = cpu_s(ports["pid"])
        client.socket.settimeout(IDLE_S)
        with contextlib.suppress(TimeoutError):
            client.socket.recv(1)
        spent = cpu_s(ports["pid"]) - before
        check(spent < IDLE_S / 10, f"{spent:.3f} s of CPU time in {IDLE_S} s of silence")


def cpu_s(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def everyone_gets_his_own(ports):
    done = subprocess.run(list(map(str, parts("crowd", ports["http"], CROWD))), capture_output=True, text=True, timeout=120, check=False)
    check(done.returncode == 0, f"{CROWD} clients at once: {done.stdout}{done.stderr[-2000:]}")


CHECKS = [
    pings_pass_as_they_are,
    single_bytes_are_a_message,
    server_speaks_first_in_frames_of_its_own,
    server_ends_after_the_closing_handshake,
    idle_tunnel_ends_and_a_busy_one_stays,
    idle_tunnel_costs_no_time,
    everyone_gets_his_own,
]


def nothing_is_left(admin):
    """Every tunnel has ended on both sides, and was counted."""

    def stats():
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?format=json", timeout=5) as answer:
            return {stat["name"]: stat["value"] for stat in json.load(answer)["stats"] if "value" in stat}

    names = (
        "http.http.downstream_cx_upgrades_active",
        "http.http.downstream_cx_active",
        "cluster.websockets.upstream_cx_active",
        "cluster.testee.upstream_cx_active",
    )
    settled = rig.wait_for(lambda: (now := stats()) and not any(now.get(name) for name in names) and now, "every tunnel to end")
    total = settled["http.http.downstream_cx_upgrades_total"]
    check(total > CROWD, f"only {total} upgrades were counted")


def bootstrap(ports, folder, name):
    """The listener once more with a short idle timeout, under a name of its own."""
    listener = re.search(r"  - &listener\n(.*?)(?=  clusters:)", BOOTSTRAP, re.DOTALL)[1]
    idle = "  - " + listener.strip().replace("name: http\n", "name: idle\n").replace("@http@", "@idle_port@").replace("@idle@", f"{IDLE_S}s") + "\n"
    text = BOOTSTRAP.replace("  - &listener\n    ", "  - ").replace("@idle@", "0s").replace("  clusters:\n", idle + "  clusters:\n")
    values = {**ports, "idle_port": ports["idle"]}
    path = folder / f"{name}.yaml"
    path.write_text(re.sub(r"@([a-z_]+)@", lambda match: str(values[match[1]]), text))
    return path


def compare(verdicts):
    """The suite's findings through each proxy against those of the server itself."""
    direct = verdicts.pop("direct")
    different = []
    for name, found in verdicts.items():
        check(found.keys() == direct.keys(), f"{name}: not the same cases were run")
        for case, facts in found.items():
            for key in autobahn.COMPARED:
                if facts[key] != direct[case][key]:
                    different.append(f"{name}: case {case}: {key}: {facts[key]!r:.300}, directly {direct[case][key]!r:.300}")
    for line in different:
        print(line)
    bad = {case: facts["behavior"] for case, facts in direct.items() if facts["behavior"] in ("FAILED", "WRONG CODE")}
    if bad:
        print(f"the server itself fails: {bad}")
    print(f"Autobahn: {len(direct)} cases, {len(different)} differences from the server itself, through {' and '.join(verdicts)}")
    check(not different, "Autobahn's verdicts differ")


def chosen(arguments):
    """What the suite is asked for."""
    if arguments.all:
        return ["*"]
    if arguments.cases:
        return arguments.cases
    others = [case for case in COMPRESSED if case not in ALWAYS]
    places = sorted(random.Random(arguments.seed).sample(range(len(others)), DRAWN))
    drawn = [others[place] for place in places]
    print(f"seed {arguments.seed}: Autobahn's cases {', '.join(drawn)} as well", flush=True)
    return [*CASES, *ALWAYS, *drawn]


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append")
    parser.add_argument("--cases", action="append", help="of Autobahn's, such as 7.*")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="which cases of compressed messages are drawn")
    parser.add_argument("--all", action="store_true", help="those that are left out for their time, too")
    arguments = parser.parse_args()
    cases = chosen(arguments)

    common = ["--disable-hot-restart", "-l", "warning", "--concurrency", "2"]
    proxies = {backend: [rig.ringway(), *common, "--io-backend", backend] for backend in arguments.backend or ["io_uring", "epoll"]}
    # It has no part in the suite: what the checks beside it expect is what it does, too.
    proxies["envoy"] = [rig.envoy(), *common]
    names = ("admin", "http", "idle")
    upstream, direct, *free = rig.free_ports(2 + (len(names) + 1) * len(proxies))
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(rig.Process(parts("serve", upstream), ready_port=upstream))
        # One for each client, so that none waits for another's.
        stack.enter_context(autobahn.testee(direct))
        servers, running = {"direct": direct}, []
        for index, (name, command) in enumerate(proxies.items()):
            ports = dict(zip((*names, "testee"), free[index * (len(names) + 1) :]), upstream=upstream)
            proxy = stack.enter_context(rig.Process([*command, "-c", bootstrap(ports, folder, name)], ready_port=ports["http"]))
            ports["pid"] = proxy.pid
            for one in CHECKS:
                try:
                    one(ports)
                except (OSError, EOFError) as error:
                    raise rig.Failed(f"{name}: {one.__name__}: {error!r}") from error
                except rig.Failed as failure:
                    raise rig.Failed(f"{name}: {one.__name__}: {failure}") from failure
            print(f"{name}: {len(CHECKS)} checks: ok")
            if name == "envoy":
                nothing_is_left(ports["admin"])
            else:
                stack.enter_context(autobahn.testee(ports["testee"]))
                servers[name] = ports["http"]
                running.append((proxy, ports["admin"]))
        compare(autobahn.run(servers, "/autobahn", cases, folder))
        for proxy, admin in running:
            proxy.check()
            nothing_is_left(admin)


if __name__ == "__main__":
    rig.main(run)
