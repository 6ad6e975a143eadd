"""Processes are read through /proc and end with their children."""

import os
import pathlib
import tempfile
import time
import unittest

from loads import errors, process


class Ending(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.log = pathlib.Path(folder.name, "log")
        self.core = min(os.sched_getaffinity(0))

    def test_leaving_the_block_ends_a_program_and_its_children(self):
        with process.Processes() as processes:
            started = processes.start(["sh", "-c", "sleep 600 & sleep 600"], self.core, self.log)
            until = time.monotonic() + 10
            while len(started.tree()) < 3 and time.monotonic() < until:
                pass
            pids = started.tree()
            self.assertEqual(len(pids), 3)
        # A zombie that nobody has reaped yet has ended, too.
        states = [pathlib.Path(f"/proc/{pid}/stat") for pid in pids]
        self.assertFalse([file for file in states if file.exists() and ") Z " not in file.read_text()])

    def test_cpu_time_of_children_counts(self):
        with process.Processes() as processes:
            started = processes.start(["sh", "-c", "while :; do :; done & wait"], self.core, self.log)
            until = time.monotonic() + 10
            while started.cpu_ns() < 20_000_000 and time.monotonic() < until:
                pass
            self.assertGreaterEqual(started.cpu_ns(), 20_000_000)
            self.assertGreater(started.memory_kb(), 0)

    def test_failing_program_fails_with_what_it_said(self):
        with process.Processes() as processes:
            with self.assertRaisesRegex(errors.Failed, "status 3: no such thing"):
                processes.run(["sh", "-c", "echo no such thing; exit 3"], self.core, 10, self.log)


if __name__ == "__main__":
    unittest.main()
