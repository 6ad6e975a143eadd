//! When a connection is pinged, and when it counts as dead. Pure: times in, a decision out.

use crate::base::clock::Now;
use crate::config::http2::KeepaliveSettings;

/// The pings of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    settings: Option<KeepaliveSettings>,
    /// When the next ping is due; while one is under way, when it counts as lost.
    due: Option<Now>,
    waiting: bool,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing before this moment.
    Wait(Option<Now>),
    /// A ping is to be sent.
    Ping,
    /// The peer is gone.
    Dead,
}

impl Keepalive {
    /// Begins with a connection; `random` below 1 decides on the first interval's length.
    pub fn new(settings: Option<KeepaliveSettings>, now: Now, random: f64) -> Self {
        let mut keepalive = Self { settings, due: None, waiting: false };
        keepalive.schedule(now, random);
        keepalive
    }

    fn schedule(&mut self, now: Now, random: f64) {
        self.waiting = false;
        self.due = self.settings.and_then(|settings| {
            let interval = settings.interval?;
            let jitter =
                interval.mul_f64(settings.interval_jitter_percent.clamp(0.0, 100.0) / 100.0 * random);
            Some(now.after(interval + jitter))
        });
    }

    /// Decides; `answered`: the ping under way was answered.
    pub fn poll(&mut self, now: Now, answered: bool, random: f64) -> Action {
        if self.waiting && answered {
            self.schedule(now, random);
        }
        match self.due {
            Some(due) if now >= due && self.waiting => Action::Dead,
            Some(due) if now >= due => {
                self.waiting = true;
                self.due = self.settings.map(|settings| now.after(settings.timeout));
                Action::Ping
            }
            due => Action::Wait(due),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(ms: u64) -> Now {
        Now(ms * 1_000_000)
    }

    #[test]
    fn ping_that_is_answered_is_followed_by_another_and_one_that_is_not_is_the_end() {
        let settings = KeepaliveSettings {
            interval: Some(Duration::from_millis(100)),
            timeout: Duration::from_millis(30),
            interval_jitter_percent: 50.0,
        };
        let mut keepalive = Keepalive::new(Some(settings), at(0), 0.5);
        assert_eq!(keepalive.poll(at(124), false, 0.0), Action::Wait(Some(at(125))));
        assert_eq!(keepalive.poll(at(125), false, 0.0), Action::Ping);
        assert_eq!(keepalive.poll(at(140), false, 0.0), Action::Wait(Some(at(155))));
        assert_eq!(keepalive.poll(at(150), true, 0.0), Action::Wait(Some(at(250))));
        assert_eq!(keepalive.poll(at(250), false, 0.0), Action::Ping);
        assert_eq!(keepalive.poll(at(280), false, 0.0), Action::Dead);
    }

    #[test]
    fn connection_without_settings_is_never_pinged() {
        assert_eq!(Keepalive::new(None, at(0), 0.0).poll(at(1_000_000), false, 0.0), Action::Wait(None));
    }
}
