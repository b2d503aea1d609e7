//! What the data of a flavor profile asks for. Read when a profile is written and again when a load
//! balancer is made of it, so that what is stored is never taken for more than it says.

use super::Error;
use super::profile_data::{self, shown};
use crate::config::Topology;
use serde_json::Value;

/// As the attribute is called.
pub const ATTRIBUTE: &str = "flavor_data";
/// The one key.
const TOPOLOGY: &str = "loadbalancer_topology";

/// Keys that have an effect, and upstream's words for them.
pub const CAPABILITIES: &[(&str, &str)] = &[(
    TOPOLOGY,
    "The load balancer topology. One of: SINGLE - One amphora per load balancer. \
     ACTIVE_STANDBY - Two amphora per load balancer.",
)];

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlavorData {
    /// How many amphorae; none leaves it to the controller's configuration.
    pub topology: Option<Topology>,
}

impl FlavorData {
    /// Reads the JSON text.
    ///
    /// # Errors
    /// 400: no JSON object, a key without effect, a value that the key does not have.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut data = Self::default();
        profile_data::read(text, ATTRIBUTE, TOPOLOGY, |value| {
            data.topology = Some(topology(value)?);
            Ok(())
        })?;
        Ok(data)
    }
}

fn topology(value: &Value) -> Result<Topology, Error> {
    let all = [Topology::Single, Topology::ActiveStandby];
    let found = all.into_iter().find(|t| value.as_str() == Some(t.as_str()));
    found.ok_or_else(|| {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        Error::option(shown(&text), TOPOLOGY)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let error = FlavorData::parse(text).unwrap_err();
        assert_eq!(error.status().as_u16(), 400, "{text}");
        error.to_string()
    }

    #[test]
    fn topologies_are_read() {
        let of = |text: &str| FlavorData::parse(text).unwrap().topology;
        assert_eq!(of("{}"), None);
        assert_eq!(
            of(r#"{"loadbalancer_topology": "SINGLE"}"#),
            Some(Topology::Single)
        );
        assert_eq!(
            of("{\n\"loadbalancer_topology\":\n\"ACTIVE_STANDBY\"}"),
            Some(Topology::ActiveStandby)
        );
    }

    #[test]
    fn all_else_is_refused_by_name() {
        for text in ["", "{", "[]", "null", "\"SINGLE\"", "7", "{} {}"] {
            let said = refusal(text);
            assert_eq!(
                said,
                format!("{text} is not a valid option for flavor_data")
            );
        }
        for value in ["\"single\"", "\"\"", "null", "true", "[\"SINGLE\"]"] {
            let said = refusal(&format!("{{\"loadbalancer_topology\": {value}}}"));
            let value = value.trim_matches('"');
            assert_eq!(
                said,
                format!("{value} is not a valid option for loadbalancer_topology")
            );
        }
        for key in ["compute_flavor", "amp_image_tag", "sriov_vip", "colour", ""] {
            let text = format!("{{\"loadbalancer_topology\": \"SINGLE\", \"{key}\": false}}");
            let said = refusal(&text);
            assert!(
                said.ends_with(&format!("not supported yet: {key}")),
                "{said}"
            );
        }
        assert!(refusal(&"[".repeat(profile_data::MAX)).len() < 512);
        assert!(refusal(&format!("{{\"{}\": 1}}", "ü".repeat(2000))).len() < 1024);
    }
}
