//! Real flows on a real database with fake drivers and agents: what the database says, what exists,
//! and what the agents have in force must agree after every flow, also when the controller is killed
//! at any point of it.

use super::crash::{CrashPoints, Point};
use super::engine::Worker;
use super::{Settings, World, kinds};
use crate::agent_client::{self, Address, AgentApi};
use crate::config::Config;
use crate::config::Vrrp;
use crate::db::entity::{address, amphora, flow, listener, load_balancer, member, pool, port, tag};
use crate::db::query::flow::{
    self as queue, Action, DeleteLoadBalancer, FlowKind, Item, NewFlow, OneAmphora, Resource, Tree,
};
use crate::db::query::{graph, journal, network};
use crate::db::{Db, now};
use crate::desired::Common;
use crate::drivers::compute::fake::FakeCompute;
use crate::failover::request::{self, Request};
use crate::secrets::vault::Vault;
use crate::{inventory, pki::Pki};
use futures_util::future::BoxFuture;
use krater_model::control::{DataplaneStatus, RouterState, RouterStatus, VrrpStatus};
use krater_model::state::{Heartbeat, Logging};
use krater_model::wire::agent::{Info, StateApplied, StateView, Status};
use krater_model::{
    AmphoraId, DesiredState, Epoch, LoadBalancerId, Millis, Revision, SCHEMA, Secret,
};
use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// Agents that obey like real ones: revisions are ordered, the owner is the living highest priority.
#[derive(Debug, Default)]
struct FakeAgents {
    compute: Arc<FakeCompute>,
    states: Mutex<BTreeMap<AmphoraId, DesiredState>>,
    /// These do not answer.
    silent: Mutex<BTreeSet<AmphoraId>>,
    /// This one refuses every state that is not what it has.
    refusing: Mutex<Option<AmphoraId>>,
    certificates: Mutex<BTreeMap<AmphoraId, usize>>,
}

impl FakeAgents {
    fn check(&self, to: Address) -> Result<(), agent_client::Error> {
        let alive = self
            .compute
            .amphorae()
            .get(&to.amphora)
            .is_some_and(|a| a.agent_alive && a.boot.management_address.addr() == to.at.ip());
        if alive && !self.silent.lock().unwrap().contains(&to.amphora) {
            Ok(())
        } else {
            Err(agent_client::Error::Connect {
                amphora: to.amphora,
                at: to.at,
                source: std::io::ErrorKind::ConnectionRefused.into(),
            })
        }
    }

    fn state_of(&self, id: AmphoraId) -> Option<DesiredState> {
        self.states.lock().unwrap().get(&id).cloned()
    }

    /// Among living amphorae with virtual routers, the one of highest priority.
    fn owner(&self) -> Option<AmphoraId> {
        let living = self.compute.amphorae();
        let states = self.states.lock().unwrap();
        states
            .iter()
            .filter(|(id, state)| living.contains_key(id) && !state.vrrp.is_empty())
            .max_by_key(|(_, state)| state.vrrp[0].priority)
            .map(|(id, _)| *id)
    }
}

impl AgentApi for FakeAgents {
    fn info<'a>(
        &'a self,
        to: Address,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Info, agent_client::Error>> {
        Box::pin(async move {
            self.check(to)?;
            Ok(Info {
                amphora_id: to.amphora,
                version: "1".into(),
                schema: SCHEMA,
                boot_id: "b".into(),
                started_at: String::new(),
                revision: self.state_of(to.amphora).map(|s| s.revision()),
                certificate_expires: String::new(),
            })
        })
    }

    fn put_state<'a>(
        &'a self,
        to: Address,
        state: &'a DesiredState,
    ) -> BoxFuture<'a, Result<StateApplied, agent_client::Error>> {
        Box::pin(async move {
            self.check(to)?;
            let refuse = |status, code: &str| agent_client::Error::Refused {
                amphora: to.amphora,
                what: "PUT state",
                status,
                code: code.into(),
                message: code.into(),
            };
            let text = serde_json::to_vec(state).unwrap();
            let state = DesiredState::parse(&text).unwrap();
            let current = self.state_of(to.amphora);
            let new = current
                .as_ref()
                .is_none_or(|current| current.load_balancers != state.load_balancers);
            if new && *self.refusing.lock().unwrap() == Some(to.amphora) {
                return Err(refuse(400, "bad-field"));
            }
            match current {
                Some(current) if state.revision() < current.revision() => {
                    return Err(refuse(409, "older-revision"));
                }
                Some(current) if state.revision() == current.revision() && state != current => {
                    return Err(refuse(409, "conflicting-revision"));
                }
                _ => {}
            }
            // A NIC that a state names must be plugged.
            let nics = self.compute.amphorae()[&to.amphora].nics.clone();
            for interface in &state.interfaces {
                let plugged = nics.iter().any(|nic| nic.mac == interface.mac);
                assert!(plugged, "{} is not plugged", interface.name);
            }
            let revision = state.revision();
            self.states.lock().unwrap().insert(to.amphora, state);
            Ok(StateApplied {
                revision,
                changed: true,
                steps: Vec::new(),
            })
        })
    }

    fn state<'a>(
        &'a self,
        _: Address,
        _: &'a str,
    ) -> BoxFuture<'a, Result<StateView, agent_client::Error>> {
        unreachable!("flows do not ask for it")
    }

    fn status<'a>(
        &'a self,
        to: Address,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Status, agent_client::Error>> {
        Box::pin(async move {
            self.check(to)?;
            let revision: Option<Revision> = self.state_of(to.amphora).map(|s| s.revision());
            let router = |vrid| RouterStatus {
                vrid,
                interface: "eth1".into(),
                state: if self.owner() == Some(to.amphora) {
                    RouterState::Active
                } else {
                    RouterState::Backup
                },
                reason: String::new(),
                transitions: 0,
                since_ms: 0,
                addresses: Vec::new(),
                liveness: Vec::new(),
                term: None,
            };
            let state = self.state_of(to.amphora);
            let routers = state.iter().flat_map(|s| &s.vrrp).map(|r| router(r.vrid));
            Ok(Status {
                revision,
                processes: Vec::new(),
                dataplane: Some(DataplaneStatus {
                    version: String::new(),
                    pid: 1,
                    revision,
                    snapshots_alive: 1,
                    listeners: Vec::new(),
                    pools: Vec::new(),
                }),
                vrrp: Some(VrrpStatus {
                    version: String::new(),
                    pid: 1,
                    revision,
                    memory_locked: None,
                    real_time: None,
                    checks: Vec::new(),
                    routers: routers.collect(),
                }),
            })
        })
    }

    fn put_certificate<'a>(
        &'a self,
        to: Address,
        _: &'a Secret,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(), agent_client::Error>> {
        Box::pin(async move {
            self.check(to)?;
            *self
                .certificates
                .lock()
                .unwrap()
                .entry(to.amphora)
                .or_default() += 1;
            Ok(())
        })
    }

    fn forget(&self, _: AmphoraId) {}
}

/// Dies at one point, once; lets one step fail, always.
#[derive(Debug, Default)]
struct CrashOnce {
    at: Mutex<Option<(FlowKind, &'static str, Point)>>,
    fail: Mutex<Option<(FlowKind, &'static str)>>,
    died: Notify,
}

impl CrashPoints for CrashOnce {
    fn pass<'a>(&'a self, flow: FlowKind, step: &'a str, point: Point) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            {
                let mut at = self.at.lock().unwrap();
                if !at.is_some_and(|at| (at.0, at.1, at.2) == (flow, step, point)) {
                    return;
                }
                *at = None;
            }
            self.died.notify_one();
            std::future::pending::<()>().await;
        })
    }

    fn fails(&self, flow: FlowKind, step: &str) -> bool {
        self.fail
            .lock()
            .unwrap()
            .is_some_and(|at| at == (flow, step))
    }
}

struct Rig {
    _dir: tempfile::TempDir,
    world: Arc<World>,
    compute: Arc<FakeCompute>,
    agents: Arc<FakeAgents>,
    crash: Arc<CrashOnce>,
    lb: LoadBalancerId,
}

/// A migrated database with the inventory, to be copied: migrations take longer than a flow.
async fn template(dir: &Path) -> std::path::PathBuf {
    let file = dir.join("template.db");
    let db = Db::open_sqlite(&file).await.unwrap();
    inventory::make(&db, &Config::default()).await.unwrap();
    let copy = dir.join("copy.db");
    use sea_orm::ConnectionTrait as _;
    db.write()
        .execute_unprepared(&format!("VACUUM INTO '{}'", copy.display()))
        .await
        .unwrap();
    copy
}

impl Rig {
    async fn new(template: &Path, topology: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("krater.db");
        std::fs::copy(template, &file).unwrap();
        let db = Db::open_sqlite(&file).await.unwrap();
        let compute = Arc::new(FakeCompute::default());
        let agents = Arc::new(FakeAgents {
            compute: compute.clone(),
            ..FakeAgents::default()
        });
        let crash = Arc::new(CrashOnce::default());
        let pki = Pki::open(&dir.path().join("pki"), SystemTime::now()).unwrap();
        let world = Arc::new(World {
            db,
            compute: compute.clone(),
            agents: agents.clone(),
            pki: Arc::new(pki),
            common: Common {
                epoch: Epoch(1),
                heartbeat: Heartbeat {
                    targets: vec!["100.96.0.1:5555".parse().unwrap()],
                    interval: Millis::literal(1_000),
                    key: Secret::new("key"),
                },
                vrrp: Vrrp::default(),
                logging: Logging::default(),
                vault: Vault::parse(&"0f".repeat(32)).unwrap(),
            },
            settings: Settings {
                step_budget: Duration::from_millis(50),
                undo_budget: Duration::from_millis(50),
                boot_timeout: Duration::from_millis(100),
                ready_timeout: Duration::from_millis(100),
                ..Settings::default()
            },
            crash: crash.clone(),
        });
        let rig = Self {
            _dir: dir,
            world,
            compute,
            agents,
            crash,
            lb: LoadBalancerId::random(),
        };
        rig.insert_load_balancer(topology).await;
        rig
    }

    fn db(&self) -> &Db {
        &self.world.db
    }

    async fn subnet(&self, name: &str) -> crate::db::entity::subnet::Model {
        use crate::db::entity::subnet;
        subnet::Entity::find()
            .filter(subnet::Column::Name.eq(name))
            .one(self.db().read())
            .await
            .unwrap()
            .unwrap()
    }

    async fn insert_load_balancer(&self, topology: &str) {
        let subnet = self.subnet("public-subnet").await;
        let id = self.lb.to_string();
        let new = network::NewPort {
            id: None,
            project_id: "p".into(),
            name: format!("octavia-lb-{id}"),
            network_id: subnet.network_id.clone(),
            device_owner: "Octavia".into(),
            device_id: format!("lb-{id}"),
            admin_state_up: false,
        };
        let (port, ip) = network::create_port(self.db().write(), new, &subnet, None)
            .await
            .unwrap();
        load_balancer::ActiveModel {
            id: Set(id),
            project_id: Set("p".into()),
            name: Set("lb1".into()),
            description: Set(String::new()),
            enabled: Set(true),
            topology: Set(topology.into()),
            flavor_id: Set(None),
            availability_zone: Set(None),
            provider: Set("amphora".into()),
            vip_address: Set(ip.to_string()),
            vip_port_id: Set(port.id),
            additional_vips: Set(None),
            vip_subnet_id: Set(subnet.id),
            vip_network_id: Set(subnet.network_id),
            vip_port_owned: Set(true),
            locked_by_flow: Set(None),
            error_reason: Set(None),
            provisioning_status: Set("PENDING_CREATE".into()),
            operating_status: Set("OFFLINE".into()),
            created_at: Set(now()),
            updated_at: Set(None),
        }
        .insert(self.db().write())
        .await
        .unwrap();
    }

    async fn enqueue(&self, kind: FlowKind, status: Option<&str>, payload: Value) {
        if let Some(status) = status {
            load_balancer::Entity::update_many()
                .col_expr(load_balancer::Column::ProvisioningStatus, status.into())
                .exec(self.db().write())
                .await
                .unwrap();
        }
        let new = NewFlow {
            kind,
            load_balancer_id: status.map(|_| self.lb),
            payload,
            request_id: format!("req-{}", uuid::Uuid::new_v4()),
        };
        queue::enqueue(self.db().write(), new).await.unwrap();
    }

    async fn create(&self) {
        self.enqueue(
            FlowKind::CreateLoadBalancer,
            Some("PENDING_CREATE"),
            json!(Tree::default()),
        )
        .await;
    }

    /// A listener with a pool and one member on the tenant network, as the API would leave them.
    async fn add_tree(&self) -> Tree {
        let (pool_id, listener_id, member_id) = ("11", "22", "33");
        let uuid = |short: &str| format!("00000000-0000-4000-8000-0000000000{short}");
        pool::ActiveModel {
            id: Set(uuid(pool_id)),
            load_balancer_id: Set(self.lb.to_string()),
            project_id: Set("p".into()),
            name: Set(String::new()),
            description: Set(String::new()),
            enabled: Set(true),
            protocol: Set("HTTP".into()),
            lb_algorithm: Set("ROUND_ROBIN".into()),
            provisioning_status: Set("PENDING_CREATE".into()),
            operating_status: Set("OFFLINE".into()),
            created_at: Set(now()),
            updated_at: Set(None),
            tls: Set(None),
        }
        .insert(self.db().write())
        .await
        .unwrap();
        listener::ActiveModel {
            id: Set(uuid(listener_id)),
            load_balancer_id: Set(self.lb.to_string()),
            project_id: Set("p".into()),
            name: Set(String::new()),
            description: Set(String::new()),
            enabled: Set(true),
            protocol: Set("HTTP".into()),
            protocol_port: Set(80),
            connection_limit: Set(-1),
            default_pool_id: Set(Some(uuid(pool_id))),
            insert_headers: Set("{\"X-Forwarded-For\":\"true\"}".into()),
            allowed_cidrs: Set("[]".into()),
            timeout_client_data: Set(50_000),
            timeout_member_connect: Set(5_000),
            timeout_member_data: Set(50_000),
            timeout_tcp_inspect: Set(0),
            provisioning_status: Set("PENDING_CREATE".into()),
            operating_status: Set("OFFLINE".into()),
            created_at: Set(now()),
            updated_at: Set(None),
            tls: Set(None),
        }
        .insert(self.db().write())
        .await
        .unwrap();
        let subnet = self.subnet("tenant-subnet").await;
        member::ActiveModel {
            id: Set(uuid(member_id)),
            pool_id: Set(uuid(pool_id)),
            project_id: Set("p".into()),
            name: Set(String::new()),
            enabled: Set(true),
            address: Set("192.0.2.201".into()),
            protocol_port: Set(8080),
            weight: Set(1),
            backup: Set(false),
            subnet_id: Set(Some(subnet.id)),
            monitor_address: Set(None),
            monitor_port: Set(None),
            provisioning_status: Set("PENDING_CREATE".into()),
            operating_status: Set("NO_MONITOR".into()),
            created_at: Set(now()),
            updated_at: Set(None),
        }
        .insert(self.db().write())
        .await
        .unwrap();
        let item = |resource, id: &str| Item {
            resource,
            id: uuid(id),
            action: Action::Create,
        };
        Tree {
            items: vec![
                item(Resource::Pool, pool_id),
                item(Resource::Listener, listener_id),
                item(Resource::Member, member_id),
            ],
            ..Tree::default()
        }
    }

    /// An amphora in ERROR that no load balancer has any more, as the API hands it over.
    async fn stray(&self) -> String {
        use crate::drivers::compute::Compute as _;
        let mut row = self.amphorae().await.remove(0);
        let (_, found) = self.compute.amphorae().pop_first().unwrap();
        let id = AmphoraId::random();
        let boot = crate::drivers::compute::Boot {
            amphora: id,
            ..found.boot
        };
        self.compute.boot(boot).await.unwrap();
        row.id = id.to_string();
        row.load_balancer_id = None;
        row.status = "PENDING_DELETE".into();
        (row.mgmt_port_id, row.vrrp_port_id) = (None, None);
        let row = sea_orm::IntoActiveModel::into_active_model(row);
        let row = amphora::ActiveModel::reset_all(row);
        amphora::Entity::insert(row)
            .exec(self.db().write())
            .await
            .unwrap();
        id.to_string()
    }

    /// A pair, and a flow that waits; the status with which it ends.
    async fn start(&self, kind: FlowKind) -> &'static str {
        self.create().await;
        if kind == FlowKind::CreateLoadBalancer {
            return "ACTIVE";
        }
        self.run().await;
        let one = async || {
            let row = self.amphorae().await.remove(0);
            json!(OneAmphora { amphora_id: row.id })
        };
        let (status, payload) = match kind {
            FlowKind::UpdateTree => (Some("PENDING_UPDATE"), json!(self.add_tree().await)),
            FlowKind::DeleteLoadBalancer => {
                let cascade = json!(DeleteLoadBalancer { cascade: true });
                self.enqueue(kind, Some("PENDING_DELETE"), cascade).await;
                return "DELETED";
            }
            FlowKind::FailoverAmphora => (Some("PENDING_UPDATE"), one().await),
            FlowKind::RotateCertificate => (None, one().await),
            FlowKind::DeleteAmphora => {
                let id = self.stray().await;
                (None, json!(OneAmphora { amphora_id: id }))
            }
            _ => (Some("PENDING_UPDATE"), Value::Null),
        };
        self.enqueue(kind, status, payload).await;
        "ACTIVE"
    }

    async fn run(&self) {
        let worker = Worker::new(self.world.clone(), "test", 1);
        worker.drain().await.unwrap();
    }

    /// Runs until the crash point, as if the process were killed there, and then a new process.
    async fn run_killed(&self, kind: FlowKind, step: &'static str, point: Point) -> bool {
        *self.crash.at.lock().unwrap() = Some((kind, step, point));
        let worker = Worker::new(self.world.clone(), "killed-first", 1);
        let died = tokio::select! {
            biased;
            () = self.crash.died.notified() => true,
            done = worker.drain() => { done.unwrap(); false }
        };
        *self.crash.at.lock().unwrap() = None;
        journal::release_all(self.db().write(), "killed")
            .await
            .unwrap();
        let worker = Worker::new(self.world.clone(), "second", 1);
        worker.drain().await.unwrap();
        died
    }

    async fn balancer(&self) -> load_balancer::Model {
        load_balancer::Entity::find_by_id(self.lb.to_string())
            .one(self.db().read())
            .await
            .unwrap()
            .unwrap()
    }

    async fn amphorae(&self) -> Vec<amphora::Model> {
        graph::amphorae(self.db().read(), &self.lb.to_string())
            .await
            .unwrap()
    }

    /// Database, compute and agents agree, and nothing is missing, twice or left over.
    async fn check(&self, status: &str, roles: &[&str]) {
        let balancer = self.balancer().await;
        assert_eq!(
            balancer.provisioning_status, status,
            "{:?}",
            balancer.error_reason
        );
        assert_eq!(balancer.locked_by_flow, None);
        let open = journal::list(self.db().read(), true, 10).await.unwrap();
        assert_eq!(open, vec![], "open flows");
        let rows = self.amphorae().await;
        let mut found: Vec<&str> = rows.iter().filter_map(|row| row.role.as_deref()).collect();
        found.sort_unstable();
        assert_eq!(found, roles);
        self.agree(status).await;
    }

    /// See [`Self::check`]; whatever amphorae there are.
    async fn agree(&self, status: &str) {
        let rows = self.amphorae().await;
        let exist = self.compute.amphorae();
        let ids: BTreeSet<String> = exist.keys().map(ToString::to_string).collect();
        let known: BTreeSet<String> = rows.iter().map(|row| row.id.clone()).collect();
        assert_eq!(ids, known, "amphorae that exist, and rows");
        let all_ports = port::Entity::find().all(self.db().read()).await.unwrap();
        let vip_ports = usize::from(status != "DELETED");
        let vip = all_ports
            .iter()
            .filter(|p| p.device_owner == "Octavia")
            .count();
        assert_eq!(vip, vip_ports, "VIP ports");
        for row in &rows {
            assert_eq!(row.status, "ALLOCATED");
            let id: AmphoraId = row.id.parse().unwrap();
            let ports = all_ports.iter().filter(|p| p.device_id == row.id);
            let macs: BTreeSet<String> = ports
                .filter(|p| Some(&p.id) != row.mgmt_port_id.as_ref())
                .map(|p| {
                    assert!(p.admin_state_up, "a plugged port is up");
                    p.mac_address.clone()
                })
                .collect();
            let plugged = exist[&id].nics.iter().map(|nic| nic.mac.to_string());
            assert_eq!(plugged.collect::<BTreeSet<_>>(), macs, "NICs and ports");
            let state = self.agents.state_of(id).expect("pushed");
            let generation = i64::try_from(state.generation.0).unwrap();
            assert_eq!(row.generation_desired, generation);
            assert_eq!(row.generation_applied, generation);
            let peers: BTreeSet<String> = rows
                .iter()
                .filter(|other| other.id != row.id)
                .filter_map(|other| other.vrrp_ip.clone())
                .collect();
            let told = state.vrrp[0].peers.iter().map(ToString::to_string);
            assert_eq!(told.collect::<BTreeSet<_>>(), peers, "peers");
        }
        let owned = |p: &&port::Model| p.device_owner == graph::AMPHORA_PORT;
        for port in all_ports.iter().filter(owned) {
            assert!(known.contains(&port.device_id), "left over: {}", port.name);
        }
        let addresses = address::Entity::find()
            .count(self.db().read())
            .await
            .unwrap();
        assert_eq!(
            addresses,
            u64::try_from(all_ports.len()).unwrap(),
            "addresses"
        );
    }
}

mod undo;

const PAIR: [&str; 2] = ["BACKUP", "MASTER"];

async fn templated() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = template(dir.path()).await;
    (dir, file)
}

#[tokio::test]
async fn a_load_balancer_comes_changes_and_goes() {
    let (_dir, template) = templated().await;
    for (topology, roles) in [
        ("ACTIVE_STANDBY", &PAIR[..]),
        ("SINGLE", &["STANDALONE"][..]),
    ] {
        let rig = Rig::new(&template, topology).await;
        rig.create().await;
        rig.run().await;
        rig.check("ACTIVE", roles).await;
        assert_eq!(rig.balancer().await.operating_status, "ONLINE");

        let tree = rig.add_tree().await;
        rig.enqueue(FlowKind::UpdateTree, Some("PENDING_UPDATE"), json!(tree))
            .await;
        rig.run().await;
        rig.check("ACTIVE", roles).await;
        for row in rig.amphorae().await {
            let state = rig.agents.state_of(row.id.parse().unwrap()).unwrap();
            let names: Vec<&str> = state.interfaces.iter().map(|i| i.name.as_str()).collect();
            assert_eq!(names, ["eth1", "eth2"]);
            let lb = &state.load_balancers[0];
            assert_eq!((lb.listeners.len(), lb.pools[0].members.len()), (1, 1));
        }
        let graph = graph::load(rig.db().read(), &rig.lb.to_string())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(graph.listeners[0].provisioning_status, "ACTIVE");
        assert_eq!(graph.members[0].provisioning_status, "ACTIVE");

        // The last member of the tenant network goes, and with it the NIC.
        member::Entity::update_many()
            .col_expr(member::Column::ProvisioningStatus, "PENDING_DELETE".into())
            .exec(rig.db().write())
            .await
            .unwrap();
        rig.enqueue(
            FlowKind::UpdateTree,
            Some("PENDING_UPDATE"),
            json!(Tree::default()),
        )
        .await;
        rig.run().await;
        rig.check("ACTIVE", roles).await;
        assert!(rig.compute.amphorae().values().all(|a| a.nics.len() == 1));
        assert_eq!(
            member::Entity::find().count(rig.db().read()).await.unwrap(),
            0
        );

        let cascade = json!(DeleteLoadBalancer { cascade: true });
        rig.enqueue(
            FlowKind::DeleteLoadBalancer,
            Some("PENDING_DELETE"),
            cascade,
        )
        .await;
        rig.run().await;
        rig.check("DELETED", &[]).await;
        assert_eq!(
            pool::Entity::find().count(rig.db().read()).await.unwrap(),
            0
        );
        assert_eq!(
            listener::Entity::find()
                .count(rig.db().read())
                .await
                .unwrap(),
            0
        );
        assert_eq!(tag::Entity::find().count(rig.db().read()).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn failover_replaces_one_or_all() {
    let (_dir, template) = templated().await;
    for topology in ["ACTIVE_STANDBY", "SINGLE"] {
        let roles: &[&str] = if topology == "SINGLE" {
            &["STANDALONE"]
        } else {
            &PAIR
        };
        let rig = Rig::new(&template, topology).await;
        rig.create().await;
        rig.run().await;
        let before = rig.compute.amphorae();
        let lb = rig.lb.to_string();
        let first = rig.amphorae().await.remove(0);
        let one = Request::Amphora(first.id.clone());
        assert!(
            request::enqueue(rig.db(), &lb, &one, "test")
                .await
                .unwrap()
                .is_some()
        );
        assert!(
            request::enqueue(rig.db(), &lb, &one, "test")
                .await
                .unwrap()
                .is_none(),
            "held by the first"
        );
        rig.run().await;
        rig.check("ACTIVE", roles).await;
        assert!(rig.amphorae().await.iter().all(|row| row.id != first.id));
        request::enqueue(rig.db(), &lb, &Request::LoadBalancer, "test")
            .await
            .unwrap();
        rig.run().await;
        rig.check("ACTIVE", roles).await;
        let after = rig.compute.amphorae();
        assert!(
            before.keys().all(|id| !after.contains_key(id)),
            "all were replaced"
        );
    }
}

#[tokio::test]
async fn killed_at_every_step_of_every_flow() {
    let (_dir, template) = templated().await;
    let mut killed = 0;
    for kind in kinds::ALL {
        for step in kinds::steps(kind) {
            for point in Point::FORWARD {
                let rig = Rig::new(&template, "ACTIVE_STANDBY").await;
                let end = rig.start(kind).await;
                let died = rig.run_killed(kind, step.name, point).await;
                assert!(died, "{kind:?}:{}:{point:?} was not passed", step.name);
                killed += 1;
                let roles: &[&str] = if end == "DELETED" { &[] } else { &PAIR };
                rig.check(end, roles).await;
            }
        }
    }
    assert!(killed >= 3 * 30, "{killed}");
}

#[tokio::test]
async fn a_create_that_cannot_succeed_leaves_nothing_but_a_reason() {
    let (_dir, template) = templated().await;
    let rig = Rig::new(&template, "ACTIVE_STANDBY").await;
    rig.compute.fail_next("boot", false);
    rig.create().await;
    rig.run().await;
    rig.check("ERROR", &[]).await;
    let reason = rig.balancer().await.error_reason.unwrap();
    assert!(reason.contains("injected fault"), "{reason}");
    // It can be deleted, or failed over, which makes the pair.
    let lb = rig.lb.to_string();
    request::enqueue(rig.db(), &lb, &Request::LoadBalancer, "test")
        .await
        .unwrap();
    rig.run().await;
    rig.check("ACTIVE", &PAIR).await;
    assert_eq!(rig.balancer().await.error_reason, None);
}

#[tokio::test]
async fn a_passing_fault_is_tried_again() {
    let (_dir, template) = templated().await;
    let rig = Rig::new(&template, "ACTIVE_STANDBY").await;
    for what in ["boot", "plug"] {
        rig.compute.fail_next(what, true);
    }
    rig.create().await;
    rig.run().await;
    rig.check("ACTIVE", &PAIR).await;
}

#[tokio::test]
async fn one_silent_amphora_does_not_hold_a_change() {
    let (_dir, template) = templated().await;
    let rig = Rig::new(&template, "ACTIVE_STANDBY").await;
    rig.create().await;
    rig.run().await;
    let rows = rig.amphorae().await;
    let silent: AmphoraId = rows[0].id.parse().unwrap();
    rig.agents.silent.lock().unwrap().insert(silent);
    let tree = rig.add_tree().await;
    rig.enqueue(FlowKind::UpdateTree, Some("PENDING_UPDATE"), json!(tree))
        .await;
    rig.run().await;
    assert_eq!(rig.balancer().await.provisioning_status, "ACTIVE");
    let row = rig.amphorae().await.remove(0);
    assert!(
        row.generation_applied < row.generation_desired,
        "is seen as behind"
    );
    // Its replacement has the newest state.
    let lb = rig.lb.to_string();
    request::enqueue(rig.db(), &lb, &Request::Amphora(row.id), "test")
        .await
        .unwrap();
    rig.run().await;
    rig.check("ACTIVE", &PAIR).await;
    for row in rig.amphorae().await {
        let state = rig.agents.state_of(row.id.parse().unwrap()).unwrap();
        assert_eq!(state.load_balancers[0].listeners.len(), 1);
    }
}

#[tokio::test]
async fn a_restored_database_raises_the_epoch() {
    let (_dir, template) = templated().await;
    let rig = Rig::new(&template, "ACTIVE_STANDBY").await;
    rig.create().await;
    rig.run().await;
    for state in rig.agents.states.lock().unwrap().values_mut() {
        state.generation = krater_model::Generation(900);
    }
    rig.enqueue(
        FlowKind::UpdateLoadBalancer,
        Some("PENDING_UPDATE"),
        Value::Null,
    )
    .await;
    rig.run().await;
    rig.check("ACTIVE", &PAIR).await;
    let states = rig.agents.states.lock().unwrap();
    assert!(states.values().all(|state| state.epoch == Epoch(2)));
}
