//! Files of certificates, keys and lists, read again.
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::base::limits::TLS_FILE_BYTES_MAX;
use crate::config::shared_bytes::KnownBytes;
use crate::config::tls::Source;

/// Reads a source's file; what is the same as before, or as what another file had, is shared.
///
/// # Errors
/// It cannot be read, or is larger than may be.
pub fn read_again(source: &mut Source, known: &mut KnownBytes) -> Result<(), String> {
    let Some(file) = &source.file else { return Ok(()) };
    let mut data = Vec::new();
    // A pipe would keep the control thread waiting.
    if std::fs::metadata(&**file).is_ok_and(|found| !found.is_file()) {
        return Err(format!("{file}: not a regular file"));
    }
    let read = File::open(Path::new(&**file))
        .and_then(|opened| opened.take(TLS_FILE_BYTES_MAX + 1).read_to_end(&mut data));
    read.map_err(|error| format!("{file}: {error}"))?;
    if data.len() as u64 > TLS_FILE_BYTES_MAX {
        return Err(format!("{file}: larger than {TLS_FILE_BYTES_MAX} bytes"));
    }
    if *data != *source.data {
        source.data = known.shared(&data);
    }
    Ok(())
}
