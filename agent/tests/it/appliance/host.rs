//! A host with an appliance, its clients and its members, in one namespace of its own.

use crate::rig::{PATIENCE, PREFIX, demolish, sweep};
use krater_net::link::{Address, VethSpec};
use krater_net::netns::NetNs;
use krater_net::process::{self, Detached, ProcessId};
use krater_net::sync::NetlinkSocket;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

pub(crate) struct Host {
    pub(crate) dir: PathBuf,
    pub(crate) ns: NetNs,
    amphora: Option<(Child, ProcessId)>,
}

/// Waits for a condition.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
}

/// An address as it is written.
pub(crate) fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// Whether four bytes come back.
pub(crate) fn goes_round(stream: &mut TcpStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"ping"
}

impl Host {
    /// With an interface `eth0` that has a carrier.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let (own, number) = (std::process::id(), COUNT.fetch_add(1, Relaxed));
        let dir = std::env::temp_dir().join(format!("{PREFIX}{own}-appliance-{number}"));
        fs::create_dir(&dir).unwrap();
        let ns = NetNs::create(&dir.join("vip")).expect("these tests need root");
        let netlink = NetlinkSocket::open_in(&ns).unwrap();
        netlink.set_up(1, true).unwrap();
        let spec = VethSpec {
            name: "eth0",
            mac: None,
            master: None,
            mtu: None,
            up: true,
            peer: "switch0",
            peer_mac: None,
            peer_netns: None,
        };
        netlink.create_veth(&spec).unwrap();
        let peer = netlink.link_by_name("switch0").unwrap().unwrap();
        netlink.set_up(peer.index, true).unwrap();
        let amphora = None;
        Self { dir, ns, amphora }
    }

    /// With members: address and name.
    pub(crate) fn with_members(members: &[(&str, &str)]) -> Self {
        let host = Self::new();
        let pem = certificate(&["member"]);
        for (address, name) in members {
            host.member(at(address), name, &pem);
        }
        host
    }

    /// An address of this host.
    pub(crate) fn add_address(&self, interface: &str, net: &str) {
        let netlink = NetlinkSocket::open_in(&self.ns).unwrap();
        let link = netlink.link_by_name(interface).unwrap().unwrap().index;
        let address = Address {
            link,
            net: net.parse().unwrap(),
            protocol: 0,
            no_prefix_route: false,
        };
        netlink.add_address(&address).unwrap();
    }

    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        let netlink = NetlinkSocket::open_in(&self.ns).unwrap();
        let addresses = netlink.addresses().unwrap();
        addresses.iter().any(|a| a.net.addr() == address)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join("amphora.toml")
    }

    /// Writes the appliance's file, with folders of this host.
    pub(crate) fn write(&self, text: &str) {
        let text = format!("run_dir = \"run\"\nlog_dir = \"log\"\nworkers = 2\n{text}");
        fs::write(self.file(), text).unwrap();
    }

    /// Runs the appliance; returns when it answers.
    pub(crate) fn run(&mut self, options: &[&str]) {
        self.run_program(Path::new(env!("CARGO_BIN_EXE_amphora")), options);
    }

    /// The same with another file of the program.
    pub(crate) fn run_program(&mut self, program: &Path, options: &[&str]) {
        let config = self.file();
        let mut args: Vec<OsString> = vec!["run".into(), "--config".into(), config.into()];
        args.extend(options.iter().map(OsString::from));
        self.start(program, &args);
    }

    /// Runs vrrp alone.
    pub(crate) fn run_vrrp(&mut self) {
        let config = self.file();
        let args = ["vrrp".into(), "--config".into(), config.into()];
        self.start(Path::new(env!("CARGO_BIN_EXE_amphora")), &args);
    }

    fn start(&mut self, program: &Path, args: &[OsString]) {
        let child = process::spawn_detached(&Detached {
            program,
            args,
            netns: &self.ns,
            stderr: Some(&self.dir.join("stderr")),
        })
        .unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        self.amphora = Some((child, id));
    }

    /// Sends a signal to the appliance.
    pub(crate) fn signal(&self, signal: i32) {
        self.amphora.as_ref().unwrap().1.signal(signal).unwrap();
    }

    /// Waits for the end of the appliance.
    pub(crate) fn ended(&mut self) {
        let (mut child, _) = self.amphora.take().unwrap();
        child.wait().unwrap();
    }

    /// How many processes are in the namespace.
    pub(crate) fn processes(&self) -> usize {
        process::processes_in(&[self.ns.id().unwrap()])
            .unwrap()
            .len()
    }

    /// `amphora` with arguments, to its end.
    pub(crate) fn amphora(&self, args: &[&str]) -> Output {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_amphora"));
        command.current_dir(&self.dir).args(args);
        command.output().unwrap()
    }

    /// `amphora ctl`: what it says, and whether it succeeded.
    pub(crate) fn ctl(&self, args: &[&str]) -> (bool, String) {
        let output = self.amphora(&[&["ctl", "--run-dir", "run"], args].concat());
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// Waits until all listeners are open.
    pub(crate) fn serves(&self) {
        until(&format!("open listeners\n{}", self.dir.display()), || {
            let (good, text) = self.ctl(&["--json", "status"]);
            let status: serde_json::Value = serde_json::from_str(&text).ok()?;
            let listeners = status["dataplane"]["listeners"].as_array()?;
            let open = listeners.iter().all(|l| l["state"] == "open");
            (good && open && !listeners.is_empty()).then_some(())
        });
    }

    pub(crate) fn logs(&self) -> String {
        let read = |file: &str| fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        ["stderr", "log/dataplane/dataplane.log", "log/vrrp/vrrp.log"]
            .map(|file| format!("--- {file}\n{}", read(file)))
            .concat()
    }

    /// A member: answers each request with its name, in clear or in TLS, after a PROXY header or without.
    /// What is no request comes back.
    pub(crate) fn member(&self, address: SocketAddr, name: &str, pem: &str) {
        let listener: TcpListener = self.ns.tcp_listener(address).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (name, tls) = (name.to_owned(), Arc::new(server_config(pem)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), name, tls) = (stream, name.clone(), Arc::clone(&tls)) else {
                    return;
                };
                std::thread::spawn(move || {
                    let mut first = [0];
                    if stream.peek(&mut first).is_ok_and(|n| n == 1) && first[0] == 0x16 {
                        let session = rustls::ServerConnection::new(tls).unwrap();
                        answer(rustls::StreamOwned::new(session, stream), &name);
                    } else {
                        answer(stream, &name);
                    }
                });
            }
        });
    }

    pub(crate) fn connect(&self, address: SocketAddr) -> TcpStream {
        let stream = self.ns.tcp_connect(address, PATIENCE);
        let stream = stream.unwrap_or_else(|error| panic!("{address}: {error}\n{}", self.logs()));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The answer to a request: head and body.
    pub(crate) fn get(&self, address: SocketAddr, host: &str, path: &str) -> String {
        ask(self.connect(address), host, path)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        demolish(&self.dir);
        if let Some((mut child, _)) = self.amphora.take() {
            let _ = child.wait();
        }
    }
}

/// Sends a request and reads to the end of what comes.
pub(crate) fn ask(mut stream: impl Read + Write, host: &str, path: &str) -> String {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    // A TLS peer may end without a word of farewell.
    let _end = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn answer(mut stream: impl Read + Write, name: &str) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4_096]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if !text.contains("HTTP/1.") && !text.starts_with("PROXY") {
            let _gone = stream.write_all(&bytes);
            bytes.clear();
        } else if text.ends_with("\r\n\r\n") {
            let proxied = text.lines().next().filter(|line| line.starts_with("PROXY"));
            let body = format!("{name} {}", proxied.unwrap_or_default());
            let close = match text.to_ascii_lowercase().contains("connection: close") {
                true => "Connection: close\r\n",
                false => "",
            };
            let length = body.len();
            let _gone = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{close}\r\n{body}"
            );
            let _gone = stream.flush();
            bytes.clear();
            if !close.is_empty() {
                return;
            }
        }
    }
}

fn server_config(pem: &str) -> rustls::ServerConfig {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

/// A certificate of its own for these names: certificate and key.
pub(crate) fn certificate(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    made.cert.pem() + &made.signing_key.serialize_pem()
}

/// A TLS client that trusts these certificates alone and asks for `name`.
pub(crate) fn tls(
    stream: TcpStream,
    name: &str,
    trusted: &[&str],
) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    for pem in trusted {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    rustls::StreamOwned::new(session, stream)
}
