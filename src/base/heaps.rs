//! What lasts and what passes: a worker allocates from two heaps, and the allocator (`runtime::allocator`) asks here
//! which of them is meant.
//!
//! A page of the allocator's goes back to the kernel only when its last block is free. One block that lasts (a cluster's
//! counters, a list that a core keeps) and that was allocated in between those of a burst would keep 64 KiB resident for
//! good, one such page for each size of blocks. So what connections and requests allocate comes from a heap of its own, of which
//! a burst leaves nothing, and what outlives them is made within [`lasting`].

use std::cell::Cell;
use std::collections::VecDeque;

thread_local! {
    /// What this thread allocates now passes.
    static PASSING: Cell<bool> = const { Cell::new(false) };
}

/// Whether what this thread allocates now passes.
#[inline]
pub fn is_passing() -> bool {
    PASSING.get()
}

/// From now on, what this thread allocates passes, but for what is made within [`lasting`].
pub fn pass_from_now_on() {
    PASSING.set(true);
}

/// Does something of which nothing lasts but what is made within [`lasting`]: reading configuration.
pub fn passing<T>(work: impl FnOnce() -> T) -> T {
    within(true, work)
}

/// Makes something that outlives the connection or request for which it is made.
pub fn lasting<T>(make: impl FnOnce() -> T) -> T {
    within(false, make)
}

fn within<T>(passing: bool, work: impl FnOnce() -> T) -> T {
    /// As it was, also after a panic.
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            PASSING.set(self.0);
        }
    }
    let _back = Back(PASSING.replace(passing));
    work()
}

/// A list that lasts, with the room that it keeps.
pub fn lasting_list<T>(least: usize) -> Vec<T> {
    lasting(|| Vec::with_capacity(least))
}

/// Gives back the room of a list beyond `room`. What needs no more than `least` moves back to where a [`lasting_list`] of
/// that room began: what it grew to has to go.
pub fn settle<T>(list: &mut Vec<T>, room: usize, least: usize) {
    if room.max(list.len()) > least {
        list.shrink_to(room);
    } else if list.capacity() != least {
        let mut settled = lasting_list(least);
        settled.append(list);
        *list = settled;
    }
}

/// As [`settle`], for a list of which only the room is kept from one use to the next: it begins anew.
pub fn settle_scratch<T>(list: &mut Vec<T>, least: usize) {
    if list.capacity() != 0 && list.capacity() != least {
        *list = lasting_list(least);
    }
}

/// As [`lasting_list`].
pub fn lasting_queue<T>(least: usize) -> VecDeque<T> {
    lasting(|| VecDeque::with_capacity(least))
}

/// As [`settle`].
pub fn settle_queue<T>(queue: &mut VecDeque<T>, room: usize, least: usize) {
    if room.max(queue.len()) > least {
        queue.shrink_to(room);
    } else if queue.capacity() != least {
        let mut settled = lasting_queue(least);
        settled.append(queue);
        *queue = settled;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_within_lasting_does_not_pass_and_what_follows_does() {
        let thread = std::thread::spawn(|| {
            let before = is_passing();
            pass_from_now_on();
            let inner = lasting(|| (is_passing(), lasting(is_passing), is_passing()));
            let panicked = std::panic::catch_unwind(|| lasting(|| panic!("cut off"))).is_err();
            (before, inner, panicked, is_passing())
        });
        assert_eq!(thread.join().unwrap(), (false, (false, false, false), true, true));
        assert!(!is_passing(), "each thread for itself");
    }

    #[test]
    fn list_settles_into_the_room_it_began_with_and_keeps_what_is_in_it() {
        let mut list = lasting_list(4);
        list.extend(0..100);
        settle(&mut list, 200, 4);
        assert!(list.len() == 100 && list.capacity() <= 200);
        list.truncate(3);
        settle(&mut list, 6, 4);
        assert!(list.capacity() >= 6, "more room than the least is asked for");
        settle(&mut list, 3, 4);
        assert_eq!((&*list, list.capacity()), (&[0, 1, 2][..], 4));
        let mut queue = lasting_queue(4);
        queue.extend(0..100);
        queue.drain(..98);
        settle_queue(&mut queue, 4, 4);
        assert_eq!((queue.capacity(), queue.pop_front()), (4, Some(98)));
        settle_queue(&mut queue, 0, 0);
        assert_eq!(queue, [99]);
    }
}
