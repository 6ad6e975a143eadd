//! TLS records as they are framed on the wire: where one ends, and no more.
//!
//! The session gets whole records, one at a time: rustls then buffers nothing, and where a record's plaintext lies is known.

/// Type, version and length.
pub(super) const HEADER_BYTES: usize = 5;
/// Most plaintext of one record. Source: RFC 8446 section 5.1.
pub(super) const PLAINTEXT_BYTES_MAX: usize = 16 * 1024;
/// Most bytes behind the header. Source: RFC 5246 section 6.2.3; TLS 1.3 allows less, which rustls sees to.
const PAYLOAD_BYTES_MAX: usize = PLAINTEXT_BYTES_MAX + 2048;
/// Bytes of an authentication tag, the same for all cipher suites.
pub(super) const TAG_BYTES: usize = 16;
/// What encrypting adds to a record at most: header, explicit nonce (TLS 1.2) or content type (1.3), tag.
pub(super) const OVERHEAD_BYTES_MAX: usize = HEADER_BYTES + 8 + TAG_BYTES;

/// Length of the record that begins here, its header included; `None`: its header is not there yet. What can be no record
/// ends where that shows: the session then refuses it.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let kind = *bytes.first()?;
    // change_cipher_spec, alert, handshake, application_data, heartbeat.
    if !(20..=24).contains(&kind) {
        return (bytes.len() >= HEADER_BYTES).then_some(HEADER_BYTES);
    }
    let payload = usize::from(u16::from_be_bytes([*bytes.get(3)?, *bytes.get(4)?]));
    Some(if payload < PAYLOAD_BYTES_MAX { HEADER_BYTES + payload } else { HEADER_BYTES })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_known_with_the_header() {
        let record = [22, 3, 1, 1, 2, 0];
        assert_eq!(length(&record), Some(5 + 0x102));
        for cut in 0..HEADER_BYTES {
            assert_eq!(length(&record[..cut]), None);
        }
    }

    #[test]
    fn what_is_no_record_ends_with_its_header() {
        assert_eq!(length(b"GET / HTTP/1.1"), Some(HEADER_BYTES));
        assert_eq!(length(b"GET "), None);
        assert_eq!(length(&[23, 3, 3, 0xff, 0xff]), Some(HEADER_BYTES));
        assert_eq!(length(&[23, 3, 3, 0x47, 0xff]), Some(HEADER_BYTES + PAYLOAD_BYTES_MAX - 1));
        assert_eq!(length(&[23, 3, 3, 0x48, 0x00]), Some(HEADER_BYTES));
    }
}
