//! The manifest: a bill of materials in CycloneDX 1.5 (JSON) with what an image is made of and the SHA-256 of every file.
//!
//! No time and no serial number: two builds of the same image have the same manifest.

use crate::lock::Pin;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The crate whose program the image runs.
const ROOT: &str = "krater-agent";

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum SbomError {
    /// Cargo's lock file is not understood.
    #[error("Cargo.lock cannot be read")]
    CargoLock(#[from] toml::de::Error),
    /// It has not our crate.
    #[error("Cargo.lock has no package krater-agent")]
    NoAgent,
}

/// What an image is.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Of Krater.
    pub version: &'a str,
    /// `default` or `debug`.
    pub variant: &'a str,
    /// `uname -r` in the image; nothing where there is no image but the program alone.
    pub kernel: &'a str,
    /// Names of the modules in it.
    pub modules: &'a [String],
    /// SHA-256 of the program.
    pub amphora: &'a str,
    /// Packages that something was taken from.
    pub packages: &'a [&'a Pin],
    /// Name and SHA-256 of every file.
    pub artefacts: &'a [(&'a str, String)],
    /// Text of the Cargo.lock that the program was built with.
    pub cargo_lock: &'a str,
}

#[derive(Deserialize)]
struct CargoLock {
    package: Vec<Crate>,
}

#[derive(Deserialize)]
struct Crate {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// The manifest's text.
pub fn write(facts: &Facts<'_>) -> Result<String, SbomError> {
    let mut components: Vec<Value> = facts.packages.iter().map(|pin| debian(pin)).collect();
    components.push(json!({
        "type": "application",
        "bom-ref": "amphora",
        "name": "amphora",
        "version": facts.version,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "hashes": sha256(facts.amphora),
    }));
    let crates = crates(facts.cargo_lock)?;
    let names: Vec<String> = crates.iter().map(reference).collect();
    components.extend(crates.iter().map(cargo));
    let files = facts.artefacts.iter().map(|(name, sum)| {
        json!({"type": "file", "bom-ref": format!("file:{name}"), "name": name, "hashes": sha256(sum)})
    });
    components.extend(files);
    let image: Vec<String> = facts
        .packages
        .iter()
        .map(|pin| purl(pin))
        .chain(["amphora".to_owned()])
        .collect();
    let property =
        |name: &str, value: &str| json!({"name": format!("krater:{name}"), "value": value});
    let (kind, properties) = match facts.kernel {
        "" => ("application", Vec::new()),
        kernel => (
            "operating-system",
            vec![
                property("kernel", kernel),
                property("modules", &facts.modules.join(" ")),
            ],
        ),
    };
    let properties: Vec<Value> = [property("variant", facts.variant)]
        .into_iter()
        .chain(properties)
        .chain([property(
            "crates",
            "as Cargo.lock names them, those of other platforms too",
        )])
        .collect();
    let bom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": kind,
                "bom-ref": "image",
                "name": "krater-amphora",
                "version": facts.version,
                "properties": properties,
            },
        },
        "components": components,
        "dependencies": [
            {"ref": "image", "dependsOn": image},
            {"ref": "amphora", "dependsOn": names},
        ],
    });
    Ok(format!("{bom:#}\n"))
}

fn sha256(sum: &str) -> Value {
    json!([{"alg": "SHA-256", "content": sum}])
}

fn debian(pin: &Pin) -> Value {
    json!({
        "type": "application",
        "bom-ref": purl(pin),
        "name": pin.name,
        "version": pin.version,
        "purl": purl(pin),
        "licenses": [{"license": {"id": pin.role.licence()}}],
        "hashes": sha256(&pin.sha256),
    })
}

/// Package URL; what has a meaning in URLs is escaped.
fn purl(pin: &Pin) -> String {
    let escaped = |text: &str| text.replace('+', "%2B").replace(':', "%3A");
    format!(
        "pkg:deb/debian/{}@{}?arch=amd64",
        escaped(&pin.name),
        escaped(&pin.version)
    )
}

fn reference(package: &Crate) -> String {
    format!(
        "pkg:cargo/{}@{}",
        package.name,
        package.version.replace('+', "%2B")
    )
}

fn cargo(package: &Crate) -> Value {
    let mut out = json!({
        "type": "library",
        "bom-ref": reference(package),
        "name": package.name,
        "version": package.version,
    });
    // What has no source is a folder of ours.
    if package.source.is_some() {
        out["purl"] = json!(reference(package));
    }
    if let Some(sum) = &package.checksum {
        out["hashes"] = sha256(sum);
    }
    out
}

/// What the program is made of, by name and version.
fn crates(lock: &str) -> Result<Vec<Crate>, SbomError> {
    let lock: CargoLock = toml::from_str(lock)?;
    let mut by_name: BTreeMap<&str, Vec<&Crate>> = BTreeMap::new();
    for package in &lock.package {
        by_name.entry(&package.name).or_default().push(package);
    }
    let mut reached = BTreeSet::new();
    let mut todo = vec![ROOT.to_owned()];
    while let Some(dependency) = todo.pop() {
        // `name`, or `name version` where there are several.
        let mut words = dependency.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        let candidates = by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        for package in candidates {
            let fits = version.is_none_or(|v| v == package.version);
            if fits && reached.insert((package.name.clone(), package.version.clone())) {
                todo.extend(package.dependencies.iter().cloned());
            }
        }
    }
    if reached.is_empty() {
        return Err(SbomError::NoAgent);
    }
    let mut found: Vec<Crate> = lock
        .package
        .into_iter()
        .filter(|p| reached.contains(&(p.name.clone(), p.version.clone())))
        .collect();
    found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Role;

    const CARGO: &str = r#"
        [[package]]
        name = "krater-agent"
        version = "0.1.0"
        dependencies = ["tokio", "rand 0.9.1"]
        [[package]]
        name = "krater-controller"
        version = "0.1.0"
        dependencies = ["sea-orm"]
        [[package]]
        name = "sea-orm"
        version = "1.0.0"
        source = "registry"
        [[package]]
        name = "tokio"
        version = "1.54.1"
        source = "registry"
        checksum = "abc"
        [[package]]
        name = "rand"
        version = "0.8.5"
        source = "registry"
        [[package]]
        name = "rand"
        version = "0.9.1"
        source = "registry"
        dependencies = ["tokio"]
    "#;

    fn bom(lock: &str) -> Result<Value, SbomError> {
        let pin = Pin {
            role: Role::Kernel,
            name: "linux-image-6.12.57+deb12-cloud-amd64".into(),
            version: "6.12.57-1~bpo12+1".into(),
            sha256: "00".repeat(32),
            size: 9,
        };
        let text = write(&Facts {
            version: "0.1.0",
            variant: "default",
            kernel: "6.12.57",
            modules: &["virtio_net".into()],
            amphora: "11",
            packages: &[&pin],
            artefacts: &[("vmlinuz", "22".into())],
            cargo_lock: lock,
        })?;
        Ok(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn it_lists_what_is_inside_and_not_what_is_not() {
        let bom = bom(CARGO).unwrap();
        let names: Vec<String> = bom["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| {
                format!(
                    "{} {}",
                    c["name"].as_str().unwrap(),
                    c["version"].as_str().unwrap_or("-")
                )
            })
            .collect();
        let expected = [
            "linux-image-6.12.57+deb12-cloud-amd64 6.12.57-1~bpo12+1",
            "amphora 0.1.0",
            "krater-agent 0.1.0",
            "rand 0.9.1",
            "tokio 1.54.1",
            "vmlinuz -",
        ];
        assert_eq!(names, expected);
        assert_eq!(bom["components"][5]["hashes"][0]["content"], "22");
        assert_eq!(
            bom["components"][0]["purl"],
            "pkg:deb/debian/linux-image-6.12.57%2Bdeb12-cloud-amd64@6.12.57-1~bpo12%2B1?arch=amd64"
        );
        assert_eq!(bom["metadata"].get("timestamp"), None);
    }

    #[test]
    fn another_lock_file_is_refused() {
        assert!(matches!(bom("package = []"), Err(SbomError::NoAgent)));
        assert!(matches!(bom("x"), Err(SbomError::CargoLock(_))));
    }

    #[test]
    fn our_own_lock_file_is_read() {
        let own = include_str!("../../Cargo.lock");
        let found = crates(own).unwrap();
        let has = |name: &str| found.iter().any(|c| c.name == name);
        assert!(has("krater-dataplane") && has("rustls") && !has("sea-orm"));
    }
}
