//! Amphorae as virtual machines: `krater up --compute qemu` with the image that `cargo xtask image` built. Under TCG, so
//! that it runs on any host: slow, and nothing here measures.

use crate::story::Story;
use krater_e2e::amphora::pins;
use krater_e2e::api::text;
use krater_e2e::machine::{image, peer};
use krater_e2e::system::{System, alone};
use krater_e2e::{bin, client, wait};
use krater_net::netns::NetNs;
use krater_net::process::{ProcessId, processes_in};
use krater_net::sync::NetlinkSocket;
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A boot takes 5 to 30 s on two busy cores; a failover is one and some silence.
const MACHINE: Duration = Duration::from_secs(300);

/// QEMU, as `cargo xtask setup` fetched it.
fn qemu() -> PathBuf {
    peer("qemu/qemu-system-x86_64")
}

/// One amphora for each load balancer; more is the demo's.
fn config(image: &Path, more: &str) -> String {
    let qemu = qemu();
    format!(
        "[controller]\ndrivers = \"qemu\"\ntopology = \"SINGLE\"\n\
         [heartbeat]\nstale_after_ms = 20000\n[vrrp]\nadvert_centiseconds = 100\n\
         [qemu]\nimage = {image:?}\nbinary = {qemu:?}\naccel = \"tcg\"\n{more}"
    )
}

/// The process of a machine, by its id on the command line.
fn machine(system: &System, id: &str) -> Option<ProcessId> {
    let pins = pins(system);
    let pin = pins
        .iter()
        .find(|pin| pin.to_string_lossy().ends_with(&format!("-{id}-vm")))?;
    let netns = NetNs::open(pin).expect("a namespace").id().expect("its id");
    let processes = processes_in(&[netns]).expect("processes");
    let is_machine = |process: &ProcessId| {
        let line = process.command_line().unwrap_or_default();
        line.windows(2)
            .any(|pair| pair[0] == "-uuid" && pair[1] == id)
    };
    let mut processes = processes.into_iter().map(|(process, _)| process);
    processes.find(is_machine)
}

/// Tap devices in the networks.
fn taps(system: &System) -> usize {
    let networks = |pin: &PathBuf| {
        let pin = pin.to_string_lossy();
        pin.ends_with("-fabric") || pin.ends_with("-management")
    };
    pins(system)
        .into_iter()
        .filter(networks)
        .map(|pin| {
            let netlink = NetlinkSocket::open_in(&NetNs::open(&pin).expect("a network"));
            let links = netlink.and_then(|netlink| netlink.links()).expect("links");
            let tap = |link: &&krater_net::link::Link| link.kind.as_deref() == Some("tun");
            links.iter().filter(tap).count()
        })
        .sum()
}

/// Waits for ACTIVE for as long as a machine may take; gives the one amphora.
fn active(system: &System, load_balancer: &str, other_than: &str) -> String {
    wait::within(MACHINE, "ACTIVE with an amphora", || {
        let shown = system.api.show(&format!("loadbalancers/{load_balancer}"))?;
        let status = text(&shown["provisioning_status"]);
        assert_ne!(status, "ERROR", "{shown}\n{}", system.log());
        let amphorae = system.api.amphorae(load_balancer);
        let [amphora] = amphorae.as_slice() else {
            return None;
        };
        let id = text(&amphora["id"]);
        (status == "ACTIVE" && amphora["status"] == "ALLOCATED" && id != other_than).then_some(id)
    })
}

fn serves(story: &Story) {
    wait::within(MACHINE, "the VIP answers", || {
        let answer = client::get(&story.client, story.at(80), "/").ok()?;
        (answer.status == 200).then_some(())
    });
}

#[test]
fn the_demo_passes_with_machines() {
    let _alone = alone();
    let temp = tempfile::tempdir().expect("a folder");
    let output = Command::new(bin("krater"))
        .args(["demo", "--compute", "qemu", "--accel", "tcg", "--image"])
        .arg(image())
        .arg("--qemu-binary")
        .arg(qemu())
        .env("TMPDIR", temp.path())
        .stdin(Stdio::null())
        .output()
        .expect("krater demo");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.trim_end().ends_with(" passed, 0 failed"), "{said}");
    assert_eq!(std::fs::read_dir(temp.path()).expect("a folder").count(), 0);
}

/// The parts of a machine's life that the demo does not show.
mod nightly {
    use super::*;

    #[test]
    fn a_machine_serves_outlives_the_controller_and_is_replaced_when_it_is_killed() {
        let _alone = alone();
        let system = System::with(&config(&image(), ""), &[]);
        let created = system.api.create_load_balancer("lb1");
        let load_balancer = text(&created["id"]);
        let first = active(&system, &load_balancer, "");
        let mut story = Story::around(system, &created);
        serves(&story);
        let process = machine(&story.system, &first).expect("a machine runs");
        assert_eq!(taps(&story.system), 3, "management, VIP, members");
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid));
        let status = status.expect("its status");
        for line in [
            "Uid:\t64503\t64503\t64503\t64503",
            "CapEff:\t0000000000000000",
        ] {
            assert!(status.contains(line), "{line}\n{status}");
        }

        // The NIC in the members' network goes when nothing needs it, and comes again.
        for id in story.members.clone() {
            let path = format!("pools/{}/members/{id}", story.pool);
            story.change("DELETE", &path, None);
        }
        wait::for_condition("the NIC is unplugged", || taps(&story.system) == 2);
        let log = story.system.log();
        assert!(
            !log.contains("does not let go"),
            "the guest holds on to the NIC:\n{log}"
        );
        let (name, address) = crate::story::MEMBERS[0];
        story.member(&story.pool, name, address);
        assert_eq!(taps(&story.system), 3);
        serves(&story);

        // No controller: the machine serves, and its console goes on. The next one adopts it.
        story.system.stop(Signal::SIGKILL);
        serves(&story);
        story.system.up();
        assert_eq!(active(&story.system, &load_balancer, ""), first);
        assert_eq!(
            machine(&story.system, &first),
            Some(process),
            "the same process"
        );
        serves(&story);
        let console = story.system.run(&["console", &first]);
        assert!(console.contains("Linux version"), "{console}");

        // Negative control of `serves` and `taps`: with the machine they go.
        process.signal(libc::SIGKILL).expect("SIGKILL");
        assert!(process.wait(MACHINE).expect("its end"));
        assert_eq!(
            taps(&story.system),
            0,
            "nothing is left of a killed machine"
        );
        let answer = client::get(&story.client, story.at(80), "/");
        assert!(answer.is_err(), "{answer:?}");
        let second = active(&story.system, &load_balancer, &first);
        serves(&story);
        assert_eq!(taps(&story.system), 3);
        let console = story.system.run(&["console", &first]);
        assert!(console.contains("Linux version"), "kept: {console}");

        let path = format!("/v2/lbaas/loadbalancers/{load_balancer}?cascade=true");
        story.system.api.must("DELETE", &path, None);
        wait::for_condition("the machine is gone", || {
            machine(&story.system, &second).is_none() && taps(&story.system) == 0
        });
        let folder = story.system.state_dir().join("amphorae");
        wait::for_condition("its folder is gone", || {
            std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none())
        });
        let left = |pin: &PathBuf| pin.to_string_lossy().ends_with("-vm");
        assert!(!pins(&story.system).iter().any(left));
    }

    /// The same system with an image that has no first program: it must not become ACTIVE.
    #[test]
    fn an_image_that_does_not_boot_is_an_error_with_its_console() {
        let _alone = alone();
        let folder = tempfile::tempdir().expect("a folder");
        let kernel = image().join("vmlinuz");
        std::fs::copy(kernel, folder.path().join("vmlinuz")).expect("copy the kernel");
        std::fs::write(folder.path().join("initrd"), "no archive").expect("a file");
        // The variable that names the image of the tests would win over the file.
        let path = folder.path().to_string_lossy().into_owned();
        let system = System::with(
            &config(folder.path(), "boot_timeout_ms = 45000\n"),
            &[("KRATER_IMAGE", &path)],
        );
        let created = system.api.create_load_balancer("lb1");
        let path = format!("loadbalancers/{}", text(&created["id"]));
        wait::within(MACHINE, "ERROR", || {
            let shown = system.api.show(&path)?;
            assert_ne!(shown["provisioning_status"], "ACTIVE");
            (shown["provisioning_status"] == "ERROR").then_some(())
        });
        wait::for_condition("nothing is left of the machine", || taps(&system) == 0);
        let consoles = std::fs::read_dir(system.state_dir().join("consoles")).expect("consoles");
        let texts: Vec<String> = consoles
            .flatten()
            .map(|entry| std::fs::read(entry.path()).expect("a console"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect();
        let panic = "Unable to mount root fs";
        assert!(texts.iter().any(|text| text.contains(panic)), "{texts:?}");
    }

    /// Boot loader, kernel and initrd of the disk, as in a cloud.
    #[test]
    fn a_machine_may_boot_from_the_disk() {
        let _alone = alone();
        let system = System::with(&config(&image(), "boot = \"disk\"\n"), &[]);
        let created = system.api.create_load_balancer("lb1");
        let amphora = active(&system, &text(&created["id"]), "");
        let story = Story::around(system, &created);
        serves(&story);
        let console = story.system.run(&["console", &amphora]);
        // What only the boot loader adds to the command line.
        assert!(console.contains("BOOT_IMAGE=/VMLINUZ"), "{console}");
    }
}
