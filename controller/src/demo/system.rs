//! The system under demonstration, through its public interfaces.

use super::api::{Api, text};
use super::client::Client;
use super::host::{Host, interrupted};
use super::limits::Limits;
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(4);
/// How long the controller may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Members of the pool `web`, of the pool `api`, and one that joins `api` later. High addresses, which
/// the controller gives to nobody soon.
pub(super) const MEMBERS: [(&str, Ipv4Addr); 5] = [
    ("web1", Ipv4Addr::new(192, 0, 2, 201)),
    ("web2", Ipv4Addr::new(192, 0, 2, 202)),
    ("web3", Ipv4Addr::new(192, 0, 2, 203)),
    ("api1", Ipv4Addr::new(192, 0, 2, 204)),
    ("api2", Ipv4Addr::new(192, 0, 2, 205)),
];
const CLIENTS: [Ipv4Addr; 2] = [
    Ipv4Addr::new(203, 0, 113, 201),
    Ipv4Addr::new(203, 0, 113, 202),
];

/// Ids that the API gave.
#[derive(Debug, Default)]
pub(super) struct Ids {
    pub(super) load_balancer: String,
    pub(super) listener: String,
    pub(super) web_pool: String,
    pub(super) api_pool: String,
    pub(super) monitor: String,
    pub(super) policy: String,
    pub(super) members: Vec<String>,
}

impl Ids {
    pub(super) fn member(&self, number: usize) -> anyhow::Result<&str> {
        self.members
            .get(number)
            .map(String::as_str)
            .context("the member was not created")
    }
}

/// Controller, clients, and what was created.
#[derive(Debug)]
pub(super) struct System {
    pub(super) host: Host,
    pub(super) api: Api,
    /// Asks single questions.
    pub(super) client: Client,
    /// Probes once a millisecond.
    pub(super) prober: Client,
    pub(super) tenant_subnet: String,
    pub(super) public_subnet: String,
    pub(super) ids: Ids,
    pub(super) vip: IpAddr,
    pub(super) limits: Limits,
}

/// An amphora as the API shows it.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) id: String,
    pub(super) role: String,
    pub(super) status: String,
    pub(super) vrrp_ip: String,
}

/// Starts `krater up` and waits for its `ready:` line.
pub(super) fn start_controller(
    host: &mut Host,
    config: Option<&std::path::Path>,
) -> anyhow::Result<Api> {
    let output = host.file("up.out");
    let mut command = host.krater(&["up", "--listen", "127.0.0.1:0"]);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command.stdout(std::fs::File::create(&output).with_context(|| output.display().to_string())?);
    host.spawn(command, "controller")?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let said = std::fs::read_to_string(&output).unwrap_or_default();
        let ready = said
            .lines()
            .filter(|_| said.ends_with('\n'))
            .find_map(|line| line.strip_prefix("ready: "));
        if let Some(url) = ready {
            return Api::new(url.trim());
        }
        if let Some(status) = host.child("controller")?.try_wait()? {
            bail!(
                "`krater up` ended with {status}:\n  {}",
                host.tail("controller")
            );
        }
        if Instant::now() > deadline {
            bail!(
                "`krater up` was not ready within {} s:\n  {}",
                READY_WITHIN.as_secs(),
                host.tail("controller")
            );
        }
        pause()?;
    }
}

/// Between two looks; ends the demo when somebody wants that.
pub(super) fn pause() -> anyhow::Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    std::thread::sleep(LOOK_EVERY);
    Ok(())
}

impl System {
    /// A controller is ready: makes clients and finds the subnets.
    pub(super) fn new(mut host: Host, api: Api, limits: Limits) -> anyhow::Result<Self> {
        let client = Client::start(&mut host, CLIENTS[0].into(), limits.request_within)?;
        let prober = Client::start(&mut host, CLIENTS[1].into(), limits.request_within)?;
        let subnet = |name: &str| -> anyhow::Result<String> {
            let found = api.get(&format!("/network/v2.0/subnets?name={name}"))?;
            let first = found
                .get("subnets")
                .and_then(|list| list.get(0))
                .cloned()
                .unwrap_or(Value::Null);
            let id = text(&first, &["id"]);
            if id.is_empty() {
                bail!("no subnet {name}: {found}");
            }
            Ok(id.to_owned())
        };
        let (tenant_subnet, public_subnet) = (subnet("tenant-subnet")?, subnet("public-subnet")?);
        let vip = Ipv4Addr::UNSPECIFIED.into();
        Ok(Self {
            host,
            api,
            client,
            prober,
            tenant_subnet,
            public_subnet,
            ids: Ids::default(),
            vip,
            limits,
        })
    }

    /// Starts a built-in member.
    pub(super) fn serve(&mut self, number: usize) -> anyhow::Result<()> {
        let (name, address) = MEMBERS.get(number).context("member")?;
        let command = self.host.krater(&[
            "net",
            "serve",
            "tenant",
            "--ip",
            &address.to_string(),
            "--text",
            name,
        ]);
        self.host.spawn(command, name)?;
        Ok(())
    }

    /// The VIP on a port.
    pub(super) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.vip, port)
    }

    /// Creates an object below `/v2/lbaas/` and gives it back.
    pub(super) fn create(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let answer = self
            .api
            .must("POST", &format!("/v2/lbaas/{path}"), Some(body))?;
        let object = answer
            .as_object()
            .and_then(|map| map.values().next())
            .cloned();
        object.with_context(|| format!("POST {path} answered {answer}"))
    }

    /// The same, until the load balancer is ACTIVE; the new id.
    pub(super) fn create_and_wait(&self, path: &str, body: &Value) -> anyhow::Result<String> {
        let created = self.create(path, body)?;
        self.until_active(self.limits.active_within)
            .with_context(|| format!("after POST {path}"))?;
        Ok(text(&created, &["id"]).to_owned())
    }

    /// Any change, until the load balancer is ACTIVE.
    pub(super) fn change(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<()> {
        self.api
            .must(method, &format!("/v2/lbaas/{path}"), body.as_ref())?;
        self.until_active(self.limits.active_within)
            .with_context(|| format!("after {method} {path}"))
    }

    /// The load balancer as the API shows it.
    pub(super) fn load_balancer(&self) -> anyhow::Result<Value> {
        let answer = self.api.get(&format!(
            "/v2/lbaas/loadbalancers/{}",
            self.ids.load_balancer
        ))?;
        Ok(answer.get("loadbalancer").cloned().unwrap_or(Value::Null))
    }

    pub(super) fn status(&self) -> anyhow::Result<String> {
        Ok(text(&self.load_balancer()?, &["provisioning_status"]).to_owned())
    }

    /// Waits for ACTIVE; ERROR ends the wait.
    pub(super) fn until_active(&self, within: Duration) -> anyhow::Result<()> {
        until(within, "the load balancer is not ACTIVE", || {
            match self.status()?.as_str() {
                "ACTIVE" => Ok(Some(())),
                "ERROR" => bail!("the load balancer is in ERROR"),
                _ => Ok(None),
            }
        })
    }

    /// Its amphorae.
    pub(super) fn amphorae(&self) -> anyhow::Result<Vec<Shown>> {
        let path = format!(
            "/v2/octavia/amphorae?loadbalancer_id={}",
            self.ids.load_balancer
        );
        let answer = self.api.get(&path)?;
        let list = answer
            .get("amphorae")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let field = |amphora: &Value, name: &str| text(amphora, &[name]).to_owned();
        Ok(list
            .iter()
            .map(|a| Shown {
                id: field(a, "id"),
                role: field(a, "role"),
                status: field(a, "status"),
                vrrp_ip: field(a, "vrrp_ip"),
            })
            .filter(|a| a.status != "DELETED")
            .collect())
    }

    /// A complete pair: two allocated amphorae, one of each role, none of them `without`.
    pub(super) fn pair(&self, without: Option<&str>) -> anyhow::Result<Option<Vec<Shown>>> {
        let list = self.amphorae()?;
        let mut roles: Vec<&str> = list
            .iter()
            .filter(|a| a.status == "ALLOCATED")
            .map(|a| a.role.as_str())
            .collect();
        roles.sort_unstable();
        let complete = list.len() == 2
            && roles == ["BACKUP", "MASTER"]
            && !list.iter().any(|a| Some(a.id.as_str()) == without);
        Ok(complete.then_some(list))
    }

    /// The amphora whose hardware address answers for the VIP, and the others, as a client's kernel
    /// resolves them.
    pub(super) fn owner(&mut self) -> anyhow::Result<(Shown, Vec<Shown>)> {
        let list = self.amphorae()?;
        let mut of: Vec<IpAddr> = list.iter().filter_map(|a| a.vrrp_ip.parse().ok()).collect();
        of.push(self.vip);
        let found = self.client.neighbours(of)?;
        let vip = found
            .get(&self.vip)
            .context("nobody answers for the VIP")?
            .clone();
        let owns = |a: &Shown| {
            a.vrrp_ip
                .parse::<IpAddr>()
                .is_ok_and(|ip| found.get(&ip) == Some(&vip))
        };
        let (mut owners, others): (Vec<_>, Vec<_>) = list.into_iter().partition(owns);
        match (owners.pop(), owners.len()) {
            (Some(owner), 0) => Ok((owner, others)),
            _ => bail!("the VIP is at {vip}, which is no single amphora's address: {found:?}"),
        }
    }

    pub(super) fn member_body(&self, number: usize) -> anyhow::Result<Value> {
        let (name, address) = MEMBERS.get(number).context("member")?;
        Ok(json!({"member": {
            "name": name, "address": address, "protocol_port": 80, "subnet_id": self.tenant_subnet,
        }}))
    }
}

/// Looks again and again until there is something.
pub(super) fn until<T>(
    within: Duration,
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{what} after {:.1} s", within.as_secs_f64());
        }
        pause()?;
    }
}
