//! What is made when it is first used: until then there is the short form that it was told in, which has been found good.

use std::sync::Arc;

/// Something that takes a while to make and much room once it is there. Whoever needs it on a worker has it made elsewhere
/// (`runtime::deferred`), and waits.
pub trait Deferred: Send + Sync {
    /// Whether it is there.
    fn is_made(&self) -> bool;

    /// Makes it, unless it is there: then it is.
    fn make(&self);
}

/// One that somebody waits for.
pub type SharedDeferred = Arc<dyn Deferred>;
