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

    /// Whether a connection of which something came at `received` last is to be pinged as it gets a request.
    pub fn is_wanted(settings: Option<&KeepaliveSettings>, received: Now, now: Now) -> bool {
        let idle = settings.and_then(|settings| settings.connection_idle_interval);
        idle.is_some_and(|idle| now > received.after(idle))
    }

    /// Decides; `answered`: the ping under way was answered; `wanted`: one is to be sent now, if none is under way.
    pub fn poll(&mut self, now: Now, answered: bool, wanted: bool, random: f64) -> Action {
        if self.waiting && answered {
            self.schedule(now, random);
        }
        match self.due {
            Some(due) if now >= due && self.waiting => Action::Dead,
            due if !self.waiting && (wanted || due.is_some_and(|due| now >= due)) => {
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
            connection_idle_interval: None,
            interval_jitter_percent: 50.0,
        };
        let mut keepalive = Keepalive::new(Some(settings), at(0), 0.5);
        assert_eq!(keepalive.poll(at(124), false, false, 0.0), Action::Wait(Some(at(125))));
        assert_eq!(keepalive.poll(at(125), false, false, 0.0), Action::Ping);
        assert_eq!(keepalive.poll(at(140), false, false, 0.0), Action::Wait(Some(at(155))));
        assert_eq!(keepalive.poll(at(150), true, false, 0.0), Action::Wait(Some(at(250))));
        assert_eq!(keepalive.poll(at(250), false, false, 0.0), Action::Ping);
        assert_eq!(keepalive.poll(at(280), false, false, 0.0), Action::Dead);
    }

    #[test]
    fn ping_is_sent_at_once_where_it_is_wanted_unless_one_is_under_way() {
        let settings = KeepaliveSettings {
            interval: None,
            timeout: Duration::from_millis(30),
            connection_idle_interval: Some(Duration::from_millis(500)),
            interval_jitter_percent: 0.0,
        };
        for (received, now, wanted) in [(0, 500, false), (0, 501, true), (400, 900, false)] {
            assert_eq!(Keepalive::is_wanted(Some(&settings), at(received), at(now)), wanted);
        }
        assert!(!Keepalive::is_wanted(None, at(0), at(1_000_000)));
        let mut keepalive = Keepalive::new(Some(settings), at(0), 0.0);
        assert_eq!(keepalive.poll(at(900), false, false, 0.0), Action::Wait(None));
        assert_eq!(keepalive.poll(at(1000), false, true, 0.0), Action::Ping);
        assert_eq!(keepalive.poll(at(1010), false, true, 0.0), Action::Wait(Some(at(1030))));
        assert_eq!(keepalive.poll(at(1020), true, false, 0.0), Action::Wait(None));
        assert_eq!(keepalive.poll(at(2000), false, true, 0.0), Action::Ping);
        assert_eq!(keepalive.poll(at(2030), false, true, 0.0), Action::Dead);
    }

    #[test]
    fn connection_without_settings_is_never_pinged() {
        assert_eq!(
            Keepalive::new(None, at(0), 0.0).poll(at(1_000_000), false, false, 0.0),
            Action::Wait(None)
        );
    }
}
