//! Limits that go on where a listener takes the place of one of its name that differs in chains alone: its own, and those of the
//! chains that both have. Connections of before are among those that they count. Source: Envoy, whose listeners then share their
//! count of connections, and which keeps such a chain with its filters.

use std::sync::Arc;

use super::{FilterResource, ListenerResource};
use crate::config::filter_chain::{FilterChain, NetworkFilter};

impl ListenerResource {
    /// The same with the limits of the listener whose place it is to take, as far as they go on.
    pub fn with_limits_of(self: Arc<Self>, before: &Self) -> Arc<Self> {
        let has_gates = before.chains.iter().any(|chain| chain.filters.iter().any(is_gate));
        let is_alike = self.config.fingerprint == before.config.fingerprint;
        if !is_alike || !has_gates && before.limit.is_none() {
            return self;
        }
        let mut own = Arc::unwrap_or_clone(self);
        own.limit.clone_from(&before.limit);
        let kept = if has_gates { before.config.kept_chains(&own.config) } else { Vec::new() };
        for (of_before, next) in before.chains.iter().zip(kept) {
            let Some(place) = next.filter(|_| of_before.filters.iter().any(is_gate)) else { continue };
            let config = own.config.chains().nth(place);
            if let (Some(chain), Some(config)) = (own.chains.get_mut(place), config) {
                chain.filters = going_on(&chain.filters, &of_before.filters, config);
            }
        }
        Arc::new(own)
    }
}

fn is_gate(filter: &FilterResource) -> bool {
    matches!(filter, FilterResource::Gate(_))
}

/// The filters of a chain with the limits of the very same one of before, but for those that are told: they may be others by now.
fn going_on(
    filters: &[FilterResource],
    before: &[FilterResource],
    config: &FilterChain,
) -> Arc<[FilterResource]> {
    let with_limit = |(index, filter): (usize, &FilterResource)| {
        let is_told = matches!(config.filters.get(index), Some(NetworkFilter::Told(_)) | None);
        match (filter, before.get(index)) {
            (FilterResource::Gate(_), Some(FilterResource::Gate(gate))) if !is_told => {
                FilterResource::Gate(gate.clone())
            }
            _ => filter.clone(),
        }
    };
    filters.iter().enumerate().map(with_limit).collect()
}
