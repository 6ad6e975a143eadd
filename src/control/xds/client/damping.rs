//! Refusals of the same content, again and again: a control plane that sends at once what was refused would keep both
//! sides busy. Its answer is held back, longer each time.
use std::time::Duration;

/// The first hold. Each further one doubles.
const FIRST: Duration = Duration::from_millis(100);
/// The longest: so long at most a corrected resource waits, since a state-of-the-world server sends nothing before the
/// answer to its last.
const MAX: Duration = Duration::from_secs(2);

/// What was refused last.
#[derive(Debug, Default)]
pub(super) struct Damping(Option<(u64, Duration)>);

impl Damping {
    /// A response was taken, or one of another content refused: nothing is held back.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// How long to hold back the refusal of a response with this hash of its content.
    pub(super) fn refused(&mut self, content: u64) -> Duration {
        let hold = match self.0 {
            Some((last, hold)) if last == content => {
                if hold.is_zero() {
                    FIRST
                } else {
                    (hold * 2).min(MAX)
                }
            }
            _ => Duration::ZERO,
        };
        self.0 = Some((content, hold));
        hold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xds.md D1: the first refusal of a content is not delayed; those after it are, up to the cap.
    #[test]
    fn same_content_refused_again_is_held_longer_up_to_the_cap() {
        let mut damping = Damping::default();
        let holds: Vec<_> = (0..8).map(|_| damping.refused(1).as_millis()).collect();
        assert_eq!(holds, [0, 100, 200, 400, 800, 1600, 2000, 2000]);
    }

    /// xds.md D2: another content clears it.
    #[test]
    fn other_content_is_answered_at_once() {
        let mut damping = Damping::default();
        for _ in 0..4 {
            damping.refused(1);
        }
        assert_eq!(damping.refused(2), Duration::ZERO);
        assert_eq!(damping.refused(1), Duration::ZERO);
        damping.refused(1);
        damping.clear();
        assert_eq!(damping.refused(1), Duration::ZERO);
    }
}
