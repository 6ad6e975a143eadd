//! Resources that come from files: each holds a `DiscoveryResponse`, which is judged like one of a stream. A file that cannot
//! be used leaves everything as it was.
//!
//! A file is written to another name and renamed, or reached through a symbolic link that is swapped: both are seen.
//! Times to live have no meaning there, as in Envoy: nobody could renew them.
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use prost::Message as _;

use tokio::sync::watch;

use super::Protocol;
use super::judge::{Considered, Judge, Taken};
use super::sotw::Sotw;
use super::subscribers::Subscribers;
use crate::base::limits::CONFIG_TEXT_BYTES_MAX;
use crate::config::ads::FileSource;
use crate::control::file_watch::FileWatch;
use crate::control::xds::loader::{self, Format, Source};
use crate::control::xds::pb::{self, Named};
use crate::control::xds::schema::Message;

type Response = pb::discovery::DiscoveryResponse;

/// One file and those who want something of it.
#[derive(Debug)]
pub(super) struct File {
    source: FileSource,
    types: Vec<Sotw>,
    subscribers: Arc<Subscribers>,
    changes: watch::Receiver<()>,
    /// What it held when it was looked at last.
    last: Option<Result<Vec<u8>, String>>,
}

impl File {
    pub(super) fn new(source: FileSource, judges: Vec<Judge>, subscribers: Arc<Subscribers>) -> Self {
        let machine = |judge: Judge| {
            let wanted = subscribers.wanted(judge.kind());
            Sotw::new(judge, pb::core::Node::default(), wanted, true)
        };
        let types = judges.into_iter().map(machine).collect();
        Self { source, types, changes: subscribers.changes(), subscribers, last: None }
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let FileSource { path, watched_directory } = &self.source;
        std::iter::once(path).chain(watched_directory).map(|path| Path::new(&**path))
    }

    /// Takes what the file holds now, if that is something else than before.
    async fn refresh(&mut self) {
        let path = &*self.source.path;
        let bytes = read(path);
        let mut is_new = self.last.as_ref() != Some(&bytes);
        if self.changes.has_changed().unwrap_or(false) {
            self.changes.mark_unchanged();
            for machine in &mut self.types {
                // Who asks since then has heard nothing of it.
                is_new |= machine.want(self.subscribers.ask(machine.kind()), None).is_some();
            }
        }
        if !is_new {
            return;
        }
        let response = bytes.as_ref().map_err(Clone::clone).and_then(|bytes| decode(path, bytes));
        self.last = Some(bytes);
        for machine in self.types.iter_mut().filter(|machine| !machine.wants_nothing()) {
            let kind = machine.kind();
            match &response {
                Ok(response) => {
                    // Files need not say what they hold.
                    let mut response = response.clone();
                    if response.type_url.is_empty() {
                        machine.type_url_of().clone_into(&mut response.type_url);
                    }
                    let Some(mut considered) = machine.consider(response) else { continue };
                    let Considered { outcome, version, .. } = &mut considered;
                    self.subscribers.try_out(kind, outcome, version).await;
                    let Taken { outcome, version, .. } = machine.answer(considered);
                    self.subscribers.apply(kind, outcome, &version).await;
                    self.subscribers.give_up_rest(kind).await;
                }
                Err(reason) => self.subscribers.fail(kind, reason).await,
            }
        }
    }
}

/// Looks at a file until dropped.
pub(super) async fn run(mut file: File) {
    let mut watch = FileWatch::new();
    let mut changes = file.changes.clone();
    loop {
        // Before it is read: nothing that happens meanwhile is missed.
        watch.watch(file.paths());
        changes.mark_unchanged();
        file.refresh().await;
        tokio::select! {
            _ = watch.changed() => {}
            _ = changes.changed() => {}
        }
    }
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(CONFIG_TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(format!("cannot read {path}: {error}")),
        Ok(_) if bytes.len() > CONFIG_TEXT_BYTES_MAX => {
            Err(format!("{path} is longer than {CONFIG_TEXT_BYTES_MAX} bytes"))
        }
        Ok(_) => Ok(bytes),
    }
}

fn decode(path: &str, bytes: &[u8]) -> Result<Response, String> {
    if Path::new(path).extension().is_some_and(|extension| extension == "pb") {
        return Response::decode(bytes).map_err(|error| format!("{path} cannot be decoded: {error}"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{path} is not UTF-8 text"))?;
    let format = Format::of_file(path).map_err(|error| error.to_string())?;
    let message =
        Message::find(Response::NAME).ok_or_else(|| format!("the schema table has no {}", Response::NAME))?;
    let source = Source { name: path, text, format };
    // As Envoy: unknown fields of what is not in the bootstrap are let pass.
    let loaded = loader::read(message, &[source], true).map_err(|errors| {
        let reasons: Vec<_> = errors.0.iter().map(ToString::to_string).collect();
        reasons.join("; ")
    })?;
    for warning in &loaded.warnings.0 {
        log::warn!("xDS: {warning}");
    }
    Response::decode(&*loaded.bytes).map_err(|error| format!("{path} cannot be decoded: {error}"))
}
