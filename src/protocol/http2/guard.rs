//! Counts the frames of a connection where the codec does not, and says when there are too many of a kind.
//!
//! Sees every byte in both directions beside the codec and reads the headers of frames (RFC 9113 section 4.1), and of payloads
//! how much is padding and by how much a window grows. Pure: bytes and `now` in, a verdict out. Its state is a few numbers,
//! and those of the streams that were given up last, whatever arrives. The limits and their formulas are Envoy's.

use std::collections::BTreeSet;

use crate::base::clock::Now;

/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const FRAME_HEADER_BYTES: usize = 9;
/// Bytes of a payload that are looked at: how much padding there is.
const PEEK_BYTES_MAX: usize = 1;
/// Where in a frame's header its flags are.
pub(super) const FLAGS_AT: usize = 4;
pub(super) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const ACK: u8 = 1;
const SECOND_NS: u64 = 1_000_000_000;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Source: RFC 9113 section 7.
const COMPRESSION_ERROR: u8 = 9;
const ENHANCE_YOUR_CALM: u8 = 11;
/// How the codec begins what it says of connections that it ends for the size of a head.
const OVERFLOWS: [&[u8]; 2] = [b"header_list_way_too_large", b"too_many_continuations"];

/// Frames without a head that cost the codec as much as one with a head, which is decompressed.
const HEAD_FRAMES: u64 = 16;
/// Bytes of a compressed head that cost as much as a frame. Reason: each may name a field of a table, and a field takes some
/// seventy bytes of memory, until a task has looked at the head.
const FIELDS_PER_FRAME: u64 = 16;

/// Bytes of a DATA frame below which the codec charges its connection for it until somebody takes it: of a stream that was
/// given up, for ever. Source: `h2` 0.4.20.
const CHARGED_BELOW: u32 = 256;
/// Streams that were given up, and of which frames are looked for: the last ones. Reason: as many as the codec remembers.
const GIVEN_UP_MAX: usize = 1024;

/// Bytes of the frame that tells a peer why its connection ends.
pub const GOAWAY_BYTES: usize = FRAME_HEADER_BYTES + 8;

/// Limits of one connection. Source: Envoy `core.v3.Http2ProtocolOptions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frames without content, be there padding, and without an end in a row. Source:
    /// `max_consecutive_inbound_frames_with_empty_payload`.
    pub empty_in_a_row_max: u32,
    /// Source: `max_inbound_priority_frames_per_stream`.
    pub priority_per_stream_max: u32,
    /// Source: `max_inbound_window_update_frames_per_data_frame_sent`.
    pub window_updates_per_data_max: u32,
    /// SETTINGS, PING and unknown frames within a second. Source: `max_outbound_control_frames`: each asks for an answer. A DATA
    /// frame that is sent pays for one that came before: to find out how much is on its way, peers of gRPC send a PING with
    /// data that they receive as soon as the last one was answered, thousands a second.
    pub control_per_second_max: u32,
}

/// Which limit was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    Empty,
    Priority,
    WindowUpdate,
    Control,
}

/// What was seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub bytes_received: u64,
    /// What they cost the codec, in frames: a head counts as [`HEAD_FRAMES`], and what it may hold besides.
    pub work_received: u64,
    pub bytes_sent: u64,
    pub resets_received: u64,
    pub resets_sent: u64,
    pub goaways_sent: u64,
    pub goaways_received: u64,
    /// Those of them for a head that is larger than any that is read.
    pub head_overflows: u64,
    /// SETTINGS that the codec has acknowledged: what they say is in force. Of those that are still coming a part was seen.
    pub settings_acknowledged: u64,
    /// Requests begun, by either side.
    pub streams: u64,
}

/// What came of received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// How many of them were looked at.
    pub taken: usize,
    /// What they end with, where it is not to go on to the codec, or not yet.
    pub tail: Tail,
}

/// The end of what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// So many bytes of a frame's header, of which the rest is to come.
    Header(usize),
    /// A DATA frame without content and end, all of it. It says nothing, and the codec, which bounds them by a number for the
    /// life of a connection, ends the connection over them.
    Void,
    /// The header of a short DATA frame that the codec will drop, as its stream was given up. It charges the connection for it
    /// nevertheless, unless it is the stream's last.
    Dropped,
}

/// The watch over one connection.
#[derive(Debug)]
pub struct Guard {
    limits: Limits,
    is_server: bool,
    inbound: Scanner,
    outbound: Scanner,
    seen: Seen,
    /// Highest stream a request was seen on.
    last_stream: u32,
    given_up: BTreeSet<u32>,
    /// A head that has begun has not ended.
    in_head: bool,
    empty_in_a_row: u32,
    priorities: u64,
    window_updates: u64,
    data_sent: u64,
    controls: u32,
    controls_since: Now,
}

/// The header of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    /// The first bytes of the payload, of kinds that are looked at; zeros else.
    peeked: [u8; PEEK_BYTES_MAX],
}

/// Finds frame headers in a stream of bytes, however it is cut.
#[derive(Clone, Copy, Debug, Default)]
struct Scanner {
    /// A header, and of the payload behind it what is looked at.
    header: [u8; FRAME_HEADER_BYTES + PEEK_BYTES_MAX],
    have: usize,
    /// Bytes to pass over: the preface, then payloads.
    skip: u32,
}

impl Guard {
    /// A watch over a connection of which a client has sent nothing. `is_server`: the peer is the client.
    pub fn new(limits: Limits, is_server: bool, now: Now) -> Self {
        let preface = |there: bool| Scanner {
            skip: if there { PREFACE.len() as u32 } else { 0 },
            ..Scanner::default()
        };
        Self {
            limits,
            is_server,
            inbound: preface(is_server),
            outbound: preface(!is_server),
            seen: Seen::default(),
            last_stream: 0,
            given_up: BTreeSet::new(),
            in_head: false,
            empty_in_a_row: 0,
            priorities: 0,
            window_updates: 0,
            data_sent: 0,
            controls: 0,
            controls_since: now,
        }
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// The codec has reset the stream, and drops what still comes on it.
    pub(super) fn give_up(&mut self, stream: u32) {
        self.given_up.insert(stream);
        if self.given_up.len() > GIVEN_UP_MAX {
            self.given_up.pop_first();
        }
    }

    /// Takes note of received bytes, up to the header of the frame with which all that was received costs so much, or up to that
    /// of one that the codec does not get as it is; what came of them, which is not none of some. `cut`: more has come, for which
    /// the codec has no room. Then its last frame, if it is not whole, goes no further than its header: that has the codec make
    /// room for it.
    ///
    /// # Errors
    /// The limit that they pass. The connection is to end.
    pub fn received(&mut self, bytes: &[u8], cut: bool, work_max: u64, now: Now) -> Result<Received, Flood> {
        let mut rest = bytes;
        let mut tail = None;
        while let Some(frame) = self.inbound.next(&mut rest) {
            let fields = u64::from(frame.length) / FIELDS_PER_FRAME;
            self.seen.work_received += match frame.kind {
                HEADERS => HEAD_FRAMES + fields,
                CONTINUATION => 1 + fields,
                _ => 1,
            };
            let altered = self.altered(frame);
            self.received_frame(frame, now)?;
            if altered.is_some() {
                tail = altered;
                break;
            }
            let has_room = !cut || self.inbound.skip as usize <= rest.len();
            if !has_room || self.seen.work_received >= work_max {
                break;
            }
        }
        let taken = bytes.len() - rest.len();
        self.seen.bytes_received += taken as u64;
        Ok(Received { taken, tail: tail.unwrap_or_else(|| Tail::Header(self.inbound.begun())) })
    }

    /// What a frame of a stream that is known is, where the codec does not get it as it is. What is against the protocol is the
    /// codec's to refuse.
    fn altered(&self, frame: Frame) -> Option<Tail> {
        let is_plain = frame.kind == DATA
            && frame.flags & (END_STREAM | PADDED) == 0
            && (1..=self.last_stream).contains(&frame.stream)
            && !self.in_head;
        match frame.length {
            0 if is_plain => Some(Tail::Void),
            1..CHARGED_BELOW if is_plain && self.given_up.contains(&frame.stream) => Some(Tail::Dropped),
            _ => None,
        }
    }

    /// Takes note of bytes that are sent.
    pub fn sent(&mut self, mut bytes: &[u8]) {
        self.seen.bytes_sent += bytes.len() as u64;
        while let Some(frame) = self.outbound.next(&mut bytes) {
            match frame.kind {
                DATA => {
                    self.data_sent += 1;
                    self.controls = self.controls.saturating_sub(1);
                }
                HEADERS => self.request_on(frame.stream),
                RST_STREAM => self.seen.resets_sent += 1,
                SETTINGS if frame.flags & ACK != 0 => self.seen.settings_acknowledged += 1,
                GOAWAY => {
                    self.seen.goaways_sent += 1;
                    self.seen.head_overflows += u64::from(is_overflow(bytes));
                }
                _ => {}
            }
        }
    }

    /// The GOAWAY that tells the peer of its flood; `None` in the middle of a frame, where nothing else can be said.
    pub fn calming(&self) -> Option<[u8; GOAWAY_BYTES]> {
        if self.outbound.have > 0 || self.outbound.skip > 0 {
            return None;
        }
        // The last stream that the peer began: a client's, or none, as nothing is pushed.
        let [a, b, c, d] = if self.is_server { self.last_stream } else { 0 }.to_be_bytes();
        Some([0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, ENHANCE_YOUR_CALM])
    }

    fn request_on(&mut self, stream: u32) {
        if stream > self.last_stream {
            self.last_stream = stream;
            self.seen.streams += 1;
        }
    }

    fn received_frame(&mut self, frame: Frame, now: Now) -> Result<(), Flood> {
        match frame.kind {
            DATA | HEADERS | CONTINUATION => {
                if frame.kind == HEADERS {
                    self.request_on(frame.stream);
                }
                if frame.kind != DATA {
                    self.in_head = frame.flags & END_HEADERS == 0;
                }
                if frame.content() > 0 || frame.flags & END_STREAM != 0 && frame.kind != CONTINUATION {
                    self.empty_in_a_row = 0;
                    return Ok(());
                }
                self.empty_in_a_row += 1;
                within(
                    u64::from(self.empty_in_a_row),
                    u64::from(self.limits.empty_in_a_row_max),
                    Flood::Empty,
                )
            }
            PRIORITY => {
                self.priorities += 1;
                let max = u64::from(self.limits.priority_per_stream_max) * (1 + self.seen.streams);
                within(self.priorities, max, Flood::Priority)
            }
            WINDOW_UPDATE => {
                self.window_updates += 1;
                let per_data = u64::from(self.limits.window_updates_per_data_max);
                let max = 5 + 2 * (self.seen.streams + per_data * self.data_sent);
                within(self.window_updates, max, Flood::WindowUpdate)
            }
            RST_STREAM => {
                self.seen.resets_received += 1;
                Ok(())
            }
            PUSH_PROMISE => {
                self.in_head = frame.flags & END_HEADERS == 0;
                Ok(())
            }
            GOAWAY => {
                self.seen.goaways_received += 1;
                Ok(())
            }
            SETTINGS | PING | 10.. => {
                if now.0 - self.controls_since.0 >= SECOND_NS {
                    (self.controls, self.controls_since) = (0, now);
                }
                self.controls = self.controls.saturating_add(1);
                within(
                    u64::from(self.controls),
                    u64::from(self.limits.control_per_second_max),
                    Flood::Control,
                )
            }
        }
    }
}

/// Whether the GOAWAY with this payload, which is written in one piece, is for the size of a head. The codec says so nowhere
/// else; what it cannot decompress has another code.
fn is_overflow(payload: &[u8]) -> bool {
    match payload {
        [_, _, _, _, 0, 0, 0, COMPRESSION_ERROR, ..] => true,
        [_, _, _, _, 0, 0, 0, ENHANCE_YOUR_CALM, words @ ..] => {
            OVERFLOWS.iter().any(|overflow| words.starts_with(overflow))
        }
        _ => false,
    }
}

fn within(count: u64, max: u64, flood: Flood) -> Result<(), Flood> {
    if count <= max { Ok(()) } else { Err(flood) }
}

impl Frame {
    /// Bytes of the payload that are no padding.
    fn content(&self) -> u32 {
        let padding = if self.flags & PADDED == 0 { 0 } else { 1 + u32::from(self.peeked[0]) };
        self.length.saturating_sub(padding)
    }
}

impl Scanner {
    /// The next header that ends within `bytes`, with what is looked at of its payload; they are taken up to there, or all of
    /// them when there is none.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        let skipped = bytes.len().min(self.skip as usize);
        self.skip -= skipped as u32;
        *bytes = &bytes[skipped..];
        self.fill(FRAME_HEADER_BYTES, bytes);
        if self.have < FRAME_HEADER_BYTES {
            return None;
        }
        let [a, b, c, kind, flags, s0, s1, s2, s3, ..] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]);
        let looked_at = match kind {
            DATA | HEADERS if flags & PADDED != 0 => 1,
            _ => 0,
        };
        let looked_at = looked_at.min(length as usize);
        self.fill(FRAME_HEADER_BYTES + looked_at, bytes);
        if self.have < FRAME_HEADER_BYTES + looked_at {
            return None;
        }
        let mut peeked = [0; PEEK_BYTES_MAX];
        peeked[..looked_at].copy_from_slice(&self.header[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + looked_at]);
        self.have = 0;
        self.skip = length - looked_at as u32;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & (u32::MAX >> 1);
        Some(Frame { length, kind, flags, stream, peeked })
    }

    fn fill(&mut self, upto: usize, bytes: &mut &[u8]) {
        let taken = bytes.len().min(upto.saturating_sub(self.have));
        self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
        self.have += taken;
        *bytes = &bytes[taken..];
    }

    /// Bytes of a header that has not ended.
    fn begun(&self) -> usize {
        if self.have < FRAME_HEADER_BYTES { self.have } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        empty_in_a_row_max: 1,
        priority_per_stream_max: 3,
        window_updates_per_data_max: 10,
        control_per_second_max: 5,
    };

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let mut bytes = (payload as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(vec![0; payload]);
        bytes
    }

    /// All of it, whatever it costs.
    fn receive(guard: &mut Guard, bytes: &[u8], now: Now) -> Result<(), Flood> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = &rest[guard.received(rest, false, u64::MAX, now)?.taken..];
        }
        Ok(())
    }

    fn server() -> Guard {
        let mut guard = Guard::new(LIMITS, true, Now(0));
        assert_eq!(receive(&mut guard, PREFACE, Now(0)), Ok(()));
        guard
    }

    #[test]
    fn received_any_cut_counts_the_same() {
        let mut all = PREFACE.to_vec();
        all.extend(frame(SETTINGS, 0, 0, 12));
        all.extend(frame(HEADERS, 4, 1, 30));
        all.extend(frame(DATA, 0, 1, 300));
        all.extend(frame(RST_STREAM, 0, 1, 4));
        for step in 1..all.len() {
            let mut guard = Guard::new(LIMITS, true, Now(0));
            all.chunks(step).for_each(|piece| assert_eq!(receive(&mut guard, piece, Now(0)), Ok(())));
            let Seen { streams, resets_received, bytes_received, work_received, .. } = guard.seen();
            assert_eq!(
                (streams, resets_received, work_received),
                (1, 1, 3 + HEAD_FRAMES + 30 / FIELDS_PER_FRAME),
                "{step}"
            );
            assert_eq!(bytes_received, all.len() as u64, "{step}");
        }
    }

    /// Heads of a thousand crumbs, all that a read brought of them, were decompressed before a task let the first go.
    #[test]
    fn received_no_more_at_once_than_costs_so_much() {
        let mut guard = server();
        let heads = [frame(HEADERS, 4, 1, 1600), frame(HEADERS, 4, 3, 1600), frame(DATA, 0, 1, 5)].concat();
        let first = FRAME_HEADER_BYTES + 1600;
        let cost = HEAD_FRAMES + 1600 / FIELDS_PER_FRAME;
        let taken =
            |guard: &mut Guard, bytes: &[u8], work| guard.received(bytes, false, work, Now(0)).unwrap().taken;
        assert_eq!(taken(&mut guard, &heads, 2 * cost), first + FRAME_HEADER_BYTES);
        assert_eq!(guard.seen().work_received, 2 * cost);
        let rest = &heads[first + FRAME_HEADER_BYTES..];
        assert_eq!(taken(&mut guard, rest, 2 * cost + 2), rest.len());
        assert_eq!(guard.seen().bytes_received, (PREFACE.len() + heads.len()) as u64);
        let continuation = frame(CONTINUATION, 4, 3, 160);
        assert_eq!(taken(&mut guard, &continuation, 0), FRAME_HEADER_BYTES, "never none");
        assert_eq!(guard.seen().work_received, 2 * cost + 2 + 160 / FIELDS_PER_FRAME);
    }

    #[test]
    fn frame_for_which_there_is_no_room_is_cut_behind_its_header() {
        let bytes = [frame(HEADERS, END_HEADERS, 1, 20), frame(DATA, 0, 1, 100)].concat();
        let header = 2 * FRAME_HEADER_BYTES + 20;
        for room in header..=bytes.len() {
            let taken = |guard: &mut Guard, bytes: &[u8], cut| {
                guard.received(bytes, cut, u64::MAX, Now(0)).unwrap().taken
            };
            let (mut guard, first) = (server(), if room < bytes.len() { header } else { room });
            assert_eq!(taken(&mut guard, &bytes[..room], true), first, "{room}");
            assert_eq!(taken(&mut guard, &bytes[first..], true), bytes.len() - first, "room was made");
            assert_eq!(taken(&mut server(), &bytes[..room], false), room, "nothing is behind it yet");
        }
    }

    #[test]
    fn empty_frames_in_a_row_are_a_flood_unless_they_end_a_stream() {
        let mut guard = server();
        for _ in 0..10 {
            assert_eq!(receive(&mut guard, &frame(DATA, END_STREAM, 1, 0), Now(0)), Ok(()));
        }
        assert_eq!(receive(&mut guard, &frame(DATA, 0, 3, 0), Now(0)), Ok(()));
        assert_eq!(receive(&mut guard, &frame(DATA, 0, 3, 1), Now(0)), Ok(()));
        assert_eq!(receive(&mut guard, &frame(CONTINUATION, END_STREAM, 3, 0), Now(0)), Ok(()));
        assert_eq!(receive(&mut guard, &frame(DATA, 0, 3, 0), Now(0)), Err(Flood::Empty));
    }

    #[test]
    fn frames_of_padding_alone_are_empty_too() {
        let padded = |padding: u8, payload: usize| {
            let mut bytes = frame(DATA, PADDED, 1, payload);
            bytes[FRAME_HEADER_BYTES] = padding;
            bytes
        };
        for cut in 1..15 {
            let mut guard = server();
            let mut receive =
                |bytes: Vec<u8>| bytes.chunks(cut).try_for_each(|piece| receive(&mut guard, piece, Now(0)));
            assert_eq!(receive(padded(4, 5)), Ok(()));
            assert_eq!(receive(padded(4, 6)), Ok(()), "a byte of content");
            assert_eq!(receive(padded(0, 1)), Ok(()));
            assert_eq!(
                receive(padded(255, 5)),
                Err(Flood::Empty),
                "more than there is, which the codec refuses"
            );
        }
    }

    #[test]
    fn void_frames_of_streams_that_are_known_are_told_wherever_they_are_cut() {
        let mut guard = server();
        let tail = |guard: &mut Guard, bytes: &[u8]| guard.received(bytes, false, u64::MAX, Now(0)).unwrap();
        let void = frame(DATA, 0, 1, 0);
        let header = |bytes| Tail::Header(bytes);
        assert_eq!(tail(&mut guard, &void).tail, header(0), "a stream that nobody has begun");
        let head = [frame(HEADERS, 0, 1, 9), void.clone()].concat();
        assert_eq!(tail(&mut guard, &head).tail, header(0), "within a head");
        assert_eq!(tail(&mut guard, &frame(CONTINUATION, END_HEADERS, 1, 9)).tail, header(0));
        let more = [void.clone(), frame(DATA, 0, 1, 5)].concat();
        assert_eq!(tail(&mut guard, &more), Received { taken: FRAME_HEADER_BYTES, tail: Tail::Void });
        assert_eq!(tail(&mut guard, &more[FRAME_HEADER_BYTES..]).tail, header(0));
        for cut in 1..FRAME_HEADER_BYTES {
            assert_eq!(tail(&mut guard, &void[..cut]), Received { taken: cut, tail: header(cut) });
            assert_eq!(tail(&mut guard, &void[cut..]).tail, Tail::Void);
            assert_eq!(tail(&mut guard, &frame(DATA, 0, 1, 5)).tail, header(0));
        }
        for flags in [END_STREAM, PADDED] {
            assert_eq!(tail(&mut guard, &frame(DATA, flags, 1, 0)).tail, header(0));
        }
    }

    #[test]
    fn short_frames_of_streams_that_were_given_up_are_told() {
        let mut guard = server();
        let heads = [frame(HEADERS, END_HEADERS, 1, 9), frame(HEADERS, END_HEADERS, 3, 9)].concat();
        assert_eq!(receive(&mut guard, &heads, Now(0)), Ok(()));
        guard.give_up(1);
        let told = |guard: &mut Guard, bytes: &[u8]| guard.received(bytes, false, u64::MAX, Now(0)).unwrap();
        let dropped = Received { taken: FRAME_HEADER_BYTES, tail: Tail::Dropped };
        let short = [frame(DATA, 0, 1, 1), frame(DATA, 0, 1, CHARGED_BELOW as usize - 1)].concat();
        assert_eq!(told(&mut guard, &short), dropped);
        assert_eq!(told(&mut guard, &short[FRAME_HEADER_BYTES..]), Received { taken: 10, ..dropped });
        assert_eq!(told(&mut guard, &short[2 * FRAME_HEADER_BYTES + 1..]).tail, Tail::Header(0));
        for other in [
            frame(DATA, 0, 3, 1),
            frame(DATA, 0, 1, CHARGED_BELOW as usize),
            frame(DATA, END_STREAM, 1, 1),
            frame(DATA, PADDED, 1, 3),
        ] {
            assert_eq!(told(&mut guard, &other), Received { taken: other.len(), tail: Tail::Header(0) });
        }
        assert_eq!(told(&mut guard, &frame(DATA, 0, 1, 0)).tail, Tail::Void);
        // The oldest is forgotten.
        (0..GIVEN_UP_MAX as u32).for_each(|later| guard.give_up(5 + 2 * later));
        assert_eq!(told(&mut guard, &frame(DATA, 0, 1, 1)).tail, Tail::Header(0));
        assert_eq!(guard.given_up.len(), GIVEN_UP_MAX);
    }

    #[test]
    fn priority_frames_are_a_flood_beyond_so_many_per_stream() {
        let mut guard = server();
        let priority = frame(PRIORITY, 0, 1, 5);
        (0..3).for_each(|_| assert_eq!(receive(&mut guard, &priority, Now(0)), Ok(())));
        assert_eq!(receive(&mut guard, &frame(HEADERS, 5, 1, 9), Now(0)), Ok(()));
        (0..3).for_each(|_| assert_eq!(receive(&mut guard, &priority, Now(0)), Ok(())));
        assert_eq!(receive(&mut guard, &priority, Now(0)), Err(Flood::Priority));
    }

    #[test]
    fn window_updates_are_a_flood_unless_data_was_sent() {
        let mut guard = server();
        let update = frame(WINDOW_UPDATE, 0, 0, 4);
        (0..5).for_each(|_| assert_eq!(receive(&mut guard, &update, Now(0)), Ok(())));
        guard.sent(&frame(DATA, 0, 1, 100));
        (0..20).for_each(|_| assert_eq!(receive(&mut guard, &update, Now(0)), Ok(())));
        assert_eq!(receive(&mut guard, &update, Now(0)), Err(Flood::WindowUpdate));
    }

    #[test]
    fn frames_that_ask_for_an_answer_are_a_flood_beyond_so_many_a_second() {
        for kind in [PING, SETTINGS, 0x42] {
            let mut guard = server();
            for second in 0..3 {
                let now = Now(second * SECOND_NS);
                (0..5).for_each(|_| assert_eq!(receive(&mut guard, &frame(kind, 0, 0, 8), now), Ok(())));
            }
            assert_eq!(receive(&mut guard, &frame(kind, 0, 0, 8), Now(2 * SECOND_NS)), Err(Flood::Control));
        }
    }

    #[test]
    fn pings_with_data_are_no_flood_and_those_without_are() {
        let mut guard = server();
        let ping = frame(PING, 0, 0, 8);
        for _ in 0..100 {
            guard.sent(&frame(DATA, 0, 1, 100));
            assert_eq!(receive(&mut guard, &ping, Now(0)), Ok(()));
        }
        // What was paid for is not kept: the last of them is the first of these.
        (0..4).for_each(|_| assert_eq!(receive(&mut guard, &ping, Now(0)), Ok(())));
        assert_eq!(receive(&mut guard, &ping, Now(0)), Err(Flood::Control));
    }

    #[test]
    fn sent_frames_are_counted_behind_the_clients_preface() {
        let mut guard = Guard::new(LIMITS, false, Now(0));
        guard.sent(PREFACE);
        guard.sent(&frame(HEADERS, 5, 1, 20));
        guard.sent(&frame(RST_STREAM, 0, 1, 4));
        guard.sent(&frame(GOAWAY, 0, 0, 8));
        guard.sent(&frame(SETTINGS, 0, 0, 6));
        guard.sent(&frame(SETTINGS, ACK, 0, 0));
        let Seen { streams, resets_sent, goaways_sent, settings_acknowledged, .. } = guard.seen();
        assert_eq!((streams, resets_sent, goaways_sent, settings_acknowledged), (1, 1, 1, 1));
    }

    #[test]
    fn goaways_for_the_size_of_a_head_are_counted_apart() {
        let mut guard = server();
        for (code, words, overflows) in [
            (COMPRESSION_ERROR, &b""[..], 1),
            (ENHANCE_YOUR_CALM, b"too_many_continuations", 2),
            (ENHANCE_YOUR_CALM, b"too_many_resets", 2),
            (0, b"", 2),
        ] {
            let mut bytes = frame(GOAWAY, 0, 0, 8 + words.len());
            bytes[FRAME_HEADER_BYTES + 7] = code;
            bytes[FRAME_HEADER_BYTES + 8..].copy_from_slice(words);
            guard.sent(&bytes);
            assert_eq!(guard.seen().head_overflows, overflows, "{code} {words:?}");
        }
        assert_eq!(guard.seen().goaways_sent, 4);
    }

    #[test]
    fn peer_is_told_of_its_flood_between_frames_alone() {
        let mut guard = server();
        assert_eq!(receive(&mut guard, &frame(HEADERS, 5, 7, 9), Now(0)), Ok(()));
        let goaway = guard.calming().unwrap();
        assert_eq!(goaway[..9], frame(GOAWAY, 0, 0, 8)[..9]);
        assert_eq!(goaway[9..], [0, 0, 0, 7, 0, 0, 0, 11]);
        let data = frame(DATA, 0, 7, 5);
        guard.sent(&data[..11]);
        assert_eq!(guard.calming(), None);
        guard.sent(&data[11..]);
        assert!(guard.calming().is_some());
        assert_eq!(Guard::new(LIMITS, false, Now(0)).calming(), None, "before the preface");
    }
}
