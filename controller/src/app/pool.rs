//! Pools.

use super::lock::{self, PENDING_CREATE, PENDING_DELETE, PENDING_UPDATE, item};
use super::quota::{self, Counted};
use super::tls::{self, Copies, Fetched, PoolChange, PoolTls};
use super::{AppState, Caller, Error, health_monitor, listener, member, not_supported, shown};
use crate::db::entity::{
    health_monitor as monitor_row, l7policy, listener as listener_row, load_balancer,
    member as member_row, pool, session_persistence,
};
use crate::db::now;
use crate::db::query::flow::{Action, Item, Resource};
use crate::db::query::list::{self, Attribute, Kind, PageRequest};
use crate::transaction;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait,
    IntoActiveModel, QueryFilter,
};
use std::collections::HashMap;
use uuid::Uuid;

/// As upstream's texts name it.
pub const NAME: &str = "Pool";

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
    ("lb_algorithm", "lb_algorithm", Kind::Text),
    ("tls_enabled", "tls", Kind::FlagInside("enabled")),
    ("tls_container_ref", "tls", Kind::Inside("certificate_ref")),
    ("ca_tls_container_ref", "tls", Kind::Inside("ca_ref")),
    ("crl_container_ref", "tls", Kind::Inside("crl_ref")),
    ("tls_ciphers", "tls", Kind::Inside("ciphers")),
    ("provisioning_status", "provisioning_status", Kind::Text),
    ("operating_status", "operating_status", Kind::Text),
    ("created_at", "created_at", Kind::Time),
    ("updated_at", "updated_at", Kind::Time),
];

/// Stickiness as the API has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Persistence {
    /// Absent in an update: keeps.
    pub kind: Option<String>,
    /// APP_COOKIE only.
    pub cookie_name: Option<String>,
    /// UDP and SCTP only.
    pub persistence_timeout: Option<i32>,
    /// UDP and SCTP only.
    pub persistence_granularity: Option<String>,
}

/// A pool to make.
#[derive(Debug, Clone)]
pub struct New {
    /// Its load balancer.
    pub load_balancer_id: Option<String>,
    /// Becomes the default pool of this listener.
    pub listener_id: Option<String>,
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// admin_state_up
    pub enabled: bool,
    /// Protocol.
    pub protocol: String,
    /// Algorithm.
    pub lb_algorithm: String,
    /// Stickiness.
    pub persistence: Option<Persistence>,
    /// What it says about TLS.
    pub tls: PoolChange,
    /// Tags.
    pub tags: Vec<String>,
    /// Members, in a single-call create.
    pub members: Vec<member::New>,
    /// Health monitor, in a single-call create.
    pub health_monitor: Option<health_monitor::New>,
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
    /// Algorithm.
    pub lb_algorithm: Option<String>,
    /// `Some(None)` removes.
    pub persistence: Option<Option<Persistence>>,
    /// What it says about TLS.
    pub tls: PoolChange,
    /// Replaces all.
    pub tags: Option<Vec<String>>,
}

/// A pool with what the API shows beside its row.
#[derive(Debug, Clone)]
pub struct View {
    /// The row.
    pub row: pool::Model,
    /// Ids of listeners whose default pool it is.
    pub listeners: Vec<String>,
    /// Ids.
    pub members: Vec<String>,
    /// Id.
    pub health_monitor_id: Option<String>,
    /// Stickiness.
    pub persistence: Option<session_persistence::Model>,
    /// Tags.
    pub tags: Vec<String>,
}

/// Completes rows.
pub async fn views(db: &impl ConnectionTrait, rows: Vec<pool::Model>) -> Result<Vec<View>, Error> {
    let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    let by_pool = listener_row::Column::DefaultPoolId;
    let mut listeners: HashMap<String, Vec<String>> = HashMap::new();
    for row in list::of::<listener_row::Entity>(db, by_pool, &ids).await? {
        if let Some(pool) = row.default_pool_id {
            listeners.entry(pool).or_default().push(row.id);
        }
    }
    let mut members =
        list::children::<member_row::Entity>(db, member_row::Column::PoolId, &ids).await?;
    let mut monitors =
        list::children::<monitor_row::Entity>(db, monitor_row::Column::PoolId, &ids).await?;
    let sticky = session_persistence::Entity::find()
        .filter(session_persistence::Column::PoolId.is_in(ids.iter().cloned()))
        .all(db)
        .await?;
    let mut sticky: HashMap<String, session_persistence::Model> = sticky
        .into_iter()
        .map(|row| (row.pool_id.clone(), row))
        .collect();
    let mut tags = list::tags(db, &ids).await?;
    Ok(rows
        .into_iter()
        .map(|row| View {
            listeners: listeners.remove(&row.id).unwrap_or_default(),
            members: members.remove(&row.id).unwrap_or_default(),
            health_monitor_id: monitors.remove(&row.id).and_then(|mut ids| ids.pop()),
            persistence: sticky.remove(&row.id),
            tags: tags.remove(&row.id).unwrap_or_default(),
            row,
        })
        .collect())
}

/// A page.
pub async fn list(state: &AppState, page: &PageRequest) -> Result<Vec<View>, Error> {
    let db = state.db.read();
    let rows = list::page::<pool::Entity>(db, ATTRIBUTES, page, Condition::all()).await?;
    views(db, rows).await
}

/// One.
pub async fn show(state: &AppState, id: &str) -> Result<View, Error> {
    let db = state.db.read();
    let row = find(db, id).await?;
    shown::only(views(db, vec![row]).await?, NAME, id)
}

/// The row or 404.
pub async fn find(db: &impl ConnectionTrait, id: &str) -> Result<pool::Model, Error> {
    shown::find::<pool::Entity>(db, NAME, id).await
}

/// The row or 404, with its load balancer [held](lock::held).
pub async fn held(db: &impl ConnectionTrait, id: &str) -> Result<pool::Model, Error> {
    let row = find(db, id).await?;
    lock::held(db, &row.load_balancer_id).await?;
    find(db, id).await
}

/// Makes a pool; returns its id.
pub async fn create(state: &AppState, caller: &Caller, new: &New) -> Result<String, Error> {
    let fetched = tls::prepare_pool(state, caller, &new.tls, None).await?;
    let done: Result<String, Error> = transaction!(state.db, |txn| {
        let listener = match &new.listener_id {
            Some(id) => Some(listener::find(txn, id).await?),
            None => None,
        };
        let lb = match (&new.load_balancer_id, &listener) {
            (Some(lb), _) => lb.clone(),
            (None, Some(listener)) => listener.load_balancer_id.clone(),
            (None, None) => {
                return Err(Error::validation(
                    "Must provide at least one of: loadbalancer_id, listener_id",
                ));
            }
        };
        let lb = lock::held(txn, &lb).await?;
        let listener = match listener {
            Some(row) => Some(listener::find(txn, &row.id).await?),
            None => None,
        };
        if let Some(listener) = &listener {
            if listener.load_balancer_id != lb.id {
                return Err(Error::not_found(listener::NAME, &listener.id));
            }
            listener::check_protocols(&listener.protocol, &new.protocol)?;
            let kind = new.persistence.as_ref().and_then(|p| p.kind.as_deref());
            check_cookie(&listener.protocol, kind)?;
        }
        quota::check(txn, &lb.project_id, Counted::Pool, 1).await?;
        if listener
            .as_ref()
            .is_some_and(|row| row.default_pool_id.is_some())
        {
            return Err(Error::conflict("This listener already has a default pool"));
        }
        lock::take_for_child(txn, &lb.id).await?;
        let mut items = Vec::new();
        let id = insert(state, txn, &lb, new, &fetched, &mut items).await?;
        if let Some(listener) = listener {
            lock::touch_listeners(txn, vec![listener.id.clone()], &mut items).await?;
            let mut row = listener.into_active_model();
            row.default_pool_id = Set(Some(id.clone()));
            row.update(txn).await?;
        }
        lock::enqueue_tree(state, txn, caller, &lb.id, items).await?;
        Ok(id)
    });
    state.db.nudge();
    done
}

/// Checks and inserts a pool with its members and monitor. The caller holds the load balancer and
/// checked the quotas.
pub async fn insert(
    state: &AppState,
    txn: &impl ConnectionTrait,
    lb: &load_balancer::Model,
    new: &New,
    fetched: &Fetched,
    items: &mut Vec<Item>,
) -> Result<String, Error> {
    let protocol = format!("protocol {}", new.protocol);
    if not_supported::value("pool", &protocol) {
        return Err(Error::not_supported(&protocol));
    }
    let sticky = match &new.persistence {
        Some(persistence) => Some(check_persistence(persistence, &new.protocol, None)?),
        None => None,
    };
    let tls = PoolTls::changed(&new.protocol, None, &new.tls, fetched)?;
    fetched.keep(state, txn, &Copies::default()).await?;
    let row = pool::ActiveModel {
        id: Set(Uuid::new_v4().to_string()),
        load_balancer_id: Set(lb.id.clone()),
        project_id: Set(lb.project_id.clone()),
        name: Set(new.name.clone()),
        description: Set(new.description.clone()),
        enabled: Set(new.enabled),
        protocol: Set(new.protocol.clone()),
        lb_algorithm: Set(new.lb_algorithm.clone()),
        provisioning_status: Set(PENDING_CREATE.to_owned()),
        operating_status: Set("OFFLINE".to_owned()),
        created_at: Set(now()),
        updated_at: Set(None),
        tls: Set(tls.map(|tls| tls.to_text())),
    }
    .insert(txn)
    .await?;
    if let Some(sticky) = sticky {
        store_persistence(txn, &row.id, Some(sticky)).await?;
    }
    list::set_tags(txn, &row.id, &new.tags).await?;
    items.push(item(Resource::Pool, row.id.clone(), Action::Create));
    if let Some(monitor) = &new.health_monitor {
        health_monitor::insert(txn, &row, monitor, items).await?;
    }
    let monitored = new.health_monitor.is_some();
    for member in &new.members {
        member::insert(txn, &row, member, monitored, items).await?;
    }
    Ok(row.id)
}

/// Changes a pool.
pub async fn update(
    state: &AppState,
    caller: &Caller,
    id: &str,
    change: &Change,
) -> Result<(), Error> {
    let before = find(state.db.read(), id).await?;
    let fetched = tls::prepare_pool(state, caller, &change.tls, Some(&before)).await?;
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let row = held(txn, id).await?;
        let lb = row.load_balancer_id.clone();
        lock::take_for_child(txn, &lb).await?;
        let old = PoolTls::of(&row)?;
        let copies = old
            .as_ref()
            .map(|tls| tls.copies.clone())
            .unwrap_or_default();
        let tls = PoolTls::changed(&row.protocol, old, &change.tls, &fetched)?;
        fetched.keep(state, txn, &copies).await?;
        let mut items = vec![item(Resource::Pool, id.to_owned(), Action::Update)];
        lock::touch_listeners(txn, lock::listeners_using(txn, id).await?, &mut items).await?;
        if let Some(persistence) = &change.persistence {
            let old = session_persistence::Entity::find_by_id(id.to_owned())
                .one(txn)
                .await?;
            let new = match persistence {
                Some(wanted) => Some(check_persistence(wanted, &row.protocol, old.as_ref())?),
                None => None,
            };
            let kind = new.as_ref().map(|row| row.kind.as_str());
            let users = lock::listeners_using(txn, id).await?;
            let users = listener_row::Entity::find()
                .filter(listener_row::Column::Id.is_in(users))
                .all(txn)
                .await?;
            for user in users {
                check_cookie(&user.protocol, kind)?;
            }
            store_persistence(txn, id, new).await?;
        }
        let mut new = row.into_active_model();
        let c = change.clone();
        c.name.into_iter().for_each(|v| new.name = Set(v));
        c.description
            .into_iter()
            .for_each(|v| new.description = Set(v));
        c.enabled.into_iter().for_each(|v| new.enabled = Set(v));
        c.lb_algorithm
            .into_iter()
            .for_each(|v| new.lb_algorithm = Set(v));
        new.tls = Set(tls.map(|tls| tls.to_text()));
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

/// Removes a pool with its members and monitor.
pub async fn delete(state: &AppState, caller: &Caller, id: &str) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let row = held(txn, id).await?;
        let policy = l7policy::Entity::find()
            .filter(l7policy::Column::RedirectPoolId.eq(id))
            .one(txn)
            .await?;
        if let Some(policy) = policy {
            return Err(Error::conflict(format!(
                "Pool {id} is in use by L7 policy {}",
                policy.id
            )));
        }
        let lb = row.load_balancer_id.clone();
        lock::take_for_child(txn, &lb).await?;
        let mut items = vec![item(Resource::Pool, id.to_owned(), Action::Delete)];
        lock::touch_listeners(txn, lock::listeners_using(txn, id).await?, &mut items).await?;
        let mut new = row.into_active_model();
        new.provisioning_status = Set(PENDING_DELETE.to_owned());
        new.updated_at = Set(Some(now()));
        new.update(txn).await?;
        lock::enqueue_tree(state, txn, caller, &lb, items).await
    });
    state.db.nudge();
    done
}

/// The stickiness that results, checked. `old` is what an update without `type` keeps.
fn check_persistence(
    wanted: &Persistence,
    protocol: &str,
    old: Option<&session_persistence::Model>,
) -> Result<session_persistence::Model, Error> {
    if wanted.persistence_timeout.is_some() || wanted.persistence_granularity.is_some() {
        return Err(Error::validation(
            "persistence_timeout and persistence_granularity is only for UDP and SCTP protocol pools.",
        ));
    }
    let kept = old.filter(|_| wanted.kind.is_none());
    let kind = wanted.kind.clone().or_else(|| Some(kept?.kind.clone()));
    let Some(kind) = kind else {
        return Err(Error::validation("Invalid session_persistence provided."));
    };
    if wanted.cookie_name.is_some() && kind != "APP_COOKIE" {
        return Err(Error::validation(
            "Field \"cookie_name\" can only be specified with session persistence of type \
             \"APP_COOKIE\".",
        ));
    }
    let cookie_name = wanted.cookie_name.clone();
    let cookie_name = cookie_name.or_else(|| kept?.cookie_name.clone());
    match &cookie_name {
        None if kind == "APP_COOKIE" => {
            return Err(Error::validation(
                "Field \"cookie_name\" must be specified when using the \"APP_COOKIE\" session \
                 persistence type.",
            ));
        }
        Some(name) if !krater_model::state::is_cookie_name(name) => {
            return Err(Error::validation("Supplied \"cookie_name\" is invalid."));
        }
        _ => {}
    }
    if by_cookie(&kind) && ["TCP", "HTTPS"].contains(&protocol) {
        return Err(Error::validation(format!(
            "session_persistence {kind} is invalid while the pool protocol is '{protocol}', which \
             shows no cookie: use SOURCE_IP."
        )));
    }
    Ok(session_persistence::Model {
        pool_id: String::new(),
        kind,
        cookie_name,
        persistence_timeout: None,
        persistence_granularity: None,
    })
}

fn by_cookie(kind: &str) -> bool {
    matches!(kind, "HTTP_COOKIE" | "APP_COOKIE")
}

/// An HTTPS listener passes TLS through: what is in it cannot keep a client at its member.
pub fn check_cookie(listener_protocol: &str, kind: Option<&str>) -> Result<(), Error> {
    match kind {
        Some(kind) if listener_protocol == "HTTPS" && by_cookie(kind) => {
            Err(Error::validation(format!(
                "session_persistence {kind} is invalid while the listener protocol is 'HTTPS', \
                 which shows no cookie: use SOURCE_IP."
            )))
        }
        _ => Ok(()),
    }
}

async fn store_persistence(
    txn: &impl ConnectionTrait,
    pool: &str,
    new: Option<session_persistence::Model>,
) -> Result<(), Error> {
    session_persistence::Entity::delete_by_id(pool.to_owned())
        .exec(txn)
        .await?;
    if let Some(mut row) = new {
        row.pool_id = pool.to_owned();
        session_persistence::Entity::insert(row.into_active_model())
            .exec_without_returning(txn)
            .await?;
    }
    Ok(())
}

/// The pool that an operation on a member or monitor works on: it must be ACTIVE, then its load
/// balancer is taken and the listeners that use it are touched.
pub async fn touch(
    txn: &impl ConnectionTrait,
    row: &pool::Model,
    items: &mut Vec<Item>,
) -> Result<(), Error> {
    if row.provisioning_status != lock::ACTIVE {
        return Err(Error::immutable(NAME, &row.id));
    }
    lock::take_for_child(txn, &row.load_balancer_id).await?;
    let listeners = lock::listeners_using(txn, &row.id).await?;
    lock::touch_listeners(txn, listeners, items).await?;
    lock::touch_pool(txn, &row.id, items).await
}
