//! What the process asks of the kernel about itself: its address, its memory, its descriptors.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first address of this host that is not loopback: what loopback clients are called in `x-forwarded-for`.
/// Source: Envoy `Network::Utility::getLocalAddress`.
pub fn local_address(ipv6: bool) -> Option<IpAddr> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the pointer is to live storage; the list is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return None;
    }
    let mut found = None;
    let mut entry = list;
    while let Some(interface) = {
        // SAFETY: null, or an entry of the list that is not freed yet.
        unsafe { entry.as_ref() }
    } {
        let address = address_of(interface.ifa_addr);
        if let Some(address) = address.filter(|address| address.is_ipv6() == ipv6 && !address.is_loopback()) {
            found = Some(address);
            break;
        }
        entry = interface.ifa_next;
    }
    // SAFETY: the list `getifaddrs` made, freed once.
    unsafe { libc::freeifaddrs(list) };
    found
}

fn address_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: null, or an address that lives as long as its list.
    let family = i32::from(unsafe { address.as_ref() }?.sa_family);
    match family {
        libc::AF_INET => {
            // SAFETY: the family says what it is; it may stand unaligned.
            let raw = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let raw = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(raw.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// Raises the soft limit of open descriptors to the hard one; what it was and is, where that is another. Source: Envoy, since 1.35.
///
/// # Errors
/// The kernel refuses: a sandbox, or a hard limit above `fs.nr_open`. The limit is as it was.
pub fn raise_descriptor_limit() -> io::Result<Option<(u64, u64)>> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to live storage.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let before = limit.rlim_cur;
    if before >= limit.rlim_max {
        return Ok(None);
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Some((before, limit.rlim_cur)))
}

/// Gives the pages back that only the start, or an update, has touched, of this thread's heap, of code and of constants: parsing and
/// compiling configuration is most of the program, and none of it runs while it serves. What is needed again comes back from the page cache.
pub fn give_back_startup_pages() {
    super::allocator::collect();
    give_back_code();
}

/// Gives the pages of code and constants back. Those that are in use come again at once, sixteen at a time, without reading.
pub(super) fn give_back_code() {
    // SAFETY: the callback keeps nothing of what it is given.
    unsafe { libc::dl_iterate_phdr(Some(give_back), std::ptr::null_mut()) };
}

/// Gives back what a process at rest does not need: what is free in the C library's allocator, from which AWS-LC has its memory,
/// and the pages of code and constants.
pub(super) fn give_back_at_rest() {
    #[cfg(target_env = "gnu")]
    // SAFETY: callable at any time from any thread; it touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
    give_back_code();
}

extern "C" fn give_back(info: *mut libc::dl_phdr_info, _size: usize, _data: *mut libc::c_void) -> i32 {
    // SAFETY: the loader hands out a valid description for the time of the call.
    let info = unsafe { &*info };
    // SAFETY: as many headers as the description says.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    for header in headers {
        // Only what is mapped from the file and never written: a relocated or written page would be lost.
        let is_constant = header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
        let start = (info.dlpi_addr + header.p_vaddr) as usize;
        let (first, end) = (start.next_multiple_of(PAGE), (start + header.p_filesz as usize) & !(PAGE - 1));
        if is_constant && first < end {
            // SAFETY: private, unmodified pages of a file mapping: dropped ones are read again when touched.
            unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_DONTNEED) };
        }
    }
    0
}

const PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_constants_are_there_again_when_needed() {
        let text = String::from("before");
        for give_back in [give_back_startup_pages, give_back_at_rest] {
            give_back();
            assert_eq!(format!("{text} {}", "and after"), "before and after");
        }
        assert!(local_address(false).is_none_or(|address| address.is_ipv4() && !address.is_loopback()));
    }
}
