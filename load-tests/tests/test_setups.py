"""Who takes which setup, and what is behind it."""

import pathlib
import tempfile
import unittest

import peers
from loads import errors, identity, upstream
from peers import Place, Setup

TLS, BOTH = Setup(tls=True), Setup(http2=True, upstream_http2=True)
GRPC = Setup(http2=True, upstream_http2=True, grpc=True)
TCP = Setup(tcp=True)
H2_TLS, H1_H2 = Setup(tls=True, http2=True), Setup(upstream_http2=True)
NEW = (TLS, BOTH, GRPC, H2_TLS, H1_H2, TCP)


class Setups(unittest.TestCase):
    def setUp(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        named = identity.Identity(*(folder / f"{name}.pem" for name in ("authority", "certificate", "key", "both")))
        self.place = Place(8080, 9901, 8081, folder, named)

    def command(self, name, setup):
        """What a peer would be started with."""
        peer = peers.known()[name]
        peer.binary = name
        return peer.command(setup, self.place)

    def config(self, name, setup):
        """The file that it would be given."""
        command = self.command(name, setup)
        return pathlib.Path(command[-1] if name != "envoy" else command[2]).read_text()

    def refuses(self, name, setup):
        try:
            self.command(name, setup)
        except errors.Unsupported:
            return True
        return False

    def test_what_a_peer_cannot_is_refused(self):
        no_tcp = tuple(setup for setup in NEW if setup != TCP)
        for name, refused in {"nginx": (BOTH, H1_H2), "haproxy": (), "envoy": (), "pingora": NEW, "floor-ring": no_tcp}.items():
            self.assertEqual([setup for setup in NEW if self.refuses(name, setup)], [s for s in NEW if s in refused], name)

    def test_each_side_speaks_what_was_asked(self):
        for name, setup, has, has_not in [
            ("nginx", Setup(), ["listen 127.0.0.1:8080 backlog"], ["ssl", "http2"]),
            ("nginx", TLS, ["listen 127.0.0.1:8080 ssl backlog", "ssl_protocols TLSv1.3"], ["http2"]),
            ("nginx", H2_TLS, ["ssl http2"], ["grpc"]),
            ("nginx", GRPC, ["listen 127.0.0.1:8080 http2", "grpc_pass grpc://u0"], ["ssl"]),
            ("haproxy", Setup(), ["backlog 4096\n"], ["proto", "ssl"]),
            ("haproxy", TLS, ["ssl-min-ver TLSv1.3 alpn http/1.1\n"], ["proto"]),
            ("haproxy", H2_TLS, ["alpn h2,http/1.1\n"], ["proto"]),
            ("haproxy", BOTH, ["backlog 4096 proto h2\n", "purge-delay 1h proto h2\n"], ["ssl"]),
            ("haproxy", TCP, ["mode tcp\n", "server s 127.0.0.1:8081\n"], ["http-reuse", "splice"]),
            ("haproxy-splice", TCP, ["mode tcp\n", "splice-response"], []),
            ("nginx", TCP, ["listen 127.0.0.1:8080 backlog", "proxy_pass 127.0.0.1:8081;"], ["http", "proxy_buffer_size"]),
            ("nginx-64k", TCP, ["proxy_buffer_size 64k;"], ["http"]),
            ("envoy", TCP, ["TcpProxy", "cluster: c0"], ["HttpConnectionManager", "route"]),
            ("envoy", Setup(), [], ["Tls", "http2_protocol_options", "HTTP2"]),
            ("envoy", TLS, ["DownstreamTlsContext", "alpn_protocols: [http/1.1]"], ["http2_protocol_options"]),
            ("envoy", H1_H2, ["explicit_http_config: {http2_protocol_options"], ["codec_type"]),
            ("envoy", BOTH, ["explicit_http_config: {http2_protocol_options", "codec_type: HTTP2"], ["Tls"]),
        ]:
            text = self.config(name, setup)
            self.assertEqual([part for part in has if part not in text], [], (name, setup))
            self.assertEqual([part for part in has_not if part in text], [], (name, setup))

    def test_bare_forwarders_relay_where_that_is_asked(self):
        for name, setup, work in [
            ("floor-ring", Setup(), []),
            ("floor-ring", TCP, ["tcp"]),
            ("floor-ring-splice", TCP, ["splice"]),
            ("floor-glommio", TCP, ["tcp"]),
        ]:
            expected = [name, name.split("-")[1], "127.0.0.1:8080", "127.0.0.1:8081", *work]
            self.assertEqual(self.command(name, setup), expected)
        self.assertTrue(self.refuses("floor-ring", Setup(tcp=True, tls=True)))

    def test_origin_is_that_of_the_setup(self):
        origins = [upstream.origin(setup).name for setup in (Setup(), TLS, BOTH, H1_H2, GRPC)]
        self.assertEqual(origins, ["http1", "http1", "http2", "http2", "grpc"])


if __name__ == "__main__":
    unittest.main()
