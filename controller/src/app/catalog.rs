//! What flavors, availability zones and their profiles have in common: operators make them, users choose them by name, they
//! belong to no project and count in no quota.

use super::{AppState, Error, lock, shown};
use crate::db::query::list::{self, Attribute, PageRequest};
use sea_orm::{Condition, ConnectionTrait, EntityTrait, PrimaryKeyTrait};

/// Rows of one kind.
pub trait Catalog: EntityTrait<PrimaryKey: PrimaryKeyTrait<ValueType: From<String>>> {
    /// As upstream's texts name it.
    const NAME: &'static str;
    /// What lists can be filtered and sorted by.
    const ATTRIBUTES: &'static [Attribute];
    /// Column of the identifier.
    const KEY: Self::Column;
    /// A column that is written as it is, to lock the row.
    const SAME: Self::Column;
}

/// A page.
pub async fn list<E: Catalog>(
    state: &AppState,
    page: &PageRequest,
) -> Result<Vec<E::Model>, Error> {
    let db = state.db.read();
    Ok(list::page::<E>(db, E::ATTRIBUTES, page, Condition::all()).await?)
}

/// One.
pub async fn show<E: Catalog>(state: &AppState, id: &str) -> Result<E::Model, Error> {
    find::<E>(state.db.read(), id).await
}

/// The row or 404.
pub async fn find<E: Catalog>(db: &impl ConnectionTrait, id: &str) -> Result<E::Model, Error> {
    shown::find::<E>(db, E::NAME, id).await
}

/// The row, locked until the transaction ends. Whoever gives it to another object, changes or removes it holds it, because
/// a load balancer's row has no foreign key to it.
pub async fn hold<E: Catalog>(db: &impl ConnectionTrait, id: &str) -> Result<E::Model, Error> {
    lock::hold::<E>(db, E::KEY, E::SAME, id).await?;
    find::<E>(db, id).await
}
