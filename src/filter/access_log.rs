//! Access logs of whatever writes some, compiled.

use std::io;

use super::CompileError;
use crate::base::regex::RegexSlots;
use crate::config::access_log::{AccessLog as Config, AccessLogSink};
use crate::format::access_log::AccessLog;
use crate::format::access_log_queue::SinkId;

/// A list of them; `field` is its name in the configuration.
///
/// # Errors
/// A mistake in a format; a log that cannot be opened.
pub fn compile(
    configs: &[Config],
    field: &str,
    slots: &mut RegexSlots,
    open_sink: &mut dyn FnMut(&AccessLogSink) -> io::Result<SinkId>,
) -> Result<Vec<AccessLog>, CompileError> {
    let compile = |(index, log): (usize, &Config)| {
        let sink =
            open_sink(&log.sink).map_err(|error| CompileError::Sink { sink: log.sink.clone(), error })?;
        Ok(AccessLog::compile(log, sink, &format!("{field}[{index}]"), slots)?)
    };
    configs.iter().enumerate().map(compile).collect()
}
