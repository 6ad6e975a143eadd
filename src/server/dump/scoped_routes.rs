//! Scopes of routes in `/config_dump`: those that stand in listeners, and those that were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    MANAGER, SCOPE, SCOPED, ToldResources, children, inline_scopes, managers, name_of, resources, timestamp,
    typed, with_standing,
};
use crate::config::ads::ResourceSource;
use crate::control::admin::{DumpEntry, DumpField, DumpSection};
use crate::control::xds::client::{ScopesUpdate, Standings};
use crate::snapshot::AskedScopes;

/// Scopes that were told, and who has them.
#[derive(Debug, Default)]
pub(in crate::server) struct ToldScopes {
    /// Names of scoped routes by where their scopes come from.
    names: BTreeMap<ResourceSource, BTreeSet<Box<str>>>,
    told: BTreeMap<ResourceSource, OfSource>,
}

#[derive(Debug, Default)]
struct OfSource {
    /// What the control plane calls the last change of them.
    version: Box<str>,
    /// When that was, ns since the Unix epoch.
    unix_ns: u64,
    /// As they were told, by name.
    scopes: BTreeMap<Arc<str>, Arc<[u8]>>,
}

impl ToldScopes {
    /// Takes note of who asks for scopes now. What a source tells that others are asked for, too, is not told again.
    pub(in crate::server) fn show(&mut self, asked: Vec<(usize, AskedScopes)>) {
        self.names.clear();
        for (_, AskedScopes { srds, .. }) in asked {
            self.names.entry(srds.source).or_default().insert(srds.name);
        }
        let names = &self.names;
        self.told.retain(|source, _| *source == ResourceSource::Ads || names.contains_key(source));
    }

    /// Takes note of a change, at that time, ns since the Unix epoch.
    pub(in crate::server) fn take(&mut self, update: ScopesUpdate, unix_ns: u64) {
        let ScopesUpdate { source, changed, version } = update;
        // As Envoy: what changes nothing is not the last change.
        if changed.is_empty() {
            return;
        }
        let told = self.told.entry(source).or_default();
        (told.version, told.unix_ns) = (version, unix_ns);
        for (name, wire) in changed {
            match wire {
                Some(wire) => told.scopes.insert(name, wire),
                None => told.scopes.remove(&name),
            };
        }
    }

    /// One for each name of scoped routes of whose scopes something was told.
    fn entries(&self, standings: &Standings) -> Vec<DumpEntry> {
        let type_name = "envoy.admin.v3.ScopedRoutesConfigDump.DynamicScopedRouteConfigs";
        let mut entries = Vec::new();
        for (source, names) in &self.names {
            let refused = standings.iter().find(|((of, _), _)| of == source);
            let standing = refused.map(|(_, standing)| standing);
            let told = self.told.get(source);
            if told.is_none() && standing.is_none() {
                continue;
            }
            for name in names {
                let entry = DumpEntry { type_name, name: (**name).into(), render: shown(name, told) };
                entries.push(with_standing(entry, SCOPE, standing.cloned()));
            }
        }
        entries
    }
}

/// What is shown of scoped routes of that name; `None`: their scopes are still to come.
fn shown(name: &str, told: Option<&OfSource>) -> Box<dyn FnOnce() -> Value + Send> {
    let mut shown = Map::new();
    shown.insert("name".to_owned(), json!(name));
    let Some(OfSource { version, unix_ns, scopes }) = told else {
        return Box::new(|| Value::Object(shown));
    };
    let (version, at) = (version.clone(), timestamp(*unix_ns));
    let scopes: Vec<_> = scopes.values().cloned().collect();
    Box::new(move || {
        let scopes: Vec<_> = scopes.iter().map(|scope| typed(SCOPE, scope)).collect();
        shown.insert("version_info".to_owned(), json!(version));
        shown.insert("scoped_route_configs".to_owned(), json!(scopes));
        shown.insert("last_updated".to_owned(), json!(at));
        Value::Object(shown)
    })
}

/// The section of scopes: of those that stand in listeners, of the file and told, and of those that are told themselves; `None`: there
/// are none.
pub(in crate::server) fn section(
    bootstrap: &[u8],
    loaded: &str,
    listeners: &ToldResources,
    told: &ToldScopes,
    standings: &Standings,
) -> Option<DumpSection> {
    let lists = [
        ("inline_scoped_route_configs", in_place(bootstrap, loaded, listeners)),
        ("dynamic_scoped_route_configs", told.entries(standings)),
    ];
    let fields = lists.into_iter().filter(|(_, entries)| !entries.is_empty());
    let fields: Vec<_> = fields.map(|(name, entries)| (name, DumpField::Repeated(entries))).collect();
    let type_url = "type.googleapis.com/envoy.admin.v3.ScopedRoutesConfigDump";
    (!fields.is_empty()).then_some(DumpSection { type_url, fields })
}

/// Those that stand in listeners.
fn in_place(bootstrap: &[u8], loaded: &str, listeners: &ToldResources) -> Vec<DumpEntry> {
    let of_file = resources(bootstrap, 1).into_iter().map(|listener| (listener, loaded.to_owned()));
    let told = listeners.active.values().map(|told| (Arc::clone(&told.wire), timestamp(told.state.unix_ns)));
    let mut entries = Vec::new();
    for (listener, at) in of_file.chain(told) {
        for scoped in managers(&listener).iter().flat_map(|manager| children(MANAGER, manager, 31)) {
            let scopes = inline_scopes(&scoped);
            if scopes.is_empty() {
                continue;
            }
            let name: Arc<str> = name_of(SCOPED, &scoped).into();
            let (shown, at) = (Arc::clone(&name), at.clone());
            let render = Box::new(move || {
                let scopes: Vec<Value> = scopes.iter().map(|scope| typed(SCOPE, scope)).collect();
                json!({ "name": *shown, "scoped_route_configs": scopes, "last_updated": at })
            });
            let type_name = "envoy.admin.v3.ScopedRoutesConfigDump.InlineScopedRouteConfigs";
            entries.push(DumpEntry { type_name, name, render });
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ads::{Rds, Srds};
    use crate::control::xds::client::{ClientStatus, Standing};
    use crate::control::xds::wire;

    fn asked(name: &str) -> (usize, AskedScopes) {
        let (source, initial_fetch_timeout) = (ResourceSource::Ads, None);
        let (no_name, lacking_filters) = ("".into(), Box::default());
        let table = Rds { source: source.clone(), name: no_name, initial_fetch_timeout, lacking_filters };
        let srds = Srds { name: name.into(), source, initial_fetch_timeout, table };
        (0, AskedScopes { stat_prefix: "test".into(), srds })
    }

    fn change(changed: &[(&str, bool)], version: &str) -> ScopesUpdate {
        let changed = changed.iter().map(|(name, is_there)| {
            let mut bytes = Vec::new();
            wire::put_bytes(&mut bytes, 1, name.as_bytes());
            (Arc::from(*name), is_there.then(|| bytes.into()))
        });
        ScopesUpdate { source: ResourceSource::Ads, changed: changed.collect(), version: version.into() }
    }

    /// Of each entry its name, version, scopes and status.
    fn rendered(told: &ToldScopes, standings: &Standings) -> Vec<String> {
        let entries = told.entries(standings).into_iter().map(|entry| {
            let entry = (entry.render)();
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            let scopes = entry["scoped_route_configs"].as_array().into_iter().flatten();
            let scopes: Vec<_> = scopes.map(|scope| text(&scope["name"])).collect();
            let [name, version, status] =
                ["name", "version_info", "client_status"].map(|key| text(&entry[key]));
            format!("{name} {version} [{}] {status}", scopes.join(" "))
        });
        entries.collect()
    }

    #[test]
    fn scopes_are_shown_for_each_who_asks_with_the_version_of_their_last_change() {
        let (mut told, none) = (ToldScopes::default(), Standings::new());
        told.show(vec![asked("s"), asked("t"), asked("s")]);
        assert!(rendered(&told, &none).is_empty(), "nothing was told");
        let refused = Standing { status: ClientStatus::Nacked, failure: None };
        let refused = Standings::from([((ResourceSource::Ads, "x".into()), refused)]);
        assert_eq!(rendered(&told, &refused), ["s - [] NACKED", "t - [] NACKED"]);
        for (changed, version, scopes) in [
            (&[("a", true), ("b", true)][..], "1", "1 [a b]"),
            (&[("a", false), ("c", true)], "2", "2 [b c]"),
            (&[], "3", "2 [b c]"),
        ] {
            told.take(change(changed, version), 0);
            assert_eq!(rendered(&told, &none), [format!("s {scopes} ACKED"), format!("t {scopes} ACKED")]);
        }
        told.show(Vec::new());
        assert!(rendered(&told, &none).is_empty(), "nobody asks");
        told.show(vec![asked("t")]);
        assert_eq!(rendered(&told, &none), ["t 2 [b c] ACKED"], "it is not told again");
    }
}
