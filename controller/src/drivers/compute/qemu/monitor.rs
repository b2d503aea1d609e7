//! A connection to a QEMU's monitor. Blocking, with a deadline for every call: the driver's calls have threads of
//! their own. QEMU serves one connection at a time; it lasts for one call of the driver.

use super::qmp::{self, Lines, Message};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Commands are answered from memory by a thread that also runs the devices of a guest that may be busy.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Events that are kept until somebody waits for them; older ones go.
const MAX_EVENTS: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    lines: Lines,
    events: VecDeque<(String, Value)>,
    last_id: u64,
    /// Of the program behind it.
    pub version: String,
}

impl Monitor {
    /// Connects and greets.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        let mut monitor = Self {
            stream,
            lines: Lines::default(),
            events: VecDeque::new(),
            last_id: 0,
            version: String::new(),
        };
        let deadline = Instant::now() + ANSWER_WITHIN;
        match monitor.receive(deadline)? {
            Message::Greeting { version } => monitor.version = version,
            other => return Err(strange(&other)),
        }
        monitor.execute("qmp_capabilities", &Value::Null)?;
        Ok(monitor)
    }

    /// Sends a command and gives what it returns. What QEMU refuses is an error with its text; one whose device does
    /// not exist is of kind `NotFound`.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> io::Result<Value> {
        self.execute_with(command, arguments, None)
    }

    fn execute_with(
        &mut self,
        command: &str,
        arguments: &Value,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        self.send(&qmp::encode(id, command, arguments), descriptor)?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            match self.receive(deadline)? {
                Message::Done { id: of, value } if of == id => return Ok(value),
                Message::Failed {
                    id: of,
                    class,
                    text,
                } if of.is_none_or(|of| of == id) => {
                    let kind = if class == "DeviceNotFound" {
                        io::ErrorKind::NotFound
                    } else {
                        io::ErrorKind::Other
                    };
                    return Err(io::Error::new(
                        kind,
                        format!("qemu refused {command}: {text}"),
                    ));
                }
                Message::Event { name, data } => self.keep(name, data),
                // Of a command whose answer nobody waited for.
                Message::Done { .. } | Message::Failed { .. } => {}
                other @ Message::Greeting { .. } => return Err(strange(&other)),
            }
        }
    }

    /// Waits for an event that `is_it` knows; false when none came in time.
    pub fn wait_for(
        &mut self,
        within: Duration,
        is_it: impl Fn(&str, &Value) -> bool,
    ) -> io::Result<bool> {
        let deadline = Instant::now() + within;
        loop {
            while let Some((name, data)) = self.events.pop_front() {
                if is_it(&name, &data) {
                    return Ok(true);
                }
            }
            match self.receive(deadline) {
                Ok(Message::Event { name, data }) => self.keep(name, data),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the guest's processors run.
    pub fn is_running(&mut self) -> io::Result<bool> {
        let status = self.execute("query-status", &Value::Null)?;
        Ok(status["running"] == true)
    }

    /// Whether a device of this id exists, also one that is being removed.
    pub fn has_device(&mut self, id: &str) -> io::Result<bool> {
        let list = self.execute("qom-list", &json!({ "path": "/machine/peripheral" }))?;
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(list.iter().any(|device| device["name"] == id))
    }

    /// Gives QEMU a tap device under the name `id`. It is QEMU's alone afterwards.
    pub fn add_tap(&mut self, id: &str, tap: OwnedFd) -> io::Result<()> {
        use std::os::fd::AsFd as _;
        let name = json!({ "fdname": id });
        self.execute_with("getfd", &name, Some(tap.as_fd()))?;
        drop(tap);
        let tap = json!({ "type": "tap", "id": id, "fd": id });
        self.execute("netdev_add", &tap).map(drop)
    }

    /// Takes a tap device away: it is gone from its namespace then. None there is fine.
    pub fn remove_tap(&mut self, id: &str) -> io::Result<()> {
        match self.execute("netdev_del", &json!({ "id": id })) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn keep(&mut self, name: String, data: Value) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((name, data));
    }

    fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let numbers: Vec<_> = descriptor.iter().map(|fd| fd.as_raw_fd()).collect();
        let attached = [ControlMessage::ScmRights(&numbers)];
        // The descriptor travels with the first byte.
        let mut attached = if numbers.is_empty() {
            &[][..]
        } else {
            &attached[..]
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let part = [IoSlice::new(rest)];
            let flags = MsgFlags::MSG_NOSIGNAL;
            let sent = sendmsg::<()>(self.stream.as_raw_fd(), &part, attached, flags, None);
            match sent {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    attached = &[];
                }
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> io::Result<Message> {
        loop {
            if let Some(line) = self.lines.next_line() {
                return qmp::parse(&line).map_err(io::Error::other);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "qemu does not answer",
                ));
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    let text = "qemu closed the connection to its monitor";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
                Ok(count) => {
                    let new = buffer.get(..count).unwrap_or_default();
                    self.lines.push(new).map_err(io::Error::other)?;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted
                    | io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

fn strange(message: &Message) -> io::Error {
    io::Error::other(format!("qemu says what it should not: {message:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    /// A monitor that answers from a list: for each command, lines.
    fn scripted(answers: &'static [&'static str]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let greeting = r#"{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":0}}}}"#;
            writeln!(stream, "{greeting}").unwrap();
            let mut commands = BufReader::new(stream.try_clone().unwrap());
            for answer in std::iter::once(&r#"{"return":{},"id":ID}"#).chain(answers) {
                let mut line = String::new();
                commands.read_line(&mut line).unwrap();
                let command: Value = serde_json::from_str(&line).unwrap();
                let answer = answer.replace("ID", &command["id"].to_string());
                writeln!(stream, "{answer}").unwrap();
            }
        });
        (dir, path)
    }

    #[test]
    fn answers_find_their_commands_and_events_are_kept() {
        let (_dir, path) = scripted(&[
            "{\"event\":\"STOP\"}\n{\"return\":{\"running\":true},\"id\":ID}",
            r#"{"id":ID,"error":{"class":"DeviceNotFound","desc":"no x"}}"#,
            r#"{"id":ID,"error":{"class":"GenericError","desc":"duplicate"}}"#,
            "{\"return\":{},\"id\":999}\n{\"return\":[{\"name\":\"n1\"}],\"id\":ID}",
        ]);
        let mut monitor = Monitor::connect(&path).unwrap();
        assert_eq!(monitor.version, "7.2.0");
        assert!(monitor.is_running().unwrap());
        monitor.remove_tap("x").unwrap();
        let error = monitor.remove_tap("x").unwrap_err().to_string();
        assert!(
            error.contains("netdev_del") && error.contains("duplicate"),
            "{error}"
        );
        assert!(monitor.has_device("n1").unwrap());
        assert!(
            monitor
                .wait_for(ANSWER_WITHIN, |name, _| name == "STOP")
                .unwrap()
        );
        let gone = monitor.execute("quit", &Value::Null).unwrap_err();
        let closed = [
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::ConnectionReset,
        ];
        assert!(closed.contains(&gone.kind()), "{gone:?}");
    }

    #[test]
    fn a_monitor_that_talks_nonsense_or_nothing_is_an_error() {
        let (_dir, path) = scripted(&["{}"]);
        let mut monitor = Monitor::connect(&path).unwrap();
        let error = monitor.execute("query-status", &Value::Null).unwrap_err();
        assert!(error.to_string().contains("neither"), "{error}");
        let (_dir, path) =
            scripted(&[r#"{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":0}}}}"#]);
        let mut monitor = Monitor::connect(&path).unwrap();
        let error = monitor.execute("query-status", &Value::Null).unwrap_err();
        assert!(error.to_string().contains("should not"), "{error}");
        assert!(Monitor::connect(Path::new("/nonexistent/qmp.sock")).is_err());
    }
}
