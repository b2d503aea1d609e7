//! The arrows of ARCHITECTURE.md, read from the manifests: who may depend on whom.

use crate::util::{Done, Failure, at, root};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Folder, package, and the packages of ours that it may name in `[dependencies]`.
const ARROWS: &[(&str, &str, &[&str])] = &[
    ("model", "krater-model", &[]),
    ("telemetry", "krater-telemetry", &["krater-model"]),
    ("net", "krater-net", &["krater-model"]),
    ("dataplane/core", "krater-dataplane-core", &["krater-model"]),
    (
        "dataplane",
        "krater-dataplane",
        &[
            "krater-model",
            "krater-net",
            "krater-telemetry",
            "krater-dataplane-core",
        ],
    ),
    ("vrrp/proto", "krater-vrrp-proto", &["krater-model"]),
    (
        "vrrp",
        "krater-vrrp",
        &[
            "krater-model",
            "krater-net",
            "krater-telemetry",
            "krater-vrrp-proto",
        ],
    ),
    (
        "agent",
        "krater-agent",
        &[
            "krater-model",
            "krater-net",
            "krater-telemetry",
            "krater-dataplane",
            "krater-vrrp",
        ],
    ),
    ("image", "krater-image", &["krater-model"]),
    (
        "controller",
        "krater-controller",
        &[
            "krater-model",
            "krater-net",
            "krater-telemetry",
            "krater-image",
        ],
    ),
    ("perf", "krater-perf", &["krater-model", "krater-net"]),
    (
        "e2e",
        "krater-e2e",
        &["krater-model", "krater-net", "krater-image"],
    ),
    (
        "fuzz",
        "krater-fuzz",
        &[
            "krater-model",
            "krater-dataplane-core",
            "krater-vrrp-proto",
            "krater-controller",
            "krater-image",
        ],
    ),
    ("xtask", "xtask", &[]),
];

/// Crates that decide and do nothing: no runtime, no socket, no system call, in any kind of dependency
/// that ships.
const PURE: [&str; 2] = ["krater-dataplane-core", "krater-vrrp-proto"];
const IMPURE: [&str; 14] = [
    "tokio",
    "tokio-rustls",
    "mio",
    "socket2",
    "nix",
    "libc",
    "hyper",
    "hyper-util",
    "reqwest",
    "rtnetlink",
    "netlink-sys",
    "krater-net",
    "krater-telemetry",
    "tracing-subscriber",
];

/// Checks all manifests.
pub(crate) fn layers() -> Done {
    let mut faults = Vec::new();
    for (folder, package, allowed) in ARROWS {
        let path = root().join(folder).join("Cargo.toml");
        let text = std::fs::read_to_string(&path).map_err(at(&path))?;
        faults.extend(check(package, allowed, &text));
    }
    faults.extend(strangers(&root())?);
    for fault in &faults {
        eprintln!("{fault}");
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(Failure(format!("{} faults", faults.len())))
    }
}

/// Members of the workspace that the table does not know.
fn strangers(root: &Path) -> Result<Vec<String>, Failure> {
    let path = root.join("Cargo.toml");
    let text = std::fs::read_to_string(&path).map_err(at(&path))?;
    let members: String = text
        .lines()
        .skip_while(|line| !line.starts_with("members"))
        .take_while(|line| !line.starts_with(']'))
        .collect();
    let known: BTreeSet<&str> = ARROWS.iter().map(|a| a.0).collect();
    let named = members.split('"').skip(1).step_by(2);
    Ok(named
        .filter(|m| !known.contains(m))
        .map(|m| format!("Cargo.toml: member {m} has no line in xtask/src/layers.rs"))
        .collect())
}

fn check(package: &str, allowed: &[&str], manifest: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let sections = dependencies(manifest);
    for (section, names) in &sections {
        // Tests may look at more than the product: but never a pure crate at a runtime.
        let shipped = !section.contains("dev-dependencies");
        for name in names {
            let ours = name.starts_with("krater-");
            if ours && shipped && !allowed.contains(&name.as_str()) {
                faults.push(format!(
                    "{package}: [{section}] names {name}; allowed are {allowed:?}"
                ));
            }
            if PURE.contains(&package) && shipped && IMPURE.contains(&name.as_str()) {
                faults.push(format!(
                    "{package}: [{section}] names {name}, but this crate only decides"
                ));
            }
        }
    }
    if !manifest.contains("[lints]\nworkspace = true") {
        faults.push(format!(
            "{package}: the manifest lacks `[lints] workspace = true`"
        ));
    }
    faults
}

/// Section → names of dependencies. Reads the plain form that our manifests use: one per line.
fn dependencies(manifest: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.to_owned();
            // `[dependencies.NAME]` is the long form.
            if let Some((kind, name)) = name.rsplit_once("dependencies.") {
                found
                    .entry(format!("{kind}dependencies"))
                    .or_default()
                    .push(name.to_owned());
            }
        } else if section.ends_with("dependencies") && !line.starts_with('#') {
            let name: String = line
                .chars()
                .take_while(|c| c.is_alphanumeric() || "-_".contains(*c))
                .collect();
            if !name.is_empty() {
                found.entry(section.clone()).or_default().push(name);
            }
        }
    }
    found
}

#[cfg(test)]
mod unit {
    use super::{check, layers};

    const HEAD: &str = "[lints]\nworkspace = true\n[dependencies]\n";

    #[test]
    fn the_checkout_keeps_its_arrows() {
        layers().unwrap();
    }

    #[test]
    fn a_wrong_arrow_is_found() {
        let bad = format!("{HEAD}krater-dataplane.workspace = true\n");
        assert_eq!(check("krater-controller", &["krater-model"], &bad).len(), 1);
        assert!(check("krater-agent", &["krater-dataplane"], &bad).is_empty());
    }

    #[test]
    fn a_pure_crate_has_no_runtime() {
        let bad = format!("{HEAD}tokio = {{ workspace = true }}\n");
        assert_eq!(check("krater-dataplane-core", &[], &bad).len(), 1);
        let long = "[lints]\nworkspace = true\n[dependencies.socket2]\nversion = \"1\"\n";
        assert_eq!(check("krater-vrrp-proto", &[], long).len(), 1);
        let test = "[lints]\nworkspace = true\n[dev-dependencies]\ntokio.workspace = true\n";
        assert!(check("krater-dataplane-core", &[], test).is_empty());
    }
}
