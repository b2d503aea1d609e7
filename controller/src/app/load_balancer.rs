//! Load balancers, the single-call create of a whole tree, status tree and statistics.

use super::lock::{
    self, ACTIVE, DELETED, ERROR, LOAD_BALANCER, PENDING_CREATE, PENDING_DELETE, PENDING_UPDATE,
};
use super::quota::{self, Counted};
use super::tls::{self, Fetched};
use super::{
    AppState, Caller, Error, flavor, flavor_profile, l7policy, listener, member, noop, pool, shown,
    vip, zone,
};
use crate::config::{Drivers, Topology};
use crate::db::entity::{
    amphora, health_monitor, listener as listener_row, listener_statistics, load_balancer,
    member as member_row, pool as pool_row,
};
use crate::db::now;
use crate::db::query::flow::{DeleteLoadBalancer, FlowKind, Item, Tree};
use crate::db::query::list::{self, Attribute, Kind, PageRequest};
use crate::transaction;

use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait,
    IntoActiveModel, PaginatorTrait, QueryFilter,
};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// What lists can be filtered and sorted by.
pub const ATTRIBUTES: &[Attribute] = &[
    ("id", "id", Kind::Text),
    ("name", "name", Kind::Text),
    ("description", "description", Kind::Text),
    ("project_id", "project_id", Kind::Text),
    ("admin_state_up", "enabled", Kind::Bool),
    ("provider", "provider", Kind::Text),
    ("flavor_id", "flavor_id", Kind::Text),
    ("availability_zone", "availability_zone", Kind::Text),
    ("vip_address", "vip_address", Kind::Text),
    ("vip_port_id", "vip_port_id", Kind::Text),
    ("vip_subnet_id", "vip_subnet_id", Kind::Text),
    ("vip_network_id", "vip_network_id", Kind::Text),
    ("vip_qos_policy_id", "", Kind::Null),
    ("provisioning_status", "provisioning_status", Kind::Text),
    ("operating_status", "operating_status", Kind::Text),
    ("created_at", "created_at", Kind::Time),
    ("updated_at", "updated_at", Kind::Time),
];

/// Names of the one provider.
pub const PROVIDERS: &[&str] = &["amphora", "octavia"];

/// A load balancer to make.
#[derive(Debug, Clone)]
pub struct New {
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// admin_state_up
    pub enabled: bool,
    /// From the body.
    pub project_id: Option<String>,
    /// From the body.
    pub provider: Option<String>,
    /// Decides the topology, and the provider when the body has none.
    pub flavor_id: Option<String>,
    /// Name of a zone, which decides where the VIP may be.
    pub availability_zone: Option<String>,
    /// VIP.
    pub vip: vip::Wish,
    /// Further ones.
    pub additional_vips: Vec<vip::MoreWish>,
    /// Tags.
    pub tags: Vec<String>,
    /// Listeners of a single-call create.
    pub listeners: Vec<listener::New>,
    /// Pools of a single-call create, all of them: nested definitions are hoisted.
    pub pools: Vec<pool::New>,
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
    /// Replaces all.
    pub tags: Option<Vec<String>>,
}

/// A load balancer with what the API shows beside its row.
#[derive(Debug, Clone)]
pub struct View {
    /// The row.
    pub row: load_balancer::Model,
    /// Ids.
    pub listeners: Vec<String>,
    /// Ids.
    pub pools: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
}

/// Completes rows.
pub async fn views(
    db: &impl ConnectionTrait,
    rows: Vec<load_balancer::Model>,
) -> Result<Vec<View>, Error> {
    let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    let by_lb = listener_row::Column::LoadBalancerId;
    let mut listeners = list::children::<listener_row::Entity>(db, by_lb, &ids).await?;
    let mut pools =
        list::children::<pool_row::Entity>(db, pool_row::Column::LoadBalancerId, &ids).await?;
    let mut tags = list::tags(db, &ids).await?;
    Ok(rows
        .into_iter()
        .map(|row| View {
            listeners: listeners.remove(&row.id).unwrap_or_default(),
            pools: pools.remove(&row.id).unwrap_or_default(),
            tags: tags.remove(&row.id).unwrap_or_default(),
            row,
        })
        .collect())
}

/// A page; deleted ones are hidden.
pub async fn list(state: &AppState, page: &PageRequest) -> Result<Vec<View>, Error> {
    let db = state.db.read();
    let scope = Condition::all().add(load_balancer::Column::ProvisioningStatus.ne(DELETED));
    let rows = list::page::<load_balancer::Entity>(db, ATTRIBUTES, page, scope).await?;
    views(db, rows).await
}

/// One.
pub async fn show(state: &AppState, id: &str) -> Result<View, Error> {
    let db = state.db.read();
    let row = lock::load_balancer(db, id).await?;
    shown::only(views(db, vec![row]).await?, LOAD_BALANCER, id)
}

/// Makes a load balancer with all that is in the request; returns its id.
pub async fn create(state: &AppState, caller: &Caller, new: &New) -> Result<String, Error> {
    if let Some(provider) = &new.provider {
        flavor_profile::known(provider)?;
    }
    let project = caller.project(new.project_id.clone());
    check_graph(new)?;
    let fetched = fetch_graph(state, caller, new).await?;
    let done: Result<String, Error> = transaction!(state.db, |txn| {
        let (provider, topology) = kind(state, txn, new).await?;
        let zone = match &new.availability_zone {
            Some(name) => Some(zone::choose(txn, name).await?),
            None => None,
        };
        quota::check(txn, &project, Counted::LoadBalancer, 1).await?;
        let id = Uuid::new_v4().to_string();
        let (vip, more) = match state.drivers {
            Drivers::Netns | Drivers::Qemu => {
                let vip = vip::allocate(txn, &id, &project, topology, &new.vip).await?;
                let more = vip::allocate_more(txn, &vip, &new.additional_vips).await?;
                (vip, more)
            }
            Drivers::Noop => {
                let vip = noop::vip(txn, &new.vip).await?;
                let more = noop::more_vips(txn, &vip, &new.additional_vips).await?;
                (vip, more)
            }
        };
        if let Some(zone) = &zone {
            zone.check(&vip.network_id)?;
        }
        if state.drivers == Drivers::Noop {
            let members = new.pools.iter().flat_map(|pool| &pool.members);
            noop::member_subnets(txn, members.map(member::New::place)).await?;
        }
        let lb = load_balancer::ActiveModel {
            id: Set(id.clone()),
            project_id: Set(project.clone()),
            name: Set(new.name.clone()),
            description: Set(new.description.clone()),
            enabled: Set(new.enabled),
            topology: Set(topology.as_str().to_owned()),
            provider: Set(provider.clone()),
            flavor_id: Set(new.flavor_id.clone()),
            availability_zone: Set(new.availability_zone.clone()),
            vip_address: Set(vip.address),
            vip_port_id: Set(vip.port_id),
            vip_subnet_id: Set(vip.subnet_id),
            vip_network_id: Set(vip.network_id),
            additional_vips: Set(vip::text(&more)),
            vip_port_owned: Set(vip.owned),
            locked_by_flow: Set(None),
            error_reason: Set(None),
            provisioning_status: Set(PENDING_CREATE.to_owned()),
            operating_status: Set("OFFLINE".to_owned()),
            created_at: Set(now()),
            updated_at: Set(None),
        }
        .insert(txn)
        .await?;
        list::set_tags(txn, &id, &new.tags).await?;
        let items = insert_graph(state, txn, &lb, new, &fetched).await?;
        let tree = Tree {
            items,
            ..Tree::default()
        };
        let payload = serde_json::json!(tree);
        lock::enqueue(txn, caller, FlowKind::CreateLoadBalancer, &id, payload).await?;
        Ok(id)
    });
    state.db.nudge();
    done
}

/// Provider and topology: the flavor decides, then the request, then the configuration.
async fn kind(
    state: &AppState,
    txn: &impl ConnectionTrait,
    new: &New,
) -> Result<(String, Topology), Error> {
    let Some(id) = &new.flavor_id else {
        let provider = new.provider.as_deref().unwrap_or("amphora");
        return Ok((provider.to_owned(), state.topology));
    };
    let flavor = flavor::choose(txn, id).await?;
    match &new.provider {
        Some(other) if *other != flavor.provider => Err(Error::bad(format!(
            "Flavor '{id}' is not compatible with provider '{other}'"
        ))),
        _ => Ok((
            flavor.provider,
            flavor.data.topology.unwrap_or(state.topology),
        )),
    }
}

/// References by name need a definition, and names must tell definitions apart.
fn check_graph(new: &New) -> Result<(), Error> {
    let mut names = HashSet::new();
    for pool in &new.pools {
        if pool.name.is_empty() {
            return Err(Error::validation(
                "Pools must be named when creating a fully populated loadbalancer.",
            ));
        }
        if !names.insert(pool.name.as_str()) {
            return Err(Error::validation(
                "Pool names must be unique when creating a fully populated loadbalancer.",
            ));
        }
    }
    let policies = new
        .listeners
        .iter()
        .flat_map(|listener| &listener.l7policies);
    let references = policies
        .filter_map(|policy| policy.redirect_pool.as_deref())
        .chain(
            new.listeners
                .iter()
                .filter_map(|l| l.default_pool.as_deref()),
        );
    for name in references {
        if !names.contains(name) {
            return Err(Error::validation(format!(
                "Pool '{name}' was referenced but no full definition was found."
            )));
        }
    }
    Ok(())
}

/// What listeners and pools refer to, in their order.
async fn fetch_graph(
    state: &AppState,
    caller: &Caller,
    new: &New,
) -> Result<(Vec<Fetched>, Vec<Fetched>), Error> {
    let (mut listeners, mut pools) = (Vec::new(), Vec::new());
    for listener in &new.listeners {
        listeners.push(tls::prepare_listener(state, caller, &listener.tls, None).await?);
    }
    for pool in &new.pools {
        pools.push(tls::prepare_pool(state, caller, &pool.tls, None).await?);
    }
    Ok((listeners, pools))
}

async fn insert_graph(
    state: &AppState,
    txn: &impl ConnectionTrait,
    lb: &load_balancer::Model,
    new: &New,
    (listeners, pools): &(Vec<Fetched>, Vec<Fetched>),
) -> Result<Vec<Item>, Error> {
    let mut items = Vec::new();
    let project = &lb.project_id;
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let members = new
        .pools
        .iter()
        .map(|pool| pool.members.len())
        .sum::<usize>();
    let monitors = new
        .pools
        .iter()
        .filter(|pool| pool.health_monitor.is_some())
        .count();
    for (what, more) in [
        (Counted::Pool, count(new.pools.len())),
        (Counted::HealthMonitor, count(monitors)),
        (Counted::Member, count(members)),
        (Counted::Listener, count(new.listeners.len())),
    ] {
        if more > 0 {
            quota::check(txn, project, what, more).await?;
        }
    }
    let mut ids: HashMap<&str, String> = HashMap::new();
    for (pool, fetched) in new.pools.iter().zip(pools) {
        let id = pool::insert(state, txn, lb, pool, fetched, &mut items).await?;
        ids.insert(&pool.name, id);
    }
    for (listener, fetched) in new.listeners.iter().zip(listeners) {
        let by_name = listener
            .default_pool
            .as_deref()
            .and_then(|name| ids.get(name));
        let default = by_name.or(listener.default_pool_id.as_ref());
        let default = default.map(String::as_str);
        let id = listener::insert(state, txn, lb, listener, fetched, default, &mut items).await?;
        let row = listener::find(txn, &id).await?;
        for policy in &listener.l7policies {
            let mut target = l7policy::resolve(&policy.target, policy.redirect_pool.is_none())?;
            if let Some(id) = policy
                .redirect_pool
                .as_deref()
                .and_then(|name| ids.get(name))
            {
                target.redirect_pool_id = Some(id.clone());
            }
            l7policy::insert(txn, &row, policy, &target, &mut items).await?;
        }
    }
    Ok(items)
}

/// Changes a load balancer. An empty change goes through PENDING_UPDATE too, as upstream's does.
pub async fn update(
    state: &AppState,
    caller: &Caller,
    id: &str,
    change: &Change,
) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        lock::take_itself(txn, id, &[ACTIVE], PENDING_UPDATE).await?;
        let mut new = lock::load_balancer(txn, id).await?.into_active_model();
        let c = change.clone();
        c.name.into_iter().for_each(|v| new.name = Set(v));
        c.description
            .into_iter()
            .for_each(|v| new.description = Set(v));
        c.enabled.into_iter().for_each(|v| new.enabled = Set(v));
        if new.is_changed() {
            new.update(txn).await?;
        }
        if let Some(tags) = &change.tags {
            list::set_tags(txn, id, tags).await?;
        }
        let kind = FlowKind::UpdateLoadBalancer;
        lock::enqueue_change(state, txn, caller, kind, id, Vec::new()).await
    });
    state.db.nudge();
    done
}

/// Removes a load balancer; with `cascade` all below it too.
pub async fn delete(
    state: &AppState,
    caller: &Caller,
    id: &str,
    cascade: bool,
) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        lock::held(txn, id).await?;
        let listeners = listener_row::Entity::find()
            .filter(listener_row::Column::LoadBalancerId.eq(id))
            .count(txn)
            .await?;
        let pools = pool_row::Entity::find()
            .filter(pool_row::Column::LoadBalancerId.eq(id))
            .count(txn)
            .await?;
        if !cascade && listeners + pools > 0 {
            return Err(Error::validation(format!(
                "Cannot delete Load Balancer {id} - it has children"
            )));
        }
        lock::take_itself(txn, id, &[ACTIVE, ERROR], PENDING_DELETE).await?;
        let payload = serde_json::json!(DeleteLoadBalancer { cascade });
        lock::enqueue(txn, caller, FlowKind::DeleteLoadBalancer, id, payload).await
    });
    state.db.nudge();
    done
}

/// Replaces all its amphorae.
pub async fn failover(state: &AppState, caller: &Caller, id: &str) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        lock::take_itself(txn, id, &[ACTIVE, ERROR], PENDING_UPDATE).await?;
        let payload = serde_json::Value::Null;
        lock::enqueue(txn, caller, FlowKind::FailoverLoadBalancer, id, payload).await
    });
    state.db.nudge();
    done
}

/// Everything below a load balancer.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Itself.
    pub view: View,
    /// Listeners, oldest first.
    pub listeners: Vec<listener::View>,
    /// Pools, oldest first.
    pub pools: Vec<pool::View>,
    /// Members of all pools.
    pub members: Vec<member_row::Model>,
    /// Monitors of all pools.
    pub monitors: Vec<health_monitor::Model>,
}

/// Reads a load balancer with its children.
pub async fn whole(state: &AppState, id: &str) -> Result<Whole, Error> {
    let view = show(state, id).await?;
    let db = state.db.read();
    let one = [id.to_owned()];
    let by_lb = listener_row::Column::LoadBalancerId;
    let listeners = list::of::<listener_row::Entity>(db, by_lb, &one).await?;
    let pools = list::of::<pool_row::Entity>(db, pool_row::Column::LoadBalancerId, &one).await?;
    let ids: Vec<String> = pools.iter().map(|row| row.id.clone()).collect();
    Ok(Whole {
        view,
        listeners: listener::views(db, listeners).await?,
        pools: pool::views(db, pools).await?,
        members: list::of::<member_row::Entity>(db, member_row::Column::PoolId, &ids).await?,
        monitors: list::of::<health_monitor::Entity>(db, health_monitor::Column::PoolId, &ids)
            .await?,
    })
}

/// Counters, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// From clients.
    pub bytes_in: i64,
    /// To clients.
    pub bytes_out: i64,
    /// Open now, at amphorae in service.
    pub active_connections: i64,
    /// Accepted.
    pub total_connections: i64,
    /// Refused for the client's fault.
    pub request_errors: i64,
}

/// Counters of some listeners.
pub async fn listener_stats(state: &AppState, ids: &[String]) -> Result<Stats, Error> {
    let db = state.db.read();
    let rows = listener_statistics::Entity::find()
        .filter(listener_statistics::Column::ListenerId.is_in(ids.iter().cloned()))
        .all(db)
        .await?;
    let amphorae: Vec<String> = rows.iter().map(|row| row.amphora_id.clone()).collect();
    let allocated: HashSet<String> = amphora::Entity::find()
        .filter(amphora::Column::Id.is_in(amphorae))
        .filter(amphora::Column::Status.eq("ALLOCATED"))
        .all(db)
        .await?
        .into_iter()
        .map(|row| row.id)
        .collect();
    let mut sum = Stats::default();
    for row in rows {
        sum.bytes_in += row.bytes_in;
        sum.bytes_out += row.bytes_out;
        sum.total_connections += row.total_connections;
        sum.request_errors += row.request_errors;
        if allocated.contains(&row.amphora_id) {
            sum.active_connections += row.active_connections;
        }
    }
    Ok(sum)
}

/// Counters of a load balancer.
pub async fn stats(state: &AppState, id: &str) -> Result<Stats, Error> {
    let view = show(state, id).await?;
    listener_stats(state, &view.listeners).await
}
