"""Ctrl-C, or a polite end, in the middle of a turn: nothing that the rig started is left, and no file. Needs nginx, HAProxy and wrk."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from loads import process

RUN = pathlib.Path(__file__).resolve().parents[1] / "run"
PATIENCE_S = 60


def born(pid):
    """When a process began, which tells it from another one with its id; `None` once it has ended."""
    with contextlib.suppress(OSError):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    return None


def name(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    return None


def family(pid):
    """A process and all that descend from it."""
    pids = [pid]
    for one in pids:
        for task in process.tasks(one):
            with contextlib.suppress(OSError):
                pids += [int(child) for child in pathlib.Path(task, "children").read_text().split()]
    return pids


class Interrupt(unittest.TestCase):
    def test_ended_run_leaves_no_process_and_no_file(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number.name):
                self.end_in_a_turn_by(number)

    def end_in_a_turn_by(self, number):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        temporary, output, said = folder / "tmp", folder / "out", folder / "said"
        temporary.mkdir()
        # The rig's own generator has no part in this, and would have to be built.
        chosen = ["--scenarios", "keep-alive-1", "--peers", "nginx,haproxy", "--seconds", "600", "--generator", shutil.which("true")]
        with open(said, "wb") as sink:
            rig = subprocess.Popen(
                [sys.executable, RUN, "--no-install", *chosen, "--output", output],
                env={**os.environ, "TMPDIR": str(temporary)},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                # A test in the background has the signal ignored, and would hand that down.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self.addCleanup(rig.wait)
        self.addCleanup(rig.kill)
        until = time.monotonic() + PATIENCE_S
        while "wrk" not in map(name, pids := family(rig.pid)):
            self.assertIsNone(rig.poll(), said.read_text())
            self.assertLess(time.monotonic(), until, said.read_text())
        # The rig itself, the origin and its worker, a proxy, the generator.
        began = {pid: born(pid) for pid in pids}
        self.assertGreaterEqual(len(began), 5)
        self.assertTrue(list(temporary.iterdir()))
        rig.send_signal(number)
        self.assertEqual(rig.wait(PATIENCE_S), 130, said.read_text())
        left = {pid: name(pid) for pid, when in began.items() if when and born(pid) == when}
        self.assertEqual(left, {})
        self.assertEqual(list(temporary.iterdir()), [])
        self.assertEqual([path for path in output.rglob("*") if path.is_file()], [])


if __name__ == "__main__":
    unittest.main()
