//! Authentication and authorisation, in one place before all handlers. An endpoint without a case in [`CASES`] is refused:
//! forgetting one closes it.
//!
//! Without authentication (`noauth`) everybody may everything, and the project is what the client says.

use super::call::encode;
use super::deadline;
use super::envelope::fault;
use crate::app::policy::{Identity, Rule};
use crate::app::{AppState, Error};
use crate::auth::{Auth, Unavailable};
use crate::db::entity::{
    health_monitor, l7policy, listener, load_balancer, pool, port, secret, secret_container,
};
use axum::Json;
use axum::RequestExt as _;
use axum::body::Body;
use axum::extract::{MatchedPath, OriginalUri, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, Uri, header};
use sea_orm::{ConnectionTrait, EntityTrait, QuerySelect};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Header of the token.
pub const TOKEN: &str = "x-auth-token";
/// Paths that need no token, as upstream's.
const OPEN: [&str; 4] = [
    "/",
    "/load-balancer",
    "/healthcheck",
    "/load-balancer/healthcheck",
];
/// Roots under which the same tree is served; the last one is the key manager's.
const ROOTS: [&str; 5] = ["/v2/lbaas", "/v2.0/lbaas", "/v2", "/v2.0", "/v1"];

/// What an object of a path or body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A load balancer.
    LoadBalancer,
    /// A listener.
    Listener,
    /// A pool.
    Pool,
    /// A health monitor.
    HealthMonitor,
    /// An L7 policy.
    L7Policy,
    /// A port of the network API.
    Port,
    /// A secret of the key manager.
    Secret,
    /// A container of the key manager.
    Container,
}

/// Whose project counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nobody's.
    Nobody,
    /// That of the object that a part of the path names.
    Object(Kind, &'static str),
    /// The one that a part of the path names.
    Project(&'static str),
    /// Those of the objects that attributes of the body below its root name.
    Body(&'static str, &'static [(&'static str, Kind)]),
    /// The one that the body's root names, or the token's.
    NewIn(&'static str),
    /// The token's.
    Own,
    /// The list is cut to the token's, unless it reads all.
    List,
}

/// Method, path below a root, rule, whose project.
pub type Case = (&'static str, &'static str, Rule, Target);

/// See the module.
#[rustfmt::skip]
pub const CASES: &[Case] = {
    use Kind::{Container, HealthMonitor, L7Policy, Listener, LoadBalancer, Pool, Port, Secret};
    use Rule::{Admin, Any, Read, ReadQuota, Write, WriteQuota};
    use Target::{Body, List, NewIn, Nobody, Object, Own, Project};
    &[
        ("GET", "", Any, Nobody),
        ("GET", "/openapi", Any, Nobody),
        ("GET", "/loadbalancers", Read, List),
        ("POST", "/loadbalancers", Write, NewIn("loadbalancer")),
        ("GET", "/loadbalancers/{id}", Read, Object(LoadBalancer, "id")),
        ("PUT", "/loadbalancers/{id}", Write, Object(LoadBalancer, "id")),
        ("DELETE", "/loadbalancers/{id}", Write, Object(LoadBalancer, "id")),
        ("GET", "/loadbalancers/{id}/status", Read, Object(LoadBalancer, "id")),
        ("GET", "/loadbalancers/{id}/statuses", Read, Object(LoadBalancer, "id")),
        ("GET", "/loadbalancers/{id}/stats", Read, Object(LoadBalancer, "id")),
        ("PUT", "/loadbalancers/{id}/failover", Admin, Nobody),
        ("GET", "/listeners", Read, List),
        ("POST", "/listeners", Write, Body("listener", &[("loadbalancer_id", LoadBalancer)])),
        ("GET", "/listeners/{id}", Read, Object(Listener, "id")),
        ("PUT", "/listeners/{id}", Write, Object(Listener, "id")),
        ("DELETE", "/listeners/{id}", Write, Object(Listener, "id")),
        ("GET", "/listeners/{id}/stats", Read, Object(Listener, "id")),
        ("GET", "/pools", Read, List),
        ("POST", "/pools", Write, Body("pool", &[("loadbalancer_id", LoadBalancer), ("listener_id", Listener)])),
        ("GET", "/pools/{id}", Read, Object(Pool, "id")),
        ("PUT", "/pools/{id}", Write, Object(Pool, "id")),
        ("DELETE", "/pools/{id}", Write, Object(Pool, "id")),
        ("GET", "/pools/{pool}/members", Read, Object(Pool, "pool")),
        ("POST", "/pools/{pool}/members", Write, Object(Pool, "pool")),
        ("PUT", "/pools/{pool}/members", Write, Object(Pool, "pool")),
        ("GET", "/pools/{pool}/members/{id}", Read, Object(Pool, "pool")),
        ("PUT", "/pools/{pool}/members/{id}", Write, Object(Pool, "pool")),
        ("DELETE", "/pools/{pool}/members/{id}", Write, Object(Pool, "pool")),
        ("GET", "/healthmonitors", Read, List),
        ("POST", "/healthmonitors", Write, Body("healthmonitor", &[("pool_id", Pool)])),
        ("GET", "/healthmonitors/{id}", Read, Object(HealthMonitor, "id")),
        ("PUT", "/healthmonitors/{id}", Write, Object(HealthMonitor, "id")),
        ("DELETE", "/healthmonitors/{id}", Write, Object(HealthMonitor, "id")),
        ("GET", "/l7policies", Read, List),
        ("POST", "/l7policies", Write, Body("l7policy", &[("listener_id", Listener)])),
        ("GET", "/l7policies/{id}", Read, Object(L7Policy, "id")),
        ("PUT", "/l7policies/{id}", Write, Object(L7Policy, "id")),
        ("DELETE", "/l7policies/{id}", Write, Object(L7Policy, "id")),
        ("GET", "/l7policies/{policy}/rules", Read, Object(L7Policy, "policy")),
        ("POST", "/l7policies/{policy}/rules", Write, Object(L7Policy, "policy")),
        ("GET", "/l7policies/{policy}/rules/{id}", Read, Object(L7Policy, "policy")),
        ("PUT", "/l7policies/{policy}/rules/{id}", Write, Object(L7Policy, "policy")),
        ("DELETE", "/l7policies/{policy}/rules/{id}", Write, Object(L7Policy, "policy")),
        ("GET", "/quotas", ReadQuota, Nobody),
        ("GET", "/quotas/defaults", ReadQuota, Nobody),
        ("GET", "/quotas/{project}", ReadQuota, Project("project")),
        ("PUT", "/quotas/{project}", WriteQuota, Project("project")),
        ("DELETE", "/quotas/{project}", WriteQuota, Project("project")),
        ("GET", "/quotas/{project}/default", ReadQuota, Project("project")),
        ("GET", "/providers", Read, Nobody),
        ("GET", "/providers/{name}/flavor_capabilities", Admin, Nobody),
        ("GET", "/providers/{name}/availability_zone_capabilities", Admin, Nobody),
        ("GET", "/flavorprofiles", Admin, Nobody),
        ("POST", "/flavorprofiles", Admin, Nobody),
        ("GET", "/flavorprofiles/{id}", Admin, Nobody),
        ("PUT", "/flavorprofiles/{id}", Admin, Nobody),
        ("DELETE", "/flavorprofiles/{id}", Admin, Nobody),
        ("GET", "/flavors", Read, Nobody),
        ("POST", "/flavors", Admin, Nobody),
        ("GET", "/flavors/{id}", Read, Nobody),
        ("PUT", "/flavors/{id}", Admin, Nobody),
        ("DELETE", "/flavors/{id}", Admin, Nobody),
        ("GET", "/availabilityzoneprofiles", Admin, Nobody),
        ("POST", "/availabilityzoneprofiles", Admin, Nobody),
        ("GET", "/availabilityzoneprofiles/{id}", Admin, Nobody),
        ("PUT", "/availabilityzoneprofiles/{id}", Admin, Nobody),
        ("DELETE", "/availabilityzoneprofiles/{id}", Admin, Nobody),
        ("GET", "/availabilityzones", Read, Nobody),
        ("POST", "/availabilityzones", Admin, Nobody),
        ("GET", "/availabilityzones/{id}", Read, Nobody),
        ("PUT", "/availabilityzones/{id}", Admin, Nobody),
        ("DELETE", "/availabilityzones/{id}", Admin, Nobody),
        ("GET", "/octavia/amphorae", Admin, Nobody),
        ("GET", "/octavia/amphorae/{id}", Admin, Nobody),
        ("DELETE", "/octavia/amphorae/{id}", Admin, Nobody),
        ("PUT", "/octavia/amphorae/{id}/failover", Admin, Nobody),
        ("PUT", "/octavia/amphorae/{id}/config", Admin, Nobody),
        ("GET", "/octavia/amphorae/{id}/stats", Admin, Nobody),
        ("GET", "/network", Any, Nobody),
        ("GET", "/network/v2.0/", Any, Nobody),
        ("GET", "/network/v2.0", Any, Nobody),
        ("GET", "/network/v2.0/networks", Any, Nobody),
        ("GET", "/network/v2.0/networks/{id}", Any, Nobody),
        ("GET", "/network/v2.0/subnets", Any, Nobody),
        ("GET", "/network/v2.0/subnets/{id}", Any, Nobody),
        ("GET", "/network/v2.0/ports", Read, List),
        ("GET", "/network/v2.0/ports/{id}", Read, Object(Port, "id")),
        ("GET", "/network/v2.0/security-groups", Any, Nobody),
        ("GET", "/network/v2.0/qos/policies", Any, Nobody),
        ("GET", "/network/v2.0/floatingips", Any, Nobody),
        ("GET", "/network/v2.0/extensions", Any, Nobody),
        // Who only reads, learns no key.
        ("GET", "/secrets", Read, List),
        ("POST", "/secrets", Write, Own),
        ("GET", "/secrets/{id}", Read, Object(Secret, "id")),
        ("PUT", "/secrets/{id}", Write, Object(Secret, "id")),
        ("DELETE", "/secrets/{id}", Write, Object(Secret, "id")),
        ("GET", "/secrets/{id}/payload", Write, Object(Secret, "id")),
        ("GET", "/containers", Read, List),
        ("POST", "/containers", Write, Own),
        ("GET", "/containers/{id}", Read, Object(Container, "id")),
        ("DELETE", "/containers/{id}", Write, Object(Container, "id")),
        ("GET", "/projects", Any, Nobody),
        ("GET", "/projects/{id}", Any, Nobody),
    ]
};

/// The case of an endpoint, by its path as it is routed.
pub fn case(method: &str, template: &str) -> Option<&'static Case> {
    let below = ROOTS
        .iter()
        .filter_map(|root| template.strip_prefix(root))
        .find(|rest| rest.is_empty() || rest.starts_with('/'))
        .unwrap_or(template);
    CASES
        .iter()
        .find(|(of, path, ..)| *of == method && *path == below)
}

/// The project that a caller's lists end at, in the extensions of its request.
#[derive(Debug, Clone)]
pub(super) struct Scope(pub(super) String);

/// Lets a request pass whose token may do what it asks for.
pub(super) async fn check(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let open = OPEN.contains(&request.uri().path());
    let Some(auth) = state.auth.clone().filter(|_| !open) else {
        return deadline::within(&state, request, |request| next.run(request)).await;
    };
    let identified = timeout(state.deadline, identify(&auth, token(&request))).await;
    let who = match identified.unwrap_or(Err(Unavailable)) {
        Ok(Some(who)) => who,
        Ok(None) => return unauthorized(&auth),
        Err(Unavailable) => return unavailable(),
    };
    let passing = async |request: Request| match authorize(&state, &auth, &who, request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal,
    };
    deadline::within(&state, request, passing).await
}

/// Of the endpoints beside Octavia's API: `/healthz` and `/readyz` are for everybody, the others for operators.
pub async fn operators(
    State(auth): State<Option<Arc<Auth>>>,
    request: Request,
    next: Next,
) -> Response {
    let open = ["/healthz", "/readyz"].contains(&request.uri().path());
    let Some(auth) = auth.filter(|_| !open) else {
        return next.run(request).await;
    };
    match identify(&auth, token(&request)).await {
        Err(Unavailable) => unavailable(),
        Ok(None) => unauthorized(&auth),
        Ok(Some(who)) if auth.overrides().may(&who, None, Rule::Admin, None) => {
            next.run(request).await
        }
        Ok(Some(_)) => forbidden(),
    }
}

/// A request cannot be looked at by several threads, so its token is taken out.
fn token(request: &Request) -> Option<Zeroizing<String>> {
    let token = request.headers().get(TOKEN)?.to_str().ok()?;
    Some(Zeroizing::new(token.to_owned()))
}

async fn identify(
    auth: &Auth,
    token: Option<Zeroizing<String>>,
) -> Result<Option<Identity>, Unavailable> {
    match token {
        Some(token) => auth.identify(&token).await,
        None => Ok(None),
    }
}

/// As upstream's authentication layer answers.
fn unauthorized(auth: &Auth) -> Response {
    let body = json!({"error": {"code": 401, "title": "Unauthorized",
        "message": "The request you have made requires authentication."}});
    let challenge = [(header::WWW_AUTHENTICATE, auth.challenge())];
    (StatusCode::UNAUTHORIZED, challenge, Json(body)).into_response()
}

/// As upstream's authentication layer answers when Keystone is away.
fn unavailable() -> Response {
    let body = json!({"error": {"code": 503, "title": "Service Unavailable",
        "message": "The identity service does not answer. Please try again."}});
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

fn forbidden() -> Response {
    let text = "Policy does not allow this request to be performed.";
    fault(StatusCode::FORBIDDEN, text)
}

/// Collections, longest first, and how upstream's rules call what is in them.
const RESOURCES: [(&str, &str); 13] = [
    ("/pools/{pool}/members", "member"),
    ("/l7policies/{policy}/rules", "l7rule"),
    ("/loadbalancers", "loadbalancer"),
    ("/listeners", "listener"),
    ("/pools", "pool"),
    ("/healthmonitors", "healthmonitor"),
    ("/l7policies", "l7policy"),
    ("/quotas", "quota"),
    ("/flavorprofiles", "flavor-profile"),
    ("/flavors", "flavor"),
    ("/availabilityzoneprofiles", "availability-zone-profile"),
    ("/availabilityzones", "availability-zone"),
    ("/octavia/amphorae", "amphora"),
];

/// Upstream's names of the rules that an endpoint asks for, by method and path below a root. Several: all of them.
fn policies(method: &str, path: &str) -> Vec<String> {
    let named = |resource: &str, verb: &str| format!("os_load-balancer_api:{resource}:{verb}");
    match path {
        "/providers" => return vec![named("provider", "get_all")],
        "/providers/{name}/flavor_capabilities" => {
            return vec![named("provider-flavor", "get_all")];
        }
        "/providers/{name}/availability_zone_capabilities" => {
            return vec![named("provider-availability-zone", "get_all")];
        }
        _ => {}
    }
    let found = RESOURCES.iter().find_map(|(collection, resource)| {
        let rest = path.strip_prefix(collection)?;
        (rest.is_empty() || rest.starts_with('/')).then_some((*resource, rest))
    });
    let Some((resource, rest)) = found else {
        return Vec::new();
    };
    let verb = match (method, rest.rsplit('/').next().unwrap_or_default()) {
        ("GET", "") => "get_all",
        ("GET", "status" | "statuses") => "get_status",
        ("GET", "stats") => "get_stats",
        ("GET", "default" | "defaults") => "get_defaults",
        ("GET", _) => "get_one",
        ("POST", _) => "post",
        ("PUT", "failover") => "put_failover",
        ("PUT", "config") => "put_config",
        // A batch of members.
        ("PUT", "") => return vec![named(resource, "post"), named(resource, "put")],
        ("PUT", _) => "put",
        ("DELETE", _) => "delete",
        _ => return Vec::new(),
    };
    vec![named(resource, verb)]
}

/// The rule for the list of all projects' objects, of a list that is cut to one project otherwise.
fn global(path: &str) -> Option<String> {
    let found = RESOURCES.iter().find(|(collection, _)| *collection == path);
    found.map(|(_, resource)| format!("os_load-balancer_api:{resource}:get_all-global"))
}

/// Names that a file of overrides may have.
pub fn policy_names() -> BTreeSet<String> {
    let lists = CASES
        .iter()
        .filter(|(method, path, _, target)| {
            *method == "GET" && (*target == Target::List || *path == "/quotas")
        })
        .filter_map(|(_, path, ..)| global(path));
    let endpoints = CASES
        .iter()
        .flat_map(|(method, path, ..)| policies(method, path));
    endpoints.chain(lists).collect()
}

async fn authorize(
    state: &AppState,
    auth: &Auth,
    who: &Identity,
    mut request: Request,
) -> Result<Request, Response> {
    let Some(template) = request.extensions().get::<MatchedPath>().cloned() else {
        return Ok(request); // No such path: 404.
    };
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref other => other.clone(),
    };
    let Some((_, path, rule, target)) = case(method.as_str(), template.as_str()) else {
        return Err(forbidden());
    };
    let rules = auth.overrides();
    let failed = |error: Error| error.into_response();
    let db = state.db.read();
    let mut projects: Vec<Option<String>> = Vec::new();
    match target {
        Target::Nobody => projects.push(None),
        Target::Own => projects.push(Some(who.project.clone())),
        Target::Project(name) => projects.push(Some(parameter(&mut request, name).await?)),
        Target::Object(kind, name) => {
            let id = parameter(&mut request, name).await?;
            // One that does not exist is the handler's: 404 for those who might see one.
            projects.push(owner(db, *kind, &id).await.map_err(failed)?);
        }
        Target::NewIn(root) => {
            let (whole, object) = body(request, root).await?;
            request = whole;
            let text = |name: &str| object.get(name)?.as_str().filter(|text| !text.is_empty());
            let wished = text("project_id").or_else(|| text("tenant_id"));
            projects.push(Some(wished.unwrap_or(&who.project).to_owned()));
        }
        Target::Body(root, attributes) => {
            let (whole, object) = body(request, root).await?;
            request = whole;
            projects.push(None);
            for (name, kind) in *attributes {
                // In the form in which handlers look for it.
                let id = object.get(*name).and_then(Value::as_str);
                if let Some(id) = id.and_then(|id| id.parse::<uuid::Uuid>().ok()) {
                    projects.push(owner(db, *kind, &id.to_string()).await.map_err(failed)?);
                }
            }
        }
        Target::List => {
            projects.push(None);
            let all = rules.reads_all(who, global(path).as_deref());
            if !all && !cut(&mut request, who) {
                return Err(forbidden());
            }
        }
    }
    let mut names = policies(method.as_str(), path);
    if names.len() > 1 && !is_additive(request.uri()) {
        names.push("os_load-balancer_api:member:delete".to_owned());
    }
    let may = |project: Option<&str>| match names.as_slice() {
        [] => rules.may(who, None, *rule, project),
        names => names
            .iter()
            .all(|name| rules.may(who, Some(name), *rule, project)),
    };
    if !projects.iter().all(|project| may(project.as_deref())) {
        tracing::info!(user = who.user, project = who.project, "forbidden");
        return Err(forbidden());
    }
    if !rules.reads_all_quotas(who) {
        request.extensions_mut().insert(Scope(who.project.clone()));
    }
    // What clients say about themselves does not count.
    if let Ok(project) = HeaderValue::from_str(&who.project) {
        request.headers_mut().insert("x-project-id", project);
    }
    Ok(request)
}

async fn parameter(request: &mut Request, name: &str) -> Result<String, Response> {
    let parameters = request.extract_parts::<RawPathParams>().await;
    let parameters = parameters.map_err(IntoResponse::into_response)?;
    let found = parameters.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, value)| value.to_owned())
        .ok_or_else(forbidden)
}

/// The request again, and the object below the root of its body; what is none is refused by the handler.
async fn body(request: Request, root: &str) -> Result<(Request, Value), Response> {
    let (parts, body) = request.into_parts();
    let bytes = super::call::whole(body).await;
    let bytes = bytes.map_err(IntoResponse::into_response)?;
    let mut whole: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let object = whole.get_mut(root).map(Value::take).unwrap_or_default();
    Ok((Request::from_parts(parts, Body::from(bytes)), object))
}

/// Whether a batch of members removes none.
fn is_additive(uri: &Uri) -> bool {
    super::call::flag(
        &super::call::decode(uri.query().unwrap_or_default()),
        "additive_only",
    )
}

/// Cuts a list to the caller's project; false when it asks for another one.
fn cut(request: &mut Request, who: &Identity) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let mut named = false;
    for (name, value) in super::call::decode(query) {
        if name == "project_id" || name == "tenant_id" {
            if value != who.project {
                return false;
            }
            named = true;
        }
    }
    if named {
        return true;
    }
    let own = |uri: &Uri| {
        let separator = if query.is_empty() { "" } else { "&" };
        let (path, project) = (uri.path(), encode(&who.project));
        let text = format!("{path}?{query}{separator}project_id={project}");
        text.parse::<Uri>().ok()
    };
    let Some(uri) = own(request.uri()) else {
        return false;
    };
    // Handlers read the URI as it was before it was routed.
    let original = request.extensions().get::<OriginalUri>();
    let original = original.map(|original| own(&original.0));
    match original {
        Some(None) => return false,
        Some(Some(original)) => drop(request.extensions_mut().insert(OriginalUri(original))),
        None => {}
    }
    *request.uri_mut() = uri;
    true
}

/// The project of an object; none when it does not exist.
async fn owner(db: &impl ConnectionTrait, kind: Kind, id: &str) -> Result<Option<String>, Error> {
    macro_rules! project {
        ($entity:ident) => {
            $entity::Entity::find_by_id(id.to_owned())
                .select_only()
                .column($entity::Column::ProjectId)
                .into_tuple::<String>()
                .one(db)
                .await?
        };
    }
    Ok(match kind {
        Kind::LoadBalancer => project!(load_balancer),
        Kind::Listener => project!(listener),
        Kind::Pool => project!(pool),
        Kind::HealthMonitor => project!(health_monitor),
        Kind::L7Policy => project!(l7policy),
        Kind::Port => project!(port),
        Kind::Secret => project!(secret),
        Kind::Container => project!(secret_container),
    })
}
