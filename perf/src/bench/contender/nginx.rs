//! nginx, hand-tuned. It has no active health checks; the report says so.

use super::{Task, logged};
use crate::bench::topology::Place;
use crate::bench::workload::Service;
use anyhow::Context;
use krater_net::process::ProcessId;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;

pub(super) fn start(
    task: &Task<'_>,
    folder: &Path,
    address: SocketAddr,
) -> anyhow::Result<(Child, String)> {
    let program = task.programs.need(super::Who::Nginx)?;
    if task.is_tls() {
        fs::write(folder.join("cert.pem"), task.pem)?;
    }
    let text = configuration(task, folder, address)?;
    let path = folder.join("nginx.conf");
    fs::write(&path, &text)?;
    let mut command = task.programs.peer(program);
    command.arg("-p").arg(folder).arg("-c").arg(&path);
    command.arg("-e").arg(folder.join("error.log"));
    logged(&mut command, folder)?;
    Ok((task.topology.spawn(Place::Balancer, command)?, text))
}

/// A reload: over when there is a new worker.
pub(super) fn change(folder: &Path, number: u32, master: u32) -> anyhow::Result<()> {
    // The first server of the first upstream.
    super::with_weight(
        &folder.join("nginx.conf"),
        ("weight=1;", "weight=2;"),
        number,
    )?;
    let old = crate::cpu::tree(&[master]);
    ProcessId::of(master)?.signal(libc::SIGHUP)?;
    super::until("nginx has a new worker", || {
        !crate::cpu::tree(&[master]).is_subset(&old)
    })
}

fn configuration(task: &Task<'_>, folder: &Path, address: SocketAddr) -> anyhow::Result<String> {
    let mut text = String::new();
    let at = folder.display();
    if !task.is_http() {
        let module = [task.programs.tree.as_path(), Path::new("/")]
            .map(|root| root.join("usr/lib/nginx/modules/ngx_stream_module.so"))
            .into_iter()
            .find(|path| path.exists())
            .context("nginx's stream module is missing: run `cargo xtask setup`, or `apt-get install libnginx-mod-stream`")?;
        writeln!(text, "load_module {};", module.display())?;
    }
    writeln!(
        text,
        "user nobody nogroup;\nworker_processes 1;\nworker_rlimit_nofile 20000;\ndaemon off;\n\
         pid {at}/nginx.pid;\nerror_log {at}/error.log warn;\n\
         events {{ worker_connections 15000; multi_accept on; }}"
    )?;
    let port = task.member_port()?;
    let mut servers = String::new();
    for member in task.members() {
        write!(servers, "server {member}:{port} weight=1; ")?;
    }
    if !task.is_http() {
        let listen = match task.service {
            Service::Udp => "udp",
            _ => "backlog=4096",
        };
        writeln!(
            text,
            "stream {{\n  upstream b0 {{ {servers}}}\n  server {{ listen {address} {listen}; \
             proxy_pass b0; proxy_connect_timeout 5s; proxy_timeout 50s; }}\n}}"
        )?;
        return Ok(text);
    }
    writeln!(text, "http {{\n  access_log off;")?;
    for folder in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "  {folder}_temp_path {at}/{folder};")?;
    }
    writeln!(
        text,
        "  keepalive_requests 1000000000;\n  keepalive_timeout 50s;\n  client_max_body_size 0;\n  \
         tcp_nodelay on;"
    )?;
    for n in 0..=task.policies() {
        writeln!(
            text,
            "  upstream b{n} {{ {servers}keepalive 256; keepalive_requests 1000000000; }}"
        )?;
    }
    let tls = match task.service {
        Service::Http2 => " ssl http2",
        _ if task.is_tls() => " ssl",
        _ => "",
    };
    writeln!(text, "  server {{\n    listen {address}{tls} backlog=4096;")?;
    if task.is_tls() {
        writeln!(
            text,
            "    ssl_certificate {at}/cert.pem;\n    ssl_certificate_key {at}/cert.pem;\n    \
             ssl_protocols TLSv1.2 TLSv1.3;\n    ssl_session_cache shared:s:10m;"
        )?;
    }
    writeln!(
        text,
        "    proxy_http_version 1.1;\n    proxy_set_header Host $http_host;\n    \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n    \
         proxy_request_buffering off;\n    proxy_connect_timeout 5s;\n    proxy_read_timeout 50s;\n    \
         proxy_max_temp_file_size 0;"
    )?;
    // Without an upgrade an empty Connection header keeps the member's connection open.
    writeln!(
        text,
        "    set $way \"\";\n    if ($http_upgrade) {{ set $way upgrade; }}\n    \
         proxy_set_header Connection $way;\n    proxy_set_header Upgrade $http_upgrade;"
    )?;
    for n in 1..=task.policies() {
        let prefix = task.prefix(n);
        writeln!(text, "    location {prefix} {{ proxy_pass http://b{n}; }}")?;
    }
    writeln!(text, "    location / {{ proxy_pass http://b0; }}\n  }}\n}}")?;
    Ok(text)
}
