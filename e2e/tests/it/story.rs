//! A load balancer with members, made through the API: what most tests begin with.

use krater_e2e::api::text;
use krater_e2e::backend::Backend;
use krater_e2e::client;
use krater_e2e::place::Place;
use krater_e2e::system::System;
use krater_e2e::wait;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Addresses high in the subnets, which the controller gives to nobody soon.
pub(crate) const CLIENT: &str = "203.0.113.201";
pub(crate) const MEMBERS: [(&str, &str); 3] = [
    ("web1", "192.0.2.201"),
    ("web2", "192.0.2.202"),
    ("web3", "192.0.2.203"),
];

/// An ACTIVE load balancer with one HTTP listener on port 80 and one pool of three members.
pub(crate) struct Story {
    pub(crate) client: Arc<Place>,
    pub(crate) backends: Vec<Backend>,
    pub(crate) load_balancer: String,
    pub(crate) listener: String,
    pub(crate) pool: String,
    pub(crate) members: Vec<String>,
    pub(crate) vip: IpAddr,
    // Dropped last: the places above need its networks.
    pub(crate) system: System,
}

impl Story {
    pub(crate) fn new() -> Self {
        Self::on(System::start())
    }

    /// With one amphora.
    pub(crate) fn single() -> Self {
        Self::on(System::with("[controller]\ntopology = \"SINGLE\"\n", &[]))
    }

    /// On a controller that runs already.
    pub(crate) fn on(system: System) -> Self {
        let created = system.api.create_load_balancer("lb1");
        Self::around(system, &created)
    }

    /// Around a load balancer without children, as the API shows it.
    pub(crate) fn around(system: System, created: &Value) -> Self {
        let api = system.api;
        let load_balancer = text(&created["id"]);
        let vip = text(&created["vip_address"]).parse().expect("vip_address");
        let client = Arc::new(Place::new(&system, "public", CLIENT));
        let backends = MEMBERS
            .map(|(name, address)| Backend::start(&system, address, name))
            .into();
        let mut story = Self {
            client,
            backends,
            load_balancer,
            listener: String::new(),
            pool: String::new(),
            members: Vec::new(),
            vip,
            system,
        };
        api.active(&story.load_balancer);
        story.listener = story.create("listeners", json!({"listener": {
            "name": "l1", "loadbalancer_id": story.load_balancer, "protocol": "HTTP", "protocol_port": 80,
        }}));
        story.pool = story.create("pools", json!({"pool": {
            "name": "p1", "listener_id": story.listener, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
        }}));
        for (name, address) in MEMBERS {
            let id = story.member(&story.pool, name, address);
            story.members.push(id);
        }
        story
    }

    /// Creates an object and waits until the load balancer is ACTIVE again; its id.
    pub(crate) fn create(&self, path: &str, body: Value) -> String {
        let created = self.system.api.create(path, &body);
        self.active();
        text(&created["id"])
    }

    pub(crate) fn member(&self, pool: &str, name: &str, address: &str) -> String {
        let subnet = self.system.api.subnet("tenant-subnet");
        self.create(
            &format!("pools/{pool}/members"),
            json!({"member": {
                "name": name, "address": address, "protocol_port": 80, "subnet_id": subnet,
            }}),
        )
    }

    /// A health monitor that notices within a second or two.
    pub(crate) fn monitor(&self) -> String {
        self.create(
            "healthmonitors",
            json!({"healthmonitor": {
                "name": "m1", "pool_id": self.pool, "type": "HTTP", "url_path": "/",
                "delay": 1, "timeout": 1, "max_retries": 1, "max_retries_down": 2,
            }}),
        )
    }

    /// A change or deletion, until ACTIVE.
    pub(crate) fn change(&self, method: &str, path: &str, body: Option<Value>) {
        self.system
            .api
            .must(method, &format!("/v2/lbaas/{path}"), body.as_ref());
        self.active();
    }

    pub(crate) fn active(&self) -> Value {
        self.system.api.active(&self.load_balancer)
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.vip, port)
    }

    /// Waits until the VIP answers with 200.
    pub(crate) fn answers(&self) {
        wait::for_condition("the VIP answers 200", || {
            client::get(&self.client, self.at(80), "/").is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Who answers; see [`client::spread`].
    pub(crate) fn spread(&self, path: &str, count: usize) -> BTreeMap<String, usize> {
        client::spread(&self.client, self.at(80), path, count)
    }

    /// Ids of the amphorae.
    pub(crate) fn amphorae(&self) -> Vec<String> {
        self.system
            .api
            .amphorae(&self.load_balancer)
            .iter()
            .map(|a| text(&a["id"]))
            .collect()
    }
}
