//! `Certificate`: gives an amphora a new server certificate.

use super::{Context, Reason, StepError, address, parse};
use crate::db::entity::amphora;
use crate::db::now;
use crate::db::query::flow::OneAmphora;
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) async fn run(context: &Context) -> Result<Value, StepError> {
    let one: OneAmphora = context.payload()?;
    let world = &context.world;
    let row = amphora::Entity::find_by_id(one.amphora_id.clone())
        .one(world.db.read())
        .await?
        .filter(|row| row.status != "DELETED")
        .ok_or_else(|| StepError::damaged(format!("amphora {} is gone", one.amphora_id)))?;
    let id = parse("amphora id", &row.id)?;
    let days = world.settings.certificate_days;
    let issued = world
        .pki
        .issue_amphora(id, SystemTime::now(), days)
        .map_err(|error| StepError::permanent(Reason::PrivateCa, krater_model::report(&error)))?;
    let (to, agents) = (address(&row)?, &world.agents);
    agents
        .put_certificate(to, &issued.pem, &context.request_id)
        .await?;
    // The new certificate answers, under the right name.
    agents.info(to, &context.request_id).await?;
    Ok(json!({ "amphora": row.id, "expires": unix_ms(issued.expires) }))
}

pub(super) async fn commit(effect: &Value, txn: &DatabaseTransaction) -> Result<(), StepError> {
    let expires = effect["expires"].as_i64();
    let id = effect["amphora"].as_str().unwrap_or_default();
    amphora::Entity::update_many()
        .col_expr(amphora::Column::CertExpiration, expires.into())
        .col_expr(amphora::Column::CertBusy, false.into())
        .col_expr(amphora::Column::UpdatedAt, Some(now()).into())
        .filter(amphora::Column::Id.eq(id))
        .exec(txn)
        .await?;
    Ok(())
}

/// The old certificate is still good; housekeeping tries again.
pub(super) async fn undo_commit(
    context: &Context,
    txn: &DatabaseTransaction,
) -> Result<(), StepError> {
    let one: OneAmphora = context.payload()?;
    amphora::Entity::update_many()
        .col_expr(amphora::Column::CertBusy, false.into())
        .filter(amphora::Column::Id.eq(one.amphora_id))
        .exec(txn)
        .await?;
    Ok(())
}

/// As rows hold it.
pub(super) fn unix_ms(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
