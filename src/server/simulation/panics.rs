//! A panic at every operation and every await of a connection's task, one after the other: it costs that connection, and
//! nobody else a byte.

use std::cell::Cell;
use std::rc::Rc;

use super::client::{Expectations, converse};
use super::exchange::{Exchange, Exchanges, Plan, Weather};
use super::tls::Tls;
use super::{Ended, FRONT, World, upstream};
use crate::base::rng::Rng;
use crate::config::tls::TlsVersion;
use crate::runtime::sim::SimConfig;
use crate::telemetry::HttpStat;

/// The victim's exchanges: all kinds of bodies, both ways.
const PLANS: [fn(usize) -> Plan; 6] = [
    |id| Plan::get(id, 100),
    |id| Plan::put(id, 9000, false),
    |id| Plan { pipelined: true, ..Plan::put(id, 5000, true) },
    |id| Plan { interim: true, expect_continue: true, ..Plan::put(id, 700, true) },
    |id| Plan { status: 204, pipelined: true, ..Plan::get(id, 0) },
    |id| Plan { upgrade: true, status: 101, request_body: vec![b'u'; 3000], ..Plan::get(id, 4000) },
];

/// The victim talks, and panics at its `nth` point; others talk beside and after it.
fn run(nth: u64, tls: Option<&'static Tls>) -> (Ended, Vec<Rc<Exchange>>) {
    let mut rng = Rng::from_seed(7);
    let bootstrap = super::soak::bootstrap(&mut rng, Weather::Calm);
    let config = SimConfig { window_bytes_min: 2000, ..SimConfig::KIND };
    let world = World::start_with(7, config, &bootstrap, 1, tls);
    let exchanges = Exchanges::default();
    upstream::serve_all(&world, &exchanges, Weather::Calm, &mut rng);
    world.cores[0].2.sabotage_for_test(nth);
    let open = Rc::new(Cell::new(0));
    let mut talk = |panics: bool| {
        let plans: Vec<_> = PLANS.iter().map(|plan| exchanges.add(plan)).collect();
        let expect = Expectations { weather: Weather::Calm, hostile: false, panics, tls };
        let rng = Rng::from_seed(rng.next_u64());
        let talking = converse(world.clients.clone(), FRONT.parse().unwrap(), plans.clone(), expect, rng);
        let open = Rc::clone(&open);
        open.set(open.get() + 1);
        world.clients.spawn(async move {
            talking.await;
            open.set(open.get() - 1);
        });
        plans
    };
    talk(true);
    // The first connection that is served is the victim's.
    world.run(|| exchanges.get(0).heads_seen.get() > 0 || open.get() == 0);
    let mut others = talk(false);
    world.run(|| open.get() == 0);
    others.append(&mut talk(false));
    world.run(|| open.get() == 0);
    (world.end(), others)
}

#[test]
fn panic_at_any_point_costs_its_connection_and_nobody_else_a_byte() {
    at_every_point(None);
}

#[test]
fn panic_at_any_point_under_tls_costs_its_connection_and_nobody_else_a_byte() {
    at_every_point(Some(Tls::of(TlsVersion::Tls13, false)));
}

fn at_every_point(tls: Option<&'static Tls>) {
    let mut points = 0;
    loop {
        points += 1;
        let (ended, others) = run(points, tls);
        assert!(others.iter().all(|exchange| exchange.complete.get()), "panic at point {points}");
        let connections = ended.downstream(HttpStat::DownstreamCxTotal);
        assert_eq!(connections, 3, "panic at point {points}");
        if ended.panics == 0 {
            break;
        }
        assert_eq!(ended.panics, 1, "panic at point {points}");
    }
    println!("{points} points");
    assert!(points > 100, "so few places to panic at: {points}");
}
