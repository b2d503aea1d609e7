//! What a machine is given: an identity, config drives, disks.

use super::{ADDRESS, CONTROLLER, MANAGEMENT_MAC, program, run};
use crate::agent::Identity;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;

/// Both authorities, and who the amphora is.
pub struct Pki {
    /// Id of the amphora.
    pub amphora: String,
    pub(super) servers: (String, Issuer<'static, KeyPair>),
    clients: (String, Issuer<'static, KeyPair>),
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki")
            .field("amphora", &self.amphora)
            .finish_non_exhaustive()
    }
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

impl Pki {
    /// New ones.
    ///
    /// # Panics
    /// Never in practice: when no key can be made.
    pub fn new() -> Self {
        let authority = || {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(vec![]).expect("parameters");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).expect("a certificate").pem();
            (pem, Issuer::new(params, key))
        };
        Self {
            amphora: uuid::Uuid::new_v4().to_string(),
            servers: authority(),
            clients: authority(),
        }
    }

    /// The controller's certificate.
    pub fn controller(&self) -> Identity {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        Identity::from_pem(issue(&self.clients.1, CONTROLLER, usage))
    }

    /// What the controller puts on a config drive.
    pub fn files(&self) -> Vec<(String, String)> {
        self.files_listening(ADDRESS)
    }

    /// The same for an agent that listens at another address.
    pub fn files_listening(&self, address: &str) -> Vec<(String, String)> {
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        let config = format!(
            r#"
amphora_id = "{}"
listen = "{address}:9443"
run_dir = "/run/krater"
state_dir = "/var/lib/krater"
log_dir = "/var/log/krater"
vip_netns = "/run/netns/vip"
server_pem = "server.pem"
client_ca = "client-ca.pem"
seal_key = "seal.key"
"#,
            self.amphora
        );
        let file = |name: &str, text: String| (format!("/etc/krater/{name}"), text);
        vec![
            file("agent.toml", config),
            file("server.pem", issue(&self.servers.1, &self.amphora, usage)),
            file("client-ca.pem", self.clients.0.clone()),
            file("seal.key", "ab".repeat(32)),
        ]
    }
}

fn issue(issuer: &Issuer<'static, KeyPair>, name: &str, usage: ExtendedKeyUsagePurpose) -> String {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    certificate.pem() + &key.serialize_pem()
}

/// The tree of a config drive, before it is one.
#[derive(Debug)]
pub struct Drive {
    folder: TempDir,
}

impl Drive {
    /// With these files, `network_data.json` for DHCP, and a seed.
    ///
    /// # Panics
    /// When the folder for temporary files cannot be written.
    pub fn new(files: &[(String, String)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let drive = Self { folder };
        let entries: Vec<Value> = files
            .iter()
            .enumerate()
            .map(|(n, (path, _))| json!({"path": path, "content_path": format!("/content/{n:04}")}))
            .collect();
        for (n, (_, text)) in files.iter().enumerate() {
            drive.put(&format!("openstack/content/{n:04}"), text);
        }
        let meta = json!({"uuid": "83679162-1378-4288-a2d4-70e13ec132aa", "hostname": "amphora-e2e",
            "random_seed": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "files": entries});
        drive.put("openstack/latest/meta_data.json", &meta.to_string());
        let network = json!({
            "links": [{"id": "l", "type": "ovs", "ethernet_mac_address": MANAGEMENT_MAC, "mtu": 1450}],
            "networks": [{"id": "n", "type": "ipv4_dhcp", "link": "l"}], "services": []});
        drive.put("openstack/latest/network_data.json", &network.to_string());
        drive
    }

    /// Writes a file of the tree.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put(&self, path: &str, text: &str) {
        let path = self.folder.path().join("tree").join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    /// As Nova makes it by default, with Nova's arguments (nova/virt/configdrive.py).
    pub fn iso(self) -> Disk {
        let disk = self.folder.path().join("disk");
        run(program("genisoimage")
            .arg("-o")
            .arg(&disk)
            .args([
                "-ldots",
                "-allow-lowercase",
                "-allow-multidot",
                "-l",
                "-publisher",
                "Krater",
            ])
            .args(["-quiet", "-J", "-r", "-V", "config-2"])
            .arg(self.folder.path().join("tree")));
        Disk(self.folder)
    }

    /// As Nova makes it with `config_drive_format=vfat`: 64 MiB.
    ///
    /// # Panics
    /// When the disk cannot be made.
    pub fn vfat(self) -> Disk {
        let disk = self.folder.path().join("disk");
        let file = std::fs::File::create(&disk).expect("a file");
        file.set_len(64 << 20).expect("64 MiB");
        run(program("mkfs.vfat").args(["-n", "config-2"]).arg(&disk));
        run(program("mcopy")
            .args(["-s", "-i"])
            .arg(&disk)
            .arg(self.folder.path().join("tree/openstack"))
            .arg("::/"));
        Disk(self.folder)
    }
}

/// The file of a disk; goes away with it.
#[derive(Debug)]
pub struct Disk(TempDir);

impl Disk {
    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("disk")
    }

    /// An amphora's data partition with a file of `filled` bytes in it.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn data(filled: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = folder.path().join("disk");
        let tree = folder.path().join("tree");
        std::fs::create_dir(&tree).expect("a folder");
        std::fs::write(tree.join("filler"), vec![1; filled]).expect("a file");
        let file = std::fs::File::create(&disk).expect("a file");
        file.set_len(32 << 20).expect("32 MiB");
        run(program("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-L", "krater-data", "-d"])
            .arg(&tree)
            .arg(&disk));
        Self(folder)
    }

    /// Overwrites a piece.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn damage(&self, at: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::options()
            .write(true)
            .open(self.path())
            .expect("the disk");
        file.write_all_at(bytes, at).expect("damage");
    }
}
