//! Addresses of listeners of one bootstrap.

use super::{errors, load};

/// Two listeners, at these.
fn two(first: &str, second: &str) -> String {
    let echo = "{name: e, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}";
    format!("{first}\n    filter_chains: [{{filters: [{echo}]}}]\n  - name: second\n    address: {second}")
}

/// What one listener has alone is no other's. What overlaps is the kernel's to refuse, which it does not where sockets share it.
#[test]
fn place_of_one_listener_is_no_others() {
    let ip = |ip: &str, port: u16| format!("{{socket_address: {{address: {ip}, port_value: {port}}}}}");
    let pipe = |mode: u32| format!("{{pipe: {{path: /run/a, mode: {mode}}}}}");
    for (first, second) in [(ip("127.0.0.1", 80), ip("127.0.0.1", 80)), (pipe(0o600), pipe(0o660))] {
        let errors = errors(&[("ADDRESS", &two(&first, &second))]);
        assert!(errors.contains("duplicate address") && errors.contains("listeners[0] has it"), "{errors}");
    }
    for (first, second) in
        [(ip("0.0.0.0", 80), ip("127.0.0.1", 80)), (ip("127.0.0.1", 0), ip("127.0.0.1", 0))]
    {
        assert_eq!(load(&[("ADDRESS", &two(&first, &second))]).listeners.len(), 2);
    }
}
