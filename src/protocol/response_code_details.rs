//! The texts of `%RESPONSE_CODE_DETAILS%`: why a response is what it is.
//!
//! Envoy's words, so that dashboards and alerts keep working.
//! Source: Envoy, "Response Code Details", and `ResponseCodeDetailValues`.

/// The response came from upstream.
pub const VIA_UPSTREAM: &str = "via_upstream";
/// The route has a `direct_response`, or a redirect.
pub const DIRECT_RESPONSE: &str = "direct_response";
/// No route matched.
pub const ROUTE_NOT_FOUND: &str = "route_not_found";
/// No filter chain of the listener takes the connection.
pub const FILTER_CHAIN_NOT_FOUND: &str = "filter_chain_not_found";
/// The route configuration has not arrived.
pub const ROUTE_CONFIGURATION_NOT_FOUND: &str = "route_configuration_not_found";
/// The route's cluster does not exist.
pub const CLUSTER_NOT_FOUND: &str = "cluster_not_found";
/// The cluster has no host that may take the request.
pub const NO_HEALTHY_UPSTREAM: &str = "no_healthy_upstream";
/// The cluster is in maintenance mode.
pub const MAINTENANCE_MODE: &str = "maintenance_mode";
/// It is one of those that `drop_overloads` of the cluster drops.
pub const DROP_OVERLOAD: &str = "drop_overload";
/// `drop_overloads` of the cluster drops all.
pub const UNCONDITIONAL_DROP_OVERLOAD: &str = "unconditional_drop_overload";
/// The route's timeout passed.
pub const RESPONSE_TIMEOUT: &str = "response_timeout";
/// The last try's timeout passed.
pub const UPSTREAM_PER_TRY_TIMEOUT: &str = "upstream_per_try_timeout";
/// The last try was idle for too long.
pub const UPSTREAM_PER_TRY_IDLE_TIMEOUT: &str = "upstream_per_try_idle_timeout";
/// The upstream request reached its maximum duration.
pub const UPSTREAM_MAX_STREAM_DURATION_REACHED: &str = "upstream_max_stream_duration_reached";
/// Upstream failed before its response began; a reason follows in braces.
pub const UPSTREAM_RESET_BEFORE_RESPONSE_STARTED: &str = "upstream_reset_before_response_started";
/// Upstream failed after its response began; a reason follows in braces.
pub const UPSTREAM_RESET_AFTER_RESPONSE_STARTED: &str = "upstream_reset_after_response_started";
/// The stream idle timeout passed.
pub const STREAM_IDLE_TIMEOUT: &str = "stream_idle_timeout";
/// The maximum stream duration passed.
pub const MAX_DURATION_TIMEOUT: &str = "max_duration_timeout";
/// The request timeout of the connection manager passed.
pub const REQUEST_OVERALL_TIMEOUT: &str = "request_overall_timeout";
/// The request's head did not arrive in time.
pub const REQUEST_HEADER_TIMEOUT: &str = "request_header_timeout";
/// The connection's maximum duration passed.
pub const DURATION_TIMEOUT: &str = "duration_timeout";
/// The client went away.
pub const DOWNSTREAM_REMOTE_DISCONNECT: &str = "downstream_remote_disconnect";
/// This proxy closed the client's connection; a reason follows in parentheses.
pub const DOWNSTREAM_LOCAL_DISCONNECT: &str = "downstream_local_disconnect";
/// The overload manager refused it.
pub const OVERLOAD: &str = "overload";
/// HTTP/1.0 without `accept_http_10`.
pub const LOW_VERSION: &str = "low_version";
/// No Host header.
pub const MISSING_HOST_HEADER: &str = "missing_host_header";
/// No path.
pub const MISSING_PATH_REJECTED: &str = "missing_path_rejected";
/// The path is not one.
pub const INVALID_PATH: &str = "invalid_path";
/// An absolute URL as path where none is allowed.
pub const ABSOLUTE_PATH_REJECTED: &str = "absolute_path_rejected";
/// `normalize_path` could not normalize it.
pub const PATH_NORMALIZATION_FAILED: &str = "path_normalization_failed";
/// An upgrade that the route does not allow.
pub const UPGRADE_FAILED: &str = "upgrade_failed";
/// An `x-envoy-*` header failed strict checking.
pub const REQUEST_HEADERS_FAILED_STRICT_CHECK: &str = "request_headers_failed_strict_check";
/// A body had to be held whole and was over the limit.
pub const REQUEST_PAYLOAD_TOO_LARGE: &str = "request_payload_too_large";
/// A response had to be held whole and was over the limit.
pub const RESPONSE_PAYLOAD_TOO_LARGE: &str = "response_payload_too_large";
/// Too much of the body came while a retry was waited for.
pub const REQUEST_PAYLOAD_EXCEEDED_RETRY_BUFFER_LIMIT: &str = "request_payload_exceeded_retry_buffer_limit";
/// The client's address could not be found out.
pub const REJECTING_BECAUSE_DETECTION_FAILED: &str = "rejecting_because_detection_failed";
/// CONNECT payload before the 200.
pub const EARLY_CONNECT_DATA: &str = "early_connect_data";
/// An admin response.
pub const ADMIN_FILTER_RESPONSE: &str = "admin_filter_response";
