//! What the data of an availability zone profile asks for. Read when a profile is written and again when a load
//! balancer is made in the zone, so that what is stored is never taken for more than it says.

use super::Error;
use super::profile_data::{self, shown};
use serde_json::Value;

/// As the attribute is called.
pub const ATTRIBUTE: &str = "availability_zone_data";
/// The one key.
const NETWORKS: &str = "valid_vip_networks";

/// Keys that have an effect, and upstream's words for them.
pub const CAPABILITIES: &[(&str, &str)] = &[(
    NETWORKS,
    "List of network IDs that are allowed for VIP use. This overrides/replaces the list of allowed \
     networks configured in `octavia.conf`.",
)];

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ZoneData {
    /// Networks that a VIP may be on; none: all.
    pub networks: Vec<String>,
}

impl ZoneData {
    /// Reads the JSON text.
    ///
    /// # Errors
    /// 400: no JSON object, a key without effect, a value that the key does not have.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut data = Self::default();
        profile_data::read(text, ATTRIBUTE, NETWORKS, |value| {
            data.networks = networks(value)?;
            Ok(())
        })?;
        Ok(data)
    }

    /// 400 unless a VIP may be on the network.
    pub fn check(&self, network: &str) -> Result<(), Error> {
        let allowed = |id: &String| id.eq_ignore_ascii_case(network);
        if self.networks.is_empty() || self.networks.iter().any(allowed) {
            return Ok(());
        }
        Err(Error::validation(
            "Supplied VIP network_id is not allowed by the configuration of this deployment.",
        ))
    }
}

fn networks(value: &Value) -> Result<Vec<String>, Error> {
    let refuse = || Error::option(shown(&value.to_string()), NETWORKS);
    let list = value.as_array().ok_or_else(refuse)?;
    let id = |item: &Value| item.as_str().map(str::to_owned).ok_or_else(refuse);
    list.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_checked() {
        let data = ZoneData::parse(r#"{"valid_vip_networks": ["aB", "c"]}"#).unwrap();
        assert!(data.check("Ab").is_ok() && data.check("c").is_ok());
        assert!(data.check("d").is_err());
        for all in ["{}", r#"{"valid_vip_networks": []}"#] {
            assert!(ZoneData::parse(all).unwrap().check("d").is_ok());
        }
    }

    #[test]
    fn all_else_is_refused_by_name() {
        let refusal = |text: &str| {
            let error = ZoneData::parse(text).unwrap_err();
            assert_eq!(error.status().as_u16(), 400, "{text}");
            error.to_string()
        };
        for text in ["", "[]", "null", "7", "{} {}"] {
            let said = refusal(text);
            assert_eq!(
                said,
                format!("{text} is not a valid option for {ATTRIBUTE}")
            );
        }
        for value in ["\"a\"", "null", "[1]", "{}"] {
            let said = refusal(&format!("{{\"valid_vip_networks\": {value}}}"));
            assert!(
                said.ends_with("is not a valid option for valid_vip_networks"),
                "{said}"
            );
        }
        for key in ["compute_zone", "volume_zone", "management_network", "x"] {
            let said = refusal(&format!("{{\"{key}\": \"a\"}}"));
            assert!(
                said.ends_with(&format!("not supported yet: {key}")),
                "{said}"
            );
        }
        assert!(refusal(&"[".repeat(profile_data::MAX)).len() < 512);
    }
}
