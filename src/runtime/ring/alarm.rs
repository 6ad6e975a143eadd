//! The standing timeout: one operation of the ring that ends long waits.
//!
//! A timeout of the wait itself is set up and taken down by each visit that sleeps, though it hardly ever fires. The
//! alarm stays armed across visits. Timers are lazy (`Timer`), so what is due next seldom moves forward; an alarm that
//! rings early costs one turn.
#![allow(unsafe_code)]

use io_uring::types::Timespec;
use io_uring::{opcode, squeue};

use super::op::Op;
use crate::runtime::socket::SocketKey;

/// Waits shorter than this time out by themselves, in milliseconds.
const SHORT_WAIT_MS: u64 = 5;

const KEY: SocketKey = SocketKey { slot: 0, generation: 0 };

#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// When it rings, in milliseconds of the runtime's clock.
    due: Option<u64>,
    /// Read by the kernel at submission. Boxed: a ring that moves must not move it.
    time: Box<Timespec>,
}

/// What ends a wait.
#[derive(Debug)]
pub(super) enum Ending {
    /// The wait's own timeout.
    Timeout,
    /// The alarm as it is.
    Armed,
    /// The alarm, once this entry is submitted; the first of its kind counts as an operation.
    Arm { entry: squeue::Entry, first: bool },
}

impl Alarm {
    /// Sees to it that a wait of `ms` from `now` ends in time.
    pub(super) fn end_by(&mut self, now: u64, ms: u64) -> Ending {
        let due = now.saturating_add(ms);
        let armed = self.due;
        if armed.is_some_and(|armed| armed <= due) {
            return Ending::Armed;
        }
        if ms < SHORT_WAIT_MS {
            return Ending::Timeout;
        }
        self.due = Some(due);
        *self.time = Timespec::new().sec(ms / 1000).nsec((ms % 1000) as u32 * 1_000_000);
        let user_data = Op::Alarm.user_data(KEY);
        let entry = match armed {
            None => opcode::Timeout::new(&raw const *self.time).build().user_data(user_data),
            // It fails if the alarm rings meanwhile; that is heard, and the next wait arms again.
            Some(_) => opcode::TimeoutUpdate::new(user_data, &raw const *self.time)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(Op::Cancel.user_data(KEY)),
        };
        Ending::Arm { entry, first: armed.is_none() }
    }

    /// It rang, or was cancelled.
    pub(super) fn rang(&mut self) {
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarm_armed_for_an_earlier_moment_stays_as_it_is() {
        let mut alarm = Alarm::default();
        assert!(matches!(alarm.end_by(100, 50), Ending::Arm { first: true, .. }));
        assert!(matches!(alarm.end_by(100, 50), Ending::Armed));
        assert!(matches!(alarm.end_by(110, 1000), Ending::Armed));
        assert!(matches!(alarm.end_by(120, 20), Ending::Arm { first: false, .. }));
        assert!(matches!(alarm.end_by(121, 19), Ending::Armed));
    }

    #[test]
    fn alarm_that_rang_is_armed_anew() {
        let mut alarm = Alarm::default();
        alarm.end_by(0, 10);
        alarm.rang();
        assert!(matches!(alarm.end_by(10, 1000), Ending::Arm { first: true, .. }));
    }

    #[test]
    fn short_wait_times_out_by_itself_unless_the_alarm_ends_it_in_time() {
        let mut alarm = Alarm::default();
        assert!(matches!(alarm.end_by(0, SHORT_WAIT_MS - 1), Ending::Timeout));
        alarm.end_by(0, 10);
        assert!(matches!(alarm.end_by(0, 1), Ending::Timeout));
        assert!(matches!(alarm.end_by(9, 1), Ending::Armed));
    }
}
