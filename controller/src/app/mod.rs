//! Use cases and permissions; the only caller of `db` on behalf of the API.
//!
//! Each write is one transaction: it checks, moves the load balancer from ACTIVE to PENDING_…
//! (which is the lock), writes the rows, and enqueues the flow that makes it true. Nothing of it
//! is visible when a part fails.

use crate::auth::Auth;
use crate::config::{Drivers, Topology};
use crate::db::Db;
use crate::secrets::barbican::Barbican;
use crate::secrets::vault::Vault;
use krater_model::Secret;
use std::sync::Arc;
use std::time::Duration;

pub mod amphora;
pub mod catalog;
pub mod error;
pub mod flavor;
pub mod flavor_data;
pub mod flavor_profile;
pub mod health_monitor;
pub mod l7policy;
pub mod l7rule;
pub mod listener;
pub mod load_balancer;
pub mod lock;
pub mod member;
pub mod noop;
pub mod not_supported;
pub mod policy;
pub mod pool;
pub mod profile_data;
pub mod quota;
pub mod secret;
pub mod shown;
pub mod tls;
pub mod vip;
pub mod zone;
pub mod zone_data;
pub mod zone_profile;

pub use error::Error;

/// Project of objects whose creator named none. Without authentication (`noauth`) the unmodified
/// client sends no project at all.
pub const DEFAULT_PROJECT: &str = "default";

/// How long a request may wait as shipped: longer than a wait for a row's lock (10 s), shorter than clients wait (60 s).
const DEADLINE: Duration = Duration::from_secs(20);

/// What handlers need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The database.
    pub db: Db,
    /// Topology of new load balancers.
    pub topology: Topology,
    /// Seals secrets.
    pub vault: Vault,
    /// Whose networks there are.
    pub drivers: Drivers,
    /// Who may use the API; none: everybody, without authentication.
    pub auth: Option<Arc<Auth>>,
    /// The key manager that has the secrets; none: we do.
    pub barbican: Option<Arc<Barbican>>,
    /// Whether the API is reached by HTTPS.
    pub encrypted: bool,
    /// How long a request may wait for its body, and then for the database.
    pub deadline: Duration,
}

impl AppState {
    /// The state of the API.
    pub const fn new(db: Db, topology: Topology, vault: Vault) -> Self {
        let drivers = Drivers::Netns;
        Self {
            db,
            topology,
            vault,
            drivers,
            auth: None,
            barbican: None,
            encrypted: false,
            deadline: DEADLINE,
        }
    }

    /// With authentication.
    #[must_use]
    pub fn with_auth(self, auth: Option<Arc<Auth>>) -> Self {
        Self { auth, ..self }
    }

    /// With secrets in another key manager.
    #[must_use]
    pub fn with_barbican(self, barbican: Option<Arc<Barbican>>) -> Self {
        Self { barbican, ..self }
    }

    /// Reached by HTTPS, or not.
    #[must_use]
    pub fn with_encryption(self, encrypted: bool) -> Self {
        Self { encrypted, ..self }
    }

    /// With another deadline than the default.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// With other drivers than `netns`.
    #[must_use]
    pub fn with_drivers(self, drivers: Drivers) -> Self {
        Self { drivers, ..self }
    }
}

impl AppState {
    /// The only project whose secrets `caller` may refer to; none: any, without authentication. Nobody's role opens
    /// those of others: who may use them would also learn the key.
    pub fn reader<'a>(&self, caller: &'a Caller) -> Option<&'a str> {
        self.auth.as_ref()?;
        Some(caller.project_id.as_deref().unwrap_or_default())
    }
}

/// Who asks, and under which request id.
#[derive(Debug, Clone)]
pub struct Caller {
    /// `req-<uuid>`
    pub request_id: String,
    /// From `X-Project-Id`; without authentication it is believed, with it it is the token's.
    pub project_id: Option<String>,
    /// What it showed: another key manager is shown it too.
    pub token: Option<Secret>,
    /// The only project whose quotas it sees; none: all.
    pub scope: Option<String>,
}

impl Caller {
    /// The project of a new load balancer.
    pub fn project(&self, from_body: Option<String>) -> String {
        from_body
            .filter(|project| !project.is_empty())
            .or_else(|| self.project_id.clone())
            .unwrap_or_else(|| DEFAULT_PROJECT.to_owned())
    }
}
