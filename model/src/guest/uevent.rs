//! Events of the kernel about devices (Documentation/core-api/kobject.rst): a header `ACTION@PATH`, then
//! `KEY=VALUE`, each ended by a zero byte.

/// What happened to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It appeared.
    Add,
    /// It is gone.
    Remove,
    /// Its medium, link or partition table changed.
    Change,
    /// Anything else: bound to a driver, moved, renamed.
    Other,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// What happened.
    pub action: Action,
    /// `net`, `block`, `input`, …
    pub subsystem: String,
    /// Name of a NIC.
    pub interface: Option<String>,
    /// Name in `/dev`.
    pub device: Option<String>,
}

/// Keys that one message can have; the kernel's limit is 64 (`UEVENT_NUM_ENVP`).
const MAX_KEYS: usize = 64;

impl Uevent {
    /// Reads one datagram; none when it is no event of the kernel.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let mut parts = datagram.split(|byte| *byte == 0);
        let header = std::str::from_utf8(parts.next()?).ok()?;
        // udev's own messages begin with `libudev`.
        let (action, _path) = header.split_once('@')?;
        let mut event = Self {
            action: match action {
                "add" => Action::Add,
                "remove" => Action::Remove,
                "change" => Action::Change,
                _ => Action::Other,
            },
            subsystem: String::new(),
            interface: None,
            device: None,
        };
        for part in parts.take(MAX_KEYS) {
            let Some((key, value)) = std::str::from_utf8(part).ok()?.split_once('=') else {
                continue;
            };
            match key {
                "SUBSYSTEM" => value.clone_into(&mut event.subsystem),
                "INTERFACE" => event.interface = Some(value.into()),
                "DEVNAME" => event.device = Some(value.into()),
                _ => {}
            }
        }
        (!event.subsystem.is_empty()).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_and_a_disk_are_told_apart() {
        let nic = b"add@/devices/pci0000:00/0000:00:05.0/virtio3/net/eth1\0ACTION=add\0\
                    DEVPATH=/devices/pci0000:00/0000:00:05.0/virtio3/net/eth1\0SUBSYSTEM=net\0INTERFACE=eth1\0\
                    IFINDEX=3\0SEQNUM=1021\0";
        let event = Uevent::parse(nic).unwrap();
        assert_eq!(
            (event.action, event.subsystem.as_str()),
            (Action::Add, "net")
        );
        assert_eq!(event.interface.as_deref(), Some("eth1"));
        let disk =
            b"change@/devices/x/block/sr0\0SUBSYSTEM=block\0DEVNAME=sr0\0DISK_MEDIA_CHANGE=1\0";
        let event = Uevent::parse(disk).unwrap();
        assert_eq!(event.action, Action::Change);
        assert_eq!(event.device.as_deref(), Some("sr0"));
    }

    #[test]
    fn what_is_none_is_none() {
        for wrong in [
            &b""[..],
            b"libudev\0\xfe\xed\xca\xfe",
            b"add@/x\0",
            b"\xff@x\0SUBSYSTEM=net\0",
        ] {
            assert_eq!(Uevent::parse(wrong), None);
        }
    }
}
