//! A head as the codec has received it, kept until the head goes on: what nobody has edited goes to the other side as it came,
//! and is not copied, checked and hashed again.
//!
//! It only helps: what is sent is what [`Head`](crate::protocol::http::head::Head) says, whatever is kept here.

use http::header::HeaderMap;
use http::uri::Uri;

/// See the file's head. Boxed: a request's state is not to carry the size of what is kept for a moment.
#[derive(Debug, Default)]
pub struct Received(Option<Box<Kept>>);

#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) fields: HeaderMap,
    /// Of a request.
    pub(super) uri: Uri,
}

impl Received {
    pub(super) fn new(fields: HeaderMap, uri: Uri) -> Self {
        Self(Some(Box::new(Kept { fields, uri })))
    }

    /// What is kept, or nothing, of a head that came otherwise or has gone on.
    pub(super) fn kept(self) -> Kept {
        self.0.map_or_else(Kept::default, |kept| *kept)
    }
}
