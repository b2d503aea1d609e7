//! Facts about the database.

use crate::db::entity::meta;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveValue::Set, ConnectionTrait, DbErr, EntityTrait};

/// Reads a fact.
pub async fn read(db: &impl ConnectionTrait, name: &str) -> Result<Option<String>, DbErr> {
    Ok(meta::Entity::find_by_id(name.to_owned())
        .one(db)
        .await?
        .map(|row| row.value))
}

/// Writes a fact, replacing the old one.
pub async fn write(db: &impl ConnectionTrait, name: &str, value: &str) -> Result<(), DbErr> {
    let row = meta::ActiveModel {
        name: Set(name.to_owned()),
        value: Set(value.to_owned()),
    };
    meta::Entity::insert(row)
        .on_conflict(
            OnConflict::column(meta::Column::Name)
                .update_column(meta::Column::Value)
                .to_owned(),
        )
        .exec(db)
        .await?;
    Ok(())
}

/// Writes a fact unless it is there: the first of several writers wins.
pub async fn write_first(db: &impl ConnectionTrait, name: &str, value: &str) -> Result<(), DbErr> {
    let row = meta::ActiveModel {
        name: Set(name.to_owned()),
        value: Set(value.to_owned()),
    };
    meta::Entity::insert(row)
        .on_conflict(
            OnConflict::column(meta::Column::Name)
                // MariaDB has no "do nothing": it keeps what is there.
                .do_nothing_on([meta::Column::Name])
                .to_owned(),
        )
        .exec_without_returning(db)
        .await?;
    Ok(())
}
