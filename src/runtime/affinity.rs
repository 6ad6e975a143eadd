//! How many workers, and which CPU each runs on. Decided at start, by pure functions over what the kernel allows.

use core_affinity::CoreId;

/// Whether workers are bound to CPUs. Source: `--cpu-affinity`; default `auto`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// Bound when the workers are as many as the allowed CPUs and no quota cuts the process short. Otherwise not: several
    /// processes that each bind one worker would all choose the first CPU and leave the others idle.
    #[default]
    Auto,
    /// The kernel's scheduler decides.
    Off,
    /// Worker n on CPU n of the list, modulo its length.
    List(Vec<usize>),
}

/// What this process may run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// CPUs of the process's affinity mask, ascending.
    pub allowed: Vec<usize>,
    /// CPUs that can be busy all the time: the mask, cut by the cgroup's quota (v1 and v2, rounded down, at least one).
    pub usable: usize,
}

impl Cpus {
    /// Asks the kernel. The quota is what the standard library finds in the cgroup file systems.
    pub fn of_this_process() -> Self {
        let allowed = core_affinity::get_core_ids().unwrap_or_default();
        let usable = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { allowed: allowed.into_iter().map(|core| core.id).collect(), usable }
    }

    /// Workers when nobody says how many: one per usable CPU.
    pub fn workers(&self) -> usize {
        self.usable.max(1)
    }

    /// The CPU of a worker; `None`: not bound.
    pub fn of_worker(&self, affinity: &Affinity, worker: usize, workers: usize) -> Option<usize> {
        match affinity {
            Affinity::Off => None,
            Affinity::List(cpus) => cpus.get(worker.checked_rem(cpus.len())?).copied(),
            Affinity::Auto => {
                let whole = workers == self.allowed.len() && self.usable >= self.allowed.len();
                self.allowed.get(worker).copied().filter(|_| whole)
            }
        }
    }
}

/// Binds the calling thread; false when the kernel refuses (the CPU is not allowed or not there).
pub fn bind_thread(cpu: usize) -> bool {
    core_affinity::set_for_current(CoreId { id: cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(allowed: &[usize], usable: usize) -> Cpus {
        Cpus { allowed: allowed.to_vec(), usable }
    }

    fn bound(cpus: &Cpus, affinity: &Affinity, workers: usize) -> Vec<Option<usize>> {
        (0..workers).map(|worker| cpus.of_worker(affinity, worker, workers)).collect()
    }

    #[test]
    fn auto_binds_only_when_the_workers_have_all_allowed_cpus() {
        let host = cpus(&[0, 1, 6, 7], 4);
        assert_eq!(bound(&host, &Affinity::Auto, 4), [Some(0), Some(1), Some(6), Some(7)]);
        assert_eq!(bound(&host, &Affinity::Auto, 2), [None, None], "a small sidecar stays movable");
        assert_eq!(bound(&host, &Affinity::Auto, 5), [None; 5]);
    }

    #[test]
    fn auto_never_binds_under_a_quota() {
        let quota = cpus(&[0, 1, 2, 3], 2);
        assert_eq!(quota.workers(), 2);
        assert_eq!(bound(&quota, &Affinity::Auto, 2), [None, None]);
        assert_eq!(bound(&quota, &Affinity::Auto, 4), [None; 4]);
    }

    #[test]
    fn list_is_used_in_order_and_again_from_the_start() {
        let host = cpus(&[0, 1, 2, 3], 4);
        let list = Affinity::List(vec![3, 1]);
        assert_eq!(bound(&host, &list, 3), [Some(3), Some(1), Some(3)]);
        assert_eq!(bound(&host, &Affinity::List(Vec::new()), 1), [None]);
        assert_eq!(bound(&host, &Affinity::Off, 2), [None, None]);
    }

    #[test]
    fn thread_binds_to_an_allowed_cpu_and_not_to_one_that_is_missing() {
        let here = Cpus::of_this_process();
        assert!(here.workers() >= 1 && here.workers() <= here.allowed.len());
        let cpu = *here.allowed.last().unwrap();
        let thread = std::thread::spawn(move || (bind_thread(1023), bind_thread(cpu)));
        assert_eq!(thread.join().unwrap(), (here.allowed.contains(&1023), true));
    }
}
