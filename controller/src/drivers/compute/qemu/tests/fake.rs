//! A monitor as QEMU's, as far as the driver talks to it: it keeps the tap devices that it is given.

use super::super::qmp::Lines;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{IoSliceMut, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Debug, Default)]
struct State {
    /// Named descriptors and network backends.
    taps: BTreeMap<String, RawFd>,
    devices: Vec<String>,
    holds_on: bool,
}

/// Goes on until the test ends; the taps go with the value.
#[derive(Debug)]
pub(super) struct FakeMonitor {
    state: Arc<Mutex<State>>,
}

impl FakeMonitor {
    pub(super) fn listen(path: &Path) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let listener = UnixListener::bind(path).unwrap();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            // One connection at a time, as QEMU.
            for stream in listener.incoming().flatten() {
                serve(stream, &shared);
            }
        });
        Self { state }
    }

    pub(super) fn devices(&self) -> Vec<String> {
        self.lock().devices.clone()
    }

    /// From now on the guest lets go of nothing.
    pub(super) fn hold_on(&self) {
        self.lock().holds_on = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for FakeMonitor {
    fn drop(&mut self) {
        for tap in std::mem::take(&mut self.lock().taps).into_values() {
            let _ = nix::unistd::close(tap);
        }
    }
}

fn serve(mut stream: UnixStream, state: &Mutex<State>) {
    let greeting = r#"{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":0}}}}"#;
    if writeln!(stream, "{greeting}").is_err() {
        return;
    }
    let mut lines = Lines::default();
    let mut received: Vec<RawFd> = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let count = {
            let mut space = nix::cmsg_space!([RawFd; 1]);
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let got = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags);
            let Ok(got) = got else { return };
            for message in got.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(numbers) = message {
                    received.extend(numbers);
                }
            }
            got.bytes
        };
        if count == 0 {
            return;
        }
        lines.push(&buffer[..count]).unwrap();
        while let Some(line) = lines.next_line() {
            let command: Value = serde_json::from_slice(&line).unwrap();
            let mut answer = match execute(&command, &mut state.lock().unwrap(), &mut received) {
                Ok(value) => json!({ "return": value }),
                Err((class, text)) => json!({ "error": { "class": class, "desc": text } }),
            };
            answer["id"] = command["id"].clone();
            let _ = writeln!(stream, "{answer}");
        }
    }
}

fn execute(
    command: &Value,
    state: &mut State,
    received: &mut Vec<RawFd>,
) -> Result<Value, (&'static str, String)> {
    let arguments = &command["arguments"];
    let text = |name: &str| arguments[name].as_str().unwrap_or_default().to_owned();
    let not_found = || ("DeviceNotFound", "not found".to_owned());
    match command["execute"].as_str().unwrap() {
        "qmp_capabilities" => {}
        "query-status" => return Ok(json!({ "status": "running", "running": true })),
        "qom-list" => {
            let device = |name: &String| json!({ "name": name, "type": "child<x>" });
            return Ok(state.devices.iter().map(device).collect());
        }
        "getfd" => {
            let tap = received.pop().expect("a descriptor came along");
            state.taps.insert(text("fdname"), tap);
        }
        "netdev_add" => assert!(state.taps.contains_key(&text("fd"))),
        "netdev_del" => {
            let tap = state.taps.remove(&text("id")).ok_or_else(not_found)?;
            nix::unistd::close(tap).unwrap();
        }
        "device_add" => {
            assert!(state.taps.contains_key(&text("netdev")));
            state.devices.push(text("id"));
        }
        "device_del" => {
            let id = text("id");
            if !state.devices.contains(&id) {
                return Err(not_found());
            }
            if !state.holds_on {
                state.devices.retain(|device| *device != id);
            }
        }
        other => panic!("{other}"),
    }
    Ok(json!({}))
}
