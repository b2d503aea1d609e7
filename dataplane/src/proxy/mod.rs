//! One driver per protocol. Each takes an accepted connection to its end.

mod budget;
pub mod http1;
pub mod tcp;

use crate::io::Conn;
use budget::budget;
use krater_dataplane_core::proxy_protocol;
use krater_model::state::PoolProtocol;

/// Members that are tried for a connection or request: HAProxy's `retries 3` with `option redispatch`.
pub const TRIES: usize = 4;

/// Tells a member who its client is, if its pool speaks the PROXY protocol. Must be the first bytes.
pub async fn announce(
    client: &Conn,
    common_name: Option<&str>,
    member: &mut Conn,
    protocol: PoolProtocol,
) -> std::io::Result<()> {
    let header = match protocol {
        PoolProtocol::Proxy => proxy_protocol::v1(client.peer(), client.local()),
        PoolProtocol::Proxyv2 => {
            let tls = client.tls().map(|tls| proxy_protocol::Tls {
                version: tls.version,
                has_certificate: tls.client_certificate.is_some(),
                common_name,
            });
            proxy_protocol::v2(client.peer(), client.local(), tls)
        }
        PoolProtocol::Tcp | PoolProtocol::Http | PoolProtocol::Https => return Ok(()),
    };
    member.write_all(&header).await
}
