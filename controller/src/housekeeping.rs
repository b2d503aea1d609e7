//! Housekeeping: renews certificates before they end, removes what was deleted long ago, and what an
//! interrupted or failed flow may have left.

use crate::app::tls;
use crate::config::Config;
use crate::db::entity::{amphora, flow, load_balancer, port};
use crate::db::query::bundle;
use crate::db::query::flow::{self as queue, FlowKind, NewFlow, OneAmphora};
use crate::db::query::graph::AMPHORA_PORT;
use crate::db::query::journal::{Lost, state};
use crate::db::{Db, now};
use crate::drivers::compute::Compute;
use crate::{reconcile, transaction};
use krater_model::report;
use sea_orm::{ColumnTrait, Condition, DbErr, EntityTrait, QueryFilter};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// See the module.
#[derive(Debug)]
pub struct Housekeeping {
    db: Db,
    compute: Arc<dyn Compute>,
    interval: Duration,
    keep_ms: i64,
    rotate_before_ms: i64,
}

impl Housekeeping {
    /// With the numbers of the configuration.
    pub fn new(db: Db, compute: Arc<dyn Compute>, config: &Config) -> Self {
        Self {
            db,
            compute,
            interval: Duration::from_secs(config.housekeeping.interval_seconds.into()),
            keep_ms: i64::from(config.housekeeping.keep_deleted_seconds) * 1_000,
            rotate_before_ms: i64::from(config.certificates.rotate_before_days) * DAY,
        }
    }

    /// Until `stop` says true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = async { let _ = stop.wait_for(|stop| *stop).await; } => return,
                () = tokio::time::sleep(self.interval) => {}
            }
            if let Err(error) = self.once(now()).await {
                tracing::error!(error = report(&error), "housekeeping: database");
            }
        }
    }

    async fn once(&self, now: i64) -> Result<(), DbErr> {
        self.rotate(now).await?;
        self.purge(now).await?;
        self.orphan_ports().await?;
        self.unused_copies(now).await?;
        reconcile::run(&self.db, self.compute.as_ref()).await?;
        Ok(())
    }

    /// Certificates that end soon. One flow per amphora; a failed one is asked for again next time.
    async fn rotate(&self, now: i64) -> Result<(), DbErr> {
        let due = amphora::Entity::find()
            .filter(amphora::Column::Status.eq("ALLOCATED"))
            .filter(amphora::Column::CertBusy.eq(false))
            .filter(amphora::Column::CertExpiration.lt(now + self.rotate_before_ms))
            .all(self.db.read())
            .await?;
        for row in due {
            let done: Result<(), Lost> = transaction!(self.db, |txn| {
                let taken = amphora::Entity::update_many()
                    .col_expr(amphora::Column::CertBusy, true.into())
                    .filter(amphora::Column::Id.eq(row.id.clone()))
                    .filter(amphora::Column::CertBusy.eq(false))
                    .exec(txn)
                    .await?;
                if taken.rows_affected == 1 {
                    let one = OneAmphora {
                        amphora_id: row.id.clone(),
                    };
                    let new = NewFlow {
                        kind: FlowKind::RotateCertificate,
                        load_balancer_id: None,
                        payload: json!(one),
                        request_id: format!("req-{}", uuid::Uuid::new_v4()),
                    };
                    queue::enqueue(txn, new).await?;
                }
                Ok(())
            });
            if let Err(error) = done {
                tracing::error!(amphora = row.id, error = report(&error), "not rotated");
            }
            self.db.nudge();
        }
        Ok(())
    }

    /// DELETED rows and ended flows that are old enough.
    async fn purge(&self, now: i64) -> Result<(), DbErr> {
        let before = now - self.keep_ms;
        let old_amphorae = Condition::all()
            .add(amphora::Column::Status.eq("DELETED"))
            .add(amphora::Column::UpdatedAt.lt(before));
        let old_balancers = Condition::all()
            .add(load_balancer::Column::ProvisioningStatus.eq("DELETED"))
            .add(load_balancer::Column::UpdatedAt.lt(before));
        let old_flows = Condition::all()
            .add(flow::Column::State.is_not_in(state::OPEN))
            .add(flow::Column::UpdatedAt.lt(before));
        let writer = self.db.write();
        amphora::Entity::delete_many()
            .filter(old_amphorae)
            .exec(writer)
            .await?;
        load_balancer::Entity::delete_many()
            .filter(old_balancers)
            .exec(writer)
            .await?;
        flow::Entity::delete_many()
            .filter(old_flows)
            .exec(writer)
            .await?;
        Ok(())
    }

    /// Copies of certificates that nothing has used for a day.
    async fn unused_copies(&self, now: i64) -> Result<(), DbErr> {
        let removed: Result<u64, DbErr> = transaction!(self.db, |txn| {
            bundle::collect(txn, now - DAY, tls::used).await
        });
        let removed = removed?;
        if removed > 0 {
            tracing::info!(removed, "unused copies of certificates removed");
        }
        Ok(())
    }

    /// Ports of amphorae that are gone.
    async fn orphan_ports(&self) -> Result<(), DbErr> {
        // Ports first: one that is made meanwhile has an amphora that is seen afterwards.
        let ports = port::Entity::find()
            .filter(port::Column::DeviceOwner.eq(AMPHORA_PORT))
            .all(self.db.read())
            .await?;
        let living: HashSet<String> = amphora::Entity::find()
            .filter(amphora::Column::Status.ne("DELETED"))
            .all(self.db.read())
            .await?
            .into_iter()
            .map(|row| row.id)
            .collect();
        let orphans: Vec<String> = ports
            .into_iter()
            .filter(|port| !living.contains(&port.device_id))
            .map(|port| port.id)
            .collect();
        if !orphans.is_empty() {
            tracing::warn!(ports = orphans.len(), "orphaned ports removed");
            port::Entity::delete_many()
                .filter(port::Column::Id.is_in(orphans))
                .exec(self.db.write())
                .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::query::journal;
    use crate::drivers::compute::fake::FakeCompute;
    use sea_orm::ActiveValue::Set;
    use sea_orm::{ActiveModelTrait, PaginatorTrait};

    fn amphora(id: &str, status: &str, expires: i64, updated: i64) -> amphora::ActiveModel {
        amphora::ActiveModel {
            id: Set(id.into()),
            load_balancer_id: Set(None),
            compute_id: Set(None),
            status: Set(status.into()),
            role: Set(None),
            lb_network_ip: Set(None),
            mgmt_port_id: Set(None),
            mgmt_mac: Set(None),
            vrrp_ip: Set(None),
            ha_ip: Set(None),
            vrrp_port_id: Set(None),
            ha_port_id: Set(None),
            vrrp_mac: Set(None),
            vrrp_interface: Set(None),
            vrrp_id: Set(None),
            vrrp_priority: Set(None),
            cert_expiration: Set(Some(expires)),
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
            created_at: Set(0),
            updated_at: Set(Some(updated)),
        }
    }

    #[tokio::test]
    async fn rotates_once_and_purges_what_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&dir.path().join("krater.db"))
            .await
            .unwrap();
        let now = 100 * DAY;
        let rows = [
            amphora("soon", "ALLOCATED", now + 13 * DAY, now),
            amphora("later", "ALLOCATED", now + 15 * DAY, now),
            amphora("gone", "DELETED", 0, now - 8 * DAY),
            amphora("just-gone", "DELETED", 0, now - DAY),
        ];
        for row in rows {
            row.insert(db.write()).await.unwrap();
        }
        let compute = Arc::new(FakeCompute::default());
        let housekeeping = Housekeeping::new(db.clone(), compute, &Config::default());
        housekeeping.once(now).await.unwrap();
        housekeeping.once(now).await.unwrap();
        let flows = journal::list(db.read(), true, 10).await.unwrap();
        assert_eq!(flows.len(), 1);
        assert!(flows[0].payload.contains("soon"));
        assert_eq!(amphora::Entity::find().count(db.read()).await.unwrap(), 3);
    }
}
