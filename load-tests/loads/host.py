"""The machine: its description for the results, free ports, descriptors."""

import contextlib
import ctypes
import os
import pathlib
import platform
import random
import re
import resource
import socket
import subprocess

from loads import errors


CONGESTION = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control")
# Of <sched.h>; os.unshare came with Python 3.12.
CLONE_NEWNET = 0x40000000


def description(congestion=None):
    """Kernel, processor, cores, memory and congestion control (the machine's unless another is given), as the results name them."""
    cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = int(re.search(r"^MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)[1])
    return {
        "kernel": platform.release(),
        "machine": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} CPUs, {memory / 1048576:.0f} GB, TCP {congestion or CONGESTION.read_text().strip()}",
    }


def own_network(congestion):
    """From here on a network namespace that has loopback alone, and this congestion control. BBR paces loopback, and with that large bodies cost
    everybody up to twice as much; the machine's own setting is not for us to change."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise errors.Failed(f"--congestion-control needs root for a network namespace: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    try:
        CONGESTION.write_text(congestion)
    except OSError as error:
        raise errors.Failed(f"--congestion-control {congestion}: {error.strerror} (outside the first namespace only those that everybody may choose)")


def stay_on(cores):
    """The rig's own threads (checks, slow clients, echo) leave the proxy's core alone. `cores` as taskset has them."""
    taskset = ["taskset", "-a", "-p", "-c", str(cores), str(os.getpid())]
    done = subprocess.run(taskset, capture_output=True, text=True, check=False)
    if done.returncode:
        raise errors.Failed(f"--load-core {cores}: {done.stderr.strip()}")


def free_ports(count):
    """Ports that nobody listens on, all different, below those that the kernel gives to clients: no connection takes one before its server does."""
    lowest = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = []
    for port in random.SystemRandom().sample(range(lowest // 4, lowest), lowest - lowest // 4):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise errors.Failed(f"fewer than {count} ports are free below {lowest}")


def raise_descriptor_limit():
    """Children inherit it: thousands of connections on both sides of a proxy."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
