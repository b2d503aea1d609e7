//! Health monitors.

use super::lock::{PENDING_CREATE, PENDING_DELETE, PENDING_UPDATE, item};
use super::quota::{self, Counted};
use super::shown::{self, Tagged};
use super::{AppState, Caller, Error, lock, pool};
use crate::db::entity::{health_monitor, pool as pool_row};
use crate::db::now;
use crate::db::query::flow::{Action, Item, Resource};
use crate::db::query::list::{self, Attribute, Kind, PageRequest};
use crate::transaction;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait,
    IntoActiveModel, PaginatorTrait, QueryFilter,
};
use uuid::Uuid;

/// As upstream's texts name it.
pub const NAME: &str = "Health Monitor";

/// What lists can be filtered and sorted by.
pub const ATTRIBUTES: &[Attribute] = &[
    ("id", "id", Kind::Text),
    ("name", "name", Kind::Text),
    ("project_id", "project_id", Kind::Text),
    ("admin_state_up", "enabled", Kind::Bool),
    ("pool_id", "pool_id", Kind::Text),
    ("type", "kind", Kind::Text),
    ("delay", "delay", Kind::Int),
    ("timeout", "timeout", Kind::Int),
    ("max_retries", "max_retries", Kind::Int),
    ("max_retries_down", "max_retries_down", Kind::Int),
    ("http_method", "http_method", Kind::Text),
    ("url_path", "url_path", Kind::Text),
    ("expected_codes", "expected_codes", Kind::Text),
    ("http_version", "http_version", Kind::Text),
    ("domain_name", "domain_name", Kind::Text),
    ("provisioning_status", "provisioning_status", Kind::Text),
    ("operating_status", "operating_status", Kind::Text),
    ("created_at", "created_at", Kind::Time),
    ("updated_at", "updated_at", Kind::Time),
];

/// A health monitor to make.
#[derive(Debug, Clone)]
pub struct New {
    /// Its pool; empty within a single-call create.
    pub pool_id: String,
    /// Name.
    pub name: String,
    /// admin_state_up
    pub enabled: bool,
    /// Type.
    pub kind: String,
    /// Seconds.
    pub delay: i32,
    /// Seconds.
    pub timeout: i32,
    /// Rise.
    pub max_retries: i32,
    /// Fall.
    pub max_retries_down: i32,
    /// HTTP and HTTPS only.
    pub http_method: Option<String>,
    /// HTTP and HTTPS only.
    pub url_path: Option<String>,
    /// HTTP and HTTPS only.
    pub expected_codes: Option<String>,
    /// `1.0` or `1.1`.
    pub http_version: Option<String>,
    /// Host header.
    pub domain_name: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
}

/// A change; `None` keeps.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Name.
    pub name: Option<String>,
    /// admin_state_up
    pub enabled: Option<bool>,
    /// Seconds.
    pub delay: Option<i32>,
    /// Seconds.
    pub timeout: Option<i32>,
    /// Rise.
    pub max_retries: Option<i32>,
    /// Fall.
    pub max_retries_down: Option<i32>,
    /// HTTP and HTTPS only.
    pub http_method: Option<String>,
    /// HTTP and HTTPS only.
    pub url_path: Option<String>,
    /// HTTP and HTTPS only.
    pub expected_codes: Option<String>,
    /// `Some(None)` removes.
    pub http_version: Option<Option<String>>,
    /// `Some(None)` removes.
    pub domain_name: Option<Option<String>>,
    /// Replaces all.
    pub tags: Option<Vec<String>>,
}

/// A health monitor with its tags.
pub type View = Tagged<health_monitor::Model>;

/// Completes rows.
pub async fn views(
    db: &impl ConnectionTrait,
    rows: Vec<health_monitor::Model>,
) -> Result<Vec<View>, Error> {
    Ok(shown::tagged(db, rows, |row| &row.id).await?)
}

/// A page.
pub async fn list(state: &AppState, page: &PageRequest) -> Result<Vec<View>, Error> {
    let db = state.db.read();
    let rows = list::page::<health_monitor::Entity>(db, ATTRIBUTES, page, Condition::all()).await?;
    views(db, rows).await
}

/// One.
pub async fn show(state: &AppState, id: &str) -> Result<View, Error> {
    let db = state.db.read();
    let row = find(db, id).await?;
    shown::only(views(db, vec![row]).await?, NAME, id)
}

async fn find(db: &impl ConnectionTrait, id: &str) -> Result<health_monitor::Model, Error> {
    shown::find::<health_monitor::Entity>(db, NAME, id).await
}

/// Makes a health monitor; returns its id.
pub async fn create(state: &AppState, caller: &Caller, new: &New) -> Result<String, Error> {
    let done: Result<String, Error> = transaction!(state.db, |txn| {
        let pool = pool::held(txn, &new.pool_id).await?;
        quota::check(txn, &pool.project_id, Counted::HealthMonitor, 1).await?;
        let mut items = Vec::new();
        pool::touch(txn, &pool, &mut items).await?;
        let id = insert(txn, &pool, new, &mut items).await?;
        lock::enqueue_tree(state, txn, caller, &pool.load_balancer_id, items).await?;
        Ok(id)
    });
    state.db.nudge();
    done
}

/// Checks and inserts a monitor. The caller holds the load balancer and checked the quota.
pub async fn insert(
    txn: &impl ConnectionTrait,
    pool: &pool_row::Model,
    new: &New,
    items: &mut Vec<Item>,
) -> Result<String, Error> {
    if ["UDP-CONNECT", "SCTP"].contains(&new.kind.as_str()) {
        return Err(Error::validation(format!(
            "The {} type is only supported for pools of type UDP/SCTP.",
            new.kind
        )));
    }
    let http = is_http(&new.kind);
    let given = [
        ("http_method", new.http_method.is_some()),
        ("url_path", new.url_path.is_some()),
        ("expected_codes", new.expected_codes.is_some()),
        ("http_version", new.http_version.is_some()),
        ("domain_name", new.domain_name.is_some()),
    ];
    refuse_http_only(&new.kind, given)?;
    check_version(new.http_version.as_deref(), new.domain_name.as_deref())?;
    let twins = health_monitor::Entity::find()
        .filter(health_monitor::Column::PoolId.eq(pool.id.clone()))
        .count(txn)
        .await?;
    if twins > 0 {
        return Err(Error::conflict("This pool already has a health monitor"));
    }
    let default = |value: &Option<String>, text: &str| {
        let value = value.clone();
        http.then(|| value.unwrap_or_else(|| text.to_owned()))
    };
    let row = health_monitor::ActiveModel {
        id: Set(Uuid::new_v4().to_string()),
        pool_id: Set(pool.id.clone()),
        project_id: Set(pool.project_id.clone()),
        name: Set(new.name.clone()),
        enabled: Set(new.enabled),
        kind: Set(new.kind.clone()),
        delay: Set(new.delay),
        timeout: Set(new.timeout),
        max_retries: Set(new.max_retries),
        max_retries_down: Set(new.max_retries_down),
        http_method: Set(default(&new.http_method, "GET")),
        url_path: Set(default(&new.url_path, "/")),
        expected_codes: Set(default(&new.expected_codes, "200")),
        http_version: Set(new.http_version.clone()),
        domain_name: Set(new.domain_name.clone()),
        provisioning_status: Set(PENDING_CREATE.to_owned()),
        operating_status: Set("OFFLINE".to_owned()),
        created_at: Set(now()),
        updated_at: Set(None),
    }
    .insert(txn)
    .await?;
    list::set_tags(txn, &row.id, &new.tags).await?;
    items.push(item(
        Resource::HealthMonitor,
        row.id.clone(),
        Action::Create,
    ));
    Ok(row.id)
}

fn is_http(kind: &str) -> bool {
    matches!(kind, "HTTP" | "HTTPS")
}

fn refuse_http_only(kind: &str, given: [(&str, bool); 5]) -> Result<(), Error> {
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) if !is_http(kind) => Err(Error::option(
            name,
            format!("health monitors of type {kind}"),
        )),
        _ => Ok(()),
    }
}

fn check_version(version: Option<&str>, domain: Option<&str>) -> Result<(), Error> {
    match (version, domain) {
        (None, Some(_)) => Err(Error::validation(
            "'http_version' must be specified when 'domain_name' is provided.",
        )),
        (Some("1.0"), Some(_)) => Err(Error::option(
            "http_version 1.0",
            "health monitors HTTP 1.1 domain name health check",
        )),
        _ => Ok(()),
    }
}

/// Changes a monitor.
pub async fn update(
    state: &AppState,
    caller: &Caller,
    id: &str,
    change: &Change,
) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let pool = pool::held(txn, &find(txn, id).await?.pool_id).await?;
        let row = find(txn, id).await?;
        let given = [
            ("http_method", change.http_method.is_some()),
            ("url_path", change.url_path.is_some()),
            ("expected_codes", change.expected_codes.is_some()),
            (
                "http_version",
                change.http_version.clone().flatten().is_some(),
            ),
            (
                "domain_name",
                change.domain_name.clone().flatten().is_some(),
            ),
        ];
        refuse_http_only(&row.kind, given)?;
        let version = change
            .http_version
            .clone()
            .unwrap_or_else(|| row.http_version.clone());
        let domain = change
            .domain_name
            .clone()
            .unwrap_or_else(|| row.domain_name.clone());
        check_version(version.as_deref(), domain.as_deref())?;
        let mut items = vec![item(Resource::HealthMonitor, id.to_owned(), Action::Update)];
        pool::touch(txn, &pool, &mut items).await?;
        let mut new = row.into_active_model();
        let c = change.clone();
        c.name.into_iter().for_each(|v| new.name = Set(v));
        c.enabled.into_iter().for_each(|v| new.enabled = Set(v));
        c.delay.into_iter().for_each(|v| new.delay = Set(v));
        c.timeout.into_iter().for_each(|v| new.timeout = Set(v));
        c.max_retries
            .into_iter()
            .for_each(|v| new.max_retries = Set(v));
        c.max_retries_down
            .into_iter()
            .for_each(|v| new.max_retries_down = Set(v));
        c.http_method
            .into_iter()
            .for_each(|v| new.http_method = Set(Some(v)));
        c.url_path
            .into_iter()
            .for_each(|v| new.url_path = Set(Some(v)));
        c.expected_codes
            .into_iter()
            .for_each(|v| new.expected_codes = Set(Some(v)));
        new.http_version = Set(version);
        new.domain_name = Set(domain);
        new.provisioning_status = Set(PENDING_UPDATE.to_owned());
        new.updated_at = Set(Some(now()));
        new.update(txn).await?;
        if let Some(tags) = &change.tags {
            list::set_tags(txn, id, tags).await?;
        }
        lock::enqueue_tree(state, txn, caller, &pool.load_balancer_id, items).await
    });
    state.db.nudge();
    done
}

/// Removes a monitor.
pub async fn delete(state: &AppState, caller: &Caller, id: &str) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let pool = pool::held(txn, &find(txn, id).await?.pool_id).await?;
        let row = find(txn, id).await?;
        let mut items = vec![item(Resource::HealthMonitor, id.to_owned(), Action::Delete)];
        pool::touch(txn, &pool, &mut items).await?;
        let mut new = row.into_active_model();
        new.provisioning_status = Set(PENDING_DELETE.to_owned());
        new.updated_at = Set(Some(now()));
        new.update(txn).await?;
        lock::enqueue_tree(state, txn, caller, &pool.load_balancer_id, items).await
    });
    state.db.nudge();
    done
}
