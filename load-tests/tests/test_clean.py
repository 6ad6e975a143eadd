"""What is published names no place of this machine."""

import unittest

from loads import clean


class Cleaning(unittest.TestCase):
    def test_paths_of_options_are_shortened_also_relative_ones(self):
        paths = {"--ringway", "--output"}
        said = clean.command(["--ringway", "/tmp/me/ringway", "--output=../mine/out", "--rounds", "3"], paths)
        self.assertEqual(said, "load-tests/run --ringway ringway --output=out --rounds 3")

    def test_patterns_are_quoted_as_they_were_typed(self):
        said = clean.command(["--scenarios", "down-*,up-1k"], set())
        self.assertEqual(said, "load-tests/run --scenarios 'down-*,up-1k'")

    def test_paths_in_messages_are_shortened(self):
        said = clean.text("nginx: open() \"/tmp/ringway-load-x/nginx.conf\" failed (/usr/bin/wrk: /etc/a:1)")
        self.assertEqual(said, "nginx: open() \"nginx.conf\" failed (wrk: a:1)")

    def test_requests_urls_and_ratios_are_no_paths(self):
        for said in ("GET /f/64k: wrong answer", "http://127.0.0.1:80/tmp/x", "3/4 of it", "and/or"):
            self.assertEqual(clean.text(said), said)

    def test_versions_are_names_and_numbers(self):
        for said, shown in {
            "/opt/x/envoy  version: 9e5580933739/1.40.0/Clean/RELEASE/BoringSSL": "envoy 1.40.0 (BoringSSL, 9e55809337)",
            "ringway  version: 0000000000/0.1.0/Clean/RELEASE/NoTLS": "ringway 0.1.0 (NoTLS)",
            "nginx version: nginx/1.22.1": "nginx 1.22.1",
            "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/": "HAProxy 2.6.12-1+deb12u4",
            "something else": "something else",
        }.items():
            self.assertEqual(clean.version(said), shown)


if __name__ == "__main__":
    unittest.main()
