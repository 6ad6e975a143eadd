//! What is said to whoever started the process, beside the log.
//!
//! Whoever reads no more, as `head` and `grep -q` do, has heard enough: `print!` and `eprint!` would panic.

use std::io::Write;

/// Says it on standard output.
pub fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Says it on standard error.
pub fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
