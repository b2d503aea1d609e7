//! The last good desired state, on disk.
//!
//! Two phases, so that a full disk is found out before anything changes: [`Ledger::prepare`] writes and
//! syncs a new file beside the old one; [`Prepared::commit`] puts it in place. Whatever happens in between,
//! the old file is whole. Secrets are sealed, or left out when there is no key; a state without its
//! secrets comes back with [`Restored::complete`] false.

pub(crate) mod seal;

pub(crate) use seal::SealKey;

use krater_model::id::{AmphoraId, CertificateId};
use krater_model::state::{Certificate, DesiredState};
use krater_model::{SCHEMA, Secret};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const FILE: &str = "ledger.json";
const NEW: &str = "ledger.json.new";
const BAD: &str = "ledger.json.unreadable";

/// The ledger of one amphora.
#[derive(Debug)]
pub(crate) struct Ledger {
    dir: PathBuf,
    amphora: AmphoraId,
    key: Option<SealKey>,
}

/// What the ledger could not do, with the path, so that it says which disk.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path}: free or repair the disk that holds it")]
pub(crate) struct LedgerError {
    what: &'static str,
    path: String,
    #[source]
    source: io::Error,
}

/// A state as it was put away.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) state: DesiredState,
    /// Of the whole document, secrets included.
    pub(crate) digest: String,
    /// False when secrets are missing.
    pub(crate) complete: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    schema: u32,
    digest: String,
    /// Without certificates, and with an empty heartbeat key and empty passwords.
    state: DesiredState,
    /// Hex of the sealed [`Secrets`].
    #[serde(default)]
    sealed: Option<String>,
}

#[derive(Serialize, Deserialize, Default)]
struct Secrets {
    certificates: Vec<(CertificateId, Secret)>,
    heartbeat_key: Option<Secret>,
    /// Of the virtual routers that have one, in their order.
    #[serde(default)]
    vrrp_passwords: Vec<Secret>,
    /// Of virtual routers with a liveness session, in their order.
    #[serde(default)]
    liveness_keys: Vec<Secret>,
}

/// SHA-256 of a document in its canonical form, hex.
pub(crate) fn digest(state: &DesiredState) -> Result<String, serde_json::Error> {
    let text = serde_json::to_vec(state)?;
    let id = CertificateId::of(&text);
    Ok(id.as_str().to_owned())
}

impl Ledger {
    pub(crate) fn new(dir: &Path, amphora: AmphoraId, key: Option<SealKey>) -> Self {
        Self {
            dir: dir.to_owned(),
            amphora,
            key,
        }
    }

    /// Whose ledger it is.
    pub(crate) const fn amphora(&self) -> AmphoraId {
        self.amphora
    }

    /// Writes `state` beside the one in force.
    pub(crate) fn prepare(
        &self,
        state: &DesiredState,
        digest: &str,
    ) -> Result<Prepared, LedgerError> {
        let path = self.dir.join(NEW);
        let text = self.record(state, digest).map_err(at("write", &path))?;
        let prepared = Prepared {
            dir: self.dir.clone(),
            pending: true,
        };
        write_synced(&path, &text).map_err(at("write", &path))?;
        Ok(prepared)
    }

    /// The state that was in force when the last agent ended. A file that cannot be understood is put
    /// aside: the controller sends the state again.
    pub(crate) fn restore(&self) -> Result<Option<Restored>, LedgerError> {
        let path = self.dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("read", &path)(error)),
        };
        match self.read(&text) {
            Ok(restored) => Ok(Some(restored)),
            Err(why) => {
                let aside = self.dir.join(BAD);
                tracing::error!(path = %path.display(), aside = %aside.display(), why,
                    "ledger not understood; put aside, waiting for the controller");
                fs::rename(&path, &aside).map_err(at("rename", &path))?;
                Ok(None)
            }
        }
    }

    fn record(&self, state: &DesiredState, digest: &str) -> io::Result<Vec<u8>> {
        let mut bare = state.clone();
        let certificates = std::mem::take(&mut bare.certificates);
        let mut secrets = Secrets {
            certificates: certificates.into_iter().map(|c| (c.id, c.pem)).collect(),
            heartbeat_key: None,
            vrrp_passwords: Vec::new(),
            liveness_keys: Vec::new(),
        };
        for liveness in bare.vrrp.iter_mut().filter_map(|r| r.liveness.as_mut()) {
            let key = std::mem::replace(&mut liveness.key, Secret::new(""));
            secrets.liveness_keys.push(key);
        }
        for password in bare.vrrp.iter_mut().filter_map(|r| r.password.as_mut()) {
            let password = std::mem::replace(password, Secret::new(""));
            secrets.vrrp_passwords.push(password);
        }
        if let Some(heartbeat) = &mut bare.heartbeat {
            let key = std::mem::replace(&mut heartbeat.key, Secret::new(""));
            secrets.heartbeat_key = Some(key);
        }
        let sealed = match &self.key {
            None => None,
            Some(key) => {
                let plain = zeroize::Zeroizing::new(serde_json::to_vec(&secrets)?);
                Some(seal::seal(key, &plain, self.context(digest).as_bytes())?)
            }
        };
        let record = Record {
            schema: SCHEMA,
            digest: digest.to_owned(),
            state: bare,
            sealed,
        };
        Ok(serde_json::to_vec(&record)?)
    }

    fn read(&self, text: &[u8]) -> Result<Restored, String> {
        let record: Record = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if record.schema > SCHEMA {
            return Err(format!("schema {} is newer than {SCHEMA}", record.schema));
        }
        if record.state.amphora_id != self.amphora {
            return Err(format!("it is of amphora {}", record.state.amphora_id));
        }
        let mut restored = Restored {
            state: record.state,
            digest: record.digest,
            complete: false,
        };
        let Some(sealed) = record.sealed else {
            let nothing_hidden =
                digest(&restored.state).is_ok_and(|digest| digest == restored.digest);
            restored.complete = nothing_hidden;
            return Ok(restored);
        };
        let context = self.context(&restored.digest);
        let Some(plain) = self
            .key
            .as_ref()
            .and_then(|k| seal::open(k, &sealed, context.as_bytes()))
        else {
            tracing::warn!("the seal key is missing or another one: secrets are not restored");
            return Ok(restored);
        };
        let secrets: Secrets = serde_json::from_slice(&plain).map_err(|e| e.to_string())?;
        restored.state.certificates = secrets
            .certificates
            .into_iter()
            .map(|(id, pem)| Certificate { id, pem })
            .collect();
        if let (Some(heartbeat), Some(key)) = (&mut restored.state.heartbeat, secrets.heartbeat_key)
        {
            heartbeat.key = key;
        }
        let places = restored.state.vrrp.iter_mut();
        let places = places.filter_map(|router| router.password.as_mut());
        for (place, password) in places.zip(secrets.vrrp_passwords) {
            *place = password;
        }
        let places = restored.state.vrrp.iter_mut();
        let places = places.filter_map(|router| router.liveness.as_mut());
        for (place, key) in places.zip(secrets.liveness_keys) {
            place.key = key;
        }
        restored.complete = true;
        Ok(restored)
    }

    /// Binds sealed secrets to their document.
    fn context(&self, digest: &str) -> String {
        format!("krater ledger {} {digest}", self.amphora)
    }
}

/// A state that is on disk, but not in force. Dropped without [`commit`](Self::commit) it is removed.
#[derive(Debug)]
pub(crate) struct Prepared {
    dir: PathBuf,
    pending: bool,
}

impl Prepared {
    /// Puts the new state in the place of the old one.
    pub(crate) fn commit(mut self) -> Result<(), LedgerError> {
        let path = self.dir.join(FILE);
        fs::rename(self.dir.join(NEW), &path).map_err(at("rename", &path))?;
        self.pending = false;
        sync_dir(&self.dir).map_err(at("sync", &self.dir))
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.pending {
            let _ = fs::remove_file(self.dir.join(NEW));
        }
    }
}

/// Replaces a file: whatever happens, the old or the new one is there, whole and 0600.
pub(crate) fn replace_file(dir: &Path, name: &str, content: &[u8]) -> Result<(), LedgerError> {
    let (new, path) = (dir.join(format!("{name}.new")), dir.join(name));
    write_synced(&new, content).map_err(at("write", &new))?;
    fs::rename(&new, &path).map_err(at("rename", &path))?;
    sync_dir(dir).map_err(at("sync", dir))
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.display().to_string();
    move |source| LedgerError { what, path, source }
}

#[cfg(test)]
mod tests;
