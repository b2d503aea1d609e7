//! A set of networks. Whether an address is in it takes a binary search, however many networks a tenant
//! lists: it is asked for each connection.

use ipnet::IpNet;
use std::net::IpAddr;

/// Networks of both families, as ranges that are sorted and do not overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Networks {
    /// Of any networks, in any order.
    pub fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(net) => v4.push((net.network().into(), net.broadcast().into())),
                IpNet::V6(net) => v6.push((net.network().into(), net.broadcast().into())),
            }
        }
        Self {
            v4: merged(v4),
            v6: merged(v6),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether one of them has the address. IPv4-mapped addresses count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => within(&self.v4, v4.into()),
            IpAddr::V6(v6) => within(&self.v6, v6.into()),
        }
    }
}

/// Sorted, and those that overlap made one.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut out: Vec<(T, T)> = Vec::new();
    for (first, last) in ranges {
        match out.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => out.push((first, last)),
        }
    }
    out.shrink_to_fit();
    out
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], at: T) -> bool {
    let begun = ranges.partition_point(|(first, _)| *first <= at);
    let nearest = begun.checked_sub(1).and_then(|last| ranges.get(last));
    nearest.is_some_and(|(_, last)| at <= *last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn networks(texts: &[&str]) -> Networks {
        let parsed: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
        Networks::new(&parsed)
    }

    #[test]
    fn edges() {
        let set = networks(&["192.0.2.8/29", "192.0.2.64/32", "2001:db8::/127"]);
        let has = |ip: &str| set.contains(ip.parse().unwrap());
        assert!(has("192.0.2.8") && has("192.0.2.15") && has("192.0.2.64"));
        assert!(!has("192.0.2.7") && !has("192.0.2.16") && !has("192.0.2.63"));
        assert!(has("2001:db8::") && has("2001:db8::1") && !has("2001:db8::2"));
        assert!(has("::ffff:192.0.2.9") && !has("::192.0.2.9"));
        let all = networks(&["0.0.0.0/0", "::/0"]);
        for ip in [
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert!(all.contains(ip.parse().unwrap()), "{ip}");
        }
        assert!(!all.is_empty() && networks(&[]).is_empty());
        assert!(!networks(&[]).contains(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }

    #[test]
    fn what_overlaps_is_one() {
        let set = networks(&["10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/8", "10.255.0.0/16"]);
        assert_eq!(set, networks(&["10.0.0.0/8"]));
    }

    /// Near each other, so that networks overlap and addresses hit; host bits may be set.
    fn network() -> impl Strategy<Value = IpNet> {
        let v4 = (0_u32..1 << 12, 16_u8..=32).prop_map(|(low, length)| {
            let ip = Ipv4Addr::from(0xc000_0000 | low << 8);
            IpNet::new(ip.into(), length).unwrap()
        });
        let v6 = (0_u128..1 << 12, 100_u8..=128).prop_map(|(low, length)| {
            let ip = Ipv6Addr::from(0x2001_0db8_u128 << 96 | low << 8);
            IpNet::new(ip.into(), length).unwrap()
        });
        prop_oneof![
            v4,
            v6,
            any::<(u32, u8)>().prop_map(|(ip, length)| {
                IpNet::new(Ipv4Addr::from(ip).into(), length % 33).unwrap()
            })
        ]
    }

    proptest! {
        /// The search agrees with looking at one network after the other, at and around all edges too.
        #[test]
        fn agrees_with_a_linear_search(
            list in prop::collection::vec(network(), 0..40),
            low in any::<u32>(), high in any::<u128>(), mapped in any::<bool>(),
        ) {
            let set = Networks::new(&list);
            let mut asked = vec![
                IpAddr::V4((0xc000_0000 | low >> 12).into()),
                IpAddr::V4(low.into()),
                IpAddr::V6(high.into()),
            ];
            for net in &list {
                for edge in [net.network(), net.broadcast()] {
                    asked.push(edge);
                    match edge {
                        IpAddr::V4(ip) => {
                            asked.push(IpAddr::V4(u32::from(ip).wrapping_add(1).into()));
                            asked.push(IpAddr::V4(u32::from(ip).wrapping_sub(1).into()));
                        }
                        IpAddr::V6(ip) => {
                            asked.push(IpAddr::V6(u128::from(ip).wrapping_add(1).into()));
                            asked.push(IpAddr::V6(u128::from(ip).wrapping_sub(1).into()));
                        }
                    }
                }
            }
            for ip in asked {
                let by_list = list.iter().any(|net| net.contains(&ip.to_canonical()));
                let ip = match ip {
                    IpAddr::V4(v4) if mapped => IpAddr::V6(v4.to_ipv6_mapped()),
                    ip => ip,
                };
                prop_assert_eq!(set.contains(ip), by_list, "{} in {:?}", ip, list);
            }
        }
    }
}
