//! Weighted rendezvous hashing: each candidate draws a score from (client, member id); the highest
//! `-weight / ln(draw)` wins. When a member goes, only its clients move, and they spread by weight;
//! when one comes, it takes its share evenly from all.

use super::Candidate;
use std::net::IpAddr;

/// Chooses by client address, and port if given.
pub fn choose<'a, C: Candidate + 'a>(
    candidates: impl Iterator<Item = &'a C>,
    ip: IpAddr,
    port: Option<u16>,
) -> Option<&'a C> {
    let bits = match ip.to_canonical() {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let (high, low) = halves(bits);
    let client = mix(mix(high) ^ low) ^ port.map_or(0, |port| mix(u64::from(port) | 1 << 32));
    let score = |c: &C| {
        let (high, low) = halves(c.conf().id.0.as_u128());
        let draw = mix(client ^ mix(high ^ mix(low)));
        // 52 bits are exact in an f64; half a step keeps the draw inside (0, 1).
        let unit = (exact(draw >> 12) + 0.5) / exact(1 << 52);
        -f64::from(c.weight()) / unit.ln()
    };
    candidates
        .map(|c| (c, score(c)))
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(c, _)| c)
}

/// The finalizer of splitmix64: a bijection that spreads every bit.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn halves(x: u128) -> (u64, u64) {
    let bytes = x.to_be_bytes();
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    (high, u64::from_be_bytes([i, j, k, l, m, n, o, p]))
}

/// `x` as a float; exact because callers pass at most 53 bits.
fn exact(x: u64) -> f64 {
    let high = u32::try_from(x >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(x & 0xffff_ffff).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}
