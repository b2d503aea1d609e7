//! The OpenAPI document. It is assembled from the same lists of attributes that the parsers use,
//! so that an attribute cannot be accepted and undocumented. Committed as `openapi/control.json`;
//! a test fails when it differs.

use super::v2;
use serde_json::{Map, Value, json};

/// A resource with the five usual operations.
#[derive(Debug)]
pub(super) struct Resource {
    /// Key of one in requests and answers.
    pub(super) root: &'static str,
    /// Key of many in answers.
    pub(super) plural: &'static str,
    /// Path below a root.
    pub(super) path: &'static str,
    /// Attributes of a create.
    pub(super) create: &'static [&'static str],
    /// Attributes of an update.
    pub(super) update: &'static [&'static str],
}

/// Further operations: method, path, what, status of success.
const MORE: &[(&str, &str, &str, &str)] = &[
    ("get", "/", "Versions of the API", "200"),
    ("get", "/healthcheck", "Whether the database answers", "200"),
    (
        "get",
        "/v2/lbaas/loadbalancers/{id}/status",
        "Status tree",
        "200",
    ),
    (
        "get",
        "/v2/lbaas/loadbalancers/{id}/statuses",
        "Status tree",
        "200",
    ),
    (
        "get",
        "/v2/lbaas/loadbalancers/{id}/stats",
        "Counters",
        "200",
    ),
    (
        "put",
        "/v2/lbaas/loadbalancers/{id}/failover",
        "Replace all amphorae",
        "202",
    ),
    ("get", "/v2/lbaas/listeners/{id}/stats", "Counters", "200"),
    (
        "put",
        "/v2/lbaas/pools/{pool}/members",
        "Replace all members",
        "202",
    ),
    ("get", "/v2/lbaas/quotas", "List quotas", "200"),
    ("get", "/v2/lbaas/quotas/defaults", "Default quotas", "200"),
    ("get", "/v2/lbaas/quotas/{project}", "Show a quota", "200"),
    ("put", "/v2/lbaas/quotas/{project}", "Set a quota", "202"),
    (
        "delete",
        "/v2/lbaas/quotas/{project}",
        "Reset a quota",
        "202",
    ),
    (
        "get",
        "/v2/lbaas/quotas/{project}/default",
        "Default quotas",
        "200",
    ),
    ("get", "/v2/lbaas/providers", "List providers", "200"),
    (
        "get",
        "/v2/lbaas/providers/{name}/flavor_capabilities",
        "List capabilities",
        "200",
    ),
    (
        "get",
        "/v2/lbaas/providers/{name}/availability_zone_capabilities",
        "List capabilities",
        "200",
    ),
    ("get", "/v2/octavia/amphorae", "List amphorae", "200"),
    ("get", "/v2/octavia/amphorae/{id}", "Show an amphora", "200"),
    (
        "delete",
        "/v2/octavia/amphorae/{id}",
        "Remove an amphora that is in ERROR",
        "204",
    ),
    (
        "put",
        "/v2/octavia/amphorae/{id}/failover",
        "Replace an amphora",
        "202",
    ),
    (
        "get",
        "/v2/octavia/amphorae/{id}/stats",
        "Counters by listener",
        "200",
    ),
    ("get", "/network", "Versions of the network API", "200"),
    ("get", "/network/v2.0/networks", "List networks", "200"),
    (
        "get",
        "/network/v2.0/networks/{id}",
        "Show a network",
        "200",
    ),
    ("get", "/network/v2.0/subnets", "List subnets", "200"),
    ("get", "/network/v2.0/subnets/{id}", "Show a subnet", "200"),
    ("get", "/network/v2.0/ports", "List ports", "200"),
    ("get", "/network/v2.0/ports/{id}", "Show a port", "200"),
    ("get", "/projects/{id}", "Whether a project exists", "200"),
    ("get", "/v1", "Version of the key manager's API", "200"),
    ("get", "/v1/secrets", "List secrets", "200"),
    ("post", "/v1/secrets", "Store a secret", "201"),
    ("get", "/v1/secrets/{id}", "Show a secret's metadata", "200"),
    (
        "put",
        "/v1/secrets/{id}",
        "Give a secret its payload, once",
        "204",
    ),
    ("delete", "/v1/secrets/{id}", "Remove a secret", "204"),
    (
        "get",
        "/v1/secrets/{id}/payload",
        "Give out what was stored",
        "200",
    ),
    ("get", "/v1/containers", "List containers", "200"),
    ("post", "/v1/containers", "Make a container", "201"),
    ("get", "/v1/containers/{id}", "Show a container", "200"),
    ("delete", "/v1/containers/{id}", "Remove a container", "204"),
];

/// The document.
pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut add = |path: &str, method: &str, operation: Value| {
        let entry = paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        if let Some(operations) = entry.as_object_mut() {
            operations.insert(method.to_owned(), operation);
        }
    };
    for resource in v2::RESOURCES {
        let list = format!("/v2/lbaas{}", resource.path);
        let one = format!("{list}/{{id}}");
        let (root, plural) = (resource.root, resource.plural);
        let shown = reference(&format!("{root}_shown"));
        let body = |what: &str| {
            let schema = object(&[(root, reference(&format!("{root}_{what}")))], &[root]);
            json!({"required": true, "content": {"application/json": {"schema": schema}}})
        };
        let answer = object(&[(root, shown.clone())], &[root]);
        let links = v2::links_key(plural);
        let page = object(
            &[
                (plural, json!({"type": "array", "items": shown})),
                (&links, json!({"type": "array", "items": reference("link")})),
            ],
            &[plural],
        );
        let mut listing = operation(&list, &format!("List {plural}"), "200", Some(page));
        if let Some(parameters) = listing["parameters"].as_array_mut() {
            let tags = ["tags", "tags-any", "not-tags", "not-tags-any"];
            let tags = tags.iter().filter(|_| resource.create.contains(&"tags"));
            for name in ["limit", "marker", "sort", "fields"].iter().chain(tags) {
                parameters.push(json!({"name": name, "in": "query", "schema": {"type": "string"}}));
            }
        }
        add(&list, "get", listing);
        let mut create = operation(
            &list,
            &format!("Create a {root}"),
            "201",
            Some(answer.clone()),
        );
        create["requestBody"] = body("create");
        add(&list, "post", create);
        let show = operation(&one, &format!("Show a {root}"), "200", Some(answer.clone()));
        add(&one, "get", show);
        let mut update = operation(&one, &format!("Change a {root}"), "200", Some(answer));
        update["requestBody"] = body("update");
        add(&one, "put", update);
        add(
            &one,
            "delete",
            operation(&one, &format!("Remove a {root}"), "204", None),
        );
    }
    for (method, path, what, status) in MORE {
        add(path, method, operation(path, what, status, None));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Krater control API",
            "description": "OpenStack Octavia v2, and of Barbican v1 what certificates need. Every path below /v2/lbaas is served under /v2, /v2.0 and /v2.0/lbaas too, /v1/secrets and /v1/containers at the root too.",
            "version": "2",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas()},
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn object(properties: &[(&str, Value)], required: &[&str]) -> Value {
    let map: Map<String, Value> = properties
        .iter()
        .map(|(name, schema)| ((*name).to_owned(), schema.clone()))
        .collect();
    json!({"type": "object", "properties": map, "required": required})
}

fn operation(path: &str, what: &str, status: &str, answer: Option<Value>) -> Value {
    let parameters: Vec<Value> = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    let mut success = json!({"description": what});
    if let Some(schema) = answer {
        success["content"] = json!({"application/json": {"schema": schema}});
    }
    let fault = json!({
        "description": "Refused",
        "content": {"application/json": {"schema": reference("fault")}},
    });
    json!({
        "summary": what,
        "parameters": parameters,
        "responses": {status: success, "default": fault},
    })
}

fn schemas() -> Value {
    let mut all = Map::new();
    all.insert(
        "fault".to_owned(),
        object(
            &[
                (
                    "faultcode",
                    json!({"type": "string", "enum": ["Client", "Server"]}),
                ),
                ("faultstring", json!({"type": "string"})),
                ("debuginfo", json!({"type": "null"})),
            ],
            &["faultcode", "faultstring", "debuginfo"],
        ),
    );
    all.insert(
        "link".to_owned(),
        object(
            &[
                ("href", json!({"type": "string"})),
                ("rel", json!({"type": "string"})),
            ],
            &["href", "rel"],
        ),
    );
    for resource in v2::RESOURCES {
        for (what, names) in [("create", resource.create), ("update", resource.update)] {
            let properties: Vec<(&str, Value)> =
                names.iter().map(|name| (*name, attribute(name))).collect();
            let mut schema = object(&properties, &[]);
            schema["additionalProperties"] = json!(false);
            all.insert(format!("{}_{what}", resource.root), schema);
        }
        let shown = object(&[("id", json!({"type": "string", "format": "uuid"}))], &[]);
        all.insert(format!("{}_shown", resource.root), shown);
    }
    Value::Object(all)
}

/// Types are lenient: numbers may be digits in a text, truth values words.
fn attribute(name: &str) -> Value {
    const INTEGERS: &[&str] = &[
        "protocol_port",
        "connection_limit",
        "weight",
        "monitor_port",
        "delay",
        "timeout",
        "max_retries",
        "max_retries_down",
        "position",
        "redirect_http_code",
        "hsts_max_age",
        "timeout_client_data",
        "timeout_member_connect",
        "timeout_member_data",
        "timeout_tcp_inspect",
    ];
    const BOOLEANS: &[&str] = &[
        "admin_state_up",
        "backup",
        "enabled",
        "invert",
        "request_sriov",
        "tls_enabled",
        "hsts_include_subdomains",
        "hsts_preload",
    ];
    const LISTS: &[&str] = &[
        "tags",
        "vip_sg_ids",
        "additional_vips",
        "listeners",
        "pools",
        "members",
        "rules",
        "l7policies",
        "sni_container_refs",
        "allowed_cidrs",
        "tls_versions",
        "alpn_protocols",
    ];
    const OBJECTS: &[&str] = &[
        "insert_headers",
        "session_persistence",
        "healthmonitor",
        "default_pool",
        "redirect_pool",
    ];
    if INTEGERS.contains(&name) {
        json!({"type": ["integer", "string", "null"]})
    } else if BOOLEANS.contains(&name) {
        json!({"type": ["boolean", "integer", "string", "null"]})
    } else if LISTS.contains(&name) {
        json!({"type": ["array", "null"]})
    } else if OBJECTS.contains(&name) {
        json!({"type": ["object", "null"]})
    } else if name == "http_version" {
        json!({"type": ["number", "string", "null"]})
    } else {
        json!({"type": ["string", "null"]})
    }
}
