//! What two readers could read differently is answered 400, is not forwarded, and ends the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{Config, Proxy, Upstream, ok, on_each_backend};

const AMBIGUOUS: &[(&str, &str)] = &[
    ("both lengths", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("both, the other order", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"),
    ("two lengths", "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"),
    ("a list of lengths", "Content-Length: 4, 5\r\n\r\nabcde"),
    ("a signed length", "Content-Length: +4\r\n\r\nabcd"),
    ("a negative length", "Content-Length: -4\r\n\r\nabcd"),
    ("a hexadecimal length", "Content-Length: 0x4\r\n\r\nabcd"),
    ("a length beyond 64 bits", "Content-Length: 18446744073709551617\r\n\r\na"),
    ("chunked not last", "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("an odd spelling", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("a space before the colon", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("a vertical tab", "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("a folded line", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("a bare LF", "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a bare CR", "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a NUL", "X: a\0b\r\n\r\n"),
    ("two hosts", "Host: b\r\n\r\n"),
    ("a nominated length", "Connection: content-length\r\nContent-Length: 4\r\n\r\nabcd"),
];

on_each_backend! {
    fn ambiguous_requests_are_answered_400_and_never_forwarded(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        for (what, rest) in AMBIGUOUS {
            let mut client = proxy.connect();
            // What follows must not become a request of its own, and must not cost the client its answer.
            let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".repeat(50);
            client.send(format!("POST /{} HTTP/1.1\r\nHost: a\r\n{rest}{smuggled}", what.replace(' ', "-")));
            let response = client.response();
            // Not implemented is Envoy's answer to an unknown transfer coding.
            let is_refusal = matches!(response.status(), 400 | 501);
            assert!(is_refusal, "{what}: {response:?}");
            assert_eq!(response.header("connection"), Some("close"), "{what}");
            client.shutdown_write();
            assert_eq!(client.read_to_end(), b"", "{what}");
        }
        assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
        assert_eq!(upstream.connections(), 0);
        proxy.wait_until_idle();
        proxy.end();
    }

    fn bad_chunks_after_a_good_head_never_complete_upstream(io) {
        let completed = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&completed);
        let upstream = Upstream::start(move |peer| {
            while peer.request().is_some() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        for chunks in ["zz\r\n", "4\r\nabcdX", "-1\r\n", "4 \n", "fffffffffffffffff\r\n", "0\r\nbad trailer\r\n\r\n"] {
            let mut client = proxy.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"));
            client.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.response().status(), 400, "{chunks:?}");
            client.shutdown_write();
            assert_eq!(client.read_to_end(), b"", "{chunks:?}");
        }
        assert!(upstream.seen().iter().all(|seen| seen.request.path() == "/"));
        assert_eq!(completed.load(Ordering::SeqCst), 0);
        proxy.end();
    }

    /// Where a body ends that is refused is not known any more, however much of it lies in the next buffer.
    fn bad_chunk_that_ends_a_buffer_ends_the_connection(io) {
        const BUFFER: usize = 4096;
        let upstream = Upstream::answering(|_| ok(b""));
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        for chunk in ["5;", "5 ;"] {
            let mut client = proxy.connect();
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
            let extension = "x".repeat(BUFFER - head.len());
            client.send(format!("{head}{extension}\r\n12345\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
            let refused = client.response();
            assert_eq!((refused.status(), refused.header("connection")), (400, Some("close")), "{chunk:?}");
            client.shutdown_write();
            assert_eq!(client.read_to_end(), b"", "{chunk:?}");
        }
        assert!(upstream.seen().iter().all(|seen| seen.request.path() == "/"));
        proxy.end();
    }

    fn bytes_after_a_head_request_with_length_are_its_body_not_a_request(io) {
        let upstream = Upstream::answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec());
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response_to("HEAD").status(), 200);
        client.shutdown_write();
        assert_eq!(client.read_to_end(), b"");
        assert_eq!(upstream.seen().len(), 1);
        proxy.end();
    }
}
