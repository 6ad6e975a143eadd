//! Where in the files a field path stands.
//!
//! Later stages know paths only (`static_resources.clusters[1].lb_policy`). When there is something to report of one,
//! the texts are read a second time and the path is walked through their trees: kept all the while, they would be
//! most of the memory that a start needs.
use super::super::schema::is_json_name;
use super::Source;
use super::tree::{Entry, Mark, Node, Value};
use crate::config::error::{ConfigError, ConfigErrors, Position, shown_key};
use std::cell::OnceCell;

/// The files of a configuration, in the order in which they were merged.
#[derive(Debug, Default)]
pub struct SourceMap<'a> {
    sources: Vec<Source<'a>>,
    /// Made when the first path is asked for.
    trees: OnceCell<Vec<(&'a str, Node)>>,
}

/// A node on the way down: file, place, value.
type Found<'a> = (&'a str, Mark, &'a Node);

enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> SourceMap<'a> {
    /// Texts that could be read.
    pub(super) fn new(sources: Vec<Source<'a>>) -> Self {
        Self { sources, trees: OnceCell::new() }
    }

    fn trees(&self) -> &[(&'a str, Node)] {
        self.trees.get_or_init(|| {
            let read = |source: &Source<'a>| Some((source.name, super::parse(source).ok()?));
            self.sources.iter().filter_map(read).collect()
        })
    }

    /// The place of `path`, or of the closest object around it that a file has: where a field is missing, that is
    /// where it would stand. None only if nothing was loaded from files.
    pub fn locate(&self, path: &str) -> Option<Position> {
        let mut found: Vec<Found<'_>> =
            self.trees().iter().map(|(file, node)| (*file, node.mark, node)).collect();
        let mut is_within = false;
        for step in steps(path) {
            let next = match step {
                Step::Field(name) => {
                    children(&found, |entry| &*entry.key == name || is_json_name(name, &entry.key))
                }
                Step::Key(key) => children(&found, |entry| shown_key(&entry.key) == key),
                Step::Index(index) => element(&found, index),
            };
            if next.is_empty() {
                break;
            }
            found = next;
            is_within = true;
        }
        // What was merged last has the last word; of the files themselves, the first stands for all.
        let place = if is_within { found.last() } else { found.first() };
        place.map(|(file, mark, _)| Position { file: (*file).into(), line: mark.line, column: mark.column })
    }

    /// Adds the places of errors that have none, and brings all into the order of the files.
    pub fn place(&self, errors: &mut ConfigErrors) {
        for error in &mut errors.0 {
            if error.position.is_none() {
                error.position = self.locate(&error.path);
            }
        }
        let order = |error: &ConfigError| {
            let position = error.position.as_ref()?;
            let file = self.sources.iter().position(|source| *source.name == *position.file)?;
            Some((file, position.line, position.column))
        };
        errors.0.sort_by_key(|error| order(error).unwrap_or((usize::MAX, 0, 0)));
    }
}

fn children<'a>(nodes: &[Found<'a>], is_wanted: impl Fn(&Entry) -> bool) -> Vec<Found<'a>> {
    nodes
        .iter()
        .flat_map(|&(file, _, node)| node.entries().iter().map(move |entry| (file, entry)))
        .filter(|(_, entry)| is_wanted(entry))
        .map(|(file, entry)| (file, entry.mark, &entry.node))
        .collect()
}

/// Element `index` of the lists at `nodes`, which merging has put one behind the other.
fn element<'a>(nodes: &[Found<'a>], mut index: usize) -> Vec<Found<'a>> {
    for &(file, mark, node) in nodes {
        match &node.value {
            Value::List(elements) => match elements.get(index) {
                Some(element) => return vec![(file, element.mark, element)],
                None => index -= elements.len(),
            },
            Value::Null => {}
            // A single element in place of a list.
            _ if index == 0 => return vec![(file, mark, node)],
            _ => index -= 1,
        }
    }
    Vec::new()
}

/// The steps of `a.b[1].c["k"]`; ends where the text is no path.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    let mut rest = path;
    std::iter::from_fn(move || {
        if let Some(bracket) = rest.strip_prefix("[\"") {
            let (key, after) = bracket.split_once("\"]")?;
            rest = after;
            return Some(Step::Key(key));
        }
        if let Some(bracket) = rest.strip_prefix('[') {
            let (index, after) = bracket.split_once(']')?;
            rest = after;
            return index.parse().ok().map(Step::Index);
        }
        let field = rest.strip_prefix('.').unwrap_or(rest);
        let end = field.find(['.', '[']).unwrap_or(field.len());
        let (name, after) = field.split_at(end);
        rest = after;
        (!name.is_empty()).then_some(Step::Field(name))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    fn map<'a>(texts: &[&'a str]) -> SourceMap<'a> {
        let source = |(text, name): (&&'a str, &'a str)| Source { name, text, format: Format::Yaml };
        SourceMap::new(texts.iter().zip(["file0", "file1"]).map(source).collect())
    }

    fn place(map: &SourceMap<'_>, path: &str) -> String {
        map.locate(path).map_or_else(|| "nowhere".into(), |position| position.to_string())
    }

    #[test]
    fn paths_are_found_in_both_spellings() {
        let map = map(&["staticResources:\n  clusters:\n  - name: a\n  - lbPolicy: x\n    m: {k.x: 1}\n"]);
        for (path, expected) in [
            ("static_resources", "file0:1:1"),
            ("static_resources.clusters[0].name", "file0:3:5"),
            ("static_resources.clusters[1].lb_policy", "file0:4:5"),
            ("static_resources.clusters[1].m[\"k.x\"]", "file0:5:9"),
            ("static_resources.clusters[1].absent.more", "file0:4:5"),
            ("static_resources.clusters[7]", "file0:2:3"),
            ("admin", "file0:1:1"),
            ("", "file0:1:1"),
        ] {
            assert_eq!(place(&map, path), expected, "{path}");
        }
    }

    #[test]
    fn lists_of_merged_files_are_counted_through() {
        let map = map(&["c: [{n: 1}, {n: 2}]\na: {x: 1}\n", "c: {n: 3}\na: {x: 2, y: 3}\n"]);
        assert_eq!(place(&map, "c[1].n"), "file0:1:14");
        assert_eq!(place(&map, "c[2].n"), "file1:1:5");
        assert_eq!(place(&map, "a.x"), "file1:2:5");
        assert_eq!(place(&map, "a.y"), "file1:2:11");
    }

    #[test]
    fn what_is_no_path_is_at_the_start_of_the_first_file() {
        let map = map(&["a: 1", "b: 1"]);
        for path in ["[", "[\"", "[x]", ".", "..", "[99999999999999999999]", "]"] {
            assert_eq!(place(&map, path), "file0:1:1", "{path}");
        }
        assert_eq!(place(&SourceMap::default(), "a"), "nowhere");
    }
}
