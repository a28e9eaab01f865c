//! Free ports on the loopback address.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports below Linux' range for outgoing connections, so that while a server is down between `kill` and
/// `restart` no client's connection can be given its port.
const FIRST: u16 = 15_000;
const COUNT: u16 = 17_000;

/// A port on which nobody listens now. Another process may take it before the caller does: who started a
/// server on it tries again with another.
///
/// Fails when thousands of ports are in use.
pub fn free_port() -> std::io::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // processes start apart from each other; within one process no port is handed out twice in a row
    let start = u16::try_from(u64::from(std::process::id()) * 97 % u64::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (start + offset) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "no free port on 127.0.0.1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_a_port_in_use_is_passed_over() {
        let first = free_port().unwrap();
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        for _ in 0..5 {
            assert_ne!(free_port().unwrap(), first);
        }
    }
}
