"""What generators print is understood, errors included."""

import unittest

from loads import errors, generators

WRK = """\
Running 1s test @ http://127.0.0.1:18080/
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    83.34us  450.78us   8.38ms   98.42%
    Req/Sec    92.03k    11.17k  105.76k    72.73%
  Latency Distribution
     50%   34.00us
     75%   41.00us
     90%   55.00us
     99%    1.54ms
  100315 requests in 1.10s, 32.53MB read
Requests/sec:  91249.79
Transfer/sec:     29.59MB
"""
WRK_ERRORS = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 20\n"
H2LOAD = """\
finished in 1.00s, 76627.00 req/s, 24.85MB/s
requests: 76627 total, 76631 started, 76627 done, 76620 succeeded, 7 failed, 3 errored, 2 timeout
status codes: 76615 2xx, 0 3xx, 4 4xx, 1 5xx
traffic: 24.85MB (26053180) total, 8.04MB (8429300) headers (space savings 0.00%), 13.96MB (14636330) data
                     min         max         mean         sd        +/- sd
time for request:       21us      5.77ms        52us        75us    99.27%
"""


class Parsing(unittest.TestCase):
    def test_wrk_report_gives_counts_and_latency_in_microseconds(self):
        load = generators.parse_wrk(WRK)
        self.assertEqual((load.requests, load.per_second, load.errors), (100315, 91249.79, 0))
        self.assertEqual(load.latency_us, {"p50": 34.0, "p75": 41.0, "p90": 55.0, "p99": 1540.0, "max": 8380.0})

    def test_wrk_errors_of_all_kinds_are_summed(self):
        self.assertEqual(generators.parse_wrk(WRK + WRK_ERRORS).errors, 30)

    def test_h2load_report_counts_failed_and_refused_requests(self):
        load = generators.parse_h2load(H2LOAD)
        self.assertEqual((load.requests, load.per_second, load.errors), (76620, 76627.0, 12))
        self.assertEqual(load.latency_us, {"max": 5770.0})

    def test_own_report_is_the_last_line(self):
        said = 'noise\n{"requests": 10, "per_second": 5.0, "errors": 1, "latency_us": {"p50": 3.0}}\n'
        self.assertEqual(generators.parse_own(said), generators.Load(10, 5.0, 1, {"p50": 3.0}))

    def test_report_of_another_shape_fails(self):
        for parse in (generators.parse_wrk, generators.parse_h2load, generators.parse_own):
            with self.assertRaises(errors.Failed):
                parse("unable to connect to 127.0.0.1:1 Connection refused")

    def test_load_with_errors_fails_unless_tolerated(self):
        load = generators.Load(5, 5.0, errors=1)
        with self.assertRaises(errors.Failed):
            generators.checked("wrk", load, tolerant=False)
        self.assertIs(generators.checked("wrk", load, tolerant=True), load)


if __name__ == "__main__":
    unittest.main()
