//! OCSP responses that are sent with certificates: for which one, and until when. RFC 6960.
//!
//! The signature is the client's to check.
use x509_cert::der::Decode;
use x509_cert::der::asn1::GeneralizedTime;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, constructed.
const CONTEXT_0: u8 = 0xa0;

/// `id-pkix-ocsp-basic`, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// A response, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OcspResponse {
    /// Serial number of its certificate, without leading zeros.
    serial: Vec<u8>,
    /// Valid from, in seconds since the epoch.
    this_update: u64,
    /// Valid until; `None`: not told.
    next_update: Option<u64>,
}

impl OcspResponse {
    /// Reads DER.
    pub(super) fn parse(der: &[u8]) -> Result<Self, &'static str> {
        const MALFORMED: &str = "not a DER-encoded OCSP response";
        let mut outer = Reader(der).inside(SEQUENCE).ok_or(MALFORMED)?;
        if outer.take(ENUMERATED).ok_or(MALFORMED)? != [0] {
            return Err("the OCSP response is not successful");
        }
        let mut bytes =
            outer.inside(CONTEXT_0).and_then(|mut inner| inner.inside(SEQUENCE)).ok_or(MALFORMED)?;
        if bytes.take(OBJECT_IDENTIFIER).ok_or(MALFORMED)? != BASIC {
            return Err("the OCSP response is of an unknown kind");
        }
        let basic = bytes.take(OCTET_STRING).ok_or(MALFORMED)?;
        let mut data =
            Reader(basic).inside(SEQUENCE).and_then(|mut basic| basic.inside(SEQUENCE)).ok_or(MALFORMED)?;
        Self::response(&mut data).ok_or(MALFORMED)?
    }

    fn response(data: &mut Reader<'_>) -> Option<Result<Self, &'static str>> {
        if data.tag() == Some(CONTEXT_0) {
            data.any()?; // version
        }
        data.any()?; // responderID
        data.take(GENERALIZED_TIME)?; // producedAt
        let mut responses = data.inside(SEQUENCE)?;
        let mut single = responses.inside(SEQUENCE)?;
        if !responses.0.is_empty() {
            return Some(Err("the OCSP response is of more than one certificate"));
        }
        let mut id = single.inside(SEQUENCE)?;
        id.take(SEQUENCE)?;
        id.take(OCTET_STRING)?;
        id.take(OCTET_STRING)?;
        let serial = id.take(INTEGER)?;
        single.any()?; // certStatus
        let this_update = time(&mut single)?;
        let next_update = match single.tag() {
            Some(CONTEXT_0) => Some(time(&mut single.inside(CONTEXT_0)?)?),
            _ => None,
        };
        Some(Ok(Self { serial: trimmed(serial).to_vec(), this_update, next_update }))
    }

    /// Since when and until when it is good, in seconds since the epoch; the latter `None`: it does not say.
    pub(super) fn validity(&self) -> (u64, Option<u64>) {
        (self.this_update, self.next_update)
    }

    /// Whether it is of the certificate with this serial number, in hexadecimal.
    pub(super) fn is_of(&self, serial: &str) -> bool {
        let own: String = self.serial.iter().map(|byte| format!("{byte:02x}")).collect();
        own == serial || (own.is_empty() && serial == "00")
    }

    /// Whether it may be shown at that time, in seconds since the epoch. One that does not say until when is not: newer ones are to
    /// be had at any time then (RFC 6960, section 4.2.2.1). As in Envoy.
    pub(super) fn is_current(&self, now: u64) -> bool {
        self.this_update <= now && self.next_update.is_some_and(|until| now < until)
    }
}

fn time(reader: &mut Reader<'_>) -> Option<u64> {
    let text = reader.take(GENERALIZED_TIME)?;
    let mut der = vec![GENERALIZED_TIME, u8::try_from(text.len()).ok()?];
    der.extend_from_slice(text);
    GeneralizedTime::from_der(&der).ok().map(|time| time.to_unix_duration().as_secs())
}

fn trimmed(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros..]
}

/// Walks over the elements of DER.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element's contents.
    fn any(&mut self) -> Option<&'a [u8]> {
        let (_, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match *first {
            short @ 0..=0x7f => (usize::from(short), rest),
            0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
            0x82 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), rest.get(2..)?),
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(contents)
    }

    /// The next element's contents, if it has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.tag() == Some(tag) { self.any() } else { None }
    }

    fn inside(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(Self)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let contents = parts.concat();
        let mut der = vec![tag, 0x82];
        der.extend_from_slice(&u16::try_from(contents.len()).unwrap().to_be_bytes());
        der.extend_from_slice(&contents);
        der
    }

    /// An unsigned response for a serial number.
    pub(in super::super) fn response(serial: &[u8], this_update: &str, next_update: Option<&str>) -> Vec<u8> {
        let time = |text: &str| element(GENERALIZED_TIME, &[text.as_bytes()]);
        let id = element(
            SEQUENCE,
            &[
                &element(SEQUENCE, &[]),
                &element(OCTET_STRING, &[]),
                &element(OCTET_STRING, &[]),
                &element(INTEGER, &[serial]),
            ],
        );
        let next = next_update.map(|text| element(CONTEXT_0, &[&time(text)])).unwrap_or_default();
        let single = element(SEQUENCE, &[&id, &[0x80, 0], &time(this_update), &next]);
        let data =
            element(SEQUENCE, &[&element(0xa2, &[]), &time(this_update), &element(SEQUENCE, &[&single])]);
        let basic = element(SEQUENCE, &[&data]);
        let bytes =
            element(SEQUENCE, &[&element(OBJECT_IDENTIFIER, &[BASIC]), &element(OCTET_STRING, &[&basic])]);
        element(SEQUENCE, &[&element(ENUMERATED, &[&[0]]), &element(CONTEXT_0, &[&bytes])])
    }

    #[test]
    fn response_tells_its_certificate_and_its_time() {
        let read =
            OcspResponse::parse(&response(&[0, 0xab], "20260101000000Z", Some("20260102000000Z"))).unwrap();
        assert!(read.is_of("ab") && !read.is_of("abcd"));
        let start = 1_767_225_600;
        assert!(!read.is_current(start - 1) && read.is_current(start));
        assert!(read.is_current(start + 86_399) && !read.is_current(start + 86_400));
        let open = OcspResponse::parse(&response(&[1], "20260101000000Z", None)).unwrap();
        assert!(!open.is_current(start) && !open.is_current(u64::MAX), "there may be a newer one by now");
    }

    #[test]
    fn bytes_that_are_no_response_are_an_error() {
        let good = response(&[1], "20260101000000Z", None);
        for length in 0..good.len() {
            assert!(OcspResponse::parse(&good[..length]).is_err());
        }
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 0xff;
            let _ = OcspResponse::parse(&bad);
        }
        assert_eq!(
            OcspResponse::parse(&element(SEQUENCE, &[&element(ENUMERATED, &[&[6]])])),
            Err("the OCSP response is not successful")
        );
    }
}
