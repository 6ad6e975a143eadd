//! [`AccessLog`]: a configured access log, compiled.

use crate::base::regex::RegexSlots;
use crate::config::access_log::{AccessLog as AccessLogConfig, AccessLogFormat};
use crate::config::error::ConfigError;
use crate::protocol::http::matcher::MatchScratch;

use super::access_log_buffer::AccessLogBuffer;
use super::access_log_queue::SinkId;
use super::context::FormatContext;
use super::filter::Filter;
use super::formatter::{DEFAULT_FORMAT, Formatter};
use super::substitution::SubstitutionFormatter;

/// One access log: which requests, in what form, where to.
#[derive(Debug, Clone)]
pub struct AccessLog {
    filter: Option<Filter>,
    format: SubstitutionFormatter,
    sink: SinkId,
}

impl AccessLog {
    /// Compiles an access log; `path` is its field path, `sink` the id that `control::log_writer` gave its
    /// sink. The regular expressions of its filter take their places in `slots`.
    ///
    /// # Errors
    /// When its format or its filter is wrong.
    pub fn compile(
        config: &AccessLogConfig,
        sink: SinkId,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        let AccessLogConfig { sink: _, format, filter } = config;
        let format_path = format!("{path}.typed_config.log_format");
        let format = match format {
            AccessLogFormat::Format(format) => SubstitutionFormatter::compile(format, &format_path)?,
            AccessLogFormat::Default => SubstitutionFormatter::Text(
                Formatter::parse(DEFAULT_FORMAT)
                    .map_err(|error| ConfigError::new(format_path, error.to_string()))?,
            ),
        };
        let filter = filter
            .as_ref()
            .map(|filter| Filter::compile(filter, &format!("{path}.filter"), slots))
            .transpose()?;
        Ok(Self { filter, format, sink })
    }

    /// Whether the request is recorded. `scratch` is this core's, of the set that `slots` belonged to.
    pub fn should_log(&self, context: &FormatContext<'_>, scratch: &mut MatchScratch) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.matches(context, scratch))
    }

    /// Appends the request's record.
    pub fn write_record(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) {
        self.format.write(context, out);
    }

    /// Records the request if its filter lets it pass: the last thing done for a request.
    pub fn log(&self, context: &FormatContext<'_>, scratch: &mut MatchScratch, buffer: &mut AccessLogBuffer) {
        if self.should_log(context, scratch) {
            buffer.record(self.sink, context.now_ns, |out| self.write_record(context, out));
        }
    }

    /// Operators of its format that never have a value here; see [`Formatter::without_value`].
    pub fn without_value(&self) -> Vec<&str> {
        self.format.without_value()
    }
}

#[cfg(test)]
mod tests {
    use super::super::access_log_queue::{LogMessage, LogQueue};
    use super::super::tests::Example;
    use super::*;
    use crate::config::access_log::{
        AccessLogFilter, AccessLogSink, Comparison, ComparisonOp, FormatTemplate, SubstitutionFormat,
    };
    use std::time::Duration;

    fn config(text: &str, omit_empty_values: bool) -> AccessLogConfig {
        let template = FormatTemplate::Text(text.into());
        AccessLogConfig {
            sink: AccessLogSink::Stdout,
            format: AccessLogFormat::Format(SubstitutionFormat {
                template,
                omit_empty_values,
                content_type: None,
            }),
            filter: None,
        }
    }

    #[test]
    fn request_that_passes_is_recorded_once_per_log() {
        let mut slots = RegexSlots::default();
        let mut errors_only = config("%RESPONSE_CODE%\n", false);
        errors_only.filter = Some(AccessLogFilter::StatusCode(Comparison {
            op: ComparisonOp::GreaterOrEqual,
            value: 500,
            runtime_key: None,
        }));
        let logs = [
            (config("%PROTOCOL%|%REQ(x-none)%|\n", false), 0),
            (config("%REQ(x-none)%|\n", true), 1),
            (errors_only, 2),
        ]
        .map(|(config, sink)| AccessLog::compile(&config, SinkId(sink), "log", &mut slots).unwrap());
        let (queue, receiver) = LogQueue::new();
        let mut buffer = AccessLogBuffer::new(queue, Duration::from_secs(1), 1);
        let mut scratch = MatchScratch::default();
        let mut example = Example::new();
        for code in [200, 503] {
            example.info.response_code = Some(code);
            for log in &logs {
                log.log(&example.context(), &mut scratch, &mut buffer);
            }
        }
        let mut records = [String::new(), String::new(), String::new()];
        while let Ok(LogMessage::Piece(piece)) = receiver.try_recv() {
            records[piece.sink.0 as usize] += std::str::from_utf8(&piece.records).unwrap();
        }
        assert_eq!(records, ["HTTP/1.1|-|\nHTTP/1.1|-|\n", "|\n|\n", "503\n"]);
    }

    #[test]
    fn wrong_format_is_an_error_with_its_path() {
        let error = AccessLog::compile(&config("50%", false), SinkId(0), "a[0]", &mut RegexSlots::default());
        let error = error.unwrap_err();
        assert_eq!(error.path, "a[0].typed_config.log_format.text_format");
        assert!(error.reason.contains("byte 2"), "{}", error.reason);
    }
}
