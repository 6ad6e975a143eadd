//! [`FilterChain`]: the HTTP filters of a connection manager, but for the router; [`StreamFilters`], what one request
//! needs of them; and how head, data and trailers pass.
//!
//! A filter continues, stops, or answers in place of the endpoint. Where one has stopped a head, later filters see nothing
//! of the message until it continues; data that it holds goes before what comes then. What all filters of a request hold
//! is bounded. Source: Envoy's `FilterManager`.

use std::rc::Rc;

use super::http::{
    Arrival, Context, Direction, Filter, FilterCounters, FilterReply, OnData, OnHead, Options, Part, State,
};
use super::rbac::CountersScope;
use crate::base::regex::RegexSlots;
use crate::buffer::{ChunkMut, ChunkQueue, ChunkSize};
use crate::config::error::ConfigError;
use crate::config::http_filter::{FilterOverride, HttpFilter, HttpFilterConfig};
use crate::protocol::grpc;
use crate::protocol::http::head::Head;
use crate::route::OverrideLevels;
use crate::telemetry::{RbacOwner, Registry, Slot as Writer};

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
    /// Its name, if it is one that is told.
    told: Option<Box<str>>,
}

/// What a level of the routing table says about a filter.
#[derive(Debug)]
struct Word {
    off: bool,
    options: Option<Options>,
}

/// Scopes of the counters of a chain's filters.
#[derive(Debug, Default)]
pub struct FilterScopes {
    /// By their place in it; `None`: the filter has none.
    filters: Box<[Option<CountersScope>]>,
    /// Those of the chains of a connection manager's scopes, in their order.
    of_scopes: Box<[Self]>,
}

impl FilterScopes {
    /// The same with those of the chains of a connection manager's scopes.
    pub(super) fn with_scopes(self, of_scopes: Box<[Self]>) -> Self {
        Self { of_scopes, ..self }
    }

    /// The counters of one writer.
    pub fn cells(&self, writer: Writer) -> FilterCounters {
        let filters = self.filters.iter().map(|scope| Some(scope.as_ref()?.cells(writer)));
        let scopes = self.of_scopes.iter().map(|scopes| Rc::new(scopes.cells(writer)));
        FilterCounters { filters: filters.collect(), scopes: scopes.collect() }
    }
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
    /// The level whose options stand in place of the filter's own.
    options_at: Option<usize>,
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
    FilterReply { status: 413, body: "Payload Too Large", details: "request_payload_too_large", flag: None };
/// The same of a response.
pub const RESPONSE_TOO_LARGE: FilterReply = FilterReply {
    status: 500,
    body: "Internal Server Error",
    details: "response_payload_too_large",
    flag: None,
};

/// Whether a filter that was told can be compiled.
///
/// # Errors
/// A condition that cannot be; the path is relative to it.
pub fn check(config: &HttpFilterConfig) -> Result<(), ConfigError> {
    Filter::compile(config, "typed_config", &mut RegexSlots::default()).map(drop)
}

impl FilterChain {
    /// Compiles the filters and the words of a routing table on them; their regular expressions are numbered in `slots`.
    ///
    /// # Errors
    /// A condition that cannot be compiled.
    pub fn compile(
        filters: &[HttpFilter],
        levels: &[Vec<FilterOverride>],
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        let mut named = Vec::with_capacity(filters.len());
        for (index, it) in filters.iter().enumerate() {
            if let Some(filter) = Filter::compile(&it.config, &format!("http_filters[{index}]"), slots)? {
                let told = it.config.as_told().map(|told| told.ecds.name.as_ref().into());
                named.push((&it.name, Entry { filter, disabled: it.disabled, told }));
            }
        }
        if named.is_empty() {
            return Ok(Self::default());
        }
        let mut word = |level: &[FilterOverride], name: &str, filter: &mut Filter| {
            let Some(found) = level.iter().find(|word| &*word.name == name) else { return Ok(None) };
            let path = format!("typed_per_filter_config[{name:?}]");
            let options = found.options.as_ref().map(|options| filter.options(options, &path, slots));
            Ok(Some(Word { off: found.disabled, options: options.transpose()?.flatten() }))
        };
        let mut overrides = Vec::with_capacity(levels.len());
        for level in levels {
            let words = named.iter_mut().map(|(name, entry)| word(level, name, &mut entry.filter));
            overrides.push(words.collect::<Result<Box<[_]>, ConfigError>>()?);
        }
        let entries = named.into_iter().map(|(_, entry)| entry).collect();
        Ok(Self { overrides: overrides.into(), entries })
    }

    /// The scopes of its filters' counters, below the connection manager's prefix; of those that are told, below their own.
    pub(super) fn scopes(&self, registry: &Registry, stat_prefix: &str) -> FilterScopes {
        let scope = |entry: &Entry| match &entry.filter {
            Filter::Rbac(filter) => {
                let owner = entry.told.as_deref().map_or(RbacOwner::Http(stat_prefix), RbacOwner::Told);
                Some(filter.scope(registry, owner))
            }
            Filter::GrpcWeb | Filter::GrpcHttp1Bridge(_) | Filter::Missing => None,
        };
        FilterScopes { filters: self.entries.iter().map(scope).collect(), of_scopes: Box::default() }
    }

    /// Whether there is nothing but the router.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Settles which filters run for a request that passes these levels of the routing table.
    pub fn begin(&self, levels: &OverrideLevels, head: &Head, filters: &mut StreamFilters) {
        filters.clear();
        filters.was_grpc = Some(grpc::is_request(head));
        let words = |index: usize| {
            let levels = levels.iter().flatten().map(|slot| slot.index());
            levels.filter_map(move |level| Some((level, self.overrides.get(level)?.get(index)?.as_ref()?)))
        };
        filters.slots.extend(self.entries.iter().enumerate().map(|(index, entry)| {
            let off = words(index).next().map_or(entry.disabled, |(_, word)| word.off);
            let options_at = words(index).find(|(_, word)| word.options.is_some()).map(|(level, _)| level);
            let state = if off { State::Off } else { State::New };
            Slot { state, options_at, ..Slot::default() }
        }));
    }

    /// The request's head passes, and no filter that there is holds it.
    ///
    /// # Errors
    /// A filter answers instead; those behind it have not seen it.
    pub fn decode_head(
        &self,
        filters: &mut StreamFilters,
        context: &mut Context<'_>,
        arrival: &mut Arrival<'_>,
        head: &mut Head,
    ) -> Result<(), FilterReply> {
        for (place, (slot, entry)) in filters.slots.iter_mut().zip(&self.entries).enumerate() {
            if let State::Off = slot.state {
                continue;
            }
            let word = slot.options_at.and_then(|level| self.overrides.get(level)?.get(place)?.as_ref());
            let options = word.and_then(|word| word.options.as_ref());
            entry.filter.decode_head(&mut slot.state, options, context, arrival, place, head)?;
        }
        Ok(())
    }

    /// The response's head passes; `ends`: nothing follows it. Whether it goes on at once; else a filter holds it.
    pub fn encode_head(&self, filters: &mut StreamFilters, head: &mut Head, ends: bool) -> bool {
        filters.encode_begun = true;
        filters.encode_head_from(0, head, ends)
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
            let Slot { state, decode, encode, .. } = slot;
            let side = if direction == Direction::Decode { decode } else { encode };
            let part = Part { head, data, held: &mut side.held };
            if let Err(reply) = state.trailers(direction, context, part, trailers) {
                return Passed::Reply(reply);
            }
            self.release(at, direction, filters, head, data, false);
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
        let Slot { state, decode, encode, .. } = slot;
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
        self.release(at, direction, filters, head, data, ends);
        Passed::On
    }

    /// A filter continues: what it held goes before `data`, and the head it kept goes to the filters behind it.
    fn release(
        &self,
        at: usize,
        direction: Direction,
        filters: &mut StreamFilters,
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
            // Of a request no filter keeps the head.
            if direction == Direction::Encode {
                filters.encode_head_from(at + 1, head, ends && data.is_empty());
            }
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
        if self.encode_head(filters, head, text.is_empty()) && text.is_empty() {
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
    /// Whether the response's head has passed all filters from that place of the order on.
    fn encode_head_from(&mut self, from: usize, head: &mut Head, ends: bool) -> bool {
        for at in from..self.slots.len() {
            let Some(slot) = self.slot(Direction::Encode, at) else { continue };
            match slot.state.encode_head(head, ends) {
                OnHead::Continue => {}
                OnHead::Stop => {
                    slot.encode.has_head = true;
                    return false;
                }
            }
        }
        true
    }

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
