//! Invariants of gRPC: the cut of a gRPC-Web body does not matter, what is encoded decodes to the same bytes, and no
//! `grpc-timeout` grants more than a route allows.

use std::time::Duration;

use crate::base::regex::RegexSlots;
use crate::buffer::{ChunkQueue, ChunkSize, Pool};
use crate::config::http_filter::{HttpFilter, HttpFilterConfig};
use crate::config::route as config;
use crate::filter::chain::{FilterChain, Passed, StreamFilters};
use crate::filter::http::{Arrival, Context, Direction, FilterCounters, FilterReply};
use crate::filter::rbac::Facts;
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::headers;
use crate::route::{Action, CompileContext, Outcome, RouteScratch, RouteTable, TimeoutOptions};

/// One byte of cut, then a body: of a text request, and of a response that becomes text.
pub fn grpc_web(input: &[u8]) {
    let Some((cut, body)) = input.split_first() else { return };
    // The pool of a passage is small; this is larger than what it cuts a body into.
    let body = &body[..body.len().min(16 * 1024)];
    let cut = usize::from(*cut) + 1;
    let whole = pass(Direction::Decode, &[body]);
    let pieces: Vec<&[u8]> = body.chunks(cut).collect();
    assert_eq!(whole.is_ok(), pass(Direction::Decode, &pieces).is_ok());
    if let Ok(decoded) = &whole {
        assert!(decoded.len() <= body.len() / 4 * 3);
        assert_eq!(Ok(decoded), pass(Direction::Decode, &pieces).as_ref());
    }
    let encoded = pass(Direction::Encode, &[body]);
    assert_eq!(encoded, pass(Direction::Encode, &pieces));
    // Nothing of a response is refused, and its text holds the same bytes.
    let Ok(encoded) = encoded else { panic!("a response was refused") };
    assert_eq!(pass(Direction::Decode, &[&encoded]).as_deref(), Ok(body));
}

/// A body in these pieces through the filter: what comes out, or the refusal.
fn pass(direction: Direction, pieces: &[&[u8]]) -> Result<Vec<u8>, FilterReply> {
    let Ok(pool) = Pool::with_capacity(64, 16) else { return Ok(Vec::new()) };
    let web = HttpFilter { name: "web".into(), disabled: false, config: HttpFilterConfig::GrpcWeb };
    let Ok(chain) = FilterChain::compile(&[web], &[], &mut RegexSlots::default()) else {
        return Ok(Vec::new());
    };
    let mut filters = StreamFilters::default();
    let mut context =
        Context { pool: &pool, downstream: Version::Http11, held_bytes_max: 1 << 20, clear_route: false };
    let mut request = Head::new();
    request.set_path(b"/s/m");
    request.set(&headers::CONTENT_TYPE, b"application/grpc-web-text");
    request.set(&headers::ACCEPT, b"application/grpc-web-text");
    chain.begin(&[None; 4], &request, &mut filters);
    let (mut metadata, mut details, mut matching) = Default::default();
    let mut arrival = Arrival {
        connection: Facts {
            peer: None,
            direct_remote: None,
            remote: None,
            remote_port: 0,
            local: None,
            server_name: "",
            tls: None,
            request: None,
            metadata: None,
        },
        metadata: &mut metadata,
        details: &mut details,
        matching: &mut matching,
        counters: &FilterCounters::default(),
    };
    chain.decode_head(&mut filters, &mut context, &mut arrival, &mut request)?;
    let mut response = Head::new();
    response.set_status(200);
    response.set(&headers::CONTENT_TYPE, b"application/grpc");
    assert!(chain.encode_head(&mut filters, &mut response, false));
    let head = if direction == Direction::Decode { &mut request } else { &mut response };
    let mut out = Vec::new();
    for (index, piece) in pieces.iter().chain([&&[][..]]).enumerate() {
        let mut queue = ChunkQueue::default();
        for piece in piece.chunks(4096) {
            let Some(mut chunk) = pool.alloc(ChunkSize::Small) else { continue };
            chunk.write(piece);
            queue.push(chunk.freeze());
        }
        let ends = index == pieces.len();
        match chain.data(direction, &mut filters, &mut context, head, &mut queue, ends) {
            Passed::On => queue.iter().for_each(|chunk| out.extend_from_slice(chunk)),
            Passed::Held => panic!("nothing holds this head"),
            Passed::Reply(reply) => return Err(reply),
        }
    }
    filters.clear();
    assert_eq!(pool.chunks_in_use(), 0);
    Ok(out)
}

/// Two bytes of cap and offset in seconds, then a `grpc-timeout`.
pub fn grpc_timeout(input: &[u8]) {
    let [max, offset, asked @ ..] = input else { return };
    let (max, offset) = (Duration::from_secs((*max).into()), Duration::from_secs((*offset).into()));
    let mut action = config::RouteAction::to(config::ClusterSpecifier::Cluster("c".into()));
    action.max_stream_duration = Some(config::MaxStreamDuration {
        max_stream_duration: None,
        grpc_timeout_header_max: Some(max),
        grpc_timeout_header_offset: Some(offset),
    });
    let route = config::Route {
        name: "r".into(),
        matcher: config::RouteMatch::default(),
        action: config::Action::Forward(Box::new(action)),
        header_mutations: config::HeaderMutations::default(),
        filters: Vec::new(),
    };
    let virtual_host = config::VirtualHost {
        name: "v".into(),
        domains: vec!["*".into()],
        routes: vec![route],
        ..config::VirtualHost::default()
    };
    let table = config::RouteConfiguration {
        virtual_hosts: vec![virtual_host],
        ..config::RouteConfiguration::default()
    };
    let context = CompileContext { cluster_exists: &|_| true, hash_seed: 1, regexes: None };
    let Ok(table) = RouteTable::compile(&table, &context) else { return };
    let mut head = Head::new();
    head.set_path(b"/");
    head.set(&headers::CONTENT_TYPE, b"application/grpc");
    head.set(&headers::GRPC_TIMEOUT, asked);
    let Outcome::Route(_, route) = table.find_route(&head, 0, &mut RouteScratch::default()) else { return };
    let Action::Forward(forward) = &route.action else { return };
    let limits = forward.timeouts(&mut head, TimeoutOptions::default());
    let Some(limit) = limits.stream else { return };
    assert_eq!(limits.over, limit.is_zero(), "zero would mean no limit");
    assert!(max.is_zero() || limit <= max);
    let told = head.get(&headers::GRPC_TIMEOUT).unwrap_or_default();
    let [digits @ .., b'm' | b'S' | b'M' | b'H'] = told else { panic!("{told:?} has no unit") };
    assert!((1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit), "{told:?}");
}
