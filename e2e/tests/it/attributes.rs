//! Every attribute that the API lets clients change, and every deletion, with the test that sees its effect. The table is compared with the
//! API's own document: an attribute without an entry fails, and so does an entry whose test is not there.

use crate::story::Story;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

mod plain;
mod secure;

/// Where an effect is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// In traffic, by [`plain`]: its test fails when it did not change it.
    Plain,
    /// In traffic, by [`secure`], in the same way.
    Secure,
    /// It is for people: what was written is what is shown, in [`plain`].
    Shown,
    /// Not in traffic but in what load balancers may be made, or how: by this test of the controller.
    Made(&'static str),
    /// In traffic, or in what is left, by this test of its own.
    There(&'static str),
    /// Refused with "not supported yet", by this test of the controller.
    Refused(&'static str),
}
use Seen::{Made, Plain, Refused, Secure, Shown, There};

const UNSUPPORTED: Seen = Refused("unsupported::every_entry_of_the_table_is_refused_by_name");
const FLAVOR: Seen = Made("flavors::a_flavor_is_made_shown_changed_and_removed");
const FLAVOR_OF_USE: Seen = Made("flavors::a_flavor_decides_the_topology_of_its_load_balancers");
const ZONE: Seen = Made("zones::a_zone_is_made_shown_changed_and_removed_by_its_name");
const ZONE_OF_USE: Seen = Made("zones::a_zone_decides_on_which_networks_its_vips_are");
const COUNTED: Seen = Made("quota::every_kind_is_counted");
const QUOTA: Seen = Made("quota::limits_are_stored_shown_and_reset");

/// By resource, as bodies name it.
const EFFECTS: &[(&str, &[(&str, Seen)])] = &[
    (
        "loadbalancer",
        &[
            ("name", Shown),
            ("description", Shown),
            ("tags", Shown),
            ("admin_state_up", Plain),
            ("vip_qos_policy_id", UNSUPPORTED),
            ("vip_sg_ids", UNSUPPORTED),
        ],
    ),
    (
        "listener",
        &[
            ("name", Shown),
            ("description", Shown),
            ("tags", Shown),
            ("admin_state_up", Plain),
            ("allowed_cidrs", Plain),
            ("connection_limit", Plain),
            ("default_pool_id", Plain),
            ("insert_headers", Plain),
            ("timeout_client_data", Plain),
            ("timeout_member_connect", Plain),
            ("timeout_member_data", Plain),
            ("timeout_tcp_inspect", Plain),
            ("alpn_protocols", Secure),
            ("client_authentication", Secure),
            ("client_ca_tls_container_ref", Secure),
            ("client_crl_container_ref", Secure),
            ("default_tls_container_ref", Secure),
            ("hsts_include_subdomains", Secure),
            ("hsts_max_age", Secure),
            ("hsts_preload", Secure),
            ("sni_container_refs", Secure),
            ("tls_ciphers", Secure),
            ("tls_versions", Secure),
        ],
    ),
    (
        "pool",
        &[
            ("name", Shown),
            ("description", Shown),
            ("tags", Shown),
            ("admin_state_up", Plain),
            ("lb_algorithm", Plain),
            ("session_persistence", Plain),
            ("alpn_protocols", Secure),
            ("ca_tls_container_ref", Secure),
            ("crl_container_ref", Secure),
            ("tls_ciphers", Secure),
            ("tls_container_ref", Secure),
            ("tls_enabled", Secure),
            ("tls_versions", Secure),
        ],
    ),
    (
        "member",
        &[
            ("name", Shown),
            ("tags", Shown),
            ("admin_state_up", Plain),
            ("backup", Plain),
            ("monitor_address", Plain),
            ("monitor_port", Plain),
            ("weight", Plain),
        ],
    ),
    (
        "healthmonitor",
        &[
            ("name", Shown),
            ("tags", Shown),
            ("admin_state_up", Plain),
            ("delay", Plain),
            ("domain_name", Plain),
            ("expected_codes", Plain),
            ("http_method", Plain),
            ("http_version", Plain),
            ("max_retries", Plain),
            ("max_retries_down", Plain),
            ("timeout", Plain),
            ("url_path", Plain),
        ],
    ),
    (
        "l7policy",
        &[
            ("name", Shown),
            ("description", Shown),
            ("tags", Shown),
            ("action", Plain),
            ("admin_state_up", Plain),
            ("position", Plain),
            ("redirect_http_code", Plain),
            ("redirect_pool_id", Plain),
            ("redirect_prefix", Plain),
            ("redirect_url", Plain),
        ],
    ),
    (
        "rule",
        &[
            ("tags", Shown),
            ("admin_state_up", Plain),
            ("compare_type", Plain),
            ("invert", Plain),
            ("key", Plain),
            ("type", Plain),
            ("value", Plain),
        ],
    ),
    (
        "flavorprofile",
        &[
            (
                "name",
                Made("flavors::a_profile_is_made_shown_changed_and_removed"),
            ),
            (
                "provider_name",
                Made("flavors::a_profile_is_made_shown_changed_and_removed"),
            ),
            ("flavor_data", FLAVOR_OF_USE),
        ],
    ),
    (
        "flavor",
        &[
            ("name", FLAVOR),
            ("description", FLAVOR),
            (
                "enabled",
                Made("flavors::a_flavor_that_cannot_be_used_makes_no_load_balancer"),
            ),
        ],
    ),
    (
        "availability_zone_profile",
        &[
            (
                "name",
                Made("zones::a_profile_is_made_shown_changed_and_removed"),
            ),
            (
                "provider_name",
                Made("zones::a_profile_is_made_shown_changed_and_removed"),
            ),
            ("availability_zone_data", ZONE_OF_USE),
        ],
    ),
    (
        "availability_zone",
        &[("description", ZONE), ("enabled", ZONE_OF_USE)],
    ),
    (
        "quota",
        &[
            ("loadbalancer", COUNTED),
            ("load_balancer", QUOTA),
            ("listener", COUNTED),
            ("pool", COUNTED),
            ("member", COUNTED),
            ("healthmonitor", COUNTED),
            ("health_monitor", QUOTA),
            ("l7policy", COUNTED),
            ("l7rule", COUNTED),
            // The project of the path, or refused.
            ("project_id", QUOTA),
            ("tenant_id", QUOTA),
        ],
    ),
];

/// Paths of the document that can be deleted.
const DELETIONS: &[(&str, Seen)] = &[
    (
        "/v1/containers/{id}",
        Made("secrets::containers_hold_references"),
    ),
    (
        "/v1/secrets/{id}",
        Made("secrets::a_secret_is_stored_shown_listed_and_removed"),
    ),
    ("/v2/lbaas/loadbalancers/{id}", Plain),
    ("/v2/lbaas/listeners/{id}", Plain),
    ("/v2/lbaas/pools/{id}", Plain),
    ("/v2/lbaas/pools/{pool}/members/{id}", Plain),
    ("/v2/lbaas/healthmonitors/{id}", Plain),
    ("/v2/lbaas/l7policies/{id}", Plain),
    ("/v2/lbaas/l7policies/{policy}/rules/{id}", Plain),
    ("/v2/lbaas/quotas/{project}", QUOTA),
    ("/v2/lbaas/flavors/{id}", FLAVOR),
    (
        "/v2/lbaas/flavorprofiles/{id}",
        Made("flavors::what_is_unknown_is_404_and_what_is_in_use_stays"),
    ),
    ("/v2/lbaas/availabilityzones/{id}", ZONE),
    (
        "/v2/lbaas/availabilityzoneprofiles/{id}",
        Made("zones::a_profile_is_made_shown_changed_and_removed"),
    ),
    // What is asked for is done once, wherever the controller is killed: its namespaces are gone.
    ("/v2/octavia/amphorae/{id}", There("crash::care_survives")),
];

type Names = BTreeSet<(String, String)>;

/// Entries of the table that are seen so.
fn of(seen: Seen) -> Names {
    let mut names = Names::new();
    for (resource, attributes) in EFFECTS {
        for (attribute, how) in *attributes {
            if *how == seen {
                names.insert(((*resource).to_owned(), (*attribute).to_owned()));
            }
        }
    }
    names
}

/// Changes a load balancer through the API, and notes what was changed.
struct Changes<'a> {
    story: &'a Story,
    changed: RefCell<Names>,
}

impl<'a> Changes<'a> {
    fn new(story: &'a Story) -> Self {
        Self {
            story,
            changed: RefCell::default(),
        }
    }

    /// Until ACTIVE again.
    fn put(&self, resource: &str, path: &str, body: Value) {
        let names = body.as_object().expect("an object").keys();
        let names = names.map(|name| (resource.to_owned(), name.clone()));
        self.changed.borrow_mut().extend(names);
        self.story
            .change("PUT", path, Some(json!({ resource: body })));
    }

    /// Fails when an entry of the table was not changed, or something changed that has no entry.
    fn are_all_of(&self, seen: &[Seen]) {
        let wanted: Names = seen.iter().flat_map(|seen| of(*seen)).collect();
        assert_eq!(*self.changed.borrow(), wanted);
    }
}

fn document() -> Value {
    let text = include_str!("../../../openapi/control.json");
    serde_json::from_str(text).expect("the document is JSON")
}

#[test]
fn every_mutable_attribute_has_an_effect_or_is_refused() {
    let document = document();
    let schemas = document["components"]["schemas"]
        .as_object()
        .expect("schemas");
    let mut documented: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, schema) in schemas {
        if let Some(resource) = name.strip_suffix("_update") {
            let properties = schema["properties"].as_object().expect("properties");
            documented.insert(resource, properties.keys().map(String::as_str).collect());
        }
    }
    let entries = EFFECTS.iter().map(|(resource, attributes)| {
        let names: BTreeSet<&str> = attributes.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), attributes.len(), "{resource}: each once");
        (*resource, names)
    });
    assert_eq!(documented, entries.collect());
}

#[test]
fn every_deletion_has_an_effect() {
    let document = document();
    let paths = document["paths"].as_object().expect("paths");
    let deleted = paths
        .iter()
        .filter(|(_, operations)| operations.get("delete").is_some());
    let deleted: BTreeSet<&str> = deleted.map(|(path, _)| path.as_str()).collect();
    assert_eq!(deleted, DELETIONS.iter().map(|(path, _)| *path).collect());
}

/// The tests that the tables name are there.
#[test]
fn every_named_test_exists() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let attributes = EFFECTS.iter().flat_map(|(_, attributes)| attributes.iter());
    for (what, seen) in attributes.chain(DELETIONS) {
        let (folder, name) = match seen {
            Made(name) | Refused(name) => ("../controller/tests/it", name),
            There(name) => ("tests/it", name),
            Plain | Secure | Shown => continue,
        };
        let (module, function) = name.split_once("::").expect("module::function");
        let text = std::fs::read_to_string(here.join(folder).join(format!("{module}.rs")));
        let line = format!("fn {function}(");
        assert!(
            text.is_ok_and(|text| text.contains(&line)),
            "{what}: {name} is not there"
        );
    }
}
