//! Which addresses may be dialled: those of the public internet, unless private ones are allowed.
//!
//! The check stands in the resolver that the HTTP client dials from, so that what is checked is
//! what is dialled, whatever a name resolved to a moment before. A host that is an address never
//! comes to a resolver; [`check_host`] sees to it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// An address that must not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an address of the public internet; set allow_private to push to it all the same")]
pub(super) struct Blocked(pub(super) IpAddr);

/// Finds the addresses of a host.
pub(super) type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Asks the operating system.
pub(super) fn system_lookup() -> Lookup {
    Arc::new(|host| Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) }))
}

/// Refuses a URL whose host is an address that must not be dialled.
pub(super) fn check_host(url: &Url) -> Result<(), Blocked> {
    match url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok()) {
        Some(address) if !is_public(address) => Err(Blocked(address)),
        _ => Ok(()),
    }
}

/// Resolves names to addresses that may be dialled.
pub(super) struct PublicOnly(pub(super) Lookup);

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let found = (self.0)(name.as_str().to_owned());
        Box::pin(async move {
            let (public, private): (Vec<_>, Vec<_>) = found.await?.into_iter().partition(|at| is_public(at.ip()));
            match private.first() {
                // One public address among private ones is dialled: the private ones are not.
                Some(address) if public.is_empty() => Err(Blocked(address.ip()).into()),
                _ => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}

/// Whether an address belongs to the public internet: none of the special-purpose registries of
/// RFC 6890, and not one of those wrapped into an IPv6 form.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = a == 0 // this network
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local() // cloud metadata among them
        || (a == 100 && b & 0xc0 == 64) // carrier-grade NAT, RFC 6598
        || (a == 192 && b == 0 && c == 0) // protocol assignments
        || (a == 192 && b == 88 && c == 99) // 6to4 relays
        || address.is_documentation()
        || (a == 198 && b & 0xfe == 18) // benchmarks, RFC 2544
        || address.is_multicast()
        || a >= 240; // reserved, broadcast
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(v4) = wrapped_v4(address) {
        return is_public_v4(v4);
    }
    let s = address.segments();
    // Only global unicast is routed; within it some blocks are not.
    s[0] & 0xe000 == 0x2000
        && !(s[0] == 0x2001 && s[1] < 0x0200) // protocol assignments, Teredo and ORCHID among them
        && !(s[0] == 0x2001 && s[1] == 0x0db8) // documentation
        && !(s[0] == 0x3fff && s[1] < 0x1000) // documentation, RFC 9637
}

/// The IPv4 address that a mapped, compatible, NAT64 or 6to4 address leads to.
fn wrapped_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let from = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        // Mapped, and the deprecated compatible form, which takes in :: and ::1; translated, RFC
        // 2765; NAT64's well-known prefix, and its local one, which may stand for anything.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // 6to4.
        | [0x2002, high, low, ..] => Some(from(high, low)),
        [0x64, 0xff9b, 1, ..] => Some(Ipv4Addr::LOCALHOST),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.32.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::8.8.8.8",
            "2002:0808:0808::1",
        ] {
            assert!(is_public(public.parse().expect(public)), "{public}");
        }
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2001:10::1",
            "100::1",
            "3fff:fff::1",
            "5f00::1",
        ] {
            assert!(!is_public(private.parse().expect(private)), "{private}");
        }
    }

    #[test]
    fn hosts_that_are_addresses_are_checked_in_every_spelling() {
        for private in [
            "https://127.0.0.1/",
            "https://[::1]:8443/x",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest",
        ] {
            assert!(check_host(&Url::parse(private).expect(private)).is_err(), "{private}");
        }
        for fine in ["https://example.com/", "https://1.1.1.1/", "https://[2606:4700::1111]/", "https://localhost/"] {
            assert_eq!(check_host(&Url::parse(fine).expect(fine)), Ok(()), "{fine}");
        }
    }
}
