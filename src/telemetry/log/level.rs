//! Levels and components of the application log, under Envoy's names.
use std::fmt;

/// How much is logged: messages at this level and above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
    Off,
}

impl Level {
    pub const ALL: [Self; 7] =
        [Self::Trace, Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical, Self::Off];

    /// The level of this name; `warn` is a second name of `warning`. Case counts, as in Envoy.
    pub fn parse(name: &str) -> Option<Self> {
        let name = if name == "warn" { "warning" } else { name };
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }

    /// The first letter, `%L` of the pattern.
    pub fn letter(self) -> &'static str {
        ["T", "D", "I", "W", "E", "C", "O"][self as usize]
    }

    pub(super) fn from_u8(value: u8) -> Self {
        Self::ALL.get(usize::from(value)).copied().unwrap_or(Self::Off)
    }

    /// The filter of the `log` crate that lets everything of this level through.
    pub(super) fn filter(self) -> log::LevelFilter {
        match self {
            Self::Trace => log::LevelFilter::Trace,
            Self::Debug => log::LevelFilter::Debug,
            Self::Info => log::LevelFilter::Info,
            Self::Warning => log::LevelFilter::Warn,
            // `critical` does not come through the crate's macros.
            Self::Error => log::LevelFilter::Error,
            Self::Critical | Self::Off => log::LevelFilter::Off,
        }
    }
}

impl From<log::Level> for Level {
    fn from(level: log::Level) -> Self {
        match level {
            log::Level::Error => Self::Error,
            log::Level::Warn => Self::Warning,
            log::Level::Info => Self::Info,
            log::Level::Debug => Self::Debug,
            log::Level::Trace => Self::Trace,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Index of a component in [`COMPONENTS`]; targets that are none of them are `misc`.
pub fn component(target: &str) -> usize {
    COMPONENTS.binary_search(&target).unwrap_or(MISC)
}

/// Every logger of Envoy 1.40, so that flags and requests which name one are understood; sorted. This code logs
/// under `admin`, `client`, `config`, `connection`, `dns`, `file`, `http`, `init`, `io`, `main`, `misc`, `pool`,
/// `router`, `runtime` and `upstream`; the others have no messages.
pub const COMPONENTS: [&str; COMPONENTS_LEN] = [
    "a2a",
    "admin",
    "ai_protocol_manager",
    "alternate_protocols_cache",
    "assert",
    "aws",
    "backtrace",
    "basic_auth",
    "cache_filter",
    "client",
    "compression",
    "config",
    "conn_handler",
    "connection",
    "credential_injector",
    "decompression",
    "dns",
    "dubbo",
    "dynamic_modules",
    "envoy_bug",
    "ext_authz",
    "ext_proc",
    "file",
    "filter",
    "forward_proxy",
    "geolocation",
    "golang",
    "grpc",
    "happy_eyeballs",
    "hc",
    "health_checker",
    "http",
    "http2",
    "hystrix",
    "init",
    "io",
    "ip_tagging",
    "json_rpc",
    "jwt",
    "kafka",
    "key_value_store",
    "local_rate_limit",
    "lua",
    "main",
    "matcher",
    "mcp",
    "misc",
    "mongo",
    "multi_connection",
    "notification",
    "oauth2",
    "pool",
    "quic",
    "quic_stream",
    "rate_limit_quota",
    "rbac",
    "rds",
    "redis",
    "rocketmq",
    "router",
    "runtime",
    "secret",
    "sse",
    "stats",
    "stats_sinks",
    "tap",
    "testing",
    "thrift",
    "tracing",
    "udp",
    "upstream",
    "wasm",
    "websocket",
];
const COMPONENTS_LEN: usize = 73;
const MISC: usize = 46;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_sorted_and_misc_is_where_it_is_said_to_be() {
        assert!(COMPONENTS.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(COMPONENTS[component("hyper::proto")], "misc");
        assert_eq!(COMPONENTS[component("upstream")], "upstream");
    }

    #[test]
    fn level_names_parse_back() {
        for level in Level::ALL {
            assert_eq!(Level::parse(level.name()), Some(level));
        }
        assert_eq!(Level::parse("warn"), Some(Level::Warning));
        assert_eq!(Level::parse("INFO"), None);
    }
}
