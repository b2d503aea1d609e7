//! Steps that settle rows at the end: ACTIVE, gone, or ERROR with a reason.
//!
//! While a flow holds a load balancer, everything of it that is PENDING belongs to that flow.

use super::{Context, StepError, parse};
use crate::db::entity::{
    address, amphora, amphora_health, health_monitor, l7policy, l7rule, listener,
    listener_statistics, load_balancer, member, pool, port, tag,
};
use crate::db::now;
use crate::db::query::flow::{FlowKind, Tree};
use crate::db::query::graph::{Graph, Nic};
use crate::db::query::network;
use crate::desired;
use futures_util::future::try_join_all;
use krater_model::MacAddr;
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};

/// NICs on networks that nobody needs any more.
fn surplus(graph: &Graph) -> Vec<&Nic> {
    let needed = desired::needed_subnets(graph);
    let unneeded = |nic: &&Nic| !needed.iter().any(|(id, _)| *id == nic.port.network_id);
    graph.nics.iter().filter(unneeded).collect()
}

/// The agents have let go of these NICs in the push; now they are unplugged.
pub(super) async fn unplug(context: &Context) -> Result<Value, StepError> {
    let graph = context.graph(context.world.db.read()).await?;
    let mut ports = Vec::new();
    let mut calls = Vec::new();
    for nic in surplus(&graph) {
        let amphora = parse("amphora id", &nic.port.device_id)?;
        let mac: MacAddr = parse("port MAC", &nic.port.mac_address)?;
        calls.push(context.world.compute.unplug(amphora, mac));
        ports.push(nic.port.id.clone());
    }
    try_join_all(calls).await?;
    Ok(json!({ "unplugged": ports }))
}

pub(super) async fn finish(
    context: &Context,
    effect: &Value,
    txn: &DatabaseTransaction,
) -> Result<(), StepError> {
    let graph = context.graph(txn).await?;
    release(&graph, effect, txn).await?;
    settle_children(&graph, txn).await?;
    let ids = graph.amphorae.iter().map(|row| row.id.clone()).collect();
    super::set_status(txn, ids, "ALLOCATED").await?;
    let balancer = &graph.load_balancer;
    let mut update = load_balancer::Entity::update_many()
        .col_expr(load_balancer::Column::ProvisioningStatus, "ACTIVE".into())
        .col_expr(
            load_balancer::Column::ErrorReason,
            Option::<String>::None.into(),
        );
    if context.kind == FlowKind::CreateLoadBalancer {
        let operating = if balancer.enabled {
            "ONLINE"
        } else {
            "OFFLINE"
        };
        update = update.col_expr(load_balancer::Column::OperatingStatus, operating.into());
    }
    update
        .filter(load_balancer::Column::Id.eq(balancer.id.clone()))
        .exec(txn)
        .await?;
    Ok(())
}

/// Ports that `unplug` unplugged, and addresses in subnets that no member uses any more on NICs that stay.
pub(super) async fn release(
    graph: &Graph,
    effect: &Value,
    txn: &DatabaseTransaction,
) -> Result<(), DbErr> {
    let ports: Vec<String> =
        serde_json::from_value(effect["unplugged"].clone()).unwrap_or_default();
    for id in ports {
        network::delete_port(txn, &id).await?;
    }
    let needed = desired::needed_subnets(graph);
    for nic in &graph.nics {
        let Some((_, subnets)) = needed.iter().find(|(id, _)| *id == nic.port.network_id) else {
            continue;
        };
        for address in nic
            .addresses
            .iter()
            .filter(|a| !subnets.contains(&a.subnet_id))
        {
            let key = (address.subnet_id.clone(), address.ip_address.clone());
            address::Entity::delete_by_id(key).exec(txn).await?;
        }
    }
    Ok(())
}

/// Ids of the rows in one of these provisioning statuses.
macro_rules! ids_in {
    ($rows:expr, $statuses:expr) => {
        $rows
            .iter()
            .filter(|row| $statuses.contains(&row.provisioning_status.as_str()))
            .map(|row| row.id.clone())
            .collect::<Vec<String>>()
    };
}

/// Sets the provisioning status of rows.
macro_rules! set {
    ($txn:expr, $entity:ident, $ids:expr, $status:expr) => {
        $entity::Entity::update_many()
            .col_expr($entity::Column::ProvisioningStatus, $status.into())
            .filter($entity::Column::Id.is_in($ids))
            .exec($txn)
            .await?
    };
}

/// Removes rows with their tags.
macro_rules! delete {
    ($txn:expr, $entity:ident, $ids:expr) => {{
        let ids: Vec<String> = $ids;
        if !ids.is_empty() {
            tag::Entity::delete_many()
                .filter(tag::Column::ResourceId.is_in(ids.clone()))
                .exec($txn)
                .await?;
            $entity::Entity::delete_many()
                .filter($entity::Column::Id.is_in(ids))
                .exec($txn)
                .await?;
        }
    }};
}

const CHANGING: [&str; 2] = ["PENDING_CREATE", "PENDING_UPDATE"];
const GOING: [&str; 1] = ["PENDING_DELETE"];

async fn settle_children(graph: &Graph, txn: &DatabaseTransaction) -> Result<(), DbErr> {
    // Children first: a parent's removal takes its children, whose tags have no foreign key.
    let gone_pools = ids_in!(graph.pools, GOING);
    let gone_listeners = ids_in!(graph.listeners, GOING);
    let below_listener = |id: &String| gone_listeners.contains(id);
    let below_pool = |id: &String| gone_pools.contains(id);
    let policies: Vec<String> = graph
        .policies
        .iter()
        .filter(|p| p.provisioning_status == "PENDING_DELETE" || below_listener(&p.listener_id))
        .map(|p| p.id.clone())
        .collect();
    let rules = graph
        .rules
        .iter()
        .filter(|r| r.provisioning_status == "PENDING_DELETE" || policies.contains(&r.l7policy_id));
    delete!(txn, l7rule, rules.map(|r| r.id.clone()).collect());
    delete!(txn, l7policy, policies.clone());
    renumber(graph, &policies, txn).await?;
    delete_statistics(&gone_listeners, txn).await?;
    delete!(txn, listener, gone_listeners.clone());
    let members = graph
        .members
        .iter()
        .filter(|m| m.provisioning_status == "PENDING_DELETE" || below_pool(&m.pool_id));
    delete!(txn, member, members.map(|m| m.id.clone()).collect());
    let monitors = graph
        .monitors
        .iter()
        .filter(|m| m.provisioning_status == "PENDING_DELETE" || below_pool(&m.pool_id));
    delete!(
        txn,
        health_monitor,
        monitors.map(|m| m.id.clone()).collect()
    );
    delete!(txn, pool, gone_pools.clone());

    // Monitors, policies and rules have no heartbeat: they are on when they are enabled.
    macro_rules! online {
        ($entity:ident, $rows:expr) => {
            for enabled in [true, false] {
                let rows = $rows.iter().filter(|row| row.enabled == enabled);
                let rows: Vec<_> = rows.collect();
                let ids = ids_in!(rows, CHANGING);
                if ids.is_empty() {
                    continue;
                }
                let operating = if enabled { "ONLINE" } else { "OFFLINE" };
                $entity::Entity::update_many()
                    .col_expr($entity::Column::OperatingStatus, operating.into())
                    .filter($entity::Column::Id.is_in(ids))
                    .exec(txn)
                    .await?;
            }
        };
    }
    online!(health_monitor, graph.monitors);
    online!(l7policy, graph.policies);
    online!(l7rule, graph.rules);
    macro_rules! active {
        ($entity:ident, $rows:expr) => {
            let ids = ids_in!($rows, CHANGING);
            if !ids.is_empty() {
                set!(txn, $entity, ids, "ACTIVE");
            }
        };
    }
    active!(listener, graph.listeners);
    active!(pool, graph.pools);
    active!(member, graph.members);
    active!(health_monitor, graph.monitors);
    active!(l7policy, graph.policies);
    active!(l7rule, graph.rules);
    Ok(())
}

/// Positions are 1 to n without gaps.
async fn renumber(graph: &Graph, gone: &[String], txn: &DatabaseTransaction) -> Result<(), DbErr> {
    let mut next: HashMap<&str, i32> = HashMap::new();
    for policy in graph.policies.iter().filter(|p| !gone.contains(&p.id)) {
        let position = next.entry(&policy.listener_id).or_insert(0);
        *position += 1;
        if *position != policy.position {
            l7policy::Entity::update_many()
                .col_expr(l7policy::Column::Position, (*position).into())
                .filter(l7policy::Column::Id.eq(policy.id.clone()))
                .exec(txn)
                .await?;
        }
    }
    Ok(())
}

async fn delete_statistics(listeners: &[String], txn: &DatabaseTransaction) -> Result<(), DbErr> {
    if listeners.is_empty() {
        return Ok(());
    }
    listener_statistics::Entity::delete_many()
        .filter(listener_statistics::Column::ListenerId.is_in(listeners.to_vec()))
        .exec(txn)
        .await
        .map(drop)
}

/// Amphorae are gone: rows DELETED, ports and addresses free.
pub(super) async fn forget(txn: &DatabaseTransaction, ids: &[String]) -> Result<(), DbErr> {
    if ids.is_empty() {
        return Ok(());
    }
    super::set_status(txn, ids.to_vec(), "DELETED").await?;
    port::Entity::delete_many()
        .filter(port::Column::DeviceId.is_in(ids.to_vec()))
        .exec(txn)
        .await?;
    amphora_health::Entity::delete_many()
        .filter(amphora_health::Column::AmphoraId.is_in(ids.to_vec()))
        .exec(txn)
        .await?;
    // What they carried stays in the totals of the listeners; nothing is open there any more.
    listener_statistics::Entity::update_many()
        .col_expr(listener_statistics::Column::ActiveConnections, 0.into())
        .filter(listener_statistics::Column::AmphoraId.is_in(ids.to_vec()))
        .exec(txn)
        .await?;
    Ok(())
}

pub(super) async fn retire(
    context: &Context,
    round: usize,
    txn: &DatabaseTransaction,
) -> Result<(), StepError> {
    let replacement = context.replacement(round);
    let leave: Vec<String> = replacement.leave.iter().map(ToString::to_string).collect();
    forget(txn, &leave).await?;
    let come = replacement.come.iter().map(|(id, _)| id.to_string());
    Ok(super::set_status(txn, come.collect(), "ALLOCATED").await?)
}

/// Children in ERROR are tried again.
pub(super) async fn revive(graph: &Graph, txn: &DatabaseTransaction) -> Result<(), DbErr> {
    macro_rules! again {
        ($entity:ident, $rows:expr) => {
            let ids = ids_in!($rows, ["ERROR"]);
            if !ids.is_empty() {
                set!(txn, $entity, ids, "PENDING_CREATE");
            }
        };
    }
    again!(listener, graph.listeners);
    again!(pool, graph.pools);
    again!(member, graph.members);
    again!(health_monitor, graph.monitors);
    again!(l7policy, graph.policies);
    again!(l7rule, graph.rules);
    Ok(())
}

/// The amphorae are ended; now nothing of the load balancer stays but its DELETED row.
pub(super) async fn remove(context: &Context, txn: &DatabaseTransaction) -> Result<(), StepError> {
    let graph = context.graph(txn).await?;
    let amphorae: Vec<String> = graph.amphorae.iter().map(|row| row.id.clone()).collect();
    forget(txn, &amphorae).await?;
    let all = |ids: BTreeSet<String>| ids.into_iter().collect::<Vec<_>>();
    delete!(
        txn,
        l7rule,
        all(graph.rules.iter().map(|r| r.id.clone()).collect())
    );
    delete!(
        txn,
        l7policy,
        all(graph.policies.iter().map(|r| r.id.clone()).collect())
    );
    let listeners = all(graph.listeners.iter().map(|r| r.id.clone()).collect());
    delete_statistics(&listeners, txn).await?;
    delete!(txn, listener, listeners);
    delete!(
        txn,
        member,
        all(graph.members.iter().map(|r| r.id.clone()).collect())
    );
    delete!(
        txn,
        health_monitor,
        all(graph.monitors.iter().map(|r| r.id.clone()).collect())
    );
    delete!(
        txn,
        pool,
        all(graph.pools.iter().map(|r| r.id.clone()).collect())
    );
    let balancer = &graph.load_balancer;
    if balancer.vip_port_owned {
        network::delete_port(txn, &balancer.vip_port_id).await?;
    } else {
        port::Entity::update_many()
            .col_expr(port::Column::DeviceId, "".into())
            .col_expr(port::Column::DeviceOwner, "".into())
            .filter(port::Column::Id.eq(balancer.vip_port_id.clone()))
            .exec(txn)
            .await?;
    }
    tag::Entity::delete_many()
        .filter(tag::Column::ResourceId.eq(balancer.id.clone()))
        .exec(txn)
        .await?;
    load_balancer::Entity::update_many()
        .col_expr(load_balancer::Column::ProvisioningStatus, "DELETED".into())
        .col_expr(load_balancer::Column::OperatingStatus, "OFFLINE".into())
        .col_expr(load_balancer::Column::UpdatedAt, Some(now()).into())
        .filter(load_balancer::Column::Id.eq(balancer.id.clone()))
        .exec(txn)
        .await?;
    Ok(())
}

/// Puts back what the change altered; what it made is in ERROR. Harmless when that was done.
pub(super) async fn put_back(
    context: &Context,
    txn: &DatabaseTransaction,
) -> Result<(), StepError> {
    let tree: Tree = serde_json::from_value(context.payload.clone()).unwrap_or_default();
    tree.before.restore(txn).await?;
    let graph = context.graph(txn).await?;
    macro_rules! fail {
        ($entity:ident, $rows:expr) => {
            let ids = ids_in!($rows, [CHANGING[0], CHANGING[1], GOING[0]]);
            if !ids.is_empty() {
                set!(txn, $entity, ids, "ERROR");
            }
        };
    }
    fail!(listener, graph.listeners);
    fail!(pool, graph.pools);
    fail!(member, graph.members);
    fail!(health_monitor, graph.monitors);
    fail!(l7policy, graph.policies);
    fail!(l7rule, graph.rules);
    Ok(())
}

/// ERROR with a reason.
pub(super) async fn failed(
    context: &Context,
    reason: &str,
    txn: &DatabaseTransaction,
) -> Result<(), StepError> {
    if context.load_balancer_id.is_none() {
        return Ok(());
    }
    put_back(context, txn).await?;
    let graph = context.graph(txn).await?;
    let stranded: Vec<String> = graph
        .amphorae
        .iter()
        .filter(|row| row.status.starts_with("PENDING") || row.status == "BOOTING")
        .map(|row| row.id.clone())
        .collect();
    amphora::Entity::update_many()
        .col_expr(amphora::Column::Status, "ERROR".into())
        .col_expr(amphora::Column::ErrorReason, Some(reason.to_owned()).into())
        .filter(amphora::Column::Id.is_in(stranded))
        .exec(txn)
        .await?;
    load_balancer::Entity::update_many()
        .col_expr(load_balancer::Column::ProvisioningStatus, "ERROR".into())
        .col_expr(
            load_balancer::Column::ErrorReason,
            Expr::value(Some(reason.to_owned())),
        )
        .filter(load_balancer::Column::Id.eq(graph.load_balancer.id.clone()))
        .exec(txn)
        .await?;
    Ok(())
}
