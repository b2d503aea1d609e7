//! Flows that turn back: whatever step fails, and wherever the controller is killed on the way back,
//! everything is as it was, on amphorae, in rows and in the journal.

use super::*;
use crate::app::{AppState, Caller, listener as listeners, pool as pools};
use crate::config::Topology;
use crate::db::entity::flow_step;
use crate::db::query::graph::Graph;
use crate::db::query::list;
use futures_util::StreamExt as _;

impl Rig {
    async fn graph(&self) -> Graph {
        let loaded = graph::load(self.db().read(), &self.lb.to_string()).await;
        loaded.unwrap().unwrap()
    }

    /// What agents have in force, without who their peers are.
    fn serving(&self) -> BTreeMap<AmphoraId, Vec<krater_model::state::LoadBalancer>> {
        let states = self.agents.states.lock().unwrap();
        let living = self.compute.amphorae();
        states
            .iter()
            .filter(|(id, _)| living.contains_key(id))
            .map(|(id, state)| (*id, state.load_balancers.clone()))
            .collect()
    }

    /// Everything is as before the flow of this kind, which failed at `step`.
    async fn undone(&self, kind: FlowKind, step: &str) {
        let at = format!("{}:{step}", kind.as_str());
        let flows = flow::Entity::find()
            .filter(flow::Column::Kind.eq(kind.as_str()))
            .all(self.db().read())
            .await
            .unwrap();
        assert_eq!(flows[0].state, journal::state::REVERTED, "{at}");
        assert_eq!(
            flows[0].error.as_deref(),
            Some(format!("{step}: injected-fault: {step}").as_str())
        );
        let steps = flow_step::Entity::find()
            .filter(flow_step::Column::FlowId.eq(flows[0].id.clone()))
            .all(self.db().read())
            .await
            .unwrap();
        assert!(steps.iter().all(|step| step.state == "UNDONE"), "{at}");
        let held = matches!(kind, FlowKind::RotateCertificate | FlowKind::DeleteAmphora);
        let balancer = self.balancer().await;
        let (status, reason) = if held {
            ("ACTIVE", None)
        } else {
            ("ERROR", flows[0].error.clone())
        };
        assert_eq!(balancer.provisioning_status, status, "{at}");
        assert_eq!(balancer.error_reason, reason, "{at}");
        // Who was ended stays so; who serves is never ended.
        let names: Vec<&str> = kinds::steps(kind).iter().map(|step| step.name).collect();
        let place = |name: &str| names.iter().position(|found| *found == name);
        let failed = place(step);
        let lacks = ["", "-second"].iter().any(|round| {
            failed >= place(&format!("fence{round}")) && failed <= place(&format!("retire{round}"))
        });
        let count = match kind {
            FlowKind::CreateLoadBalancer | FlowKind::DeleteLoadBalancer => 0,
            FlowKind::FailoverAmphora | FlowKind::FailoverLoadBalancer if lacks => 1,
            _ => 2,
        };
        assert_eq!(self.amphorae().await.len(), count, "{at}");
        self.agree(status).await;
        for row in self.amphorae().await {
            assert!(!row.cert_busy, "{at}");
            let state = self.agents.state_of(row.id.parse().unwrap()).unwrap();
            assert_eq!(state.load_balancers.len(), 1, "{at}: nobody resigned");
            assert_eq!(state.load_balancers[0].listeners, vec![], "{at}");
        }
        if kind == FlowKind::UpdateTree {
            let graph = self.graph().await;
            assert_eq!(graph.listeners[0].provisioning_status, "ERROR", "{at}");
            assert_eq!(graph.members[0].provisioning_status, "ERROR", "{at}");
            let nics = |a: &crate::drivers::compute::fake::FakeAmphora| a.nics.len();
            assert!(self.compute.amphorae().values().all(|a| nics(a) == 1));
        }
    }
}

/// Several rigs at a time: they wait for the disk most of the time.
async fn at_once(cases: impl Iterator<Item = impl Future<Output = ()>>) {
    futures_util::stream::iter(cases)
        .for_each_concurrent(16, |case| case)
        .await;
}

#[tokio::test]
async fn any_step_can_fail() {
    let (_dir, template) = templated().await;
    let steps = |kind| kinds::steps(kind).iter().map(move |step| (kind, step));
    let failed = kinds::ALL.into_iter().flat_map(steps);
    at_once(failed.map(async |(kind, step)| {
        let rig = Rig::new(&template, "ACTIVE_STANDBY").await;
        rig.start(kind).await;
        *rig.crash.fail.lock().unwrap() = Some((kind, step.name));
        rig.run().await;
        rig.undone(kind, step.name).await;
    }))
    .await;
}

#[tokio::test]
async fn killed_at_every_step_back() {
    let (_dir, template) = templated().await;
    let mut cases = Vec::new();
    for kind in kinds::ALL {
        let steps = kinds::steps(kind);
        let last = steps[steps.len() - 1];
        for step in steps {
            // Where the step itself failed, and on the way back from the last one.
            cases.push((kind, *step, *step, Point::TurnBack));
            cases.extend(Point::BACK.map(|point| (kind, *step, *step, point)));
            if *step != last {
                cases.extend(Point::BACK.map(|point| (kind, last, *step, point)));
            }
        }
    }
    assert!(cases.len() >= 6 * 37, "{}", cases.len());
    let killed = cases.into_iter().map(async |(kind, failed, step, point)| {
        let rig = Rig::new(&template, "ACTIVE_STANDBY").await;
        rig.start(kind).await;
        *rig.crash.fail.lock().unwrap() = Some((kind, failed.name));
        let died = rig.run_killed(kind, step.name, point).await;
        assert!(died, "{kind:?}:{}:{point:?} was not passed", step.name);
        rig.undone(kind, failed.name).await;
    });
    at_once(killed).await;
}

fn caller() -> Caller {
    Caller {
        request_id: format!("req-{}", uuid::Uuid::new_v4()),
        project_id: None,
        token: None,
        scope: None,
    }
}

/// One amphora takes the change, the other refuses it: both are brought back, and so are the rows.
#[tokio::test]
async fn a_refused_change_is_undone_on_both_amphorae() {
    let (_dir, template) = templated().await;
    for refuses in [0, 1] {
        let rig = Rig::new(&template, "ACTIVE_STANDBY").await;
        rig.create().await;
        rig.run().await;
        let tree = rig.add_tree().await;
        rig.enqueue(FlowKind::UpdateTree, Some("PENDING_UPDATE"), json!(tree))
            .await;
        rig.run().await;
        rig.check("ACTIVE", &PAIR).await;
        let state = AppState::new(
            rig.db().clone(),
            Topology::ActiveStandby,
            rig.world.common.vault.clone(),
        );
        let id = rig.graph().await.listeners[0].id.clone();
        let tags = ["old".to_owned()];
        list::set_tags(rig.db().write(), &id, &tags).await.unwrap();
        for delete in [false, true] {
            let (rows, serving) = (rig.graph().await, rig.serving());
            let one: AmphoraId = rig.amphorae().await[refuses].id.parse().unwrap();
            *rig.agents.refusing.lock().unwrap() = Some(one);
            if delete {
                listeners::delete(&state, &caller(), &id).await.unwrap();
            } else {
                let change = listeners::Change {
                    name: Some("new".into()),
                    connection_limit: Some(7),
                    default_pool_id: Some(None),
                    tags: Some(vec!["new".into()]),
                    ..listeners::Change::default()
                };
                let done = listeners::update(&state, &caller(), &id, &change).await;
                done.unwrap();
            }
            rig.run().await;
            rig.check("ERROR", &PAIR).await;
            let reason = rig.balancer().await.error_reason.unwrap();
            assert!(reason.contains("bad-field"), "{reason}");
            let after = rig.graph().await;
            assert_eq!(after.listeners, rows.listeners);
            assert_eq!(after.pools, rows.pools);
            assert_eq!(after.members, rows.members);
            let tags = list::tags(rig.db().read(), std::slice::from_ref(&id)).await;
            assert_eq!(tags.unwrap()[&id], ["old"]);
            assert_eq!(rig.serving(), serving, "both serve what they served");
            // The operator's way out.
            *rig.agents.refusing.lock().unwrap() = None;
            let lb = rig.lb.to_string();
            let asked = request::enqueue(rig.db(), &lb, &Request::LoadBalancer, "test").await;
            asked.unwrap();
            rig.run().await;
            rig.check("ACTIVE", &PAIR).await;
            let (now, was) = (rig.serving(), serving);
            assert!(now.values().eq(was.values()), "new ones serve the same");
        }
    }
}

/// The copy of a certificate outlives the change that was to replace it, and the secret that it came from.
#[tokio::test]
async fn a_refused_certificate_leaves_the_old_one_in_use() {
    use crate::app::{secret, tls};
    use crate::db::query::bundle;
    let (_dir, template) = templated().await;
    let rig = Rig::new(&template, "ACTIVE_STANDBY").await;
    rig.create().await;
    rig.run().await;
    let tree = rig.add_tree().await;
    rig.enqueue(FlowKind::UpdateTree, Some("PENDING_UPDATE"), json!(tree))
        .await;
    rig.run().await;
    let vault = rig.world.common.vault.clone();
    let state = AppState::new(rig.db().clone(), Topology::ActiveStandby, vault);
    let store = async || {
        let made = rcgen::generate_simple_self_signed(vec!["ca".into()]).unwrap();
        let new = secret::New {
            name: None,
            secret_type: "opaque".into(),
            algorithm: None,
            bit_length: None,
            mode: None,
            expiration: None,
            payload: Some(secret::Payload {
                content_type: "text/plain".into(),
                bytes: made.cert.pem().into_bytes().into(),
            }),
        };
        secret::create(&state, &caller(), &new).await.unwrap()
    };
    let pool = rig.graph().await.pools[0].id.clone();
    let change = async |secret: &str| {
        let change = pools::Change {
            tls: tls::PoolChange {
                enabled: Some(true),
                ca_ref: Some(Some(format!("http://h/v1/secrets/{secret}"))),
                ..tls::PoolChange::default()
            },
            ..pools::Change::default()
        };
        pools::update(&state, &caller(), &pool, &change)
            .await
            .unwrap();
        rig.run().await;
    };
    let first = store().await;
    change(&first).await;
    rig.check("ACTIVE", &PAIR).await;
    secret::delete(&state, &first).await.unwrap();
    let (rows, serving) = (rig.graph().await, rig.serving());
    assert_eq!(rows.bundles.len(), 1);
    let authority =
        |lb: &krater_model::state::LoadBalancer| lb.pools[0].tls.as_ref().unwrap().ca.clone();
    assert!(
        serving
            .values()
            .flatten()
            .all(|lb| authority(lb).unwrap().as_str() == rows.bundles[0].id)
    );
    let one: AmphoraId = rig.amphorae().await[1].id.parse().unwrap();
    *rig.agents.refusing.lock().unwrap() = Some(one);
    change(&store().await).await;
    rig.check("ERROR", &PAIR).await;
    let after = rig.graph().await;
    assert_eq!((&after.pools, &after.bundles.len()), (&rows.pools, &1));
    assert_eq!(rig.serving(), serving, "both serve what they served");
    // Housekeeping takes the copy that came to nothing, and only that.
    let later = now() + 1_000_000;
    let removed = bundle::collect(rig.db().write(), later, tls::used).await;
    assert_eq!(removed.unwrap(), 1);
    *rig.agents.refusing.lock().unwrap() = None;
    let lb = rig.lb.to_string();
    let asked = request::enqueue(rig.db(), &lb, &Request::LoadBalancer, "test").await;
    asked.unwrap();
    rig.run().await;
    rig.check("ACTIVE", &PAIR).await;
    let now = rig.serving();
    assert!(
        now.values().eq(serving.values()),
        "new amphorae have it too"
    );
}

/// What an undone change made stays in ERROR and out of force until it is changed.
#[tokio::test]
async fn a_child_in_error_is_tried_again_by_a_change() {
    let (_dir, template) = templated().await;
    let rig = Rig::new(&template, "ACTIVE_STANDBY").await;
    rig.start(FlowKind::UpdateTree).await;
    *rig.crash.fail.lock().unwrap() = Some((FlowKind::UpdateTree, "push"));
    rig.run().await;
    rig.undone(FlowKind::UpdateTree, "push").await;
    *rig.crash.fail.lock().unwrap() = None;
    let lb = rig.lb.to_string();
    let asked = request::enqueue(rig.db(), &lb, &Request::LoadBalancer, "test").await;
    asked.unwrap();
    rig.run().await;
    rig.check("ACTIVE", &PAIR).await;
    let empty = |state: &krater_model::state::LoadBalancer| {
        state.listeners.is_empty() && state.pools.is_empty()
    };
    assert!(rig.serving().values().flatten().all(empty));
    let state = AppState::new(
        rig.db().clone(),
        Topology::ActiveStandby,
        rig.world.common.vault.clone(),
    );
    let rows = rig.graph().await;
    let pool = &rows.pools[0].id;
    let refused = listeners::check_pool(rig.db().read(), &lb, pool, "HTTP").await;
    assert_eq!(refused.unwrap_err().status(), http::StatusCode::CONFLICT);
    let change = pools::Change::default();
    pools::update(&state, &caller(), pool, &change)
        .await
        .unwrap();
    rig.run().await;
    rig.check("ACTIVE", &PAIR).await;
    let rows = rig.graph().await;
    assert_eq!(rows.pools[0].provisioning_status, "ACTIVE");
    assert!(
        rig.serving()
            .values()
            .flatten()
            .all(|lb| lb.pools.len() == 1)
    );
}

/// A failover makes the pair of a load balancer whose creation failed, and with it its children.
#[tokio::test]
async fn a_failed_creation_is_made_good_with_its_children() {
    let (_dir, template) = templated().await;
    let rig = Rig::new(&template, "ACTIVE_STANDBY").await;
    let tree = rig.add_tree().await;
    let kind = FlowKind::CreateLoadBalancer;
    rig.enqueue(kind, Some("PENDING_CREATE"), json!(tree)).await;
    *rig.crash.fail.lock().unwrap() = Some((kind, "push"));
    rig.run().await;
    rig.check("ERROR", &[]).await;
    assert_eq!(rig.graph().await.listeners[0].provisioning_status, "ERROR");
    let lb = rig.lb.to_string();
    let asked = request::enqueue(rig.db(), &lb, &Request::LoadBalancer, "test").await;
    asked.unwrap();
    rig.run().await;
    rig.check("ACTIVE", &PAIR).await;
    assert_eq!(rig.graph().await.listeners[0].provisioning_status, "ACTIVE");
    assert!(
        rig.serving()
            .values()
            .flatten()
            .all(|lb| lb.listeners.len() == 1)
    );
}
