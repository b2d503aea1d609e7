//! Flavors: names by which users choose a flavor profile for a load balancer. They belong to no project
//! and count in no quota.

use super::catalog::{Catalog, find, hold};
use super::flavor_data::FlavorData;
use super::lock::DELETED;
use super::{AppState, Error};
use crate::db::entity::{flavor, flavor_profile, load_balancer};
use crate::db::now;
use crate::db::query::list::{Attribute, Kind};
use crate::transaction;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel,
    PaginatorTrait, QueryFilter,
};
use uuid::Uuid;

impl Catalog for flavor::Entity {
    const NAME: &'static str = "Flavor";
    const ATTRIBUTES: &'static [Attribute] = &[
        ("id", "id", Kind::Text),
        ("name", "name", Kind::Text),
        ("description", "description", Kind::Text),
        ("enabled", "enabled", Kind::Bool),
        ("flavor_profile_id", "flavor_profile_id", Kind::Text),
    ];
    const KEY: Self::Column = flavor::Column::Id;
    const SAME: Self::Column = flavor::Column::CreatedAt;
}

/// A flavor to make.
#[derive(Debug, Clone)]
pub struct New {
    /// Unique.
    pub name: String,
    /// Free text.
    pub description: String,
    /// New load balancers may use it.
    pub enabled: bool,
    /// What it means; fixed.
    pub flavor_profile_id: String,
}

/// A change; `None` keeps.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Unique.
    pub name: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// New load balancers may use it.
    pub enabled: Option<bool>,
}

/// Makes a flavor.
pub async fn create(state: &AppState, new: &New) -> Result<flavor::Model, Error> {
    transaction!(state.db, |txn| {
        hold::<flavor_profile::Entity>(txn, &new.flavor_profile_id).await?;
        refuse_name(txn, &new.name, None).await?;
        let row = flavor::ActiveModel {
            id: Set(Uuid::new_v4().to_string()),
            name: Set(new.name.clone()),
            description: Set(new.description.clone()),
            enabled: Set(new.enabled),
            flavor_profile_id: Set(new.flavor_profile_id.clone()),
            created_at: Set(now()),
        };
        Ok(row.insert(txn).await?)
    })
}

/// Changes a flavor. Load balancers that have it already are not concerned.
pub async fn update(state: &AppState, id: &str, change: &Change) -> Result<flavor::Model, Error> {
    transaction!(state.db, |txn| {
        let row = hold::<flavor::Entity>(txn, id).await?;
        if let Some(name) = &change.name {
            refuse_name(txn, name, Some(id)).await?;
        }
        let mut new = row.clone().into_active_model();
        let c = change.clone();
        c.name.into_iter().for_each(|v| new.name = Set(v));
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

/// Removes a flavor that no load balancer uses. The rows of deleted ones forget it.
pub async fn delete(state: &AppState, id: &str) -> Result<(), Error> {
    transaction!(state.db, |txn| {
        hold::<flavor::Entity>(txn, id).await?;
        let used = load_balancer::Entity::find()
            .filter(load_balancer::Column::FlavorId.eq(id))
            .filter(load_balancer::Column::ProvisioningStatus.ne(DELETED))
            .count(txn)
            .await?;
        if used > 0 {
            return Err(Error::in_use(flavor::Entity::NAME, id));
        }
        load_balancer::Entity::update_many()
            .col_expr(load_balancer::Column::FlavorId, Expr::value(None::<String>))
            .filter(load_balancer::Column::FlavorId.eq(id))
            .exec(txn)
            .await?;
        flavor::Entity::delete_by_id(id.to_owned())
            .exec(txn)
            .await?;
        Ok(())
    })
}

/// What a flavor makes of a new load balancer.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// Provider of its profile.
    pub provider: String,
    /// What its profile asks for.
    pub data: FlavorData,
}

/// The flavor of a new load balancer, held until the transaction ends.
pub async fn choose(db: &impl ConnectionTrait, id: &str) -> Result<Chosen, Error> {
    let row = hold::<flavor::Entity>(db, id)
        .await
        .map_err(|error| match error {
            Error::Refused(..) => Error::validation("Invalid flavor_id."),
            other => other,
        })?;
    if !row.enabled {
        return Err(Error::bad(format!(
            "The selected flavor is not allowed in this deployment: {id}"
        )));
    }
    // A profile that a flavor uses does not change, so it need not be held.
    let profile = find::<flavor_profile::Entity>(db, &row.flavor_profile_id).await?;
    Ok(Chosen {
        data: FlavorData::parse(&profile.flavor_data)?,
        provider: profile.provider_name,
    })
}

/// 409 when another flavor than `own` has the name.
async fn refuse_name(
    db: &impl ConnectionTrait,
    name: &str,
    own: Option<&str>,
) -> Result<(), Error> {
    let named = flavor::Entity::find()
        .filter(flavor::Column::Name.eq(name))
        .one(db)
        .await?;
    if named.is_some_and(|row| Some(row.id.as_str()) != own) {
        return Err(Error::conflict(format!(
            "A flavor of {name} already exists."
        )));
    }
    Ok(())
}
