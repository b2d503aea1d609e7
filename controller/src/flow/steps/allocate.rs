//! `Allocate`: decides which amphorae go and come, and makes the rows of those that come.

use super::{Context, Reason, Replacement, StepError, address, parse};
use crate::config::Topology;
use crate::db::entity::amphora;
use crate::db::now;
use crate::db::query::flow::{FlowKind, OneAmphora};
use crate::db::query::graph::{AMPHORA_PORT, Graph};
use crate::db::query::network::{self, NewPort};
use crate::desired::{VIP_INTERFACE, port_name};
use crate::failover::plan::{Existing, Role, Want, plan};
use crate::inventory::MANAGEMENT_NETWORK;
use futures_util::future::join_all;
use krater_model::AmphoraId;
use krater_model::control::RouterState;
use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait, ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long amphorae are asked whether they live; who is slower counts as dead.
const ASK: Duration = Duration::from_secs(1);

/// Asks the amphorae who holds the VIP, where the plan needs to know: id → (lives, holds it).
pub(super) async fn run(context: &Context) -> Result<Value, StepError> {
    if context.kind != FlowKind::FailoverLoadBalancer {
        return Ok(Value::Null);
    }
    let graph = context.graph(context.world.db.read()).await?;
    let facts = join_all(graph.amphorae.iter().map(|row| async move {
        let ask = async {
            let to = address(row).ok()?;
            let agents = &context.world.agents;
            agents.status(to, &context.request_id).await.ok()
        };
        let status = tokio::time::timeout(ASK, ask).await.ok().flatten();
        let owner = status.as_ref().is_some_and(|status| {
            let mut routers = status.vrrp.iter().flat_map(|vrrp| &vrrp.routers);
            routers.any(|router| router.state == RouterState::Active)
        });
        (row.id.clone(), (status.is_some(), owner))
    }))
    .await;
    let facts: BTreeMap<String, (bool, bool)> = facts.into_iter().collect();
    serde_json::to_value(facts).map_err(StepError::damaged)
}

pub(super) async fn commit(
    context: &Context,
    round: usize,
    effect: &Value,
    txn: &DatabaseTransaction,
) -> Result<Value, StepError> {
    let graph = context.graph(txn).await?;
    if graph.amphorae.is_empty() {
        // Nothing of it was ever in force, or nothing is: what its creation left in ERROR is tried again.
        super::settle::revive(&graph, txn).await?;
    }
    let facts: BTreeMap<String, (bool, bool)> =
        serde_json::from_value(effect.clone()).unwrap_or_default();
    let made = context.replacement(0).come;
    let mut existing = Vec::new();
    for row in &graph.amphorae {
        let id: AmphoraId = parse("amphora id", &row.id)?;
        let (alive, owner) = facts.get(&row.id).copied().unwrap_or_default();
        existing.push(Existing {
            id,
            role: row.role.as_deref().and_then(|role| role.parse().ok()),
            alive,
            owner,
            fresh: round > 0 && made.iter().any(|(come, _)| *come == id),
        });
    }
    let want = match (context.kind, round) {
        (FlowKind::FailoverAmphora, _) => {
            let one: OneAmphora = context.payload()?;
            Want::Replace(parse("amphora id", &one.amphora_id)?)
        }
        (FlowKind::FailoverLoadBalancer, 0) => Want::First,
        (FlowKind::FailoverLoadBalancer, _) => Want::Second,
        _ => Want::Fill,
    };
    let topology = match graph.load_balancer.topology.as_str() {
        "SINGLE" => Topology::Single,
        _ => Topology::ActiveStandby,
    };
    let plan = plan(topology, &existing, want);
    let mut come = Vec::new();
    for role in plan.come {
        come.push((make(&graph, role, txn).await?, role));
    }
    let leave = plan.leave.iter().map(ToString::to_string).collect();
    super::set_status(txn, leave, "PENDING_DELETE").await?;
    let replacement = Replacement {
        leave: plan.leave,
        come,
    };
    serde_json::to_value(replacement).map_err(StepError::damaged)
}

/// A row with a port on the management network and one on the VIP's.
async fn make(
    graph: &Graph,
    role: Role,
    txn: &DatabaseTransaction,
) -> Result<AmphoraId, StepError> {
    let id = AmphoraId::random();
    let missing = |what: &str| StepError::permanent(Reason::NotInInventory, what);
    let management = network::network_by_name(txn, MANAGEMENT_NETWORK)
        .await?
        .ok_or_else(|| missing(MANAGEMENT_NETWORK))?;
    let subnets = network::subnets_of(txn, &management.id).await?;
    let subnet = subnets.first().ok_or_else(|| missing(MANAGEMENT_NETWORK))?;
    let balancer = &graph.load_balancer;
    // The NIC on the VIP's network is plugged by `Push`, which then sets its port up.
    let port = |interface: &str, network_id: &str, up: bool| NewPort {
        id: None,
        project_id: balancer.project_id.clone(),
        name: port_name(&id.to_string(), interface),
        network_id: network_id.to_owned(),
        device_owner: AMPHORA_PORT.into(),
        device_id: id.to_string(),
        admin_state_up: up,
    };
    let mgmt = port("mgmt0", &management.id, true);
    let (mgmt_port, mgmt_ip) = network::create_port(txn, mgmt, subnet, None).await?;
    let vip_subnet = graph
        .subnets
        .iter()
        .find(|s| s.id == balancer.vip_subnet_id)
        .ok_or_else(|| missing(&balancer.vip_subnet_id))?;
    let vip = port(VIP_INTERFACE, &balancer.vip_network_id, false);
    let (vrrp_port, vrrp_ip) = network::create_port(txn, vip, vip_subnet, None).await?;
    amphora::ActiveModel {
        id: Set(id.to_string()),
        load_balancer_id: Set(Some(balancer.id.clone())),
        compute_id: Set(None),
        status: Set("BOOTING".into()),
        role: Set(Some(role.as_str().into())),
        lb_network_ip: Set(Some(mgmt_ip.to_string())),
        mgmt_port_id: Set(Some(mgmt_port.id)),
        mgmt_mac: Set(Some(mgmt_port.mac_address)),
        vrrp_ip: Set(Some(vrrp_ip.to_string())),
        ha_ip: Set(Some(balancer.vip_address.clone())),
        vrrp_port_id: Set(Some(vrrp_port.id)),
        ha_port_id: Set(Some(balancer.vip_port_id.clone())),
        vrrp_mac: Set(Some(vrrp_port.mac_address)),
        vrrp_interface: Set(Some(VIP_INTERFACE.into())),
        vrrp_id: Set(Some(1)),
        vrrp_priority: Set(Some(i32::from(role.priority()))),
        cert_expiration: Set(None),
        cert_busy: Set(false),
        cached_zone: Set(None),
        image_id: Set(None),
        compute_flavor: Set(None),
        epoch_desired: Set(0),
        generation_desired: Set(0),
        epoch_applied: Set(0),
        generation_applied: Set(0),
        revision_digest: Set(None),
        error_reason: Set(None),
        created_at: Set(now()),
        updated_at: Set(None),
    }
    .insert(txn)
    .await?;
    Ok(id)
}

pub(super) async fn undo_commit(
    context: &Context,
    round: usize,
    txn: &DatabaseTransaction,
) -> Result<(), StepError> {
    let replacement = context.replacement(round);
    let come = replacement.come.iter().map(|(id, _)| id.to_string());
    super::settle::forget(txn, &come.collect::<Vec<_>>()).await?;
    // Those that were ended are forgotten already.
    let leave: Vec<String> = replacement.leave.iter().map(ToString::to_string).collect();
    amphora::Entity::update_many()
        .col_expr(amphora::Column::Status, "ALLOCATED".into())
        .filter(amphora::Column::Id.is_in(leave))
        .filter(amphora::Column::Status.eq("PENDING_DELETE"))
        .exec(txn)
        .await?;
    Ok(())
}
