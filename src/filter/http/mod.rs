//! HTTP filters: what each does with the head, the data and the trailers of a message, by name.
//!
//! [`Filter`] is the compiled configuration, shared by all cores; [`State`] is what one request needs of it. Dispatch is
//! by enum: a filter is one file here, one arm in each `match` below. Nothing waits in here: a filter that needs more
//! than it has stops the iteration and is asked again when there is more.

mod grpc_http1_bridge;
mod grpc_web;
pub(super) mod rbac;

use std::rc::Rc;

use super::rbac::{Counters, Facts};
use crate::base::regex::RegexSlots;
use crate::buffer::{ChunkQueue, Pool};
use crate::config::error::ConfigError;
use crate::config::http_filter::{FilterOptions, HttpFilterConfig};
use crate::protocol::dynamic_metadata::DynamicMetadata;
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::response_flags::ResponseFlag;

/// A filter of a chain, compiled.
#[derive(Debug)]
pub(super) enum Filter {
    GrpcWeb,
    GrpcHttp1Bridge(crate::config::http_filter::GrpcHttp1BridgeConfig),
    Rbac(Box<rbac::Rbac>),
    /// One that was to be told, and was not.
    Missing,
}

/// Options of a level of the routing table in place of a filter's own, compiled.
#[derive(Debug)]
pub(super) enum Options {
    Rbac(rbac::Options),
}

/// What one request needs of a filter.
#[derive(Debug, Default)]
pub(super) enum State {
    /// It does not run for this request, or has nothing to do with it.
    #[default]
    Off,
    /// It runs and has not seen the request.
    New,
    GrpcWeb(Box<grpc_web::State>),
    GrpcHttp1Bridge(grpc_http1_bridge::State),
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The request, in the order of the chain.
    Decode,
    /// The response, in the reverse order.
    Encode,
}

/// What a filter sees of the world.
#[derive(Debug)]
pub struct Context<'a> {
    /// Where new body bytes go.
    pub pool: &'a Pool,
    /// What the client speaks.
    pub downstream: Version,
    /// Most bytes that filters may hold back of one body. Source: `per_connection_buffer_limit_bytes`.
    pub held_bytes_max: usize,
    /// Set by a filter that changed what routes match: the route is looked for again.
    pub clear_route: bool,
}

/// What a request's head brings with it: what filters may ask about the one who sent it, and where they note what they
/// found.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// The connection it came by; without the head.
    pub connection: Facts<'a>,
    /// What filters have noted.
    pub metadata: &'a mut DynamicMetadata,
    /// Why it was answered here, where that depends on more than the filter.
    pub details: &'a mut String,
    /// For the conditions of the chain's filters.
    pub matching: &'a mut MatchScratch,
    /// This core's counters of the chain's filters.
    pub counters: &'a FilterCounters,
}

/// Counters of a chain's filters on one core.
#[derive(Debug, Default)]
pub struct FilterCounters {
    /// By their place in it.
    pub(super) filters: Box<[Option<Counters>]>,
    /// Those of the chains of scopes, in their order; none where there are no filters.
    pub(super) scopes: Box<[Rc<Self>]>,
}

impl FilterCounters {
    fn of(&self, place: usize) -> Option<&Counters> {
        self.filters.get(place)?.as_ref()
    }

    /// Those of the chain of the scope of this number; `None`: it has none.
    pub fn scope(&self, number: usize) -> Option<Rc<Self>> {
        self.scopes.get(number).cloned()
    }
}

/// Data on its way through a filter.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// The head of the same message. Editing it has an effect as long as the filter holds it.
    pub(super) head: &'a mut Head,
    /// What arrives now; a filter may put something else in its place.
    pub(super) data: &'a mut ChunkQueue,
    /// What this filter holds; it goes before `data` when the filter continues.
    pub(super) held: &'a mut ChunkQueue,
}

/// What a filter says to a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnHead {
    Continue,
    /// The head waits here; data still comes to this filter.
    Stop,
}

/// What a filter says to data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnData {
    Continue,
    /// It is held back with what is held already. At the end of the message this means `Continue`.
    Hold,
    /// The filter has taken it; nothing goes on.
    Consumed,
    /// The message ends here with this reply.
    Reply(FilterReply),
}

/// An answer that a filter gives in place of the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterReply {
    pub status: u16,
    pub body: &'static str,
    /// `%RESPONSE_CODE_DETAILS%`; empty: the filter has noted them.
    pub details: &'static str,
    /// `%RESPONSE_FLAGS%`
    pub flag: Option<ResponseFlag>,
}

/// There is no chunk for what a filter has to write.
const EXHAUSTED: FilterReply =
    FilterReply { status: 503, body: "", details: "filter_buffer_exhausted", flag: None };

/// A filter of the chain was to be told, and was not. Source: Envoy's `MissingConfigFilter`.
const MISSING: FilterReply =
    FilterReply { status: 500, body: "", details: "", flag: Some(ResponseFlag::NoFilterConfigFound) };

impl Filter {
    /// The compiled form; `None`: the router and `on_demand`, which are not part of the chain.
    ///
    /// # Errors
    /// A condition that cannot be compiled; `path` is the field path of `config`.
    pub(super) fn compile(
        config: &HttpFilterConfig,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Option<Self>, ConfigError> {
        Ok(match config.effective() {
            Some(HttpFilterConfig::GrpcWeb) => Some(Self::GrpcWeb),
            Some(HttpFilterConfig::GrpcHttp1Bridge(config)) => Some(Self::GrpcHttp1Bridge(*config)),
            Some(HttpFilterConfig::Rbac(config)) => {
                Some(Self::Rbac(Box::new(rbac::Rbac::compile(config, path, slots)?)))
            }
            Some(HttpFilterConfig::OnDemand | HttpFilterConfig::Router(_)) => None,
            // What is told is never told in its turn.
            Some(HttpFilterConfig::Told(_)) | None => Some(Self::Missing),
        })
    }

    /// Compiles what a level says; `None`: it is not for this filter, which does not look at it. What is wrong with it is found
    /// all the same: a filter of the name that is told later may look at it.
    ///
    /// # Errors
    /// As for [`Self::compile`].
    pub(super) fn options(
        &mut self,
        options: &FilterOptions,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Option<Options>, ConfigError> {
        match (self, options) {
            (Self::Rbac(filter), FilterOptions::Rbac(options)) => {
                Ok(Some(Options::Rbac(filter.options(options, path, slots)?)))
            }
            (Self::GrpcWeb | Self::GrpcHttp1Bridge(_) | Self::Missing, FilterOptions::Rbac(options)) => {
                rbac::Rbac::compile(options, path, &mut RegexSlots::default())?;
                Ok(None)
            }
        }
    }

    /// The request's head. `options`: a level's in place of the filter's, which stands at
    /// `place` of its chain.
    pub(super) fn decode_head(
        &self,
        state: &mut State,
        options: Option<&Options>,
        context: &mut Context<'_>,
        arrival: &mut Arrival<'_>,
        place: usize,
        head: &mut Head,
    ) -> Result<(), FilterReply> {
        *state = match self {
            Self::GrpcWeb => {
                grpc_web::State::decode_head(head).map_or(State::Off, |it| State::GrpcWeb(Box::new(it)))
            }
            Self::GrpcHttp1Bridge(config) => grpc_http1_bridge::State::decode_head(*config, context, head)
                .map_or(State::Off, State::GrpcHttp1Bridge),
            Self::Rbac(filter) => {
                let options = options.map(|Options::Rbac(options)| options);
                filter.decode_head(options, arrival, place, head)?;
                State::Off
            }
            Self::Missing => return Err(MISSING),
        };
        Ok(())
    }
}

impl State {
    /// The response's head.
    pub(super) fn encode_head(&mut self, head: &mut Head, ends: bool) -> OnHead {
        match self {
            Self::Off | Self::New => OnHead::Continue,
            Self::GrpcWeb(state) => state.encode_head(head, ends),
            Self::GrpcHttp1Bridge(state) => state.encode_head(ends),
        }
    }

    /// Whether data of that direction has to come by.
    pub(super) fn wants_data(&self, direction: Direction) -> bool {
        match self {
            Self::Off | Self::New => false,
            Self::GrpcWeb(state) => state.wants_data(direction),
            Self::GrpcHttp1Bridge(state) => state.wants_data(direction),
        }
    }

    /// Some of a message's body; `ends`: nothing follows it.
    pub(super) fn data(
        &mut self,
        direction: Direction,
        context: &Context<'_>,
        part: Part<'_>,
        ends: bool,
    ) -> OnData {
        match (self, direction) {
            (Self::Off | Self::New, _) => OnData::Continue,
            (Self::GrpcWeb(state), Direction::Decode) => state.decode_data(context, part, ends),
            (Self::GrpcWeb(state), Direction::Encode) => state.encode_data(context, part, ends),
            (Self::GrpcHttp1Bridge(state), Direction::Decode) => state.decode_data(context, part, ends),
            (Self::GrpcHttp1Bridge(state), Direction::Encode) => state.encode_data(ends),
        }
    }

    /// A message's trailers. What the filter holds, and what it adds to the data, goes before them.
    pub(super) fn trailers(
        &mut self,
        direction: Direction,
        context: &Context<'_>,
        part: Part<'_>,
        trailers: &mut Head,
    ) -> Result<(), FilterReply> {
        match (self, direction) {
            (Self::Off | Self::New, _) => Ok(()),
            (Self::GrpcWeb(state), Direction::Decode) => state.decode_trailers(),
            (Self::GrpcWeb(state), Direction::Encode) => state.encode_trailers(context, part, trailers),
            (Self::GrpcHttp1Bridge(state), Direction::Decode) => state.decode_trailers(context, part),
            (Self::GrpcHttp1Bridge(state), Direction::Encode) => {
                state.encode_trailers(part, trailers);
                Ok(())
            }
        }
    }
}
