//! Cookies of requests, read as Envoy reads them.

use super::head::Head;
use super::headers::{self, HeaderName};

/// A constant's borrow lasts only for a statement.
static COOKIE: HeaderName = headers::COOKIE;

/// The value of the first cookie of this name, without the quotes around it. Blanks before a name do not belong to it, those
/// behind do. Source: Envoy `Utility::parseCookieValue`.
pub fn cookie<'a>(head: &'a Head, name: &[u8]) -> Option<&'a [u8]> {
    head.get_all(&COOKIE).flat_map(|line| line.split(|&byte| byte == b';')).find_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        let (found, value) = (&pair[..equals], &pair[equals + 1..]);
        let blanks = found.iter().take_while(|&&byte| byte == b' ').count();
        (&found[blanks..] == name).then_some(match value {
            [b'"', inner @ .., b'"'] => inner,
            _ => value,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_is_found_in_any_line_and_loses_its_quotes() {
        let mut head = Head::new();
        head.append(&COOKIE, b"a=1; b=\"2\";c = 3;d;=4");
        head.append(&COOKIE, b"e=;  f=\"; b=5; g=x=y ; h=\"\"");
        let of = |name: &str| cookie(&head, name.as_bytes()).map(|value| std::str::from_utf8(value).unwrap());
        assert_eq!(
            (of("a"), of("b"), of("c"), of("c "), of("d")),
            (Some("1"), Some("2"), None, Some(" 3"), None)
        );
        assert_eq!(
            (of(""), of("e"), of("f"), of("g"), of("h")),
            (Some("4"), Some(""), Some("\""), Some("x=y "), Some(""))
        );
    }
}
