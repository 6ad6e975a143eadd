//! The layers of runtime values: those of the bootstrap, of files, of the admin endpoint and of control planes. When one is
//! another, all keys that configuration refers to have their new values at once, on all workers; limits of circuit breakers, to
//! whose keys nothing refers, follow right behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::clusters::KnownClusters;
use super::runtime_limits::{LIMITS_PREFIX, RuntimeLimits};
use crate::base::limits::{RUNTIME_DIRECTORIES_DEPTH_MAX, RUNTIME_FILE_BYTES_MAX, RUNTIME_FILES_MAX};
use crate::config::ads::Rtds;
use crate::config::bootstrap::{Bootstrap, DiskLayer, RuntimeLayerKind};
use crate::control::admin::ShownLayer;
use crate::control::file_watch::FileWatch;
use crate::control::xds::client::RuntimeUpdate;
use crate::control::xds::convert::{Runtime, RuntimeValues, runtime_text};
use crate::telemetry::{Registry, ServerCells, ServerStat, Slot};

/// All of them, lowest first.
#[derive(Debug)]
pub(super) struct RuntimeLayers {
    layers: Mutex<Vec<Layer>>,
    /// Who reads the values.
    runtime: Runtime,
    /// Those that are limits of circuit breakers, and whose they are.
    limits: Mutex<RuntimeLimits>,
    clusters: KnownClusters,
    cells: ServerCells,
}

#[derive(Debug)]
struct Layer {
    name: Box<str>,
    origin: Origin,
    /// `None`: the layer is not there.
    values: Option<RuntimeValues>,
}

#[derive(Debug)]
enum Origin {
    Static,
    Admin,
    Rtds(Rtds),
    Disk(Tree),
}

/// A tree of files.
#[derive(Debug)]
struct Tree {
    link: PathBuf,
    path: PathBuf,
    /// What the link led to when it was read: device and inode.
    read: Option<(u64, u64)>,
    failed: bool,
}

impl RuntimeLayers {
    /// Those of a bootstrap, and the watch over their files; of control planes nothing is known yet.
    pub(super) fn new(
        bootstrap: &Bootstrap,
        runtime: Runtime,
        clusters: KnownClusters,
        registry: &Registry,
    ) -> (Self, Option<FileWatch>) {
        let layers = bootstrap.runtime_layers.iter().map(|layer| {
            let (origin, values) = match &layer.kind {
                RuntimeLayerKind::Static(values) => (Origin::Static, Some(values.clone())),
                RuntimeLayerKind::Admin => (Origin::Admin, Some(Vec::new())),
                RuntimeLayerKind::Rtds(rtds) => (Origin::Rtds(rtds.clone()), Some(Vec::new())),
                RuntimeLayerKind::Disk(disk) => {
                    (Origin::Disk(Tree::new(disk, &bootstrap.node.cluster)), None)
                }
            };
            Layer { name: layer.name.clone(), origin, values }
        });
        let layers = Mutex::new(layers.collect());
        let (limits, cells) = (Mutex::default(), registry.server(Slot::Control));
        let own = Self { layers, runtime, limits, clusters, cells };
        // Before they are read: what changes then is told.
        let watch = own.watch();
        let mut layers = own.lock();
        layers.iter_mut().for_each(Layer::refresh);
        own.load(&layers);
        drop(layers);
        (own, watch)
    }

    /// A control plane has told these values: those of one response, which are one state, whichever layers they are of.
    pub(super) fn put<'a>(&self, told: impl Iterator<Item = &'a RuntimeUpdate>) {
        let mut layers = self.lock();
        let mut is_other = false;
        for RuntimeUpdate { source, name, values } in told {
            let Some(values) = values else { continue };
            is_other = true;
            let is_meant = |rtds: &Rtds| rtds.source == *source && rtds.name == *name;
            for layer in layers.iter_mut() {
                if matches!(&layer.origin, Origin::Rtds(rtds) if is_meant(rtds)) {
                    layer.values = Some(RuntimeValues::clone(values));
                }
            }
        }
        if is_other {
            self.load(&layers);
        }
    }

    /// Sets values of the admin layer; an empty one takes it away.
    ///
    /// # Errors
    /// There is no such layer.
    pub(super) fn modify(&self, changes: &[(String, String)]) -> Result<(), &'static str> {
        let mut layers = self.lock();
        let admin = layers.iter_mut().find(|layer| matches!(layer.origin, Origin::Admin));
        let Some(values) = admin.and_then(|layer| layer.values.as_mut()) else {
            return Err("No admin layer specified");
        };
        let mut by_key: BTreeMap<_, _> = std::mem::take(values).into_iter().collect();
        for (key, text) in changes {
            if text.is_empty() {
                by_key.remove(&**key);
            } else {
                by_key.insert(key.as_str().into(), runtime_text(text));
            }
        }
        values.extend(by_key);
        self.cells.gauge_set(ServerStat::RuntimeAdminOverridesActive, u64::from(!values.is_empty()));
        self.load(&layers);
        Ok(())
    }

    /// Reads the trees of files again, if the link of one leads somewhere else or `has_come`: if it was made or moved there anew.
    /// The watch from then on.
    pub(super) fn look_at_files(&self, has_come: bool) -> Option<FileWatch> {
        let watch = self.watch();
        let mut layers = self.lock();
        let is_other =
            |layer: &Layer| matches!(&layer.origin, Origin::Disk(tree) if tree.read != tree.leads_to());
        if has_come || layers.iter().any(is_other) {
            layers.iter_mut().for_each(Layer::refresh);
            self.load(&layers);
        }
        watch
    }

    /// A watch over the links of all trees of files; `None`: there are none.
    fn watch(&self) -> Option<FileWatch> {
        let layers = self.lock();
        let links = layers.iter().filter_map(|layer| match &layer.origin {
            Origin::Disk(tree) => Some(&*tree.link),
            Origin::Static | Origin::Admin | Origin::Rtds(_) => None,
        });
        let links: Vec<&Path> = links.collect();
        let mut watch = (!links.is_empty()).then(FileWatch::new)?;
        watch.watch(links);
        Some(watch)
    }

    /// As the admin endpoint has them.
    pub(super) fn shown(&self) -> Vec<ShownLayer> {
        let layers = self.lock();
        let shown = layers
            .iter()
            .filter_map(|layer| Some(ShownLayer { name: layer.name.clone(), values: layer.values.clone()? }));
        shown.collect()
    }

    /// The limits of circuit breakers that there are values for.
    pub(super) fn limits(&self) -> MutexGuard<'_, RuntimeLimits> {
        // Nothing under the lock can leave them half changed.
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clusters have come, or changed, of which the workers are not told yet: they have their limits first.
    pub(super) fn limit_clusters(&self) {
        self.limits().tell(&RuntimeLimits::default(), &self.clusters.get());
    }

    fn load(&self, layers: &[Layer]) {
        let keys = self.runtime.set(layers.iter().filter_map(|layer| layer.values.as_deref()));
        let limits = RuntimeLimits::new(&self.runtime.integers_under(LIMITS_PREFIX));
        let before = std::mem::replace(&mut *self.limits(), limits);
        self.limits().tell(&before, &self.clusters.get());
        let trees = || {
            layers.iter().filter_map(|layer| match &layer.origin {
                Origin::Disk(tree) => Some((tree, layer.values.is_some())),
                Origin::Static | Origin::Admin | Origin::Rtds(_) => None,
            })
        };
        let is_there = layers.iter().filter(|layer| layer.values.is_some()).count();
        self.cells.gauge_set(ServerStat::RuntimeNumKeys, keys as u64);
        self.cells.gauge_set(ServerStat::RuntimeNumLayers, is_there as u64);
        self.cells.inc(if trees().any(|(tree, _)| tree.failed) {
            ServerStat::RuntimeLoadError
        } else {
            ServerStat::RuntimeLoadSuccess
        });
        // As Envoy, which takes every tree but one for an override.
        self.cells.inc(if trees().filter(|(_, is_there)| *is_there).count() > 1 {
            ServerStat::RuntimeOverrideDirExists
        } else {
            ServerStat::RuntimeOverrideDirNotExists
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Layer>> {
        // Nothing under the lock can leave them half changed.
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layer {
    /// Reads a tree of files.
    fn refresh(&mut self) {
        let Origin::Disk(tree) = &mut self.origin else { return };
        tree.read = tree.leads_to();
        let read = tree.values();
        tree.failed = read.is_err();
        self.values = read.unwrap_or_else(|reason| {
            log::warn!("runtime layer {}: {}: {reason}", self.name, tree.path.display());
            None
        });
    }
}

impl Tree {
    fn new(disk: &DiskLayer, cluster: &str) -> Self {
        let DiskLayer { symlink_root, subdirectory, append_service_cluster } = disk;
        let mut path = format!("{symlink_root}/{subdirectory}");
        if *append_service_cluster {
            path = format!("{path}/{cluster}");
        }
        Self { link: PathBuf::from(&**symlink_root), path: path.into(), read: None, failed: false }
    }

    fn leads_to(&self) -> Option<(u64, u64)> {
        fs::metadata(&self.link).ok().map(|found| (found.dev(), found.ino()))
    }

    /// What it holds; `None`: there is no such directory.
    fn values(&self) -> Result<Option<RuntimeValues>, String> {
        if !self.path.is_dir() {
            return Ok(None);
        }
        let mut values = Vec::new();
        walk(&self.path, "", 1, &mut values)?;
        values.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Some(values))
    }
}

/// Adds what the files of a directory hold, under names that begin with this.
fn walk(directory: &Path, prefix: &str, depth: usize, values: &mut RuntimeValues) -> Result<(), String> {
    if depth > RUNTIME_DIRECTORIES_DEPTH_MAX {
        return Err(format!("more than {RUNTIME_DIRECTORIES_DEPTH_MAX} directories within one another"));
    }
    let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    for entry in fs::read_dir(directory).map_err(|error| failed(directory, error))? {
        let path = entry.map_err(|error| failed(directory, error))?.path();
        // Names that are no text can be no keys.
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        let found = fs::metadata(&path).map_err(|error| failed(&path, error))?;
        if found.is_dir() {
            walk(&path, &key, depth + 1, values)?;
        } else if found.is_file() {
            if values.len() >= RUNTIME_FILES_MAX {
                return Err(format!("more than {RUNTIME_FILES_MAX} files"));
            }
            let mut text = String::new();
            fs::File::open(&path)
                .and_then(|file| file.take(RUNTIME_FILE_BYTES_MAX + 1).read_to_string(&mut text))
                .map_err(|error| failed(&path, error))?;
            if text.len() as u64 > RUNTIME_FILE_BYTES_MAX {
                return Err(format!("{} is longer than {RUNTIME_FILE_BYTES_MAX} bytes", path.display()));
            }
            values.push((key.into(), runtime_text(&without_comments(&text))));
        }
    }
    Ok(())
}

/// A file's value: its lines but for comments, and without what is blank at its end. As in Envoy.
fn without_comments(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    lines.join("\n").trim_ascii_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::ads::ResourceSource;
    use crate::config::bootstrap::{Node, RuntimeLayer};

    fn layers(kinds: Vec<RuntimeLayerKind>) -> (RuntimeLayers, ServerCells) {
        let layer = |(number, kind): (usize, RuntimeLayerKind)| RuntimeLayer {
            name: number.to_string().into(),
            kind,
        };
        let bootstrap = Bootstrap {
            node: Node { cluster: "own".into(), ..Node::default() },
            runtime_layers: kinds.into_iter().enumerate().map(layer).collect(),
            ..Bootstrap::default()
        };
        let registry = Registry::new(1);
        let clusters = KnownClusters::default();
        let (layers, _) = RuntimeLayers::new(&bootstrap, Runtime::default(), clusters, &registry);
        (layers, registry.server(Slot::Control))
    }

    fn values(pairs: &[(&str, Value)]) -> RuntimeValues {
        pairs.iter().map(|(key, value)| ((*key).into(), value.clone())).collect()
    }

    fn fixed(pairs: &[(&str, Value)]) -> RuntimeLayerKind {
        RuntimeLayerKind::Static(values(pairs))
    }

    fn rtds(name: &str) -> RuntimeLayerKind {
        let (source, initial_fetch_timeout) = (ResourceSource::Ads, None);
        RuntimeLayerKind::Rtds(Rtds { source, name: name.into(), initial_fetch_timeout })
    }

    fn told(name: &str, pairs: &[(&str, Value)]) -> RuntimeUpdate {
        let values = Some(Arc::new(values(pairs)));
        RuntimeUpdate { source: ResourceSource::Ads, name: name.into(), values }
    }

    fn shown(layers: &RuntimeLayers) -> Vec<Vec<(String, Value)>> {
        let pair = |(key, value): (Box<str>, Value)| (String::from(key), value);
        layers.shown().into_iter().map(|layer| layer.values.into_iter().map(pair).collect()).collect()
    }

    #[test]
    fn values_of_the_admin_endpoint_are_set_and_taken_away() {
        let (layers, cells) = layers(vec![fixed(&[("a", json!(1))]), RuntimeLayerKind::Admin]);
        let set = |changes: &[(&str, &str)]| {
            let changes: Vec<_> = changes.iter().map(|(key, text)| ((*key).into(), (*text).into())).collect();
            layers.modify(&changes)
        };
        set(&[("a", "5"), ("b", "{numerator: 1}")]).unwrap();
        let fraction = ("b".to_owned(), json!({"numerator": 1}));
        assert_eq!(shown(&layers)[1], [("a".to_owned(), json!("5")), fraction.clone()]);
        assert_eq!(cells.value(ServerStat::RuntimeNumKeys), 2);
        assert_eq!(cells.value(ServerStat::RuntimeAdminOverridesActive), 1);
        set(&[("a", "")]).unwrap();
        assert_eq!(shown(&layers)[1], [fraction]);
        set(&[("b", "")]).unwrap();
        assert_eq!(cells.value(ServerStat::RuntimeAdminOverridesActive), 0);
        assert_eq!(cells.value(ServerStat::RuntimeLoadSuccess), 4);
        let (without, _) = self::layers(vec![fixed(&[])]);
        assert_eq!(without.modify(&[]), Err("No admin layer specified"));
    }

    #[test]
    fn values_of_a_control_plane_are_those_of_its_layer_alone() {
        let (layers, cells) = layers(vec![rtds("a"), rtds("b")]);
        layers.put([told("a", &[("k", json!(1))])].iter());
        assert_eq!(shown(&layers), [vec![("k".to_owned(), json!(1))], vec![]]);
        layers.put([told("a", &[])].iter());
        assert_eq!(shown(&layers), [vec![], vec![]]);
        assert_eq!(cells.value(ServerStat::RuntimeNumLayers), 2);
        assert_eq!(cells.value(ServerStat::RuntimeNumKeys), 0);
    }

    /// Each was a state of its own, and between two of them requests were served by a part of the response.
    #[test]
    fn layers_of_one_response_are_one_state() {
        let (layers, cells) = layers(vec![rtds("a"), rtds("b")]);
        layers.put([told("a", &[("k", json!(1))]), told("b", &[("l", json!(2))])].iter());
        assert_eq!(shown(&layers), [[("k".to_owned(), json!(1))], [("l".to_owned(), json!(2))]]);
        assert_eq!(cells.value(ServerStat::RuntimeLoadSuccess), 2, "the start, and the response");
        // One that is waited for no more changes nothing.
        layers.put([RuntimeUpdate { values: None, ..told("a", &[]) }].iter());
        assert_eq!(shown(&layers)[0], [("k".to_owned(), json!(1))]);
        assert_eq!(cells.value(ServerStat::RuntimeLoadSuccess), 2);
    }

    /// It was made a moment after the first read, which a link that was swapped in between outlived by a minute.
    #[tokio::test(start_paused = true)]
    async fn swap_right_after_the_first_read_is_heard_of() {
        let folder = std::env::temp_dir().join(format!("ringway-runtime-early-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        for tree in ["one", "two"] {
            fs::create_dir_all(folder.join(tree)).unwrap();
            fs::write(folder.join(tree).join("key"), tree).unwrap();
            std::os::unix::fs::symlink(tree, folder.join(format!("to-{tree}"))).unwrap();
        }
        let link = folder.join("current");
        fs::rename(folder.join("to-one"), &link).unwrap();
        let root = link.display().to_string().into();
        let disk = DiskLayer { symlink_root: root, subdirectory: "".into(), append_service_cluster: false };
        let layers = vec![RuntimeLayer { name: "files".into(), kind: RuntimeLayerKind::Disk(disk) }];
        let bootstrap = Bootstrap { runtime_layers: layers, ..Bootstrap::default() };
        let (clusters, registry) = (KnownClusters::default(), Registry::new(1));
        let (layers, watch) = RuntimeLayers::new(&bootstrap, Runtime::default(), clusters, &registry);
        fs::rename(folder.join("to-two"), &link).unwrap();
        let mut watch = watch.unwrap();
        let has_come = tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.unwrap();
        layers.look_at_files(has_come);
        assert_eq!(shown(&layers), [[("key".to_owned(), json!("two"))]]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn files_are_read_when_the_link_leads_to_others() {
        let folder = std::env::temp_dir().join(format!("ringway-runtime-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        for (tree, value) in [("one", "# a comment\n7 \n\n"), ("two", "{numerator: 3}\n")] {
            fs::create_dir_all(folder.join(tree).join("sub/own/x")).unwrap();
            fs::write(folder.join(tree).join("sub/own/x/y"), value).unwrap();
        }
        let link = folder.join("current");
        let lead_to = |tree: &str| {
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(folder.join(tree), &link).unwrap();
        };
        lead_to("one");
        let disk = |subdirectory: &str| {
            RuntimeLayerKind::Disk(DiskLayer {
                symlink_root: link.display().to_string().into(),
                subdirectory: subdirectory.into(),
                append_service_cluster: true,
            })
        };
        let (layers, cells) = layers(vec![disk("sub"), disk("missing")]);
        assert_eq!(shown(&layers), [[("x.y".to_owned(), json!("7"))]], "the other is not there");
        fs::write(folder.join("one/sub/own/x/y"), "8").unwrap();
        layers.look_at_files(false);
        assert_eq!(shown(&layers), [[("x.y".to_owned(), json!("7"))]], "the link is the same");
        layers.look_at_files(true);
        assert_eq!(shown(&layers), [[("x.y".to_owned(), json!("8"))]], "it has come anew");
        lead_to("two");
        layers.look_at_files(false);
        assert_eq!(shown(&layers), [[("x.y".to_owned(), json!({"numerator": 3}))]]);
        assert_eq!(cells.value(ServerStat::RuntimeLoadSuccess), 3);
        assert_eq!(cells.value(ServerStat::RuntimeOverrideDirNotExists), 3);
        fs::write(folder.join("two/sub/own/long"), vec![b'1'; RUNTIME_FILE_BYTES_MAX as usize + 1]).unwrap();
        lead_to("one");
        layers.look_at_files(false);
        lead_to("two");
        layers.look_at_files(false);
        assert!(shown(&layers).is_empty());
        assert_eq!(cells.value(ServerStat::RuntimeLoadError), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
