//! A small Debian whose process 1 is systemd, in a virtual machine (TCG) with the image's kernel. Its root folder, which
//! `cargo xtask deb test` made, is all in memory: what a test does to it is gone with it. No network but its own loopback.
//!
//! A second serial port carries commands: a line each way, in base64.

use crate::{machine, wait};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use krater_image::cpio::Archive;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Booting systemd under emulation on a loaded machine takes a minute.
const PATIENCE: Duration = Duration::from_secs(300);
/// The root folder is there twice while the kernel unpacks it.
const MEMORY: &str = "1024";

/// Reads commands from the second port, and answers with their status and all that they said.
const SHELL: &str = r#"#!/bin/sh
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
echo ready >&3
while IFS= read -r line <&3; do
    script=$(printf %s "$line" | base64 -d)
    output=$(sh -c "$script" 2>&1 </dev/null; echo "status $?")
    printf '%s\n' "$(printf %s "$output" | base64 -w0)" >&3
done
"#;
const UNIT: &str =
    "[Unit]\nDescription=Commands of the tests\n[Service]\nExecStart=/bin/sh /e2e/shell\n";

/// A machine that runs.
#[derive(Debug)]
pub struct Debian {
    child: Child,
    folder: TempDir,
    port: Option<BufReader<UnixStream>>,
}

impl Drop for Debian {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let console = fs::read(self.folder.path().join("console")).unwrap_or_default();
            eprintln!("console:\n{}", String::from_utf8_lossy(&console));
        }
    }
}

impl Debian {
    /// Boots it with more files: path from the root, mode, content. Returns when it takes commands.
    ///
    /// # Panics
    /// Without the image, the peers or the root folder.
    pub fn boot(files: &[(&str, u32, Vec<u8>)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = crate::peers().join("debian/root");
        assert!(
            root.join("lib/systemd/systemd").exists(),
            "{} is missing: `cargo xtask deb test` makes it",
            root.display()
        );
        let mut archive = Archive::new();
        tree(&root, "", &mut archive);
        let wanted = "etc/systemd/system/multi-user.target.wants/e2e.service";
        archive
            .link("init", "/lib/systemd/systemd")
            .expect("a path");
        archive.device("dev/console", 0o600, 5, 1).expect("a path");
        archive
            .link(wanted, "/etc/systemd/system/e2e.service")
            .expect("a path");
        let own = [
            ("e2e/shell", 0o755, SHELL.into()),
            ("etc/systemd/system/e2e.service", 0o644, UNIT.into()),
            (
                "etc/machine-id",
                0o444,
                b"0123456789abcdef0123456789abcdef\n".to_vec(),
            ),
            ("etc/hostname", 0o644, b"debian\n".to_vec()),
        ];
        for (path, mode, content) in own.iter().chain(files) {
            archive.file(path, *mode, content.clone()).expect("a path");
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(folder.path().join("initrd"), archive.finish()).expect("an initrd");
        let append = "console=ttyS0 panic=-1 mitigations=off loglevel=4 systemd.unit=multi-user.target \
                      systemd.show_status=0 systemd.firstboot=0";
        let port = format!("socket,id=c,server=on,wait=off,path={}", path("port"));
        let child = Command::new(machine::peer("qemu/qemu-system-x86_64"))
            .args([
                "-accel",
                "tcg,thread=multi",
                "-nodefaults",
                "-display",
                "none",
            ])
            .args(["-no-reboot", "-machine", "q35", "-cpu", "max", "-m", MEMORY])
            .arg("-kernel")
            .arg(machine::image().join("vmlinuz"))
            .args(["-initrd", &path("initrd"), "-append", append])
            .args(["-serial", &format!("file:{}", path("console"))])
            .args(["-chardev", &port, "-serial", "chardev:c"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr")).expect("a file"))
            .spawn()
            .expect("start QEMU");
        let mut machine = Self {
            child,
            folder,
            port: None,
        };
        machine.is_ready();
        machine
    }

    fn is_ready(&mut self) {
        let path = self.folder.path().join("port");
        let port = wait::until("the port", || UnixStream::connect(&path).ok());
        port.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let port = self.port.insert(BufReader::new(port));
        let mut line = String::new();
        let read = port.read_line(&mut line);
        let errors = fs::read_to_string(self.folder.path().join("stderr"));
        assert!(line.trim() == "ready", "{read:?} {line:?} {errors:?}");
    }

    /// What a script says, and its status.
    ///
    /// # Panics
    /// When the machine does not answer.
    pub fn run(&mut self, script: &str) -> (i32, String) {
        let port = self.port.as_mut().expect("a port");
        let line = BASE64.encode(script) + "\n";
        // A tty holds 4095 bytes of a line.
        assert!(line.len() < 4_000, "{script}");
        port.get_mut().write_all(line.as_bytes()).expect("the port");
        let mut answer = String::new();
        let read = port.read_line(&mut answer);
        assert!(answer.ends_with('\n'), "{script}: {read:?} {answer:?}");
        let text = BASE64.decode(answer.trim()).expect("base64");
        let text = String::from_utf8_lossy(&text).into_owned();
        let (output, status) = text.rsplit_once("status ").expect("a status");
        (
            status.trim().parse().expect("a number"),
            output.trim().to_owned(),
        )
    }

    /// What a script says that succeeds.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok(&mut self, script: &str) -> String {
        let (status, output) = self.run(script);
        assert!(
            status == 0,
            "{script}: status {status}\n{output}\n{}",
            self.journal()
        );
        output
    }

    /// Runs a script until it succeeds.
    ///
    /// # Panics
    /// When it does not.
    pub fn until(&mut self, script: &str) -> String {
        let mut last = String::new();
        for _ in 0..600 {
            let (status, output) = self.run(script);
            if status == 0 {
                return output;
            }
            last = output;
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("in vain: {script}\n{last}\n{}", self.journal());
    }

    /// The end of the journal.
    pub fn journal(&mut self) -> String {
        self.run("journalctl --no-pager -n 80 -o short-monotonic 2>&1 | cut -c1-400; tail -n 20 /var/log/krater/*/*.log").1
    }
}

/// Everything in a folder, with its modes; the owner is root.
fn tree(root: &Path, below: &str, archive: &mut Archive) {
    let entries = fs::read_dir(root.join(below)).unwrap_or_else(|error| panic!("{below}: {error}"));
    for entry in entries {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("UTF-8");
        let path = match below {
            "" => name,
            below => format!("{below}/{name}"),
        };
        let kind = entry.file_type().expect("a type");
        let mode = entry.metadata().expect("metadata").permissions().mode() & 0o7777;
        if kind.is_dir() {
            archive.directory(&path, mode).expect("a path");
            tree(root, &path, archive);
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).expect("a link");
            archive
                .link(&path, &target.display().to_string())
                .expect("a path");
        } else if kind.is_file() {
            let content = fs::read(entry.path()).expect("a file");
            archive.file(&path, mode, content).expect("a path");
        }
        // Devices are the kernel's (devtmpfs).
    }
}
