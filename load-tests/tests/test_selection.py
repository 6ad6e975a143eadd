"""Names on the command line, and what a missing peer does."""

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
