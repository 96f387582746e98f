//! Which arm a client is on. Pure. The bucket is a fixed function of route and key, so a key that is admitted at 1 % is
//! still admitted at 5 %, on every replica and after every restart, and it knows nothing of the shadow's sample.

use std::net::IpAddr;

use http::HeaderMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::config::process::Cidr;
use crate::config::routing::CanaryRule;
use crate::types::Arm;

/// Buckets: hundredths of a per cent.
const BUCKETS: u64 = 10_000;

/// Where a key of a route falls, 0 to 9999.
pub fn bucket(route: &str, key: &str) -> u16 {
    let hash = xxh3_64_with_seed(key.as_bytes(), xxh3_64(route.as_bytes()));
    u16::try_from(hash % BUCKETS).unwrap_or(0)
}

/// What a request was assigned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assigned {
    /// The arm.
    pub arm: Arm,
    /// Where the key fell; none without a key.
    pub bucket: Option<u16>,
}

/// Assigns a request; `chance` decides where there is no key.
pub fn assign(route: &str, rule: Option<&CanaryRule>, key: Option<&str>, chance: u16) -> Assigned {
    let Some(rule) = rule else { return Assigned { arm: Arm::Prod, bucket: None } };
    let bucket = key.map(|key| bucket(route, key));
    let canary = bucket.unwrap_or(chance) < rule.percent.basis_points();
    Assigned { arm: if canary { Arm::Canary } else { Arm::Prod }, bucket }
}

/// The client's address: the peer's, or behind trusted peers the last address in `x-forwarded-for` that none of them
/// has.
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[Cidr]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(peer) {
        return peer.to_canonical();
    }
    let lines = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let listed: Vec<IpAddr> = lines.flat_map(|line| line.split(',')).filter_map(|text| address(text.trim())).collect();
    let client = listed.iter().rev().find(|address| !is_trusted(**address)).or(listed.first());
    client.copied().unwrap_or(peer).to_canonical()
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    bare().or_else(with_port).or_else(bracketed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Percent;

    #[test]
    fn buckets_are_fixed() {
        // Other programs join on these: a change of the formula is a change of the contract. From xxhash 3.x for Python:
        // xxh3_64_intdigest(key, seed=xxh3_64_intdigest(b"r")) % 10000.
        let known = [("u1", 9235), ("user-42", 5389), ("7", 2385), ("ключ", 4573)];
        assert_eq!(known.map(|(key, _)| bucket("r", key)), known.map(|(_, bucket)| bucket));
        assert_ne!(bucket("r", "u1"), bucket("s", "u1"), "routes are independent of one another");
    }

    #[test]
    fn a_hundred_thousand_keys_spread_evenly_over_the_buckets() {
        let mut tenths = [0_u32; 10];
        for key in 0..100_000 {
            tenths[usize::from(bucket("fraud", &format!("user-{key}"))) / 1000] += 1;
        }
        // Chi-square with 9 degrees of freedom: 27.88 is its 99.9 % quantile.
        let chi: f64 = tenths.iter().map(|n| (f64::from(*n) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi < 27.88, "{chi}: {tenths:?}");
    }

    #[test]
    fn keys_admitted_at_one_per_cent_stay_admitted_at_five() {
        let admitted = |key: &str, points| {
            bucket("fraud", key) < Percent::from_basis_points(points).map_or(0, Percent::basis_points)
        };
        let keys: Vec<String> = (0..100_000).map(|key| format!("k{key}")).collect();
        let (one, five) =
            (keys.iter().filter(|k| admitted(k, 100)).count(), keys.iter().filter(|k| admitted(k, 500)).count());
        assert!(keys.iter().all(|key| !admitted(key, 100) || admitted(key, 500)));
        // Four standard deviations of the binomial.
        assert!((874..=1126).contains(&one), "{one}");
        assert!((4724..=5276).contains(&five), "{five}");
    }

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        let trusted = [Cidr { network: IpAddr::from([10, 0, 0, 0]), prefix: 8 }];
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", http::HeaderValue::from_static("1.1.1.1, 2.2.2.2"));
        headers.append("x-forwarded-for", http::HeaderValue::from_static("10.0.0.7"));
        let of = |peer: [u8; 4]| client_ip(IpAddr::from(peer), &headers, &trusted);
        assert_eq!(of([10, 0, 0, 1]), IpAddr::from([2, 2, 2, 2]));
        assert_eq!(of([9, 9, 9, 9]), IpAddr::from([9, 9, 9, 9]));
    }
}
