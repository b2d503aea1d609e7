//! Where a new load balancer's VIP comes from: a port, a subnet or a network of the inventory.

use super::{Error, lock};
use crate::config::Topology;
use crate::db::entity::{port, subnet};
use crate::db::query::network::{self, NewPort};
use sea_orm::ConnectionTrait;
use std::net::IpAddr;

/// Owner of VIP ports, as Octavia writes it.
pub const DEVICE_OWNER: &str = "Octavia";

/// What the client said about the VIP.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Address.
    pub address: Option<String>,
    /// Existing port.
    pub port_id: Option<String>,
    /// Subnet.
    pub subnet_id: Option<String>,
    /// Network.
    pub network_id: Option<String>,
}

/// What it got.
#[derive(Debug, Clone)]
pub struct Vip {
    /// Canonical text.
    pub address: String,
    /// Port that has it.
    pub port_id: String,
    /// Subnet of the address.
    pub subnet_id: String,
    /// Network of the port.
    pub network_id: String,
    /// The port was made here.
    pub owned: bool,
}

/// Resolves the wish and allocates port and address.
pub async fn allocate(
    txn: &impl ConnectionTrait,
    load_balancer: &str,
    project: &str,
    topology: Topology,
    wish: &Wish,
) -> Result<Vip, Error> {
    let device = format!("lb-{load_balancer}");
    if let Some(port) = &wish.port_id {
        return existing_port(txn, port, &device, wish).await;
    }
    let address = wish
        .address
        .as_deref()
        .and_then(|text| text.parse::<IpAddr>().ok());
    let subnet = match (&wish.network_id, &wish.subnet_id) {
        (Some(id), subnet) => in_network(txn, id, subnet.as_deref(), address, topology).await?,
        (None, Some(id)) => visible_subnet(txn, id).await?,
        (None, None) => {
            return Err(Error::validation(
                "VIP must contain one of: vip_port_id, vip_network_id, vip_subnet_id.",
            ));
        }
    };
    let new = NewPort {
        id: None,
        project_id: project.to_owned(),
        name: format!("octavia-lb-{load_balancer}"),
        network_id: subnet.network_id.clone(),
        device_owner: DEVICE_OWNER.to_owned(),
        device_id: device,
        admin_state_up: false,
    };
    let (port, address) = network::create_port(txn, new, &subnet, address).await?;
    Ok(Vip {
        address: address.to_string(),
        port_id: port.id,
        subnet_id: subnet.id,
        network_id: subnet.network_id,
        owned: true,
    })
}

/// The subnet, unless it is unknown or of the management network.
pub async fn visible_subnet(txn: &impl ConnectionTrait, id: &str) -> Result<subnet::Model, Error> {
    let missing = || Error::subresource("Subnet", id);
    let subnet = network::subnet(txn, id).await?.ok_or_else(missing)?;
    let network = network::network(txn, &subnet.network_id).await?;
    network
        .filter(|network| !network.internal)
        .ok_or_else(missing)?;
    Ok(subnet)
}

async fn in_network(
    txn: &impl ConnectionTrait,
    id: &str,
    subnet: Option<&str>,
    address: Option<IpAddr>,
    topology: Topology,
) -> Result<subnet::Model, Error> {
    let network = network::network(txn, id)
        .await?
        .filter(|network| !network.internal);
    network.ok_or_else(|| Error::subresource("Network", id))?;
    let mut subnets = network::subnets_of(txn, id).await?;
    if let Some(wanted) = subnet {
        let found = subnets.into_iter().find(|subnet| subnet.id == wanted);
        return found.ok_or_else(|| Error::subresource("Subnet", wanted));
    }
    if let Some(address) = address {
        let holds = |subnet: &subnet::Model| {
            let cidr = subnet.cidr.parse::<ipnet::IpNet>();
            cidr.is_ok_and(|cidr| cidr.contains(&address))
        };
        return subnets.into_iter().find(holds).ok_or_else(|| {
            Error::validation(
                "Supplied network does not contain a subnet for VIP address specified.",
            )
        });
    }
    // The VIP and the amphorae's own addresses.
    let needed = match topology {
        Topology::Single => 2,
        Topology::ActiveStandby => 3,
    };
    subnets.sort_by_key(|subnet| subnet.cidr.contains(':'));
    for subnet in subnets {
        if network::has_free(txn, &subnet, needed).await? {
            return Ok(subnet);
        }
    }
    Err(Error::validation(
        "Supplied network does not contain a subnet with enough free addresses.",
    ))
}

async fn existing_port(
    txn: &impl ConnectionTrait,
    id: &str,
    device: &str,
    wish: &Wish,
) -> Result<Vip, Error> {
    let (key, same) = (port::Column::Id, port::Column::CreatedAt);
    lock::hold::<port::Entity>(txn, key, same, id).await?;
    let port = network::port(txn, id).await?;
    let port = port.ok_or_else(|| Error::subresource("Port", id))?;
    if !port.device_id.is_empty() {
        return Err(Error::validation(format!(
            "Port {id} is already used by device {} ",
            port.device_id
        )));
    }
    let addresses = network::addresses_of(txn, id).await?;
    let wished = wish
        .address
        .as_deref()
        .and_then(|text| text.parse::<IpAddr>().ok());
    let chosen = match (&wish.subnet_id, wished) {
        (Some(subnet), _) => {
            visible_subnet(txn, subnet).await?;
            addresses.iter().find(|a| a.subnet_id == *subnet).ok_or_else(|| {
                Error::validation(
                    "No VIP address found on the specified VIP port within the specified subnet.",
                )
            })?
        }
        (None, Some(ip)) => addresses
            .iter()
            .find(|a| a.ip_address.parse() == Ok(ip))
            .ok_or_else(|| {
                Error::validation("Specified VIP address not found on the specified VIP port.")
            })?,
        (None, None) => match addresses.as_slice() {
            [only] => only,
            _ => {
                return Err(Error::validation(
                    "VIP port's subnet could not be determined. Please specify either a VIP \
                     subnet or address.",
                ));
            }
        },
    };
    network::set_device(txn, id, DEVICE_OWNER, device).await?;
    Ok(Vip {
        address: chosen.ip_address.clone(),
        port_id: port.id,
        subnet_id: chosen.subnet_id.clone(),
        network_id: port.network_id,
        owned: false,
    })
}
