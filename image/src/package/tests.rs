//! The package as our own reader sees it; dpkg-deb itself reads it in the end-to-end tests.

use super::archive::TIME;
use super::*;
use crate::{deb, elf};

fn docs() -> BTreeMap<String, Vec<u8>> {
    let names = [
        "amphora.bash",
        "_amphora",
        "amphora.fish",
        "amphora.8",
        "amphora-run.8",
    ];
    names
        .map(|name| (name.to_owned(), name.as_bytes().to_vec()))
        .into()
}

const LOCK: &str = "[[package]]\nname = \"krater-agent\"\nversion = \"0.1.0\"\ndependencies = []\n";

fn inputs<'a>(amphora: &'a [u8], docs: &'a BTreeMap<String, Vec<u8>>) -> Inputs<'a> {
    Inputs {
        version: "0.1.0",
        revision: "2",
        amphora,
        docs,
        changelog: "# Changelog\n",
        cargo_lock: LOCK,
    }
}

/// Members of the archive: name and content.
fn members(package: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut rest = package.strip_prefix(b"!<arch>\n").unwrap();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let text = |from: usize, to: usize| {
            std::str::from_utf8(&rest[from..to])
                .unwrap()
                .trim()
                .to_owned()
        };
        let (name, size) = (text(0, 16), text(48, 58).parse::<usize>().unwrap());
        assert_eq!(text(16, 28), TIME.to_string());
        found.push((name, rest[60..60 + size].to_vec()));
        rest = &rest[60 + size + size % 2..];
    }
    found
}

fn gunzip(data: &[u8]) -> Vec<u8> {
    let end = data.len() - 8;
    let out = miniz_oxide::inflate::decompress_to_vec(&data[10..end]).unwrap();
    assert_eq!(data[end..end + 4], crate::gpt::crc32(&out).to_le_bytes());
    out
}

/// Files of one of the two tar files, read by the reader of Debian's packages.
fn files_of(member: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut ar = Ar::default();
    ar.member("data.tar", &gunzip(member));
    deb::files(&ar.finish(), |_| true).unwrap()
}

#[test]
fn a_package_has_three_members_and_says_what_is_in_it() {
    let program = elf::tests::file(&[], 1);
    let docs = docs();
    let package = build(&inputs(&program, &docs)).unwrap();
    assert_eq!(package.name, "krater-amphora_0.1.0-2_amd64.deb");
    let members = members(&package.content);
    let names: Vec<&str> = members.iter().map(|m| m.0.as_str()).collect();
    assert_eq!(names, ["debian-binary", "control.tar.gz", "data.tar.gz"]);
    let (control, data) = (files_of(&members[1].1), files_of(&members[2].1));
    let text = |name: &str| String::from_utf8(control[name].clone()).unwrap();
    assert!(text("control").contains("\nVersion: 0.1.0-2\nArchitecture: amd64\n"));
    assert_eq!(text("conffiles"), "/etc/krater/amphora.toml\n");
    assert_eq!(data["usr/sbin/amphora"], program);
    assert_eq!(
        gunzip(&data["usr/share/man/man8/amphora-run.8.gz"]),
        b"amphora-run.8"
    );
    // Each file but the conffile has its sum, and no other has.
    let sums = text("md5sums");
    let listed: Vec<&str> = sums
        .lines()
        .filter_map(|line| Some(line.split_once("  ")?.1))
        .collect();
    let expected: Vec<&str> = data
        .keys()
        .map(String::as_str)
        .filter(|path| *path != CONFFILE)
        .collect();
    assert_eq!(listed, expected);
    for (name, _) in SCRIPTS {
        assert!(text(name).starts_with("#!/bin/sh\nset -e\n"), "{name}");
    }
    // What the unit starts is what the package brings, and the numbers are those that the program becomes.
    let unit =
        String::from_utf8(data["lib/systemd/system/krater-amphora.service"].clone()).unwrap();
    assert!(unit.contains("ExecStart=/usr/sbin/amphora run --config /etc/krater/amphora.toml\n"));
    let users = String::from_utf8(data["usr/lib/sysusers.d/krater-amphora.conf"].clone()).unwrap();
    for uid in [
        krater_model::config::DATAPLANE_UID,
        krater_model::config::VRRP_UID,
    ] {
        assert!(users.contains(&format!(" {uid} ")), "{users}");
        assert!(text("preinst").contains(&format!(":{uid}")));
    }
    // The same again, bit for bit.
    assert_eq!(build(&inputs(&program, &docs)).unwrap(), package);
}

#[test]
fn md5_of_a_known_text() {
    let files = Files::from([("a".to_owned(), (0, b"abc".to_vec()))]);
    assert_eq!(md5sums(&files), "900150983cd24fb0d6963f7d28e17f72  a\n");
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let program = elf::tests::file(&[], 1);
    let mut docs = docs();
    let dynamic = elf::tests::file(&[], 3);
    let error = build(&inputs(&dynamic, &docs)).unwrap_err();
    assert!(error.to_string().contains("dynamically linked"), "{error}");
    let wrong = Inputs {
        revision: "1-2",
        ..inputs(&program, &docs)
    };
    let error = build(&wrong).unwrap_err();
    assert!(error.to_string().starts_with("revision \"1-2\""), "{error}");
    docs.remove("_amphora");
    let error = build(&inputs(&program, &docs)).unwrap_err();
    assert!(
        error.to_string().starts_with("_amphora is missing"),
        "{error}"
    );
}
