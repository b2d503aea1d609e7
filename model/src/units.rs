//! Numbers with a unit and a range. Built only through checked constructors.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

macro_rules! ranged {
    ($($(#[$doc:meta])* $name:ident: $repr:ident in $min:literal ..= $max:literal, $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name($repr);

        impl $name {
            /// The smallest value.
            pub const MIN: Self = Self($min);
            /// The largest value.
            pub const MAX: Self = Self($max);

            /// Checks the range.
            pub fn new(value: u64) -> Result<Self, String> {
                match $repr::try_from(value) {
                    Ok(small) if ($min..=$max).contains(&small) => Ok(Self(small)),
                    _ => Err(format!(
                        "{} {value} is out of range: use {} to {}", $what, $min, $max
                    )),
                }
            }
            /// The plain number.
            pub const fn value(self) -> $repr {
                self.0
            }
        }
        impl TryFrom<u64> for $name {
            type Error = String;
            fn try_from(value: u64) -> Result<Self, Self::Error> {
                Self::new(value)
            }
        }
        impl From<$name> for u64 {
            fn from(value: $name) -> Self {
                Self::from(value.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ranged! {
    /// A TCP or UDP port that can be listened on or connected to.
    Port: u16 in 1 ..= 65535, "port";
    /// A member's weight; 0 drains it.
    Weight: u16 in 0 ..= 256, "weight";
    /// Virtual router identifier (RFC 9568 section 5.2.3).
    Vrid: u8 in 1 ..= 255, "virtual router id";
    /// VRRP priority: 255 is the address owner; 0 (resigning) is never configured.
    Priority: u8 in 1 ..= 255, "priority";
    /// TTL or hop limit; 255 only ever comes from the same link.
    HopLimit: u8 in 1 ..= 255, "hop limit";
    /// VRRP protocol version.
    VrrpVersion: u8 in 2 ..= 3, "VRRP version";
    /// VRRPv3 advertisement interval in centiseconds (12 bits, RFC 9568 section 5.2.7).
    Centiseconds: u16 in 1 ..= 4095, "advertisement interval in centiseconds";
    /// Consecutive probe results that change a member's health.
    ProbeCount: u8 in 1 ..= 10, "probe count";
    /// An HTTP status code.
    StatusCode: u16 in 100 ..= 599, "HTTP status";
}

impl Priority {
    /// The address owner's.
    pub const OWNER: Self = Self::MAX;
}

impl VrrpVersion {
    /// RFC 3768, with the password of RFC 2338.
    pub const V2: Self = Self::MIN;
    /// RFC 9568.
    pub const V3: Self = Self::MAX;
}

impl Default for HopLimit {
    fn default() -> Self {
        Self::MAX
    }
}

impl Default for VrrpVersion {
    fn default() -> Self {
        Self::V3
    }
}

impl Centiseconds {
    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 10)
    }
}

/// Milliseconds, at most 24 days as Octavia allows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct Millis(u32);

impl Millis {
    /// The largest value: 24 days.
    pub const MAX: u32 = 2_073_600_000;

    /// Checks the range.
    pub fn new(value: u64) -> Result<Self, String> {
        match u32::try_from(value) {
            Ok(small) if small <= Self::MAX => Ok(Self(small)),
            _ => Err(format!(
                "{value} ms is out of range: use 0 to {}",
                Self::MAX
            )),
        }
    }
    /// A constant; fails to compile when used in a const context with a value out of range.
    pub const fn literal(value: u32) -> Self {
        assert!(value <= Self::MAX);
        Self(value)
    }
    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }
    /// The plain number.
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl TryFrom<u64> for Millis {
    type Error = String;
    fn try_from(value: u64) -> Result<Self, Self::Error> {
        Self::new(value)
    }
}
impl From<Millis> for u64 {
    fn from(value: Millis) -> Self {
        Self::from(value.0)
    }
}

/// Raised when a controller's database was restored: every generation of a later epoch is newer.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Counts the desired states of one amphora within an epoch.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// What orders desired states: *(epoch, generation)*, compared in this order.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Revision {
    /// See [`Epoch`].
    pub epoch: Epoch,
    /// See [`Generation`].
    pub generation: Generation,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch.0, self.generation.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_at_their_edges() {
        assert!(Port::new(0).is_err() && Port::new(65_536).is_err());
        assert_eq!(Port::new(65_535).unwrap().value(), 65_535);
        assert!(Weight::new(257).is_err() && Weight::new(0).is_ok());
        assert!(Priority::new(256).is_err() && Priority::new(0).is_err());
        assert_eq!(Priority::new(255), Ok(Priority::OWNER));
        assert!(VrrpVersion::new(1).is_err() && VrrpVersion::new(4).is_err());
        assert!(Centiseconds::new(4_096).is_err());
        assert_eq!(
            Centiseconds::new(10).unwrap().duration(),
            Duration::from_millis(100)
        );
        assert!(Millis::new(2_073_600_001).is_err());
    }

    #[test]
    fn refusal_names_value_and_range() {
        let text = serde_json::from_str::<Port>("70000")
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("port 70000 is out of range: use 1 to 65535"),
            "{text}"
        );
    }

    #[test]
    fn a_later_epoch_beats_any_generation() {
        let old = Revision {
            epoch: Epoch(1),
            generation: Generation(900),
        };
        let new = Revision {
            epoch: Epoch(2),
            generation: Generation(1),
        };
        assert!(new > old);
    }
}
