//! What one request and its response are to be, who spoils them where, and what was seen of them.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use super::message::Framing;
use super::peer::Pace;
use crate::base::rng::Rng;

/// Sizes around which something changes: chunks, heads, watermarks, windows.
const EDGES: [usize; 8] = [1, 256, 1024, 4096, 16 * 1024, 32 * 1024, 64 * 1024, 128 * 1024];

/// What one seed brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    /// Everybody keeps the protocol and stays: every exchange must succeed.
    Calm,
    /// As calm, but endpoints close idle connections when they like.
    Fickle,
    /// Clients and endpoints leave, stall and break off.
    Faulty,
}

/// What a client does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientFault {
    None,
    /// Leaves after so many bytes of the request.
    LeaveWriting {
        after: usize,
        reset: bool,
    },
    /// Leaves after so many bytes of the response's body.
    LeaveReading {
        after: usize,
        reset: bool,
    },
    /// Says nothing more after so many bytes of the request.
    Stall {
        after: usize,
    },
    /// Ends its direction behind the request.
    HalfClose,
}

/// What an endpoint does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndpointFault {
    None,
    /// Leaves after so many bytes of the request's body.
    LeaveReading {
        after: usize,
        reset: bool,
    },
    /// Leaves after so many bytes of the response.
    LeaveWriting {
        after: usize,
        reset: bool,
    },
    /// Says nothing more after so many bytes of the response.
    Stall {
        after: usize,
    },
    /// Answers before it has read the body, then reads it or leaves.
    AnswerEarly {
        leave: bool,
    },
    /// Answers with what is no HTTP.
    Garbage,
}

/// One request and its response as they shall be.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) id: usize,
    pub(super) method: &'static str,
    pub(super) http_10: bool,
    pub(super) request: Option<Framing>,
    pub(super) expect_continue: bool,
    /// The client asks for the connection's end.
    pub(super) close: bool,
    pub(super) upgrade: bool,
    /// The next request is sent before this one is answered.
    pub(super) pipelined: bool,
    pub(super) status: u16,
    pub(super) response: Framing,
    pub(super) interim: bool,
    pub(super) request_body: Vec<u8>,
    pub(super) response_body: Vec<u8>,
    pub(super) client_fault: ClientFault,
    pub(super) endpoint_fault: EndpointFault,
    /// How fast the client writes and reads, then the endpoint.
    pub(super) paces: [Pace; 4],
}

/// An exchange and what its two ends saw.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) plan: Plan,
    /// The client has written all of the request.
    pub(super) sent: Cell<bool>,
    /// Times the request's head reached an endpoint.
    pub(super) heads_seen: Cell<u32>,
    /// Times all of the request reached an endpoint.
    pub(super) requests_seen: Cell<u32>,
    /// The endpoint has written all of the response, as long as it was meant to be.
    pub(super) answered: Cell<bool>,
    /// Length of a body that ends with the connection, where the endpoint has ended it in order.
    pub(super) ended_at: Cell<Option<usize>>,
    /// The client has the status.
    pub(super) status: Cell<Option<u16>>,
    /// The client has the whole response.
    pub(super) complete: Cell<bool>,
}

/// All exchanges of a run, by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchanges(pub(super) Rc<RefCell<Vec<Rc<Exchange>>>>);

impl Exchanges {
    /// Adds one with the next id.
    pub(super) fn add(&self, plan: impl FnOnce(usize) -> Plan) -> Rc<Exchange> {
        let mut all = self.0.borrow_mut();
        let exchange = Rc::new(Exchange::new(plan(all.len())));
        all.push(Rc::clone(&exchange));
        exchange
    }

    pub(super) fn get(&self, id: usize) -> Rc<Exchange> {
        Rc::clone(&self.0.borrow()[id])
    }
}

impl Exchange {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            plan,
            sent: Cell::default(),
            heads_seen: Cell::default(),
            requests_seen: Cell::default(),
            answered: Cell::default(),
            ended_at: Cell::default(),
            status: Cell::default(),
            complete: Cell::default(),
        }
    }
}

impl Plan {
    /// A plain GET with an answer by length.
    pub(super) fn get(id: usize, bytes: usize) -> Self {
        Self {
            id,
            method: "GET",
            http_10: false,
            request: None,
            expect_continue: false,
            close: false,
            upgrade: false,
            pipelined: false,
            status: 200,
            response: Framing::Length(bytes),
            interim: false,
            request_body: Vec::new(),
            response_body: pattern(2 * id as u64 + 1, bytes),
            client_fault: ClientFault::None,
            endpoint_fault: EndpointFault::None,
            paces: [Pace::FAST; 4],
        }
    }

    /// A PUT of this size, by length or in chunks, answered with as much.
    pub(super) fn put(id: usize, bytes: usize, chunked: bool) -> Self {
        let framing = if chunked { Framing::Chunked } else { Framing::Length(bytes) };
        Self {
            method: "PUT",
            request: Some(framing),
            request_body: pattern(2 * id as u64, bytes),
            response: framing,
            ..Self::get(id, bytes)
        }
    }

    /// Anything that the weather allows.
    pub(super) fn random(id: usize, weather: Weather, rng: &mut Rng) -> Self {
        let mut plan = Self::get(id, size(rng));
        let bytes = plan.response_body.len();
        plan.upgrade = rng.below(16) == 0;
        plan.method = match rng.below(10) {
            _ if plan.upgrade => "GET",
            0..4 => "GET",
            4 => "HEAD",
            5 => "DELETE",
            6 => "PUT",
            _ => "POST",
        };
        plan.http_10 = !plan.upgrade && rng.below(12) == 0;
        if matches!(plan.method, "POST" | "PUT") || plan.upgrade {
            plan.request_body = pattern(2 * id as u64, size(rng));
        }
        if matches!(plan.method, "POST" | "PUT") {
            let length = Framing::Length(plan.request_body.len());
            let chunked = !plan.http_10 && rng.below(2) == 0;
            plan.request = Some(if chunked { Framing::Chunked } else { length });
            plan.expect_continue = !plan.http_10 && rng.below(8) == 0;
        }
        plan.close = !plan.upgrade && rng.below(12) == 0;
        plan.pipelined = rng.below(3) == 0 && !plan.http_10 && !plan.upgrade && !plan.expect_continue;
        plan.response = match rng.below(5) {
            0 | 1 => Framing::Length(bytes),
            2 | 3 => Framing::Chunked,
            _ => Framing::UntilClose,
        };
        plan.status = if rng.below(12) == 0 { [204, 304, 404, 500][rng.below(4) as usize] } else { 200 };
        if plan.upgrade {
            plan.status = 101;
        }
        plan.interim = rng.below(8) == 0 && !plan.http_10;
        plan.paces = [plan.request_body.len(), bytes, plan.request_body.len(), bytes]
            .map(|bytes| Pace::random(rng, bytes));
        if weather == Weather::Faulty && rng.below(3) == 0 {
            plan.spoil(rng);
        }
        plan
    }

    fn spoil(&mut self, rng: &mut Rng) {
        let (reset, leave) = (rng.below(2) == 0, rng.below(2) == 0);
        let mut within = |bytes: usize| rng.below(bytes as u64 + 1) as usize;
        // A head has about a hundred bytes.
        let (request, response) =
            (within(self.request_body.len() + 100), within(self.response_body.len() + 100));
        let kind = within(9);
        match kind {
            0 => self.client_fault = ClientFault::LeaveWriting { after: request, reset },
            1 => self.client_fault = ClientFault::LeaveReading { after: response, reset },
            2 => self.client_fault = ClientFault::Stall { after: request },
            3 if !self.upgrade => self.client_fault = ClientFault::HalfClose,
            4 => self.endpoint_fault = EndpointFault::LeaveReading { after: request, reset },
            5 | 6 => self.endpoint_fault = EndpointFault::LeaveWriting { after: response, reset },
            7 => self.endpoint_fault = EndpointFault::Stall { after: response },
            8 if !self.upgrade => self.endpoint_fault = EndpointFault::AnswerEarly { leave },
            _ => self.endpoint_fault = EndpointFault::Garbage,
        }
    }

    /// Whether its two ends do what they should.
    pub(super) fn is_sound(&self) -> bool {
        self.client_fault == ClientFault::None && self.endpoint_fault == EndpointFault::None
    }

    /// Whether the response has a body at all.
    pub(super) fn has_response_body(&self) -> bool {
        self.method != "HEAD" && !matches!(self.status, 204 | 304)
    }

    /// Whether the proxy may send it a second time, on a new connection.
    pub(super) fn is_repeatable(&self) -> bool {
        self.method != "POST"
            && (self.upgrade || !matches!(self.request, Some(Framing::Chunked) | Some(Framing::Length(1..))))
    }

    /// The request's head.
    pub(super) fn request_head(&self) -> String {
        let Self { id, method, .. } = self;
        let version = if self.http_10 { "1.0" } else { "1.1" };
        let mut head = format!("{method} /exchange/{id}?x HTTP/{version}\r\nHost: sim\r\nX-Id: {id}\r\n");
        match self.request {
            Some(Framing::Length(bytes)) => head.push_str(&format!("Content-Length: {bytes}\r\n")),
            Some(_) => head.push_str("Transfer-Encoding: chunked\r\n"),
            None => {}
        }
        if self.expect_continue {
            head.push_str("Expect: 100-continue\r\n");
        }
        match (self.close, self.http_10, self.upgrade) {
            (true, false, _) => head.push_str("Connection: close\r\n"),
            (false, true, _) => head.push_str("Connection: keep-alive\r\n"),
            (_, _, true) => head.push_str("Connection: upgrade\r\nUpgrade: websocket\r\n"),
            _ => {}
        }
        head + "\r\n"
    }

    /// The response's head, and an interim one before it.
    pub(super) fn response_head(&self) -> String {
        let Self { id, status, .. } = self;
        let mut head = String::new();
        if self.interim {
            head.push_str("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n");
        }
        head.push_str(&format!("HTTP/1.1 {status} Whatever\r\nX-Id: {id}\r\n"));
        match self.response {
            _ if self.upgrade => head.push_str("Connection: upgrade\r\nUpgrade: websocket\r\n"),
            Framing::UntilClose => head.push_str("Connection: close\r\n"),
            // Barred there (RFC 9110 8.6, RFC 9112 6.1).
            _ if self.status == 204 => {}
            Framing::Length(bytes) => head.push_str(&format!("Content-Length: {bytes}\r\n")),
            Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        head + "\r\n"
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, method, status, request, response, client_fault, endpoint_fault, .. } = self;
        let marks = [
            (self.http_10, "HTTP/1.0"),
            (self.expect_continue, "expect"),
            (self.close, "close"),
            (self.upgrade, "upgrade"),
            (self.pipelined, "pipelined"),
            (self.interim, "interim"),
        ];
        write!(f, "{id}: {method} {request:?} {} bytes, ", self.request_body.len())?;
        write!(f, "{status} {response:?} {} bytes, ", self.response_body.len())?;
        marks.iter().filter(|(set, _)| *set).try_for_each(|(_, mark)| write!(f, "{mark} "))?;
        write!(f, "{client_fault:?} {endpoint_fault:?}")
    }
}

/// A body as it goes over the wire.
pub(super) fn framed(body: &[u8], framing: Framing, rng: &mut Rng) -> Vec<u8> {
    if framing != Framing::Chunked {
        return body.to_vec();
    }
    let mut wire = Vec::with_capacity(body.len() + 1024);
    let mut rest = body;
    while !rest.is_empty() {
        // At most a few hundred chunks.
        let most = EDGES[rng.below(8) as usize].max(body.len() / 256);
        let (piece, behind) = rest.split_at(rest.len().min(1 + rng.below(most as u64) as usize));
        let extension = if rng.below(16) == 0 { ";name=\"value\"" } else { "" };
        wire.extend_from_slice(format!("{:x}{extension}\r\n", piece.len()).as_bytes());
        wire.extend_from_slice(piece);
        wire.extend_from_slice(b"\r\n");
        rest = behind;
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    wire
}

/// A size at or near an edge, or anything below one; sometimes a megabyte.
fn size(rng: &mut Rng) -> usize {
    match rng.below(40) {
        0..8 => 0,
        8 => (1 << 20) - 3 + rng.below(7) as usize,
        n if n < 24 => (EDGES[rng.below(8) as usize] + rng.below(5) as usize).saturating_sub(2),
        _ => {
            let below = EDGES[rng.below(8) as usize];
            rng.below(below as u64) as usize
        }
    }
}

/// Bytes that no other exchange or direction has.
pub(super) fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut rng = Rng::from_seed(seed);
    let mut body = Vec::with_capacity(bytes + 8);
    while body.len() < bytes {
        body.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    body.truncate(bytes);
    body
}
