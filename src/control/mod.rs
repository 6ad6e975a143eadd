//! The control thread: configuration sources, discovery, admin, publishing.
pub mod admin;
pub mod discovery;
pub mod file_watch;
pub mod log_writer;
pub mod tls_files;
pub mod xds;
