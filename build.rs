//! The release build's program begins with what serving runs: see `tuning/function-order`.

use std::env;
use std::path::Path;

const ORDER: &str = "tuning/functions.ld";

fn main() {
    println!("cargo:rerun-if-changed={ORDER}");
    println!("cargo:rerun-if-env-changed=RINGWAY_FUNCTION_ORDER");
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    // A linker that knows no linker scripts (mold) needs to be spared.
    let is_wanted = env::var("RINGWAY_FUNCTION_ORDER").map_or(true, |wanted| wanted != "0");
    let path = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join(ORDER);
    if is_release && is_wanted && path.exists() {
        println!("cargo:rustc-link-arg-bin=ringway=-Wl,-T,{}", path.display());
    }
}
