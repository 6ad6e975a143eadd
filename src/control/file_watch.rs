//! Tells when files may have changed: written, replaced, or reached through a symbolic link that was swapped, as Kubernetes
//! does. Whoever is told reads them again and compares; being told once too often costs a comparison.
//!
//! Directories are watched and not files, since a file that is replaced is another one. The kernel is asked once a second
//! what it has seen, which costs a system call. What it does not tell (network file systems, watches that ran out) is
//! found when the files are looked at again after [`RECHECK_PERIODS`].

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchMask};
use tokio::time::{Sleep, sleep};

/// Time between two questions.
const PERIOD: Duration = Duration::from_secs(1);

/// Periods between two looks at files of which nothing was told.
const RECHECK_PERIODS: u32 = 60;

/// Periods one after the other in which something happens, after which files are looked at all the same: a directory may hold
/// others, which change all the time.
const BUSY_PERIODS: u32 = 3;

/// Symbolic links followed from one path, as the kernel limits them.
const LINKS_MAX: usize = 40;

/// Watches over files.
#[derive(Debug)]
pub struct FileWatch {
    /// `None`: the kernel gives none; only the recheck is left.
    inotify: Option<Inotify>,
    /// When the kernel is asked next, how often it was since the files were looked at, and how often it has told something.
    /// Kept here, since whoever waits may stop to and begin again.
    due: Option<Pin<Box<Sleep>>>,
    asked: u32,
    told: u32,
    /// Last names of the paths, and whether something has come under one of them.
    names: BTreeSet<OsString>,
    has_come: bool,
}

impl FileWatch {
    /// A watch over nothing.
    pub fn new() -> Self {
        let inotify = Inotify::init().map_err(|error| {
            log::warn!("files are not watched, only looked at once a minute: inotify: {error}");
        });
        let (due, names) = Default::default();
        Self { inotify: inotify.ok(), due, asked: 0, told: 0, names, has_come: false }
    }

    /// Watches these files and directories, whether or not they are there yet. To be called again after every change: a
    /// link may lead somewhere else now.
    pub fn watch<'a>(&mut self, paths: impl IntoIterator<Item = &'a Path>) {
        let Some(inotify) = &self.inotify else { return };
        let paths: Vec<_> = paths.into_iter().collect();
        self.names = paths.iter().filter_map(|path| path.file_name()).map(OsStr::to_owned).collect();
        let directories: BTreeSet<PathBuf> = paths.into_iter().flat_map(directories).collect();
        let mask = WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::CLOSE_WRITE
            | WatchMask::DELETE
            | WatchMask::ONLYDIR;
        for directory in directories {
            // One that is not there is found by its parent, or by the recheck.
            if let Err(error) = inotify.watches().add(&directory, mask)
                && error.kind() != io::ErrorKind::NotFound
                && error.kind() != io::ErrorKind::NotADirectory
            {
                log::warn!("{} is not watched, only looked at once a minute: {error}", directory.display());
            }
        }
    }

    /// Ends when files may have changed, and nothing more has for a period, or something has for some of them: a certificate and its
    /// key are written one after the other. Whether something was made or moved to where a path leads, so that it may be another
    /// with nothing to tell it by. May be dropped and called again without missing any.
    pub async fn changed(&mut self) -> bool {
        loop {
            self.due.get_or_insert_with(|| Box::pin(sleep(PERIOD))).await;
            self.due = None;
            self.asked += 1;
            let (now, has_come) =
                self.inotify.as_mut().map_or((false, false), |inotify| take(inotify, &self.names));
            self.has_come |= has_come;
            let is_over = self.told > 0 && !now || self.told >= BUSY_PERIODS;
            if is_over || self.asked >= RECHECK_PERIODS {
                (self.asked, self.told) = (0, 0);
                return std::mem::take(&mut self.has_come);
            }
            self.told += u32::from(now);
        }
    }
}

impl Default for FileWatch {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes the events there are. Whether there were any, and whether something has come under one of these names; where events
/// were lost, it may have.
fn take(inotify: &mut Inotify, names: &BTreeSet<OsString>) -> (bool, bool) {
    let mut buffer = [0; 4096];
    let (mut any, mut has_come) = (false, false);
    while let Ok(events) = inotify.read_events(&mut buffer) {
        let mut is_last = true;
        for event in events {
            is_last = false;
            let comes = event.mask.intersects(EventMask::CREATE | EventMask::MOVED_TO);
            has_come |= comes && event.name.is_some_and(|name| names.contains(name))
                || event.mask.contains(EventMask::Q_OVERFLOW);
        }
        any |= !is_last;
        if is_last {
            break;
        }
    }
    (any, has_come)
}

/// Directories in which something happens when what the path leads to changes: that of each link on the way, and that of
/// the file itself.
fn directories(path: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut path = path.to_path_buf();
    if path.is_dir() {
        found.insert(path.clone());
    }
    for _ in 0..LINKS_MAX {
        found.insert(parent(&path));
        // A directory above that is a link itself is swapped in its own parent.
        let links = path.ancestors().skip(1).filter(|above| above.is_symlink());
        found.extend(links.map(parent));
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = parent(&path).join(target);
    }
    found
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        Some(_) => PathBuf::from("."),
        None => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tokio::time::timeout;

    /// A directory of its own, removed with the value.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringway-watch-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn directories_of_all_links_on_the_way_are_watched() {
        let scratch = Scratch::new("links");
        let at = |name: &str| scratch.0.join(name);
        fs::create_dir_all(at("certs/..one")).unwrap();
        fs::write(at("certs/..one/tls.crt"), "1").unwrap();
        symlink("..one", at("certs/..data")).unwrap();
        symlink("..data/tls.crt", at("certs/tls.crt")).unwrap();
        symlink("certs", at("alias")).unwrap();
        let found = directories(&at("alias/tls.crt"));
        for directory in ["", "alias", "alias/..data"] {
            let directory = if directory.is_empty() { scratch.0.clone() } else { at(directory) };
            assert!(found.contains(&directory), "{}: {found:?}", directory.display());
        }
        assert_eq!(directories(Path::new("plain")), BTreeSet::from([PathBuf::from(".")]));
    }

    #[test]
    fn loop_of_links_ends() {
        let scratch = Scratch::new("loop");
        symlink("b", scratch.0.join("a")).unwrap();
        symlink("a", scratch.0.join("b")).unwrap();
        assert!(directories(&scratch.0.join("a")).contains(&scratch.0));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_missed_by_who_waits_again_and_again() {
        let scratch = Scratch::new("again");
        let file = scratch.0.join("tls.crt");
        let mut watch = FileWatch::new();
        watch.watch([&*file]);
        // Something else interrupts the wait more often than the kernel is asked.
        let waits = async |watch: &mut FileWatch| {
            for waited in 0..1000 {
                if timeout(PERIOD * 2 / 5, watch.changed()).await.is_ok() {
                    return waited;
                }
            }
            1000
        };
        fs::write(&file, "new").unwrap();
        assert!(waits(&mut watch).await <= 7, "the write");
        let periods = waits(&mut watch).await * 2 / 5;
        assert!((RECHECK_PERIODS - 1..=RECHECK_PERIODS + 1).contains(&periods), "looked at after {periods}");
    }

    #[tokio::test(start_paused = true)]
    async fn swapped_link_and_replaced_file_are_told() {
        let scratch = Scratch::new("swap");
        let at = |name: &str| scratch.0.join(name);
        for version in ["..one", "..two"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("tls.crt"), version).unwrap();
        }
        symlink("..one", at("..data")).unwrap();
        symlink("..data/tls.crt", at("tls.crt")).unwrap();
        let mut watch = FileWatch::new();
        let file = at("tls.crt");
        watch.watch([&*file]);
        let told = async |watch: &mut FileWatch| timeout(PERIOD * 5 / 2, watch.changed()).await.is_ok();
        symlink("..two", at("..next")).unwrap();
        fs::rename(at("..next"), at("..data")).unwrap();
        assert!(told(&mut watch).await, "the swap, a quiet period later");
        watch.watch([&*file]);
        fs::write(at("..two/tls.crt"), "new").unwrap();
        assert!(told(&mut watch).await, "the write");
        assert!(!told(&mut watch).await, "nothing has happened");
        let looked_at = timeout(PERIOD * (RECHECK_PERIODS + 1), watch.changed());
        assert!(looked_at.await.is_ok(), "without events the files are looked at once a minute");
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_beside_a_file_all_the_time_keeps_nobody_from_looking_at_it() {
        let scratch = Scratch::new("busy");
        let at = |name: &str| scratch.0.join(name);
        let mut watch = FileWatch::new();
        watch.watch([&*at("tls.crt")]);
        fs::write(at("tls.crt"), "new").unwrap();
        let mut periods = 0;
        while timeout(PERIOD, watch.changed()).await.is_err() {
            fs::write(at("beside"), "").unwrap();
            periods += 1;
        }
        assert!(periods < RECHECK_PERIODS / 2, "looked at after {periods}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_under_the_name_of_a_path_is_told_apart() {
        let scratch = Scratch::new("comes");
        let at = |name: &str| scratch.0.join(name);
        fs::create_dir(at("tree")).unwrap();
        symlink("tree", at("current")).unwrap();
        let mut watch = FileWatch::new();
        watch.watch([&*at("current")]);
        let told = async |watch: &mut FileWatch| timeout(PERIOD * 5 / 2, watch.changed()).await;
        fs::write(at("beside"), "").unwrap();
        assert_eq!(told(&mut watch).await.ok(), Some(false));
        fs::write(at("tree/within"), "").unwrap();
        assert_eq!(told(&mut watch).await.ok(), Some(false));
        // To the same directory as before.
        symlink("tree", at("next")).unwrap();
        fs::rename(at("next"), at("current")).unwrap();
        assert_eq!(told(&mut watch).await.ok(), Some(true));
        assert_eq!(timeout(PERIOD * (RECHECK_PERIODS + 1), watch.changed()).await.ok(), Some(false));
    }
}
