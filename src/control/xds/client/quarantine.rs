//! Resources that control planes have told and that cannot be used, until they are mended or gone: which, why, since when. Beside
//! them those that are asked for by name and of which nothing was told, or nothing is told any more.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::judge::{Kind, Outcome};
use super::status::{ClientStatus, Failure, Missing, Standing, Standings};
use crate::base::clock;
use crate::base::limits::{XDS_QUARANTINED_MAX, XDS_REASON_BYTES_MAX, XDS_REFUSED_BYTES_MAX};
use crate::config::ads::ResourceSource;
use crate::config::error::beginning;

/// All of them, of all sources. Copies share them.
#[derive(Clone, Debug, Default)]
pub struct Quarantine(Arc<Mutex<Listed>>);

#[derive(Debug, Default)]
struct Listed {
    /// Each with the number of its last refusal; `None`: the control plane has not heard of it.
    refused: BTreeMap<Key, (Refused, Option<u64>)>,
    /// How many refusals there were that control planes have heard of.
    heard: u64,
    /// How many more there were than are listed.
    unlisted: u64,
    /// Since when, ns since the Unix epoch. As many as somebody asks for at most.
    missing: BTreeMap<Key, (Missing, u64)>,
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
    /// What was refused, unless it is too long or secret.
    pub wire: Option<Arc<[u8]>>,
}

/// What was refused, as far as it is kept to be shown.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    bytes: usize,
    /// `None`: it is too long.
    pub(super) wire: Option<Arc<[u8]>>,
}

impl Failed {
    pub(super) fn of(wire: &[u8]) -> Self {
        Self { bytes: wire.len(), wire: (wire.len() <= XDS_REFUSED_BYTES_MAX).then(|| wire.into()) }
    }
}

impl Quarantine {
    /// Takes note of what came of a response.
    pub(super) fn note(&self, source: &ResourceSource, kind: Kind, outcome: &Outcome, version: &str) {
        let key = |name: &String| (source.clone(), kind, name.clone());
        let mut listed = self.lock();
        for name in outcome.good.keys().chain(&outcome.absent) {
            listed.forget(&key(name));
        }
        for (name, reason) in &outcome.bad {
            listed.heard += 1;
            let number = Some(listed.heard);
            listed.add(key(name), (reason.clone(), number), version, outcome.failed.get(name));
        }
    }

    /// Takes note of one that was acknowledged and cannot be used after all.
    pub(super) fn add(&self, key: Key, reason: String, version: &str, failed: Option<&Failed>) {
        self.lock().add(key, (reason, None), version, failed);
    }

    /// How many refusals control planes have heard of.
    pub(super) fn heard(&self) -> u64 {
        self.lock().heard
    }

    /// A stream has told what there is of these types. What was refused on streams before it, after which `heard` were heard of, and
    /// was not again is mended or gone: of what is used as it is there nothing is told.
    pub(super) fn settle(&self, source: &ResourceSource, kinds: &[Kind], heard: u64) {
        self.lock().refused.retain(|(of, kind, _), (_, number)| {
            of != source || !kinds.contains(kind) || number.is_none_or(|number| number > heard)
        });
    }

    /// Somebody asks for it by name, and it was not told yet. What is known of it already stays.
    pub(super) fn ask(&self, source: &ResourceSource, kind: Kind, name: &str) {
        let requested = || (Missing::new(ClientStatus::Requested), clock::wall_ns());
        self.lock().missing.entry((source.clone(), kind, name.to_owned())).or_insert_with(requested);
    }

    /// There is none, for that reason. Only for what somebody asks for by name.
    pub(super) fn miss(&self, source: &ResourceSource, kind: Kind, name: &str, missing: Missing) {
        self.lock().missing.insert((source.clone(), kind, name.to_owned()), (missing, clock::wall_ns()));
    }

    /// It was waited for and is not any more; how that stands, if nothing was told meanwhile.
    pub(super) fn give_up(&self, source: &ResourceSource, kind: Kind, name: &str, status: ClientStatus) {
        let mut listed = self.lock();
        let waiting = listed.missing.get_mut(&(source.clone(), kind, name.to_owned()));
        if let Some(waiting) = waiting.filter(|(missing, _)| missing.status == ClientStatus::Requested) {
            *waiting = (Missing::new(status), clock::wall_ns());
        }
    }

    /// Nobody asks for it any more.
    pub(super) fn forget(&self, source: &ResourceSource, kind: Kind, name: &str) {
        self.lock().forget(&(source.clone(), kind, name.to_owned()));
    }

    /// Nobody asks there for anything any more.
    pub(super) fn forget_source(&self, source: &ResourceSource) {
        let mut listed = self.lock();
        listed.refused.retain(|(of, ..), _| of != source);
        listed.missing.retain(|(of, ..), _| of != source);
    }

    /// Those of the message `type_name` that are not used as they were told last. What was refused counts before anything else
    /// that is known of it.
    pub fn standings(&self, type_name: &str) -> Standings {
        let listed = self.lock();
        let is_meant = |kind: Kind| kind.type_url().rsplit('/').next() == Some(type_name);
        let mut standings = Standings::new();
        for ((source, kind, name), (missing, unix_ns)) in &listed.missing {
            if is_meant(*kind) {
                standings.insert((source.clone(), name.as_str().into()), missing.standing(*unix_ns));
            }
        }
        for ((source, kind, name), (refused, _)) in &listed.refused {
            if is_meant(*kind) {
                standings.insert((source.clone(), name.as_str().into()), refused.standing());
            }
        }
        standings
    }

    /// All that are listed, and how many more there were.
    pub fn list(&self) -> (Vec<Refused>, u64) {
        let listed = self.lock();
        (listed.refused.values().map(|(refused, _)| refused.clone()).collect(), listed.unlisted)
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        // Nothing under the lock can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refused {
    fn standing(&self) -> Standing {
        let failure = Failure {
            reason: self.reason.clone(),
            version: self.version.clone(),
            unix_ns: self.last_unix_ns,
            wire: self.wire.clone(),
        };
        Standing { status: ClientStatus::Nacked, failure: Some(failure) }
    }
}

impl Listed {
    fn forget(&mut self, key: &Key) {
        self.refused.remove(key);
        self.missing.remove(key);
    }

    /// With the number of the refusal.
    fn add(
        &mut self,
        key: Key,
        (reason, number): (String, Option<u64>),
        version: &str,
        failed: Option<&Failed>,
    ) {
        let now = clock::wall_ns();
        let before = self.refused.get(&key).map(|(before, _)| (before.first_unix_ns, before.times));
        let is_room = self.refused.len() < XDS_QUARANTINED_MAX && key.2.len() <= XDS_REASON_BYTES_MAX;
        if before.is_none() && !is_room {
            self.unlisted += 1;
            return;
        }
        let reason = match failed {
            Some(Failed { bytes, wire: None }) => format!("{reason} (it has {bytes} bytes and is not kept)"),
            _ => reason,
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
            wire: failed.and_then(|failed| failed.wire.clone()),
        };
        self.refused.insert(key, (refused, number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ads::FileSource;
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
    fn resource_is_listed_with_what_was_refused() {
        let quarantine = Quarantine::default();
        let mut refused = outcome(&[], &["a", "b"], &[]);
        refused.failed.insert("a".into(), Failed::of(&[1, 2]));
        quarantine.note(&ResourceSource::Ads, Kind::Listeners, &refused, "7");
        quarantine.note(&ResourceSource::Ads, Kind::Clusters, &outcome(&[], &["c"], &[]), "7");
        let key = (ResourceSource::Ads, Kind::Listeners, "b".to_owned());
        quarantine.add(key, "late".into(), "8", Some(&Failed::of(&[3])));
        let (listed, _) = quarantine.list();
        let shown = listed.iter().map(|one| (one.name.as_str(), one.wire.as_deref(), one.times));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [("c", None, 1), ("a", Some([1, 2].as_slice()), 1), ("b", Some([3].as_slice()), 2)]
        );
        let standings = quarantine.standings("envoy.config.listener.v3.Listener");
        let shown = standings.iter().map(|((_, name), standing)| {
            let failure = standing.failure.as_ref().unwrap();
            assert_eq!(standing.status, ClientStatus::Nacked);
            (&**name, failure.reason.as_str(), failure.version.as_str(), failure.wire.as_deref())
        });
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [("a", "wrong", "7", Some([1, 2].as_slice())), ("b", "late", "8", Some([3].as_slice()))]
        );
    }

    #[test]
    fn resource_stands_as_it_was_said_last_until_it_is_there_or_nobody_asks() {
        let (quarantine, source, kind) = (Quarantine::default(), ResourceSource::Ads, Kind::Routes);
        let stands = || {
            let key = (ResourceSource::Ads, Arc::<str>::from("a"));
            let mut standings = quarantine.standings("envoy.config.route.v3.RouteConfiguration");
            standings.remove(&key).map(|one| (one.status, one.failure))
        };
        let status = || stands().map(|(status, _)| status);
        let note = |outcome: &Outcome| quarantine.note(&source, kind, outcome, "7");
        assert_eq!(stands(), None);
        quarantine.ask(&source, kind, "a");
        assert_eq!(stands(), Some((ClientStatus::Requested, None)));
        quarantine.give_up(&source, kind, "a", ClientStatus::Timeout);
        // Somebody else asks for it, too.
        quarantine.ask(&source, kind, "a");
        assert_eq!(status(), Some(ClientStatus::Timeout));
        note(&outcome(&[], &["a"], &[]));
        assert_eq!(status(), Some(ClientStatus::Nacked));
        note(&outcome(&["a"], &[], &[]));
        assert_eq!(stands(), None, "it is used as it was told");
        let reason = "overloaded".to_owned();
        quarantine.miss(&source, kind, "a", Missing { status: ClientStatus::ReceivedError, reason });
        let (status, failure) = stands().unwrap();
        assert_eq!((status, failure.unwrap().reason.as_str()), (ClientStatus::ReceivedError, "overloaded"));
        assert!(quarantine.standings("envoy.config.cluster.v3.Cluster").is_empty());
        assert!(quarantine.list().0.is_empty(), "nothing was refused");
        quarantine.give_up(&source, kind, "a", ClientStatus::Timeout);
        assert_eq!(stands().unwrap().0, ClientStatus::ReceivedError, "it is not waited for");
        quarantine.forget(&source, kind, "a");
        quarantine.give_up(&source, kind, "a", ClientStatus::Timeout);
        assert_eq!(stands(), None, "nobody asks for it");
    }

    /// Of what is asked for without names nobody says that nobody asks for it any more.
    #[test]
    fn nothing_is_listed_of_a_source_that_nobody_asks() {
        let (quarantine, kind) = (Quarantine::default(), Kind::Scopes);
        let file = FileSource { path: "/s.yaml".into(), watched_directory: None };
        let gone = ResourceSource::File(file);
        for source in [&gone, &ResourceSource::Ads] {
            quarantine.note(source, kind, &outcome(&[], &["a"], &[]), "7");
            quarantine.ask(source, Kind::Routes, "b");
        }
        let listed = || {
            let missing = quarantine.standings("envoy.config.route.v3.RouteConfiguration").len();
            (quarantine.list().0.len(), missing)
        };
        assert_eq!(listed(), (2, 2));
        quarantine.forget_source(&gone);
        assert_eq!(listed(), (1, 1));
    }

    /// A control plane that has gone back to what it told before tells nothing of it: that is in use.
    #[test]
    fn what_the_next_stream_does_not_tell_again_is_listed_no_more() {
        let quarantine = Quarantine::default();
        let note = |kind, bad: &[&str]| {
            quarantine.note(&ResourceSource::Ads, kind, &outcome(&[], bad, &[]), "7");
        };
        note(Kind::Listeners, &["again", "mended"]);
        note(Kind::Endpoints, &["of another type"]);
        let late = (ResourceSource::Ads, Kind::Listeners, "taken".to_owned());
        quarantine.add(late, "it is acknowledged, and told no more".into(), "7", None);
        let before = quarantine.heard();
        note(Kind::Listeners, &["again", "new"]);
        let file = FileSource { path: "/l.yaml".into(), watched_directory: None };
        quarantine.settle(&ResourceSource::File(file), &[Kind::Listeners], quarantine.heard());
        assert_eq!(quarantine.list().0.len(), 5);
        quarantine.settle(&ResourceSource::Ads, &[Kind::Listeners, Kind::Clusters], before);
        let names: Vec<_> = quarantine.list().0.into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["of another type", "again", "new", "taken"]);
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
        let (long, short) = (vec![0; XDS_REFUSED_BYTES_MAX + 1], vec![0; XDS_REFUSED_BYTES_MAX]);
        let version = "v".repeat(XDS_REASON_BYTES_MAX + 1);
        let add = |name: &str, wire: &[u8]| {
            let key = (ResourceSource::Ads, Kind::Listeners, name.to_owned());
            quarantine.add(key, "wrong".into(), &version, Some(&Failed::of(wire)));
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
        assert_eq!((other.reason.as_str(), other.wire.as_deref()), ("wrong", Some(&*short)));
        assert_eq!((one.version.len(), more), (XDS_REASON_BYTES_MAX, 1));
    }
}
