//! The notations of `/proc` and `/sys`. Every function answers `None` to what is not in its notation.

/// Highest CPU number that is believed: Linux's limit.
const CPUS_MAX: usize = 8192;

/// One number.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Exactly `N` numbers between white space.
pub(super) fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let parsed: Option<Vec<u64>> = text.split_whitespace().take(N + 1).map(number).collect();
    parsed?.try_into().ok()
}

/// `0-3,8`, ascending or not; empty for an empty text.
pub(super) fn list(text: &str) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last >= CPUS_MAX || found.len() > CPUS_MAX {
            return None;
        }
        found.extend(first..=last);
    }
    Some(found)
}

/// Ranges of ports, as `list` but to 65,535; the pairs.
pub(super) fn port_ranges(text: &str) -> Option<Vec<(u16, u16)>> {
    let parts = text.trim().split(',').filter(|_| !text.trim().is_empty());
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some((first, last))
    };
    parts.map(range).collect()
}

/// How many CPUs a mask such as `ff,ffffffff` has.
pub(super) fn mask_count(text: &str) -> Option<u32> {
    let words = text.trim().split(',').take(CPUS_MAX / 32 + 1);
    words.map(|word| u32::from_str_radix(word, 16).ok().map(u32::count_ones)).sum()
}

/// What stands in brackets: `always [madvise] never`.
pub(super) fn chosen(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(chosen, _)| chosen).filter(|chosen| !chosen.is_empty())
}

/// The value of a line `name:value`, as in `/proc/self/status`.
pub(super) fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// Short notation of ascending CPU numbers: `0-3,8`.
pub(super) fn shown(cpus: &[usize]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while let Some(&first) = cpus.get(at) {
        let run = cpus.iter().skip(at).zip(first..).take_while(|&(&cpu, expected)| cpu == expected).count();
        let comma = if text.is_empty() { "" } else { "," };
        match run {
            1 => text.push_str(&format!("{comma}{first}")),
            _ => text.push_str(&format!("{comma}{first}-{}", first + run - 1)),
        }
        at += run;
    }
    text
}

/// Bytes in the largest unit that divides well enough to read: `512 MiB`, `1.5 GiB`.
pub(super) fn bytes(count: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((unit, size)) = units.into_iter().find(|&(_, size)| count >= size) else {
        return format!("{count} bytes");
    };
    if count.is_multiple_of(size) {
        format!("{} {unit}", count / size)
    } else {
        format!("{:.1} {unit}", count as f64 / size as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exactly_as_many_as_asked_for() {
        assert_eq!(numbers("4096\t16384 4194304\n"), Some([4096, 16384, 4_194_304]));
        for wrong in ["", "1 2", "1 2 3 4", "1 x 3", "1 -2 3", "1 2 18446744073709551616"] {
            assert_eq!(numbers::<3>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lists_are_read_and_shown() {
        assert_eq!(list("0-2,8\n"), Some(vec![0, 1, 2, 8]));
        assert_eq!(list("\n"), Some(Vec::new()));
        for wrong in ["1-", "-", "2-1", "a", "0-99999999", "1,,2"] {
            assert_eq!(list(wrong), None, "{wrong}");
        }
        assert_eq!(shown(&[0, 1, 2, 8, 10, 11]), "0-2,8,10-11");
        assert_eq!(shown(&[]), "");
        assert_eq!(port_ranges("8080,9148-9150\n"), Some(vec![(8080, 8080), (9148, 9150)]));
        assert_eq!(port_ranges("70000"), None);
    }

    #[test]
    fn masks_are_counted() {
        assert_eq!(mask_count("00000000,0000000f\n"), Some(4));
        assert_eq!(mask_count("0"), Some(0));
        for wrong in ["", "xyz", "f,,f", "fffffffff"] {
            assert_eq!(mask_count(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn choice_and_field_are_found() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!((chosen("always"), chosen("[]"), chosen("[x")), (None, None, None));
        assert_eq!(field("Seccomp_filters:\t1\nSeccomp:\t2\n", "Seccomp"), Some("2"));
        assert_eq!(field("Seccomp 2", "Seccomp"), None);
    }

    #[test]
    fn bytes_are_readable() {
        assert_eq!(bytes(8 << 20), "8 MiB");
        assert_eq!(bytes((1 << 30) + (1 << 29)), "1.5 GiB");
        assert_eq!(bytes(17), "17 bytes");
    }
}
