//! The Envoy v3 API as data: every message, field, enum and constraint that Envoy 1.40 knows.
//!
//! One packed blob (`table.bin`, made by `proto/schema_table.py`) is part of the binary and is searched in
//! place: nothing is built at start, no pointer is relocated, and only the pages that a configuration touches
//! are ever read. The loader turns YAML and JSON into wire bytes with it, `validate` checks wire bytes,
//! `json` prints them; it knows far more than `convert` reads, so that a field which is merely not
//! implemented can be told from one that does not exist.
mod rules;
mod table;

pub use rules::{Number, Rule, Rules, WellKnown};
pub use table::{Class, Enum, EnumValue, Field, Kind, Message, Oneof, is_json_name};
