//! From a request to what is done with it: the connection manager's edits, the route, the cluster.

use std::rc::Rc;
use std::time::Duration;

use super::downstream::Connection;
use super::error::ProxyError;
use super::http::Request;
use super::local_reply::Reply;
use super::stream::Stream;
use crate::cluster::Cluster;
use crate::config::route::{Action, ClusterSpecifier};
use crate::protocol::http::head::Head;
use crate::telemetry::codes::Origin;

/// What is done with a request.
#[derive(Debug)]
pub(super) enum Decision<'a> {
    /// It is answered here.
    Reply(Reply<'a>),
    /// It is forwarded.
    Forward(Forward<'a>),
}

/// Where and how a request is forwarded.
#[derive(Debug)]
pub(super) struct Forward<'a> {
    pub(super) cluster: Rc<Cluster>,
    /// Longest time from the complete request to the complete response; `None`: no limit.
    pub(super) timeout: Option<Duration>,
    /// The route's own idle timeout, if it has one; inside, `None` is no limit.
    pub(super) idle_timeout: Option<Option<Duration>>,
    /// Whether statistics count the request as internal.
    pub(super) origin: Origin,
    _route: std::marker::PhantomData<&'a ()>,
}

impl Forward<'_> {
    /// The route's edits of a response.
    pub(super) fn edit_response(&self, _head: &mut Head) {}
}

/// Edits the request and decides.
pub(super) fn decide<'a>(
    connection: &'a Connection,
    stream: &mut Stream,
    _request: &Request,
) -> Decision<'a> {
    let path = stream.request.path();
    for host in &connection.chain.config.route_config.virtual_hosts {
        for route in &host.routes {
            let _ = (&route.matcher, path);
            let Action::Forward(action) = &route.action else { continue };
            let ClusterSpecifier::Cluster(name) = &action.cluster else { continue };
            let Some(cluster) = connection.context.clusters.find(name) else {
                let error = ProxyError::NoCluster { status: action.cluster_not_found_response_code.status() };
                return Decision::Reply(Reply::error(error));
            };
            return Decision::Forward(Forward {
                cluster,
                timeout: (!action.timeout.is_zero()).then_some(action.timeout),
                idle_timeout: None,
                origin: Origin::External,
                _route: std::marker::PhantomData,
            });
        }
    }
    Decision::Reply(Reply::error(ProxyError::NoRoute))
}
