//! What the process does before its first thread: namespace, limits, privileges.

mod sys;

use crate::listen;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Scrapers that wait to be accepted.
const METRICS_BACKLOG: i32 = 128;

/// A step of starting that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct StartError {
    what: String,
    #[source]
    source: io::Error,
}

fn at<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> StartError {
    move |source| StartError {
        what: what.into(),
        source: source.into(),
    }
}

/// Enters a pinned network namespace. All threads must be yet to start.
pub(crate) fn enter_netns(path: &Path) -> Result<(), StartError> {
    let what = || format!("enter network namespace {}", path.display());
    let file = std::fs::File::open(path).map_err(at(what()))?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).map_err(at(what()))
}

/// Binds the control socket, readable and writable for its owner alone. A socket file that nobody
/// listens on is left over from a process that died, and is replaced.
pub(crate) fn bind_control(path: &Path) -> Result<UnixListener, StartError> {
    let what = || format!("bind control socket {}", path.display());
    if UnixStream::connect(path).is_ok() {
        let busy = io::Error::new(io::ErrorKind::AddrInUse, "a data plane already serves it");
        return Err(at(what())(busy));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(what())(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(at(what()))?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(at(what()))?;
    listener.set_nonblocking(true).map_err(at(what()))?;
    Ok(listener)
}

/// Listens where metrics are read. Loopback only: there is no password, and they name what is served.
pub(crate) fn bind_metrics(address: SocketAddr) -> Result<TcpListener, StartError> {
    let what = || format!("serve metrics on {address}");
    if !address.ip().is_loopback() {
        let why = "not a loopback address: use 127.0.0.1 or [::1]";
        let error = io::Error::new(io::ErrorKind::InvalidInput, why);
        return Err(at(what())(error));
    }
    let open = || {
        // As the listeners: a successor serves beside us until we drain.
        let socket = listen::shared_socket(address)?;
        socket.bind(&address.into())?;
        socket.listen(METRICS_BACKLOG)?;
        Ok::<_, io::Error>(socket.into())
    };
    open().map_err(at(what()))
}

/// Takes over the descriptor that the parent passed for progress records.
pub(crate) fn progress(fd: RawFd) -> Result<OwnedFd, StartError> {
    sys::inherited(fd).map_err(at(format!("use --progress-fd {fd}")))
}

/// As many open files as the hard limit allows.
pub(crate) fn raise_file_limit() -> Result<(), StartError> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let what = "raise the limit of open files";
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(at(what))?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(at(what))
}

/// From root to `uid` (and the gid of the same number) with CAP_NET_BIND_SERVICE alone, for ever.
pub(crate) fn drop_privileges(uid: u32) -> Result<(), StartError> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let failed = |what: &'static str| move |error: nix::Error| at(what)(error);
    sys::bound_capabilities().map_err(at("limit capabilities"))?;
    nix::sys::prctl::set_keepcaps(true).map_err(failed("keep capabilities"))?;
    setgroups(&[]).map_err(failed("drop groups"))?;
    let (gid, uid) = (Gid::from_raw(uid), Uid::from_raw(uid));
    setresgid(gid, gid, gid).map_err(failed("change the group"))?;
    setresuid(uid, uid, uid).map_err(failed("change the user"))?;
    sys::keep_only_bind_service().map_err(at("drop capabilities"))?;
    nix::sys::prctl::set_no_new_privs().map_err(failed("set no_new_privs"))
}
