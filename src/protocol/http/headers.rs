//! Header names: the small table of names the path itself uses, and [`HeaderName`], a name compiled
//! at configuration time.
//!
//! Sits below [`super::head`]: every received field name is looked up once in the table (one
//! multiplication, one comparison), so that later questions compare one byte instead of text.
//! Invariants: names in the table are lower case and fewer than 128 (a head keeps one presence bit
//! for each); the table's hash has no collisions, which is checked when the crate is compiled.

/// A header name known when configuration was converted: one of the table, or custom text in lower
/// case.
///
/// `host` and `:authority` are the same name, as in Envoy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderName(Repr);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Repr {
    Known(Known),
    Custom(Box<str>),
}

/// Longest header name, in bytes. A longer one is refused ([`HeaderName::parse`] answers `None`, the
/// codec 431). Reason: heads keep name lengths in 16 bits.
pub const NAME_BYTES_MAX: usize = u16::MAX as usize;

impl HeaderName {
    /// The name spelt by `text`, compared without case. `None` when it is not an RFC 9110 §5.1 token
    /// of at most [`NAME_BYTES_MAX`] bytes; of the names that begin with a colon only Envoy's pseudo
    /// headers (`:path`, `:status`, ...) are names.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if let Some(known) = Known::of(text) {
            return Some(Self(Repr::Known(known)));
        }
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.iter().copied().all(is_token_byte) {
            return None;
        }
        let lower: String = text.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect();
        Some(Self(Repr::Custom(lower.into_boxed_str())))
    }

    const fn known_name(known: Known) -> Self {
        Self(Repr::Known(known))
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Known(known) => known.as_str(),
            Repr::Custom(text) => text,
        }
    }

    /// The name in lower case, as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.as_str().as_bytes()
    }

    /// Whether this names a part of the start line (`:path`, `host`, ...) instead of a field.
    pub fn is_pseudo(&self) -> bool {
        self.known().is_some_and(Known::is_pseudo)
    }

    /// The table's entry, when the name has one.
    pub(in crate::protocol) const fn known(&self) -> Option<Known> {
        match self.0 {
            Repr::Known(known) => Some(known),
            Repr::Custom(_) => None,
        }
    }
}

impl std::fmt::Display for HeaderName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.as_str())
    }
}

/// Whether `byte` may stand in a token (RFC 9110 §5.6.2): methods, field names, codings.
pub const fn is_token_byte(byte: u8) -> bool {
    matches!(byte,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')
}

/// Whether `text` is a token: at least one byte, all of them token bytes.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

macro_rules! known_names {
    ($($constant:ident = $text:literal,)*) => {
        /// One name of the table; its value is the name's bit in a head's presence set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        pub(in crate::protocol) enum Known { $($constant,)* }

        const KNOWN: &[Known] = &[$(Known::$constant,)*];
        /// What the names of the table spell, in their order.
        pub(in crate::protocol) const TEXTS: [&str; KNOWN.len()] = [$($text,)*];

        $(
            #[doc = concat!("`", $text, "`")]
            pub const $constant: HeaderName = HeaderName::known_name(Known::$constant);
        )*
    };
}

known_names! {
    AUTHORITY = ":authority",
    METHOD = ":method",
    PATH = ":path",
    SCHEME = ":scheme",
    STATUS = ":status",
    CONNECTION = "connection",
    KEEP_ALIVE = "keep-alive",
    PROXY_CONNECTION = "proxy-connection",
    PROXY_AUTHENTICATE = "proxy-authenticate",
    PROXY_AUTHORIZATION = "proxy-authorization",
    TRANSFER_ENCODING = "transfer-encoding",
    TE = "te",
    TRAILER = "trailer",
    UPGRADE = "upgrade",
    HTTP2_SETTINGS = "http2-settings",
    CONTENT_LENGTH = "content-length",
    EXPECT = "expect",
    ACCEPT = "accept",
    ACCEPT_ENCODING = "accept-encoding",
    ACCEPT_LANGUAGE = "accept-language",
    AGE = "age",
    ALLOW = "allow",
    ALT_SVC = "alt-svc",
    AUTHORIZATION = "authorization",
    CACHE_CONTROL = "cache-control",
    CONTENT_ENCODING = "content-encoding",
    CONTENT_RANGE = "content-range",
    CONTENT_TYPE = "content-type",
    COOKIE = "cookie",
    DATE = "date",
    ENDPOINT_LOAD_METRICS = "endpoint-load-metrics",
    ENDPOINT_LOAD_METRICS_BIN = "endpoint-load-metrics-bin",
    ETAG = "etag",
    FORWARDED = "forwarded",
    GRPC_ACCEPT_ENCODING = "grpc-accept-encoding",
    GRPC_MESSAGE = "grpc-message",
    GRPC_STATUS = "grpc-status",
    GRPC_TIMEOUT = "grpc-timeout",
    IF_MODIFIED_SINCE = "if-modified-since",
    IF_NONE_MATCH = "if-none-match",
    LAST_MODIFIED = "last-modified",
    LOCATION = "location",
    MAX_FORWARDS = "max-forwards",
    ORIGIN = "origin",
    RANGE = "range",
    REFERER = "referer",
    RETRY_AFTER = "retry-after",
    SEC_WEBSOCKET_ACCEPT = "sec-websocket-accept",
    SEC_WEBSOCKET_KEY = "sec-websocket-key",
    SERVER = "server",
    SET_COOKIE = "set-cookie",
    STRICT_TRANSPORT_SECURITY = "strict-transport-security",
    TRACEPARENT = "traceparent",
    TRACESTATE = "tracestate",
    USER_AGENT = "user-agent",
    VARY = "vary",
    VIA = "via",
    WWW_AUTHENTICATE = "www-authenticate",
    X_CLIENT_TRACE_ID = "x-client-trace-id",
    X_ENVOY_ATTEMPT_COUNT = "x-envoy-attempt-count",
    X_ENVOY_DECORATOR_OPERATION = "x-envoy-decorator-operation",
    X_ENVOY_DEGRADED = "x-envoy-degraded",
    X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER = "x-envoy-downstream-service-cluster",
    X_ENVOY_DOWNSTREAM_SERVICE_NODE = "x-envoy-downstream-service-node",
    X_ENVOY_DROP_OVERLOAD = "x-envoy-drop-overload",
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS = "x-envoy-expected-rq-timeout-ms",
    X_ENVOY_EXTERNAL_ADDRESS = "x-envoy-external-address",
    X_ENVOY_FORCE_TRACE = "x-envoy-force-trace",
    X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT = "x-envoy-hedge-on-per-try-timeout",
    X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL = "x-envoy-immediate-health-check-fail",
    X_ENVOY_INTERNAL = "x-envoy-internal",
    X_ENVOY_IP_TAGS = "x-envoy-ip-tags",
    X_ENVOY_IS_TIMEOUT_RETRY = "x-envoy-is-timeout-retry",
    X_ENVOY_LOCAL_OVERLOADED = "x-envoy-local-overloaded",
    X_ENVOY_MAX_RETRIES = "x-envoy-max-retries",
    X_ENVOY_ORIGINAL_DST_HOST = "x-envoy-original-dst-host",
    X_ENVOY_ORIGINAL_HOST = "x-envoy-original-host",
    X_ENVOY_ORIGINAL_METHOD = "x-envoy-original-method",
    X_ENVOY_ORIGINAL_PATH = "x-envoy-original-path",
    X_ENVOY_OVERLOADED = "x-envoy-overloaded",
    X_ENVOY_PEER_METADATA = "x-envoy-peer-metadata",
    X_ENVOY_PEER_METADATA_ID = "x-envoy-peer-metadata-id",
    X_ENVOY_RATELIMITED = "x-envoy-ratelimited",
    X_ENVOY_RETRIABLE_HEADER_NAMES = "x-envoy-retriable-header-names",
    X_ENVOY_RETRIABLE_STATUS_CODES = "x-envoy-retriable-status-codes",
    X_ENVOY_RETRY_GRPC_ON = "x-envoy-retry-grpc-on",
    X_ENVOY_RETRY_ON = "x-envoy-retry-on",
    X_ENVOY_UNCONDITIONAL_DROP_OVERLOAD = "x-envoy-unconditional-drop-overload",
    X_ENVOY_UPSTREAM_ALT_STAT_NAME = "x-envoy-upstream-alt-stat-name",
    X_ENVOY_UPSTREAM_CANARY = "x-envoy-upstream-canary",
    X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS = "x-envoy-upstream-rq-per-try-timeout-ms",
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE = "x-envoy-upstream-rq-timeout-alt-response",
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS = "x-envoy-upstream-rq-timeout-ms",
    X_ENVOY_UPSTREAM_SERVICE_TIME = "x-envoy-upstream-service-time",
    X_ENVOY_UPSTREAM_STREAM_DURATION_MS = "x-envoy-upstream-stream-duration-ms",
    X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER = "x-envoy-upstream-healthchecked-cluster",
    X_FORWARDED_CLIENT_CERT = "x-forwarded-client-cert",
    X_FORWARDED_FOR = "x-forwarded-for",
    X_FORWARDED_HOST = "x-forwarded-host",
    X_FORWARDED_PORT = "x-forwarded-port",
    X_FORWARDED_PROTO = "x-forwarded-proto",
    X_REQUEST_ID = "x-request-id",
}

/// `host`, which is the same name as `:authority`.
pub const HOST: HeaderName = AUTHORITY;

impl Known {
    /// The entry that `text` spells, without regard to case.
    #[inline]
    pub(in crate::protocol) fn of(text: &[u8]) -> Option<Self> {
        if spells(text, b"host") {
            return Some(Self::AUTHORITY);
        }
        let slot = slot_of(text)?;
        let known = *KNOWN.get(usize::from(SLOTS[slot]))?;
        spells(text, known.as_str().as_bytes()).then_some(known)
    }

    /// The entry that `text` spells, which has no upper case.
    #[inline]
    pub(in crate::protocol) fn of_lower_case(text: &[u8]) -> Option<Self> {
        if text == b"host" {
            return Some(Self::AUTHORITY);
        }
        let known = *KNOWN.get(usize::from(SLOTS[slot_of(text)?]))?;
        (text == known.as_str().as_bytes()).then_some(known)
    }

    pub(in crate::protocol) const fn as_str(self) -> &'static str {
        TEXTS[self as usize]
    }

    pub(in crate::protocol) const fn bit(self) -> u128 {
        1 << self as u8
    }

    pub(in crate::protocol) const fn is_pseudo(self) -> bool {
        (self as u8) <= Self::STATUS as u8
    }
}

/// Whether `text` is `lower`, a text in lower case, but for its case. Every received name is compared once: words at a
/// time, the last overlapping the one before.
#[inline]
fn spells(text: &[u8], lower: &[u8]) -> bool {
    if text.len() != lower.len() {
        return false;
    }
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    match (text.last_chunk::<8>(), lower.last_chunk::<8>()) {
        (Some(last), Some(lower_last)) => {
            let (words, lower_words) = (text.as_chunks::<8>().0, lower.as_chunks::<8>().0);
            words.iter().zip(lower_words).all(|(bytes, lower)| lower_case(word(bytes)) == word(lower))
                && lower_case(word(last)) == word(lower_last)
        }
        _ => match (ends(text), ends(lower)) {
            (Some(ends), Some(lower_ends)) => lower_case(ends) == lower_ends,
            _ => text.eq_ignore_ascii_case(lower),
        },
    }
}

/// The first and the last four bytes of a text of four to eight.
#[inline]
fn ends(text: &[u8]) -> Option<u64> {
    let (first, last) = (text.first_chunk::<4>()?, text.last_chunk::<4>()?);
    Some(u64::from(u32::from_ne_bytes(*first)) << 32 | u64::from(u32::from_ne_bytes(*last)))
}

/// Eight bytes with their ASCII letters in lower case.
#[inline]
const fn lower_case(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let low_bits = word & (0x7f * ONES);
    // The high bit of each byte tells; sums of seven bits never carry into the next byte.
    let from_a = low_bits + (0x80 - b'A' as u64) * ONES;
    let beyond_z = low_bits + (0x7f - b'Z' as u64) * ONES;
    let upper = (from_a ^ beyond_z) & !word & (0x80 * ONES);
    word | upper >> 2
}

/// Some names of the table, to be taken out of a head in one pass.
#[derive(Clone, Copy, Debug)]
pub struct NameSet(pub(in crate::protocol) u128);

impl NameSet {
    /// The set of these names.
    pub(in crate::protocol) const fn of(names: &[Known]) -> Self {
        let (mut bits, mut index) = (0, 0);
        while index < names.len() {
            bits |= names[index].bit();
            index += 1;
        }
        Self(bits)
    }
}

const SLOT_BITS: u32 = 9;
const VACANT: u8 = u8::MAX;
/// Found by trial: spreads the names of the table over the slots without a collision. When a new
/// name collides (the crate then does not compile), try other odd numbers.
const MULTIPLIER: u64 = 0x5fb3_cba9_c150_719b;
static SLOTS: [u8; 1 << SLOT_BITS] = fill_slots();

/// Four bytes and the length tell all names of the table apart.
const fn slot_of(text: &[u8]) -> Option<usize> {
    let len = text.len();
    if len == 0 || len > 64 {
        return None;
    }
    let key = (text[0] | 32) as u64
        | ((text[len / 2] | 32) as u64) << 8
        | ((text[len * 3 / 4] | 32) as u64) << 16
        | ((text[len - 1] | 32) as u64) << 24
        | (len as u64) << 32;
    Some((key.wrapping_mul(MULTIPLIER) >> (64 - SLOT_BITS)) as usize)
}

const fn fill_slots() -> [u8; 1 << SLOT_BITS] {
    assert!(TEXTS.len() <= 128, "a head keeps one presence bit per name in a u128");
    let mut slots = [VACANT; 1 << SLOT_BITS];
    let mut index = 0;
    while index < TEXTS.len() {
        let Some(slot) = slot_of(TEXTS[index].as_bytes()) else { panic!("empty or overlong name") };
        assert!(slots[slot] == VACANT, "two names share a slot: choose another MULTIPLIER");
        slots[slot] = index as u8;
        index += 1;
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_every_entry_is_found_in_any_case() {
        for (index, text) in TEXTS.iter().enumerate() {
            assert_eq!(Known::of(text.as_bytes()), Some(KNOWN[index]), "{text}");
            assert_eq!(Known::of_lower_case(text.as_bytes()), Some(KNOWN[index]), "{text}");
            assert_eq!(Known::of(text.to_ascii_uppercase().as_bytes()), Some(KNOWN[index]), "{text}");
            assert_eq!(text.to_ascii_lowercase(), *text);
            assert_eq!(KNOWN[index].is_pseudo(), text.starts_with(':'), "{text}");
        }
    }

    #[test]
    fn spells_agrees_with_the_standard_library_byte_by_byte() {
        for lower in ["te", "host", "via", "trailer", "location", "keep-alive", "x-forwarded-proto", "1-{_`z"]
        {
            for at in 0..lower.len() {
                for byte in 0..=u8::MAX {
                    let mut text = lower.as_bytes().to_vec();
                    text[at] = byte;
                    let same = text.eq_ignore_ascii_case(lower.as_bytes());
                    assert_eq!(spells(&text, lower.as_bytes()), same, "{lower} {at} {byte}");
                }
            }
        }
    }

    #[test]
    fn known_near_miss_is_not_found() {
        for text in ["", "x", "hos", "hostt", "content-lengtH ", "x-forwarded-fos", "dat\u{e9}"] {
            assert_eq!(Known::of(text.as_bytes()), None, "{text}");
            assert_eq!(Known::of_lower_case(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Known::of(&[b'a'; 300]), None);
    }

    #[test]
    fn parse_host_is_authority() {
        assert_eq!(HeaderName::parse(b"Host"), Some(HOST));
        assert_eq!(Known::of_lower_case(b"host"), Some(Known::AUTHORITY));
        assert_eq!(HeaderName::parse(b":Authority"), Some(AUTHORITY));
        assert!(HOST.is_pseudo());
    }

    #[test]
    fn parse_custom_name_is_kept_in_lower_case() {
        let name = HeaderName::parse(b"X-Mine").unwrap();
        assert_eq!(name.as_str(), "x-mine");
        assert_eq!(name, HeaderName::parse(b"x-mINE").unwrap());
    }

    #[test]
    fn parse_non_token_is_refused() {
        for text in [&b""[..], b"a b", b"a:", b":unknown", b"a\r", b"caf\xc3\xa9", b"a\0"] {
            assert_eq!(HeaderName::parse(text), None);
        }
    }
}
