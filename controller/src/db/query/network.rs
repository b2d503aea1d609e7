//! The local inventory: networks, subnets, ports, and who has which address.

use crate::db::entity::{address, network, port, subnet};
use crate::db::now;
use ipnet::IpNet;
use krater_model::{MacAddr, NetworkId, PortId, SubnetId};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait,
    QueryFilter, QueryOrder, QuerySelect,
};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Last parts of an address (host numbers within the first 256) that are never given out by
/// ourselves: operators use them for members and clients of their own.
pub const RESERVED: std::ops::RangeInclusive<u128> = 200..=250;
/// Host numbers tried before a subnet counts as full. Bounds the search in a /64.
const SEARCH: u128 = 1 << 16;

/// Why no address was given.
#[derive(Debug, thiserror::Error)]
pub enum AllocationError {
    /// The statement failed.
    #[error("database")]
    Sql(#[from] DbErr),
    /// Another port has it.
    #[error("IP address {0} is already allocated in subnet {1}")]
    Taken(IpAddr, String),
    /// Outside the subnet, or its network, broadcast or gateway address.
    #[error("IP address {0} is not valid for subnet {1}")]
    NotInSubnet(IpAddr, String),
    /// None left.
    #[error("no more IP addresses available in subnet {0}")]
    Full(String),
    /// The row is not one of ours.
    #[error("subnet {0} holds a CIDR or gateway that is none")]
    Damaged(String),
}

impl crate::db::Retriable for AllocationError {
    fn retriable(&self) -> bool {
        matches!(self, Self::Sql(error) if error.retriable())
    }
}

/// A subnet to make.
#[derive(Debug, Clone)]
pub struct NewSubnet {
    /// Name.
    pub name: String,
    /// Range.
    pub cidr: IpNet,
    /// Router; its address is never given out.
    pub gateway: Option<IpAddr>,
}

/// Makes a network with its subnets.
pub async fn create_network(
    db: &impl ConnectionTrait,
    name: &str,
    mtu: u16,
    internal: bool,
    subnets: &[NewSubnet],
) -> Result<NetworkId, DbErr> {
    let id = NetworkId::random();
    network::ActiveModel {
        id: Set(id.to_string()),
        name: Set(name.to_owned()),
        description: Set(String::new()),
        mtu: Set(i32::from(mtu)),
        internal: Set(internal),
        created_at: Set(now()),
    }
    .insert(db)
    .await?;
    for new in subnets {
        create_subnet(db, id, new).await?;
    }
    Ok(id)
}

/// Adds a subnet to a network.
pub async fn create_subnet(
    db: &impl ConnectionTrait,
    network: NetworkId,
    new: &NewSubnet,
) -> Result<SubnetId, DbErr> {
    let id = SubnetId::random();
    subnet::ActiveModel {
        id: Set(id.to_string()),
        network_id: Set(network.to_string()),
        name: Set(new.name.clone()),
        cidr: Set(new.cidr.trunc().to_string()),
        gateway_ip: Set(new.gateway.map(|ip| ip.to_string())),
        created_at: Set(now()),
    }
    .insert(db)
    .await?;
    Ok(id)
}

/// The network of that name, the oldest when there are several.
pub async fn network_by_name(
    db: &impl ConnectionTrait,
    name: &str,
) -> Result<Option<network::Model>, DbErr> {
    network::Entity::find()
        .filter(network::Column::Name.eq(name))
        .order_by_asc(network::Column::CreatedAt)
        .one(db)
        .await
}

/// All networks with their subnets, oldest first.
pub async fn inventory(
    db: &impl ConnectionTrait,
) -> Result<Vec<(network::Model, Vec<subnet::Model>)>, DbErr> {
    let networks = network::Entity::find()
        .order_by_asc(network::Column::CreatedAt)
        .order_by_asc(network::Column::Id)
        .all(db)
        .await?;
    let subnets = subnet::Entity::find()
        .order_by_asc(subnet::Column::CreatedAt)
        .order_by_asc(subnet::Column::Id)
        .all(db)
        .await?;
    Ok(networks
        .into_iter()
        .map(|network| {
            let mine = subnets.iter().filter(|s| s.network_id == network.id);
            let mine = mine.cloned().collect();
            (network, mine)
        })
        .collect())
}

/// The subnet of that id.
pub async fn subnet(db: &impl ConnectionTrait, id: &str) -> Result<Option<subnet::Model>, DbErr> {
    subnet::Entity::find_by_id(id.to_owned()).one(db).await
}

/// The network of that id.
pub async fn network(db: &impl ConnectionTrait, id: &str) -> Result<Option<network::Model>, DbErr> {
    network::Entity::find_by_id(id.to_owned()).one(db).await
}

/// The port of that id.
pub async fn port(db: &impl ConnectionTrait, id: &str) -> Result<Option<port::Model>, DbErr> {
    port::Entity::find_by_id(id.to_owned()).one(db).await
}

/// Subnets of a network, oldest first.
pub async fn subnets_of(
    db: &impl ConnectionTrait,
    network_id: &str,
) -> Result<Vec<subnet::Model>, DbErr> {
    subnet::Entity::find()
        .filter(subnet::Column::NetworkId.eq(network_id))
        .order_by_asc(subnet::Column::CreatedAt)
        .order_by_asc(subnet::Column::Id)
        .all(db)
        .await
}

/// Addresses of a port, first one first.
pub async fn addresses_of(
    db: &impl ConnectionTrait,
    port_id: &str,
) -> Result<Vec<address::Model>, DbErr> {
    address::Entity::find()
        .filter(address::Column::PortId.eq(port_id))
        .order_by_asc(address::Column::Position)
        .all(db)
        .await
}

/// Ports of these networks with their addresses, oldest first.
pub async fn ports(
    db: &impl ConnectionTrait,
    networks: &[String],
) -> Result<Vec<(port::Model, Vec<address::Model>)>, DbErr> {
    let rows = port::Entity::find()
        .filter(port::Column::NetworkId.is_in(networks.iter().cloned()))
        .order_by_asc(port::Column::CreatedAt)
        .order_by_asc(port::Column::Id)
        .all(db)
        .await?;
    let mut addresses: HashMap<String, Vec<address::Model>> = HashMap::new();
    let all = address::Entity::find()
        .order_by_asc(address::Column::Position)
        .all(db)
        .await?;
    for row in all {
        addresses.entry(row.port_id.clone()).or_default().push(row);
    }
    Ok(rows
        .into_iter()
        .map(|row| {
            let mine = addresses.remove(&row.id).unwrap_or_default();
            (row, mine)
        })
        .collect())
}

/// Gives a port a device, or frees it with empty texts.
pub async fn set_device(
    db: &impl ConnectionTrait,
    id: &str,
    owner: &str,
    device: &str,
) -> Result<(), DbErr> {
    port::Entity::update_many()
        .col_expr(port::Column::DeviceOwner, owner.into())
        .col_expr(port::Column::DeviceId, device.into())
        .filter(port::Column::Id.eq(id))
        .exec(db)
        .await?;
    Ok(())
}

/// A port to make.
#[derive(Debug, Clone)]
pub struct NewPort {
    /// Its id, when the caller wants a repeatable one (a resumed flow step).
    pub id: Option<PortId>,
    /// Owner.
    pub project_id: String,
    /// Name.
    pub name: String,
    /// Network.
    pub network_id: String,
    /// `Octavia`, `compute:krater` or empty.
    pub device_owner: String,
    /// Whom it belongs to.
    pub device_id: String,
    /// False for ports that are never bound.
    pub admin_state_up: bool,
}

/// Makes a port with one address of `subnet`: the wished one, or the first free one.
pub async fn create_port(
    db: &impl ConnectionTrait,
    new: NewPort,
    subnet: &subnet::Model,
    wish: Option<IpAddr>,
) -> Result<(port::Model, IpAddr), AllocationError> {
    hold(db, subnet).await?;
    let address = choose(db, subnet, wish).await?;
    let port = port::ActiveModel {
        id: Set(new.id.unwrap_or_else(PortId::random).to_string()),
        network_id: Set(new.network_id),
        project_id: Set(new.project_id),
        name: Set(new.name),
        mac_address: Set(random_mac().to_string()),
        device_owner: Set(new.device_owner),
        device_id: Set(new.device_id),
        admin_state_up: Set(new.admin_state_up),
        created_at: Set(now()),
    }
    .insert(db)
    .await?;
    address::ActiveModel {
        subnet_id: Set(subnet.id.clone()),
        ip_address: Set(address.to_string()),
        port_id: Set(port.id.clone()),
        position: Set(0),
    }
    .insert(db)
    .await?;
    Ok((port, address))
}

/// Gives a port one more address of `subnet`: the wished one, or the first free one.
pub async fn add_address(
    db: &impl ConnectionTrait,
    port_id: &str,
    subnet: &subnet::Model,
    wish: Option<IpAddr>,
) -> Result<IpAddr, AllocationError> {
    hold(db, subnet).await?;
    let position = addresses_of(db, port_id).await?.len();
    let address = choose(db, subnet, wish).await?;
    address::ActiveModel {
        subnet_id: Set(subnet.id.clone()),
        ip_address: Set(address.to_string()),
        port_id: Set(port_id.to_owned()),
        position: Set(i32::try_from(position).unwrap_or(i32::MAX)),
    }
    .insert(db)
    .await?;
    Ok(address)
}

/// Removes a port; its addresses are free again. Harmless when it is gone.
pub async fn delete_port(db: &impl ConnectionTrait, id: &str) -> Result<(), DbErr> {
    port::Entity::delete_by_id(id.to_owned()).exec(db).await?;
    Ok(())
}

/// Whether `subnet` has at least `count` addresses that could be given out.
pub async fn has_free(
    db: &impl ConnectionTrait,
    subnet: &subnet::Model,
    count: usize,
) -> Result<bool, AllocationError> {
    Ok(first_free(db, subnet, count).await?.is_some())
}

/// Locks the subnet until the transaction ends: two that look for a free address at the same time find the same.
async fn hold(db: &impl ConnectionTrait, subnet: &subnet::Model) -> Result<(), DbErr> {
    subnet::Entity::update_many()
        .col_expr(
            subnet::Column::CreatedAt,
            Expr::col(subnet::Column::CreatedAt).into(),
        )
        .filter(subnet::Column::Id.eq(subnet.id.clone()))
        .exec(db)
        .await
        .map(drop)
}

async fn choose(
    db: &impl ConnectionTrait,
    subnet: &subnet::Model,
    wish: Option<IpAddr>,
) -> Result<IpAddr, AllocationError> {
    match wish {
        Some(address) => check_wish(db, subnet, address).await,
        None => first_free(db, subnet, 1)
            .await?
            .ok_or_else(|| AllocationError::Full(subnet.id.clone())),
    }
}

async fn check_wish(
    db: &impl ConnectionTrait,
    subnet: &subnet::Model,
    address: IpAddr,
) -> Result<IpAddr, AllocationError> {
    let (cidr, gateway) = range(subnet)?;
    let special = address == cidr.network() || address == cidr.broadcast();
    if !cidr.contains(&address) || special || gateway == Some(address) {
        return Err(AllocationError::NotInSubnet(address, subnet.id.clone()));
    }
    let key = (subnet.id.clone(), address.to_string());
    match address::Entity::find_by_id(key).one(db).await? {
        Some(_) => Err(AllocationError::Taken(address, subnet.id.clone())),
        None => Ok(address),
    }
}

/// The `count`-th free address: `Some` says that there are that many.
async fn first_free(
    db: &impl ConnectionTrait,
    subnet: &subnet::Model,
    count: usize,
) -> Result<Option<IpAddr>, AllocationError> {
    let (cidr, gateway) = range(subnet)?;
    let taken: Vec<String> = address::Entity::find()
        .select_only()
        .column(address::Column::IpAddress)
        .filter(address::Column::SubnetId.eq(subnet.id.clone()))
        .into_tuple()
        .all(db)
        .await?;
    let taken: HashSet<IpAddr> = taken.iter().filter_map(|text| text.parse().ok()).collect();
    Ok(candidates(cidr)
        .filter(|address| Some(*address) != gateway && !taken.contains(address))
        .nth(count.saturating_sub(1)))
}

/// Addresses that are given out by ourselves, in order.
fn candidates(cidr: IpNet) -> impl Iterator<Item = IpAddr> {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    // Without the network and broadcast address; host number 1 is by custom the gateway.
    let last = if bits >= 17 {
        SEARCH
    } else {
        (1_u128 << bits).saturating_sub(2)
    };
    (2..=last)
        .filter(|host| !RESERVED.contains(&(host % 256)))
        .filter_map(move |host| match cidr.network() {
            IpAddr::V4(base) => u32::try_from(host)
                .ok()
                .and_then(|host| u32::from(base).checked_add(host))
                .map(|ip| IpAddr::V4(ip.into())),
            IpAddr::V6(base) => u128::from(base)
                .checked_add(host)
                .map(|ip| IpAddr::V6(ip.into())),
        })
}

fn range(subnet: &subnet::Model) -> Result<(IpNet, Option<IpAddr>), AllocationError> {
    let damaged = || AllocationError::Damaged(subnet.id.clone());
    let cidr = subnet.cidr.parse().map_err(|_| damaged())?;
    let gateway = match &subnet.gateway_ip {
        Some(text) => Some(text.parse().map_err(|_| damaged())?),
        None => None,
    };
    Ok((cidr, gateway))
}

/// OpenStack's prefix and three random bytes; a collision is refused by the unique index.
pub fn random_mac() -> MacAddr {
    let random = uuid::Uuid::new_v4();
    let [a, b, c, ..] = *random.as_bytes();
    MacAddr([0xfa, 0x16, 0x3e, a, b, c])
}

#[cfg(test)]
mod tests {
    use super::{candidates, random_mac};

    #[test]
    fn reserved_addresses_are_never_given_out() {
        let all: Vec<String> = candidates("192.0.2.0/24".parse().unwrap())
            .map(|ip| ip.to_string())
            .collect();
        assert_eq!(all.first().unwrap(), "192.0.2.2");
        assert_eq!(all.last().unwrap(), "192.0.2.254");
        for host in [0, 1, 200, 225, 250, 255] {
            assert!(!all.contains(&format!("192.0.2.{host}")), "{host}");
        }
        assert_eq!(all.len(), 254 - 1 - 51);
        let v6 = candidates("2001:db8:2::/64".parse().unwrap())
            .next()
            .unwrap();
        assert_eq!(v6.to_string(), "2001:db8:2::2");
    }

    #[test]
    fn a_small_subnet_is_bounded() {
        assert_eq!(candidates("10.0.0.0/30".parse().unwrap()).count(), 1);
        assert_eq!(candidates("10.0.0.0/32".parse().unwrap()).count(), 0);
        assert!(random_mac().to_string().starts_with("fa:16:3e:"));
    }
}
