//! The text of the `date` header, rendered once per second.

use std::cell::Cell;

use crate::protocol::http1::date::{DATE_BYTES, http_date};

/// The current second's text.
#[derive(Debug, Default)]
pub struct DateCache(Cell<(u64, [u8; DATE_BYTES])>);

impl DateCache {
    /// The text for a wall time in nanoseconds.
    pub fn at(&self, wall_ns: u64) -> [u8; DATE_BYTES] {
        let second = wall_ns / 1_000_000_000;
        let (cached, text) = self.0.get();
        if cached == second {
            return text;
        }
        let text = http_date(second);
        self.0.set((second, text));
        text
    }
}
