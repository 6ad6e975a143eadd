//! Tests of `head`: edits, lookups, what makes a head unfit to be sent.

use super::*;
use crate::protocol::http::headers;

fn name(text: &str) -> HeaderName {
    HeaderName::parse(text.as_bytes()).unwrap()
}

fn list(head: &Head) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    head.iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
}

#[test]
fn edits_keep_the_order_of_headers() {
    let mut head = Head::new();
    head.append(&name("x-one"), b"1");
    head.append(&headers::VIA, b"a");
    head.append(&name("x-one"), b"2");
    head.append(&headers::VIA, b"b");
    head.set(&headers::VIA, b"c");
    assert_eq!(list(&head), pairs(&[("x-one", "1"), ("via", "c"), ("x-one", "2")]));
    assert_eq!(head.get_all(&name("X-One")).collect::<Vec<_>>(), [b"1", b"2"]);
    assert!(head.remove(&name("x-one")));
    assert!(!head.remove(&name("x-one")));
    assert!(!head.remove(&headers::DATE));
    head.set(&headers::DATE, b"now");
    assert_eq!(list(&head), pairs(&[("via", "c"), ("date", "now")]));
    head.retain(|name, _| name != b"via");
    assert_eq!((head.get(&headers::VIA), head.contains(&headers::VIA)), (None, false));
    head.set(&headers::VIA, b"again");
    assert_eq!(list(&head), pairs(&[("date", "now"), ("via", "again")]));
}

/// What is done to a head, and how many of the names are there then.
type Edit = (fn(&mut Head), usize);

/// In every way in which headers come and go.
#[test]
fn contains_says_what_is_in_the_list() {
    let names = [headers::VIA, headers::DATE, headers::AGE, headers::CONNECTION, name("x-one")];
    let agrees = |head: &Head| {
        let listed = |name: &HeaderName| head.iter().any(|(listed, _)| listed == name.as_bytes());
        names.iter().all(|name| head.contains(name) == listed(name))
    };
    let filled = || {
        let mut head = Head::new();
        names.iter().for_each(|name| head.append(name, b"age, x-one"));
        head
    };
    assert!(agrees(&Head::new()) && agrees(&filled()));
    let edits: [Edit; 8] = [
        (|head| assert!(head.remove(&headers::VIA)), 4),
        (|head| head.remove_set(NameSet::of(&[Known::VIA, Known::AGE])), 3),
        (|head| head.retain(|name, _| name != b"date"), 4),
        (|head| head.retain_known(|known| known == Known::AGE), 2),
        (Head::remove_nominated, 3),
        (|head| head.set(&headers::AGE, b"1"), 5),
        (|head| head.copy_from(&Head::new()), 0),
        (Head::clear, 0),
    ];
    for (edit, left) in edits {
        let mut head = filled();
        edit(&mut head);
        assert!(agrees(&head), "{:?}", list(&head));
        assert_eq!(head.len(), left, "{:?}", list(&head));
    }
}

#[test]
fn join_appends_to_the_last_value() {
    let mut head = Head::new();
    for value in [&b"1.1.1.1"[..], b"2.2.2.2"] {
        head.join(&headers::X_FORWARDED_FOR, value, b",");
    }
    assert_eq!(head.get(&headers::X_FORWARDED_FOR), Some(&b"1.1.1.1,2.2.2.2"[..]));
    head.append(&headers::VIA, b"");
    head.join(&headers::VIA, b"x", b", ");
    assert_eq!(head.get(&headers::VIA), Some(&b"x"[..]));
    head.join(&headers::X_FORWARDED_FOR, b"3.3.3.3", b",");
    assert_eq!(head.get(&headers::X_FORWARDED_FOR), Some(&b"1.1.1.1,2.2.2.2,3.3.3.3"[..]));
    assert_eq!(head.get(&headers::VIA), Some(&b"x"[..]));
    head.join(&headers::X_FORWARDED_FOR, b"4\n", b",");
    assert!(!head.is_sendable());
}

/// Each crumb of a cookie had all before it copied.
#[test]
fn join_of_many_takes_as_much_text_as_they_are() {
    let mut head = Head::new();
    (0..1000).for_each(|_| head.join(&headers::COOKIE, b"a=1", b"; "));
    assert_eq!(head.text_bytes(), 1000 * 5 - 2);
    assert_eq!(head.get(&headers::COOKIE).map(<[u8]>::len), Some(1000 * 5 - 2));
}

#[test]
fn pseudo_headers_are_the_start_line() {
    let mut head = Head::new();
    assert_eq!(head.get(&headers::HOST), None);
    assert_eq!(head.get(&headers::STATUS), None);
    head.set(&headers::PATH, b"/p");
    head.append(&headers::HOST, b"h");
    head.set(&headers::STATUS, b"404");
    assert_eq!((head.path(), head.authority(), head.status()), (&b"/p"[..], &b"h"[..], 404));
    assert_eq!(head.get(&headers::STATUS), Some(&b"404"[..]));
    assert_eq!(head.get_all(&headers::AUTHORITY).collect::<Vec<_>>(), [b"h"]);
    assert!(!head.remove(&headers::HOST));
    assert!(head.is_empty());
}

#[test]
fn bad_edit_makes_the_head_unsendable_until_cleared() {
    let mut head = Head::new();
    head.append(&headers::VIA, b"a\nb");
    assert!(!head.is_sendable());
    head.clear();
    head.append(&headers::VIA, b"a\tb \xff");
    assert!(head.is_sendable());
    head.set_authority(b"a b");
    assert!(!head.is_sendable());
}

#[test]
fn clear_gives_back_oversize_memory_only() {
    let mut head = Head::new();
    head.append(&headers::VIA, &[b'x'; 8 * 1024]);
    let kept = head.text.capacity();
    head.clear();
    assert_eq!(head.text.capacity(), kept);
    head.append(&headers::VIA, &[b'x'; 64 * 1024]);
    head.clear();
    assert!(head.text.capacity() <= KEPT_TEXT_BYTES);
    assert!(head.is_empty() && head.get(&headers::VIA).is_none());
}

#[test]
fn bytes_that_split_are_found_wherever_they_stand() {
    for length in [1, 3, 7, 8, 9, 15, 16, 17, 64, 65] {
        for at in 0..length {
            for byte in 0..=u8::MAX {
                for around in [b'a', 0xff, 0x80, b'!'] {
                    let mut text = vec![around; length];
                    text[at] = byte;
                    let (line, word) = (matches!(byte, b'\r' | b'\n' | 0), byte <= b' ' || byte == 0x7f);
                    assert_eq!((splits_line(&text), splits_word(&text)), (line, word), "{text:?}");
                }
            }
        }
    }
}

#[test]
fn copy_from_is_equal_and_independent() {
    let mut head = Head::new();
    head.set_method(b"GET");
    head.append(&name("x"), b"1");
    let mut copy = Head::new();
    copy.append(&headers::DATE, b"old");
    copy.copy_from(&head);
    head.set(&name("x"), b"2");
    assert_eq!((list(&copy), copy.method()), (pairs(&[("x", "1")]), &b"GET"[..]));
    assert_eq!(copy.get(&headers::DATE), None);
}
