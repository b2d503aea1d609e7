//! Liveness heartbeats between vrrp processes: UDP, port 5556, from and to the addresses of adverts.
//!
//! `magic "KRLV" · version 2 · flags (1: leaving, 2: poor) · interval in ms (16 bits) · boot · sequence · boot and sequence
//! of the peer's last heartbeat, or zeros · term (64 bits each, big endian) · strays (32 bits) · best (8 bits) · three zeros ·
//! HMAC-SHA256, first half`. The HMAC covers
//! both addresses and all before it, so that what is sent back to its sender, or between other peers, is refused.
//! What is replayed is refused by the session, which knows boots and sequences.

use crate::secret::Secret;
use crate::wire::heartbeat::Dropped;
use aws_lc_rs::hmac;
use std::net::IpAddr;

/// UDP port of both ends.
pub const PORT: u16 = 5556;
/// Bytes of a heartbeat.
pub const LENGTH: usize = SIGNED + TAG;
/// Milliseconds between heartbeats: below, a scheduler's hiccup is silence; above, silence takes too long.
pub const INTERVALS: std::ops::RangeInclusive<u16> = 10..=50;
const MAGIC: &[u8; 4] = b"KRLV";
const VERSION: u8 = 2;
const SIGNED: usize = 56;
/// Half of the hash (RFC 2104 section 5).
const TAG: usize = 16;
const LEAVING: u8 = 1;
const POOR: u8 = 2;

/// What an end says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// It ends, as planned: its silence from now on means nothing.
    pub leaving: bool,
    /// Milliseconds until its next one.
    pub interval: u16,
    /// New at each start of the process; never 0.
    pub boot: u64,
    /// Grows within a boot, from 1.
    pub sequence: u64,
    /// Boot and sequence of the last one that it heard from the other end.
    pub heard: Option<(u64, u64)>,
    /// How its virtual routers stand.
    pub report: Report,
}

/// What an end tells of its virtual routers, of all of them with these addresses together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Its data plane has members, and none of them is up.
    pub poor: bool,
    /// The highest term that it knows.
    pub term: u64,
    /// So often (since its start, wrapping) it was a Backup and got what was sent to an address that it moves: a neighbour did
    /// not hear that the address is elsewhere.
    pub strays: u32,
    /// The highest priority of those that may take over; 0: none may.
    pub best: u8,
}

impl Heartbeat {
    /// The datagram.
    pub fn encode(&self, key: &Secret, from: IpAddr, to: IpAddr) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        let (heard_boot, heard_sequence) = self.heard.unwrap_or_default();
        let flag = |is: bool, bit: u8| if is { bit } else { 0 };
        let flags = flag(self.leaving, LEAVING) | flag(self.report.poor, POOR);
        let fields = [
            &MAGIC[..],
            &[VERSION, flags],
            &self.interval.to_be_bytes(),
            &self.boot.to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &heard_boot.to_be_bytes(),
            &heard_sequence.to_be_bytes(),
            &self.report.term.to_be_bytes(),
            &self.report.strays.to_be_bytes(),
            &[self.report.best, 0, 0, 0],
        ];
        let signed = fields.into_iter().flatten();
        out.iter_mut()
            .zip(signed)
            .for_each(|(to, from)| *to = *from);
        let (signed, tag) = out.split_at_mut(SIGNED);
        let sum = sum(key, from, to, signed);
        tag.iter_mut()
            .zip(sum.as_ref())
            .for_each(|(to, from)| *to = *from);
        out
    }

    /// Checks and reads a datagram. Nothing is believed before the HMAC is right.
    pub fn decode(
        datagram: &[u8],
        key: &Secret,
        from: IpAddr,
        to: IpAddr,
    ) -> Result<Self, Dropped> {
        let datagram: &[u8; LENGTH] = datagram.try_into().map_err(|_| Dropped::Truncated)?;
        let (signed, tag) = datagram.split_at(SIGNED);
        if !signed.starts_with(MAGIC) {
            return Err(Dropped::Magic);
        }
        if signed.get(4) != Some(&VERSION) {
            return Err(Dropped::Version);
        }
        let right = sum(key, from, to, signed);
        let right = right.as_ref().get(..TAG).unwrap_or_default();
        aws_lc_rs::constant_time::verify_slices_are_equal(right, tag).map_err(|_| Dropped::Hmac)?;
        let number = |at: usize| {
            let bytes = signed
                .get(at..at + 8)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_be_bytes)
        };
        let [.., flags, high, low] = *signed.first_chunk::<8>().ok_or(Dropped::Truncated)?;
        let [s0, s1, s2, s3, best, zeros @ ..] = number(48).to_be_bytes();
        let beat = Self {
            leaving: flags & LEAVING != 0,
            interval: u16::from_be_bytes([high, low]),
            boot: number(8),
            sequence: number(16),
            heard: Some((number(24), number(32))).filter(|(boot, _)| *boot != 0),
            report: Report {
                poor: flags & POOR != 0,
                term: number(40),
                strays: u32::from_be_bytes([s0, s1, s2, s3]),
                best,
            },
        };
        let never = beat.boot == 0 || beat.sequence == 0 || zeros != [0; 3];
        let half = beat
            .heard
            .map_or_else(|| number(32) != 0, |(_, sequence)| sequence == 0);
        if flags > LEAVING | POOR || never || half || !INTERVALS.contains(&beat.interval) {
            return Err(Dropped::Body);
        }
        Ok(beat)
    }
}

fn sum(key: &Secret, from: IpAddr, to: IpAddr, signed: &[u8]) -> hmac::Tag {
    let mut context =
        hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes()));
    for address in [from, to] {
        match address {
            IpAddr::V4(v4) => context.update(&v4.octets()),
            IpAddr::V6(v6) => context.update(&v6.octets()),
        }
    }
    context.update(signed);
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (Secret, IpAddr, IpAddr) {
        let ip = |text: &str| text.parse().unwrap();
        (
            Secret::new("0123456789abcdef"),
            ip("192.0.2.1"),
            ip("192.0.2.2"),
        )
    }

    #[test]
    fn round_trip_and_every_damage_is_refused() {
        let (key, a, b) = ends();
        let reports = [false, true].map(|poor| Report {
            poor,
            term: u64::from(poor) * 0x0102_0304_0506_0708,
            strays: 0x090a_0b0c,
            best: 254,
        });
        for heard in [None, Some((7, 9))] {
            for (leaving, report) in [(false, 0), (true, 1), (false, 1), (true, 0)] {
                let report = reports[report];
                let beat = Heartbeat {
                    leaving,
                    interval: 30,
                    boot: 5,
                    sequence: 6,
                    heard,
                    report,
                };
                let bytes = beat.encode(&key, a, b);
                assert_eq!(Heartbeat::decode(&bytes, &key, a, b), Ok(beat));
                // Sent back to its sender, and with another key.
                assert_eq!(Heartbeat::decode(&bytes, &key, b, a), Err(Dropped::Hmac));
                let other = Secret::new("another key, 16+");
                assert_eq!(Heartbeat::decode(&bytes, &other, a, b), Err(Dropped::Hmac));
                for length in 0..bytes.len() {
                    assert!(Heartbeat::decode(&bytes[..length], &key, a, b).is_err());
                }
                for at in 0..bytes.len() * 8 {
                    let mut changed = bytes;
                    changed[at / 8] ^= 1 << (at % 8);
                    assert!(Heartbeat::decode(&changed, &key, a, b).is_err(), "bit {at}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_though_authentic() {
        let (key, a, b) = ends();
        let good = Heartbeat {
            leaving: false,
            interval: 30,
            boot: 5,
            sequence: 6,
            heard: None,
            report: Report::default(),
        };
        for wrong in [
            Heartbeat {
                interval: 9,
                ..good
            },
            Heartbeat {
                interval: 51,
                ..good
            },
            Heartbeat { boot: 0, ..good },
            Heartbeat {
                sequence: 0,
                ..good
            },
            Heartbeat {
                heard: Some((0, 1)),
                ..good
            },
            Heartbeat {
                heard: Some((1, 0)),
                ..good
            },
        ] {
            let bytes = wrong.encode(&key, a, b);
            let read = Heartbeat::decode(&bytes, &key, a, b);
            assert_eq!(read, Err(Dropped::Body), "{wrong:?}");
        }
    }
}
