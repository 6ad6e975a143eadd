//! Invariants of the config pipeline's front half: no text and no wire bytes break it, and what it prints it
//! reads back as the same.

use crate::control::xds::json::{self, Style};
use crate::control::xds::loader::{Format, Loaded, Source, load, read};
use crate::control::xds::schema::Message;
use crate::control::xds::validate;

/// What a text may be, by the lower bits of the first byte: messages that between them have every kind of field.
const ROOTS: [&str; 4] = [
    "envoy.config.bootstrap.v3.Bootstrap",
    "envoy.config.core.v3.Metadata",
    "envoy.config.cluster.v3.Cluster",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
];

/// One byte: root, notation (bit 2), whether unknown fields pass (bit 3); then a text.
pub fn config_text(input: &[u8]) {
    let Some((bits, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Some(root) = Message::find(ROOTS[usize::from(bits & 3)]) else { return };
    let format = if bits & 4 == 0 { Format::Yaml } else { Format::Json };
    let source = Source { name: "fuzz", text, format };
    let allow_unknown_fields = bits & 8 != 0;
    match load(root, &[source], allow_unknown_fields) {
        Ok(loaded) => assert_comes_back(root, &loaded),
        Err(errors) => {
            assert!(!errors.0.is_empty() && !errors.to_string().is_empty());
            for error in &errors.0 {
                assert!(error.position.is_some(), "an error of a file has a place: {error}");
            }
        }
    }
    if let Ok(loaded) = read(root, &[source], allow_unknown_fields) {
        assert_comes_back(root, &loaded);
    }
}

fn assert_comes_back(root: Message, loaded: &Loaded<'_>) {
    let printed =
        print(root, &loaded.bytes).unwrap_or_else(|error| panic!("own bytes are not understood: {error}"));
    let source = Source { name: "printed", text: &printed, format: Format::Json };
    match read(root, &[source], false) {
        Ok(again) => assert_eq!(print(root, &again.bytes).as_deref(), Ok(printed.as_str())),
        // A single value that stood for a list is printed as a list, one level deeper.
        Err(errors) => assert!(errors.to_string().contains("within one another"), "{printed}: {errors}"),
    }
}

/// One byte: root; then wire bytes.
pub fn config_wire(input: &[u8]) {
    let Some((bits, bytes)) = input.split_first() else { return };
    let Some(root) = Message::find(ROOTS[usize::from(bits & 3)]) else { return };
    let checked = validate::check(root, bytes);
    for found in checked.violations.iter().chain(&checked.unknown).chain(&checked.deprecated) {
        assert!(!found.reason.is_empty());
    }
    for redact in [false, true] {
        let mut printed = String::new();
        let style = Style { redact, pretty: bits & 4 != 0, ..Style::default() };
        if json::write(&mut printed, root, bytes, style).is_ok() {
            let parsed = serde_json::from_str::<serde_json::Value>(&printed);
            assert!(parsed.is_ok(), "not JSON: {printed}");
        }
    }
}

fn print(root: Message, bytes: &[u8]) -> Result<String, String> {
    let mut printed = String::new();
    json::write(&mut printed, root, bytes, Style::default()).map_err(|error| error.to_string())?;
    Ok(printed)
}
