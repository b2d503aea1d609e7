//! A whole image of packages that are made here, looked at from outside.

use super::*;
use crate::bytes::u32_at;
use crate::elf::tests::file as elf_file;

const RELEASE: &str = "6.12.1+deb12-cloud-amd64";

fn module(info: &[u8]) -> Vec<u8> {
    elf_file(&[(".modinfo", info), (".text", &[0x90; 900])], 1)
}

struct Fixture {
    lock: Lock,
    packages: BTreeMap<Role, Vec<u8>>,
    amphora: Vec<u8>,
}

impl Fixture {
    fn new() -> Self {
        let mut kernel: Vec<(String, Vec<u8>)> = vec![(
            format!("boot/vmlinuz-{RELEASE}"),
            (0..500_000_u32)
                .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
                .collect(),
        )];
        let folder = format!("lib/modules/{RELEASE}");
        kernel.push((
            format!("{folder}/modules.builtin"),
            b"kernel/fs/ext4/ext4.ko\n".to_vec(),
        ));
        for wanted in WANTED.iter().filter(|w| w.required && w.name != "ext4") {
            let info: &[u8] = match wanted.name {
                "virtio_net" => b"depends=net_failover\0",
                _ => b"depends=\0",
            };
            let name = wanted.name.replace('_', "-");
            kernel.push((format!("{folder}/kernel/{name}.ko"), module(info)));
        }
        kernel.push((
            format!("{folder}/kernel/net_failover.ko"),
            module(b"depends=\0"),
        ));
        let kernel: Vec<(&str, &[u8])> = kernel
            .iter()
            .map(|(p, c)| (p.as_str(), c.as_slice()))
            .collect();
        let made = [
            (Role::Kernel, deb::tests::package(&kernel)),
            (
                Role::Syslinux,
                deb::tests::package(&[("usr/bin/syslinux", &crate::syslinux::tests::installer())]),
            ),
            (
                Role::SyslinuxCommon,
                deb::tests::package(&[
                    ("usr/lib/syslinux/modules/bios/ldlinux.c32", &[5; 9_000]),
                    ("usr/lib/syslinux/mbr/gptmbr.bin", &[6; 440]),
                ]),
            ),
            (
                Role::EfiStub,
                deb::tests::package(&[(
                    "usr/lib/systemd/boot/efi/linuxx64.efi.stub",
                    &uki::tests::stub(),
                )]),
            ),
            (
                Role::Busybox,
                deb::tests::package(&[("bin/busybox", b"BUSYBOX-PROGRAM")]),
            ),
        ];
        let pins = made.iter().map(|(role, bytes)| Pin {
            role: *role,
            name: role
                .package()
                .unwrap_or("linux-image-6.12.1+deb12-cloud-amd64")
                .into(),
            version: "1".into(),
            sha256: sha256(bytes),
            size: bytes.len() as u64,
        });
        Self {
            lock: Lock::new(pins.collect()).unwrap(),
            packages: made.into(),
            amphora: elf_file(&[(".text", b"AMPHORA-PROGRAM")], 1),
        }
    }

    fn build(&self, variant: Variant) -> Result<Image, BuildError> {
        let inputs = Inputs {
            version: "0.1.0",
            variant,
            amphora: &self.amphora,
            lock: &self.lock,
            packages: &self.packages,
            cargo_lock: include_str!("../../../Cargo.lock"),
        };
        build(&inputs, |_| ())
    }
}

fn file<'a>(image: &'a Image, name: &str) -> &'a [u8] {
    let found = image.files.iter().find(|(n, _)| *n == name);
    &found.unwrap().1
}

fn at(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

#[test]
fn an_image_holds_what_it_should_where_firmware_looks() {
    let fixture = Fixture::new();
    let image = fixture.build(Variant::Default).unwrap();
    assert_eq!(image.kernel, RELEASE);
    let place = |name: &str| image.modules.iter().position(|m| m == name).unwrap();
    assert!(place("net_failover") < place("virtio_net"));
    assert!(!image.modules.iter().any(|m| m == "ext4"), "it is built in");

    let initrd = zstd::bulk::decompress(file(&image, "initrd"), 1 << 26).unwrap();
    assert!(at(&initrd, b"AMPHORA-PROGRAM").is_some());
    assert!(
        at(&initrd, b"virtio-net.ko\n").is_some(),
        "the order names files"
    );
    assert!(at(&initrd, b"\"variant\":\"default\"").is_some());
    assert!(at(&initrd, b"busybox").is_none());

    let disk = file(&image, "amphora.raw");
    assert_eq!(disk.len() % (1 << 20), 0);
    assert_eq!(&disk[512..520], b"EFI PART");
    assert_eq!(&disk[(1 << 20) + 3..(1 << 20) + 11], b"SYSLINUX");
    let text = format!("APPEND {COMMAND_LINE}\n");
    assert!(at(disk, text.as_bytes()).is_some());
    let sector = u32_at(disk, (1 << 20) + 0x5c).unwrap() as usize + 2_048;
    assert_eq!(&disk[sector * 512..sector * 512 + 11], b"\r\nSYSLINUX ");

    // The kernel is there twice, for BIOS and in the EFI program, and the qcow2 stores it once.
    let kernel = file(&image, "vmlinuz").len();
    let qcow2 = file(&image, "amphora.qcow2").len();
    assert!(at(file(&image, "amphora.efi"), COMMAND_LINE.as_bytes()).is_some());
    assert!(file(&image, "amphora.efi").len() > kernel);
    assert!(
        qcow2 < kernel + kernel / 4,
        "{qcow2} bytes for a kernel of {kernel}"
    );

    let sums = str::from_utf8(file(&image, "SHA256SUMS")).unwrap();
    for name in ARTEFACTS.into_iter().chain(["manifest.json"]) {
        let line = format!("{}  {name}\n", sha256(file(&image, name)));
        assert!(sums.contains(&line), "{name}");
    }
}

#[test]
fn two_builds_are_equal_and_another_program_gives_another_image() {
    let mut fixture = Fixture::new();
    let (one, two) = (
        fixture.build(Variant::Default),
        fixture.build(Variant::Default),
    );
    let (one, two) = (one.unwrap().files, two.unwrap().files);
    assert!(one == two);
    fixture.amphora.push(0);
    let other = fixture.build(Variant::Default).unwrap();
    assert!(file(&other, "SHA256SUMS") != one.last().unwrap().1);
}

#[test]
fn the_debug_variant_has_the_shell_and_says_so() {
    let image = Fixture::new().build(Variant::Debug).unwrap();
    let initrd = zstd::bulk::decompress(file(&image, "initrd"), 1 << 26).unwrap();
    assert!(at(&initrd, b"BUSYBOX-PROGRAM").is_some());
    assert!(at(&initrd, b"\"variant\":\"debug\"").is_some());
    assert!(at(file(&image, "manifest.json"), b"busybox-static").is_some());
}

#[test]
fn what_is_wrong_is_named() {
    let mut changed = Fixture::new();
    changed.packages.get_mut(&Role::EfiStub).unwrap()[100] ^= 1;
    let error = changed.build(Variant::Default).unwrap_err().to_string();
    assert!(error.contains("systemd-boot-efi: its SHA-256"), "{error}");

    let mut dynamic = Fixture::new();
    dynamic.amphora = elf_file(&[], 3);
    let error = dynamic.build(Variant::Default).unwrap_err().to_string();
    assert!(error.contains("cargo xtask image"), "{error}");

    let mut gone = Fixture::new();
    gone.packages.remove(&Role::Kernel);
    let error = gone.build(Variant::Default).unwrap_err().to_string();
    assert!(error.contains("kernel"), "{error}");
}
