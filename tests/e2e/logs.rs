//! Access logs and the application log: written in the configured format, reopened by their paths on SIGUSR1.

use std::path::Path;

use crate::harness::{Config, Proxy, Upstream, free_port, ok, on_each_backend, until};
use crate::upstream_failures::log_to;

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

on_each_backend! {
    fn access_log_is_written_and_reopened_when_rotated(io) {
        let upstream = Upstream::echo();
        let folder = crate::harness::TempFolder::new();
        let (path, rotated) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let format = "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %BYTES_RECEIVED% %BYTES_SENT% \
            %UPSTREAM_CLUSTER% %REQ(X-TOKEN)%";
        let config = Config::to(upstream.port)
            .manager(&log_to(&path, format))
            .arguments(&["--file-flush-interval-msec", "20"]);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.ask("POST /one HTTP/1.1\r\nHost: a\r\nX-Token: t\r\nContent-Length: 4\r\n\r\nbody");
        client.get("/two");
        until("two lines are written", || lines(&path).len() == 2);
        assert_eq!(lines(&path), [
            "POST /one HTTP/1.1 200 4 14 upstream t",
            "GET /two HTTP/1.1 200 0 9 upstream -",
        ]);
        std::fs::rename(&path, &rotated).unwrap();
        client.get("/three");
        until("the old file has three lines", || lines(&rotated).len() == 3);
        proxy.signal(libc::SIGUSR1);
        until("the file is there again", || path.exists());
        client.get("/four");
        until("the new file has a line", || lines(&path).len() == 1);
        assert!(lines(&path)[0].starts_with("GET /four "));
        // What is still in memory at the end is written, too.
        client.get("/five");
        drop(client);
        proxy.end();
        assert_eq!((lines(&rotated).len(), lines(&path).len()), (3, 2));
    }

    fn records_of_requests_tell_of_their_listener_and_connection(io) {
        let upstream = Upstream::start(|peer| {
            while let Some(request) = peer.request() {
                if request.path() == "/never" {
                    peer.sees_end();
                    return;
                }
                peer.send(ok(b"answer"));
            }
        });
        let folder = crate::harness::TempFolder::new();
        let path = folder.path().join("access.log");
        let format = "%LISTENER_NAME% %COMMON_DURATION(DS_CX_BEG:DS_RX_BEG:ns)% %COMMON_DURATION(DS_CX_BEG:DS_CX_END:ns)% \
            %UPSTREAM_CONNECTION_POOL_READY_DURATION%";
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(&log_to(&path, format)));
        let mut client = proxy.connect();
        client.get("/one");
        client.get("/two");
        client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.wait_for_requests(3);
        drop(client);
        until("three lines are written", || lines(&path).len() == 3);
        proxy.end();
        let lines = lines(&path);
        let number = |line: usize, place: usize| lines[line].split(' ').nth(place).unwrap().parse::<u64>();
        assert!(lines.iter().all(|line| line.starts_with("test ")), "{lines:?}");
        // The begin is the connection's, its end that of the request which was under way.
        let since_begin = |line| number(line, 1).unwrap();
        assert!(since_begin(0) < since_begin(1) && since_begin(1) < since_begin(2), "{lines:?}");
        assert!(number(0, 2).is_err() && number(1, 2).is_err(), "{lines:?}");
        assert!(number(2, 2).unwrap() > since_begin(2), "{lines:?}");
        assert!((0..3).all(|line| number(line, 3).is_ok()), "{lines:?}");
    }

    fn application_log_has_the_format_of_the_configuration(io) {
        let upstream = Upstream::echo();
        let format = "application_log_config: {log_format: {json_format: {level: '%l', message: '%j'}}}";
        let config = Config::to(upstream.port).arguments(&["--config-yaml", format]);
        let proxy = Proxy::start(io, &config);
        proxy.wait_for_log(r#"{"level":"info","message":"all clusters have endpoints or an answer: serving"}"#);
        proxy.end();
    }

    /// It went on in the file that had been rotated away.
    fn application_log_is_reopened_when_rotated(io) {
        let upstream = Upstream::echo();
        let folder = crate::harness::TempFolder::new();
        let (path, rotated) = (folder.path().join("ringway.log"), folder.path().join("ringway.log.1"));
        let config = Config::to(upstream.port).arguments(&["--log-path", path.to_str().unwrap()]);
        let proxy = Proxy::launch(io, &config, free_port(), free_port());
        let is_logged = |path: &Path, part: &str| lines(path).iter().any(|line| line.contains(part));
        until("it serves", || is_logged(&path, ": serving"));
        std::fs::rename(&path, &rotated).unwrap();
        proxy.signal(libc::SIGUSR1);
        until("the file is there again", || path.exists());
        assert_eq!(proxy.admin("GET", "/reopen_logs").status(), 405);
        until("what happens is said there", || is_logged(&path, "/reopen_logs"));
        assert!(!is_logged(&rotated, "/reopen_logs"));
        proxy.end();
    }

    fn listener_records_connections_that_are_served_and_that_no_chain_takes(io) {
        let upstream = Upstream::echo();
        let folder = crate::harness::TempFolder::new();
        let path = folder.path().join("listener.log");
        let format = "%FILTER_CHAIN_NAME% %PROTOCOL% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%";
        let config = |matched: &str| {
            Config::to(upstream.port)
                .listener(&log_to(&path, format))
                .listener(&format!(
                    "filter_chain_matcher: {{matcher_tree: {{input: {{name: i, typed_config: {{\"@type\": \
                     type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.SourceIPInput}}}}, \
                     exact_match_map: {{map: {{127.0.0.1: {{action: {{name: x, typed_config: {{\"@type\": \
                     type.googleapis.com/google.protobuf.StringValue, value: {matched}}}}}}}}}}}}}}}"
                ))
                .chain("name: front")
                .arguments(&["--file-flush-interval-msec", "20"])
        };
        let proxy = Proxy::start(io, &config("front"));
        let mut client = proxy.connect();
        client.get("/one");
        client.get("/two");
        assert_eq!(lines(&path).len(), 0, "the connection lasts");
        drop(client);
        until("a line is written", || lines(&path).len() == 1);
        let mut client = proxy.connect();
        client.send(b"\x16\x03\x01\r\n\r\n");
        assert_eq!(client.response().status(), 400);
        drop(client);
        until("one of a client that speaks something else", || lines(&path).len() == 2);
        proxy.end();
        let proxy = Proxy::start(io, &config("nobody"));
        drop(proxy.connect());
        until("another is written", || lines(&path).len() == 3);
        assert_eq!(lines(&path), ["front HTTP/1.1 - - 127.0.0.1", "front - DPE - 127.0.0.1", "- - NR filter_chain_not_found 127.0.0.1"]);
        proxy.end();
    }
}
