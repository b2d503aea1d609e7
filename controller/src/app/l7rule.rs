//! L7 rules.

use super::lock::{self, ACTIVE, PENDING_CREATE, PENDING_DELETE, PENDING_UPDATE, item};
use super::quota::{self, Counted};
use super::shown::{self, Tagged};
use super::{AppState, Caller, Error, l7policy, listener};
use crate::db::entity::{l7policy as policy_row, l7rule};
use crate::db::now;
use crate::db::query::flow::{Action, Item, Resource};
use crate::db::query::list::{self, Attribute, Kind, PageRequest};
use crate::transaction;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait,
    IntoActiveModel, PaginatorTrait, QueryFilter,
};
use uuid::Uuid;

/// As upstream's 404 names it.
pub const NAME: &str = "L7 Rule";
/// Rules of one policy; upstream's limit.
pub const MAX_RULES: u64 = 50;
/// Bound of a compiled expression, in bytes: what the data plane accepts.
const REGEX_SIZE: usize = 256 * 1024;

/// What lists can be filtered and sorted by.
pub const ATTRIBUTES: &[Attribute] = &[
    ("id", "id", Kind::Text),
    ("project_id", "project_id", Kind::Text),
    ("l7policy_id", "l7policy_id", Kind::Text),
    ("admin_state_up", "enabled", Kind::Bool),
    ("type", "kind", Kind::Text),
    ("compare_type", "compare_type", Kind::Text),
    ("key", "key", Kind::Text),
    ("value", "value", Kind::Text),
    ("invert", "invert", Kind::Bool),
    ("provisioning_status", "provisioning_status", Kind::Text),
    ("operating_status", "operating_status", Kind::Text),
    ("created_at", "created_at", Kind::Time),
    ("updated_at", "updated_at", Kind::Time),
];

/// A rule to make.
#[derive(Debug, Clone)]
pub struct New {
    /// admin_state_up
    pub enabled: bool,
    /// What is looked at.
    pub condition: Match,
    /// The condition is negated.
    pub invert: bool,
    /// Tags.
    pub tags: Vec<String>,
}

/// The condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Type.
    pub kind: String,
    /// Comparison.
    pub compare_type: String,
    /// Name of header or cookie.
    pub key: Option<String>,
    /// What is compared with.
    pub value: String,
}

/// A change; `None` keeps.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// admin_state_up
    pub enabled: Option<bool>,
    /// Type.
    pub kind: Option<String>,
    /// Comparison.
    pub compare_type: Option<String>,
    /// Name of header or cookie; `Some(None)` removes.
    pub key: Option<Option<String>>,
    /// What is compared with.
    pub value: Option<String>,
    /// The condition is negated.
    pub invert: Option<bool>,
    /// Replaces all.
    pub tags: Option<Vec<String>>,
}

/// A rule with its tags.
pub type View = Tagged<l7rule::Model>;

/// Completes rows.
pub async fn views(
    db: &impl ConnectionTrait,
    rows: Vec<l7rule::Model>,
) -> Result<Vec<View>, Error> {
    Ok(shown::tagged(db, rows, |row| &row.id).await?)
}

/// A page of a policy's rules.
pub async fn list(state: &AppState, policy: &str, page: &PageRequest) -> Result<Vec<View>, Error> {
    let db = state.db.read();
    l7policy::find(db, policy).await?;
    let scope = Condition::all().add(l7rule::Column::L7policyId.eq(policy));
    let rows = list::page::<l7rule::Entity>(db, ATTRIBUTES, page, scope).await?;
    views(db, rows).await
}

/// One of a policy.
pub async fn show(state: &AppState, policy: &str, id: &str) -> Result<View, Error> {
    let db = state.db.read();
    let row = find(db, policy, id).await?;
    shown::only(views(db, vec![row]).await?, NAME, id)
}

async fn find(db: &impl ConnectionTrait, policy: &str, id: &str) -> Result<l7rule::Model, Error> {
    l7policy::find(db, policy).await?;
    let row = shown::find::<l7rule::Entity>(db, NAME, id).await?;
    Some(row)
        .filter(|row| row.l7policy_id == policy)
        .ok_or_else(|| Error::not_found(NAME, id))
}

/// Makes a rule; returns its id.
pub async fn create(
    state: &AppState,
    caller: &Caller,
    policy_id: &str,
    new: &New,
) -> Result<String, Error> {
    let done: Result<String, Error> = transaction!(state.db, |txn| {
        let policy = l7policy::held(txn, policy_id).await?;
        check(&new.condition)?;
        quota::check(txn, &policy.project_id, Counted::L7Rule, 1).await?;
        let mut items = Vec::new();
        let lb = touch(txn, &policy, &mut items).await?;
        let id = insert(txn, policy_id, &policy.project_id, new, &mut items).await?;
        lock::enqueue_tree(state, txn, caller, &lb, items).await?;
        Ok(id)
    });
    state.db.nudge();
    done
}

/// The policy must be ACTIVE; then its load balancer, listener and itself are touched.
async fn touch(
    txn: &impl ConnectionTrait,
    policy: &policy_row::Model,
    items: &mut Vec<Item>,
) -> Result<String, Error> {
    if policy.provisioning_status != ACTIVE {
        return Err(Error::immutable("L7Policy", &policy.id));
    }
    let listener = listener::find(txn, &policy.listener_id).await?;
    listener::touch(txn, &listener, items).await?;
    let mut new = policy.clone().into_active_model();
    new.provisioning_status = Set(PENDING_UPDATE.to_owned());
    new.updated_at = Set(Some(now()));
    new.update(txn).await?;
    items.push(item(Resource::L7Policy, policy.id.clone(), Action::Touch));
    Ok(listener.load_balancer_id)
}

/// Checks and inserts a rule. The caller holds the load balancer and checked the quota.
pub async fn insert(
    txn: &impl ConnectionTrait,
    policy: &str,
    project: &str,
    new: &New,
    items: &mut Vec<Item>,
) -> Result<String, Error> {
    check(&new.condition)?;
    let count = l7rule::Entity::find()
        .filter(l7rule::Column::L7policyId.eq(policy))
        .count(txn)
        .await?;
    if count >= MAX_RULES {
        return Err(Error::conflict(format!(
            "Too many rules on L7 policy {policy}"
        )));
    }
    let row = l7rule::ActiveModel {
        id: Set(Uuid::new_v4().to_string()),
        l7policy_id: Set(policy.to_owned()),
        project_id: Set(project.to_owned()),
        enabled: Set(new.enabled),
        kind: Set(new.condition.kind.clone()),
        compare_type: Set(new.condition.compare_type.clone()),
        key: Set(new.condition.key.clone()),
        value: Set(new.condition.value.clone()),
        invert: Set(new.invert),
        provisioning_status: Set(PENDING_CREATE.to_owned()),
        operating_status: Set("OFFLINE".to_owned()),
        created_at: Set(now()),
        updated_at: Set(None),
    }
    .insert(txn)
    .await?;
    list::set_tags(txn, &row.id, &new.tags).await?;
    items.push(item(Resource::L7Rule, row.id.clone(), Action::Create));
    Ok(row.id)
}

/// Changes a rule.
pub async fn update(
    state: &AppState,
    caller: &Caller,
    policy_id: &str,
    id: &str,
    change: &Change,
) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let policy = l7policy::held(txn, policy_id).await?;
        let row = find(txn, policy_id, id).await?;
        let c = change.clone();
        let condition = Match {
            kind: c.kind.unwrap_or_else(|| row.kind.clone()),
            compare_type: c.compare_type.unwrap_or_else(|| row.compare_type.clone()),
            key: c.key.unwrap_or_else(|| row.key.clone()),
            value: c.value.unwrap_or_else(|| row.value.clone()),
        };
        check(&condition)?;
        let mut items = vec![item(Resource::L7Rule, id.to_owned(), Action::Update)];
        let lb = touch(txn, &policy, &mut items).await?;
        let mut new = row.into_active_model();
        new.kind = Set(condition.kind);
        new.compare_type = Set(condition.compare_type);
        new.key = Set(condition.key);
        new.value = Set(condition.value);
        c.enabled.into_iter().for_each(|v| new.enabled = Set(v));
        c.invert.into_iter().for_each(|v| new.invert = Set(v));
        new.provisioning_status = Set(PENDING_UPDATE.to_owned());
        new.updated_at = Set(Some(now()));
        new.update(txn).await?;
        if let Some(tags) = &change.tags {
            list::set_tags(txn, id, tags).await?;
        }
        lock::enqueue_tree(state, txn, caller, &lb, items).await
    });
    state.db.nudge();
    done
}

/// Removes a rule.
pub async fn delete(
    state: &AppState,
    caller: &Caller,
    policy_id: &str,
    id: &str,
) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let policy = l7policy::held(txn, policy_id).await?;
        let row = find(txn, policy_id, id).await?;
        let mut items = vec![item(Resource::L7Rule, id.to_owned(), Action::Delete)];
        let lb = touch(txn, &policy, &mut items).await?;
        let mut new = row.into_active_model();
        new.provisioning_status = Set(PENDING_DELETE.to_owned());
        new.updated_at = Set(Some(now()));
        new.update(txn).await?;
        lock::enqueue_tree(state, txn, caller, &lb, items).await
    });
    state.db.nudge();
    done
}

/// Whether type, comparison, key and value fit together.
pub fn check(rule: &Match) -> Result<(), Error> {
    let refuse = |why: &str| {
        Err(Error::bad(format!(
            "Error parsing L7Rule: Invalid L7 Rule: {why}"
        )))
    };
    if rule.value.is_empty() {
        return refuse("L7 rule type requires a value");
    }
    let needs_key = matches!(rule.kind.as_str(), "HEADER" | "COOKIE" | "SSL_DN_FIELD");
    match rule.key.as_deref() {
        None | Some("") if needs_key => return refuse("L7 rule type requires a key"),
        Some(key) if needs_key && !key.bytes().all(is_token) => {
            return Err(Error::bad(
                "Error parsing L7Rule: Invalid characters in key",
            ));
        }
        _ => {}
    }
    let compare = rule.compare_type.as_str();
    match rule.kind.as_str() {
        "SSL_CONN_HAS_CERT" | "SSL_VERIFY_RESULT" if rule.key.is_some() => {
            return refuse("L7rule type does not use the \"key\" field");
        }
        "SSL_CONN_HAS_CERT" | "SSL_VERIFY_RESULT" if compare != "EQUAL_TO" => {
            return refuse("L7rule type only supports the EQUAL_TO compare type");
        }
        "SSL_CONN_HAS_CERT" if !rule.value.eq_ignore_ascii_case("true") => {
            return refuse("L7rule value of type SSL_CONN_HAS_CERT must be \"True\"");
        }
        "SSL_VERIFY_RESULT" if rule.value.parse::<u32>().is_err() => {
            return refuse("L7rule value of type SSL_VERIFY_RESULT must be an integer from 0");
        }
        "SSL_DN_FIELD" if !rule.key.as_deref().is_some_and(is_dn_field) => {
            return refuse("L7rule key of type SSL_DN_FIELD must be a distinguished name field");
        }
        _ => {}
    }
    if rule.kind == "FILE_TYPE" && !["REGEX", "EQUAL_TO"].contains(&compare) {
        return refuse("invalid comparison type for rule type");
    }
    if compare == "REGEX" {
        let built = regex::bytes::RegexBuilder::new(&rule.value)
            .case_insensitive(rule.kind == "HOST_NAME")
            .unicode(false)
            .size_limit(REGEX_SIZE)
            .build();
        return built.map(drop).map_err(|error| {
            let line = error.to_string().replace('\n', " ");
            Error::bad(format!(
                "Error parsing L7Rule: Unable to parse regular expression: {line}"
            ))
        });
    }
    let value = rule.value.as_bytes();
    let good = match value {
        [b'"', inner @ .., b'"'] if rule.kind != "COOKIE" => {
            inner.iter().all(|c| c.is_ascii_graphic() || *c == b' ')
        }
        _ if rule.kind == "COOKIE" => value
            .iter()
            .all(|c| c.is_ascii_graphic() && !b"\",;\\".contains(c)),
        _ => value.iter().all(u8::is_ascii_graphic),
    };
    if good {
        return Ok(());
    }
    let what = match rule.kind.as_str() {
        "HEADER" => "header value",
        "COOKIE" => "cookie value",
        _ => "comparison value",
    };
    Err(Error::bad(format!(
        "Error parsing L7Rule: Invalid characters in {what}"
    )))
}

/// Upstream's `[a-zA-Z][A-Za-z0-9-]*`.
fn is_dn_field(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
}

/// A character of a token (RFC 9110 section 5.6.2).
const fn is_token(c: u8) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(
            c,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::{Match, check};

    #[test]
    fn conditions() {
        let rule = |kind: &str, compare: &str, key: Option<&str>, value: &str| {
            check(&Match {
                kind: kind.into(),
                compare_type: compare.into(),
                key: key.map(str::to_owned),
                value: value.into(),
            })
        };
        for (kind, compare, key, value) in [
            ("HOST_NAME", "STARTS_WITH", None, "server"),
            ("PATH", "REGEX", None, "^/a.*b$"),
            ("FILE_TYPE", "EQUAL_TO", None, "jpg"),
            ("HEADER", "EQUAL_TO", Some("X-A"), "\"a b\""),
            ("COOKIE", "CONTAINS", Some("c"), "v"),
            ("SSL_CONN_HAS_CERT", "EQUAL_TO", None, "true"),
            ("SSL_VERIFY_RESULT", "EQUAL_TO", None, "0"),
            ("SSL_DN_FIELD", "STARTS_WITH", Some("CN"), "a"),
        ] {
            assert!(rule(kind, compare, key, value).is_ok(), "{kind} {value}");
        }
        for (kind, compare, key, value) in [
            ("PATH", "EQUAL_TO", None, ""),
            ("PATH", "EQUAL_TO", None, "a b"),
            ("PATH", "EQUAL_TO", None, "a\r\nb"),
            ("PATH", "REGEX", None, "("),
            ("FILE_TYPE", "CONTAINS", None, "jpg"),
            ("HEADER", "EQUAL_TO", None, "a"),
            ("HEADER", "EQUAL_TO", Some("X A"), "a"),
            ("HEADER", "EQUAL_TO", Some("X:\r\n"), "a"),
            ("COOKIE", "EQUAL_TO", Some("c"), "a;b"),
            ("PATH", "REGEX", None, r"(\w{99}){99}"),
            ("SSL_CONN_HAS_CERT", "EQUAL_TO", None, "false"),
            ("SSL_CONN_HAS_CERT", "REGEX", None, "true"),
            ("SSL_CONN_HAS_CERT", "EQUAL_TO", Some("k"), "true"),
            ("SSL_VERIFY_RESULT", "EQUAL_TO", None, "-1"),
            ("SSL_VERIFY_RESULT", "STARTS_WITH", None, "0"),
            ("SSL_DN_FIELD", "EQUAL_TO", Some("1N"), "a"),
            ("SSL_DN_FIELD", "EQUAL_TO", None, "a"),
        ] {
            assert!(rule(kind, compare, key, value).is_err(), "{kind} {value:?}");
        }
    }
}
