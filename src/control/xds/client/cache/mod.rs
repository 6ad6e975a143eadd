//! Resources that were accepted, kept in a file: a process that starts while no control plane answers serves what the one before
//! it had last.
//!
//! Every change is appended as soon as it is accepted, by the control thread: a write to the page cache. A process reads the file
//! when it starts, and writes it only once it serves and nobody else writes: one that fails to start, or is started beside another
//! by mistake, has changed nothing. Whoever begins to write writes the file anew, as small as it can be; so does whoever has
//! appended far more than is there. A damaged file is named and set aside, and nothing of it is used; one whose last record
//! is torn is used as it was before it.
mod format;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) use self::format::Kept;
pub use self::format::arbitrary;
use self::format::{Change, Contents, Read};
use super::judge::{Judge, Kind, Outcome};
use super::wanted::Wanted;
use crate::base::xx_hash::xx_hash;
use crate::control::xds::pb;

const FILE: &str = "resources";
/// Who writes has this one locked.
const LOCK: &str = "lock";
/// Appended bytes beyond which the file is written anew, if they are several times what it began with.
const APPENDED_BYTES_MIN: u64 = 4 * 1024 * 1024;
const APPENDED_FACTOR: u64 = 4;

/// The file of one aggregated stream. Copies are the same one.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    path: PathBuf,
    /// Whose resources they are: node and control plane.
    owner: Vec<u8>,
    /// What is to be written once this process writes; `None`: it does, or never will.
    early: Option<BTreeMap<Kind, Early>>,
    /// `None`: nothing is written.
    file: Option<File>,
    /// Keeps others from writing.
    lock: Option<File>,
    /// What was there when the file was written last, and what was appended since then, in bytes.
    begun: u64,
    appended: u64,
    /// What was kept and nobody has asked for yet.
    kept: Contents,
    /// Hashes of what is in the file: a state of the world tells everything again.
    known: HashMap<(Kind, String), u64>,
    /// What is asked for.
    wanted: BTreeMap<Kind, Wanted>,
}

/// Changes of a type's resources, as one.
#[derive(Debug, Default)]
struct Early {
    version: String,
    put: BTreeMap<String, Kept>,
    removed: BTreeSet<String>,
}

impl Early {
    fn note(&mut self, version: &str, accepted: Vec<Kept>, gone: Vec<String>) {
        if !version.is_empty() {
            version.clone_into(&mut self.version);
        }
        for name in gone {
            self.put.remove(&name);
            self.removed.insert(name);
        }
        for kept in accepted {
            self.removed.remove(&kept.name);
            self.put.insert(kept.name.clone(), kept);
        }
    }

    fn change(self, kind: Kind) -> Change {
        let Self { version, put, removed } = self;
        Change {
            type_url: kind.type_url().to_owned(),
            version,
            put: put.into_values().collect(),
            removed: removed.into_iter().collect(),
        }
    }
}

/// What was kept of a type.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) version: String,
    pub(super) resources: Vec<Kept>,
}

impl Restored {
    /// What of it can be used: by another version of this program it was accepted, perhaps.
    pub(super) fn judge(&self, judge: &mut Judge, wanted: &Wanted) -> Outcome {
        let mut outcome = Outcome { is_restored: true, ..Outcome::default() };
        for Kept { name, value, .. } in &self.resources {
            let any = pb::google::Any { type_url: judge.type_url().to_owned(), value: value.clone() };
            outcome.resources(&[(name.clone(), any)], judge, wanted);
        }
        judge.settle(&mut outcome);
        outcome
    }
}

impl Cache {
    /// Reads the file in a directory; neither need be there. `owner`: whose resources they are.
    ///
    /// # Errors
    /// What the system says, with the path.
    pub fn open(directory: &Path, owner: Vec<u8>) -> Result<Self, String> {
        let path = directory.join(FILE);
        let kept = match std::fs::read(&path) {
            Ok(bytes) => understood(&path, &bytes, &owner),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents::new(),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let count: usize = kept.values().map(|resources| resources.by_name.len()).sum();
        if count > 0 {
            log::warn!(
                "xDS: {count} resources of {} are used until the control plane answers",
                path.display()
            );
        }
        Ok(Self(Arc::new(Mutex::new(State {
            path,
            owner,
            early: Some(BTreeMap::new()),
            file: None,
            lock: None,
            begun: 0,
            appended: 0,
            kept,
            known: HashMap::new(),
            wanted: BTreeMap::new(),
        }))))
    }

    /// This process serves, and the one before it writes no more: what was accepted until now is written, and so is what is
    /// accepted from now on. Once; nothing is, where somebody else writes.
    pub fn begin(&self) {
        let mut state = self.lock();
        let Some(early) = state.early.take() else { return };
        match locked(&state.path) {
            Ok(lock) => state.lock = Some(lock),
            Err(error) => {
                log::error!("xDS: {}: {error}: nothing that is accepted is kept", state.path.display());
                return;
            }
        }
        let outcome = state.begin(early);
        state.check(outcome);
    }

    /// Another process takes the place of this one, which ends: nothing more is written.
    pub fn end(&self) {
        let mut state = self.lock();
        state.early = None;
        state.file = None;
        state.lock = None;
    }

    /// What was kept of that which is wanted now; each is given out once.
    pub(super) fn restore(&self, kind: Kind, wanted: &Wanted) -> Option<Restored> {
        let mut state = self.lock();
        let kept = state.kept.get_mut(kind.type_url())?;
        let (mut resources, mut others) = (Vec::new(), BTreeMap::new());
        for (name, resource) in std::mem::take(&mut kept.by_name) {
            if wanted.contains(&name) {
                resources.push(resource);
            } else {
                others.insert(name, resource);
            }
        }
        kept.by_name = others;
        (!resources.is_empty()).then(|| Restored { version: kept.version.clone(), resources })
    }

    /// Takes note of what was accepted and what is gone; `version`: of the state, empty where it was refused in part. What the
    /// control plane tells is not restored any more.
    pub(super) fn note<'a>(
        &self,
        kind: Kind,
        version: &str,
        accepted: Vec<Kept>,
        gone: impl Iterator<Item = &'a String>,
    ) {
        if Kind::KEPT.contains(&kind) {
            self.lock().note(kind, version, accepted, gone.cloned().collect());
        }
    }

    /// What is asked for now.
    pub(super) fn wants(&self, kind: Kind, wanted: Wanted) {
        self.lock().wanted.insert(kind, wanted);
    }

    /// The control plane has had its time: what nobody asks for is kept no longer.
    pub(super) fn settle(&self) {
        let mut state = self.lock();
        state.kept.clear();
        let outcome = state.rewrite();
        state.check(outcome);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, kind: Kind, version: &str, accepted: Vec<Kept>, gone: Vec<String>) {
        if let Some(before) = self.kept.get_mut(kind.type_url()) {
            for name in accepted.iter().map(|kept| &kept.name).chain(&gone) {
                before.by_name.remove(name);
            }
        }
        if let Some(early) = &mut self.early {
            early.entry(kind).or_default().note(version, accepted, gone);
            return;
        }
        if self.file.is_none() {
            return;
        }
        let is_known = |known: &HashMap<_, _>, kept: &Kept| {
            known.get(&(kind, kept.name.clone())) == Some(&xx_hash(&kept.value, 0))
        };
        let put: Vec<_> = accepted.into_iter().filter(|kept| !is_known(&self.known, kept)).collect();
        let removed: Vec<_> =
            gone.into_iter().filter(|name| self.known.remove(&(kind, name.clone())).is_some()).collect();
        if put.is_empty() && removed.is_empty() {
            return;
        }
        for kept in &put {
            self.known.insert((kind, kept.name.clone()), xx_hash(&kept.value, 0));
        }
        let change =
            Change { type_url: kind.type_url().to_owned(), version: version.to_owned(), put, removed };
        let outcome = self.append(&format::change(&change));
        self.check(outcome);
    }

    fn check(&mut self, outcome: io::Result<()>) {
        let Err(error) = outcome else { return };
        log::error!("xDS: {}: {error}: what is accepted from now on is not kept", self.path.display());
        self.file = None;
        // It would be older than what was accepted.
        let _ = std::fs::remove_file(&self.path);
        self.lock = None;
    }

    /// Writes what is there and what came before this process wrote. It is read again: the process before this one may have
    /// written since then.
    fn begin(&mut self, early: BTreeMap<Kind, Early>) -> io::Result<()> {
        let read = match std::fs::read(&self.path) {
            Ok(bytes) => format::read(&bytes, &self.owner),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Read::Whole(Contents::new()),
            Err(error) => return Err(error),
        };
        let mut contents = match read {
            Read::Whole(contents) | Read::Torn(contents, _) => contents,
            Read::Unusable(_) => {
                // For whoever wants to know why.
                std::fs::rename(&self.path, self.path.with_extension("damaged"))?;
                Contents::new()
            }
        };
        retain_kept(&mut contents);
        for (kind, early) in early {
            format::apply(&mut contents, early.change(kind));
        }
        for kind in Kind::KEPT {
            let Some(resources) = contents.get(kind.type_url()) else { continue };
            for (name, kept) in &resources.by_name {
                self.known.insert((kind, name.clone()), xx_hash(&kept.value, 0));
            }
        }
        self.write_anew(&contents)
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(record)?;
        self.appended += record.len() as u64;
        if self.appended > (self.begun * APPENDED_FACTOR).max(APPENDED_BYTES_MIN) {
            self.rewrite()?;
        }
        Ok(())
    }

    /// Writes the file anew, without what nobody asks for.
    fn rewrite(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        let Read::Whole(mut contents) = format::read(&std::fs::read(&self.path)?, &self.owner) else {
            return Err(io::Error::other("somebody else has changed it"));
        };
        for (kind, wanted) in &self.wanted {
            if let Some(resources) = contents.get_mut(kind.type_url()) {
                resources.by_name.retain(|name, _| wanted.contains(name));
                let there = &resources.by_name;
                self.known.retain(|(of, name), _| of != kind || there.contains_key(name));
            }
        }
        self.write_anew(&contents)
    }

    /// Puts a file of these contents in the place of the one that is there.
    fn write_anew(&mut self, contents: &Contents) -> io::Result<()> {
        let bytes = format::whole(&self.owner, contents);
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        std::fs::rename(&new, &self.path)?;
        (self.file, self.begun, self.appended) = (Some(file), bytes.len() as u64, 0);
        Ok(())
    }
}

/// What a file holds.
fn understood(path: &Path, bytes: &[u8], owner: &[u8]) -> Contents {
    let mut contents = match format::read(bytes, owner) {
        Read::Whole(contents) => contents,
        Read::Torn(contents, good) => {
            let lost = bytes.len() - good;
            log::warn!("xDS: {}: the last {lost} bytes are torn: used as it was before them", path.display());
            contents
        }
        Read::Unusable(reason) => {
            log::error!("xDS: {}: {reason}: nothing of it is used", path.display());
            Contents::new()
        }
    };
    retain_kept(&mut contents);
    contents
}

/// Leaves out what has no business there.
fn retain_kept(contents: &mut Contents) {
    contents.retain(|type_url, _| Kind::KEPT.iter().any(|kind| kind.type_url() == type_url));
}

/// The right to write the file, in its directory, which is made if it is not there.
fn locked(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let lock = options.open(path.with_file_name(LOCK))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(io::Error::other("another process writes it")),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn kept(name: &str, value: &str) -> Kept {
        Kept { name: name.into(), version: "1".into(), value: value.into() }
    }

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ringway-cache-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    /// One of a process that starts.
    fn read(folder: &Path) -> Cache {
        Cache::open(folder, b"me".to_vec()).unwrap()
    }

    /// One of a process that serves.
    fn open(folder: &Path) -> Cache {
        let cache = read(folder);
        cache.begin();
        cache
    }

    fn restored(cache: &Cache, kind: Kind, wanted: &Wanted) -> Vec<String> {
        let restored = cache.restore(kind, wanted);
        restored
            .map_or_else(Vec::new, |restored| restored.resources.into_iter().map(|kept| kept.name).collect())
    }

    #[test]
    fn what_was_accepted_is_there_for_the_next_process() {
        let folder = folder("next");
        let cache = open(&folder);
        cache.note(Kind::Clusters, "1", vec![kept("a", "x"), kept("b", "y")], [].iter());
        cache.note(Kind::Endpoints, "1", vec![kept("a", "x"), kept("b", "y")], [].iter());
        cache.note(Kind::Clusters, "2", vec![kept("c", "z")], ["a".to_owned()].iter());
        drop(cache);
        let mode = std::fs::metadata(folder.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let cache = open(&folder);
        assert_eq!(restored(&cache, Kind::Clusters, &Wanted::All), ["b", "c"]);
        let wanted = Wanted::Names(BTreeSet::from([Arc::<str>::from("b")]));
        assert_eq!(restored(&cache, Kind::Endpoints, &wanted), ["b"]);
        // Once, and what the control plane has told meanwhile not at all.
        assert!(restored(&cache, Kind::Endpoints, &wanted).is_empty());
        cache.note(Kind::Endpoints, "2", vec![kept("a", "new")], [].iter());
        assert!(restored(&cache, Kind::Endpoints, &Wanted::All).is_empty());
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// Whoever starts beside another, or to take its place, leaves the file alone until the other writes no more.
    #[test]
    fn one_process_writes_once_it_serves_and_until_another_takes_its_place() {
        let folder = folder("two");
        let bytes = || std::fs::read(folder.join(FILE)).unwrap();
        let first = open(&folder);
        first.note(Kind::Clusters, "1", vec![kept("a", "x"), kept("gone", "x")], [].iter());
        let before = bytes();
        let second = read(&folder);
        second.note(Kind::Clusters, "2", vec![kept("a", "y"), kept("b", "y"), kept("gone", "y")], [].iter());
        second.note(Kind::Clusters, "3", vec![kept("b", "z")], ["gone".to_owned()].iter());
        let beside = open(&folder);
        beside.note(Kind::Clusters, "2", vec![kept("no", "x")], [].iter());
        assert_eq!(bytes(), before);
        first.note(Kind::Clusters, "2", vec![kept("c", "x")], [].iter());
        first.end();
        let before = bytes();
        first.note(Kind::Clusters, "3", vec![kept("late", "x")], [].iter());
        assert_eq!(bytes(), before);
        second.begin();
        second.note(Kind::Clusters, "4", vec![kept("b", "z"), kept("d", "x")], [].iter());
        drop(beside);
        let found = read(&folder).restore(Kind::Clusters, &Wanted::All).unwrap();
        let text = |one: &Kept| (one.name.clone(), String::from_utf8(one.value.clone()).unwrap());
        let shown: Vec<_> = found.resources.iter().map(text).collect();
        let expected = [("a", "y"), ("b", "z"), ("c", "x"), ("d", "x")];
        assert_eq!(shown, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(found.version, "4");
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// K5: a private key has no business on a disk.
    #[test]
    fn secrets_are_never_written() {
        let folder = folder("secrets");
        let cache = open(&folder);
        let bytes = || std::fs::read(folder.join(FILE)).unwrap();
        let before = bytes();
        cache.note(Kind::Secrets, "1", vec![kept("a", "key")], [].iter());
        cache.wants(Kind::Secrets, Wanted::Names(BTreeSet::from([Arc::<str>::from("a")])));
        cache.settle();
        assert_eq!(bytes(), before);
        drop(cache);
        // Nor are those left in it that somebody else has put there.
        let put = vec![kept("a", "key")];
        let change = Change { type_url: Kind::Secrets.type_url().into(), put, ..Change::default() };
        std::fs::write(folder.join(FILE), [before.clone(), format::change(&change)].concat()).unwrap();
        assert!(restored(&open(&folder), Kind::Secrets, &Wanted::All).is_empty());
        assert_eq!(bytes(), before);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn damaged_file_is_set_aside() {
        let folder = folder("damaged");
        let cache = open(&folder);
        cache.note(Kind::Clusters, "1", vec![kept("a", "x")], [].iter());
        cache.note(Kind::Clusters, "2", vec![kept("b", "x")], [].iter());
        drop(cache);
        let mut bytes = std::fs::read(folder.join(FILE)).unwrap();
        bytes[60] ^= 1;
        std::fs::write(folder.join(FILE), &bytes).unwrap();
        assert!(restored(&open(&folder), Kind::Clusters, &Wanted::All).is_empty());
        assert_eq!(std::fs::read(folder.join("resources.damaged")).unwrap(), bytes);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn file_follows_what_there_is_and_not_what_there_was() {
        let folder = folder("small");
        let cache = open(&folder);
        let large = "x".repeat(100_000);
        for turn in 0..200 {
            cache.note(Kind::Clusters, "1", vec![kept("a", &format!("{turn}{large}"))], [].iter());
        }
        let bytes = std::fs::metadata(folder.join(FILE)).unwrap().len();
        assert!(bytes <= APPENDED_BYTES_MIN + 300_000, "{bytes}");
        // What nobody asks for any more goes.
        cache.note(Kind::Endpoints, "1", vec![kept("gone", &large)], [].iter());
        cache.wants(Kind::Endpoints, Wanted::Names(BTreeSet::new()));
        cache.wants(Kind::Clusters, Wanted::All);
        cache.settle();
        let bytes = std::fs::metadata(folder.join(FILE)).unwrap().len();
        assert!((100_000..101_000).contains(&bytes), "{bytes}");
        // The same again is not written.
        let again = kept("a", &format!("199{large}"));
        cache.note(Kind::Clusters, "2", vec![again], [].iter());
        assert_eq!(std::fs::metadata(folder.join(FILE)).unwrap().len(), bytes);
        drop(cache);
        assert_eq!(restored(&open(&folder), Kind::Clusters, &Wanted::All), ["a"]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
