//! L7 policies.

use super::lock::{self, PENDING_CREATE, PENDING_DELETE, PENDING_UPDATE, item};
use super::quota::{self, Counted};
use super::{AppState, Caller, Error, l7rule, listener, shown};
use crate::db::entity::{l7policy, l7rule as rule_row, listener as listener_row};
use crate::db::now;
use crate::db::query::flow::{Action, Item, Resource};
use crate::db::query::list::{self, Attribute, Kind, PageRequest};
use crate::db::query::position::reposition;
use crate::transaction;
use http::StatusCode;
use sea_orm::{ActiveModelTrait, ActiveValue::Set, Condition, ConnectionTrait, IntoActiveModel};
use uuid::Uuid;

/// As upstream's 404 names it.
pub const NAME: &str = "L7 Policy";

/// What lists can be filtered and sorted by.
pub const ATTRIBUTES: &[Attribute] = &[
    ("id", "id", Kind::Text),
    ("name", "name", Kind::Text),
    ("description", "description", Kind::Text),
    ("project_id", "project_id", Kind::Text),
    ("admin_state_up", "enabled", Kind::Bool),
    ("listener_id", "listener_id", Kind::Text),
    ("action", "action", Kind::Text),
    ("redirect_pool_id", "redirect_pool_id", Kind::Text),
    ("redirect_url", "redirect_url", Kind::Text),
    ("redirect_prefix", "redirect_prefix", Kind::Text),
    ("redirect_http_code", "redirect_http_code", Kind::Int),
    ("position", "position", Kind::Int),
    ("provisioning_status", "provisioning_status", Kind::Text),
    ("operating_status", "operating_status", Kind::Text),
    ("created_at", "created_at", Kind::Time),
    ("updated_at", "updated_at", Kind::Time),
];

/// A policy to make.
#[derive(Debug, Clone)]
pub struct New {
    /// Its listener; empty within a single-call create.
    pub listener_id: String,
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// admin_state_up
    pub enabled: bool,
    /// Action and target as given.
    pub target: Target,
    /// Place, from 1; none appends.
    pub position: Option<i32>,
    /// Tags.
    pub tags: Vec<String>,
    /// Pool by name, in a single-call create.
    pub redirect_pool: Option<String>,
    /// Rules, in a single-call create.
    pub rules: Vec<l7rule::New>,
}

/// What a policy does, as a request says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Action.
    pub action: Option<String>,
    /// For REDIRECT_TO_POOL.
    pub redirect_pool_id: Option<String>,
    /// For REDIRECT_TO_URL.
    pub redirect_url: Option<String>,
    /// For REDIRECT_PREFIX.
    pub redirect_prefix: Option<String>,
    /// For URL and PREFIX.
    pub redirect_http_code: Option<i32>,
}

/// A change; `None` keeps.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Name.
    pub name: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// admin_state_up
    pub enabled: Option<bool>,
    /// What of the action changes.
    pub target: Target,
    /// The status of a redirect is the default again.
    pub default_code: bool,
    /// Place.
    pub position: Option<i32>,
    /// Replaces all.
    pub tags: Option<Vec<String>>,
}

/// A policy with what the API shows beside its row.
#[derive(Debug, Clone)]
pub struct View {
    /// The row.
    pub row: l7policy::Model,
    /// Ids.
    pub rules: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
}

/// Completes rows.
pub async fn views(
    db: &impl ConnectionTrait,
    rows: Vec<l7policy::Model>,
) -> Result<Vec<View>, Error> {
    let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    let mut rules =
        list::children::<rule_row::Entity>(db, rule_row::Column::L7policyId, &ids).await?;
    let mut tags = list::tags(db, &ids).await?;
    Ok(rows
        .into_iter()
        .map(|row| View {
            rules: rules.remove(&row.id).unwrap_or_default(),
            tags: tags.remove(&row.id).unwrap_or_default(),
            row,
        })
        .collect())
}

/// A page.
pub async fn list(state: &AppState, page: &PageRequest) -> Result<Vec<View>, Error> {
    let db = state.db.read();
    let rows = list::page::<l7policy::Entity>(db, ATTRIBUTES, page, Condition::all()).await?;
    views(db, rows).await
}

/// One.
pub async fn show(state: &AppState, id: &str) -> Result<View, Error> {
    let db = state.db.read();
    let row = find(db, id).await?;
    shown::only(views(db, vec![row]).await?, NAME, id)
}

/// The row or 404.
pub async fn find(db: &impl ConnectionTrait, id: &str) -> Result<l7policy::Model, Error> {
    shown::find::<l7policy::Entity>(db, NAME, id).await
}

/// The row or 404, with its load balancer [held](lock::held).
pub async fn held(db: &impl ConnectionTrait, id: &str) -> Result<l7policy::Model, Error> {
    listener::held(db, &find(db, id).await?.listener_id).await?;
    find(db, id).await
}

/// Makes a policy; returns its id.
pub async fn create(state: &AppState, caller: &Caller, new: &New) -> Result<String, Error> {
    let done: Result<String, Error> = transaction!(state.db, |txn| {
        let listener = listener::held(txn, &new.listener_id).await?;
        quota::check(txn, &listener.project_id, Counted::L7Policy, 1).await?;
        let mut items = Vec::new();
        listener::touch(txn, &listener, &mut items).await?;
        let target = resolve(&new.target, true)?;
        let id = insert(txn, &listener, new, &target, &mut items).await?;
        lock::enqueue_tree(state, txn, caller, &listener.load_balancer_id, items).await?;
        Ok(id)
    });
    state.db.nudge();
    done
}

/// Checks and inserts a policy with its rules. The caller holds the load balancer and checked the
/// quota; `target` is resolved.
pub async fn insert(
    txn: &impl ConnectionTrait,
    listener: &listener_row::Model,
    new: &New,
    target: &Target,
    items: &mut Vec<Item>,
) -> Result<String, Error> {
    if !listener::is_http(&listener.protocol) {
        return Err(Error::new(
            StatusCode::NOT_IMPLEMENTED,
            format!(
                "Provider 'amphora' does not support a requested option: L7 policies are only \
                 possible on HTTP and TERMINATED_HTTPS listeners, not on {}",
                listener.protocol
            ),
        ));
    }
    if let Some(pool) = &target.redirect_pool_id {
        let lb = &listener.load_balancer_id;
        listener::check_pool(txn, lb, pool, &listener.protocol).await?;
    }
    let id = Uuid::new_v4().to_string();
    l7policy::ActiveModel {
        id: Set(id.clone()),
        listener_id: Set(listener.id.clone()),
        project_id: Set(listener.project_id.clone()),
        name: Set(new.name.clone()),
        description: Set(new.description.clone()),
        enabled: Set(new.enabled),
        action: Set(target.action.clone().unwrap_or_default()),
        redirect_pool_id: Set(target.redirect_pool_id.clone()),
        redirect_url: Set(target.redirect_url.clone()),
        redirect_prefix: Set(target.redirect_prefix.clone()),
        redirect_http_code: Set(target.redirect_http_code),
        position: Set(i32::MAX),
        provisioning_status: Set(PENDING_CREATE.to_owned()),
        operating_status: Set("OFFLINE".to_owned()),
        created_at: Set(now()),
        updated_at: Set(None),
    }
    .insert(txn)
    .await?;
    reposition(txn, &listener.id, Some((&id, new.position))).await?;
    list::set_tags(txn, &id, &new.tags).await?;
    items.push(item(Resource::L7Policy, id.clone(), Action::Create));
    for rule in &new.rules {
        l7rule::insert(txn, &id, &listener.project_id, rule, items).await?;
    }
    Ok(id)
}

/// Changes a policy.
pub async fn update(
    state: &AppState,
    caller: &Caller,
    id: &str,
    change: &Change,
) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let listener = listener::held(txn, &find(txn, id).await?.listener_id).await?;
        let row = find(txn, id).await?;
        let mut items = vec![item(Resource::L7Policy, id.to_owned(), Action::Update)];
        listener::touch(txn, &listener, &mut items).await?;
        let mut target = change_target(&row, &change.target)?;
        if change.default_code {
            target.redirect_http_code = target.redirect_http_code.map(|_| FOUND);
        }
        if let Some(pool) = &target.redirect_pool_id {
            let lb = &listener.load_balancer_id;
            listener::check_pool(txn, lb, pool, &listener.protocol).await?;
        }
        let mut new = row.into_active_model();
        let c = change.clone();
        c.name.into_iter().for_each(|v| new.name = Set(v));
        c.description
            .into_iter()
            .for_each(|v| new.description = Set(v));
        c.enabled.into_iter().for_each(|v| new.enabled = Set(v));
        new.action = Set(target.action.unwrap_or_default());
        new.redirect_pool_id = Set(target.redirect_pool_id);
        new.redirect_url = Set(target.redirect_url);
        new.redirect_prefix = Set(target.redirect_prefix);
        new.redirect_http_code = Set(target.redirect_http_code);
        new.provisioning_status = Set(PENDING_UPDATE.to_owned());
        new.updated_at = Set(Some(now()));
        new.update(txn).await?;
        if change.position.is_some() {
            reposition(txn, &listener.id, Some((id, change.position))).await?;
        }
        if let Some(tags) = &change.tags {
            list::set_tags(txn, id, tags).await?;
        }
        lock::enqueue_tree(state, txn, caller, &listener.load_balancer_id, items).await
    });
    state.db.nudge();
    done
}

/// Removes a policy with its rules.
pub async fn delete(state: &AppState, caller: &Caller, id: &str) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let listener = listener::held(txn, &find(txn, id).await?.listener_id).await?;
        let row = find(txn, id).await?;
        let mut items = vec![item(Resource::L7Policy, id.to_owned(), Action::Delete)];
        listener::touch(txn, &listener, &mut items).await?;
        let mut new = row.into_active_model();
        new.provisioning_status = Set(PENDING_DELETE.to_owned());
        new.updated_at = Set(Some(now()));
        new.update(txn).await?;
        lock::enqueue_tree(state, txn, caller, &listener.load_balancer_id, items).await
    });
    state.db.nudge();
    done
}

fn arguments(text: &str) -> Error {
    Error::bad(format!("Invalid L7 Policy arguments: {text}"))
}

/// What the request means: a target implies its action, and clears the other targets. In a
/// single-call create the pool is known by name only, so `needs_pool` is false there.
pub fn resolve(given: &Target, needs_pool: bool) -> Result<Target, Error> {
    let by_pool = given.redirect_pool_id.is_some();
    if by_pool && (given.redirect_url.is_some() || given.redirect_prefix.is_some()) {
        return Err(arguments(
            "Cannot specify redirect_pool_id and redirect_url or redirect_prefix at the same time",
        ));
    }
    let action = given.action.as_deref();
    match action {
        Some("REDIRECT_TO_URL") if given.redirect_url.is_none() => {
            return Err(arguments("redirect_url must not be None"));
        }
        Some("REDIRECT_PREFIX") if given.redirect_prefix.is_none() => {
            return Err(arguments("redirect_prefix must not be None"));
        }
        Some("REDIRECT_TO_POOL") if needs_pool && !by_pool => {
            return Err(arguments(
                "redirect_pool_id or redirect_pool must not be None",
            ));
        }
        None if !by_pool && given.redirect_url.is_none() && given.redirect_prefix.is_none() => {
            return Err(Error::bad("Invalid L7 Policy action specified: None"));
        }
        _ => {}
    }
    let mut target = Target::default();
    let code = given.redirect_http_code;
    match action {
        Some("REJECT") => target.action = Some("REJECT".into()),
        Some("REDIRECT_TO_POOL") => {
            target.action = Some("REDIRECT_TO_POOL".into());
            target.redirect_pool_id = given.redirect_pool_id.clone();
        }
        _ if by_pool => {
            target.action = Some("REDIRECT_TO_POOL".into());
            target.redirect_pool_id = given.redirect_pool_id.clone();
        }
        Some("REDIRECT_PREFIX") => prefix(&mut target, given, code),
        Some("REDIRECT_TO_URL") => url(&mut target, given, code),
        _ if given.redirect_prefix.is_some() => prefix(&mut target, given, code),
        _ => url(&mut target, given, code),
    }
    if code.is_some() && target.redirect_http_code.is_none() {
        return Err(arguments(
            "redirect_http_code needs the action REDIRECT_TO_URL or REDIRECT_PREFIX",
        ));
    }
    Ok(target)
}

/// Upstream's default redirect status.
const FOUND: i32 = 302;

fn url(target: &mut Target, given: &Target, code: Option<i32>) {
    target.action = Some("REDIRECT_TO_URL".into());
    target.redirect_url = given.redirect_url.clone();
    target.redirect_http_code = Some(code.unwrap_or(FOUND));
}

fn prefix(target: &mut Target, given: &Target, code: Option<i32>) {
    target.action = Some("REDIRECT_PREFIX".into());
    target.redirect_prefix = given.redirect_prefix.clone();
    target.redirect_http_code = Some(code.unwrap_or(FOUND));
}

fn change_target(row: &l7policy::Model, given: &Target) -> Result<Target, Error> {
    let old = Target {
        action: Some(row.action.clone()),
        redirect_pool_id: row.redirect_pool_id.clone(),
        redirect_url: row.redirect_url.clone(),
        redirect_prefix: row.redirect_prefix.clone(),
        redirect_http_code: row.redirect_http_code,
    };
    let retarget = given.action.is_some()
        || given.redirect_pool_id.is_some()
        || given.redirect_url.is_some()
        || given.redirect_prefix.is_some();
    match (retarget, given.redirect_http_code) {
        (true, _) => resolve(given, true),
        (false, None) => Ok(old),
        (false, code) if old.redirect_http_code.is_some() => Ok(Target {
            redirect_http_code: code,
            ..old
        }),
        (false, _) => Err(arguments(
            "redirect_http_code needs the action REDIRECT_TO_URL or REDIRECT_PREFIX",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{Target, resolve};

    #[test]
    fn a_target_implies_its_action() {
        let some = |text: &str| Some(text.to_owned());
        let pool = Target {
            redirect_pool_id: some("p"),
            ..Target::default()
        };
        let url = Target {
            redirect_url: some("http://u"),
            ..Target::default()
        };
        let prefix = Target {
            redirect_prefix: some("http://u"),
            ..Target::default()
        };
        for (given, action, code) in [
            (&pool, "REDIRECT_TO_POOL", None),
            (&url, "REDIRECT_TO_URL", Some(302)),
            (&prefix, "REDIRECT_PREFIX", Some(302)),
        ] {
            let target = resolve(given, true).unwrap();
            assert_eq!(target.action.as_deref(), Some(action));
            assert_eq!(target.redirect_http_code, code);
        }
        let both = Target {
            redirect_url: some("http://u"),
            ..pool.clone()
        };
        assert!(resolve(&both, true).is_err());
        let coded = Target {
            redirect_http_code: Some(301),
            ..pool
        };
        assert!(resolve(&coded, true).is_err());
        assert!(resolve(&Target::default(), true).is_err());
        let bare = Target {
            action: some("REDIRECT_TO_URL"),
            ..Target::default()
        };
        assert!(resolve(&bare, true).is_err());
    }
}
