//! A controller with a state folder of its own.

use crate::api::Api;
use crate::{bin, wait};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Name of the folders below the folder for temporary files.
const PREFIX: &str = "krater-e2e-";
/// Below it: the mount point of a small disk, with the state folder in it.
const DISK: &str = "disk";
/// More than the 256 MiB that `krater doctor` wants.
const DISK_SIZE: &str = "size=272m";
/// The file that fills it.
const FILL: &str = "fill";
static NUMBER: AtomicU32 = AtomicU32::new(0);
static ALONE: RwLock<()> = RwLock::new(());
static SWEPT: Mutex<bool> = Mutex::new(false);

/// Holds back the other tests that hold it: for those that measure times or load the host.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    ALONE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Holds back the tests that are [`alone`], and no other: for those that need the processors and measure nothing. As many
/// run at once as the test program has threads, one for each processor.
pub fn beside() -> RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(PoisonError::into_inner)
}

/// A folder that goes away with its amphorae, at the latest at the next run of any test.
#[derive(Debug)]
pub struct System {
    bins: PathBuf,
    folder: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    controller: Option<Child>,
    /// Of the running controller.
    pub api: Api,
    _lock: Flock<File>,
}

impl System {
    /// Starts `krater up` with its defaults.
    pub fn start() -> Self {
        Self::with("", &[])
    }

    /// Starts `krater up` from another folder that holds the binaries.
    pub fn of(bins: &Path) -> Self {
        Self::make(bins.to_path_buf(), "", &[], false)
    }

    /// Starts `krater up` on a disk of its own that a test can fill: see [`Self::fill_disk`].
    pub fn on_small_disk(config: &str) -> Self {
        Self::make(crate::bin_dir(), config, &[], true)
    }

    /// Starts `krater up` with a `krater.toml` and environment variables.
    ///
    /// # Panics
    /// Without root, without the binaries, or when it does not get ready.
    pub fn with(config: &str, environment: &[(&str, &str)]) -> Self {
        Self::make(crate::bin_dir(), config, environment, false)
    }

    fn make(bins: PathBuf, config: &str, environment: &[(&str, &str)], small_disk: bool) -> Self {
        bin("amphora");
        assert!(
            nix::unistd::geteuid().is_root(),
            "end-to-end tests need root: they make namespaces"
        );
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let folder = std::env::temp_dir().join(format!("{PREFIX}{}-{number}", std::process::id()));
        std::fs::create_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let lock = lock(&folder).expect("a new folder is not locked");
        let disk = folder.join(DISK);
        if small_disk {
            std::fs::create_dir(&disk).expect("a mount point");
            let none = MsFlags::empty();
            mount(Some("tmpfs"), &disk, Some("tmpfs"), none, Some(DISK_SIZE)).expect("a tmpfs");
        }
        let mut arguments = Vec::new();
        if !config.is_empty() {
            let path = folder.join("krater.toml");
            std::fs::write(&path, config).expect("write krater.toml");
            arguments.extend(["--config".to_owned(), path.display().to_string()]);
        }
        let mut system = Self {
            bins,
            folder,
            arguments,
            environment: Vec::new(),
            controller: None,
            api: Api {
                address: ([127, 0, 0, 1], 0).into(),
            },
            _lock: lock,
        };
        system.environment(environment);
        system.up();
        system
    }

    /// Replaces the variables for the next [`Self::up`].
    pub fn environment(&mut self, environment: &[(&str, &str)]) {
        self.environment = environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
    }

    /// Starts the controller (again) on the same folder and waits until it is ready.
    ///
    /// # Panics
    /// When it ends or does not get ready.
    pub fn up(&mut self) {
        self.spawn_up();
        if !self.ready() {
            panic!("krater up ended: {:?}\n{}", self.exited(), self.log());
        }
    }

    /// Waits until the controller is ready; false when it ends before.
    pub fn ready(&mut self) -> bool {
        let said = self.folder.join("up.out");
        wait::until("krater up is ready, or ends", || {
            let text = std::fs::read_to_string(&said).unwrap_or_default();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("ready: http://"));
            match line.and_then(|line| line.trim().parse().ok()) {
                Some(address) => {
                    self.api = Api { address };
                    Some(true)
                }
                None => self.exited().map(|_| false),
            }
        })
    }

    /// Replaces `krater.toml` for the next [`Self::up`]; the system must have been started with one.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&self, config: &str) {
        std::fs::write(self.folder.join("krater.toml"), config).expect("write krater.toml");
    }

    /// Starts the controller and does not wait: for one that shall die on the way. Gives the file with
    /// its standard output.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn spawn_up(&mut self) -> PathBuf {
        let said = self.folder.join("up.out");
        let errors = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("controller.log"));
        let mut command = self.krater(&["up", "--listen", "127.0.0.1:0"]);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(File::create(&said).expect("up.out"))
            .stderr(errors.expect("controller.log"));
        self.controller = Some(command.spawn().expect("start krater up"));
        said
    }

    /// The product's command line on this state folder.
    pub fn krater(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.bins.join("krater"));
        command
            .args(arguments)
            .env("KRATER_STATE_DIR", self.state_dir());
        command.env("KRATER_ENDPOINT", format!("http://{}", self.api.address));
        command
    }

    /// Runs it to its end; standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self
            .krater(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("run krater");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "krater {arguments:?}: {}\n{errors}",
            output.status
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The controller's state folder.
    pub fn state_dir(&self) -> PathBuf {
        state_of(&self.folder)
    }

    /// Fills the disk of [`Self::on_small_disk`] to its last page, until [`Self::free_disk`].
    ///
    /// # Panics
    /// When it does not get full: it is no small disk.
    pub fn fill_disk(&self) {
        use std::io::Write as _;
        let path = self.folder.join(DISK).join(FILL);
        let mut file = File::create(path).expect("the small disk");
        for size in [1 << 20, 4096] {
            let block = vec![0; size];
            let full = (0..4096).any(|_| file.write_all(&block).is_err());
            assert!(full, "the disk does not get full");
        }
    }

    /// Takes back what [`Self::fill_disk`] did.
    ///
    /// # Panics
    /// When it was not filled.
    pub fn free_disk(&self) {
        std::fs::remove_file(self.folder.join(DISK).join(FILL)).expect("the disk was filled");
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Process id of the controller.
    ///
    /// # Panics
    /// When it was stopped.
    pub fn pid(&self) -> Pid {
        let id = self.controller.as_ref().expect("the controller runs").id();
        Pid::from_raw(i32::try_from(id).expect("a pid"))
    }

    /// Whether the controller ended.
    pub fn exited(&mut self) -> Option<std::process::ExitStatus> {
        self.controller
            .as_mut()
            .and_then(|child| child.try_wait().ok().flatten())
    }

    /// Ends the controller by a signal and waits for its end; the amphorae go on.
    ///
    /// # Panics
    /// When it cannot be signalled.
    pub fn stop(&mut self, signal: Signal) {
        if let Some(mut child) = self.controller.take() {
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
            kill(pid, signal).expect("signal the controller");
            wait::for_condition("the controller ends", || {
                !matches!(child.try_wait(), Ok(None))
            });
        }
    }

    /// What the controller logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("controller.log")).unwrap_or_default()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log
                .lines()
                .rev()
                .filter(|line| !line.contains("api request"))
                .take(60)
                .collect();
            eprintln!("-- the controller's log, its last lines:");
            for line in tail.into_iter().rev() {
                eprintln!("{line}");
            }
            if std::env::var_os("KRATER_E2E_KEEP").is_some() {
                eprintln!("-- kept: {}", self.folder.display());
                std::mem::forget(self.controller.take());
                let _ = std::fs::write(self.folder.join("kept"), "");
                return;
            }
        }
        if let Some(mut child) = self.controller.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Err(text) = remove(&self.folder) {
            // Not in a panic: a second one would hide the first.
            assert!(std::thread::panicking(), "{text}");
            eprintln!("{text}");
        }
    }
}

fn lock(folder: &Path) -> Option<Flock<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))
        .ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

/// Removes what killed test runs left; once per test program.
fn sweep() {
    let mut swept = SWEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if *swept {
        return;
    }
    *swept = true;
    for entry in std::fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path();
        let ours =
            entry.file_name().to_string_lossy().starts_with(PREFIX) && !path.join("kept").exists();
        if ours
            && lock(&path).is_some()
            && let Err(text) = remove(&path)
        {
            eprintln!("leftovers of an earlier run: {text}");
        }
    }
}

/// The state folder of a test's folder.
fn state_of(folder: &Path) -> PathBuf {
    let disk = folder.join(DISK);
    if disk.exists() {
        disk
    } else {
        folder.to_path_buf()
    }
    .join("state")
}

fn remove(folder: &Path) -> Result<(), String> {
    let disk = folder.join(DISK);
    let _ = std::fs::remove_file(disk.join(FILL));
    let state = state_of(folder);
    if state.exists() {
        let down = Command::new(bin("krater"))
            .args(["down", "--purge"])
            .env("KRATER_STATE_DIR", &state)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("krater down: {error}"))?;
        if !down.status.success() {
            let said = String::from_utf8_lossy(&down.stderr);
            return Err(format!(
                "krater down --purge on {}: {}",
                state.display(),
                said.trim()
            ));
        }
    }
    if disk.exists() {
        // Not mounted when the test was killed before.
        let _ = umount2(&disk, MntFlags::MNT_DETACH);
    }
    std::fs::remove_dir_all(folder).map_err(|error| format!("remove {}: {error}", folder.display()))
}
