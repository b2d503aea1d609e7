//! Tells a service manager how far we are (sd_notify(3)): one datagram to the socket in `NOTIFY_SOCKET`. Where there is
//! no such socket nothing is sent; what cannot be sent is not worth more than a line in the log.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A status is one line of `systemctl status`.
const MAX_STATUS: usize = 200;

/// Whom to tell.
#[derive(Debug)]
pub(crate) struct Notifier(Option<SocketAddr>);

impl Notifier {
    /// The manager that started us, if it wants to know.
    pub(crate) fn from_env() -> Self {
        let wanted = std::env::var_os("NOTIFY_SOCKET");
        let address = wanted.map(|name| address(&name)).transpose();
        Self(address.unwrap_or_else(|error| {
            tracing::warn!(%error, "NOTIFY_SOCKET cannot be used");
            None
        }))
    }

    /// All is served.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\n{}", line(status)));
    }

    /// What a person wants to see.
    pub(crate) fn status(&self, status: &str) {
        self.send(&line(status));
    }

    /// The end has begun, and takes so long at most.
    pub(crate) fn stopping(&self, longest: Duration) {
        let longest = longest.as_micros();
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={longest}\n"));
    }

    fn send(&self, text: &str) {
        let Some(address) = &self.0 else {
            return;
        };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            // A manager that does not read must not stop us.
            socket.set_nonblocking(true)?;
            socket.send_to_addr(text.as_bytes(), address)
        });
        if let Err(error) = sent {
            tracing::warn!(%error, "the service manager was not told");
        }
    }
}

/// A path, or `@` and a name in the abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is neither a path nor an abstract name"),
        )),
    }
}

/// `STATUS=`, without what would begin another assignment.
fn line(status: &str) -> String {
    let one: String = status
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_STATUS)
        .collect();
    format!("STATUS={one}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_reads_what_is_told_by_path_and_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let unique = format!("@krater-notify-{}", std::process::id());
        for name in [path.as_os_str(), OsStr::new(&unique)] {
            let address = address(name).unwrap();
            let manager = UnixDatagram::bind_addr(&address).unwrap();
            let notifier = Notifier(Some(address));
            let mut buffer = [0; 512];
            let mut told = || {
                let length = manager.recv(&mut buffer).unwrap();
                String::from_utf8_lossy(&buffer[..length]).into_owned()
            };
            notifier.ready("serves\nWATCHDOG=trigger");
            assert_eq!(told(), "READY=1\nSTATUS=serves WATCHDOG=trigger\n");
            notifier.stopping(Duration::from_secs(2));
            assert_eq!(told(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=2000000\n");
            notifier.status(&"x".repeat(1_000));
            assert_eq!(told().len(), "STATUS=\n".len() + MAX_STATUS);
        }
        assert!(address(OsStr::new("vsock:2:1234")).is_err());
    }
}
