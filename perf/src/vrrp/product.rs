//! The two products under one handle: started with the same task, stopped and killed alike.

use super::lab::{INTERFACE, Node, PATIENCE, vip, wait_for};
use super::probe::Side;
use anyhow::{Context, bail};
use krater_model::SCHEMA;
use krater_model::config::VRRP_UID;
use krater_net::process::ProcessId;
use serde::Serialize;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Who speaks VRRP on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Product {
    Krater,
    /// With a liveness session to each peer.
    KraterLive,
    Keepalived,
}

impl Product {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Krater => "krater",
            Self::KraterLive => "krater-live",
            Self::Keepalived => "keepalived",
        }
    }
}

/// Where programs are.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) amphora: PathBuf,
    pub(super) keepalived: Option<PathBuf>,
    /// Folder of unpacked packages.
    pub(super) tree: PathBuf,
}

impl Programs {
    pub(super) fn need_keepalived(&self) -> anyhow::Result<&Path> {
        self.keepalived.as_deref().context(
            "keepalived is missing: run `cargo xtask setup` (it fetches Debian's), or leave it out with --who krater",
        )
    }
}

/// What both nodes are to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    /// Between advertisements, in centiseconds.
    pub(super) centiseconds: u16,
    /// Virtual routers, with an address each.
    pub(super) routers: u8,
    /// The two nodes run different products.
    pub(super) mixed: bool,
    /// The answering machine is watched as a data plane.
    pub(super) watched: bool,
}

/// Own priority of a node; both products get the same.
const fn priority(side: Side) -> u8 {
    match side {
        Side::A => 100,
        Side::B => 90,
    }
}

/// A product that runs on a node.
#[derive(Debug)]
pub(super) struct Running {
    product: Product,
    task: Task,
    programs: Programs,
    folder: PathBuf,
    child: Child,
}

impl Running {
    /// Starts it; it has its configuration when this returns.
    pub(super) fn start(
        product: Product,
        programs: &Programs,
        task: Task,
        node: &Node,
        peer: Ipv4Addr,
    ) -> anyhow::Result<Self> {
        let child = spawn(product, programs, task, node, peer)?;
        let this = Self {
            product,
            task,
            programs: programs.clone(),
            folder: node.folder.clone(),
            child,
        };
        if product != Product::Keepalived {
            this.configure(node, peer)?;
        }
        Ok(this)
    }

    fn configure(&self, node: &Node, peer: Ipv4Addr) -> anyhow::Result<()> {
        let live = self.product == Product::KraterLive;
        let document = document(self.task, live, node, peer);
        wait_for("the control socket of vrrp", || {
            match UnixStream::connect(self.socket()) {
                Ok(_) => Ok(Some(())),
                Err(_) => Ok(None),
            }
        })
        .with_context(|| self.log())?;
        self.request("PUT", "/config", &document)?;
        Ok(())
    }

    /// Starts it again after its process was killed, as its supervisor does: Krater's is the agent,
    /// keepalived's child has its parent.
    pub(super) fn supervise(&mut self, node: &Node, peer: Ipv4Addr) -> anyhow::Result<()> {
        if self.product != Product::Keepalived {
            let _status = self.child.wait()?;
            self.child = spawn(self.product, &self.programs, self.task, node, peer)?;
            self.configure(node, peer)?;
        }
        Ok(())
    }

    /// Waits until it follows the other node.
    pub(super) fn is_backup(&self) -> anyhow::Result<()> {
        let all = usize::from(self.task.routers);
        let followed = wait_for("all routers to be Backup", || {
            let backups = match self.product {
                Product::Krater | Product::KraterLive => self
                    .request("GET", "/status", "")?
                    .matches("\"backup\"")
                    .count(),
                Product::Keepalived => self.log().matches("Entering BACKUP STATE").count(),
            };
            Ok((backups >= all).then_some(()))
        });
        followed.with_context(|| self.log())
    }

    /// The process that speaks VRRP.
    pub(super) fn speaker(&self) -> anyhow::Result<ProcessId> {
        let main = self.child.id();
        let pid = match self.product {
            Product::Krater | Product::KraterLive => main,
            Product::Keepalived => {
                let text = fs::read_to_string(self.folder.join("keepalived-vrrp.pid"))
                    .context("keepalived's file with the process id of its VRRP child")?;
                text.trim().parse().context(text)?
            }
        };
        Ok(ProcessId::of(pid)?)
    }

    /// The process that is told to stop, and whose descendants are all of the product.
    pub(super) fn main(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to stop gracefully.
    pub(super) fn stop(&self) -> anyhow::Result<()> {
        Ok(ProcessId::of(self.child.id())?.signal(libc::SIGTERM)?)
    }

    /// Moves the VIP to the peer as planned. keepalived knows no such command: it is stopped.
    pub(super) fn hand_over(&self) -> anyhow::Result<()> {
        match self.product {
            Product::Krater | Product::KraterLive => {
                self.request("POST", "/handover", "{}").map(drop)
            }
            Product::Keepalived => self.stop(),
        }
    }

    /// What it said.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("vrrp.sock")
    }

    /// A request on Krater's control socket; the body of a good answer.
    fn request(&self, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
        let mut stream = UnixStream::connect(self.socket()).context("vrrp's control socket")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .with_context(|| format!("{method} {path}: an answer without head"))?;
        if !head.starts_with("HTTP/1.1 2") {
            bail!("{method} {path}: {body}");
        }
        Ok(body.to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its descendants go with the lab.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn spawn(
    product: Product,
    programs: &Programs,
    task: Task,
    node: &Node,
    peer: Ipv4Addr,
) -> anyhow::Result<Child> {
    let mut command = match product {
        Product::Krater | Product::KraterLive => krater(programs, node),
        Product::Keepalived => keepalived(programs, task, node, peer)?,
    };
    let log = File::options()
        .create(true)
        .append(true)
        .open(node.folder.join("log"))?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let what = format!("start {}", command.get_program().display());
    node.ns.run(|| command.spawn())?.context(what)
}

/// As the agent starts it: see agent/src/supervise/spawn.rs.
fn krater(programs: &Programs, node: &Node) -> Command {
    let mut command = Command::new(&programs.amphora);
    command.env_clear().arg("vrrp").arg("--netns");
    command.arg(&node.path);
    command.arg("--control").arg(node.folder.join("vrrp.sock"));
    command.arg("--track").arg(node.folder.join("track.sock"));
    command.args(["--uid", &VRRP_UID.to_string()]);
    command.args(["--log-level", "info"]);
    command
}

/// The document that the controller makes; with a data plane where keepalived has a script.
fn document(task: Task, live: bool, node: &Node, peer: Ipv4Addr) -> String {
    let routers: Vec<_> = (1..=task.routers)
        .map(|n| {
            let mut router = serde_json::json!({
                "vrid": n, "interface": INTERFACE, "priority": priority(node.side),
                "advert_interval": task.centiseconds, "source": node.host, "peers": [peer],
                "addresses": [format!("{}/32", vip(n))], "track_dataplane": task.watched,
                // keepalived refuses the RFC's, which is what we send until we have heard it.
                "checksum": if task.mixed { "pseudo_header" } else { "learn" },
            });
            if live {
                router["liveness"] = serde_json::json!({ "key": "a key of krater-perf" });
            }
            router
        })
        .collect();
    let revision = serde_json::json!({ "epoch": 1, "generation": 1 });
    let document = serde_json::json!({
        "schema": SCHEMA, "revision": revision, "request_id": "req-krater-perf", "routers": routers,
    });
    document.to_string()
}

/// What Octavia's template renders, in version 3 because version 2 knows whole seconds only.
fn keepalived(
    programs: &Programs,
    task: Task,
    node: &Node,
    peer: Ipv4Addr,
) -> anyhow::Result<Command> {
    let path = node.folder.join("keepalived.conf");
    let script = match task.watched {
        true => format!(
            "{} vrrp-check {}",
            std::env::current_exe()?.display(),
            node.folder.join("check.sock").display()
        ),
        false => String::new(),
    };
    let text = configuration(task, node.side, node.host, peer, &script)?;
    fs::write(&path, text)?;
    let mut command = crate::bench::unpacked(programs.need_keepalived()?, &programs.tree);
    let file = |name: &str| node.folder.join(name);
    command.args(["--dont-fork", "--log-console", "--vrrp", "--use-file"]);
    command.arg(path).arg("--pid").arg(file("keepalived.pid"));
    command.arg("--vrrp_pid").arg(file("keepalived-vrrp.pid"));
    Ok(command)
}

fn configuration(
    task: Task,
    side: Side,
    host: Ipv4Addr,
    peer: Ipv4Addr,
    script: &str,
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    if task.watched {
        writeln!(text, "global_defs {{\n    script_user root\n}}")?;
        writeln!(text, "vrrp_script check {{\n    script \"{script}\"")?;
        writeln!(text, "    interval 5\n    fall 2\n    rise 2\n}}")?;
    }
    for n in 1..=task.routers {
        writeln!(text, "vrrp_instance v{n} {{")?;
        writeln!(text, "    state BACKUP\n    interface {INTERFACE}")?;
        writeln!(text, "    virtual_router_id {n}\n    version 3")?;
        writeln!(
            text,
            "    priority {}\n    nopreempt\n    accept",
            priority(side)
        )?;
        let (whole, rest) = (task.centiseconds / 100, task.centiseconds % 100);
        writeln!(text, "    advert_int {whole}.{rest:02}")?;
        writeln!(
            text,
            "    garp_master_refresh 5\n    garp_master_refresh_repeat 2"
        )?;
        if task.watched {
            writeln!(text, "    track_script {{\n        check\n    }}")?;
        }
        writeln!(text, "    unicast_src_ip {host}")?;
        writeln!(text, "    unicast_peer {{\n        {peer}\n    }}")?;
        writeln!(
            text,
            "    virtual_ipaddress {{\n        {}\n    }}\n}}",
            vip(n)
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_get_the_same_interval_priority_and_addresses() {
        let task = Task {
            centiseconds: 10,
            routers: 2,
            mixed: false,
            watched: false,
        };
        let host = Ipv4Addr::new(10, 99, 0, 11);
        let peer = Ipv4Addr::new(10, 99, 0, 12);
        let text = configuration(task, Side::A, host, peer, "").unwrap();
        assert_eq!(text.matches("vrrp_instance").count(), 2);
        for line in [
            "advert_int 0.10",
            "priority 100",
            "10.99.1.1",
            "10.99.1.2",
            "nopreempt",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let second = Task {
            centiseconds: 100,
            ..task
        };
        let text = configuration(second, Side::B, peer, host, "").unwrap();
        assert!(text.contains("advert_int 1.00") && text.contains("priority 90"));
        assert!(!text.contains("script"));
        // What Octavia's template has.
        let watched = Task {
            watched: true,
            ..task
        };
        let text = configuration(watched, Side::A, host, peer, "/check x").unwrap();
        let script = "vrrp_script check {\n    script \"/check x\"\n    interval 5\n    fall 2\n    rise 2\n}";
        assert!(text.contains(script), "{text}");
        assert_eq!(text.matches("track_script").count(), 2);
    }
}
