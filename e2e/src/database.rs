//! PostgreSQL and MariaDB as tests start them: the programs that `cargo xtask setup` has fetched, as an
//! unprivileged user, on a Unix socket in a folder of their own, without any file of the host's installation.
//!
//! A server ends with its [`Server`], and also when the test program is killed (the kernel sends SIGKILL to it then);
//! what a killed run left in the folder for temporary files the next start removes.

use crate::wait;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

/// Name of the folders below the folder for temporary files.
const PREFIX: &str = "krater-database-";
/// Debian's user `nobody`: PostgreSQL does not run as root.
const NOBODY: u32 = 65_534;
/// The database that a new server has.
pub const DATABASE: &str = "krater";
const USER: &str = "krater";
/// Of a server with TLS.
pub const PASSWORD: &str = "pass-word";
static NUMBER: AtomicU32 = AtomicU32::new(0);
/// Held from a folder's making until it is locked: who sweeps takes it for a leftover until then.
static MAKING: Mutex<()> = Mutex::new(());

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// PostgreSQL 15.
    Postgres,
    /// MariaDB 10.11.
    MariaDb,
}

impl Engine {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Postgres, Self::MariaDb];

    /// In names of folders.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
        }
    }

    /// Its program in the unpacked packages.
    const fn program(self) -> &'static str {
        match self {
            Self::Postgres => "usr/lib/postgresql/15/bin/postgres",
            Self::MariaDb => "usr/sbin/mariadbd",
        }
    }
}

/// What of a committed transaction is left when the server is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Everything, as shipped.
    Full,
    /// Perhaps not the last ones. Commits wait for no disk: for tests that kill nothing.
    Relaxed,
}

/// What a server shows and asks for when it listens on a TCP port too: PEM texts.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Where it listens, on the port of its kind; from [`own_address`].
    pub address: Ipv4Addr,
    /// Its certificate.
    pub certificate: String,
    /// The certificate's key.
    pub key: String,
    /// Who issued the certificate that a client must show.
    pub client_ca: String,
}

/// An address of the loopback interface that no other server of a test has.
pub fn own_address() -> Ipv4Addr {
    let [.., third, last] = std::process::id().to_be_bytes();
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    // 0, and the first network of all, are others'.
    let second = u8::try_from(number % 200).unwrap_or_default() + 50;
    Ipv4Addr::new(127, second, third, last.clamp(1, 254))
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    engine: Engine,
    durability: Durability,
    tls: Option<Tls>,
    folder: PathBuf,
    tree: PathBuf,
    running: Option<Running>,
    _lock: Flock<File>,
}

#[derive(Debug)]
struct Running {
    pid: Pid,
    /// Closed: the process is ended.
    end: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Server {
    /// Makes a server with one empty database, [`DATABASE`], and waits until it answers.
    ///
    /// # Panics
    /// Without root, without the programs, or when it does not get ready.
    pub fn start(engine: Engine, durability: Durability) -> Self {
        Self::new(engine, durability, None)
    }

    /// As [`Self::start`]; on a TCP port, with TLS and nothing else, it listens too.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn with_tls(engine: Engine, durability: Durability, tls: Tls) -> Self {
        Self::new(engine, durability, Some(tls))
    }

    fn new(engine: Engine, durability: Durability, tls: Option<Tls>) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "tests with a database server need root: the server gets a user and a mount namespace of its own"
        );
        let making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let name = format!(
            "{PREFIX}{}-{}-{number}",
            engine.as_str(),
            std::process::id()
        );
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let lock = lock(&folder).expect("a new folder is not locked");
        drop(making);
        for sub in ["data", "tree"] {
            std::fs::create_dir(folder.join(sub)).expect("a folder in a new folder");
        }
        for path in [&folder, &folder.join("data")] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("give it away");
        }
        let mut server = Self {
            engine,
            durability,
            tls: None,
            tree: tree(engine),
            folder,
            running: None,
            _lock: lock,
        };
        server.make();
        if let Some(tls) = tls {
            server.show(tls);
        }
        server.up();
        server
    }

    /// What it shows and asks for from its next start on.
    ///
    /// # Panics
    /// When its folder cannot be written.
    pub fn show(&mut self, tls: Tls) {
        for (name, text) in [
            ("tls.pem", &tls.certificate),
            ("tls.key", &tls.key),
            ("tls.ca", &tls.client_ca),
        ] {
            use std::os::unix::fs::PermissionsExt as _;
            let path = self.folder.join(name);
            std::fs::write(&path, text).expect("a file of the server");
            let own = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, own).expect("a file of the server");
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).expect("give it away");
        }
        match self.engine {
            Engine::Postgres => {
                let path = self.folder.join("data/pg_hba.conf");
                let text =
                    "local all all trust\nhostssl all all 127.0.0.0/8 trust clientcert=verify-ca\n";
                std::fs::write(path, text).expect("pg_hba.conf");
            }
            Engine::MariaDb => {
                let text = format!(
                    "CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE X509;\n\
                     GRANT ALL ON *.* TO '{USER}'@'%';\n"
                );
                std::fs::write(self.folder.join("init.sql"), text).expect("init.sql");
            }
        }
        self.tls = Some(tls);
    }

    /// Like [`Self::url`], by TCP and with these parameters.
    ///
    /// # Panics
    /// When it does not listen there.
    pub fn tcp_url(&self, database: &str, parameters: &str) -> String {
        let scheme = match self.engine {
            Engine::Postgres => "postgres",
            Engine::MariaDb => "mysql",
        };
        let address = self.tls.as_ref().expect("a server with TLS").address;
        format!("{scheme}://{USER}:{PASSWORD}@{address}/{database}?{parameters}")
    }

    /// `postgres://…` or `mysql://…` of one of its databases.
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.display();
        match self.engine {
            Engine::Postgres => {
                format!("postgres://{USER}@localhost/{database}?host={folder}")
            }
            Engine::MariaDb => format!("mysql://root@localhost/{database}?socket={folder}/socket"),
        }
    }

    /// Which it is.
    pub const fn engine(&self) -> Engine {
        self.engine
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Kills all its processes and waits until they are gone.
    ///
    /// # Panics
    /// When one of them stays.
    pub fn kill(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        let children = children(running.pid);
        // PostgreSQL's processes end with their parent, at their own pace: a new server must not meet them.
        for pid in std::iter::once(running.pid).chain(children.iter().copied()) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        drop(running.end);
        running.thread.join().expect("the server's thread");
        for pid in children {
            wait::until("a process of the database server is gone", || {
                is_gone(pid).then_some(())
            });
        }
    }

    /// Starts it (again) and waits until it answers.
    ///
    /// # Panics
    /// When it ends before.
    pub fn up(&mut self) {
        let socket = self.socket();
        let _ = std::fs::remove_file(&socket);
        let data = self.folder.join("data");
        let arguments = match self.engine {
            Engine::Postgres => {
                let mut arguments = vec![
                    "-D".to_owned(),
                    data.display().to_string(),
                    "-k".to_owned(),
                    self.folder.display().to_string(),
                ];
                // The log is written every ten seconds.
                let relaxed = [
                    "fsync=off",
                    "synchronous_commit=off",
                    "wal_writer_delay=10s",
                    "full_page_writes=off",
                ];
                let settings = ["dynamic_shared_memory_type=mmap", "max_connections=300"];
                let relaxed = relaxed
                    .iter()
                    .filter(|_| self.durability == Durability::Relaxed);
                let fixed = settings.iter().chain(relaxed);
                let mut settings: Vec<String> = fixed.map(|text| (*text).to_owned()).collect();
                match &self.tls {
                    None => settings.push("listen_addresses=".to_owned()),
                    Some(tls) => {
                        settings.push(format!("listen_addresses={}", tls.address));
                        settings.push("ssl=on".to_owned());
                        for (name, file) in [("cert", "pem"), ("key", "key"), ("ca", "ca")] {
                            let file = self.folder.join(format!("tls.{file}"));
                            settings.push(format!("ssl_{name}_file={}", file.display()));
                        }
                    }
                }
                for setting in settings {
                    arguments.extend(["-c".to_owned(), setting]);
                }
                arguments
            }
            Engine::MariaDb => {
                let mut arguments = self.mariadb();
                match &self.tls {
                    None => arguments.push("--skip-networking".to_owned()),
                    Some(tls) => {
                        arguments.push(format!("--bind-address={}", tls.address));
                        arguments.push("--skip-name-resolve".to_owned());
                        for (name, file) in [
                            ("ssl-cert", "tls.pem"),
                            ("ssl-key", "tls.key"),
                            ("ssl-ca", "tls.ca"),
                            ("init-file", "init.sql"),
                        ] {
                            let file = self.folder.join(file);
                            arguments.push(format!("--{name}={}", file.display()));
                        }
                    }
                }
                arguments.extend([
                    "--max-connections=400".to_owned(),
                    format!("--socket={}", socket.display()),
                    format!("--pid-file={}", self.folder.join("pid").display()),
                ]);
                if self.durability == Durability::Relaxed {
                    arguments.push("--innodb-flush-log-at-trx-commit=0".to_owned());
                    arguments.push("--innodb-flush-method=nosync".to_owned());
                }
                arguments
            }
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .expect("log");
        let mut command = self.command(self.engine.program());
        command
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log);
        let (end, ended) = mpsc::channel::<()>();
        let (started, pid) = mpsc::channel();
        // The kernel ends the server with the *thread* that started it.
        let thread = std::thread::spawn(move || {
            let mut child = command.spawn().expect("start the database server");
            let _ = started.send(child.id());
            let _ = ended.recv();
            let _ = child.kill();
            let _ = child.wait();
        });
        let pid = pid.recv().expect("the server's thread");
        let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
        self.running = Some(Running { pid, end, thread });
        wait::until("the database server answers", || {
            assert!(!is_gone(pid), "the database server ended:\n{}", self.log());
            self.answers().then_some(())
        });
    }

    /// Stops all its processes for a while, without ending them.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&self, paused: bool) {
        let running = self.running.as_ref().expect("it runs");
        let signal = if paused {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        };
        for pid in std::iter::once(running.pid).chain(children(running.pid)) {
            let _ = kill(pid, signal);
        }
    }

    fn socket(&self) -> PathBuf {
        match self.engine {
            Engine::Postgres => self.folder.join(".s.PGSQL.5432"),
            Engine::MariaDb => self.folder.join("socket"),
        }
    }

    /// PostgreSQL listens before it takes connections: it is asked, and must not answer "starting up".
    fn answers(&self) -> bool {
        use std::io::{Read as _, Write as _};
        let Ok(mut stream) = UnixStream::connect(self.socket()) else {
            return false;
        };
        let mut first = [0];
        if self.engine == Engine::Postgres {
            let mut parameters = Vec::new();
            for text in ["user", USER, "database", "postgres", ""] {
                parameters.extend(text.as_bytes());
                parameters.push(0);
            }
            let length = u32::try_from(parameters.len() + 8).unwrap_or_default();
            let mut message = length.to_be_bytes().to_vec();
            // Protocol 3.0.
            message.extend(196_608_u32.to_be_bytes());
            message.extend(parameters);
            let answered = stream
                .write_all(&message)
                .and_then(|()| stream.read_exact(&mut first));
            return answered.is_ok() && first == *b"R";
        }
        // A greeting's length is never 0.
        stream.read_exact(&mut first).is_ok() && first != [0]
    }

    /// Fills the data folder.
    fn make(&self) {
        let data = self.folder.join("data");
        match self.engine {
            Engine::Postgres => {
                let mut command = self.command("usr/lib/postgresql/15/bin/initdb");
                command
                    .arg("-D")
                    .arg(&data)
                    .args(["--no-sync", "-A", "trust", "-U", USER])
                    .args(["--locale=C", "--encoding=UTF8"]);
                run(command, "");
                let mut single = self.command(self.engine.program());
                single.args(["--single", "-D"]).arg(&data).arg("postgres");
                run(single, &format!("CREATE DATABASE {DATABASE}\n"));
            }
            Engine::MariaDb => {
                // One statement a line, except in the shipped files.
                let mut sql = "create database mysql;\nuse mysql;\n".to_owned();
                for file in ["tables", "tables_data"] {
                    let file = self
                        .tree
                        .join(format!("usr/share/mysql/mysql_system_{file}.sql"));
                    sql.push_str(&std::fs::read_to_string(&file).expect("the server's own tables"));
                }
                let _ = writeln!(sql, "create database {DATABASE};");
                let mut command = self.command(self.engine.program());
                command.args(self.mariadb()).arg("--bootstrap");
                run(command, &sql);
            }
        }
    }

    fn mariadb(&self) -> Vec<String> {
        let data = self.folder.join("data");
        let share = self.folder.join("tree/usr/share/mysql");
        vec![
            "--no-defaults".to_owned(),
            format!("--datadir={}", data.display()),
            // A server that starts removes every `#sql*` of its folder of temporary files: it must not be another's.
            format!("--tmpdir={}", self.folder.display()),
            format!("--lc-messages-dir={}", share.display()),
            "--innodb-log-file-size=16M".to_owned(),
        ]
    }

    /// A program of the server, in namespaces of its own: the packages may be below a folder that only root may
    /// enter, so they are mounted where `nobody` can; shared memory goes with the last process.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        let tree = self.folder.join("tree");
        let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        command
            .args(["--mount", "--ipc", "--", "sh", "-c"])
            .arg(
                "mount --bind \"$1\" \"$2\" && shift 2 && exec setpriv --reuid=65534 --regid=65534 \
                 --clear-groups --no-new-privs --pdeathsig KILL -- \"$@\"",
            )
            .arg("sh")
            .arg(&self.tree)
            .arg(&tree)
            .arg(tree.join(program))
            .current_dir(&self.folder)
            .env("LC_ALL", "C");
        if self.tree != Path::new("/") {
            command.env("LD_LIBRARY_PATH", tree.join(libraries));
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Where the program's package is unpacked, or `/`.
fn tree(engine: Engine) -> PathBuf {
    let fetched = crate::peers().join("tree");
    let trees = [fetched.clone(), PathBuf::from("/")];
    trees
        .into_iter()
        .find(|tree| tree.join(engine.program()).exists())
        .unwrap_or_else(|| {
            panic!(
                "no {}, neither here nor below {}: run `cargo xtask setup`",
                engine.program(),
                fetched.display()
            )
        })
}

fn run(mut command: Command, input: &str) {
    use std::io::Write as _;
    let mut child: Child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start a program of the database server");
    let mut stdin = child.stdin.take().expect("piped");
    let text = input.to_owned();
    // What it says would fill its pipe while it is fed.
    let feeding = std::thread::spawn(move || drop(stdin.write_all(text.as_bytes())));
    let output = child.wait_with_output().expect("wait for it");
    let _ = feeding.join();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn children(pid: Pid) -> Vec<Pid> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = text.unwrap_or_default();
    let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.map(Pid::from_raw).collect()
}

/// Whether it ended; one that nobody has waited for yet counts as gone.
fn is_gone(pid: Pid) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

/// Removes what killed runs left.
fn sweep() {
    let base = std::env::temp_dir();
    for entry in std::fs::read_dir(&base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX));
        if ours && lock(&entry.path()).is_some() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The folder's lock, unless its owner lives.
fn lock(folder: &Path) -> Option<Flock<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))
        .ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}
