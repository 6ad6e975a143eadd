//! Bootstraps of other people, read as `ringway --mode validate` reads them, against what Envoy 1.40 says of them.
//!
//! `RINGWAY_CORPUS` names the folder (its `verdicts.tsv` has Envoy's word); unset, this is reported as not run; set and
//! missing, it fails. A file that uses only what is implemented must get Envoy's verdict. Any other is reported by
//! lines `unimplemented: FIELD`, whose number may only fall.
#![allow(clippy::unwrap_used, reason = "a test: what is missing fails it")]
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ringway::control::xds::convert::{Report, Unimplemented};
use ringway::control::xds::loader::{Format, Source};
use ringway::control::xds::{LoadOptions, load_bootstrap};

/// Lines `unimplemented: FIELD` over the whole corpus, one per file and field. A change that lowers it lowers it here.
const UNIMPLEMENTED_TOTAL: usize = 70;

/// The corpus, or `None` with a word about it.
fn corpus() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("RINGWAY_CORPUS") else {
        println!("not run: RINGWAY_CORPUS is not set");
        return None;
    };
    let folder = PathBuf::from(folder);
    assert!(folder.is_dir(), "RINGWAY_CORPUS is set, and {} is no folder", folder.display());
    Some(folder)
}

fn load(path: &Path, allow_unknown_fields: bool) -> Result<Report, Report> {
    let text = std::fs::read_to_string(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let source = Source { name: &name, text: &text, format: Format::of_file(&name).unwrap() };
    let options = LoadOptions { allow_unknown_fields, unimplemented: Unimplemented::Refuse };
    load_bootstrap(&[source], options).map(|loaded| loaded.report)
}

#[test]
fn bootstraps_of_the_corpus_get_envoys_verdict_or_say_what_is_unimplemented() {
    let Some(corpus) = corpus() else { return };
    let verdicts = std::fs::read_to_string(corpus.join("verdicts.tsv")).unwrap();
    let mut unimplemented: BTreeMap<String, usize> = BTreeMap::new();
    let mut differences = Vec::new();
    let mut same = 0;
    for line in verdicts.lines().skip(1) {
        let mut columns = line.split('\t');
        let (file, verdict) = (columns.next().unwrap(), columns.next().unwrap());
        let result = load(&corpus.join(file), file.starts_with("istio-bootstraps/"));
        let report = match &result {
            Ok(report) | Err(report) => report,
        };
        let mut fields: Vec<&str> = report.unimplemented().map(|finding| &*finding.field).collect();
        fields.sort_unstable();
        fields.dedup();
        if fields.is_empty() {
            let ours = if result.is_ok() { "accept" } else { "refuse" };
            if ours == verdict {
                same += 1;
            } else {
                differences.push(format!("{file}: Envoy {verdict}, here {ours}\n{}", report.errors));
            }
        }
        for field in fields {
            println!("{file}: unimplemented: {field}");
            *unimplemented.entry(field.to_owned()).or_default() += 1;
        }
    }
    println!("by field:");
    for (field, count) in &unimplemented {
        println!("{count:4} {field}");
    }
    let total: usize = unimplemented.values().sum();
    println!("{same} files with Envoy's verdict, {total} lines of unimplemented fields in the others");
    assert!(differences.is_empty(), "verdicts differ:\n{}", differences.join("\n"));
    assert_eq!(
        total, UNIMPLEMENTED_TOTAL,
        "lines `unimplemented: FIELD`; they may only fall, and UNIMPLEMENTED_TOTAL with them"
    );
}
