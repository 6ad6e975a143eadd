//! Chains over whole messages, cut in every way: what a filter sees, holds, rewrites, answers.

use super::chain::{FilterChain, Passed, StreamFilters};
use super::http::{Arrival, Context, Direction, FilterCounters, FilterReply};
use super::rbac::Facts;
use crate::base::regex::RegexSlots;
use crate::buffer::{ChunkQueue, ChunkSize, Pool};
use crate::config::ads::{Ecds, ResourceSource};
use crate::config::http_filter::{FilterOverride, GrpcHttp1BridgeConfig, HttpFilter, HttpFilterConfig};
use crate::config::told_filter::{FilterConfig, FilterKind, ToldFilter, TypedFilter};
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::headers::HeaderName;
use crate::protocol::response_flags::ResponseFlag;
use crate::route::OverrideLevels;

/// A chain and one request's passage through it.
struct Passage {
    pool: Pool,
    chain: FilterChain,
    filters: StreamFilters,
    downstream: Version,
    held_bytes_max: usize,
    clear_route: bool,
    request: Head,
    response: Head,
}

/// What came out of a body.
#[derive(Debug, PartialEq, Eq)]
struct Body {
    bytes: Vec<u8>,
    /// Whether the head waited for something of the body.
    head_waited: bool,
    trailers: Vec<(String, String)>,
}

const NO_LEVELS: OverrideLevels = [None; 4];
const NOBODY: Facts<'_> = Facts {
    peer: None,
    direct_remote: None,
    remote: None,
    remote_port: 0,
    local: None,
    server_name: "",
    tls: None,
    request: None,
    metadata: None,
};
const BRIDGE: GrpcHttp1BridgeConfig =
    GrpcHttp1BridgeConfig { upgrade_protobuf_to_grpc: true, ignore_query_parameters: true };

fn name(text: &str) -> HeaderName {
    HeaderName::parse(text.as_bytes()).unwrap()
}

fn filter(name: &str, config: HttpFilterConfig) -> HttpFilter {
    HttpFilter { name: name.into(), disabled: false, config }
}

fn head(fields: &[(&str, &str)]) -> Head {
    let mut head = Head::new();
    for (field, value) in fields {
        head.append(&name(field), value.as_bytes());
    }
    head
}

fn text(head: &Head, field: &str) -> String {
    head.get(&name(field)).map_or_else(|| "-".to_owned(), |value| String::from_utf8_lossy(value).into_owned())
}

fn request(path: &str, kind: &str, more: &[(&str, &str)]) -> Head {
    let mut fields = vec![(":method", "POST"), (":path", path), ("content-type", kind)];
    fields.extend_from_slice(more);
    head(&fields)
}

fn response(status: &str, kind: &str, more: &[(&str, &str)]) -> Head {
    let mut fields = vec![(":status", status), ("content-type", kind)];
    fields.extend_from_slice(more);
    head(&fields)
}

impl Passage {
    fn new(filters: &[HttpFilter]) -> Self {
        Self {
            pool: Pool::with_capacity(256, 4).unwrap(),
            chain: FilterChain::compile(filters, &[], &mut RegexSlots::default()).unwrap(),
            filters: StreamFilters::default(),
            downstream: Version::Http11,
            held_bytes_max: 1 << 20,
            clear_route: false,
            request: Head::new(),
            response: Head::new(),
        }
    }

    fn web() -> Self {
        Self::new(&[filter("web", HttpFilterConfig::GrpcWeb)])
    }

    fn bridge() -> Self {
        Self::new(&[filter("bridge", HttpFilterConfig::GrpcHttp1Bridge(BRIDGE))])
    }

    fn ask(&mut self, request: Head) -> &mut Self {
        self.request = request;
        self.chain.begin(&NO_LEVELS, &self.request, &mut self.filters);
        self.decode();
        self
    }

    fn decode(&mut self) {
        self.try_decode().unwrap();
    }

    fn try_decode(&mut self) -> Result<(), FilterReply> {
        let Self { pool, chain, filters, downstream, held_bytes_max, request, .. } = self;
        let mut context =
            Context { pool, downstream: *downstream, held_bytes_max: *held_bytes_max, clear_route: false };
        let (mut metadata, mut details, mut matching) = Default::default();
        let mut arrival = Arrival {
            connection: NOBODY,
            metadata: &mut metadata,
            details: &mut details,
            matching: &mut matching,
            counters: &FilterCounters::default(),
        };
        let passed = chain.decode_head(filters, &mut context, &mut arrival, request);
        self.clear_route |= context.clear_route;
        passed
    }

    /// Whether the response's head goes on at once.
    fn encode(&mut self, ends: bool) -> bool {
        let Self { chain, filters, response, .. } = self;
        chain.encode_head(filters, response, ends)
    }

    fn queue(&self, bytes: &[u8]) -> ChunkQueue {
        let mut queue = ChunkQueue::default();
        for piece in bytes.chunks(4096) {
            let mut chunk = self.pool.alloc(ChunkSize::Small).unwrap();
            chunk.write(piece);
            queue.push(chunk.freeze());
        }
        queue
    }

    /// A body in these pieces, and its trailers; none: it ends with an empty piece.
    fn body(
        &mut self,
        direction: Direction,
        pieces: &[&[u8]],
        trailers: Option<&[(&str, &str)]>,
    ) -> Result<Body, FilterReply> {
        let mut body = Body { bytes: Vec::new(), head_waited: false, trailers: Vec::new() };
        let mut queues: Vec<_> = pieces.iter().map(|piece| (self.queue(piece), false)).collect();
        if trailers.is_none() {
            queues.push((ChunkQueue::default(), true));
        }
        let Self { pool, chain, filters, downstream, held_bytes_max, request, response, .. } = self;
        let mut context =
            Context { pool, downstream: *downstream, held_bytes_max: *held_bytes_max, clear_route: false };
        let head = if direction == Direction::Decode { request } else { response };
        for (mut queue, ends) in queues {
            match chain.data(direction, filters, &mut context, head, &mut queue, ends) {
                Passed::On => queue.iter().for_each(|chunk| body.bytes.extend_from_slice(chunk)),
                Passed::Held => {
                    assert!(queue.is_empty());
                    body.head_waited = true;
                }
                Passed::Reply(reply) => return Err(reply),
            }
        }
        if let Some(trailers) = trailers {
            let mut trailers = self::head(trailers);
            let mut queue = ChunkQueue::default();
            match chain.trailers(direction, filters, &mut context, head, &mut trailers, &mut queue) {
                Passed::On => queue.iter().for_each(|chunk| body.bytes.extend_from_slice(chunk)),
                Passed::Held => panic!("nothing is held at the end"),
                Passed::Reply(reply) => return Err(reply),
            }
            let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            body.trailers = trailers.iter().map(|(name, value)| (lossy(name), lossy(value))).collect();
        }
        Ok(body)
    }

    fn upload(&mut self, pieces: &[&[u8]]) -> Result<Vec<u8>, FilterReply> {
        self.body(Direction::Decode, pieces, None).map(|body| body.bytes)
    }

    fn answer(&mut self, response: Head) -> bool {
        self.response = response;
        self.encode(false)
    }

    fn download(&mut self, pieces: &[&[u8]], trailers: Option<&[(&str, &str)]>) -> Body {
        self.body(Direction::Encode, pieces, trailers).unwrap()
    }
}

// === the chain ===

#[test]
fn router_alone_is_an_empty_chain() {
    let router = HttpFilterConfig::Router(crate::config::http::RouterConfig::default());
    assert!(
        FilterChain::compile(&[filter("router", router)], &[], &mut RegexSlots::default())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn most_specific_level_decides_whether_a_filter_runs() {
    use crate::config::route::{Route, RouteConfiguration, RouteMatch, VirtualHost};
    use crate::route::{CompileContext, RouteTable};
    let word = |disabled| vec![FilterOverride { name: "web".into(), disabled, options: None }];
    let on = Some(false);
    let off = Some(true);
    // By default, at the table, the virtual host, the route: whether the filter runs.
    for (disabled, levels, runs) in [
        (false, [None, None, None], true),
        (true, [None, None, None], false),
        (false, [off, None, None], false),
        (true, [on, None, None], true),
        (false, [on, off, None], false),
        (false, [on, off, on], true),
        (true, [on, on, off], false),
    ] {
        let words = levels.map(|level| level.map(word).unwrap_or_default());
        let [table, host, route] = words;
        let config = RouteConfiguration {
            virtual_hosts: vec![VirtualHost {
                name: "v".into(),
                domains: vec!["*".into()],
                routes: vec![Route {
                    name: "r".into(),
                    matcher: RouteMatch::default(),
                    action: crate::config::route::Action::NonForwarding,
                    header_mutations: crate::config::route::HeaderMutations::default(),
                    filters: route,
                }],
                filters: host,
                ..VirtualHost::default()
            }],
            filters: table,
            ..RouteConfiguration::default()
        };
        let context = CompileContext { cluster_exists: &|_| true, hash_seed: 1, regexes: None };
        let mut table = RouteTable::compile(&config, &context).unwrap();
        let overrides = table.take_overrides();
        let filters = [HttpFilter { disabled, ..filter("web", HttpFilterConfig::GrpcWeb) }];
        let chain = FilterChain::compile(&filters, &overrides, &mut RegexSlots::default()).unwrap();
        let mut passage = Passage { chain, ..Passage::web() };
        passage.request = request("/s/m", "application/grpc-web", &[]);
        let mut scratch = crate::route::RouteScratch::default();
        let crate::route::Outcome::Route(host, route) = table.find_route(&passage.request, 0, &mut scratch)
        else {
            panic!("no route")
        };
        let levels = table.override_levels(Some((host, route)), None);
        passage.chain.begin(&levels, &passage.request, &mut passage.filters);
        passage.decode();
        let ran = text(&passage.request, "content-type") == "application/grpc";
        assert_eq!(ran, runs, "{disabled} {levels:?}");
    }
}

#[test]
fn responses_pass_in_reverse_order_and_a_held_head_goes_on_with_all_of_its_data() {
    // The bridge is behind gRPC-Web in the chain, so it sees the response first, and holds it.
    let filters = [
        filter("web", HttpFilterConfig::GrpcWeb),
        filter("bridge", HttpFilterConfig::GrpcHttp1Bridge(BRIDGE)),
    ];
    let mut passage = Passage::new(&filters);
    passage.ask(request("/s/m?q", "application/grpc-web+proto", &[]));
    assert_eq!(text(&passage.request, ":path"), "/s/m", "the second saw what the first had made of it");
    assert!(!passage.answer(response("200", "application/grpc", &[])));
    assert_eq!(text(&passage.response, "content-type"), "application/grpc", "the first has not seen it yet");
    let body = passage.download(&[b"abc", b"def"], Some(&[("grpc-status", "0")]));
    assert!(body.head_waited);
    assert_eq!(body.bytes, b"abcdef\x80\0\0\0\x0fgrpc-status:0\r\n");
    assert_eq!(text(&passage.response, "content-type"), "application/grpc-web+proto");
    assert_eq!(passage.pool.chunks_in_use(), 0, "nothing stays behind");
}

/// A filter that is told, and what stands in for it.
fn told(default: Option<HttpFilterConfig>) -> HttpFilterConfig {
    let ecds = Ecds {
        source: ResourceSource::Ads,
        name: "told".into(),
        kind: FilterKind::Http,
        initial_fetch_timeout: None,
        is_awaited: true,
        types: Box::default(),
    };
    let default = default.map(|config| typed(config).into());
    HttpFilterConfig::Told(Box::new(ToldFilter { ecds, default, is_last: false, told: None }))
}

fn typed(config: HttpFilterConfig) -> TypedFilter {
    TypedFilter { type_name: Box::default(), config: FilterConfig::Http(config) }
}

#[test]
fn filter_that_was_not_told_answers_in_its_place() {
    let web = || filter("web", HttpFilterConfig::GrpcWeb);
    let mut passage = Passage::new(&[web(), filter("told", told(None))]);
    passage.request = request("/s/m", "application/grpc-web", &[]);
    passage.chain.begin(&NO_LEVELS, &passage.request, &mut passage.filters);
    let reply = passage.try_decode().unwrap_err();
    assert_eq!((reply.status, reply.body, reply.flag), (500, "", Some(ResponseFlag::NoFilterConfigFound)));
    assert_eq!(
        text(&passage.request, "content-type"),
        "application/grpc",
        "the one before it has seen the request"
    );
    let off = HttpFilter { disabled: true, ..filter("told", told(None)) };
    Passage::new(&[off]).ask(request("/", "text/plain", &[]));
}

#[test]
fn what_was_told_runs_in_place_of_the_default() {
    let mut filters = [filter("told", told(Some(HttpFilterConfig::GrpcWeb)))];
    let mut passage = Passage::new(&filters);
    passage.ask(request("/s/m", "application/grpc-web", &[]));
    assert_eq!(text(&passage.request, "content-type"), "application/grpc");
    let HttpFilterConfig::Told(own) = &mut filters[0].config else { panic!("told") };
    let bridge = HttpFilterConfig::GrpcHttp1Bridge(BRIDGE);
    own.told = Some(typed(bridge).into());
    let mut passage = Passage::new(&filters);
    passage.ask(request("/s/m?q", "application/x-protobuf", &[]));
    assert_eq!(text(&passage.request, ":path"), "/s/m");
}

#[test]
fn more_than_may_be_held_is_answered() {
    let mut passage = Passage::bridge();
    passage.held_bytes_max = 100;
    passage.ask(request("/s/m", "application/x-protobuf", &[]));
    assert_eq!(passage.upload(&[&[0; 60], &[0; 60]]).unwrap_err().status, 413);
    passage.ask(request("/s/m", "application/grpc", &[]));
    passage.answer(response("200", "application/grpc", &[]));
    let reply = passage.body(Direction::Encode, &[&[0; 60], &[0; 60]], None).unwrap_err();
    assert_eq!((reply.status, reply.details), (500, "response_payload_too_large"));
    passage.filters.clear();
    assert_eq!(passage.pool.chunks_in_use(), 0);
}

#[test]
fn empty_pool_is_an_answer() {
    let mut passage = Passage { pool: Pool::with_capacity(1, 1).unwrap(), ..Passage::web() };
    let _large = passage.pool.alloc(ChunkSize::Large).unwrap();
    passage.ask(request("/s/m", "application/grpc-web-text", &[]));
    assert_eq!(passage.upload(&[b"Zm9v"]).unwrap_err().status, 503);
}

// === gRPC-Web ===

#[test]
fn web_request_becomes_grpc() {
    let mut passage = Passage::web();
    passage.ask(request("/s/m", "application/grpc-web", &[("content-length", "4")]));
    let asked = ["content-type", "te", "grpc-accept-encoding", "content-length"];
    let values = asked.map(|field| text(&passage.request, field));
    assert_eq!(values, ["application/grpc", "trailers", "identity", "-"]);
    assert_eq!(passage.upload(&[b"\0\0\0\0", b"\0"]).unwrap(), b"\0\0\0\0\0");
    assert!(!passage.filters.want_data(Direction::Decode), "binary bodies pass untouched");
    passage.ask(request("/s/m", "application/grpc-web", &[("grpc-accept-encoding", "gzip")]));
    assert_eq!(text(&passage.request, "grpc-accept-encoding"), "gzip");
}

#[test]
fn request_of_another_kind_is_left_alone() {
    for kind in
        ["application/grpc", "application/json", "application/grpc-web+json", "application/grpc-web; a"]
    {
        let mut passage = Passage::web();
        passage.ask(request("/s/m", kind, &[("content-length", "4")]));
        assert_eq!(
            (text(&passage.request, "content-type"), text(&passage.request, "te")),
            (kind.into(), "-".into())
        );
        assert!(!passage.filters.want_data(Direction::Encode));
        assert!(passage.answer(response("503", "text/plain", &[])));
        assert_eq!(text(&passage.response, "content-type"), "text/plain");
    }
}

#[test]
fn web_text_request_is_decoded_however_it_is_cut() {
    let encoded = b"AAAAAAJhYg==AAAAAAA=";
    for size in 1..=encoded.len() {
        let mut passage = Passage::web();
        passage.ask(request("/s/m", "application/grpc-web-text+proto", &[]));
        let pieces: Vec<&[u8]> = encoded.chunks(size).collect();
        assert_eq!(passage.upload(&pieces).unwrap(), b"\0\0\0\0\x02ab\0\0\0\0\0");
    }
}

#[test]
fn web_text_request_that_is_no_base64_is_refused() {
    for (pieces, details) in [
        (&[&b"Zm9v"[..], b"Zm"][..], "grpc_base_64_decode_failed_bad_size"),
        (&[&b"Z"[..]][..], "grpc_base_64_decode_failed_bad_size"),
        (&[&b"Zm9v!m9v"[..]][..], "grpc_base_64_decode_failed"),
        (&[&b"Zm"[..], b"\xff9"][..], "grpc_base_64_decode_failed"),
    ] {
        let mut passage = Passage::web();
        passage.ask(request("/s/m", "application/grpc-web-text", &[]));
        let reply = passage.upload(pieces).unwrap_err();
        assert_eq!((reply.status, reply.details), (400, details));
        passage.ask(request("/s/m", "application/grpc-web-text", &[]));
        let reply = passage.body(Direction::Decode, pieces, Some(&[("a", "b")])).unwrap_err();
        assert_eq!(reply.details, details, "trailers end the body, too");
    }
}

#[test]
fn trailers_become_the_last_frame_of_the_body() {
    for (accept, kind, expected) in [
        (
            "*/*",
            "application/grpc-web+proto",
            &b"\0\0\0\0\x01a\x80\0\0\0\x1dgrpc-status:0\r\nx-custom:a:b\r\n"[..],
        ),
        (
            "application/grpc-web-text",
            "application/grpc-web-text+proto",
            b"AAAAAAFhgAAAAB1ncnBjLXN0YXR1czowDQp4LWN1c3RvbTphOmINCg==",
        ),
    ] {
        let mut passage = Passage::web();
        passage.ask(request("/s/m", "application/grpc-web", &[("accept", accept)]));
        let answer = response("200", "application/grpc", &[("content-length", "6")]);
        assert!(passage.answer(answer));
        assert_eq!(text(&passage.response, "content-type"), kind);
        assert_eq!(text(&passage.response, "content-length"), "-");
        let trailers = [("Grpc-Status", "0"), ("x-custom", "a:b")];
        let body = passage.download(&[b"\0\0\0", b"\0\x01a"], Some(&trailers));
        assert_eq!(String::from_utf8_lossy(&body.bytes), String::from_utf8_lossy(expected));
        assert!(body.trailers.is_empty());
    }
}

#[test]
fn response_that_is_no_grpc_becomes_a_status_with_its_text_as_message() {
    let mut passage = Passage::web();
    passage.ask(request("/s/m", "application/grpc-web", &[]));
    assert!(!passage.answer(response("503", "text/html", &[("content-length", "7")])));
    let body = passage.download(&[b"down 10", b"0%"], None);
    assert!(body.head_waited && body.bytes.is_empty());
    let told =
        ["grpc-status", "grpc-message", "content-length", ":status"].map(|it| text(&passage.response, it));
    assert_eq!(told, ["14", "down 100%25", "0", "503"]);
    // However long it is: a part of it is enough.
    passage.ask(request("/s/m", "application/grpc-web", &[]));
    passage.answer(response("200", "text/html", &[]));
    let page = [b'x'; 4096];
    passage.download(&[&page[..]; 10], Some(&[("grpc-status", "0")]));
    assert_eq!(text(&passage.response, "grpc-message").len(), 16 * 1024);
    assert_eq!(passage.pool.chunks_in_use(), 0);
    // One that has no body has no message.
    passage.ask(request("/s/m", "application/grpc-web", &[]));
    passage.response = response("404", "text/html", &[]);
    assert!(passage.encode(true));
    assert_eq!(text(&passage.response, "grpc-status"), "-");
}

#[test]
fn endpoint_that_speaks_grpc_web_is_passed_on() {
    let mut passage = Passage::web();
    passage.ask(request("/s/m", "application/grpc-web", &[]));
    let own = response("200", "Application/grpc-web+proto ; charset=utf-8", &[]);
    assert!(passage.answer(own));
    assert_eq!(passage.download(&[b"\0\0\0\0\0"], None).bytes, b"\0\0\0\0\0");
}

#[test]
fn reply_of_our_own_passes_the_filters() {
    let mut passage = Passage::web();
    passage.ask(request("/s/m", "application/grpc-web-text", &[("accept", "application/grpc-web-text")]));
    let mut reply = response("503", "text/plain", &[]);
    let mut words = b"no healthy upstream".to_vec();
    let Passage { pool, chain, filters, .. } = &mut passage;
    let mut context =
        Context { pool, downstream: Version::Http11, held_bytes_max: 1 << 20, clear_route: false };
    chain.reply(filters, &mut context, &mut reply, &mut words);
    assert!(words.is_empty());
    let told = ["grpc-status", "grpc-message", "content-type"].map(|it| text(&reply, it));
    assert_eq!(told, ["14", "no healthy upstream", "application/grpc-web-text+proto"]);
    // A second one, because the first could not be sent, is not theirs.
    let mut words = b"again".to_vec();
    chain.reply(filters, &mut context, &mut response("500", "text/plain", &[]), &mut words);
    assert_eq!(words, b"again");
}

// === the bridge ===

#[test]
fn bridged_response_has_its_status_in_the_head() {
    for (grpc_status, status) in [("0", "200"), ("7", "503"), ("junk", "503")] {
        let mut passage = Passage::bridge();
        passage.ask(request("/s/m?q=1", "application/grpc", &[]));
        assert_eq!(text(&passage.request, ":path"), "/s/m");
        assert!(!passage.answer(response("200", "application/grpc", &[])));
        let trailers = [("grpc-status", grpc_status), ("grpc-message", "why")];
        let body = passage.download(&[b"\0\0\0\0\x01", b"a"], Some(&trailers));
        assert_eq!(body.bytes, b"\0\0\0\0\x01a");
        let told = [":status", "grpc-status", "grpc-message", "content-length"]
            .map(|it| text(&passage.response, it));
        assert_eq!(told, [status, grpc_status, "why", "6"]);
    }
}

#[test]
fn protobuf_is_framed_for_the_endpoint_and_unframed_for_the_client() {
    let mut passage = Passage::bridge();
    passage.ask(request("/s/m", "application/x-protobuf", &[("content-length", "3")]));
    assert!(passage.clear_route, "what routes match has changed");
    assert_eq!(
        (text(&passage.request, "content-type"), text(&passage.request, "content-length")),
        ("application/grpc".to_owned(), "-".to_owned())
    );
    assert_eq!(passage.upload(&[b"a", b"bc"]).unwrap(), b"\0\0\0\0\x03abc");
    passage.answer(response("200", "application/grpc", &[]));
    // A frame header that arrives in pieces.
    let body = passage.download(&[b"\0\0", b"\0\0\x02x", b"y"], Some(&[("grpc-status", "0")]));
    assert_eq!(body.bytes, b"xy");
    assert_eq!(text(&passage.response, "content-length"), "2");
}

#[test]
fn what_ends_without_trailers_passes_the_bridge_as_it_is() {
    for kind in ["application/grpc", "application/x-protobuf"] {
        let mut passage = Passage::bridge();
        passage.ask(request("/s/m", kind, &[]));
        passage.answer(response("502", "text/html", &[("content-length", "11")]));
        let body = passage.download(&[b"bad", b" gateway"], None);
        assert_eq!(body.bytes, b"bad gateway");
        assert_eq!(text(&passage.response, "content-length"), "11");
    }
}

#[test]
fn requests_of_http_2_and_of_other_kinds_are_not_bridged() {
    let mut passage = Passage { downstream: Version::Http2, ..Passage::bridge() };
    passage.ask(request("/s/m?q", "application/grpc", &[]));
    assert_eq!(text(&passage.request, ":path"), "/s/m?q");
    assert!(passage.answer(response("200", "application/grpc", &[])));
    // As in Envoy: its type changes, its bytes do not.
    passage.ask(request("/s/m", "application/x-protobuf", &[]));
    assert_eq!(text(&passage.request, "content-type"), "application/grpc");
    assert!(!passage.filters.want_data(Direction::Decode));
    let mut passage = Passage::bridge();
    passage.ask(request("/s/m?q", "application/json", &[]));
    assert!(passage.answer(response("200", "application/json", &[])));
    assert!(!passage.filters.want_data(Direction::Encode));
}
