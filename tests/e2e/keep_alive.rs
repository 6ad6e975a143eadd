//! Persistent connections: one request after the other, pipelined, cut into pieces, HTTP/1.0, limits of a connection.

use std::io::{Read, Write};
use std::net::Shutdown;

use crate::harness::{Config, Proxy, Upstream, on_each_backend, until};

fn pipelined() -> (Vec<u8>, Vec<String>) {
    let mut requests = Vec::new();
    let mut answers = Vec::new();
    for index in 0..10 {
        if index % 3 == 1 {
            let body = format!("body of {index}");
            let length = body.len();
            let text = format!("POST /{index} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
            requests.extend_from_slice(text.as_bytes());
            answers.push(format!("POST /{index}\n{body}"));
        } else if index % 3 == 2 {
            let text = format!(
                "POST /{index} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
            );
            requests.extend_from_slice(text.as_bytes());
            answers.push(format!("POST /{index}\nabcde"));
        } else {
            requests.extend_from_slice(format!("GET /{index} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            answers.push(format!("GET /{index}\n"));
        }
    }
    (requests, answers)
}

on_each_backend! {
    fn requests_one_after_the_other_share_a_connection_both_ways(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        for index in 0..20 {
            let response = client.get(&format!("/{index}"));
            assert_eq!((response.status(), response.text()), (200, format!("GET /{index}\n")));
            assert_eq!(response.header("connection"), None);
        }
        assert_eq!(upstream.connections(), 1);
        assert_eq!(proxy.stat("http.test.downstream_cx_total"), 1);
        drop(client);
        proxy.wait_until_idle();
        // Once counted each response twice.
        assert_eq!(proxy.stat("http.test.downstream_rq_completed"), 20);
        proxy.end();
    }

    /// A path that is refused ends its connection, unless it is to cost its request only, which has to be whole.
    fn refused_path_costs_its_connection_or_itself(io) {
        const REFUSED: &str = "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n";
        let upstream = Upstream::echo();
        let override_of = |value: &str| {
            format!("http_protocol_options: {{override_stream_error_on_invalid_http_message: {value}}}")
        };
        let on = "stream_error_on_invalid_http_message: true";
        for (options, goes_on) in [
            (String::new(), false),
            (on.to_owned(), true),
            (override_of("true"), true),
            (format!("{on}, {}", override_of("false")), false),
        ] {
            let config = Config::to(upstream.port).manager("normalize_path: true");
            let config = if options.is_empty() { config } else { config.manager(&options) };
            let proxy = Proxy::start(io, &config);
            let mut client = proxy.connect();
            let refused = client.ask(REFUSED);
            let end = (!goes_on).then_some("close");
            assert_eq!((refused.status(), refused.header("connection")), (400, end), "{options}");
            if goes_on {
                assert_eq!(client.get("/next").text(), "GET /next\n");
                // Of this one a byte is missing: what comes next would be taken for it.
                client.send("POST /%00 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab");
                let refused = client.response();
                assert_eq!((refused.status(), refused.header("connection")), (400, Some("close")));
                client = proxy.connect();
                // What is malformed may end anywhere.
                assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a\r\nx y: 1\r\n\r\n").status(), 400);
            }
            client.expect_closed();
            proxy.end();
        }
    }

    fn pipelined_requests_cut_anywhere_are_answered_in_order(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let (requests, answers) = pipelined();
        let mut client = proxy.connect();
        for cut in 1..requests.len() {
            client.send(&requests[..cut]);
            // A first answer, where the first piece holds a whole request, makes sure that the pieces arrive apart.
            let mut answers = answers.iter();
            if cut >= "GET /0 HTTP/1.1\r\nHost: a\r\n\r\n".len() {
                assert_eq!(client.response().text(), *answers.next().unwrap(), "cut at {cut}");
            }
            client.send(&requests[cut..]);
            for answer in answers {
                let response = client.response();
                assert_eq!((response.status(), &response.text()), (200, answer), "cut at {cut}");
            }
        }
        proxy.end();
    }

    fn pipelined_requests_byte_by_byte_are_answered_in_order(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let (requests, answers) = pipelined();
        let mut client = proxy.connect();
        for byte in &requests {
            client.send([*byte]);
        }
        for answer in answers {
            assert_eq!(client.response().text(), answer);
        }
        proxy.end();
    }

    /// Each response was queued, however many waited: of those without a body to copy no one asked whether there was room.
    fn client_that_takes_no_responses_has_no_more_requests_served(io) {
        const REQUESTS: u64 = 10_000;
        let body = "a".repeat(4000);
        let own =
            format!("{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {body}}}}}}}");
        let upstream = Upstream::echo();
        let config = Config { routes: Some(own), ..Config::to(upstream.port) }
            .listener("per_connection_buffer_limit_bytes: 32768");
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        let mut writer = client.stream().try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            for _ in 0..REQUESTS {
                writer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            }
        });
        // A pause is no event that can be asked for. One that only seems to be one lets the test pass.
        let (mut served, mut same) = (0, 0);
        until("it serves no more", || {
            let before = std::mem::replace(&mut served, proxy.stat("http.test.downstream_rq_total"));
            same = if served == before { same + 1 } else { 0 };
            served > 0 && same == 100
        });
        assert!(served < REQUESTS, "all are served, and 40 MB wait");
        // Nothing is lost by that.
        for _ in 0..REQUESTS {
            assert_eq!(client.response().body.len(), body.len());
        }
        sending.join().unwrap();
        assert_eq!(proxy.stat("http.test.downstream_rq_total"), REQUESTS);
        proxy.end();
    }

    /// Requests that are answered here never had their task wait: who pipelined them without end had its worker.
    fn client_that_pipelines_without_end_leaves_others_their_turn(io) {
        let upstream = Upstream::echo();
        let routes = "{match: {path: /own}, direct_response: {status: 200, body: {inline_string: own}}}, \
             {match: {prefix: /}, route: {cluster: upstream}}";
        let config = Config { routes: Some(routes.to_owned()), ..Config::to(upstream.port) };
        let proxy = Proxy::start(io, &config.arguments(&["--concurrency", "1"]));
        let greedy = proxy.connect();
        let mut writer = greedy.stream().try_clone().unwrap();
        let mut reader = greedy.stream().try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            let requests = "GET /own HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2000);
            while writer.write_all(requests.as_bytes()).is_ok() {}
        });
        let reading = std::thread::spawn(move || {
            let mut room = vec![0; 64 * 1024];
            while reader.read(&mut room).is_ok_and(|count| count > 0) {}
        });
        until("it is at it", || proxy.stat("http.test.downstream_rq_total") > 2000);
        for _ in 0..20 {
            assert_eq!(proxy.connect().get("/a").text(), "GET /a\n");
        }
        greedy.stream().shutdown(Shutdown::Both).unwrap();
        writing.join().unwrap();
        reading.join().unwrap();
        drop(greedy);
        proxy.end();
    }

    /// What becomes of a connection is not a route's to say.
    fn route_adds_nothing_of_the_connection_to_a_response(io) {
        let upstream = Upstream::echo();
        let added = [
            "connection: close", "proxy-connection: close", "upgrade: x", "transfer-encoding: gzip", "keep-alive: timeout=9",
            "date: then",
        ];
        let added = added.map(|field| {
            let (key, value) = field.split_once(": ").unwrap();
            format!("{{header: {{key: {key}, value: {value}}}}}")
        });
        let added = format!("response_headers_to_add: [{}]", added.join(", "));
        let routes = format!(
            "{{match: {{path: /own}}, direct_response: {{status: 200, body: {{inline_string: own}}}}, {added}}}, \
             {{match: {{prefix: /}}, route: {{cluster: upstream}}, {added}}}"
        );
        let config = Config { routes: Some(routes), ..Config::to(upstream.port) };
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        for (path, body) in [("/own", "own"), ("/a", "GET /a\n"), ("/own", "own")] {
            let response = client.get(path);
            assert_eq!(response.text(), body);
            for name in ["connection", "proxy-connection", "upgrade", "transfer-encoding"] {
                assert_eq!(response.header(name), None, "{name} of {path}");
            }
            assert_eq!((response.header("keep-alive"), response.header("date")), (Some("timeout=9"), Some("then")));
        }
        proxy.end();
    }

    fn empty_line_behind_a_request_begins_none(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
        assert_eq!(client.ask(&format!("{post}\r\n")).text(), "POST /\nab");
        assert_eq!(client.get("/next").text(), "GET /next\n");
        client.send("\r\n");
        assert_eq!(client.ask(&format!("{post}\r\n")).text(), "POST /\nab");
        drop(client);
        proxy.wait_until_idle();
        for (stat, value) in [("downstream_rq_total", 3), ("downstream_rq_rx_reset", 0)] {
            assert_eq!(proxy.stat(&format!("http.test.{stat}")), value, "{stat}");
        }
        // A second one is an error, however they come.
        let mut client = proxy.connect();
        assert_eq!(client.ask(&format!("{post}\r\n")).text(), "POST /\nab");
        client.send("\r\n");
        assert_eq!(client.response().status(), 400);
        drop(client);
        proxy.end();
    }

    fn connection_close_is_obeyed_both_ways(io) {
        let upstream = Upstream::answering(|_| {
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok".to_vec()
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        // The upstream's wish concerns its own connection only.
        let mut client = proxy.connect();
        for connections in 1..=3 {
            let response = client.get("/");
            assert_eq!((response.text().as_str(), response.header("connection")), ("ok", None));
            assert_eq!(upstream.connections(), connections);
        }
        let response = client.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(response.header("connection"), Some("close"));
        client.expect_closed();
        proxy.end();
    }

    fn client_that_asked_for_the_end_is_not_waited_for_another_is(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("delayed_close_timeout: 600s"));
        // Both keep their side open.
        let mut asked = proxy.connect();
        let answered = asked.ask("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab");
        assert_eq!((answered.status(), answered.header("connection")), (200, Some("close")));
        asked.expect_closed();
        proxy.wait_for_stat("http.test.downstream_cx_active", 0);
        let mut refused = proxy.connect();
        assert_eq!(refused.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n").status(), 426);
        refused.expect_closed();
        proxy.wait_for_stat("http.test.downstream_cx_active", 1);
        drop(refused);
        proxy.wait_for_stat("http.test.downstream_cx_active", 0);
        // What follows the last request is read, lest a reset takes its response away.
        let mut talkative = proxy.connect();
        let response = talkative.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /more");
        assert_eq!(response.status(), 200);
        talkative.expect_closed();
        proxy.wait_for_stat("http.test.downstream_cx_active", 1);
        drop(talkative);
        proxy.end();
    }

    fn http_10_without_consent_is_refused_and_with_it_served(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        assert_eq!(client.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n").status(), 426);
        client.expect_closed();
        proxy.end();

        let options = "http_protocol_options: {accept_http_10: true, default_host_for_http_10: old.example}";
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(options));
        let mut client = proxy.connect();
        let response = client.ask("GET /close HTTP/1.0\r\n\r\n");
        assert_eq!((response.status(), response.text().as_str()), (200, "GET /close\n"));
        assert!(response.start.starts_with("HTTP/1.0 "), "{response:?}");
        client.expect_closed();
        let seen = upstream.seen();
        assert_eq!(seen.last().unwrap().request.header("host"), Some("old.example"));

        let mut client = proxy.connect();
        for _ in 0..3 {
            let response = client.ask("GET /keep HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
            assert_eq!((response.status(), response.header("connection")), (200, Some("keep-alive")));
        }
        proxy.end();
    }

    fn absolute_form_names_host_and_path(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        let response = client.ask("GET http://there.example:81/a?b HTTP/1.1\r\nHost: ignored\r\n\r\n");
        assert_eq!((response.status(), response.text().as_str()), (200, "GET /a?b\n"));
        let seen = upstream.seen();
        assert_eq!(seen[0].request.header("host"), Some("there.example:81"));
        assert_eq!(seen[0].request.headers.iter().filter(|(name, _)| name == "host").count(), 1);
        proxy.end();
    }

    fn connection_ends_after_max_requests(io) {
        let upstream = Upstream::echo();
        let options = "common_http_protocol_options: {max_requests_per_connection: 3}";
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(options));
        let mut client = proxy.connect();
        assert_eq!(client.get("/").header("connection"), None);
        assert_eq!(client.get("/").header("connection"), None);
        assert_eq!(client.get("/").header("connection"), Some("close"));
        client.expect_closed();
        assert_eq!(proxy.stat("http.test.downstream_cx_max_requests_reached"), 1);
        proxy.end();
    }

    /// With the safe variant it is not closed while a request may be on its way.
    fn connection_that_is_too_old_ends_with_its_next_response(io) {
        let upstream = Upstream::echo();
        let options = "http1_safe_max_connection_duration: true, \
            common_http_protocol_options: {max_connection_duration: 1s}";
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(options));
        let mut client = proxy.connect();
        assert_eq!(client.get("/").header("connection"), None);
        proxy.wait_for_stat("http.test.downstream_cx_http1_soft_drain", 1);
        assert_eq!(client.get("/").header("connection"), Some("close"));
        client.expect_closed();
        drop(client);
        proxy.wait_for_stat("http.test.downstream_cx_http1_soft_drain", 0);
        assert_eq!(proxy.stat("http.test.downstream_cx_http1_active"), 0);
        assert_eq!(proxy.stat("http.test.downstream_cx_max_duration_reached"), 1);
        proxy.end();
    }

    fn head_is_answered_with_the_length_and_no_body(io) {
        let upstream = Upstream::answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_vec());
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        for _ in 0..3 {
            let response = client.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!((response.status(), response.header("content-length")), (200, Some("1000")));
        }
        assert_eq!(upstream.connections(), 1);
        proxy.end();
    }

    fn responses_that_may_not_have_a_body_leave_the_connection_usable(io) {
        let upstream = Upstream::answering(|request| match request.path() {
            "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: \"x\"\r\n\r\n".to_vec(),
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        for path in ["/204", "/304", "/200", "/204", "/304"] {
            let response = client.get(path);
            assert_eq!(format!("/{}", response.status()), path);
            assert!(response.status() != 204 || response.header("content-length").is_none());
            assert!(response.status() != 304 || response.header("etag") == Some("\"x\""));
        }
        assert_eq!(upstream.connections(), 1);
        proxy.end();
    }
}
