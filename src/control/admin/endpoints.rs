//! The table of paths: what each runs, what it takes, and the pages that are made from the table.
use super::request::{Handler, Reply, Request};
use super::{Admin, actions, certs, clusters, config_dump, info, logging, prometheus, stats};
use hyper::StatusCode;

/// One path.
struct Endpoint {
    path: &'static str,
    /// Whether it changes something and therefore wants POST.
    mutates: bool,
    help: &'static str,
    parameters: &'static [(&'static str, &'static str)],
    handler: Handler,
}

/// Answers a request.
pub(super) fn answer(admin: &Admin, request: &Request, method: &str) -> Reply {
    if !admin.allow_paths.allows(&request.path) {
        return Reply::refused(
            StatusCode::FORBIDDEN,
            format!("request to path {} not allowed", request.path),
        );
    }
    let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == request.path) else {
        return Reply::refused(StatusCode::NOT_FOUND, format!("invalid path. {}", help_text()));
    };
    if endpoint.mutates && !request.post {
        let path = endpoint.path;
        log::error!(target: "admin", "admin path \"{path}\" mutates state, method={method} rather than POST");
        let text = format!("Method {method} not allowed, POST required.");
        return Reply::refused(StatusCode::METHOD_NOT_ALLOWED, text);
    }
    (endpoint.handler)(admin, request)
}

/// `/help`.
fn help(_: &Admin, _: &Request) -> Reply {
    Reply::text(help_text())
}

fn help_text() -> String {
    let mut text = "admin commands are:\n".to_string();
    for endpoint in &ENDPOINTS {
        let post = if endpoint.mutates { " (POST)" } else { "" };
        text.push_str(&format!("  {}{post}: {}\n", endpoint.path, endpoint.help));
        for (name, help) in endpoint.parameters {
            text.push_str(&format!("      {name}: {help}\n"));
        }
    }
    text
}

/// `/`: the table as a page, with links, and buttons for what changes something.
fn index(_: &Admin, _: &Request) -> Reply {
    let mut page = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Ringway admin</title>\n\
        <style>body{font-family:sans-serif;margin:2em}td{padding:.2em 1em;vertical-align:top}</style></head>\n\
        <body><h1>Ringway admin</h1><table>\n"
        .to_string();
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.path != "/") {
        // Without the leading slash, so that the page works behind a prefix.
        let path = &endpoint.path[1..];
        let link = if endpoint.mutates {
            format!("<form action=\"{path}\" method=\"post\"><button>{path}</button></form>")
        } else {
            format!("<a href=\"{path}\">{path}</a>")
        };
        page.push_str(&format!("<tr><td>{link}</td><td>{}", endpoint.help));
        for (name, help) in endpoint.parameters {
            page.push_str(&format!("<br><code>{name}</code>: {help}"));
        }
        page.push_str("</td></tr>\n");
    }
    page.push_str("</table></body></html>\n");
    Reply { content_type: "text/html; charset=UTF-8", ..Reply::text(page) }
}

const fn get(path: &'static str, help: &'static str, handler: Handler) -> Endpoint {
    Endpoint { path, mutates: false, help, parameters: &[], handler }
}

const fn post(path: &'static str, help: &'static str, handler: Handler) -> Endpoint {
    Endpoint { path, mutates: true, help, parameters: &[], handler }
}

const fn with(endpoint: Endpoint, parameters: &'static [(&'static str, &'static str)]) -> Endpoint {
    Endpoint { parameters, ..endpoint }
}

/// Sorted by path. Texts are plain: they appear in HTML as they are.
static ENDPOINTS: [Endpoint; 32] = [
    get("/", "this page", index),
    post("/allocprofiler", "refused: no profiler here, but perf works", no_profiler),
    get("/certs", "certificates in use", certs::certs),
    with(
        get("/clusters", "upstream clusters and their hosts", clusters::clusters),
        &[("filter", "regular expression for the name"), ("format", "text or json")],
    ),
    with(
        get("/config_dump", "everything that is configured", config_dump::config_dump),
        &[
            ("resource", "only this list, such as static_clusters"),
            ("mask", "only these fields, as a FieldMask"),
            ("name_regex", "only resources whose name matches"),
            ("include_eds", "endpoints as well"),
        ],
    ),
    get("/contention", "no mutex is traced", no_contention),
    post("/cpuprofiler", "refused: no profiler here, but perf works", no_profiler),
    with(
        post(
            "/drain_listeners",
            "stop listeners, connections close by --drain-strategy",
            actions::drain_listeners,
        ),
        &[
            ("graceful", "listeners stop after the drain time"),
            ("skip_exit", "listeners never stop"),
            ("inboundonly", "only listeners whose traffic_direction is inbound"),
        ],
    ),
    post("/healthcheck/fail", "fail health checks", actions::healthcheck_fail),
    post("/healthcheck/ok", "pass health checks", actions::healthcheck_ok),
    get("/heap_dump", "refused: no heap profiler here", no_profiler),
    post("/heapprofiler", "refused: no heap profiler here", no_profiler),
    get("/help", "this list as text", help),
    get("/hot_restart_version", "print the hot restart compatibility version", info::hot_restart_version),
    get("/init_dump", "what start-up waits for", info::init_dump),
    with(get("/listeners", "listeners and their addresses", info::listeners), &[("format", "text or json")]),
    with(
        post("/logging", "show or change log levels", logging::logging),
        &[
            ("level", "level of all components: trace, debug, info, warning, error, critical or off"),
            ("paths", "levels of some components, such as upstream:debug,config:trace"),
        ],
    ),
    with(
        get("/memory", "memory of the process", info::memory),
        &[("ledger", "resident memory by owner as well")],
    ),
    get("/quarantine", "resources of control planes that cannot be used, and why", info::quarantine),
    post("/quitquitquit", "end the process", actions::quit),
    get("/ready", "state of the process; 200 if LIVE, else 503", info::ready),
    post("/reopen_logs", "reopen log files", actions::reopen_logs),
    post("/reset_counters", "set all counters to zero", actions::reset_counters),
    get("/runtime", "runtime values", info::runtime),
    post("/runtime_modify", "change runtime values of the admin layer", actions::runtime_modify),
    get("/server_info", "version, state, command line and I/O backend", info::server_info),
    with(
        get("/stats", "all metrics", stats::stats),
        &[
            ("usedonly", "only metrics that were written since the start"),
            ("filter", "regular expression for the name"),
            ("invert_filter", "the names that do not match"),
            ("format", "text, json or prometheus"),
            ("type", "All, Counters, Gauges or Histograms"),
            ("histogram_buckets", "summary, cumulative or disjoint"),
        ],
    ),
    with(
        get("/stats/prometheus", "all metrics for Prometheus", prometheus::prometheus),
        &[
            ("usedonly", "only metrics that were written since the start"),
            ("filter", "regular expression for Envoy's dotted name"),
            ("invert_filter", "the names that do not match"),
            ("histogram_buckets", "cumulative or summary"),
        ],
    ),
    get("/stats/recentlookups", "nothing is looked up by name", no_lookups),
    post("/stats/recentlookups/clear", "refused: nothing is looked up by name", no_lookup_tracking),
    post("/stats/recentlookups/disable", "refused: nothing is looked up by name", no_lookup_tracking),
    post("/stats/recentlookups/enable", "refused: nothing is looked up by name", no_lookup_tracking),
];

/// `/stats/recentlookups`: metrics are reached by index.
fn no_lookups(_: &Admin, _: &Request) -> Reply {
    Reply::text("Lookup tracking is not supported: metrics are not looked up by name.\n\ntotal: 0\n")
}

/// `/stats/recentlookups/enable` and its like.
fn no_lookup_tracking(_: &Admin, _: &Request) -> Reply {
    Reply::refused(StatusCode::NOT_IMPLEMENTED, "The current build does not support lookup tracking")
}

/// `/contention`: as Envoy without `--enable-mutex-tracing`.
fn no_contention(_: &Admin, _: &Request) -> Reply {
    Reply::text("Mutex contention tracing is not enabled: workers share no mutex.\n")
}

/// The profilers, as Envoy's builds that lack one.
fn no_profiler(_: &Admin, request: &Request) -> Reply {
    let what = match &*request.path {
        "/allocprofiler" => "allocation profiler",
        "/cpuprofiler" => "cpu profiler",
        "/heap_dump" => "heap dump",
        _ => "heap profiler",
    };
    Reply::refused(StatusCode::NOT_IMPLEMENTED, format!("The current build does not support {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_sorted_and_unique() {
        assert!(ENDPOINTS.windows(2).all(|pair| pair[0].path < pair[1].path));
    }

    #[test]
    fn texts_need_no_escaping_in_html() {
        let texts = ENDPOINTS.iter().flat_map(|endpoint| {
            let parameters = endpoint.parameters.iter().flat_map(|(name, help)| [*name, *help]);
            [endpoint.path, endpoint.help].into_iter().chain(parameters)
        });
        for text in texts {
            assert!(!text.contains(['<', '>', '&', '"']), "{text}");
        }
    }
}
