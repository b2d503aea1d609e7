//! Flavor profiles: what a flavor means to the provider. Operators make them; without authentication
//! everybody is one, as with amphorae.

use super::catalog::{Catalog, hold};
use super::flavor_data::{ATTRIBUTE, FlavorData};
use super::load_balancer::PROVIDERS;
use super::{AppState, Error};
use crate::db::entity::{flavor, flavor_profile};
use crate::db::now;
use crate::db::query::list::{Attribute, Kind};
use crate::transaction;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel,
    PaginatorTrait, QueryFilter,
};
use uuid::Uuid;

/// As upstream's texts name it when it is removed or in use.
const IN_USE: &str = "Flavor profile";

impl Catalog for flavor_profile::Entity {
    const NAME: &'static str = "Flavor Profile";
    const ATTRIBUTES: &'static [Attribute] = &[
        ("id", "id", Kind::Text),
        ("name", "name", Kind::Text),
        ("provider_name", "provider_name", Kind::Text),
        (ATTRIBUTE, "flavor_data", Kind::Text),
    ];
    const KEY: Self::Column = flavor_profile::Column::Id;
    const SAME: Self::Column = flavor_profile::Column::CreatedAt;
}

/// A profile to make.
#[derive(Debug, Clone)]
pub struct New {
    /// Name.
    pub name: String,
    /// Of whose data it is.
    pub provider_name: String,
    /// JSON text that [`FlavorData::parse`] took.
    pub flavor_data: String,
}

/// A change; `None` keeps.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Name.
    pub name: Option<String>,
    /// Of whose data it is.
    pub provider_name: Option<String>,
    /// JSON text that [`FlavorData::parse`] took.
    pub flavor_data: Option<String>,
}

/// Makes a profile.
pub async fn create(state: &AppState, new: &New) -> Result<flavor_profile::Model, Error> {
    known(&new.provider_name)?;
    FlavorData::parse(&new.flavor_data)?;
    let row = flavor_profile::ActiveModel {
        id: Set(Uuid::new_v4().to_string()),
        name: Set(new.name.clone()),
        provider_name: Set(new.provider_name.clone()),
        flavor_data: Set(new.flavor_data.clone()),
        created_at: Set(now()),
    };
    transaction!(state.db, |txn| { Ok(row.clone().insert(txn).await?) })
}

/// Changes a profile. What it means cannot change while a flavor uses it.
pub async fn update(
    state: &AppState,
    id: &str,
    change: &Change,
) -> Result<flavor_profile::Model, Error> {
    if let Some(provider) = &change.provider_name {
        known(provider)?;
    }
    if let Some(data) = &change.flavor_data {
        FlavorData::parse(data)?;
    }
    transaction!(state.db, |txn| {
        let row = hold::<flavor_profile::Entity>(txn, id).await?;
        if change.provider_name.is_some() || change.flavor_data.is_some() {
            refuse_used(txn, id).await?;
        }
        let mut new = row.clone().into_active_model();
        let c = change.clone();
        c.name.into_iter().for_each(|v| new.name = Set(v));
        c.provider_name
            .into_iter()
            .for_each(|v| new.provider_name = Set(v));
        c.flavor_data
            .into_iter()
            .for_each(|v| new.flavor_data = Set(v));
        if new.is_changed() {
            return Ok(new.update(txn).await?);
        }
        Ok(row)
    })
}

/// Removes a profile that no flavor uses.
pub async fn delete(state: &AppState, id: &str) -> Result<(), Error> {
    transaction!(state.db, |txn| {
        let held = hold::<flavor_profile::Entity>(txn, id).await;
        held.map_err(|error| match error {
            Error::Refused(..) => Error::not_found(IN_USE, id),
            other => other,
        })?;
        refuse_used(txn, id).await?;
        flavor_profile::Entity::delete_by_id(id.to_owned())
            .exec(txn)
            .await?;
        Ok(())
    })
}

async fn refuse_used(db: &impl ConnectionTrait, id: &str) -> Result<(), Error> {
    let flavors = flavor::Entity::find()
        .filter(flavor::Column::FlavorProfileId.eq(id))
        .count(db)
        .await?;
    if flavors > 0 {
        return Err(Error::in_use(IN_USE, id));
    }
    Ok(())
}

/// 400 unless the provider is ours.
pub fn known(provider: &str) -> Result<(), Error> {
    if PROVIDERS.contains(&provider) {
        return Ok(());
    }
    Err(Error::bad(format!("Provider '{provider}' is not enabled.")))
}
