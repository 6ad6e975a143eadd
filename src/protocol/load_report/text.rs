//! The notation `TEXT`: pairs of name and number. Source: Envoy's `tryParseNativeHttpEncoded`.

use super::{LoadReport, LoadReportError, decimal};
use crate::config::load_metrics::{LoadFamily, LoadNumber};

/// Reads pairs with commas between them, each name at most once. Costs have no name here, as in Envoy.
pub(super) fn read(pairs: &[u8], report: &mut LoadReport) -> Result<(), LoadReportError> {
    let mut seen = [false; LoadNumber::ALL.len()];
    for pair in pairs.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()) {
        let colon = pair.iter().position(|&byte| byte == b':').ok_or(LoadReportError::Pair)?;
        let (name, value) = (&pair[..colon], &pair[colon + 1..]);
        let value = decimal(value).filter(|value| value.is_finite() && *value >= 0.0);
        let value = value.ok_or(LoadReportError::Pair)?;
        if let Some(number) = LoadNumber::ALL.into_iter().find(|number| number.name().as_bytes() == name) {
            if std::mem::replace(&mut seen[number as usize], true) {
                return Err(LoadReportError::Pair);
            }
            report.set(number, value);
            continue;
        }
        let families = [LoadFamily::NamedMetrics, LoadFamily::Utilization].into_iter();
        let found = families
            .filter_map(|family| Some((family, name.strip_prefix(family.prefix().as_bytes())?)))
            .find(|(_, name)| !name.is_empty());
        let (family, name) = found.ok_or(LoadReportError::Pair)?;
        let start = report.text.len();
        report.text.extend_from_slice(name);
        let place = (start, report.text.len());
        if report.named.set(&report.text, family, place, value)? {
            return Err(LoadReportError::Pair);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::LoadReportError as Error;
    use super::super::tests::read;

    #[test]
    fn pairs_are_read_as_envoy_reads_them() {
        for (pairs, expected) in [
            ("cpu_utilization:0.7", "cpu_utilization=0.7"),
            ("cpu_utilization: 0.7, mem_utilization:\t0.8", "cpu_utilization=0.7 mem_utilization=0.8"),
            ("eps:1,,rps_fractional:1e300,", "eps=1 rps_fractional=1e300"),
            (",", ""),
            ("cpu_utilization:+1", "cpu_utilization=1"),
            ("application_utilization:.5,eps:5.", "application_utilization=0.5 eps=5"),
            ("cpu_utilization:1E5", "cpu_utilization=100000"),
            ("eps:1e-400", ""),
            ("eps:-0", ""),
            ("named_metrics.a.b:1,named_metrics.*:2", "named_metrics.a.b=1 named_metrics.*=2"),
            ("named_metrics.a:1,utilization.a:2", "named_metrics.a=1 utilization.a=2"),
            ("named_metrics.a b:1", "named_metrics.a b=1"),
            ("named_metrics.\u{e9}:1", "named_metrics.\\xc3\\xa9=1"),
        ] {
            let expected = expected.replace("1e300", &1e300f64.to_string());
            assert_eq!(read(&format!("TEXT {pairs}")), Ok(expected), "{pairs}");
        }
    }

    #[test]
    fn what_envoy_refuses_is_refused_whole() {
        for pairs in [
            "cpu_utilization : 0.7",
            "eps:1e400",
            "eps:-1",
            "eps:inf",
            "eps:-inf",
            "eps:nan",
            "eps:1e",
            "eps:",
            "eps",
            ":1",
            "::1",
            "eps::1",
            "eps:1:2",
            "eps:1 mem_utilization:2",
            "eps:1;mem_utilization:2",
            "eps:+-1",
            "eps:- 1",
            "eps:1_0",
            "eps:1d",
            "\"eps:1\"",
            "eps:\"1\"",
            "eps:1,eps:1",
            "eps:1,mem_utilization:x",
            "named_metrics.:1",
            "utilization.:1",
            "named_metrics.a:1,named_metrics.a:2",
            "named_metrics.a:-1",
            "utilization.a:inf",
            "request_cost.a:1",
            "rps:1",
            "other:1",
        ] {
            assert_eq!(read(&format!("TEXT {pairs}")), Err(Error::Pair), "{pairs}");
        }
    }
}
