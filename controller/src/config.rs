//! `krater.toml`: the controller's configuration. Unknown keys are refused.

use crate::db::server::Address;
use ipnet::IpNet;
use krater_model::{Centiseconds, FieldError, Millis, VrrpVersion};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The whole file. Every key has a default; an empty file is valid.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The REST API.
    pub api: Api,
    /// Who may use it.
    pub keystone: Keystone,
    /// Where everything is kept.
    pub database: Database,
    /// What users store for listeners and pools.
    pub secrets: Secrets,
    /// Load balancers and amphorae.
    pub controller: Controller,
    /// Virtual machines of the `qemu` driver.
    pub qemu: Qemu,
    /// Heartbeats.
    pub heartbeat: Heartbeat,
    /// Takeover between two amphorae.
    pub vrrp: Vrrp,
    /// Certificates of the amphorae.
    pub certificates: Certificates,
    /// Clean-up of what was deleted.
    pub housekeeping: Housekeeping,
    /// Logs.
    pub logging: Logging,
    /// Networks of the `local` network driver, made at the first start.
    pub networks: Vec<Network>,
}

/// `[api]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Where it listens. Without authentication only loopback addresses are accepted.
    pub listen: SocketAddr,
    /// File with the tokens of those who may use the API. None: everybody may.
    pub tokens: Option<PathBuf>,
    /// File with rules that differ from those as shipped. None: it needs no authentication.
    pub policy: Option<PathBuf>,
    /// Listen on other addresses than loopback without authentication.
    pub allow_unauthenticated: bool,
    /// PEM file with the API's certificate and what it was issued by. None: it is plain HTTP.
    pub tls_cert: Option<PathBuf>,
    /// PEM file with that certificate's key.
    pub tls_key: Option<PathBuf>,
    /// How long a request may wait for its body, and then for the database.
    pub deadline_ms: Millis,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9876)),
            tokens: None,
            policy: None,
            allow_unauthenticated: false,
            tls_cert: None,
            tls_key: None,
            deadline_ms: Millis::literal(20_000),
        }
    }
}

impl Api {
    /// Whether everybody who reaches it may do everything.
    pub const fn is_open(&self, keystone: &Keystone) -> bool {
        self.tokens.is_none() && keystone.url.is_none()
    }
}

/// `[keystone]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keystone {
    /// Where Keystone is. None: it is not asked.
    pub url: Option<String>,
    /// The user whose token we show it: one that may validate others' (role `service` or `admin`).
    pub username: Option<String>,
    /// File with that user's password.
    pub password_file: Option<PathBuf>,
    /// Name of the domain of that user.
    pub user_domain: String,
    /// Name of the project in which that user has its role.
    pub project: String,
    /// Name of the domain of that project.
    pub project_domain: String,
    /// PEM file with the authorities of Keystone's certificate. None: those of the system.
    pub ca_file: Option<PathBuf>,
    /// How long a token is believed without asking again, at most until it ends. 0: never.
    pub cache_seconds: u32,
}

impl Default for Keystone {
    fn default() -> Self {
        Self {
            url: None,
            username: None,
            password_file: None,
            user_domain: "Default".into(),
            project: "service".into(),
            project_domain: "Default".into(),
            ca_file: None,
            cache_seconds: 300,
        }
    }
}

/// `[database]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// `postgres://…` or `mysql://…`. None: the file `krater.db` of the state folder. Printed without its password.
    pub url: Option<Address>,
}

/// Who keeps secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretsDriver {
    /// We do, sealed in the database.
    #[default]
    Local,
    /// Another key manager with Barbican's API.
    Barbican,
}

/// `[secrets]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Secrets {
    /// Who keeps them.
    pub driver: SecretsDriver,
    /// Where the other key manager is.
    pub url: Option<String>,
    /// PEM file with the authorities of its certificate. None: those of the system.
    pub ca_file: Option<PathBuf>,
}

/// How many amphorae a load balancer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Topology {
    /// One.
    Single,
    /// Two; one takes over from the other.
    #[default]
    ActiveStandby,
}

impl Topology {
    /// As in the database and Octavia's API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Single => "SINGLE",
            Self::ActiveStandby => "ACTIVE_STANDBY",
        }
    }
}

/// What makes amphorae and their networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Drivers {
    /// Namespaces and processes of this host.
    #[default]
    Netns,
    /// Virtual machines of this host.
    Qemu,
    /// Nothing: the API alone, for the test suites of its clients.
    Noop,
}

/// `[controller]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Controller {
    /// What makes amphorae and their networks.
    pub drivers: Drivers,
    /// Topology of new load balancers.
    pub topology: Topology,
    /// Flows that run at the same time.
    pub workers: usize,
    /// The `amphora` program. None: the file of that name beside `krater`.
    pub amphora_bin: Option<PathBuf>,
    /// Worker threads of each amphora's data plane. None: one per CPU.
    pub amphora_workers: Option<u16>,
    /// How long a new amphora may take until its agent answers.
    pub boot_timeout_ms: Millis,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            drivers: Drivers::default(),
            topology: Topology::default(),
            workers: 8,
            amphora_bin: None,
            amphora_workers: None,
            boot_timeout_ms: Millis::literal(30_000),
        }
    }
}

/// How the processors of virtual machines are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    /// KVM where it runs the image, which is tried at the first boot; else TCG.
    #[default]
    Auto,
    /// By the host's processors.
    Kvm,
    /// By translation: slow, and everywhere.
    Tcg,
}

/// What virtual machines start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootFrom {
    /// Kernel and initrd of the image, at once.
    #[default]
    Kernel,
    /// The image's disk through BIOS and boot loader, as in a cloud.
    Disk,
}

/// `[qemu]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Qemu {
    /// The folder that `krater image build` made. The `qemu` driver needs it.
    pub image: Option<PathBuf>,
    /// The QEMU program: a path, or a name that is looked up in `PATH`.
    pub binary: PathBuf,
    /// How the processors are made.
    pub accel: Acceleration,
    /// What machines start from.
    pub boot: BootFrom,
    /// Memory of a machine in MiB.
    pub memory_mib: u32,
    /// Processors of a machine.
    pub cpus: u16,
    /// How long a machine may take until its agent answers; counts instead of `controller.boot_timeout_ms`.
    pub boot_timeout_ms: Millis,
    /// Deadlines of calls to agents and of flows are so many times those of processes.
    pub patience: u32,
}

impl Default for Qemu {
    fn default() -> Self {
        Self {
            image: None,
            binary: "qemu-system-x86_64".into(),
            accel: Acceleration::default(),
            boot: BootFrom::default(),
            memory_mib: 256,
            cpus: 1,
            boot_timeout_ms: Millis::literal(120_000),
            patience: 4,
        }
    }
}

/// `[heartbeat]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Heartbeat {
    /// How often an amphora sends.
    pub interval_ms: Millis,
    /// Silence after which it is replaced.
    pub stale_after_ms: Millis,
    /// How often the health manager looks for silent amphorae.
    pub check_ms: Millis,
    /// This many silent at once are taken for a fault of the management network: none is replaced.
    /// 0 switches this guard off.
    pub failover_threshold: usize,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            interval_ms: Millis::literal(1_000),
            stale_after_ms: Millis::literal(5_000),
            check_ms: Millis::literal(250),
            failover_threshold: 0,
        }
    }
}

/// `[vrrp]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vrrp {
    /// Advertisement interval in centiseconds, 1 to 4095; whole seconds in version 2.
    pub advert_centiseconds: Centiseconds,
    /// Protocol between the amphorae of a pair: 3, or 2 as upstream's keepalived speaks it. VIPs of IPv6
    /// always have 3.
    pub version: VrrpVersion,
    /// Whether version 2 carries a password (`auth_type PASS`), one for each load balancer.
    pub auth: VrrpAuth,
    /// Between the heartbeats of the liveness session of a pair, 10 to 50; 0: no session.
    pub liveness_ms: Millis,
}

/// `[vrrp] auth`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VrrpAuth {
    /// No authentication; version 3 has none.
    None,
    /// A password in clear.
    Pass,
}

impl Default for Vrrp {
    fn default() -> Self {
        Self {
            advert_centiseconds: Centiseconds::new(10).unwrap_or(Centiseconds::MIN),
            version: VrrpVersion::V3,
            auth: VrrpAuth::None,
            liveness_ms: Millis::literal(30),
        }
    }
}

/// `[certificates]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Certificates {
    /// Validity of an amphora's certificate.
    pub validity_days: u32,
    /// Renewed when less than this is left.
    pub rotate_before_days: u32,
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            validity_days: 30,
            rotate_before_days: 14,
        }
    }
}

/// `[housekeeping]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Housekeeping {
    /// How often it runs.
    pub interval_seconds: u32,
    /// Age at which rows of deleted load balancers and amphorae, and ended flows, are removed.
    pub keep_deleted_seconds: u32,
}

impl Default for Housekeeping {
    fn default() -> Self {
        Self {
            interval_seconds: 30,
            keep_deleted_seconds: 604_800,
        }
    }
}

/// `[logging]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
    /// A file instead of stderr; rotated.
    pub file: Option<PathBuf>,
    /// Size at which the file is rotated, in bytes.
    pub max_bytes: u64,
    /// Rotated files that are kept.
    pub keep: u32,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: "info".into(),
            json: false,
            file: None,
            max_bytes: 16 * 1024 * 1024,
            keep: 3,
        }
    }
}

/// One `[[networks]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Unique name.
    pub name: String,
    /// Subnets.
    pub subnets: Vec<Subnet>,
}

/// One `[[networks.subnets]]`; the gateway is the first address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// Unique name.
    pub name: String,
    /// Prefix.
    pub cidr: IpNet,
}

impl Config {
    /// Reads the file's text. The error names key and line.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let config: Self = toml::from_str(text)
            .map_err(|error| FieldError::new("krater.toml", error.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// Reads a file; no file given means the defaults.
    pub fn load(path: Option<&Path>) -> Result<Self, FieldError> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| FieldError::new("--config", format!("{}: {error}", path.display())))?;
        Self::parse(&text)
    }

    /// What the command line may still have changed after the file was read: who may use the API, and how.
    pub fn check_access(&self) -> Result<(), FieldError> {
        let refuse = |field: &str, why: &str| Err(FieldError::new(field, why.to_owned()));
        let api = &self.api;
        if api.tokens.is_some() && self.keystone.url.is_some() {
            return refuse("keystone.url", "with api.tokens: name one of them");
        }
        if api.policy.is_some() && api.is_open(&self.keystone) {
            let why = "without api.tokens or keystone.url nobody is asked who they are";
            return refuse("api.policy", why);
        }
        match (&api.tls_cert, &api.tls_key) {
            (Some(_), None) => refuse("api.tls_key", "is needed with api.tls_cert"),
            (None, Some(_)) => refuse("api.tls_cert", "is needed with api.tls_key"),
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<(), FieldError> {
        let refuse = |field: &str, why: String| Err(FieldError::new(field, why));
        if !(100..=600_000).contains(&self.api.deadline_ms.value()) {
            return refuse("api.deadline_ms", "use 100 to 600000".into());
        }
        if self.keystone.cache_seconds > 3_600 {
            return refuse("keystone.cache_seconds", "use 0 to 3600".into());
        }
        let secrets = &self.secrets;
        match (secrets.driver, &secrets.url) {
            (SecretsDriver::Barbican, None) => {
                return refuse("secrets.url", "is needed with driver = \"barbican\"".into());
            }
            (SecretsDriver::Local, Some(_)) => {
                return refuse("secrets.url", "is of driver = \"barbican\"".into());
            }
            _ => {}
        }
        let beat = &self.heartbeat;
        if beat.interval_ms.value() < 50 {
            return refuse("heartbeat.interval_ms", "use at least 50".into());
        }
        if beat.stale_after_ms.value() < 2 * beat.interval_ms.value() {
            return refuse(
                "heartbeat.stale_after_ms",
                format!(
                    "{} is less than two intervals of {} ms: one lost datagram would fail over",
                    beat.stale_after_ms.value(),
                    beat.interval_ms.value()
                ),
            );
        }
        if beat.check_ms.value() < 10 {
            return refuse("heartbeat.check_ms", "use at least 10".into());
        }
        if !(1..=256).contains(&self.controller.workers) {
            return refuse("controller.workers", "use 1 to 256".into());
        }
        if !(96..=1_048_576).contains(&self.qemu.memory_mib) {
            return refuse("qemu.memory_mib", "use 96 to 1048576".into());
        }
        if !(1..=255).contains(&self.qemu.cpus) {
            return refuse("qemu.cpus", "use 1 to 255".into());
        }
        if !(1..=20).contains(&self.qemu.patience) {
            return refuse("qemu.patience", "use 1 to 20".into());
        }
        let vrrp = &self.vrrp;
        let v2 = vrrp.version == VrrpVersion::V2;
        if v2 && !vrrp.advert_centiseconds.value().is_multiple_of(100) {
            let why = format!(
                "{}: version 2 counts whole seconds, use a multiple of 100",
                vrrp.advert_centiseconds
            );
            return refuse("vrrp.advert_centiseconds", why);
        }
        if !v2 && vrrp.auth != VrrpAuth::None {
            return refuse("vrrp.auth", "version 3 has none: use version = 2".into());
        }
        let liveness = vrrp.liveness_ms.value();
        if liveness != 0 && !(10..=50).contains(&liveness) {
            let why = format!("{liveness}: use 10 to 50, or 0 for no sessions");
            return refuse("vrrp.liveness_ms", why);
        }
        let days = &self.certificates;
        if days.validity_days == 0 || days.rotate_before_days >= days.validity_days {
            return refuse(
                "certificates.rotate_before_days",
                "must be less than validity_days".into(),
            );
        }
        if self.housekeeping.interval_seconds == 0 {
            return refuse("housekeeping.interval_seconds", "use at least 1".into());
        }
        let levels = ["error", "warn", "info", "debug", "trace"];
        if !levels.contains(&self.logging.level.as_str()) {
            return refuse(
                "logging.level",
                format!(
                    "{:?}: use error, warn, info, debug or trace",
                    self.logging.level
                ),
            );
        }
        Ok(())
    }

    /// The text of a file that means the same: every key that has a value, and the networks by name.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(&Self {
            networks: self.inventory(),
            ..self.clone()
        })
    }

    /// The networks to make at the first start.
    pub fn inventory(&self) -> Vec<Network> {
        if self.controller.drivers == Drivers::Noop {
            crate::drivers::noop::networks()
        } else if self.networks.is_empty() {
            default_networks()
        } else {
            self.networks.clone()
        }
    }
}

/// `public` (documentation prefix of RFC 5737 and RFC 3849) and `tenant`.
fn default_networks() -> Vec<Network> {
    let subnet = |name: &str, cidr: [u16; 8], v4: [u8; 4], six: bool| Subnet {
        name: name.into(),
        cidr: if six {
            IpNet::V6(ipnet::Ipv6Net::new(cidr.into(), 64).unwrap_or_default())
        } else {
            IpNet::V4(ipnet::Ipv4Net::new(v4.into(), 24).unwrap_or_default())
        },
    };
    let network = |name: &str, v4: [u8; 4], v6: [u16; 8]| Network {
        name: name.into(),
        subnets: vec![
            subnet(&format!("{name}-subnet"), v6, v4, false),
            subnet(&format!("{name}-subnet6"), v6, v4, true),
        ],
    };
    vec![
        network(
            "public",
            [203, 0, 113, 0],
            [0x2001, 0xdb8, 1, 0, 0, 0, 0, 0],
        ),
        network("tenant", [192, 0, 2, 0], [0x2001, 0xdb8, 2, 0, 0, 0, 0, 0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_file_is_the_default() {
        assert_eq!(Config::parse(""), Ok(Config::default()));
        let names: Vec<String> = Config::default()
            .inventory()
            .iter()
            .flat_map(|n| n.subnets.iter().map(|s| format!("{} {}", s.name, s.cidr)))
            .collect();
        assert_eq!(
            names,
            [
                "public-subnet 203.0.113.0/24",
                "public-subnet6 2001:db8:1::/64",
                "tenant-subnet 192.0.2.0/24",
                "tenant-subnet6 2001:db8:2::/64"
            ]
        );
    }

    #[test]
    fn what_is_printed_means_the_same() {
        let text = Config::default().to_toml().unwrap();
        let read = Config::parse(&text).unwrap();
        assert_eq!(read.inventory(), default_networks());
        let networks = Vec::new();
        assert_eq!(Config { networks, ..read }, Config::default());
    }

    /// The file in the documentation is valid, has every key, and says the defaults.
    #[test]
    fn the_documented_file_is_the_default() {
        let page = include_str!("../../docs/configuration.md");
        let file = page.split("```toml\n").nth(1).unwrap();
        let file = file.split("```").next().unwrap();
        let read = Config::parse(file).unwrap();
        assert_eq!(
            read.to_toml().unwrap(),
            Config::default().to_toml().unwrap()
        );
        let printed: toml::Table = Config::default().to_toml().unwrap().parse().unwrap();
        for (section, keys) in &printed {
            let heading = format!("[{section}]");
            assert!(file.contains(&heading), "{heading} is not documented");
            for key in keys.as_table().into_iter().flat_map(|keys| keys.keys()) {
                let line = format!("\n{key} = ");
                assert!(file.contains(&line), "{section}.{key} is not documented");
            }
        }
        // Keys without a value as shipped stand there as comments.
        for key in [
            "tokens",
            "policy",
            "tls_cert",
            "tls_key",
            "username",
            "password_file",
            "ca_file",
            "url",
            "amphora_bin",
            "amphora_workers",
            "image",
            "file",
        ] {
            assert!(
                file.contains(&format!("\n# {key} = ")),
                "{key} is not documented"
            );
        }
    }

    #[test]
    fn refusals_name_the_key() {
        for (text, named) in [
            ("[controller]\ntopolgy = \"SINGLE\"", "topolgy"),
            ("[heartbeat]\ninterval_ms = 10", "heartbeat.interval_ms"),
            (
                "[heartbeat]\nstale_after_ms = 1000",
                "heartbeat.stale_after_ms",
            ),
            ("[vrrp]\nadvert_centiseconds = 0", "out of range"),
            ("[vrrp]\nversion = 2", "vrrp.advert_centiseconds"),
            ("[vrrp]\nauth = \"pass\"", "vrrp.auth"),
            ("[vrrp]\nauth = \"ah\"", "unknown variant"),
            ("[vrrp]\nversion = 4", "out of range"),
            ("[vrrp]\nliveness_ms = 9", "vrrp.liveness_ms"),
            ("[vrrp]\nliveness_ms = 51", "vrrp.liveness_ms"),
            ("[logging]\nlevel = \"loud\"", "logging.level"),
            ("[database]\nurl = \"oracle://x\"", "database.url"),
            ("[controller]\nworkers = 0", "controller.workers"),
            ("[api]\ndeadline_ms = 99", "api.deadline_ms"),
            ("[secrets]\ndriver = \"barbican\"", "secrets.url"),
            ("[secrets]\nurl = \"http://b\"", "secrets.url"),
            ("[secrets]\ndriver = \"castellan\"", "unknown variant"),
            ("[keystone]\ncache_seconds = 3601", "keystone.cache_seconds"),
            ("[keystone]\npassword = \"p\"", "unknown field"),
            ("[qemu]\nmemory_mib = 64", "qemu.memory_mib"),
            ("[qemu]\ncpus = 0", "qemu.cpus"),
            ("[qemu]\npatience = 21", "qemu.patience"),
            ("[qemu]\naccel = \"xen\"", "unknown variant"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (text, named) in [
            ("policy = \"p\"", "api.policy"),
            ("tls_cert = \"c\"", "api.tls_key"),
            ("tls_key = \"k\"", "api.tls_cert"),
            (
                "tokens = \"t\"\n[keystone]\nurl = \"http://k\"",
                "keystone.url",
            ),
        ] {
            let config = Config::parse(&format!("[api]\n{text}")).unwrap();
            let error = config.check_access().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        for text in [
            "",
            "[api]\ntokens = \"t\"\npolicy = \"p\"",
            "[api]\npolicy = \"p\"\n[keystone]\nurl = \"http://k\"",
            "[api]\ntls_cert = \"c\"\ntls_key = \"k\"",
        ] {
            Config::parse(text).unwrap().check_access().unwrap();
        }
    }

    #[test]
    fn takes_every_section() {
        let config = Config::parse(
            "[api]\nlisten = \"127.0.0.1:1\"\n[controller]\ntopology = \"SINGLE\"\n\
             [vrrp]\nadvert_centiseconds = 1\n[[networks]]\nname = \"n\"\n\
             [[networks.subnets]]\nname = \"s\"\ncidr = \"10.0.0.0/24\"",
        )
        .unwrap();
        assert_eq!(config.controller.topology, Topology::Single);
        assert_eq!(config.inventory().len(), 1);
    }
}
