use super::*;
use krater_model::MacAddr;
use krater_model::id::AmphoraId;
use krater_model::units::{Epoch, Generation};
use krater_net::PROTO_AGENT;
use krater_net::fake::{FakeKernel, FakeLinks};
use std::sync::Mutex as StdMutex;
use std::time::Duration;

/// Takes what it gets and remembers it; refuses what it is told to.
#[derive(Debug, Default)]
struct FakeFamily {
    calls: StdMutex<Vec<String>>,
    refuse: StdMutex<Option<(&'static str, bool)>>,
}

impl FakeFamily {
    fn call(&self, who: &'static str, revision: Revision) -> Result<Applied, PushError> {
        self.calls.lock().unwrap().push(format!("{who} {revision}"));
        match *self.refuse.lock().unwrap() {
            Some((name, true)) if name == who => Err(PushError::Field(FieldError::new(
                format!("{who}.field"),
                "wrong",
            ))),
            Some((name, false)) if name == who => Err(PushError::Failed("dead".into())),
            _ => Ok(Applied {
                revision,
                changed: true,
            }),
        }
    }
}

impl Family for &FakeFamily {
    async fn snapshot(&self, snapshot: &Snapshot) -> Result<Applied, PushError> {
        self.call("dataplane", snapshot.revision)
    }
    async fn vrrp(&self, config: &VrrpConfig) -> Result<Applied, PushError> {
        self.call("vrrp", config.revision)
    }
    async fn level(&self, level: &str) -> Result<(), PushError> {
        self.calls.lock().unwrap().push(format!("level {level}"));
        Ok(())
    }
}

const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);

fn amphora() -> AmphoraId {
    AmphoraId(uuid::Uuid::from_u128(7))
}

fn state(generation: u64, interfaces: &[(&str, MacAddr, &str)]) -> DesiredState {
    let interfaces: Vec<_> = interfaces
        .iter()
        .map(|(name, mac, address)| {
            serde_json::json!({"name": name, "mac": mac, "role": "vip", "addresses": [address]})
        })
        .collect();
    let document = serde_json::json!({
        "schema": 1, "epoch": 1, "generation": generation, "amphora_id": amphora(),
        "request_id": "req-1", "interfaces": interfaces,
    });
    DesiredState::parse(document.to_string().as_bytes()).unwrap()
}

struct Rig {
    kernel: FakeKernel,
    management: FakeLinks,
    vip: FakeLinks,
    dir: tempfile::TempDir,
    family: FakeFamily,
    patience: Duration,
    listen: IpAddr,
}

impl Rig {
    fn new() -> Self {
        let kernel = FakeKernel::default();
        Self {
            management: kernel.namespace().unwrap(),
            vip: kernel.namespace().unwrap(),
            kernel,
            dir: tempfile::tempdir().unwrap(),
            family: FakeFamily::default(),
            patience: Duration::from_secs(60),
            listen: "100.96.0.2".parse().unwrap(),
        }
    }

    fn applier(&self) -> Applier<FakeLinks, FakeLinks, &FakeFamily> {
        Applier::new(
            Ledger::new(self.dir.path(), amphora(), None),
            Links {
                management: self.management.clone(),
                management_ns: self.management.clone(),
                vip: self.vip.clone(),
                vip_ns: self.vip.clone(),
                patience: self.patience,
            },
            &self.family,
            self.listen,
            false,
        )
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.family.calls.lock().unwrap())
    }

    async fn vip_addresses(&self) -> Vec<String> {
        let all = self.vip.addresses().await.unwrap();
        let own = all.iter().filter(|a| a.protocol == PROTO_AGENT);
        own.map(|address| address.net.to_string()).collect()
    }

    async fn names(&self, links: &FakeLinks) -> Vec<String> {
        let links = links.links().await.unwrap();
        links
            .into_iter()
            .filter(|l| !l.loopback)
            .map(|l| l.name)
            .collect()
    }
}

fn text(error: ApplyError) -> String {
    krater_model::report(&error)
}

#[tokio::test]
async fn a_state_becomes_effective_in_order() {
    let rig = Rig::new();
    let applier = rig.applier();
    rig.management.plug("veth9", MAC);
    let applied = applier
        .apply(state(1, &[("eth1", MAC, "192.0.2.5/24")]))
        .await
        .unwrap();
    assert!(applied.changed);
    assert_eq!(
        applied.steps,
        [
            "claim veth9 as eth1",
            "add 192.0.2.5/24 to eth1",
            "eth1 up",
            "dataplane",
            "vrrp",
            "log level info",
            "ledger"
        ]
    );
    assert_eq!(rig.vip_addresses().await, ["192.0.2.5/24"]);
    assert_eq!(rig.calls(), ["dataplane 1.1", "vrrp 1.1", "level info"]);
    let again = applier
        .apply(state(1, &[("eth1", MAC, "192.0.2.5/24")]))
        .await
        .unwrap();
    assert!(!again.changed && rig.calls().is_empty());
}

#[tokio::test]
async fn revisions_are_ordered() {
    let rig = Rig::new();
    let applier = rig.applier();
    applier.apply(state(5, &[])).await.unwrap();
    rig.calls();
    let older = applier.apply(state(4, &[])).await.unwrap_err();
    assert!(matches!(older, ApplyError::Older { .. }));
    assert!(text(older).contains("revision 1.4 is older than 1.5"));
    let mut other = state(5, &[]);
    other.request_id = "req-2".into();
    assert!(matches!(
        applier.apply(other).await,
        Err(ApplyError::Conflict(_))
    ));
    let mut foreign = state(6, &[]);
    foreign.amphora_id = AmphoraId::random();
    let error = text(applier.apply(foreign).await.unwrap_err());
    assert!(error.starts_with("amphora_id: "), "{error}");
    let mut json = state(6, &[]);
    json.logging.json = true;
    let error = text(applier.apply(json).await.unwrap_err());
    assert!(error.starts_with("logging.json: "), "{error}");
    assert!(rig.calls().is_empty(), "nothing reached the children");
    let mut later_epoch = state(1, &[]);
    later_epoch.epoch = Epoch(2);
    assert!(applier.apply(later_epoch).await.unwrap().changed);
    assert_eq!(applier.current().unwrap().state.generation, Generation(1));
}

#[tokio::test]
async fn a_refused_snapshot_changes_nothing() {
    let rig = Rig::new();
    let applier = rig.applier();
    rig.management.plug("veth9", MAC);
    applier.apply(state(1, &[])).await.unwrap();
    *rig.family.refuse.lock().unwrap() = Some(("dataplane", true));
    let error = applier
        .apply(state(2, &[("eth1", MAC, "192.0.2.5/24")]))
        .await
        .unwrap_err();
    assert_eq!(text(error), "dataplane.field: wrong");
    assert!(rig.vip_addresses().await.is_empty());
    assert!(rig.names(&rig.vip).await.is_empty(), "the NIC went back");
    assert_eq!(applier.current().unwrap().state.generation, Generation(1));
    let restarted = rig.applier();
    restarted.load();
    restarted.restore_links().await;
    assert_eq!(restarted.current().unwrap().state.generation, Generation(1));
    // The same revision, mended or not, is not in force and may come again.
    *rig.family.refuse.lock().unwrap() = None;
    assert!(applier.apply(state(2, &[])).await.unwrap().changed);
}

#[tokio::test]
async fn a_configuration_that_vrrp_refuses_is_taken_back_from_the_data_plane() {
    let rig = Rig::new();
    let applier = rig.applier();
    applier.apply(state(1, &[])).await.unwrap();
    rig.calls();
    *rig.family.refuse.lock().unwrap() = Some(("vrrp", true));
    let error = applier.apply(state(2, &[])).await.unwrap_err();
    assert_eq!(text(error), "vrrp.field: wrong");
    assert_eq!(rig.calls(), ["dataplane 1.2", "vrrp 1.2", "dataplane 1.2"]);
    assert_eq!(applier.current().unwrap().state.generation, Generation(1));
}

#[tokio::test]
async fn a_dead_child_is_an_error_that_a_retry_mends() {
    let rig = Rig::new();
    let applier = rig.applier();
    *rig.family.refuse.lock().unwrap() = Some(("vrrp", false));
    let error = applier.apply(state(1, &[])).await.unwrap_err();
    assert_eq!(text(error), "vrrp: dead");
    *rig.family.refuse.lock().unwrap() = None;
    assert!(applier.apply(state(1, &[])).await.unwrap().changed);
}

#[tokio::test]
async fn a_failing_step_is_undone_and_named() {
    let rig = Rig::new();
    let applier = rig.applier();
    rig.management.plug("veth9", MAC);
    rig.kernel.fail_next("add address", libc::ENOMEM);
    let error = applier
        .apply(state(1, &[("eth1", MAC, "192.0.2.5/24")]))
        .await
        .unwrap_err();
    let error = text(error);
    assert!(error.starts_with("add 192.0.2.5/24 to eth1: "), "{error}");
    assert!(rig.names(&rig.vip).await.is_empty(), "the NIC went back");
    assert!(rig.calls().is_empty());
}

#[tokio::test]
async fn a_nic_may_be_plugged_late_but_not_never() {
    let mut rig = Rig::new();
    rig.patience = Duration::ZERO;
    let applier = rig.applier();
    let wanted = state(1, &[("eth1", MAC, "192.0.2.5/24")]);
    let error = text(applier.apply(wanted.clone()).await.unwrap_err());
    assert!(
        error.contains("fa:16:3e:00:00:01 of interface eth1: plug it in"),
        "{error}"
    );
    rig.patience = Duration::from_secs(60);
    let applier = rig.applier();
    let (applied, ()) = tokio::join!(applier.apply(wanted), async {
        tokio::task::yield_now().await;
        rig.management.plug("veth9", MAC);
    });
    assert!(applied.unwrap().changed);
}

#[tokio::test]
async fn a_nic_no_longer_wanted_goes_back_bare() {
    let rig = Rig::new();
    let applier = rig.applier();
    rig.management.plug("veth9", MAC);
    applier
        .apply(state(1, &[("eth1", MAC, "192.0.2.5/24")]))
        .await
        .unwrap();
    let applied = applier.apply(state(2, &[])).await.unwrap();
    assert_eq!(
        applied.steps,
        [
            "dataplane",
            "vrrp",
            "remove 192.0.2.5/24 from eth1",
            "release eth1",
            "ledger"
        ]
    );
    assert_eq!(rig.names(&rig.management).await, ["eth1"]);
}

#[tokio::test]
async fn a_restart_brings_the_state_back() {
    let rig = Rig::new();
    rig.management.plug("veth9", MAC);
    rig.applier()
        .apply(state(3, &[("eth1", MAC, "192.0.2.5/24")]))
        .await
        .unwrap();
    rig.calls();
    let restarted = rig.applier();
    assert!(restarted.push_snapshot().await.unwrap().is_none());
    restarted.load();
    restarted.restore_links().await;
    restarted.push_snapshot().await.unwrap();
    restarted.push_vrrp().await.unwrap();
    assert_eq!(rig.calls(), ["dataplane 1.3", "vrrp 1.3"]);
    let same = restarted
        .apply(state(3, &[("eth1", MAC, "192.0.2.5/24")]))
        .await
        .unwrap();
    assert!(!same.changed);
}

#[tokio::test]
async fn a_disk_error_changes_nothing() {
    let rig = Rig::new();
    let applier = rig.applier();
    // A folder in the place of the new file: it cannot be written.
    std::fs::create_dir(rig.dir.path().join("ledger.json.new")).unwrap();
    let error = text(applier.apply(state(1, &[])).await.unwrap_err());
    let path = rig.dir.path().display().to_string();
    assert!(
        error.contains(&path) && error.contains("free or repair the disk"),
        "{error}"
    );
    assert!(rig.calls().is_empty() && applier.current().is_none());
}

/// In the image a NIC that waits for the agent is beside the management NIC: only an address tells them apart.
#[tokio::test]
async fn the_management_nic_is_known_by_its_address_also_when_the_agent_serves_at_any() {
    for (listen, refused) in [
        ("100.96.0.2", true),
        ("0.0.0.0", true),
        ("::", true),
        ("100.96.0.3", false),
    ] {
        let mut rig = Rig::new();
        rig.listen = listen.parse().unwrap();
        rig.management.plug("eth0", MAC);
        let link = rig.management.link_by_mac(MAC).await.unwrap().unwrap();
        for net in ["100.96.0.2/16", "fe80::1/64"] {
            let address = krater_net::link::Address {
                link: link.index,
                net: net.parse().unwrap(),
                protocol: 0,
                no_prefix_route: false,
            };
            rig.management.add_address(&address).await.unwrap();
        }
        let applier = rig.applier();
        let outcome = applier
            .apply(state(1, &[("eth1", MAC, "192.0.2.5/24")]))
            .await;
        let is_refused =
            matches!(&outcome, Err(ApplyError::Field(error)) if error.field == "interfaces[0].mac");
        assert_eq!(is_refused, refused, "{listen}: {outcome:?}");
    }
}
