//! Clusters of type `ORIGINAL_DST`.

use super::at::At;
use super::fields::classify;
use crate::config::cluster::OriginalDst;
use crate::control::xds::pb::cluster::{ClusterLbConfigOneOf, ClusterLbPolicy};
use crate::control::xds::pb::{self, EnumName};

/// The header that is read unless another is named.
const HEADER: &str = "x-envoy-original-dst-host";

/// How endpoints follow from connections, if the cluster is of that type.
pub(super) fn settings(
    at: &At<'_>,
    cleanup_interval: Option<pb::google::Duration>,
    lb_config: Option<&ClusterLbConfigOneOf>,
) -> OriginalDst {
    let mut settings = OriginalDst::default();
    if let Some(interval) = at.duration("cleanup_interval", cleanup_interval) {
        if interval.is_zero() {
            at.field("cleanup_interval").error("must be greater than 0");
        }
        settings.cleanup_interval = interval;
    }
    let Some(ClusterLbConfigOneOf::OriginalDstLbConfig(message)) = lb_config else { return settings };
    let at = &at.field("original_dst_lb_config");
    let message = message.clone();
    classify!(at, message => pb::cluster::ClusterOriginalDstLbConfig {
        implemented: use_http_header, http_header_name, upstream_port_override;
        refused: metadata_key = "no filter of this version sets metadata of requests";
    });
    if use_http_header {
        let name = if http_header_name.is_empty() { HEADER.to_owned() } else { http_header_name };
        settings.header = Some(name.to_ascii_lowercase().into());
    } else if !http_header_name.is_empty() {
        at.field("http_header_name").error("needs use_http_header: true");
    }
    if let Some(port) = upstream_port_override {
        settings.port_override = u16::try_from(port).ok();
        if settings.port_override.is_none() {
            at.field("upstream_port_override").error("must be at most 65535");
        }
    }
    settings
}

/// What else a cluster of that type must have, and must not.
pub(super) fn check(at: &At<'_>, lb_policy: i32, has_endpoints: bool) {
    let policy: ClusterLbPolicy = at.enumeration("lb_policy", lb_policy);
    if policy != ClusterLbPolicy::ClusterProvided {
        at.field("lb_policy").error(format!(
            "{} is not valid for clusters of type ORIGINAL_DST: only CLUSTER_PROVIDED is",
            policy.proto_name()
        ));
    }
    if has_endpoints {
        at.field("load_assignment").error("ORIGINAL_DST clusters must have no load assignment");
    }
}
