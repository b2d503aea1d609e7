//! Availability zones: names by which users choose a zone profile for a load balancer. They belong to no project,
//! count in no quota, and have no identifier but their name.

use super::catalog::{Catalog, find, hold};
use super::lock::DELETED;
use super::zone_data::ZoneData;
use super::{AppState, Error};
use crate::db::entity::{availability_zone, availability_zone_profile, load_balancer};
use crate::db::now;
use crate::db::query::list::{Attribute, Kind};
use crate::transaction;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel,
    PaginatorTrait, QueryFilter,
};

impl Catalog for availability_zone::Entity {
    const NAME: &'static str = "Availability Zone";
    const ATTRIBUTES: &'static [Attribute] = &[
        ("name", "id", Kind::Text),
        ("description", "description", Kind::Text),
        ("enabled", "enabled", Kind::Bool),
        (
            "availability_zone_profile_id",
            "availability_zone_profile_id",
            Kind::Text,
        ),
    ];
    const KEY: Self::Column = availability_zone::Column::Id;
    const SAME: Self::Column = availability_zone::Column::CreatedAt;
}

/// A zone to make.
#[derive(Debug, Clone)]
pub struct New {
    /// Unique.
    pub name: String,
    /// Free text.
    pub description: String,
    /// New load balancers may use it.
    pub enabled: bool,
    /// What it means; fixed.
    pub availability_zone_profile_id: String,
}

/// A change; `None` keeps.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Free text.
    pub description: Option<String>,
    /// New load balancers may use it.
    pub enabled: Option<bool>,
}

/// Makes a zone.
pub async fn create(state: &AppState, new: &New) -> Result<availability_zone::Model, Error> {
    transaction!(state.db, |txn| {
        hold::<availability_zone_profile::Entity>(txn, &new.availability_zone_profile_id).await?;
        refuse_name(txn, &new.name).await?;
        let row = availability_zone::ActiveModel {
            id: Set(new.name.clone()),
            description: Set(new.description.clone()),
            enabled: Set(new.enabled),
            availability_zone_profile_id: Set(new.availability_zone_profile_id.clone()),
            created_at: Set(now()),
        };
        Ok(row.insert(txn).await?)
    })
}

/// Changes a zone. Load balancers that have it already are not concerned.
pub async fn update(
    state: &AppState,
    id: &str,
    change: &Change,
) -> Result<availability_zone::Model, Error> {
    transaction!(state.db, |txn| {
        let row = hold::<availability_zone::Entity>(txn, id).await?;
        let mut new = row.clone().into_active_model();
        let c = change.clone();
        c.description
            .into_iter()
            .for_each(|v| new.description = Set(v));
        c.enabled.into_iter().for_each(|v| new.enabled = Set(v));
        if new.is_changed() {
            return Ok(new.update(txn).await?);
        }
        Ok(row)
    })
}

/// Removes a zone that no load balancer uses. The rows of deleted ones forget it.
pub async fn delete(state: &AppState, id: &str) -> Result<(), Error> {
    transaction!(state.db, |txn| {
        hold::<availability_zone::Entity>(txn, id).await?;
        let used = load_balancer::Entity::find()
            .filter(load_balancer::Column::AvailabilityZone.eq(id))
            .filter(load_balancer::Column::ProvisioningStatus.ne(DELETED))
            .count(txn)
            .await?;
        if used > 0 {
            return Err(Error::in_use(availability_zone::Entity::NAME, id));
        }
        load_balancer::Entity::update_many()
            .col_expr(
                load_balancer::Column::AvailabilityZone,
                Expr::value(None::<String>),
            )
            .filter(load_balancer::Column::AvailabilityZone.eq(id))
            .exec(txn)
            .await?;
        availability_zone::Entity::delete_by_id(id.to_owned())
            .exec(txn)
            .await?;
        Ok(())
    })
}

/// The zone of a new load balancer, held until the transaction ends.
pub async fn choose(db: &impl ConnectionTrait, name: &str) -> Result<ZoneData, Error> {
    let row = hold::<availability_zone::Entity>(db, name)
        .await
        .map_err(|error| match error {
            Error::Refused(..) => Error::validation("Invalid availability_zone."),
            other => other,
        })?;
    if !row.enabled {
        return Err(Error::bad(format!(
            "The selected availability_zone is not allowed in this deployment: {name}"
        )));
    }
    // A profile that a zone uses does not change, so it need not be held.
    let profile =
        find::<availability_zone_profile::Entity>(db, &row.availability_zone_profile_id).await?;
    ZoneData::parse(&profile.availability_zone_data)
}

/// 409 when there is a zone of the name.
async fn refuse_name(db: &impl ConnectionTrait, name: &str) -> Result<(), Error> {
    let named = availability_zone::Entity::find_by_id(name.to_owned())
        .one(db)
        .await?;
    if named.is_some() {
        return Err(Error::conflict(format!(
            "A availability zone of {name} already exists."
        )));
    }
    Ok(())
}
