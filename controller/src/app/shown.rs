//! What finding and showing objects of any kind has in common.

use super::Error;
use crate::db::query::list;
use sea_orm::{ConnectionTrait, DbErr, EntityTrait, PrimaryKeyTrait};

/// A row with its tags: the view of an object that shows nothing else.
#[derive(Debug, Clone)]
pub struct Tagged<M> {
    /// The row.
    pub row: M,
    /// Tags, sorted.
    pub tags: Vec<String>,
}

/// Completes rows with their tags; `id` is a row's.
pub(super) async fn tagged<M>(
    db: &impl ConnectionTrait,
    rows: Vec<M>,
    id: impl Fn(&M) -> &String,
) -> Result<Vec<Tagged<M>>, DbErr> {
    let ids: Vec<String> = rows.iter().map(&id).cloned().collect();
    let mut tags = list::tags(db, &ids).await?;
    let complete = |row| Tagged {
        tags: tags.remove(id(&row)).unwrap_or_default(),
        row,
    };
    Ok(rows.into_iter().map(complete).collect())
}

/// The row or 404; `name` is the kind in upstream's texts.
pub(super) async fn find<E>(
    db: &impl ConnectionTrait,
    name: &str,
    id: &str,
) -> Result<E::Model, Error>
where
    E: EntityTrait,
    <E::PrimaryKey as PrimaryKeyTrait>::ValueType: From<String>,
{
    let row = E::find_by_id(id.to_owned()).one(db).await?;
    row.ok_or_else(|| Error::not_found(name, id))
}

/// The only one of `views`, or 404.
pub(super) fn only<V>(mut views: Vec<V>, name: &str, id: &str) -> Result<V, Error> {
    views.pop().ok_or_else(|| Error::not_found(name, id))
}
