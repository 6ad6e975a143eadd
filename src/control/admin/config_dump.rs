//! `/config_dump`: everything that is configured, in Envoy's sections, rendered entry by entry.
use super::Admin;
use super::body::{ReplyBody, Steps};
use super::json;
use super::request::{JSON, Reply, Request, regex};
use super::state::{DumpEntry, DumpField, DumpSection};
use hyper::StatusCode;
use serde_json::Value;
use std::collections::VecDeque;

/// `/config_dump`.
pub(super) fn config_dump(admin: &Admin, request: &Request) -> Reply {
    let plain = |status, text: String| Reply { content_type: "text/plain", ..Reply::refused(status, text) };
    let mut sections = admin.state.config_dump(request.has("include_eds"));
    if let Some(pattern) = request.parameter("name_regex").filter(|pattern| !pattern.is_empty()) {
        match regex(pattern) {
            Ok(names) => keep_named(&mut sections, |name| names.is_match(name)),
            Err(reason) => {
                let text =
                    format!("INVALID_ARGUMENT: Error while parsing name_regex from {pattern}: {reason}");
                return plain(StatusCode::BAD_REQUEST, text);
            }
        }
    }
    let mask = request.parameter("mask").filter(|mask| !mask.is_empty());
    let mask = mask
        .map(|mask| Mask(mask.split(',').map(|path| path.split('.').map(String::from).collect()).collect()));
    let render = match request.parameter("resource").filter(|resource| !resource.is_empty()) {
        Some(resource) => match listed(sections, resource) {
            Ok(entries) => Render::entries(entries, mask),
            Err((status, text)) => return plain(status, text),
        },
        None => {
            if let Some(mask) = &mask {
                for section in &mut sections {
                    section.fields.retain(|(name, _)| mask.below(name).is_some());
                }
                sections.retain(|section| !section.fields.is_empty());
                if sections.is_empty() {
                    let text = format!(
                        "FieldMask {} could not be successfully applied to any configs.",
                        request.parameter("mask").unwrap_or_default()
                    );
                    return plain(StatusCode::BAD_REQUEST, text);
                }
            }
            Render::sections(sections, mask)
        }
    };
    Reply { status: StatusCode::OK, content_type: JSON, body: ReplyBody::stepped(render) }
}

/// Drops list entries whose name is not wanted.
fn keep_named(sections: &mut [DumpSection], wanted: impl Fn(&str) -> bool) {
    for (_, field) in sections.iter_mut().flat_map(|section| &mut section.fields) {
        if let DumpField::Repeated(entries) = field {
            entries.retain(|entry| wanted(&entry.name));
        }
    }
}

/// The entries of the lists of this name, for `?resource=`.
fn listed(sections: Vec<DumpSection>, resource: &str) -> Result<Vec<DumpEntry>, (StatusCode, String)> {
    let fields =
        sections.into_iter().flat_map(|section| section.fields).filter(|(name, _)| *name == resource);
    let mut found = None;
    for (_, field) in fields {
        match field {
            DumpField::Repeated(entries) => found.get_or_insert_with(Vec::new).extend(entries),
            DumpField::Single(_) | DumpField::Text(_) => {
                let text = format!(
                    "{resource} is not a repeated field. Use ?mask={resource} to get only this field"
                );
                return Err((StatusCode::BAD_REQUEST, text));
            }
        }
    }
    match found {
        Some(entries) => Ok(entries),
        None if LISTS.contains(&resource) => Ok(Vec::new()),
        None => Err((StatusCode::NOT_FOUND, format!("{resource} not found in config dump"))),
    }
}

/// The document, as a queue of what is left to write. One item is one step.
struct Render {
    items: VecDeque<Item>,
}

enum Item {
    Text(String),
    /// An entry, at a level of the document.
    Entry {
        entry: DumpEntry,
        mask: Option<Mask>,
        level: usize,
        typed: bool,
    },
}

impl Steps for Render {
    fn step(&mut self, out: &mut String) -> bool {
        match self.items.pop_front() {
            Some(Item::Text(text)) => out.push_str(&text),
            Some(Item::Entry { entry, mask, level, typed }) => {
                let mut value = (entry.render)();
                if let Some(mask) = &mask {
                    mask.apply(&mut value);
                }
                if let (true, Value::Object(fields)) = (typed, &mut value) {
                    let kind = format!("type.googleapis.com/{}", entry.type_name);
                    fields.shift_insert(0, "@type".into(), kind.into());
                }
                json::write(&value, level, out);
            }
            None => return false,
        }
        !self.items.is_empty()
    }
}

impl Render {
    fn sections(sections: Vec<DumpSection>, mask: Option<Mask>) -> Self {
        let mut items = VecDeque::new();
        let mut open = "{\n \"configs\": [\n  {\n".to_string();
        for section in sections {
            let mut text = std::mem::replace(&mut open, ",\n  {\n".into());
            text.push_str(&format!("   \"@type\": \"{}\"", section.type_url));
            items.push_back(Item::Text(text));
            for (name, field) in section.fields {
                let mask = mask.as_ref().and_then(|mask| mask.below(name)).filter(|mask| !mask.0.is_empty());
                match field {
                    DumpField::Single(entry) => {
                        items.push_back(Item::Text(format!(",\n   \"{name}\": ")));
                        items.push_back(Item::Entry { entry, mask, level: 3, typed: false });
                    }
                    DumpField::Repeated(entries) if entries.is_empty() => {}
                    DumpField::Text(text) if text.is_empty() => {}
                    DumpField::Text(text) => {
                        items.push_back(Item::Text(format!(",\n   \"{name}\": {}", Value::from(&*text))));
                    }
                    DumpField::Repeated(entries) => {
                        let mut before = format!(",\n   \"{name}\": [\n    ");
                        for entry in entries {
                            items.push_back(Item::Text(std::mem::replace(&mut before, ",\n    ".into())));
                            items.push_back(Item::Entry {
                                entry,
                                mask: mask.clone(),
                                level: 4,
                                typed: false,
                            });
                        }
                        items.push_back(Item::Text("\n   ]".into()));
                    }
                }
            }
            items.push_back(Item::Text("\n  }".into()));
        }
        items.push_back(Item::Text(if items.is_empty() { "{}\n" } else { "\n ]\n}\n" }.into()));
        Self { items }
    }

    fn entries(entries: Vec<DumpEntry>, mask: Option<Mask>) -> Self {
        let mut items = VecDeque::new();
        let mut before = "{\n \"configs\": [\n  ".to_string();
        for entry in entries {
            items.push_back(Item::Text(std::mem::replace(&mut before, ",\n  ".into())));
            items.push_back(Item::Entry { entry, mask: mask.clone(), level: 2, typed: true });
        }
        items.push_back(Item::Text(if items.is_empty() { "{}\n" } else { "\n ]\n}\n" }.into()));
        Self { items }
    }
}

/// A `google.protobuf.FieldMask`: paths of field names. Without paths everything is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mask(Vec<Vec<String>>);

impl Mask {
    /// What is wanted below a field; `None`: the field itself is not wanted.
    fn below(&self, field: &str) -> Option<Self> {
        let mut paths = Vec::new();
        for path in self.0.iter().filter(|path| path.first().is_some_and(|first| first == field)) {
            match path.get(1..) {
                Some(rest) if !rest.is_empty() => paths.push(rest.to_vec()),
                _ => return Some(Self(Vec::new())),
            }
        }
        (!paths.is_empty()).then_some(Self(paths))
    }

    /// Keeps what is wanted; the type of a packed message always is. Lists are masked element by element.
    fn apply(&self, value: &mut Value) {
        match value {
            _ if self.0.is_empty() => {}
            Value::Array(elements) => elements.iter_mut().for_each(|element| self.apply(element)),
            Value::Object(fields) => fields.retain(|name, value| {
                let below = self.below(name);
                if let Some(mask) = &below {
                    mask.apply(value);
                }
                below.is_some() || name == "@type"
            }),
            _ => {}
        }
    }
}

/// Lists that exist in Envoy's messages, whether or not anything is in them. Those of endpoints exist only where they are asked for.
const LISTS: [&str; 13] = [
    "dynamic_active_clusters",
    "dynamic_active_secrets",
    "dynamic_listeners",
    "dynamic_route_configs",
    "dynamic_scoped_route_configs",
    "dynamic_warming_clusters",
    "dynamic_warming_secrets",
    "ecds_filters",
    "inline_scoped_route_configs",
    "static_clusters",
    "static_listeners",
    "static_route_configs",
    "static_secrets",
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(mut render: Render) -> Value {
        let mut text = String::new();
        while render.step(&mut text) {}
        assert!(text.ends_with("}\n"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn entry(name: &str) -> DumpEntry {
        let value =
            json!({ "cluster": { "@type": "t", "name": name, "type": "STATIC" }, "last_updated": "now" });
        DumpEntry { type_name: "x.StaticCluster", name: name.into(), render: Box::new(|| value) }
    }

    fn sections() -> Vec<DumpSection> {
        vec![
            DumpSection {
                type_url: "type.googleapis.com/x.Bootstrap",
                fields: vec![("bootstrap", DumpField::Single(entry("b")))],
            },
            DumpSection {
                type_url: "type.googleapis.com/x.Clusters",
                fields: vec![
                    ("static_clusters", DumpField::Repeated(vec![entry("a"), entry("b")])),
                    ("dynamic_active_clusters", DumpField::Repeated(vec![])),
                ],
            },
        ]
    }

    fn mask(paths: &[&[&str]]) -> Mask {
        Mask(paths.iter().map(|path| path.iter().map(ToString::to_string).collect()).collect())
    }

    #[test]
    fn dump_of_all_sections_is_one_document() {
        let document = rendered(Render::sections(sections(), None));
        assert_eq!(document["configs"][0]["bootstrap"]["cluster"]["name"], "b");
        assert_eq!(document["configs"][1]["static_clusters"][1]["cluster"]["name"], "b");
        assert_eq!(document["configs"][1].get("dynamic_active_clusters"), None);
        assert_eq!(rendered(Render::sections(Vec::new(), None)), json!({}));
    }

    #[test]
    fn resource_lists_entries_with_their_type() {
        let entries = listed(sections(), "static_clusters").unwrap();
        let document = rendered(Render::entries(entries, Some(mask(&[&["cluster", "name"]]))));
        assert_eq!(
            document["configs"][0],
            json!({ "@type": "type.googleapis.com/x.StaticCluster", "cluster": { "@type": "t", "name": "a" } })
        );
        assert_eq!(
            rendered(Render::entries(listed(sections(), "static_listeners").unwrap(), None)),
            json!({})
        );
    }

    #[test]
    fn resource_that_is_no_list_or_unknown_is_refused_as_in_envoy() {
        let (status, text) = listed(sections(), "bootstrap").unwrap_err();
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(text, "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field");
        for unknown in ["foo", "dynamic_endpoint_configs"] {
            let (status, text) = listed(sections(), unknown).unwrap_err();
            let expected = format!("{unknown} not found in config dump");
            assert_eq!((status, text), (StatusCode::NOT_FOUND, expected));
        }
    }

    #[test]
    fn name_regex_keeps_what_it_matches() {
        let mut sections = sections();
        keep_named(&mut sections, |name| name == "a");
        let document = rendered(Render::sections(sections, None));
        assert_eq!(document["configs"][1]["static_clusters"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn mask_keeps_whole_fields_and_parts_of_them() {
        let mask = mask(&[&["a"], &["b", "c"]]);
        let mut value = json!({ "a": { "x": 1 }, "b": [{ "c": 1, "d": 2 }], "e": 1 });
        mask.apply(&mut value);
        assert_eq!(value, json!({ "a": { "x": 1 }, "b": [{ "c": 1 }] }));
    }
}
