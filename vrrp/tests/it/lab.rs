//! Namespaces, a bridge between them, vrrp processes in them, and a client that asks who answers.

use crate::dataplane::Dataplane;
use krater_model::MacAddr;
use krater_model::control::{Applied, RouterState, VrrpConfig, VrrpStatus};
use krater_net::PROTO_VRRP;
use krater_net::link::{Address, VethSpec};
use krater_net::netns::{self, NetNs};
use krater_net::sync::NetlinkSocket;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a condition may take; nothing here needs more than a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);
const PREFIX: &str = "krater-vrrp-it-";
const ECHO_PORT: u16 = 7;

/// Waits until `condition` answers something.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Unpins the namespaces of test processes that are gone.
pub(crate) fn remove_leftovers() {
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let Some(pid) = pid else { continue };
        if !Path::new("/proc").join(pid).exists() {
            remove(&entry.path());
        }
    }
}

fn remove(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if netns::exists(&entry.path()) {
            if let Ok(id) = NetNs::open(&entry.path()).and_then(|ns| ns.id()) {
                let _ = krater_net::process::kill_all_in(&[id], Duration::from_secs(2));
            }
            let _ = netns::delete(&entry.path());
        }
    }
    let _ = std::fs::remove_dir_all(dir);
}

/// A bridge with two routers and a client.
pub(crate) struct Lab {
    pub(crate) dir: PathBuf,
    pub(crate) switch: NetNs,
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) client: NetNs,
    v6: bool,
}

impl Lab {
    /// `.1`/`.2` are the routers, `.9` is the client, `.100` the VIP.
    pub(crate) fn new(name: &str, v6: bool) -> Self {
        let dir = std::env::temp_dir().join(format!("{PREFIX}{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let switch = NetNs::create(&dir.join("switch")).expect("root is needed");
        let bridge = {
            let netlink = NetlinkSocket::open_in(&switch).unwrap();
            netlink.create_bridge("br0", None, None).unwrap();
            netlink.link_by_name("br0").unwrap().unwrap().index
        };
        let make = |name: &str, host: u8| {
            let ns = NetNs::create(&dir.join(name)).unwrap();
            let netlink = NetlinkSocket::open_in(&switch).unwrap();
            netlink
                .create_veth(&VethSpec {
                    name: &format!("p{host}"),
                    mac: None,
                    master: Some(bridge),
                    mtu: None,
                    up: true,
                    peer: "eth1",
                    peer_mac: None,
                    peer_netns: Some(ns.as_fd()),
                })
                .unwrap();
            let netlink = NetlinkSocket::open_in(&ns).unwrap();
            let index = netlink.link_by_name("eth1").unwrap().unwrap().index;
            for net in [
                format!("192.0.2.{host}/24"),
                format!("2001:db8::{host}/64"),
                format!("fe80::{host}/64"),
            ] {
                add_address(&netlink, index, &net);
            }
            netlink.set_up(index, true).unwrap();
            wait_until("a carrier", || {
                netlink.link_by_name("eth1").unwrap().unwrap().carrier
            });
            ns
        };
        let client = make("client", 9);
        let a = Node::new("a", &dir, make("a", 1));
        let b = Node::new("b", &dir, make("b", 2));
        Self {
            dir,
            switch,
            a,
            b,
            client,
            v6,
        }
    }

    pub(crate) fn vip(&self) -> IpAddr {
        if self.v6 {
            "2001:db8::100"
        } else {
            "192.0.2.100"
        }
        .parse()
        .unwrap()
    }

    /// The configuration of a router: `host` 1 is a, 2 is b.
    pub(crate) fn config(&self, generation: u64, host: u8, priority: u8) -> Value {
        let (net, bits) = if self.v6 {
            ("2001:db8::", 128)
        } else {
            ("192.0.2.", 32)
        };
        let peer = 3 - host;
        json!({
            "schema": 1, "revision": {"epoch": 1, "generation": generation}, "request_id": "req-test",
            "routers": [{
                "vrid": 1, "interface": "eth1", "priority": priority, "advert_interval": 10,
                "source": format!("{net}{host}"), "peers": [format!("{net}{peer}")],
                "addresses": [format!("{}/{bits}", self.vip())],
            }],
        })
    }

    /// Both configured and healthy; waits until a is Active and b follows.
    pub(crate) fn pair(name: &str, v6: bool) -> Self {
        let mut lab = Self::new(name, v6);
        lab.a.start();
        lab.b.start();
        // a first, so that which one is Active does not depend on the clock.
        lab.a.apply(&lab.config(1, 1, 100));
        lab.a.state_becomes(RouterState::Active);
        lab.b.apply(&lab.config(1, 2, 90));
        lab.b.state_becomes(RouterState::Backup);
        wait_until("b to hear a", || {
            lab.b.metric("krater_vrrp_adverts_received_total") > 0.0
        });
        lab
    }

    /// Which node answers the client at an address; none when nobody does in time.
    pub(crate) fn who_answers(&self, address: IpAddr) -> Option<String> {
        let any = if address.is_ipv6() {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let any: SocketAddr = any.parse().unwrap();
        let socket = self.client.udp_socket(any).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        socket.send_to(b"who", (address, ECHO_PORT)).ok()?;
        let mut buffer = [0; 16];
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Begins to probe the VIP each millisecond.
    pub(crate) fn prober(&self) -> Prober {
        let any = if self.v6 { "[::]:0" } else { "0.0.0.0:0" };
        let socket = self.client.udp_socket(any.parse().unwrap()).unwrap();
        let target = (self.vip(), ECHO_PORT);
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 16];
            let mut last = Instant::now();
            let mut longest = Duration::ZERO;
            while !told.load(Ordering::SeqCst) {
                let _ = socket.send_to(b"who", target);
                std::thread::sleep(Duration::from_millis(1));
                while socket.recv(&mut buffer).is_ok() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            longest
        });
        Prober { end, thread }
    }

    /// Begins to look at both kernels without a pause.
    pub(crate) fn watch_owners(&self) -> OwnerWatch {
        let vip = self.vip();
        let sockets = [&self.a, &self.b].map(|node| NetlinkSocket::open_in(&node.ns).unwrap());
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let holds = |socket: &NetlinkSocket| {
                let addresses = socket.addresses().unwrap();
                addresses.iter().any(|address| address.net.addr() == vip)
            };
            let mut without = 0;
            while !told.load(Ordering::SeqCst) {
                // The first again: it may have got it while the second was asked, who had it before.
                let [a, b] = &sockets;
                without += u32::from(!holds(a) && !holds(b) && !holds(a));
            }
            without
        });
        OwnerWatch { end, thread }
    }

    pub(crate) fn answered_by(&self, name: &str) {
        self.answered_at(self.vip(), name);
    }

    pub(crate) fn answered_at(&self, address: IpAddr, name: &str) {
        wait_until(&format!("{name} to answer at {address}"), || {
            self.who_answers(address).as_deref() == Some(name)
        });
    }

    /// Names of the nodes whose kernel holds the VIP.
    pub(crate) fn owners(&self) -> Vec<&str> {
        [&self.a, &self.b]
            .into_iter()
            .filter(|node| node.holds(self.vip()))
            .map(|node| node.name)
            .collect()
    }

    /// Cuts or mends the cable of a node at the switch, without a carrier change at the node: the
    /// port leaves the bridge.
    pub(crate) fn connect(&self, host: u8, connected: bool) {
        let netlink = NetlinkSocket::open_in(&self.switch).unwrap();
        let bridge = netlink.link_by_name("br0").unwrap().unwrap().index;
        let port = netlink
            .link_by_name(&format!("p{host}"))
            .unwrap()
            .unwrap()
            .index;
        let change = krater_net::link::LinkChange {
            master: Some(connected.then_some(bridge)),
            ..Default::default()
        };
        netlink.set_link(port, &change).unwrap();
    }

    /// Lets nothing through to a node, or everything again: the switch neither learns where it is nor sends there what it does not
    /// know the place of. What comes from the node goes on.
    pub(crate) fn deaf(&self, host: u8, deaf: bool) {
        let dir = self.dir.join("sys");
        let on = if deaf { "0" } else { "1" };
        let write = || -> std::io::Result<()> {
            use nix::mount::{MsFlags, mount};
            use nix::sched::{CloneFlags, unshare};
            let none = None::<&str>;
            // Of this thread, which ends with it; /sys shows the namespace that it was mounted in.
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            std::fs::create_dir_all(&dir)?;
            mount(Some("sysfs"), &dir, Some("sysfs"), MsFlags::empty(), none)?;
            let port = dir.join(format!("class/net/p{host}/brport"));
            let kinds = [
                "unicast_flood",
                "multicast_flood",
                "broadcast_flood",
                "learning",
            ];
            for name in kinds {
                std::fs::write(port.join(name), on)?;
            }
            std::fs::write(port.join("flush"), "1")
        };
        self.switch
            .run(write)
            .unwrap()
            .expect("sysfs of the switch");
    }

    /// Takes the port down, which the node sees as a lost carrier.
    pub(crate) fn carrier(&self, host: u8, up: bool) {
        let netlink = NetlinkSocket::open_in(&self.switch).unwrap();
        let port = netlink
            .link_by_name(&format!("p{host}"))
            .unwrap()
            .unwrap()
            .index;
        netlink.set_up(port, up).unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.a.stop_everything();
        self.b.stop_everything();
        if std::thread::panicking() {
            for node in [&self.a, &self.b] {
                eprintln!("--- log of {}\n{}", node.name, node.log());
            }
        }
        remove(&self.dir);
    }
}

/// Looks at who holds the VIP until told.
pub(crate) struct OwnerWatch {
    end: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u32>,
}

impl OwnerWatch {
    /// Ends; answers how often nobody held it.
    pub(crate) fn end(self) -> u32 {
        self.end.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// Probes that go on until told.
pub(crate) struct Prober {
    end: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Duration>,
}

impl Prober {
    /// Ends; answers the longest time between two answers.
    pub(crate) fn end(self) -> Duration {
        self.end.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// A router: a namespace, a vrrp process, a data plane to track, an echo server.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) ns: NetNs,
    ns_path: PathBuf,
    pub(crate) control: PathBuf,
    pub(crate) track: PathBuf,
    log: PathBuf,
    process: Option<Child>,
    pub(crate) dataplane: Option<Dataplane>,
    end_echo: Arc<AtomicBool>,
}

impl Node {
    fn new(name: &'static str, dir: &Path, ns: NetNs) -> Self {
        let end_echo = Arc::new(AtomicBool::new(false));
        for any in ["0.0.0.0", "::"] {
            let any: IpAddr = any.parse().unwrap();
            let socket = echo_socket(&ns, any);
            let end = Arc::clone(&end_echo);
            std::thread::spawn(move || {
                let mut buffer = [0; 16];
                while !end.load(Ordering::SeqCst) {
                    if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(name.as_bytes(), from);
                    }
                }
            });
        }
        Self {
            name,
            ns,
            ns_path: dir.join(name),
            control: dir.join(format!("{name}.sock")),
            track: dir.join(format!("{name}-track.sock")),
            log: dir.join(format!("{name}.log")),
            process: None,
            dataplane: None,
            end_echo,
        }
    }

    /// Starts vrrp and gives it a healthy data plane.
    pub(crate) fn start(&mut self) {
        self.start_untracked();
        let dataplane = Dataplane::start();
        dataplane.hand_over(&self.track);
        self.dataplane = Some(dataplane);
    }

    pub(crate) fn start_untracked(&mut self) {
        self.start_with(|_| ());
    }

    /// The same, otherwise than usual.
    pub(crate) fn start_with(&mut self, change: impl FnOnce(&mut Command)) {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("vrrp")
            .args([&self.ns_path, &self.control, &self.track]);
        change(&mut command);
        self.begin(command);
    }

    /// Starts a command, inside the namespace, that becomes vrrp.
    pub(crate) fn begin_inside(&mut self, command: Command) {
        let ns = NetNs::open(&self.ns_path).unwrap();
        ns.run(|| self.begin(command)).unwrap();
    }

    fn begin(&mut self, mut command: Command) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log);
        command.stdin(Stdio::null()).stderr(log.unwrap());
        let child = command.spawn().unwrap();
        let pid = child.id();
        self.process = Some(child);
        wait_until("vrrp to serve", || {
            self.try_status().is_some_and(|s| s.pid == pid)
        });
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Waits for the end of the process after a signal; answers whether it ended well.
    pub(crate) fn end(&mut self, signal: nix::sys::signal::Signal) -> bool {
        let mut child = self.process.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        child.wait().unwrap().success()
    }

    fn stop_everything(&mut self) {
        if self.process.is_some() {
            self.end(nix::sys::signal::Signal::SIGKILL);
        }
        self.dataplane = None;
        self.end_echo.store(true, Ordering::SeqCst);
    }

    pub(crate) fn apply(&self, config: &Value) {
        let (status, body) = self.request("PUT", "/config", &config.to_string());
        assert_eq!(status, 200, "{body}");
        let applied: Applied = serde_json::from_str(&body).unwrap();
        let sent: VrrpConfig = serde_json::from_value(config.clone()).unwrap();
        assert_eq!(applied.revision, sent.revision);
    }

    pub(crate) fn try_status(&self) -> Option<VrrpStatus> {
        let (status, body) = self.try_request("GET", "/status", "")?;
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    pub(crate) fn status(&self) -> VrrpStatus {
        self.try_status().unwrap()
    }

    /// Waits for a state; answers its reason.
    pub(crate) fn state_becomes(&self, state: RouterState) -> String {
        wait_for(&format!("{} to become {state:?}", self.name), || {
            let status = self.try_status()?;
            let router = status.routers.into_iter().next()?;
            (router.state == state).then_some(router.reason)
        })
    }

    pub(crate) fn mac(&self) -> MacAddr {
        let netlink = NetlinkSocket::open_in(&self.ns).unwrap();
        let link = netlink.link_by_name("eth1").unwrap().unwrap();
        link.mac.unwrap()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn tagged(&self) -> Vec<Address> {
        let netlink = NetlinkSocket::open_in(&self.ns).unwrap();
        let mut addresses = netlink.addresses().unwrap();
        addresses.retain(|address| address.protocol == PROTO_VRRP);
        addresses
    }

    pub(crate) fn holds(&self, vip: IpAddr) -> bool {
        self.tagged()
            .iter()
            .any(|address| address.net.addr() == vip)
    }

    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.try_request(method, path, body).unwrap()
    }

    fn try_request(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(&self.control).ok()?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: vrrp\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.into()))
    }

    /// The first sample whose name and labels begin with `name`.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.request("GET", "/metrics", "");
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        value.unwrap_or(0.0)
    }

    /// Waits until a sample is greater than now by more than this.
    pub(crate) fn grows(&self, name: &str, more: f64) {
        let before = self.metric(name);
        wait_until(&format!("{name} to grow by more than {more}"), || {
            self.metric(name) > before + more
        });
    }

    /// The guard's process id.
    pub(crate) fn guard(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        wait_for("a guard", || {
            std::fs::read_to_string(&children)
                .ok()?
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
    }
}

/// An address of the host's own.
pub(crate) fn add_address(netlink: &NetlinkSocket, link: u32, net: &str) {
    let address = Address {
        link,
        net: net.parse().unwrap(),
        protocol: 0,
        no_prefix_route: false,
    };
    netlink.add_address(&address).unwrap();
}

fn echo_socket(ns: &NetNs, any: IpAddr) -> UdpSocket {
    use socket2::{Domain, Socket, Type};
    let domain = if any.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket: Socket = ns
        .run(|| Socket::new(domain, Type::DGRAM, None))
        .unwrap()
        .unwrap();
    if any.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket
        .bind(&SocketAddr::new(any, ECHO_PORT).into())
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    socket.into()
}
