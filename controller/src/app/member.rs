//! Members, alone and in batches.

use super::lock::{PENDING_CREATE, PENDING_DELETE, PENDING_UPDATE, item};
use super::quota::{self, Counted};
use super::shown::{self, Tagged};
use super::{AppState, Caller, Error, lock, noop, pool, vip};
use crate::config::Drivers;
use crate::db::entity::{health_monitor, member, pool as pool_row};
use crate::db::now;
use crate::db::query::flow::{Action, Item, Resource};
use crate::db::query::list::{self, Attribute, Kind, PageRequest};
use crate::transaction;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait,
    IntoActiveModel, PaginatorTrait, QueryFilter,
};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use uuid::Uuid;

/// As upstream's texts name it.
pub const NAME: &str = "Member";
/// Addresses that are never members: the metadata service.
const RESERVED: &[IpAddr] = &[IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254))];

/// What lists can be filtered and sorted by.
pub const ATTRIBUTES: &[Attribute] = &[
    ("id", "id", Kind::Text),
    ("name", "name", Kind::Text),
    ("project_id", "project_id", Kind::Text),
    ("pool_id", "pool_id", Kind::Text),
    ("admin_state_up", "enabled", Kind::Bool),
    ("address", "address", Kind::Text),
    ("protocol_port", "protocol_port", Kind::Int),
    ("weight", "weight", Kind::Int),
    ("backup", "backup", Kind::Bool),
    ("subnet_id", "subnet_id", Kind::Text),
    ("monitor_address", "monitor_address", Kind::Text),
    ("monitor_port", "monitor_port", Kind::Int),
    ("provisioning_status", "provisioning_status", Kind::Text),
    ("operating_status", "operating_status", Kind::Text),
    ("created_at", "created_at", Kind::Time),
    ("updated_at", "updated_at", Kind::Time),
];

/// A member to make. In a batch, `name` and `tags` are kept when they are not given.
#[derive(Debug, Clone)]
pub struct New {
    /// Name, if given.
    pub name: Option<String>,
    /// admin_state_up
    pub enabled: bool,
    /// As written.
    pub address: String,
    /// Port.
    pub protocol_port: i32,
    /// 0 to 256.
    pub weight: i32,
    /// Used when all others are down.
    pub backup: bool,
    /// Where it is reached.
    pub subnet_id: Option<String>,
    /// Probes go here instead.
    pub monitor_address: Option<String>,
    /// Probes go here instead.
    pub monitor_port: Option<i32>,
    /// Tags, if given.
    pub tags: Option<Vec<String>>,
}

impl New {
    /// Its subnet and address.
    pub fn place(&self) -> (Option<&str>, &str) {
        (self.subnet_id.as_deref(), &self.address)
    }
}

/// A change; `None` keeps.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Name.
    pub name: Option<String>,
    /// admin_state_up
    pub enabled: Option<bool>,
    /// 0 to 256.
    pub weight: Option<i32>,
    /// Used when all others are down.
    pub backup: Option<bool>,
    /// `Some(None)` removes.
    pub monitor_address: Option<Option<String>>,
    /// `Some(None)` removes.
    pub monitor_port: Option<Option<i32>>,
    /// Replaces all.
    pub tags: Option<Vec<String>>,
}

/// A member with its tags.
pub type View = Tagged<member::Model>;

/// Completes rows.
pub async fn views(
    db: &impl ConnectionTrait,
    rows: Vec<member::Model>,
) -> Result<Vec<View>, Error> {
    Ok(shown::tagged(db, rows, |row| &row.id).await?)
}

/// A page of a pool's members.
pub async fn list(state: &AppState, pool_id: &str, page: &PageRequest) -> Result<Vec<View>, Error> {
    let db = state.db.read();
    pool::find(db, pool_id).await?;
    let scope = Condition::all().add(member::Column::PoolId.eq(pool_id));
    let rows = list::page::<member::Entity>(db, ATTRIBUTES, page, scope).await?;
    views(db, rows).await
}

/// One of a pool.
pub async fn show(state: &AppState, pool_id: &str, id: &str) -> Result<View, Error> {
    let db = state.db.read();
    let row = find(db, pool_id, id).await?;
    shown::only(views(db, vec![row]).await?, NAME, id)
}

async fn find(db: &impl ConnectionTrait, pool_id: &str, id: &str) -> Result<member::Model, Error> {
    pool::find(db, pool_id).await?;
    let row = shown::find::<member::Entity>(db, NAME, id).await?;
    Some(row)
        .filter(|row| row.pool_id == pool_id)
        .ok_or_else(|| Error::not_found(NAME, id))
}

/// Makes a member; returns its id.
pub async fn create(
    state: &AppState,
    caller: &Caller,
    pool_id: &str,
    new: &New,
) -> Result<String, Error> {
    let done: Result<String, Error> = transaction!(state.db, |txn| {
        let pool = pool::held(txn, pool_id).await?;
        quota::check(txn, &pool.project_id, Counted::Member, 1).await?;
        let mut items = Vec::new();
        pool::touch(txn, &pool, &mut items).await?;
        if state.drivers == Drivers::Noop {
            noop::member_subnets(txn, std::iter::once(new.place())).await?;
        }
        let monitored = is_monitored(txn, pool_id).await?;
        let id = insert(txn, &pool, new, monitored, &mut items).await?;
        lock::enqueue_tree(state, txn, caller, &pool.load_balancer_id, items).await?;
        Ok(id)
    });
    state.db.nudge();
    done
}

/// The subnet must be one that clients see.
async fn check_subnet(txn: &impl ConnectionTrait, new: &New) -> Result<(), Error> {
    match &new.subnet_id {
        Some(id) => vip::visible_subnet(txn, id).await.map(drop),
        None => Ok(()),
    }
}

/// Whether the pool has a monitor.
async fn is_monitored(db: &impl ConnectionTrait, pool_id: &str) -> Result<bool, Error> {
    let count = health_monitor::Entity::find()
        .filter(health_monitor::Column::PoolId.eq(pool_id))
        .count(db)
        .await?;
    Ok(count > 0)
}

/// Checks and inserts a member. The caller holds the load balancer and checked the quota.
pub async fn insert(
    txn: &impl ConnectionTrait,
    pool: &pool_row::Model,
    new: &New,
    monitored: bool,
    items: &mut Vec<Item>,
) -> Result<String, Error> {
    check_address(&new.address)?;
    check_subnet(txn, new).await?;
    let twin = member::Entity::find()
        .filter(member::Column::PoolId.eq(pool.id.clone()))
        .filter(member::Column::Address.eq(new.address.clone()))
        .filter(member::Column::ProtocolPort.eq(new.protocol_port))
        .count(txn)
        .await?;
    if twin > 0 {
        return Err(Error::conflict(format!(
            "Another member on this pool is already using ip {} on protocol_port {}",
            new.address, new.protocol_port
        )));
    }
    let status = if monitored { "OFFLINE" } else { "NO_MONITOR" };
    let row = member::ActiveModel {
        id: Set(Uuid::new_v4().to_string()),
        pool_id: Set(pool.id.clone()),
        project_id: Set(pool.project_id.clone()),
        name: Set(new.name.clone().unwrap_or_default()),
        enabled: Set(new.enabled),
        address: Set(new.address.clone()),
        protocol_port: Set(new.protocol_port),
        weight: Set(new.weight),
        backup: Set(new.backup),
        subnet_id: Set(new.subnet_id.clone()),
        monitor_address: Set(new.monitor_address.clone()),
        monitor_port: Set(new.monitor_port),
        provisioning_status: Set(PENDING_CREATE.to_owned()),
        operating_status: Set(status.to_owned()),
        created_at: Set(now()),
        updated_at: Set(None),
    }
    .insert(txn)
    .await?;
    list::set_tags(txn, &row.id, new.tags.as_deref().unwrap_or_default()).await?;
    items.push(item(Resource::Member, row.id.clone(), Action::Create));
    Ok(row.id)
}

fn check_address(address: &str) -> Result<(), Error> {
    let ip: Option<IpAddr> = address.parse().ok();
    if ip.is_some_and(|ip| RESERVED.contains(&ip)) {
        return Err(Error::option(address, "member address"));
    }
    Ok(())
}

/// Changes a member.
pub async fn update(
    state: &AppState,
    caller: &Caller,
    pool_id: &str,
    id: &str,
    change: &Change,
) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let pool = pool::held(txn, pool_id).await?;
        let row = find(txn, pool_id, id).await?;
        let mut items = vec![item(Resource::Member, id.to_owned(), Action::Update)];
        pool::touch(txn, &pool, &mut items).await?;
        let mut new = row.into_active_model();
        let c = change.clone();
        c.name.into_iter().for_each(|v| new.name = Set(v));
        c.enabled.into_iter().for_each(|v| new.enabled = Set(v));
        c.weight.into_iter().for_each(|v| new.weight = Set(v));
        c.backup.into_iter().for_each(|v| new.backup = Set(v));
        c.monitor_address
            .into_iter()
            .for_each(|v| new.monitor_address = Set(v));
        c.monitor_port
            .into_iter()
            .for_each(|v| new.monitor_port = Set(v));
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

/// Removes a member.
pub async fn delete(
    state: &AppState,
    caller: &Caller,
    pool_id: &str,
    id: &str,
) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let pool = pool::held(txn, pool_id).await?;
        let row = find(txn, pool_id, id).await?;
        let mut items = Vec::new();
        pool::touch(txn, &pool, &mut items).await?;
        mark_deleted(txn, row, &mut items).await?;
        lock::enqueue_tree(state, txn, caller, &pool.load_balancer_id, items).await
    });
    state.db.nudge();
    done
}

async fn mark_deleted(
    txn: &impl ConnectionTrait,
    row: member::Model,
    items: &mut Vec<Item>,
) -> Result<(), Error> {
    items.push(item(Resource::Member, row.id.clone(), Action::Delete));
    let mut new = row.into_active_model();
    new.provisioning_status = Set(PENDING_DELETE.to_owned());
    new.updated_at = Set(Some(now()));
    new.update(txn).await?;
    Ok(())
}

/// Makes the pool's members be exactly `wanted` (or contain them, with `additive_only`), keyed on
/// address text and port. What a known member's entry leaves out goes back to its default, except
/// name and tags.
pub async fn replace(
    state: &AppState,
    caller: &Caller,
    pool_id: &str,
    wanted: &[New],
    additive_only: bool,
) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let pool = pool::held(txn, pool_id).await?;
        let old =
            list::of::<member::Entity>(txn, member::Column::PoolId, std::slice::from_ref(&pool.id))
                .await?;
        let mut left: HashMap<(String, i32), member::Model> = old
            .into_iter()
            .map(|row| ((row.address.clone(), row.protocol_port), row))
            .collect();
        let existing = left.len();
        let known: HashSet<(String, i32)> = left.keys().cloned().collect();
        let (mut created, mut updated) = (Vec::new(), Vec::new());
        for new in wanted {
            let key = (new.address.clone(), new.protocol_port);
            match left.remove(&key) {
                Some(row) => updated.push((row, new)),
                None if known.contains(&key) => {
                    return Err(Error::validation(format!(
                        "Member {}:{} has been updated multiple times within this request.",
                        new.address, new.protocol_port
                    )));
                }
                None => {
                    created.push(new);
                }
            }
        }
        let deleted: Vec<member::Model> = if additive_only {
            Vec::new()
        } else {
            left.into_values().collect()
        };
        if wanted.is_empty() && (existing == 0 || additive_only) {
            return Ok(());
        }
        let growth = created.len().saturating_sub(deleted.len());
        if let Ok(growth @ 1..) = u64::try_from(growth) {
            quota::check(txn, &pool.project_id, Counted::Member, growth).await?;
        }
        let mut items = Vec::new();
        pool::touch(txn, &pool, &mut items).await?;
        if state.drivers == Drivers::Noop {
            noop::member_subnets(txn, wanted.iter().map(New::place)).await?;
        }
        let monitored = is_monitored(txn, pool_id).await?;
        for row in deleted {
            mark_deleted(txn, row, &mut items).await?;
        }
        for (row, new) in updated {
            let id = row.id.clone();
            reset(txn, row, new).await?;
            items.push(item(Resource::Member, id, Action::Update));
        }
        for new in created {
            insert(txn, &pool, new, monitored, &mut items).await?;
        }
        lock::enqueue_tree(state, txn, caller, &pool.load_balancer_id, items).await
    });
    state.db.nudge();
    done
}

async fn reset(txn: &impl ConnectionTrait, row: member::Model, new: &New) -> Result<(), Error> {
    let id = row.id.clone();
    let mut changed = row.into_active_model();
    if let Some(name) = &new.name {
        changed.name = Set(name.clone());
    }
    if let Some(subnet) = &new.subnet_id {
        check_subnet(txn, new).await?;
        changed.subnet_id = Set(Some(subnet.clone()));
    }
    changed.enabled = Set(new.enabled);
    changed.weight = Set(new.weight);
    changed.backup = Set(new.backup);
    changed.monitor_address = Set(new.monitor_address.clone());
    changed.monitor_port = Set(new.monitor_port);
    changed.provisioning_status = Set(PENDING_UPDATE.to_owned());
    changed.updated_at = Set(Some(now()));
    changed.update(txn).await?;
    if let Some(tags) = &new.tags {
        list::set_tags(txn, &id, tags).await?;
    }
    Ok(())
}
