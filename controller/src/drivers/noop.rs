//! Drivers that do nothing: every amphora boots, takes every state and answers for it at once. What exists is what the
//! database says, so any number of controllers agree about it.
//!
//! For suites that test clients and the API (`krater controller --drivers noop`): flows run as they always do, and objects
//! become ACTIVE without a data plane. Nothing reports, so operating statuses stay as flows leave them.

use crate::agent_client::{self, Address, AgentApi};
use crate::config::{Network, Subnet};
use crate::db::Db;
use crate::db::entity::amphora;
use crate::drivers::compute::{self, Boot, Compute, Instance, Nic};
use futures_util::future::BoxFuture;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use krater_model::control::{DataplaneStatus, RouterState, RouterStatus, VrrpStatus};
use krater_model::wire::agent::{Info, StateApplied, StateView, Status};
use krater_model::{
    AmphoraId, DesiredState, Epoch, Generation, MacAddr, Revision, SCHEMA, Secret, Vrid,
};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The network that everything is on unless a client names another one.
pub const NETWORK: &str = "noop";

/// The address of a VIP whose creator named none, as upstream's API suite has them.
pub const fn vip(like: &IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::new(198, 18, 33, 33)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::new(
            0x2001, 0xdb8, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33,
        )),
    }
}

/// The range of every subnet of a family: amphorae get addresses there, next to those of the VIPs, which they never
/// meet.
pub fn range(v6: bool) -> IpNet {
    if v6 {
        let base = Ipv6Addr::new(0x2001, 0xdb8, 0x34, 0, 0, 0, 0, 0);
        IpNet::V6(Ipv6Net::new(base, 64).unwrap_or_default())
    } else {
        let base = Ipv4Addr::new(198, 19, 0, 0);
        IpNet::V4(Ipv4Net::new(base, 16).unwrap_or_default())
    }
}

/// The inventory of a new database.
pub fn networks() -> Vec<Network> {
    let subnet = |name: &str, v6| Subnet {
        name: name.to_owned(),
        cidr: range(v6),
    };
    vec![Network {
        name: NETWORK.to_owned(),
        subnets: vec![subnet("noop-subnet", false), subnet("noop-subnet6", true)],
    }]
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Noop {
    db: Db,
}

impl Noop {
    /// Of this database's amphorae.
    pub const fn new(db: Db) -> Self {
        Self { db }
    }

    async fn row(&self, id: AmphoraId) -> Result<Option<amphora::Model>, DbErr> {
        amphora::Entity::find_by_id(id.to_string())
            .one(self.db.read())
            .await
    }

    async fn existing(&self, to: Address) -> Result<amphora::Model, agent_client::Error> {
        let lost = |source| agent_client::Error::Lost {
            amphora: to.amphora,
            what: "a look into the database",
            source,
        };
        let row = self
            .row(to.amphora)
            .await
            .map_err(|error| lost(error.into()))?;
        row.ok_or_else(|| lost("it does not exist".into()))
    }
}

fn revision(row: &amphora::Model) -> Revision {
    let number = |value: i64| u64::try_from(value).unwrap_or_default();
    Revision {
        epoch: Epoch(number(row.epoch_desired)),
        generation: Generation(number(row.generation_desired)),
    }
}

impl Compute for Noop {
    fn boot(&self, boot: Boot) -> BoxFuture<'_, Result<String, compute::Error>> {
        Box::pin(async move { Ok(format!("noop-{}", boot.amphora)) })
    }

    fn delete(&self, _: AmphoraId) -> BoxFuture<'_, Result<(), compute::Error>> {
        Box::pin(async { Ok(()) })
    }

    fn plug(&self, _: AmphoraId, _: Nic) -> BoxFuture<'_, Result<(), compute::Error>> {
        Box::pin(async { Ok(()) })
    }

    fn unplug(&self, _: AmphoraId, _: MacAddr) -> BoxFuture<'_, Result<(), compute::Error>> {
        Box::pin(async { Ok(()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Instance>, compute::Error>> {
        Box::pin(async move {
            let rows = amphora::Entity::find()
                .filter(amphora::Column::Status.ne("DELETED"))
                .all(self.db.read())
                .await
                .map_err(|error| compute::Error {
                    amphora: AmphoraId(uuid::Uuid::nil()),
                    what: "list",
                    source: error.into(),
                    retryable: true,
                })?;
            let instance = |row: amphora::Model| {
                Some(Instance {
                    amphora: row.id.parse().ok()?,
                    compute_id: row.compute_id.unwrap_or_default(),
                    agent_alive: true,
                    intact: true,
                })
            };
            Ok(rows.into_iter().filter_map(instance).collect())
        })
    }

    fn restart_agent(&self, _: AmphoraId) -> BoxFuture<'_, Result<(), compute::Error>> {
        Box::pin(async { Ok(()) })
    }
}

impl AgentApi for Noop {
    fn info<'a>(
        &'a self,
        to: Address,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Info, agent_client::Error>> {
        Box::pin(async move {
            let row = self.existing(to).await?;
            Ok(Info {
                amphora_id: to.amphora,
                version: krater_telemetry::version().to_owned(),
                schema: SCHEMA,
                boot_id: row.id.clone(),
                started_at: crate::time::format(row.created_at),
                revision: Some(revision(&row)),
                certificate_expires: row
                    .cert_expiration
                    .map_or_else(String::new, crate::time::format),
            })
        })
    }

    fn put_state<'a>(
        &'a self,
        to: Address,
        state: &'a DesiredState,
    ) -> BoxFuture<'a, Result<StateApplied, agent_client::Error>> {
        Box::pin(async move {
            self.existing(to).await?;
            Ok(StateApplied {
                revision: state.revision(),
                changed: true,
                steps: Vec::new(),
            })
        })
    }

    fn state<'a>(
        &'a self,
        to: Address,
        _: &'a str,
    ) -> BoxFuture<'a, Result<StateView, agent_client::Error>> {
        Box::pin(async move {
            let row = self.existing(to).await?;
            Ok(StateView {
                revision: Some(revision(&row)),
                digest: row.revision_digest,
                state: None,
            })
        })
    }

    /// Of a pair the one that is meant to holds the VIP.
    fn status<'a>(
        &'a self,
        to: Address,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Status, agent_client::Error>> {
        Box::pin(async move {
            let row = self.existing(to).await?;
            let revision = Some(revision(&row));
            let vrid = row.vrrp_id.and_then(|id| u64::try_from(id).ok());
            let router = vrid
                .and_then(|id| Vrid::new(id).ok())
                .map(|vrid| RouterStatus {
                    vrid,
                    interface: row.vrrp_interface.clone().unwrap_or_default(),
                    state: match row.role.as_deref() {
                        Some("BACKUP") => RouterState::Backup,
                        _ => RouterState::Active,
                    },
                    reason: "noop".to_owned(),
                    transitions: 0,
                    since_ms: 0,
                    addresses: Vec::new(),
                    liveness: Vec::new(),
                    term: None,
                });
            Ok(Status {
                revision,
                processes: Vec::new(),
                dataplane: Some(DataplaneStatus {
                    version: String::new(),
                    pid: 0,
                    revision,
                    snapshots_alive: 0,
                    listeners: Vec::new(),
                    pools: Vec::new(),
                }),
                vrrp: Some(VrrpStatus {
                    version: String::new(),
                    pid: 0,
                    revision,
                    memory_locked: None,
                    real_time: None,
                    checks: Vec::new(),
                    routers: router.into_iter().collect(),
                }),
            })
        })
    }

    fn put_certificate<'a>(
        &'a self,
        to: Address,
        _: &'a Secret,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(), agent_client::Error>> {
        Box::pin(async move { self.existing(to).await.map(drop) })
    }

    fn forget(&self, _: AmphoraId) {}
}
