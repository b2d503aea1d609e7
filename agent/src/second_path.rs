//! The second network of vrrp's liveness sessions: a socket made in our namespace, handed over on `vrrp-track.sock`.
//!
//! vrrp lives in the VIP namespace, the management network is in the agent's. A socket stays in the namespace that it
//! was made in, whoever holds it. Sessions only shorten a takeover: what fails here is logged and shown by vrrp's
//! status, and nothing waits for it.

use crate::track;
use krater_model::SCHEMA;
use krater_model::control::{HandSecondPath, VrrpConfig};
use krater_model::wire::liveness::PORT;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// The socket, kept so that the next vrrp gets the same.
#[derive(Debug, Default)]
pub(crate) struct SecondPath(Mutex<Option<(IpAddr, OwnedFd)>>);

impl SecondPath {
    /// Hands vrrp what this configuration needs; without need it is closed here, and vrrp closes it too.
    pub(crate) fn supply(&self, config: &VrrpConfig) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = config.routers.iter().filter_map(|router| {
            let liveness = router.liveness.as_ref()?;
            liveness.second_path.as_ref()
        });
        // All have the same, or vrrp refuses the configuration.
        let Some(source) = paths.map(|path| path.source).next() else {
            *kept = None;
            return;
        };
        if kept.as_ref().is_none_or(|(bound, _)| *bound != source) {
            match bound(source) {
                Ok(socket) => *kept = Some((source, socket)),
                Err(error) => {
                    tracing::warn!(%source, %error, "no second path of liveness sessions");
                    return;
                }
            }
        }
        if let Some((source, socket)) = &*kept
            && let Err(error) = hand_over(*source, socket)
        {
            tracing::warn!(%source, %error, "second path of liveness sessions not handed over");
        }
    }
}

fn bound(source: IpAddr) -> io::Result<OwnedFd> {
    let address = SocketAddr::new(source, PORT);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    // A vrrp that is adopted holds the last one until this one reaches it.
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn hand_over(source: IpAddr, path: &OwnedFd) -> io::Result<()> {
    let frame = HandSecondPath {
        schema: SCHEMA,
        second_path: source,
    };
    track::send(&frame, &[path.as_raw_fd()])
}
