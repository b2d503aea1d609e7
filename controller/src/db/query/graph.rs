//! A load balancer with everything below it and its amphorae, as rows.

use crate::db::entity::{
    address, amphora, health_monitor, l7policy, l7rule, listener, load_balancer, member, network,
    pool, port, session_persistence, subnet, tls_bundle,
};
use crate::db::query::bundle;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};
use std::collections::BTreeSet;

/// `device_owner` of the ports of amphorae.
pub const AMPHORA_PORT: &str = "compute:krater";

/// See the module. Children are in a stable order.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The load balancer.
    pub load_balancer: load_balancer::Model,
    /// Its listeners.
    pub listeners: Vec<listener::Model>,
    /// Its pools.
    pub pools: Vec<pool::Model>,
    /// Stickiness of its pools.
    pub persistence: Vec<session_persistence::Model>,
    /// Members of its pools.
    pub members: Vec<member::Model>,
    /// Monitors of its pools.
    pub monitors: Vec<health_monitor::Model>,
    /// Policies of its listeners, by position.
    pub policies: Vec<l7policy::Model>,
    /// Rules of its policies.
    pub rules: Vec<l7rule::Model>,
    /// Its amphorae that are not DELETED, oldest first.
    pub amphorae: Vec<amphora::Model>,
    /// NICs of its amphorae on VIP and member networks, oldest first.
    pub nics: Vec<Nic>,
    /// Networks and subnets of its NICs, VIP and members.
    pub networks: Vec<network::Model>,
    /// See `networks`.
    pub subnets: Vec<subnet::Model>,
    /// Copies of the certificates that listeners and pools use.
    pub bundles: Vec<tls_bundle::Model>,
}

/// A NIC of an amphora.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its port; `device_id` is the amphora.
    pub port: port::Model,
    /// Its addresses, first one first.
    pub addresses: Vec<address::Model>,
}

/// Loads it. `None`: there is no such load balancer.
pub async fn load(db: &impl ConnectionTrait, id: &str) -> Result<Option<Graph>, DbErr> {
    let Some(load_balancer) = load_balancer::Entity::find_by_id(id.to_owned())
        .one(db)
        .await?
    else {
        return Ok(None);
    };
    let listeners = listener::Entity::find()
        .filter(listener::Column::LoadBalancerId.eq(id))
        .order_by_asc(listener::Column::CreatedAt)
        .order_by_asc(listener::Column::Id)
        .all(db)
        .await?;
    let pools = pool::Entity::find()
        .filter(pool::Column::LoadBalancerId.eq(id))
        .order_by_asc(pool::Column::CreatedAt)
        .order_by_asc(pool::Column::Id)
        .all(db)
        .await?;
    let pool_ids: Vec<String> = pools.iter().map(|p| p.id.clone()).collect();
    let listener_ids: Vec<String> = listeners.iter().map(|l| l.id.clone()).collect();
    let members = member::Entity::find()
        .filter(member::Column::PoolId.is_in(pool_ids.clone()))
        .order_by_asc(member::Column::CreatedAt)
        .order_by_asc(member::Column::Id)
        .all(db)
        .await?;
    let monitors = health_monitor::Entity::find()
        .filter(health_monitor::Column::PoolId.is_in(pool_ids.clone()))
        .all(db)
        .await?;
    let persistence = session_persistence::Entity::find()
        .filter(session_persistence::Column::PoolId.is_in(pool_ids))
        .all(db)
        .await?;
    let policies = l7policy::Entity::find()
        .filter(l7policy::Column::ListenerId.is_in(listener_ids))
        .order_by_asc(l7policy::Column::Position)
        .order_by_asc(l7policy::Column::Id)
        .all(db)
        .await?;
    let policy_ids: Vec<String> = policies.iter().map(|p| p.id.clone()).collect();
    let rules = l7rule::Entity::find()
        .filter(l7rule::Column::L7policyId.is_in(policy_ids))
        .order_by_asc(l7rule::Column::CreatedAt)
        .order_by_asc(l7rule::Column::Id)
        .all(db)
        .await?;
    let amphorae = amphorae(db, id).await?;
    let nics = nics(db, amphorae.iter().map(|a| a.id.clone()).collect()).await?;
    let mut subnet_ids: BTreeSet<String> = nics
        .iter()
        .flat_map(|nic| nic.addresses.iter().map(|a| a.subnet_id.clone()))
        .chain(members.iter().filter_map(|m| m.subnet_id.clone()))
        .collect();
    subnet_ids.insert(load_balancer.vip_subnet_id.clone());
    let more = crate::app::vip::additional(&load_balancer);
    subnet_ids.extend(more.into_iter().map(|vip| vip.subnet_id));
    let subnets = subnet::Entity::find()
        .filter(subnet::Column::Id.is_in(subnet_ids))
        .order_by_asc(subnet::Column::CreatedAt)
        .order_by_asc(subnet::Column::Id)
        .all(db)
        .await?;
    let network_ids: BTreeSet<String> = subnets.iter().map(|s| s.network_id.clone()).collect();
    let networks = network::Entity::find()
        .filter(network::Column::Id.is_in(network_ids))
        .all(db)
        .await?;
    let texts = listeners.iter().filter_map(|row| row.tls.as_deref());
    let texts = texts.chain(pools.iter().filter_map(|row| row.tls.as_deref()));
    let used: BTreeSet<String> = texts.flat_map(crate::app::tls::used).collect();
    let bundles = bundle::load(db, used).await?;
    Ok(Some(Graph {
        load_balancer,
        listeners,
        pools,
        persistence,
        members,
        monitors,
        policies,
        rules,
        amphorae,
        nics,
        networks,
        subnets,
        bundles,
    }))
}

/// Amphorae of a load balancer that are not DELETED, oldest first.
pub async fn amphorae(
    db: &impl ConnectionTrait,
    load_balancer: &str,
) -> Result<Vec<amphora::Model>, DbErr> {
    amphora::Entity::find()
        .filter(amphora::Column::LoadBalancerId.eq(load_balancer))
        .filter(amphora::Column::Status.ne("DELETED"))
        .order_by_asc(amphora::Column::CreatedAt)
        .order_by_asc(amphora::Column::Id)
        .all(db)
        .await
}

/// NICs of amphorae without the management NIC, oldest first.
pub async fn nics(db: &impl ConnectionTrait, amphora_ids: Vec<String>) -> Result<Vec<Nic>, DbErr> {
    let management = management_ports(db, &amphora_ids).await?;
    let ports = port::Entity::find()
        .filter(port::Column::DeviceOwner.eq(AMPHORA_PORT))
        .filter(port::Column::DeviceId.is_in(amphora_ids))
        .order_by_asc(port::Column::CreatedAt)
        .order_by_asc(port::Column::Id)
        .all(db)
        .await?;
    let ids: Vec<String> = ports.iter().map(|p| p.id.clone()).collect();
    let addresses = address::Entity::find()
        .filter(address::Column::PortId.is_in(ids))
        .order_by_asc(address::Column::Position)
        .all(db)
        .await?;
    Ok(ports
        .into_iter()
        .filter(|port| !management.contains(&port.id))
        .map(|port| Nic {
            addresses: addresses
                .iter()
                .filter(|a| a.port_id == port.id)
                .cloned()
                .collect(),
            port,
        })
        .collect())
}

async fn management_ports(
    db: &impl ConnectionTrait,
    amphora_ids: &[String],
) -> Result<BTreeSet<String>, DbErr> {
    let rows = amphora::Entity::find()
        .filter(amphora::Column::Id.is_in(amphora_ids.to_vec()))
        .all(db)
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| row.mgmt_port_id)
        .collect())
}
