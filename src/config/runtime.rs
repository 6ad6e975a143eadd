//! Runtime values: what configuration refers to by a key, and what workers read while they serve.
//!
//! Control writes a value when somebody changes it, never a worker, and a worker reads it as it reads the configuration beside it:
//! plain loads of memory that nobody else writes. Every key has two places for its value. All of one state lie in the same of the
//! two, and which it is says one word, so that several values read by [`RuntimeKey::together`] are of one state.
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use serde_json::Value;

use super::matcher::FractionalPercent;

/// Whether something is on. Source: Envoy `core.v3.RuntimeFeatureFlag`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeFlag {
    /// Where runtime has no value.
    pub default_value: bool,
    /// `None`: no value can come.
    pub runtime_key: Option<RuntimeKey>,
}

/// A number. Source: Envoy `core.v3.RuntimeDouble`.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeNumber {
    /// Where runtime has no value.
    pub default_value: f64,
    /// `None`: no value can come.
    pub runtime_key: Option<RuntimeKey>,
}

/// No value: beyond every number that a place holds.
const NONE: u64 = u64::MAX;

/// What a value stands for, by what is asked of it. Source: Envoy `Runtime::Snapshot::Entry`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RuntimeValue {
    pub integer: Option<u64>,
    pub number: Option<f64>,
    pub truth: Option<bool>,
    pub fraction: Option<FractionalPercent>,
}

/// Which state of all keys is the current one.
#[derive(Clone, Debug, Default)]
pub struct RuntimeState(Arc<AtomicU64>);

/// A key. Clones are the same one.
#[derive(Clone)]
pub struct RuntimeKey(Arc<Slot>);

struct Slot {
    name: Box<str>,
    state: RuntimeState,
    places: [Place; 2],
}

#[derive(Debug)]
struct Place {
    integer: AtomicU64,
    /// Its bits.
    number: AtomicU64,
    truth: AtomicU64,
    /// The numerator, and above it the denominator.
    fraction: AtomicU64,
}

impl RuntimeValue {
    /// What a value of a layer stands for. Texts that are numbers or truths count as such, a number is a percentage, and a fraction
    /// of a number is left off where a whole one is asked for, all as in Envoy.
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Number(number) => number.as_f64().map_or_else(Self::default, Self::of_number),
            Value::Bool(truth) => Self { truth: Some(*truth), ..Self::default() },
            Value::String(text) => {
                let text = text.trim_ascii();
                let number = text.parse().ok().filter(|number: &f64| !number.is_nan());
                let truth = text.to_ascii_lowercase().parse().ok();
                number.map_or_else(|| Self { truth, ..Self::default() }, Self::of_number)
            }
            Value::Object(fields) => {
                let numerator = fields.get("numerator").map_or(Some(0), Value::as_u64);
                let denominator = match fields.get("denominator") {
                    None => Some(100),
                    Some(Value::String(name)) => match &**name {
                        "HUNDRED" => Some(100),
                        "TEN_THOUSAND" => Some(10_000),
                        "MILLION" => Some(1_000_000),
                        _ => None,
                    },
                    Some(_) => None,
                };
                let numerator = numerator.and_then(|numerator| u32::try_from(numerator).ok());
                let fraction = numerator
                    .zip(denominator)
                    .map(|(numerator, denominator)| FractionalPercent { numerator, denominator });
                Self { fraction, ..Self::default() }
            }
            Value::Null | Value::Array(_) => Self::default(),
        }
    }

    fn of_number(number: f64) -> Self {
        let integer = (0.0..=NONE as f64).contains(&number).then_some((number as u64).min(NONE - 1));
        let is_whole = number < f64::from(i32::MAX) && number == f64::from(number as i32);
        // Beyond 100 it is all.
        let percent = integer.map(|integer| integer.min(101) as u32);
        Self {
            integer,
            number: Some(number),
            truth: is_whole.then_some(number != 0.0),
            fraction: percent.map(|numerator| FractionalPercent { numerator, denominator: 100 }),
        }
    }
}

impl RuntimeState {
    fn current(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// What [`RuntimeKey::prepare`] was called with counts from now on, for all keys at once. Of all callers one at a time.
    pub fn proceed(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

impl RuntimeKey {
    /// A key whose value is this one until there is another state.
    pub fn new(name: &str, value: RuntimeValue, state: &RuntimeState) -> Self {
        let places = [Place::new(value), Place::new(value)];
        Self(Arc::new(Slot { name: name.into(), state: state.clone(), places }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its value in the next state. To be called for every key before each [`RuntimeState::proceed`].
    pub fn prepare(&self, value: RuntimeValue) {
        // Who reads this place now has the state before the current one, and finds out.
        fence(Ordering::Release);
        self.place(self.0.state.current().wrapping_add(1)).put(value);
    }

    /// Whether nobody refers to it but whoever asks.
    pub fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    pub fn integer(&self) -> Option<u64> {
        self.now().integer()
    }

    pub fn number(&self) -> Option<f64> {
        self.now().number()
    }

    pub fn truth(&self) -> Option<bool> {
        self.now().truth()
    }

    pub fn fraction(&self) -> Option<FractionalPercent> {
        self.now().fraction()
    }

    /// Reads the integers of several keys, all of one state: `read` is given what reads one of them. It waits for nobody: it is
    /// called again if there was a new state meanwhile.
    pub fn together<T>(&self, read: impl Fn(&dyn Fn(&Self) -> Option<u64>) -> T) -> T {
        let state = &self.0.state;
        loop {
            let number = state.current();
            let found = read(&|key| key.place(number).integer());
            fence(Ordering::Acquire);
            if state.0.load(Ordering::Relaxed) == number {
                return found;
            }
        }
    }

    fn now(&self) -> &Place {
        self.place(self.0.state.current())
    }

    fn place(&self, state: u64) -> &Place {
        let [even, odd] = &self.0.places;
        if state.is_multiple_of(2) { even } else { odd }
    }
}

impl Place {
    fn new(value: RuntimeValue) -> Self {
        let none = || AtomicU64::new(NONE);
        let place = Self { integer: none(), number: none(), truth: none(), fraction: none() };
        place.put(value);
        place
    }

    fn put(&self, value: RuntimeValue) {
        let RuntimeValue { integer, number, truth, fraction } = value;
        let packed = fraction.map(|FractionalPercent { numerator, denominator }| {
            u64::from(denominator) << u32::BITS | u64::from(numerator)
        });
        self.integer.store(integer.unwrap_or(NONE), Ordering::Relaxed);
        self.number.store(number.map_or(NONE, f64::to_bits), Ordering::Relaxed);
        self.truth.store(truth.map_or(NONE, u64::from), Ordering::Relaxed);
        self.fraction.store(packed.unwrap_or(NONE), Ordering::Relaxed);
    }

    fn integer(&self) -> Option<u64> {
        some(&self.integer)
    }

    fn number(&self) -> Option<f64> {
        some(&self.number).map(f64::from_bits)
    }

    fn truth(&self) -> Option<bool> {
        some(&self.truth).map(|truth| truth != 0)
    }

    fn fraction(&self) -> Option<FractionalPercent> {
        some(&self.fraction).map(|packed| FractionalPercent {
            numerator: packed as u32,
            denominator: (packed >> u32::BITS) as u32,
        })
    }
}

fn some(place: &AtomicU64) -> Option<u64> {
    Some(place.load(Ordering::Relaxed)).filter(|value| *value != NONE)
}

impl RuntimeFlag {
    /// What is always on.
    pub fn on() -> Self {
        Self { default_value: true, runtime_key: None }
    }

    pub fn value(&self) -> bool {
        self.runtime_key.as_ref().and_then(RuntimeKey::truth).unwrap_or(self.default_value)
    }

    /// Whether it is off for good.
    pub fn is_never_on(&self) -> bool {
        !self.default_value && self.runtime_key.is_none()
    }
}

impl RuntimeNumber {
    pub fn value(&self) -> f64 {
        self.runtime_key.as_ref().and_then(RuntimeKey::number).unwrap_or(self.default_value)
    }
}

impl From<f64> for RuntimeNumber {
    fn from(default_value: f64) -> Self {
        Self { default_value, runtime_key: None }
    }
}

/// Keys of one name are one.
impl PartialEq for RuntimeKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for RuntimeKey {}

impl fmt::Debug for RuntimeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RuntimeKey").field(&self.0.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn percent(numerator: u32) -> Option<FractionalPercent> {
        Some(FractionalPercent { numerator, denominator: 100 })
    }

    #[test]
    fn values_stand_for_what_they_do_in_envoy() {
        let of = |value: Value| RuntimeValue::of(&value);
        let seven =
            RuntimeValue { integer: Some(7), number: Some(7.0), truth: Some(true), fraction: percent(7) };
        assert_eq!([of(json!(7)), of(json!("7")), of(json!(" 7 "))], [seven; 3]);
        assert_eq!((of(json!(0)).truth, of(json!(1.5)).truth), (Some(false), None));
        assert_eq!((of(json!(1.5)).integer, of(json!(1.5)).number), (Some(1), Some(1.5)));
        assert_eq!((of(json!(-3)).integer, of(json!(-3)).number), (None, Some(-3.0)));
        assert_eq!(of(json!(5_000_000_000_u64)).fraction, percent(101));
        assert_eq!((of(json!(true)).truth, of(json!("FALSE")).truth), (Some(true), Some(false)));
        let half = FractionalPercent { numerator: 5, denominator: 10_000 };
        assert_eq!(of(json!({"numerator": 5, "denominator": "TEN_THOUSAND"})).fraction, Some(half));
        assert_eq!(of(json!({"denominator": "MILLION"})).fraction.unwrap().numerator, 0);
        for nothing in
            [json!({"numerator": -1}), json!({"denominator": "x"}), json!("x"), json!(""), json!("nan")]
        {
            assert_eq!(of(nothing), RuntimeValue::default());
        }
    }

    #[test]
    fn value_counts_from_the_next_state_on() {
        let state = RuntimeState::default();
        let key = RuntimeKey::new("a", RuntimeValue::of(&json!(1)), &state);
        key.prepare(RuntimeValue::of(&json!(2.5)));
        assert_eq!((key.integer(), key.number()), (Some(1), Some(1.0)));
        state.proceed();
        assert_eq!(
            (key.integer(), key.number(), key.truth(), key.fraction()),
            (Some(2), Some(2.5), None, percent(2))
        );
        key.prepare(RuntimeValue::default());
        state.proceed();
        assert_eq!((key.integer(), key.number(), key.truth(), key.fraction()), (None, None, None, None));
    }

    #[test]
    fn values_read_together_are_of_one_state() {
        let state = RuntimeState::default();
        let keys: Vec<_> =
            ["a", "b"].map(|name| RuntimeKey::new(name, RuntimeValue::of(&json!(0)), &state)).into();
        let read = keys.clone();
        let reader = std::thread::spawn(move || {
            let mut last = 0;
            while last < 20_000 {
                let [a, b] = read[0].together(|value| [value(&read[0]), value(&read[1])]);
                assert_eq!(a, b);
                assert!(a >= Some(last));
                last = a.unwrap();
            }
        });
        for number in 1..=20_000 {
            keys.iter().for_each(|key| key.prepare(RuntimeValue::of(&json!(number))));
            state.proceed();
        }
        reader.join().unwrap();
    }
}
