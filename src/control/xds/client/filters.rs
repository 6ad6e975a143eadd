//! Filters of a control plane or a file: converted, held against every place that asks for them, and compiled before they are
//! acknowledged, each content once. The last good one stays where the next is no good.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::compiler::SharedCompiler;
use super::judge::{Good, content, taken};
use crate::config::ads::ResourceSource;
use crate::control::xds::convert::convert_filter;
use crate::control::xds::pb;

/// Says of filters whether they can be used.
#[derive(Debug)]
pub(super) struct FilterJudge {
    source: ResourceSource,
    /// Knows who asks for which, and has those that are good.
    compiler: SharedCompiler,
    /// A hash of each that is in use: a state of the world tells all of them again when one changes.
    known: BTreeMap<String, u64>,
}

impl FilterJudge {
    pub(super) fn new(source: ResourceSource, compiler: SharedCompiler) -> Self {
        Self { source, compiler, known: BTreeMap::new() }
    }

    pub(super) fn judge(
        &mut self,
        message: pb::core::TypedExtensionConfig,
        any: &pb::google::Any,
    ) -> Result<Good, String> {
        let name = message.name.clone();
        let hash = content("", std::iter::once(any));
        if self.known.get(&name) == Some(&hash) {
            return Ok(Good::Same);
        }
        let filter = taken(&name, convert_filter(message, self.compiler.runtime()))?;
        self.compiler.read().check_filter(&self.source, &name, &filter)?;
        self.compiler.set_filter(&self.source, &name, Some(Arc::new(filter)));
        self.known.insert(name, hash);
        Ok(Good::Filter(any.value.as_slice().into()))
    }

    /// It is gone, or nobody asks for it any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.known.remove(name);
        self.compiler.set_filter(&self.source, name, None);
    }
}
