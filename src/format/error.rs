//! Why a format string is refused. Configuration carries it with the field's path.

use std::fmt;

/// A format string that Envoy's grammar does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatError {
    /// Where the operator begins in the format string, in bytes.
    pub position: usize,
    /// What is wrong with it.
    pub kind: FormatErrorKind,
}

/// What is wrong with one command operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatErrorKind {
    /// A `%` that neither begins an operator (`%NAME%`, `%NAME(PARAMETERS)%`, `%NAME(PARAMETERS):LENGTH%`)
    /// nor stands doubled for itself.
    NotAnOperator,
    /// There is no operator of that name.
    UnknownOperator(Box<str>),
    /// The operator needs parameters.
    ParametersRequired(Box<str>),
    /// The operator takes neither parameters nor a length.
    ParametersNotAllowed(Box<str>),
    /// The operator takes no length.
    LengthNotAllowed(Box<str>),
    /// Not a header name.
    InvalidHeaderName(Box<str>),
    /// `X?Y?Z`: one alternative is all that is allowed.
    TooManyAlternatives(Box<str>),
    /// A time format that would write a newline.
    NewlineInTime,
    /// A parameter that is none of those allowed.
    InvalidParameter {
        /// The parameter, or the part of it that is wrong.
        parameter: Box<str>,
        /// What is allowed.
        expected: &'static str,
    },
    /// The JSON of `COALESCE` is wrong, for this reason.
    Coalesce(Box<str>),
}

impl fmt::Display for FormatError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (at byte {} of the format)", self.kind, self.position)
    }
}

impl fmt::Display for FormatErrorKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnOperator => {
                out.write_str("not a command operator; a percent sign that stands for itself is written %%")
            }
            Self::UnknownOperator(name) => write!(out, "no such command operator: {name}"),
            Self::ParametersRequired(name) => write!(out, "{name} requires parameters"),
            Self::ParametersNotAllowed(name) => write!(out, "{name} does not take any parameters or length"),
            Self::LengthNotAllowed(name) => write!(out, "{name} does not allow a length"),
            Self::InvalidHeaderName(name) => write!(out, "not a header name: {name:?}"),
            Self::TooManyAlternatives(names) => write!(out, "more than one alternative header: {names:?}"),
            Self::NewlineInTime => out.write_str("the time format would write a newline"),
            Self::InvalidParameter { parameter, expected } => {
                write!(out, "invalid parameter {parameter:?}, expected {expected}")
            }
            Self::Coalesce(reason) => write!(out, "COALESCE: {reason}"),
        }
    }
}

impl std::error::Error for FormatError {}
