//! Messages of a hot restart: arbitrary bytes are refused or mean something that is written the same way again.

use crate::server::restart::wire::{Reply, Request};

/// Reads `input` as a request and as a reply.
pub fn restart_message(input: &[u8]) {
    if let Some(request) = Request::decode(input) {
        assert_eq!(Request::decode(&request.encode()).as_ref(), Some(&request));
    }
    if let Some(reply) = Reply::decode(input) {
        assert_eq!(Reply::decode(&reply.encode()).as_ref(), Some(&reply));
    }
}
