//! Schemas of attributes: what requests may say, and what answers look like. As lenient as the parsers are (numbers may be
//! digits in a text, truth values words), and not more: a schema that allows less than the parser would call answers wrong
//! that are right.

use super::Resource;
use crate::app::{not_supported, profile_data};
use crate::http::body::TEXT;
use crate::http::v2::{health_monitor, listener};
use serde_json::{Map, Value, json};

/// Text on one line.
pub(super) const LINE: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
/// Text with line breaks.
const LINES: &str = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$";
/// Words that are truth values.
const TRUTH: &str = r"^([Tt]([Rr][Uu][Ee])?|[Yy]([Ee][Ss])?|[Oo][Nn]|1|[Ff]([Aa][Ll][Ss][Ee])?|[Nn][Oo]?|[Oo][Ff][Ff]|0)$";
/// Digits, perhaps with a sign and blanks around.
const DIGITS: &str = r"^\s*[+-]?[0-9]+\s*$";
/// A list of status codes or a range of them.
const CODES: &str = r"^\s*[1-5][0-9]{2}\s*((,\s*[1-5][0-9]{2}\s*)*|-\s*[1-5][0-9]{2}\s*)$";
/// Our timestamps.
const TIME: &str = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}$";
const URL: &str = r"^[A-Za-z][A-Za-z0-9+.-]*://[!-~]+$";
/// Limit of what has no smaller one.
const MOST: i64 = 2_147_483_647;

/// Whether an object is made by itself, inside a single-call create, or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Create,
    Nested,
    Update,
}

/// The object that a request has below its root.
pub(super) fn request(resource: &Resource, what: Use) -> Value {
    let names = match what {
        Use::Create | Use::Nested => resource.create,
        Use::Update => resource.update,
    };
    let required: Vec<&str> = match what {
        Use::Create => resource.required.to_vec(),
        // Objects of a graph have no parent to name.
        Use::Nested | Use::Update => Vec::new(),
    };
    let mut properties = Map::new();
    for name in names {
        let mut schema = attribute(resource, name, what);
        if required.contains(name) {
            schema = not_null(schema);
        }
        properties.insert((*name).to_owned(), schema);
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// The object as answers show it; with `fields=` only a part of it is there.
pub(super) fn shown(resource: &Resource) -> Value {
    let properties: Map<String, Value> = resource
        .shown
        .iter()
        .copied()
        .flatten()
        .map(|name| ((*name).to_owned(), shown_attribute(resource, name)))
        .collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Text on one line of at most `max` characters.
pub(super) fn line(max: usize) -> Value {
    json!({"type": ["string", "null"], "maxLength": max, "pattern": LINE})
}

pub(super) fn lines(max: usize) -> Value {
    json!({"type": ["string", "null"], "maxLength": max, "pattern": LINES})
}

/// A whole number, also as digits.
pub(super) fn integer(minimum: i64, maximum: i64) -> Value {
    json!({"anyOf": [
        {"type": "integer", "minimum": minimum, "maximum": maximum},
        {"type": "string", "pattern": DIGITS},
        {"type": "null"},
    ]})
}

fn boolean() -> Value {
    json!({"anyOf": [
        {"type": ["boolean", "null"]},
        {"enum": [0, 1]},
        {"type": "string", "pattern": TRUTH},
    ]})
}

pub(super) fn words(words: &[&str]) -> Value {
    let mut all: Vec<Value> = words.iter().map(|word| json!(word)).collect();
    all.push(Value::Null);
    json!({ "enum": all })
}

fn uuid() -> Value {
    json!({"type": ["string", "null"], "format": "uuid"})
}

fn ip() -> Value {
    json!({"anyOf": [
        {"type": "string", "format": "ipv4"},
        {"type": "string", "format": "ipv6"},
        {"type": "null"},
    ]})
}

fn array(items: &Value) -> Value {
    json!({"type": ["array", "null"], "items": items})
}

fn not_null(mut schema: Value) -> Value {
    if schema["type"].is_array() {
        let kind = schema["type"][0].clone();
        schema["type"] = kind;
    }
    for key in ["anyOf", "enum"] {
        if let Some(all) = schema.get_mut(key).and_then(Value::as_array_mut) {
            all.retain(|one| !one.is_null() && one["type"] != "null");
        }
    }
    schema
}

fn attribute(resource: &Resource, name: &str, what: Use) -> Value {
    if let Some((_, choice)) = resource.choices.iter().find(|(of, _)| *of == name) {
        return words(choice);
    }
    if not_supported::attributes(resource.root).any(|refused| refused == name) {
        return json!({"enum": [null, false, "", [], {}], "description": "not supported yet"});
    }
    // Only within a single-call create.
    if what == Use::Create {
        match (resource.root, name) {
            ("listener", "default_pool" | "l7policies")
            | ("l7policy", "redirect_pool" | "rules") => {
                return json!({"enum": [null, [], {}]});
            }
            ("pool", "members") => return json!({"type": ["array", "null"], "maxItems": 0}),
            ("pool", "healthmonitor") => return json!({"type": "null"}),
            _ => {}
        }
    }
    let nested = |root: &str| reference(&format!("{root}_nested"));
    match name {
        "description" => lines(TEXT),
        "project_id" | "tenant_id" => line(36),
        "provider" => line(64),
        "flavor_data" | "availability_zone_data" => lines(profile_data::MAX),
        "tls_ciphers" => line(2_048),
        "vip_address" | "address" | "monitor_address" => ip(),
        "protocol_port" | "monitor_port" => integer(1, 65_535),
        "connection_limit" => integer(-1, MOST),
        "weight" => integer(0, 256),
        "delay" | "timeout" => integer(1, health_monitor::MAX_SECONDS.into()),
        "max_retries" | "max_retries_down" => integer(1, 10),
        "position" => integer(1, MOST),
        "hsts_max_age" => integer(0, MOST),
        "redirect_http_code" => integer(301, 308),
        _ if name.starts_with("timeout_") => integer(0, listener::MAX_TIMEOUT.into()),
        "admin_state_up"
        | "backup"
        | "enabled"
        | "invert"
        | "tls_enabled"
        | "hsts_include_subdomains"
        | "hsts_preload" => boolean(),
        "request_sriov" => json!({"enum": [false, 0, null, "false", "False"]}),
        "http_version" => json!({"enum": [1.0, 1.1, "1", "1.0", "1.1", null]}),
        "url_path" => {
            json!({"type": ["string", "null"], "maxLength": TEXT, "pattern": "^/[!-~]*$"})
        }
        "expected_codes" => json!({"type": ["string", "null"], "maxLength": 64, "pattern": CODES}),
        "domain_name" => {
            json!({"type": ["string", "null"], "maxLength": TEXT, "pattern": "^[A-Za-z0-9.-]+$"})
        }
        "redirect_url" | "redirect_prefix" => {
            json!({"type": ["string", "null"], "maxLength": TEXT, "pattern": URL})
        }
        "tags" => array(&json!({
            "type": "string", "minLength": 1, "maxLength": TEXT, "pattern": LINE,
        })),
        "allowed_cidrs" => array(&json!({"type": "string", "minLength": 1})),
        "sni_container_refs" | "tls_versions" | "alpn_protocols" => {
            array(&json!({"type": "string", "maxLength": TEXT}))
        }
        "insert_headers" => {
            json!({"type": ["object", "null"], "additionalProperties": {"type": "string"}})
        }
        "session_persistence" => json!({
            "type": ["object", "null"],
            "properties": {
                "type": words(&["APP_COOKIE", "HTTP_COOKIE", "SOURCE_IP"]),
                "cookie_name": line(TEXT),
                "persistence_timeout": integer(0, MOST),
                "persistence_granularity": line(64),
            },
            "additionalProperties": false,
        }),
        "additional_vips" => array(&json!({
            "type": "object",
            "properties": {
                "subnet_id": {"type": "string", "format": "uuid"},
                "ip_address": ip(),
            },
            "required": ["subnet_id"],
            "additionalProperties": false,
        })),
        "listeners" => array(&nested("listener")),
        "pools" => array(&nested("pool")),
        "members" => array(&nested("member")),
        "rules" => array(&nested("rule")),
        "l7policies" => array(&nested("l7policy")),
        "healthmonitor" => json!({"anyOf": [nested("healthmonitor"), {"type": "null"}]}),
        "default_pool" | "redirect_pool" => json!({"anyOf": [nested("pool"), {"type": "null"}]}),
        _ if name.ends_with("_id") => uuid(),
        _ => line(TEXT),
    }
}

fn shown_attribute(resource: &Resource, name: &str) -> Value {
    let status = |words: &[&str]| json!({"type": "string", "enum": words});
    if let Some((_, choice)) = resource.choices.iter().find(|(of, _)| *of == name) {
        return words(choice);
    }
    match name {
        "id" => json!({"type": "string", "format": "uuid"}),
        "created_at" => json!({"type": "string", "pattern": TIME}),
        "updated_at" => json!({"type": ["string", "null"], "pattern": TIME}),
        "provisioning_status" => status(&[
            "ACTIVE",
            "DELETED",
            "ERROR",
            "PENDING_CREATE",
            "PENDING_DELETE",
            "PENDING_UPDATE",
        ]),
        "operating_status" => status(&[
            "DEGRADED",
            "DRAINING",
            "ERROR",
            "NO_MONITOR",
            "OFFLINE",
            "ONLINE",
        ]),
        "admin_state_up"
        | "backup"
        | "enabled"
        | "invert"
        | "tls_enabled"
        | "hsts_include_subdomains"
        | "hsts_preload" => json!({"type": "boolean"}),
        "protocol_port" | "connection_limit" | "weight" | "delay" | "timeout" | "max_retries"
        | "max_retries_down" | "position" => json!({"type": "integer"}),
        _ if name.starts_with("timeout_") => json!({"type": "integer"}),
        "monitor_port" | "hsts_max_age" | "redirect_http_code" => {
            json!({"type": ["integer", "null"]})
        }
        "http_version" => json!({"type": ["number", "null"]}),
        "tags" | "vip_sg_ids" => json!({"type": "array", "items": {"type": "string"}}),
        "sni_container_refs" | "allowed_cidrs" | "tls_versions" | "alpn_protocols" => {
            json!({"type": ["array", "null"], "items": {"type": "string"}})
        }
        "loadbalancers" | "listeners" | "pools" | "members" | "l7policies" | "rules"
        | "additional_vips" => json!({"type": "array", "items": {"type": "object"}}),
        "insert_headers" => {
            json!({"type": "object", "additionalProperties": {"type": "string"}})
        }
        "session_persistence" => json!({"type": ["object", "null"]}),
        // Whole, in the answer to a single-call create.
        "healthmonitor" => json!({"type": ["object", "null"]}),
        "project_id" | "tenant_id" => json!({"type": "string"}),
        _ if name.ends_with("_id") => uuid(),
        _ => json!({"type": ["string", "null"]}),
    }
}
