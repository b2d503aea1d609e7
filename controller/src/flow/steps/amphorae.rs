//! Steps that boot, wait for and end amphorae. All amphorae of a step are worked on at the same time.

use super::{Context, Reason, StepError, address, parse};
use crate::db::entity::{amphora, amphora_health};
use crate::db::now;
use crate::db::query::flow::OneAmphora;
use crate::db::query::graph;
use crate::drivers::compute::Boot;
use futures_util::future::{join_all, try_join_all};
use ipnet::IpNet;
use krater_model::AmphoraId;
use krater_model::control::{RouterState, RouterStatus};
use krater_model::wire::agent::Status;
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Pause between two questions to an agent that is not there yet; small against a boot of 200 ms.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// How long an amphora that goes may take to resign.
const RESIGN: Duration = Duration::from_secs(1);
/// Prefix length of the management network.
const MANAGEMENT_PREFIX: u8 = 16;
/// An amphora that was not heard for this long is not asked to resign; it is ended at once.
const SILENT_MS: i64 = 3_000;

async fn rows(
    context: &Context,
    ids: impl Iterator<Item = AmphoraId>,
) -> Result<Vec<amphora::Model>, StepError> {
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    let rows = amphora::Entity::find()
        .filter(amphora::Column::Id.is_in(ids.clone()))
        .all(context.world.db.read())
        .await?;
    if rows.len() == ids.len() {
        Ok(rows)
    } else {
        Err(StepError::damaged("the row of an amphora is missing"))
    }
}

async fn coming(context: &Context, round: usize) -> Result<Vec<amphora::Model>, StepError> {
    let come = context.replacement(round).come;
    rows(context, come.into_iter().map(|(id, _)| id)).await
}

pub(super) async fn boot(context: &Context, round: usize) -> Result<Value, StepError> {
    let rows = coming(context, round).await?;
    let booted = try_join_all(rows.iter().map(|row| boot_one(context, row))).await?;
    let booted: BTreeMap<String, (String, i64)> = booted.into_iter().collect();
    Ok(json!(booted))
}

async fn boot_one(
    context: &Context,
    row: &amphora::Model,
) -> Result<(String, (String, i64)), StepError> {
    let world = &context.world;
    let id: AmphoraId = parse("amphora id", &row.id)?;
    let ip = row.lb_network_ip.as_deref().unwrap_or_default();
    let ip: IpAddr = parse("management address", ip)?;
    let issued = world
        .pki
        .issue_amphora(id, SystemTime::now(), world.settings.certificate_days)
        .map_err(|error| StepError::permanent(Reason::PrivateCa, krater_model::report(&error)))?;
    let expires = super::certificate::unix_ms(issued.expires);
    let boot = Boot {
        amphora: id,
        management_mac: parse(
            "management MAC",
            row.mgmt_mac.as_deref().unwrap_or_default(),
        )?,
        management_address: IpNet::new(ip, MANAGEMENT_PREFIX).map_err(StepError::damaged)?,
        server_pem: issued.pem,
        client_ca_pem: world.pki.client_ca_pem().to_owned(),
        heartbeat: world.common.heartbeat.clone(),
        workers: world.settings.amphora_workers,
        log_level: world.common.logging.level.clone(),
        log_json: world.common.logging.json,
    };
    let compute_id = world.compute.boot(boot).await?;
    Ok((row.id.clone(), (compute_id, expires)))
}

pub(super) async fn booted(effect: &Value, txn: &DatabaseTransaction) -> Result<(), StepError> {
    let booted: BTreeMap<String, (String, i64)> =
        serde_json::from_value(effect.clone()).map_err(StepError::damaged)?;
    for (id, (compute_id, expires)) in booted {
        amphora::Entity::update_many()
            .col_expr(amphora::Column::ComputeId, Some(compute_id).into())
            .col_expr(amphora::Column::CertExpiration, Some(expires).into())
            .col_expr(amphora::Column::UpdatedAt, Some(now()).into())
            .filter(amphora::Column::Id.eq(id))
            .exec(txn)
            .await?;
    }
    Ok(())
}

pub(super) async fn unboot(context: &Context, round: usize) -> Result<Value, StepError> {
    let come = context.replacement(round).come;
    end(context, come.into_iter().map(|(id, _)| id)).await?;
    Ok(Value::Null)
}

/// Those that were ended, or are too damaged to serve.
pub(super) async fn gone(context: &Context, ids: Vec<AmphoraId>) -> Result<Vec<String>, StepError> {
    let exist = context.world.compute.list().await?;
    let lost = |id: &&AmphoraId| {
        !exist
            .iter()
            .any(|found| found.amphora == **id && found.intact)
    };
    Ok(ids.iter().filter(lost).map(ToString::to_string).collect())
}

/// All amphorae of the load balancer.
pub(super) async fn all(context: &Context) -> Result<Vec<AmphoraId>, StepError> {
    let rows = graph::amphorae(context.world.db.read(), context.load_balancer()?).await?;
    rows.iter()
        .map(|row| parse("amphora id", &row.id))
        .collect()
}

async fn end(context: &Context, ids: impl Iterator<Item = AmphoraId>) -> Result<(), StepError> {
    let world = &context.world;
    try_join_all(ids.map(|id| async move {
        world.agents.forget(id);
        world.compute.delete(id).await
    }))
    .await?;
    Ok(())
}

pub(super) async fn connect(context: &Context, round: usize) -> Result<Value, StepError> {
    let deadline = Instant::now() + context.world.settings.boot_timeout;
    let rows = coming(context, round).await?;
    let waits = rows.iter().map(|row| answering(context, row, deadline));
    let versions: BTreeMap<String, String> = try_join_all(waits).await?.into_iter().collect();
    Ok(json!(versions))
}

async fn answering(
    context: &Context,
    row: &amphora::Model,
    deadline: Instant,
) -> Result<(String, String), StepError> {
    let to = address(row)?;
    loop {
        match context.world.agents.info(to, &context.request_id).await {
            Ok(info) => return Ok((row.id.clone(), info.version)),
            Err(error) if Instant::now() >= deadline || !error.retryable() => {
                let text = krater_model::report(&error);
                return Err(StepError::permanent(Reason::AmphoraNotAnswering, text));
            }
            Err(_) => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
}

pub(super) async fn fence(context: &Context, round: usize) -> Result<Value, StepError> {
    let leave = context.replacement(round).leave;
    let leaving = rows(context, leave.iter().copied()).await?;
    join_all(leaving.iter().map(|row| async move {
        if let Err(error) = resign(context, row).await {
            tracing::info!(
                amphora = row.id,
                why = error.text,
                "ended without resigning"
            );
        }
    }))
    .await;
    end(context, leave.iter().copied()).await?;
    Ok(json!(leave))
}

/// Lets a living amphora give the VIP away, so that its peer takes over at once.
async fn resign(context: &Context, row: &amphora::Model) -> Result<(), StepError> {
    let health = amphora_health::Entity::find_by_id(row.id.clone())
        .one(context.world.db.read())
        .await?;
    if health.is_none_or(|health| health.last_beat < now() - SILENT_MS) {
        return Err(StepError::permanent(
            Reason::AmphoraUnreachable,
            "not heard of lately",
        ));
    }
    let state = super::push::resigned(context, row).await?;
    let put = context.world.agents.put_state(address(row)?, &state);
    tokio::time::timeout(RESIGN, put)
        .await
        .map_err(|_| StepError::permanent(Reason::AmphoraTimeout, "too slow"))??;
    Ok(())
}

/// An amphora holds the VIP, and the new ones are fit to.
pub(super) async fn ready(context: &Context, round: usize) -> Result<Value, StepError> {
    let replacement = context.replacement(round);
    let graph = context.graph(context.world.db.read()).await?;
    let staying: Vec<&amphora::Model> = graph
        .amphorae
        .iter()
        .filter(|row| !replacement.leaves(&row.id))
        .collect();
    let deadline = Instant::now() + context.world.settings.ready_timeout;
    loop {
        let states = join_all(staying.iter().map(|row| state_of(context, row))).await;
        let owner = states
            .iter()
            .find(|(_, status)| status.as_ref().is_some_and(holds_vip));
        let unfit = replacement.come.iter().find(|(id, _)| {
            let found = states.iter().find(|(other, _)| *other == id.to_string());
            !found.is_some_and(|(_, status)| status.as_ref().is_some_and(fit))
        });
        match (owner, unfit) {
            (Some((owner, _)), None) => return Ok(json!({ "owner": owner })),
            _ if Instant::now() < deadline => tokio::time::sleep(ASK_AGAIN).await,
            (None, _) => {
                let found = describe(&states);
                return Err(StepError::permanent(Reason::NoVipOwner, found));
            }
            (_, Some((id, _))) => {
                let found = describe(&states);
                return Err(StepError::permanent(
                    Reason::AmphoraNotReady,
                    format!("{id}: {found}"),
                ));
            }
        }
    }
}

async fn state_of(context: &Context, row: &amphora::Model) -> (String, Option<Status>) {
    let status = match address(row) {
        Ok(to) => {
            let agents = &context.world.agents;
            agents.status(to, &context.request_id).await.ok()
        }
        Err(_) => None,
    };
    (row.id.clone(), status)
}

fn routers(status: &Status) -> impl Iterator<Item = &RouterStatus> {
    status.vrrp.iter().flat_map(|vrrp| &vrrp.routers)
}

fn holds_vip(status: &Status) -> bool {
    routers(status).any(|router| router.state == RouterState::Active)
}

fn fit(status: &Status) -> bool {
    let fits = |state| matches!(state, RouterState::Active | RouterState::Backup);
    let dataplane = status.dataplane.as_ref();
    routers(status).next().is_some()
        && routers(status).all(|router| fits(router.state))
        && dataplane.is_some_and(|dataplane| dataplane.revision == status.revision)
}

fn describe(states: &[(String, Option<Status>)]) -> String {
    let one = |(id, status): &(String, Option<Status>)| match status {
        None => format!("{id} does not answer"),
        Some(status) => {
            let routers: Vec<String> = routers(status)
                .map(|router| format!("{:?} ({})", router.state, router.reason))
                .collect();
            let dataplane = match &status.dataplane {
                Some(_) => "",
                None => ", no data plane",
            };
            format!("{id}: {}{dataplane}", routers.join(", "))
        }
    };
    states.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The amphora that the flow is about.
pub(super) fn only_one(context: &Context) -> Result<String, StepError> {
    let one: OneAmphora = context.payload()?;
    Ok(one.amphora_id)
}

pub(super) async fn end_one(context: &Context) -> Result<Value, StepError> {
    let id = parse("amphora id", &only_one(context)?)?;
    end(context, std::iter::once(id)).await?;
    Ok(Value::Null)
}

pub(super) async fn stop(context: &Context) -> Result<Value, StepError> {
    let ids = all(context).await?;
    end(context, ids.into_iter()).await?;
    Ok(Value::Null)
}
