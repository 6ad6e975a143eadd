//! [`ScopeTable`]: from a request's headers to the routing table of the scope that it is in.
//!
//! A key is the list of its fragments, each with its length before it, so that no two lists look the same. It is put
//! together once per lookup, whose cost does not grow with the number of scopes.

use std::collections::HashMap;

use super::compile::header_name;
use crate::base::hash::SeededState;
use crate::config::error::ConfigError;
use crate::config::scoped_routes as config;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;

/// The scopes of a connection manager. Immutable, shared by all cores.
#[derive(Debug)]
pub struct ScopeTable {
    fragments: Box<[Fragment]>,
    /// Numbers of routing tables by key.
    scopes: HashMap<Box<[u8]>, usize, SeededState>,
}

/// Where a fragment of a request's key stands.
#[derive(Debug)]
struct Fragment {
    header: HeaderName,
    /// Empty: the header's value is one element.
    separator: Box<[u8]>,
    element: Element,
}

#[derive(Debug)]
enum Element {
    /// The one at this place.
    At(usize),
    /// What stands behind the separator in the first one that has this key before it.
    Of { key: Box<[u8]>, separator: Box<[u8]> },
}

impl ScopeTable {
    /// Compiles the scopes. `tables`: in their order, the number of the routing table of each. Paths in errors are relative to
    /// `scoped_routes`.
    ///
    /// # Errors
    /// What names no header.
    pub fn compile(config: &config::ScopedRoutes, tables: &[usize], seed: u64) -> Result<Self, ConfigError> {
        let mut fragments = Vec::with_capacity(config.fragments.len());
        for (index, fragment) in config.fragments.iter().enumerate() {
            let path = format!("scope_key_builder.fragments[{index}].header_value_extractor.name");
            fragments.push(Fragment {
                header: header_name(&fragment.header, &path)?,
                separator: fragment.element_separator.as_bytes().into(),
                element: match &fragment.element {
                    config::Element::At(place) => Element::At(*place as usize),
                    config::Element::Of { key, separator } => {
                        Element::Of { key: key.as_bytes().into(), separator: separator.as_bytes().into() }
                    }
                },
            });
        }
        let mut scopes = HashMap::with_hasher(SeededState::new(seed));
        for (scope, table) in config.scopes.iter().zip(tables) {
            let mut key = Vec::new();
            scope.key.iter().for_each(|fragment| put(&mut key, fragment.as_bytes()));
            scopes.insert(key.into_boxed_slice(), *table);
        }
        Ok(Self { fragments: fragments.into(), scopes })
    }

    /// The number of the table of a request with this head; `None`: it is in no scope. `scratch` is written to.
    pub fn find(&self, head: &Head, scratch: &mut Vec<u8>) -> Option<usize> {
        scratch.clear();
        for fragment in &self.fragments {
            put(scratch, fragment.of(head)?);
        }
        self.scopes.get(scratch.as_slice()).copied()
    }
}

impl Fragment {
    fn of<'h>(&self, head: &'h Head) -> Option<&'h [u8]> {
        let mut elements = elements(head.get(&self.header)?, &self.separator);
        match &self.element {
            Element::At(place) => elements.nth(*place),
            Element::Of { key, separator } => elements.find_map(|element| {
                let (name, value) = split_once(element, separator).unwrap_or((element, &[][..]));
                (*name == **key).then_some(value)
            }),
        }
    }
}

/// Adds a fragment to a key.
fn put(key: &mut Vec<u8>, fragment: &[u8]) {
    key.extend_from_slice(&(fragment.len() as u64).to_le_bytes());
    key.extend_from_slice(fragment);
}

/// What stands between the separators; all of it where there is none.
fn elements<'v>(value: &'v [u8], separator: &[u8]) -> impl Iterator<Item = &'v [u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let text = rest?;
        let (element, behind) = match split_once(text, separator) {
            Some((element, behind)) => (element, Some(behind)),
            None => (text, None),
        };
        rest = behind;
        Some(element)
    })
}

/// What stands before the first separator, and behind it; `None`: there is none, as of an empty one.
fn split_once<'t>(text: &'t [u8], separator: &[u8]) -> Option<(&'t [u8], &'t [u8])> {
    let at = memchr::memmem::find(text, separator).filter(|_| !separator.is_empty())?;
    Some((text.get(..at)?, text.get(at + separator.len()..)?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::route::RouteConfiguration;

    fn fragment(separator: &str, element: config::Element) -> config::FragmentBuilder {
        config::FragmentBuilder { header: "X-Scope".into(), element_separator: separator.into(), element }
    }

    fn of(key: &str, separator: &str) -> config::Element {
        config::Element::Of { key: key.into(), separator: separator.into() }
    }

    fn table(fragments: Vec<config::FragmentBuilder>, keys: &[&[&str]]) -> ScopeTable {
        let scope = |key: &&[&str]| config::Scope {
            key: key.iter().map(|&fragment| fragment.into()).collect(),
            route_config: Arc::new(RouteConfiguration::default()),
        };
        let config = config::ScopedRoutes { fragments, scopes: keys.iter().map(scope).collect(), told: None };
        ScopeTable::compile(&config, &(0..keys.len()).collect::<Vec<_>>(), 1).unwrap()
    }

    fn head(values: &[&str]) -> Head {
        let mut head = Head::new();
        let name = HeaderName::parse(b"x-scope").unwrap();
        values.iter().for_each(|value| head.append(&name, value.as_bytes()));
        head
    }

    fn text(fragment: config::FragmentBuilder, value: &str) -> Option<String> {
        let table = table(vec![fragment], &[]);
        let head = head(&[value]);
        table.fragments[0].of(&head).map(|found| String::from_utf8(found.to_vec()).unwrap())
    }

    /// What Envoy's `HeaderValueExtractorImpl` takes out of these.
    #[test]
    fn fragment_is_the_element_that_is_asked_for() {
        use config::Element::At;

        for (fragment, value, expected) in [
            (fragment("", At(0)), "a,b", Some("a,b")),
            (fragment("", At(0)), "", Some("")),
            (fragment(",", At(0)), "", Some("")),
            (fragment(",", At(0)), "a,b", Some("a")),
            (fragment(",", At(1)), "a,b", Some("b")),
            (fragment(",", At(2)), "a,b", None),
            (fragment(",", At(2)), "a,b,", Some("")),
            (fragment(",", At(1)), "a,,b", Some("")),
            (fragment("::", At(1)), "a:b::c:::d", Some("c")),
            (fragment("::", At(2)), "a:b::c:::d", Some(":d")),
            (fragment(";", of("b", "=")), "a=1;b=2;b=3", Some("2")),
            (fragment(";", of("b", "=")), "a=1;b=2=3", Some("2=3")),
            (fragment(";", of("b", "=")), "a=1;b", Some("")),
            (fragment(";", of("b", "=")), "a=1; b=2", None),
            (fragment("", of("b", "=")), "b=1;c=2", Some("1;c=2")),
            (fragment(";", of("b", "=>")), "b=1;b=>2", Some("2")),
        ] {
            assert_eq!(text(fragment.clone(), value).as_deref(), expected, "{fragment:?} of {value:?}");
        }
    }

    #[test]
    fn request_is_in_the_scope_whose_fragments_are_its_own_in_order() {
        let fragments = || vec![fragment(";", of("a", "=")), fragment(";", of("b", "="))];
        let table = table(fragments(), &[&["1", "2"], &["2", "1"], &["12", ""], &["1"]]);
        for (values, expected) in [
            (&["a=1;b=2"][..], Some(0)),
            (&["b=2;a=1"], Some(0)),
            (&["a=2;b=1"], Some(1)),
            (&["a=12;b"], Some(2)),
            // The same bytes, in other fragments.
            (&["a=;b=12"], None),
            (&["a=1"], None),
            (&["A=1;b=2"], None),
            (&[], None),
            // Of several headers the first counts.
            (&["a=2;b=1", "a=1;b=2"], Some(1)),
            (&["a=1", "b=2"], None),
        ] {
            assert_eq!(table.find(&head(values), &mut b"old".to_vec()), expected, "{values:?}");
        }
    }

    #[test]
    fn scopes_by_the_host_and_the_path_are_found() {
        let by = |header: &str| config::FragmentBuilder {
            header: header.into(),
            ..fragment("/", config::Element::At(u32::from(header == ":path")))
        };
        let table = table(vec![by("host"), by(":path")], &[&["a.b", "shop"]]);
        let mut head = Head::new();
        head.set_authority(b"a.b");
        head.set_path(b"/shop/1");
        assert_eq!(table.find(&head, &mut Vec::new()), Some(0));
        head.set_path(b"/other/shop");
        assert_eq!(table.find(&head, &mut Vec::new()), None);
    }

    #[test]
    fn fragment_of_what_is_no_header_is_refused_with_its_place() {
        let bad = config::FragmentBuilder { header: "a b".into(), ..fragment("", config::Element::At(0)) };
        let fragments = vec![fragment("", config::Element::At(0)), bad];
        let config = config::ScopedRoutes { fragments, scopes: Vec::new(), told: None };
        let error = ScopeTable::compile(&config, &[], 1).unwrap_err();
        assert_eq!(error.path, "scope_key_builder.fragments[1].header_value_extractor.name");
    }
}
