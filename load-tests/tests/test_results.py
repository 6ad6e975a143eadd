"""Statistics, tables and charts of made-up samples."""

import csv
import pathlib
import tempfile
import unittest
import xml.etree.ElementTree

from loads import charts, results, table

COLORS = {"ringway": "#ff0000", "nginx": "#00ff00", "haproxy": "#0000ff", "direct": "#000000"}


def made_up():
    facts = {"date": "2026-01-01", "kernel": "6.1", "machine": "one, two", "command": "run"}
    made = results.Results({"keep-alive-64": "small", "idle": "memory"}, dict.fromkeys(COLORS, "1.0"), facts)
    for number, (ours, nginx, haproxy) in enumerate([(9, 20, 30), (10, 18, 99), (50, 22, 30)]):
        made.add("keep-alive-64", "ringway", number, {"cpu_us": ours, "p75_us": 1})
        made.add("keep-alive-64", "nginx", number, {"cpu_us": nginx})
        made.add("keep-alive-64", "haproxy", number, {"cpu_us": haproxy})
    made.notes["keep-alive-64", "direct"] = "no proxy"
    return made


class Statistics(unittest.TestCase):
    def test_median_and_minimum_ignore_an_outlier(self):
        made = made_up()
        self.assertEqual(made.median("keep-alive-64", "ringway", "cpu_us"), 10)
        self.assertEqual(made.minimum("keep-alive-64", "ringway", "cpu_us"), 9)

    def test_ratio_is_by_the_best_of_the_others(self):
        self.assertEqual(made_up().ratio("keep-alive-64", "cpu_us", "ringway", ("nginx", "haproxy")), 0.5)

    def test_what_was_not_measured_is_nothing(self):
        made = made_up()
        self.assertIsNone(made.median("idle", "ringway", "cpu_us"))
        self.assertIsNone(made.ratio("keep-alive-64", "cpu_us", "ringway", ("envoy",)))
        self.assertEqual(made.having("p75_us"), ([], []))

    def test_csv_names_machine_kernel_and_every_sample(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "samples.csv")
            made_up().write_csv(file)
            lines = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        self.assertEqual(len(lines), 9)
        self.assertEqual((lines[0]["kernel"], lines[0]["machine"], lines[0]["value"]), ("6.1", "one, two", "9.000"))


class Tables(unittest.TestCase):
    def test_cell_has_median_and_minimum(self):
        self.assertIn("| keep-alive-64 | 10.0 (9.0) | 20.0 (18.0) | 30.0 (30.0) |", table.render(made_up()))

    def test_peer_that_cannot_is_named_with_its_reason(self):
        made = made_up()
        made.notes["idle", "ringway"] = "not yet"
        self.assertIn("- ringway: not yet (idle)", table.render(made))

    def test_failure_stands_at_the_top(self):
        made = made_up()
        made.failures.append("idle, nginx: wrong answer")
        self.assertLess(table.render(made).index("**FAILED** idle, nginx"), table.render(made).index("## "))

    def test_own_share_is_the_difference_to_direct(self):
        made = made_up()
        made.scenarios["latency-1000"] = "at a rate"
        made.add("latency-1000", "direct", 1, {"p99_us": 400})
        made.add("latency-1000", "ringway", 1, {"p99_us": 550})
        share = table.own_share(made)
        self.assertIn("| latency-1000 | 150 |", share)


class Charts(unittest.TestCase):
    def test_charts_are_written_for_what_was_measured_and_are_xml(self):
        made = made_up()
        for rate in (1000, 2000):
            made.scenarios[f"latency-{rate}"] = ""
            for peer, value in (("direct", 300), ("ringway", 400 + rate / 10)):
                made.add(f"latency-{rate}", peer, 1, {"p50_us": value, "p99_us": value * 3})
        made.add("idle", "ringway", 1, {"rss_at_0_kb": 4096, "rss_at_1000_kb": 8192})
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            written = charts.write(made, COLORS, folder)
            self.assertEqual(written, ["cpu.svg", "latency.svg", "memory.svg"])
            for file in written:
                drawn = xml.etree.ElementTree.parse(folder / file).getroot()
                self.assertTrue(drawn.tag.endswith("svg"))

    def test_longest_bar_is_the_largest_value(self):
        drawn = charts.bars("t", "µs", {"s": {"ringway": 10.0, "nginx": 20.0}}, COLORS)
        root = xml.etree.ElementTree.fromstring(drawn)
        long = {rect.get("fill"): float(rect.get("width")) for rect in root.iter("{http://www.w3.org/2000/svg}rect") if rect.get("x")}
        self.assertAlmostEqual(long["#00ff00"] / long["#ff0000"], 2, places=2)

    def test_ticks_enclose_the_values(self):
        self.assertEqual(charts.linear_ticks(93), [0, 20, 40, 60, 80, 100])
        ticks = charts.log_ticks([(1, 70.0), (2, 1300.0)])
        self.assertEqual((ticks[0], ticks[-1]), (50, 2000))


if __name__ == "__main__":
    unittest.main()
