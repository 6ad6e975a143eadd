"""Processes of the rig: started on one core, read through /proc, ended by their own ids.

Nothing outlives a run: every process is in `Processes`, which the rig leaves through its `with` block, and the kernel
ends what is left (`setpriv --pdeathsig`) should the rig itself be killed.
"""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import time

from loads import errors


class Process:
    """A program on a core, with its children."""

    def __init__(self, argv, core, log):
        self.name = pathlib.Path(str(argv[0])).name
        self.log, self.core = pathlib.Path(log), core
        self.replaced = []
        with open(self.log, "ab") as sink:
            self.popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *map(str, argv)],
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt at the terminal is the rig's: it ends the programs in order
            )
        self.pid = self.popen.pid

    def take_place(self, other):
        """Another process has taken this one's place, which ends by itself; both are ended together."""
        self.replaced.append(self.popen)
        self.popen, self.pid = other.popen, other.pid

    def is_alive(self):
        return self.popen.poll() is None

    def require_alive(self):
        if not self.is_alive():
            said = self.log.read_text(errors="replace").strip()[-600:]
            raise errors.Failed(f"{self.name} ended with status {self.popen.returncode}: {said or 'it said nothing'}")

    def tree(self):
        """Its process id and those of its descendants."""
        pids = [self.pid]
        for pid in pids:
            for task in tasks(pid):
                with contextlib.suppress(OSError):
                    pids += [int(child) for child in pathlib.Path(task, "children").read_text().split()]
        return pids

    def cpu_ns(self):
        """Time on CPU so far, user and kernel, of all threads."""
        total = 0
        for pid in self.tree():
            for task in tasks(pid):
                with contextlib.suppress(OSError):
                    total += int(pathlib.Path(task, "schedstat").read_text().split()[0])
        return total

    def memory_kb(self, field="VmRSS"):
        """`VmRSS` of /proc/PID/status, or a field of smaps_rollup such as `Pss`, summed over the tree."""
        file = "status" if field.startswith("Vm") else "smaps_rollup"
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                text = pathlib.Path(f"/proc/{pid}/{file}").read_text()
                total += int(re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)[1])
        return total

    def settled_kb(self, deadline_s=5.0):
        """Resident memory once it has stayed the same for half a second."""
        until = time.monotonic() + deadline_s
        last, since = self.memory_kb(), time.monotonic()
        while time.monotonic() < until and time.monotonic() - since < 0.5:
            time.sleep(0.05)
            now = self.memory_kb()
            if now != last:
                last, since = now, time.monotonic()
        return last

    def end(self, grace_s=3.0):
        """Asks it to end, and makes it; its children too."""
        pids = self.tree() if self.is_alive() else []
        with contextlib.suppress(ProcessLookupError):
            self.popen.terminate()
        try:
            self.popen.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for replaced in self.replaced:
            try:
                replaced.wait(grace_s)
            except subprocess.TimeoutExpired:
                replaced.kill()
                replaced.wait()
        for pid in pids[1:]:
            end_orphan(pid, pids[0], grace_s)


def tasks(pid):
    try:
        return [f"/proc/{pid}/task/{task}" for task in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def end_orphan(pid, session, grace_s):
    """Ends a child that its master left behind; the session tells it from a stranger with a recycled id."""
    until = time.monotonic() + grace_s
    with contextlib.suppress(ProcessLookupError):
        while os.getsid(pid) == session:
            os.kill(pid, signal.SIGTERM if time.monotonic() < until else signal.SIGKILL)
            time.sleep(0.01)


class Processes:
    """All that run; ended on leaving the block, the last first."""

    def __init__(self):
        self.running = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.running[:]):
            self.end(process)

    def start(self, argv, core, log):
        process = Process(argv, core, log)
        self.running.append(process)
        return process

    def end(self, process):
        process.end()
        self.running.remove(process)

    def run(self, argv, core, timeout_s, log):
        """Runs a program to its end on a core; what it printed."""
        start = log.stat().st_size if log.exists() else 0
        process = self.start(argv, core, log)
        try:
            status = process.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise errors.Failed(f"{process.name} did not end within {timeout_s:.0f} s") from None
        finally:
            self.end(process)
        said = log.read_bytes()[start:].decode(errors="replace")
        if status:
            raise errors.Failed(f"{process.name} ended with status {status}: {said.strip()[-600:]}")
        return said
