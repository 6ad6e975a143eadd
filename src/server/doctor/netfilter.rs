//! Connection tracking, and what transparent proxying needs.

use super::files::{Files, Text};
use super::finding::{Advice, Finding, Topic};
use super::parse;

const SOURCE: &str = "kernel: networking/nf_conntrack-sysctl.rst";
/// Percent of the table at which a burst fills it.
const FULL_PERCENT: u64 = 80;
/// Modules that lead traffic to a transparent listener without changing its address.
const TRANSPARENT: [&str; 5] = ["xt_TPROXY", "nft_tproxy", "nf_tproxy_ipv4", "xt_socket", "nft_socket"];
/// What they are for, and what that gains.
const TRANSPARENT_GAIN: &str = "`transparent` listeners take redirected connections with both addresses as they are, so \
                                without NAT's connection tracking (what that saves was not measured here)";
const TRANSPARENT_COMMAND: &str = "modprobe -a nft_tproxy nft_socket   # iptables: xt_TPROXY xt_socket";

pub(super) fn findings(files: &Files) -> Vec<Finding> {
    let read = |name: &str| files.read(&format!("proc/sys/net/netfilter/{name}"));
    vec![
        tracked(&read("nf_conntrack_count"), &read("nf_conntrack_max")),
        transparent(&files.read("proc/modules")),
    ]
}

fn tracked(count: &Text, max: &Text) -> Finding {
    let topic = Topic::new("conntrack", "connection tracking");
    let (count, max) = match (count, max) {
        (Err(why), _) | (_, Err(why)) if why.is_missing() => {
            return topic.ok("not visible: not loaded here, or the host's");
        }
        (Err(why), _) | (_, Err(why)) => return topic.unknown(why.reason()),
        (Ok(count), Ok(max)) => (parse::number(count), parse::number(max)),
    };
    let (count, max) = match (count, max) {
        (Some(count), Some(0)) => return topic.ok(format!("{count} of any number of connections")),
        (Some(count), Some(max)) => (count, max),
        _ => return topic.unknown("count and size of the table are not understood"),
    };
    let found = format!("{count} of {max} connections; each proxied one takes two");
    if count.saturating_mul(100) < max.saturating_mul(FULL_PERCENT) {
        return topic.ok(found);
    }
    topic.problem(
        found,
        Advice {
            what: "a larger table, or none for the proxy's own ports".into(),
            command: format!(
                "sysctl -w net.netfilter.nf_conntrack_max={}\n\
                 nft add rule raw prerouting tcp dport PORT notrack   # and in output: sport PORT",
                max.saturating_mul(2)
            ),
            gain: "With a full table the kernel drops the packets of new connections. What tracking costs per packet was not \
                   measured here",
            source: SOURCE,
        },
    )
}

fn transparent(modules: &Text) -> Finding {
    let topic = Topic::new("tproxy", "transparent proxy modules");
    let text = match modules {
        Ok(text) => text,
        Err(why) if why.is_missing() => {
            return topic.unknown("the kernel has no modules, or hides them: built in or absent");
        }
        Err(why) => return topic.unknown(why.reason()),
    };
    let loaded: Vec<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    let found: Vec<_> = TRANSPARENT.into_iter().filter(|name| loaded.contains(name)).collect();
    topic.ok(match found.as_slice() {
        [] => {
            format!("none loaded. With them {TRANSPARENT_GAIN}; where that is wanted: {TRANSPARENT_COMMAND}")
        }
        names => format!("loaded: {}: {TRANSPARENT_GAIN}", names.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::doctor::files::Unreadable;
    use crate::server::doctor::finding::Verdict;

    fn text(text: &str) -> Text {
        Ok(text.to_owned())
    }

    #[test]
    fn table_that_fills_is_a_problem() {
        for (count, max, verdict) in [
            ("5\n", "262144\n", Verdict::Ok),
            ("80", "100", Verdict::Problem),
            ("79", "100", Verdict::Ok),
            ("5", "0", Verdict::Ok),
            ("x", "100", Verdict::Unknown),
            ("18446744073709551615", "18446744073709551615", Verdict::Problem),
        ] {
            assert_eq!(tracked(&text(count), &text(max)).verdict, verdict, "{count} {max}");
        }
        let missing = Err(Unreadable::Missing("/x".into()));
        assert_eq!(tracked(&missing, &missing).verdict, Verdict::Ok);
        let refused = Err(Unreadable::Refused("/x: no".into()));
        assert_eq!(tracked(&text("5"), &refused).verdict, Verdict::Unknown);
    }

    #[test]
    fn transparent_modules_are_named() {
        let found = transparent(&text("nft_tproxy 16384 0 - Live 0x0\nx 1 0 - Live 0x0\n")).found;
        assert!(found.starts_with("loaded: nft_tproxy: `transparent` listeners"), "{found}");
        let found = transparent(&text("")).found;
        assert!(found.starts_with("none loaded") && found.ends_with("xt_TPROXY xt_socket"), "whole: {found}");
        let missing = Err(Unreadable::Missing("/proc/modules".into()));
        assert_eq!(transparent(&missing).verdict, Verdict::Unknown);
    }
}
