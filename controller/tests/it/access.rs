//! Tokens, roles and project isolation: each endpoint, each role, own and foreign objects.

use crate::common::{Answer, Api};
use crate::process::Controller;
use axum::body::Body;
use http::Request;
use krater_controller::app::policy::Rule;
use krater_controller::app::policy::file::Overrides;
use krater_controller::auth::Auth;
use krater_controller::http::access::{CASES, Case, Kind, TOKEN, Target, case, policy_names};
use krater_controller::http::openapi;
use krater_controller::tokens::Tokens;
use krater_e2e::api::Api as Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

pub(crate) const TOKEN_HEADER: &str = TOKEN;
pub(crate) const OWN: &str = "own";
const FOREIGN: &str = "foreign";
/// Token (also its user), project, role.
pub(crate) const TOKENS: [(&str, &str, &str); 9] = [
    ("none", OWN, "service"),
    ("reader", OWN, "reader"),
    ("member", OWN, "member"),
    ("stranger", FOREIGN, "member"),
    ("observer", FOREIGN, "load-balancer_global_observer"),
    ("quotas", FOREIGN, "load-balancer_quota_admin"),
    ("operator", FOREIGN, "load-balancer_admin"),
    ("admin", FOREIGN, "admin"),
    ("old-member", OWN, "load-balancer_member"),
];

fn sha256(text: &str) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn file() -> String {
    let mut text = String::new();
    for (token, project, role) in TOKENS {
        let hash = sha256(token);
        let _ = writeln!(
            text,
            "[[tokens]]\nsha256 = \"{hash}\"\nuser = \"{token}\"\nproject = \"{project}\"\nroles = [\"{role}\"]"
        );
    }
    text
}

/// Which tokens an endpoint lets through, for an object of the project `own`.
fn allowed(rule: Rule, target: Target) -> &'static [&'static str] {
    let everybody = matches!(target, Target::Nobody | Target::List);
    match (rule, everybody) {
        (Rule::Any, _) => &[
            "none",
            "reader",
            "member",
            "stranger",
            "observer",
            "quotas",
            "operator",
            "admin",
            "old-member",
        ],
        (Rule::Admin, _) => &["operator", "admin"],
        (Rule::Read, true) => &[
            "reader",
            "member",
            "stranger",
            "observer",
            "operator",
            "admin",
            "old-member",
        ],
        (Rule::Read, false) => &[
            "reader",
            "member",
            "observer",
            "operator",
            "admin",
            "old-member",
        ],
        (Rule::Write, true) => panic!("everything that is written belongs to a project"),
        // In its own project.
        (Rule::Write, false) if target == Target::Own => {
            &["member", "stranger", "operator", "admin", "old-member"]
        }
        (Rule::Write, false) => &["member", "operator", "admin", "old-member"],
        (Rule::ReadQuota, true) => &[
            "reader",
            "member",
            "stranger",
            "observer",
            "quotas",
            "operator",
            "admin",
            "old-member",
        ],
        (Rule::ReadQuota, false) => &[
            "reader",
            "member",
            "observer",
            "quotas",
            "operator",
            "admin",
            "old-member",
        ],
        (Rule::WriteQuota, _) => &["quotas", "operator", "admin"],
    }
}

pub(crate) async fn send(
    api: &Api,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "api:9876");
    if let Some(token) = token {
        request = request.header(TOKEN, token);
    }
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let request = request
        .header("content-type", "application/json")
        .body(body);
    api.send(request.unwrap()).await
}

/// Objects of a project, ids by the path's parameter or the body's attribute.
pub(crate) type Ids = BTreeMap<&'static str, String>;

/// An API with a tree in the project `own`, guarded by the tokens.
async fn tree() -> (Api, Ids) {
    let (mut api, ids) = objects(OWN).await;
    api.guard(Auth::tokens(Tokens::parse(&file()).unwrap()))
        .await;
    (api, ids)
}

/// An API with a tree in a project, and nobody to guard it yet.
pub(crate) async fn objects(project: &str) -> (Api, Ids) {
    let api = Api::new().await;
    let body = json!({"vip_subnet_id": api.subnet, "project_id": project});
    let lb = api
        .make("/v2/lbaas/loadbalancers", "loadbalancer", body)
        .await;
    let listener = api.listener(&lb, 80).await;
    let pool = api.pool(&lb).await;
    let body = json!({"pool_id": pool, "type": "TCP", "delay": 1, "timeout": 1, "max_retries": 1});
    let monitor = api
        .make("/v2/lbaas/healthmonitors", "healthmonitor", body)
        .await;
    let body = json!({"listener_id": listener, "action": "REJECT"});
    let policy = api.make("/v2/lbaas/l7policies", "l7policy", body).await;
    let shown = api
        .get(&format!("/v2/lbaas/loadbalancers/{lb}"))
        .await
        .ok(200);
    let port = shown["loadbalancer"]["vip_port_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let (secret, container) = stored(&api, project).await;
    let ids = [
        ("secret", secret),
        ("container", container),
        ("loadbalancer", lb),
        ("listener", listener),
        ("pool", pool),
        ("healthmonitor", monitor),
        ("l7policy", policy),
        ("port", port),
    ];
    (api, BTreeMap::from(ids))
}

/// A secret and a container with it in a project.
async fn stored(api: &Api, project: &str) -> (String, String) {
    let store = async |path: &str, body: Value| {
        let request = Request::builder().method("POST").uri(path);
        let request = request
            .header("host", "api:9876")
            .header("x-project-id", project)
            .header("content-type", "application/json");
        let answer = api.send(request.body(Body::from(body.to_string())).unwrap());
        answer.await.ok(201)
    };
    let body = json!({"payload": "known to its project", "payload_content_type": "text/plain"});
    let secret = store("/v1/secrets", body).await["secret_ref"].clone();
    let refs = json!([{"name": "it", "secret_ref": secret}]);
    let body = json!({"type": "generic", "secret_refs": refs});
    let container = store("/v1/containers", body).await["container_ref"].clone();
    let last = |reference: &Value| {
        let text = reference.as_str().unwrap();
        text.rsplit('/').next().unwrap().to_owned()
    };
    (last(&secret), last(&container))
}

const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::LoadBalancer => "loadbalancer",
        Kind::Listener => "listener",
        Kind::Pool => "pool",
        Kind::HealthMonitor => "healthmonitor",
        Kind::L7Policy => "l7policy",
        Kind::Port => "port",
        Kind::Secret => "secret",
        Kind::Container => "container",
    }
}

/// A request for an object of the project `own`.
fn request(case: &Case, ids: &Ids, own: &str) -> (String, Option<Value>) {
    let (method, path, _, target) = case;
    let root =
        if path.starts_with("/network") || path.starts_with("/projects") || *path == "/openapi" {
            ""
        } else if path.starts_with("/secrets") || path.starts_with("/containers") {
            "/v1"
        } else {
            "/v2/lbaas"
        };
    let mut path = format!("{root}{path}");
    if path == "/v2/lbaas" {
        path = "/v2".to_owned();
    }
    let mut body = (*method != "GET" && *method != "DELETE").then(|| json!({}));
    match target {
        Target::Object(kind, parameter) => {
            path = path.replace(&format!("{{{parameter}}}"), &ids[name(*kind)]);
        }
        Target::Project(parameter) => path = path.replace(&format!("{{{parameter}}}"), own),
        Target::NewIn(root) => body = Some(json!({ *root: {"project_id": own} })),
        Target::Body(root, attributes) => {
            let mut object = json!({});
            for (attribute, kind) in *attributes {
                object[attribute] = json!(ids[name(*kind)]);
            }
            body = Some(json!({ *root: object }));
        }
        Target::Nobody | Target::Own | Target::List => {}
    }
    // Parts that decide nothing.
    for (part, value) in [
        ("{id}", "11111111-1111-4111-8111-111111111111"),
        ("{name}", "amphora"),
    ] {
        path = path.replace(part, value);
    }
    assert!(!path.contains('{'), "{path}");
    (path, body)
}

/// Upstream's policies, written a second time and in another way.
fn upstreams(method: &str, path: &str) -> Rule {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
    let reads = method == "GET";
    if starts(&["/network/v2.0/ports"]) {
        return Rule::Read;
    }
    if path.ends_with("/payload") {
        return Rule::Write;
    }
    if path.is_empty() || starts(&["/openapi", "/network", "/projects"]) {
        return Rule::Any;
    }
    if starts(&["/octavia", "/flavorprofiles", "/availabilityzoneprofiles"])
        || path.ends_with("/failover")
        || path.ends_with("_capabilities")
        || starts(&["/flavors", "/availabilityzones"]) && !reads
    {
        return Rule::Admin;
    }
    match (starts(&["/quotas"]), reads) {
        (true, true) => Rule::ReadQuota,
        (true, false) => Rule::WriteQuota,
        (false, true) => Rule::Read,
        (false, false) => Rule::Write,
    }
}

/// A new endpoint without a case fails here, and is refused at run time.
#[test]
fn every_endpoint_has_a_case_and_every_case_an_endpoint() {
    let document = openapi::document();
    let mut served = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            if [
                "/",
                "/load-balancer",
                "/healthcheck",
                "/load-balancer/healthcheck",
            ]
            .contains(&path.as_str())
            {
                continue;
            }
            let path = path.trim_end_matches(".json");
            let found = case(&method.to_uppercase(), path);
            let found =
                found.unwrap_or_else(|| panic!("{method} {path}: no case in http/access.rs"));
            served.push(*found);
        }
    }
    assert!(served.len() > 70, "{}", served.len());
    for case in CASES {
        let (method, path, rule, target) = *case;
        assert_eq!(rule, upstreams(method, path), "{method} {path}");
        // What belongs to a project is looked up.
        let belongs = matches!(rule, Rule::Read | Rule::Write)
            && [
                "/loadbalancers",
                "/listeners",
                "/pools",
                "/healthmonitors",
                "/l7policies",
                "/network/v2.0/ports",
                "/secrets",
                "/containers",
            ]
            .iter()
            .any(|tree| path.starts_with(tree));
        assert!(!belongs || target != Target::Nobody, "{method} {path}");
        assert!(target != Target::List || method == "GET", "{method} {path}");
    }
    for root in ["/v2/lbaas", "/v2.0/lbaas", "/v2", "/v2.0"] {
        assert!(
            case("PUT", &format!("{root}/listeners/{{id}}")).is_some(),
            "{root}"
        );
    }
    for none in ["/v3/listeners", "/v2listeners", "/v2/lbaaslisteners"] {
        assert!(case("GET", none).is_none(), "{none}");
    }
}

#[tokio::test]
async fn each_endpoint_lets_through_whom_it_should_and_nobody_else() {
    let (api, ids) = tree().await;
    each_endpoint(&api, &ids, OWN, |name| name.to_owned()).await;
}

/// Asks each endpoint with each of [`TOKENS`], which `token` gives by its name.
pub(crate) async fn each_endpoint(api: &Api, ids: &Ids, own: &str, token: impl Fn(&str) -> String) {
    for admits in [false, true] {
        // What is refused changes nothing, so those come first.
        for case in CASES {
            let (method, _, rule, target) = *case;
            let (path, body) = request(case, ids, own);
            let answer = send(api, None, method, &path, body.as_ref()).await;
            assert_eq!(answer.status, 401, "{method} {path}");
            if !admits {
                let wrong = send(api, Some("wrong"), method, &path, body.as_ref()).await;
                assert_eq!(wrong.status, 401, "{method} {path}");
            }
            for (name, ..) in TOKENS {
                if allowed(rule, target).contains(&name) != admits {
                    continue;
                }
                let token = token(name);
                let answer = send(api, Some(&token), method, &path, body.as_ref()).await;
                if admits {
                    let refused = [401, 403].contains(&answer.status.as_u16());
                    assert!(!refused, "{name}: {method} {path}: {}", answer.text);
                    assert!(
                        answer.status.as_u16() < 500 || answer.status == 501,
                        "{}",
                        answer.text
                    );
                } else {
                    let text = answer.fault(403);
                    assert_eq!(
                        text, "Policy does not allow this request to be performed.",
                        "{name}: {method} {path}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn lists_end_at_the_project() {
    let (api, _) = tree().await;
    let body = json!({"loadbalancer": {"vip_subnet_id": api.subnet, "name": "theirs"}});
    send(
        &api,
        Some("stranger"),
        "POST",
        "/v2/lbaas/loadbalancers",
        Some(&body),
    )
    .await
    .ok(201);
    api.settle().await;
    let projects = async |token: &str, query: &str| {
        let path = format!("/v2/lbaas/loadbalancers{query}");
        let list = send(&api, Some(token), "GET", &path, None).await.ok(200);
        let list = list["loadbalancers"].as_array().unwrap().clone();
        let mut projects: Vec<String> = list
            .iter()
            .map(|lb| lb["project_id"].as_str().unwrap().to_owned())
            .collect();
        projects.sort();
        projects.join(" ")
    };
    for (token, query, expected) in [
        ("reader", "", "own"),
        ("member", "?limit=10", "own"),
        ("member", "?project_id=own", "own"),
        ("member", "?tenant_id=own", "own"),
        ("stranger", "", "foreign"),
        ("stranger", "?name=theirs", "foreign"),
        ("admin", "", "foreign own"),
        ("observer", "", "foreign own"),
        ("admin", "?project_id=own", "own"),
    ] {
        assert_eq!(projects(token, query).await, expected, "{token} {query}");
    }
    for query in [
        "project_id=foreign",
        "tenant_id=foreign",
        "project_id=own&tenant_id=foreign",
    ] {
        let path = format!("/v2/lbaas/loadbalancers?{query}");
        send(&api, Some("member"), "GET", &path, None)
            .await
            .fault(403);
    }
    // A marker of somebody else's is no marker.
    let all = send(&api, Some("admin"), "GET", "/v2/lbaas/loadbalancers", None).await;
    for lb in all.ok(200)["loadbalancers"].as_array().unwrap() {
        let path = format!(
            "/v2/lbaas/loadbalancers?marker={}",
            lb["id"].as_str().unwrap()
        );
        let answer = send(&api, Some("member"), "GET", &path, None).await;
        let status = if lb["project_id"] == "own" { 200 } else { 400 };
        assert_eq!(answer.status, status, "{lb}");
    }
    for (list, key) in [
        ("listeners", "listeners"),
        ("pools", "pools"),
        ("healthmonitors", "healthmonitors"),
        ("l7policies", "l7policies"),
    ] {
        for (token, count) in [("member", 1), ("stranger", 0), ("admin", 1)] {
            let path = format!("/v2.0/lbaas/{list}");
            let shown = send(&api, Some(token), "GET", &path, None).await.ok(200);
            assert_eq!(
                shown[key].as_array().unwrap().len(),
                count,
                "{token} {list}"
            );
        }
    }
    for (token, count) in [("member", 1), ("stranger", 1), ("quotas", 2), ("admin", 2)] {
        let shown = send(&api, Some(token), "GET", "/v2/lbaas/quotas", None)
            .await
            .ok(200);
        assert_eq!(
            shown["quotas"].as_array().unwrap().len(),
            count,
            "{token}: {shown}"
        );
    }
    for (token, count) in [("member", 1), ("stranger", 1), ("admin", 2)] {
        let shown = send(&api, Some(token), "GET", "/network/v2.0/ports", None)
            .await
            .ok(200);
        assert_eq!(
            shown["ports"].as_array().unwrap().len(),
            count,
            "{token}: {shown}"
        );
    }
}

#[tokio::test]
async fn a_project_is_the_tokens_whatever_the_client_says() {
    let (api, _) = tree().await;
    let body = json!({"loadbalancer": {"vip_subnet_id": api.subnet}});
    let request = Request::builder()
        .method("POST")
        .uri("/v2/lbaas/loadbalancers")
        .header(TOKEN, "stranger")
        .header("x-project-id", OWN)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()));
    let made = api.send(request.unwrap()).await.ok(201);
    assert_eq!(made["loadbalancer"]["project_id"], FOREIGN);
    for key in ["project_id", "tenant_id"] {
        let body = json!({"loadbalancer": {"vip_subnet_id": api.subnet, key: OWN}});
        let path = "/v2/lbaas/loadbalancers";
        send(&api, Some("stranger"), "POST", path, Some(&body))
            .await
            .fault(403);
        let made = send(&api, Some("admin"), "POST", path, Some(&body))
            .await
            .ok(201);
        assert_eq!(made["loadbalancer"]["project_id"], OWN);
    }
}

/// Every form of an id that a handler would take.
#[tokio::test]
async fn no_other_writing_of_an_id_gets_past() {
    let (api, ids) = tree().await;
    let lb = &ids["loadbalancer"];
    let encoded: String = lb.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for path in [
        format!("/v2/lbaas/loadbalancers/{encoded}"),
        format!("/v2/lbaas/loadbalancers/{lb}/"),
        format!("/v2/lbaas/loadbalancers/{lb}.json"),
        format!("/v2/loadbalancers/{lb}"),
        format!("/v2.0/loadbalancers/{lb}/status"),
    ] {
        send(&api, Some("stranger"), "GET", &path, None)
            .await
            .fault(403);
        send(&api, Some("member"), "GET", &path, None).await.ok(200);
    }
    for id in [
        lb.to_uppercase(),
        lb.replace('-', ""),
        format!("{{{lb}}}"),
        format!("urn:uuid:{lb}"),
    ] {
        let body =
            json!({"listener": {"loadbalancer_id": id, "protocol": "HTTP", "protocol_port": 81}});
        send(
            &api,
            Some("stranger"),
            "POST",
            "/v2/lbaas/listeners",
            Some(&body),
        )
        .await
        .fault(403);
    }
}

/// The processes: what operators ask beside the API, and where a controller may listen.
#[test]
fn a_controller_asks_for_tokens_and_listens_elsewhere_only_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens.toml");
    std::fs::write(&tokens, file()).unwrap();
    let tokens = tokens.to_str().unwrap();
    let controller = Controller::start(&["--tokens", tokens]);
    let Client { address } = controller.api;
    let status = |path: &str, token: Option<&str>| {
        let headers: Vec<(&str, &str)> = token.map(|token| (TOKEN, token)).into_iter().collect();
        controller
            .api
            .raw("GET", path, &headers, b"")
            .unwrap()
            .status
    };
    for open in ["/healthz", "/readyz", "/", "/healthcheck"] {
        assert_eq!(status(open, None), 200, "{open}");
    }
    for path in ["/krater/v1/status", "/krater/v1/flows", "/metrics"] {
        assert_eq!(status(path, None), 401, "{path}");
        assert_eq!(status(path, Some("member")), 403, "{path}");
        assert_eq!(status(path, Some("admin")), 200, "{path}");
    }
    assert_eq!(status("/v2/lbaas/loadbalancers", None), 401);
    assert_eq!(status("/v2/lbaas/loadbalancers", Some("member")), 200);
    assert_eq!(status("/v2/lbaas/nothing", None), 401);
    assert_eq!(status("/v2/lbaas/nothing", Some("member")), 404);
    let shown = |token: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_krater"));
        command
            .args(["status", "--endpoint", &format!("http://{address}")])
            .env("KRATER_TOKEN", token);
        command.output().unwrap().status.success()
    };
    assert!(shown("admin") && !shown("member"));

    let print = |arguments: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_krater"))
            .args(["up", "--print-config", "--listen", "192.0.2.1:9876"])
            .args(arguments)
            .output()
            .unwrap();
        (
            done.status.success(),
            String::from_utf8(done.stderr).unwrap(),
        )
    };
    let (started, said) = print(&[]);
    assert!(
        !started && said.contains("--allow-unauthenticated"),
        "{said}"
    );
    assert!(print(&["--allow-unauthenticated"]).0);
    assert!(print(&["--tokens", tokens]).0);
}

/// Nobody's role opens the secrets of others: who may use them would learn the key.
#[tokio::test]
async fn secrets_are_their_projects_alone() {
    let (api, ids) = tree().await;
    let listed = async |token: &str| {
        let answer = send(&api, Some(token), "GET", "/v1/secrets", None).await;
        answer.ok(200)["total"].as_u64().unwrap()
    };
    assert_eq!(
        (listed("reader").await, listed("stranger").await),
        (1, 0),
        "own, foreign"
    );
    let payload = format!("/v1/secrets/{}/payload", ids["secret"]);
    let own = send(&api, Some("member"), "GET", &payload, None).await;
    assert_eq!(own.text, "known to its project");
    // The stranger's own load balancer, with a reference to what is not its.
    let refused = async |token: &str, project: &str| {
        let body = json!({"loadbalancer": {"vip_subnet_id": api.subnet, "project_id": project}});
        let made = send(
            &api,
            Some(token),
            "POST",
            "/v2/lbaas/loadbalancers",
            Some(&body),
        )
        .await;
        let lb = made.ok(201)["loadbalancer"]["id"].clone();
        api.settle().await;
        let mut texts = Vec::new();
        for kind in ["secret", "container"] {
            let reference = format!("http://api:9876/v1/{kind}s/{}", ids[kind]);
            let body = json!({"listener": {"loadbalancer_id": lb, "protocol": "TERMINATED_HTTPS",
                "protocol_port": 443, "default_tls_container_ref": reference}});
            let answer = send(
                &api,
                Some(token),
                "POST",
                "/v2/lbaas/listeners",
                Some(&body),
            )
            .await;
            texts.push(answer.fault(400));
        }
        texts
    };
    let [secret, container] = refused("stranger", FOREIGN).await.try_into().unwrap();
    assert!(secret.contains("Could not retrieve"), "{secret}");
    assert!(container.contains("Could not retrieve"), "{container}");
    // Its owner gets as far as reading it: it is no certificate.
    let own = refused("member", OWN).await;
    assert!(!own[0].contains("Could not retrieve"), "{}", own[0]);
    // Nor does a container lend what its maker may not read.
    let body = json!({"type": "generic", "secret_refs": [
        {"name": "it", "secret_ref": format!("http://api:9876/v1/secrets/{}", ids["secret"])}]});
    let lent = send(
        &api,
        Some("stranger"),
        "POST",
        "/v1/containers",
        Some(&body),
    )
    .await;
    assert_eq!(lent.status, 404, "{}", lent.text);
    let kept = send(&api, Some("member"), "POST", "/v1/containers", Some(&body)).await;
    assert_eq!(kept.status, 201, "{}", kept.text);
}

/// Who may what after a file has changed it.
#[tokio::test]
async fn a_policy_file_changes_who_may_what() {
    let (mut api, ids) = objects(OWN).await;
    let policy = "os_load-balancer_api:loadbalancer:delete: role:none-has-it\n\
        os_load-balancer_api:listener:post: role:reader and rule:load-balancer:owner\n\
        os_load-balancer_api:flavor:post: '@'\n\
        os_load-balancer_api:listener:get_all-global: not role:load-balancer_global_observer\n\
        os_load-balancer_api:member:delete: '!'\n\
        load-balancer:admin: role:load-balancer_quota_admin\n";
    let overrides = Overrides::parse(policy, &policy_names()).unwrap();
    let auth = Auth::tokens(Tokens::parse(&file()).unwrap()).with_overrides(overrides);
    api.guard(auth).await;
    let lb = format!("/v2/lbaas/loadbalancers/{}", ids["loadbalancer"]);
    let members = format!("/v2/lbaas/pools/{}/members", ids["pool"]);
    let additive = format!("{members}?additive_only=true");
    let listener = json!({"listener": {"loadbalancer_id": ids["loadbalancer"]}});
    let none = json!({});
    for (token, method, path, body, allowed) in [
        // Nobody deletes, not even who may do everything as shipped.
        ("admin", "DELETE", lb.as_str(), &none, false),
        ("admin", "PUT", &lb, &none, true),
        ("reader", "POST", "/v2/lbaas/listeners", &listener, true),
        ("stranger", "POST", "/v2/lbaas/listeners", &listener, false),
        ("none", "POST", "/v2/lbaas/flavors", &none, true),
        ("none", "POST", "/v2/lbaas/flavorprofiles", &none, false),
        // A batch that removes none needs no right to remove.
        ("member", "PUT", &members, &none, false),
        ("member", "PUT", &additive, &none, true),
        ("member", "POST", &members, &none, true),
        // The rule that the endpoints of operators share.
        ("quotas", "GET", "/v2/octavia/amphorae", &none, true),
        ("admin", "GET", "/v2/octavia/amphorae", &none, false),
    ] {
        let answer = send(&api, Some(token), method, path, Some(body)).await;
        let refused = answer.status == 403;
        assert_eq!(
            !refused, allowed,
            "{token} {method} {path}: {}",
            answer.text
        );
    }
    for (token, count) in [("member", 1), ("observer", 0), ("stranger", 1)] {
        let path = "/v2/lbaas/listeners";
        let shown = send(&api, Some(token), "GET", path, None).await.ok(200);
        let listed = shown["listeners"].as_array().unwrap().len();
        assert_eq!(listed, count, "{token}");
    }
    // The names are upstream's, written a second time.
    let names = policy_names();
    for resource in [
        "loadbalancer",
        "listener",
        "pool",
        "healthmonitor",
        "l7policy",
    ] {
        for verb in [
            "get_all",
            "get_all-global",
            "post",
            "get_one",
            "put",
            "delete",
        ] {
            let name = format!("os_load-balancer_api:{resource}:{verb}");
            assert!(names.contains(&name), "{name}");
        }
    }
    for name in [
        "loadbalancer:get_status",
        "loadbalancer:get_stats",
        "loadbalancer:put_failover",
        "listener:get_stats",
        "member:get_all",
        "member:post",
        "l7rule:get_one",
        "quota:get_defaults",
        "quota:get_all-global",
        "quota:put",
        "provider:get_all",
        "provider-flavor:get_all",
        "provider-availability-zone:get_all",
        "flavor-profile:get_one",
        "flavor:put",
        "availability-zone-profile:delete",
        "availability-zone:post",
        "amphora:get_all",
        "amphora:get_one",
        "amphora:delete",
        "amphora:put_config",
        "amphora:put_failover",
        "amphora:get_stats",
    ] {
        assert!(
            names.contains(&format!("os_load-balancer_api:{name}")),
            "{name}"
        );
    }
    assert_eq!(names.len(), 79, "{names:#?}");
}
