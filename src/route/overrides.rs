//! What the levels of a table say about filters: kept by number, since filters are compiled elsewhere.
//!
//! A level that says something has an [`OverrideSlot`]; whoever compiles the filters takes the words out of the table
//! once and answers by slot. The most specific level's word on a filter counts.

use std::num::NonZeroU32;

use super::forward::ClusterChoice;
use super::table::{Route, RouteTable, VirtualHost};
use crate::config::http_filter::FilterOverride;

/// Number of a level that says something about filters. From 1, so that a level without takes no more room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverrideSlot(NonZeroU32);

/// The levels of one request, the most specific first.
pub type OverrideLevels = [Option<OverrideSlot>; 4];

/// The words of all levels of a table.
#[derive(Debug, Default)]
pub(super) struct Overrides(Vec<Vec<FilterOverride>>);

impl OverrideSlot {
    /// Its place in the list of [`RouteTable::take_overrides`].
    pub fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl Overrides {
    /// Keeps the words of one level.
    pub(super) fn add(&mut self, words: &[FilterOverride]) -> Option<OverrideSlot> {
        if words.is_empty() {
            return None;
        }
        self.0.push(words.to_vec());
        NonZeroU32::new(u32::try_from(self.0.len()).ok()?).map(OverrideSlot)
    }
}

impl RouteTable {
    /// The words of all levels, by slot; the table keeps none.
    pub fn take_overrides(&mut self) -> Vec<Vec<FilterOverride>> {
        std::mem::take(&mut self.overrides.0)
    }

    /// The levels that a request passes; without a route, none.
    pub fn override_levels(
        &self,
        route: Option<(&VirtualHost, &Route)>,
        choice: Option<&ClusterChoice<'_>>,
    ) -> OverrideLevels {
        [
            choice.and_then(|choice| choice.weighted).and_then(|weighted| weighted.filters),
            route.and_then(|(_, route)| route.filters),
            route.and_then(|(virtual_host, _)| virtual_host.filters),
            // As in Envoy: what matches no route has no words of its own.
            route.and(self.filters),
        ]
    }
}
