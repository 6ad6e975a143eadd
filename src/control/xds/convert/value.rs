//! Values that many messages share: durations, enums, `Any`s, data sources, JSON, metadata, shares of requests.
use std::ops::Range;
use std::time::Duration;

use prost::Message;
use serde_json::Value;

use super::at::At;
use super::fields::classify;
use super::report::Class;
use super::tls;
use crate::config::matcher::{FractionalPercent, RuntimeFraction};
use crate::config::metadata::{Metadata, Struct};
use crate::config::runtime::RuntimeFlag;
use crate::config::tls::Source;
use crate::control::xds::pb::{self, Named};

/// Largest duration of protobuf: 10,000 years in seconds.
const DURATION_SECONDS_MAX: i64 = 315_576_000_000;

/// Depth to which nested JSON values are followed. Loader and prost stop at 100 messages, three per level.
const JSON_DEPTH_MAX: u32 = 64;

/// Largest file or environment variable taken as a data source: what Envoy's gRPC sources may carry at most, too.
const DATA_SOURCE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A duration, which must not be negative.
///
/// # Errors
/// What is wrong with it.
pub(in super::super) fn duration_of(value: &pb::google::Duration) -> Result<Duration, &'static str> {
    let pb::google::Duration { seconds, nanos } = *value;
    let nanos_part = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let seconds_part = u64::try_from(seconds).ok().filter(|_| seconds <= DURATION_SECONDS_MAX);
    let duration = seconds_part.zip(nanos_part).map(|(seconds, nanos)| Duration::new(seconds, nanos));
    duration.ok_or("duration out of range: must not be negative, at most 315576000000s")
}

impl At<'_> {
    /// A duration that is set, which must not be negative.
    pub(super) fn duration(&self, field: &str, value: Option<pb::google::Duration>) -> Option<Duration> {
        duration_of(&value?).map_err(|reason| self.field(field).error(reason)).ok()
    }

    /// A duration of which zero means "off"; `default` when it is not set.
    pub(super) fn timeout(
        &self,
        field: &str,
        value: Option<pb::google::Duration>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        if value.is_none() {
            return default;
        }
        self.duration(field, value).filter(|duration| !duration.is_zero())
    }

    /// A value of an enum; an unknown number is a mistake and gives the enum's zero.
    pub(super) fn enumeration<E: TryFrom<i32> + Default>(&self, field: &str, value: i32) -> E {
        E::try_from(value).unwrap_or_else(|_| {
            self.field(field).error(format!("no value {value} in this enum"));
            E::default()
        })
    }

    /// The message inside an `Any`; not being one is a mistake.
    pub(super) fn unpack<M: Message + Named + Default>(&self, any: &pb::google::Any) -> Option<M> {
        if type_name(any) != M::NAME {
            self.error(format!("{} expected, not {:?}", M::NAME, any.type_url));
            return None;
        }
        self.decode(&any.value)
    }

    /// An encoded message; not being one is a mistake.
    pub(super) fn decode<M: Message + Named + Default>(&self, bytes: &[u8]) -> Option<M> {
        match M::decode(bytes) {
            Ok(message) => Some(message),
            Err(error) => {
                self.error(format!("not a valid {}: {error}", M::NAME));
                None
            }
        }
    }

    /// An extension that this version does not know, of the given class.
    pub(super) fn extension(&self, class: Class, any: &pb::google::Any, note: &'static str) {
        self.found(class, type_name(any), note);
    }

    /// The contents of a data source, read now.
    pub(super) fn data_source(&self, source: pb::core::DataSource) -> Option<Vec<u8>> {
        self.source(source).map(|source| source.data.to_vec())
    }

    /// A data source, read now, that may be read again.
    pub(super) fn source(&self, source: pb::core::DataSource) -> Option<Source> {
        use pb::core::DataSourceSpecifierOneOf as Specifier;
        classify!(self, source => pb::core::DataSource {
            implemented: specifier = "files of certificates and keys are watched, others and environment variables \
                                      are read once, when configuration is converted",
                watched_directory = "of certificates and keys";
        });
        let watched_directory =
            watched_directory.map(|message| tls::directory(&self.field("watched_directory"), message));
        let file = match &specifier {
            Some(Specifier::Filename(name)) => Some(Box::from(name.as_str())),
            _ => None,
        };
        let data = self.context.known_bytes.borrow_mut().shared(&self.bytes(specifier)?);
        Some(Source { file, watched_directory, data })
    }

    fn bytes(&self, specifier: Option<pb::core::DataSourceSpecifierOneOf>) -> Option<Vec<u8>> {
        use pb::core::DataSourceSpecifierOneOf as Specifier;
        match specifier {
            Some(Specifier::InlineString(text)) => Some(text.into_bytes()),
            Some(Specifier::InlineBytes(bytes)) => Some(bytes),
            Some(Specifier::Filename(name)) => self.file(&name),
            Some(Specifier::EnvironmentVariable(name)) => {
                let value = std::env::var_os(&name);
                if value.is_none() {
                    self.field("environment_variable").error(format!("no environment variable {name:?}"));
                }
                value.map(std::os::unix::ffi::OsStringExt::into_vec)
            }
            None => {
                self.error("one of filename, inline_bytes, inline_string, environment_variable must be set");
                None
            }
        }
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        let at = self.field("filename");
        match std::fs::metadata(name) {
            Ok(metadata) if metadata.len() > DATA_SOURCE_BYTES_MAX => {
                at.error(format!("{name}: larger than {DATA_SOURCE_BYTES_MAX} bytes"));
                return None;
            }
            Ok(metadata) if !metadata.is_file() => {
                at.error(format!("{name}: not a regular file"));
                return None;
            }
            _ => {}
        }
        std::fs::read(name).map_err(|error| at.error(format!("{name}: {error}"))).ok()
    }

    /// A data source that must be text.
    pub(super) fn text_source(&self, source: pb::core::DataSource) -> Option<Box<str>> {
        match String::from_utf8(self.data_source(source)?) {
            Ok(text) => Some(text.into_boxed_str()),
            Err(_) => {
                self.error("not UTF-8");
                None
            }
        }
    }

    /// Metadata of a resource.
    pub(super) fn metadata(&self, field: &str, metadata: Option<pb::core::Metadata>) -> Metadata {
        let Some(metadata) = metadata else { return Metadata::default() };
        let at = self.field(field);
        classify!(&at, metadata => pb::core::Metadata {
            implemented: filter_metadata;
            no_effect: typed_filter_metadata = "only filters that this version lacks read it; of endpoints envoy.transport_sockets.proxy_protocol is implemented";
        });
        filter_metadata
            .into_iter()
            .map(|(key, value)| (key.into(), Value::Object(json_object(value))))
            .collect()
    }

    /// A share of requests that runtime may override.
    pub(super) fn runtime_fraction(&self, fraction: pb::core::RuntimeFractionalPercent) -> RuntimeFraction {
        classify!(self, fraction => pb::core::RuntimeFractionalPercent {
            implemented: default_value, runtime_key;
        });
        let default_value = match default_value {
            Some(value) => self.fraction("default_value", value),
            None => {
                self.field("default_value").error("must be set");
                FractionalPercent { numerator: 0, denominator: 100 }
            }
        };
        RuntimeFraction { default_value, runtime_key: self.context.runtime.key(&runtime_key) }
    }

    /// Whether something is on: its own word, unless runtime has one.
    pub(super) fn feature_flag(&self, field: &str, flag: pb::core::RuntimeFeatureFlag) -> RuntimeFlag {
        let at = &self.field(field);
        classify!(at, flag => pb::core::RuntimeFeatureFlag { implemented: default_value, runtime_key; });
        RuntimeFlag {
            default_value: default_value.unwrap_or_default(),
            runtime_key: self.context.runtime.key(&runtime_key),
        }
    }

    /// A range, its end excluded.
    pub(super) fn range(&self, range: pb::types::Int32Range) -> Range<i32> {
        classify!(self, range => pb::types::Int32Range { implemented: start, end; });
        start..end
    }

    /// Percents, 0 to 100.
    pub(super) fn percent(&self, field: &str, percent: pb::types::Percent) -> f64 {
        let at = &self.field(field);
        classify!(at, percent => pb::types::Percent { implemented: value; });
        if !(0.0..=100.0).contains(&value) {
            at.error("must be 0 to 100");
        }
        value
    }

    /// So many percent of a time; none of it where nothing is set.
    pub(super) fn percent_of(
        &self,
        time: Duration,
        field: &str,
        percent: Option<pb::types::Percent>,
    ) -> Duration {
        let Some(percent) = percent else { return Duration::ZERO };
        let share = time.as_secs_f64() * self.percent(field, percent) / 100.0;
        // What is no percentage was refused.
        Duration::try_from_secs_f64(share).unwrap_or_default()
    }

    /// A share of requests.
    pub(super) fn fraction(&self, field: &str, fraction: pb::types::FractionalPercent) -> FractionalPercent {
        use pb::types::FractionalPercentDenominatorType as Denominator;
        let at = self.field(field);
        classify!(&at, fraction => pb::types::FractionalPercent { implemented: numerator, denominator; });
        let denominator = match at.enumeration("denominator", denominator) {
            Denominator::Hundred => 100,
            Denominator::TenThousand => 10_000,
            Denominator::Million => 1_000_000,
        };
        FractionalPercent { numerator, denominator }
    }
}

/// The type in an `Any`'s URL: what follows the last slash.
pub(super) fn type_name(any: &pb::google::Any) -> &str {
    any.type_url.rsplit_once('/').map_or(any.type_url.as_str(), |(_, name)| name)
}

/// A `google.protobuf.Struct` as JSON, keys sorted.
pub(super) fn json_object(object: pb::google::Struct) -> Struct {
    object_within(object, JSON_DEPTH_MAX)
}

fn object_within(object: pb::google::Struct, depth: u32) -> Struct {
    object.fields.into_iter().map(|(key, value)| (key, json_within(value, depth))).collect()
}

fn json_within(value: pb::google::Value, depth: u32) -> Value {
    use pb::google::ValueKindOneOf as Kind;
    let Some(deeper) = depth.checked_sub(1) else { return Value::Null };
    match value.kind {
        Some(Kind::NullValue(_)) | None => Value::Null,
        Some(Kind::NumberValue(number)) => json_number(number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::StructValue(object)) => Value::Object(object_within(object, deeper)),
        Some(Kind::ListValue(list)) => {
            Value::Array(list.values.into_iter().map(|value| json_within(value, deeper)).collect())
        }
    }
}

/// A double as JSON: whole numbers without a fraction, as Envoy prints them; JSON has no NaN or infinity.
fn json_number(number: f64) -> Value {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0; // 2^53: above it doubles skip integers.
    if number.fract() == 0.0 && number.abs() <= EXACT_MAX {
        #[allow(clippy::cast_possible_truncation)] // Whole and within 2^53.
        return Value::from(number as i64);
    }
    serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)
}
