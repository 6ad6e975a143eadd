//! Where conversion is in a configuration, and its way to say something about that place.
//!
//! An [`At`] is a link to its parent on the stack and one step; the path's text is made only when there is something
//! to report, so a large and correct configuration costs no strings.
use std::cell::RefCell;
use std::fmt::Write;

use super::report::{Class, Finding, Report, Unimplemented};
use super::runtime::Runtime;
use super::tls::Secrets;
use crate::config::cluster::Dns;
use crate::config::error::{ConfigError, shown_key};
use crate::config::shared_bytes::KnownBytes;
use crate::config::socket::BindConfig;

/// What all places of one conversion share.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// What was found so far. Borrowed only for the length of one push.
    pub(super) report: RefCell<Report>,
    /// What happens to fields that are not there yet.
    pub(super) unimplemented: Unimplemented,
    /// Runtime values that configuration refers to.
    pub(super) runtime: Runtime,
    /// What clusters without a resolver of their own resolve with.
    pub(super) default_dns: Dns,
    /// What clusters without a bind configuration of their own bind to.
    pub(super) default_bind: Option<BindConfig>,
    /// Bytes that connections to internal listeners buffer; `None`: there are none.
    pub(super) internal_buffer_bytes: Option<u32>,
    /// The static secrets.
    pub(super) secrets: Secrets,
    /// Certificates, keys and lists that earlier messages had.
    pub(super) known_bytes: RefCell<KnownBytes>,
    /// Whether it was accepted before: what depends on the moment, on runtime values and on clusters that are there, is not asked
    /// again.
    pub(super) is_accepted: bool,
}

/// A place in a configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    parent: Option<&'a Self>,
    step: Step<'a>,
    pub(super) context: &'a Context,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Item(&'a str, usize),
    Key(&'a str, &'a str),
}

impl<'a> At<'a> {
    /// The root message.
    pub(super) fn root(context: &'a Context) -> Self {
        Self { parent: None, step: Step::Root, context }
    }

    /// A field of this place's message.
    pub(super) fn field(&'a self, name: &'a str) -> Self {
        self.child(Step::Field(name))
    }

    /// An element of a repeated field.
    pub(super) fn item(&'a self, name: &'a str, index: usize) -> Self {
        self.child(Step::Item(name, index))
    }

    /// An entry of a map field.
    pub(super) fn key(&'a self, name: &'a str, key: &'a str) -> Self {
        self.child(Step::Key(name, key))
    }

    fn child(&'a self, step: Step<'a>) -> Self {
        Self { parent: Some(self), step, context: self.context }
    }

    /// `static_resources.clusters[1].lb_policy`
    pub(super) fn path(&self) -> String {
        let mut text = self.parent.map(At::path).unwrap_or_default();
        if !text.is_empty() && !matches!(self.step, Step::Root) {
            text.push('.');
        }
        // Writing to a `String` cannot fail.
        let _ = match self.step {
            Step::Root => Ok(()),
            Step::Field(name) => text.write_str(name),
            Step::Item(name, index) => write!(text, "{name}[{index}]"),
            Step::Key(name, key) => write!(text, "{name}[{:?}]", shown_key(key)),
        };
        text
    }

    /// A mistake here.
    pub(super) fn error(&self, reason: impl Into<String>) {
        self.context.report.borrow_mut().error(|| ConfigError::new(self.path(), reason));
    }

    /// A mistake here and how to put it right.
    pub(super) fn error_with_fix(&self, reason: impl Into<String>, fix: impl Into<String>) {
        self.context.report.borrow_mut().error(|| ConfigError::new(self.path(), reason).with_fix(fix));
    }

    /// Something here that is right, and that an operator should know.
    pub(super) fn warn(&self, reason: impl Into<String>) {
        self.context.report.borrow_mut().warning(|| ConfigError::new(self.path(), reason));
    }

    /// `field` of the API is set here and is of `class`.
    pub(super) fn found(&self, class: Class, field: impl Into<String>, note: &'static str) {
        let mut report = self.context.report.borrow_mut();
        let reason = match (class, self.context.unimplemented) {
            (Class::Implemented | Class::NoEffect, _) | (Class::NotYet, Unimplemented::Accept) => None,
            (Class::NotYet, Unimplemented::Refuse) => {
                Some(reason(note, "; --allow-unimplemented runs without it"))
            }
            (Class::Refused, _) => Some(reason(note, "")),
        };
        if let Some(reason) = reason {
            report.error(|| ConfigError::new(self.path(), reason));
        }
        let finding = || Finding { class, path: self.path(), field: field.into(), note, position: None };
        report.finding(class, finding);
    }

    /// A value of an enum or a member of a oneof, by its full name in the proto, that is refused.
    pub(super) fn value_refused(&self, field: &str, note: &'static str) {
        self.found(Class::Refused, field, note);
    }
}

fn reason(note: &str, hint: &str) -> String {
    let mut text = "Envoy field that this version does not implement".to_owned();
    if !note.is_empty() {
        text.push_str(" (");
        text.push_str(note);
        text.push(')');
    }
    text.push_str(hint);
    text
}
