//! The message itself, in protobuf: `xds.data.orca.v3.OrcaLoadReport`. Read by hand, since nothing on the path names generated
//! messages, and one that is read so allocates nothing.

use super::{LoadReport, LoadReportError};
use crate::config::load_metrics::{LoadFamily, LoadNumber};

/// Messages and groups within one another, as in Envoy. Beyond it: refused.
const DEPTH_MAX: usize = 100;
/// Bytes of a varint, and of one that is a tag or a length.
const VARINT_BYTES_MAX: usize = 10;
const SHORT_VARINT_BYTES_MAX: usize = 5;
const FIELD_MAX: u64 = (1 << 29) - 1;

/// Reads a message that lies in `bytes`, in which names are to be found afterwards. Of what comes twice the last counts.
pub(super) fn read(bytes: &[u8], report: &mut LoadReport) -> Result<(), LoadReportError> {
    let mut wire = Wire { bytes, at: 0 };
    let whole = wire.fields(DEPTH_MAX, |field, value| {
        let Some(kind) = kind(field) else { return Ok(()) };
        match (kind, value) {
            (Kind::Number(number), Value::Fixed64(bits)) => report.set(number, f64::from_bits(bits)),
            (Kind::Family(family), Value::Bytes(start, end)) => {
                let (name, value) = entry(bytes, start, end).ok_or(LoadReportError::Message)?;
                report.named.set(bytes, family, name, value)?;
            }
            // As a field that is not known.
            _ => {}
        }
        Ok(())
    })?;
    whole.ok_or(LoadReportError::Message)
}

enum Kind {
    Number(LoadNumber),
    Family(LoadFamily),
}

/// What a field is by its number; `None`: nothing that is told. Requests per second as a whole number (3) are none.
fn kind(field: u32) -> Option<Kind> {
    Some(match field {
        1 => Kind::Number(LoadNumber::CpuUtilization),
        2 => Kind::Number(LoadNumber::MemUtilization),
        4 => Kind::Family(LoadFamily::RequestCost),
        5 => Kind::Family(LoadFamily::Utilization),
        6 => Kind::Number(LoadNumber::RpsFractional),
        7 => Kind::Number(LoadNumber::Eps),
        8 => Kind::Family(LoadFamily::NamedMetrics),
        9 => Kind::Number(LoadNumber::ApplicationUtilization),
        _ => return None,
    })
}

/// An entry of a map: where its name lies, and its value. What is not there is empty, or 0.
fn entry(bytes: &[u8], start: usize, end: usize) -> Option<((usize, usize), f64)> {
    let mut wire = Wire { bytes: bytes.get(..end)?, at: start };
    let (mut name, mut number) = ((start, start), 0.0);
    wire.fields(DEPTH_MAX - 1, |field, value| {
        match (field, value) {
            (1, Value::Bytes(start, end)) => {
                let text = bytes.get(start..end).unwrap_or_default();
                std::str::from_utf8(text).map_err(|_| LoadReportError::Message)?;
                name = (start, end);
            }
            (2, Value::Fixed64(bits)) => number = f64::from_bits(bits),
            _ => {}
        }
        Ok(())
    })
    .ok()??;
    Some((name, number))
}

/// The value of a field.
enum Value {
    Fixed64(u64),
    /// From here to there.
    Bytes(usize, usize),
    /// Of a type that nothing here has.
    Skipped,
}

/// A message that is being read.
struct Wire<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Wire<'_> {
    /// Gives all fields to `each`; `Ok(None)`: the message is broken.
    fn fields(
        &mut self,
        depth: usize,
        mut each: impl FnMut(u32, Value) -> Result<(), LoadReportError>,
    ) -> Result<Option<()>, LoadReportError> {
        while self.at < self.bytes.len() {
            let Some((field, kind)) = self.tag() else { return Ok(None) };
            let Some(value) = self.value(field, kind, depth) else { return Ok(None) };
            each(field, value)?;
        }
        Ok(Some(()))
    }

    fn tag(&mut self) -> Option<(u32, u8)> {
        let tag = self.varint(SHORT_VARINT_BYTES_MAX)?;
        let field = tag >> 3;
        (1..=FIELD_MAX).contains(&field).then_some(())?;
        Some((u32::try_from(field).ok()?, (tag & 7) as u8))
    }

    fn value(&mut self, field: u32, kind: u8, depth: usize) -> Option<Value> {
        Some(match kind {
            0 => {
                self.varint(VARINT_BYTES_MAX)?;
                Value::Skipped
            }
            1 => Value::Fixed64(u64::from_le_bytes(*self.take(8)?.first_chunk()?)),
            2 => {
                let length = usize::try_from(self.varint(SHORT_VARINT_BYTES_MAX)?).ok()?;
                let start = self.at;
                self.take(length)?;
                Value::Bytes(start, self.at)
            }
            3 => {
                self.group(field, depth)?;
                Value::Skipped
            }
            5 => {
                self.take(4)?;
                Value::Skipped
            }
            _ => return None,
        })
    }

    /// The rest of a group, which ends with its own field's number.
    fn group(&mut self, field: u32, depth: usize) -> Option<()> {
        let mut open = [0; DEPTH_MAX];
        let depth = depth.min(DEPTH_MAX);
        let mut count = 1;
        *open.get_mut(..depth)?.first_mut()? = field;
        while count > 0 {
            let (field, kind) = self.tag()?;
            match kind {
                3 => {
                    *open.get_mut(..depth)?.get_mut(count)? = field;
                    count += 1;
                }
                4 => {
                    count -= 1;
                    (open.get(count) == Some(&field)).then_some(())?;
                }
                _ => {
                    self.value(field, kind, 0)?;
                }
            }
        }
        Some(())
    }

    fn varint(&mut self, bytes_max: usize) -> Option<u64> {
        let mut value = 0;
        for place in 0..bytes_max {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::shown;
    use super::*;
    use crate::base::limits;

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value > 0x7f {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    fn tag(field: u64, kind: u64) -> Vec<u8> {
        varint(field << 3 | kind)
    }

    fn double(field: u64, value: f64) -> Vec<u8> {
        [tag(field, 1), value.to_le_bytes().to_vec()].concat()
    }

    fn bytes(field: u64, bytes: &[u8]) -> Vec<u8> {
        [tag(field, 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
    }

    fn entry(field: u64, name: &[u8], value: f64) -> Vec<u8> {
        bytes(field, &[bytes(1, name), double(2, value)].concat())
    }

    fn understood(message: &[&[u8]]) -> Result<String, LoadReportError> {
        let message = message.concat();
        let mut report = LoadReport::default();
        read(&message, &mut report)?;
        report.text = message;
        Ok(shown(&report))
    }

    #[test]
    fn every_field_is_read_and_of_what_comes_twice_the_last() {
        let all = [
            double(1, 0.5),
            double(2, 0.25),
            [tag(3, 0), varint(7)].concat(),
            entry(4, b"a", 1.0),
            entry(5, b"b", 2.0),
            double(6, 6.0),
            double(7, 7.0),
            entry(8, b"c", 3.0),
            double(9, 9.0),
            entry(8, b"c", 4.0),
            entry(5, b"c", 5.0),
            double(1, -1.5),
        ]
        .concat();
        assert_eq!(
            understood(&[&all]).as_deref(),
            Ok("application_utilization=9 cpu_utilization=-1.5 mem_utilization=0.25 eps=7 rps_fractional=6 \
                request_cost.a=1 utilization.b=2 named_metrics.c=4 utilization.c=5")
        );
        for end in 1..all.len() {
            let mut report = LoadReport::default();
            let _ = read(&all[..end], &mut report);
        }
        assert_eq!(understood(&[&double(1, f64::NAN)]).as_deref(), Ok("cpu_utilization=NaN"));
        assert_eq!(understood(&[&double(1, f64::INFINITY)]).as_deref(), Ok("cpu_utilization=inf"));
    }

    #[test]
    fn entries_may_lack_parts_have_others_and_parts_twice() {
        for (content, expected) in [
            (Vec::new(), "named_metrics.=0"),
            (bytes(1, b"a"), "named_metrics.a=0"),
            (double(2, 1.0), "named_metrics.=1"),
            ([double(2, 1.0), bytes(1, b"a")].concat(), "named_metrics.a=1"),
            ([bytes(1, b"a"), bytes(1, b"b"), double(2, 1.0), double(2, 3.0)].concat(), "named_metrics.b=3"),
            ([bytes(1, b"a"), double(2, 1.0), double(3, 5.0)].concat(), "named_metrics.a=1"),
            ([tag(1, 0), varint(3), double(2, 1.0)].concat(), "named_metrics.=1"),
            ([bytes(1, b"a"), tag(90, 3), tag(90, 4), double(2, 1.0)].concat(), "named_metrics.a=1"),
            (bytes(1, b"a\0b"), "named_metrics.a\\x00b=0"),
        ] {
            assert_eq!(understood(&[&bytes(8, &content)]).as_deref(), Ok(expected), "{content:?}");
        }
        let broken = [
            bytes(1, b"\xff"),
            [bytes(1, b"a"), tag(2, 1), vec![0; 7]].concat(),
            bytes(1, b"ab")[..3].to_vec(),
        ];
        for content in broken {
            assert_eq!(understood(&[&bytes(8, &content)]), Err(LoadReportError::Message), "{content:?}");
        }
    }

    #[test]
    fn entries_are_bounded_even_those_that_come_again() {
        let again = entry(8, b"a", 1.0).repeat(limits::LOAD_METRICS_PER_REPORT_MAX);
        assert_eq!(understood(&[&again]).as_deref(), Ok("named_metrics.a=1"));
        assert_eq!(understood(&[&again, &entry(8, b"a", 1.0)]), Err(LoadReportError::TooMany));
    }

    #[test]
    fn fields_that_are_not_known_or_of_another_type_are_passed_over() {
        let one = double(1, 1.0);
        for other in [
            double(77, 1.0),
            [tag(78, 0), varint(5)].concat(),
            bytes(79, b"xyz"),
            [tag(80, 5), vec![0; 4]].concat(),
            [tag(90, 3), double(1, 5.0), tag(91, 3), tag(91, 4), tag(90, 4)].concat(),
            [tag(1, 0), varint(3)].concat(),
            double(8, 1.0),
            double(3, 1.0),
            [tag(FIELD_MAX, 0), varint(1)].concat(),
            [tag(3, 0), vec![0xff; 9], vec![1]].concat(),
            [tag(90, 3).repeat(DEPTH_MAX), tag(90, 4).repeat(DEPTH_MAX)].concat(),
        ] {
            assert_eq!(understood(&[&other, &one]).as_deref(), Ok("cpu_utilization=1"), "{other:?}");
        }
        // A tag may be longer than it need be.
        let long = [&[0x89, 0x80, 0x80, 0x80, 0][..], &1f64.to_le_bytes()].concat();
        assert_eq!(understood(&[&long]).as_deref(), Ok("cpu_utilization=1"));
    }

    #[test]
    fn broken_message_is_refused() {
        let one = double(1, 0.7);
        for broken in [
            one[..8].to_vec(),
            bytes(8, &bytes(1, b"a"))[..4].to_vec(),
            [tag(90, 3), one.clone(), tag(91, 4)].concat(),
            [tag(90, 3), one].concat(),
            tag(90, 4),
            vec![0, 1],
            vec![0],
            [tag(90, 6), vec![0]].concat(),
            [tag(90, 7), vec![0]].concat(),
            [tag(3, 0), vec![0xff; 10], vec![1]].concat(),
            [&[0x89, 0x80, 0x80, 0x80, 0x80, 0][..], &1f64.to_le_bytes()].concat(),
            [varint((1 << 29) << 3), varint(1)].concat(),
            [tag(8, 2), varint(1 << 40)].concat(),
            [tag(90, 3).repeat(DEPTH_MAX + 1), tag(90, 4).repeat(DEPTH_MAX + 1)].concat(),
        ] {
            assert_eq!(understood(&[&broken]), Err(LoadReportError::Message), "{broken:?}");
        }
    }
}
