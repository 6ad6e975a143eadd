//! Which virtual hosts of a table have regular expressions that are not made yet: they are with the first request that could need
//! them, those of one host together.

use std::sync::Arc;

use super::table::{RouteScratch, RouteTable};
use crate::base::deferred::Deferred;
use crate::base::regex::{Expressions, ExpressionsLeft, RegexSlots};
use crate::protocol::http::head::Head;

/// Those of a table.
#[derive(Debug, Default)]
pub(super) struct DeferredHosts {
    /// Each by the place of its virtual host, in order.
    hosts: Box<[(u32, Arc<Expressions>)]>,
    left: ExpressionsLeft,
}

/// The same while the table is compiled.
#[derive(Debug, Default)]
pub(super) struct DeferringHosts {
    hosts: Vec<(u32, Arc<Expressions>)>,
    left: ExpressionsLeft,
}

impl DeferringHosts {
    /// Takes what has been numbered of the virtual host at this place, which is the next.
    pub(super) fn take(&mut self, place: usize, slots: &mut RegexSlots) {
        if let (Some(expressions), Ok(place)) = (slots.take_deferred(&self.left), u32::try_from(place)) {
            self.hosts.push((place, expressions));
        }
    }

    /// All of them; `None`: there are none.
    pub(super) fn finish(self) -> Option<Box<DeferredHosts>> {
        let Self { hosts, left } = self;
        (!hosts.is_empty()).then(|| Box::new(DeferredHosts { hosts: hosts.into(), left }))
    }
}

impl RouteTable {
    /// What is to be made before the route of a request is looked for, whose head went through `forwarding::mutate_request`.
    pub fn deferred(&self, head: &Head, scratch: &mut RouteScratch) -> Option<&Arc<Expressions>> {
        let deferred = self.deferred.as_ref().filter(|deferred| deferred.left.any())?;
        let place = self.find_place(head, scratch)?;
        let found = deferred.hosts.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        let (_, expressions) = deferred.hosts.get(found)?;
        Some(expressions).filter(|expressions| !expressions.is_made())
    }
}
