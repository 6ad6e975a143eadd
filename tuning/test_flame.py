"""Tests of the folding, the picture and who may record one: python3 -m unittest discover -s tuning"""

import importlib.machinery
import importlib.util
import pathlib
import sys
import unittest
import xml.etree.ElementTree as ElementTree
from collections import Counter

import flame

SCRIPT = """\
worker-0  4242
\tffffffff81000010 tcp_sendmsg+0x20 ([kernel.kallsyms])
\tffffffff81000020 do_syscall_64+0x5c ([kernel.kallsyms])
\t    55d0c0de0010 ringway::runtime::ring::Ring::visit::h0123456789abcdef+0x1f (/usr/bin/ringway)
\t    55d0c0de0000 main+0x1 (/usr/bin/ringway)

worker-1  4243
\tffffffff81000011 tcp_sendmsg+0x21 ([kernel.kallsyms])
\tffffffff81000020 do_syscall_64+0x5c ([kernel.kallsyms])
\t    55d0c0de0010 ringway::runtime::ring::Ring::visit::h0123456789abcdef+0x1f (/usr/bin/ringway)
\t    55d0c0de0000 main+0x1 (/usr/bin/ringway)

log writer  4244
\t    7f0000000000 [unknown] (/usr/lib/libc.so.6)

"""

SWITCHES = """\
worker-0    10 100.000000: PERF_RECORD_SWITCH IN         
worker-0    10 100.100000: context-switches: 
\tffffffff81000010 schedule ([kernel.kallsyms])
\t    55d0c0de0010 wait (/usr/bin/ringway)
\tffffffffffffffff [unknown] ([unknown])

worker-0    10 100.100001: PERF_RECORD_SWITCH OUT        
other 7     77 100.200000: context-switches: 
\tffffffff81000010 schedule ([kernel.kallsyms])

worker-0    10 100.350000: PERF_RECORD_SWITCH IN         
worker-0    10 100.400000: context-switches: 
\tffffffff81000010 schedule ([kernel.kallsyms])
\t    55d0c0de0010 wait (/usr/bin/ringway)

worker-0    10 100.400001: PERF_RECORD_SWITCH OUT preempt        
worker-0    10 100.500000: PERF_RECORD_SWITCH IN         
worker-0    10 100.600000: context-switches: 
"""


def program():
    """`flamegraph` as a module."""
    path = str(pathlib.Path(__file__).with_name("flamegraph"))
    loader = importlib.machinery.SourceFileLoader("flamegraph", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("flamegraph", loader))
    keeps, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = keeps
    return module


class Permission(unittest.TestCase):
    def test_who_may_sample_follows_the_kernels_setting(self):
        forbidden = program().forbidden
        for paranoid, whole, user_only in [(-1, True, True), (1, True, True), (2, False, True), (3, False, False), (4, False, False)]:
            self.assertEqual(forbidden(paranoid, False) is None, whole, paranoid)
            self.assertEqual(forbidden(paranoid, True) is None, user_only, paranoid)
        self.assertIn("--user-only", forbidden(2, False))


class Folding(unittest.TestCase):
    def test_workers_with_the_same_stack_are_one(self):
        stacks = flame.fold(SCRIPT)
        names = {tuple(name for name, _ in stack): weight for stack, weight in stacks.items()}
        visit = ("worker", "main", "ringway::runtime::ring::Ring::visit", "do_syscall_64", "tcp_sendmsg")
        self.assertEqual(names, {visit: 2, ("log writer", "[libc.so.6]"): 1})

    def test_side_of_a_frame_is_its_file(self):
        self.assertEqual(flame.frame_of("\tffffffff81 f+0x1 ([kernel.kallsyms])"), ("f", flame.KERNEL))
        self.assertEqual(flame.frame_of("\tffffffffc0 g+0x1 (/lib/modules/6.1/x.ko)"), ("g", flame.KERNEL))
        self.assertEqual(flame.frame_of("\t55 <a as b>::c(d)+0x1 (/bin/x)"), ("<a as b>::c(d)", flame.USER))
        self.assertEqual(flame.frame_of("\t55 x (/bin/x (deleted))"), ("x", flame.USER))
        self.assertIsNone(flame.frame_of("\tffffffffffffffff [unknown] ([unknown])"), "where unwinding ended")

    def test_garbage_folds_to_nothing_that_breaks(self):
        for text in ["", "\n\n\n", "# comment\n", "header only", "a 1\n\tno frame\n\n", "\x00\n\n\xff"]:
            for stack, weight in flame.fold(text).items():
                self.assertGreaterEqual(len(stack), 1)
                self.assertGreater(weight, 0)
        self.assertEqual(flame.fold_off_cpu("x 1 1.0: PERF_RECORD_SWITCH IN\n\t1 f (g)"), Counter())

    def test_waiting_lasts_from_leaving_to_coming_back(self):
        stacks = flame.fold_off_cpu(SWITCHES)
        ((stack, waited),) = stacks.items()
        self.assertEqual([name for name, _ in stack], ["worker", "wait", "schedule"])
        self.assertAlmostEqual(waited, 350, places=3)


class Picture(unittest.TestCase):
    def test_widths_are_shares_and_frames_lie_within_their_callers(self):
        root = ElementTree.fromstring(flame.svg(flame.fold(SCRIPT), "a <title> & more", "samples"))
        space = "{http://www.w3.org/2000/svg}"
        found = {}
        for group in root.iter(f"{space}g"):
            box = group.find(f"{space}rect")
            found[group.find(f"{space}title").text.split(": ")[0]] = (float(box.get("x")), float(box.get("width")), float(box.get("y")))
        self.assertAlmostEqual(found["worker"][1], flame.WIDTH * 2 / 3, delta=1)
        self.assertAlmostEqual(found["log writer"][1], flame.WIDTH / 3, delta=1)
        self.assertEqual(found["main"][0], found["worker"][0])
        self.assertLess(found["main"][2], found["worker"][2], "callees are drawn above")

    def test_narrow_frames_are_left_out(self):
        stacks = Counter({(("a", flame.USER),): 999, (("b", flame.USER),): 1})
        picture = flame.svg(stacks, "t", "samples", min_share=0.5)
        self.assertIn("<title>a:", picture)
        self.assertNotIn("<title>b:", picture)

    def test_hottest_frames_are_the_leaves(self):
        ((share, name), *_) = flame.hottest(flame.fold(SCRIPT), 1)
        self.assertEqual((round(share), name), (67, "tcp_sendmsg"))


if __name__ == "__main__":
    unittest.main()
