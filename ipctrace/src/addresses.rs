//! The internet addresses of this host, in all its network namespaces, by what /proc says.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// All of them. A namespace in which there is no process is not found, nor is one that is gone while we look.
pub fn of_this_host() -> HashSet<IpAddr> {
    let mut found = HashSet::new();
    let mut namespaces: HashSet<PathBuf> = HashSet::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        // `net:[4026531840]`; what is no process has none.
        let Ok(namespace) = fs::read_link(path.join("ns/net")) else { continue };
        if namespaces.contains(&namespace) {
            continue;
        }
        let read = |file: &str| fs::read_to_string(path.join("net").join(file));
        // A process that is about to end has none: another in its namespace may have.
        let Ok(table) = read("fib_trie") else { continue };
        namespaces.insert(namespace);
        found.extend(four(&table).map(IpAddr::V4));
        found.extend(six(&read("if_inet6").unwrap_or_default()).map(IpAddr::V6));
    }
    found
}

/// The local addresses of a routing table, proc_pid_net(5): a leaf `|-- ADDRESS`, and `/32 host LOCAL` behind it.
fn four(table: &str) -> impl Iterator<Item = Ipv4Addr> {
    table
        .lines()
        .scan(None, |leaf, line| {
            let line = line.trim();
            if let Some(address) = line.strip_prefix("|-- ") {
                *leaf = address.parse().ok();
            }
            Some((*leaf).filter(|_| line == "/32 host LOCAL"))
        })
        .flatten()
}

/// The addresses of the interfaces, 32 hexadecimal digits at the beginning of each line.
fn six(table: &str) -> impl Iterator<Item = Ipv6Addr> {
    table.lines().filter_map(|line| u128::from_str_radix(line.get(..32)?, 16).ok().map(Ipv6Addr::from_bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_addresses_of_the_table_count() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.0.0.0\n\
                     \x20       /24 link UNICAST\n     |-- 10.0.0.2\n        /32 host LOCAL\n     |-- 10.0.0.255\n\
                     \x20       /32 link BROADCAST\n";
        assert_eq!(four(table).collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 0, 2)]);
    }

    #[test]
    fn interfaces_have_their_address_first() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\nnothing\n";
        assert_eq!(six(table).collect::<Vec<_>>(), [Ipv6Addr::LOCALHOST]);
    }

    #[test]
    fn this_host_has_a_loopback() {
        assert!(of_this_host().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
