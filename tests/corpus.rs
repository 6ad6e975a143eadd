//! Other people's configurations, text → wire → JSON → wire: nothing of them may change on the way.
//!
//! The folder is not part of this repository: `RINGWAY_CORPUS` names it. Unset, these tests report that they
//! were not run; set to a folder that is not there, they fail.
#![allow(clippy::unwrap_used, reason = "a test: what is missing fails it")]
use ringway::control::xds::json::{self, Style};
use ringway::control::xds::loader::{Format, Source, load, read};
use ringway::control::xds::schema::Message;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

fn corpus() -> Option<PathBuf> {
    let Some(path) = std::env::var_os("RINGWAY_CORPUS") else {
        println!("corpus: NOT RUN, RINGWAY_CORPUS is not set");
        return None;
    };
    let path = PathBuf::from(path);
    assert!(path.join("verdicts.tsv").is_file(), "RINGWAY_CORPUS={}: no corpus there", path.display());
    Some(path)
}

/// Names and texts of the files of one folder, by name.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Whether a text has to satisfy the API's constraints.
#[derive(Clone, Copy, PartialEq)]
enum Completeness {
    Whole,
    /// A golden file of a unit test, of the parts that the test is about.
    Fragment,
}

/// One text there and back.
fn round_trip(
    message: &str,
    name: &str,
    text: &str,
    allow_unknown_fields: bool,
    completeness: Completeness,
) -> Result<(), String> {
    let root = Message::find(message).ok_or_else(|| format!("{name}: no message {message}"))?;
    let format = Format::of_file(name).map_err(|error| error.to_string())?;
    let source = Source { name, text, format };
    let loader = if completeness == Completeness::Whole { load } else { read };
    let loaded = loader(root, &[source], allow_unknown_fields).map_err(|errors| errors.to_string())?;
    for pretty in [false, true] {
        let mut printed = String::new();
        let style = Style { pretty, ..Style::default() };
        json::write(&mut printed, root, &loaded.bytes, style).map_err(|error| format!("{name}: {error}"))?;
        let source = Source { name: "printed.json", text: &printed, format: Format::Json };
        let again = loader(root, &[source], false).map_err(|errors| format!("{name}: printed: {errors}"))?;
        if again.bytes != loaded.bytes {
            return Err(format!("{name}: {message} changed on the way: {printed}"));
        }
    }
    Ok(())
}

fn assert_none(failures: &[String], count: usize, what: &str) {
    assert!(failures.is_empty(), "{} of {count} {what}:\n{}", failures.len(), failures.join("\n"));
    assert!(count > 0, "no {what} found");
    println!("{count} {what} unchanged");
}

#[test]
fn bootstraps_have_envoys_verdict_and_come_back_unchanged() {
    let Some(corpus) = corpus() else { return };
    let verdicts = std::fs::read_to_string(corpus.join("verdicts.tsv")).unwrap();
    let verdicts: HashMap<_, _> = verdicts
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(file, verdict)| (file, verdict.split('\t').next().unwrap_or_default()))
        .collect();
    let (mut failures, mut count) = (Vec::new(), 0);
    for folder in ["envoy-examples", "istio-bootstraps"] {
        for (name, text) in files(&corpus.join(folder)) {
            count += 1;
            let verdict = verdicts[format!("{folder}/{name}").as_str()];
            // Istio passes --allow-unknown-static-fields.
            match round_trip(BOOTSTRAP, &name, &text, folder == "istio-bootstraps", Completeness::Whole) {
                // What Envoy refuses later, for a file or an extension it lacks, is not for the loader.
                Ok(()) => {}
                Err(_) if verdict == "refuse" => {}
                Err(error) => failures.push(error),
            }
        }
    }
    assert_none(&failures, count, "bootstraps");
}

#[test]
fn resource_lists_of_envoy_gateway_come_back_unchanged() {
    let Some(corpus) = corpus() else { return };
    let (mut failures, mut count) = (Vec::new(), 0);
    for (name, text) in files(&corpus.join("envoy-gateway-xds")) {
        let message = match name.rsplit('.').nth(1) {
            Some("clusters") => "envoy.config.cluster.v3.Cluster",
            Some("endpoints") => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Some("listeners") => "envoy.config.listener.v3.Listener",
            Some("routes") => "envoy.config.route.v3.RouteConfiguration",
            Some("secrets") => "envoy.extensions.transport_sockets.tls.v3.Secret",
            _ => panic!("{name}: what is in it?"),
        };
        for item in list_items(&text) {
            count += 1;
            failures.extend(round_trip(message, &name, &item, false, Completeness::Whole).err());
        }
    }
    assert_none(&failures, count, "resources of Envoy Gateway");
}

/// The elements of a block sequence at the margin, each as a text of its own on the same lines.
fn list_items(text: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(first) = line.strip_prefix("- ") {
            items.push(format!("{}  {first}\n", "\n".repeat(number)));
        } else if let Some(item) = items.last_mut() {
            item.push_str(line);
            item.push('\n');
        }
    }
    items
}

#[test]
fn resources_of_kuma_come_back_unchanged() {
    let Some(corpus) = corpus() else { return };
    let (mut failures, mut count) = (Vec::new(), 0);
    for (name, text) in files(&corpus.join("kuma-xds")) {
        if name.ends_with(".json") {
            // {"xds": {TYPE: {NAME: RESOURCE}}}
            // A certificate that was blanked out for the repository stands where base64 must.
            let text = text.replace("CERT_REDACTED", "Q0VSVA==");
            let document: serde_json::Value = serde_json::from_str(&text).unwrap();
            for (url, resources) in document["xds"].as_object().unwrap() {
                for resource in resources.as_object().unwrap().values() {
                    count += 1;
                    let message = url.rsplit('/').next().unwrap();
                    failures.extend(
                        round_trip(message, &name, &resource.to_string(), false, Completeness::Whole).err(),
                    );
                }
            }
            continue;
        }
        let message = match text.lines().find(|line| !line.starts_with([' ', '#', '-'])).unwrap_or_default() {
            // A list of {name, resource: {"@type": ...}}, which is what delta xDS sends.
            "resources:" => "envoy.service.discovery.v3.DeltaDiscoveryResponse",
            _ if name.contains("listener") || text.contains("\nfilterChains:") => {
                "envoy.config.listener.v3.Listener"
            }
            _ => "envoy.config.cluster.v3.Cluster",
        };
        count += 1;
        failures.extend(round_trip(message, &name, &text, false, Completeness::Fragment).err());
    }
    assert_none(&failures, count, "files and resources of Kuma");
}
