//! Paths as received to paths as matched and forwarded: escaped slashes, dot segments, doubled slashes.
//!
//! The connection manager calls [`sanitize`] once per request, before anything looks at the path. Everything acts on
//! the path only, the query stays byte for byte. Results are what Envoy 1.40 answers (its normaliser is Chromium's).

use crate::config::http::{HttpConnectionManager, PathWithEscapedSlashesAction};

/// What becomes of a request after its path was sanitised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathVerdict {
    /// The path may stay as received.
    Unchanged,
    /// The sanitised path is in the scratch: the request goes on with it.
    Changed,
    /// The sanitised path is in the scratch: 307 to it (gRPC requests: 400, their clients follow no redirects).
    Redirect,
    /// 400.
    Reject,
}

/// Which steps are configured. Source: Envoy `HttpConnectionManager`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathSettings {
    /// Source: `path_with_escaped_slashes_action`.
    pub escaped_slashes: PathWithEscapedSlashesAction,
    /// Source: `normalize_path`.
    pub normalize: bool,
    /// Source: `merge_slashes`.
    pub merge_slashes: bool,
}

impl PathSettings {
    /// The settings of a connection manager.
    pub fn of(manager: &HttpConnectionManager) -> Self {
        Self {
            escaped_slashes: manager.path_with_escaped_slashes_action,
            normalize: manager.normalize_path,
            merge_slashes: manager.merge_slashes,
        }
    }
}

/// Runs the configured steps over `path` (with its query). Unless the verdict is `Unchanged` or `Reject`, `out` holds
/// the new path. A path with a fragment is refused whatever is configured, as in Envoy.
pub fn sanitize(
    path: &[u8],
    settings: PathSettings,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> PathVerdict {
    if path.contains(&b'#') {
        return PathVerdict::Reject;
    }
    // Nothing to do, or not a path: `*` of OPTIONS, nothing of CONNECT.
    if settings == PathSettings::default() || path.first() != Some(&b'/') {
        return PathVerdict::Unchanged;
    }
    let (target, query) = split_query(path);
    out.clear();
    out.extend_from_slice(target);
    let mut redirect = false;
    if settings.escaped_slashes != PathWithEscapedSlashesAction::KeepUnchanged && unescape_slashes(out) {
        match settings.escaped_slashes {
            PathWithEscapedSlashesAction::RejectRequest => return PathVerdict::Reject,
            PathWithEscapedSlashesAction::UnescapeAndRedirect => redirect = true,
            PathWithEscapedSlashesAction::UnescapeAndForward
            | PathWithEscapedSlashesAction::KeepUnchanged => {}
        }
    }
    if settings.normalize {
        std::mem::swap(scratch, out);
        if !normalize(scratch, out) {
            return PathVerdict::Reject;
        }
    }
    if settings.merge_slashes {
        merge_slashes(out);
    }
    if redirect {
        out.extend_from_slice(query);
        return PathVerdict::Redirect;
    }
    if out == target {
        return PathVerdict::Unchanged;
    }
    out.extend_from_slice(query);
    PathVerdict::Changed
}

/// The path and its query with the question mark (empty when there is none).
pub fn split_query(path: &[u8]) -> (&[u8], &[u8]) {
    path.split_at(memchr::memchr(b'?', path).unwrap_or(path.len()))
}

/// The first value of a query parameter, as sent: nothing is decoded. Empty where it has no equals sign. Both as in Envoy.
pub fn query_parameter<'a>(path: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (_, query) = split_query(path);
    query.get(1..)?.split(|&byte| byte == b'&').find_map(|pair| {
        let (found, value) = match memchr::memchr(b'=', pair) {
            Some(equals) => (&pair[..equals], &pair[equals + 1..]),
            None => (pair, &[][..]),
        };
        (found == name).then_some(value)
    })
}

/// The path without query and fragment: what routes match.
pub fn without_query(path: &[u8]) -> &[u8] {
    &path[..memchr::memchr2(b'?', b'#', path).unwrap_or(path.len())]
}

/// Turns `%2F` into `/` and `%5C` into `\` in place; whether there was one.
fn unescape_slashes(path: &mut Vec<u8>) -> bool {
    let (mut read, mut write) = (0, 0);
    while read < path.len() {
        let (byte, len) = match &path[read..] {
            [b'%', b'2', b'F' | b'f', ..] => (b'/', 3),
            [b'%', b'5', b'C' | b'c', ..] => (b'\\', 3),
            _ => (path[read], 1),
        };
        path[write] = byte;
        read += len;
        write += 1;
    }
    let found = write < path.len();
    path.truncate(write);
    found
}

/// Writes `path` (no query, begins with `/`) to `out` in normal form: dot segments resolved (also escaped ones, and those with
/// parameters, `/..;x/`), backslashes as slashes, unreserved characters unescaped, characters that do not belong in a
/// path escaped; other escapes stay as they are. False for an escaped NUL.
fn normalize(path: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    out.push(b'/');
    let mut rest = path.strip_prefix(b"/").unwrap_or(path);
    loop {
        let len = memchr::memchr2(b'/', b'\\', rest).unwrap_or(rest.len());
        let (segment, last) = (&rest[..len], len == rest.len());
        match dots(segment) {
            Some(1) => {}
            Some(_) => {
                // Back over the segment before; the root has none.
                out.pop();
                let parent = memchr::memrchr(b'/', out).unwrap_or(0);
                out.truncate(parent);
                out.push(b'/');
            }
            None => {
                if !push_segment(segment, out) {
                    return false;
                }
                if !last {
                    out.push(b'/');
                }
            }
        }
        if last {
            return true;
        }
        rest = &rest[len + 1..];
    }
}

/// 1 for `.`, 2 for `..`, in any escaping or with parameters behind unescaped dots.
fn dots(segment: &[u8]) -> Option<usize> {
    if segment.starts_with(b"..;") {
        return Some(2);
    }
    if segment.starts_with(b".;") {
        return Some(1);
    }
    let (mut rest, mut count) = (segment, 0);
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'E' | b'e', rest @ ..] => rest,
            _ => return None,
        };
        count += 1;
    }
    (1..=2).contains(&count).then_some(count)
}

fn push_segment(segment: &[u8], out: &mut Vec<u8>) -> bool {
    let mut index = 0;
    while let Some(&byte) = segment.get(index) {
        index += 1;
        match byte {
            b'%' => match escaped(&segment[index..]) {
                Some(0) => return false,
                Some(byte) if is_unreserved(byte) => {
                    out.push(byte);
                    index += 2;
                }
                // The digits follow as they are; a percent sign without digits stands for itself.
                _ => out.push(b'%'),
            },
            b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | ..=b' ' | 0x7f.. => {
                out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            _ => out.push(byte),
        }
    }
    true
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The byte that two hexadecimal digits stand for.
fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |index: usize| digits.get(index).and_then(|&byte| char::from(byte).to_digit(16));
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Leaves one slash of every run, in place. `//` alone stays: Envoy keeps the first and the last slash apart.
fn merge_slashes(path: &mut Vec<u8>) {
    if path.len() > 1 && path.iter().all(|&byte| byte == b'/') {
        return path.truncate(2);
    }
    path.dedup_by(|next, kept| *next == b'/' && *kept == b'/');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(path: &str, settings: PathSettings) -> Result<String, PathVerdict> {
        let (mut scratch, mut out) = (b"old".to_vec(), b"older".to_vec());
        match sanitize(path.as_bytes(), settings, &mut scratch, &mut out) {
            PathVerdict::Unchanged => Ok(path.to_owned()),
            PathVerdict::Changed => Ok(String::from_utf8(out).unwrap()),
            PathVerdict::Redirect => Ok(format!("redirect {}", String::from_utf8(out).unwrap())),
            PathVerdict::Reject => Err(PathVerdict::Reject),
        }
    }

    const NORMALIZE: PathSettings = PathSettings {
        escaped_slashes: PathWithEscapedSlashesAction::KeepUnchanged,
        normalize: true,
        merge_slashes: false,
    };

    /// Every line as observed from Envoy 1.40 with `normalize_path`.
    #[test]
    fn sanitize_normalizes_as_envoy() {
        for (path, expected) in [
            ("/%zz", "/%zz"),
            ("/%", "/%"),
            ("/%2", "/%2"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/../..", "/"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/.%2E/b", "/b"),
            ("/a//../b", "/a/b"),
            (r"/a\b\..\c", "/a/c"),
            ("/a/...", "/a/..."),
            ("/a/..;x/b", "/b"),
            ("/a/b?q=/../x", "/a/b?q=/../x"),
            ("/a%2fb", "/a%2fb"),
            ("/a%5cb", "/a%5cb"),
            ("/%2E", "/"),
            ("/a/b/../../../c", "/c"),
            ("/a/.;/b", "/a/b"),
            ("/%25%32%65", "/%252e"),
            ("/a/..//b", "//b"),
            ("//a", "//a"),
            ("/./", "/"),
            ("/.", "/"),
            ("/a.%2e/b", "/a../b"),
            ("/a/.b/..c/d", "/a/.b/..c/d"),
            ("/a%zz/../b", "/b"),
            ("/a/%2e", "/a/"),
            ("/x\"y", "/x%22y"),
            ("/x<y>", "/x%3Cy%3E"),
            ("/x^`{|}", "/x%5E%60%7B%7C%7D"),
            ("/%41%7e%2d%5F%2c", "/A~-_%2c"),
            ("/?/../", "/?/../"),
            ("*", "*"),
        ] {
            assert_eq!(run(path, NORMALIZE).as_deref(), Ok(expected), "{path}");
        }
        assert_eq!(run("/a/%00", NORMALIZE), Err(PathVerdict::Reject));
    }

    #[test]
    fn sanitize_unescapes_then_normalizes_then_merges() {
        let all = PathSettings {
            escaped_slashes: PathWithEscapedSlashesAction::UnescapeAndForward,
            normalize: true,
            merge_slashes: true,
        };
        for (path, expected) in [
            ("/a%2fb", "/a/b"),
            ("/a%2F%2fb", "/a/b"),
            ("/a%5cb", "/a/b"),
            ("/x//y///z//?a//b", "/x/y/z/?a//b"),
            ("/a%2f..%2fc", "/c"),
            ("//", "//"),
            ("///x", "/x"),
            ("/x%2f%2e%2e%5cy", "/y"),
            ("/%25%32%66x", "/%252fx"),
            ("/a?b=%2f", "/a?b=%2f"),
        ] {
            assert_eq!(run(path, all).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn sanitize_escaped_slash_is_kept_rejected_or_redirected() {
        let with = |escaped_slashes| PathSettings { escaped_slashes, ..PathSettings::default() };
        assert_eq!(run("/a%2Fb", with(PathWithEscapedSlashesAction::KeepUnchanged)).as_deref(), Ok("/a%2Fb"));
        assert!(run("/a%2Fb", with(PathWithEscapedSlashesAction::RejectRequest)).is_err());
        assert_eq!(run("/a", with(PathWithEscapedSlashesAction::RejectRequest)).as_deref(), Ok("/a"));
        assert_eq!(
            run("/a%2Fb?c%2f", with(PathWithEscapedSlashesAction::UnescapeAndRedirect)).as_deref(),
            Ok("redirect /a/b?c%2f")
        );
    }

    #[test]
    fn sanitize_without_steps_changes_nothing() {
        for path in ["/a/../b", "//a%2f%5c%zz?b", "/", "*", ""] {
            assert_eq!(run(path, PathSettings::default()).as_deref(), Ok(path), "{path}");
        }
    }

    #[test]
    fn sanitize_fragment_is_rejected() {
        assert!(run("/a#b", PathSettings::default()).is_err());
        assert!(run("/?x#y", NORMALIZE).is_err());
    }

    #[test]
    fn normalize_twice_is_normalize_once() {
        let mut rng = crate::base::rng::Rng::from_seed(7);
        for _ in 0..20_000 {
            let alphabet = b"/.%2eE5cC\\a?\"";
            let path: String =
                (0..rng.below(14)).map(|_| char::from(alphabet[rng.below(13) as usize])).collect();
            let Ok(once) = run(&format!("/{path}"), NORMALIZE) else { continue };
            // Unescaping `%25` never happens, so nothing new to unescape appears.
            assert_eq!(run(&once, NORMALIZE).as_deref(), Ok(&*once), "/{path}");
            let target = without_query(once.as_bytes());
            assert!(target.split(|&byte| byte == b'/').all(|segment| segment != b"." && segment != b".."));
        }
    }
}
