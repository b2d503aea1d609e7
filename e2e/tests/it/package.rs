//! The Debian package of an amphora as dpkg reads it. Under a systemd it is tested by `cargo xtask deb test`.

use krater_e2e::package::{self, said};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn built() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = package::build(&package::static_amphora(), "1", folder.path());
    (folder, path)
}

fn dpkg_deb(args: &[&str], package: &Path) -> String {
    said(
        Command::new("dpkg-deb")
            .args(args)
            .arg(package)
            .env("LC_ALL", "C"),
    )
}

#[test]
fn dpkg_deb_reads_it_and_its_sums_are_right() {
    let (folder, package) = built();
    let field = |name: &str| {
        let mut command = Command::new("dpkg-deb");
        said(command.arg("--field").arg(&package).arg(name))
            .trim()
            .to_owned()
    };
    assert_eq!(field("Package"), "krater-amphora");
    assert_eq!(field("Architecture"), "amd64");
    assert!(field("Version").ends_with("-1"));
    let contents = dpkg_deb(&["--contents"], &package);
    for line in [
        "-rwxr-xr-x root/root",
        "./usr/sbin/amphora\n",
        "./etc/krater/amphora.toml\n",
        "./lib/systemd/system/krater-amphora.service\n",
        "./usr/share/man/man8/amphora-ctl-upgrade.8.gz\n",
        "./usr/share/bash-completion/completions/amphora\n",
        "./usr/share/zsh/vendor-completions/_amphora\n",
        "./usr/share/fish/vendor_completions.d/amphora.fish\n",
        "./usr/share/doc/krater-amphora/changelog.Debian.gz\n",
    ] {
        assert!(contents.contains(line), "{line}\n{contents}");
    }
    assert!(
        contents.lines().all(|line| line.contains(" root/root ")),
        "{contents}"
    );
    // What dpkg unpacks has the sums that the package says.
    let tree = folder.path().join("tree");
    said(Command::new("dpkg-deb").arg("-R").arg(&package).arg(&tree));
    let check = || {
        let sums = fs::File::open(tree.join("DEBIAN/md5sums")).unwrap();
        let mut command = Command::new("md5sum");
        command
            .args(["-c", "--quiet"])
            .current_dir(&tree)
            .stdin(sums);
        command.output().unwrap().status.success()
    };
    assert!(check());
    // Negative control.
    fs::write(tree.join("usr/share/doc/krater-amphora/copyright"), "x").unwrap();
    assert!(!check());
    for script in ["preinst", "postinst", "prerm", "postrm"] {
        said(
            Command::new("sh")
                .arg("-n")
                .arg(tree.join("DEBIAN").join(script)),
        );
    }
    said(
        Command::new("bash")
            .arg("-n")
            .arg(tree.join("usr/share/bash-completion/completions/amphora")),
    );
    // The shipped file, and each example that needs no file of somebody else, is one that the program takes.
    let shipped = tree.join("etc/krater/amphora.toml");
    said(
        Command::new(tree.join("usr/sbin/amphora"))
            .args(["check", "--config"])
            .arg(shipped),
    );
    let damaged = folder.path().join("damaged.deb");
    let mut bytes = fs::read(&package).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&damaged, bytes).unwrap();
    let mut command = Command::new("dpkg-deb");
    let read = command
        .arg("--fsys-tarfile")
        .arg(&damaged)
        .output()
        .unwrap();
    assert!(!read.status.success());
}

#[test]
fn two_builds_are_the_same_whatever_umask_zone_and_language() {
    let (folder, package) = built();
    let (amphora, out) = (package::static_amphora(), folder.path().join("other"));
    let build = |revision: &str| {
        let script = "umask 077 && exec \"$0\" image deb --amphora-bin \"$1\" --docs \"$2\" --out \"$3\" --revision \"$4\"";
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .arg(krater_e2e::bin("krater"))
            .arg(&amphora);
        command
            .arg(folder.path().join("docs"))
            .arg(&out)
            .arg(revision);
        said(command.env("TZ", "Pacific/Kiritimati").env("LC_ALL", "C"));
    };
    build("1");
    let name = package.file_name().unwrap();
    let content = fs::read(&package).unwrap();
    assert!(fs::read(out.join(name)).unwrap() == content);
    // Negative control.
    build("2");
    let other = name.to_string_lossy().replace("-1_", "-2_");
    assert!(fs::read(out.join(other)).unwrap() != content);
}

#[test]
fn dpkg_unpacks_it_in_a_root_of_its_own_and_purges_it_without_remains() {
    let (folder, package) = built();
    let root = folder.path().join("root");
    for path in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    for path in ["var/lib/dpkg/status", "var/lib/dpkg/available"] {
        fs::write(root.join(path), "").unwrap();
    }
    let dpkg = |args: &[&str]| {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", root.display()));
        command.args([
            "--force-script-chrootless",
            "--force-depends",
            "--no-triggers",
        ]);
        said(command.args(args).env("LC_ALL", "C"))
    };
    dpkg(&["--unpack", &package.display().to_string()]);
    assert!(root.join("usr/sbin/amphora").exists());
    let files = dpkg(&["--listfiles", "krater-amphora"]);
    assert!(
        files.contains("/lib/systemd/system/krater-amphora.service\n"),
        "{files}"
    );
    // Only the administrator's file waits for the configuration.
    let verified = dpkg(&["--verify", "krater-amphora"]);
    assert_eq!(verified, "missing   c /etc/krater/amphora.toml\n");
    fs::create_dir_all(root.join("var/log/krater/access")).unwrap();
    // Negative control: a removed package leaves its logs.
    dpkg(&["--remove", "krater-amphora"]);
    assert!(!root.join("usr/sbin/amphora").exists());
    assert!(root.join("var/log/krater").exists());
    dpkg(&["--purge", "krater-amphora"]);
    let mut left = Vec::new();
    ours(&root, &mut left);
    assert!(left.is_empty(), "{left:?}");
}

/// Paths that name us, but in dpkg's books of what it did.
fn ours(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains("krater") || name.contains("amphora") {
            found.push(entry.path());
        }
        if entry.path().is_dir() {
            ours(&entry.path(), found);
        }
    }
}
