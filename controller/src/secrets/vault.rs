//! Sealing of secrets in the database, under a key that is a file of the state folder (`secrets.key`, mode
//! 0600): who has only the database, or a backup of it, has no secret.

use crate::db::Db;
use crate::db::query::meta;
use crate::files;
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use krater_model::Secret;
use krater_model::seal::SealKey;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Name of the key's file in the state folder.
pub const KEY_FILE: &str = "secrets.key";
/// A text sealed under the database's key, in its facts: proves that the file fits the database.
const PROOF: &str = "secrets_key_proof";

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault(Arc<SealKey>);

impl Vault {
    /// Reads the key, or makes it when neither the file nor anything sealed exists.
    pub async fn open(folder: &Path, db: &Db) -> anyhow::Result<Self> {
        let path = folder.join(KEY_FILE);
        let proof = meta::read(db.read(), PROOF).await?;
        let vault = match read(&path) {
            Ok(text) => {
                Self::parse(&Zeroizing::new(text)).with_context(|| path.display().to_string())?
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| path.display().to_string());
            }
            Err(_) if proof.is_some() => bail!(
                "{}: the key of the stored secrets is not there; copy it from another controller of this \
                 database, or restore it from the backup of the state folder: without it certificates \
                 cannot be given to amphorae",
                path.display()
            ),
            Err(_) => {
                let mut bytes = Zeroizing::new([0_u8; 32]);
                aws_lc_rs::rand::fill(bytes.as_mut())
                    .map_err(|_| anyhow::anyhow!("no randomness"))?;
                let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
                let text: Zeroizing<String> = Zeroizing::new(digits.collect());
                files::write_private(&path, text.as_bytes())?;
                Self::parse(&text)?
            }
        };
        let proof = match proof {
            Some(proof) => proof,
            None => {
                let proof = vault.seal(b"krater", PROOF).context("sealing failed")?;
                // Another controller may have begun at the same moment: its key counts then.
                meta::write_first(db.write(), PROOF, &proof).await?;
                let first = meta::read(db.read(), PROOF).await?;
                first.context("the proof of the secrets' key was not kept")?
            }
        };
        if vault.open_sealed(&proof, PROOF).is_none() {
            bail!(
                "{}: not the key under which the secrets of this database are sealed; copy that of another \
                 controller of this database, or restore it from the backup of the state folder",
                path.display()
            );
        }
        Ok(vault)
    }

    /// From 64 hex digits.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(SealKey::parse(text)?)))
    }

    /// Base64 of the sealed text; it can be opened only for the same owner.
    pub fn seal(&self, plain: &[u8], owner: &str) -> Option<String> {
        let sealed = self.0.seal(plain, owner.as_bytes())?;
        Some(STANDARD.encode(sealed))
    }

    /// A secret for a purpose, which is in no table: only who holds the key can make it.
    pub fn derive(&self, purpose: &str) -> Secret {
        self.0.derive(purpose)
    }

    /// What [`Self::seal`] sealed for the same owner.
    pub fn open_sealed(&self, sealed: &str, owner: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.0
            .open(&STANDARD.decode(sealed).ok()?, owner.as_bytes())
    }
}

/// The key's text; a file that others may read is closed to them.
fn read(path: &Path) -> io::Result<String> {
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format!("{:o}", mode & 0o7777),
            "others could read the key of the stored secrets: set to 0600"
        );
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    }
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_key_is_made_once_and_must_fit_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&dir.path().join("krater.db"))
            .await
            .unwrap();
        let path = dir.path().join(KEY_FILE);
        let first = Vault::open(dir.path(), &db).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        // A key that was restored with an open mode is closed.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let sealed = first.seal(b"secret", "secret 1").unwrap();
        let again = Vault::open(dir.path(), &db).await.unwrap();
        let opened = again.open_sealed(&sealed, "secret 1").unwrap();
        assert_eq!(opened.as_slice(), b"secret");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert!(again.open_sealed(&sealed, "secret 2").is_none());
        // Another key, none, and what is no key.
        let key = std::fs::read_to_string(&path).unwrap();
        for (text, said) in [
            ("0f".repeat(32), "not the key"),
            ("x".into(), "64 hex digits"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = Vault::open(dir.path(), &db).await.unwrap_err();
            assert!(format!("{error:#}").contains(said), "{error:#}");
            assert!(!format!("{error:#}").contains(&text[..1].repeat(8)));
        }
        std::fs::remove_file(&path).unwrap();
        let error = Vault::open(dir.path(), &db).await.unwrap_err().to_string();
        assert!(error.contains("restore it"), "{error}");
        assert!(!path.exists(), "no new key is made over sealed secrets");
        std::fs::write(&path, key).unwrap();
        assert!(Vault::open(dir.path(), &db).await.is_ok());
    }
}
