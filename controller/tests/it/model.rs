//! Random sequences of requests, compared with a model of the state machine: which answer each gets, to the text, and
//! which state everything is in afterwards. And many writers at the same time, who must not get past its lock.

use crate::common::{Answer, Api};
use krater_controller::db::entity::load_balancer;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sea_orm::EntityTrait as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const LBS: &str = "/v2/lbaas/loadbalancers";
/// Sequences of a run; `KRATER_MODEL_CASES` sets more.
const CASES: u32 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    Create,
    Update,
    Delete,
    Error,
}

impl State {
    const fn text(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Create => "PENDING_CREATE",
            Self::Update => "PENDING_UPDATE",
            Self::Delete => "PENDING_DELETE",
            Self::Error => "ERROR",
        }
    }
}

#[derive(Debug)]
struct Object {
    id: String,
    state: State,
}

impl Object {
    fn new(id: String) -> Self {
        Self {
            id,
            state: State::Create,
        }
    }

    fn settle(&mut self) {
        if matches!(self.state, State::Create | State::Update) {
            self.state = State::Active;
        }
    }

    fn stays(&self) -> bool {
        self.state != State::Delete
    }
}

#[derive(Debug)]
struct Pool {
    own: Object,
    members: Vec<(Object, u8)>,
    monitor: Option<Object>,
}

#[derive(Debug)]
struct Policy {
    own: Object,
    pool: Option<String>,
    rules: Vec<Object>,
}

#[derive(Debug)]
struct Listener {
    own: Object,
    port: u16,
    pool: Option<String>,
    policies: Vec<Policy>,
}

impl Listener {
    fn uses(&self, pool: &str) -> bool {
        let is = |id: &Option<String>| id.as_deref() == Some(pool);
        is(&self.pool) || self.policies.iter().any(|policy| is(&policy.pool))
    }
}

#[derive(Debug)]
struct Balancer {
    own: Object,
    listeners: Vec<Listener>,
    pools: Vec<Pool>,
}

/// What a request gets: a status, and the text of a refusal.
type Expected = (u16, String);

const fn good(status: u16) -> Expected {
    (status, String::new())
}

fn immutable(kind: &str, id: &str) -> Expected {
    (
        409,
        format!("{kind} {id} is immutable and cannot be updated."),
    )
}

impl Balancer {
    /// For what is below it.
    fn gate(&self) -> Option<Expected> {
        let open = self.own.state == State::Active;
        (!open).then(|| immutable("Load Balancer", &self.own.id))
    }

    /// For itself.
    fn own_gate(&self, from: &[State]) -> Option<Expected> {
        let (id, state) = (&self.own.id, self.own.state);
        let text = || {
            format!(
                "Invalid state {} of loadbalancer resource {id}",
                state.text()
            )
        };
        (!from.contains(&state)).then(|| (409, text()))
    }

    fn touch_users(&mut self, pool: &str) {
        for listener in self.listeners.iter_mut().filter(|l| l.uses(pool)) {
            listener.own.state = State::Update;
        }
    }

    fn settle(&mut self) {
        self.own.settle();
        for listener in &mut self.listeners {
            listener.own.settle();
            for policy in &mut listener.policies {
                policy.own.settle();
                policy.rules.iter_mut().for_each(Object::settle);
                policy.rules.retain(Object::stays);
            }
            listener.policies.retain(|policy| policy.own.stays());
        }
        self.listeners.retain(|listener| listener.own.stays());
        for pool in &mut self.pools {
            pool.own.settle();
            pool.members
                .iter_mut()
                .for_each(|(member, _)| member.settle());
            pool.members.retain(|(member, _)| member.stays());
            pool.monitor.iter_mut().for_each(Object::settle);
            pool.monitor = pool.monitor.take().filter(Object::stays);
        }
        let gone: Vec<String> = self
            .pools
            .iter()
            .filter(|p| !p.own.stays())
            .map(|p| p.own.id.clone())
            .collect();
        self.pools.retain(|pool| pool.own.stays());
        for listener in &mut self.listeners {
            listener.pool = listener.pool.take().filter(|id| !gone.contains(id));
        }
    }
}

/// Kind of the operation, and numbers that choose what it is about.
type Op = (u8, u8, u8, u8);
const KINDS: u8 = 26;

fn pick<T>(list: &mut [T], number: u8) -> Option<&mut T> {
    let at = usize::from(number).checked_rem(list.len())?;
    list.get_mut(at)
}

struct Model<'a> {
    api: &'a Api,
    balancers: Vec<Balancer>,
    /// Ids of load balancers that are gone.
    gone: Vec<String>,
}

/// A request, what it shall get, and what is then true.
struct Step<'m> {
    method: &'static str,
    path: String,
    body: Option<Value>,
    expected: Expected,
    /// What a success does; a creation is given its id.
    then: Box<dyn FnOnce(String) + 'm>,
}

fn step<'m>(
    method: &'static str,
    path: String,
    body: Option<Value>,
    refusal: Option<Expected>,
    status: u16,
    then: Box<dyn FnOnce(String) + 'm>,
) -> Option<Step<'m>> {
    let expected = refusal.unwrap_or_else(|| good(status));
    Some(Step {
        method,
        path,
        body,
        expected,
        then,
    })
}

impl Model<'_> {
    /// The request of an operation; none when there is nothing for it.
    fn step(&mut self, (kind, a, b, c): Op) -> Option<Step<'_>> {
        if kind == 0 && self.balancers.len() < 2 {
            let body = json!({"loadbalancer": {"vip_subnet_id": self.api.subnet}});
            let balancers = &mut self.balancers;
            let then = Box::new(move |id| {
                let own = Object::new(id);
                balancers.push(Balancer {
                    own,
                    listeners: Vec::new(),
                    pools: Vec::new(),
                });
            });
            return step("POST", LBS.to_owned(), Some(body), None, 201, then);
        }
        if kind == 1 {
            // One that is gone.
            let id = pick(&mut self.gone, a)?.clone();
            let missing = (404, format!("Load Balancer {id} not found."));
            let (method, path, body) = match b % 4 {
                0 => ("GET", format!("{LBS}/{id}"), None),
                1 => ("DELETE", format!("{LBS}/{id}"), None),
                2 => ("PUT", format!("{LBS}/{id}/failover"), None),
                _ => {
                    let body = json!({"listener": {"loadbalancer_id": id, "protocol": "HTTP", "protocol_port": 80}});
                    ("POST", "/v2/lbaas/listeners".to_owned(), Some(body))
                }
            };
            return step(method, path, body, Some(missing), 0, Box::new(drop));
        }
        let lb = pick(&mut self.balancers, a)?;
        let id = lb.own.id.clone();
        let itself = format!("{LBS}/{id}");
        let any = [State::Active, State::Error];
        let gate = lb.gate();
        match kind {
            2 => {
                let gate = lb.own_gate(&[State::Active]);
                let body = json!({"loadbalancer": {"name": format!("n{b}")}});
                let then = Box::new(move |_| lb.own.state = State::Update);
                step("PUT", itself, Some(body), gate, 200, then)
            }
            3 => {
                let cascade = b % 2 == 0;
                let children = !lb.listeners.is_empty() || !lb.pools.is_empty();
                let gate = if children && !cascade {
                    let text = format!(
                        "Validation failure: Cannot delete Load Balancer {id} - it has children"
                    );
                    Some((400, text))
                } else {
                    lb.own_gate(&any)
                };
                let then = Box::new(move |_| lb.own.state = State::Delete);
                step(
                    "DELETE",
                    format!("{itself}?cascade={cascade}"),
                    None,
                    gate,
                    204,
                    then,
                )
            }
            4 => {
                let gate = lb.own_gate(&any);
                let then = Box::new(move |_| lb.own.state = State::Update);
                step("PUT", format!("{itself}/failover"), None, gate, 202, then)
            }
            5 | 6 => {
                let port = 80 + u16::from(b % 3);
                let pool = pick(&mut lb.pools, c).map(|pool| (pool.own.id.clone(), pool.own.state));
                let pool = pool
                    .filter(|(_, state)| kind == 6 && *state != State::Delete)
                    .map(|(id, _)| id);
                let twin = lb.listeners.iter().any(|listener| listener.port == port);
                let gate = gate.or_else(|| {
                    let text = format!("Another Listener on this Load Balancer is already using protocol HTTP and protocol_port {port}");
                    twin.then_some((409, text))
                });
                let body = json!({"listener": {"loadbalancer_id": id, "protocol": "HTTP", "protocol_port": port,
                    "default_pool_id": pool}});
                let then = Box::new(move |id| {
                    lb.own.state = State::Update;
                    let own = Object::new(id);
                    lb.listeners.push(Listener {
                        own,
                        port,
                        pool,
                        policies: Vec::new(),
                    });
                });
                step(
                    "POST",
                    "/v2/lbaas/listeners".to_owned(),
                    Some(body),
                    gate,
                    201,
                    then,
                )
            }
            7 | 8 => {
                let (balancer, listeners) = (&mut lb.own, &mut lb.listeners);
                let listener = pick(listeners, b)?;
                let path = format!("/v2/lbaas/listeners/{}", listener.own.id);
                let (method, body, state, status) = if kind == 7 {
                    let body = json!({"listener": {"name": format!("n{c}")}});
                    ("PUT", Some(body), State::Update, 200)
                } else {
                    ("DELETE", None, State::Delete, 204)
                };
                let then = Box::new(move |_| {
                    balancer.state = State::Update;
                    listener.own.state = state;
                });
                step(method, path, body, gate, status, then)
            }
            9 | 10 => {
                let body = json!({"pool": {"loadbalancer_id": id, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}});
                let then = Box::new(move |id| {
                    lb.own.state = State::Update;
                    let own = Object::new(id);
                    lb.pools.push(Pool {
                        own,
                        members: Vec::new(),
                        monitor: None,
                    });
                });
                step(
                    "POST",
                    "/v2/lbaas/pools".to_owned(),
                    Some(body),
                    gate,
                    201,
                    then,
                )
            }
            11 | 12 => {
                let pool = pick(&mut lb.pools, b)?.own.id.clone();
                let path = format!("/v2/lbaas/pools/{pool}");
                let redirected = lb.listeners.iter().flat_map(|l| &l.policies);
                let redirected = redirected
                    .filter(|p| p.pool.as_ref() == Some(&pool))
                    .count();
                let (method, body, state, status) = if kind == 11 {
                    let body = json!({"pool": {"lb_algorithm": "LEAST_CONNECTIONS"}});
                    ("PUT", Some(body), State::Update, 200)
                } else {
                    ("DELETE", None, State::Delete, 204)
                };
                let used = (409, format!("Pool {pool} is in use by L7 policy "));
                let gate = if kind == 12 && redirected > 0 {
                    Some(used)
                } else {
                    gate
                };
                let then = Box::new(move |_| {
                    lb.own.state = State::Update;
                    lb.touch_users(&pool);
                    let own = lb.pools.iter_mut().find(|p| p.own.id == pool);
                    own.unwrap().own.state = state;
                });
                step(method, path, body, gate, status, then)
            }
            13..=19 => below_pool(lb, gate, (kind, b, c)),
            20..=25 => below_listener(lb, gate, (kind, b, c)),
            _ => None,
        }
    }
}

/// Members and monitors: their pool must be ACTIVE, then the load balancer.
fn below_pool(
    lb: &mut Balancer,
    gate: Option<Expected>,
    (kind, b, c): (u8, u8, u8),
) -> Option<Step<'_>> {
    let at = usize::from(b).checked_rem(lb.pools.len())?;
    let pool = lb.pools.get_mut(at)?;
    let id = pool.own.id.clone();
    let members = format!("/v2/lbaas/pools/{id}/members");
    let locked = (pool.own.state != State::Active).then(|| immutable("Pool", &id));
    let mut expected = locked.or(gate);
    let address = c % 4;
    let (method, path, body, status);
    let state = match kind {
        13 | 14 | 17 => State::Create,
        15 | 18 => State::Update,
        _ => State::Delete,
    };
    match kind {
        13 | 14 => {
            let body_of = json!({"address": format!("10.0.0.{address}"), "protocol_port": 80});
            let twin = pool.members.iter().any(|(_, known)| *known == address);
            let text = format!(
                "Another member on this pool is already using ip 10.0.0.{address} on protocol_port 80"
            );
            expected = expected.or_else(|| twin.then_some((409, text)));
            (method, path, body, status) = ("POST", members, Some(json!({"member": body_of})), 201);
        }
        15 | 16 => {
            let (member, _) = pick(&mut pool.members, c)?;
            path = format!("{members}/{}", member.id);
            let change = json!({"member": {"weight": c}});
            (method, body, status) = if kind == 15 {
                ("PUT", Some(change), 200)
            } else {
                ("DELETE", None, 204)
            };
        }
        17 => {
            let new = json!({"healthmonitor": {"pool_id": id, "type": "TCP", "delay": 1, "timeout": 1, "max_retries": 1}});
            let twin = pool.monitor.is_some();
            let text = "This pool already has a health monitor".to_owned();
            expected = expected.or_else(|| twin.then_some((409, text)));
            (method, path, body, status) = (
                "POST",
                "/v2/lbaas/healthmonitors".to_owned(),
                Some(new),
                201,
            );
        }
        _ => {
            let monitor = pool.monitor.as_ref()?;
            path = format!("/v2/lbaas/healthmonitors/{}", monitor.id);
            let change = json!({"healthmonitor": {"delay": 1 + i32::from(c)}});
            (method, body, status) = if kind == 18 {
                ("PUT", Some(change), 200)
            } else {
                ("DELETE", None, 204)
            };
        }
    }
    let then = Box::new(move |new: String| {
        lb.own.state = State::Update;
        lb.touch_users(&id);
        let Some(pool) = lb.pools.get_mut(at) else {
            return;
        };
        pool.own.state = State::Update;
        match kind {
            13 | 14 => pool.members.push((Object::new(new), address)),
            17 => pool.monitor = Some(Object::new(new)),
            15 | 16 => pick(&mut pool.members, c)
                .into_iter()
                .for_each(|(member, _)| member.state = state),
            _ => pool
                .monitor
                .iter_mut()
                .for_each(|monitor| monitor.state = state),
        }
    });
    step(method, path, body, expected, status, then)
}

/// Policies and rules.
fn below_listener(
    lb: &mut Balancer,
    gate: Option<Expected>,
    (kind, b, c): (u8, u8, u8),
) -> Option<Step<'_>> {
    let target = pick(&mut lb.pools, c)
        .filter(|pool| pool.own.stays())
        .map(|pool| pool.own.id.clone());
    let target = target.filter(|_| c % 2 == 0);
    let (balancer, listener) = (&mut lb.own, pick(&mut lb.listeners, b)?);
    let (method, path, body, status);
    let mut expected = gate;
    if kind == 20 {
        let action = if target.is_some() {
            "REDIRECT_TO_POOL"
        } else {
            "REJECT"
        };
        let new = json!({"l7policy": {"listener_id": listener.own.id, "action": action, "redirect_pool_id": target}});
        let then = Box::new(move |id| {
            balancer.state = State::Update;
            listener.own.state = State::Update;
            listener.policies.push(Policy {
                own: Object::new(id),
                pool: target,
                rules: Vec::new(),
            });
        });
        let path = "/v2/lbaas/l7policies".to_owned();
        return step("POST", path, Some(new), expected, 201, then);
    }
    let (owner, policy) = (&mut listener.own, pick(&mut listener.policies, c)?);
    let rules = format!("/v2/lbaas/l7policies/{}/rules", policy.own.id);
    if kind > 22 {
        let locked = policy.own.state != State::Active;
        expected = locked
            .then(|| immutable("L7Policy", &policy.own.id))
            .or(expected);
    }
    let rule =
        json!({"rule": {"type": "PATH", "compare_type": "EQUAL_TO", "value": format!("/{c}")}});
    match kind {
        21 | 22 => {
            path = format!("/v2/lbaas/l7policies/{}", policy.own.id);
            let change = json!({"l7policy": {"name": format!("n{c}")}});
            (method, body, status) = if kind == 21 {
                ("PUT", Some(change), 200)
            } else {
                ("DELETE", None, 204)
            };
        }
        23 => (method, path, body, status) = ("POST", rules, Some(rule), 201),
        _ => {
            let known = pick(&mut policy.rules, b)?;
            path = format!("{rules}/{}", known.id);
            (method, body, status) = if kind == 24 {
                ("PUT", Some(rule), 200)
            } else {
                ("DELETE", None, 204)
            };
        }
    }
    let then = Box::new(move |id: String| {
        balancer.state = State::Update;
        owner.state = State::Update;
        policy.own.state = if kind == 22 {
            State::Delete
        } else {
            State::Update
        };
        match kind {
            23 => policy.rules.push(Object::new(id)),
            24 => pick(&mut policy.rules, b)
                .into_iter()
                .for_each(|rule| rule.state = State::Update),
            25 => pick(&mut policy.rules, b)
                .into_iter()
                .for_each(|rule| rule.state = State::Delete),
            _ => {}
        }
    });
    step(method, path, body, expected, status, then)
}

impl Model<'_> {
    async fn run(&mut self, ops: &[Op]) {
        for op in ops {
            match op.0 {
                // Flows end, each time some requests have been made.
                kind if kind > KINDS => self.settle().await,
                KINDS => self.break_one(op.1).await,
                _ => self.request(*op).await,
            }
            self.compare(op).await;
        }
    }

    async fn request(&mut self, op: Op) {
        let api = self.api;
        let Some(step) = self.step(op) else { return };
        let method = step.method.parse().unwrap();
        let answer = api.call(method, &step.path, step.body.as_ref()).await;
        let (status, text) = &step.expected;
        let what = format!("{} {} {:?}", step.method, step.path, step.body);
        assert_eq!(
            answer.status.as_u16(),
            *status,
            "{what}: {}, not {text}",
            answer.text
        );
        if *status >= 400 {
            let said = answer.fault(*status);
            assert!(
                said.starts_with(text.as_str()),
                "{what}: {said}, not {text}"
            );
        } else {
            (step.then)(created(&answer).unwrap_or_default());
        }
    }

    async fn settle(&mut self) {
        self.api.settle().await;
        self.balancers.iter_mut().for_each(Balancer::settle);
        let gone = self.balancers.iter().filter(|lb| !lb.own.stays());
        self.gone.extend(gone.map(|lb| lb.own.id.clone()));
        self.balancers.retain(|lb| lb.own.stays());
    }

    /// A flow failed: the load balancer is in ERROR.
    async fn break_one(&mut self, number: u8) {
        let Some(lb) = pick(&mut self.balancers, number) else {
            return;
        };
        if lb.own.state == State::Active {
            self.api.set_lb(&lb.own.id, "ERROR").await;
            lb.own.state = State::Error;
        }
    }

    /// What the API shows is what the model has.
    async fn compare(&self, op: &Op) {
        let mut lists = vec![
            "loadbalancers",
            "listeners",
            "pools",
            "healthmonitors",
            "l7policies",
        ];
        let mut model = BTreeMap::new();
        let mut add = |object: &Object| {
            model.insert(object.id.clone(), object.state.text().to_owned());
        };
        let mut nested = Vec::new();
        for lb in &self.balancers {
            add(&lb.own);
            for listener in &lb.listeners {
                add(&listener.own);
                for policy in &listener.policies {
                    add(&policy.own);
                    policy.rules.iter().for_each(&mut add);
                    nested.push(format!("l7policies/{}/rules", policy.own.id));
                }
            }
            for pool in &lb.pools {
                add(&pool.own);
                pool.members.iter().for_each(|(member, _)| add(member));
                pool.monitor.iter().for_each(&mut add);
                nested.push(format!("pools/{}/members", pool.own.id));
            }
        }
        lists.extend(nested.iter().map(String::as_str));
        let mut shown = BTreeMap::new();
        for list in lists {
            let key = list.rsplit('/').next().unwrap();
            let page = self.api.get(&format!("/v2/lbaas/{list}")).await.ok(200);
            for item in page[key].as_array().unwrap() {
                let text = |name: &str| item[name].as_str().unwrap().to_owned();
                shown.insert(text("id"), text("provisioning_status"));
            }
        }
        assert_eq!(shown, model, "after {op:?}");
    }
}

/// The id of what was made.
fn created(answer: &Answer) -> Option<String> {
    let body: Value = serde_json::from_str(&answer.text).ok()?;
    let object = body.as_object()?.values().next()?;
    object["id"].as_str().map(str::to_owned)
}

#[test]
fn random_sequences_are_answered_as_the_model_says() {
    let cases = std::env::var("KRATER_MODEL_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // Settling is drawn often enough that most requests find things ACTIVE.
    let op = (0..KINDS + 20, any::<u8>(), any::<u8>(), any::<u8>());
    let ops = proptest::collection::vec(op, 20..90);
    let result = TestRunner::new(config).run(&ops, |ops| {
        runtime.block_on(async {
            let api = Api::new().await;
            let mut model = Model {
                api: &api,
                balancers: Vec::new(),
                gone: Vec::new(),
            };
            // A tree to begin with.
            let settle = (KINDS + 1, 0, 0, 0);
            for first in [0, 9, 6, 13, 17, 20, 23] {
                model.run(&[(first, 0, 0, 0), settle]).await;
            }
            model.run(&ops).await;
        });
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// The negative control: a load balancer that is in another state than the model has it, and a request that is answered
/// otherwise than it says.
#[tokio::test]
async fn what_differs_from_the_model_is_found() {
    for (break_it, ops) in [(true, [(0, 0, 0, 0)].as_slice()), (false, &[])] {
        let local = tokio::task::LocalSet::new();
        let found = local.spawn_local(async move {
            let api = Api::new().await;
            let balancers = Vec::new();
            let mut model = Model {
                api: &api,
                balancers,
                gone: Vec::new(),
            };
            model.run(&[(0, 0, 0, 0), (KINDS + 1, 0, 0, 0)]).await;
            if break_it {
                api.set_lb(&model.balancers[0].own.id, "ERROR").await;
            } else {
                model.balancers[0].own.state = State::Error;
            }
            for op in ops {
                model.compare(op).await;
            }
            // A change of a load balancer in ERROR is refused.
            model.request((2, 0, 0, 0)).await;
        });
        let found = local.run_until(found).await;
        assert!(found.unwrap_err().is_panic(), "{break_it}");
    }
}

/// What the lock guarantees while nothing settles: a load balancer is PENDING exactly while one flow is there for it.
pub(crate) async fn locks_hold(api: &Api) {
    let flows = api.pending().await;
    let rows = load_balancer::Entity::find()
        .all(api.db.read())
        .await
        .unwrap();
    for row in rows {
        let of = flows
            .iter()
            .filter(|flow| flow.load_balancer_id.as_ref() == Some(&row.id));
        let pending = usize::from(row.provisioning_status.starts_with("PENDING"));
        assert_eq!(
            of.count(),
            pending,
            "{}: {}",
            row.id,
            row.provisioning_status
        );
    }
}

/// Writers that all want to change the same load balancers at the same time: of each round's changes of one of them, one is
/// taken. Gives what was acknowledged as made, and how many changes were taken.
pub(crate) async fn round(api: &Arc<Api>, lbs: &[String], number: usize) -> (Vec<String>, usize) {
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..24_usize {
        let (api, lb) = (api.clone(), lbs[writer % lbs.len()].clone());
        tasks.spawn(async move {
            let port = 1_000 + number * 100 + writer;
            let answer = match writer % 4 {
                0 | 1 => {
                    let body = json!({"listener": {"loadbalancer_id": lb, "protocol": "HTTP", "protocol_port": port}});
                    api.post("/v2/lbaas/listeners", body).await
                }
                2 => {
                    let body = json!({"pool": {"loadbalancer_id": lb, "protocol": "HTTP", "lb_algorithm": "SOURCE_IP"}});
                    api.post("/v2/lbaas/pools", body).await
                }
                _ => api.put(&format!("{LBS}/{lb}"), json!({"loadbalancer": {"name": "n"}})).await,
            };
            let made = answer.status == 201;
            let kind = if answer.text.contains("protocol_port") { "listeners" } else { "pools" };
            let path = created(&answer).filter(|_| made).map(|id| format!("/v2/lbaas/{kind}/{id}"));
            (lb, answer.status.as_u16(), path)
        });
    }
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let mut made = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (lb, status, path) = done.unwrap();
        assert!([200, 201, 409, 503].contains(&status), "{status}");
        *taken.entry(lb).or_default() += usize::from(status < 300);
        made.extend(path);
    }
    assert!(taken.values().all(|count| *count <= 1), "{taken:?}");
    (made, taken.values().sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_concurrent_changes_one_is_taken() {
    let api = Arc::new(Api::new().await);
    let lbs = [api.lb("a").await, api.lb("b").await, api.lb("c").await];
    for number in 0..4 {
        let (made, taken) = round(&api, &lbs, number).await;
        assert_eq!(taken, lbs.len(), "each is changed once");
        locks_hold(&api).await;
        api.settle().await;
        for path in made {
            api.get(&path).await.ok(200);
        }
    }
}

/// The negative control: a load balancer that is given back too early is found.
#[tokio::test]
#[should_panic(expected = "left == right")]
async fn a_lock_that_is_lost_is_found() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let body = json!({"loadbalancer": {"name": "n"}});
    api.put(&format!("{LBS}/{lb}"), body).await.ok(200);
    locks_hold(&api).await;
    api.set_lb(&lb, "ACTIVE").await;
    locks_hold(&api).await;
}
