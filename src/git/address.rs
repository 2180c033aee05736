//! Addresses that no remote may have (pure): a URL in a namespace must not make the controller talk to what only the
//! controller reaches: itself, its node, the cloud's metadata service (which gives out credentials to whoever can reach
//! it), the API server.
//!
//! Private ranges stay allowed: forges inside the cluster live there. Whoever runs the controller may allow more.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A range of addresses, `10.0.0.0/8`, or a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

/// Why a text is no [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No address, or one with something behind it.
    #[error("{0:?} is no range of addresses; write 10.1.0.0/16, fd00::/8 or a single address")]
    Form(String),
    /// Bits are set behind the prefix.
    #[error("{0} has bits behind its prefix; {1} is the range around it")]
    Bits(String, Network),
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NetworkError::Form(text.to_owned());
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = width(address);
        let bits = match bits {
            None => width,
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse().map_err(|_| wrong())?,
            Some(_) => return Err(wrong()),
        };
        if bits > width {
            return Err(wrong());
        }
        let start = Self { address: masked(address, bits), bits };
        if start.address == address { Ok(start) } else { Err(NetworkError::Bits(text.to_owned(), start)) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Network {
    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.bits) == self.address
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with all bits behind the first `bits` cleared.
fn masked(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into()),
    }
}

/// Where remotes may be.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    allowed: Vec<Network>,
    api_hosts: Vec<String>,
    own: Vec<IpAddr>,
}

impl Policy {
    /// Everything but what is refused; the ranges are allowed whatever lies there. `api_hosts` are the names or addresses
    /// of the API server.
    pub fn new(allowed: Vec<Network>, api_hosts: Vec<String>) -> Self {
        Self { allowed, api_hosts, own: vec![] }
    }

    /// Refuses the addresses of the controller's own pod and of its node as well.
    #[must_use]
    pub fn without(mut self, own: Vec<IpAddr>) -> Self {
        self.own = own;
        self
    }

    /// Names or addresses of the API server.
    pub fn api_hosts(&self) -> &[String] {
        &self.api_hosts
    }

    /// Whether what answers at `address` is to be told to nobody who may only write URLs: it is in a private network, and
    /// whoever runs the controller has not named it as a place of Git servers.
    pub fn veils(&self, address: IpAddr) -> bool {
        let meant = plain(address);
        is_private(meant) && !self.allows(address)
    }

    fn allows(&self, address: IpAddr) -> bool {
        let meant = plain(address);
        self.allowed.iter().any(|network| network.contains(address) || network.contains(meant))
    }

    /// Why `address` is refused, or `None` when it may be used; `api` are the addresses of the API server.
    pub fn refused(&self, address: IpAddr, api: &[IpAddr]) -> Option<&'static str> {
        let meant = plain(address);
        if self.allows(address) {
            return None;
        }
        if api.iter().any(|api| plain(*api) == meant) {
            return Some("the Kubernetes API server");
        }
        if self.own.iter().any(|own| plain(*own) == meant) {
            return Some("the controller itself or its node");
        }
        match meant {
            IpAddr::V4(v4) => refused_v4(v4),
            IpAddr::V6(v6) => refused_v6(v6),
        }
    }
}

/// Networks of which the world knows nothing: those of clusters and companies, and of providers behind NAT.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || matches!(v4.octets(), [100, 64..=127, ..]),
        IpAddr::V6(v6) => v6.segments()[0] & 0xfe00 == 0xfc00,
    }
}

/// Why a host is refused by its name alone.
pub fn refused_name(host: &str) -> Option<&'static str> {
    let metadata =
        host == "metadata" || host == "metadata.google.internal" || host.ends_with(".metadata.google.internal");
    metadata.then_some("a cloud's metadata service")
}

fn refused_v4(v4: Ipv4Addr) -> Option<&'static str> {
    if v4.is_loopback() {
        return Some("a loopback address");
    }
    if v4.is_link_local() {
        return Some("a link-local address");
    }
    // Alibaba's and Oracle's metadata services and Azure's WireServer are not link-local.
    if matches!(v4.octets(), [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16]) {
        return Some("a cloud's metadata service");
    }
    (v4.octets()[0] == 0 || v4.octets()[0] >= 224).then_some("no address of a host")
}

fn refused_v6(v6: Ipv6Addr) -> Option<&'static str> {
    if v6.is_loopback() {
        return Some("a loopback address");
    }
    if v6.segments()[0] & 0xffc0 == 0xfe80 {
        return Some("a link-local address");
    }
    // A network of AWS (metadata, time, names), and Google's metadata service.
    if v6.segments()[..2] == [0xfd00, 0xec2] || v6 == Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254) {
        return Some("a cloud's metadata service");
    }
    (v6.is_unspecified() || v6.is_multicast()).then_some("no address of a host")
}

/// The IPv4 address that an IPv6 address stands for, where it does.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => embedded(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Mapped (`::ffff:a.b.c.d`), translated (`::ffff:0:a.b.c.d`), compatible (`::a.b.c.d`), behind NAT64's prefixes, and
/// 6to4's.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    let prefixes = [[0, 0, 0, 0, 0, 0xffff], [0, 0, 0, 0, 0xffff, 0], [0x64, 0xff9b, 0, 0, 0, 0]];
    let compatible = s[..6] == [0; 6] && s[6] != 0;
    if compatible || prefixes.iter().any(|prefix| s[..6] == prefix[..]) || s[..3] == [0x64, 0xff9b, 1] {
        return Some(join(s[6], s[7]));
    }
    (s[0] == 0x2002).then(|| join(s[1], s[2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_only_the_controller_reaches_is_refused_and_forges_are_not() {
        let policy = Policy::default().without(vec![ip("10.244.1.5"), ip("::ffff:10.0.0.4"), ip("fd12::5")]);
        let api = [ip("10.96.0.1"), ip("fd12::6443")];
        for (text, want) in [
            ("127.0.0.1", "loopback"),
            ("127.8.9.1", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:0:127.0.0.1", "loopback"),
            ("::127.0.0.1", "loopback"),
            ("64:ff9b::7f00:1", "loopback"),
            ("64:ff9b:1::7f00:1", "loopback"),
            ("2002:7f00:1::", "loopback"),
            ("169.254.169.254", "link-local"),
            ("169.254.0.1", "link-local"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("::ffff:169.254.169.254", "link-local"),
            ("64:ff9b::a9fe:a9fe", "link-local"),
            ("100.100.100.200", "metadata"),
            ("192.0.0.192", "metadata"),
            ("168.63.129.16", "metadata"),
            ("::ffff:168.63.129.16", "metadata"),
            ("fd00:ec2::254", "metadata"),
            ("fd00:ec2::23", "metadata"),
            ("fd20:ce::254", "metadata"),
            ("10.244.1.5", "the controller itself or its node"),
            ("::ffff:10.244.1.5", "the controller itself or its node"),
            ("10.0.0.4", "the controller itself or its node"),
            ("fd12::5", "the controller itself or its node"),
            ("0.0.0.0", "no address"),
            ("0.1.2.3", "no address"),
            ("255.255.255.255", "no address"),
            ("240.0.0.1", "no address"),
            ("224.0.0.1", "no address"),
            ("::", "no address"),
            ("::ffff:0.0.0.0", "no address"),
            ("ff02::1", "no address"),
            ("10.96.0.1", "API server"),
            ("::ffff:10.96.0.1", "API server"),
            ("fd12::6443", "API server"),
            ("10.96.0.10", ""),
            ("192.168.1.1", ""),
            ("168.63.129.17", ""),
            ("10.244.1.6", ""),
            ("fd00:ec3::254", ""),
            ("fd20:ce::253", ""),
            ("140.82.121.4", ""),
            ("fd12::1", ""),
            ("64:ff9b::8c52:7904", ""),
            ("2606:50c0::1", ""),
        ] {
            let found = policy.refused(ip(text), &api);
            assert_eq!(found.is_some(), !want.is_empty(), "{text}: {found:?}");
            assert!(found.unwrap_or_default().contains(want), "{text}: {found:?}");
        }
        for (name, refused) in [("metadata", true), ("metadata.google.internal", true), ("metadata.example.com", false)]
        {
            assert_eq!(refused_name(name).is_some(), refused, "{name}");
        }
    }

    #[test]
    fn what_is_allowed_is_allowed_in_every_form_and_nothing_beside_it() {
        let networks = ["127.0.0.2", "169.254.1.0/24", "fd12::/64"].map(|text| text.parse().unwrap());
        let policy = Policy::new(networks.into(), vec![]).without(vec![ip("127.0.0.2")]);
        let api = [ip("fd12::1")];
        for (text, fine) in [
            ("127.0.0.2", true),
            ("::ffff:127.0.0.2", true),
            ("127.0.0.1", false),
            ("127.0.0.3", false),
            ("169.254.1.9", true),
            ("169.254.2.1", false),
            ("fd12::1", true),
            ("::1", false),
        ] {
            assert_eq!(policy.refused(ip(text), &api).is_none(), fine, "{text}");
        }
    }

    #[test]
    fn private_networks_are_veiled_unless_git_servers_may_be_there() {
        let policy = Policy::new(vec!["10.1.0.0/16".parse().unwrap()], vec![]);
        for (text, veiled) in [
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("10.1.2.3", false),
            ("172.31.0.1", true),
            ("172.32.0.1", false),
            ("192.168.1.1", true),
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("140.82.121.4", false),
            ("2606:50c0::1", false),
        ] {
            assert_eq!(policy.veils(ip(text)), veiled, "{text}");
        }
    }

    #[test]
    fn ranges_are_read_strictly() {
        for (text, want) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("127.0.0.1", "127.0.0.1/32"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), want);
        }
        for (text, want) in [
            ("", "is no range"),
            ("localhost", "is no range"),
            ("10.0.0.0/33", "is no range"),
            ("::/129", "is no range"),
            ("10.0.0.0/", "is no range"),
            ("10.0.0.0/+8", "is no range"),
            ("10.0.0.0/8/8", "is no range"),
            ("10.1.0.0/8", "10.0.0.0/8 is the range"),
            ("fd00::1/8", "fd00::/8 is the range"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_range_holds_its_own_addresses(bits in 0u32..=32, a: u32, b: u32) {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            let network = Network { address: IpAddr::V4((a & mask).into()), bits };
            proptest::prop_assert_eq!(network.contains(IpAddr::V4(b.into())), a & mask == b & mask);
        }
    }
}
