//! The windows that the peer of a connection sends into, while takers of some of its streams have stalled.
//!
//! What waits for a taker holds its share of the connection's window, and four full streams of 256 KiB hold one of 1 MiB: the
//! others would starve. So the window of the connection is what the configuration says beyond what waits, up to a bound. In
//! order that the bound is not reached, the more waits, the less a stream may have wait: beyond a quarter of the bound windows
//! of streams are halved, and halved again with each eighth. However streams stall, one after the other, each step lets as many
//! do so as all before it together: a bound of 2 MiB takes 128 of them.
//!
//! Pure: what the guard has counted, and `now`, in; changes out. The codec gives back window for what was taken when it is
//! worth a frame, and what it has given shows how much waits.

use crate::base::clock::Now;

/// The window of a connection before anything was said (RFC 9113 section 6.9.2).
const FIRST_WINDOW_BYTES: u64 = 65_535;
/// Smallest window of streams that a full connection leaves them. Reason: a quarter of a frame; less would be spent on
/// updates.
const STREAM_WINDOW_BYTES_MIN: u32 = 4096;
/// Largest window (RFC 9113 section 6.9.1).
const WINDOW_BYTES_MAX: u64 = (1 << 31) - 1;
/// Time between a change of the windows of streams and their growing again. Reason: each is a frame that asks for an answer,
/// and a peer counts those.
const GROWING_PAUSE_NS: u64 = 1_000_000_000;

/// The windows of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// As configured.
    connection: u64,
    stream: u32,
    /// What may wait on all streams.
    held_max: u64,
    /// The connection's window as the codec was told: what waits included.
    target: u64,
    /// What the peer may still send. It may be less than nothing as far as is known here: bytes pass before the codec's updates
    /// for them are seen.
    room: i64,
    /// What waits, at most.
    held: u64,
    /// How often the windows of streams are halved, and how often the codec was told so.
    halvings: u32,
    told: u32,
    halved: Now,
    /// What was counted of it.
    data_received: u64,
    window_sent: u64,
}

/// What the codec is to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// The connection's window, what waits included.
    pub(super) connection: Option<u32>,
    /// That of each stream. To be confirmed by [`Windows::told`]; asked for again until then.
    pub(super) stream: Option<u32>,
}

impl Windows {
    /// Of a connection with these windows, on whose streams about so many bytes may wait at most: as many as its window, if that
    /// is more.
    pub(super) fn new(connection: u32, stream: u32, held_max: u32) -> Self {
        Self {
            connection: connection.into(),
            stream,
            held_max: connection.max(held_max).into(),
            target: connection.into(),
            room: FIRST_WINDOW_BYTES.cast_signed(),
            held: 0,
            halvings: 0,
            told: 0,
            halved: Now(0),
            data_received: 0,
            window_sent: 0,
        }
    }

    /// What is to change, now that the peer has sent so many bytes of DATA and was given so much of the connection's window since
    /// its beginning.
    pub(super) fn poll(&mut self, data_received: u64, window_sent: u64, now: Now) -> Change {
        let mut change = Change::default();
        let data = data_received - self.data_received;
        let given = window_sent - self.window_sent;
        if data > 0 || given > 0 {
            (self.data_received, self.window_sent) = (data_received, window_sent);
            self.room += given.cast_signed() - data.cast_signed();
            self.held += data;
            let short = self.room < (self.connection / 2).cast_signed();
            if given > 0 {
                // The codec has given all that it has, for the moment: what is missing waits.
                self.held = self.target.saturating_sub(u64::try_from(self.room).unwrap_or(0));
            }
            if given > 0 || short {
                change.connection = self.connection_window(short);
                self.halve(now);
            }
        }
        self.grow(now);
        change.stream = (self.halvings != self.told).then(|| self.stream_window());
        change
    }

    /// The codec has taken the change of the windows of streams.
    pub(super) fn told(&mut self) {
        self.told = self.halvings;
    }

    /// `short`: the peer has little left, as what it sent was not taken, or what was taken not given back.
    fn connection_window(&mut self, short: bool) -> Option<u32> {
        let most = (self.connection + self.held_max).min(WINDOW_BYTES_MAX);
        let wanted = (self.connection + self.held).min(most);
        let changes = if wanted > self.target { short } else { self.target - wanted >= self.connection / 2 };
        if !changes {
            return None;
        }
        self.target = wanted;
        u32::try_from(wanted).ok()
    }

    /// What waits beyond which the windows of streams are halved so often.
    fn threshold(&self, halvings: u32) -> u64 {
        self.held_max / 4 + self.held_max / 8 * u64::from(halvings.saturating_sub(1))
    }

    fn stream_window(&self) -> u32 {
        (self.stream >> self.halvings).max(STREAM_WINDOW_BYTES_MIN.min(self.stream))
    }

    fn halve(&mut self, now: Now) {
        while self.held > self.threshold(self.halvings + 1) && self.stream_window() > STREAM_WINDOW_BYTES_MIN
        {
            self.halvings += 1;
            self.halved = now;
        }
    }

    /// Twice the window makes twice as much wait at most: then it is not halved at once.
    fn grow(&mut self, now: Now) {
        if self.halvings > 0
            && self.held <= self.threshold(self.halvings) / 2
            && now.0.saturating_sub(self.halved.0) >= GROWING_PAUSE_NS
        {
            self.halvings -= 1;
            self.halved = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const KIB: u64 = 1 << 10;

    /// A connection as codec and peer see it.
    struct Connection {
        windows: Windows,
        /// What the codec would have the peer send, what it has told it of that, and what waits.
        available: i64,
        room: i64,
        held: i64,
        data: u64,
        given: u64,
        stream: u32,
        now: Now,
    }

    impl Connection {
        fn new(connection: u64, stream: u64, held_max: u64) -> Self {
            let [connection, stream, held_max] = [connection, stream, held_max].map(|it| it as u32);
            let windows = Windows::new(connection, stream, held_max);
            let (available, room) = (i64::from(connection), FIRST_WINDOW_BYTES as i64);
            let mut this = Self { windows, available, room, held: 0, data: 0, given: 0, stream, now: Now(0) };
            this.turn();
            this
        }

        /// The codec gives window back when that is worth a frame; then it is told what is to change.
        fn turn(&mut self) {
            loop {
                let more = self.available - self.room;
                if more > 0 && more >= self.room / 2 {
                    self.given += more as u64;
                    self.room = self.available;
                }
                let change = self.windows.poll(self.data, self.given, self.now);
                if let Some(target) = change.connection {
                    self.available = i64::from(target) - self.held;
                }
                if let Some(stream) = change.stream {
                    self.stream = stream;
                    self.windows.told();
                }
                if change == Change::default() {
                    return;
                }
            }
        }

        /// So many bytes arrive, as many as there is room for; how many.
        fn receive(&mut self, bytes: u64) -> u64 {
            let received = (bytes as i64).min(self.room).max(0);
            self.room -= received;
            self.available -= received;
            self.held += received;
            self.data += received as u64;
            self.turn();
            received as u64
        }

        fn take(&mut self, bytes: u64) {
            self.held -= bytes as i64;
            self.available += bytes as i64;
            self.turn();
        }

        /// A stream whose taker has stalled takes a window full; how much that is.
        fn stall(&mut self) -> u64 {
            let (mut held, mut left) = (0, u64::from(self.stream));
            while left > 0 {
                // Its window shrinks as it fills.
                left = left.min(u64::from(self.stream).saturating_sub(held));
                let received = self.receive(left.min(16 * KIB));
                assert!(received > 0 || left == 0, "starves at {} bytes that wait", self.held);
                (held, left) = (held + received, left - received);
            }
            held
        }
    }

    #[test]
    fn streams_that_stall_leave_the_others_their_window_within_the_bound() {
        for (streams, bound, least) in [(256, 4 * MIB, 4 * KIB), (128, 2 * MIB, 4 * KIB)] {
            let mut connection = Connection::new(MIB, 256 * KIB, bound);
            for stalled in 0..streams {
                assert!(connection.stall() > 0, "{stalled}");
                // Another is taken from: it gets all that it asks for.
                assert_eq!(connection.receive(200 * KIB), 200 * KIB, "{stalled}");
                connection.take(200 * KIB);
                assert!(connection.room >= MIB as i64 / 2, "{stalled}");
            }
            assert!(connection.held as u64 <= bound + MIB, "{} bytes wait", connection.held);
            assert_eq!(u64::from(connection.stream), least);
        }
    }

    #[test]
    fn peer_without_regard_for_smaller_windows_stays_within_the_bound() {
        let mut connection = Connection::new(MIB, 256 * KIB, 4 * MIB);
        while connection.receive(256 * KIB) > 0 {}
        assert_eq!(connection.held as u64, 5 * MIB);
        let mut large = Connection::new(WINDOW_BYTES_MAX, 256 * KIB, 4 * MIB);
        assert_eq!(large.receive(WINDOW_BYTES_MAX), WINDOW_BYTES_MAX);
        assert_eq!(large.receive(1), 0);
    }

    #[test]
    fn windows_are_as_configured_where_bytes_are_taken() {
        let mut connection = Connection::new(MIB, 256 * KIB, 4 * MIB);
        for _ in 0..1000 {
            assert_eq!(connection.receive(300 * KIB), 300 * KIB);
            connection.take(300 * KIB);
        }
        assert_eq!((connection.windows.target, connection.stream), (MIB, 256 * 1024));
    }

    #[test]
    fn what_stalled_and_goes_on_gives_the_windows_back_in_time() {
        let mut connection = Connection::new(MIB, 256 * KIB, 4 * MIB);
        for _ in 0..64 {
            connection.stall();
        }
        assert!(connection.stream < 32 * 1024, "{}", connection.stream);
        connection.take(connection.held as u64);
        assert!(connection.stream < 32 * 1024, "not at once");
        let mut changes = 0;
        for second in 1..20 {
            connection.now = Now(second * GROWING_PAUSE_NS);
            let before = connection.stream;
            assert_eq!(connection.receive(KIB), KIB);
            connection.take(KIB);
            changes += u32::from(connection.stream != before);
        }
        assert_eq!(connection.stream, 256 * 1024);
        assert!(changes <= 6, "{changes}");
        for _ in 0..64 {
            assert_eq!(connection.receive(MIB / 4), MIB / 4);
            connection.take(MIB / 4);
        }
        assert_eq!(connection.windows.target, MIB);
    }

    #[test]
    fn change_that_the_codec_cannot_take_is_asked_for_again() {
        let mut windows = Windows::new(1 << 20, 256 << 10, 1 << 20);
        windows.poll(0, MIB - FIRST_WINDOW_BYTES, Now(0));
        let asked = windows.poll(700 * KIB, MIB - FIRST_WINDOW_BYTES, Now(0)).stream;
        assert!(asked.is_some());
        assert_eq!(windows.poll(700 * KIB, MIB - FIRST_WINDOW_BYTES, Now(0)).stream, asked);
        windows.told();
        assert_eq!(windows.poll(700 * KIB, MIB - FIRST_WINDOW_BYTES, Now(0)), Change::default());
    }
}
