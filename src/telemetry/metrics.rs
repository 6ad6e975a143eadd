//! The cells that the data path writes.
//!
//! A scope (one cluster, one listener ...) has a block of cells per writer, made when that writer first asks: a cluster
//! without traffic has none, since what control says of every cluster is a short list ([`Scope::note`]).
//! A cell has one writer, so an increment is a relaxed load and a relaxed store: no lock prefix, no line that
//! moves between cores. The control thread reads them whenever it likes; it sees each cell's last or last but one
//! value, which is all a counter promises.
use super::codes::{CodeCounts, Origin};
use super::histogram::Distribution;
use super::load_metrics::{LoadMetrics, LoadSum};
use super::names::{
    AGREED, ClusterHistogram, ClusterStat, EcdsStat, HistogramIndex, HostStat, HttpStat, Kind, ListenerStat,
    NOTES_MAX, NOTES_OF_GROUP_MAX, ProxyProtocolStat, RbacStat, RdsStat, ScopedRdsStat, SdsStat, ServerStat,
    Stats, Tables, VhdsStat,
};
use once_cell::race::OnceBox;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// The cells of one scope and one writer. Cheap to clone; only the writer's thread may call the writing methods
/// (two threads writing the same cell lose counts, nothing worse).
#[derive(Debug)]
pub struct Cells<S: Stats>(Arc<Block<S>>);

pub type ServerCells = Cells<ServerStat>;
pub type ListenerCells = Cells<ListenerStat>;
pub type HttpCells = Cells<HttpStat>;
pub type ClusterCells = Cells<ClusterStat>;
pub type HostCells = Cells<HostStat>;
pub type RbacCells = Cells<RbacStat>;
pub type ProxyProtocolCells = Cells<ProxyProtocolStat>;
/// Those of a routing table from a control plane.
pub type RdsCells = Cells<RdsStat>;
/// Those of the virtual hosts that are told of one.
pub type VhdsCells = Cells<VhdsStat>;
/// Those of scopes of routes.
pub type ScopedRdsCells = Cells<ScopedRdsStat>;
pub type EcdsCells = Cells<EcdsStat>;
/// Those of a secret.
pub type SdsCells = Cells<SdsStat>;

/// Which thread a block of cells belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A worker, by its number.
    Worker(usize),
    /// The control thread.
    Control,
    /// The thread that writes access logs.
    Log,
}

/// One scope with the cells of all its writers. Held by the handles that configuration publishes; when the last
/// holder is gone the registry forgets the scope.
#[derive(Debug)]
pub struct Scope<S: Stats> {
    workers: u32,
    /// One per writer; none before the first of them asks.
    blocks: OnceBox<Blocks<S>>,
    /// What the control thread has noted of [`Stats::NOTED`].
    notes: [Notes; NOTES_MAX],
}

/// A group of them; none before something of it is noted.
type Notes = OnceBox<[AtomicU64; NOTES_OF_GROUP_MAX]>;

/// There is one for each of thousands of clusters: with its counts of references 48 bytes.
const _: () = assert!(size_of::<Scope<ClusterStat>>() <= 32);

type Blocks<S> = Box<[OnceLock<Arc<Block<S>>>]>;

/// Something that a gauge counts while it lasts, however it ends.
#[derive(Debug)]
pub struct Active<'a, S: Stats> {
    cells: &'a Cells<S>,
    gauge: S,
}

impl<S: Stats> Drop for Active<'_, S> {
    fn drop(&mut self) {
        self.cells.gauge_dec(self.gauge);
    }
}

// === impl Cells ===

impl<S: Stats> Cells<S> {
    /// Whether they are the same cells.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Adds one to a counter.
    #[inline]
    pub fn inc(&self, counter: S) {
        self.add(counter, 1);
    }

    /// Adds to a counter.
    #[inline]
    pub fn add(&self, counter: S, amount: u64) {
        let cell = self.cell(counter, Kind::Counter);
        cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// Raises a counter to what somebody else has counted so far, of whom this writer alone reports.
    #[inline]
    pub fn raise(&self, counter: S, total: u64) {
        self.cell(counter, Kind::Counter).store(total, Relaxed);
    }

    /// Counts what a handshake has agreed on, in the order of [`AGREED`]. What no row names is not counted.
    pub fn agreed(&self, names: [&str; AGREED.len()]) {
        for ((group, _), name) in AGREED.iter().zip(names) {
            let row = S::ROWS.iter().position(|row| row.name.strip_prefix(group) == Some(name));
            if let Some(cell) = row.and_then(|row| self.0.values.as_ref().get(row)) {
                cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
            }
        }
    }

    /// Adds one to a gauge.
    #[inline]
    pub fn gauge_inc(&self, gauge: S) {
        self.gauge_add(gauge, 1);
    }

    /// Takes one from a gauge.
    #[inline]
    pub fn gauge_dec(&self, gauge: S) {
        self.gauge_sub(gauge, 1);
    }

    /// Adds one to a gauge until the guard is dropped.
    pub fn active(&self, gauge: S) -> Active<'_, S> {
        self.gauge_inc(gauge);
        Active { cells: self, gauge }
    }

    #[inline]
    pub fn gauge_add(&self, gauge: S, amount: u64) {
        let cell = self.cell(gauge, Kind::Gauge);
        cell.store(cell.load(Relaxed).wrapping_add(amount) | TOUCHED, Relaxed);
    }

    #[inline]
    pub fn gauge_sub(&self, gauge: S, amount: u64) {
        let cell = self.cell(gauge, Kind::Gauge);
        cell.store(cell.load(Relaxed).wrapping_sub(amount) | TOUCHED, Relaxed);
    }

    /// Sets this writer's part of a gauge.
    #[inline]
    pub fn gauge_set(&self, gauge: S, value: u64) {
        self.cell(gauge, Kind::Gauge).store(value | TOUCHED, Relaxed);
    }

    /// Records one value of a histogram.
    #[inline]
    pub fn record(&self, histogram: S::Histogram, value: u64) {
        if let Some(histogram) = self.0.tables.histograms().get(histogram.index()) {
            histogram.record(value);
        }
    }

    /// What this writer has counted so far, without the other writers.
    pub fn value(&self, stat: S) -> u64 {
        let value = self.0.values.as_ref()[stat.index()].load(Relaxed);
        if S::ROWS[stat.index()].kind == Kind::Gauge { value & !TOUCHED } else { value }
    }

    #[inline]
    fn cell(&self, stat: S, kind: Kind) -> &AtomicU64 {
        debug_assert_eq!(S::ROWS[stat.index()].kind, kind, "{} is no {kind:?}", S::ROWS[stat.index()].name);
        // In bounds: the array is as long as the enum that indexes it has variants.
        &self.0.values.as_ref()[stat.index()]
    }
}

impl ClusterCells {
    /// Counts a response of the cluster under its code, its class and `upstream_rq_completed`, in total and for
    /// internal or external requests.
    #[inline]
    pub fn upstream_response(&self, origin: Origin, status: u16) {
        if let Some(table) = self.0.tables.codes().get(origin as usize) {
            table.inc(status);
        }
    }

    /// Records `upstream_rq_time`, in milliseconds, in total and for internal or external requests.
    #[inline]
    pub fn upstream_rq_time(&self, origin: Origin, ms: u64) {
        self.record(
            match origin {
                Origin::Internal => ClusterHistogram::InternalUpstreamRqTime,
                Origin::External => ClusterHistogram::ExternalUpstreamRqTime,
            },
            ms,
        );
    }
}

impl HostCells {
    /// What the host reports of its load, as far as this writer hears of it.
    pub fn load_metrics(&self) -> &LoadMetrics {
        &self.0.more
    }
}

impl HttpCells {
    /// Counts a response to a downstream request: `downstream_rq_completed` and its class.
    #[inline]
    pub fn downstream_response(&self, status: u16) {
        self.inc(HttpStat::DownstreamRqCompleted);
        match status / 100 {
            1 => self.inc(HttpStat::DownstreamRq1xx),
            2 => self.inc(HttpStat::DownstreamRq2xx),
            3 => self.inc(HttpStat::DownstreamRq3xx),
            4 => self.inc(HttpStat::DownstreamRq4xx),
            5 => self.inc(HttpStat::DownstreamRq5xx),
            _ => {}
        }
    }
}

impl<S: Stats> Clone for Cells<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

// === impl Scope ===

impl<S: Stats> Scope<S> {
    /// A scope for so many workers. Registries show those that they have made themselves.
    pub fn new(workers: usize) -> Self {
        Self {
            workers: u32::try_from(workers).unwrap_or(u32::MAX),
            blocks: OnceBox::new(),
            notes: Default::default(),
        }
    }

    /// How many workers it has cells for.
    pub fn workers(&self) -> usize {
        self.workers as usize
    }

    /// Adds to counters and sets gauges of [`Stats::NOTED`], for the control thread alone: what it says of every cluster needs no
    /// block of cells.
    pub fn note(&self, values: &[(S, u64)]) {
        for (stat, value) in values {
            let mut places = self.places(stat.index());
            let cell = places.next().and_then(|(notes, place)| notes.get_or_init(Box::default).get(place));
            debug_assert!(cell.is_some(), "{} is none that is noted", S::ROWS[stat.index()].name);
            let Some(cell) = cell else { continue };
            match S::ROWS[stat.index()].kind {
                Kind::Counter => cell.store(cell.load(Relaxed).wrapping_add(*value), Relaxed),
                Kind::Gauge => cell.store(value | TOUCHED, Relaxed),
            }
        }
    }

    /// Where a row is noted: in which group, and its place there. Nowhere, for most rows.
    fn places(&self, row: usize) -> impl Iterator<Item = (&Notes, usize)> {
        S::NOTED.into_iter().zip(&self.notes).filter_map(move |(group, notes)| {
            Some((notes, group.iter().position(|stat| stat.index() == row)?))
        })
    }

    /// The cells of one writer, allocated at the first call: make it on the writer's own thread, so that its
    /// counters share no cache line with another's. A worker number beyond those the registry was made for shares
    /// the last worker's cells.
    pub fn cells(&self, slot: Slot) -> Cells<S> {
        let blocks = self.blocks.get_or_init(|| {
            let writers = self.workers as usize + FIXED_SLOTS;
            Box::new((0..writers).map(|_| OnceLock::new()).collect())
        });
        let last = blocks.len() - 1;
        let index = match slot {
            Slot::Control => 0,
            Slot::Log => 1,
            Slot::Worker(worker) => (worker + FIXED_SLOTS).min(last),
        };
        debug_assert!(slot != Slot::Worker(usize::MAX) && index <= last);
        Cells(Arc::clone(blocks[index].get_or_init(Arc::default)))
    }

    /// Whether a handle or a writer outside the registry still holds the scope's cells.
    pub fn is_held(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || self.written().any(|block| Arc::strong_count(block) > 1)
    }

    /// Whether there is a writer beside the notes of the control thread.
    pub fn has_cells(&self) -> bool {
        self.written().next().is_some()
    }

    /// Sum over all writers, and whether any of them ever wrote.
    pub fn value(&self, row: usize) -> (u64, bool) {
        let gauge = S::ROWS[row].kind == Kind::Gauge;
        let (mut sum, mut used) = (0u64, false);
        let notes = self.places(row).filter_map(|(notes, place)| notes.get()?.get(place));
        let noted = notes.map(|cell| cell.load(Relaxed));
        let cells = self.written().map(|block| block.values.as_ref()[row].load(Relaxed));
        for value in noted.chain(cells) {
            sum = sum.wrapping_add(value);
            used |= value != 0;
        }
        if gauge {
            sum = unsigned(sum);
        }
        (sum, used)
    }

    /// One worker's part of a counter or gauge, for the metrics that Envoy has per worker.
    pub fn worker_value(&self, row: usize, worker: usize) -> u64 {
        let blocks = self.blocks.get();
        let block = blocks.and_then(|blocks| blocks.get(worker + FIXED_SLOTS)).and_then(OnceLock::get);
        let value = block.map_or(0, |block| block.values.as_ref()[row].load(Relaxed));
        if S::ROWS[row].kind == Kind::Gauge { unsigned(value) } else { value }
    }

    pub fn merge_histogram(&self, index: usize, into: &mut Distribution) {
        self.written()
            .filter_map(|block| block.tables.histograms().get(index))
            .for_each(|cells| cells.merge_into(into));
    }

    pub fn merge_codes(&self, origin: Origin, into: &mut CodeCounts) {
        self.written()
            .filter_map(|block| block.tables.codes().get(origin as usize))
            .for_each(|table| table.merge_into(into));
    }

    fn written(&self) -> impl Iterator<Item = &Arc<Block<S>>> {
        self.blocks.get().into_iter().flatten().filter_map(OnceLock::get)
    }
}

impl Scope<HostStat> {
    /// Takes what the host has reported of its load to any writer since the last time, and gives it to `each` by name. For the one
    /// who tells it alone.
    pub fn take_load_metrics(&self, mut each: impl FnMut(&[u8], LoadSum)) {
        self.written().for_each(|block| block.more.take(&mut each));
    }
}

/// What one writer has of a scope: on cache lines of its own, but for hosts ([`Stats::Tables`]). Histograms and tables of codes are
/// allocated by the writer's own thread, from pages of its own.
#[derive(Debug)]
struct Block<S: Stats> {
    _begin: <S::Tables as Tables>::Begin,
    values: S::Values,
    tables: S::Tables,
    more: S::More,
}

/// There is one of each endpoint and worker that asks for it: with its counts of references 88 bytes.
const _: () = assert!(size_of::<Block<HostStat>>() <= 72);

impl<S: Stats> Default for Block<S> {
    fn default() -> Self {
        Self {
            _begin: Default::default(),
            values: S::zeroed(),
            tables: S::Tables::new(S::HISTOGRAMS.len(), S::CODE_TABLES),
            more: S::More::default(),
        }
    }
}

/// A gauge from its 63 bits: the sum of the writers' parts, and zero while a decrement has been seen before the
/// increment that belongs to it.
fn unsigned(sum: u64) -> u64 {
    let value = sum & !TOUCHED;
    if value >> 62 == 0 { value } else { 0 }
}

/// Set in a gauge's cell by every write, so that `usedonly` knows a gauge that went back to zero.
const TOUCHED: u64 = 1 << 63;
/// Control and log.
const FIXED_SLOTS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauge_back_at_zero_counts_as_used() {
        let scope = Scope::<HttpStat>::new(2);
        let row = HttpStat::DownstreamCxActive.index();
        assert_eq!(scope.value(row), (0, false));
        let cells = scope.cells(Slot::Worker(0));
        assert_eq!(scope.value(row), (0, false));
        cells.gauge_inc(HttpStat::DownstreamCxActive);
        assert_eq!(scope.value(row), (1, true));
        cells.gauge_dec(HttpStat::DownstreamCxActive);
        assert_eq!(scope.value(row), (0, true));
    }

    #[test]
    fn cells_of_two_writers_share_no_cache_line() {
        const LINE: usize = 64;
        let scope = Scope::<ListenerStat>::new(4);
        let mut lines = std::collections::BTreeMap::new();
        let slots = [Slot::Control, Slot::Log].into_iter().chain((0..4).map(Slot::Worker));
        for (writer, cells) in slots.map(|slot| scope.cells(slot)).enumerate() {
            let block = &*cells.0;
            let (first, bytes) = (std::ptr::from_ref(block).addr(), size_of_val(block));
            assert_eq!(
                (first % LINE, bytes % LINE),
                (0, 0),
                "the lines are its own, whoever allocates beside it"
            );
            for line in first / LINE..(first + bytes) / LINE {
                assert_eq!(lines.insert(line, writer), None, "a line of two writers");
            }
        }
    }

    #[test]
    fn gauge_parts_of_all_writers_add_up() {
        let scope = Scope::<HttpStat>::new(2);
        let row = HttpStat::DownstreamCxActive.index();
        let cells = [0, 1].map(|worker| scope.cells(Slot::Worker(worker)));
        cells[0].gauge_add(HttpStat::DownstreamCxActive, 5);
        cells[1].gauge_set(HttpStat::DownstreamCxActive, 7);
        assert_eq!(scope.value(row), (12, true));
        cells[1].gauge_sub(HttpStat::DownstreamCxActive, 9);
        assert_eq!(scope.value(row), (3, true));
        assert_eq!((scope.worker_value(row, 0), scope.worker_value(row, 1)), (5, 0));
        cells[0].gauge_sub(HttpStat::DownstreamCxActive, 4);
        assert_eq!(scope.value(row), (0, true), "a negative sum is shown as zero");
    }

    #[test]
    fn counter_parts_of_all_writers_add_up() {
        let scope = Scope::<ClusterStat>::new(1);
        scope.cells(Slot::Control).inc(ClusterStat::MembershipChange);
        scope.cells(Slot::Worker(0)).add(ClusterStat::MembershipChange, 3);
        assert_eq!(scope.value(ClusterStat::MembershipChange.index()), (4, true));
        assert_eq!(scope.cells(Slot::Worker(0)).value(ClusterStat::MembershipChange), 3);
    }

    #[test]
    fn upstream_response_is_counted_once_under_its_origin() {
        let scope = Scope::<ClusterStat>::new(1);
        let cells = scope.cells(Slot::Worker(0));
        cells.upstream_response(Origin::External, 200);
        cells.upstream_response(Origin::Internal, 503);
        let mut external = CodeCounts::default();
        scope.merge_codes(Origin::External, &mut external);
        assert_eq!(external.iter().collect::<Vec<_>>(), [(200, 1)]);
    }

    #[test]
    fn notes_of_the_control_thread_need_no_cells_and_add_to_them() {
        let scope = Scope::<ClusterStat>::new(1);
        scope.note(&[(ClusterStat::MembershipChange, 1), (ClusterStat::MembershipTotal, 3)]);
        scope.note(&[(ClusterStat::MembershipChange, 1), (ClusterStat::MembershipTotal, 0)]);
        assert!(scope.written().next().is_none());
        assert_eq!(scope.value(ClusterStat::MembershipChange.index()), (2, true));
        assert_eq!(scope.value(ClusterStat::MembershipTotal.index()), (0, true));
        assert_eq!(scope.value(ClusterStat::MembershipHealthy.index()), (0, false));
        scope.cells(Slot::Control).inc(ClusterStat::MembershipChange);
        assert_eq!(scope.value(ClusterStat::MembershipChange.index()), (3, true));
    }

    #[test]
    fn group_of_notes_has_room_once_something_of_it_is_noted() {
        let scope = Scope::<ClusterStat>::new(1);
        let room = || scope.notes.each_ref().map(|notes| notes.get().map_or(0, |cells| cells.len()));
        assert_eq!(room(), [0, 0]);
        scope.note(&[(ClusterStat::UpdateAttempt, 1)]);
        assert_eq!(room(), [10, 0]);
        scope.note(&[(ClusterStat::MembershipChange, 1)]);
        scope.note(&[(ClusterStat::UpdateAttempt, 1)]);
        assert_eq!(scope.value(ClusterStat::UpdateAttempt.index()), (2, true));
        assert_eq!(scope.value(ClusterStat::Version.index()), (0, false), "not before it is known");
        assert_eq!(scope.value(ClusterStat::MembershipChange.index()), (1, true));
        scope.note(&[(ClusterStat::Version, 7), (ClusterStat::RingHashLbSize, 8)]);
        assert_eq!(scope.value(ClusterStat::Version.index()), (7, true));
        assert_eq!(scope.value(ClusterStat::RingHashLbSize.index()), (8, true));
        assert_eq!(room(), [10, 10]);
    }

    #[test]
    fn scope_is_held_as_long_as_a_writer_has_cells() {
        let scope = Arc::new(Scope::<HttpStat>::new(1));
        assert!(!scope.is_held());
        let cells = scope.cells(Slot::Worker(0));
        assert!(scope.is_held());
        drop(cells);
        assert!(!scope.is_held());
    }
}
