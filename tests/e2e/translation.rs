//! Between HTTP/1.1 and HTTP/2: trailers both ways, expectations and interim responses.

use http::{HeaderMap, Request};

use crate::harness::{
    Config, Http2Client, Http2Upstream, Proxy, TO_HTTP2, Upstream, chunked, ok, on_each_backend,
};

const CLIENTS_SEND_TRAILERS: &str = "http_protocol_options: {enable_trailers: true}";
const ENDPOINTS_TAKE_TRAILERS: &str = "typed_extension_protocol_options: \
    {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
    {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
    explicit_http_config: {http_protocol_options: {enable_trailers: true}}}}";

fn trailers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

on_each_backend! {
    /// The endpoint repeats what it hears, trailers too: those of the request pass up, those of the response down.
    fn trailers_pass_from_http1_to_http2_and_back(io) {
        let upstream = Http2Upstream::start(100);
        let config = Config::to(upstream.port).cluster(TO_HTTP2);
        let post = [
            &b"POST /echo HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
            &chunked(&[b"one, ", b"two"], "X-Sum: 42\r\nX-Sum-Too: 43\r\n"),
        ]
        .concat();
        let proxy = Proxy::start(io, &config.clone().manager(CLIENTS_SEND_TRAILERS));
        let mut client = proxy.connect();
        for _ in 0..3 {
            client.send(&post);
            let response = client.response_to("POST");
            assert_eq!((response.status(), response.text().as_str()), (200, "one, two"));
            assert!(response.is_chunked());
            assert_eq!(response.trailers, owned(&[("x-sum", "42"), ("x-sum-too", "43")]));
        }
        drop(client);
        proxy.end();
        // Where clients send and are sent none, the body is whole without them.
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        for _ in 0..3 {
            client.send(&post);
            let response = client.response_to("POST");
            assert_eq!((response.text().as_str(), response.trailers.len()), ("one, two", 0));
        }
        drop(client);
        proxy.end();
    }

    fn trailers_pass_from_http2_to_http1_and_back(io) {
        let upstream = Upstream::answering(|request| {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            [&head[..], &chunked(&[&request.body], "X-Down: 1\r\nX-Down-Too: 2\r\n")].concat()
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port).cluster(ENDPOINTS_TAKE_TRAILERS));
        let client = Http2Client::connect(proxy.port);
        let up = trailers(&[("x-up", "1"), ("x-up-too", "2")]);
        let answer = client.send(Request::post("http://a/"), b"body", Some(up.clone()));
        assert_eq!((answer.status, answer.body.as_slice(), answer.broken), (200, &b"body"[..], None));
        assert_eq!(answer.trailers, Some(trailers(&[("x-down", "1"), ("x-down-too", "2")])));
        drop(client);
        proxy.end();
        // Trailers are read with the body: what arrived says whether they were there.
        let (told, has_told) = std::sync::mpsc::channel();
        let told = std::sync::Mutex::new(told);
        let upstream = Upstream::answering(move |request| {
            told.lock().unwrap().send(request.trailers.clone()).unwrap();
            ok(&request.body)
        });
        for (config, expected) in [
            (Config::to(upstream.port).cluster(ENDPOINTS_TAKE_TRAILERS), owned(&[("x-up", "1"), ("x-up-too", "2")])),
            (Config::to(upstream.port), Vec::new()),
        ] {
            let proxy = Proxy::start(io, &config);
            let client = Http2Client::connect(proxy.port);
            let answer = client.send(Request::post("http://a/"), b"body", Some(up.clone()));
            assert_eq!((answer.status, answer.body.as_slice(), answer.trailers), (200, &b"body"[..], None));
            assert_eq!(has_told.recv().unwrap(), expected);
            drop(client);
            proxy.end();
        }
    }

    fn path_that_http1_sends_as_it_is_reaches_http2_encoded(io) {
        let upstream = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &Config::to(upstream.port).cluster(TO_HTTP2));
        let answer = proxy.connect().get("/<a>`b`?q=\"c\"");
        assert_eq!((answer.status(), answer.header("x-path")), (200, Some("/%3Ca%3E%60b%60")));
        proxy.end();
    }

    fn expectation_of_an_http2_client_is_answered_here_and_not_passed_on(io) {
        let upstream = Upstream::answering(|request| ok(&request.body));
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let client = Http2Client::connect(proxy.port);
        for _ in 0..3 {
            let request = Request::post("http://a/").header("expect", "100-continue");
            let (interim, answer) = client.expecting(request, b"body");
            assert_eq!(interim.iter().map(|early| early.status().as_u16()).collect::<Vec<_>>(), [100]);
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"body"[..]));
        }
        assert!(upstream.seen().iter().all(|seen| seen.request.header("expect").is_none()));
        drop(client);
        proxy.end();
    }

    fn expectation_of_an_http2_client_is_passed_on_where_the_endpoint_is_to_answer(io) {
        let upstream = Upstream::start(|peer| {
            while let Some(mut request) = peer.request_head() {
                peer.send("HTTP/1.1 100 Continue\r\n\r\n");
                if !peer.body(&mut request) {
                    return;
                }
                peer.send(ok(&request.body));
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("proxy_100_continue: true"));
        let client = Http2Client::connect(proxy.port);
        let request = Request::post("http://a/").header("expect", "100-continue");
        let (interim, answer) = client.expecting(request, b"body");
        assert_eq!(interim.iter().map(|early| early.status().as_u16()).collect::<Vec<_>>(), [100]);
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"body"[..]));
        assert_eq!(upstream.seen()[0].request.header("expect"), Some("100-continue"));
        drop(client);
        proxy.end();
    }

    fn interim_responses_of_http1_reach_an_http2_client_in_order(io) {
        let upstream = Upstream::answering(|_| {
            let early = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n\
                         HTTP/1.1 102 Processing\r\n\r\n";
            [early.as_bytes(), &ok(b"page")].concat()
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let client = Http2Client::connect(proxy.port);
        for _ in 0..3 {
            let (interim, answer) = client.expecting(Request::get("http://a/"), b"");
            let heads: Vec<_> =
                interim.iter().map(|early| (early.status().as_u16(), early.headers().get("link"))).collect();
            assert_eq!(heads, [(103, Some(&"</a.css>".parse().unwrap())), (102, None)]);
            assert!(interim[0].headers().get("x-hop").is_none() && interim[0].headers().get("connection").is_none());
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"page"[..]));
        }
        drop(client);
        proxy.end();
    }
}
