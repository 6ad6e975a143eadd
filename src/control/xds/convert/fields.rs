//! The class of every field of every message that conversion reads, and the macro that both declares and applies it.
//!
//! `classify!` takes a message apart without `..`: a field that a newer API adds does not compile until someone has
//! given it a class. The same list becomes the table in `docs/fields.md`.
use std::collections::BTreeMap;
use std::fmt::Write;

use super::at::At;
use super::report::Class;
use crate::control::xds::pb::{self, Named};

/// A message all of whose fields have a class.
pub trait Classified: Named {
    /// The fields, by class and then as listed in the code.
    const FIELDS: &'static [Field];
}

/// One field and its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Name in the proto.
    pub name: &'static str,
    /// What this version does with it.
    pub class: Class,
    /// What the class does not say; may be empty.
    pub note: &'static str,
}

/// Fields without effect that are for the reader of a configuration, so that a report of them would be noise.
const LABELS: [&str; 2] = ["name", "description"];

/// Whether a field is set to something that asks for behaviour.
pub(super) trait IsSet {
    fn is_set(&self) -> bool;
}

impl IsSet for bool {
    fn is_set(&self) -> bool {
        *self
    }
}

/// An explicit `false` is the default of every `BoolValue` whose class is not `Implemented`.
impl IsSet for Option<bool> {
    fn is_set(&self) -> bool {
        *self == Some(true)
    }
}

impl IsSet for i32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V> IsSet for BTreeMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

macro_rules! set_when_present {
    ($($type:ty),* $(,)?) => {
        $(impl IsSet for Option<$type> {
            fn is_set(&self) -> bool {
                self.is_some()
            }
        })*
    };
}
set_when_present!(
    u32,
    u64,
    Vec<u8>,
    pb::google::Any,
    pb::google::Duration,
    pb::types::Percent,
    pb::core::Metadata,
    pb::core::ApiConfigSource,
    pb::core::ConfigSource,
    pb::core::TypedExtensionConfig,
    pb::core::TcpKeepalive,
    pb::matching::Matcher,
    pb::matching::RegexMatcherEngineTypeOneOf,
    pb::core::WatchedDirectory,
    pb::core::DataSource,
    pb::core::ProxyProtocolConfig,
    pb::http_connection_manager::RequestIDExtension,
    pb::listener::ListenerFilterChainMatchPredicate,
    pb::tls::TlsParameters,
    pb::http::SubstitutionFormatString,
    pb::types::RegexMatcherEngineTypeOneOf,
    pb::http::UpstreamHttpProtocolOptions,
    pb::bootstrap::StatsMatcher,
    pb::bootstrap::BootstrapStatsFlushOneOf,
    pb::bootstrap::BootstrapStatsEvictionOneOf,
    pb::core::NodeUserAgentVersionTypeOneOf,
    pb::http_connection_manager::HttpConnectionManagerHcmAccessLogOptions,
);

/// `r#type` in Rust is `type` in the proto.
pub(super) const fn proto_name(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// `classify!(at, message => pb::x::Message { implemented: a, b = "note"; no_effect: c = "why"; ... });`
///
/// Takes the message apart exhaustively: fields of class `implemented` become local variables; the others are
/// reported at `at` when they are set. Classes come in this order; an empty one is left out.
macro_rules! classify {
    ($at:expr, $message:expr => $($type:ident)::+ {
        $(implemented: $($yes:ident $(= $yes_note:literal)?),+ $(,)?;)?
        $(no_effect: $($none:ident = $none_note:literal),+ $(,)?;)?
        $(not_yet: $($later:ident $(= $later_note:literal)?),+ $(,)?;)?
        $(refused: $($never:ident $(= $never_note:literal)?),+ $(,)?;)?
    }) => {
        #[allow(non_local_definitions)]
        impl $crate::control::xds::convert::fields::Classified for $($type)::+ {
            const FIELDS: &'static [$crate::control::xds::convert::fields::Field] = &[
                $($($crate::control::xds::convert::fields::Field {
                    name: $crate::control::xds::convert::fields::proto_name(stringify!($yes)),
                    class: $crate::control::xds::convert::report::Class::Implemented,
                    note: concat!($($yes_note)?),
                },)+)?
                $($($crate::control::xds::convert::fields::Field {
                    name: $crate::control::xds::convert::fields::proto_name(stringify!($none)),
                    class: $crate::control::xds::convert::report::Class::NoEffect,
                    note: $none_note,
                },)+)?
                $($($crate::control::xds::convert::fields::Field {
                    name: $crate::control::xds::convert::fields::proto_name(stringify!($later)),
                    class: $crate::control::xds::convert::report::Class::NotYet,
                    note: concat!($($later_note)?),
                },)+)?
                $($($crate::control::xds::convert::fields::Field {
                    name: $crate::control::xds::convert::fields::proto_name(stringify!($never)),
                    class: $crate::control::xds::convert::report::Class::Refused,
                    note: concat!($($never_note)?),
                },)+)?
            ];
        }
        let message = $message;
        let at: &$crate::control::xds::convert::at::At<'_> = $at;
        let table = $crate::control::xds::convert::fields::Table::of(&message);
        let $($type)::+ {
            $($($yes,)+)? $($($none,)+)? $($($later,)+)? $($($never,)+)?
        } = message;
        $($(table.report(at, stringify!($none), &$none);)+)?
        $($(table.report(at, stringify!($later), &$later);)+)?
        $($(table.report(at, stringify!($never), &$never);)+)?
        let _ = (table, at);
    };
}
pub(super) use classify;

/// The fields of one message.
pub(super) struct Table {
    message: &'static str,
    fields: &'static [Field],
}

impl Table {
    /// That of `M`.
    pub(super) fn of<M: Classified>(_: &M) -> Self {
        Self { message: M::NAME, fields: M::FIELDS }
    }

    /// Reports `field` by its class if it is set.
    pub(super) fn report<T: IsSet>(&self, at: &At<'_>, field: &'static str, value: &T) {
        let name = proto_name(field);
        if LABELS.contains(&name) {
            return;
        }
        let known = self.fields.iter().find(|known| known.name == name);
        if let Some(Field { class, note, .. }) = known.filter(|_| value.is_set()) {
            at.field(name).found(*class, format!("{}.{name}", self.message), note);
        }
    }
}

/// The table of all classified messages in Markdown: the contents of `docs/fields.md`.
pub fn markdown() -> String {
    let mut text = String::from(include_str!("fields.md"));
    for (message, fields) in super::messages::CLASSIFIED {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "\n## {message}\n\n| field | class | note |\n|---|---|---|\n");
        for Field { name, class, note } in *fields {
            let _ = writeln!(text, "| `{name}` | {class} | {note} |");
        }
    }
    text
}
