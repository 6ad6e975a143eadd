//! What a format takes from the process's surroundings, once, when it is parsed.

/// The host's name. Linux gives it as a file; `None` where there is none.
pub(super) fn hostname() -> Option<Box<[u8]>> {
    let name = std::fs::read("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim_ascii_end().into())
}

/// An environment variable, cut to `max` bytes; a single `-`, never absent, if it is not set, as in Envoy.
pub(super) fn variable(name: &str, max: Option<usize>) -> Box<[u8]> {
    // `var_os` asks for names that it could panic at: they hold an equals sign or a NUL.
    let value = if name.contains(['=', '\0']) { None } else { std::env::var_os(name) };
    match value {
        Some(value) => {
            let value = value.as_encoded_bytes();
            value[..max.unwrap_or(value.len()).min(value.len())].into()
        }
        None => b"-".as_slice().into(),
    }
}
