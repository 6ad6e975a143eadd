//! Distinguished names as text, by RFC 2253, as OpenSSL's `XN_FLAG_RFC2253` writes them and Envoy prints them.
use std::fmt::Write;

use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Encode, Tag, Tagged};
use x509_cert::name::Name;

/// Types of attributes with a short name. Values of others are written in hexadecimal.
const SHORT_NAMES: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.45", "x500UniqueIdentifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL"),
    ("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST"),
    ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC"),
];

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// `CN=Steve Kille,O=Isode Limited,C=GB`: the last part first.
pub(super) fn rfc2253(name: &Name) -> String {
    let mut text = String::new();
    for (index, set) in name.0.iter().rev().enumerate() {
        if index > 0 {
            text.push(',');
        }
        for (index, attribute) in set.0.iter().rev().enumerate() {
            if index > 0 {
                text.push('+');
            }
            let oid = attribute.oid.to_string();
            let known = SHORT_NAMES.iter().find(|(known, _)| *known == oid);
            text.push_str(known.map_or(&oid, |(_, short)| short));
            text.push('=');
            match known.and_then(|_| value(attribute.value.tag(), attribute.value.value())) {
                Some(value) => escape(&value, &mut text),
                None => {
                    text.push('#');
                    for byte in attribute.value.to_der().unwrap_or_default() {
                        // Writing to a `String` cannot fail.
                        let _ = write!(text, "{byte:02X}");
                    }
                }
            }
        }
    }
    text
}

/// The first common name.
pub(super) fn common_name(name: &Name) -> Option<String> {
    let attributes = name.0.iter().flat_map(|set| set.0.iter());
    let mut names = attributes.filter(|attribute| attribute.oid == COMMON_NAME);
    names.find_map(|attribute| value(attribute.value.tag(), attribute.value.value()))
}

/// A string's characters; `None`: it is no string.
fn value(tag: Tag, bytes: &[u8]) -> Option<String> {
    match tag {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok(),
        Tag::PrintableString
        | Tag::Ia5String
        | Tag::TeletexString
        | Tag::VisibleString
        | Tag::NumericString => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let (pairs, []) = bytes.as_chunks::<2>() else { return None };
            char::decode_utf16(pairs.iter().map(|pair| u16::from_be_bytes(*pair)))
                .collect::<Result<_, _>>()
                .ok()
        }
        _ => None,
    }
}

/// RFC 2253, section 2.4; what is not ASCII byte by byte, as OpenSSL does.
fn escape(value: &str, text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' if index == 0 || index == last => text.push_str("\\ "),
            b'#' if index == 0 => text.push_str("\\#"),
            0x20..=0x7e => text.push(char::from(byte)),
            _ => {
                // Writing to a `String` cannot fail.
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::protocol::tls::Certificate;
    use crate::protocol::tls::testing::{Authority, Spec};

    #[test]
    fn names_are_written_as_openssl_writes_them() {
        let subject =
            |spec: Spec| Certificate::parse(&Authority::new("ca").issue(spec).leaf).unwrap().subject;
        let spec = Spec::dns("x").subject(&[("C", "GB"), ("O", "Sue, Grabbit and Runn"), ("CN", "L. Eagle")]);
        assert_eq!(subject(spec), "CN=L. Eagle,O=Sue\\, Grabbit and Runn,C=GB");
        assert_eq!(
            subject(Spec::dns("x").subject(&[("CN", " #a<b>;\"\\+ ")])),
            "CN=\\ #a\\<b\\>\\;\\\"\\\\\\+\\ "
        );
        assert_eq!(subject(Spec::dns("x").subject(&[("CN", "#ü\n")])), "CN=\\#\\C3\\BC\\0A");
        assert_eq!(subject(Spec::dns("x").subject(&[])), "");
        assert_eq!(subject(Spec::dns("x").subject(&[("CN", " ")])), "CN=\\ ");
    }

    #[test]
    fn unknown_attribute_is_written_in_hexadecimal() {
        let issued = Authority::new("ca").issue(Spec::dns("x").subject(&[("1.2.3.4", "ab")]));
        assert_eq!(Certificate::parse(&issued.leaf).unwrap().subject, "1.2.3.4=#0C026162");
    }
}
