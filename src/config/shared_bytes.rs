//! [`SharedBytes`]: bytes of the configuration that many contexts have in common.
use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use once_cell::race::OnceBox;

use crate::base::heaps;

/// Bytes, and what has been made of them: of thousands of clusters each trusts the same authorities. A clone is the same bytes.
#[derive(Clone)]
pub struct SharedBytes(Arc<Inner>);

struct Inner {
    bytes: Box<[u8]>,
    made: OnceBox<Arc<dyn Any + Send + Sync>>,
}

/// What earlier ones have, for later ones to share.
#[derive(Debug, Clone, Default)]
pub struct KnownBytes(Vec<Weak<Inner>>);

impl SharedBytes {
    /// What was made of them, by whoever has them.
    pub fn made<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        Arc::clone(self.0.made.get()?).downcast().ok()
    }

    /// Keeps what was made of them as long as they are there, unless something is kept already.
    pub fn keep<T: Any + Send + Sync>(&self, made: &Arc<T>) {
        let _ = self.0.made.set(Box::new(Arc::clone(made) as _));
    }

    /// Whether both are the same bytes, in one place.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl KnownBytes {
    /// Most that others are compared with: the latest.
    const COMPARED_MAX: usize = 8;

    /// These bytes, which are those of an earlier call that are equal, if somebody still has them. They outlive what they were read
    /// from.
    pub fn shared(&mut self, bytes: &[u8]) -> SharedBytes {
        self.0.retain(|known| known.strong_count() > 0);
        let found = self.0.iter().enumerate().find_map(|(place, known)| {
            let known = SharedBytes(known.upgrade()?);
            (*known == *bytes).then_some((place, known))
        });
        if let Some((place, known)) = found {
            // Those that are often met stay.
            self.0[place..].rotate_left(1);
            return known;
        }
        if self.0.len() == Self::COMPARED_MAX {
            self.0.remove(0);
        }
        let new = heaps::lasting(|| SharedBytes::from(bytes));
        self.0.push(Arc::downgrade(&new.0));
        new
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl<T: Into<Box<[u8]>>> From<T> for SharedBytes {
    fn from(bytes: T) -> Self {
        Self(Arc::new(Inner { bytes: bytes.into(), made: OnceBox::new() }))
    }
}

impl PartialEq for SharedBytes {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || **self == **other
    }
}

impl Eq for SharedBytes {}

/// Never the bytes: they may be a private key.
impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_become_the_same_and_what_was_made_of_them_is_shared() {
        let mut known = KnownBytes::default();
        let mut shared = |text: &str| known.shared(text.as_bytes());
        let (a, b, again) = (shared("a"), shared("b"), shared("a"));
        assert!(a.is(&again) && !a.is(&b) && *b == *b"b");
        a.keep(&Arc::new(7_u32));
        a.keep(&Arc::new(8_u32));
        assert_eq!(again.made::<u32>().as_deref(), Some(&7), "the first stays");
        assert_eq!((again.made::<u64>(), b.made::<u32>()), (None, None));
    }

    #[test]
    fn those_met_last_are_compared() {
        let mut known = KnownBytes::default();
        let mut shared = |number: usize| known.shared(number.to_string().as_bytes());
        let (often, once) = (shared(0), shared(1));
        let all: Vec<_> = (2..20)
            .map(|number| {
                assert!(shared(0).is(&often));
                shared(number)
            })
            .collect();
        assert!(!shared(1).is(&once));
        drop(all);
        assert_eq!((known.0.len(), known.0.capacity() <= 2 * KnownBytes::COMPARED_MAX), (8, true));
        known.shared(b"other");
        assert!(known.0.len() <= 3, "of what nobody has nothing is known");
    }
}
