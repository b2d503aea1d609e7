//! Copies of certificates, by content.

use crate::db::entity::{flow, listener, pool, tls_bundle};
use crate::db::now;
use crate::db::query::journal::state;
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, PaginatorTrait, QueryFilter,
};
use std::collections::HashSet;

/// Stores a copy; one that is there already counts as new, so that it is not removed before its use shows.
pub async fn keep(db: &impl ConnectionTrait, id: &str, sealed: String) -> Result<(), DbErr> {
    let row = tls_bundle::ActiveModel {
        id: Set(id.to_owned()),
        sealed: Set(sealed),
        created_at: Set(now()),
    };
    let again = OnConflict::column(tls_bundle::Column::Id)
        .update_column(tls_bundle::Column::CreatedAt)
        .to_owned();
    tls_bundle::Entity::insert(row)
        .on_conflict(again)
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Copies that go out of use count as new: the change may be undone.
pub async fn touch(db: &impl ConnectionTrait, ids: Vec<String>) -> Result<(), DbErr> {
    if ids.is_empty() {
        return Ok(());
    }
    tls_bundle::Entity::update_many()
        .col_expr(tls_bundle::Column::CreatedAt, now().into())
        .filter(tls_bundle::Column::Id.is_in(ids))
        .exec(db)
        .await?;
    Ok(())
}

/// The copies of these ids.
pub async fn load(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = String>,
) -> Result<Vec<tls_bundle::Model>, DbErr> {
    let ids: Vec<String> = ids.into_iter().collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    tls_bundle::Entity::find()
        .filter(tls_bundle::Column::Id.is_in(ids))
        .all(db)
        .await
}

/// Removes copies from before `before` that no listener and no pool uses; how many. Not while a flow is open: its
/// undoing may bring an old use back. `used` tells what a row's text uses.
pub async fn collect(
    db: &impl ConnectionTrait,
    before: i64,
    used: impl Fn(&str) -> Vec<String>,
) -> Result<u64, DbErr> {
    let open = flow::Entity::find()
        .filter(flow::Column::State.is_in(state::OPEN))
        .count(db)
        .await?;
    if open > 0 {
        return Ok(0);
    }
    let mut living: HashSet<String> = HashSet::new();
    let listeners = listener::Entity::find()
        .filter(listener::Column::Tls.is_not_null())
        .all(db)
        .await?;
    let pools = pool::Entity::find()
        .filter(pool::Column::Tls.is_not_null())
        .all(db)
        .await?;
    let texts = listeners.iter().filter_map(|row| row.tls.as_deref());
    for text in texts.chain(pools.iter().filter_map(|row| row.tls.as_deref())) {
        living.extend(used(text));
    }
    let old = tls_bundle::Entity::find()
        .filter(tls_bundle::Column::CreatedAt.lt(before))
        .all(db)
        .await?;
    let mut removed = 0;
    for row in old.into_iter().filter(|row| !living.contains(&row.id)) {
        let gone = tls_bundle::Entity::delete_many()
            .filter(tls_bundle::Column::Id.eq(row.id))
            .filter(tls_bundle::Column::CreatedAt.lt(before))
            .exec(db)
            .await?;
        removed += gone.rows_affected;
    }
    Ok(removed)
}
