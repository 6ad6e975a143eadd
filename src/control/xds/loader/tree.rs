//! A configuration text as a tree with positions: what YAML and JSON have in common, before any schema.
//!
//! Built by `yaml` or `json`, read by `encode`, kept by the source map.
use crate::config::error::ConfigError;

/// Line and column of a value, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// A value and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// A number in JSON's notation, unparsed: no digit is lost before the field's type is known.
    Number(Box<str>),
    Text(Box<str>),
    List(Vec<Node>),
    /// In the order of the text; keys differ.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) mark: Mark,
    pub(super) key: Box<str>,
    pub(super) node: Node,
}

/// What is wrong with a text, and where: no field path is known yet.
#[derive(Debug, PartialEq)]
pub(super) struct TextError {
    pub(super) mark: Mark,
    pub(super) reason: String,
    pub(super) fix: Option<String>,
}

impl TextError {
    pub(super) fn new(mark: Mark, reason: impl Into<String>) -> Self {
        Self { mark, reason: reason.into(), fix: None }
    }

    /// As an error of `file`.
    pub(super) fn in_file(self, file: &str) -> ConfigError {
        let Mark { line, column } = self.mark;
        let position = crate::config::error::Position { file: file.into(), line, column };
        let mut error = ConfigError::new("", self.reason).at(Some(position));
        error.fix = self.fix;
        error
    }
}

impl Value {
    /// For messages: `the number 5`, `a list`.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Number(number) => format!("the number {number}"),
            Self::Text(text) if text.chars().count() > 60 => {
                format!("\"{}...\"", text.chars().take(57).collect::<String>().escape_debug())
            }
            Self::Text(text) => format!("\"{}\"", text.escape_debug()),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "an object".into(),
        }
    }
}

impl Node {
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of `key`, if this is an object that has it.
    pub(super) fn entry(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| &*entry.key == key).map(|entry| &entry.node)
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// This value and all within it.
    pub(super) fn count(&self) -> usize {
        1 + match &self.value {
            Value::List(elements) => elements.iter().map(Self::count).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.node.count()).sum(),
            _ => 0,
        }
    }
}

/// Reports every key that stands twice in one object. Envoy takes the last one silently; a second
/// `virtual_hosts:` far below the first has cost people their routes.
pub(super) fn refuse_duplicate_keys(entries: &[Entry], errors: &mut Vec<TextError>) {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by(|&left, &right| entries[left].key.cmp(&entries[right].key).then(left.cmp(&right)));
    let mut duplicates: Vec<_> =
        order.windows(2).filter(|pair| entries[pair[0]].key == entries[pair[1]].key).collect();
    duplicates.sort_by_key(|pair| pair[1]);
    for pair in duplicates {
        let (first, second) = (&entries[pair[0]], &entries[pair[1]]);
        errors.push(TextError::new(
            second.mark,
            format!("\"{}\" stands twice in this object, first on line {}", second.key, first.mark.line),
        ));
    }
}

// === Writing YAML ===

/// Most lines of a value that a suggested correction repeats.
const YAML_LINES_MAX: usize = 24;

/// Appends `node` as block YAML, to stand below or behind what `out` ends with.
pub(super) fn write_yaml(out: &mut String, node: &Node, indent: usize) {
    if out.lines().count() > YAML_LINES_MAX {
        out.push_str(" ...");
        return;
    }
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            for entry in entries {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent));
                out.push_str(&yaml_scalar(&entry.key));
                out.push(':');
                write_yaml(out, &entry.node, indent + 2);
            }
        }
        Value::List(elements) if !elements.is_empty() => {
            for element in elements {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent));
                out.push('-');
                let mut nested = String::new();
                write_yaml(&mut nested, element, indent + 2);
                // The first key of an object stands behind the dash.
                out.push_str(&match nested.strip_prefix('\n') {
                    Some(rest) => format!(" {}", rest.trim_start()),
                    None => nested,
                });
            }
        }
        Value::Map(_) => out.push_str(" {}"),
        Value::List(_) => out.push_str(" []"),
        Value::Null => out.push_str(" null"),
        Value::Bool(value) => out.push_str(if *value { " true" } else { " false" }),
        Value::Number(number) => {
            out.push(' ');
            out.push_str(number);
        }
        Value::Text(text) => {
            out.push(' ');
            out.push_str(&yaml_scalar(text));
        }
    }
}

/// `text` as it stands in YAML, in quotes where it needs them.
pub(super) fn yaml_scalar(text: &str) -> String {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte))
        && text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && super::yaml::plain_value(text) == Value::Text(text.into());
    if plain { text.to_owned() } else { format!("\"{}\"", text.escape_debug()) }
}
