//! From `config::route` to a [`RouteTable`]: off the data path, every mistake named by its field path.

use std::collections::HashMap;
use std::sync::Arc;

use super::deferred::DeferringHosts;
use super::forward::{
    ClusterSlot, Details, Forward, Specifier, Target, UpgradeRule, Weighted, WeightedTarget,
};
use super::hash_policy::HashPolicy;
use super::hosts::HostIndex;
use super::matching::{Conditions, PathTest};
use super::mutation::Changes;
use super::overrides::Overrides;
use super::path_index::PathIndex;
use super::redirect::Redirect;
use super::rewrite::{HostRewrite, PathRewrite};
use super::table::{Action, DirectResponse, Route, RouteTable, VirtualHost};
use crate::base::regex::{KnownRegexes, RegexSlots};
use crate::config::error::ConfigError;
use crate::config::route as config;
use crate::protocol::http::headers::HeaderName;

/// What compiling asks of the rest of the configuration.
#[allow(missing_debug_implementations)]
pub struct CompileContext<'a> {
    /// Whether a cluster of that name exists; asked only with `validate_clusters`.
    pub cluster_exists: &'a dyn Fn(&str) -> bool,
    /// Seed of the table's hashes: random, or the sim's.
    pub hash_seed: u64,
    /// Expressions that tables have by now, whose engines are made with the first use of their virtual host; `None`: all are made now.
    pub regexes: Option<&'a Arc<KnownRegexes>>,
}

/// Fewer routes than this are tried in order; looking them up costs as much.
const INDEXED_ROUTES_MIN: usize = 12;

/// State of one compilation.
struct Compiler<'a> {
    context: &'a CompileContext<'a>,
    config: &'a config::RouteConfiguration,
    slots: RegexSlots,
    cluster_names: Vec<Box<str>>,
    cluster_slots: HashMap<&'a str, ClusterSlot>,
    overrides: Overrides,
}

impl RouteTable {
    /// Compiles a route configuration. Paths in errors are relative to it (`virtual_hosts[0].routes[2]...`).
    ///
    /// # Errors
    /// The first mistake: a bad regular expression, header name or format string; a domain used twice; a cluster that
    /// does not exist (with `validate_clusters`); weights that sum up to nothing or to more than 32 bits, where runtime has no
    /// say; an upgrade named twice; a direct response body that is too large.
    pub fn compile(
        config: &config::RouteConfiguration,
        context: &CompileContext<'_>,
    ) -> Result<Self, ConfigError> {
        let mut compiler = Compiler {
            context,
            config,
            slots: context
                .regexes
                .map_or_else(RegexSlots::default, |known| RegexSlots::deferring(Arc::clone(known))),
            cluster_names: Vec::new(),
            cluster_slots: HashMap::new(),
            overrides: Overrides::default(),
        };
        let mut virtual_hosts = Vec::with_capacity(config.virtual_hosts.len());
        let mut deferring = DeferringHosts::default();
        for (index, virtual_host) in config.virtual_hosts.iter().enumerate() {
            virtual_hosts.push(compiler.virtual_host(virtual_host, &format!("virtual_hosts[{index}]"))?);
            deferring.take(index, &mut compiler.slots);
        }
        let domains = (0..).zip(&config.virtual_hosts).flat_map(|(index, virtual_host)| {
            virtual_host.domains.iter().map(move |domain| (&**domain, index))
        });
        let hosts = HostIndex::new(domains, context.hash_seed).map_err(|duplicate| {
            let reason = match &*duplicate.0 {
                "*" => "only a single wildcard domain is permitted in a route configuration".to_owned(),
                domain => {
                    format!("duplicate domain {domain:?}: domains must be unique in a route configuration")
                }
            };
            ConfigError::new("virtual_hosts", reason)
        })?;
        let mut internal_only_headers = Vec::with_capacity(config.internal_only_headers.len());
        for (index, name) in config.internal_only_headers.iter().enumerate() {
            internal_only_headers.push(header_name(name, &format!("internal_only_headers[{index}]"))?);
        }
        let vhost_header = config.vhost_header.as_deref().filter(|name| !name.is_empty());
        // A list of its own: one that shrinks by less than half stays where it is.
        let mut clusters = Vec::with_capacity(compiler.cluster_names.len());
        clusters.append(&mut compiler.cluster_names);
        Ok(Self {
            name: config.name.clone(),
            hosts,
            virtual_hosts: virtual_hosts.into(),
            vhost_header: vhost_header.map(|name| header_name(name, "vhost_header")).transpose()?,
            ignore_port: config.ignore_port_in_host_matching,
            ignore_path_parameters: config.ignore_path_parameters_in_path_matching,
            internal_only_headers: internal_only_headers.into(),
            mutations: Changes::compile(&config.header_mutations, String::new)?,
            most_specific_mutations_win: config.most_specific_header_mutations_wins,
            filters: compiler.overrides.add(&config.filters),
            overrides: compiler.overrides,
            deferred: deferring.finish(),
            clusters: clusters.into(),
        })
    }
}

impl<'a> Compiler<'a> {
    fn virtual_host(
        &mut self,
        config: &'a config::VirtualHost,
        path: &str,
    ) -> Result<VirtualHost, ConfigError> {
        let mut routes = Vec::with_capacity(config.routes.len());
        for (index, route) in config.routes.iter().enumerate() {
            routes.push(self.route(route, &format!("{path}.routes[{index}]"))?);
        }
        let keys = routes.iter().map(|route| {
            let takes_all = matches!(route.path, PathTest::Prefix { .. }) && route.conditions.is_none();
            (route.path.index_text(), takes_all)
        });
        let index = (routes.len() >= INDEXED_ROUTES_MIN).then(|| Box::new(PathIndex::new(keys)));
        Ok(VirtualHost {
            name: config.name.clone(),
            include_request_attempt_count: config.include_request_attempt_count,
            include_attempt_count_in_response: config.include_attempt_count_in_response,
            require_tls: config.require_tls,
            filters: self.overrides.add(&config.filters),
            mutations: Changes::compile(&config.header_mutations, || format!("{path}."))?,
            index,
            routes: routes.into(),
        })
    }

    fn route(&mut self, config: &'a config::Route, path: &str) -> Result<Route, ConfigError> {
        let match_path = format!("{path}.match");
        Ok(Route {
            name: config.name.clone(),
            path: PathTest::compile(&config.matcher, &match_path, &mut self.slots)?,
            conditions: Conditions::compile(&config.matcher, &config.action, &match_path, &mut self.slots)?,
            action: match &config.action {
                config::Action::Forward(action) => {
                    Action::Forward(Box::new(self.forward(action, &format!("{path}.route"))?))
                }
                config::Action::Redirect(redirect) => Action::Redirect(Box::new(Redirect::compile(
                    redirect,
                    &format!("{path}.redirect"),
                    &mut self.slots,
                )?)),
                config::Action::DirectResponse(response) => {
                    let (size, max) = (response.body.len(), self.config.max_direct_response_body_bytes);
                    if size > max as usize {
                        let reason = format!("response body size is {size} bytes; maximum is {max}");
                        return Err(ConfigError::new(format!("{path}.direct_response.body"), reason));
                    }
                    let body = response.body.clone();
                    Action::DirectResponse(Box::new(DirectResponse { status: response.status, body }))
                }
                config::Action::NonForwarding => Action::NonForwarding,
            },
            filters: self.overrides.add(&config.filters),
            mutations: Changes::compile(&config.header_mutations, || format!("{path}."))?,
        })
    }

    fn forward(&mut self, config: &'a config::RouteAction, path: &str) -> Result<Forward, ConfigError> {
        Ok(Forward {
            specifier: self.specifier(&config.cluster, path)?,
            cluster_not_found_status: config.cluster_not_found_response_code.status(),
            priority: config.priority,
            append_x_forwarded_host: config.append_x_forwarded_host,
            timeout: config.timeout,
            details: self.details(config, path)?.kept(),
        })
    }

    fn details(&mut self, config: &config::RouteAction, path: &str) -> Result<Details, ConfigError> {
        Ok(Details {
            path_rewrite: PathRewrite::compile(&config.path_rewrite, path, &mut self.slots)?,
            host_rewrite: HostRewrite::compile(&config.host_rewrite, path, &mut self.slots)?,
            idle_timeout: config.idle_timeout,
            flush_timeout: config.flush_timeout,
            max_stream_duration: config.max_stream_duration,
            max_grpc_timeout: config.max_grpc_timeout,
            grpc_timeout_offset: config.grpc_timeout_offset,
            upgrades: upgrades(&config.upgrade_configs, path)?,
            hash_policy: (0..)
                .zip(&config.hash_policy)
                .map(|(index, policy): (usize, _)| {
                    HashPolicy::compile(policy, &format!("{path}.hash_policy[{index}]"), &mut self.slots)
                })
                .collect::<Result<_, _>>()?,
        })
    }

    fn specifier(
        &mut self,
        config: &'a config::ClusterSpecifier,
        path: &str,
    ) -> Result<Specifier, ConfigError> {
        let weighted = match config {
            config::ClusterSpecifier::Cluster(name) => {
                return Ok(Specifier::One(self.cluster(name, &format!("{path}.cluster"))?));
            }
            config::ClusterSpecifier::ClusterHeader(name) => {
                let name = header_name(name, &format!("{path}.cluster_header"))?;
                return Ok(Specifier::One(Target::Header(Box::new(name))));
            }
            config::ClusterSpecifier::WeightedClusters(weighted) => weighted,
        };
        let path = format!("{path}.weighted_clusters");
        let mut targets = Vec::with_capacity(weighted.clusters.len());
        for (index, cluster) in weighted.clusters.iter().enumerate() {
            targets.push(self.weighted(cluster, &format!("{path}.clusters[{index}]"))?);
        }
        let total = targets.iter().map(|target| target.weight).fold(0, u64::saturating_add);
        let runtime_key = targets.iter().find_map(|target| target.runtime_key.clone());
        // Where others may come at any time, whoever draws looks at the sum.
        if runtime_key.is_none() && (total == 0 || total > u64::from(u32::MAX)) {
            let reason = format!("the sum of weights is {total}; it must be 1 to {}", u32::MAX);
            return Err(ConfigError::new(path, reason));
        }
        let header = weighted.header_name.as_deref().filter(|name| !name.is_empty());
        let header = header.map(|name| header_name(name, &format!("{path}.header_name"))).transpose()?;
        Ok(Specifier::Weighted(Box::new(Weighted { targets: targets.into(), total, header, runtime_key })))
    }

    fn weighted(
        &mut self,
        config: &'a config::ClusterWeight,
        path: &str,
    ) -> Result<WeightedTarget, ConfigError> {
        let target = match &config.cluster {
            config::WeightedClusterName::Cluster(name) => self.cluster(name, &format!("{path}.name"))?,
            config::WeightedClusterName::ClusterHeader(name) => {
                Target::Header(Box::new(header_name(name, &format!("{path}.cluster_header"))?))
            }
        };
        Ok(WeightedTarget {
            target,
            weight: config.weight.into(),
            runtime_key: config.runtime_key.clone(),
            filters: self.overrides.add(&config.filters),
            mutations: Changes::compile(&config.header_mutations, || format!("{path}."))?,
            host_rewrite: config
                .host_rewrite_literal
                .as_deref()
                .filter(|host| !host.is_empty())
                .map(|host| host.as_bytes().into()),
        })
    }

    fn cluster(&mut self, name: &'a str, path: &str) -> Result<Target, ConfigError> {
        if self.config.validate_clusters && !(self.context.cluster_exists)(name) {
            return Err(ConfigError::new(path, format!("unknown cluster {name:?}")));
        }
        let next = ClusterSlot(self.cluster_names.len() as u32);
        let slot = *self.cluster_slots.entry(name).or_insert(next);
        if slot == next {
            self.cluster_names.push(name.into());
        }
        Ok(Target::Slot(slot))
    }
}

fn upgrades(configs: &[config::UpgradeConfig], path: &str) -> Result<Vec<UpgradeRule>, ConfigError> {
    let mut rules: Vec<UpgradeRule> = Vec::with_capacity(configs.len());
    for (index, config) in configs.iter().enumerate() {
        let field = |name: &str| format!("{path}.upgrade_configs[{index}].{name}");
        let upgrade_type: Box<str> = config.upgrade_type.to_ascii_lowercase().into();
        if rules.iter().any(|rule| rule.upgrade_type == upgrade_type) {
            return Err(ConfigError::new(
                field("upgrade_type"),
                format!("duplicate upgrade {upgrade_type:?}"),
            ));
        }
        if config.connect_config.is_some() && !matches!(&*upgrade_type, "connect" | "connect-udp") {
            return Err(ConfigError::new(
                field("connect_config"),
                "only the upgrade type CONNECT can have it",
            ));
        }
        rules.push(UpgradeRule { upgrade_type, enabled: config.enabled, connect: config.connect_config });
    }
    Ok(rules)
}

pub(super) fn header_name(name: &str, path: &str) -> Result<HeaderName, ConfigError> {
    HeaderName::parse(name.as_bytes())
        .ok_or_else(|| ConfigError::new(path, format!("{name:?} is not a header name")))
}
