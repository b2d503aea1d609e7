//! What Octavia's API has and Krater does not have yet. The refusals and the README's list are
//! made from this one table; keys of `flavor_data` are refused because `flavor_data` does not know them.

/// Resource, attribute or value, and what it would do.
pub const NOT_SUPPORTED: &[(&str, &str, &str)] = &[
    ("loadbalancer", "vip_qos_policy_id", "QoS policies"),
    ("loadbalancer", "vip_sg_ids", "security groups on the VIP"),
    ("listener", "protocol UDP", "UDP listeners"),
    ("listener", "protocol SCTP", "SCTP listeners"),
    ("listener", "protocol PROMETHEUS", "metrics listeners"),
    ("pool", "protocol UDP", "UDP pools"),
    ("pool", "protocol SCTP", "SCTP pools"),
    (
        "flavorprofile",
        "flavor_data compute_flavor",
        "Nova's flavors",
    ),
    (
        "flavorprofile",
        "flavor_data amp_image_tag",
        "Glance's images",
    ),
    ("flavorprofile", "flavor_data sriov_vip", "SR-IOV ports"),
    (
        "flavorprofile",
        "flavor_data allow_member_sriov",
        "SR-IOV ports",
    ),
    (
        "availability_zone_profile",
        "availability_zone_data compute_zone",
        "zones of compute hosts",
    ),
    (
        "availability_zone_profile",
        "availability_zone_data volume_zone",
        "volumes",
    ),
    (
        "availability_zone_profile",
        "availability_zone_data management_network",
        "management networks of tenants' amphorae",
    ),
    ("amphora", "config", "pushing an agent's own configuration"),
    ("key manager", "acl", "who may read a secret"),
    ("key manager", "cas", "certificate authorities"),
    ("key manager", "consumers", "who uses a secret"),
    ("key manager", "metadata", "pairs of names and values"),
    ("key manager", "orders", "secrets made by the server"),
    ("key manager", "secret-stores", "a choice of stores"),
];

/// Attributes of a resource that are refused when they are given a value.
pub fn attributes(resource: &str) -> impl Iterator<Item = &'static str> {
    NOT_SUPPORTED
        .iter()
        .filter(move |(of, what, _)| *of == resource && !what.contains(' '))
        .map(|(_, what, _)| *what)
}

/// Whether a value of an attribute (`protocol UDP`) is refused.
pub fn value(resource: &str, what: &str) -> bool {
    NOT_SUPPORTED
        .iter()
        .any(|(of, listed, _)| *of == resource && *listed == what)
}

/// The README's list, in Markdown: a line for each resource.
pub fn markdown() -> String {
    let mut lines: Vec<(&str, Vec<String>)> = Vec::new();
    for (resource, what, _) in NOT_SUPPORTED {
        let shown = format!("`{what}`");
        match lines.iter_mut().find(|(known, _)| known == resource) {
            Some((_, all)) => all.push(shown),
            None => lines.push((resource, vec![shown])),
        }
    }
    let line =
        |(resource, all): &(&str, Vec<String>)| format!("- {resource}: {}\n", all.join(", "));
    lines.iter().map(line).collect()
}
