//! Bursts: many clients at once, then nobody. What they needed is given back, and their successors, in slots and segments
//! that went and came again, are mixed up with nobody.

use std::cell::Cell;
use std::rc::Rc;

use super::client::{Expectations, converse};
use super::exchange::{Exchanges, Plan, Weather};
use super::soak::bootstrap;
use super::{FRONT, World, for_seeds, upstream};
use crate::base::rng::Rng;
use crate::runtime::sim::SimConfig;

/// Clients of one burst.
const CLIENTS: u64 = 32;
const BURSTS: usize = 2;
/// Virtual time after a burst, in nanoseconds: idle connections to endpoints go after a second, and what they leave within
/// two rounds of upkeep.
const REST_NS: u64 = 5_000_000_000;

#[test]
fn memory_of_a_burst_is_given_back_and_its_slots_serve_the_next() {
    for_seeds(1, |seed| {
        let mut rng = Rng::from_seed(seed);
        let weather = Weather::Calm;
        let text = loop {
            let text = bootstrap(&mut rng, weather);
            // A byte at a time is the soak's affair.
            if !text.contains("max_requests_per_connection") && !text.contains("limit_bytes: 1\n") {
                break text;
            }
        };
        let text = text.replace(
            "explicit_http_config",
            "common_http_protocol_options: {idle_timeout: 1s}\n        explicit_http_config",
        );
        let world = World::start(seed, SimConfig::KIND, &text, 2);
        let exchanges = Exchanges::default();
        upstream::serve_all(&world, &exchanges, weather, &mut rng);
        let held = || -> usize {
            let parts = world.cores.iter().map(|(.., runtime)| runtime.memory());
            parts.map(|memory| memory.tasks + memory.futures + memory.sockets + memory.timers).sum()
        };
        let idle = held();
        for _ in 0..BURSTS {
            let open = Rc::new(Cell::new(CLIENTS));
            let most = Cell::new(0);
            for client in 0..CLIENTS {
                let plans =
                    vec![exchanges.add(|id| Plan::put(id, rng.below(1000) as usize, client % 2 == 0))];
                let expect = Expectations { weather, hostile: false, panics: false, tls: None };
                let rng = Rng::from_seed(rng.next_u64());
                let talking = converse(world.clients.clone(), FRONT.parse().unwrap(), plans, expect, rng);
                let open = Rc::clone(&open);
                world.clients.spawn(async move {
                    talking.await;
                    open.set(open.get() - 1);
                });
            }
            world.run(|| {
                most.set(most.get().max(held()));
                open.get() == 0
            });
            let rested = Rc::new(Cell::new(false));
            let (over, handle) = (Rc::clone(&rested), world.clients.clone());
            world.clients.spawn(async move {
                handle.sleep_until(crate::base::clock::Now(handle.now().0 + REST_NS)).await;
                over.set(true);
            });
            world.run(|| rested.get());
            let (left, most) = (held(), most.get());
            // A segment here and there: the first connection's slots, and the wheel that all began with.
            assert!(
                left <= idle + 16 * 1024 && left * 4 < most,
                "{idle} before, {most} at most, {left} left"
            );
        }
        world.end();
        assert!(exchanges.0.borrow().iter().all(|exchange| exchange.complete.get()));
    });
}
