//! Where access logs go.

use super::load;
use crate::config::access_log::AccessLogSink;

/// As files they could not be opened where they are sockets: under systemd there was no start.
#[test]
fn streams_of_the_process_are_not_opened_by_their_paths() {
    let logger = |path: &str| {
        let kind = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
        format!("{{name: log, typed_config: {{\"@type\": {kind}, path: {path}}}}}")
    };
    let logs = ["/dev/stdout", "/dev/stderr", "/dev/stdout1"].map(logger).join(", ");
    let bootstrap = load(&[("LISTENER", &format!("access_log: [{logs}]"))]);
    let sinks: Vec<_> = bootstrap.listeners[0].access_log.iter().map(|log| &log.sink).collect();
    let file = AccessLogSink::File("/dev/stdout1".into());
    assert_eq!(sinks, [&AccessLogSink::Stdout, &AccessLogSink::Stderr, &file]);
}
