//! The query of a path, as `%QUERY_PARAM%` and `%QUERY_PARAMS%` read it.

/// Path and query; `None` if there is no question mark.
pub(super) fn split(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|byte| *byte == b'?') {
        Some(mark) => (&path[..mark], Some(&path[mark + 1..])),
        None => (path, None),
    }
}

/// The value, still encoded, of the first parameter of that name; empty if it has no equals sign.
pub(super) fn parameter<'a>(query: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (key, value) = match equals {
            Some(equals) => (&pair[..equals], &pair[equals + 1..]),
            None => (pair, &pair[..0]),
        };
        decoded(key).map(|(byte, _)| byte).eq(name.iter().copied()).then_some(value)
    })
}

/// Appends `text` with its percent encoding undone; what is not an encoding stays.
///
/// Control characters stay encoded, unlike in Envoy: a client could otherwise begin a new line of a
/// log, or a new header where the value goes into one.
pub(super) fn push_decoded(text: &[u8], out: &mut Vec<u8>) {
    for (byte, raw) in decoded(text) {
        if byte.is_ascii_control() {
            out.extend_from_slice(raw);
        } else {
            out.push(byte);
        }
    }
}

/// Appends `text` as `%QUERY_PARAMS(DECODED)%` does: encodings of visible characters that are safe in a
/// query are undone, other encodings stay, percent signs that encode nothing go.
pub(super) fn push_decoded_visible(text: &[u8], out: &mut Vec<u8>) {
    const UNSAFE: &[u8] = b"\"<>\\^{|}";
    for (byte, raw) in decoded(text) {
        match raw {
            b"%" => {}
            [_] => out.push(byte),
            _ if byte.is_ascii_graphic() && !UNSAFE.contains(&byte) => out.push(byte),
            _ => out.extend_from_slice(raw),
        }
    }
}

/// Every byte with the text that encodes it.
fn decoded(text: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let encoded = match rest {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        let (byte, taken) = match encoded {
            Some(byte) => (byte, 3),
            None => (*rest.first()?, 1),
        };
        let (raw, after) = rest.split_at(taken);
        rest = after;
        Some((byte, raw))
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Queries and values as Envoy 1.40 logged them, but for the control character.
    #[test]
    fn parameters_are_found_and_decoded_as_in_envoy() {
        let query: &[u8] = b"a=%41%20b&b=x%2fy%2&c&d=&=e&f=%zz&g=a%2Bb+c&a=9&%61a=enc&h==b&&i=%0d%0a%c3%a9";
        let table: [(&str, Option<&[u8]>); 11] = [
            ("a", Some(b"A b")),
            ("b", Some(b"x/y%2")),
            ("c", Some(b"")),
            ("d", Some(b"")),
            ("f", Some(b"%zz")),
            ("g", Some(b"a+b+c")),
            ("aa", Some(b"enc")),
            ("h", Some(b"=b")),
            ("i", Some("%0d%0aé".as_bytes())),
            ("", Some(b"e")),
            ("nope", None),
        ];
        for (name, expected) in table {
            let value = parameter(query, name.as_bytes()).map(|value| {
                let mut out = Vec::new();
                push_decoded(value, &mut out);
                out
            });
            assert_eq!(value.as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn visible_characters_are_decoded_as_in_envoy() {
        let table = [
            ("a=%41%20b&b=x%2fy%2&c&f=%zz&g=a%2Bb+c", "a=A%20b&b=x/y2&c&f=zz&g=a+b+c"),
            ("x=%2F%2f;y=1#f", "x=//;y=1#f"),
            ("a=%C3%A9&b=%ff&c=%22%0a", "a=%C3%A9&b=%ff&c=%22%0a"),
            ("%25.%3c%3e%5c%5e%7b%7c%7d%7e%7f%60", "%.%3c%3e%5c%5e%7b%7c%7d~%7f`"),
            ("a%2", "a2"),
        ];
        for (query, expected) in table {
            let mut out = Vec::new();
            push_decoded_visible(query.as_bytes(), &mut out);
            assert_eq!(out, expected.as_bytes(), "{query}");
        }
    }

    #[test]
    fn split_takes_the_first_question_mark() {
        assert_eq!(split(b"/a?b?c"), (&b"/a"[..], Some(&b"b?c"[..])));
        assert_eq!(split(b"/a"), (&b"/a"[..], None));
    }
}
