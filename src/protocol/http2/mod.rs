//! HTTP/2 on the `h2` crate: its frames, streams and compression behind the path's own types. Only this room names `h2`.
//!
//! `connection` drives a connection on either side, `requests` is where those towards endpoints take them, `stream` is one request
//! and response, `head` converts heads, `received` keeps one for who sends it on,
//! `io` gives the codec a connection's bytes, `guard` counts what the codec does not, `resets` the requests that a client resets,
//! `outgoing` bounds what the codec holds.
mod connection;
pub mod guard;
pub(crate) mod head;
mod io;
pub mod keepalive;
mod outgoing;
mod received;
mod requests;
mod resets;
mod stream;

pub use connection::{ClientConnection, Incoming, ServerConnection, ServerEvent, Settings};
pub use head::{Unsendable, details};
pub use received::Received;
pub use requests::Requests;
pub use resets::ResetLimit;
pub use stream::{Passed, SendRequestError, Stream, StreamError};
