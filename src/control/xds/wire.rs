//! Protobuf wire bytes, read by the schema table and written by the loader.
//!
//! `Fields::decode` takes one message apart the way protobuf merges it: the last value of a singular field
//! counts, pieces of a singular message are joined, a later member of a oneof clears the earlier one, zeros
//! without presence are not there. What `validate` and `json` see is therefore independent of how a control
//! plane happened to encode it. Nested messages stay bytes until someone descends.
use super::schema::{Field, Kind, Message};
use crate::base::limits::CONFIG_UNKNOWN_NUMBERS_MAX;
use std::borrow::Cow;

/// Wire bytes that are not a message of the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// Ends within a field.
    Truncated,
    /// A varint of more than ten bytes.
    VarintTooLong,
    /// Field number 0 or above 2^29 - 1.
    FieldNumber(u64),
    /// Wire type 3, 4, 6 or 7: groups are not part of proto3.
    WireType(u8),
    /// A string that is not UTF-8.
    NotUtf8(Field),
    /// Messages nested deeper than `limits::CONFIG_DEPTH_MAX`.
    TooDeep,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated => f.write_str("the message ends within a field"),
            Self::VarintTooLong => f.write_str("a varint is longer than ten bytes"),
            Self::FieldNumber(number) => write!(f, "{number} is not a field number"),
            Self::WireType(wire_type) => write!(f, "wire type {wire_type} is not part of proto3"),
            Self::NotUtf8(field) => write!(f, "string field {field:?} is not UTF-8"),
            Self::TooDeep => f.write_str("messages are nested too deep"),
        }
    }
}

impl std::error::Error for WireError {}

// === Reading ===

/// A value as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for index in 0..10 {
            let (&byte, rest) = self.rest.split_first().ok_or(WireError::Truncated)?;
            self.rest = rest;
            // The tenth byte's upper bits fall off the end, as in protobuf.
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::VarintTooLong)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn record(&mut self) -> Result<(u32, Raw<'a>), WireError> {
        let tag = self.varint()?;
        let number = match tag >> 3 {
            number @ 1..=0x1fff_ffff => number as u32,
            number => return Err(WireError::FieldNumber(number)),
        };
        let value = match (tag & 7) as u8 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.take()?)),
            2 => Raw::Bytes(self.bytes()?),
            5 => Raw::Fixed32(u32::from_le_bytes(self.take()?)),
            wire_type => return Err(WireError::WireType(wire_type)),
        };
        Ok((number, value))
    }
}

/// One value of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Bool(bool),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F32(f32),
    F64(f64),
    Enum(i32),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Owned only where several pieces had to be joined.
    Message(Cow<'a, [u8]>),
}

impl Value<'_> {
    /// Zero or empty: not there at all in a field without presence.
    fn is_default(&self) -> bool {
        match self {
            Self::Bool(value) => !value,
            Self::I32(value) | Self::Enum(value) => *value == 0,
            Self::U32(value) => *value == 0,
            Self::I64(value) => *value == 0,
            Self::U64(value) => *value == 0,
            // Minus zero is a value of its own.
            Self::F32(value) => value.to_bits() == 0,
            Self::F64(value) => value.to_bits() == 0,
            Self::Text(value) => value.is_empty(),
            Self::Bytes(value) => value.is_empty(),
            Self::Message(_) => false,
        }
    }
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The value of `field`, or None where the wire type does not fit: protobuf takes it for an unknown field.
fn typed<'a>(field: Field, raw: Raw<'a>) -> Result<Option<Value<'a>>, WireError> {
    Ok(Some(match (field.kind(), raw) {
        (Kind::Bool, Raw::Varint(value)) => Value::Bool(value != 0),
        (Kind::Int32, Raw::Varint(value)) => Value::I32(value as i32),
        (Kind::Sint32, Raw::Varint(value)) => Value::I32(unzigzag(value & 0xffff_ffff) as i32),
        (Kind::Uint32, Raw::Varint(value)) => Value::U32(value as u32),
        (Kind::Int64, Raw::Varint(value)) => Value::I64(value as i64),
        (Kind::Sint64, Raw::Varint(value)) => Value::I64(unzigzag(value)),
        (Kind::Uint64, Raw::Varint(value)) => Value::U64(value),
        (Kind::Enum, Raw::Varint(value)) => Value::Enum(value as i32),
        (Kind::Fixed32, Raw::Fixed32(value)) => Value::U32(value),
        (Kind::Sfixed32, Raw::Fixed32(value)) => Value::I32(value as i32),
        (Kind::Float, Raw::Fixed32(value)) => Value::F32(f32::from_bits(value)),
        (Kind::Fixed64, Raw::Fixed64(value)) => Value::U64(value),
        (Kind::Sfixed64, Raw::Fixed64(value)) => Value::I64(value as i64),
        (Kind::Double, Raw::Fixed64(value)) => Value::F64(f64::from_bits(value)),
        (Kind::String, Raw::Bytes(value)) => {
            Value::Text(std::str::from_utf8(value).map_err(|_| WireError::NotUtf8(field))?)
        }
        (Kind::Bytes, Raw::Bytes(value)) => Value::Bytes(value),
        (Kind::Message, Raw::Bytes(value)) => Value::Message(Cow::Borrowed(value)),
        _ => return Ok(None),
    }))
}

/// The fields of one message that are set, by number; elements of a repeated field in their order.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    set: Vec<(Field, Value<'a>)>,
    /// Numbers of fields that the type does not have, or has with another type; each once, in their order, and not all if they
    /// are more than `limits::CONFIG_UNKNOWN_NUMBERS_MAX`.
    pub unknown: Vec<u32>,
    /// How often others stand there.
    pub unknown_left_out: usize,
}

impl<'a> Fields<'a> {
    /// Takes `bytes` apart as a `message`.
    ///
    /// # Errors
    /// `WireError` where protobuf would refuse the bytes. Nested messages are not looked into.
    pub fn decode(message: Message, bytes: &'a [u8]) -> Result<Self, WireError> {
        const NONE: u32 = u32::MAX;
        let mut reader = Reader { rest: bytes };
        let mut out = Self::default();
        // Index in `set` of the value of each singular field.
        let mut singular = vec![NONE; message.field_count()];
        // Position of the member that each oneof holds; a message with oneofs has few.
        let mut oneofs: Vec<Option<usize>> = message.oneofs().map(|_| None).collect();
        let mut cleared = false;
        while !reader.rest.is_empty() {
            let (number, raw) = reader.record()?;
            let Some(field) = message.field_by_number(number) else {
                out.add_unknown(number);
                continue;
            };
            if field.is_repeated() {
                match raw {
                    Raw::Bytes(packed) if is_packable(field.kind()) => out.add_packed(field, packed)?,
                    _ => match typed(field, raw)? {
                        Some(value) => out.set.push((field, value)),
                        None => out.add_unknown(number),
                    },
                }
                continue;
            }
            let Some(value) = typed(field, raw)? else {
                out.add_unknown(number);
                continue;
            };
            let position = message.position(field);
            if let Some(held) = field.oneof().and_then(|oneof| oneofs.get_mut(oneof))
                && let Some(other) = held.replace(position).filter(|other| *other != position)
            {
                singular[other] = NONE;
                cleared = true;
            }
            match (out.set.get_mut(singular[position] as usize), value) {
                (Some((_, Value::Message(joined))), Value::Message(piece)) => {
                    joined.to_mut().extend_from_slice(&piece);
                }
                (Some((_, earlier)), value) => *earlier = value,
                (None, value) => {
                    singular[position] = out.set.len() as u32;
                    out.set.push((field, value));
                }
            }
        }
        if cleared {
            let mut index = 0;
            out.set.retain(|(field, _)| {
                let keep = field.is_repeated() || singular[message.position(*field)] == index;
                index += 1;
                keep
            });
        }
        out.set
            .retain(|(field, value)| field.is_repeated() || field.oneof().is_some() || !value.is_default());
        out.set.sort_by_key(|(field, _)| field.number());
        Ok(out)
    }

    fn add_unknown(&mut self, number: u32) {
        match self.unknown.binary_search(&number) {
            Ok(_) => {}
            Err(place) if self.unknown.len() < CONFIG_UNKNOWN_NUMBERS_MAX => {
                self.unknown.insert(place, number);
            }
            Err(_) => self.unknown_left_out += 1,
        }
    }

    fn add_packed(&mut self, field: Field, packed: &'a [u8]) -> Result<(), WireError> {
        let mut reader = Reader { rest: packed };
        while !reader.rest.is_empty() {
            let raw = match field.kind() {
                Kind::Fixed32 | Kind::Sfixed32 | Kind::Float => {
                    Raw::Fixed32(u32::from_le_bytes(reader.take()?))
                }
                Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => {
                    Raw::Fixed64(u64::from_le_bytes(reader.take()?))
                }
                _ => Raw::Varint(reader.varint()?),
            };
            if let Some(value) = typed(field, raw)? {
                self.set.push((field, value));
            }
        }
        Ok(())
    }

    /// Each field that is set, with its values (one, if it is singular).
    pub fn groups(&self) -> impl Iterator<Item = (Field, &[(Field, Value<'a>)])> {
        self.set.chunk_by(|(left, _), (right, _)| left == right).map(|group| (group[0].0, group))
    }

    /// The values of one field.
    pub fn of(&self, field: Field) -> &[(Field, Value<'a>)] {
        let start = self.set.partition_point(|(other, _)| other.number() < field.number());
        let end = self.set.partition_point(|(other, _)| other.number() <= field.number());
        &self.set[start..end]
    }

    /// Value of the singular field `number`, if it is set.
    pub fn get(&self, number: u32) -> Option<&Value<'a>> {
        self.set.iter().find(|(field, _)| field.number() == number).map(|(_, value)| value)
    }

    /// Text of the singular field `number`, empty if it is not set.
    pub fn text(&self, number: u32) -> &'a str {
        match self.get(number) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }
}

/// Whether elements of this kind share one record.
pub fn is_packable(kind: Kind) -> bool {
    !matches!(kind, Kind::String | Kind::Bytes | Kind::Message)
}

// === Writing ===

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length-delimited field.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a length-delimited field whose contents `write` appends.
pub fn put_nested<T>(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    put_varint(out, u64::from(number) << 3 | 2);
    let start = out.len();
    let result = write(out);
    // The length is known only now: it is written behind and turned to the front.
    let end = out.len();
    put_varint(out, (end - start) as u64);
    let length_bytes = out.len() - end;
    out[start..].rotate_right(length_bytes);
    result
}

/// Appends the tag of a scalar of `kind`.
pub fn put_tag(out: &mut Vec<u8>, number: u32, kind: Kind) {
    let wire_type = match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => 1,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => 5,
        Kind::String | Kind::Bytes | Kind::Message => 2,
        _ => 0,
    };
    put_varint(out, u64::from(number) << 3 | wire_type);
}

/// Appends an integer of `kind` without its tag. Signed ones are given as their two's complement.
pub fn put_integer(out: &mut Vec<u8>, kind: Kind, value: u64) {
    match kind {
        Kind::Fixed32 | Kind::Sfixed32 => out.extend_from_slice(&(value as u32).to_le_bytes()),
        Kind::Fixed64 | Kind::Sfixed64 => out.extend_from_slice(&value.to_le_bytes()),
        Kind::Sint32 | Kind::Sint64 => put_varint(out, (value << 1) ^ ((value as i64 >> 63) as u64)),
        _ => put_varint(out, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Message {
        Message::find("envoy.config.cluster.v3.Cluster").unwrap()
    }

    fn names(fields: &Fields<'_>) -> Vec<&'static str> {
        fields.groups().map(|(field, _)| field.name()).collect()
    }

    #[test]
    fn pieces_of_a_singular_message_are_joined_and_the_last_scalar_counts() {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, 1, b"first");
        put_bytes(&mut bytes, 4, &[8, 1]);
        put_bytes(&mut bytes, 1, b"second");
        put_bytes(&mut bytes, 4, &[16, 2]);
        let fields = Fields::decode(cluster(), &bytes).unwrap();
        assert_eq!(names(&fields), ["name", "connect_timeout"]);
        assert_eq!(fields.text(1), "second");
        assert_eq!(fields.get(4), Some(&Value::Message(Cow::Borrowed(&[8, 1, 16, 2]))));
    }

    #[test]
    fn later_oneof_member_clears_the_earlier_one() {
        // cluster_discovery_type: type (2, enum) and cluster_type (38, message).
        let mut bytes = vec![2 << 3, 1];
        put_bytes(&mut bytes, 38, &[]);
        assert_eq!(names(&Fields::decode(cluster(), &bytes).unwrap()), ["cluster_type"]);
        bytes.extend([2 << 3, 0]);
        let fields = Fields::decode(cluster(), &bytes).unwrap();
        assert_eq!(names(&fields), ["type"], "a zero counts in a oneof");
    }

    #[test]
    fn unknown_numbers_and_wrong_wire_types_are_noted_once() {
        let mut bytes = vec![1 << 3, 7, 1 << 3, 7];
        put_bytes(&mut bytes, 5000, b"x");
        let fields = Fields::decode(cluster(), &bytes).unwrap();
        assert_eq!((fields.unknown.as_slice(), fields.unknown_left_out), (&[1, 5000][..], 0));
        assert!(names(&fields).is_empty());
    }

    /// Each number was looked for among all before it.
    #[test]
    fn unknown_numbers_beyond_the_limit_are_counted() {
        let (mut bytes, first) = (Vec::new(), 5000_u32);
        let last = first + CONFIG_UNKNOWN_NUMBERS_MAX as u32 + 6;
        for number in (first..=last).rev().chain([last, first, first + 6]) {
            put_bytes(&mut bytes, number, b"");
        }
        let fields = Fields::decode(cluster(), &bytes).unwrap();
        assert_eq!(fields.unknown, (first + 7..=last).collect::<Vec<_>>());
        // Seven, of which two stand there twice.
        assert_eq!(fields.unknown_left_out, 9);
    }

    #[test]
    fn zero_without_presence_is_not_set() {
        assert!(names(&Fields::decode(cluster(), &[6 << 3, 0, 1 << 3 | 2, 0]).unwrap()).is_empty());
    }

    #[test]
    fn malformed_bytes_are_refused() {
        for (bytes, error) in [
            (&[0x0a_u8][..], WireError::Truncated),
            (&[0x0a, 5, b'x'], WireError::Truncated),
            (&[0x0a, 1, 0xff], WireError::NotUtf8(cluster().field_by_number(1).unwrap())),
            (&[0], WireError::FieldNumber(0)),
            (&[0x0b], WireError::WireType(3)),
            (&[0xff; 11], WireError::VarintTooLong),
        ] {
            assert_eq!(Fields::decode(cluster(), bytes).unwrap_err(), error, "{bytes:?}");
        }
    }

    #[test]
    fn packed_and_plain_elements_are_the_same() {
        let route = Message::find("envoy.config.route.v3.RetryPolicy").unwrap();
        let codes = route.field_by_name("retriable_status_codes").unwrap();
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, codes.number(), &[0xf4, 3]);
        put_tag(&mut bytes, codes.number(), Kind::Uint32);
        put_varint(&mut bytes, 503);
        let fields = Fields::decode(route, &bytes).unwrap();
        let values: Vec<_> = fields.of(codes).iter().map(|(_, value)| value.clone()).collect();
        assert_eq!(values, [Value::U32(500), Value::U32(503)]);
    }
}
