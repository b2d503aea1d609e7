//! Read back by another program's rules: a reader written from ECMA-119 and RRIP alone, which goes by names
//! of Rock Ridge as Linux does and knows nothing of how the image was written.

use super::iso::SECTOR;
use super::*;

/// A file as found: path, mode, content.
type Found = (String, u32, Vec<u8>);

struct Reader<'a> {
    image: &'a [u8],
    found: Vec<Found>,
}

impl Reader<'_> {
    fn number(&self, at: usize) -> usize {
        let little = u32::from_le_bytes(self.image[at..at + 4].try_into().unwrap());
        let big = u32::from_be_bytes(self.image[at + 4..at + 8].try_into().unwrap());
        assert_eq!(little, big, "both byte orders at {at}");
        little.try_into().unwrap()
    }

    /// Reads a folder; `record` is the place of its record.
    fn folder(&mut self, record: usize, path: &str) {
        let start = self.number(record + 2) * SECTOR;
        let size = self.number(record + 10);
        assert_eq!(size % SECTOR, 0);
        let mut at = start;
        let mut identifiers = Vec::new();
        while at < start + size {
            let length = usize::from(self.image[at]);
            if length == 0 {
                at = (at / SECTOR + 1) * SECTOR;
                continue;
            }
            assert_eq!(at / SECTOR, (at + length - 1) / SECTOR, "across sectors");
            let named = usize::from(self.image[at + 32]);
            let identifier = self.image[at + 33..at + 33 + named].to_vec();
            let area = at + 33 + named + usize::from(named.is_multiple_of(2));
            let (name, mode) = self.rock_ridge(area, at + length);
            let is_folder = self.image[at + 25] & 2 != 0;
            match identifier.as_slice() {
                [0] => assert_eq!(self.number(at + 2) * SECTOR, start, "'.' of {path}"),
                [1] => {}
                _ => {
                    let path = format!("{path}/{name}");
                    identifiers.push(identifier);
                    if is_folder {
                        assert_eq!(mode, 0o040_700, "{path}");
                        self.folder(at, &path);
                    } else {
                        let start = self.number(at + 2) * SECTOR;
                        let content = &self.image[start..start + self.number(at + 10)];
                        self.found.push((path, mode, content.to_vec()));
                    }
                }
            }
            at += length;
        }
        let mut sorted = identifiers.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted, identifiers, "sorted and each once: ECMA-119 9.3");
    }

    fn rock_ridge(&self, mut at: usize, end: usize) -> (String, u32) {
        let (mut name, mut mode) = (String::new(), 0);
        while at + 4 <= end {
            let length = usize::from(self.image[at + 2]);
            match &self.image[at..at + 2] {
                b"NM" => {
                    let bytes = self.image[at + 5..at + length].to_vec();
                    name = String::from_utf8(bytes).unwrap();
                }
                b"PX" => mode = u32::try_from(self.number(at + 4)).unwrap(),
                b"SP" => assert_eq!(self.image[at + 4..at + 6], [0xbe, 0xef]),
                b"CE" => {
                    let there = self.number(at + 4) * SECTOR + self.number(at + 12);
                    assert_eq!(&self.image[there..there + 2], b"ER");
                    assert_eq!(usize::from(self.image[there + 2]), self.number(at + 20));
                    assert_eq!(&self.image[there + 8..there + 18], b"RRIP_1991A");
                }
                other => panic!("field {other:?}"),
            }
            at += length;
        }
        (name, mode)
    }
}

fn read(image: &[u8]) -> Vec<Found> {
    assert_eq!(&image[16 * SECTOR + 1..16 * SECTOR + 6], b"CD001");
    let mut reader = Reader {
        image,
        found: Vec::new(),
    };
    assert_eq!(
        reader.number(16 * SECTOR + 80) * SECTOR,
        image.len(),
        "volume size"
    );
    reader.folder(16 * SECTOR + 156, "");
    reader.found.sort();
    reader.found
}

fn drive() -> ConfigDrive {
    let file = |path: &str, text: &str| (path.to_owned(), Zeroizing::new(text.as_bytes().to_vec()));
    ConfigDrive {
        uuid: "00000000-0000-0000-0000-000000000007".into(),
        hostname: "amphora-00000000-0000-0000-0000-000000000007".into(),
        files: vec![
            file("/etc/krater/agent.toml", "amphora_id = 7\n"),
            file("/etc/krater/server.pem", &"PEM".repeat(2_000)),
            file("/etc/krater/empty", ""),
        ],
        nics: vec![
            Nic {
                mac: MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]),
                mtu: 1450,
                address: Some("100.96.0.7/16".parse().unwrap()),
            },
            Nic {
                mac: MacAddr([0xfa, 0x16, 0x3e, 0, 0, 2]),
                mtu: 1500,
                address: None,
            },
        ],
        user_data: Some(Zeroizing::new(b"#cloud-config\n".to_vec())),
        seed: Zeroizing::new([7; SEED]),
    }
}

#[test]
fn everything_is_found_again_where_nova_puts_it() {
    let found = read(&drive().to_iso().unwrap());
    let names: Vec<&str> = found.iter().map(|file| file.0.as_str()).collect();
    assert_eq!(
        names,
        [
            "/openstack/content/0000",
            "/openstack/content/0001",
            "/openstack/content/0002",
            "/openstack/latest/meta_data.json",
            "/openstack/latest/network_data.json",
            "/openstack/latest/user_data",
        ]
    );
    assert!(found.iter().all(|file| file.1 == 0o100_600));
    let meta: Value = serde_json::from_slice(&found[3].2).unwrap();
    assert_eq!(meta["uuid"], "00000000-0000-0000-0000-000000000007");
    assert_eq!(meta["name"], meta["hostname"]);
    let seed = meta["random_seed"].as_str().unwrap();
    assert_eq!(STANDARD.decode(seed).unwrap(), [7; SEED]);
    for (number, (path, bytes)) in drive().files.iter().enumerate() {
        let file = &meta["files"][number];
        assert_eq!(file["path"], *path);
        let at = format!("/openstack{}", file["content_path"].as_str().unwrap());
        let content = found.iter().find(|file| file.0 == at).unwrap();
        assert_eq!(content.2, **bytes, "{path}");
    }
    let network: Value = serde_json::from_slice(&found[4].2).unwrap();
    assert_eq!(
        network["links"][0]["ethernet_mac_address"],
        "fa:16:3e:00:00:01"
    );
    assert_eq!(network["links"][0]["mtu"], 1450);
    assert_eq!(network["networks"][0]["link"], network["links"][0]["id"]);
    assert_eq!(network["networks"][0]["type"], "ipv4");
    assert_eq!(network["networks"][0]["ip_address"], "100.96.0.7");
    assert_eq!(network["networks"][0]["netmask"], "255.255.0.0");
    assert_eq!(network["networks"][1]["type"], "ipv4_dhcp");
    assert_eq!(found[5].2, b"#cloud-config\n");
}

#[test]
fn the_same_input_gives_the_same_bytes_and_another_gives_others() {
    let one = drive().to_iso().unwrap();
    assert_eq!(one, drive().to_iso().unwrap());
    let other = ConfigDrive {
        seed: Zeroizing::new([8; SEED]),
        ..drive()
    };
    assert_ne!(one, other.to_iso().unwrap());
}

#[test]
fn a_folder_of_many_long_names_needs_more_sectors_and_is_read_whole() {
    let name = |number: usize| format!("a/{number:02}{}", "long-name.".repeat(6));
    let tree: BTreeMap<String, Zeroizing<Vec<u8>>> = (0..iso::MAX_FILES)
        .map(|number| (name(number), Zeroizing::new(vec![1; number * 100])))
        .collect();
    let found = read(&iso::write("x", &tree).unwrap());
    assert_eq!(found.len(), iso::MAX_FILES);
    for (number, (path, _, content)) in found.iter().enumerate() {
        assert_eq!(*path, format!("/{}", name(number)));
        assert_eq!(content.len(), number * 100);
    }
}

#[test]
fn what_is_too_much_is_refused_by_name() {
    let with = |path: &str, length: usize| {
        let mut drive = drive();
        let bytes = Zeroizing::new(vec![0; length]);
        drive.files = vec![(path.to_owned(), bytes)];
        drive
    };
    let mut twice = with("/a", 1);
    twice.files.push(twice.files[0].clone());
    let mut many = with("/a", 1);
    many.files = vec![many.files[0].clone(); MAX_FILES + 1];
    let mut talkative = drive();
    talkative.user_data = Some(Zeroizing::new(vec![0; MAX_USER_DATA + 1]));
    for (drive, named) in [
        (with("etc/x", 1), "files[0].path"),
        (with("/etc/../x", 1), "files[0].path"),
        (with("/etc//x", 1), "files[0].path"),
        (with("/", 1), "files[0].path"),
        (with("/a\n", 1), "files[0].path"),
        (with("/a", MAX_FILE + 1), "files[0] (/a)"),
        (twice, "files[1].path"),
        (many, "files"),
        (talkative, "user_data"),
    ] {
        let error = drive.to_iso().unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn the_largest_drive_that_is_allowed_can_be_written() {
    let mut drive = drive();
    drive.files = (0..MAX_FILES)
        .map(|number| (format!("/{number}"), Zeroizing::new(vec![1; MAX_FILE])))
        .collect();
    drive.user_data = Some(Zeroizing::new(vec![1; MAX_USER_DATA]));
    assert_eq!(read(&drive.to_iso().unwrap()).len(), MAX_FILES + 3);
}
