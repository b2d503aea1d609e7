//! Programs in Python: virtual environments with versions as pinned in the tree, made with the Python that is unpacked below the
//! peers, or the host's.

use crate::setup;
use crate::util::{Failure, at, capture, root, target_dir};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is installed together: the folder, the packages, the file below `e2e/peers` that pins them and what they need.
pub(super) struct Group {
    venv: &'static str,
    packages: &'static [&'static str],
    constraints: &'static str,
    /// A package of which one folder is unpacked and nothing else.
    part: Option<Part>,
    /// Some of them have no wheel: they are built, by setuptools that pip fetches.
    built: bool,
}

/// `ansible` brings a hundred collections, 600 MB; the tests use one.
struct Part {
    package: &'static str,
    below: &'static str,
}

/// The first ones: `complete` is the stamp of them all.
pub(super) const FIRST: [Group; 3] = [
    Group {
        venv: "venv-cli",
        packages: &[
            "python-openstackclient",
            "python-octaviaclient",
            "python-barbicanclient",
        ],
        constraints: "constraints.txt",
        part: None,
        built: false,
    },
    Group {
        venv: "venv-schemathesis",
        packages: &["schemathesis"],
        constraints: "schemathesis.txt",
        part: None,
        built: false,
    },
    Group {
        venv: "venv-keystone",
        packages: &["keystone"],
        constraints: "keystone.txt",
        part: None,
        built: false,
    },
];
/// Each of these has a stamp of its own: a folder without it gets it, and nothing in it is made again.
const ADDED: [Group; 1] = [Group {
    venv: "venv-ansible",
    packages: &["ansible-core", "openstacksdk", "cryptography"],
    constraints: "ansible.txt",
    part: Some(Part {
        package: "ansible",
        below: "ansible_collections/openstack/",
    }),
    built: false,
}];
/// For `cargo xtask numbers --upstream` alone.
const OCTAVIA: Group = Group {
    venv: "venv-octavia",
    packages: &["octavia"],
    constraints: "octavia.txt",
    part: None,
    built: true,
};

/// Unpacks what is below a folder of an archive beside this interpreter's packages.
const UNPACK: &str = "import sys, sysconfig, zipfile\n\
    with zipfile.ZipFile(sys.argv[1]) as archive:\n\
    \x20   names = [name for name in archive.namelist() if name.startswith(sys.argv[2])]\n\
    \x20   assert names, sys.argv[2]\n\
    \x20   archive.extractall(sysconfig.get_paths()['purelib'], names)\n";

/// Makes what is missing of [`ADDED`].
pub(super) fn add(folder: &Path) -> Result<(), Failure> {
    ADDED
        .iter()
        .try_for_each(|group| group.ensure(folder, folder))
}

/// Upstream's programs; gives their Python.
pub(crate) fn octavia() -> Result<PathBuf, Failure> {
    let peers = setup::setup()?.folder;
    let folder = target_dir().join("octavia");
    std::fs::create_dir_all(&folder).map_err(at(&folder))?;
    OCTAVIA.ensure(&folder, &peers)?;
    Ok(folder.join(OCTAVIA.venv).join("bin/python"))
}

/// A Python with the libraries that its packages brought.
pub(crate) fn command(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.env("LD_LIBRARY_PATH", libraries(&target_dir().join("peers")));
    command
}

fn libraries(peers: &Path) -> PathBuf {
    let name = format!("{}-linux-gnu", std::env::consts::ARCH);
    peers.join("tree/usr/lib").join(name)
}

impl Group {
    fn file(&self) -> PathBuf {
        root().join("e2e/peers").join(self.constraints)
    }

    /// What a stamp says of it.
    pub(super) fn pinned(&self) -> Result<String, Failure> {
        let file = self.file();
        let text = std::fs::read_to_string(&file).map_err(at(&file))?;
        Ok(format!("{} {:?}\n{text}\n", self.venv, self.packages))
    }

    fn ensure(&self, folder: &Path, peers: &Path) -> Result<(), Failure> {
        let wanted = self.pinned()?;
        let stamp = folder.join(format!("{}.complete", self.venv));
        let venv = folder.join(self.venv);
        let whole = std::fs::read_to_string(&stamp).is_ok_and(|done| done == wanted);
        if whole && venv.join("bin/python").exists() {
            return Ok(());
        }
        if venv.exists() {
            std::fs::remove_dir_all(&venv).map_err(at(&venv))?;
        }
        self.make(folder, peers)?;
        std::fs::write(&stamp, wanted).map_err(at(&stamp))
    }

    /// Makes it below a folder, with the Python of the peers.
    pub(super) fn make(&self, folder: &Path, peers: &Path) -> Result<(), Failure> {
        let named = self.packages.join(", ");
        eprintln!("peers: fetching {named} with pip");
        self.fetch(&folder.join(self.venv), peers).map_err(|failure| {
            Failure(format!(
                "{named} could not be fetched.\n  {failure}\n  fix: see that this machine reaches the Python \
                 package index (pip config, https_proxy), then run the same command again"
            ))
        })
    }

    fn fetch(&self, venv: &Path, peers: &Path) -> Result<(), Failure> {
        let unpacked = peers.join("tree/usr/bin/python3.11");
        let python = if unpacked.exists() {
            unpacked
        } else {
            PathBuf::from("/usr/bin/python3")
        };
        // Without pip: ensurepip looks for its wheel in /usr/share, where an unpacked package is not.
        let mut make = Command::new(&python);
        make.args(["-m", "venv", "--without-pip"]).arg(venv);
        capture(make.env("LD_LIBRARY_PATH", libraries(peers)))?;
        let mut install = self.pip(venv, peers, "install")?;
        capture(install.args(self.packages))?;
        let Some(part) = &self.part else {
            return Ok(());
        };
        let archives = venv.join("archives");
        let mut download = self.pip(venv, peers, "download")?;
        download.arg("--no-deps").arg("--dest").arg(&archives);
        capture(download.arg(part.package))?;
        for entry in std::fs::read_dir(&archives).map_err(at(&archives))? {
            let archive = entry.map_err(at(&archives))?.path();
            let mut unpack = Command::new(venv.join("bin/python"));
            unpack.args(["-c", UNPACK]).arg(archive).arg(part.below);
            capture(unpack.env("LD_LIBRARY_PATH", libraries(peers)))?;
        }
        std::fs::remove_dir_all(&archives).map_err(at(&archives))
    }

    fn pip(&self, venv: &Path, peers: &Path, what: &str) -> Result<Command, Failure> {
        let wheel = wheel(&[
            &peers.join("tree/usr/share/python-wheels"),
            Path::new("/usr/share/python-wheels"),
        ])?;
        let mut pip = Command::new(venv.join("bin/python"));
        pip.args(["-m", "pip", what])
            .args(["--quiet", "--disable-pip-version-check", "--no-input"])
            .arg(if self.built {
                "--prefer-binary"
            } else {
                "--only-binary=:all:"
            })
            .arg("--constraint")
            .arg(self.file())
            .env("PYTHONPATH", wheel)
            .env("LD_LIBRARY_PATH", libraries(peers));
        Ok(pip)
    }
}

fn wheel(folders: &[&Path]) -> Result<PathBuf, Failure> {
    for folder in folders {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("pip-") {
                return Ok(entry.path());
            }
        }
    }
    Err("pip's wheel is not in package python3-pip-whl; fix: `apt-get download python3-pip-whl` must work".into())
}
