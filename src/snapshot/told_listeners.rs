//! Listeners of whose own and network filters some are told: each of those is compiled by itself, so that the limits of the
//! filters beside it go on. Connections that are there stay with the filters that they have met.

use std::sync::Arc;

use super::filter_chain::ChainCompiler;
use super::told_filters::{FilterKey, ToldFilters, is_one_of};
use super::{
    FilterResource, FiltersResource, ListenerFiltersResource, ListenerResource, NewFilters, RouteSurroundings,
};
use crate::config::filter_chain::NetworkFilter;
use crate::config::listener::Listener;
use crate::config::listener_filter::{ListenerFilter, ListenerFilterKind};
use crate::config::told_filter::{FilterConfig, ToldFilter};
use crate::telemetry::Registry;

/// One of them.
#[derive(Debug)]
pub(super) struct ToldListener {
    pub(super) number: usize,
    config: Arc<Listener>,
    /// Of each chain with such filters its place, and all its filters as connections meet them from now on.
    chains: Vec<(usize, Arc<[FilterResource]>)>,
}

impl ToldListener {
    /// The listener of that number; `None`: it has no such filters.
    pub(super) fn of(number: usize, resource: &ListenerResource) -> Option<Self> {
        let config = &resource.config;
        config.told_connection_filters().next()?;
        let chains = config.chains().zip(resource.chains.iter()).enumerate();
        let told = chains.filter(|(_, (config, _))| config.told_filters().next().is_some());
        let chains = told.map(|(place, (_, chain))| (place, Arc::clone(&chain.filters))).collect();
        Some(Self { number, config: Arc::clone(config), chains })
    }

    /// The filters that are told.
    pub(super) fn told_filters(&self) -> impl Iterator<Item = &ToldFilter> {
        self.config.told_connection_filters()
    }

    /// Compiles what has become of one network filter; `None`: all of which something has been told.
    pub(super) fn compile(
        &mut self,
        key: Option<&FilterKey>,
        told: &ToldFilters,
        compiler: &mut ChainCompiler<'_, '_>,
    ) {
        let is_meant = |filter: &ToldFilter| match key {
            Some(key) => is_one_of(&filter.ecds, [key]),
            None => told.for_place(filter).is_some(),
        };
        for (place, filters) in &mut self.chains {
            let chain = self.config.chains().nth(*place);
            let Some(chain) = chain.filter(|chain| chain.told_filters().any(&is_meant)) else { continue };
            let mut compiled = filters.to_vec();
            for (filter, config) in compiled.iter_mut().zip(&chain.filters) {
                let NetworkFilter::Told(config) = config else { continue };
                if !is_meant(config) {
                    continue;
                }
                let config = ToldFilter { told: told.for_place(config), ..ToldFilter::clone(config) };
                match compiler.filter(&mut NetworkFilter::Told(Box::new(config))) {
                    Ok(resource) => *filter = resource,
                    // It was tried before it was taken.
                    Err(error) => {
                        log::error!("xDS: a filter of {} stays as it was: {error}", self.config.name);
                    }
                }
            }
            *filters = compiled.into();
        }
    }

    /// What connections meet from now on where one of these filters stands.
    pub(super) fn resources(
        &self,
        is_meant: impl Fn(&ToldFilter) -> bool,
        told: &ToldFilters,
        registry: &Registry,
    ) -> Vec<FiltersResource> {
        let resource = |filters| FiltersResource { listener: self.number, filters };
        let mut resources = Vec::new();
        for (place, filters) in &self.chains {
            let chain = self.config.chains().nth(*place);
            if chain.is_some_and(|chain| chain.told_filters().any(&is_meant)) {
                resources.push(resource(NewFilters::Network(*place, Arc::clone(filters))));
            }
        }
        let mut own = self.config.listener_filters.clone();
        let mut is_own = false;
        for filter in &mut own {
            if let ListenerFilterKind::Told(filter) = &mut filter.kind {
                filter.told = told.for_place(filter);
                is_own |= is_meant(filter);
            }
        }
        if is_own {
            resources.push(resource(NewFilters::Listener(listener_filters(&own, registry))));
        }
        resources
    }
}

/// The filters of a listener as connections meet them; `None`: one of them is told, and none is there.
pub(super) fn listener_filters(
    filters: &[ListenerFilter],
    registry: &Registry,
) -> Option<ListenerFiltersResource> {
    let effective = |filter: &ListenerFilter| {
        let kind = match filter.kind.as_told() {
            None => &filter.kind,
            Some(told) => match told.effective()? {
                FilterConfig::Listener(kind) => kind,
                // What is of another kind cannot stand here.
                FilterConfig::Http(_) | FilterConfig::Network(_) => return None,
            },
        };
        Some(ListenerFilter { kind: kind.clone(), disabled: filter.disabled.clone() })
    };
    let filters = filters.iter().map(effective).collect::<Option<Arc<[_]>>>()?;
    let proxy_protocol = filters.iter().filter_map(|filter| match &filter.kind {
        ListenerFilterKind::ProxyProtocol(filter) => Some(registry.proxy_protocol(&filter.stat_prefix)),
        _ => None,
    });
    let proxy_protocol = proxy_protocol.collect();
    Some(ListenerFiltersResource { filters, proxy_protocol })
}

/// Does something with what compiles single network filters.
pub(super) fn with_compiler<R>(
    surroundings: &RouteSurroundings,
    work: impl FnOnce(&mut ChainCompiler<'_, '_>) -> R,
) -> R {
    // The listener's name is for the counters of connection managers, which are not told.
    surroundings.with_compiler(|compiler| work(&mut ChainCompiler { compiler, listener: "" }))
}
