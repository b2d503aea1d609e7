//! Lists: filters on attributes, tags, sort keys, keyset pagination. One implementation for all
//! resources; what differs is a table of attributes.

use sea_orm::sea_query::{Alias, Cond, Expr, Func, Query, SimpleExpr};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, Iterable, ModelTrait, Order,
    QueryFilter, QueryOrder, QuerySelect, Value,
};
use std::collections::{HashMap, HashSet};

use crate::db::entity::tag;

/// Rows of a page whose client asked for no limit. The page then ends with a `next` link, so
/// nothing is lost, and one answer stays below about 20 MB.
pub const UNLIMITED_PAGE: u64 = 10_000;

/// Type of a column, for the values of filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Number.
    Int,
    /// Truth value.
    Bool,
    /// Unix milliseconds; filtered by the second, as the API shows it.
    Time,
    /// Text of this key in a column of JSON as serde writes it. No sort key.
    Inside(&'static str),
    /// Number of this key likewise.
    NumberInside(&'static str),
    /// Truth value of this key likewise; false when the column is null.
    FlagInside(&'static str),
    /// Always null: no value is equal to it. No sort key.
    Null,
}

/// An attribute that can be filtered and sorted by: name in the API, column, type.
pub type Attribute = (&'static str, &'static str, Kind);

/// What a client asks of a list.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    /// Attribute and value, all must hold.
    pub filters: Vec<(String, String)>,
    /// All of these.
    pub tags: Vec<String>,
    /// At least one of these.
    pub tags_any: Vec<String>,
    /// Not all of these.
    pub not_tags: Vec<String>,
    /// None of these.
    pub not_tags_any: Vec<String>,
    /// Attribute and direction.
    pub sort: Vec<(String, bool)>,
    /// Rows of the page; none is unlimited.
    pub limit: Option<u64>,
    /// Id of the last row of the page before.
    pub marker: Option<String>,
    /// Rows before the marker instead of after it.
    pub reverse: bool,
}

/// Why there is no list. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The statement failed.
    #[error("database")]
    Sql(#[from] DbErr),
    /// Unknown attribute, or a value that is none of its type.
    #[error("One or more arguments are either duplicate or invalid")]
    Filter,
    /// Not an attribute.
    #[error("Supplied sort key '{0}' is not valid.")]
    SortKey(String),
    /// Names no row.
    #[error("Supplied pagination marker '{0}' is not valid.")]
    Marker(String),
}

/// A page of `E` within `scope`.
pub async fn page<E>(
    db: &impl ConnectionTrait,
    attributes: &[Attribute],
    request: &PageRequest,
    scope: Condition,
) -> Result<Vec<E::Model>, ListError>
where
    E: EntityTrait,
{
    let (wanted, order) = wanted(attributes, request)?;
    let mut select = E::find().filter(scope.clone()).filter(wanted);
    if let Some(marker) = &request.marker {
        let row = marker_row::<E>(db, marker, seen(request, scope)).await?;
        let row = row.ok_or_else(|| ListError::Marker(marker.clone()))?;
        select = select.filter(beyond(&order, &row, request.reverse));
    }
    for (column, kind, descending) in &order {
        let direction = if *descending { Order::Desc } else { Order::Asc };
        select = select.order_by(key(column, *kind), direction);
    }
    let limit = request.limit.unwrap_or(UNLIMITED_PAGE);
    Ok(select.limit(limit).all(db).await?)
}

/// Column, its type, whether descending.
pub type Key = (&'static str, Kind, bool);

/// Which rows a client wants, and in which order, without a look at the database.
pub fn wanted(
    attributes: &[Attribute],
    request: &PageRequest,
) -> Result<(Cond, Vec<Key>), ListError> {
    let mut condition = Cond::all();
    for (name, value) in &request.filters {
        let attribute = attributes.iter().find(|(api, ..)| api == name);
        let (_, column, kind) = attribute.ok_or(ListError::Filter)?;
        condition = condition.add(equals(column, *kind, value)?);
    }
    if let Some(tags) = tag_condition(request) {
        condition = condition.add(tags);
    }
    Ok((condition, order(attributes, request)?))
}

fn order(attributes: &[Attribute], request: &PageRequest) -> Result<Vec<Key>, ListError> {
    let mut keys: Vec<Key> = Vec::new();
    for (name, descending) in &request.sort {
        let attribute = attributes.iter().find(|(api, ..)| api == name);
        let column = attribute.map(|(_, column, kind)| (*column, *kind));
        let plain = column.filter(|(_, kind)| kind.is_column());
        let (column, kind) = plain.ok_or_else(|| ListError::SortKey(name.clone()))?;
        // Named again it decides nothing, and a marker's condition grows with the square of the keys.
        if !keys.iter().any(|(known, ..)| *known == column) {
            keys.push((column, kind, *descending));
        }
    }
    for (column, kind) in [("created_at", Kind::Time), ("id", Kind::Text)] {
        if !keys.iter().any(|(known, ..)| *known == column) {
            keys.push((column, kind, false));
        }
    }
    Ok(keys)
}

impl Kind {
    /// Whether the attribute is a column of its own.
    const fn is_column(self) -> bool {
        matches!(self, Self::Text | Self::Int | Self::Bool | Self::Time)
    }
}

fn equals(name: &'static str, kind: Kind, value: &str) -> Result<SimpleExpr, ListError> {
    let column = Expr::col(Alias::new(name));
    let number = || value.parse::<i64>().map_err(|_| ListError::Filter);
    Ok(match kind {
        Kind::Text => column.eq(value),
        Kind::Int => column.eq(number()?),
        Kind::Bool => column.eq(flag(value)?),
        Kind::Inside(key) => inside(name, key, &serde_json::json!(value)),
        Kind::NumberInside(key) => inside(name, key, &serde_json::json!(number()?)),
        Kind::FlagInside(key) => {
            let set = inside(name, key, &serde_json::json!(true));
            if flag(value)? { set } else { set.not() }
        }
        Kind::Null => Expr::value(false),
        Kind::Time => {
            let second = crate::time::parse(value).ok_or(ListError::Filter)?;
            column.between(second, second + 999)
        }
    })
}

fn flag(value: &str) -> Result<bool, ListError> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "t" | "y" => Ok(true),
        "false" | "0" | "no" | "off" | "f" | "n" => Ok(false),
        _ => Err(ListError::Filter),
    }
}

/// Whether a column of JSON has the key with the value, in a way that all engines know and in which letters have their case. The
/// text cannot be a part of another value: in there its quotes were escaped. A comma follows, as no such key is the last one.
fn inside(column: &'static str, key: &str, value: &serde_json::Value) -> SimpleExpr {
    let text = || Func::coalesce([Expr::col(Alias::new(column)).into(), Expr::value("")]);
    let pair = format!("{}:{value},", serde_json::Value::from(key));
    let without =
        Func::cust(Alias::new("REPLACE")).args([text().into(), Expr::value(pair), Expr::value("")]);
    Expr::expr(without).ne(text())
}

/// What a list is ordered by. Engines disagree where nulls are in an order; the last two keys have none, and an index.
fn key(column: &'static str, kind: Kind) -> SimpleExpr {
    match column {
        "created_at" | "id" => Expr::col(Alias::new(column)).into(),
        column => never_null(column, kind),
    }
}

/// Null sorts as the type's smallest value.
fn never_null(column: &'static str, kind: Kind) -> SimpleExpr {
    let smallest = cell(kind, None);
    Func::coalesce([Expr::col(Alias::new(column)).into(), Expr::value(smallest)]).into()
}

/// What a row has in a column; the type's smallest value for null.
fn cell(kind: Kind, found: Option<&serde_json::Value>) -> Value {
    match kind {
        // What is inside another column, and null, is never sorted by.
        Kind::Text | Kind::Inside(_) | Kind::Null => {
            found.and_then(|v| v.as_str()).unwrap_or_default().into()
        }
        Kind::Int | Kind::Time | Kind::NumberInside(_) => {
            found.and_then(|v| v.as_i64()).unwrap_or_default().into()
        }
        Kind::Bool | Kind::FlagInside(_) => {
            found.and_then(|v| v.as_bool()).unwrap_or_default().into()
        }
    }
}

fn beyond(order: &[Key], row: &serde_json::Value, reverse: bool) -> Cond {
    // The first key of what is further is not before the marker's. That says no more than the rest does, but an index can start
    // there, where it cannot with alternatives.
    let mut further = Cond::all();
    let mut any = Cond::any();
    // The keys before this one.
    let mut equal = Cond::all();
    for (column, kind, descending) in order {
        let key = Expr::expr(key(column, *kind));
        let bound = cell(*kind, row.get(column));
        let (beyond, not_before) = if *descending == reverse {
            (
                key.clone().gt(bound.clone()),
                key.clone().gte(bound.clone()),
            )
        } else {
            (
                key.clone().lt(bound.clone()),
                key.clone().lte(bound.clone()),
            )
        };
        if equal.is_empty() {
            further = further.add(not_before);
        }
        any = any.add(equal.clone().add(beyond));
        equal = equal.add(key.eq(bound));
    }
    further.add(any)
}

/// Among which rows a marker may be: what the list is cut to. Other filters may be other ones than those of the page before.
fn seen(request: &PageRequest, scope: Condition) -> Condition {
    let of_project = request
        .filters
        .iter()
        .filter(|(name, _)| name == "project_id");
    of_project.fold(scope, |scope, (name, project)| {
        scope.add(Expr::col(Alias::new(name)).eq(project))
    })
}

async fn marker_row<E: EntityTrait>(
    db: &impl ConnectionTrait,
    marker: &str,
    seen: Condition,
) -> Result<Option<serde_json::Value>, DbErr> {
    E::find()
        .filter(seen)
        .filter(Expr::col(Alias::new("id")).eq(marker))
        .into_json()
        .one(db)
        .await
}

fn tag_condition(request: &PageRequest) -> Option<Cond> {
    let having = |tags: &[String], all: bool| {
        let distinct: HashSet<&String> = tags.iter().collect();
        let mut query = Query::select();
        query
            .column(tag::Column::ResourceId)
            .from(tag::Entity)
            .and_where(tag::Column::Tag.is_in(tags.iter().cloned()));
        if all {
            let count = i64::try_from(distinct.len()).unwrap_or(i64::MAX);
            query
                .group_by_col(tag::Column::ResourceId)
                .and_having(Expr::col(tag::Column::Tag).count().eq(count));
        }
        query
    };
    let id = || Expr::col(Alias::new("id"));
    let mut condition = Cond::all();
    if !request.tags.is_empty() {
        condition = condition.add(id().in_subquery(having(&request.tags, true)));
    }
    if !request.tags_any.is_empty() {
        condition = condition.add(id().in_subquery(having(&request.tags_any, false)));
    }
    if !request.not_tags.is_empty() {
        condition = condition.add(id().not_in_subquery(having(&request.not_tags, true)));
    }
    if !request.not_tags_any.is_empty() {
        condition = condition.add(id().not_in_subquery(having(&request.not_tags_any, false)));
    }
    (!condition.is_empty()).then_some(condition)
}

/// Ids of children of `parents`, oldest first: `parent column` → ids.
pub async fn children<E>(
    db: &impl ConnectionTrait,
    parent: E::Column,
    parents: &[String],
) -> Result<HashMap<String, Vec<String>>, DbErr>
where
    E: EntityTrait,
    E::Column: Iterable,
{
    if parents.is_empty() {
        return Ok(HashMap::new());
    }
    let pairs: Vec<(String, String)> = E::find()
        .select_only()
        .column(parent)
        .expr(Expr::col(Alias::new("id")))
        .filter(parent.is_in(parents.iter().cloned()))
        .order_by_asc(Expr::col(Alias::new("created_at")))
        .order_by_asc(Expr::col(Alias::new("id")))
        .into_tuple()
        .all(db)
        .await?;
    let mut map: HashMap<String, Vec<String>> = HashMap::new();
    for (of, id) in pairs {
        map.entry(of).or_default().push(id);
    }
    Ok(map)
}

/// Tags of resources, sorted.
pub async fn tags(
    db: &impl ConnectionTrait,
    ids: &[String],
) -> Result<HashMap<String, Vec<String>>, DbErr> {
    let mut map: HashMap<String, Vec<String>> = HashMap::new();
    if ids.is_empty() {
        return Ok(map);
    }
    let rows = tag::Entity::find()
        .filter(tag::Column::ResourceId.is_in(ids.iter().cloned()))
        .order_by_asc(tag::Column::Tag)
        .all(db)
        .await?;
    for row in rows {
        map.entry(row.resource_id).or_default().push(row.tag);
    }
    Ok(map)
}

/// Replaces the tags of a resource.
pub async fn set_tags(db: &impl ConnectionTrait, id: &str, tags: &[String]) -> Result<(), DbErr> {
    use sea_orm::ActiveValue::Set;
    delete_tags(db, &[id.to_owned()]).await?;
    let distinct: HashSet<&String> = tags.iter().collect();
    if distinct.is_empty() {
        return Ok(());
    }
    let rows = distinct.into_iter().map(|tag| tag::ActiveModel {
        resource_id: Set(id.to_owned()),
        tag: Set(tag.clone()),
    });
    tag::Entity::insert_many(rows)
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Removes the tags of resources that go.
pub async fn delete_tags(db: &impl ConnectionTrait, ids: &[String]) -> Result<(), DbErr> {
    if ids.is_empty() {
        return Ok(());
    }
    tag::Entity::delete_many()
        .filter(tag::Column::ResourceId.is_in(ids.iter().cloned()))
        .exec(db)
        .await?;
    Ok(())
}

/// All rows of `E` whose `column` is one of `values`, oldest first.
pub async fn of<E>(
    db: &impl ConnectionTrait,
    column: E::Column,
    values: &[String],
) -> Result<Vec<E::Model>, DbErr>
where
    E: EntityTrait,
    E::Model: ModelTrait,
{
    if values.is_empty() {
        return Ok(Vec::new());
    }
    E::find()
        .filter(column.is_in(values.iter().cloned()))
        .order_by_asc(Expr::col(Alias::new("created_at")))
        .order_by_asc(Expr::col(Alias::new("id")))
        .all(db)
        .await
}
