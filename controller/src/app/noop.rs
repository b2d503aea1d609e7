//! Networks, subnets and ports with the `noop` drivers: whichever id a client names exists. It becomes a row, so that
//! all that comes after works as it does with real ones.

use super::vip::{More, MoreWish, Vip, Wish, check_network, check_subnets};
use super::{Error, lock};
use crate::db::entity::{network, subnet};
use crate::db::now;
use crate::db::query::network as inventory;
use crate::drivers::noop;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveValue::Set, ConnectionTrait, EntityTrait};
use std::net::IpAddr;
use uuid::Uuid;

/// In bytes.
const MTU: i32 = 1_500;

/// The VIP that the wish asks for; nothing of it is taken from anybody.
pub async fn vip(txn: &impl ConnectionTrait, wish: &Wish) -> Result<Vip, Error> {
    if wish.port_id.is_none() && wish.subnet_id.is_none() && wish.network_id.is_none() {
        return Err(Error::validation(
            "VIP must contain one of: vip_port_id, vip_network_id, vip_subnet_id.",
        ));
    }
    let wished = wish.address.as_deref().and_then(|text| text.parse().ok());
    let v6 = wished.is_some_and(|address: IpAddr| address.is_ipv6());
    let subnet = match (&wish.subnet_id, &wish.network_id) {
        (Some(id), network) => subnet(txn, id, network.as_deref(), v6).await?,
        (None, Some(network)) => subnet_of(txn, network, v6).await?,
        (None, None) => {
            let network = default_network(txn).await?;
            subnet_of(txn, &network, v6).await?
        }
    };
    let cidr = subnet.cidr.parse().unwrap_or_else(|_| noop::range(v6));
    let address = wished.unwrap_or_else(|| noop::vip(&cidr));
    let fits = address.is_ipv6() == matches!(cidr, ipnet::IpNet::V6(_));
    if !fits {
        return Err(Error::validation(format!(
            "IP address {address} is not valid for subnet {}",
            subnet.id
        )));
    }
    Ok(Vip {
        address: address.to_string(),
        port_id: wish
            .port_id
            .clone()
            .unwrap_or_else(|| Uuid::new_v4().to_string()),
        subnet_id: subnet.id,
        network_id: subnet.network_id,
        owned: false,
    })
}

/// Further VIPs; nothing of them is taken from anybody either.
pub async fn more_vips(
    txn: &impl ConnectionTrait,
    vip: &Vip,
    wishes: &[MoreWish],
) -> Result<Vec<More>, Error> {
    check_subnets(vip, wishes)?;
    let mut all = Vec::new();
    for wish in wishes {
        let v6 = wish.address.is_some_and(|address| address.is_ipv6());
        let subnet = subnet(txn, &wish.subnet_id, Some(&vip.network_id), v6).await?;
        check_network(vip, &subnet)?;
        let cidr = subnet.cidr.parse().unwrap_or_else(|_| noop::range(v6));
        let address = wish.address.unwrap_or_else(|| noop::vip(&cidr));
        if address.is_ipv6() != matches!(cidr, ipnet::IpNet::V6(_)) {
            return Err(Error::validation(format!(
                "IP address {address} is not valid for subnet {}",
                subnet.id
            )));
        }
        all.push(More {
            subnet_id: subnet.id,
            ip_address: address,
        });
    }
    Ok(all)
}

/// Makes the subnets of members exist: id and address of each member that names one.
pub async fn member_subnets<'a>(
    txn: &impl ConnectionTrait,
    members: impl Iterator<Item = (Option<&'a str>, &'a str)>,
) -> Result<(), Error> {
    for (id, address) in members {
        if let Some(id) = id {
            subnet(txn, id, None, address.contains(':')).await?;
        }
    }
    Ok(())
}

async fn subnet(
    txn: &impl ConnectionTrait,
    id: &str,
    network: Option<&str>,
    v6: bool,
) -> Result<subnet::Model, Error> {
    if let Some(row) = inventory::subnet(txn, id).await? {
        return Ok(row);
    }
    let network = match network {
        Some(id) => id.to_owned(),
        None => default_network(txn).await?,
    };
    make_network(txn, &network).await?;
    make_subnet(txn, id, &network, v6).await
}

/// The oldest subnet of the family on the network.
async fn subnet_of(
    txn: &impl ConnectionTrait,
    network: &str,
    v6: bool,
) -> Result<subnet::Model, Error> {
    make_network(txn, network).await?;
    // Two that make the first subnet at the same time would make two.
    let (key, same) = (network::Column::Id, network::Column::CreatedAt);
    lock::hold::<network::Entity>(txn, key, same, network).await?;
    let subnets = inventory::subnets_of(txn, network).await?;
    match subnets.into_iter().find(|row| row.cidr.contains(':') == v6) {
        Some(row) => Ok(row),
        None => make_subnet(txn, &Uuid::new_v4().to_string(), network, v6).await,
    }
}

async fn default_network(txn: &impl ConnectionTrait) -> Result<String, Error> {
    let row = inventory::network_by_name(txn, noop::NETWORK).await?;
    let missing = || Error::subresource("Network", noop::NETWORK);
    Ok(row.ok_or_else(missing)?.id)
}

async fn make_network(txn: &impl ConnectionTrait, id: &str) -> Result<(), Error> {
    if inventory::network(txn, id).await?.is_some() {
        return Ok(());
    }
    let row = network::ActiveModel {
        id: Set(id.to_owned()),
        name: Set(format!("noop-{id}")),
        description: Set(String::new()),
        mtu: Set(MTU),
        internal: Set(false),
        created_at: Set(now()),
    };
    let known = OnConflict::column(network::Column::Id)
        .update_column(network::Column::Mtu)
        .to_owned();
    network::Entity::insert(row)
        .on_conflict(known)
        .exec_without_returning(txn)
        .await?;
    Ok(())
}

async fn make_subnet(
    txn: &impl ConnectionTrait,
    id: &str,
    network: &str,
    v6: bool,
) -> Result<subnet::Model, Error> {
    let row = subnet::ActiveModel {
        id: Set(id.to_owned()),
        network_id: Set(network.to_owned()),
        name: Set(format!("noop-{id}")),
        cidr: Set(noop::range(v6).to_string()),
        gateway_ip: Set(None),
        created_at: Set(now()),
    };
    // Another request may be making it: then its row counts.
    let known = OnConflict::column(subnet::Column::Id)
        .update_column(subnet::Column::Name)
        .to_owned();
    subnet::Entity::insert(row)
        .on_conflict(known)
        .exec_without_returning(txn)
        .await?;
    let made = inventory::subnet(txn, id).await?;
    made.ok_or_else(|| Error::subresource("Subnet", id))
}
