//! Octavia's API v2: one module per resource. The same tree is served under four roots.

use super::call::{Call, decode, object, page};
use super::envelope::ok;
use super::openapi::Resource;
use crate::app::catalog::Catalog;
use crate::app::{self, AppState, Error};
use crate::db::entity::{
    availability_zone, availability_zone_profile, flavor as flavor_row,
    flavor_profile as flavor_profile_row,
};
use axum::Router;
use axum::response::Response;
use axum::routing::{get, put};
use serde_json::{Value, json};

mod amphora;
mod flavor;
mod flavor_profile;
pub(super) mod health_monitor;
mod l7policy;
mod l7rule;
pub(super) mod listener;
mod load_balancer;
mod member;
mod pool;
mod provider;
pub(super) mod quota;
mod tls;
mod version;
mod zone;
mod zone_profile;

/// Resources with the usual operations, for the OpenAPI document.
pub(super) const RESOURCES: &[Resource] = &[
    load_balancer::RESOURCE,
    listener::RESOURCE,
    pool::RESOURCE,
    member::RESOURCE,
    health_monitor::RESOURCE,
    l7policy::RESOURCE,
    l7rule::RESOURCE,
    flavor_profile::RESOURCE,
    flavor::RESOURCE,
    zone_profile::RESOURCE,
    zone::RESOURCE,
];

/// Names of limits, for the OpenAPI document.
pub(super) const QUOTAS: [&str; 9] = quota::LIMITS;

/// What a body is read as: the resource and the operation, as `krater-fuzz` names them.
pub const BODIES: [&str; 26] = [
    "secret-create",
    "container-create",
    "loadbalancer-create",
    "loadbalancer-update",
    "listener-create",
    "listener-update",
    "pool-create",
    "pool-update",
    "member-create",
    "member-update",
    "members-replace",
    "healthmonitor-create",
    "healthmonitor-update",
    "l7policy-create",
    "l7policy-update",
    "rule-create",
    "rule-update",
    "quota-update",
    "flavorprofile-create",
    "flavorprofile-update",
    "flavor-create",
    "flavor-update",
    "availabilityzoneprofile-create",
    "availabilityzoneprofile-update",
    "availabilityzone-create",
    "availabilityzone-update",
];

/// Reads a body as the handlers do, without doing anything: for the fuzz target. The text is what was
/// understood.
pub fn read(body: &str, bytes: &[u8]) -> Result<String, Error> {
    macro_rules! read {
        ($parse:path, $argument:expr) => {
            $parse(object(bytes, $argument)?).map(|read| format!("{read:?}"))
        };
    }
    match body {
        "loadbalancer-create" => read!(load_balancer::created, "load_balancer"),
        "loadbalancer-update" => read!(load_balancer::changed, "load_balancer"),
        "listener-create" => read!(listener::created, "listener_"),
        "listener-update" => read!(listener::changed, "listener_"),
        "pool-create" => read!(pool::created, "pool_"),
        "pool-update" => read!(pool::changed, "pool_"),
        "member-create" => read!(member::created, "member_"),
        "member-update" => read!(member::changed, "member_"),
        "members-replace" => read!(member::replaced, "members_"),
        "healthmonitor-create" => read!(health_monitor::created, "health_monitor_"),
        "healthmonitor-update" => read!(health_monitor::changed, "health_monitor_"),
        "l7policy-create" => read!(l7policy::created, "l7policy_"),
        "l7policy-update" => read!(l7policy::changed, "l7policy_"),
        "rule-create" => read!(l7rule::created, "rule_"),
        "rule-update" => read!(l7rule::changed, "l7rule_"),
        "quota-update" => read!(quota::changed, "quotas"),
        "flavorprofile-create" => read!(flavor_profile::created, "flavor_profile_"),
        "flavorprofile-update" => read!(flavor_profile::changed, "flavor_profile_"),
        "flavor-create" => read!(flavor::created, "flavor_"),
        "flavor-update" => read!(flavor::changed, "flavor_"),
        "availabilityzoneprofile-create" => {
            read!(zone_profile::created, "availability_zone_profile_")
        }
        "availabilityzoneprofile-update" => {
            read!(zone_profile::changed, "availability_zone_profile_")
        }
        "availabilityzone-create" => read!(zone::created, "availability_zone_"),
        "availabilityzone-update" => read!(zone::changed, "availability_zone_"),
        other => crate::http::key_manager::read(other, bytes)
            .unwrap_or_else(|| Err(Error::bad(format!("no body is {other}")))),
    }
}

/// Reads the query of a list as the handlers do, for the fuzz target. The text is what was understood.
pub fn read_query(list: &str, query: &str) -> Result<String, Error> {
    let attributes = match list {
        "loadbalancers" => app::load_balancer::ATTRIBUTES,
        "listeners" => app::listener::ATTRIBUTES,
        "pools" => app::pool::ATTRIBUTES,
        "members" => app::member::ATTRIBUTES,
        "healthmonitors" => app::health_monitor::ATTRIBUTES,
        "l7policies" => app::l7policy::ATTRIBUTES,
        "rules" => app::l7rule::ATTRIBUTES,
        "amphorae" => app::amphora::ATTRIBUTES,
        "flavorprofiles" => <flavor_profile_row::Entity as Catalog>::ATTRIBUTES,
        "flavors" => <flavor_row::Entity as Catalog>::ATTRIBUTES,
        "availabilityzoneprofiles" => <availability_zone_profile::Entity as Catalog>::ATTRIBUTES,
        "availabilityzones" => <availability_zone::Entity as Catalog>::ATTRIBUTES,
        other => return Err(Error::bad(format!("no list is {other}"))),
    };
    let request = page(&decode(query))?;
    let wanted = crate::db::query::list::wanted(attributes, &request)?;
    Ok(format!("{request:?} {wanted:?}"))
}

/// Lists that [`read_query`] knows.
pub const LISTS: [&str; 12] = [
    "loadbalancers",
    "listeners",
    "pools",
    "members",
    "healthmonitors",
    "l7policies",
    "rules",
    "amphorae",
    "flavorprofiles",
    "flavors",
    "availabilityzoneprofiles",
    "availabilityzones",
];

/// All routes of the API.
pub(super) fn routes() -> Router<AppState> {
    let mut all = Router::new()
        .route("/", get(version::list))
        .route("/load-balancer", get(version::list))
        .route("/healthcheck", get(version::healthcheck))
        .route("/load-balancer/healthcheck", get(version::healthcheck));
    for root in ["/v2", "/v2.0"] {
        all = all
            .route(root, get(version::text))
            .nest(&format!("{root}/lbaas"), resources().merge(amphorae()))
            .nest(root, resources().merge(amphorae()));
    }
    all
}

fn amphorae() -> Router<AppState> {
    Router::new()
        .route("/octavia/amphorae", get(amphora::list))
        .route(
            "/octavia/amphorae/{id}",
            get(amphora::show).delete(amphora::delete),
        )
        .route("/octavia/amphorae/{id}/failover", put(amphora::failover))
        .route("/octavia/amphorae/{id}/config", put(amphora::config))
        .route("/octavia/amphorae/{id}/stats", get(amphora::stats))
}

fn resources() -> Router<AppState> {
    Router::new()
        .route(
            "/loadbalancers",
            get(load_balancer::list).post(load_balancer::create),
        )
        .route(
            "/loadbalancers/{id}",
            get(load_balancer::show)
                .put(load_balancer::update)
                .delete(load_balancer::delete),
        )
        .route("/loadbalancers/{id}/status", get(load_balancer::status))
        .route("/loadbalancers/{id}/statuses", get(load_balancer::status))
        .route("/loadbalancers/{id}/stats", get(load_balancer::stats))
        .route("/loadbalancers/{id}/failover", put(load_balancer::failover))
        .route("/listeners", get(listener::list).post(listener::create))
        .route(
            "/listeners/{id}",
            get(listener::show)
                .put(listener::update)
                .delete(listener::delete),
        )
        .route("/listeners/{id}/stats", get(listener::stats))
        .route("/pools", get(pool::list).post(pool::create))
        .route(
            "/pools/{id}",
            get(pool::show).put(pool::update).delete(pool::delete),
        )
        .route(
            "/pools/{pool}/members",
            get(member::list).post(member::create).put(member::replace),
        )
        .route(
            "/pools/{pool}/members/{id}",
            get(member::show).put(member::update).delete(member::delete),
        )
        .route(
            "/healthmonitors",
            get(health_monitor::list).post(health_monitor::create),
        )
        .route(
            "/healthmonitors/{id}",
            get(health_monitor::show)
                .put(health_monitor::update)
                .delete(health_monitor::delete),
        )
        .route("/l7policies", get(l7policy::list).post(l7policy::create))
        .route(
            "/l7policies/{id}",
            get(l7policy::show)
                .put(l7policy::update)
                .delete(l7policy::delete),
        )
        .route(
            "/l7policies/{policy}/rules",
            get(l7rule::list).post(l7rule::create),
        )
        .route(
            "/l7policies/{policy}/rules/{id}",
            get(l7rule::show).put(l7rule::update).delete(l7rule::delete),
        )
        .route("/quotas", get(quota::list))
        .route("/quotas/defaults", get(quota::defaults))
        .route(
            "/quotas/{project}",
            get(quota::show).put(quota::update).delete(quota::reset),
        )
        .route("/quotas/{project}/default", get(quota::defaults_of))
        .route("/providers", get(provider::list))
        .route(
            "/providers/{name}/flavor_capabilities",
            get(provider::flavor_capabilities),
        )
        .route(
            "/providers/{name}/availability_zone_capabilities",
            get(provider::zone_capabilities),
        )
        .route(
            "/flavorprofiles",
            get(flavor_profile::list).post(flavor_profile::create),
        )
        .route(
            "/flavorprofiles/{id}",
            get(flavor_profile::show)
                .put(flavor_profile::update)
                .delete(flavor_profile::delete),
        )
        .route("/flavors", get(flavor::list).post(flavor::create))
        .route(
            "/flavors/{id}",
            get(flavor::show).put(flavor::update).delete(flavor::delete),
        )
        .route(
            "/availabilityzoneprofiles",
            get(zone_profile::list).post(zone_profile::create),
        )
        .route(
            "/availabilityzoneprofiles/{id}",
            get(zone_profile::show)
                .put(zone_profile::update)
                .delete(zone_profile::delete),
        )
        .route("/availabilityzones", get(zone::list).post(zone::create))
        .route(
            "/availabilityzones/{id}",
            get(zone::show).put(zone::update).delete(zone::delete),
        )
}

/// The key of a list's links: upstream has no plural in that of the profiles.
pub(super) fn links_key(plural: &str) -> String {
    match plural {
        "flavorprofiles" => "flavorprofile_links".to_owned(),
        "availability_zone_profiles" => "availability_zone_profile_links".to_owned(),
        plural => format!("{plural}_links"),
    }
}

/// `{"<plural>": […], "<plural>_links": […]}`
fn page_answer(call: &Call, plural: &str, links: Value, items: Vec<Value>) -> Response {
    let items: Vec<Value> = items.into_iter().map(|item| call.fields(item)).collect();
    ok(json!({plural: items, links_key(plural): links}))
}

/// `[{"id": …}]`
fn id_list<'a>(ids: impl IntoIterator<Item = &'a String>) -> Vec<Value> {
    ids.into_iter().map(|id| json!({"id": id})).collect()
}

fn time(millis: i64) -> String {
    crate::time::format(millis)
}
