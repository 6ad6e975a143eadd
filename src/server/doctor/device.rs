//! Network cards: which CPUs take their interrupts and queues (IRQ affinity, RPS, RFS, XPS).
//!
//! Only interfaces with a device below them have any: those of containers (veth) and bridges are served by the host.

use std::collections::BTreeSet;

use super::files::Files;
use super::finding::{Advice, Finding, Topic};
use super::parse;
use crate::runtime::affinity::Cpus;

/// Source of all of it.
const SCALING: &str = "kernel: networking/scaling.rst";
/// What `scaling.rst` found to work for a moderately loaded server.
const FLOW_ENTRIES: u64 = 32_768;
/// Cards and interrupts looked at, at most.
const CARDS_MAX: usize = 16;
const IRQS_MAX: usize = 1024;

/// What is known of a card.
#[derive(Debug, Default)]
struct Card {
    name: String,
    receive_queues: usize,
    send_queues: usize,
    /// CPUs that take interrupts, over all vectors; none: not visible.
    interrupted: BTreeSet<usize>,
    vectors: usize,
    /// CPUs each receive queue is steered to by software; none: not visible.
    steered: Vec<Option<u32>>,
    /// Entries of each receive queue's flow table.
    flows: Vec<Option<u64>>,
    /// CPUs that may use each send queue.
    senders: Vec<Option<u32>>,
}

pub(super) fn findings(files: &Files, cpus: &Cpus) -> Vec<Finding> {
    let interfaces = files.list("sys/class/net");
    let cards = interfaces.iter().filter(|name| files.exists(&format!("sys/class/net/{name}/device")));
    let cards: Vec<_> = cards.take(CARDS_MAX).map(|name| card(files, name)).collect();
    if cards.is_empty() {
        let why = match interfaces.len() {
            0 => "no interface is visible",
            _ => "no interface here has a device: the host places its interrupts",
        };
        return vec![Topic::new("network_cards", "network cards").unknown(why)];
    }
    let entries = files.read("proc/sys/net/core/rps_sock_flow_entries");
    let entries = entries.ok().as_deref().and_then(parse::number);
    let count = cpus.allowed.len();
    cards
        .iter()
        .flat_map(|card| {
            [interrupts(card, count), receive(card, count), flows(card, entries), send(card, count)]
        })
        .collect()
}

fn card(files: &Files, name: &str) -> Card {
    let base = format!("sys/class/net/{name}");
    let queues = files.list(&format!("{base}/queues"));
    let of = |kind: &'static str| queues.iter().filter(move |queue| queue.starts_with(kind));
    let read = |queue: &String, file: &str| files.read(&format!("{base}/queues/{queue}/{file}")).ok();
    // A virtio card is a device on the bus of its PCI device, which has the interrupts.
    let folders = [format!("{base}/device/msi_irqs"), format!("{base}/device/../msi_irqs")];
    let vectors =
        folders.iter().map(|folder| files.list(folder)).find(|all| !all.is_empty()).unwrap_or_default();
    let numbers: Vec<u64> = vectors.iter().filter_map(|name| name.parse().ok()).take(IRQS_MAX).collect();
    let affinity = |irq: &u64| {
        let effective = files.read(&format!("proc/irq/{irq}/effective_affinity_list")).ok();
        let list = effective.filter(|text| !text.trim().is_empty());
        list.or_else(|| files.read(&format!("proc/irq/{irq}/smp_affinity_list")).ok())
    };
    Card {
        name: name.to_owned(),
        receive_queues: of("rx-").count(),
        send_queues: of("tx-").count(),
        interrupted: numbers.iter().filter_map(|irq| parse::list(&affinity(irq)?)).flatten().collect(),
        vectors: numbers.len(),
        steered: of("rx-").map(|queue| parse::mask_count(&read(queue, "rps_cpus")?)).collect(),
        flows: of("rx-").map(|queue| parse::number(&read(queue, "rps_flow_cnt")?)).collect(),
        senders: of("tx-").map(|queue| parse::mask_count(&read(queue, "xps_cpus")?)).collect(),
    }
}

impl Card {
    fn topic(&self, id: &str, title: &str) -> Topic {
        Topic::new(format!("{id}_{}", self.name), format!("{} {title}", self.name))
    }

    /// Whether all receive queues are steered by software.
    fn is_steered(&self) -> bool {
        !self.steered.is_empty() && self.steered.iter().all(|cpus| cpus.is_some_and(|count| count > 0))
    }
}

fn interrupts(card: &Card, cpus: usize) -> Finding {
    let topic = card.topic("irq", "interrupts");
    if card.interrupted.is_empty() {
        return topic.unknown("no interrupt of the card is visible");
    }
    let on: Vec<_> = card.interrupted.iter().copied().collect();
    let found = format!(
        "{} vectors on CPUs {}; receive queues: {}",
        card.vectors,
        parse::shown(&on),
        card.receive_queues
    );
    if on.len() > 1 || card.receive_queues < 2 || cpus < 2 {
        return topic.ok(found);
    }
    topic.advice(
        found,
        Advice {
            what: "spread them: one queue per CPU".into(),
            command: format!("apt-get install irqbalance   # or per vector: echo N > /proc/irq/IRQ/smp_affinity_list ({})", card.name),
            gain: "The kernel's part of receiving, most of a proxy's time, runs on all CPUs instead of one. Not measured here (one \
                   queue on the measuring machine)",
            source: "kernel: core-api/irq/irq-affinity.rst",
        },
    )
}

fn receive(card: &Card, cpus: usize) -> Finding {
    let topic = card.topic("rps", "receive steering (RPS)");
    if card.steered.iter().all(Option::is_none) {
        return topic.unknown("rps_cpus of its queues cannot be read");
    }
    let on = card.steered.iter().flatten().filter(|&&count| count > 0).count();
    let found = format!("on for {on} of {} receive queues; CPUs: {cpus}", card.receive_queues);
    // With a queue per CPU the card has spread the work already; a queue short of two CPUs is not worth the interrupts between them.
    if card.is_steered() || card.receive_queues >= cpus || cpus <= 2 {
        return topic.ok(found);
    }
    topic.advice(
        found,
        Advice {
            what: "steer to the CPUs of the card's memory node: it has fewer queues than there are CPUs".into(),
            command: format!(
                "for q in /sys/class/net/{}/queues/rx-*; do echo {:x} > $q/rps_cpus; done",
                card.name,
                1_u64.checked_shl(u32::try_from(cpus).unwrap_or(64).min(63)).map_or(u64::MAX, |bit| bit - 1)
            ),
            gain: "Receiving is spread over CPUs at the price of an interrupt between them. Not measured here",
            source: SCALING,
        },
    )
}

fn flows(card: &Card, entries: Option<u64>) -> Finding {
    let topic = card.topic("rfs", "flow steering (RFS)");
    let Some(entries) = entries.filter(|_| card.flows.iter().any(Option::is_some)) else {
        return topic.unknown("rps_sock_flow_entries or rps_flow_cnt cannot be read");
    };
    let on = card.flows.iter().flatten().filter(|&&count| count > 0).count();
    let found =
        format!("{entries} entries for the host; on for {on} of {} receive queues", card.receive_queues);
    if !card.is_steered() || (entries > 0 && on == card.receive_queues) {
        return topic.ok(found);
    }
    topic.advice(
        found,
        Advice {
            what: "with RPS on, steer to the CPU whose worker reads the connection".into(),
            command: format!(
                "sysctl -w net.core.rps_sock_flow_entries={FLOW_ENTRIES}\n\
                 for q in /sys/class/net/{}/queues/rx-*; do echo {} > $q/rps_flow_cnt; done",
                card.name,
                FLOW_ENTRIES / card.receive_queues.max(1) as u64
            ),
            gain: "Bytes are processed on the CPU that will read them, whose cache has the socket. Not measured here",
            source: SCALING,
        },
    )
}

fn send(card: &Card, cpus: usize) -> Finding {
    let topic = card.topic("xps", "send queues (XPS)");
    if card.send_queues < 2 {
        return topic.ok(format!("send queues: {}; nothing to choose", card.send_queues));
    }
    if card.senders.iter().all(Option::is_none) {
        return topic.unknown("xps_cpus of its queues cannot be read");
    }
    let on = card.senders.iter().flatten().filter(|&&count| count > 0).count();
    let found = format!("{on} of {} send queues have CPUs of their own", card.send_queues);
    if on > 0 || cpus < 2 {
        return topic.ok(found);
    }
    topic.advice(
        found,
        Advice {
            what: "give each send queue its CPUs".into(),
            command: format!(
                "n=0; for q in /sys/class/net/{}/queues/tx-*; do printf %x $((1 << n % {cpus})) > $q/xps_cpus; n=$((n + 1)); done",
                card.name
            ),
            gain: "CPUs do not contend for the lock of a send queue. Not measured here",
            source: SCALING,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::doctor::finding::Verdict;

    fn queues(queues: usize, interrupted: &[usize]) -> Card {
        Card {
            name: "eth0".into(),
            receive_queues: queues,
            send_queues: queues,
            interrupted: interrupted.iter().copied().collect(),
            vectors: queues,
            steered: vec![Some(0); queues],
            flows: vec![Some(0); queues],
            senders: vec![Some(0); queues],
        }
    }

    #[test]
    fn interrupts_of_several_queues_on_one_cpu_get_advice() {
        assert_eq!(interrupts(&queues(4, &[2]), 4).verdict, Verdict::Advice);
        assert_eq!(interrupts(&queues(4, &[0, 1]), 4).verdict, Verdict::Ok);
        assert_eq!(interrupts(&queues(1, &[0]), 4).verdict, Verdict::Ok, "one queue has one place");
        assert_eq!(interrupts(&queues(4, &[]), 4).verdict, Verdict::Unknown);
    }

    #[test]
    fn receive_steering_is_for_cards_with_too_few_queues() {
        let advised = receive(&queues(1, &[0]), 8);
        assert!(advised.advice.unwrap().command.contains("echo ff >"));
        assert_eq!(receive(&queues(8, &[0]), 8).verdict, Verdict::Ok);
        assert_eq!(receive(&queues(1, &[0]), 2).verdict, Verdict::Ok);
        let on = Card { steered: vec![Some(8)], ..queues(1, &[0]) };
        assert_eq!(receive(&on, 8).verdict, Verdict::Ok);
        assert_eq!(receive(&Card { steered: vec![None], ..queues(1, &[0]) }, 8).verdict, Verdict::Unknown);
        assert!(receive(&queues(1, &[0]), 500).advice.unwrap().command.contains("echo 7fffffffffffffff"));
    }

    #[test]
    fn flow_steering_goes_with_receive_steering() {
        let steered = Card { steered: vec![Some(8); 2], ..queues(2, &[0]) };
        let advised = flows(&steered, Some(0));
        assert!(advised.advice.unwrap().command.contains("echo 16384 >"));
        assert_eq!(flows(&queues(2, &[0]), Some(0)).verdict, Verdict::Ok, "no RPS, no RFS");
        let both = Card { flows: vec![Some(9); 2], ..steered };
        assert_eq!(flows(&both, Some(32_768)).verdict, Verdict::Ok);
        assert_eq!(flows(&both, None).verdict, Verdict::Unknown);
    }

    #[test]
    fn send_queues_want_cpus() {
        assert_eq!(send(&queues(1, &[]), 4).verdict, Verdict::Ok);
        assert_eq!(send(&queues(4, &[]), 4).verdict, Verdict::Advice);
        assert_eq!(send(&Card { senders: vec![Some(1); 4], ..queues(4, &[]) }, 4).verdict, Verdict::Ok);
        assert_eq!(send(&Card { senders: vec![None; 4], ..queues(4, &[]) }, 4).verdict, Verdict::Unknown);
    }

    #[test]
    fn container_without_cards_is_unknown() {
        let cpus = Cpus { allowed: vec![0, 1], usable: 2 };
        let found = findings(&Files::at("/nonexistent".into()), &cpus);
        assert_eq!((found.len(), found[0].verdict), (1, Verdict::Unknown));
    }
}
