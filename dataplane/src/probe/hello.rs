//! TLS-HELLO probes: a real ClientHello; the member is up when it answers with a handshake message.

use super::Failure;
use crate::io::Conn;
use crate::tls;
use std::io;
use std::net::IpAddr;

/// Content type of a handshake record (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
/// Content type of an alert.
const ALERT: u8 = 21;
/// Record header and the first byte of the message in it.
const HEADER: usize = 6;
/// Handshake type of a ServerHello (RFC 8446 section 4).
const SERVER_HELLO: u8 = 2;

pub(super) async fn probe(mut conn: Conn, address: IpAddr) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::of(&error);
    let own = |error: rustls::Error| Failure::Own(error.to_string());
    let config = tls::client::unverified().map_err(own)?;
    let name = tls::client::server_name(None, address);
    let mut session = rustls::ClientConnection::new(config, name).map_err(own)?;
    let mut hello = Vec::new();
    session.write_tls(&mut hello).map_err(failed)?;
    conn.write_all(&hello).await.map_err(failed)?;
    let mut answer = [0; HEADER];
    let mut filled = 0;
    while filled < HEADER {
        match conn.read(&mut answer[filled..]).await.map_err(failed)? {
            0 => break,
            n => filled += n,
        }
    }
    match answer {
        [HANDSHAKE, 3, _, _, _, SERVER_HELLO] if filled == HEADER => {
            Ok("ServerHello received".into())
        }
        [ALERT, 3, ..] => Err(Failure::Member("TLS alert instead of ServerHello".into())),
        _ if filled == 0 => Err(Failure::Member(
            "connection closed without an answer".into(),
        )),
        _ => Err(Failure::Member("not a TLS answer".into())),
    }
}
