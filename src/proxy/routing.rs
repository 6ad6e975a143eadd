//! From a request to what is done with it: the connection manager's edits, the route, the cluster.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use super::chain::{HttpChain, Scratch};
use super::downstream::Connection;
use super::error::ProxyError;
use super::filters;
use super::http::Request;
use super::local_reply::Reply;
use super::stream::Stream;
use crate::base::clock::Now;
use crate::cluster::Cluster;
use crate::config::http::{HeadersWithUnderscoresAction, UpgradeConfig};
use crate::config::route::ConnectConfig;
use crate::filter::http::FilterReply;
use crate::format::context::FormatContext;
use crate::protocol::http::error::HeadError;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::http::path::{self, PathVerdict};
use crate::protocol::http::{forwarding, headers, host};
use crate::protocol::http1::encode::{DECIMAL_DIGITS_MAX, decimal};
use crate::protocol::http1::framing::MethodKind;
use crate::protocol::response_code_details as details;
use crate::protocol::stream_info::{StreamAddress, set_text};
use crate::route::{self, Action, ClusterChoice, HashedClient, Outcome, Route, RouteScratch, VirtualHost};
use crate::telemetry::codes::Origin;
use crate::telemetry::{HttpStat, ServerStat};

/// What is done with a request.
#[derive(Debug)]
pub(super) enum Decision<'a> {
    /// It is answered here.
    Reply(Reply<'a>),
    /// It failed here; the route whose header changes the answer gets.
    Fail(ProxyError, Option<Matched<'a>>),
    /// Nothing answers it: the chain has no filters.
    Wait,
    /// It is forwarded.
    Forward(Forward<'a>),
}

/// The route that a request has taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matched<'a> {
    pub(super) virtual_host: &'a VirtualHost,
    pub(super) route: &'a Route,
    pub(super) choice: Option<ClusterChoice<'a>>,
}

/// Where and how a request is forwarded.
#[derive(Debug)]
pub(super) struct Forward<'a> {
    pub(super) cluster: Rc<Cluster>,
    pub(super) matched: Matched<'a>,
    pub(super) action: &'a route::Forward,
    /// Longest life of the upstream request, from its begin; `None`: no limit.
    pub(super) upstream_limit: Option<Duration>,
    /// Set for a CONNECT, or a POST in place of it, whose tunnel ends here.
    pub(super) terminate_connect: Option<ConnectConfig>,
    /// Whether statistics count the request as internal.
    pub(super) origin: Origin,
    /// Whether its upstream connection is one of the name that it gives to TLS.
    pub(super) gives_name: bool,
}

/// Edits the request as the connection manager is told to; what is done with it instead, where it goes no further.
pub(super) fn receive<'a>(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
) -> ControlFlow<Decision<'a>, Origin> {
    match admit(connection, stream, request) {
        Ok(None) => ControlFlow::Continue(introduce(connection, stream)),
        Ok(Some(reply)) => ControlFlow::Break(Decision::Reply(reply)),
        Err(error) => ControlFlow::Break(Decision::Fail(error, None)),
    }
}

/// Decides, by the route and the filters. `None`: they want another route, and the request is in another scope of `whole` now:
/// [`decide_filtered`] is next.
pub(super) fn decide<'a>(
    connection: &'a Connection,
    whole: &Rc<HttpChain>,
    stream: &mut Stream,
    request: &mut Request,
    origin: Origin,
) -> Option<Decision<'a>> {
    let Connection { context, chain, .. } = connection;
    if chain.manager.config.http_filters.is_empty() {
        return Some(Decision::Wait);
    }
    let random = context.random();
    let scratch = &mut *chain.scratch.borrow_mut();
    ignore_upgrade(connection, stream, request, scratch);
    let routes = &chain.manager.routes;
    stream.info.route_resolution_count += 1;
    let mut outcome = routes.find_route(&stream.request, random, &mut scratch.route);
    let matched = match outcome {
        Outcome::Route(virtual_host, route) => Some(Matched { virtual_host, route, choice: None }),
        Outcome::TlsRedirect(_) | Outcome::NoRoute(_) => None,
    };
    // As in Envoy before the filters, and whatever the route would do with it.
    if !matches!(outcome, Outcome::NoRoute(_)) && is_refused_upgrade(connection, stream, request, matched) {
        return Some(refuse(connection, stream, matched, random, ProxyError::UpgradeRefused));
    }
    if !chain.manager.filters.is_empty() && !skips_filters(connection, stream, request) {
        match pass_filters(connection, stream, request, matched, random, &mut scratch.matching) {
            Ok(false) => {}
            Ok(true) if leaves_scope(chain, whole, stream) => return None,
            Ok(true) => {
                stream.info.route_resolution_count += 1;
                outcome = routes.find_route(&stream.request, random, &mut scratch.route);
            }
            Err(reply) => {
                return Some(refuse(connection, stream, matched, random, ProxyError::Filter(reply)));
            }
        }
    }
    Some(act(connection, stream, request, outcome, random, origin, scratch))
}

/// Decides by the routes of the scope that the request is in after the filters.
pub(super) fn decide_filtered<'a>(
    connection: &'a Connection,
    stream: &mut Stream,
    request: &mut Request,
    origin: Origin,
) -> Decision<'a> {
    let Connection { context, chain, .. } = connection;
    let random = context.random();
    let scratch = &mut *chain.scratch.borrow_mut();
    stream.info.route_resolution_count += 1;
    let outcome = chain.manager.routes.find_route(&stream.request, random, &mut scratch.route);
    act(connection, stream, request, outcome, random, origin, scratch)
}

/// Whether the request is in another scope of `whole` than that of its chain.
fn leaves_scope(chain: &Rc<HttpChain>, whole: &Rc<HttpChain>, stream: &mut Stream) -> bool {
    whole.has_scopes() && !Rc::ptr_eq(chain, &whole.scope(&stream.request, &mut stream.scratch))
}

/// Does what the table says.
fn act<'a>(
    connection: &'a Connection,
    stream: &mut Stream,
    request: &mut Request,
    outcome: Outcome<'a>,
    random: u64,
    origin: Origin,
    scratch: &mut Scratch,
) -> Decision<'a> {
    let chain = &connection.chain;
    chain.stats.inc(HttpStat::RqTotal);
    let (virtual_host, route) = match outcome {
        Outcome::Route(virtual_host, route) => (virtual_host, route),
        Outcome::TlsRedirect(_) => {
            count_redirect(chain);
            let mut location = Vec::new();
            route::RouteTable::tls_redirect(&stream.request, &mut location);
            return Decision::Reply(Reply::redirect(301, location, None));
        }
        Outcome::NoRoute(_) => {
            chain.stats.inc(HttpStat::NoRoute);
            return Decision::Fail(ProxyError::NoRoute, None);
        }
    };
    set_text(&mut stream.info.route_name, &route.name);
    let matched = Matched { virtual_host, route, choice: None };
    let keep_original = !chain.manager.router.suppress_envoy_headers;
    match &route.action {
        Action::Forward(action) => {
            forward(connection, stream, request, matched, action, random, origin, scratch)
        }
        Action::Redirect(redirect) => {
            count_redirect(chain);
            let mut location = Vec::new();
            route.redirect(redirect, &mut stream.request, keep_original, &mut scratch.route, &mut location);
            Decision::Reply(Reply::redirect(redirect.status, location, Some(matched)))
        }
        Action::DirectResponse(answer) => {
            chain.stats.inc(HttpStat::RqDirectResponse);
            Decision::Reply(Reply {
                status: answer.status,
                body: Cow::Borrowed(&answer.body),
                details: Some(details::DIRECT_RESPONSE),
                header: direct_location(answer.status, &stream.request),
                may_be_grpc: true,
                grpc_status: None,
                tells_attempts: false,
                matched: Some(matched),
            })
        }
        Action::NonForwarding => Decision::Fail(ProxyError::NoRoute, Some(matched)),
    }
}

/// Counts a redirect, which to Envoy is a direct response.
fn count_redirect(chain: &HttpChain) {
    chain.stats.inc(HttpStat::RqRedirect);
    chain.stats.inc(HttpStat::RqDirectResponse);
}

/// Where a direct response that speaks of a place says it is: at the request's own URI, as Envoy writes it.
fn direct_location(status: u16, head: &Head) -> Option<(HeaderName, Vec<u8>)> {
    let speaks = status == 201 || (300..400).contains(&status);
    speaks.then(|| (headers::LOCATION, [head.scheme(), b"://", head.authority(), head.path()].concat()))
}

/// Refuses what the connection manager does not let pass, and normalises path and host.
fn admit<'a>(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
) -> Result<Option<Reply<'a>>, ProxyError> {
    let Connection { context, chain, .. } = connection;
    let config = &chain.manager.config;
    let head = &mut stream.request;
    if !head.has_authority() {
        // Only HTTP/1.0 gets here without one.
        if config.http1.default_host_for_http_10.is_empty() {
            return Err(ProxyError::RequestHead(HeadError::HostMissing));
        }
        head.set_authority(config.http1.default_host_for_http_10.as_bytes());
    }
    match config.common.headers_with_underscores_action {
        HeadersWithUnderscoresAction::Allow => {}
        action if head.iter().any(|(name, _)| name.contains(&b'_')) => {
            if action == HeadersWithUnderscoresAction::RejectRequest {
                context.server.inc(if connection.shared().is_some() {
                    ServerStat::Http2RequestsRejectedWithUnderscoresInHeaders
                } else {
                    ServerStat::Http1RequestsRejectedWithUnderscoresInHeaders
                });
                return Err(ProxyError::UnderscoreInHeader);
            }
            context.server.inc(if connection.shared().is_some() {
                ServerStat::Http2DroppedHeadersWithUnderscores
            } else {
                ServerStat::Http1DroppedHeadersWithUnderscores
            });
            head.retain(|name, _| !name.contains(&b'_'));
        }
        _ => {}
    }
    if !head.path().starts_with(b"/") && head.method() != b"CONNECT" {
        return Err(ProxyError::PathNotAbsolute);
    }
    let scratch = &mut *chain.scratch.borrow_mut();
    match path::sanitize(head.path(), chain.manager.paths, &mut scratch.text, &mut scratch.path) {
        PathVerdict::Unchanged => {}
        PathVerdict::Changed => head.set_path(&scratch.path),
        PathVerdict::Reject => return Err(ProxyError::PathRejected),
        PathVerdict::Redirect
            if head.get(&headers::CONTENT_TYPE).is_some_and(|t| t.starts_with(b"application/grpc")) =>
        {
            return Err(ProxyError::PathRejected);
        }
        PathVerdict::Redirect => {
            chain.stats.inc(HttpStat::DownstreamRqRedirectedWithNormalizedPath);
            let location = scratch.path.clone();
            let mut reply = Reply::redirect(307, location, None);
            reply.details = Some(details::PATH_NORMALIZATION_FAILED);
            head.set_path(&scratch.path);
            return Ok(Some(reply));
        }
    }
    let port = connection.local.port();
    let cut = host::strip(head, config.strip_trailing_host_dot, config.strip_port, port, &mut scratch.text);
    request.connect_port = cut.filter(|_| head.method() == b"CONNECT");
    Ok(None)
}

/// Writes and removes what the next hop may or may not believe.
fn introduce(connection: &Connection, stream: &mut Stream) -> Origin {
    let Connection { context, chain, .. } = connection;
    let manager = &chain.manager;
    let client = forwarding::mutate_request(
        &mut stream.request,
        &manager.forwarding,
        &connection.peer,
        manager.routes.internal_only_headers(),
        &mut context.rng.borrow_mut(),
        &mut chain.scratch.borrow_mut().text,
    );
    let info = &mut stream.info;
    if let Some(address) = client.address.filter(|_| client.forwarded) {
        info.downstream_remote_address = StreamAddress::Ip((address, 0).into());
    }
    if let Some(id) = stream.request.get(&headers::X_REQUEST_ID) {
        info.request_id.clear();
        info.request_id.extend_from_slice(id);
    }
    if client.internal { Origin::Internal } else { Origin::External }
}

/// Something answers instead of the route, of which the record tells all the same. Headers of the answer change as for one
/// of the route's endpoints, if it has some.
fn refuse<'a>(
    connection: &'a Connection,
    stream: &mut Stream,
    matched: Option<Matched<'a>>,
    random: u64,
    error: ProxyError,
) -> Decision<'a> {
    let Some(matched) = matched else { return Decision::Fail(error, None) };
    set_text(&mut stream.info.route_name, &matched.route.name);
    let Action::Forward(action) = &matched.route.action else { return Decision::Fail(error, None) };
    let choice = action.choose_cluster(&stream.request, random);
    let Connection { context, chain, .. } = connection;
    if let Some(cluster) = chain.cluster(choice.name(&stream.request), &context.clusters) {
        set_text(&mut stream.info.upstream_cluster, &cluster.config().name);
        set_text(&mut stream.info.upstream_cluster_alt_stat_name, cluster.config().alt_stat_name());
    }
    Decision::Fail(error, Some(Matched { choice: Some(choice), ..matched }))
}

/// The request's head passes the filters. Whether the route has to be looked for again, or the reply of a filter.
fn pass_filters(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
    matched: Option<Matched<'_>>,
    random: u64,
    matching: &mut MatchScratch,
) -> Result<bool, FilterReply> {
    let choice = matched.and_then(|matched| match &matched.route.action {
        Action::Forward(action) => Some(action.choose_cluster(&stream.request, random)),
        _ => None,
    });
    let passed = matched.map(|matched| (matched.virtual_host, matched.route));
    let levels = connection.chain.manager.routes.override_levels(passed, choice.as_ref());
    filters::decode_head(connection, stream, request, &levels, matching)
}

/// Whether the request asks for an upgrade that has a chain of its own: that is the router alone.
pub(super) fn skips_filters(connection: &Connection, stream: &Stream, request: &Request) -> bool {
    let configs = &connection.chain.manager.config.upgrade_configs;
    let asked = asked_upgrade(stream, request);
    asked.is_some_and(|asked| {
        let named = |config: &&UpgradeConfig| asked.eq_ignore_ascii_case(config.upgrade_type.as_bytes());
        configs.iter().find(named).is_some_and(|config| config.router_alone)
    })
}

/// What the request asks to be upgraded to.
fn asked_upgrade<'a>(stream: &'a Stream, request: &Request) -> Option<&'a [u8]> {
    if request.meta.method == MethodKind::Connect {
        return Some(b"CONNECT");
    }
    request.meta.upgrade.then(|| stream.request.get(&headers::UPGRADE).unwrap_or_default())
}

/// Takes out an upgrade of HTTP/1.1 that the configuration treats as absent. What HTTP/2 asks for is no header, and an answer would
/// grant it.
fn ignore_upgrade(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
    scratch: &mut Scratch,
) {
    let ignored = &connection.chain.manager.ignored_upgrades;
    if !request.meta.upgrade || ignored.is_empty() || connection.shared().is_some() {
        return;
    }
    let regexes = &mut scratch.matching.regexes;
    let asked = stream.request.get(&headers::UPGRADE).unwrap_or_default();
    if ignored.iter().any(|matcher| matcher.matches(asked, regexes)) {
        request.meta.upgrade = false;
        stream.request.remove(&headers::UPGRADE);
        stream.request.remove(&headers::CONNECTION);
    }
}

#[expect(clippy::too_many_arguments, reason = "the facts of one decision, gathered by its only caller")]
fn forward<'a>(
    connection: &'a Connection,
    stream: &mut Stream,
    request: &mut Request,
    matched: Matched<'a>,
    action: &'a route::Forward,
    random: u64,
    origin: Origin,
    scratch: &mut Scratch,
) -> Decision<'a> {
    let Connection { context, chain, .. } = connection;
    let manager = &chain.manager;
    let choice = action.choose_cluster(&stream.request, random);
    if choice.is_none() {
        chain.stats.inc(HttpStat::NoRoute);
        return Decision::Fail(ProxyError::NoRoute, None);
    }
    let Some(cluster) = chain.cluster(choice.name(&stream.request), &context.clusters) else {
        chain.stats.inc(HttpStat::NoCluster);
        let error = ProxyError::NoCluster { status: action.cluster_not_found_status };
        return Decision::Fail(error, Some(matched));
    };
    set_text(&mut stream.info.upstream_cluster, &cluster.config().name);
    set_text(&mut stream.info.upstream_cluster_alt_stat_name, cluster.config().alt_stat_name());
    let Ok(terminate_connect) = upgrade(connection, stream, request, action) else {
        return Decision::Fail(ProxyError::UpgradeRefused, Some(matched));
    };
    let timeouts = action.timeouts(&mut stream.request, manager.timeouts);
    if timeouts.over {
        let request_complete = request.body.is_done();
        return Decision::Fail(ProxyError::MaxStreamDuration { request_complete }, Some(matched));
    }
    if let Some(limit) = timeouts.stream {
        let begun = Now(stream.info.start_ns);
        request.deadlines.stream_due = (!limit.is_zero()).then(|| begun.after(limit));
    }
    if let Some(idle) = action.idle_timeout() {
        request.deadlines.idle = (!idle.is_zero()).then_some(idle);
    }
    let options = &manager.config;
    let flush = action.flush_timeout(options.stream_flush_timeout, options.flush_follows_idle);
    connection.set_flush_timeout(flush);
    request.deadlines.response = timeouts.response;
    stream.per_try_timeout = timeouts.per_try;
    stream.alternative_on_timeout = timeouts.alternative;
    let gives_name = cluster.config().request_names.is_some();
    if gives_name {
        name_by_header(&cluster, stream);
    }
    let matched = Matched { choice: Some(choice), ..matched };
    let mut format = FormatContext::new(&stream.info, context.runtime.now().0, context.random());
    format.request = None;
    manager.routes.mutate_request(
        matched.virtual_host,
        matched.route,
        Some(&choice),
        &mut stream.request,
        &format,
        &mut scratch.route,
    );
    if let Some(port) = request.connect_port {
        let mut digits = [0; DECIMAL_DIGITS_MAX];
        scratch.text.clear();
        scratch.text.extend_from_slice(stream.request.authority());
        scratch.text.push(b':');
        scratch.text.extend_from_slice(decimal(port.into(), &mut digits));
        stream.request.set_authority(&scratch.text);
    }
    let keep_original = !manager.router.suppress_envoy_headers;
    matched.route.rewrite(action, &mut stream.request, keep_original, &mut scratch.route);
    stream.request.remove_set(forwarding::ROUTER_HEADERS);
    if gives_name {
        name_by_host(stream);
    }
    if action.has_hash_policy() && cluster.hashes() {
        hash(connection, stream, action, &mut scratch.route);
    }
    if matched.virtual_host.include_request_attempt_count {
        stream.request.set(&headers::X_ENVOY_ATTEMPT_COUNT, b"1");
    }
    let own = cluster.config().common_http.max_stream_duration;
    Decision::Forward(Forward {
        cluster,
        matched,
        action,
        upstream_limit: timeouts.upstream.or(own).filter(|limit| !limit.is_zero()),
        terminate_connect,
        origin,
        gives_name,
    })
}

/// Takes note by what the endpoint is picked. As in Envoy the request is hashed as the route has changed it.
fn hash(connection: &Connection, stream: &mut Stream, action: &route::Forward, scratch: &mut RouteScratch) {
    let Stream { request, info, set_cookies, .. } = stream;
    let client = HashedClient {
        address: info.downstream_remote_address.ip(),
        ends: [connection.remote.clone(), connection.local.clone()],
    };
    stream.hash = action.hash(request, &client, scratch, set_cookies);
}

/// The name for TLS by a header, as the request has it before the route changes it: as in Envoy.
fn name_by_header(cluster: &Cluster, stream: &mut Stream) {
    stream.info.upstream_server_name.clear();
    let Some(header) = cluster.name_header() else { return };
    let name = &mut stream.info.upstream_server_name;
    for value in stream.request.get_all(header) {
        if !name.is_empty() {
            name.push(',');
        }
        name.push_str(std::str::from_utf8(value).unwrap_or_default());
    }
}

/// The name for TLS by the host that the route gives to the request, unless a header had one; without a port.
fn name_by_host(stream: &mut Stream) {
    let Stream { request, info, scratch, .. } = stream;
    scratch.clear();
    let by_header = info.upstream_server_name.as_bytes();
    scratch.extend_from_slice(if by_header.is_empty() { request.authority() } else { by_header });
    let name = std::str::from_utf8(host::name(scratch)).unwrap_or_default();
    set_text(&mut info.upstream_server_name, name);
}

/// How a POST's tunnel ends here, where one may stand for CONNECT.
fn posted_connect(stream: &Stream, action: &route::Forward) -> Option<ConnectConfig> {
    let connect = action.upgrade(b"CONNECT")?.connect?;
    (connect.allow_post && stream.request.method() == b"POST").then_some(connect)
}

/// Whether the request's upgrade or CONNECT may pass: the route's word, else the connection manager's. For a CONNECT
/// whose tunnel ends here, how.
fn upgrade(
    connection: &Connection,
    stream: &Stream,
    request: &Request,
    action: &route::Forward,
) -> Result<Option<ConnectConfig>, ()> {
    let is_connect = request.meta.method == MethodKind::Connect;
    let Some(asked) = asked_upgrade(stream, request) else {
        return Ok(posted_connect(stream, action));
    };
    let rule = action.upgrade(asked);
    if allows_upgrade(connection, rule.map(|rule| rule.enabled), asked) {
        Ok(rule.filter(|_| is_connect).and_then(|rule| rule.connect))
    } else {
        Err(())
    }
}

/// Whether the request asks for an upgrade, or a tunnel, that neither its route nor the connection manager allows.
fn is_refused_upgrade(
    connection: &Connection,
    stream: &Stream,
    request: &Request,
    matched: Option<Matched<'_>>,
) -> bool {
    let Some(asked) = asked_upgrade(stream, request) else { return false };
    let own = matched.and_then(|matched| match &matched.route.action {
        Action::Forward(action) => action.upgrade(asked).map(|rule| rule.enabled),
        _ => None,
    });
    !allows_upgrade(connection, own, asked)
}

/// Whether an upgrade may pass: the route's word, else the connection manager's.
fn allows_upgrade(connection: &Connection, own: Option<bool>, asked: &[u8]) -> bool {
    let configured = &connection.chain.manager.config.upgrade_configs;
    let named = |config: &&UpgradeConfig| asked.eq_ignore_ascii_case(config.upgrade_type.as_bytes());
    own.or_else(|| configured.iter().find(named).map(|config| config.enabled)) == Some(true)
}
