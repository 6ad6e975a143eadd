//! Session tickets: sealed state that a client brings back to resume its session.
//!
//! Keys are those of the configuration, or one of this process. A ticket is good only where what decides about the client
//! is the same as where it was made: certificates' names and everything that verifies the client are bound to it, or a
//! ticket of one listener would open another that asks for more. Every ticket has a key of its own, derived from a random
//! salt, so that no number of tickets wears a key out.
//!
//! `name(16) salt(16) AES-256-GCM(issued(8) state)`; authenticated besides: name, salt, what it is bound to.
use std::fmt;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

use super::certificate::fixed;
use crate::base::clock;
use crate::config::tls::{SESSION_TIMEOUT_DEFAULT, TICKET_KEY_BYTES};

const NAME_BYTES: usize = 16;
const SALT_BYTES: usize = 16;
const ISSUED_BYTES: usize = 8;
/// Longest life of a ticket in seconds. RFC 8446, section 4.6.1.
const LIFETIME_MAX: u64 = 604_800;
/// How far the clocks of processes with the same keys may differ, in seconds.
const SKEW_MAX: u64 = 60;

/// Seals and opens tickets.
pub(super) struct Tickets {
    /// The first seals, all open.
    keys: Vec<[u8; TICKET_KEY_BYTES]>,
    lifetime: u32,
    bound_to: [u8; 32],
    /// Wall clock in seconds.
    now: fn() -> u64,
}

impl Tickets {
    /// Tickets under these keys.
    pub(super) fn new(
        keys: Vec<[u8; TICKET_KEY_BYTES]>,
        lifetime: Option<Duration>,
        bound_to: [u8; 32],
    ) -> Self {
        // BoringSSL takes less than a second for none that is set.
        let lifetime = lifetime.filter(|lifetime| lifetime.as_secs() > 0).unwrap_or(SESSION_TIMEOUT_DEFAULT);
        let lifetime = u32::try_from(lifetime.as_secs().min(LIFETIME_MAX)).unwrap_or(u32::MAX);
        Self { keys, lifetime, bound_to, now: || clock::wall_ns() / 1_000_000_000 }
    }

    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt).ok()?;
        let (sealing, nonce) = derive(key, &salt)?;
        let mut ticket =
            Vec::with_capacity(NAME_BYTES + SALT_BYTES + ISSUED_BYTES + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&key[..NAME_BYTES]);
        ticket.extend_from_slice(&salt);
        let mut sealed = Vec::with_capacity(ISSUED_BYTES + plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&(self.now)().to_be_bytes());
        sealed.extend_from_slice(plain);
        let aad = self.associated(&ticket);
        sealing.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).ok()?;
        ticket.extend_from_slice(&sealed);
        Some(ticket)
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (head, sealed) = ticket.split_at_checked(NAME_BYTES + SALT_BYTES)?;
        let (name, salt) = head.split_at_checked(NAME_BYTES)?;
        let key = self.keys.iter().find(|key| key.starts_with(name))?;
        let (opening, nonce) = derive(key, salt)?;
        let mut sealed = sealed.to_vec();
        let plain = opening.open_in_place(nonce, Aad::from(self.associated(head)), &mut sealed).ok()?;
        let (issued, state) = plain.split_at_checked(ISSUED_BYTES)?;
        let issued = u64::from_be_bytes(fixed(issued));
        let now = (self.now)();
        let is_current =
            issued <= now.saturating_add(SKEW_MAX) && now <= issued.saturating_add(u64::from(self.lifetime));
        is_current.then(|| state.to_vec())
    }

    fn associated(&self, head: &[u8]) -> Vec<u8> {
        [head, &self.bound_to].concat()
    }
}

/// The key and nonce of one ticket.
fn derive(key: &[u8; TICKET_KEY_BYTES], salt: &[u8]) -> Option<(LessSafeKey, Nonce)> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let length = AES_256_GCM.key_len() + NONCE_LEN;
    let mut bytes = vec![0; length];
    let secret = Salt::new(HKDF_SHA256, salt).extract(&key[NAME_BYTES..]);
    secret.expand(&[b"ringway session ticket"], Length(length)).ok()?.fill(&mut bytes).ok()?;
    let (key, nonce) = bytes.split_at_checked(AES_256_GCM.key_len())?;
    Some((
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?),
        Nonce::try_assume_unique_for_key(nonce).ok()?,
    ))
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.lifetime
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher)
    }
}

/// Never the keys.
impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tickets under {} keys", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(keys: &[u8], bound_to: u8) -> Tickets {
        let keys = keys.iter().map(|byte| [*byte; TICKET_KEY_BYTES]).collect();
        let mut tickets = Tickets::new(keys, Some(Duration::from_secs(100)), [bound_to; 32]);
        tickets.now = || 1_000_000;
        tickets
    }

    #[test]
    fn ticket_opens_under_any_of_the_keys_and_no_other() {
        let old = tickets(&[1], 0).seal(b"state").unwrap();
        assert_eq!(tickets(&[2, 1], 0).open(&old).as_deref(), Some(&b"state"[..]));
        assert_eq!(tickets(&[2], 0).open(&old), None);
        let new = tickets(&[2, 1], 0).seal(b"state").unwrap();
        assert_eq!(tickets(&[1], 0).open(&new), None, "the first key seals");
        assert_eq!(Tickets::new(Vec::new(), None, [0; 32]).seal(b""), None);
        assert_eq!(Tickets::new(Vec::new(), None, [0; 32]).lifetime(), 7200);
    }

    #[test]
    fn ticket_of_another_context_does_not_open() {
        let ticket = tickets(&[1], 0).seal(b"state").unwrap();
        assert_eq!(tickets(&[1], 1).open(&ticket), None);
    }

    #[test]
    fn ticket_ends_with_its_lifetime() {
        let ticket = tickets(&[1], 0).seal(b"state").unwrap();
        let mut later = tickets(&[1], 0);
        later.now = || 1_000_100;
        assert!(later.open(&ticket).is_some());
        later.now = || 1_000_101;
        assert!(later.open(&ticket).is_none());
        later.now = || 999_939;
        assert!(later.open(&ticket).is_none(), "from the future");
    }

    #[test]
    fn lifetime_is_that_of_the_configuration_unless_it_says_none() {
        let lifetime = |configured| Tickets::new(Vec::new(), configured, [0; 32]).lifetime();
        let default = u32::try_from(SESSION_TIMEOUT_DEFAULT.as_secs()).unwrap();
        assert_eq!(lifetime(Some(Duration::from_secs(1))), 1);
        assert_eq!(lifetime(Some(Duration::MAX)), 604_800);
        for none in [None, Some(Duration::ZERO), Some(Duration::from_millis(999))] {
            assert_eq!(lifetime(none), default, "{none:?}");
        }
    }

    #[test]
    fn changed_or_cut_ticket_does_not_open() {
        let tickets = tickets(&[1], 0);
        let good = tickets.seal(b"some state").unwrap();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            assert_eq!(tickets.open(&bad), None, "byte {place}");
            assert_eq!(tickets.open(&good[..place]), None, "{place} bytes");
        }
        assert_ne!(good, tickets.seal(b"some state").unwrap());
    }
}
