//! Every frame of a lab's bridge, and tshark's opinion of it.

use crate::lab::Lab;
use socket2::{Domain, Protocol, Socket, Type};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// ETH_P_ALL in network byte order.
const ALL_FRAMES: i32 = 0x0300;
const LONGEST: usize = 2_048;

/// Where `cargo xtask setup` unpacks peers: `peers/tree` in the target folder, in which this test runs
/// from `<profile>/deps`.
fn peers() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let root = own.ancestors().nth(3).unwrap().join("peers/tree");
    assert!(
        root.join("usr/sbin/keepalived").exists(),
        "no keepalived under {}: run `cargo xtask setup`",
        root.display()
    );
    root
}

/// Arguments of the loader that start an unpacked program with the libraries beside it.
pub(crate) fn tool(program: &str) -> Vec<OsString> {
    let root = peers();
    let path = |below: &str| root.join(below).into_os_string();
    let mut libraries = path("usr/lib/x86_64-linux-gnu");
    libraries.push(":");
    libraries.push(path("lib/x86_64-linux-gnu"));
    vec!["--library-path".into(), libraries, path(program)]
}

/// A capture that runs.
pub(crate) struct Capture {
    path: PathBuf,
    end: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Capture {
    /// Begins to capture on all ports of the lab's bridge.
    pub(crate) fn start(lab: &Lab) -> Self {
        let path = lab.dir.join("bridge.pcap");
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
        // Microseconds, version 2.4, no zone, Ethernet (pcap-savefile(5)).
        let words: [u32; 6] = [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 65_535, 1];
        for word in words {
            file.write_all(&word.to_le_bytes()).unwrap();
        }
        let socket = lab
            .switch
            .run(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL_FRAMES))))
            .unwrap()
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let _ = socket.set_recv_buffer_size(4 * 1024 * 1024);
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut frame = vec![0; LONGEST];
            let mut socket = socket;
            // What happened before the end may still be in the queue.
            let mut rest = 200;
            while rest > 0 {
                rest -= u32::from(told.load(Ordering::SeqCst));
                let Ok(length) = socket.read(&mut frame) else {
                    rest = if told.load(Ordering::SeqCst) { 0 } else { rest };
                    continue;
                };
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let now = now.unwrap();
                let length32 = u32::try_from(length).unwrap();
                let seconds = u32::try_from(now.as_secs()).unwrap();
                for word in [seconds, now.subsec_micros(), length32, length32] {
                    file.write_all(&word.to_le_bytes()).unwrap();
                }
                file.write_all(&frame[..length]).unwrap();
            }
            file.flush().unwrap();
        });
        Self { path, end, thread }
    }

    /// Ends it.
    pub(crate) fn end(self, lab: &Lab) -> Recording {
        self.end.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        Recording {
            path: self.path,
            home: lab.dir.clone(),
        }
    }
}

/// A capture that has ended; tshark reads it.
pub(crate) struct Recording {
    path: PathBuf,
    home: PathBuf,
}

impl Recording {
    /// How many frames match a display filter.
    pub(crate) fn count(&self, filter: &str) -> usize {
        self.lines(filter).lines().count()
    }

    fn lines(&self, filter: &str) -> String {
        tshark(&self.path, &self.home, filter)
    }

    /// At least `adverts` advertisements, each well-formed and with a right checksum, and no malformed
    /// frame of any protocol.
    pub(crate) fn judge(&self, adverts: usize) {
        let count = |filter: &str| self.count(filter);
        let seen = count("vrrp");
        assert!(seen >= adverts, "{seen} advertisements");
        let wrong = "_ws.malformed || (vrrp && _ws.expert.severity >= 0x600000) || \
                     (vrrp && vrrp.checksum.status != 1)";
        assert_eq!(self.lines(wrong), "");
        let gratuitous = "arp.isgratuitous || icmpv6.nd.na.flag.o == 1";
        assert!(count(gratuitous) > 0, "nobody announced");
        // The judge itself: all adverts have a checksum that it checked.
        assert_eq!(count("vrrp && vrrp.checksum.status == 1"), seen);
        println!("{}: {seen} advertisements judged", self.home.display());
    }
}

fn tshark(capture: &Path, home: &Path, filter: &str) -> String {
    let output = Command::new("/lib64/ld-linux-x86-64.so.2")
        .args(tool("usr/bin/tshark"))
        .arg("-n")
        .arg("-r")
        .arg(capture)
        .args(["-Y", filter])
        .env("HOME", home)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
