//! The OpenAPI document. It is assembled from the same lists of attributes that the parsers use,
//! so that an attribute cannot be accepted and undocumented. Committed as `openapi/control.json`;
//! a test fails when it differs.

use super::key_manager::{BINARY, PLAIN, SECRET_TYPES};
use super::v2;
use super::v2::quota;
use crate::app::load_balancer::PROVIDERS;
use schema::Use;
use serde_json::{Map, Value, json};

mod schema;

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
    /// Attributes that a create must have.
    pub(super) required: &'static [&'static str],
    /// Attributes that have one of some words.
    pub(super) choices: &'static [(&'static str, &'static [&'static str])],
    /// Attributes that are shown, in groups.
    pub(super) shown: &'static [&'static [&'static str]],
}

/// What each object of a load balancer shows.
pub(super) const STANDING: &[&str] = &[
    "provisioning_status",
    "operating_status",
    "admin_state_up",
    "project_id",
    "tenant_id",
    "created_at",
    "updated_at",
    "tags",
];

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

/// Parameters of a list.
const LIST: &[(&str, &str)] = &[
    (
        "limit",
        "Most that are listed; 0, a negative number and infinite mean as many as there may be",
    ),
    ("marker", "Id of the last one on the page before"),
    ("page_reverse", "True: the page before the marker"),
    ("sort", "Attributes, each perhaps with :asc or :desc"),
    (
        "fields",
        "Attributes that are shown, all others are left out",
    ),
];
const TAGS: &[(&str, &str)] = &[
    ("tags", "All of them"),
    ("tags-any", "One of them"),
    ("not-tags", "Not all of them"),
    ("not-tags-any", "None of them"),
];
/// What a request may be refused with, whatever it asks for: the one that is answered otherwise first.
const REFUSALS: [&str; 11] = [
    "400", "403", "404", "408", "409", "413", "414", "415", "501", "503", "405",
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
        let body = |what: &str| body(root, &reference(&format!("{root}_{what}")));
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
        let tags = TAGS.iter().filter(|_| resource.create.contains(&"tags"));
        for (name, what) in LIST.iter().chain(tags) {
            parameter(&mut listing, name, what);
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
        let mut delete = operation(&one, &format!("Remove a {root}"), "204", None);
        if root == "loadbalancer" {
            parameter(&mut delete, "cascade", "true: with all that is in it");
        }
        add(&one, "delete", delete);
    }
    for (method, path, what, status) in MORE {
        let mut operation = operation(path, what, status, more(method, path));
        further(method, path, &mut operation);
        add(path, method, operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Krater control API",
            "description": "OpenStack Octavia v2, and of Barbican v1 what certificates need. Every path below /v2/lbaas is served under /v2, /v2.0 and /v2.0/lbaas too, /v1/secrets and /v1/containers at the root too. Lists can be filtered by each attribute.",
            "version": "2",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas()},
    })
}

fn parameter(operation: &mut Value, name: &str, what: &str) {
    let schema = match name {
        "limit" => json!({"type": "string", "pattern": r"^(\s*[+-]?[0-9]+\s*|infinite)$"}),
        _ => json!({"type": "string"}),
    };
    if let Some(parameters) = operation["parameters"].as_array_mut() {
        parameters
            .push(json!({"name": name, "in": "query", "description": what, "schema": schema}));
    }
}

fn body(root: &str, inner: &Value) -> Value {
    let mut schema = object(&[(root, inner.clone())], &[root]);
    schema["additionalProperties"] = json!(false);
    json!({"required": true, "content": {"application/json": {"schema": schema}}})
}

/// Answers of the further operations.
fn more(method: &str, path: &str) -> Option<Value> {
    let counters = || {
        let names = [
            "bytes_in",
            "bytes_out",
            "active_connections",
            "total_connections",
            "request_errors",
        ];
        let counters = names.map(|name| (name, json!({"type": "integer", "minimum": 0})));
        object(&counters, &names)
    };
    match (method, path) {
        ("get", "/healthcheck" | "/v1/secrets/{id}/payload") => None,
        ("get", path) if path.ends_with("amphorae/{id}/stats") => None,
        ("get", path) if path.ends_with("/stats") => {
            Some(object(&[("stats", counters())], &["stats"]))
        }
        ("get" | "put", path) if path.contains("/quotas/") => {
            Some(object(&[("quota", reference("quota_shown"))], &["quota"]))
        }
        ("get" | "post", _) => Some(json!({"type": "object"})),
        _ => None,
    }
}

/// What a payload is like, in each of its media types.
fn payload(like: &Value) -> Value {
    let all = [PLAIN].iter().chain(BINARY);
    all.map(|kind| ((*kind).to_owned(), like.clone())).collect()
}

/// Bodies, parameters and media types of the further operations.
fn further(method: &str, path: &str, operation: &mut Value) {
    let whole = |schema: Value| json!({"required": true, "content": {"application/json": {"schema": schema}}});
    match (method, path) {
        ("put", "/v2/lbaas/pools/{pool}/members") => {
            let list = json!({"type": "array", "items": reference("member_nested")});
            operation["requestBody"] = body("members", &list);
            let what = "true: none is removed";
            parameter(operation, "additive_only", what);
        }
        ("put", "/v2/lbaas/quotas/{project}") => {
            operation["requestBody"] = body("quota", &reference("quota_update"));
        }
        ("post", "/v1/secrets") => operation["requestBody"] = whole(reference("secret_create")),
        ("post", "/v1/containers") => {
            operation["requestBody"] = whole(reference("container_create"));
        }
        ("put", "/v1/secrets/{id}") => {
            let content = payload(&json!({"schema": {"type": "string"}}));
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        ("get", "/v1/secrets/{id}/payload") => {
            operation["responses"]["200"]["content"] = payload(&json!({}));
        }
        ("get", "/healthcheck") => {
            operation["responses"]["200"]["content"] = json!({"text/plain": {}});
        }
        ("get", "/v1/secrets" | "/v1/containers") => {
            for (name, what) in [
                ("limit", "Most that are listed"),
                ("offset", "Those before"),
            ] {
                if let Some(parameters) = operation["parameters"].as_array_mut() {
                    parameters.push(json!({"name": name, "in": "query", "description": what,
                        "schema": {"type": "integer", "minimum": 0, "maximum": u64::MAX}}));
                }
            }
        }
        _ => {}
    }
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
        .map(|name| {
            let schema = match name {
                "project" => {
                    json!({"type": "string", "minLength": 1, "maxLength": 36, "pattern": schema::LINE})
                }
                // Zones have nothing but their name.
                "id" if path.contains("/availabilityzones/") || path.starts_with("/projects") => {
                    json!({"type": "string", "minLength": 1})
                }
                "name" => json!({"type": "string", "enum": PROVIDERS}),
                _ => json!({"type": "string", "format": "uuid"}),
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    let mut success = json!({"description": what});
    if let Some(schema) = answer {
        success["content"] = json!({"application/json": {"schema": schema}});
    }
    let json = |name: &str, what: &str| json!({"description": what, "content": {"application/json": {"schema": reference(name)}}});
    let barbican = path.starts_with("/v1/");
    let mut responses = Map::new();
    for status in REFUSALS {
        // What is refused before the key manager sees it looks as everywhere.
        let name = if barbican { "refusal" } else { "fault" };
        responses.insert(status.to_owned(), json(name, "Refused"));
    }
    responses.insert(
        "401".to_owned(),
        json("unauthorized", "Who asks is not known"),
    );
    responses.insert("406".to_owned(), json("not_acceptable", "Not as JSON"));
    responses.insert(status.to_owned(), success);
    json!({"summary": what, "parameters": parameters, "responses": responses})
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
    let barbicans = object(
        &[
            ("code", json!({"type": "integer"})),
            ("title", json!({"type": "string"})),
            ("description", json!({"type": "string"})),
        ],
        &["code", "title", "description"],
    );
    let mut insert = |name: &str, schema: Value| drop(all.insert(name.to_owned(), schema));
    insert(
        "refusal",
        json!({"anyOf": [barbicans.clone(), reference("fault")]}),
    );
    insert(
        "unauthorized",
        object(&[("error", json!({"type": "object"}))], &["error"]),
    );
    let errors = json!({"type": "array", "items": {"type": "object"}, "minItems": 1});
    let errors = object(&[("errors", errors)], &["errors"]);
    insert("not_acceptable", json!({"anyOf": [errors, barbicans]}));
    insert(
        "link",
        object(
            &[
                ("href", json!({"type": "string"})),
                ("rel", json!({"type": "string"})),
            ],
            &["href", "rel"],
        ),
    );
    for resource in v2::RESOURCES {
        let root = resource.root;
        insert(
            &format!("{root}_create"),
            schema::request(resource, Use::Create),
        );
        insert(
            &format!("{root}_update"),
            schema::request(resource, Use::Update),
        );
        insert(&format!("{root}_shown"), schema::shown(resource));
        if NESTED.contains(&root) {
            insert(
                &format!("{root}_nested"),
                schema::request(resource, Use::Nested),
            );
        }
    }
    let limits = |schema: &Value, more: &[&str]| {
        let names = v2::QUOTAS.iter().chain(more);
        let properties: Map<String, Value> = names
            .map(|name| {
                let project = ["project_id", "tenant_id"].contains(name);
                let schema = if project {
                    schema::line(36)
                } else {
                    schema.clone()
                };
                ((*name).to_owned(), schema)
            })
            .collect();
        json!({"type": "object", "properties": properties, "additionalProperties": false})
    };
    let limit = schema::integer(quota::UNLIMITED.into(), quota::MAX_LIMIT.into());
    insert("quota_update", limits(&limit, &["project_id", "tenant_id"]));
    insert("quota_shown", limits(&json!({"type": "integer"}), &[]));
    let (line, number) = (schema::line(255), schema::integer(1, 2_147_483_647));
    let mut secret = object(
        &[
            ("name", line.clone()),
            ("secret_type", schema::words(SECRET_TYPES)),
            ("algorithm", line.clone()),
            ("bit_length", number),
            ("mode", line.clone()),
            ("expiration", line.clone()),
            ("payload", json!({"type": ["string", "null"]})),
            ("payload_content_type", line.clone()),
            ("payload_content_encoding", line.clone()),
        ],
        &[],
    );
    secret["additionalProperties"] = json!(false);
    insert("secret_create", secret);
    let mut item = object(
        &[
            ("name", line.clone()),
            ("secret_ref", json!({"type": "string"})),
        ],
        &["secret_ref"],
    );
    item["additionalProperties"] = json!(false);
    let mut container = object(
        &[
            ("name", line),
            ("type", json!({"enum": ["certificate", "generic", "rsa"]})),
            (
                "secret_refs",
                json!({"type": ["array", "null"], "items": item}),
            ),
        ],
        &["type"],
    );
    container["additionalProperties"] = json!(false);
    insert("container_create", container);
    Value::Object(all)
}

/// Resources that single-call creates have inside.
const NESTED: [&str; 6] = [
    "listener",
    "pool",
    "member",
    "healthmonitor",
    "l7policy",
    "rule",
];
