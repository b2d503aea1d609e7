//! The package of an amphora under a real systemd. `cargo xtask deb test`, and each nightly run.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "what is not as expected fails the test and says where"
)]

use krater_e2e::debian::Debian;
use krater_e2e::package;

/// What the administrator made of the shipped file.
const EDITED: &str = r#"# edited by hand
drain_timeout = 3600000
[[load_balancers]]
name = "e2e"
vips = ["127.0.0.1"]
listeners = [
    { protocol = "HTTP", port = 8080, default_pool = "web" },
    { protocol = "TCP", port = 9000, default_pool = "raw" },
]
pools = [
    { name = "web", protocol = "HTTP", members = [{ address = "127.0.0.1", port = 8081 }] },
    { name = "raw", protocol = "TCP", members = [{ address = "127.0.0.1", port = 8082 }] },
]
[[vrrp]]
vrid = 7
interface = "lo"
priority = 100
advert_interval = 100
source = "127.0.0.1"
addresses = ["192.0.2.10/32"]
"#;

/// Everything that could be ours, and what else an installation changes; but not the users, dpkg's own books and logs of others.
const TREE: &str = "find / -xdev -not -path '/e2e/*' -not -path '/var/lib/dpkg/*' -not -path '/var/log/journal/*' \
    -not -path '/tmp/*' -not -path '/var/tmp/*' -not -path '/var/lib/systemd/timers/*' -not -name '*-' -not -name .pwd.lock \
    -not -path '/var/log/dpkg.log' -not -path '/var/cache/*' | sort > /run/tree.new; \
    ls -d /run/krater 2>/dev/null >> /run/tree.new; true";

/// Processes of a user, by its number.
fn of_user(uid: u32) -> String {
    format!(
        "grep -l '^Uid:[[:space:]]*{uid}[[:space:]]' /proc/[0-9]*/status 2>/dev/null | cut -d/ -f3"
    )
}

/// The address of VRRP is there.
const VIP: &str = "grep -q 192.0.2.10 /proc/net/fib_trie";

fn capabilities(debian: &mut Debian, pid: &str, set: &str) -> u64 {
    let line = debian.ok(&format!("grep ^{set}: /proc/{pid}/status"));
    let digits = line.split_whitespace().last().unwrap_or_default();
    u64::from_str_radix(digits, 16).expect("hexadecimal")
}

fn main_pid(debian: &mut Debian) -> String {
    debian.ok("systemctl show -p MainPID --value krater-amphora")
}

/// Good and bad answers of the client so far, and the last error.
fn counted(debian: &mut Debian) -> (u32, u32, String) {
    let text = debian.until("cat /run/client");
    let mut words = text.splitn(3, ' ');
    let mut number = || words.next().unwrap_or_default().parse().expect("a number");
    let (good, bad) = (number(), number());
    (good, bad, words.next().unwrap_or_default().to_owned())
}

/// Waits until the client has had so many good answers more.
fn answers(debian: &mut Debian, more: u32) {
    let (good, ..) = counted(debian);
    let wanted = good + more;
    debian.until(&format!("[ $(cut -d' ' -f1 /run/client) -ge {wanted} ]"));
}

fn boot() -> Debian {
    let folder = tempfile::tempdir().expect("a folder");
    let new = package::static_amphora();
    let old = folder.path().join("old");
    package::other_version(&new, &old);
    let packed = |program: &std::path::Path, revision: &str| {
        let out = folder.path().join(revision);
        let path = package::build(program, revision, &out);
        std::fs::read(path).expect("the package")
    };
    let file = |path, text: &str| (path, 0o644, text.as_bytes().to_vec());
    Debian::boot(&[
        ("e2e/old.deb", 0o644, packed(&old, "1")),
        ("e2e/new.deb", 0o644, packed(&new, "2")),
        file("e2e/edited.toml", EDITED),
        file("e2e/member.pl", include_str!("member.pl")),
        file("e2e/client.pl", include_str!("client.pl")),
        file("e2e/long.pl", include_str!("long.pl")),
    ])
}

#[test]
fn it_is_installed_serves_is_upgraded_under_traffic_and_purged() {
    let mut debian = boot();
    debian.until("systemctl is-active multi-user.target");
    debian.ok(&format!("{TREE}; mv /run/tree.new /run/tree.before"));
    installed(&mut debian);
    hardened(&mut debian);
    serving(&mut debian);
    refused(&mut debian);
    upgraded(&mut debian);
    survives(&mut debian);
    purged(&mut debian);
}

/// dpkg installs it, systemd starts it as shipped, and at each boot.
fn installed(debian: &mut Debian) {
    debian.ok("dpkg -i /e2e/old.deb");
    debian.ok("systemctl is-active krater-amphora && systemctl is-enabled krater-amphora");
    let status = debian.ok("systemctl show -p StatusText --value krater-amphora");
    assert!(
        status.ends_with("serves /etc/krater/amphora.toml"),
        "{status}"
    );
    debian.ok("dpkg --verify krater-amphora");
    // Negative control: a file that is not as shipped is noticed.
    let changed = debian.ok(
        "echo x >> /usr/share/doc/krater-amphora/copyright; dpkg --verify krater-amphora; true",
    );
    assert!(changed.contains("/copyright"), "{changed}");
    let users = debian
        .ok("id -u krater-dataplane; id -u krater-vrrp; cat /proc/sys/net/ipv4/tcp_migrate_req");
    assert_eq!(users, "64501\n64502\n1");
}

/// The unit is right, and the processes have what they need and no more.
fn hardened(debian: &mut Debian) {
    debian.ok("systemd-analyze verify --man=no /lib/systemd/system/krater-amphora.service");
    // Negative control.
    let wrong = "sed 's/^Type=notify/Type=nonsense/' /lib/systemd/system/krater-amphora.service > /run/wrong.service; \
                 systemd-analyze verify --man=no /run/wrong.service 2>&1 | grep -c nonsense";
    debian.ok(wrong);
    let exposure = |debian: &mut Debian, unit: &str| {
        let all = debian.ok(&format!(
            "systemd-analyze security --no-pager {unit} | tail -n 1"
        ));
        let level = all
            .split_whitespace()
            .find_map(|word| word.parse::<f64>().ok());
        level.unwrap_or_else(|| panic!("{all}"))
    };
    let (ours, bare) = (
        exposure(debian, "krater-amphora.service"),
        exposure(debian, "e2e.service"),
    );
    assert!(ours < 4.5 && bare > 9.0, "{ours} {bare}");
    let main = main_pid(debian);
    // CAP_SYS_ADMIN, CAP_SYS_MODULE, CAP_SYS_BOOT, CAP_BPF: none can ever be had.
    let bounds = capabilities(debian, &main, "CapBnd");
    for capability in [21, 16, 22, 39] {
        assert_eq!(bounds >> capability & 1, 0, "{bounds:x}");
    }
    let dataplane = debian.until(&format!("{} | grep .", of_user(64_501)));
    assert_eq!(capabilities(debian, &dataplane, "CapEff"), 1 << 10);
    let (status, text) = debian.run(&format!(
        "nsenter -t {main} -m touch /etc/krater/x /usr/x 2>&1"
    ));
    assert!(
        status != 0 && text.contains("Read-only file system"),
        "{text}"
    );
}

/// The administrator's file is taken, and what is wrong with one is said.
fn serving(debian: &mut Debian) {
    debian.ok("systemd-run --unit member perl /e2e/member.pl");
    debian.ok("cp /e2e/edited.toml /etc/krater/amphora.toml && systemctl reload krater-amphora");
    // VRRP has what it needs, and no more.
    debian.until(VIP);
    let status = debian.ok("amphora ctl --run-dir /run/krater vrrp");
    assert!(status.contains("Active"), "{status}");
    let lacks = ["memory is not locked", "no real-time"];
    assert!(lacks.iter().all(|text| !status.contains(text)), "{status}");
    let vrrp = debian.ok(&of_user(64_502));
    assert_eq!(capabilities(debian, &vrrp, "CapEff"), 1 << 12 | 1 << 13);
    debian.ok("systemd-run --unit client perl /e2e/client.pl");
    answers(debian, 20);
    debian.ok("systemd-run --unit long perl /e2e/long.pl");
    debian.until("grep open /run/long");
    let (status, text) =
        debian.run("echo nonsense > /etc/krater/amphora.toml; systemctl reload krater-amphora");
    assert_ne!(status, 0, "{text}");
    let status = debian.ok("systemctl show -p StatusText --value krater-amphora");
    assert!(status.starts_with("file not read anew: "), "{status}");
    debian.ok("cp /e2e/edited.toml /etc/krater/amphora.toml && systemctl reload krater-amphora");
    answers(debian, 5);
}

/// A program that does not take the file does not get its turn.
fn refused(debian: &mut Debian) {
    let main = main_pid(debian);
    debian.ok(
        "cp /usr/sbin/amphora /run/amphora && printf '#!/bin/sh\\necho cannot >&2; exit 1\\n' > /usr/sbin/wrong \
         && chmod 755 /usr/sbin/wrong && mv /usr/sbin/wrong /usr/sbin/amphora",
    );
    let (status, text) = debian.run("/run/amphora ctl --run-dir /run/krater upgrade");
    assert!(status != 0 && text.contains("cannot"), "{text}");
    answers(debian, 5);
    assert_eq!(main_pid(debian), main);
    debian.ok("cp /run/amphora /usr/sbin/right && mv /usr/sbin/right /usr/sbin/amphora");
}

/// The next version is installed while clients are served.
fn upgraded(debian: &mut Debian) {
    let main = main_pid(debian);
    let old = debian.until(&format!("{} | grep .", of_user(64_501)));
    let (_, bad, why) = counted(debian);
    assert_eq!(bad, 0, "{why}");
    let said = debian.ok("dpkg -i /e2e/new.deb");
    assert!(said.contains("took the place of"), "{said}");
    answers(debian, 50);
    let (_, bad, why) = counted(debian);
    assert_eq!(bad, 0, "{why}\n{}", debian.journal());
    assert_eq!(main_pid(debian), main, "one service, not a second start");
    debian.ok("cmp /e2e/edited.toml /etc/krater/amphora.toml");
    let version = debian.ok("dpkg-query -W -f '${Version}' krater-amphora");
    assert!(version.ends_with("-2"), "{version}");
    // The old data plane serves what it had, the new one all that is new.
    let both = debian.ok(&of_user(64_501));
    assert!(both.lines().count() == 2 && both.contains(&old), "{both}");
    let round = debian.ok("cut -d' ' -f1 /run/long");
    debian.until(&format!("[ $(cut -d' ' -f1 /run/long) -gt {round} ]"));
    debian.ok("grep open /run/long && systemctl stop long");
    debian.until(&format!("[ \"$({} | wc -l)\" = 1 ]", of_user(64_501)));
    let (status, _) = debian.run(&format!("[ -e /proc/{old} ]"));
    assert_ne!(status, 0);
    // Negative control: the same client sees a restart.
    debian.ok("systemctl restart krater-amphora");
    debian.until("[ $(cut -d' ' -f2 /run/client) -gt 0 ]");
}

/// What serves outlives what supervises it.
fn survives(debian: &mut Debian) {
    debian.ok("systemctl restart client; rm -f /run/client; systemd-run --unit client2 perl /e2e/client.pl");
    answers(debian, 5);
    let main = main_pid(debian);
    let dataplane = debian.ok(&of_user(64_501));
    debian.ok(&format!("kill -9 {main}"));
    debian.until(&format!(
        "systemctl is-active krater-amphora && [ $(systemctl show -p MainPID --value krater-amphora) != {main} ]"
    ));
    answers(debian, 20);
    let (_, bad, why) = counted(debian);
    assert_eq!(bad, 0, "{why}");
    assert_eq!(debian.ok(&of_user(64_501)), dataplane);
}

/// Nothing is left but the users, which can do nothing.
fn purged(debian: &mut Debian) {
    // The worst case: nobody supervises when the package goes.
    debian.ok("mkdir -p /run/systemd/system/krater-amphora.service.d; \
               printf '[Service]\\nRestart=no\\n' > /run/systemd/system/krater-amphora.service.d/no.conf; systemctl daemon-reload");
    let main = main_pid(debian);
    debian.ok(&format!("kill -9 {main}"));
    debian.until("systemctl is-failed krater-amphora");
    debian.ok(&format!("{} | grep .", of_user(64_501)));
    debian.ok("rm -r /run/systemd/system/krater-amphora.service.d");
    debian.ok(VIP);
    debian.ok("dpkg --remove krater-amphora");
    debian.until(&format!("! {} | grep .", of_user(64_501)));
    debian.ok(&format!("! {} | grep . && ! {VIP}", of_user(64_502)));
    debian.ok("cmp /e2e/edited.toml /etc/krater/amphora.toml");
    // Negative control: what a removed package leaves is seen.
    debian.ok(TREE);
    let (same, left) = debian.run("diff /run/tree.before /run/tree.new");
    assert!(
        same != 0 && left.contains("> /etc/krater/amphora.toml"),
        "{left}"
    );
    debian.ok("dpkg --purge krater-amphora");
    debian.ok(TREE);
    let (same, left) = debian.run("diff /run/tree.before /run/tree.new");
    assert!(same == 0, "{left}");
    let (status, text) =
        debian.run("systemctl is-enabled krater-amphora; systemctl status krater-amphora");
    assert!(status != 0 && text.contains("could not be found"), "{text}");
    let (known, _) = debian.run("dpkg-query -W krater-amphora");
    assert_ne!(known, 0);
    let locked = debian.ok("grep ^krater- /etc/shadow | cut -d: -f2 | sort -u; grep ^krater- /etc/passwd | cut -d: -f7 | sort -u");
    assert!(
        locked.starts_with('!') && locked.ends_with("/usr/sbin/nologin"),
        "{locked}"
    );
}
