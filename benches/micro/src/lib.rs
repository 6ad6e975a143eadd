//! Single steps of Ringway's path, each ready to run again and again: criterion times them, callgrind counts them.
//!
//! Only the library's public API is used, so that a step here is the step that the proxy takes. Inputs are fixed and
//! seeds too: two runs do the same.

mod config;
mod http;
mod local;
mod routing;

/// A step.
pub struct Case {
    /// `group/what`, unique.
    pub name: String,
    /// Makes the input and answers the step itself.
    pub make: Box<dyn Fn() -> Step>,
    /// Whether its instructions are counted: the hot ones are, those of milliseconds are not.
    pub counted: bool,
    /// Whether its time says anything: not if it waits for the clock.
    pub timed: bool,
}

/// Takes the step once.
pub type Step = Box<dyn FnMut()>;

impl Case {
    /// A step of the hot path.
    fn hot(name: impl Into<String>, make: impl Fn() -> Step + 'static) -> Self {
        Self { name: name.into(), make: Box::new(make), counted: true, timed: true }
    }

    /// A step of the control thread.
    fn slow(name: impl Into<String>, make: impl Fn() -> Step + 'static) -> Self {
        Self { counted: false, ..Self::hot(name, make) }
    }

    /// A step of the hot path that waits for the clock.
    fn waiting(name: impl Into<String>, make: impl Fn() -> Step + 'static) -> Self {
        Self { timed: false, ..Self::hot(name, make) }
    }
}

/// Every step, in the order of the path.
pub fn cases() -> Vec<Case> {
    [http::cases(), routing::cases(), local::cases(), config::cases()].into_iter().flatten().collect()
}

/// Sizes of tables: what many routes cost must show.
const SIZES: [usize; 5] = [1, 10, 100, 1_000, 10_000];
