//! "did you mean": the closest of some names, by edit distance.

/// Names longer than this are not compared.
const NAME_BYTES_MAX: usize = 128;

/// The candidate closest to `wanted`, if it is close enough to be a slip: a third of its characters at most.
pub(super) fn closest<'a>(wanted: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if wanted.len() > NAME_BYTES_MAX {
        return None;
    }
    let wanted = normal(wanted);
    candidates
        .map(|candidate| (distance(&wanted, &normal(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= (wanted.len().min(candidate.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean "x"?`, or nothing.
pub(super) fn did_you_mean(closest: Option<&str>) -> String {
    closest.map_or_else(String::new, |name| format!("; did you mean \"{name}\"?"))
}

/// Lower case, dashes as underscores, a camel's hump as an underscore.
fn normal(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 4);
    let mut low_before = false;
    for byte in name.bytes() {
        if byte.is_ascii_uppercase() && low_before {
            out.push(b'_');
        }
        low_before = byte.is_ascii_lowercase() || byte.is_ascii_digit();
        out.push(if byte == b'-' { b'_' } else { byte.to_ascii_lowercase() });
    }
    out
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `left` into `right`.
fn distance(left: &[u8], right: &[u8]) -> usize {
    let mut before_last = vec![0; right.len() + 1];
    let mut last: Vec<usize> = (0..=right.len()).collect();
    let mut row = last.clone();
    for i in 1..=left.len() {
        row[0] = i;
        for j in 1..=right.len() {
            let differs = usize::from(left[i - 1] != right[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + differs);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        std::mem::swap(&mut before_last, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_name_and_strangers_none() {
        let names = ["lb_policy", "load_assignment", "name", "type"];
        for (wanted, expected) in [
            ("lb_polcy", Some("lb_policy")),
            ("lb_poliyc", Some("lb_policy")),
            ("lb-policy", Some("lb_policy")),
            ("LbPolicy", Some("lb_policy")),
            ("nmae", Some("name")),
            ("loadAssignement", Some("load_assignment")),
            ("hosts", None),
            ("x", None),
        ] {
            assert_eq!(closest(wanted, names.into_iter()), expected, "{wanted}");
        }
        assert_eq!(closest(&"a".repeat(1000), names.into_iter()), None);
    }
}
