//! What PID 1 of the image reads: the config drive, disks, DHCP, the kernel's events.

use krater_model::MacAddr;
use krater_model::guest::cloud_config::CloudConfig;
use krater_model::guest::delivery::{MAX_FILE, MAX_FILES};
use krater_model::guest::dhcp::packet::{Reply, read};
use krater_model::guest::dhcp::{Client, MAX_ROUTES};
use krater_model::guest::meta_data::MetaData;
use krater_model::guest::network_data::Management;
use krater_model::guest::uevent::Uevent;
use krater_model::guest::{label, order};
use std::time::Duration;

/// The client of `corpus/dhcp_packet`, whose packets answer exchange 1.
const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);

pub(super) fn meta_data(data: &[u8]) {
    if let Ok(meta) = MetaData::parse(data) {
        assert!(meta.files.len() <= MAX_FILES, "bounded");
        let inside = |path: &str| path.split('/').all(|part| !["", ".", ".."].contains(&part));
        assert!(
            meta.files.iter().all(|file| inside(file.content.as_str())),
            "on the drive"
        );
    }
}

pub(super) fn network_data(data: &[u8]) {
    if let Ok(management) = Management::parse(data) {
        let some = !management.addresses.is_empty() || management.dhcp4 || management.slaac;
        assert!(some, "an accepted document configures something");
    }
}

pub(super) fn cloud_config(data: &[u8]) {
    if let Ok(config) = CloudConfig::parse(data) {
        assert!(config.files.len() <= MAX_FILES, "bounded");
        assert!(
            config
                .files
                .iter()
                .all(|file| file.content.len() <= MAX_FILE),
            "bounded"
        );
    }
}

pub(super) fn module_order(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(modules) = order::parse(text)
    {
        let inside = |path: &str| path.split('/').all(|part| !["", ".", ".."].contains(&part));
        assert!(
            modules.iter().all(|module| inside(&module.path)),
            "below the folder"
        );
        // Patterns are matched against whatever the hardware says; any text will do.
        let wanted = modules.iter().filter(|module| module.is_wanted([text]));
        assert!(wanted.count() <= modules.len());
    }
}

pub(super) fn disk_label(data: &[u8]) {
    // The interesting parts are far apart: a short input stands for the ISO's descriptor as well.
    let mut disk = vec![0; label::HEAD];
    for (place, byte) in disk.iter_mut().skip(16 * 2_048).zip(data) {
        *place = *byte;
    }
    for head in [data, disk.as_slice()] {
        if let Some(label) = label::read(head) {
            assert!(label.text.len() <= 32 && label.text.is_ascii());
        }
    }
}

pub(super) fn uevent(data: &[u8]) {
    let _ = Uevent::parse(data);
}

/// As a packet for the codec, and as the answers to a client that has just asked.
pub(super) fn dhcp_packet(data: &[u8]) {
    if let Ok(Reply::Ack(lease)) = read(data, MAC, 1) {
        assert!(lease.routes.len() <= MAX_ROUTES, "bounded");
        assert!(
            lease.renew <= lease.rebind && !lease.renew.is_zero(),
            "in order"
        );
    }
    let mut client = Client::new(MAC, None, 1, Duration::ZERO);
    let _ = client.tick(Duration::ZERO);
    let _ = client.receive(data, Duration::ZERO);
    let _ = client.tick(client.due().min(Duration::from_secs(9)));
}
