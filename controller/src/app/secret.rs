//! Stored secrets and their containers: a small Barbican. What is stored is sealed before it reaches the
//! database, and a payload is never changed.

use super::{AppState, Caller, Error};
use crate::db::entity::{secret, secret_container};
use crate::db::now;
use crate::transaction;
use http::StatusCode;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, Condition, EntityTrait, IntoActiveModel,
    PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};
use std::fmt;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Longest payload in bytes: twice Barbican's, and sealed and in base64 it fits a column of 64 KiB.
pub const MAX_PAYLOAD: usize = 40_000;
/// Secrets of one container: a certificate has four.
pub const MAX_REFERENCES: usize = 32;
/// Largest page of a list.
pub const MAX_PAGE: u64 = 100;

/// Something to keep. It is not printed.
pub struct Payload {
    /// Media type.
    pub content_type: String,
    /// The bytes.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({}, …)", self.content_type)
    }
}

/// A secret to make.
#[derive(Debug)]
pub struct New {
    /// Name.
    pub name: Option<String>,
    /// opaque, certificate, private, public, passphrase, symmetric.
    pub secret_type: String,
    /// Free text.
    pub algorithm: Option<String>,
    /// Free number.
    pub bit_length: Option<i32>,
    /// Free text.
    pub mode: Option<String>,
    /// Unix milliseconds.
    pub expiration: Option<i64>,
    /// None: it comes later.
    pub payload: Option<Payload>,
}

/// A container to make.
#[derive(Debug)]
pub struct NewContainer {
    /// Name.
    pub name: Option<String>,
    /// generic, rsa, certificate.
    pub kind: String,
    /// Name and id of a secret.
    pub secrets: Vec<(String, String)>,
}

/// What is asked of a list.
#[derive(Debug, Default)]
pub struct Page {
    /// So many.
    pub limit: u64,
    /// After so many.
    pub offset: u64,
    /// Of this name.
    pub name: Option<String>,
    /// Only those of this project.
    pub project: Option<String>,
    /// Of this type.
    pub kind: Option<String>,
}

/// Whom a payload is sealed for.
fn owner(id: &str) -> String {
    format!("secret {id}")
}

fn missing(kind: &str) -> Error {
    let text = format!("{kind} not found.");
    Error::new(StatusCode::NOT_FOUND, text)
}

fn seal(state: &AppState, id: &str, payload: &Payload) -> Result<String, Error> {
    let sealed = state.vault.seal(&payload.bytes, &owner(id));
    sealed.ok_or_else(|| Error::new(StatusCode::INTERNAL_SERVER_ERROR, "Sealing failed."))
}

/// Makes a secret; returns its id.
pub async fn create(state: &AppState, caller: &Caller, new: &New) -> Result<String, Error> {
    let id = Uuid::new_v4().to_string();
    let payload = new.payload.as_ref();
    let row = secret::ActiveModel {
        id: Set(id.clone()),
        project_id: Set(caller.project(None)),
        name: Set(new.name.clone()),
        secret_type: Set(new.secret_type.clone()),
        algorithm: Set(new.algorithm.clone()),
        bit_length: Set(new.bit_length),
        mode: Set(new.mode.clone()),
        expiration: Set(new.expiration),
        content_type: Set(payload.map(|payload| payload.content_type.clone())),
        sealed: Set(payload.map(|p| seal(state, &id, p)).transpose()?),
        created_at: Set(now()),
        updated_at: Set(None),
    };
    row.insert(state.db.write()).await?;
    Ok(id)
}

/// The second step: the payload of a secret that has none.
pub async fn fill(state: &AppState, id: &str, payload: &Payload) -> Result<(), Error> {
    let sealed = seal(state, id, payload)?;
    transaction!(state.db, |txn| {
        let filled = secret::Entity::update_many()
            .col_expr(secret::Column::Sealed, Some(sealed.clone()).into())
            .col_expr(
                secret::Column::ContentType,
                Some(payload.content_type.clone()).into(),
            )
            .col_expr(secret::Column::UpdatedAt, Some(now()).into())
            .filter(secret::Column::Id.eq(id))
            .filter(secret::Column::Sealed.is_null())
            .exec(txn)
            .await?;
        if filled.rows_affected == 1 {
            return Ok(());
        }
        match secret::Entity::find_by_id(id.to_owned()).one(txn).await? {
            None => Err(missing("Secret")),
            Some(_) => Err(Error::conflict(
                "Secret already has data, cannot modify it.",
            )),
        }
    })
}

/// One that has not expired.
pub async fn show(state: &AppState, id: &str) -> Result<secret::Model, Error> {
    let row = secret::Entity::find_by_id(id.to_owned())
        .one(state.db.read())
        .await?;
    let living = |row: &secret::Model| row.expiration.is_none_or(|end| end > now());
    row.filter(living).ok_or_else(|| missing("Secret"))
}

/// What was stored. With a `reader`, a secret of another project does not exist.
pub async fn payload(state: &AppState, id: &str, reader: Option<&str>) -> Result<Payload, Error> {
    let row = show(state, id).await?;
    if reader.is_some_and(|project| project != row.project_id) {
        return Err(missing("Secret"));
    }
    let (Some(sealed), Some(content_type)) = (row.sealed, row.content_type) else {
        return Err(Error::new(
            StatusCode::NOT_FOUND,
            "Not Found. Sorry but your secret has no payload.",
        ));
    };
    let bytes = state.vault.open_sealed(&sealed, &owner(id));
    let bytes = bytes.ok_or_else(|| {
        tracing::error!(secret = id, "the stored secret cannot be opened");
        let text = "The stored secret cannot be opened.";
        Error::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    })?;
    Ok(Payload {
        content_type,
        bytes,
    })
}

/// A page, oldest first, and how many there are.
pub async fn list(state: &AppState, page: &Page) -> Result<(Vec<secret::Model>, u64), Error> {
    let mut condition = Condition::all().add(
        Condition::any()
            .add(secret::Column::Expiration.is_null())
            .add(secret::Column::Expiration.gt(now())),
    );
    if let Some(name) = &page.name {
        condition = condition.add(secret::Column::Name.eq(name));
    }
    if let Some(project) = &page.project {
        condition = condition.add(secret::Column::ProjectId.eq(project));
    }
    if let Some(kind) = &page.kind {
        condition = condition.add(secret::Column::SecretType.eq(kind));
    }
    let query = secret::Entity::find().filter(condition);
    let total = query.clone().count(state.db.read()).await?;
    let rows = query
        .order_by_asc(secret::Column::CreatedAt)
        .order_by_asc(secret::Column::Id)
        .limit(page.limit)
        .offset(page.offset)
        .all(state.db.read())
        .await?;
    Ok((rows, total))
}

/// Removes a secret. Listeners and pools that use it have their copy.
pub async fn delete(state: &AppState, id: &str) -> Result<(), Error> {
    let gone = secret::Entity::delete_by_id(id.to_owned())
        .exec(state.db.write())
        .await?;
    if gone.rows_affected == 0 {
        return Err(missing("Secret"));
    }
    Ok(())
}

/// Makes a container; returns its id. Its secrets must exist.
pub async fn create_container(
    state: &AppState,
    caller: &Caller,
    new: &NewContainer,
) -> Result<String, Error> {
    let id = Uuid::new_v4().to_string();
    transaction!(state.db, |txn| {
        for (name, secret) in &new.secrets {
            let found = secret::Entity::find_by_id(secret.clone()).one(txn).await?;
            let project = state.reader(caller);
            let own = |row: &secret::Model| project.is_none_or(|project| project == row.project_id);
            if !found.as_ref().is_some_and(own) {
                let text = format!("Secret provided for '{name}' doesn't exist.");
                return Err(Error::new(StatusCode::NOT_FOUND, text));
            }
        }
        let row = secret_container::Model {
            id: id.clone(),
            project_id: caller.project(None),
            name: new.name.clone(),
            kind: new.kind.clone(),
            secrets: serde_json::json!(new.secrets).to_string(),
            created_at: now(),
        };
        secret_container::Entity::insert(row.into_active_model())
            .exec_without_returning(txn)
            .await?;
        Ok(id.clone())
    })
}

/// One.
pub async fn show_container(state: &AppState, id: &str) -> Result<secret_container::Model, Error> {
    let row = secret_container::Entity::find_by_id(id.to_owned())
        .one(state.db.read())
        .await?;
    row.ok_or_else(|| missing("Container"))
}

/// Names and ids of a container's secrets.
pub fn references(row: &secret_container::Model) -> Vec<(String, String)> {
    serde_json::from_str(&row.secrets).unwrap_or_default()
}

/// A page, oldest first, and how many there are.
pub async fn list_containers(
    state: &AppState,
    page: &Page,
) -> Result<(Vec<secret_container::Model>, u64), Error> {
    let mut condition = Condition::all();
    if let Some(name) = &page.name {
        condition = condition.add(secret_container::Column::Name.eq(name));
    }
    if let Some(project) = &page.project {
        condition = condition.add(secret_container::Column::ProjectId.eq(project));
    }
    if let Some(kind) = &page.kind {
        condition = condition.add(secret_container::Column::Kind.eq(kind));
    }
    let query = secret_container::Entity::find().filter(condition);
    let total = query.clone().count(state.db.read()).await?;
    let rows = query
        .order_by_asc(secret_container::Column::CreatedAt)
        .order_by_asc(secret_container::Column::Id)
        .limit(page.limit)
        .offset(page.offset)
        .all(state.db.read())
        .await?;
    Ok((rows, total))
}

/// Removes a container, not its secrets.
pub async fn delete_container(state: &AppState, id: &str) -> Result<(), Error> {
    let gone = secret_container::Entity::delete_by_id(id.to_owned())
        .exec(state.db.write())
        .await?;
    if gone.rows_affected == 0 {
        return Err(missing("Container"));
    }
    Ok(())
}
