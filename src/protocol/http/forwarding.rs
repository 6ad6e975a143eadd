//! What the connection manager does to heads for the sake of trust: who the client is, which headers it may have sent,
//! and what the next hop is told about it. Request side once per request before filters and routes, response side once
//! before the response is written. Hop-by-hop headers are the codec's business, not done here.
//!
//! The rules and their order are those of Envoy's connection manager (docs: "HTTP header manipulation", "x-forwarded-for").

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::client_cert;
use super::head::Head;
use super::headers::{self, HeaderName, Known, NameSet};
use crate::base::rng::Rng;
use crate::config::address::CidrRange;
use crate::config::http::{
    ClientCertDetails, ForwardClientCertDetails, HttpConnectionManager, InternalAddressConfig,
    SchemeHeaderTransformation, ServerHeaderTransformation,
};
use crate::protocol::tls::{Certificate, PeerIdentity};

/// The settings of one connection manager. Source: the `HttpConnectionManager` fields of the same names.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardingSettings {
    use_remote_address: bool,
    xff_num_trusted_hops: usize,
    skip_xff_append: bool,
    ipv4_as_mapped_ipv6: bool,
    append_x_forwarded_port: bool,
    internal: InternalAddressConfig,
    client_cert: ForwardClientCertDetails,
    client_cert_details: ClientCertDetails,
    via: Box<[u8]>,
    generate_request_id: bool,
    preserve_external_request_id: bool,
    always_set_request_id_in_response: bool,
    scheme_to_set: Option<&'static [u8]>,
    server_name: Box<[u8]>,
    server_header: ServerHeaderTransformation,
    user_agent: Option<Box<[u8]>>,
    node: Box<[u8]>,
    local_address: Option<IpAddr>,
}

/// What this process is called and where it is. Source: Envoy `LocalInfo`.
#[derive(Debug, Clone, Default)]
pub struct LocalInfo {
    /// `node.cluster` or `--service-cluster`; with `add_user_agent` it becomes the user agent. Empty: unknown.
    pub cluster: Box<str>,
    /// `node.id` or `--service-node`. Empty: unknown.
    pub node: Box<str>,
    /// An address of this host that is not loopback: what loopback clients are called in `x-forwarded-for`. Default none:
    /// their own address.
    pub address: Option<IpAddr>,
}

/// What a connection's requests have in common; made once per connection, so that requests format no addresses.
#[derive(Debug, Clone)]
pub struct Downstream {
    /// The peer's address; none for a Unix socket.
    remote: Option<IpAddr>,
    /// The peer's address, what `x-forwarded-for` says of it, and the port that the connection came in on; each empty for a Unix
    /// socket. In one piece, since every connection has them.
    texts: Box<[u8]>,
    /// Where the first two end.
    ends: [u8; 2],
    tls: bool,
    /// What `x-forwarded-client-cert` says of the peer; none: it has shown no certificate.
    client_cert: Option<Box<[u8]>>,
}

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The trusted client address: the peer's, or one from `x-forwarded-for`. None: a Unix socket.
    pub address: Option<IpAddr>,
    /// It stands in `x-forwarded-for`, which tells no port, be it the peer's own.
    pub forwarded: bool,
    /// Whether the request counts as internal.
    pub internal: bool,
}

impl ForwardingSettings {
    /// The settings of a connection manager.
    pub fn new(manager: &HttpConnectionManager, local: &LocalInfo) -> Self {
        let user_agent = manager.add_user_agent && !local.cluster.is_empty();
        Self {
            use_remote_address: manager.use_remote_address,
            xff_num_trusted_hops: manager.xff_num_trusted_hops as usize,
            skip_xff_append: manager.skip_xff_append,
            ipv4_as_mapped_ipv6: manager.represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            append_x_forwarded_port: manager.append_x_forwarded_port,
            internal: manager.internal_addresses.clone(),
            client_cert: manager.forward_client_cert_details,
            client_cert_details: manager.set_current_client_cert_details,
            via: manager.via.as_bytes().into(),
            generate_request_id: manager.generate_request_id,
            preserve_external_request_id: manager.preserve_external_request_id,
            always_set_request_id_in_response: manager.always_set_request_id_in_response,
            scheme_to_set: match manager.scheme_header_transformation {
                SchemeHeaderTransformation::Http => Some(b"http"),
                SchemeHeaderTransformation::Https => Some(b"https"),
                SchemeHeaderTransformation::None | SchemeHeaderTransformation::MatchUpstream => None,
            },
            server_name: manager.server_name.as_bytes().into(),
            server_header: manager.server_header_transformation,
            user_agent: user_agent.then(|| local.cluster.as_bytes().into()),
            node: local.node.as_bytes().into(),
            local_address: local.address,
        }
    }
}

impl ForwardingSettings {
    /// Whether requests are to tell who their client is.
    fn tells_client_cert(&self) -> bool {
        matches!(
            self.client_cert,
            ForwardClientCertDetails::AppendForward | ForwardClientCertDetails::SanitizeSet
        )
    }

    /// Whether they are to tell the whole certificate: a connection keeps it only then.
    pub fn tells_client_cert_as_pem(&self) -> bool {
        self.tells_client_cert() && (self.client_cert_details.cert || self.client_cert_details.chain)
    }
}

impl Downstream {
    /// A connection from `remote` (none: a Unix socket) to `local`.
    pub fn new(
        remote: Option<IpAddr>,
        local: Option<SocketAddr>,
        tls: bool,
        settings: &ForwardingSettings,
    ) -> Self {
        // As in Envoy not the whole network of the loopback.
        let is_loopback =
            |remote| remote == IpAddr::V4(Ipv4Addr::LOCALHOST) || remote == IpAddr::V6(Ipv6Addr::LOCALHOST);
        let told = remote.map(|remote| match settings.local_address.filter(|_| is_loopback(remote)) {
            Some(local) => local,
            None => remote,
        });
        let told = told.map(|address| match address {
            IpAddr::V4(v4) if settings.ipv4_as_mapped_ipv6 => v4.to_ipv6_mapped().into(),
            _ => address,
        });
        let mut texts = Vec::new();
        let ends = [remote, told].map(|address| {
            address.iter().for_each(|address| texts.extend_from_slice(&address_text(*address)));
            texts.len() as u8
        });
        local.iter().for_each(|local| texts.extend_from_slice(local.port().to_string().as_bytes()));
        Self { remote, texts: texts.into(), ends, tls, client_cert: None }
    }

    /// The same, of a peer that has shown a certificate; `local` is this side's.
    #[must_use]
    pub fn with_client_cert(
        mut self,
        local: Option<&Certificate>,
        peer: &PeerIdentity,
        settings: &ForwardingSettings,
    ) -> Self {
        self.client_cert = Some(if settings.tells_client_cert() {
            client_cert::describe(local, peer, settings.client_cert_details).into()
        } else {
            Box::default()
        });
        self
    }

    fn remote_text(&self) -> &[u8] {
        &self.texts[..usize::from(self.ends[0])]
    }

    fn forwarded_for(&self) -> &[u8] {
        &self.texts[usize::from(self.ends[0])..usize::from(self.ends[1])]
    }

    fn local_port(&self) -> &[u8] {
        &self.texts[usize::from(self.ends[1])..]
    }

    fn scheme(&self) -> &'static [u8] {
        if self.tls { b"https" } else { b"http" }
    }
}

/// Edits a request's head as received into what filters, routes and the next hop may trust. `internal_only_headers` are
/// those of the route configuration. Source: Envoy's `mutateRequestHeaders`.
pub fn mutate_request(
    head: &mut Head,
    settings: &ForwardingSettings,
    downstream: &Downstream,
    internal_only_headers: &[HeaderName],
    rng: &mut Rng,
    scratch: &mut Vec<u8>,
) -> Client {
    head.remove(&headers::X_ENVOY_INTERNAL);
    sanitize_referer(head);

    let hops = settings.xff_num_trusted_hops;
    let (forwarded, trusted) = if settings.use_remote_address {
        let single = !head.contains(&headers::X_FORWARDED_FOR);
        let forwarded = hops.checked_sub(1).and_then(|skip| forwarded_address(head, skip, scratch));
        if !settings.skip_xff_append && !downstream.forwarded_for().is_empty() {
            head.join(&headers::X_FORWARDED_FOR, downstream.forwarded_for(), b",");
        }
        if hops == 0 {
            head.set(&headers::X_FORWARDED_PROTO, downstream.scheme());
            if settings.append_x_forwarded_port && !downstream.local_port().is_empty() {
                head.set(&headers::X_FORWARDED_PORT, downstream.local_port());
            }
        }
        (forwarded.map(|(address, _)| address), single)
    } else {
        let forwarded = forwarded_address(head, hops, scratch);
        (forwarded.map(|(address, _)| address), forwarded.is_some_and(|(_, single)| single))
    };
    if !head.contains(&headers::X_FORWARDED_PROTO) {
        head.set(&headers::X_FORWARDED_PROTO, downstream.scheme());
    }
    if settings.append_x_forwarded_port
        && !downstream.local_port().is_empty()
        && !head.contains(&headers::X_FORWARDED_PORT)
    {
        head.set(&headers::X_FORWARDED_PORT, downstream.local_port());
    }
    set_scheme(head, settings, downstream);

    // Behind another proxy whoever the header does not name is not known to be internal.
    let asked = if settings.use_remote_address { forwarded.or(downstream.remote) } else { forwarded };
    // A Unix socket has no address; only the peer's own can be asked for.
    let unix = settings.use_remote_address && asked.is_none();
    let internal = trusted && is_internal(&settings.internal, asked, unix);
    let edge = !internal && settings.use_remote_address;
    let address = forwarded.or(downstream.remote);
    if internal {
        head.set(&headers::X_ENVOY_INTERNAL, b"true");
    } else {
        remove_internal_headers(head, edge, internal_only_headers);
    }

    if let Some(user_agent) = &settings.user_agent {
        head.set(&headers::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, user_agent);
        if head.get(&headers::USER_AGENT).is_none_or(<[u8]>::is_empty) {
            head.set(&headers::USER_AGENT, user_agent);
        }
        if !settings.node.is_empty() {
            head.set(&headers::X_ENVOY_DOWNSTREAM_SERVICE_NODE, &settings.node);
        }
    }
    append_via(head, settings);
    if edge && let Some(address) = address {
        if downstream.remote == Some(address) {
            head.set(&headers::X_ENVOY_EXTERNAL_ADDRESS, downstream.remote_text());
        } else {
            scratch.clear();
            // Writing to a Vec cannot fail.
            let _ = write!(scratch, "{address}");
            head.set(&headers::X_ENVOY_EXTERNAL_ADDRESS, scratch);
        }
    }
    if settings.generate_request_id {
        ensure_request_id(head, edge, settings.preserve_external_request_id, rng);
    }
    forward_client_cert(head, settings.client_cert, downstream.client_cert.as_deref());
    Client { address, forwarded: forwarded.is_some(), internal }
}

/// What becomes of `x-forwarded-client-cert`. `own` says who the client is; none: it has shown no certificate. Source:
/// Envoy's `mutateXfccRequestHeader`.
fn forward_client_cert(head: &mut Head, mode: ForwardClientCertDetails, own: Option<&[u8]>) {
    match (mode, own) {
        (ForwardClientCertDetails::AlwaysForwardOnly, _)
        | (ForwardClientCertDetails::ForwardOnly, Some(_)) => {}
        (ForwardClientCertDetails::AppendForward, Some(own)) => {
            head.join(&headers::X_FORWARDED_CLIENT_CERT, own, b",");
        }
        (ForwardClientCertDetails::SanitizeSet, Some(own)) => {
            head.set(&headers::X_FORWARDED_CLIENT_CERT, own)
        }
        (ForwardClientCertDetails::Sanitize, _) | (_, None) => {
            head.remove(&headers::X_FORWARDED_CLIENT_CERT);
        }
    }
}

/// Edits a response's head before it is written to the client. `request` is the head after [`mutate_request`]. Source:
/// Envoy's `mutateResponseHeaders` and `server_header_transformation`.
pub fn mutate_response(head: &mut Head, request: &Head, settings: &ForwardingSettings) {
    if (settings.always_set_request_id_in_response || request.contains(&headers::X_ENVOY_FORCE_TRACE))
        && let Some(id) = request.get(&headers::X_REQUEST_ID)
    {
        head.set(&headers::X_REQUEST_ID, id);
    }
    append_via(head, settings);
    match settings.server_header {
        ServerHeaderTransformation::Overwrite => head.set(&headers::SERVER, &settings.server_name),
        ServerHeaderTransformation::AppendIfAbsent if !head.contains(&headers::SERVER) => {
            head.set(&headers::SERVER, &settings.server_name);
        }
        ServerHeaderTransformation::AppendIfAbsent | ServerHeaderTransformation::PassThrough => {}
    }
}

/// Whether `scheme` is http or https in any case.
pub fn scheme_is_http_or_https(scheme: &[u8]) -> bool {
    scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https")
}

/// The address `skip` entries before the last of `x-forwarded-for`, and whether it is the only one.
fn forwarded_address(head: &Head, skip: usize, scratch: &mut Vec<u8>) -> Option<(IpAddr, bool)> {
    let value = joined_value(head, &headers::X_FORWARDED_FOR, scratch)?;
    let entry = value.rsplit(|&byte| byte == b',').nth(skip)?;
    let address = std::str::from_utf8(entry.trim_ascii()).ok()?.parse().ok()?;
    Some((address, skip == 0 && entry.len() == value.len()))
}

fn set_scheme(head: &mut Head, settings: &ForwardingSettings, downstream: &Downstream) {
    if let Some(scheme) = settings.scheme_to_set {
        head.set_scheme(scheme);
        head.set(&headers::X_FORWARDED_PROTO, scheme);
    }
    if head.scheme().is_empty() {
        let forwarded = head.get(&headers::X_FORWARDED_PROTO).unwrap_or_default();
        let scheme: &[u8] = match forwarded {
            _ if forwarded.eq_ignore_ascii_case(b"https") => b"https",
            _ if forwarded.eq_ignore_ascii_case(b"http") => b"http",
            _ => downstream.scheme(),
        };
        head.set_scheme(scheme);
    }
}

fn is_internal(config: &InternalAddressConfig, address: Option<IpAddr>, unix: bool) -> bool {
    match address {
        Some(address) => config.cidr_ranges.iter().any(|range: &CidrRange| range.contains(address)),
        None => unix && config.unix_sockets,
    }
}

/// Headers by which an internal client steers the router; an external one may not.
const INTERNAL_HEADERS: NameSet = NameSet::of(&[
    Known::X_ENVOY_RETRIABLE_STATUS_CODES,
    Known::X_ENVOY_RETRIABLE_HEADER_NAMES,
    Known::X_ENVOY_RETRY_ON,
    Known::X_ENVOY_RETRY_GRPC_ON,
    Known::X_ENVOY_MAX_RETRIES,
    Known::X_ENVOY_UPSTREAM_ALT_STAT_NAME,
    Known::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS,
    Known::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
    Known::X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE,
    Known::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS,
    Known::X_ENVOY_FORCE_TRACE,
    Known::X_ENVOY_IP_TAGS,
    Known::X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
    Known::X_ENVOY_ORIGINAL_HOST,
    Known::X_ENVOY_ORIGINAL_PATH,
]);

/// Headers by which an internal client steers this proxy's router, and by which it steers no other: the router takes them out of
/// what it sends, whether it has a use for them or not. Source: Envoy's `RetryStateImpl::create`, its router.
pub const ROUTER_HEADERS: NameSet = NameSet::of(&[
    Known::X_ENVOY_RETRIABLE_STATUS_CODES,
    Known::X_ENVOY_RETRIABLE_HEADER_NAMES,
    Known::X_ENVOY_RETRY_ON,
    Known::X_ENVOY_RETRY_GRPC_ON,
    Known::X_ENVOY_MAX_RETRIES,
    Known::X_ENVOY_UPSTREAM_ALT_STAT_NAME,
    Known::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
    Known::X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
]);

/// What an edge besides takes from external clients: who claims to call.
const EDGE_HEADERS: NameSet = NameSet::of(&[
    Known::X_ENVOY_DECORATOR_OPERATION,
    Known::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER,
    Known::X_ENVOY_DOWNSTREAM_SERVICE_NODE,
]);

fn remove_internal_headers(head: &mut Head, edge: bool, internal_only: &[HeaderName]) {
    if edge {
        head.remove_set(EDGE_HEADERS);
    }
    head.remove_set(INTERNAL_HEADERS);
    for name in internal_only {
        head.remove(name);
    }
}

fn append_via(head: &mut Head, settings: &ForwardingSettings) {
    if !settings.via.is_empty() {
        head.join(&headers::VIA, &settings.via, b", ");
    }
}

/// The character of a UUID in which Envoy keeps why a request is traced; `4` is "not traced".
const TRACE_REASON_INDEX: usize = 14;

/// Gives the request an id unless it has one that may stay. Source: Envoy's UUID request id extension.
fn ensure_request_id(head: &mut Head, edge: bool, preserve_external: bool, rng: &mut Rng) {
    let present = head.get(&headers::X_REQUEST_ID).unwrap_or_default();
    if present.is_empty() || edge && !preserve_external {
        let id = uuid_v4(rng.next_u64(), rng.next_u64());
        head.set(&headers::X_REQUEST_ID, &id);
    } else if edge && present.len() == UUID_LEN {
        // An external client may not decide that its request is traced.
        let mut id = [0; UUID_LEN];
        id.copy_from_slice(present);
        id[TRACE_REASON_INDEX] = b'4';
        head.set(&headers::X_REQUEST_ID, &id);
    }
}

const UUID_LEN: usize = 36;

/// The random UUID (RFC 9562 §5.4) of 122 of these 128 bits, as text.
pub fn uuid_v4(high: u64, low: u64) -> [u8; UUID_LEN] {
    let high = high & !0xf000 | 0x4000;
    let low = low & !(0b11 << 62) | 0b10 << 62;
    let mut text = [b'-'; UUID_LEN];
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    for (byte, at) in bytes.into_iter().zip(UUID_PAIRS) {
        text[at] = b"0123456789abcdef"[usize::from(byte >> 4)];
        text[at + 1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    text
}

/// Where the digits of each byte begin.
const UUID_PAIRS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// Removes `referer` unless every value is a URL or relative reference without fragment and user name (RFC 9110
/// §10.1.3).
fn sanitize_referer(head: &mut Head) {
    // Most requests have none: that costs one test.
    if head.contains(&headers::REFERER) && !head.get_all(&headers::REFERER).all(is_referer) {
        head.remove(&headers::REFERER);
    }
}

fn is_referer(value: &[u8]) -> bool {
    let visible =
        value.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>'));
    if !visible {
        return false;
    }
    let scheme_len = value.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    if let Some(rest) = value[scheme_len..].strip_prefix(b"://") {
        let authority = rest.split(|byte| matches!(byte, b'/' | b'?')).next().unwrap_or_default();
        return scheme_len > 0 && !authority.is_empty() && !authority.contains(&b'@');
    }
    // Relative: the first segment holds no colon (RFC 3986 §4.2).
    !value.split(|&byte| byte == b'/').next().unwrap_or_default().contains(&b':')
}

fn address_text(address: IpAddr) -> Vec<u8> {
    address.to_string().into_bytes()
}

/// The value of `name`; several, joined by commas in `joined`.
fn joined_value<'a>(head: &'a Head, name: &HeaderName, joined: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let first = head.get(name)?;
    if head.get_all(name).nth(1).is_none() {
        return Some(first);
    }
    joined.clear();
    for value in head.get_all(name) {
        if !joined.is_empty() {
            joined.push(b',');
        }
        joined.extend_from_slice(value);
    }
    Some(joined)
}

#[cfg(test)]
#[path = "forwarding_tests.rs"]
mod tests;
