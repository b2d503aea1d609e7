//! Availability zone profiles: what a zone means to the provider. Operators make them; without authentication
//! everybody is one, as with amphorae.

use super::catalog::{Catalog, hold};
use super::flavor_profile::known;
use super::zone_data::{ATTRIBUTE, ZoneData};
use super::{AppState, Error};
use crate::db::entity::{availability_zone, availability_zone_profile};
use crate::db::now;
use crate::db::query::list::{Attribute, Kind};
use crate::transaction;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel,
    PaginatorTrait, QueryFilter,
};
use uuid::Uuid;

impl Catalog for availability_zone_profile::Entity {
    const NAME: &'static str = "Availability Zone Profile";
    const ATTRIBUTES: &'static [Attribute] = &[
        ("id", "id", Kind::Text),
        ("name", "name", Kind::Text),
        ("provider_name", "provider_name", Kind::Text),
        (ATTRIBUTE, ATTRIBUTE, Kind::Text),
    ];
    const KEY: Self::Column = availability_zone_profile::Column::Id;
    const SAME: Self::Column = availability_zone_profile::Column::CreatedAt;
}

/// A profile to make.
#[derive(Debug, Clone)]
pub struct New {
    /// Name.
    pub name: String,
    /// Of whose data it is.
    pub provider_name: String,
    /// JSON text that [`ZoneData::parse`] took.
    pub availability_zone_data: String,
}

/// A change; `None` keeps.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Name.
    pub name: Option<String>,
    /// Of whose data it is.
    pub provider_name: Option<String>,
    /// JSON text that [`ZoneData::parse`] took.
    pub availability_zone_data: Option<String>,
}

/// Makes a profile.
pub async fn create(
    state: &AppState,
    new: &New,
) -> Result<availability_zone_profile::Model, Error> {
    known(&new.provider_name)?;
    ZoneData::parse(&new.availability_zone_data)?;
    let row = availability_zone_profile::ActiveModel {
        id: Set(Uuid::new_v4().to_string()),
        name: Set(new.name.clone()),
        provider_name: Set(new.provider_name.clone()),
        availability_zone_data: Set(new.availability_zone_data.clone()),
        created_at: Set(now()),
    };
    transaction!(state.db, |txn| { Ok(row.clone().insert(txn).await?) })
}

/// Changes a profile. What it means cannot change while a zone uses it.
pub async fn update(
    state: &AppState,
    id: &str,
    change: &Change,
) -> Result<availability_zone_profile::Model, Error> {
    if let Some(provider) = &change.provider_name {
        known(provider)?;
    }
    if let Some(data) = &change.availability_zone_data {
        ZoneData::parse(data)?;
    }
    transaction!(state.db, |txn| {
        let row = hold::<availability_zone_profile::Entity>(txn, id).await?;
        if change.provider_name.is_some() || change.availability_zone_data.is_some() {
            refuse_used(txn, id).await?;
        }
        let mut new = row.clone().into_active_model();
        let c = change.clone();
        c.name.into_iter().for_each(|v| new.name = Set(v));
        c.provider_name
            .into_iter()
            .for_each(|v| new.provider_name = Set(v));
        c.availability_zone_data
            .into_iter()
            .for_each(|v| new.availability_zone_data = Set(v));
        if new.is_changed() {
            return Ok(new.update(txn).await?);
        }
        Ok(row)
    })
}

/// Removes a profile that no zone uses.
pub async fn delete(state: &AppState, id: &str) -> Result<(), Error> {
    transaction!(state.db, |txn| {
        hold::<availability_zone_profile::Entity>(txn, id).await?;
        refuse_used(txn, id).await?;
        availability_zone_profile::Entity::delete_by_id(id.to_owned())
            .exec(txn)
            .await?;
        Ok(())
    })
}

async fn refuse_used(db: &impl ConnectionTrait, id: &str) -> Result<(), Error> {
    let zones = availability_zone::Entity::find()
        .filter(availability_zone::Column::AvailabilityZoneProfileId.eq(id))
        .count(db)
        .await?;
    if zones > 0 {
        return Err(Error::in_use(availability_zone_profile::Entity::NAME, id));
    }
    Ok(())
}
