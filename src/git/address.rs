//! Addresses no remote may have (pure): a URL in a namespace must not make the controller talk to the node's
//! metadata service, which gives out the cloud's credentials to whoever can reach it.
//!
//! Loopback and private ranges stay allowed: forges inside the cluster live there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why `address` is refused, or `None` when it may be used.
pub fn refused(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => refused_v4(v4),
        IpAddr::V6(v6) => refused_v6(v6),
    }
}

fn refused_v4(v4: Ipv4Addr) -> Option<&'static str> {
    if v4.is_link_local() {
        return Some("a link-local address");
    }
    // Alibaba's and Oracle's metadata services are not link-local.
    if v4 == Ipv4Addr::new(100, 100, 100, 200) || v4 == Ipv4Addr::new(192, 0, 0, 192) {
        return Some("a cloud's metadata service");
    }
    (v4.octets()[0] == 0 || v4.is_broadcast() || v4.is_multicast()).then_some("no address of a host")
}

fn refused_v6(v6: Ipv6Addr) -> Option<&'static str> {
    if let Some(v4) = v6.to_ipv4_mapped().or_else(|| embedded_v4(v6)) {
        return refused_v4(v4);
    }
    if v6.segments()[0] & 0xffc0 == 0xfe80 {
        return Some("a link-local address");
    }
    if v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) {
        return Some("a cloud's metadata service");
    }
    (v6.is_unspecified() || v6.is_multicast()).then_some("no address of a host")
}

/// The IPv4 address behind NAT64's well-known prefix.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let [a, b] = [s[6].to_be_bytes(), s[7].to_be_bytes()];
    (s[..6] == [0x64, 0xff9b, 0, 0, 0, 0]).then(|| Ipv4Addr::new(a[0], a[1], b[0], b[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_out_of_reach_and_forges_are_not() {
        for (text, allowed) in [
            ("169.254.169.254", false),
            ("169.254.0.1", false),
            ("100.100.100.200", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("::ffff:169.254.169.254", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("::", false),
            ("127.0.0.1", true),
            ("10.96.0.10", true),
            ("192.168.1.1", true),
            ("140.82.121.4", true),
            ("::1", true),
            ("fd12::1", true),
            ("64:ff9b::8c52:7904", true),
            ("2606:50c0::1", true),
        ] {
            assert_eq!(refused(text.parse().unwrap()).is_none(), allowed, "{text}");
        }
    }
}
