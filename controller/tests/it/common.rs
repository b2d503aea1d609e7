//! A fresh API, and a worker that ends flows without doing them.
//!
//! With [`SERVER`] in the environment every API has a new database of that server; otherwise a file. `engines.rs` runs this
//! whole program so for each server.

use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use krater_controller::app::AppState;
use krater_controller::auth::Auth;
use krater_controller::config::Topology;
use krater_controller::db::entity::{
    flow, health_monitor, l7policy, l7rule, listener, load_balancer, member, pool,
};
use krater_controller::db::query::network::{self, NewSubnet};
use krater_controller::db::server::Address;
use krater_controller::db::{Db, now};
use krater_controller::http::router;
use krater_controller::secrets::vault::Vault;
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tower::ServiceExt;

/// `postgres://…` or `mysql://…` of a server on which tests may make databases.
pub(crate) const SERVER: &str = "KRATER_TEST_SERVER";
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// An empty database: the file, or a new one of the server.
pub(crate) async fn fresh(dir: &Path) -> Db {
    match std::env::var(SERVER) {
        Ok(server) => Db::connect(&new_database(&server).await).await.unwrap(),
        Err(_) => Db::open_sqlite(&dir.join("krater.db")).await.unwrap(),
    }
}

/// Makes a database on the server of this one.
pub(crate) async fn new_database(server: &str) -> Address {
    use sea_orm::ConnectionTrait as _;
    let number = DATABASES.fetch_add(1, Ordering::Relaxed);
    let name = format!("test_{}_{number}", std::process::id());
    let mut options = sea_orm::ConnectOptions::new(server);
    options.max_connections(1).sqlx_logging(false);
    let admin = sea_orm::Database::connect(options).await.unwrap();
    let statement = format!("CREATE DATABASE {name}");
    admin.execute_unprepared(&statement).await.unwrap();
    admin.close().await.unwrap();
    let (base, parameters) = server.split_once('?').unwrap_or((server, ""));
    let (base, _) = base.rsplit_once('/').unwrap();
    format!("{base}/{name}?{parameters}").parse().unwrap()
}

pub(crate) struct Api {
    _dir: tempfile::TempDir,
    pub(crate) db: Db,
    router: axum::Router,
    pub(crate) network: String,
    pub(crate) subnet: String,
    pub(crate) subnet6: String,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The faultstring, after a check of the error body's shape and of the status.
    #[track_caller]
    pub(crate) fn fault(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let body = self.json();
        let side = if status >= 500 { "Server" } else { "Client" };
        assert_eq!(body["faultcode"], side, "{body}");
        assert!(
            body["debuginfo"].is_null() && body.as_object().unwrap().len() == 3,
            "{body}"
        );
        body["faultstring"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() {
            Value::Null
        } else {
            self.json()
        }
    }
}

impl Api {
    pub(crate) async fn new() -> Self {
        Self::with_topology(Topology::Single).await
    }

    pub(crate) async fn with_topology(topology: Topology) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = fresh(dir.path()).await;
        Self::of(dir, db, topology).await
    }

    /// Of an empty database.
    pub(crate) async fn of(dir: tempfile::TempDir, db: Db, topology: Topology) -> Self {
        let subnets = [
            ("public-subnet", "203.0.113.0/24"),
            ("public-subnet6", "2001:db8:1::/64"),
        ];
        let subnets = subnets.map(|(name, cidr)| {
            let cidr: ipnet::IpNet = cidr.parse().unwrap();
            let gateway = cidr.hosts().find(|ip| *ip != cidr.network());
            NewSubnet {
                name: name.into(),
                cidr,
                gateway,
            }
        });
        let network = network::create_network(db.write(), "public", 1500, false, &subnets)
            .await
            .unwrap()
            .to_string();
        let rows = network::subnets_of(db.read(), &network).await.unwrap();
        Self {
            router: router(AppState::new(
                db.clone(),
                topology,
                Vault::open(dir.path(), &db).await.unwrap(),
            )),
            subnet: rows
                .iter()
                .find(|s| s.name == "public-subnet")
                .unwrap()
                .id
                .clone(),
            subnet6: rows
                .iter()
                .find(|s| s.name == "public-subnet6")
                .unwrap()
                .id
                .clone(),
            network,
            db,
            _dir: dir,
        }
    }

    /// From now on requests need a token.
    pub(crate) async fn guard(&mut self, auth: Auth) {
        let vault = Vault::open(self._dir.path(), &self.db).await.unwrap();
        let state = AppState::new(self.db.clone(), Topology::Single, vault);
        self.router = router(state.with_auth(Some(Arc::new(auth))));
    }

    /// From now on requests wait so long and no longer.
    pub(crate) async fn hurry(&mut self, deadline: Duration) {
        let vault = Vault::open(self._dir.path(), &self.db).await.unwrap();
        let state = AppState::new(self.db.clone(), Topology::Single, vault);
        self.router = router(state.with_deadline(deadline));
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let answer = Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        };
        let id = answer.headers.get("x-openstack-request-id");
        assert!(
            id.is_some_and(|id| id.to_str().unwrap().starts_with("req-")),
            "{answer:?}"
        );
        answer
    }

    /// The body of an answer that is not text.
    pub(crate) async fn bytes(&self, request: Request<Body>) -> Vec<u8> {
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await;
        bytes.unwrap().to_vec()
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "api:9876");
        let request = match body {
            None => request.body(Body::empty()),
            Some(body) => request
                .header("content-type", "application/json")
                .body(Body::from(body.to_string())),
        };
        self.send(request.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(&body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, Some(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None).await
    }

    /// Ends all flows well, as the real worker does: what is PENDING becomes ACTIVE or goes.
    pub(crate) async fn settle(&self) {
        let flows = flow::Entity::find()
            .filter(flow::Column::State.eq("PENDING"))
            .all(self.db.read())
            .await
            .unwrap();
        let db = self.db.write();
        macro_rules! settle {
            ($($entity:ident)*) => {$(
                $entity::Entity::delete_many()
                    .filter($entity::Column::ProvisioningStatus.eq("PENDING_DELETE"))
                    .exec(db).await.unwrap();
                $entity::Entity::update_many()
                    .col_expr($entity::Column::ProvisioningStatus, Expr::value("ACTIVE"))
                    .filter($entity::Column::ProvisioningStatus.is_in(["PENDING_CREATE", "PENDING_UPDATE"]))
                    .exec(db).await.unwrap();
            )*};
        }
        settle!(l7rule l7policy listener member health_monitor pool);
        for row in flows {
            let id = row.load_balancer_id.clone().unwrap();
            let status = if row.kind == "DeleteLoadBalancer" {
                "DELETED"
            } else {
                "ACTIVE"
            };
            if status == "DELETED" {
                listener::Entity::delete_many()
                    .filter(listener::Column::LoadBalancerId.eq(id.clone()))
                    .exec(db)
                    .await
                    .unwrap();
                pool::Entity::delete_many()
                    .filter(pool::Column::LoadBalancerId.eq(id.clone()))
                    .exec(db)
                    .await
                    .unwrap();
            }
            self.set_lb(&id, status).await;
            flow::Entity::update_many()
                .col_expr(flow::Column::State, Expr::value("SUCCEEDED"))
                .col_expr(flow::Column::UpdatedAt, Expr::value(now()))
                .filter(flow::Column::Id.eq(row.id))
                .exec(db)
                .await
                .unwrap();
        }
    }

    pub(crate) async fn set_lb(&self, id: &str, status: &str) {
        load_balancer::Entity::update_many()
            .col_expr(
                load_balancer::Column::ProvisioningStatus,
                Expr::value(status),
            )
            .col_expr(
                load_balancer::Column::LockedByFlow,
                Expr::value(None::<String>),
            )
            .filter(load_balancer::Column::Id.eq(id))
            .exec(self.db.write())
            .await
            .unwrap();
    }

    /// Flows that wait for a worker.
    pub(crate) async fn pending(&self) -> Vec<flow::Model> {
        flow::Entity::find()
            .filter(flow::Column::State.eq("PENDING"))
            .all(self.db.read())
            .await
            .unwrap()
    }

    /// POSTs, settles, returns the id.
    pub(crate) async fn make(&self, path: &str, root: &str, body: Value) -> String {
        let answer = self.post(path, json!({ root: body })).await;
        let id = answer.ok(201)[root]["id"].as_str().unwrap().to_owned();
        self.settle().await;
        id
    }

    pub(crate) async fn lb(&self, name: &str) -> String {
        let body = json!({"name": name, "vip_subnet_id": self.subnet});
        self.make("/v2/lbaas/loadbalancers", "loadbalancer", body)
            .await
    }

    pub(crate) async fn listener(&self, lb: &str, port: u16) -> String {
        let body = json!({"loadbalancer_id": lb, "protocol": "HTTP", "protocol_port": port});
        self.make("/v2/lbaas/listeners", "listener", body).await
    }

    pub(crate) async fn pool(&self, lb: &str) -> String {
        let body =
            json!({"loadbalancer_id": lb, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"});
        self.make("/v2/lbaas/pools", "pool", body).await
    }
}

/// Replaces what differs from run to run.
pub(crate) fn masked(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    if key.ends_with("_at") && value.is_string() {
                        *value = json!("<time>");
                    }
                    walk(value);
                }
            }
            Value::Array(list) => list.iter_mut().for_each(walk),
            Value::String(text) if text.parse::<uuid::Uuid>().is_ok() => {
                *value = json!("<uuid>");
            }
            _ => {}
        }
    }
    walk(&mut value);
    value
}
