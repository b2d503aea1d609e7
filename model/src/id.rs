//! Typed identifiers. One type per resource, so that a pool's id cannot be passed for a member's.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new random identifier (UUID version 4).
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    )*};
}

ids! {
    /// A load balancer.
    LoadBalancerId;
    /// A listener.
    ListenerId;
    /// A pool.
    PoolId;
    /// A member of a pool.
    MemberId;
    /// A health monitor.
    HealthMonitorId;
    /// An L7 policy.
    L7PolicyId;
    /// An L7 rule.
    L7RuleId;
    /// An amphora.
    AmphoraId;
    /// A network.
    NetworkId;
    /// A subnet.
    SubnetId;
    /// A port on a network.
    PortId;
    /// A run of a journaled flow.
    FlowId;
}

/// Content address of a certificate bundle: lower-case hex SHA-256 of its PEM text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CertificateId(String);

impl CertificateId {
    /// The address of `pem` (certificate chain followed by the key, as it is pushed).
    pub fn of(pem: &[u8]) -> Self {
        use aws_lc_rs::digest::{SHA256, digest};
        let hash = digest(&SHA256, pem);
        Self(
            hash.as_ref()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        )
    }

    /// The hex text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CertificateId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if text.len() == 64 && text.bytes().all(hex) {
            Ok(Self(text))
        } else {
            Err(format!(
                "certificate id {text:?} is not 64 lower-case hex digits (SHA-256)"
            ))
        }
    }
}

impl From<CertificateId> for String {
    fn from(id: CertificateId) -> Self {
        id.0
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
