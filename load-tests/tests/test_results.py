"""Statistics, files, targets, tables and charts of made-up samples."""

import csv
import pathlib
import tempfile
import unittest
import xml.etree.ElementTree

import peers
import scenarios
from loads import charts, errors, results, svg, table, targets

COLORS = {"ringway": "#ff0000", "nginx": "#00ff00", "haproxy": "#0000ff", "floor-ring": "#777777", "direct": "#000000"}


def made_up():
    facts = {"kernel": "6.1", "machine": "one, two"}
    runs = [{"date": "2026-01-01 10:00 UTC", "command": "load-tests/run"}]
    made = results.Results({"keep-alive-64": "small", "idle": "memory"}, dict.fromkeys(COLORS, "1.0"), facts, runs)
    for number, (ours, nginx, haproxy) in enumerate([(9, 20, 30), (10, 18, 99), (50, 22, 30)]):
        made.add("keep-alive-64", "ringway", number, {"cpu_us": ours, "p75_us": 1})
        made.add("keep-alive-64", "nginx", number, {"cpu_us": nginx})
        made.add("keep-alive-64", "haproxy", number, {"cpu_us": haproxy})
    return made


class Statistics(unittest.TestCase):
    def test_median_and_minimum_ignore_an_outlier(self):
        made = made_up()
        self.assertEqual(made.median("keep-alive-64", "ringway", "cpu_us"), 10)
        self.assertEqual(made.minimum("keep-alive-64", "ringway", "cpu_us"), 9)

    def test_what_was_not_measured_is_nothing(self):
        made = made_up()
        self.assertIsNone(made.median("idle", "ringway", "cpu_us"))
        self.assertIsNone(made.best("keep-alive-64", "cpu_us", ("envoy",)))
        self.assertEqual(made.having("p75_us"), ([], []))

    def test_forgotten_scenario_leaves_nothing(self):
        made = made_up()
        made.fail("keep-alive-64", "nginx", "wrong answer")
        made.forget("keep-alive-64")
        self.assertEqual((made.samples, made.notes, made.failures), ([], {}, {}))

    def test_scenario_with_a_failure_is_not_complete(self):
        made = made_up()
        self.assertEqual(made.complete(), {"keep-alive-64"})
        made.fail("keep-alive-64", "nginx", "wrong answer")
        self.assertEqual(made.complete(), set())


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.made = made_up()
        self.made.notes["idle", "nginx"] = "not offered"
        self.made.write(self.folder)

    def open(self, peers=None, facts=None, appends=True):
        peers = peers or {"ringway": "1.0"}
        return results.open_in(self.folder, {}, peers, facts or self.made.facts, list(COLORS), appends)

    def test_csv_names_machine_kernel_and_every_sample(self):
        lines = list(csv.DictReader((self.folder / "results.csv").read_text(encoding="utf-8").splitlines()))
        self.assertEqual(len(lines), 9)
        self.assertEqual((lines[0]["kernel"], lines[0]["machine"], lines[0]["value"]), ("6.1", "one, two", "9.000"))

    def test_appending_takes_over_all_that_was_written(self):
        again = self.open({"direct": "no proxy", "ringway": "1.0"} | dict.fromkeys(COLORS, "1.0"))
        self.assertEqual((again.samples, again.notes, again.runs), (self.made.samples, self.made.notes, self.made.runs))
        self.assertEqual(list(again.peers), list(COLORS))
        self.assertIn("keep-alive-64", again.scenarios, "it stays in the tables")

    def test_appending_to_another_machine_or_version_fails(self):
        with self.assertRaisesRegex(errors.Failed, "another machine"):
            self.open(facts={"kernel": "6.2", "machine": "one, two"})
        with self.assertRaisesRegex(errors.Failed, "are of 1.0, not of 2.0"):
            self.open({"ringway": "2.0"})

    def test_results_are_not_overwritten_unasked(self):
        with self.assertRaisesRegex(errors.Failed, "--append"):
            self.open(appends=False)


class Targets(unittest.TestCase):
    def made(self, ours, floor=None):
        made = results.Results({"s": ""}, dict.fromkeys(COLORS, "1.0"), {})
        for peer, value in {"ringway": ours, "nginx": 20, "haproxy": 30, "floor-ring": floor}.items():
            if value is not None:
                made.add("s", peer, 1, {"cpu_us": value, "p99_us": value * 10})
        made.add("s", "direct", 1, {"p99_us": 50})
        return made

    def word(self, target, *values):
        return target.verdict(self.made(*values)).word()

    def test_limit_is_a_multiple_of_the_better_peer(self):
        target = targets.Cpu("s", 0.85, ("nginx", "haproxy"))
        self.assertEqual(target.verdict(self.made(17)).limit, 17)
        self.assertEqual((self.word(target, 17), self.word(target, 17.1)), ("met", "not met"))

    def test_limit_below_the_floor_is_void_unless_met(self):
        target = targets.Cpu("s", 0.85, ("nginx",))
        self.assertEqual((self.word(target, 18.5, 18), self.word(target, 16, 18)), ("void", "met"))

    def test_fixed_limit_below_the_floor_is_void_unless_met(self):
        target = targets.Fixed("s", "cpu_us", 0.015, "time", "ms", 1 / 1000)
        self.assertEqual((self.word(target, 16, 15.5), self.word(target, 16, 14), self.word(target, 16)), ("void", "not met", "not met"))
        self.assertEqual(self.word(target, 14.5, 15.5), "met")
        self.assertAlmostEqual(target.verdict(self.made(16, 15.5)).floor, 0.0155)

    def test_multiple_of_the_floor_is_never_void(self):
        self.assertEqual(self.word(targets.Cpu("s", 0.5, ("floor-ring",)), 18.5, 18), "not met")

    def test_own_share_is_without_the_direct_run(self):
        verdict = targets.OwnShare("s", "p99_us", 1.0, "haproxy").verdict(self.made(20, 10))
        self.assertEqual((verdict.limit, verdict.found, verdict.floor, verdict.word()), (250, 150, 50, "met"))

    def test_own_share_by_a_figure_is_without_the_direct_run(self):
        target = targets.OwnLimit("s", "p99_us", 150)
        verdict = target.verdict(self.made(20, 10))
        self.assertEqual((verdict.limit, verdict.found, verdict.floor, verdict.word()), (150, 150, 50, "met"))
        self.assertEqual(self.word(target, 20.1), "not met")
        self.assertIsNone(targets.OwnLimit("s", "p99_us", 150, "ringway-epoll").verdict(self.made(20)))

    def test_memory_is_held_to_its_target_on_either_back_end(self):
        made = made_up()
        made.peers["ringway-epoll"] = "1.0"
        for peer, (before, after, each) in {"ringway": (5120, 5632, 1.5), "ringway-epoll": (5120, 5633, 1.51)}.items():
            made.add("idle", peer, 1, {"rss_at_0_kb": before, "rss_after_kb": after, "rss_per_connection_kb": each})
        found = {verdict.what: verdict.word() for verdict in targets.verdicts(made)}
        of_idle = [word for what, word in found.items() if "idle" in what and "connection" in what and "of ringway-epoll" not in what]
        of_epoll = [word for what, word in found.items() if "idle" in what and "of ringway-epoll" in what]
        self.assertEqual((of_idle, of_epoll), (["met", "met"], ["not met", "not met"]))

    def test_epoll_is_held_to_nginx_on_any_number_of_connections_and_on_those_of_a_request_and_for_bodies(self):
        held = {target.scenario for target in targets.TARGETS if vars(target).get("ours") == "ringway-epoll" and vars(target).get("peers") == ("nginx",)}
        kept = {name for name in scenarios.known() if name.removeprefix("keep-alive-").isdigit()}
        self.assertEqual(held, {*kept, "connection-per-request", "down-64k", "down-1m"})

    def test_what_has_a_target_of_speed_has_rounds_enough(self):
        known = scenarios.known()
        for target in targets.TARGETS:
            if isinstance(target, (targets.Cpu, targets.OwnShare, targets.OwnLimit)):
                self.assertGreaterEqual(known[target.scenario].rounds, 8, target.scenario)

    def test_peer_that_was_not_measured_has_no_verdict(self):
        self.assertIsNone(targets.Cpu("s", 0.25, ("envoy",)).verdict(self.made(1)))
        self.assertEqual(targets.verdicts(self.made(1)), [])

    def test_what_is_relayed_has_a_floor(self):
        known, every = scenarios.known(), peers.known()
        for name in [name for name in known if known[name].setup.tcp]:
            floors = {floor for floor in results.FLOORS if known[name].is_for(every[floor])}
            self.assertLessEqual({"floor-ring", "floor-epoll"}, floors, name)
            # Much may be spliced: a relay that copies it is no floor.
            self.assertEqual("floor-epoll-splice" in floors, known[name].large, name)

    def test_targets_name_scenarios_and_peers_that_exist(self):
        known = scenarios.known()
        for target in targets.TARGETS:
            for name in (vars(target).get(field) for field in ("scenario", "many", "few")):
                self.assertTrue(name is None or name in known, name)
            for name in (*vars(target).get("peers", ()), vars(target).get("ours", "ringway")):
                self.assertIn(name, peers.known())


class Tables(unittest.TestCase):
    def test_gap_to_the_floor_stands_beside_what_is_not_met(self):
        for floor, says in [
            (8, "void: the floor is 8.00, ringway 1.25 × it |"),
            (1, "**not met**: the floor is 1.00, ringway 10.00 × it |"),
            (-1, "**not met** |"),
        ]:
            made = made_up()
            for peer, kb in {"ringway": 10, "floor-ring": floor}.items():
                made.add("idle-tcp", peer, 1, {"rss_per_connection_kb": kb})
            self.assertIn(f"| 1.50 KB | 10.00 KB | {says}", table.target_table(made))

    def test_best_proxy_is_bold_with_the_minimum_beside_it(self):
        made = made_up()
        made.add("keep-alive-64", "floor-ring", 1, {"cpu_us": 8})
        line = "| keep-alive-64 | **10.0** (9.0) | 20.0 (18.0) | 30.0 (30.0) | 8.0 | 0.50 | 1.25 |"
        self.assertIn(line, table.glance(made))

    def test_most_requests_are_best(self):
        made = made_up()
        for peer, value in {"ringway": 5, "nginx": 6, "direct": 7}.items():
            made.add("keep-alive-64", peer, 1, {"rps": value})
        self.assertIn("| keep-alive-64 | 5 | **6** | 7 |", table.matrix(made, "rps"))

    def test_peer_that_cannot_is_named_with_its_reason(self):
        made = made_up()
        made.notes["idle", "ringway"] = "not offered: why"
        made.add("idle", "nginx", 1, {"failed": 3})
        self.assertIn("- ringway: not offered: why (idle)", table.render(made))
        self.assertIn("| idle | not offered | **3** |", table.matrix(made, "failed"))

    def test_command_stands_beside_its_revision(self):
        made = made_up()
        made.runs.append({"date": "2026-01-02 10:00 UTC", "command": "load-tests/run --append", "revision": "0123abc-dirty"})
        self.assertIn("\nload-tests/run\nload-tests/run --append  # 0123abc-dirty\n", table.origin(made))

    def test_failure_stands_at_the_top(self):
        made = made_up()
        made.fail("keep-alive-64", "nginx", "wrong answer")
        text = table.render(made)
        self.assertLess(text.index("**FAILED** keep-alive-64, nginx: wrong answer"), text.index("## "))
        self.assertIn("| failed |", text)

    def test_own_share_is_the_difference_to_direct(self):
        made = made_up()
        made.scenarios["latency-1000"] = "at a rate"
        made.add("latency-1000", "direct", 1, {"p99_us": 400})
        made.add("latency-1000", "ringway", 1, {"p99_us": 550})
        share = table.own_share(made)
        self.assertIn("| latency-1000 | 150 |", share)


SVG = "{http://www.w3.org/2000/svg}"


class Charts(unittest.TestCase):
    def everything(self):
        made = made_up()
        for number in (1, 1000):
            for name, metrics in {
                "latency": ("p50_us", "p99_us", "p99.9_us"),
                "routes": ("cpu_us", "rss_kb"),
                "start": ("start_ms",),
            }.items():
                made.scenarios[f"{name}-{number}"] = "x"
                for peer in ("ringway", "nginx", "direct"):
                    made.add(f"{name}-{number}", peer, 1, {metric: number + 70 for metric in metrics})
        for name in ("down-1m", "https-32", "h2-h2-8x32", "tcp-down-1m"):
            made.scenarios[name] = "x"
            made.add(name, "ringway", 1, {"cpu_us": 300, "rps": 1000})
        made.add("idle", "ringway", 1, {"rss_at_0_kb": 4096, "rss_at_1000_kb": 8192})
        return made

    def test_charts_are_written_for_what_was_measured_and_are_xml(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            self.assertEqual(charts.write(made_up(), COLORS, folder), ["cpu.svg"])
            written = charts.write(self.everything(), COLORS, folder)
            self.assertEqual(set(written), set(table.ALT))
            for file in written:
                drawn = xml.etree.ElementTree.parse(folder / file).getroot()
                self.assertEqual((drawn.tag, drawn.get("width")), (f"{SVG}svg", "800"))
                self.assertIn("one, two · Linux 6.1", "".join(drawn.itertext()))

    def test_chart_without_values_any_more_is_removed(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            charts.write(self.everything(), COLORS, folder)
            charts.write(made_up(), COLORS, folder)
            self.assertEqual([file.name for file in folder.iterdir()], ["cpu.svg"])

    def test_text_stays_inside_the_page(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for file in charts.write(self.everything(), COLORS, folder):
                for said in xml.etree.ElementTree.parse(folder / file).getroot().iter(f"{SVG}text"):
                    long = svg.wide(said.text, float(said.get("font-size"))) * 0.9
                    before = {"start": 0, "middle": 0.5, "end": 1}[said.get("text-anchor")] * long
                    left = float(said.get("x")) - before
                    self.assertGreaterEqual(left, 0, said.text)
                    self.assertLessEqual(left + long, svg.WIDTH, said.text)

    def test_longest_bar_is_the_largest_value(self):
        _, parts = svg.bars([("s", "", {"ringway": 10.0, "nginx": 20.0}, None)], COLORS, ("ringway",), 1)
        root = xml.etree.ElementTree.fromstring("<g>" + "".join(parts) + "</g>")
        long = {rect.get("fill"): float(rect.get("width")) for rect in root.iter("rect")}
        self.assertAlmostEqual(long["#00ff00"] / long["#ff0000"], 2, places=2)

    def test_ticks_enclose_the_values(self):
        self.assertEqual(svg.linear_ticks(93), [0, 20, 40, 60, 80, 100])
        ticks = svg.log_ticks([70.0, 1300.0])
        self.assertEqual((ticks[0], ticks[-1]), (50, 2000))


if __name__ == "__main__":
    unittest.main()
