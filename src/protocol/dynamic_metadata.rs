//! What filters note of a request, or of a connection, for those behind them: namespaces of keys and values. Envoy's dynamic
//! metadata.
//!
//! A request's lives in its recycled slot and keeps the room of its texts, so that steady state allocates nothing. Values
//! are what filters here write: truth values and texts.

/// Room that a value's text keeps, in bytes; what policies are called is shorter, and a client chooses what a header says.
const KEPT_TEXT_BYTES: usize = 1024;

/// See the file's head.
#[derive(Debug, Default)]
pub struct DynamicMetadata {
    entries: Vec<Entry>,
    /// How many of them are of this request.
    used: usize,
}

#[derive(Debug)]
struct Entry {
    namespace: String,
    key: String,
    text: String,
    value: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Bool(bool),
    Text,
}

/// A value. JSON's of Envoy's `google.protobuf.Value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataValue<'a> {
    Bool(bool),
    Text(&'a str),
}

impl DynamicMetadata {
    /// Notes a value; what the key had before is gone.
    pub fn set(&mut self, namespace: &str, key: &str, value: MetadataValue<'_>) {
        let live = self.entries.iter().take(self.used);
        let known = live.into_iter().position(|it| it.namespace == namespace && it.key == key);
        let at = known.unwrap_or(self.used);
        if at == self.entries.len() {
            self.entries.push(Entry {
                namespace: String::new(),
                key: String::new(),
                text: String::new(),
                value: Kind::Bool(false),
            });
        }
        let Some(entry) = self.entries.get_mut(at) else { return };
        self.used = self.used.max(at + 1);
        if known.is_none() {
            entry.namespace.clear();
            entry.namespace.push_str(namespace);
            entry.key.clear();
            entry.key.push_str(key);
        }
        entry.text.clear();
        entry.value = match value {
            MetadataValue::Bool(value) => Kind::Bool(value),
            MetadataValue::Text(text) => {
                entry.text.push_str(text);
                Kind::Text
            }
        };
    }

    /// The value of a key.
    pub fn value(&self, namespace: &str, key: &str) -> Option<MetadataValue<'_>> {
        self.live().find(|it| it.namespace == namespace && it.key == key).map(Entry::value)
    }

    /// The keys and values of a namespace, in no order.
    pub fn namespace(&self, namespace: &str) -> impl Iterator<Item = (&str, MetadataValue<'_>)> {
        self.live().filter(move |it| it.namespace == namespace).map(|it| (it.key.as_str(), it.value()))
    }

    /// Notes all of it elsewhere, too.
    pub fn write_to(&self, other: &mut Self) {
        self.live().for_each(|it| other.set(&it.namespace, &it.key, it.value()));
    }

    /// Forgets the request and keeps the room.
    pub fn clear(&mut self) {
        for entry in self.entries.iter_mut().take(self.used) {
            if entry.text.capacity() > KEPT_TEXT_BYTES {
                entry.text = String::new();
            }
        }
        self.used = 0;
    }

    fn live(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().take(self.used)
    }
}

impl Entry {
    fn value(&self) -> MetadataValue<'_> {
        match self.value {
            Kind::Bool(value) => MetadataValue::Bool(value),
            Kind::Text => MetadataValue::Text(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_namespace_and_key_until_they_are_cleared() {
        let mut metadata = DynamicMetadata::default();
        metadata.set("a", "x", MetadataValue::Bool(true));
        metadata.set("b", "x", MetadataValue::Text("one"));
        metadata.set("a", "x", MetadataValue::Text("two"));
        metadata.set("a", "y", MetadataValue::Bool(false));
        assert_eq!(metadata.value("a", "x"), Some(MetadataValue::Text("two")));
        assert_eq!(metadata.value("b", "x"), Some(MetadataValue::Text("one")));
        assert_eq!(metadata.value("b", "y"), None);
        assert_eq!(metadata.namespace("a").count(), 2);
        metadata.clear();
        assert_eq!(metadata.value("a", "x"), None);
        metadata.set("c", "z", MetadataValue::Bool(true));
        assert_eq!(metadata.value("c", "z"), Some(MetadataValue::Bool(true)), "the room is used again");
        assert_eq!(metadata.value("a", "x"), None);
        assert_eq!(metadata.entries.len(), 3);
    }

    #[test]
    fn all_of_it_is_written_over_what_is_there() {
        let (mut from, mut to) = (DynamicMetadata::default(), DynamicMetadata::default());
        from.set("a", "x", MetadataValue::Text("new"));
        from.set("b", "y", MetadataValue::Bool(true));
        to.set("a", "x", MetadataValue::Text("old"));
        to.set("a", "z", MetadataValue::Text("stays"));
        from.write_to(&mut to);
        assert_eq!(to.value("a", "x"), Some(MetadataValue::Text("new")));
        assert_eq!(to.value("a", "z"), Some(MetadataValue::Text("stays")));
        assert_eq!(to.value("b", "y"), Some(MetadataValue::Bool(true)));
        assert_eq!(to.used, 3);
    }

    #[test]
    fn long_value_leaves_no_room_behind() {
        let mut metadata = DynamicMetadata::default();
        metadata.set("a", "long", MetadataValue::Text(&"x".repeat(60_000)));
        metadata.set("a", "short", MetadataValue::Text("x"));
        metadata.clear();
        assert!(metadata.entries.iter().all(|entry| entry.text.capacity() <= KEPT_TEXT_BYTES));
        assert!(metadata.entries[1].text.capacity() > 0);
    }
}
