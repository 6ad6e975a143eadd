//! Every bootstrap in `examples/` is accepted, completely: no field in them is missing from this version or unknown. So are those of the
//! README and of the Kubernetes manifests.
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn examples_are_accepted_whole() {
    let mut count = 0;
    // What examples/tls.yaml has its reader make, where it is started.
    let folder = env!("CARGO_TARGET_TMPDIR");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    for (name, text) in [("cert.pem", made.cert.pem()), ("key.pem", made.signing_key.serialize_pem())] {
        fs::write(Path::new(folder).join(name), text).expect(name);
    }
    for entry in fs::read_dir("examples").expect("examples/") {
        let path = entry.expect("a readable entry").path().canonicalize().expect("a path");
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let ringway = env!("CARGO_BIN_EXE_ringway");
        let output = Command::new(ringway)
            .args(["--mode", "validate", "-c"])
            .arg(&path)
            .current_dir(folder)
            .output()
            .expect("ringway");
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {}\n{text}", path.display(), output.status);
        assert!(text.contains(" OK"), "{}\n{text}", path.display());
        assert!(!text.contains("unimplemented"), "{}\n{text}", path.display());
        count += 1;
    }
    assert!(count >= 7, "only {count} examples were found");
}

#[test]
fn bootstrap_of_the_readme_is_accepted() {
    let readme = fs::read_to_string("README.md").expect("README.md");
    let yaml =
        readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a YAML block");
    accepted(yaml);
}

#[test]
fn bootstraps_of_the_kubernetes_manifests_are_accepted() {
    for path in ["deploy/kubernetes/edge.yaml", "deploy/kubernetes/sidecar.yaml"] {
        let manifest = fs::read_to_string(path).expect(path);
        let block = manifest.split("  envoy.yaml: |\n").nth(1).expect("a bootstrap");
        let lines = block.lines().map_while(|line| line.strip_prefix("    "));
        accepted(&lines.flat_map(|line| [line, "\n"]).collect::<String>());
    }
}

/// Checks a bootstrap as an operator would.
fn accepted(yaml: &str) {
    let ringway = env!("CARGO_BIN_EXE_ringway");
    let output =
        Command::new(ringway).args(["--mode", "validate", "--config-yaml", yaml]).output().expect("ringway");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
