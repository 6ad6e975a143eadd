//! What an endpoint reports of its load with a response (ORCA): `endpoint-load-metrics-bin` and `endpoint-load-metrics` of a head or
//! of trailers. Source: `xds.data.orca.v3.OrcaLoadReport`; Envoy 1.40's `parseOrcaLoadReportHeaders`, whose leniency is kept: what
//! a notation takes was asked of it.
//!
//! Pure: text in, numbers out. A report is taken whole or not at all, and is bounded: it has at most
//! [`limits::LOAD_METRICS_PER_REPORT_MAX`] metrics under names of the endpoint's own. A report that is read again into the same
//! place allocates nothing once there is room.

mod binary;
mod json;
mod text;

use crate::base::base64::{Decoder, Invalid};
use crate::base::limits;
use crate::config::load_metrics::{LoadFamily, LoadMetric, LoadNumber};
use crate::protocol::http::head::Head;
use crate::protocol::http::headers;

/// A report, as it was read last.
#[derive(Debug, Default)]
pub struct LoadReport {
    numbers: [f64; LoadNumber::ALL.len()],
    named: Named,
    /// What the names lie in.
    text: Vec<u8>,
}

/// Why there is no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadReportError {
    /// Neither header is there.
    None,
    /// It begins with the name of no notation.
    Notation,
    /// It is no Base64, or of nothing.
    Base64,
    /// The message is broken.
    Message,
    /// The JSON is none of a report.
    Json,
    /// One of the pairs of name and number is none, or a name comes again.
    Pair,
    /// It has more metrics than are taken.
    TooMany,
}

/// Metrics under names of the endpoint's own.
#[derive(Debug, Default)]
struct Named {
    metrics: Vec<NamedMetric>,
    /// How many were set, the same ones again too.
    count: usize,
    /// Where names came from, in order.
    source: u32,
}

#[derive(Clone, Copy, Debug)]
struct NamedMetric {
    family: LoadFamily,
    /// Where the name lies in the text.
    start: usize,
    end: usize,
    value: f64,
    source: u32,
}

/// Beyond it the room of a report is given back with the next one.
const ROOM_BYTES_MAX: usize = 16 * 1024;

impl LoadReport {
    /// Reads the report of a head or of trailers. The header in protobuf alone goes before the one that names its notation; of each
    /// the first counts, whatever the others are.
    ///
    /// # Errors
    /// See [`LoadReportError`].
    pub fn read(&mut self, head: &Head) -> Result<(), LoadReportError> {
        if let Some(value) = head.get(&headers::ENDPOINT_LOAD_METRICS_BIN) {
            return self.read_base64(value);
        }
        let value = head.get(&headers::ENDPOINT_LOAD_METRICS).ok_or(LoadReportError::None)?;
        self.read_notation(value)
    }

    fn read_notation(&mut self, value: &[u8]) -> Result<(), LoadReportError> {
        if let Some(base64) = value.strip_prefix(b"BIN ") {
            return self.read_base64(base64);
        }
        self.clear();
        if let Some(pairs) = value.strip_prefix(b"TEXT ") {
            text::read(pairs, self)
        } else if let Some(object) = value.strip_prefix(b"JSON ") {
            json::read(object, self)
        } else {
            Err(LoadReportError::Notation)
        }
    }

    fn read_base64(&mut self, value: &[u8]) -> Result<(), LoadReportError> {
        self.clear();
        decode(value, &mut self.text)?;
        let text = std::mem::take(&mut self.text);
        let read = binary::read(&text, self);
        self.text = text;
        read
    }

    fn clear(&mut self) {
        self.numbers = Default::default();
        self.named.metrics.clear();
        (self.named.count, self.named.source) = (0, 0);
        self.text.clear();
        self.text.shrink_to(ROOM_BYTES_MAX);
    }

    fn set(&mut self, number: LoadNumber, value: f64) {
        self.numbers[number as usize] = value;
    }

    /// What was said under this number; 0 unless it was.
    pub fn number(&self, number: LoadNumber) -> f64 {
        self.numbers[number as usize]
    }

    /// What was said under names, with these names.
    pub fn named(&self) -> impl ExactSizeIterator<Item = (LoadFamily, &[u8], f64)> {
        let name = |metric: &NamedMetric| self.text.get(metric.start..metric.end).unwrap_or_default();
        self.named.metrics.iter().map(move |metric| (metric.family, name(metric), metric.value))
    }

    /// Gives `add` what these entries of a cluster's list name: what a name begins with, the rest of it, and the value.
    pub fn each(&self, metrics: &[LoadMetric], mut add: impl FnMut(&'static str, &[u8], f64)) {
        for metric in metrics {
            match metric {
                LoadMetric::Number(number) => add(number.name(), b"", self.number(*number)),
                LoadMetric::Named(family, wanted) => {
                    let found = self.named().find(|(of, name, _)| of == family && *name == wanted.as_bytes());
                    if let Some((_, name, value)) = found {
                        add(family.prefix(), name, value);
                    }
                }
                LoadMetric::All(family) => {
                    let all = self.named().filter(|(of, ..)| of == family);
                    all.for_each(|(_, name, value)| add(family.prefix(), name, value));
                }
            }
        }
    }
}

impl Named {
    /// Sets a value under the name that lies there in `text`; true: it has one from the same source.
    fn set(
        &mut self,
        text: &[u8],
        family: LoadFamily,
        (start, end): (usize, usize),
        value: f64,
    ) -> Result<bool, LoadReportError> {
        self.count += 1;
        if self.count > limits::LOAD_METRICS_PER_REPORT_MAX {
            return Err(LoadReportError::TooMany);
        }
        let source = self.source;
        let mut metrics = self.metrics.iter_mut();
        let same = |metric: &&mut NamedMetric| {
            metric.family == family && text.get(metric.start..metric.end) == text.get(start..end)
        };
        if let Some(metric) = metrics.find(same) {
            metric.value = value;
            return Ok(std::mem::replace(&mut metric.source, source) == source);
        }
        self.metrics.push(NamedMetric { family, start, end, value, source });
        Ok(false)
    }
}

impl From<Invalid> for LoadReportError {
    fn from(_: Invalid) -> Self {
        Self::Base64
    }
}

/// Base64 in Envoy's way: one or two signs of padding at the end do not matter, whether they are there or not.
fn decode(value: &[u8], into: &mut Vec<u8>) -> Result<(), LoadReportError> {
    let value = value.strip_suffix(b"=").unwrap_or(value);
    let value = value.strip_suffix(b"=").unwrap_or(value);
    if value.is_empty() || value.contains(&b'=') {
        return Err(LoadReportError::Base64);
    }
    let padding: &[u8] = match value.len() % 4 {
        0 => b"",
        1 => return Err(LoadReportError::Base64),
        2 => b"==",
        _ => b"=",
    };
    let mut decoder = Decoder::default();
    for piece in [value, padding] {
        decoder.decode(piece, |decoded| {
            into.extend_from_slice(decoded);
            Ok::<_, LoadReportError>(())
        })?;
    }
    Ok(())
}

/// A number in C's notation, in decimal. Spaces around it do not matter. Envoy takes hexadecimal ones as well, which nobody writes.
fn decimal(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use LoadReportError as Error;

    /// What is understood of a value of `endpoint-load-metrics`.
    pub(super) fn read(value: &str) -> Result<String, Error> {
        read_head(&[("endpoint-load-metrics", value)])
    }

    fn read_head(fields: &[(&str, &str)]) -> Result<String, Error> {
        let mut head = Head::new();
        for (name, value) in fields {
            head.append(&headers::HeaderName::parse(name.as_bytes()).unwrap(), value.as_bytes());
        }
        let mut report = LoadReport::default();
        // Of what was read before nothing is left.
        report.read_notation(b"TEXT cpu_utilization:9,named_metrics.old:9").unwrap();
        report.read(&head)?;
        Ok(shown(&report))
    }

    pub(super) fn shown(report: &LoadReport) -> String {
        let numbers = LoadNumber::ALL.into_iter().map(|number| (number.name(), report.number(number)));
        let numbers =
            numbers.filter(|(_, value)| *value != 0.0).map(|(name, value)| format!("{name}={value}"));
        let named = report
            .named()
            .map(|(family, name, value)| format!("{}{}={value}", family.prefix(), name.escape_ascii()));
        numbers.chain(named).collect::<Vec<_>>().join(" ")
    }

    const CPU: &str = "CWZmZmZmZuY/";
    const EPS: &str = "OQAAAAAAAPA/";

    #[test]
    fn header_in_protobuf_goes_before_the_other_and_the_first_of_several_counts() {
        let (bin, any) = ("endpoint-load-metrics-bin", "endpoint-load-metrics");
        let cpu = || Ok("cpu_utilization=0.7".to_owned());
        assert_eq!(read_head(&[(any, "TEXT eps:1"), (bin, CPU)]), cpu());
        assert_eq!(read_head(&[(bin, CPU), (any, "TEXT eps:1"), (bin, EPS)]), cpu());
        assert_eq!(read_head(&[(any, "TEXT eps:1"), (bin, "???")]), Err(Error::Base64));
        assert_eq!(read_head(&[(any, "TEXT eps:1"), (any, "TEXT eps:2")]), Ok("eps=1".to_owned()));
        assert_eq!(read_head(&[(any, "XX eps:1"), (any, "TEXT eps:2")]), Err(Error::Notation));
        assert_eq!(read_head(&[("x-endpoint-load-metrics-bin", CPU)]), Err(Error::None));
        assert_eq!(read_head(&[(bin, &format!("BIN {CPU}"))]), Err(Error::Base64));
    }

    #[test]
    fn notation_is_named_in_upper_case_with_one_space() {
        for value in ["", "TEXT", "text eps:1", "BIN", "JSON", "XML <eps/>", "TEXT\teps:1", "eps:1"] {
            assert_eq!(read(value), Err(Error::Notation), "{value}");
        }
        assert_eq!(read(&format!("BIN {CPU}")), Ok("cpu_utilization=0.7".to_owned()));
        assert_eq!(read(&format!("BIN  {CPU}")), Err(Error::Base64));
        assert_eq!(read("TEXT  eps:1"), Ok("eps=1".to_owned()));
        assert_eq!(read("JSON  {eps:1}"), Ok("eps=1".to_owned()));
    }

    #[test]
    fn padding_of_base64_does_not_matter_and_left_over_bits_do() {
        let whole = "cpu_utilization=0.7";
        for rest in ["", "=", "==", "GAc=", "GAc", "GAc==", "GAcYBw", "GAcYBw=", "GAcYBw=="] {
            assert_eq!(read(&format!("BIN {CPU}{rest}")).as_deref(), Ok(whole), "{rest}");
        }
        for rest in ["===", "G", "GAd", "GAd=", "GAcYBx", "GAcYBx==", "GAcYBw===", "-_", "=GAc", " "] {
            assert_eq!(read(&format!("BIN {CPU}{rest}")), Err(Error::Base64), "{rest:?}");
        }
        for nothing in ["=", "==", "===", "====", "A", "A=AA", "AA=A", ""] {
            assert_eq!(read(&format!("BIN {nothing}")), Err(Error::Base64), "{nothing:?}");
        }
    }

    #[test]
    fn list_says_what_is_told_each_entry_once_more() {
        let mut report = LoadReport::default();
        report
            .read_notation(b"JSON {eps:2,named_metrics:{a:1,b:2},utilization:{a:3},request_cost:{c:4}}")
            .unwrap();
        let told = |list: &[&str]| {
            let list: Vec<_> = list.iter().filter_map(|text| LoadMetric::parse(text)).collect();
            let mut told = Vec::new();
            report.each(&list, |prefix, name, value| {
                told.push((format!("{prefix}{}", name.escape_ascii()), value));
            });
            told.sort_by(|one, other| one.0.cmp(&other.0));
            told.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(&["eps", "cpu_utilization", "eps"]), "cpu_utilization=0 eps=2 eps=2");
        assert_eq!(told(&["named_metrics.a", "named_metrics.c", "utilization.b"]), "named_metrics.a=1");
        assert_eq!(
            told(&["named_metrics.*", "named_metrics.a"]),
            "named_metrics.a=1 named_metrics.a=1 named_metrics.b=2"
        );
        assert_eq!(told(&["utilization.*", "request_cost.*"]), "request_cost.c=4 utilization.a=3");
    }

    #[test]
    fn names_are_bounded_in_every_notation() {
        let max = limits::LOAD_METRICS_PER_REPORT_MAX;
        for (begin, each, separator, end) in
            [("TEXT ", "named_metrics.#:1", ",", ""), ("JSON {named_metrics:{", "n#:1", ",", "}}")]
        {
            let value = |count: usize| {
                let all = (0..count).map(|number| each.replace('#', &number.to_string()));
                format!("{begin}{}{end}", all.collect::<Vec<_>>().join(separator))
            };
            assert!(read(&value(max)).is_ok());
            assert_eq!(read(&value(max + 1)), Err(Error::TooMany));
        }
    }

    #[test]
    fn report_read_into_the_place_of_another_needs_no_more_room() {
        let mut report = LoadReport::default();
        let value = b"TEXT cpu_utilization:1,named_metrics.a:1,utilization.b:2";
        report.read_notation(value).unwrap();
        let room = (report.text.capacity(), report.named.metrics.capacity());
        report.read_notation(value).unwrap();
        assert_eq!(room, (report.text.capacity(), report.named.metrics.capacity()));
    }
}
