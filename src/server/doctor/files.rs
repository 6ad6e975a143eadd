//! Reads files of `/proc` and `/sys`: bounded, lossless about why one cannot be read.
//!
//! The root is an argument so that tests can show a host of their own making.

use std::io::{self, Read};
use std::path::PathBuf;

/// Bytes read of one file at most: `/proc/self/mountinfo` of a node with thousands of containers is below it. What
/// follows is not looked at.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Entries of a folder looked at, at most.
const ENTRIES_MAX: usize = 4096;

/// Where files are read.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    /// Every file has this text, every folder has odd entries.
    #[cfg(test)]
    same: Option<String>,
}

/// Why there is no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Not there: the kernel has no such thing, or hides it.
    Missing(String),
    /// There, and forbidden or failing.
    Refused(String),
}

/// The text of a file, or why it cannot be had.
pub(super) type Text = Result<String, Unreadable>;

impl Unreadable {
    /// In a sentence.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Missing(path) => format!("{path} is not there"),
            Self::Refused(why) => why.clone(),
        }
    }

    /// Whether the file is not there at all.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

impl Files {
    /// Those of the running kernel.
    pub(super) fn of_this_host() -> Self {
        Self {
            root: "/".into(),
            #[cfg(test)]
            same: None,
        }
    }

    /// Those below a folder.
    #[cfg(test)]
    pub(super) fn at(root: PathBuf) -> Self {
        Self { root, same: None }
    }

    #[cfg(test)]
    pub(super) fn same_for_test(text: &str) -> Self {
        Self { root: "/".into(), same: Some(text.to_owned()) }
    }

    /// The text of the file at `path`, which begins without a slash: `proc/version`. Other bytes than UTF-8 are replaced.
    pub(super) fn read(&self, path: &str) -> Text {
        #[cfg(test)]
        if let Some(text) = &self.same {
            return Ok(text.clone());
        }
        let mut bytes = Vec::new();
        let read = std::fs::File::open(self.root.join(path))
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Unreadable::Missing(format!("/{path}")))
            }
            Err(error) => Err(Unreadable::Refused(format!("/{path} cannot be read: {error}"))),
        }
    }

    /// Names in a folder, sorted, numbers by value; none when it cannot be read.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        #[cfg(test)]
        if let Some(text) = &self.same {
            let odd = text.chars().take(20).collect();
            return [odd, "24".into(), "eth0".into()].into_iter().chain(QUEUES.map(String::from)).collect();
        }
        let entries = std::fs::read_dir(self.root.join(path)).into_iter().flatten().take(ENTRIES_MAX);
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_by_key(|name| (name.parse::<u64>().ok(), name.clone()));
        names
    }

    /// Whether something is there.
    pub(super) fn exists(&self, path: &str) -> bool {
        #[cfg(test)]
        if self.same.is_some() {
            return true;
        }
        self.root.join(path).exists()
    }
}

#[cfg(test)]
const QUEUES: [&str; 4] = ["policy0", "rx-0", "rx-1", "tx-0"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_forbidden_files_are_told_apart() {
        let files = Files::of_this_host();
        assert!(files.read("proc/self/status").unwrap().contains("Pid:"));
        let missing = files.read("proc/sys/no/such").unwrap_err();
        assert_eq!(missing.reason(), "/proc/sys/no/such is not there");
        // A folder is no file.
        let refused = files.read("proc/self").unwrap_err();
        assert!(
            !refused.is_missing() && refused.reason().contains("/proc/self cannot be read"),
            "{refused:?}"
        );
    }

    #[test]
    fn folder_is_listed_in_order() {
        let names = Files::of_this_host().list("proc/sys/net");
        assert!(names.is_sorted() && names.contains(&"core".to_owned()), "{names:?}");
        assert_eq!(Files::of_this_host().list("no/such"), Vec::<String>::new());
    }
}
