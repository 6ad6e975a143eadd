//! Resources that control planes have told and that cannot be used, until they are mended or gone: which, why, since when.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::judge::{Kind, Outcome};
use crate::base::clock;
use crate::base::limits::{XDS_QUARANTINED_MAX, XDS_REASON_BYTES_MAX, XDS_REFUSED_BYTES_MAX};
use crate::config::ads::ResourceSource;
use crate::config::error::beginning;

/// All of them, of all sources. Copies share them.
#[derive(Clone, Debug, Default)]
pub struct Quarantine(Arc<Mutex<Listed>>);

#[derive(Debug, Default)]
struct Listed {
    refused: BTreeMap<Key, Refused>,
    /// How many more there were than are listed.
    unlisted: u64,
}

type Key = (ResourceSource, Kind, String);

/// A resource that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub type_url: &'static str,
    pub name: String,
    /// Where in it, and what is wrong.
    pub reason: String,
    /// What the control plane calls the state that has it.
    pub version: String,
    /// When it was refused first and last, ns since the Unix epoch.
    pub first_unix_ns: u64,
    pub last_unix_ns: u64,
    /// How often it was refused.
    pub times: u64,
    /// Of a listener: what was refused, unless it is too long.
    pub wire: Option<Arc<[u8]>>,
}

impl Quarantine {
    /// Takes note of what came of a response.
    pub(super) fn note(&self, source: &ResourceSource, kind: Kind, outcome: &Outcome, version: &str) {
        let key = |name: &String| (source.clone(), kind, name.clone());
        let mut listed = self.lock();
        for name in outcome.good.keys().chain(&outcome.absent) {
            listed.refused.remove(&key(name));
        }
        for (name, reason) in &outcome.bad {
            listed.add(key(name), reason.clone(), version, outcome.failed.get(name));
        }
    }

    /// Takes note of one that cannot be used.
    pub(super) fn add(&self, key: Key, reason: String, version: &str, wire: Option<&Arc<[u8]>>) {
        self.lock().add(key, reason, version, wire);
    }

    /// Listeners that are listed.
    pub fn listeners(&self) -> Vec<Refused> {
        let listed = self.lock();
        let listeners = listed.refused.iter().filter(|((_, kind, _), _)| *kind == Kind::Listeners);
        listeners.map(|(_, refused)| refused.clone()).collect()
    }

    /// Nobody asks for it any more.
    pub(super) fn forget(&self, source: &ResourceSource, kind: Kind, name: &str) {
        self.lock().refused.remove(&(source.clone(), kind, name.to_owned()));
    }

    /// All that are listed, and how many more there were.
    pub fn list(&self) -> (Vec<Refused>, u64) {
        let listed = self.lock();
        (listed.refused.values().cloned().collect(), listed.unlisted)
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        // Nothing under the lock can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    fn add(&mut self, key: Key, reason: String, version: &str, wire: Option<&Arc<[u8]>>) {
        let now = clock::wall_ns();
        let before = self.refused.get(&key).map(|before| (before.first_unix_ns, before.times));
        let is_room = self.refused.len() < XDS_QUARANTINED_MAX && key.2.len() <= XDS_REASON_BYTES_MAX;
        if before.is_none() && !is_room {
            self.unlisted += 1;
            return;
        }
        let (wire, reason) = match wire {
            Some(wire) if wire.len() > XDS_REFUSED_BYTES_MAX => {
                (None, format!("{reason} (it has {} bytes and is not kept)", wire.len()))
            }
            wire => (wire.cloned(), reason),
        };
        let (first_unix_ns, times) = before.unwrap_or((now, 0));
        let refused = Refused {
            type_url: key.1.type_url(),
            name: key.2.clone(),
            reason,
            version: beginning(version, XDS_REASON_BYTES_MAX).to_owned(),
            first_unix_ns,
            last_unix_ns: now,
            times: times + 1,
            wire,
        };
        self.refused.insert(key, refused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::xds::client::judge::Good;

    fn outcome(good: &[&str], bad: &[&str], absent: &[&str]) -> Outcome {
        Outcome {
            good: good.iter().map(|name| ((*name).to_owned(), Good::Same)).collect(),
            bad: bad.iter().map(|name| ((*name).to_owned(), "wrong".to_owned())).collect(),
            absent: absent.iter().map(ToString::to_string).collect(),
            ..Outcome::default()
        }
    }

    #[test]
    fn resource_is_listed_until_it_is_mended_or_gone() {
        let quarantine = Quarantine::default();
        let note = |kind, outcome: &Outcome| quarantine.note(&ResourceSource::Ads, kind, outcome, "7");
        let names = || quarantine.list().0.into_iter().map(|one| (one.name, one.times)).collect::<Vec<_>>();
        note(Kind::Clusters, &outcome(&[], &["a", "b"], &[]));
        note(Kind::Endpoints, &outcome(&[], &["a"], &[]));
        note(Kind::Clusters, &outcome(&[], &["a"], &[]));
        assert_eq!(names(), [("a".into(), 2), ("b".into(), 1), ("a".into(), 1)]);
        let (all, _) = quarantine.list();
        assert_eq!((all[0].reason.as_str(), all[0].version.as_str()), ("wrong", "7"));
        assert!(all[0].type_url.ends_with(".Cluster") && all[2].type_url.ends_with(".ClusterLoadAssignment"));
        note(Kind::Clusters, &outcome(&["a"], &[], &["b"]));
        assert_eq!(names(), [("a".into(), 1)], "the endpoints");
        quarantine.forget(&ResourceSource::Ads, Kind::Endpoints, "a");
        assert!(names().is_empty());
    }

    #[test]
    fn listener_is_listed_with_what_was_refused() {
        let quarantine = Quarantine::default();
        let mut refused = outcome(&[], &["a", "b"], &[]);
        refused.failed.insert("a".into(), [1, 2].into());
        quarantine.note(&ResourceSource::Ads, Kind::Listeners, &refused, "7");
        quarantine.note(&ResourceSource::Ads, Kind::Clusters, &outcome(&[], &["c"], &[]), "7");
        let wire: Arc<[u8]> = [3].into();
        let key = (ResourceSource::Ads, Kind::Listeners, "b".to_owned());
        quarantine.add(key, "late".into(), "8", Some(&wire));
        let listed = quarantine.listeners();
        let shown = listed.iter().map(|one| (one.name.as_str(), one.wire.as_deref(), one.times));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [("a", Some([1, 2].as_slice()), 1), ("b", Some([3].as_slice()), 2)]
        );
    }

    #[test]
    fn list_is_bounded() {
        let quarantine = Quarantine::default();
        let many: Vec<String> = (0..XDS_QUARANTINED_MAX + 5).map(|index| format!("{index:07}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        quarantine.note(&ResourceSource::Ads, Kind::Clusters, &outcome(&[], &many, &[]), "");
        let (all, more) = quarantine.list();
        assert_eq!((all.len(), more), (XDS_QUARANTINED_MAX, 5));
    }

    /// A control plane may refuse to be reasonable a thousand times, with as long a message each time.
    #[test]
    fn what_is_listed_of_one_is_bounded() {
        let quarantine = Quarantine::default();
        let (long, short): (Arc<[u8]>, Arc<[u8]>) =
            (vec![0; XDS_REFUSED_BYTES_MAX + 1].into(), vec![0; XDS_REFUSED_BYTES_MAX].into());
        let version = "v".repeat(XDS_REASON_BYTES_MAX + 1);
        let add = |name: &str, wire: &Arc<[u8]>| {
            let key = (ResourceSource::Ads, Kind::Listeners, name.to_owned());
            quarantine.add(key, "wrong".into(), &version, Some(wire));
        };
        add("long", &long);
        add("short", &short);
        add(&version, &short);
        let (all, more) = quarantine.list();
        let [one, other] = &all[..] else { panic!("{}", all.len()) };
        assert_eq!(
            (one.reason.as_str(), one.wire.is_some()),
            ("wrong (it has 65537 bytes and is not kept)", false)
        );
        assert_eq!((other.reason.as_str(), other.wire.as_ref()), ("wrong", Some(&short)));
        assert_eq!((one.version.len(), more), (XDS_REASON_BYTES_MAX, 1));
    }
}
