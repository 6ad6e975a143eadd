//! Scopes of routes of a control plane or a file: which of a response can be used, and whether they agree with each other and with
//! those that stay. Where they do not, none of them is used, as in Envoy: nobody could say which of two a request is in.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::compiler::SharedCompiler;
use super::judge::{Good, content, taken};
use crate::config::ads::ResourceSource;
use crate::config::scoped_routes::ToldScope;
use crate::control::xds::convert::convert_scope;
use crate::control::xds::pb;

/// A scope that may be used.
#[derive(Clone, Debug)]
pub(super) struct TakenScope {
    scope: Arc<ToldScope>,
    /// As it was told.
    pub(super) wire: Arc<[u8]>,
    /// By which it is known again.
    hash: u64,
}

/// Says of scopes whether they can be used.
#[derive(Debug)]
pub(super) struct ScopeJudge {
    source: ResourceSource,
    /// Has those that are in use.
    compiler: SharedCompiler,
    /// Those: a state of the world tells all of them again when one changes.
    known: BTreeMap<String, (u64, Arc<ToldScope>)>,
}

impl ScopeJudge {
    pub(super) fn new(source: ResourceSource, compiler: SharedCompiler) -> Self {
        Self { source, compiler, known: BTreeMap::new() }
    }

    pub(super) fn judge(
        &self,
        message: pb::route::ScopedRouteConfiguration,
        any: &pb::google::Any,
    ) -> Result<Good, String> {
        let name = message.name.clone();
        let hash = content("", std::iter::once(any));
        if self.known.get(&name).is_some_and(|(known, _)| *known == hash) {
            return Ok(Good::Same);
        }
        let scope = Arc::new(taken(&name, convert_scope(message))?);
        Ok(Good::Scope(TakenScope { scope, wire: any.value.as_slice().into(), hash }))
    }

    /// What is wrong with these, `told` in this order, once `absent` are gone. Source: Envoy
    /// `ScopedRdsConfigSubscription::detectUpdateConflictAndCleanupRemoved`.
    pub(super) fn conflict<'a>(
        &'a self,
        told: impl Iterator<Item = &'a str>,
        good: &'a BTreeMap<String, Good>,
        absent: &BTreeSet<String>,
    ) -> Option<String> {
        let is_new = |name: &str| matches!(good.get(name), Some(Good::Scope(_)));
        let stay = self.known.iter().filter(|(name, _)| !absent.contains(*name) && !is_new(name.as_str()));
        let mut keys: HashMap<&[Box<str>], &str> =
            stay.map(|(name, (_, scope))| (&*scope.key, name.as_str())).collect();
        for name in told {
            let Some(Good::Scope(taken)) = good.get(name) else { continue };
            if let Some(first) = keys.insert(&taken.scope.key, name) {
                return Some(format!(
                    "scope key conflict found, first scope is '{first}', second scope is '{name}'"
                ));
            }
        }
        None
    }

    /// That one is in use.
    pub(super) fn know(&mut self, name: &str, taken: &TakenScope) {
        let TakenScope { scope, hash, .. } = taken;
        self.compiler.set_scope(&self.source, name, Some(Arc::clone(scope)));
        self.known.insert(name.to_owned(), (*hash, Arc::clone(scope)));
    }

    /// It is gone.
    pub(super) fn forget(&mut self, name: &str) {
        self.known.remove(name);
        self.compiler.set_scope(&self.source, name, None);
    }
}
