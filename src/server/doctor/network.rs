//! TCP settings of the network namespace: accept queues, ports, TIME-WAIT, buffers, pacing.

use super::files::{Files, Text};
use super::finding::{Advice, Finding, Topic};
use super::parse;

/// Source of most of it.
const IP_SYSCTL: &str = "kernel: networking/ip-sysctl.rst";
/// What Ringway asks `listen` for unless a listener says `tcp_backlog_size`.
const BACKLOG: u64 = libc::SOMAXCONN as u64;
/// The kernel's own default since 5.4.
const SOMAXCONN_GOOD: u64 = 4096;
const SYN_BACKLOG_GOOD: u64 = 1024;
/// Somewhat below the kernel's default of 28,232 ports.
const PORTS_GOOD: u64 = 28_000;
const PORTS_MIN: u64 = 1000;
/// The kernel's default for the largest receive buffer is 6 MiB, for the largest send buffer 4 MiB.
const BUFFER_GOOD: u64 = 4 << 20;
/// Below this the largest buffer is a few segments.
const BUFFER_MIN: u64 = 64 << 10;

pub(super) fn findings(files: &Files) -> Vec<Finding> {
    let read = |name: &str| files.read(&format!("proc/sys/net/{name}"));
    let syn_cookies = read("ipv4/tcp_syncookies").ok().as_deref().and_then(parse::number);
    let backlog = number(&read("core/somaxconn"));
    vec![
        accept_queue(backlog),
        syn_queue(number(&read("ipv4/tcp_max_syn_backlog")), syn_cookies),
        ports(&read("ipv4/ip_local_port_range"), &read("ipv4/ip_local_reserved_ports")),
        time_wait(number(&read("ipv4/tcp_tw_reuse"))),
        buffers("tcp_rmem", "receive buffers", &read("ipv4/tcp_rmem")),
        buffers("tcp_wmem", "send buffers", &read("ipv4/tcp_wmem")),
        congestion(&read("ipv4/tcp_congestion_control"), &read("core/default_qdisc")),
    ]
}

fn number(text: &Text) -> Result<u64, String> {
    let text = text.as_ref().map_err(|why| why.reason())?;
    parse::number(text).ok_or_else(|| "the value is no number".to_owned())
}

fn accept_queue(limit: Result<u64, String>) -> Finding {
    let topic = Topic::new("somaxconn", "accept queue (net.core.somaxconn)");
    let limit = match limit {
        Ok(limit) => limit,
        Err(why) => return topic.unknown(why),
    };
    let found = format!("{limit}; each worker's listening socket queues {} connections", limit.min(BACKLOG));
    if limit >= SOMAXCONN_GOOD {
        return topic.ok(found);
    }
    topic.advice(
        found,
        Advice {
            what: format!("{SOMAXCONN_GOOD}, the kernel's default since Linux 5.4"),
            command: format!("sysctl -w net.core.somaxconn={SOMAXCONN_GOOD}   # listeners get it at the next start"),
            gain: "Bursts of new connections wait in the queue; beyond it their SYNs are dropped and tried again after 1 s",
            source: IP_SYSCTL,
        },
    )
}

fn syn_queue(limit: Result<u64, String>, cookies: Option<u64>) -> Finding {
    let topic = Topic::new("tcp_max_syn_backlog", "handshakes under way (tcp_max_syn_backlog)");
    let limit = match limit {
        Ok(limit) => limit,
        Err(why) => return topic.unknown(why),
    };
    let cookies = match cookies {
        Some(0) => "SYN cookies off",
        Some(_) => "SYN cookies on",
        None => "SYN cookies not visible",
    };
    let found = format!("{limit} per listener; {cookies}");
    let advice = |what: &str, command: &str| Advice {
        what: what.into(),
        command: command.into(),
        gain: "A flood of half-open handshakes, or many distant clients at once, does not lock new ones out",
        source: IP_SYSCTL,
    };
    if cookies == "SYN cookies off" {
        return topic.advice(
            found,
            advice(
                "SYN cookies, which take over when the queue is full",
                "sysctl -w net.ipv4.tcp_syncookies=1",
            ),
        );
    }
    if limit < SYN_BACKLOG_GOOD {
        return topic.advice(
            found,
            advice(
                "4096 on a host that accepts from the internet",
                "sysctl -w net.ipv4.tcp_max_syn_backlog=4096",
            ),
        );
    }
    topic.ok(found)
}

fn ports(range: &Text, reserved: &Text) -> Finding {
    let topic = Topic::new("ip_local_port_range", "ports towards upstreams (ip_local_port_range)");
    let text = match range {
        Ok(text) => text,
        Err(why) => return topic.unknown(why.reason()),
    };
    let (first, last) = match parse::numbers(text) {
        Some([first, last]) if 0 < first && first <= last && last <= u64::from(u16::MAX) => (first, last),
        _ => return topic.unknown("the range is not understood"),
    };
    let taken = reserved.as_deref().ok().and_then(parse::port_ranges).unwrap_or_default();
    let taken = (first..=last)
        .filter(|&port| taken.iter().any(|&(from, to)| (u64::from(from)..=u64::from(to)).contains(&port)))
        .count() as u64;
    let usable = last - first + 1 - taken;
    let found = format!(
        "{first}-{last}, {taken} reserved: {usable} connections to one upstream address and port, from all processes here"
    );
    if usable >= PORTS_GOOD {
        return topic.ok(found);
    }
    let advice = Advice {
        what: "the kernel's default or more; keep the ports that services listen on out by ip_local_reserved_ports".into(),
        command: "sysctl -w net.ipv4.ip_local_port_range='16384 65535'".into(),
        gain: "49,152 connections per upstream address and port; without a free port a connect fails (503, flag UF)",
        source: IP_SYSCTL,
    };
    if usable < PORTS_MIN { topic.problem(found, advice) } else { topic.advice(found, advice) }
}

fn time_wait(mode: Result<u64, String>) -> Finding {
    let topic = Topic::new("tcp_tw_reuse", "ports in TIME-WAIT (tcp_tw_reuse)");
    match mode {
        Err(why) => topic.unknown(why),
        Ok(1) => topic.ok("1: used again for new connections where it is safe"),
        Ok(2) => topic.ok("2: used again towards loopback only, the kernel's default; enough with keep-alive upstreams"),
        Ok(0) => topic.advice(
            "0: a port rests 60 s after its connection",
            Advice {
                what: "1 for a proxy whose upstreams close after every response, else the default of 2".into(),
                command: "sysctl -w net.ipv4.tcp_tw_reuse=1".into(),
                gain: "More than 470 new connections per second and upstream address: 28,232 ports / 60 s is where they run out",
                source: IP_SYSCTL,
            },
        ),
        Ok(_) => topic.unknown("the value is not one of 0, 1, 2"),
    }
}

fn buffers(name: &str, title: &str, text: &Text) -> Finding {
    let topic = Topic::new(name, format!("{title} ({name})"));
    let sizes = match text.as_deref().map(parse::numbers) {
        Err(why) => return topic.unknown(why.reason()),
        Ok(sizes) => sizes,
    };
    let [min, default, max] = match sizes {
        Some(sizes) if sizes.is_sorted() && sizes[2] > 0 => sizes,
        _ => return topic.unknown("three ascending sizes were expected"),
    };
    let [min, start, most] = [min, default, max].map(parse::bytes);
    // Half of a buffer is the kernel's own bookkeeping: what is left is one window, and a window crosses once per round trip.
    let rate = (max / 2).saturating_mul(10) / 1_000_000;
    let found = format!(
        "{min} / {start} / {most}: at most about {rate} MB/s per connection over a round trip of 100 ms"
    );
    if max >= BUFFER_GOOD {
        return topic.ok(found);
    }
    let advice = Advice {
        what: "the kernel's default maximum or more, for large bodies over long distances".into(),
        command: format!(
            "sysctl -w net.ipv4.{name}='4096 {} 6291456'",
            if name == "tcp_rmem" { 131_072 } else { 16_384 }
        ),
        gain: "A single connection's rate is its window per round trip, and grows with it; nothing changes on a local network",
        source: IP_SYSCTL,
    };
    if max < BUFFER_MIN { topic.problem(found, advice) } else { topic.advice(found, advice) }
}

fn congestion(control: &Text, discipline: &Text) -> Finding {
    let topic = Topic::new("tcp_congestion_control", "congestion control (tcp_congestion_control)");
    let control = match control {
        Ok(control) => control.trim(),
        Err(why) => return topic.unknown(why.reason()),
    };
    if !control.starts_with("bbr") {
        return topic.ok(format!("{control}: connections are not paced"));
    }
    let discipline = discipline.as_deref().map_or("not visible here", str::trim);
    let found = format!(
        "{control} sends by the clock; queueing discipline of new devices: {discipline}; Ringway's sockets on loopback take reno"
    );
    if discipline == "fq" {
        return topic.ok(found);
    }
    topic.advice(
        found,
        Advice {
            what: "fq as queueing discipline, which keeps one clock for each device instead of one for each connection"
                .into(),
            command: "sysctl -w net.core.default_qdisc=fq   # those that are there: tc qdisc replace dev eth0 root fq"
                .into(),
            gain: "CPU time of large bodies: with a clock for each connection a relayed mebibyte took 390 µs, without 210 (loopback)",
            source: "kernel: net/ipv4/tcp_bbr.c",
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::doctor::files::Unreadable;
    use crate::server::doctor::finding::Verdict;

    fn text(text: &str) -> Text {
        Ok(text.to_owned())
    }

    fn missing() -> Text {
        Err(Unreadable::Missing("/x".into()))
    }

    #[test]
    fn accept_queue_is_what_both_sides_allow() {
        assert_eq!(accept_queue(Ok(65_535)).verdict, Verdict::Ok);
        assert!(accept_queue(Ok(65_535)).found.contains(&format!("queues {} connections", libc::SOMAXCONN)));
        let small = accept_queue(Ok(128));
        assert_eq!(small.verdict, Verdict::Advice);
        assert!(small.found.contains("queues 128 connections"));
        assert_eq!(accept_queue(number(&text("x"))).verdict, Verdict::Unknown);
        assert_eq!(accept_queue(number(&missing())).found, "/x is not there");
    }

    #[test]
    fn handshakes_need_a_queue_and_cookies() {
        assert_eq!(syn_queue(Ok(2048), Some(1)).verdict, Verdict::Ok);
        assert_eq!(syn_queue(Ok(2048), None).verdict, Verdict::Ok);
        assert_eq!(
            syn_queue(Ok(128), Some(1)).advice.unwrap().command,
            "sysctl -w net.ipv4.tcp_max_syn_backlog=4096"
        );
        assert_eq!(
            syn_queue(Ok(2048), Some(0)).advice.unwrap().command,
            "sysctl -w net.ipv4.tcp_syncookies=1"
        );
    }

    #[test]
    fn ports_are_counted_without_reserved_ones() {
        let found = ports(&text("32768\t60999\n"), &text("40000-40009,8080\n"));
        assert_eq!(found.verdict, Verdict::Ok);
        assert!(found.found.contains("10 reserved: 28222 connections"), "{found:?}");
        assert_eq!(ports(&text("32768 40000"), &text("\n")).verdict, Verdict::Advice);
        assert_eq!(ports(&text("60000 60100"), &missing()).verdict, Verdict::Problem);
        assert_eq!(ports(&text("1 1"), &text("1")).verdict, Verdict::Problem);
        for wrong in ["", "1", "5 1", "0 10", "1 70000", "a b"] {
            assert_eq!(ports(&text(wrong), &missing()).verdict, Verdict::Unknown, "{wrong}");
        }
        assert_eq!(ports(&missing(), &missing()).verdict, Verdict::Unknown);
    }

    #[test]
    fn time_wait_modes_are_understood() {
        for (mode, verdict) in
            [(0, Verdict::Advice), (1, Verdict::Ok), (2, Verdict::Ok), (3, Verdict::Unknown)]
        {
            assert_eq!(time_wait(Ok(mode)).verdict, verdict, "{mode}");
        }
    }

    #[test]
    fn buffers_are_judged_by_their_maximum() {
        let usual = buffers("tcp_rmem", "receive buffers", &text("4096\t131072\t6291456\n"));
        assert_eq!(usual.verdict, Verdict::Ok);
        assert!(usual.found.contains("6 MiB") && usual.found.contains("31 MB/s"), "{usual:?}");
        for (sizes, verdict) in [
            ("4096 16384 4194304", Verdict::Ok),
            ("4096 16384 212992", Verdict::Advice),
            ("4096 4096 8192", Verdict::Problem),
            ("3 2 1", Verdict::Unknown),
            ("4096 16384", Verdict::Unknown),
            ("0 0 0", Verdict::Unknown),
            ("1 1 18446744073709551615", Verdict::Ok),
        ] {
            assert_eq!(buffers("tcp_wmem", "send buffers", &text(sizes)).verdict, verdict, "{sizes}");
        }
    }

    #[test]
    fn pacing_wants_a_discipline_that_does_it() {
        let verdict = |control, discipline| congestion(&text(control), &discipline).verdict;
        assert_eq!(verdict("cubic\n", text("pfifo_fast\n")), Verdict::Ok);
        assert_eq!(verdict("bbr\n", text("fq\n")), Verdict::Ok);
        for discipline in [text("pfifo_fast\n"), text("fq_codel\n"), missing()] {
            assert_eq!(verdict("bbr\n", discipline), Verdict::Advice);
        }
        assert_eq!(congestion(&missing(), &text("fq\n")).verdict, Verdict::Unknown);
    }
}
