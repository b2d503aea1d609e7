//! The image that `cargo xtask image` builds: reproducible, whole, and booted by both kinds of firmware.

use krater_e2e::agent::Identity;
use krater_e2e::bin;
use krater_e2e::guest::{Bus, Drive, Firmware, Machine, Pki};
use krater_e2e::machine::{image, peer};
use krater_e2e::system::beside;
use krater_image::COMMAND_LINE;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a cloud has to store and copy for each amphora.
const MAX_QCOW2: u64 = 30_000_000;

/// The program in the image that is tested: `cargo xtask image` leaves it beside the images.
fn amphora() -> PathBuf {
    image().with_file_name("amphora")
}

fn downloads() -> PathBuf {
    image().with_file_name("downloads")
}

/// `krater image build` under another umask, language, time zone, folder and home.
fn build(out: &Path, program: &Path, settings: [&str; 3], more: &[&str]) -> String {
    let [umask, language, zone] = settings;
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("umask {umask} && exec \"$@\""), "sh"])
        .arg(bin("krater"))
        .args(["image", "build", "--amphora-bin"])
        .arg(program)
        .arg("--cache")
        .arg(downloads())
        .arg("--out")
        .arg(out)
        .args(more)
        .current_dir(out)
        .env("HOME", out)
        .env("LC_ALL", language)
        .env("TZ", zone);
    let output = command.output().expect("krater image build");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("packing the initrd"),
        "progress is shown: {said}"
    );
    fs::read_to_string(out.join("SHA256SUMS")).expect("SHA256SUMS")
}

#[test]
fn two_builds_are_the_same_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (folder.path().join("1"), folder.path().join("a/longer/path"));
    fs::create_dir_all(&one).expect("a folder");
    fs::create_dir_all(&two).expect("a folder");
    let first = build(&one, &amphora(), ["022", "C", "UTC"], &[]);
    let second = build(
        &two,
        &amphora(),
        ["077", "de_DE.UTF-8", "Pacific/Kiritimati"],
        &[],
    );
    assert_eq!(first, second);
    let tested = fs::read_to_string(image().join("SHA256SUMS")).expect("SHA256SUMS");
    assert_eq!(first, tested, "the image that the other tests boot");
    // The sums are those of the files.
    let checked = Command::new("sha256sum")
        .args(["--check", "--quiet", "SHA256SUMS"])
        .current_dir(&two)
        .status();
    assert!(checked.expect("sha256sum").success());

    // Negative control: one byte more in the program, and every file that holds it differs.
    let mut program = fs::read(amphora()).expect("the program");
    program.push(0);
    let other = folder.path().join("amphora");
    fs::write(&other, program).expect("a file");
    let third = build(&two, &other, ["022", "C", "UTC"], &[]);
    let same: Vec<&str> = third.lines().filter(|line| first.contains(line)).collect();
    assert_eq!(same.len(), 1, "only the kernel: {same:?}");
    assert!(same[0].ends_with("  vmlinuz"));
}

#[test]
fn the_qcow2_is_sound_small_and_the_same_disk_as_the_raw_one() {
    let (qcow2, raw) = (image().join("amphora.qcow2"), image().join("amphora.raw"));
    let size = fs::metadata(&qcow2).expect("amphora.qcow2").len();
    assert!(size <= MAX_QCOW2, "{size} bytes");
    let qemu_img = |args: &[&str], files: &[&Path]| {
        let mut command = Command::new(peer("usr/bin/qemu-img"));
        let output = command.args(args).args(files).output().expect("qemu-img");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (sound, said) = qemu_img(&["check", "--output=json"], &[&qcow2]);
    let check: Value = serde_json::from_str(&said).expect("JSON");
    assert!(sound, "{said}");
    for fault in ["corruptions", "leaks", "check-errors"] {
        assert!(matches!(check[fault].as_u64(), None | Some(0)), "{said}");
    }
    assert!(qemu_img(&["compare", "-f", "qcow2", "-F", "raw"], &[&qcow2, &raw]).0);

    // Negative control: a byte of the data changed, and a reference count.
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.qcow2");
    let good = fs::read(&qcow2).expect("amphora.qcow2");
    let mut bytes = good.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&broken, &bytes).expect("a file");
    assert!(!qemu_img(&["compare", "-f", "qcow2", "-F", "raw"], &[&broken, &raw]).0);
    let place = |at: usize| {
        let place = u64::from_be_bytes(good[at..at + 8].try_into().expect("8 bytes"));
        usize::try_from(place).expect("a place in the file")
    };
    let block = place(place(48));
    bytes = good;
    bytes[block + 1] = 9;
    fs::write(&broken, &bytes).expect("a file");
    assert!(!qemu_img(&["check"], &[&broken]).0);
}

#[test]
fn the_boot_partition_is_a_sound_fat() {
    let raw = fs::read(image().join("amphora.raw")).expect("amphora.raw");
    let folder = tempfile::tempdir().expect("a folder");
    let partition = folder.path().join("fat");
    let fsck = |bytes: &[u8]| {
        fs::write(&partition, bytes).expect("a file");
        let output = Command::new(peer("sbin/fsck.fat"))
            .arg("-n")
            .arg(&partition)
            .output();
        let output = output.expect("fsck.fat");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let mut fat = raw[1 << 20..raw.len() - 33 * 512].to_vec();
    let sectors = u32::from_le_bytes(fat[32..36].try_into().expect("4 bytes")) as usize;
    fat.truncate(sectors * 512);
    let (sound, said) = fsck(&fat);
    assert!(sound, "{said}");
    // Negative control: a cluster of a file marked as free.
    let reserved = usize::from(u16::from_le_bytes([fat[14], fat[15]]));
    fat[reserved * 512 + 2 * 200] ^= 0x55;
    let (sound, said) = fsck(&fat);
    assert!(!sound, "{said}");
}

#[test]
fn the_manifest_names_what_is_inside() {
    let text = fs::read_to_string(image().join("manifest.json")).expect("manifest.json");
    let bom: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(bom["bomFormat"], "CycloneDX");
    let components = bom["components"].as_array().expect("components");
    let one = |name: &str| {
        let found = components.iter().find(|c| c["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}")).clone()
    };
    for name in [
        "syslinux",
        "systemd-boot-efi",
        "krater-agent",
        "tokio",
        "rustls",
    ] {
        assert!(one(name)["version"].is_string(), "{name}");
    }
    let kernel = components.iter().filter_map(|c| c["name"].as_str());
    assert_eq!(
        kernel
            .filter(|n| n.starts_with("linux-image-6.12."))
            .count(),
        1
    );
    assert!(components.iter().all(|c| c["name"] != "busybox-static"));
    // The checksums are those of the files, as another program computes them.
    for name in [
        "amphora.qcow2",
        "amphora.raw",
        "amphora.efi",
        "vmlinuz",
        "initrd",
    ] {
        let output = Command::new("sha256sum")
            .arg(image().join(name))
            .output()
            .expect("sha256sum");
        let sum = String::from_utf8_lossy(&output.stdout);
        let listed = one(name)["hashes"][0]["content"]
            .as_str()
            .expect("a hash")
            .to_owned();
        assert!(sum.starts_with(&listed), "{name}: {sum}");
    }
}

/// Boots the qcow2 as a cloud does, with a config drive on a bus that a cloud's image properties name; gives what stands on
/// the console.
fn boots(firmware: Firmware, bus: Bus) -> String {
    let _beside = beside();
    let pki = Pki::new();
    let drive = Drive::new(&pki.files()).iso();
    let machine = Machine::default().q35().from_disk(firmware);
    let mut guest = machine.disk(&drive, bus).boot();
    let info = guest.answers(&pki);
    assert_eq!(info["amphora_id"], pki.amphora, "{info}");
    // Negative control: a stranger with the right name is not answered.
    let stranger = Identity::foreign("krater-controller");
    let answer = guest.agent(&pki).send(&stranger, "GET", "/2.0/info", "");
    assert!(answer.is_err(), "{answer:?}");
    let console = guest.console();
    let mut lines = console
        .lines()
        .filter(|line| line.contains("Command line: "));
    assert!(lines.any(|line| line.contains(COMMAND_LINE)), "{console}");
    assert!(
        !console.contains("amphora: module "),
        "a module was refused: {console}"
    );
    console
}

/// What the kernel says of the firmware below it.
const EFI: &str = "efi: EFI v2";

#[test]
fn bios_boots_the_qcow2_to_an_agent_that_answers() {
    let console = boots(Firmware::Bios, Bus::Sata);
    assert!(!console.contains(EFI), "{console}");
}

#[test]
fn uefi_boots_the_qcow2_to_an_agent_that_answers() {
    let console = boots(Firmware::Uefi, Bus::Scsi);
    assert!(console.contains(EFI), "{console}");
}

#[test]
fn a_dynamic_program_is_refused_before_anything_is_fetched() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(bin("krater"))
        .args(["image", "build", "--amphora-bin", "/bin/sh", "--out"])
        .arg(folder.path().join("out"))
        .output()
        .expect("krater");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("dynamically linked") && said.contains("cargo xtask image"),
        "{said}"
    );
    assert!(!folder.path().join("out").exists());
}

mod nightly {
    use super::*;

    #[test]
    fn the_debug_image_has_a_shell_on_its_serial_port() {
        let _beside = beside();
        let folder = tempfile::tempdir().expect("a folder");
        let settings = ["022", "C", "UTC"];
        build(folder.path(), &amphora(), settings, &["--variant", "debug"]);
        let pki = Pki::new();
        let drive = Drive::new(&pki.files()).iso();
        let machine = Machine::default().of(folder.path()).q35();
        let machine = machine.from_disk(Firmware::Bios).disk(&drive, Bus::Sata);
        let mut guest = machine.boot();
        guest.answers(&pki);
        guest.types("cat /etc/krater-image.json; echo shell-$((40+2))");
        let console = guest.says("shell-42");
        assert!(console.contains("\"debug\""), "{console}");
    }
}
