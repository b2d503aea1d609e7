//! The networks of this controller, made in the database at the first start and by the network driver
//! at every start.

use crate::config::Config;
use crate::db::query::meta;
use crate::db::query::network::{self, NewSubnet};
use crate::db::{Db, Retriable};
use crate::drivers::network::Network;
use crate::transaction;
use ipnet::{IpNet, Ipv4Net};
use krater_model::NetworkId;
use sea_orm::DbErr;
use std::net::{IpAddr, Ipv4Addr};

/// Name of the network between controller and agents. Not shown by the API.
pub const MANAGEMENT_NETWORK: &str = "lb-mgmt-net";
/// The controller on it.
pub const CONTROLLER_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 1);
/// Its prefix length: 100.96.0.0/16 is of the range for carrier-grade NAT (RFC 6598), which neither
/// tenants nor documentation use.
const MANAGEMENT_PREFIX: u8 = 16;
const MTU: u16 = 1_500;

/// The inventory cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(
    clippy::error_impl_error,
    reason = "like std::io::Error: used with the name of its module in front"
)]
pub enum Error {
    /// A statement failed.
    #[error("inventory: database")]
    Sql(#[from] DbErr),
    /// A row is not one of ours.
    #[error("inventory: network {0} holds an id, CIDR or gateway that is none")]
    Damaged(String),
}

impl Retriable for Error {
    fn retriable(&self) -> bool {
        matches!(self, Self::Sql(error) if error.retriable())
    }
}

/// Makes what is missing; what exists stays as it is, also when the configuration changed.
pub async fn make(db: &Db, config: &Config) -> Result<(), Error> {
    transaction!(db, |txn| {
        if network::network_by_name(txn, MANAGEMENT_NETWORK)
            .await?
            .is_some()
        {
            return Ok(());
        }
        let cidr = Ipv4Net::new(CONTROLLER_ADDRESS, MANAGEMENT_PREFIX).unwrap_or_default();
        let management = NewSubnet {
            name: "lb-mgmt-subnet".into(),
            cidr: IpNet::V4(cidr.trunc()),
            gateway: Some(IpAddr::V4(CONTROLLER_ADDRESS)),
        };
        network::create_network(txn, MANAGEMENT_NETWORK, MTU, true, &[management]).await?;
        for wanted in config.inventory() {
            let subnets: Vec<NewSubnet> = wanted
                .subnets
                .iter()
                .map(|subnet| NewSubnet {
                    name: subnet.name.clone(),
                    cidr: subnet.cidr.trunc(),
                    gateway: subnet.cidr.trunc().hosts().find(|ip| {
                        // IPv6 counts the subnet-router anycast address as a host.
                        *ip != subnet.cidr.trunc().network()
                    }),
                })
                .collect();
            network::create_network(txn, &wanted.name, MTU, false, &subnets).await?;
        }
        Ok(())
    })
}

/// Which instance of the controller has the amphorae of this database; in `meta`.
const HOST: &str = "host";
/// In its place with the `noop` drivers, whose amphorae are nowhere.
pub const NOOP: &str = "noop";
/// In its place when an earlier release made the database.
const UNKNOWN: &str = "unknown";

/// Whose amphorae the database knows: `instance`'s, unless another one has come before.
pub async fn host(db: &Db, instance: &str) -> Result<String, Error> {
    transaction!(db, |txn| {
        if let Some(host) = meta::read(txn, HOST).await? {
            return Ok(host);
        }
        let old = network::network_by_name(txn, MANAGEMENT_NETWORK).await?;
        if old.is_some() && instance == NOOP {
            return Ok(UNKNOWN.to_owned());
        }
        meta::write(txn, HOST, instance).await?;
        Ok(instance.to_owned())
    })
}

/// Says that the amphorae of the host before are gone and `instance` makes new ones; gives who it was.
pub async fn take_over(db: &Db, instance: &str) -> Result<Option<String>, Error> {
    transaction!(db, |txn| {
        let before = meta::read(txn, HOST).await?;
        meta::write(txn, HOST, instance).await?;
        Ok(before)
    })
}

/// What the network driver has to make.
pub async fn networks(db: &Db) -> Result<Vec<Network>, Error> {
    let mut networks = Vec::new();
    for (row, subnets) in network::inventory(db.read()).await? {
        let damaged = || Error::Damaged(row.name.clone());
        let mut gateways = Vec::new();
        for subnet in &subnets {
            let Some(gateway) = &subnet.gateway_ip else {
                continue;
            };
            let gateway: IpAddr = gateway.parse().map_err(|_| damaged())?;
            let cidr: IpNet = subnet.cidr.parse().map_err(|_| damaged())?;
            gateways.push(IpNet::new(gateway, cidr.prefix_len()).map_err(|_| damaged())?);
        }
        // Rows come in the order of their random ids; IPv4 first reads better.
        gateways.sort();
        networks.push(Network {
            id: row.id.parse::<NetworkId>().map_err(|_| damaged())?,
            name: row.name.clone(),
            mtu: u16::try_from(row.mtu).map_err(|_| damaged())?,
            gateways,
            management: row.internal,
        });
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn made_once_with_the_first_address_as_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&dir.path().join("krater.db"))
            .await
            .unwrap();
        make(&db, &Config::default()).await.unwrap();
        make(&db, &Config::default()).await.unwrap();
        let networks = networks(&db).await.unwrap();
        let text: Vec<String> = networks
            .iter()
            .map(|n| format!("{} {} {:?}", n.name, n.management, n.gateways))
            .collect();
        assert_eq!(text.len(), 3, "{text:?}");
        assert!(
            text.contains(&"lb-mgmt-net true [100.96.0.1/16]".into()),
            "{text:?}"
        );
        assert!(
            text.contains(&"public false [203.0.113.1/24, 2001:db8:1::1/64]".into()),
            "{text:?}"
        );
    }
}
