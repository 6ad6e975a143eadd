//! The filter `on_demand`: what a request asks a control plane for whose host no virtual host of its table has.
//!
//! It is no part of the compiled chain: a request waits before the other filters see it, which see it once, with the route that it
//! has then. Source: Envoy `envoy.filters.http.on_demand`.

use std::sync::Arc;

use crate::base::limits::ON_DEMAND_HOST_BYTES_MAX;
use crate::config::ads::ResourceSource;
use crate::config::http::HttpConnectionManager;
use crate::config::http_filter::{HttpFilter, HttpFilterConfig};
use crate::config::route::RouteConfiguration;

/// A table whose virtual hosts requests ask for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OnDemandTable {
    /// Where they come from. Source: `RouteConfiguration.vhds`.
    pub source: ResourceSource,
    /// Source: `RouteConfiguration.name`.
    pub name: Box<str>,
}

/// A virtual host that is asked for: `<table>/<host>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskedHost {
    pub table: Arc<OnDemandTable>,
    /// The request's host in lower case, with its port, as Envoy asks for it.
    pub host: Box<str>,
}

impl OnDemandTable {
    /// `None`: the table has all of its virtual hosts, or the manager's filter is not there or off. As in Envoy no word of the table
    /// counts: who asks has no route, and what matches none has no words of its own.
    pub(super) fn of(config: &HttpConnectionManager, routes: &RouteConfiguration) -> Option<Arc<Self>> {
        let vhds = routes.vhds.as_ref()?;
        let runs = |filter: &HttpFilter| {
            matches!(filter.config.effective(), Some(HttpFilterConfig::OnDemand)) && !filter.disabled
        };
        let table = || Arc::new(Self { source: vhds.source.clone(), name: routes.name.clone() });
        config.http_filters.iter().any(runs).then(table)
    }

    /// What a request to `authority` asks for; `None`: nobody is asked for that.
    pub fn asked(self: &Arc<Self>, authority: &[u8]) -> Option<AskedHost> {
        let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte);
        let is_name = (1..=ON_DEMAND_HOST_BYTES_MAX).contains(&authority.len());
        if !is_name || !authority.iter().all(is_allowed) {
            return None;
        }
        let host = std::str::from_utf8(authority).ok()?.to_ascii_lowercase().into();
        Some(AskedHost { table: Arc::clone(self), host })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ads::Vhds;
    use crate::config::http_filter::FilterOverride;

    fn manager(disabled: bool) -> HttpConnectionManager {
        let mut manager = HttpConnectionManager::new("t", Arc::default());
        let filter = HttpFilter { name: "ask".into(), disabled, config: HttpFilterConfig::OnDemand };
        manager.http_filters.insert(0, filter);
        manager
    }

    /// A table whose virtual hosts are told; what it says of the filter.
    fn table(says: Option<bool>) -> RouteConfiguration {
        let word = |disabled| FilterOverride { name: "ask".into(), disabled, options: None };
        RouteConfiguration {
            name: "in/all".into(),
            vhds: Some(Vhds { source: ResourceSource::Ads, initial_fetch_timeout: None }),
            filters: says.map(word).into_iter().collect(),
            ..RouteConfiguration::default()
        }
    }

    #[test]
    fn hosts_are_asked_for_where_the_filter_runs_and_the_table_says_whence_they_come() {
        let asks = |disabled, says| OnDemandTable::of(&manager(disabled), &table(says)).is_some();
        assert!(asks(false, None) && !asks(true, None), "as the chain has it");
        assert!(asks(false, Some(true)) && !asks(true, Some(false)), "whatever the table says");
        let whole = RouteConfiguration { vhds: None, ..table(None) };
        assert!(OnDemandTable::of(&manager(false), &whole).is_none());
        let without = HttpConnectionManager::new("t", Arc::default());
        assert!(OnDemandTable::of(&without, &table(None)).is_none());
    }

    #[test]
    fn only_what_may_be_a_host_is_asked_for_in_lower_case() {
        let table = OnDemandTable::of(&manager(false), &table(None)).unwrap();
        let asked = |authority: &str| table.asked(authority.as_bytes()).map(|asked| asked.host);
        for host in ["a.test", "a_b-c.test:8080", "[::1]:80", &"a".repeat(ON_DEMAND_HOST_BYTES_MAX)] {
            assert_eq!(asked(host).as_deref(), Some(host));
        }
        assert_eq!(asked("A.Test").as_deref(), Some("a.test"));
        let long = "a".repeat(ON_DEMAND_HOST_BYTES_MAX + 1);
        for host in ["", "*", "*.test", "a/b", "a b", "a@b", "ä.test", &long] {
            assert_eq!(asked(host), None, "{host}");
        }
    }
}
