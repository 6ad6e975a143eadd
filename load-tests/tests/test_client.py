"""The rig's own clients: TLS that is verified, and HTTP/2 with bodies both ways, trailers and ends that are none."""

import pathlib
import ssl
import tempfile
import time
import unittest

from loads import checker, client, errors, host, identity, process, tools, upstream


class Tls(unittest.TestCase):
    def setUp(self):
        folders = [pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) for _ in range(2)]
        found = tools.Tools({}, install=True)
        self.ours, self.other = (identity.make(found, folder) for folder in folders)
        server = upstream.EchoServer(("127.0.0.1", 0), upstream.Echo)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.ours.certificate, self.ours.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        self.enterContext(server)
        self.port = server.server_address[1]

    def test_body_is_told(self):
        connection = client.connect(self.port, True, False, self.ours)
        connection.request("POST", "/echo", b"abc")
        self.assertEqual(connection.getresponse().read().decode(), upstream.digest(b"abc"))
        connection.close()

    def test_certificate_of_another_authority_is_refused(self):
        with self.assertRaises(ssl.SSLCertVerificationError):
            client.connect(self.port, True, False, self.other).request("POST", "/echo", b"abc")


class Http2(unittest.TestCase):
    def start(self, origin):
        """An origin server, and a client of it."""
        found = tools.Tools({}, install=True)
        found.library()
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (port,) = host.free_ports(1)
        command = upstream.nghttpd(found.debian("nghttpd", "nghttp2-server"), origin, port, folder)
        processes = self.enterContext(process.Processes())
        started = processes.start(command, "0-1023", folder / "log")
        connection = client.connect(port, False, True, None)
        self.addCleanup(connection.close)
        while True:
            started.require_alive()
            try:
                connection.request("GET", "/")
                connection.getresponse()
                return connection
            except ConnectionRefusedError:
                time.sleep(0.01)

    def test_answers_are_compared(self):
        connection = self.start(upstream.HTTP2)
        body = upstream.digest(upstream.SMALL_BODY.encode())
        check = checker.Checker(connection, "/", body, upstream.HTTP2)
        check.once()
        self.assertEqual(check.requests, 2)
        with self.assertRaisesRegex(errors.Failed, "GET /: wrong answer"):
            checker.Checker(connection, "/", upstream.digest(b"another"), upstream.HTTP2).once()

    def test_body_beyond_the_windows_goes_and_comes_whole(self):
        connection = self.start(upstream.HTTP2)
        posted = bytes(range(256)) * 2000
        connection.request("POST", "/echo", posted)
        self.assertEqual(connection.getresponse().read(), posted)

    def test_grpc_has_its_status_in_the_trailers(self):
        connection = self.start(upstream.GRPC)
        check = checker.Checker(connection, upstream.GRPC_PATH, upstream.digest(upstream.GRPC_MESSAGE), upstream.GRPC)
        check.once()
        self.assertEqual(check.requests, 1)
        self.assertEqual(connection.response.headers["content-type"], "application/grpc")

    def test_answer_without_a_status_is_wrong(self):
        connection = self.start(upstream.HTTP2)
        small = upstream.digest(upstream.GRPC_MESSAGE)
        # That origin sends the message back, and no trailers.
        with self.assertRaisesRegex(errors.Failed, "trailers"):
            checker.Checker(connection, upstream.GRPC_PATH, small, upstream.GRPC).once()

    def test_lost_connection_is_opened_anew(self):
        connection = self.start(upstream.HTTP2)
        connection.close()
        connection.request("GET", "/")
        self.assertEqual(connection.getresponse().status, 200)


if __name__ == "__main__":
    unittest.main()
