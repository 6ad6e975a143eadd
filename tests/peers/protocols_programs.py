"""Real clients of real servers (protocols_servers.py) through `tcp_proxy`, which knows none of their protocols: databases, mail, SSH, gRPC, HTTP/2 and
WebSocket. What a client gets must be right, not only the same through both proxies."""

import concurrent.futures
import hashlib
import os
import pwd
import random
import re
import smtplib
import subprocess
import time

import grpc
import rig
import websocket
from protocols_case import case, describe
from protocols_servers import tool

HELD_S = 2.0  # how long subscribers and blocked clients wait for their message
# Client and server often end at the same time.
WHO_ENDS = "upstream_cx_destroy_(local|remote)"
FIVE_MB = random.Random(5).randbytes(5_000_000)


def real(name, server=None, **fields):
    """A case in front of a real server. How many bytes its clients send is their own affair."""
    return case(name, servers={}, clusters={"": [server or name]}, loose=True, uncounted=WHO_ENDS, within_s=5.0, **fields)


def expect(got, wanted, what):
    if got != wanted:
        raise rig.Failed(f"{what}: {describe(got) if isinstance(got, bytes) else got!r}, not {describe(wanted) if isinstance(wanted, bytes) else wanted!r}")


# --- PostgreSQL


def psql(at, script, *arguments):
    argv = [rig.binary("RINGWAY_PSQL", "psql"), "-X", "-h", at.address, "-p", at.port, "-U", "postgres", "-At", "-v", "ON_ERROR_STOP=1", *arguments]
    return tool(argv, given=script)


@real("postgres")
def postgres(at):
    expect(psql(at, b"select 6 * 7;"), b"42\n", "a query")
    # Bulk in one direction, then in the other.
    rows = [(number, hashlib.sha256(b"%d" % number).hexdigest()) for number in range(60_000)]
    text = "".join(f"{number}\t{word}\n" for number, word in rows).encode()
    script = b"create temp table t (n int, w text);\ncopy t from stdin;\n" + text + b"\\.\nselect count(*), sum(n) from t;\ncopy (select n, w from t order by n) to stdout;\n"
    wanted = f"CREATE TABLE\nCOPY {len(rows)}\n{len(rows)}|{sum(number for number, _ in rows)}\n".encode() + text
    got = psql(at, script)
    expect(got, wanted, "COPY")
    # An answer that comes after a silence, a statement that is cancelled (by a connection of its own), and many sessions.
    expect(psql(at, b"select 1 from pg_sleep(1);"), b"1\n", "a slow query")
    cancelled = tool([rig.binary("RINGWAY_PSQL", "psql"), "-X", "-h", at.address, "-p", at.port, "-U", "postgres", "-At", "-c",
                      "set statement_timeout = 300; select pg_sleep(30)"], allowed=(1,))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        sessions = list(pool.map(lambda number: psql(at, b"select %d;" % number), range(24)))
    expect(sessions, [b"%d\n" % number for number in range(24)], "sessions")
    return {"COPY": describe(got), "cancelled": cancelled, "sessions": len(sessions)}


# --- Redis


def redis_cli(at, *arguments, given=None):
    return tool([rig.binary("RINGWAY_REDIS_CLI", "redis-cli"), "-h", at.address, "-p", at.port, *arguments], given=given)


@real("redis")
def redis(at):
    key = at.key
    commands = b"".join(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$6\r\n%06d\r\n" % (len(name := b"%s-%d" % (key.encode(), number)), name, number) for number in range(20_000))
    piped = redis_cli(at, "--pipe", given=commands).decode().splitlines()[-1]
    expect(piped, "errors: 0, replies: 20000", "pipelining")
    expect(redis_cli(at, "get", f"{key}-19999"), b"019999\n", "what was piped")
    redis_cli(at, "-x", "set", f"{key}-big", given=FIVE_MB)
    expect(redis_cli(at, "get", f"{key}-big"), FIVE_MB + b"\n", "a value of 5 MB")
    argv = [rig.binary("RINGWAY_REDIS_CLI", "redis-cli"), "-h", at.address, "-p", str(at.port)]
    with subprocess.Popen([*argv, "subscribe", key], stdout=subprocess.PIPE) as subscriber, subprocess.Popen([*argv, "blpop", f"{key}-list", "20"], stdout=subprocess.PIPE) as blocked:
        try:
            said = [subscriber.stdout.readline() for _ in range(3)]
            # Silent connections, which nothing ends.
            time.sleep(HELD_S)
            published = redis_cli(at, "publish", key, "the message")
            said += [subscriber.stdout.readline() for _ in range(3)]
            redis_cli(at, "rpush", f"{key}-list", "the element")
            popped = blocked.communicate(timeout=10)[0]
        finally:
            subscriber.kill()
            blocked.kill()
    expect(said[-1], b"the message\n", "what a subscriber hears")
    expect(popped, b"%s-list\nthe element\n" % key.encode(), "what a blocked client gets")
    return {"pipelined": piped, "published to": published, "heard": said[-1]}


# --- MariaDB


def mariadb_client(at, script):
    return tool([rig.binary("RINGWAY_MARIADB", "mariadb"), "--no-defaults", "-h", at.address, "-P", at.port, "-u", "root", "-N", "--raw", "--max-allowed-packet=64M"], given=script)


@real("mariadb")
def mariadb(at):
    """The server speaks first."""
    expect(mariadb_client(at, b"select 6 * 7;"), b"42\n", "a query")
    expect(mariadb_client(at, b"select repeat('x', 5000000);"), b"x" * 5_000_000 + b"\n", "an answer of 5 MB")
    word = hashlib.sha256(FIVE_MB).hexdigest()
    expect(mariadb_client(at, b"select sha2(x'" + FIVE_MB.hex().encode() + b"', 256);"), word.encode() + b"\n", "a statement of 10 MB")
    expect(mariadb_client(at, b"select sleep(1);"), b"0\n", "a slow query")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        sessions = list(pool.map(lambda number: mariadb_client(at, b"select %d;" % number), range(24)))
    expect(sessions, [b"%d\n" % number for number in range(24)], "sessions")
    return {"sessions": len(sessions)}


# --- SMTP


@real("smtp")
def smtp(at):
    """The server speaks first; a message of 1 MB, with lines that begin with a dot, and one after it in the same session."""
    chance = random.Random(at.name)
    lines = ["." * (number % 3) + chance.randbytes(35).hex() for number in range(14_000)]
    with smtplib.SMTP(at.address, at.port, timeout=30) as client:
        greeting = client.noop()
        for number in (1, 2):
            text = f"Subject: {at.key}-{number}\r\nFrom: a@a.example\r\nTo: b@b.example\r\n\r\n" + "\r\n".join(lines) + "\r\n"
            client.sendmail("a@a.example", ["b@b.example"], text)
    found = 0
    for path in (at.programs.folder / "smtp" / "mail" / "new").iterdir():
        content = path.read_text()
        if f"Subject: {at.key}-" in content:
            expect(content.split("\n\n", 1)[1].split("\n")[: len(lines)], lines, "the message")
            found += 1
    expect(found, 2, "messages")
    return {"greeting": greeting, "messages": found}


# --- SSH


@real("ssh")
def ssh(at):
    """5 MB both ways through `cat`, and an exit code."""
    folder = at.programs.folder / "ssh"
    options = ["-F", "none", "-i", folder / "client", "-p", at.port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
               "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes"]
    argv = [rig.binary("RINGWAY_SSH", "ssh"), *options, f"{pwd.getpwuid(os.getuid()).pw_name}@{at.address}"]
    got = tool([*argv, "cat"], given=FIVE_MB)
    expect(got, FIVE_MB, "cat over SSH")
    tool([*argv, "exit 7"], allowed=(7,))
    return {"cat": describe(got)}


# --- gRPC, HTTP/2, WebSocket


@real("grpc")
def grpc_through(at):
    cases = ["empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "cancel_after_begin", "cancel_after_first_response"]
    failures = [failure for one in cases if (failure := grpc.run_case(one, at.port, host=at.address))]
    if failures:
        raise rig.Failed("\n".join(failures))
    return {"cases": " ".join(cases)}


@real("http2")
def http2(at):
    wanted = (at.programs.folder / "http2" / "file").read_bytes()
    curl = [rig.binary("RINGWAY_CURL", "curl"), "-sS", "--http2-prior-knowledge", f"http://127.0.0.1:{at.port}/file"]
    expect(tool(curl), wanted, "a file of 10 MB")
    done = tool([rig.binary("RINGWAY_H2LOAD", "h2load"), "-n", "400", "-c", "4", "-m", "10", f"http://127.0.0.1:{at.port}/no-such-file"]).decode()
    counted = re.search(r"requests: .*", done)[0]
    expect("400 done" in counted and "0 errored" in counted, True, counted)
    return {"h2load": counted}


@real("websocket")
def websockets(at):
    tool(websocket.parts("crowd", at.port, 20))
    with websocket.Client(at.port, b"/talk") as client:
        client.expect(websocket.frame(websocket.PING, b"are you there", mask=None))
    return {"clients": 20}
