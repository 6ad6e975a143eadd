//! Invariants of what endpoints report of their load: it is bounded, told by name as it lies there, and means the same in protobuf.

use crate::base::base64::Encoder;
use crate::base::limits;
use crate::config::load_metrics::{LoadFamily, LoadMetric, LoadNumber};
use crate::protocol::http::head::Head;
use crate::protocol::http::headers;
use crate::protocol::load_report::LoadReport;

/// Numbers and named metrics of a report, values as bits.
type Meaning = (Vec<u64>, Vec<(LoadFamily, Vec<u8>, u64)>);

/// A letter that says which header, then its value.
pub fn load_report(input: &[u8]) {
    let Some((letter, value)) = input.split_first() else { return };
    let is_binary = *letter == b'b';
    let name = if is_binary { &headers::ENDPOINT_LOAD_METRICS_BIN } else { &headers::ENDPOINT_LOAD_METRICS };
    let mut head = Head::new();
    head.set(name, value);
    let mut report = LoadReport::default();
    if report.read(&head).is_err() {
        return;
    }
    assert!(report.named().len() <= limits::LOAD_METRICS_PER_REPORT_MAX);
    let meaning = meaning(&report);
    if !is_binary && value.starts_with(b"TEXT") {
        let values = meaning.0.iter().chain(meaning.1.iter().map(|(_, _, value)| value));
        assert!(values.map(|bits| f64::from_bits(*bits)).all(|value| value.is_finite() && value >= 0.0));
    }
    for (nth, (family, name, value)) in meaning.1.iter().enumerate() {
        let twice = meaning.1[..nth].iter().any(|(of, other, _)| (of, other) == (family, name));
        assert!(!twice, "a name comes twice");
        let Ok(text) = std::str::from_utf8(name) else { continue };
        let mut told = Vec::new();
        report.each(&[LoadMetric::Named(*family, text.into())], |prefix, name, value| {
            told.push((prefix, name.to_vec(), value.to_bits()));
        });
        assert_eq!(told, [(family.prefix(), name.clone(), *value)]);
    }
    let mut all = 0;
    report.each(&LoadFamily::ALL.map(LoadMetric::All), |_, _, _| all += 1);
    assert_eq!(all, meaning.1.len());
    // What is no text has no place in protobuf.
    let is_text = |name: &[u8]| std::str::from_utf8(name).is_ok();
    if !meaning.1.iter().all(|(_, name, _)| is_text(name)) {
        return;
    }
    let mut encoded = Vec::new();
    let mut emit = |piece: &[u8]| {
        encoded.extend_from_slice(piece);
        Ok::<_, std::convert::Infallible>(())
    };
    let mut encoder = Encoder::default();
    let Ok(()) = encoder.encode(&message(&meaning), &mut emit);
    let Ok(()) = encoder.finish(&mut emit);
    let mut head = Head::new();
    head.set(&headers::ENDPOINT_LOAD_METRICS_BIN, &encoded);
    // Into the same place: nothing of what was there is left.
    assert_eq!(report.read(&head), Ok(()));
    assert_eq!(self::meaning(&report), meaning);
}

fn meaning(report: &LoadReport) -> Meaning {
    let numbers = LoadNumber::ALL.iter().map(|number| report.number(*number).to_bits());
    let named = report.named().map(|(family, name, value)| (family, name.to_vec(), value.to_bits()));
    (numbers.collect(), named.collect())
}

/// The message that means it, in protobuf.
fn message((numbers, named): &Meaning) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, bits) in LoadNumber::ALL.iter().zip(numbers) {
        let field = match number {
            LoadNumber::CpuUtilization => 1,
            LoadNumber::MemUtilization => 2,
            LoadNumber::RpsFractional => 6,
            LoadNumber::Eps => 7,
            LoadNumber::ApplicationUtilization => 9,
        };
        double(field, *bits, &mut message);
    }
    for (family, name, bits) in named {
        let field = match family {
            LoadFamily::RequestCost => 4,
            LoadFamily::Utilization => 5,
            LoadFamily::NamedMetrics => 8,
        };
        let mut entry = Vec::new();
        bytes(1, name, &mut entry);
        double(2, *bits, &mut entry);
        bytes(field, &entry, &mut message);
    }
    message
}

fn double(field: u8, bits: u64, into: &mut Vec<u8>) {
    into.push(field << 3 | 1);
    into.extend_from_slice(&bits.to_le_bytes());
}

fn bytes(field: u8, bytes: &[u8], into: &mut Vec<u8>) {
    into.push(field << 3 | 2);
    let mut length = bytes.len();
    while length > 0x7f {
        into.push(length as u8 | 0x80);
        length >>= 7;
    }
    into.push(length as u8);
    into.extend_from_slice(bytes);
}
