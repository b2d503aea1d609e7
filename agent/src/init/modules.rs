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
    let mut loaded = 0;
    for module in &modules {
        let outcome = File::open(folder.join(&module.path))
            .and_then(|file| sys::load_module(&file, module.compressed));
        match outcome {
            Ok(()) => loaded += 1,
            Err(error) if is_no_matter(&error) => {}
            Err(error) => say(format_args!("module {}: {error}", module.path)),
        }
    }
    say(format_args!(
        "{loaded} of {} kernel modules loaded",
        modules.len()
    ));
    // Nothing is loaded later, so that nobody loads what we do not know.
    if let Err(error) = fs::write("/proc/sys/kernel/modules_disabled", "1") {
        say(format_args!("modules could be loaded later: {error}"));
    }
}

/// Built in or loaded already; or a driver whose hardware is not there.
fn is_no_matter(error: &io::Error) -> bool {
    [libc::EEXIST, libc::ENODEV]
        .map(Some)
        .contains(&error.raw_os_error())
}
