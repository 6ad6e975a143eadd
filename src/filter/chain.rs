//! [`FilterChain`]: the HTTP filters of a connection manager, but for the router; [`StreamFilters`], what one request
//! needs of them; and how head, data and trailers pass.
//!
//! A filter continues, stops, or answers in place of the endpoint. Where one has stopped a head, later filters see nothing
//! of the message until it continues; data that it holds goes before what comes then. What all filters of a request hold
//! is bounded. Source: Envoy's `FilterManager`.

use super::http::{Context, Direction, Filter, FilterReply, OnData, OnHead, Part, State};
use crate::buffer::{ChunkMut, ChunkQueue, ChunkSize};
use crate::config::http_filter::{FilterOverride, HttpFilter};
use crate::protocol::grpc;
use crate::protocol::http::head::Head;
use crate::route::OverrideLevels;

/// A compiled chain. Empty for most: then nothing of this is touched.
#[derive(Debug, Default)]
pub struct FilterChain {
    entries: Box<[Entry]>,
    /// Of each level of the routing table that says something: its word on each filter.
    overrides: Box<[Box<[Option<Word>]>]>,
}

#[derive(Debug)]
struct Entry {
    filter: Filter,
    disabled: bool,
}

/// What a level of the routing table says about a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Off,
    On,
}

/// The filters of one request. Recycled with it.
#[derive(Debug, Default)]
pub struct StreamFilters {
    slots: Vec<Slot>,
    /// Whether the request was gRPC before filters saw it; `None`: none has.
    was_grpc: Option<bool>,
    encode_begun: bool,
}

#[derive(Debug, Default)]
struct Slot {
    state: State,
    decode: Side,
    encode: Side,
}

/// What a filter keeps back in one direction.
#[derive(Debug, Default)]
struct Side {
    /// The head waits for it.
    has_head: bool,
    held: ChunkQueue,
}

/// How data or trailers passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// What is in the queue goes on; so does the head, if it waited.
    On,
    /// A filter keeps the head and what followed it.
    Held,
    /// The message ends here with this reply.
    Reply(FilterReply),
}

/// More than may be held of a request. Source: Envoy's `onDecoderFilterAboveWriteBufferHighWatermark`.
const REQUEST_TOO_LARGE: FilterReply =
    FilterReply { status: 413, body: "Payload Too Large", details: "request_payload_too_large" };
/// The same of a response.
pub const RESPONSE_TOO_LARGE: FilterReply =
    FilterReply { status: 500, body: "Internal Server Error", details: "response_payload_too_large" };

impl FilterChain {
    /// Compiles the filters and the words of a routing table on them.
    pub fn compile(filters: &[HttpFilter], levels: &[Vec<FilterOverride>]) -> Self {
        let named: Vec<_> = filters
            .iter()
            .filter_map(|it| {
                Some((&it.name, Entry { filter: Filter::compile(&it.config)?, disabled: it.disabled }))
            })
            .collect();
        if named.is_empty() {
            return Self::default();
        }
        let word = |level: &[FilterOverride], name: &str| {
            let found = level.iter().find(|word| &*word.name == name)?;
            Some(if found.disabled { Word::Off } else { Word::On })
        };
        let overrides =
            levels.iter().map(|level| named.iter().map(|(name, _)| word(level, name)).collect()).collect();
        Self { overrides, entries: named.into_iter().map(|(_, entry)| entry).collect() }
    }

    /// Whether there is nothing but the router.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Settles which filters run for a request that passes these levels of the routing table.
    pub fn begin(&self, levels: &OverrideLevels, head: &Head, filters: &mut StreamFilters) {
        filters.clear();
        filters.was_grpc = Some(grpc::is_request(head));
        let levels = levels.map(|level| level.and_then(|slot| self.overrides.get(slot.index())));
        filters.slots.extend(self.entries.iter().enumerate().map(|(index, entry)| {
            let words = levels.iter().flatten();
            let word = words.filter_map(|level| level.get(index).copied().flatten()).next();
            let off = word.map_or(entry.disabled, |word| word == Word::Off);
            Slot { state: if off { State::Off } else { State::New }, ..Slot::default() }
        }));
    }

    /// The request's head passes; `ends`: nothing follows it. No filter that there is holds it.
    pub fn decode_head(
        &self,
        filters: &mut StreamFilters,
        context: &mut Context<'_>,
        head: &mut Head,
        ends: bool,
    ) {
        self.head_from(0, Direction::Decode, filters, context, head, ends);
    }

    /// The response's head passes; `ends`: nothing follows it. Whether it goes on at once; else a filter holds it.
    pub fn encode_head(
        &self,
        filters: &mut StreamFilters,
        context: &mut Context<'_>,
        head: &mut Head,
        ends: bool,
    ) -> bool {
        filters.encode_begun = true;
        self.head_from(0, Direction::Encode, filters, context, head, ends)
    }

    /// Whether the head has passed all filters from that place of the order on.
    fn head_from(
        &self,
        from: usize,
        direction: Direction,
        filters: &mut StreamFilters,
        context: &mut Context<'_>,
        head: &mut Head,
        ends: bool,
    ) -> bool {
        for at in from..filters.slots.len() {
            let index = filters.index(direction, at);
            let (Some(slot), Some(entry)) = (filters.slots.get_mut(index), self.entries.get(index)) else {
                continue;
            };
            let verdict = match (direction, &slot.state) {
                (_, State::Off) => OnHead::Continue,
                (Direction::Decode, _) => entry.filter.decode_head(&mut slot.state, context, head, ends),
                (Direction::Encode, _) => slot.state.encode_head(head, ends),
            };
            match verdict {
                OnHead::Continue => {}
                OnHead::Stop => {
                    slot.side(direction).has_head = true;
                    return false;
                }
            }
        }
        true
    }

    /// Data passes: what is in `data` afterwards goes on. `ends`: nothing follows it.
    pub fn data(
        &self,
        direction: Direction,
        filters: &mut StreamFilters,
        context: &mut Context<'_>,
        head: &mut Head,
        data: &mut ChunkQueue,
        ends: bool,
    ) -> Passed {
        for at in 0..filters.slots.len() {
            match self.step(at, direction, filters, context, head, data, ends) {
                Passed::On => {}
                stopped => return stopped,
            }
            // Later filters have nothing to see in nothing.
            if data.is_empty() && !ends && !filters.is_waited_for_after(direction, at) {
                return Passed::On;
            }
        }
        Passed::On
    }

    /// Trailers pass: what is in `data` afterwards goes before them.
    pub fn trailers(
        &self,
        direction: Direction,
        filters: &mut StreamFilters,
        context: &mut Context<'_>,
        head: &mut Head,
        trailers: &mut Head,
        data: &mut ChunkQueue,
    ) -> Passed {
        for at in 0..filters.slots.len() {
            if !data.is_empty()
                && let reply @ Passed::Reply(_) =
                    self.step(at, direction, filters, context, head, data, false)
            {
                return reply;
            }
            let Some(slot) = filters.slot(direction, at) else { continue };
            let Slot { state, decode, encode } = slot;
            let side = if direction == Direction::Decode { decode } else { encode };
            let part = Part { head, data, held: &mut side.held };
            if let Err(reply) = state.trailers(direction, context, part, trailers) {
                return Passed::Reply(reply);
            }
            self.release(at, direction, filters, context, head, data, false);
        }
        Passed::On
    }

    /// Data passes one filter.
    #[expect(clippy::too_many_arguments, reason = "one pass's things, handed from step to step")]
    fn step(
        &self,
        at: usize,
        direction: Direction,
        filters: &mut StreamFilters,
        context: &mut Context<'_>,
        head: &mut Head,
        data: &mut ChunkQueue,
        ends: bool,
    ) -> Passed {
        let Some(slot) = filters.slot(direction, at) else { return Passed::On };
        let Slot { state, decode, encode } = slot;
        let side = if direction == Direction::Decode { decode } else { encode };
        if !state.wants_data(direction) && !side.has_head {
            return Passed::On;
        }
        let part = Part { head, data, held: &mut side.held };
        match state.data(direction, context, part, ends) {
            OnData::Reply(reply) => return Passed::Reply(reply),
            OnData::Hold if !ends => {
                while let Some(chunk) = data.pop() {
                    side.held.push(chunk);
                }
                let has_head = side.has_head;
                if filters.held_bytes(direction) > context.held_bytes_max {
                    return Passed::Reply(match direction {
                        Direction::Decode => REQUEST_TOO_LARGE,
                        Direction::Encode => RESPONSE_TOO_LARGE,
                    });
                }
                return if has_head { Passed::Held } else { Passed::On };
            }
            OnData::Consumed if !ends => {
                data.clear();
                return if side.has_head { Passed::Held } else { Passed::On };
            }
            OnData::Continue | OnData::Hold | OnData::Consumed => {}
        }
        self.release(at, direction, filters, context, head, data, ends);
        Passed::On
    }

    /// A filter continues: what it held goes before `data`, and the head it kept goes to the filters behind it.
    #[expect(clippy::too_many_arguments, reason = "one pass's things, handed from step to step")]
    fn release(
        &self,
        at: usize,
        direction: Direction,
        filters: &mut StreamFilters,
        context: &mut Context<'_>,
        head: &mut Head,
        data: &mut ChunkQueue,
        ends: bool,
    ) {
        let Some(slot) = filters.slot(direction, at) else { return };
        let side = slot.side(direction);
        if !side.held.is_empty() {
            while let Some(chunk) = data.pop() {
                side.held.push(chunk);
            }
            std::mem::swap(&mut side.held, data);
        }
        if std::mem::take(&mut side.has_head) {
            self.head_from(at + 1, direction, filters, context, head, ends && data.is_empty());
        }
    }

    /// A reply of our own passes as a response does: its head, then its text. Nothing happens where a response has
    /// begun to pass, or the request was refused before it came to the filters.
    pub fn reply(
        &self,
        filters: &mut StreamFilters,
        context: &mut Context<'_>,
        head: &mut Head,
        text: &mut Vec<u8>,
    ) {
        if filters.was_grpc.is_none() || filters.encode_begun {
            return;
        }
        let mut data = ChunkQueue::default();
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            let Some(mut chunk) = context.pool.alloc(ChunkSize::Small) else { return };
            let written = chunk.write(rest);
            rest = rest.get(written..).unwrap_or_default();
            data.push(ChunkMut::freeze(chunk));
        }
        if self.encode_head(filters, context, head, text.is_empty()) && text.is_empty() {
            return;
        }
        // A reply to a reply leads nowhere: then the text goes as it is.
        if self.data(Direction::Encode, filters, context, head, &mut data, true) == Passed::On {
            text.clear();
            data.iter().for_each(|chunk| text.extend_from_slice(chunk));
        }
    }
}

impl StreamFilters {
    /// Forgets the request.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.was_grpc = None;
        self.encode_begun = false;
    }

    /// Whether the request was gRPC before filters saw it; `None`: none has.
    pub fn request_was_grpc(&self) -> Option<bool> {
        self.was_grpc
    }

    /// Whether some filter has to see data and trailers of that direction, or waits for them.
    pub fn want_data(&self, direction: Direction) -> bool {
        self.slots.iter().any(|slot| {
            let side = if direction == Direction::Decode { &slot.decode } else { &slot.encode };
            side.has_head || slot.state.wants_data(direction)
        })
    }

    /// Bytes of the room that it has grown.
    pub fn room_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// The index in the chain of the filter at a place of the order.
    fn index(&self, direction: Direction, at: usize) -> usize {
        match direction {
            Direction::Decode => at,
            Direction::Encode => self.slots.len() - 1 - at,
        }
    }

    fn slot(&mut self, direction: Direction, at: usize) -> Option<&mut Slot> {
        let index = self.index(direction, at);
        self.slots.get_mut(index).filter(|slot| !matches!(slot.state, State::Off))
    }

    /// Whether a filter behind that place keeps the head.
    fn is_waited_for_after(&self, direction: Direction, at: usize) -> bool {
        (at + 1..self.slots.len()).any(|at| {
            let slot = self.slots.get(self.index(direction, at));
            slot.is_some_and(|slot| match direction {
                Direction::Decode => slot.decode.has_head,
                Direction::Encode => slot.encode.has_head,
            })
        })
    }

    fn held_bytes(&self, direction: Direction) -> usize {
        let held = |slot: &Slot| match direction {
            Direction::Decode => slot.decode.held.bytes(),
            Direction::Encode => slot.encode.held.bytes(),
        };
        self.slots.iter().map(held).sum()
    }
}

impl Slot {
    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Decode => &mut self.decode,
            Direction::Encode => &mut self.encode,
        }
    }
}
