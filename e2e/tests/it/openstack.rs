//! The README's story with the real OpenStack client, word for word.

use crate::story::Story;
use krater_e2e::api::text;
use krater_e2e::system::{System, alone};
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The `sh` block after the mark `<!-- story -->`.
fn story(readme: &str) -> &str {
    let (_, after) = readme
        .split_once("<!-- story -->\n```sh\n")
        .expect("the mark and its block");
    after.split_once("\n```\n").expect("the end of the block").0
}

pub(crate) fn peers() -> PathBuf {
    let folder = std::env::var_os("KRATER_PEERS").map(PathBuf::from);
    let folder = folder.expect("KRATER_PEERS: run the tests with `cargo xtask test`");
    assert!(
        folder.join("venv-cli/bin/openstack").is_file(),
        "no OpenStack client: `cargo xtask setup`"
    );
    folder
}

/// Runs a statement on a controller's database while no controller does: what an operator would do by hand.
pub(crate) fn sql(database: &std::path::Path, statement: &str) {
    let program =
        "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as db: db.execute(sys.argv[2])";
    let done = Command::new(peers().join("venv-cli/bin/python"))
        .args(["-c", program])
        .arg(database)
        .arg(statement)
        .output()
        .expect("python");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{statement}: {errors}");
}

/// What lets a command find the tested programs and the real clients, whether fetched or the host's.
pub(crate) fn environment() -> Vec<(&'static str, OsString)> {
    let peers = peers();
    let front = [
        krater_e2e::bin_dir(),
        peers.join("venv-cli/bin"),
        peers.join("tree/usr/bin"),
    ];
    let host = ["/usr/bin".into(), "/bin".into()];
    let path = std::env::join_paths(front.into_iter().chain(host)).expect("PATH");
    let libraries = krater_e2e::libraries();
    let mut all = vec![("PATH", path)];
    // A fetched openssl looks for its files where an installed one has them.
    for (name, file) in [
        ("OPENSSL_CONF", peers.join("tree/etc/ssl/openssl.cnf")),
        ("OPENSSL_MODULES", libraries.join("ossl-modules")),
    ] {
        if file.exists() && peers.join("tree/usr/bin/openssl").exists() {
            all.push((name, file.into()));
        }
    }
    all.push(("LD_LIBRARY_PATH", libraries.into()));
    all
}

pub(crate) fn shell(system: &System, script: &str) -> Output {
    // The block's own PATH line speaks of the usual build folder; here the tested one comes first.
    let bins = krater_e2e::bin_dir().display().to_string();
    let script = script.replace("$PWD/target/release", &bins);
    let script = script.replace("$PWD/target/peers", &peers().display().to_string());
    let exports = std::fs::read_to_string(system.folder().join("up.out")).expect("up.out");
    let exports: String = exports
        .lines()
        .filter(|line| line.starts_with("export "))
        .map(|l| format!("{l}\n"))
        .collect();
    assert!(
        exports.contains("OS_AUTH_TYPE=none"),
        "krater up printed no exports: {exports}"
    );
    // Into files and in a process group: members that the block leaves in the background would hold
    // a pipe open for ever.
    let (out, err) = (
        system.folder().join("story.out"),
        system.folder().join("story.err"),
    );
    let mut child = Command::new("sh")
        .args(["-e", "-c", &format!("{exports}{script}")])
        .env_clear()
        .current_dir(system.folder())
        .envs(environment())
        .env("HOME", system.folder())
        .env("LC_ALL", "C.UTF-8")
        .env("KRATER_STATE_DIR", system.state_dir())
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out).expect("story.out"))
        .stderr(std::fs::File::create(&err).expect("story.err"))
        .process_group(0)
        .spawn()
        .expect("sh");
    let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    let status = child.wait().expect("sh");
    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGTERM);
    let read = |path| std::fs::read(path).expect("what it said");
    Output {
        status,
        stdout: read(out),
        stderr: read(err),
    }
}

#[test]
fn the_story_of_the_readme_works_word_for_word() {
    let _alone = alone();
    let readme = std::fs::read_to_string(krater_e2e::root().join("README.md")).expect("README.md");
    let system = System::start();
    let script = format!("set -x\n{}\n", story(&readme));
    let output = shell(&system, &script);
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{}\n-- output:\n{out}\n-- errors:\n{err}",
        output.status
    );
    for said in [
        "web1",
        "web2",
        "special",
        "ACTIVE",
        "ONLINE",
        "MASTER",
        "BACKUP",
        "total_connections",
    ] {
        assert!(
            out.contains(said),
            "{said} is not in:\n{out}\n-- errors:\n{err}"
        );
    }
    let left = system.api.get("/v2/lbaas/loadbalancers");
    assert_eq!(
        left["loadbalancers"],
        serde_json::json!([]),
        "the last line of the story deletes everything"
    );

    // Negative control: the same shell fails on a command that cannot work.
    let output = shell(
        &system,
        "openstack loadbalancer show lb1\necho not reached\n",
    );
    assert!(
        !output.status.success()
            && !String::from_utf8_lossy(&output.stdout).contains("not reached")
    );
}

#[test]
fn a_flavor_decides_how_many_amphorae_serve() {
    let system = System::start();
    let run = |script: &str| {
        let output = shell(&system, script);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said, errors)
    };
    let create = "openstack loadbalancer create --vip-subnet-id public-subnet --wait --name";
    let (good, said, errors) = run(&format!(
        r#"openstack loadbalancer provider capability list amphora --flavor
        openstack loadbalancer flavorprofile create --name single --provider amphora --flavor-data '{{"loadbalancer_topology": "SINGLE"}}'
        openstack loadbalancer flavor create --name small --flavorprofile single --description 'one amphora' --enable
        openstack loadbalancer flavorprofile list
        openstack loadbalancer flavor show small
        {create} lb1 --flavor small
        {create} lb2
        "#
    ));
    assert!(good, "{said}\n-- errors:\n{errors}");
    for text in ["loadbalancer_topology", "one amphora", "single"] {
        assert!(said.contains(text), "{text} is not in:\n{said}");
    }
    // What is in use stays, and what would have no effect is refused by name.
    for (script, text) in [
        ("openstack loadbalancer flavor delete small", "is in use"),
        (
            "openstack loadbalancer flavorprofile delete single",
            "is in use",
        ),
        (
            "openstack loadbalancer flavorprofile create --name x --provider amphora --flavor-data '{\"compute_flavor\": \"1\"}'",
            "not supported yet: compute_flavor",
        ),
    ] {
        let (good, said, errors) = run(script);
        assert!(!good && errors.contains(text), "{script}: {said}\n{errors}");
    }
    let named = |name: &str| {
        let list = system
            .api
            .get(&format!("/v2/lbaas/loadbalancers?name={name}"));
        list["loadbalancers"][0].clone()
    };
    let roles = |balancer: &Value| {
        let amphorae = system.api.amphorae(&text(&balancer["id"]));
        let mut roles: Vec<String> = amphorae.iter().map(|a| text(&a["role"])).collect();
        roles.sort();
        roles
    };
    let (lb1, lb2) = (named("lb1"), named("lb2"));
    assert_eq!(roles(&lb1), ["STANDALONE"]);
    // Negative control: without the flavor there are two.
    assert_eq!(roles(&lb2), ["BACKUP", "MASTER"]);
    let story = Story::around(system, &lb1);
    story.answers();
    assert_eq!(story.spread("/", 30).len(), 3, "all members answer");
    assert_eq!(story.amphorae().len(), 1);

    let done = shell(
        &story.system,
        "openstack loadbalancer delete --cascade --wait lb1
        openstack loadbalancer flavor set small --disable
        openstack loadbalancer flavor delete small
        openstack loadbalancer flavorprofile delete single",
    );
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{errors}");
    let left = story.system.api.get("/v2/lbaas/flavors");
    assert_eq!(left["flavors"], serde_json::json!([]));
}
