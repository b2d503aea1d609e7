//! `Push`: composes the desired states, plugs NICs, and pushes to all amphorae at once.

use super::{Context, Reason, Replacement, StepError, address, parse, settle};
use crate::agent_client;
use crate::db::entity::{amphora, port};
use crate::db::query::graph::{self, AMPHORA_PORT, Graph};
use crate::db::query::network::{self, AllocationError, NewPort};
use crate::db::query::{journal, meta};
use crate::db::{Retriable, now};
use crate::desired::{self, Common};
use crate::drivers::compute::Nic;
use crate::transaction;
use futures_util::future::{join_all, try_join_all};
use krater_model::{AmphoraId, DesiredState, Epoch, Generation, MacAddr, report};
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Name of the epoch among the facts of the database; missing means 1.
const EPOCH: &str = "epoch";
/// NICs of an amphora: interface names `eth1` to `eth15`. A virtual machine takes about as many.
const MAX_NICS: usize = 15;

/// One amphora to push to.
struct Target {
    row: amphora::Model,
    state: DesiredState,
    plug: Vec<Nic>,
    /// The step cannot succeed without it.
    required: bool,
}

/// Output of the step.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Pushed {
    /// Amphora → epoch and generation in force.
    applied: BTreeMap<String, (u64, u64)>,
    /// These did not answer.
    unreachable: Vec<String>,
    /// Ports that are plugged now.
    plugged: Vec<String>,
}

/// An error inside the composing transaction, with the retry of the database still possible.
#[derive(Debug)]
enum Compose {
    Sql(DbErr),
    Step(StepError),
}

impl From<DbErr> for Compose {
    fn from(error: DbErr) -> Self {
        Self::Sql(error)
    }
}
impl From<StepError> for Compose {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}
impl From<AllocationError> for Compose {
    fn from(error: AllocationError) -> Self {
        match error {
            AllocationError::Sql(error) => Self::Sql(error),
            other => Self::Step(other.into()),
        }
    }
}
impl From<journal::Lost> for Compose {
    fn from(error: journal::Lost) -> Self {
        match error {
            journal::Lost::Sql(error) => Self::Sql(error),
            other => Self::Step(other.into()),
        }
    }
}
impl Retriable for Compose {
    fn retriable(&self) -> bool {
        matches!(self, Self::Sql(error) if error.retriable())
    }
}
impl From<Compose> for StepError {
    fn from(error: Compose) -> Self {
        match error {
            Compose::Sql(error) => error.into(),
            Compose::Step(error) => error,
        }
    }
}

pub(super) async fn run(context: &Context, round: usize) -> Result<Value, StepError> {
    let replacement = context.replacement(round);
    let stays = |id: &str| !replacement.leaves(id);
    let targets = compose(context, &replacement, stays, false).await?;
    if targets.is_empty() {
        let text = "there is none to push to";
        return Err(StepError::permanent(Reason::NoAmphora, text));
    }
    Ok(json!(send(context, &targets).await?))
}

/// Brings the amphorae back to the rows that were before the change: to those that neither come nor leave
/// in this round.
pub(super) async fn undo(context: &Context, round: usize) -> Result<Value, StepError> {
    let leave = context.replacement(round).leave;
    let leave: Vec<String> = leave.iter().map(ToString::to_string).collect();
    restore(context, round, &leave).await
}

/// To all but those that come in this round, and those that are `gone`.
pub(super) async fn restore(
    context: &Context,
    round: usize,
    gone: &[String],
) -> Result<Value, StepError> {
    let world = &context.world;
    let restored: Result<(), Compose> = transaction!(world.db, |txn| {
        journal::fence(txn, &context.id, &context.worker).await?;
        Ok(settle::put_back(context, txn).await?)
    });
    restored?;
    let replacement = context.replacement(round);
    let stays = |id: &str| !replacement.comes(id) && !gone.iter().any(|gone| gone == id);
    let targets = compose(context, &Replacement::default(), stays, true).await?;
    if targets.is_empty() {
        return Ok(Value::Null);
    }
    let pushed = send(context, &targets).await?;
    let mut effect = settle::unplug(context).await?;
    effect["pushed"] = json!(pushed);
    Ok(effect)
}

pub(super) async fn undo_commit(
    context: &Context,
    effect: &Value,
    txn: &DatabaseTransaction,
) -> Result<(), StepError> {
    if !effect.is_object() {
        return Ok(());
    }
    settle::release(&context.graph(txn).await?, effect, txn).await?;
    commit(&effect["pushed"], txn).await
}

/// Plugs and pushes; at least one must take it, and those that are required.
async fn send(context: &Context, targets: &[Target]) -> Result<Pushed, StepError> {
    let world = &context.world;
    let mut pushed = Pushed::default();
    let plugs = targets.iter().flat_map(|target| {
        let amphora = target.state.amphora_id;
        let plug = move |nic: &Nic| world.compute.plug(amphora, nic.clone());
        target.plug.iter().map(plug)
    });
    try_join_all(plugs).await?;
    let macs = targets
        .iter()
        .flat_map(|t| t.plug.iter().map(|nic| nic.mac.to_string()));
    pushed.plugged = macs.collect();
    let answers = join_all(targets.iter().map(|target| async move {
        world
            .agents
            .put_state(address(&target.row)?, &target.state)
            .await
            .map_err(Failure::Agent)
    }))
    .await;
    let mut first = None;
    for (target, answer) in targets.iter().zip(answers) {
        match answer {
            Ok(applied) => {
                let revision = applied.revision;
                let pair = (revision.epoch.0, revision.generation.0);
                pushed.applied.insert(target.row.id.clone(), pair);
            }
            Err(Failure::Agent(error)) if error.unreachable() && !target.required => {
                tracing::warn!(
                    amphora = target.row.id,
                    error = report(&error),
                    "not pushed; its replacement will get the newest state"
                );
                pushed.unreachable.push(target.row.id.clone());
                first.get_or_insert_with(|| error.into());
            }
            Err(Failure::Agent(error)) => {
                overtake(context, target, &error).await?;
                return Err(error.into());
            }
            Err(Failure::Step(error)) => return Err(error),
        }
    }
    match first {
        Some(error) if pushed.applied.is_empty() => Err(error),
        _ => Ok(pushed),
    }
}

enum Failure {
    Agent(agent_client::Error),
    Step(StepError),
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

/// The amphora has a newer state than the database knows of: the database was restored from a backup.
/// A later epoch makes everything that comes newer.
async fn overtake(
    context: &Context,
    target: &Target,
    error: &agent_client::Error,
) -> Result<(), StepError> {
    if !matches!(
        error.code(),
        Some("older-revision" | "conflicting-revision")
    ) {
        return Ok(());
    }
    let world = &context.world;
    let to = address(&target.row)?;
    let info = world.agents.info(to, &context.request_id).await?;
    let theirs = info.revision.unwrap_or_default().epoch.0;
    let raised: Result<u64, DbErr> = transaction!(world.db, |txn| {
        let epoch = epoch(txn).await?.0.max(theirs + 1);
        meta::write(txn, EPOCH, &epoch.to_string()).await?;
        Ok(epoch)
    });
    let epoch = raised?;
    tracing::warn!(
        epoch,
        amphora = target.row.id,
        "the amphora knows newer states than the database: epoch raised"
    );
    let text = format!("{}; epoch raised to {epoch}", report(error));
    Err(StepError::retryable(Reason::AmphoraRefused, text))
}

async fn epoch(db: &impl ConnectionTrait) -> Result<Epoch, DbErr> {
    let text = meta::read(db, EPOCH).await?;
    Ok(Epoch(text.and_then(|text| text.parse().ok()).unwrap_or(1)))
}

/// Allocates ports and generations in one transaction that proves that this worker holds the flow.
/// `replug`: also NICs that are known to be plugged, because a step may have unplugged them.
async fn compose(
    context: &Context,
    replacement: &Replacement,
    stays: impl Fn(&str) -> bool,
    replug: bool,
) -> Result<Vec<Target>, StepError> {
    let composed: Result<Vec<Target>, Compose> = transaction!(context.world.db, |txn| {
        journal::fence(txn, &context.id, &context.worker).await?;
        let mut graph = context.graph(txn).await?;
        let staying: Vec<amphora::Model> = graph
            .amphorae
            .iter()
            .filter(|row| stays(&row.id))
            .cloned()
            .collect();
        let mut changed = false;
        for row in &staying {
            changed |= allocate_ports(&graph, row, txn).await?;
        }
        if changed {
            let ids = graph.amphorae.iter().map(|row| row.id.clone()).collect();
            graph.nics = graph::nics(txn, ids).await?;
        }
        let common = Common {
            epoch: epoch(txn).await?,
            ..context.world.common.clone()
        };
        let mut targets = Vec::new();
        for row in &staying {
            let peers: Vec<&amphora::Model> = staying.iter().filter(|p| p.id != row.id).collect();
            let mut state =
                desired::build(&graph, row, &peers, &common).map_err(StepError::from)?;
            revise(context, row, &mut state, txn).await?;
            targets.push(Target {
                plug: to_plug(&graph, row, replug)?,
                required: replacement.comes(&row.id),
                row: row.clone(),
                state,
            });
        }
        Ok(targets)
    });
    Ok(composed?)
}

/// Gives a document its place in the order. The same content of the same request keeps its generation:
/// an agent takes another document of the same generation for a conflict.
async fn revise(
    context: &Context,
    row: &amphora::Model,
    state: &mut DesiredState,
    txn: &DatabaseTransaction,
) -> Result<(), Compose> {
    state.request_id.clone_from(&context.request_id);
    let digest = digest(state)?;
    let epoch = i64::try_from(state.epoch.0).unwrap_or(i64::MAX);
    let same = row.revision_digest.as_ref() == Some(&digest) && row.epoch_desired == epoch;
    let generation = if same {
        row.generation_desired
    } else {
        row.generation_desired.saturating_add(1)
    };
    state.generation = Generation(u64::try_from(generation).unwrap_or_default());
    if !same {
        amphora::Entity::update_many()
            .col_expr(amphora::Column::EpochDesired, epoch.into())
            .col_expr(amphora::Column::GenerationDesired, generation.into())
            .col_expr(amphora::Column::RevisionDigest, Some(digest).into())
            .filter(amphora::Column::Id.eq(row.id.clone()))
            .exec(txn)
            .await?;
    }
    Ok(())
}

/// Of the content with generation 0.
fn digest(state: &DesiredState) -> Result<String, StepError> {
    use aws_lc_rs::digest::{SHA256, digest};
    let text = serde_json::to_vec(state).map_err(StepError::damaged)?;
    let hash = digest(&SHA256, &text);
    Ok(hash
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// The document with which an amphora lets go of everything, with a generation of its own.
pub(super) async fn resigned(
    context: &Context,
    row: &amphora::Model,
) -> Result<DesiredState, StepError> {
    let amphora: AmphoraId = parse("amphora id", &row.id)?;
    let composed: Result<DesiredState, Compose> = transaction!(context.world.db, |txn| {
        journal::fence(txn, &context.id, &context.worker).await?;
        let row = amphora::Entity::find_by_id(row.id.clone()).one(txn).await?;
        let row = row.ok_or_else(|| StepError::damaged("the amphora's row is gone"))?;
        let common = Common {
            epoch: epoch(txn).await?,
            ..context.world.common.clone()
        };
        let mut state = desired::resigned(amphora, &common);
        revise(context, &row, &mut state, txn).await?;
        Ok(state)
    });
    Ok(composed?)
}

/// Makes ports and addresses that the amphora lacks. Whether there were any.
async fn allocate_ports(
    graph: &Graph,
    row: &amphora::Model,
    txn: &DatabaseTransaction,
) -> Result<bool, Compose> {
    let mine: Vec<_> = graph
        .nics
        .iter()
        .filter(|nic| nic.port.device_id == row.id)
        .collect();
    let mut names: Vec<String> = mine
        .iter()
        .filter_map(|nic| desired::interface_name(nic).map(str::to_owned))
        .collect();
    let mut changed = false;
    for (network_id, subnets) in desired::needed_subnets(graph) {
        let nic = mine.iter().find(|nic| nic.port.network_id == network_id);
        let mut port_id = nic.map(|nic| nic.port.id.clone());
        for subnet_id in subnets {
            let has = |nic: &&&graph::Nic| nic.addresses.iter().any(|a| a.subnet_id == subnet_id);
            if nic.filter(has).is_some() {
                continue;
            }
            let Some(subnet) = graph.subnets.iter().find(|s| s.id == subnet_id) else {
                continue;
            };
            changed = true;
            if let Some(port_id) = &port_id {
                network::add_address(txn, port_id, subnet, None).await?;
                continue;
            }
            let free = (1..=MAX_NICS).map(|n| format!("eth{n}"));
            let name = free
                .into_iter()
                .find(|name| !names.contains(name))
                .ok_or_else(|| {
                    StepError::permanent(
                        Reason::TooManyNetworks,
                        format!("an amphora has at most {MAX_NICS} NICs"),
                    )
                })?;
            let new = NewPort {
                id: None,
                project_id: graph.load_balancer.project_id.clone(),
                name: desired::port_name(&row.id, &name),
                network_id: network_id.clone(),
                device_owner: AMPHORA_PORT.into(),
                device_id: row.id.clone(),
                admin_state_up: false,
            };
            names.push(name);
            let (port, _) = network::create_port(txn, new, subnet, None).await?;
            port_id = Some(port.id);
        }
    }
    Ok(changed)
}

/// NICs that are needed and whose ports are not known to be plugged, or all that are needed.
fn to_plug(graph: &Graph, row: &amphora::Model, all: bool) -> Result<Vec<Nic>, StepError> {
    let needed = desired::needed_subnets(graph);
    let mut nics = Vec::new();
    let mine = graph.nics.iter().filter(|nic| nic.port.device_id == row.id);
    for nic in mine.filter(|nic| all || !nic.port.admin_state_up) {
        if all && !needed.iter().any(|(id, _)| *id == nic.port.network_id) {
            continue;
        }
        let network = graph.networks.iter().find(|n| n.id == nic.port.network_id);
        let mtu = network
            .and_then(|n| u16::try_from(n.mtu).ok())
            .unwrap_or(1_500);
        nics.push(Nic {
            mac: parse::<MacAddr>("port MAC", &nic.port.mac_address)?,
            network: parse("network id", &nic.port.network_id)?,
            mtu,
        });
    }
    Ok(nics)
}

pub(super) async fn commit(effect: &Value, txn: &DatabaseTransaction) -> Result<(), StepError> {
    let pushed: Pushed = serde_json::from_value(effect.clone()).map_err(StepError::damaged)?;
    for (id, (epoch, generation)) in pushed.applied {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        amphora::Entity::update_many()
            .col_expr(amphora::Column::EpochApplied, number(epoch).into())
            .col_expr(
                amphora::Column::GenerationApplied,
                number(generation).into(),
            )
            .col_expr(amphora::Column::UpdatedAt, Some(now()).into())
            .filter(amphora::Column::Id.eq(id))
            .exec(txn)
            .await?;
    }
    if !pushed.plugged.is_empty() {
        port::Entity::update_many()
            .col_expr(port::Column::AdminStateUp, true.into())
            .filter(port::Column::MacAddress.is_in(pushed.plugged))
            .exec(txn)
            .await?;
    }
    Ok(())
}
