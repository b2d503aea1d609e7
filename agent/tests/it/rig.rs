//! An amphora with its namespaces, a client network, and a controller's identity.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use krater_model::control::{PoolStatus, RouterState};
use krater_model::id::AmphoraId;
use krater_model::net::MacAddr;
use krater_model::wire::agent::{CONTROLLER_NAME, ErrorBody, ProcessStatus, StateApplied, Status};
use krater_net::link::{Address, VethSpec};
use krater_net::netns::{self, NetNs};
use krater_net::process::{self, Detached, ProcessId};
use krater_net::sync::NetlinkSocket;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::de::DeserializeOwned;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

/// Nothing here takes longer, however busy the host is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const PREFIX: &str = "krater-agent-it-";
pub(crate) const BEAT_KEY: &str = "beat-key";
pub(crate) const VIP: &str = "192.0.2.100";
pub(crate) const PORT: u16 = 8080;
const MEMBER_PORT: u16 = 8000;
pub(crate) const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 1, 2, 3]);

/// A certificate authority.
pub(crate) struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Leaf and key.
    pub(crate) fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        certificate.pem() + &key.serialize_pem()
    }

    pub(crate) fn client(&self, name: &str) -> String {
        self.issue(name, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

pub(crate) struct Rig {
    pub(crate) dir: PathBuf,
    pub(crate) amphora: AmphoraId,
    pub(crate) management: NetNs,
    pub(crate) vip: NetNs,
    pub(crate) client: NetNs,
    pub(crate) server_ca: Ca,
    pub(crate) client_ca: Ca,
    pub(crate) beats: UdpSocket,
    agent: Option<(Child, ProcessId)>,
    stop: Arc<AtomicBool>,
}

/// Ends and removes what runs of test programs that are gone left behind.
pub(crate) fn sweep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next());
            let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else {
                continue;
            };
            if ProcessId::of(pid).is_err() {
                demolish(&entry.path());
            }
        }
    });
}

pub(crate) fn demolish(dir: &Path) {
    let pinned = ["management", "vip", "client"].map(|name| dir.join(name));
    let ids: Vec<_> = pinned
        .iter()
        .filter_map(|path| NetNs::open(path).and_then(|ns| ns.id()).ok())
        .collect();
    let _ = process::kill_all_in(&ids, PATIENCE);
    for path in &pinned {
        let _ = netns::delete(path);
    }
    let _ = fs::remove_dir_all(dir);
}

impl Rig {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let own = std::process::id();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("{PREFIX}{own}-{number}"));
        fs::create_dir(&dir).unwrap();
        // As a checkout in a home folder: children must work although they cannot search it.
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let pin = |name: &str| NetNs::create(&dir.join(name)).expect("these tests need root");
        let (management, vip, client) = (pin("management"), pin("vip"), pin("client"));
        let netlink = NetlinkSocket::open_in(&client).unwrap();
        netlink
            .create_veth(&VethSpec {
                name: "net0",
                mac: None,
                master: None,
                mtu: None,
                up: true,
                peer: "hotplug0",
                peer_mac: Some(MAC),
                peer_netns: Some(std::os::fd::AsFd::as_fd(&management)),
            })
            .unwrap();
        let link = netlink.link_by_name("net0").unwrap().unwrap().index;
        netlink
            .add_address(&Address {
                link,
                net: "192.0.2.1/24".parse().unwrap(),
                protocol: 0,
                no_prefix_route: false,
            })
            .unwrap();
        let beats = management
            .udp_socket("127.0.0.1:0".parse().unwrap())
            .unwrap();
        beats.set_nonblocking(false).unwrap();
        beats.set_read_timeout(Some(PATIENCE)).unwrap();
        let rig = Self {
            amphora: AmphoraId::random(),
            management,
            vip,
            client,
            server_ca: Ca::new(),
            client_ca: Ca::new(),
            beats,
            agent: None,
            stop: Arc::default(),
            dir,
        };
        rig.write_config();
        rig
    }

    /// With a started agent.
    pub(crate) fn started() -> Self {
        let mut rig = Self::new();
        rig.start_agent();
        rig
    }

    fn write_config(&self) {
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        let server = self.server_ca.issue(&self.amphora.to_string(), usage);
        fs::write(self.dir.join("server.pem"), server).unwrap();
        fs::write(self.dir.join("client-ca.pem"), &self.client_ca.pem).unwrap();
        fs::write(self.dir.join("seal.key"), "ab".repeat(32)).unwrap();
        let beats = self.beats.local_addr().unwrap();
        let text = format!(
            r#"
amphora_id = "{}"
listen = "127.0.0.1:9443"
run_dir = "run"
state_dir = "state"
log_dir = "log"
vip_netns = "vip"
server_pem = "server.pem"
client_ca = "client-ca.pem"
seal_key = "seal.key"
workers = 2
log_level = "debug"

[heartbeat]
targets = ["{beats}"]
interval = 100
key = "{BEAT_KEY}"
"#,
            self.amphora
        );
        fs::write(self.dir.join("agent.toml"), text).unwrap();
    }

    pub(crate) fn start_agent(&mut self) {
        let config = self.dir.join("agent.toml");
        let child = process::spawn_detached(&Detached {
            program: Path::new(env!("CARGO_BIN_EXE_amphora")),
            args: &["agent".into(), "--config".into(), config.into()],
            netns: &self.management,
            stderr: Some(&self.dir.join("stderr")),
        })
        .unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        self.agent = Some((child, id));
        self.wait("the agent answers", |rig| rig.try_status().is_some());
    }

    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.as_ref().unwrap().1.pid
    }

    /// As when it crashes; returns when it is gone.
    pub(crate) fn kill_agent(&mut self) {
        let (mut child, id) = self.agent.take().unwrap();
        id.signal(libc::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn wait(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < end, "not in time: {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn logs(&self) -> String {
        let files = [
            "stderr",
            "log/agent.log",
            "log/dataplane/dataplane.log",
            "log/vrrp/vrrp.log",
            "log/vrrp/vrrp-guard.log",
        ];
        let read = |file: &str| fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        files
            .map(|file| format!("--- {file}\n{}", read(file)))
            .concat()
    }

    /// A request of the controller.
    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> (u16, Bytes) {
        let pem = self.client_ca.client(CONTROLLER_NAME);
        self.call_as(Some(&pem), method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.logs()))
    }

    pub(crate) fn call_as(
        &self,
        identity: Option<&str>,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(u16, Bytes), String> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "agent")
            .header("x-request-id", "req-it")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let stream = self.tls(identity).await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|e| e.to_string())?;
            let driver = tokio::spawn(connection);
            let exchange = async {
                let answer = sender
                    .send_request(request)
                    .await
                    .map_err(|e| format!("{e:?}"))?;
                let status = answer.status().as_u16();
                let body = answer
                    .into_body()
                    .collect()
                    .await
                    .map_err(|e| e.to_string())?;
                Ok((status, body.to_bytes()))
            };
            let result = tokio::time::timeout(PATIENCE, exchange)
                .await
                .map_err(|e| e.to_string());
            driver.abort();
            result?
        })
    }

    /// A TLS connection to the agent; the server's certificate is checked.
    pub(crate) async fn tls(
        &self,
        identity: Option<&str>,
    ) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, String> {
        let agent: SocketAddr = "127.0.0.1:9443".parse().unwrap();
        let stream = self
            .management
            .tcp_connect(agent, PATIENCE)
            .map_err(|e| e.to_string())?;
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let name = ServerName::try_from(self.amphora.to_string()).unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(self.tls_config(identity)));
        connector
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())
    }

    fn tls_config(&self, identity: Option<&str>) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.server_ca.pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match identity {
            None => config.with_no_client_auth(),
            Some(pem) => {
                let chain = CertificateDer::pem_slice_iter(pem.as_bytes());
                let chain = chain.collect::<Result<_, _>>().unwrap();
                let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.call("GET", path, "");
        assert_eq!(status, 200, "{path}: {body:?}");
        serde_json::from_slice(&body).unwrap()
    }

    fn try_status(&self) -> Option<Status> {
        let pem = self.client_ca.client(CONTROLLER_NAME);
        let (_, body) = self.call_as(Some(&pem), "GET", "/2.0/status", "").ok()?;
        serde_json::from_slice(&body).ok()
    }

    pub(crate) fn status(&self) -> Status {
        self.get("/2.0/status")
    }

    pub(crate) fn put_state(
        &self,
        state: &serde_json::Value,
    ) -> Result<StateApplied, (u16, ErrorBody)> {
        let (status, body) = self.call("PUT", "/2.0/state", &state.to_string());
        match status {
            200 => Ok(serde_json::from_slice(&body).unwrap()),
            _ => Err((status, serde_json::from_slice(&body).unwrap())),
        }
    }

    /// Puts a state that must be taken.
    pub(crate) fn apply(&self, state: &serde_json::Value) -> StateApplied {
        self.put_state(state)
            .unwrap_or_else(|error| panic!("{error:?}\n{}", self.logs()))
    }

    /// A load balancer in SINGLE topology: one VIP, one TCP listener, one member in the client namespace.
    pub(crate) fn state(&self, generation: u64) -> serde_json::Value {
        serde_json::json!({
            "schema": 1, "epoch": 1, "generation": generation,
            "amphora_id": self.amphora, "request_id": format!("req-{generation}"),
            "interfaces": [{
                "name": "eth1", "mac": MAC, "role": "vip", "mtu": 1400,
                "addresses": ["192.0.2.5/24"],
                "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.1"}],
            }],
            "vrrp": [{
                "vrid": 1, "interface": "eth1", "priority": 100, "advert_interval": 10,
                "source": "192.0.2.5", "addresses": [format!("{VIP}/32")],
            }],
            "load_balancers": [{
                "id": uuid::Uuid::from_u128(1), "vips": [VIP],
                "listeners": [{
                    "id": uuid::Uuid::from_u128(2), "protocol": "TCP", "port": PORT,
                    "default_pool": uuid::Uuid::from_u128(3),
                }],
                "pools": [{
                    "id": uuid::Uuid::from_u128(3), "protocol": "TCP", "algorithm": "ROUND_ROBIN",
                    "members": [{
                        "id": uuid::Uuid::from_u128(4), "address": "192.0.2.1",
                        "port": MEMBER_PORT, "weight": 1,
                    }],
                }],
            }],
            "logging": {"level": "debug", "json": false},
        })
    }

    /// Answers every connection to the member's address with `text`.
    pub(crate) fn serve_member(&self, text: &'static str) {
        let address = SocketAddr::from(([192, 0, 2, 1], MEMBER_PORT));
        let listener: TcpListener = self.client.tcp_listener(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::clone(&self.stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        let _ = stream.write_all(text.as_bytes());
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
    }

    /// What a client of the VIP reads.
    pub(crate) fn fetch(&self) -> Result<String, std::io::Error> {
        let vip = SocketAddr::new(VIP.parse().unwrap(), PORT);
        let mut stream = self.client.tcp_connect(vip, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    pub(crate) fn process(&self, name: &str) -> ProcessStatus {
        let processes = self.status().processes;
        let found = processes.into_iter().find(|process| process.name == name);
        found.unwrap_or_else(|| panic!("no {name}\n{}", self.logs()))
    }

    pub(crate) fn kill(&self, name: &str) -> u32 {
        let pid = self.process(name).pid;
        assert!(pid > 1, "{name}");
        ProcessId::of(pid).unwrap().signal(libc::SIGKILL).unwrap();
        pid
    }

    pub(crate) fn is_active(&self) -> bool {
        let vrrp = self.status().vrrp;
        vrrp.is_some_and(|vrrp| vrrp.routers.iter().any(|r| r.state == RouterState::Active))
    }

    pub(crate) fn pools(&self) -> Vec<PoolStatus> {
        self.status()
            .dataplane
            .map(|dataplane| dataplane.pools)
            .unwrap_or_default()
    }

    /// The agent's log.
    pub(crate) fn agent_log(&self) -> String {
        fs::read_to_string(self.dir.join("log/agent.log")).unwrap_or_default()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if std::thread::panicking() {
            let mut err = std::io::stderr();
            let _ = writeln!(err, "{}", self.logs());
        }
        demolish(&self.dir);
        if let Some((mut child, _)) = self.agent.take() {
            let _ = child.wait();
        }
    }
}
