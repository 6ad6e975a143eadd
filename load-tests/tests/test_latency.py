"""The rate that a run finds out for itself: once, from its first peer, for all of them."""

import types
import unittest

from loads import generators, results
from scenarios import latency


class Half(unittest.TestCase):
    def test_half_is_of_the_usual_rate_in_whole_steps(self):
        self.assertEqual(latency.half([60_450, 90_000, 10]), 30_200)
        self.assertEqual(latency.half([20]), latency.STEP)

    def test_first_peer_is_asked_and_all_have_its_half(self):
        asked = []

        def own(port, *_):
            asked.append(port)
            return generators.Load(1, 40_000.0)

        bench = types.SimpleNamespace(rates={}, generators=types.SimpleNamespace(own=own))
        scenario = latency.Half()
        self.assertEqual([scenario.rate(bench, port) for port in (1, 2)], [20_000, 20_000])
        self.assertEqual(asked, [1] * latency.SATURATIONS)

    def test_rate_has_a_table(self):
        self.assertIn("rate", results.METRICS)


if __name__ == "__main__":
    unittest.main()
