//! Resources that were accepted, kept in a file: a process that starts while no control plane answers serves what the one before
//! it had last.
//!
//! Every change is appended as soon as it is accepted, by the control thread: a write to the page cache. Whoever starts
//! writes the file anew, as small as it can be; so does whoever has appended far more than is there. A damaged file is named
//! and set aside, and nothing of it is used; one whose last record is torn is used as it was before it.
mod format;

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(super) use self::format::Kept;
pub use self::format::arbitrary;
use self::format::{Change, Contents, Read};
use super::judge::{Judge, Kind, Outcome};
use super::wanted::Wanted;
use crate::base::xx_hash::xx_hash;
use crate::control::xds::pb;

const FILE: &str = "resources";
/// Appended bytes beyond which the file is written anew, if they are several times what it began with.
const APPENDED_BYTES_MIN: u64 = 4 * 1024 * 1024;
const APPENDED_FACTOR: u64 = 4;

/// The file of one aggregated stream.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    /// Whose resources they are: node and control plane.
    owner: Vec<u8>,
    /// `None`: it could not be written, and is no more.
    file: Option<File>,
    /// What was there when the file was written last, and what was appended since then, in bytes.
    begun: u64,
    appended: u64,
    /// What was kept and nobody has asked for yet.
    kept: BTreeMap<&'static str, format::Resources>,
    /// Hashes of what is in the file: a state of the world tells everything again.
    known: HashMap<(Kind, String), u64>,
    /// What is asked for.
    wanted: BTreeMap<Kind, Wanted>,
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
        outcome
    }
}

impl Cache {
    /// Opens the file in a directory, which is made if it is not there. `owner`: whose resources they are.
    ///
    /// # Errors
    /// What the system says, with the path.
    pub fn open(directory: &Path, owner: Vec<u8>) -> Result<Self, String> {
        let path = directory.join(FILE);
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let (mut contents, is_damaged) = match std::fs::read(&path) {
            Ok(bytes) => understood(&path, &bytes, &owner),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Contents::new(), false),
            Err(error) => return Err(failed(error)),
        };
        if is_damaged {
            // For whoever wants to know why.
            std::fs::rename(&path, path.with_extension("damaged")).map_err(failed)?;
        }
        contents.retain(|type_url, _| Kind::KEPT.iter().any(|kind| kind.type_url() == type_url));
        let mut cache = Self {
            path: path.clone(),
            owner,
            file: None,
            begun: 0,
            appended: 0,
            kept: BTreeMap::new(),
            known: HashMap::new(),
            wanted: BTreeMap::new(),
        };
        cache.write_anew(&contents).map_err(failed)?;
        let mut count = 0;
        for kind in Kind::KEPT {
            let Some(resources) = contents.get(kind.type_url()) else { continue };
            count += resources.by_name.len();
            for (name, kept) in &resources.by_name {
                cache.known.insert((kind, name.clone()), xx_hash(&kept.value, 0));
            }
            cache.kept.insert(kind.type_url(), resources.clone());
        }
        if count > 0 {
            log::warn!(
                "xDS: {count} resources of {} are used until the control plane answers",
                path.display()
            );
        }
        Ok(cache)
    }

    /// What was kept of that which is wanted now; each is given out once.
    pub(super) fn restore(&mut self, kind: Kind, wanted: &Wanted) -> Option<Restored> {
        let kept = self.kept.get_mut(kind.type_url())?;
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
        &mut self,
        kind: Kind,
        version: &str,
        accepted: Vec<Kept>,
        gone: impl Iterator<Item = &'a String>,
    ) {
        if !Kind::KEPT.contains(&kind) {
            return;
        }
        let is_known = |known: &HashMap<_, _>, kept: &Kept| {
            known.get(&(kind, kept.name.clone())) == Some(&xx_hash(&kept.value, 0))
        };
        let put: Vec<_> = accepted.into_iter().filter(|kept| !is_known(&self.known, kept)).collect();
        let removed: Vec<_> =
            gone.filter(|name| self.known.remove(&(kind, (*name).clone())).is_some()).cloned().collect();
        let kept = self.kept.entry(kind.type_url()).or_default();
        for kept_before in put.iter().map(|kept| &kept.name).chain(&removed) {
            kept.by_name.remove(kept_before);
        }
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

    /// What is asked for now.
    pub(super) fn wants(&mut self, kind: Kind, wanted: Wanted) {
        self.wanted.insert(kind, wanted);
    }

    /// The control plane has had its time: what nobody asks for is kept no longer.
    pub(super) fn settle(&mut self) {
        self.kept.clear();
        let outcome = self.rewrite();
        self.check(outcome);
    }

    fn check(&mut self, outcome: io::Result<()>) {
        let Err(error) = outcome else { return };
        log::error!("xDS: {}: {error}: what is accepted from now on is not kept", self.path.display());
        self.file = None;
        // It would be older than what was accepted.
        let _ = std::fs::remove_file(&self.path);
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

/// What a file holds, and whether it is damaged.
fn understood(path: &Path, bytes: &[u8], owner: &[u8]) -> (Contents, bool) {
    match format::read(bytes, owner) {
        Read::Whole(contents) => (contents, false),
        Read::Torn(contents, good) => {
            let lost = bytes.len() - good;
            log::warn!("xDS: {}: the last {lost} bytes are torn: used as it was before them", path.display());
            (contents, false)
        }
        Read::Unusable(reason) => {
            log::error!("xDS: {}: {reason}: nothing of it is used", path.display());
            (Contents::new(), true)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
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

    fn open(folder: &Path) -> Cache {
        Cache::open(folder, b"me".to_vec()).unwrap()
    }

    fn restored(cache: &mut Cache, kind: Kind, wanted: &Wanted) -> Vec<String> {
        let restored = cache.restore(kind, wanted);
        restored
            .map_or_else(Vec::new, |restored| restored.resources.into_iter().map(|kept| kept.name).collect())
    }

    #[test]
    fn what_was_accepted_is_there_for_the_next_process() {
        let folder = folder("next");
        let mut cache = open(&folder);
        cache.note(Kind::Clusters, "1", vec![kept("a", "x"), kept("b", "y")], [].iter());
        cache.note(Kind::Endpoints, "1", vec![kept("a", "x"), kept("b", "y")], [].iter());
        cache.note(Kind::Clusters, "2", vec![kept("c", "z")], ["a".to_owned()].iter());
        drop(cache);
        let mode = std::fs::metadata(folder.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut cache = open(&folder);
        assert_eq!(restored(&mut cache, Kind::Clusters, &Wanted::All), ["b", "c"]);
        let wanted = Wanted::Names(BTreeSet::from(["b".to_owned()]));
        assert_eq!(restored(&mut cache, Kind::Endpoints, &wanted), ["b"]);
        // Once, and what the control plane has told meanwhile not at all.
        assert!(restored(&mut cache, Kind::Endpoints, &wanted).is_empty());
        cache.note(Kind::Endpoints, "2", vec![kept("a", "new")], [].iter());
        assert!(restored(&mut cache, Kind::Endpoints, &Wanted::All).is_empty());
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// K5: a private key has no business on a disk.
    #[test]
    fn secrets_are_never_written() {
        let folder = folder("secrets");
        let mut cache = open(&folder);
        let bytes = || std::fs::read(folder.join(FILE)).unwrap();
        let before = bytes();
        cache.note(Kind::Secrets, "1", vec![kept("a", "key")], [].iter());
        cache.wants(Kind::Secrets, Wanted::Names(BTreeSet::from(["a".to_owned()])));
        cache.settle();
        assert_eq!(bytes(), before);
        // Nor are those left in it that somebody else has put there.
        let put = vec![kept("a", "key")];
        let change = Change { type_url: Kind::Secrets.type_url().into(), put, ..Change::default() };
        std::fs::write(folder.join(FILE), [before.clone(), format::change(&change)].concat()).unwrap();
        assert!(restored(&mut open(&folder), Kind::Secrets, &Wanted::All).is_empty());
        assert_eq!(bytes(), before);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn damaged_file_is_set_aside() {
        let folder = folder("damaged");
        let mut cache = open(&folder);
        cache.note(Kind::Clusters, "1", vec![kept("a", "x")], [].iter());
        cache.note(Kind::Clusters, "2", vec![kept("b", "x")], [].iter());
        drop(cache);
        let mut bytes = std::fs::read(folder.join(FILE)).unwrap();
        bytes[60] ^= 1;
        std::fs::write(folder.join(FILE), &bytes).unwrap();
        assert!(restored(&mut open(&folder), Kind::Clusters, &Wanted::All).is_empty());
        assert_eq!(std::fs::read(folder.join("resources.damaged")).unwrap(), bytes);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn file_follows_what_there_is_and_not_what_there_was() {
        let folder = folder("small");
        let mut cache = open(&folder);
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
        assert_eq!(restored(&mut open(&folder), Kind::Clusters, &Wanted::All), ["a"]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
