//! `docs/fields.md` is what the code says. `BLESS=1 cargo test --test fields` writes it anew.
#![allow(clippy::unwrap_used, reason = "a test: what is missing fails it")]

#[test]
fn table_of_fields_in_docs_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/fields.md");
    let current = ringway::control::xds::convert::markdown();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == current, "docs/fields.md is stale: BLESS=1 cargo test --test fields");
}
