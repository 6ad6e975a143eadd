"""The checking client finds wrong bytes and lost connections."""

import http.client
import unittest

from loads import checker, errors, upstream


class Origin(upstream.Echo):
    """The echo, and a body for GET; `/lost` ends without an answer."""

    body = b"right"

    def do_GET(self):
        if self.path == "/lost":
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)


class Checking(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(upstream.EchoServer(("127.0.0.1", 0), Origin))

    def checker(self, path, expected=b"right", tolerant=False):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=30)
        return checker.Checker(connection, path, upstream.digest(expected), tolerant=tolerant)

    def test_right_answers_are_counted(self):
        check = self.checker("/")
        with check:
            pass
        check.once()
        self.assertEqual((check.requests, check.lost), (4, 0))

    def test_wrong_body_fails(self):
        check = self.checker("/", b"another")
        with self.assertRaisesRegex(errors.Failed, "GET /: wrong answer"):
            with check:
                pass
        with self.assertRaisesRegex(errors.Failed, "GET /: wrong answer"):
            self.checker("/", b"another", tolerant=True).once()

    def test_lost_connection_fails(self):
        with self.assertRaisesRegex(errors.Failed, "lost its connection"):
            self.checker("/lost").once()

    def test_no_answer_at_all_fails_even_where_losses_are_tolerated(self):
        check = self.checker("/lost", tolerant=True)
        with self.assertRaisesRegex(errors.Failed, "no answer"):
            check.once()
        self.assertEqual(check.lost, 1)


if __name__ == "__main__":
    unittest.main()
