//! Connections of trusted front ends: the PROXY protocol header that each begins with.

use krater_dataplane_core::proxy_protocol::{Addresses, Header, HeaderFault, MAX_HEADER, parse};
use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// A header is the first that a front end sends; it has nothing to wait for.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why a front end's connection ends before it began.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrontError {
    /// It does not begin with a header.
    #[error(transparent)]
    Header(#[from] HeaderFault),
    /// It ended or failed.
    #[error("connection of a front end")]
    Io(#[from] io::Error),
    /// The header did not come in time.
    #[error("no PROXY header in {DEADLINE:?}")]
    Late,
}

/// Reads the header, and not a byte of what follows it.
pub(crate) async fn read(tcp: &mut TcpStream) -> Result<Option<Addresses>, FrontError> {
    let header = async {
        let mut bytes = Vec::with_capacity(128);
        loop {
            match parse(&bytes)? {
                Header::Complete(addresses) => return Ok(addresses),
                Header::Partial(more) => {
                    let have = bytes.len();
                    bytes.resize(have + more.min(MAX_HEADER), 0);
                    tcp.read_exact(bytes.get_mut(have..).unwrap_or_default())
                        .await?;
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, header)
        .await
        .map_err(|_| FrontError::Late)?
}
