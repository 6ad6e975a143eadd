"""Names on the command line, and what a missing peer does."""

import contextlib
import io
import unittest

import peers
import scenarios
from loads import cli, errors, tools


class Selection(unittest.TestCase):
    def test_patterns_choose_in_the_known_order(self):
        chosen = cli.chosen(scenarios.known(), "down-1m,keep-alive-1*", "scenario")
        names = [scenario.name for scenario in chosen]
        self.assertEqual(names, ["keep-alive-1", "keep-alive-16", "keep-alive-1024", "down-1m"])

    def test_name_that_matches_nothing_fails(self):
        with self.assertRaises(errors.Failed):
            cli.chosen(peers.known(), "nginx,apache", "peer")

    def test_number_of_workers_is_that_of_the_scenarios_that_spread(self):
        usual, more = scenarios.known(), scenarios.known(8)
        self.assertEqual([name for name in usual if name not in more], [name for name in usual if name.startswith("spread-")])
        changed = more["spread-2-exact-8w"]
        self.assertEqual((changed.setup.workers, changed.setup.exact_balance), (8, True))
        self.assertIn("8 workers", changed.title)
        self.assertEqual(list(scenarios.known(2)), list(usual))
        for wrong in ("0", "-1", "1025"):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                cli.parse(["--workers", wrong])

    def test_scenarios_of_the_smoke_exist(self):
        smoke = cli.parse(["--smoke"])
        self.assertEqual(len(cli.chosen(scenarios.known(), smoke.scenarios, "scenario")), smoke.scenarios.count(",") + 1)

    def test_other_version_than_the_published_one_is_said(self):
        for found, wanted, fits in [
            ("nginx 1.22.1", "1.22", True),
            ("nginx 1.220.1", "1.22", False),
            ("HAProxy 2.6.12-1+deb12u4", "2.6", True),
            ("HAProxy 3.0.11-1", "2.6", False),
            ("something", "2.6", False),
        ]:
            said = io.StringIO()
            with contextlib.redirect_stderr(said):
                self.assertEqual(tools.expect("it", found, wanted), fits, found)
            self.assertEqual("WARNING" in said.getvalue(), not fits)

    def test_revision_says_when_ringway_may_be_of_another(self):
        found = tools.Tools({"ringway": "/bin/true"}, install=True)
        found.ringway()
        self.assertRegex(found.revision(), "^.+, Ringway as it was found$")
        self.assertEqual(tools.revision("/nonexistent"), "unknown")

    def test_ringway_is_there_twice(self):
        self.assertEqual([name for name in peers.known() if name.startswith("ringway")], ["ringway", "ringway-epoll"])

    def test_every_peer_has_a_color_of_its_own(self):
        colors = [peer.color for peer in peers.known().values()]
        self.assertEqual(len(colors), len(set(colors)))

    def test_variants_have_turns_only_where_they_differ(self):
        known, every = scenarios.known(), peers.known()
        for scenario, peer, takes in [
            ("down-1m", "haproxy-splice", True),
            ("down-1k", "haproxy-splice", False),
            ("keep-alive-64", "floor-glommio", True),
            ("keep-alive-16", "floor-glommio", False),
            ("keep-alive-16", "floor-ring", True),
            ("tcp-down-1m", "floor-ring", True),
            ("tcp-down-1m", "floor-ring-splice", True),
            ("tcp-connections", "floor-ring-splice", False),
            ("down-1m", "floor-ring-splice", False),
            ("tcp-connections", "floor-glommio", True),
            ("idle-tcp", "floor-epoll", True),
            ("idle-tcp", "floor-glommio", False),
            ("latency-4000", "direct", True),
            ("idle", "direct", False),
        ]:
            self.assertEqual(known[scenario].is_for(every[peer]), takes, (scenario, peer))

    def test_missing_peer_fails_when_nothing_may_be_installed(self):
        missing = tools.Tools({"envoy": "/nonexistent/envoy"}, install=False)
        with self.assertRaises(errors.Failed):
            peers.known()["envoy"].find(missing)


if __name__ == "__main__":
    unittest.main()
