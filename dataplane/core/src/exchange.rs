//! A request and its response without the protocol that carries them.
//!
//! Routing, policies, header work, retries and logs see these types only; HTTP/1 is one codec of
//! them, HTTP/2 will be another.

use krater_model::PoolId;
use std::net::{IpAddr, SocketAddr};

/// A request head.
pub trait RequestView {
    /// Method token.
    fn method(&self) -> &[u8];
    /// Host, perhaps with port; empty when the client named none.
    fn host(&self) -> &[u8];
    /// Path without query, `/` at least.
    fn path(&self) -> &[u8];
    /// Path with query.
    fn path_and_query(&self) -> &[u8];
    /// Whether `test` holds for the value of any field called `name` (any case).
    fn any_value(&self, name: &[u8], test: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

/// What is known about the client's side of a connection.
#[derive(Debug, Clone, Copy)]
pub struct ClientInfo<'a> {
    /// Address of the client.
    pub peer: IpAddr,
    /// Address that it connected to.
    pub local: SocketAddr,
    /// Whether it speaks TLS to us.
    pub tls: bool,
    /// Its certificate.
    pub certificate: Option<&'a ClientCertificate>,
}

/// A client certificate, as texts ready for headers and rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientCertificate {
    /// 0 when it was verified.
    pub verify: u32,
    /// Distinguished name, `/C=…/O=…/CN=…` as HAProxy prints it.
    pub subject: String,
    /// Its fields by short name (`CN`, `O`, …), in order.
    pub subject_fields: Vec<(String, String)>,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// SHA-1 of the DER text, upper-case hex.
    pub sha1: String,
    /// Start of validity, `YYMMDDhhmmss[Z]`.
    pub not_before: String,
    /// End of validity.
    pub not_after: String,
}

impl ClientCertificate {
    /// The first common name.
    pub fn common_name(&self) -> &str {
        self.subject_fields
            .iter()
            .find(|(key, _)| key == "CN")
            .map_or("", |(_, value)| value)
    }
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<'a> {
    /// No policy takes it.
    Default,
    /// 403.
    Reject,
    /// To this pool.
    Pool(PoolId),
    /// Answer with a redirect.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        code: u16,
        /// Location, or its beginning.
        location: &'a str,
        /// Whether path and query are appended.
        append_path: bool,
    },
}
