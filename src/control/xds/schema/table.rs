//! Reading the packed table: messages, fields, enums.
//!
//! Layout, all little-endian, `proto/schema_table.py` writes it: the header (magic, version, four counts,
//! seven section offsets), then the sections. A string is an offset into the string section, where it
//! stands behind a 16-bit length.
//!
//! | section | record |
//! |---|---|
//! | messages, by name | name u32, extra u32, first field u16, fields u8, class u8 |
//! | fields, by number within their message | name u32, rules u32, number u16, type u16, kind u8, flags u8, oneof u8, by_name u8 |
//! | enums, by name | name u32, first value u16, values u16 |
//! | values, as declared | name u32, number i32, flags u32 |
//! | extras | v2 name u32, oneofs u8, (name u32, required u8)*, removed fields u8, (name u32)* |
//! | rules | codes, see `rules` |
//! | strings | |
//!
//! `by_name` of the n-th field record is the position of the message's n-th field in name order. Everything
//! here indexes the blob directly: it is a constant of the build, walked whole by the test below, and no
//! input reaches an offset.
use super::rules::Rules;

static TABLE: &[u8] = include_bytes!("table.bin");

/// Magic and version: the generator and this file have to agree.
const _: () = assert!(matches!(include_bytes!("table.bin"), [b'R', b'W', b'S', b'C', 1, 0, 0, 0, ..]));

const MESSAGE_SIZE: usize = 12;
const FIELD_SIZE: usize = 16;
const ENUM_SIZE: usize = 8;
const VALUE_SIZE: usize = 12;

/// Position of a count or a section offset in the header.
#[derive(Clone, Copy)]
enum Header {
    MessageCount = 8,
    EnumCount = 16,
    Messages = 24,
    Fields = 28,
    Enums = 32,
    Values = 36,
    Extras = 40,
    Rules = 44,
    Strings = 48,
}

fn u8_at(at: usize) -> u8 {
    TABLE[at]
}

fn u16_at(at: usize) -> u16 {
    u16::from_le_bytes([TABLE[at], TABLE[at + 1]])
}

fn u32_at(at: usize) -> u32 {
    u32::from_le_bytes([TABLE[at], TABLE[at + 1], TABLE[at + 2], TABLE[at + 3]])
}

fn header(entry: Header) -> usize {
    u32_at(entry as usize) as usize
}

/// The string at an offset of the string section.
pub(super) fn text(offset: u32) -> &'static str {
    let start = header(Header::Strings) + offset as usize;
    let length = u16_at(start) as usize;
    // The generator writes UTF-8 only; the test reads every string.
    std::str::from_utf8(&TABLE[start + 2..start + 2 + length]).unwrap_or_default()
}

/// First record of `count` whose key is not less than wanted, by `key`.
fn search(count: usize, wanted: &str, key: impl Fn(usize) -> &'static str) -> Option<usize> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        match key(middle).cmp(wanted) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Equal => return Some(middle),
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

// === Messages ===

/// A message type.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Message(u16);

/// How protobuf's JSON mapping and the checks treat a message type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Plain,
    Any,
    /// `google.protobuf.UInt32Value` and its siblings: one field, `value`.
    Wrapper,
    Struct,
    ListValue,
    Value,
    Timestamp,
    Duration,
    FieldMask,
    /// Key and value of a map field; never written as an object of its own.
    MapEntry,
}

/// A oneof of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Oneof {
    pub name: &'static str,
    /// One member must be set.
    pub required: bool,
}

impl Message {
    /// By full name, `envoy.config.cluster.v3.Cluster`.
    pub fn find(name: &str) -> Option<Self> {
        let base = header(Header::Messages);
        search(header(Header::MessageCount), name, |index| text(u32_at(base + index * MESSAGE_SIZE)))
            .map(|index| Self(index as u16))
    }

    /// By type URL, `type.googleapis.com/envoy.config.cluster.v3.Cluster`; any non-empty host will do.
    pub fn find_by_url(url: &str) -> Option<Self> {
        let (host, name) = url.rsplit_once('/')?;
        if host.is_empty() { None } else { Self::find(name) }
    }

    /// The v3 message that replaced a v2 one, `envoy.api.v2.Cluster`.
    pub fn find_by_v2_name(name: &str) -> Option<Self> {
        Self::all().find(|message| !name.is_empty() && message.v2_name() == name)
    }

    /// All messages, by name.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..header(Header::MessageCount) as u16).map(Self)
    }

    fn at(self) -> usize {
        header(Header::Messages) + self.0 as usize * MESSAGE_SIZE
    }

    pub fn name(self) -> &'static str {
        text(u32_at(self.at()))
    }

    pub fn class(self) -> Class {
        match u8_at(self.at() + 11) {
            1 => Class::Any,
            2 => Class::Wrapper,
            3 => Class::Struct,
            4 => Class::ListValue,
            5 => Class::Value,
            6 => Class::Timestamp,
            7 => Class::Duration,
            8 => Class::FieldMask,
            9 => Class::MapEntry,
            _ => Class::Plain,
        }
    }

    fn first_field(self) -> u16 {
        u16_at(self.at() + 8)
    }

    pub fn field_count(self) -> usize {
        u8_at(self.at() + 10) as usize
    }

    /// The fields, by number.
    pub fn fields(self) -> impl DoubleEndedIterator<Item = Field> + Clone {
        let first = self.first_field();
        (first..first + self.field_count() as u16).map(Field)
    }

    /// Position of `field` in `fields()`.
    pub fn position(self, field: Field) -> usize {
        (field.0 - self.first_field()) as usize
    }

    pub fn field_by_number(self, number: u32) -> Option<Field> {
        let (mut low, mut high) = (0, self.field_count() as u16);
        while low < high {
            let middle = Field(self.first_field() + low + (high - low) / 2);
            match middle.number().cmp(&number) {
                std::cmp::Ordering::Less => low += (high - low) / 2 + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = low + (high - low) / 2,
            }
        }
        None
    }

    /// By the name of the .proto file (`lb_policy`) or its JSON form (`lbPolicy`).
    pub fn field_by_name(self, name: &str) -> Option<Field> {
        let first = self.first_field();
        let by_name = |index: usize| Field(first + u16::from(u8_at(Field(first + index as u16).at() + 15)));
        if let Some(index) = search(self.field_count(), name, |index| by_name(index).name()) {
            return Some(by_name(index));
        }
        self.fields().find(|field| is_json_name(field.name(), name))
    }

    fn extra(self) -> Option<usize> {
        let offset = u32_at(self.at() + 4) as usize;
        (offset != 0).then(|| header(Header::Extras) + offset)
    }

    /// Name of the v2 message that this one replaced, or empty.
    pub fn v2_name(self) -> &'static str {
        self.extra().map_or("", |extra| text(u32_at(extra)))
    }

    pub fn oneofs(self) -> impl Iterator<Item = Oneof> {
        let (base, count) = self.extra().map_or((0, 0), |extra| (extra + 5, u8_at(extra + 4)));
        (0..count as usize).map(move |index| Oneof {
            name: text(u32_at(base + index * 5)),
            required: u8_at(base + index * 5 + 4) != 0,
        })
    }

    /// Whether a field of this name existed once (in the v2 API, mostly) and was taken out.
    pub fn is_removed_field(self, name: &str) -> bool {
        let Some(extra) = self.extra() else { return false };
        let base = extra + 5 + u8_at(extra + 4) as usize * 5;
        (0..u8_at(base) as usize).any(|index| text(u32_at(base + 1 + index * 4)) == name)
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether `name` is the lowerCamelCase form of `proto_name`: each underscore goes and raises what follows.
pub fn is_json_name(proto_name: &str, name: &str) -> bool {
    let mut rest = name.bytes();
    let mut raise = false;
    for byte in proto_name.bytes() {
        if byte == b'_' {
            raise = true;
            continue;
        }
        let expected = if raise { byte.to_ascii_uppercase() } else { byte };
        raise = false;
        if rest.next() != Some(expected) {
            return false;
        }
    }
    rest.next().is_none()
}

// === Fields ===

/// A field of a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Field(u16);

/// Type of a field's value, or of one element of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Message,
    Bytes,
    Uint32,
    Enum,
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
}

impl Field {
    const REPEATED: u8 = 1;
    const MAP: u8 = 2;
    const DEPRECATED: u8 = 4;
    const DISALLOWED: u8 = 8;
    const SENSITIVE: u8 = 16;

    fn at(self) -> usize {
        header(Header::Fields) + self.0 as usize * FIELD_SIZE
    }

    /// Name as in the .proto file.
    pub fn name(self) -> &'static str {
        text(u32_at(self.at()))
    }

    pub fn number(self) -> u32 {
        u32::from(u16_at(self.at() + 8))
    }

    pub fn kind(self) -> Kind {
        // Numbers of FieldDescriptorProto.Type.
        match u8_at(self.at() + 12) {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            11 => Kind::Message,
            12 => Kind::Bytes,
            13 => Kind::Uint32,
            14 => Kind::Enum,
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            18 => Kind::Sint64,
            _ => Kind::String,
        }
    }

    fn has(self, flag: u8) -> bool {
        u8_at(self.at() + 13) & flag != 0
    }

    /// Repeated, maps included.
    pub fn is_repeated(self) -> bool {
        self.has(Self::REPEATED)
    }

    pub fn is_map(self) -> bool {
        self.has(Self::MAP)
    }

    pub fn is_deprecated(self) -> bool {
        self.has(Self::DEPRECATED)
    }

    /// Deprecated so long that Envoy refuses it (`envoy.annotations.disallowed_by_default`).
    pub fn is_disallowed(self) -> bool {
        self.has(Self::DISALLOWED)
    }

    /// Holds a secret: never shown (`udpa.annotations.sensitive`).
    pub fn is_sensitive(self) -> bool {
        self.has(Self::SENSITIVE)
    }

    /// Index of its oneof in `Message::oneofs`.
    pub fn oneof(self) -> Option<usize> {
        let oneof = u8_at(self.at() + 14);
        (oneof != 0xff).then_some(oneof as usize)
    }

    /// Type of the value, of an element, or of a map's entry.
    pub fn message(self) -> Option<Message> {
        (self.kind() == Kind::Message).then(|| Message(u16_at(self.at() + 10)))
    }

    pub fn enumeration(self) -> Option<Enum> {
        (self.kind() == Kind::Enum).then(|| Enum(u16_at(self.at() + 10)))
    }

    /// Key and value fields of a map.
    pub fn map_entry(self) -> Option<(Self, Self)> {
        let entry = self.message().filter(|_| self.is_map())?;
        Some((entry.field_by_number(1)?, entry.field_by_number(2)?))
    }

    /// Constraints on the value (protoc-gen-validate), possibly none.
    pub fn rules(self) -> Rules {
        Rules::new(&TABLE[header(Header::Rules)..header(Header::Strings)], u32_at(self.at() + 4) as usize)
    }
}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

// === Enums ===

/// An enum type.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Enum(u16);

/// One value of an enum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EnumValue {
    pub name: &'static str,
    pub number: i32,
    pub deprecated: bool,
    /// Deprecated so long that Envoy refuses it.
    pub disallowed: bool,
}

impl Enum {
    fn at(self) -> usize {
        header(Header::Enums) + self.0 as usize * ENUM_SIZE
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..header(Header::EnumCount) as u16).map(Self)
    }

    pub fn name(self) -> &'static str {
        text(u32_at(self.at()))
    }

    /// The values as declared: of two with one number, the first names it.
    pub fn values(self) -> impl Iterator<Item = EnumValue> {
        let base = header(Header::Values) + u16_at(self.at() + 4) as usize * VALUE_SIZE;
        (0..u16_at(self.at() + 6) as usize).map(move |index| {
            let at = base + index * VALUE_SIZE;
            let flags = u8_at(at + 8);
            EnumValue {
                name: text(u32_at(at)),
                number: u32_at(at + 4) as i32,
                deprecated: flags & Field::DEPRECATED != 0,
                disallowed: flags & Field::DISALLOWED != 0,
            }
        })
    }

    /// By number.
    pub fn value(self, number: i32) -> Option<EnumValue> {
        self.values().find(|value| value.number == number)
    }

    /// By name in any case, as Envoy reads it.
    pub fn value_by_name(self, name: &str) -> Option<EnumValue> {
        self.values().find(|value| value.name.eq_ignore_ascii_case(name))
    }

    /// `google.protobuf.NullValue`, the one enum whose value is written `null`.
    pub fn is_null_value(self) -> bool {
        self.name() == "google.protobuf.NullValue"
    }
}

impl std::fmt::Debug for Enum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_walked_whole_is_consistent() {
        assert!(TABLE.len() < 512 * 1024, "the table is meant to be small: {} bytes", TABLE.len());
        let mut fields = 0;
        let mut last = "";
        for message in Message::all() {
            assert!(message.name() > last, "{message:?} out of order");
            last = message.name();
            assert_eq!(Message::find(last), Some(message));
            let oneofs = message.oneofs().count();
            let mut number = 0;
            for field in message.fields() {
                fields += 1;
                assert!(field.number() > number);
                number = field.number();
                assert_eq!(message.field_by_name(field.name()), Some(field), "{message:?}.{field:?}");
                assert_eq!(message.field_by_number(number), Some(field));
                assert!(field.oneof().is_none_or(|oneof| oneof < oneofs));
                assert_eq!(field.message().is_some(), field.kind() == Kind::Message);
                assert!(field.message().is_none_or(|refers| !refers.name().is_empty()));
                assert!(field.enumeration().is_none_or(|refers| refers.values().count() > 0));
                assert_eq!(field.is_map(), field.map_entry().is_some());
                field.rules().for_each(drop);
            }
        }
        assert_eq!(fields, u32_at(12));
        for enumeration in Enum::all() {
            assert!(enumeration.values().all(|value| !value.name.is_empty()), "{enumeration:?}");
        }
    }

    #[test]
    fn field_is_found_by_both_its_names() {
        let cluster = Message::find("envoy.config.cluster.v3.Cluster").unwrap();
        let field = cluster.field_by_name("lb_policy").unwrap();
        assert_eq!(cluster.field_by_name("lbPolicy"), Some(field));
        assert_eq!(field.number(), 6);
        assert_eq!(field.enumeration().unwrap().value_by_name("Round_Robin").unwrap().number, 0);
        for wrong in ["LbPolicy", "lbpolicy", "lb_Policy", "lbPolicyX", "lbPolic", ""] {
            assert_eq!(cluster.field_by_name(wrong), None, "{wrong}");
        }
        assert_eq!(cluster.v2_name(), "envoy.api.v2.Cluster");
        assert_eq!(Message::find_by_v2_name("envoy.api.v2.Cluster"), Some(cluster));
        assert!(cluster.is_removed_field("hosts"));
    }

    #[test]
    fn marks_of_fields_are_kept() {
        let tls = Message::find("envoy.extensions.transport_sockets.tls.v3.TlsCertificate").unwrap();
        assert!(tls.field_by_name("private_key").unwrap().is_sensitive());
        assert!(!tls.field_by_name("certificate_chain").unwrap().is_sensitive());
        let cluster = Message::find("envoy.config.cluster.v3.Cluster").unwrap();
        assert!(cluster.field_by_name("http2_protocol_options").unwrap().is_deprecated());
        let address = Message::find("envoy.config.core.v3.Address").unwrap();
        assert_eq!(address.oneofs().next(), Some(Oneof { name: "address", required: true }));
        assert_eq!(Message::find_by_url("x/google.protobuf.Any").unwrap().class(), Class::Any);
        assert_eq!(Message::find_by_url("/google.protobuf.Any"), None);
    }
}
