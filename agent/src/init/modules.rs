//! Loads the initrd's kernel modules, in the order of its list.

use super::console::say;
use super::sys;
use krater_model::guest::order;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Where they are.
pub(super) const FOLDER: &str = "/lib/modules";

/// Loads all. One that the kernel refuses is told; whatever needed it will be missing and tell why.
pub(super) fn load() {
    let folder = Path::new(FOLDER);
    let modules = match fs::read_to_string(folder.join("order")) {
        Ok(text) => match order::parse(&text) {
            Ok(modules) => modules,
            Err(error) => return say(format_args!("{FOLDER}/order: {error}")),
        },
        Err(error) => return say(format_args!("no kernel modules: {FOLDER}/order: {error}")),
    };
    // Many modules wait until all processors have left what they replace; a machine that boots has nobody to disturb.
    expedite(true);
    let (mut loaded, mut idle) = (0, 0);
    let mut devices = None;
    for module in &modules {
        if !module.devices.is_empty() {
            // Drivers of buses show new devices.
            let names = devices.get_or_insert_with(devices_there);
            if !module.is_wanted(names.iter().map(String::as_str)) {
                idle += 1;
                continue;
            }
        }
        let outcome = File::open(folder.join(&module.path))
            .and_then(|file| sys::load_module(&file, module.compressed));
        match outcome {
            Ok(()) => {
                loaded += 1;
                devices = None;
            }
            Err(error) if is_no_matter(&error) => {}
            Err(error) => say(format_args!("module {}: {error}", module.path)),
        }
    }
    expedite(false);
    say(format_args!(
        "{loaded} of {} kernel modules loaded, {idle} are for hardware that is not there",
        modules.len()
    ));
    // Nothing is loaded later, so that nobody loads what we do not know.
    if let Err(error) = fs::write("/proc/sys/kernel/modules_disabled", "1") {
        say(format_args!("modules could be loaded later: {error}"));
    }
}

/// Names of all devices on the buses that modules of the list may be for.
fn devices_there() -> Vec<String> {
    let entries = ["pci", "virtio"]
        .iter()
        .filter_map(|bus| fs::read_dir(format!("/sys/bus/{bus}/devices")).ok());
    let names = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("modalias")).ok());
    names.map(|name| name.trim_end().to_owned()).collect()
}

/// Whether grace periods of RCU are short, at the price of interrupts on all processors.
fn expedite(on: bool) {
    if let Err(error) = fs::write("/sys/kernel/rcu_expedited", if on { "1" } else { "0" }) {
        say(format_args!("rcu_expedited: {error}"));
    }
}

/// Built in or loaded already; or a driver whose hardware is not there.
fn is_no_matter(error: &io::Error) -> bool {
    [libc::EEXIST, libc::ENODEV]
        .map(Some)
        .contains(&error.raw_os_error())
}
