//! Virtual hosts as control planes tell them: by delta, on a stream of their own.

use prost::Message;

use super::control_plane::{Any, Asked, Status};

/// The type of the resources.
pub(crate) const HOSTS: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";

/// The method of their service.
pub(super) const METHOD: &str = "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts";

/// `DeltaDiscoveryRequest`
#[derive(Clone, PartialEq, Message)]
struct DeltaAsked {
    #[prost(string, tag = "2")]
    type_url: String,
    #[prost(string, repeated, tag = "3")]
    subscribe: Vec<String>,
    #[prost(string, tag = "6")]
    nonce: String,
    #[prost(message, optional, tag = "7")]
    error: Option<Status>,
}

/// `DeltaDiscoveryResponse`
#[derive(Clone, PartialEq, Message)]
struct DeltaTold {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Resource>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
    #[prost(string, repeated, tag = "6")]
    removed: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(message, optional, tag = "2")]
    body: Option<Any>,
    #[prost(string, tag = "3")]
    name: String,
}

/// Of a virtual host its name.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// `Vhds`
#[derive(Clone, PartialEq, Message)]
struct Vhds {
    #[prost(message, optional, tag = "1")]
    source: Option<ConfigSource>,
}

#[derive(Clone, PartialEq, Message)]
struct ConfigSource {
    #[prost(message, optional, tag = "2")]
    api: Option<ApiConfigSource>,
    #[prost(int32, tag = "6")]
    version: i32,
}

#[derive(Clone, PartialEq, Message)]
struct ApiConfigSource {
    #[prost(int32, tag = "1")]
    api_type: i32,
    #[prost(message, repeated, tag = "4")]
    services: Vec<GrpcService>,
    #[prost(int32, tag = "8")]
    version: i32,
}

/// `ApiConfigSource.ApiType.DELTA_GRPC`
const DELTA_GRPC: i32 = 3;

/// `ApiVersion.V3`
const V3: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct GrpcService {
    #[prost(message, optional, tag = "1")]
    envoy_grpc: Option<EnvoyGrpc>,
}

#[derive(Clone, PartialEq, Message)]
struct EnvoyGrpc {
    #[prost(string, tag = "1")]
    cluster: String,
}

/// An encoded `vhds`: from the control plane behind the cluster `plane`.
pub(super) fn source() -> Vec<u8> {
    let services = vec![GrpcService { envoy_grpc: Some(EnvoyGrpc { cluster: "plane".to_owned() }) }];
    let api = ApiConfigSource { api_type: DELTA_GRPC, services, version: V3 };
    Vhds { source: Some(ConfigSource { api: Some(api), version: V3 }) }.encode_to_vec()
}

/// A request, as the others are kept.
pub(super) fn asked(bytes: &[u8]) -> Asked {
    let DeltaAsked { type_url, subscribe, nonce, error } = DeltaAsked::decode(bytes).unwrap();
    Asked { version: String::new(), names: subscribe, type_url, nonce, error }
}

/// A response with these virtual hosts, without those of these names.
pub(super) fn told<'a>(
    version: &str,
    nonce: &str,
    values: impl Iterator<Item = &'a [u8]>,
    removed: Vec<String>,
) -> Vec<u8> {
    let resource = |value: &[u8]| Resource {
        version: version.to_owned(),
        name: Named::decode(value).unwrap().name,
        body: Some(Any { type_url: HOSTS.to_owned(), value: value.to_vec() }),
    };
    let told = DeltaTold {
        version: version.to_owned(),
        resources: values.map(resource).collect(),
        type_url: HOSTS.to_owned(),
        nonce: nonce.to_owned(),
        removed,
    };
    told.encode_to_vec()
}
