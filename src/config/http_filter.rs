//! HTTP filters of a chain, and what virtual hosts, routes and weighted clusters say about them.
//! Source: Envoy `HttpFilter`, `typed_per_filter_config` and the filters' own `extensions.filters.http`.
use super::http::RouterConfig;
use super::rbac::HttpRbac;
use super::told_filter::{FilterConfig, ToldFilter};

/// A filter of a chain. Source: Envoy `http_connection_manager.v3.HttpFilter`.
#[derive(Debug, Clone)]
pub struct HttpFilter {
    /// By which routes speak of it. Source: `name`.
    pub name: Box<str>,
    /// Whether it runs only where a route enables it. Default false. Source: `disabled`.
    pub disabled: bool,
    /// Which filter it is. Source: `typed_config`, `config_discovery`.
    pub config: HttpFilterConfig,
}

/// The filters there are.
#[derive(Debug, Clone)]
pub enum HttpFilterConfig {
    /// gRPC-Web to gRPC and back. Source: `envoy.filters.http.grpc_web`, which has no options.
    GrpcWeb,
    /// gRPC for HTTP/1 clients. Source: `envoy.filters.http.grpc_http1_bridge`.
    GrpcHttp1Bridge(GrpcHttp1BridgeConfig),
    /// Access by role. Source: `envoy.filters.http.rbac`.
    Rbac(Box<HttpRbac>),
    /// Requests without a virtual host ask for it where the table has them told (VHDS). Source: `envoy.filters.http.on_demand`.
    OnDemand,
    /// Routes and forwards; always the last. Source: `envoy.filters.http.router`.
    Router(RouterConfig),
    /// Whichever a control plane or a file tells. Source: `config_discovery`.
    Told(Box<ToldFilter>),
}

impl HttpFilterConfig {
    /// What runs: of a filter that is told what was told, or its default; `None`: neither is there.
    pub fn effective(&self) -> Option<&Self> {
        match self {
            Self::Told(filter) => match filter.effective()? {
                FilterConfig::Http(config) => Some(config),
                // Of another kind: it cannot stand here.
                FilterConfig::Network(_) | FilterConfig::Listener(_) => None,
            },
            other => Some(other),
        }
    }

    /// The filter that is told, if this is one.
    pub fn as_told(&self) -> Option<&ToldFilter> {
        match self {
            Self::Told(filter) => Some(filter),
            _ => None,
        }
    }

    /// Whether no filter can follow it.
    pub fn ends_chain(&self) -> bool {
        matches!(self, Self::Router(_))
    }
}

/// The bridge. Source: Envoy `extensions.filters.http.grpc_http1_bridge.v3.Config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GrpcHttp1BridgeConfig {
    /// Whether requests of type `application/x-protobuf` are framed as gRPC messages, and their answers unframed. Default
    /// false. Source: `upgrade_protobuf_to_grpc`.
    pub upgrade_protobuf_to_grpc: bool,
    /// Whether the query is cut from the path of bridged requests. Default false. Source: `ignore_query_parameters`.
    pub ignore_query_parameters: bool,
}

/// What one level says about one filter: an entry of `typed_per_filter_config`.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterOverride {
    /// The filter's name in its chain. Source: the key of the map.
    pub name: Box<str>,
    /// Whether it is off here; else it is on, even where its chain has it `disabled`. Source: `FilterConfig.disabled`.
    pub disabled: bool,
    /// Options in place of the chain's; `None`: the next level's that has some, else the chain's.
    pub options: Option<FilterOptions>,
}

/// Options of a filter for one level.
#[derive(Debug, Clone, PartialEq)]
pub enum FilterOptions {
    /// Source: Envoy `extensions.filters.http.rbac.v3.RBACPerRoute`.
    Rbac(Box<HttpRbac>),
}
