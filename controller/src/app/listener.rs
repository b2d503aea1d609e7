//! Listeners.

use super::lock::{self, PENDING_CREATE, PENDING_DELETE, PENDING_UPDATE, item};
use super::quota::{self, Counted};
use super::tls::{self, Copies, Fetched, ListenerChange, ListenerTls};
use super::{AppState, Caller, Error, l7policy, not_supported, shown};
use crate::db::entity::{
    l7policy as policy_row, listener, load_balancer, pool, session_persistence,
};
use crate::db::now;
use crate::db::query::flow::{Action, Item, Resource};
use crate::db::query::list::{self, Attribute, Kind, PageRequest};
use crate::transaction;
use ipnet::IpNet;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait,
    IntoActiveModel, QueryFilter,
};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use uuid::Uuid;

/// As upstream's texts name it.
pub const NAME: &str = "Listener";

/// What lists can be filtered and sorted by.
pub const ATTRIBUTES: &[Attribute] = &[
    ("id", "id", Kind::Text),
    ("name", "name", Kind::Text),
    ("description", "description", Kind::Text),
    ("project_id", "project_id", Kind::Text),
    ("admin_state_up", "enabled", Kind::Bool),
    ("loadbalancer_id", "load_balancer_id", Kind::Text),
    ("load_balancer_id", "load_balancer_id", Kind::Text),
    ("protocol", "protocol", Kind::Text),
    ("protocol_port", "protocol_port", Kind::Int),
    ("connection_limit", "connection_limit", Kind::Int),
    ("default_pool_id", "default_pool_id", Kind::Text),
    ("timeout_client_data", "timeout_client_data", Kind::Int),
    (
        "timeout_member_connect",
        "timeout_member_connect",
        Kind::Int,
    ),
    ("timeout_member_data", "timeout_member_data", Kind::Int),
    ("timeout_tcp_inspect", "timeout_tcp_inspect", Kind::Int),
    (
        "default_tls_container_ref",
        "tls",
        Kind::Inside("default_ref"),
    ),
    (
        "client_ca_tls_container_ref",
        "tls",
        Kind::Inside("client_ca_ref"),
    ),
    (
        "client_crl_container_ref",
        "tls",
        Kind::Inside("client_crl_ref"),
    ),
    ("tls_ciphers", "tls", Kind::Inside("ciphers")),
    ("hsts_max_age", "tls", Kind::NumberInside("hsts_max_age")),
    (
        "hsts_include_subdomains",
        "tls",
        Kind::FlagInside("hsts_include_subdomains"),
    ),
    ("hsts_preload", "tls", Kind::FlagInside("hsts_preload")),
    ("provisioning_status", "provisioning_status", Kind::Text),
    ("operating_status", "operating_status", Kind::Text),
    ("created_at", "created_at", Kind::Time),
    ("updated_at", "updated_at", Kind::Time),
];

/// Time-outs in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Client inactivity.
    pub client_data: i32,
    /// Connect to a member.
    pub member_connect: i32,
    /// Member inactivity.
    pub member_data: i32,
    /// Content inspection.
    pub tcp_inspect: i32,
}

/// Octavia's defaults.
pub const TIMEOUTS: Timeouts = Timeouts {
    client_data: 50_000,
    member_connect: 5_000,
    member_data: 50_000,
    tcp_inspect: 0,
};

/// A listener to make.
#[derive(Debug, Clone)]
pub struct New {
    /// Its load balancer; empty within a single-call create.
    pub load_balancer_id: String,
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// admin_state_up
    pub enabled: bool,
    /// Protocol.
    pub protocol: String,
    /// Port.
    pub protocol_port: i32,
    /// -1 is unlimited.
    pub connection_limit: i32,
    /// Default pool by id.
    pub default_pool_id: Option<String>,
    /// Header name to `true` or `false`.
    pub insert_headers: BTreeMap<String, String>,
    /// Networks in network form.
    pub allowed_cidrs: Vec<String>,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// What it says about TLS.
    pub tls: ListenerChange,
    /// Tags.
    pub tags: Vec<String>,
    /// Default pool by name, in a single-call create.
    pub default_pool: Option<String>,
    /// Policies, in a single-call create.
    pub l7policies: Vec<l7policy::New>,
}

/// A change; `None` keeps.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Name.
    pub name: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// admin_state_up
    pub enabled: Option<bool>,
    /// -1 is unlimited.
    pub connection_limit: Option<i32>,
    /// `Some(None)` detaches.
    pub default_pool_id: Option<Option<String>>,
    /// Replaces all.
    pub insert_headers: Option<BTreeMap<String, String>>,
    /// Replaces all.
    pub allowed_cidrs: Option<Vec<String>>,
    /// Milliseconds.
    pub timeout_client_data: Option<i32>,
    /// Milliseconds.
    pub timeout_member_connect: Option<i32>,
    /// Milliseconds.
    pub timeout_member_data: Option<i32>,
    /// Milliseconds.
    pub timeout_tcp_inspect: Option<i32>,
    /// What it says about TLS.
    pub tls: ListenerChange,
    /// Replaces all.
    pub tags: Option<Vec<String>>,
}

/// A listener with what the API shows beside its row.
#[derive(Debug, Clone)]
pub struct View {
    /// The row.
    pub row: listener::Model,
    /// Ids, by position.
    pub l7policies: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
}

/// Completes rows.
pub async fn views(
    db: &impl ConnectionTrait,
    rows: Vec<listener::Model>,
) -> Result<Vec<View>, Error> {
    let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    let mut rows_of =
        list::of::<policy_row::Entity>(db, policy_row::Column::ListenerId, &ids).await?;
    rows_of.sort_by_key(|policy| policy.position);
    let mut policies: HashMap<String, Vec<String>> = HashMap::new();
    for policy in rows_of {
        policies
            .entry(policy.listener_id)
            .or_default()
            .push(policy.id);
    }
    let mut tags = list::tags(db, &ids).await?;
    Ok(rows
        .into_iter()
        .map(|row| View {
            l7policies: policies.remove(&row.id).unwrap_or_default(),
            tags: tags.remove(&row.id).unwrap_or_default(),
            row,
        })
        .collect())
}

/// A page.
pub async fn list(state: &AppState, page: &PageRequest) -> Result<Vec<View>, Error> {
    let db = state.db.read();
    let rows = list::page::<listener::Entity>(db, ATTRIBUTES, page, Condition::all()).await?;
    views(db, rows).await
}

/// One.
pub async fn show(state: &AppState, id: &str) -> Result<View, Error> {
    let db = state.db.read();
    let row = find(db, id).await?;
    shown::only(views(db, vec![row]).await?, NAME, id)
}

/// The row or 404.
pub async fn find(db: &impl ConnectionTrait, id: &str) -> Result<listener::Model, Error> {
    shown::find::<listener::Entity>(db, NAME, id).await
}

/// The row or 404, with its load balancer [held](lock::held).
pub async fn held(db: &impl ConnectionTrait, id: &str) -> Result<listener::Model, Error> {
    let row = find(db, id).await?;
    lock::held(db, &row.load_balancer_id).await?;
    find(db, id).await
}

/// Makes a listener; returns its id.
pub async fn create(state: &AppState, caller: &Caller, new: &New) -> Result<String, Error> {
    let fetched = tls::prepare_listener(state, caller, &new.tls, None).await?;
    let done: Result<String, Error> = transaction!(state.db, |txn| {
        let lb = lock::held(txn, &new.load_balancer_id).await?;
        quota::check(txn, &lb.project_id, Counted::Listener, 1).await?;
        lock::take_for_child(txn, &lb.id).await?;
        let mut items = Vec::new();
        let pool_id = new.default_pool_id.as_deref();
        let id = insert(state, txn, &lb, new, &fetched, pool_id, &mut items).await?;
        lock::enqueue_tree(state, txn, caller, &lb.id, items).await?;
        Ok(id)
    });
    state.db.nudge();
    done
}

/// Checks and inserts a listener. The caller holds the load balancer and checked the quota.
pub async fn insert(
    state: &AppState,
    txn: &impl ConnectionTrait,
    lb: &load_balancer::Model,
    new: &New,
    fetched: &Fetched,
    default_pool: Option<&str>,
    items: &mut Vec<Item>,
) -> Result<String, Error> {
    let protocol = format!("protocol {}", new.protocol);
    if not_supported::value("listener", &protocol) {
        return Err(Error::not_supported(&protocol));
    }
    check_insert_headers(&new.protocol, &new.insert_headers)?;
    check_cidrs(lb, &new.allowed_cidrs)?;
    let tls = ListenerTls::changed(&new.protocol, None, &new.tls, fetched)?;
    if let Some(pool) = default_pool {
        check_pool(txn, &lb.id, pool, &new.protocol).await?;
    }
    let other = listener::Entity::find()
        .filter(listener::Column::LoadBalancerId.eq(lb.id.clone()))
        .filter(listener::Column::ProtocolPort.eq(new.protocol_port))
        .one(txn)
        .await?;
    if let Some(other) = other {
        return Err(Error::conflict(format!(
            "Another Listener on this Load Balancer is already using protocol {} and protocol_port {}",
            other.protocol, other.protocol_port
        )));
    }
    fetched.keep(state, txn, &Copies::default()).await?;
    let row = listener::ActiveModel {
        id: Set(Uuid::new_v4().to_string()),
        load_balancer_id: Set(lb.id.clone()),
        project_id: Set(lb.project_id.clone()),
        name: Set(new.name.clone()),
        description: Set(new.description.clone()),
        enabled: Set(new.enabled),
        protocol: Set(new.protocol.clone()),
        protocol_port: Set(new.protocol_port),
        connection_limit: Set(new.connection_limit),
        default_pool_id: Set(default_pool.map(str::to_owned)),
        insert_headers: Set(serde_json::json!(new.insert_headers).to_string()),
        allowed_cidrs: Set(serde_json::json!(new.allowed_cidrs).to_string()),
        timeout_client_data: Set(new.timeouts.client_data),
        timeout_member_connect: Set(new.timeouts.member_connect),
        timeout_member_data: Set(new.timeouts.member_data),
        timeout_tcp_inspect: Set(new.timeouts.tcp_inspect),
        provisioning_status: Set(PENDING_CREATE.to_owned()),
        operating_status: Set("OFFLINE".to_owned()),
        created_at: Set(now()),
        updated_at: Set(None),
        tls: Set(tls.map(|tls| tls.to_text())),
    }
    .insert(txn)
    .await?;
    list::set_tags(txn, &row.id, &new.tags).await?;
    items.push(item(Resource::Listener, row.id.clone(), Action::Create));
    Ok(row.id)
}

/// Changes a listener.
pub async fn update(
    state: &AppState,
    caller: &Caller,
    id: &str,
    change: &Change,
) -> Result<(), Error> {
    let before = find(state.db.read(), id).await?;
    let fetched = tls::prepare_listener(state, caller, &change.tls, Some(&before)).await?;
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let row = held(txn, id).await?;
        let lb = lock::load_balancer(txn, &row.load_balancer_id).await?;
        lock::take_for_child(txn, &lb.id).await?;
        let old = ListenerTls::of(&row)?;
        let copies = old
            .as_ref()
            .map(|tls| tls.copies.clone())
            .unwrap_or_default();
        let tls = ListenerTls::changed(&row.protocol, old, &change.tls, &fetched)?;
        fetched.keep(state, txn, &copies).await?;
        if let Some(headers) = &change.insert_headers {
            check_insert_headers(&row.protocol, headers)?;
        }
        if let Some(cidrs) = &change.allowed_cidrs {
            check_cidrs(&lb, cidrs)?;
        }
        if let Some(Some(pool)) = &change.default_pool_id {
            check_pool(txn, &lb.id, pool, &row.protocol).await?;
        }
        let mut new = row.into_active_model();
        let c = change.clone();
        c.name.into_iter().for_each(|v| new.name = Set(v));
        c.description
            .into_iter()
            .for_each(|v| new.description = Set(v));
        c.enabled.into_iter().for_each(|v| new.enabled = Set(v));
        c.connection_limit
            .into_iter()
            .for_each(|v| new.connection_limit = Set(v));
        c.default_pool_id
            .into_iter()
            .for_each(|v| new.default_pool_id = Set(v));
        if let Some(headers) = c.insert_headers {
            new.insert_headers = Set(serde_json::json!(headers).to_string());
        }
        if let Some(cidrs) = c.allowed_cidrs {
            new.allowed_cidrs = Set(serde_json::json!(cidrs).to_string());
        }
        c.timeout_client_data
            .into_iter()
            .for_each(|v| new.timeout_client_data = Set(v));
        c.timeout_member_connect
            .into_iter()
            .for_each(|v| new.timeout_member_connect = Set(v));
        c.timeout_member_data
            .into_iter()
            .for_each(|v| new.timeout_member_data = Set(v));
        c.timeout_tcp_inspect
            .into_iter()
            .for_each(|v| new.timeout_tcp_inspect = Set(v));
        new.tls = Set(tls.map(|tls| tls.to_text()));
        new.provisioning_status = Set(PENDING_UPDATE.to_owned());
        new.updated_at = Set(Some(now()));
        new.update(txn).await?;
        if let Some(tags) = &change.tags {
            list::set_tags(txn, id, tags).await?;
        }
        let items = vec![item(Resource::Listener, id.to_owned(), Action::Update)];
        lock::enqueue_tree(state, txn, caller, &lb.id, items).await
    });
    state.db.nudge();
    done
}

/// Removes a listener with its policies; pools stay.
pub async fn delete(state: &AppState, caller: &Caller, id: &str) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let row = held(txn, id).await?;
        let lb = row.load_balancer_id.clone();
        lock::take_for_child(txn, &lb).await?;
        let mut new = row.into_active_model();
        new.provisioning_status = Set(PENDING_DELETE.to_owned());
        new.updated_at = Set(Some(now()));
        new.update(txn).await?;
        let items = vec![item(Resource::Listener, id.to_owned(), Action::Delete)];
        lock::enqueue_tree(state, txn, caller, &lb, items).await
    });
    state.db.nudge();
    done
}

/// Whether requests of the protocol are parsed.
pub fn is_http(protocol: &str) -> bool {
    matches!(protocol, "HTTP" | "TERMINATED_HTTPS")
}

/// The matrix of listener and pool protocols.
pub fn check_protocols(listener: &str, pool: &str) -> Result<(), Error> {
    let listener_protocol = serde_json::from_value(listener.into()).ok();
    let pool_protocol = serde_json::from_value(pool.into()).ok();
    let fit = match (listener_protocol, pool_protocol) {
        (Some(listener), Some(pool)) => krater_model::state::compatible(listener, pool),
        _ => false,
    };
    if fit {
        return Ok(());
    }
    Err(Error::validation(format!(
        "The pool protocol '{pool}' is invalid while the listener protocol is '{listener}'."
    )))
}

/// The pool must be of the same load balancer and fit the listener.
pub async fn check_pool(
    db: &impl ConnectionTrait,
    lb: &str,
    pool_id: &str,
    protocol: &str,
) -> Result<(), Error> {
    let row = pool::Entity::find_by_id(pool_id.to_owned())
        .one(db)
        .await?
        .filter(|row| row.load_balancer_id == lb && row.provisioning_status != PENDING_DELETE)
        .ok_or_else(|| Error::not_found(super::pool::NAME, pool_id))?;
    if row.provisioning_status == lock::ERROR {
        // It serves nobody until it is changed or removed.
        return Err(Error::immutable(super::pool::NAME, pool_id));
    }
    check_protocols(protocol, &row.protocol)?;
    let sticky = session_persistence::Entity::find_by_id(row.id)
        .one(db)
        .await?;
    super::pool::check_cookie(protocol, sticky.as_ref().map(|row| row.kind.as_str()))
}

fn check_insert_headers(protocol: &str, headers: &BTreeMap<String, String>) -> Result<(), Error> {
    if headers.is_empty() {
        return Ok(());
    }
    if !is_http(protocol) {
        let option = format!("a {protocol} protocol listener.");
        return Err(Error::option("insert-headers", option));
    }
    for (name, value) in headers {
        let known =
            serde_json::from_value::<krater_model::state::InsertHeader>(name.as_str().into());
        match known {
            Err(_) => return Err(Error::option(format!("[{name:?}]"), "insert_headers")),
            Ok(header) if header.needs_tls() && protocol != "TERMINATED_HTTPS" => {
                let option = format!("{protocol} protocol listener.");
                return Err(Error::option(format!("[{name:?}]"), option));
            }
            Ok(_) => {}
        }
        if !["true", "false"].contains(&value.to_ascii_lowercase().as_str()) {
            return Err(Error::input(
                "insert_headers",
                value,
                format!("{name} should be \"true\" or \"false\""),
            ));
        }
    }
    Ok(())
}

fn check_cidrs(lb: &load_balancer::Model, cidrs: &[String]) -> Result<(), Error> {
    let primary: Option<IpAddr> = lb.vip_address.parse().ok();
    let more = super::vip::additional(lb).into_iter();
    let vips: Vec<IpAddr> = primary
        .into_iter()
        .chain(more.map(|vip| vip.ip_address))
        .collect();
    for text in cidrs {
        let cidr: Option<IpNet> = text.parse().ok();
        let same = cidr.is_some_and(|cidr| {
            vips.iter()
                .any(|vip| vip.is_ipv4() == cidr.addr().is_ipv4())
        });
        if !same {
            return Err(Error::validation(format!(
                "CIDR {text} IP version incompatible with all VIPs [{}] IP version.",
                vips.iter()
                    .map(|vip| format!("'{vip}'"))
                    .collect::<Vec<_>>()
                    .join(", ")
            )));
        }
    }
    Ok(())
}

/// The listener an operation on a policy works on; its load balancer must be ACTIVE.
pub async fn touch(
    txn: &impl ConnectionTrait,
    row: &listener::Model,
    items: &mut Vec<Item>,
) -> Result<(), Error> {
    lock::take_for_child(txn, &row.load_balancer_id).await?;
    lock::touch_listeners(txn, vec![row.id.clone()], items).await
}
