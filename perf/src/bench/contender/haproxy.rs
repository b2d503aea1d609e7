//! HAProxy, with what Octavia's template renders for the same load balancer, and hand-tuned.

use super::{Seen, Task, logged};
use crate::bench::topology::Place;
use crate::bench::workload::Service;
use anyhow::{Context, bail};
use krater_net::process::ProcessId;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// Octavia says 50000; with 20,000 open files, two per connection and pipes, HAProxy refuses more.
const MAXCONN: u32 = 6_000;

fn socket(folder: &Path) -> PathBuf {
    folder.join("stats.sock")
}

pub(super) fn start(
    task: &Task<'_>,
    folder: &Path,
    address: SocketAddr,
    tuned: bool,
) -> anyhow::Result<(Child, String)> {
    let program = task.programs.need(super::Who::HaproxyOctavia)?;
    let pem = folder.join("cert.pem");
    if task.is_tls() {
        fs::write(&pem, task.pem)?;
    }
    let text = configuration(task, folder, address, tuned)?;
    let path = folder.join("haproxy.cfg");
    fs::write(&path, &text)?;
    let _stale = fs::remove_file(socket(folder));
    // As in Octavia's amphora: master and worker, in the foreground.
    let mut command: Command = task.programs.peer(program);
    command.args(["-W", "-db", "-f"]).arg(&path);
    logged(&mut command, folder)?;
    Ok((task.topology.spawn(Place::Balancer, command)?, text))
}

fn configuration(
    task: &Task<'_>,
    folder: &Path,
    address: SocketAddr,
    tuned: bool,
) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut line = |l: &str| {
        text.push_str(l);
        text.push('\n');
    };
    line("global");
    line("    user nobody");
    line("    nbthread 1");
    line(&format!(
        "    stats socket {} mode 0666 level user{}",
        socket(folder).display(),
        // A reload takes the sockets over, so that no connection waits in one that is closed.
        if tuned { " expose-fd listeners" } else { "" }
    ));
    line(&format!("    maxconn {MAXCONN}"));
    if tuned {
        // Fewer, larger system calls; no wait for more bytes than came.
        line("    tune.pipesize 1048576");
        line("    tune.maxaccept 256");
        line("    tune.maxpollevents 512");
        line("    tune.recv_enough 16384");
        line("    tune.ssl.cachesize 100000");
        line("    tune.pool-low-fd-ratio 60");
    }
    line("defaults");
    line("    retries 3");
    line("    option redispatch");
    if tuned {
        line("    option splice-auto");
    } else {
        line("    option splice-request");
        line("    option splice-response");
    }
    line("    option http-keep-alive");
    line("frontend f");
    line(&format!("    maxconn {MAXCONN}"));
    let mode = if task.is_http() { "http" } else { "tcp" };
    if task.is_tls() {
        if !tuned {
            line("    redirect scheme https if !{ ssl_fc }");
        }
        let alpn = match task.service {
            Service::Http2 => " alpn h2,http/1.1",
            _ => "",
        };
        // The template's ciphers for TLS 1.3; the tuned one takes the fastest first.
        let suites = if tuned {
            "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
        } else {
            "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
        };
        line(&format!(
            "    bind {address} ssl crt {} ciphersuites {suites} no-sslv3 no-tlsv10 no-tlsv11{alpn}",
            folder.join("cert.pem").display()
        ));
    } else {
        line(&format!("    bind {address}"));
    }
    line(&format!("    mode {mode}"));
    line("    timeout client 50000");
    for n in 1..=task.policies() {
        line(&format!("    acl p{n} path -m beg {}", task.prefix(n)));
        line(&format!("    use_backend b{n} if p{n}"));
    }
    line("    default_backend b0");
    for n in 0..=task.policies() {
        backend(&mut text, task, n, mode, tuned)?;
    }
    Ok(text)
}

fn backend(
    text: &mut String,
    task: &Task<'_>,
    n: u16,
    mode: &str,
    tuned: bool,
) -> anyhow::Result<()> {
    writeln!(
        text,
        "backend b{n}\n    mode {mode}\n    balance roundrobin"
    )?;
    if task.has_checks() {
        writeln!(text, "    timeout check 5s")?;
    }
    if task.is_http() {
        let reuse = if tuned { "always" } else { "safe" };
        writeln!(text, "    http-reuse {reuse}\n    option forwardfor")?;
        if task.has_checks() {
            writeln!(
                text,
                "    option httpchk GET /health\n    http-check expect rstatus 200"
            )?;
        }
    }
    writeln!(text, "    fullconn {MAXCONN}\n    option allbackups")?;
    writeln!(text, "    timeout connect 5000\n    timeout server 50000")?;
    let port = task.member_port()?;
    let check = if task.has_checks() {
        "weight 1 check inter 5s fall 3 rise 2"
    } else {
        "weight 1 "
    };
    for (i, member) in task.members().iter().enumerate() {
        writeln!(text, "    server m{i} {member}:{port} {check}")?;
    }
    Ok(())
}

/// A reload, as systemd does it for Octavia: over when a new worker answers on the statistics socket.
pub(super) fn change(folder: &Path, number: u32, master: u32) -> anyhow::Result<()> {
    // The template writes a weight for each member; the first server line is the first member of b0.
    let weights = ("weight 1 ", "weight 2 ");
    super::with_weight(&folder.join("haproxy.cfg"), weights, number)?;
    let old = worker(folder)?;
    // A master that has just started anew loses a signal that comes before it looks for one.
    super::until("HAProxy's master takes SIGUSR2", || takes(master))?;
    ProcessId::of(master)?.signal(libc::SIGUSR2)?;
    super::until("a new worker of HAProxy answers", || {
        worker(folder).is_ok_and(|pid| pid != old)
    })
}

/// Whether the process catches SIGUSR2 and does not hold it back.
fn takes(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let bit = 1_u64 << (libc::SIGUSR2 - 1);
    let has = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & bit != 0)
    };
    has("SigCgt:") && !has("SigBlk:")
}

/// The process that answers now.
fn worker(folder: &Path) -> anyhow::Result<u32> {
    let text = ask(folder, "show info\n")?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid: "));
    pid.and_then(|pid| pid.trim().parse().ok())
        .context("HAProxy does not say who it is")
}

pub(super) fn seen(folder: &Path) -> anyhow::Result<Seen> {
    parse(&ask(folder, "show stat\n")?)
}

/// What the statistics socket answers.
fn ask(folder: &Path, command: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket(folder)).context("stats socket of HAProxy")?;
    stream.write_all(command.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The frontend's line of `show stat`.
fn parse(text: &str) -> anyhow::Result<Seen> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .trim_start_matches("# ")
        .split(',')
        .collect();
    let Some(fields) = lines
        .map(|line| line.split(',').collect::<Vec<_>>())
        .find(|fields| fields.get(1) == Some(&"FRONTEND"))
    else {
        bail!("HAProxy's statistics have no frontend");
    };
    let of = |name: &str| -> anyhow::Result<u64> {
        let at = names.iter().position(|n| *n == name);
        let value = at.and_then(|at| fields.get(at)?.parse().ok());
        value.with_context(|| format!("HAProxy's statistics have no number {name}"))
    };
    Ok(Seen {
        connections: of("conn_tot")?,
        bytes_in: of("bin")?,
        bytes_out: of("bout")?,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn statistics_are_found_by_name() {
        let text = "# pxname,svname,conn_tot,bin,bout,\nb0,m0,1,2,3,\nf,FRONTEND,7,8,9,\n";
        let seen = parse(text).unwrap();
        assert_eq!((seen.connections, seen.bytes_in, seen.bytes_out), (7, 8, 9));
        assert!(parse("# pxname,svname\n").is_err());
        assert!(parse("# pxname,svname,conn_tot\nf,FRONTEND,x\n").is_err());
    }
}
