//! Finds the config drive among the disks, reads it, and puts its files in their places.

use super::console::say;
use super::{Fault, mounts};
use krater_model::guest::MAX_DOCUMENT;
use krater_model::guest::cloud_config::CloudConfig;
use krater_model::guest::delivery::{MAX_FILE, MAX_TOTAL, Target};
use krater_model::guest::label::{self, Label};
use krater_model::guest::meta_data::MetaData;
use krater_model::guest::network_data::Management;
use nix::mount::{MntFlags, umount2};
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where it is mounted as long as it is read.
const MOUNT: &str = "/run/config-drive";
/// Disks that are looked at; a machine has a few.
const MAX_DISKS: usize = 64;

/// A disk or partition.
#[derive(Debug)]
pub(super) struct Disk {
    /// Name in `/dev`.
    pub(super) name: String,
    /// Name of the partition in a GPT.
    partition: Option<String>,
    /// What it holds, or why that is not known.
    label: Result<Option<Label>, io::Error>,
}

impl Disk {
    fn device(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    fn label(&self) -> Option<&Label> {
        self.label.as_ref().ok()?.as_ref()
    }

    /// The amphora's own small disk.
    pub(super) fn is_data(&self) -> bool {
        self.partition.as_deref() == Some(label::DATA) || self.label().is_some_and(Label::is_data)
    }

    /// For the console.
    fn shown(&self) -> String {
        match &self.label {
            Ok(Some(label)) => format!("{} ({} {:?})", self.name, label.kind.name(), label.text),
            Ok(None) => format!("{} (no label)", self.name),
            Err(error) => format!("{} ({error})", self.name),
        }
    }
}

/// All disks and partitions that there are now.
pub(super) fn disks() -> Vec<Disk> {
    let entries = fs::read_dir("/sys/class/block").into_iter().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        // Memory that looks like disks, and never is one.
        .filter(|name| {
            !["loop", "ram", "zram", "fd"]
                .iter()
                .any(|kind| name.starts_with(kind))
        })
        .collect();
    names.sort();
    names.truncate(MAX_DISKS);
    let disk = |name: String| Disk {
        partition: partition_name(&name),
        label: head(&Path::new("/dev").join(&name)).map(|head| label::read(&head)),
        name,
    };
    names.into_iter().map(disk).collect()
}

fn partition_name(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/class/block/{name}/uevent")).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("PARTNAME="))?;
    Some(value.to_owned())
}

fn head(device: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(label::HEAD);
    let limit = u64::try_from(label::HEAD).unwrap_or(u64::MAX);
    File::open(device)?.take(limit).read_to_end(&mut head)?;
    Ok(head)
}

/// The config drive among these disks.
pub(super) fn find(disks: &[Disk]) -> Option<&Disk> {
    disks
        .iter()
        .find(|d| d.label().is_some_and(Label::is_config_drive))
}

/// That none of them is it.
pub(super) fn missing(disks: &[Disk]) -> Fault {
    let seen: Vec<String> = disks.iter().map(Disk::shown).collect();
    let seen = if seen.is_empty() {
        "none".into()
    } else {
        seen.join(", ")
    };
    Fault::new(
        "config-drive",
        format!(
            "no disk has the label config-2 (disks: {seen}): boot the amphora with a config drive \
             (Nova: config_drive=True)"
        ),
    )
}

/// What is used of a config drive, beside the files, which are in their places.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) meta: MetaData,
    pub(super) network: Management,
}

/// Reads it all and unmounts it again.
pub(super) fn read(disk: &Disk) -> Result<Contents, Fault> {
    let fault = |why: String| Fault::new("config-drive", format!("{}: {why}", disk.shown()));
    let kind = disk.label().map_or("iso9660", |label| label.kind.name());
    mounts::foreign(&disk.device(), MOUNT, kind, false)
        .map_err(|error| fault(format!("cannot be mounted: {error}: it is damaged")))?;
    let contents = contents(Path::new(MOUNT)).map_err(fault);
    if let Err(error) = umount2(MOUNT, MntFlags::MNT_DETACH) {
        say(format_args!("the config drive stays mounted: {error}"));
    }
    contents
}

fn contents(drive: &Path) -> Result<Contents, String> {
    let openstack = drive.join("openstack");
    let latest = openstack.join("latest");
    let document = |name: &str| bounded(&latest.join(name), MAX_DOCUMENT);
    let text = document("meta_data.json")?.ok_or("openstack/latest/meta_data.json is missing")?;
    let meta = MetaData::parse(&text).map_err(|error| error.to_string())?;
    let network = match document("network_data.json")? {
        None => Management::dhcp(),
        Some(text) => Management::parse(&text).map_err(|error| error.to_string())?,
    };
    let mut files = Vec::new();
    for file in &meta.files {
        let place = match Target::parse(&file.path) {
            Ok(place) => place,
            // Other images' files hinder nobody.
            Err(why) => {
                say(format_args!("config drive: file not taken: {why}"));
                continue;
            }
        };
        let path = openstack.join(file.content.as_str());
        let content = bounded(&path, MAX_FILE)?
            .ok_or_else(|| format!("{place}: openstack/{} is missing", file.content.as_str()))?;
        files.push((place, content));
    }
    if let Some(text) = document("user_data")? {
        user_data(&text, &mut files)?;
    }
    let total: usize = files.iter().map(|(_, content)| content.len()).sum();
    if total > MAX_TOTAL {
        return Err(format!("its files have {total} bytes, at most {MAX_TOTAL}"));
    }
    for (place, content) in &files {
        write(place, content).map_err(|error| format!("write {place}: {error}"))?;
    }
    say(format_args!(
        "config drive: {} files in memory",
        files.len()
    ));
    Ok(Contents { meta, network })
}

/// Files of user data, where the drive has none of them itself.
fn user_data(text: &[u8], files: &mut Vec<(Target, Zeroizing<Vec<u8>>)>) -> Result<(), String> {
    if !CloudConfig::is(text) {
        say("user data: not #cloud-config, not used");
        return Ok(());
    }
    let config = CloudConfig::parse(text).map_err(|error| error.to_string())?;
    if !config.skipped.is_empty() {
        say(format_args!(
            "user data: not carried out: {}",
            config.skipped.join(", ")
        ));
    }
    if let Some(zone) = &config.timezone
        && !["UTC", "Etc/UTC", "GMT"].contains(&zone.as_str())
    {
        say(format_args!(
            "user data: timezone {zone:?} is not supported yet: times are in UTC"
        ));
    }
    for file in config.files {
        let content = Zeroizing::new(file.content);
        match Target::parse(&file.path) {
            Ok(place) if files.iter().all(|(other, _)| *other != place) => {
                files.push((place, content));
            }
            Ok(_) => {}
            Err(why) => say(format_args!("user data: file not taken: {why}")),
        }
    }
    Ok(())
}

/// The content of a file; none when it is not there.
fn bounded(path: &Path, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
    let shown = path.strip_prefix(MOUNT).unwrap_or(path).display();
    let mut content = Zeroizing::new(Vec::with_capacity(limit.min(4_096)));
    let most = u64::try_from(limit).unwrap_or(u64::MAX);
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.and_then(|file| file.take(most + 1).read_to_end(&mut content)),
    }
    .map_err(|error| format!("read {shown}: {error}"))?;
    if content.len() > limit {
        return Err(format!("{shown} has more than {limit} bytes"));
    }
    Ok(Some(content))
}

/// Mode 0600, in folders of mode 0700.
fn write(place: &Target, content: &[u8]) -> io::Result<()> {
    let path = Path::new(place.as_str());
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(content)
}
