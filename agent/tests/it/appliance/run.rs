//! Start, reload, adoption, end.

use super::host::{Host, ask, at, certificate, goes_round, tls, until};
use krater_net::process::{self, Detached};
use std::io::{Read, Write};
use std::path::Path;

const WEB: &str = "127.0.0.10:8080";
const RAW: &str = "127.0.0.10:9000";

/// One HTTP and one TCP listener; requests go to the pool `web`.
fn file(web: &str) -> String {
    format!(
        r#"
[[load_balancers]]
name = "lb"
vips = ["127.0.0.10"]

[[load_balancers.listeners]]
name = "web"
protocol = "HTTP"
port = 8080
default_pool = "{web}"

[[load_balancers.listeners]]
name = "raw"
protocol = "TCP"
port = 9000
default_pool = "raw"

[[load_balancers.pools]]
name = "a"
protocol = "HTTP"
members = [{{ name = "a1", address = "127.0.0.21", port = 80 }}]

[[load_balancers.pools]]
name = "b"
protocol = "HTTP"
members = [{{ name = "b1", address = "127.0.0.22", port = 80 }}]

[[load_balancers.pools]]
name = "raw"
protocol = "TCP"
members = [{{ name = "r1", address = "127.0.0.23", port = 80 }}]
"#
    )
}

fn host() -> Host {
    Host::with_members(&[
        ("127.0.0.21:80", "a1"),
        ("127.0.0.22:80", "b1"),
        ("127.0.0.23:80", "r1"),
    ])
}

#[test]
fn a_file_is_served_and_read_anew_without_closing_anything() {
    let mut host = host();
    host.write(&file("a"));
    let checked = host.amphora(&["check", "--config", "amphora.toml"]);
    assert!(checked.status.success());
    assert_eq!(
        String::from_utf8(checked.stdout).unwrap(),
        "ok: appliance: 1 load balancers, 2 listeners, 3 pools, 3 members, 0 certificates, 0 virtual routers\n"
    );
    host.run(&[]);
    host.serves();
    assert!(host.get(at(WEB), "a", "/").ends_with("a1 "));
    let mut long = host.connect(at(RAW));
    assert!(goes_round(&mut long));
    let mut kept = host.connect(at(WEB));
    let mut ask = |expected: &str| {
        kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut answer = [0; 41];
        kept.read_exact(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.ends_with(expected), "{answer}");
    };
    ask("a1 ");
    // By command.
    host.write(&file("b"));
    assert!(host.get(at(WEB), "a", "/").ends_with("a1 "), "not read yet");
    let (good, text) = host.ctl(&["reload"]);
    assert!(good, "{text}");
    assert!(host.get(at(WEB), "a", "/").ends_with("b1 "));
    ask("b1 ");
    assert!(goes_round(&mut long));
    // A bad file is refused by place, value and cure, and changes nothing.
    for (from, to, expected) in [
        (
            "default_pool = \"b\"",
            "default_pool = \"c\"",
            "line 13: load_balancers[0].listeners[0].default_pool: \"c\" is no pool of this load balancer: use one of a, b, raw",
        ),
        (
            "port = 9000",
            "port = 8080",
            "both listen on 127.0.0.10:8080",
        ),
        (
            "workers = 2",
            "workers = 3",
            "line 3: workers: cannot change while it runs: put it back, or restart",
        ),
        ("name = \"lb\"", "name = lb", "line 6: syntax: "),
    ] {
        host.write(&file("b"));
        let good = std::fs::read_to_string(host.file()).unwrap();
        assert!(good.contains(from));
        std::fs::write(host.file(), good.replace(from, to)).unwrap();
        let (good, text) = host.ctl(&["reload"]);
        assert!(!good && text.contains(expected), "{text}");
        assert!(host.get(at(WEB), "a", "/").ends_with("b1 "));
        assert!(goes_round(&mut long));
    }
    // By signal.
    host.write(&file("a"));
    host.signal(libc::SIGHUP);
    until("the file by SIGHUP", || {
        host.get(at(WEB), "a", "/").ends_with("a1 ").then_some(())
    });
    ask("a1 ");
    assert!(goes_round(&mut long));
    // The end ends everything.
    host.signal(libc::SIGTERM);
    host.ended();
    assert_eq!(host.processes(), 0, "{}", host.logs());
    assert!(!goes_round(&mut long));
}

#[test]
fn a_bad_file_does_not_start() {
    let mut host = Host::new();
    let good = file("a");
    for (from, to, expected) in [
        (
            "port = 9000",
            "port = 0",
            "line 18: load_balancers[0].listeners[1].port: port 0 is out of range: use 1 to 65535",
        ),
        (
            "protocol = \"TCP\"\nport = 9000\ndefault_pool = \"raw\"",
            "protocol = \"TERMINATED_HTTPS\"\ntls = { default_certificate = \"none.pem\" }\nport = 443",
            "tls.default_certificate: none.pem: No such file or directory",
        ),
        (
            "protocol = \"TCP\"\nport = 9000\ndefault_pool = \"raw\"",
            "protocol = \"TERMINATED_HTTPS\"\ntls = { default_certificate = \"amphora.toml\" }\nport = 443",
            "load_balancers[0].listeners[1].tls.default_certificate",
        ),
        (
            "default_pool = \"a\"",
            "default_pool = \"a\"\nl7_policies = [{ action = { type = \"REJECT\" }, rules = [{ subject = { type = \"PATH\" }, compare = \"REGEX\", value = \"(\" }] }]",
            "load_balancers[0].listeners[0].l7_policies[0].rules[0]",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        host.write(&good.replace(from, to));
        let checked = host.amphora(&["check", "--config", "amphora.toml"]);
        let text = String::from_utf8(checked.stderr).unwrap();
        assert!(!checked.status.success());
        assert!(
            text.contains("amphora.toml: line ") && text.contains(expected),
            "{text}"
        );
        host.run(&[]);
        host.ended();
        let stderr = std::fs::read_to_string(host.dir.join("stderr")).unwrap();
        assert!(stderr.contains(expected), "{stderr}");
        assert_eq!(host.processes(), 0);
        assert!(!host.dir.join("run").exists(), "nothing was made");
    }
}

/// A crash of the appliance's own process is no crash of the data plane, which the next one takes over.
#[test]
fn the_data_plane_outlives_a_crash() {
    let mut host = host();
    host.write(&file("a"));
    host.run(&[]);
    host.serves();
    let mut long = host.connect(at(RAW));
    assert!(goes_round(&mut long));
    let pid = || {
        let (_, text) = host.ctl(&["--json", "status"]);
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        status["dataplane"]["pid"].as_u64().unwrap()
    };
    let before = pid();
    host.signal(libc::SIGKILL);
    host.ended();
    assert!(goes_round(&mut long));
    host.write(&file("b"));
    host.run(&[]);
    until("the new file", || {
        host.get(at(WEB), "a", "/").ends_with("b1 ").then_some(())
    });
    let (_, text) = host.ctl(&["--json", "status"]);
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["dataplane"]["pid"], before);
    assert!(goes_round(&mut long));
    // One that dies is started again, also when somebody has cleaned up its log.
    std::fs::remove_dir_all(host.dir.join("log")).unwrap();
    let dying = process::ProcessId::of(u32::try_from(before).unwrap()).unwrap();
    dying.signal(libc::SIGKILL).unwrap();
    until("a new data plane with the file", || {
        let (_, text) = host.ctl(&["--json", "status"]);
        let status: serde_json::Value = serde_json::from_str(&text).ok()?;
        let pid = status["dataplane"]["pid"].as_u64()?;
        (pid != before && status["dataplane"]["listeners"][0]["state"] == "open").then_some(())
    });
    assert!(host.get(at(WEB), "a", "/").ends_with("b1 "));
    // Another one beside it is refused.
    let second = host.amphora(&["run", "--config", "amphora.toml"]);
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && text.contains("an appliance runs already"),
        "{text}"
    );
}

#[test]
fn metrics_are_read_over_loopback() {
    let mut host = host();
    let port = at("127.0.0.1:9105");
    host.write(&file("a"));
    host.run(&[]);
    host.serves();
    let refused = host.ns.tcp_connect(port, std::time::Duration::from_secs(1));
    assert!(refused.is_err(), "off unless asked for");
    host.write(&format!("metrics = \"{port}\"\n{}", file("a")));
    let (good, text) = host.ctl(&["reload"]);
    assert!(
        !good && text.contains("metrics: cannot change while it runs"),
        "{text}"
    );
    host.signal(libc::SIGTERM);
    host.ended();
    host.run(&[]);
    host.serves();
    host.get(at(WEB), "a", "/");
    let answer = host.get(port, "localhost", "/metrics");
    assert!(
        answer.contains("krater_dataplane_listener_connections_accepted_total"),
        "{answer}"
    );
    assert!(host.get(port, "localhost", "/readyz").ends_with("ready\n"));
    for path in ["/status", "/drain", "/snapshot"] {
        assert!(
            host.get(port, "localhost", path)
                .starts_with("HTTP/1.1 404 "),
            "{path}"
        );
    }
}

/// Statistics, an operator's word on a member, and log levels go through the same commands as in an amphora.
#[test]
fn an_operators_word_survives_a_reload() {
    let mut host = host();
    host.write(&file("a"));
    host.run(&[]);
    host.serves();
    let (_, text) = host.ctl(&["--json", "status"]);
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    let member = status["dataplane"]["pools"][0]["members"][0]["id"].clone();
    let member = member.as_str().unwrap();
    let (good, text) = host.ctl(&["member", "set", member, "maint"]);
    assert!(good, "{text}");
    assert!(host.get(at(WEB), "a", "/").starts_with("HTTP/1.1 503"));
    let changed = format!("log_level = \"debug\"\n{}", file("a"));
    host.write(&changed);
    let (good, text) = host.ctl(&["reload"]);
    assert!(good, "{text}");
    assert!(
        host.get(at(WEB), "a", "/").starts_with("HTTP/1.1 503"),
        "still"
    );
    // By name, too.
    let name = &status["dataplane"]["pools"][0]["members"][0]["name"];
    let (good, text) = host.ctl(&["member", "set", name.as_str().unwrap(), "ready"]);
    assert!(good, "{text}");
    let (good, text) = host.ctl(&["member", "set", "nobody", "ready"]);
    assert!(!good && text.contains("nobody is no member"), "{text}");
    // An appliance without virtual routers has no vrrp to ask.
    let (good, text) = host.ctl(&["log-level", "debug"]);
    assert!(good, "{text}");
    let (good, text) = host.ctl(&["status"]);
    assert!(good && !text.contains("vrrp"), "{text}");
    assert!(host.get(at(WEB), "a", "/").ends_with("a1 "));
    let (good, text) = host.ctl(&["stats"]);
    assert!(good && text.contains("bytes in"), "{text}");
    until("debug lines", || {
        drop(host.connect(at(RAW)));
        host.logs().contains("DEBUG").then_some(())
    });
}

pub(super) const VRRP: &str = r#"
[[vrrp]]
vrid = 7
interface = "eth0"
priority = 100
advert_interval = 10
source = "192.0.2.2"
addresses = ["192.0.2.10/24"]
"#;

#[test]
fn virtual_routers_of_the_file_hold_its_vip() {
    let mut host = host();
    host.add_address("eth0", "192.0.2.2/24");
    let vip = at("192.0.2.10:8080");
    let served = file("a").replace("127.0.0.10", "192.0.2.10");
    host.write(&served);
    host.run(&[]);
    host.serves();
    assert!(!host.has_address(vip.ip()), "nothing is configured unasked");
    host.write(&format!("{served}{VRRP}"));
    let (good, text) = host.ctl(&["reload"]);
    assert!(good, "{text}");
    until("the VIP", || host.has_address(vip.ip()).then_some(()));
    assert!(host.get(vip, "a", "/").ends_with("a1 "));
    // vrrp alone refuses what the file's own checks cannot know.
    let twice = VRRP.replace("vrid = 7", "vrid = 8");
    host.write(&format!("{served}{VRRP}{twice}"));
    let (good, text) = host.ctl(&["reload"]);
    let expected = "vrrp[1].addresses: 192.0.2.10/24 belongs to two virtual routers";
    assert!(!good && text.contains(expected), "{text}");
    assert!(host.has_address(vip.ip()));
    host.write(&served);
    let (good, text) = host.ctl(&["reload"]);
    assert!(good, "{text}");
    until("the VIP's end", || {
        (!host.has_address(vip.ip())).then_some(())
    });
    host.write(&format!("{served}{VRRP}"));
    let (good, text) = host.ctl(&["reload"]);
    assert!(good, "{text}");
    until("the VIP", || host.has_address(vip.ip()).then_some(()));
    host.signal(libc::SIGTERM);
    host.ended();
    assert!(!host.has_address(vip.ip()));
    until("the end of the guard", || {
        (host.processes() == 0).then_some(())
    });
}

/// Each process alone, of the same file.
#[test]
fn each_part_runs_alone() {
    let mut host = host();
    host.add_address("eth0", "192.0.2.2/24");
    let vip = at("192.0.2.10:8080");
    let served = file("a").replace("127.0.0.10", "192.0.2.10");
    host.write(&format!("{served}{VRRP}"));
    host.run(&["--only", "dataplane"]);
    host.serves();
    assert!(!host.has_address(vip.ip()));
    host.signal(libc::SIGTERM);
    host.ended();
    host.run(&["--only", "vrrp"]);
    host.ended();
    let stderr = std::fs::read_to_string(host.dir.join("stderr")).unwrap();
    let expected = "vrrp[0].track_dataplane: there is no data plane to track with --only vrrp";
    assert!(stderr.contains(expected), "{stderr}");
    let alone = VRRP.replace("vrid = 7", "vrid = 7\ntrack_dataplane = false");
    host.write(&format!("{served}{alone}"));
    host.run(&["--only", "vrrp"]);
    until("the VIP", || host.has_address(vip.ip()).then_some(()));
    assert!(
        host.ns
            .tcp_connect(vip, std::time::Duration::from_secs(1))
            .is_err()
    );
}

#[test]
fn certificates_are_files_that_a_reload_reads_anew() {
    let mut host = host();
    let text = file("a").replace(
        "protocol = \"HTTP\"\nport = 8080",
        "protocol = \"TERMINATED_HTTPS\"\nport = 8080\ntls = { default_certificate = \"web.pem\" }",
    );
    let (first, second) = (certificate(&["web.example"]), certificate(&["web.example"]));
    std::fs::write(host.dir.join("web.pem"), &first).unwrap();
    host.write(&text);
    host.run(&[]);
    host.serves();
    let get = |trusted: &str| {
        let stream = tls(host.connect(at(WEB)), "web.example", &[trusted]);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ask(stream, "a", "/")))
    };
    assert!(get(&first).unwrap().ends_with("a1 "));
    assert!(get(&second).is_err(), "another one's certificate");
    std::fs::write(host.dir.join("web.pem"), &second).unwrap();
    let (good, text) = host.ctl(&["reload"]);
    assert!(good, "{text}");
    assert!(get(&second).unwrap().ends_with("a1 "));
    assert!(get(&first).is_err());
    // A key that is not readable changes nothing.
    std::fs::remove_file(host.dir.join("web.pem")).unwrap();
    let (good, text) = host.ctl(&["reload"]);
    assert!(!good && text.contains("web.pem: No such file"), "{text}");
    assert!(get(&second).unwrap().ends_with("a1 "));
}

/// As a service manager runs it for a user: with what vrrp needs, and nothing else; and without.
#[test]
fn a_user_with_two_capabilities_runs_vrrp() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    host.add_address("eth0", "192.0.2.2/24");
    std::fs::set_permissions(&host.dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let alone = VRRP.replace("vrid = 7", "vrid = 7\ntrack_dataplane = false");
    host.write(&alone);
    let start = |capabilities: &str| {
        let ambient = format!("--ambient-caps={capabilities}");
        let inherited = format!("--inh-caps={capabilities}");
        let bounding = format!("--bounding-set={capabilities}");
        let config = host.file();
        let args = [
            "--reuid=64502".into(),
            "--regid=64502".into(),
            "--clear-groups".into(),
            ambient.into(),
            inherited.into(),
            bounding.into(),
            env!("CARGO_BIN_EXE_amphora").into(),
            "vrrp".into(),
            "--config".into(),
            config.into_os_string(),
        ];
        let user = Detached {
            program: Path::new("/usr/bin/setpriv"),
            args: &args,
            netns: &host.ns,
            stderr: Some(&host.dir.join(format!("stderr{capabilities}"))),
        };
        process::spawn_detached(&user).unwrap()
    };
    let mut without = start("-all,+net_raw");
    assert!(!without.wait().unwrap().success());
    let stderr = std::fs::read_to_string(host.dir.join("stderr-all,+net_raw")).unwrap();
    let expected = "vrrp: virtual routers need root, or CAP_NET_ADMIN and CAP_NET_RAW";
    assert!(stderr.contains(expected), "{stderr}");
    let mut with = start("-all,+net_admin,+net_raw");
    let vip = at("192.0.2.10:8080").ip();
    until("the VIP", || host.has_address(vip).then_some(()));
    with.kill().unwrap();
    with.wait().unwrap();
}
