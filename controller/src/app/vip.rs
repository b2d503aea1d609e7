//! Where a new load balancer's VIP comes from: a port, a subnet or a network of the inventory.

use super::{Error, lock};
use crate::config::Topology;
use crate::db::entity::{load_balancer, port, subnet};
use crate::db::query::network::{self, NewPort};
use sea_orm::ConnectionTrait;
use serde::{Deserialize, Serialize};
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

/// Further VIPs of one load balancer: each is an address and a routing table of its amphorae.
pub const MAX_ADDITIONAL: usize = 8;

/// What the client said about a further VIP.
#[derive(Debug, Clone)]
pub struct MoreWish {
    /// Subnet of the VIP's network.
    pub subnet_id: String,
    /// Address.
    pub address: Option<IpAddr>,
}

/// A further VIP, of the same port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct More {
    /// Subnet of the address.
    pub subnet_id: String,
    /// The address.
    pub ip_address: IpAddr,
}

/// Further VIPs of a load balancer.
pub fn additional(row: &load_balancer::Model) -> Vec<More> {
    let text = row.additional_vips.as_deref();
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// The text of a row; none for no further VIPs.
pub fn text(more: &[More]) -> Option<String> {
    (!more.is_empty()).then(|| serde_json::json!(more).to_string())
}

/// Each subnet once, the VIP's own among them.
pub fn check_subnets(vip: &Vip, wishes: &[MoreWish]) -> Result<(), Error> {
    if wishes.len() > MAX_ADDITIONAL {
        return Err(Error::validation(format!(
            "additional_vips: at most {MAX_ADDITIONAL} are supported"
        )));
    }
    for (at, wish) in wishes.iter().enumerate() {
        let before = wishes.iter().take(at).map(|wish| &wish.subnet_id);
        if before
            .chain([&vip.subnet_id])
            .any(|id| *id == wish.subnet_id)
        {
            return Err(Error::validation(format!(
                "additional_vips: subnet {} has a VIP already; each VIP is in a subnet of its own.",
                wish.subnet_id
            )));
        }
    }
    Ok(())
}

/// The subnet of a further VIP is on the VIP's network.
pub fn check_network(vip: &Vip, subnet: &subnet::Model) -> Result<(), Error> {
    if subnet.network_id == vip.network_id {
        return Ok(());
    }
    Err(Error::validation(
        "All VIP subnets must belong to the same network.",
    ))
}

/// Gives the VIP's port the further addresses; of a port that the client brought along they must be there.
pub async fn allocate_more(
    txn: &impl ConnectionTrait,
    vip: &Vip,
    wishes: &[MoreWish],
) -> Result<Vec<More>, Error> {
    check_subnets(vip, wishes)?;
    let mut all = Vec::new();
    for wish in wishes {
        let subnet = visible_subnet(txn, &wish.subnet_id).await?;
        check_network(vip, &subnet)?;
        let address = if vip.owned {
            network::add_address(txn, &vip.port_id, &subnet, wish.address).await?
        } else {
            let addresses = network::addresses_of(txn, &vip.port_id).await?;
            let of_subnet = addresses.iter().filter(|a| a.subnet_id == subnet.id);
            let mut ips = of_subnet.filter_map(|a| a.ip_address.parse::<IpAddr>().ok());
            let found = ips.find(|ip| wish.address.is_none_or(|wished| wished == *ip));
            found.ok_or_else(|| {
                Error::validation(
                    "No VIP address found on the specified VIP port within the specified subnet.",
                )
            })?
        };
        all.push(More {
            subnet_id: subnet.id,
            ip_address: address,
        });
    }
    Ok(all)
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
