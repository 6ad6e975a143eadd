//! The listeners of one core by their addresses, where some listener hands connections to others: those that meant to
//! connect there before a redirection. Source: Envoy `use_original_dst`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use super::listener::Listener;
use crate::config::address::Address;
use crate::protocol::connection_info::ConnectionInfo;

/// See the file's head. Empty where no listener hands connections to others.
#[derive(Debug, Default)]
pub struct ListenersByAddress(RefCell<HashMap<SocketAddr, Rc<Listener>>>);

impl ListenersByAddress {
    /// Takes these listeners at the addresses that they are configured with, and at those that their sockets have.
    pub fn set(&self, listeners: &[Rc<Listener>], bound: &[(SocketAddr, Rc<Listener>)]) {
        let mut known = self.0.borrow_mut();
        known.clear();
        if !listeners.iter().any(|listener| listener.config.use_original_dst) {
            return;
        }
        let configured: Vec<_> = listeners
            .iter()
            .flat_map(|listener| listener.config.addresses.iter().map(move |listen| (listener, listen)))
            .filter_map(|(listener, listen)| match listen.address {
                Address::Ip(address) if address.port() != 0 => Some((address, listen.ipv4_compat, listener)),
                _ => None,
            })
            .collect();
        for (address, _, listener) in &configured {
            known.entry(*address).or_insert_with(|| Rc::clone(listener));
        }
        for (address, listener) in bound {
            known.entry(*address).or_insert_with(|| Rc::clone(listener));
        }
        // A socket of both families, unless another listener has the same address of IPv4.
        for (address, ipv4_compat, listener) in &configured {
            if let Some(address) = ipv4_compat.then(|| as_ipv4(*address)).flatten() {
                known.entry(address).or_insert_with(|| Rc::clone(listener));
            }
        }
    }

    /// The other listener that a connection of `listener` meant to reach: at its destination, else at any address of that
    /// port.
    pub(super) fn for_destination(&self, listener: &Listener, info: &ConnectionInfo) -> Option<Rc<Listener>> {
        if !listener.config.use_original_dst {
            return None;
        }
        let destination = info.restored_destination()?;
        let any = match destination.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let known = self.0.borrow();
        let found =
            known.get(&destination).or_else(|| known.get(&SocketAddr::new(any, destination.port())))?;
        (!std::ptr::eq(&**found, listener)).then(|| Rc::clone(found))
    }
}

/// The addresses of IPv4 at which a socket of IPv6 takes connections, too.
fn as_ipv4(address: SocketAddr) -> Option<SocketAddr> {
    let IpAddr::V6(v6) = address.ip() else { return None };
    let v4 = if v6.is_unspecified() { Ipv4Addr::UNSPECIFIED } else { v6.to_ipv4_mapped()? };
    Some(SocketAddr::new(IpAddr::V4(v4), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_of_both_families_has_an_address_of_ipv4() {
        let shown = |text: &str| as_ipv4(text.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(shown("[::]:80").as_deref(), Some("0.0.0.0:80"));
        assert_eq!(shown("[::ffff:10.0.0.1]:80").as_deref(), Some("10.0.0.1:80"));
        assert_eq!((shown("[2001:db8::1]:80"), shown("10.0.0.1:80")), (None, None));
    }
}
