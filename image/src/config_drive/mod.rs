//! A config drive as Nova makes one: an ISO 9660 image with the label `config-2`, from which an amphora
//! learns who it is.
//!
//! | path | what |
//! |---|---|
//! | `openstack/latest/meta_data.json` | identity, random seed, and which file of `content` goes where |
//! | `openstack/latest/network_data.json` | address of the management NIC |
//! | `openstack/latest/user_data` | only when there is some |
//! | `openstack/content/NNNN` | the files |
//!
//! The same input gives the same bytes. [`iso`] knows nothing of OpenStack; here is what is in it.

pub mod iso;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use krater_model::{FieldError, MacAddr};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use zeroize::Zeroizing;

/// What Linux, cloud-init and `amphora init` look for.
pub const LABEL: &str = "config-2";
/// Bytes of the random seed, as Nova's.
pub const SEED: usize = 512;
/// Nova takes 5 files of 10 kB; ours are fewer than this.
pub const MAX_FILES: usize = 16;
/// Longest file, in bytes.
pub const MAX_FILE: usize = 64 * 1024;
/// Longest user data, in bytes, as Nova's limit (before base64).
pub const MAX_USER_DATA: usize = 65_535;
/// Longest path of a file in the guest.
const MAX_PATH: usize = 255;

/// Everything that is on the drive.
#[derive(Debug, Clone)]
pub struct ConfigDrive {
    /// The server's id: for us the amphora's.
    pub uuid: String,
    /// Host name, which is the server's name too.
    pub hostname: String,
    /// Absolute paths in the guest and contents.
    pub files: Vec<(String, Zeroizing<Vec<u8>>)>,
    /// NICs that the guest configures itself.
    pub nics: Vec<Nic>,
    /// Passed on as it is.
    pub user_data: Option<Zeroizing<Vec<u8>>>,
    /// Stirred into the guest's random numbers.
    pub seed: Zeroizing<[u8; SEED]>,
}

/// A NIC of `network_data.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// How the guest finds it.
    pub mac: MacAddr,
    /// In bytes.
    pub mtu: u16,
    /// Its fixed address with prefix length; none: DHCP.
    pub address: Option<ipnet::IpNet>,
}

impl ConfigDrive {
    /// The image's bytes.
    ///
    /// # Errors
    /// When something is too long, or a path is none; the error names it.
    pub fn to_iso(&self) -> Result<Zeroizing<Vec<u8>>, FieldError> {
        self.check()?;
        let mut tree = BTreeMap::new();
        let mut put = |path: &str, bytes: &[u8]| {
            tree.insert(path.to_owned(), Zeroizing::new(bytes.to_vec()));
        };
        put("openstack/latest/meta_data.json", &self.meta_data());
        put("openstack/latest/network_data.json", &self.network_data());
        if let Some(text) = &self.user_data {
            put("openstack/latest/user_data", text);
        }
        for (number, (_, bytes)) in self.files.iter().enumerate() {
            put(&format!("openstack{}", content_path(number)), bytes);
        }
        iso::write(LABEL, &tree)
    }

    fn check(&self) -> Result<(), FieldError> {
        let refuse = |field: String, why: String| Err(FieldError::new(field, why));
        if self.files.len() > MAX_FILES {
            let why = format!("{} files: use at most {MAX_FILES}", self.files.len());
            return refuse("files".into(), why);
        }
        for (number, (path, bytes)) in self.files.iter().enumerate() {
            let plain = path.starts_with('/')
                && path.len() <= MAX_PATH
                && !path.ends_with('/')
                && path.split('/').skip(1).all(|part| {
                    !["", ".", ".."].contains(&part) && !part.chars().any(char::is_control)
                });
            if !plain {
                let why = format!("{path:?}: use an absolute path of at most {MAX_PATH} bytes");
                return refuse(format!("files[{number}].path"), why);
            }
            if self
                .files
                .iter()
                .take(number)
                .any(|(other, _)| other == path)
            {
                return refuse(format!("files[{number}].path"), format!("{path:?} twice"));
            }
            if bytes.len() > MAX_FILE {
                let why = format!("{} bytes: use at most {MAX_FILE}", bytes.len());
                return refuse(format!("files[{number}] ({path})"), why);
            }
        }
        let user_data = self.user_data.as_ref().map_or(0, |text| text.len());
        if user_data > MAX_USER_DATA {
            let why = format!("{user_data} bytes: use at most {MAX_USER_DATA}");
            return refuse("user_data".into(), why);
        }
        Ok(())
    }

    fn meta_data(&self) -> Zeroizing<Vec<u8>> {
        let files: Vec<Value> = self
            .files
            .iter()
            .enumerate()
            .map(
                |(number, (path, _))| json!({ "path": path, "content_path": content_path(number) }),
            )
            .collect();
        document(&json!({
            "uuid": self.uuid,
            "name": self.hostname,
            "hostname": self.hostname,
            "launch_index": 0,
            "files": files,
            "random_seed": STANDARD.encode(self.seed.as_slice()),
        }))
    }

    fn network_data(&self) -> Zeroizing<Vec<u8>> {
        let link = |(number, nic): (usize, &Nic)| {
            json!({
                "id": format!("nic{number}"),
                "type": "phy",
                "ethernet_mac_address": nic.mac.to_string(),
                "mtu": nic.mtu,
            })
        };
        let network = |(number, nic): (usize, &Nic)| {
            let id = format!("network{number}");
            let link = format!("nic{number}");
            match nic.address {
                None => json!({ "id": id, "link": link, "type": "ipv4_dhcp" }),
                Some(net) => json!({
                    "id": id,
                    "link": link,
                    "type": match net.addr() { IpAddr::V4(_) => "ipv4", IpAddr::V6(_) => "ipv6" },
                    "ip_address": net.addr(),
                    "netmask": net.netmask(),
                    "routes": [],
                }),
            }
        };
        let (links, networks): (Vec<Value>, Vec<Value>) = self
            .nics
            .iter()
            .enumerate()
            .map(|nic| (link(nic), network(nic)))
            .unzip();
        document(&json!({ "links": links, "networks": networks, "services": [] }))
    }
}

/// Relative to `openstack/`.
fn content_path(number: usize) -> String {
    format!("/content/{number:04}")
}

/// Keys in the order of the alphabet.
fn document(value: &Value) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(format!("{value:#}\n").into_bytes())
}

#[cfg(test)]
mod tests;
