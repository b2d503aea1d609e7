//! Positions of L7 policies: 1 to n without gaps.

use crate::db::entity::l7policy;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel,
    QueryFilter, QueryOrder,
};

/// Numbers a listener's policies 1..n; `put` takes one of them to a place first (none: the end).
pub async fn reposition(
    db: &impl ConnectionTrait,
    listener: &str,
    put: Option<(&str, Option<i32>)>,
) -> Result<(), DbErr> {
    let mut rows = l7policy::Entity::find()
        .filter(l7policy::Column::ListenerId.eq(listener))
        .order_by_asc(l7policy::Column::Position)
        .order_by_asc(l7policy::Column::CreatedAt)
        .order_by_asc(l7policy::Column::Id)
        .all(db)
        .await?;
    if let Some((id, place)) = put
        && let Some(at) = rows.iter().position(|row| row.id == id)
    {
        let row = rows.remove(at);
        let place = place.map_or(rows.len(), |place| {
            usize::try_from(place.max(1) - 1)
                .unwrap_or(usize::MAX)
                .min(rows.len())
        });
        rows.insert(place, row);
    }
    for (position, row) in (1_i32..).zip(rows) {
        if row.position != position {
            let mut row = row.into_active_model();
            row.position = Set(position);
            l7policy::Entity::update(row).exec(db).await?;
        }
    }
    Ok(())
}
