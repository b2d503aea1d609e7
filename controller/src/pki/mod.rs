//! The private certificate authorities of this controller and what they issued.
//!
//! Two authorities, made at the first start: the *server CA* signs the amphorae's certificates and is
//! what the controller trusts; the *client CA* signs the controller's own certificate and is what the
//! amphorae trust. With one CA for both, any amphora could pass for the controller.
//! Everything is in `<state-dir>/pki`, 0600 in a 0700 folder. Amphora keys are never kept here: they go
//! to the amphora's config drive and are forgotten.

use crate::files;
use krater_model::{AmphoraId, Secret};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

mod ca;

pub use ca::{Ca, Issued};

const DAY: Duration = Duration::from_secs(86_400);
/// Swapping a CA means replacing every amphora: it outlives the hardware.
const CA_VALIDITY: Duration = Duration::from_secs(3_650 * 86_400);
/// The controller's own certificate is made anew at a start when less than half of this is left.
const CLIENT_VALIDITY: Duration = Duration::from_secs(365 * 86_400);

/// The private CA cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(
    clippy::error_impl_error,
    reason = "like std::io::Error: used with the name of its module in front"
)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("private CA: {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("private CA: {} is damaged ({why}); restore it from a backup, or remove the whole folder and fail over all load balancers", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Issuing failed.
    #[error("private CA: cannot issue")]
    Issue(#[from] rcgen::Error),
    /// The TLS library refused our own certificate.
    #[error("private CA: TLS settings")]
    Tls(#[source] rustls::Error),
}

/// Both authorities and the controller's identity.
#[derive(Debug)]
pub struct Pki {
    server_ca: Ca,
    client_ca: Ca,
    client: Secret,
    client_expires: SystemTime,
    server_ca_expires: SystemTime,
    client_ca_expires: SystemTime,
}

/// One line of `krater certs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub name: String,
    /// End of validity.
    pub expires: SystemTime,
}

impl Pki {
    /// Reads the folder, or makes it at the first start.
    pub fn open(dir: &Path, now: SystemTime) -> Result<Self, Error> {
        files::private_dir(dir).map_err(|source| Error::File {
            path: dir.to_owned(),
            source,
        })?;
        let server_ca = authority(dir, "server-ca", "Krater server CA", now)?;
        let client_ca = authority(dir, "client-ca", "Krater client CA", now)?;
        let path = dir.join("controller.pem");
        let kept = match read(&path)? {
            Some(pem) => {
                let expires = expiry(pem.expose().as_bytes()).map_err(|why| Error::Damaged {
                    path: path.clone(),
                    why,
                })?;
                (expires > now + CLIENT_VALIDITY / 2).then_some((pem, expires))
            }
            None => None,
        };
        let (client, client_expires) = if let Some(kept) = kept {
            kept
        } else {
            let issued = client_ca.issue_controller(now, CLIENT_VALIDITY)?;
            write(&path, issued.pem.expose())?;
            (issued.pem, issued.expires)
        };
        let ca_expiry = |ca: &Ca, name: &str| {
            expiry(ca.pem.as_bytes()).map_err(|why| Error::Damaged {
                path: dir.join(name),
                why,
            })
        };
        Ok(Self {
            server_ca_expires: ca_expiry(&server_ca, "server-ca.pem")?,
            client_ca_expires: ca_expiry(&client_ca, "client-ca.pem")?,
            server_ca,
            client_ca,
            client,
            client_expires,
        })
    }

    /// What amphorae trust, PEM.
    pub fn client_ca_pem(&self) -> &str {
        &self.client_ca.pem
    }

    /// A new certificate for an amphora.
    pub fn issue_amphora(
        &self,
        id: AmphoraId,
        now: SystemTime,
        validity_days: u32,
    ) -> Result<Issued, Error> {
        Ok(self.server_ca.issue_amphora(id, now, DAY * validity_days)?)
    }

    /// TLS towards agents: trusts the server CA alone and shows the controller's certificate.
    pub fn client_tls(&self) -> Result<Arc<rustls::ClientConfig>, Error> {
        let mut roots = rustls::RootCertStore::empty();
        for der in chain(self.server_ca.pem.as_bytes())? {
            roots.add(der).map_err(Error::Tls)?;
        }
        let pem = self.client.expose().as_bytes();
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(not_pem)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(Error::Tls)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain(pem)?, key)
            .map_err(Error::Tls)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Authorities and the controller's own certificate, for `krater certs` and `krater status`.
    pub fn entries(&self) -> Vec<Entry> {
        [
            ("server CA", self.server_ca_expires),
            ("client CA", self.client_ca_expires),
            ("controller", self.client_expires),
        ]
        .map(|(name, expires)| Entry {
            name: name.into(),
            expires,
        })
        .into()
    }
}

/// End of validity of the first certificate in `pem`.
pub fn expiry(pem: &[u8]) -> Result<SystemTime, String> {
    let der = CertificateDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    let (_, certificate) =
        x509_parser::parse_x509_certificate(&der).map_err(|error| error.to_string())?;
    let seconds = certificate.validity().not_after.timestamp();
    let seconds = u64::try_from(seconds).map_err(|_| "expired before 1970".to_owned())?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn authority(dir: &Path, stem: &str, name: &str, now: SystemTime) -> Result<Ca, Error> {
    let certificate_path = dir.join(format!("{stem}.pem"));
    let key_path = dir.join(format!("{stem}.key"));
    // The certificate is written last: a crash between the two leaves a key alone, which is replaced.
    if let Some(pem) = read(&certificate_path)? {
        let key = read(&key_path)?.ok_or_else(|| Error::Damaged {
            path: key_path.clone(),
            why: "missing".into(),
        })?;
        return Ca::read(pem.expose(), &key).map_err(|error| Error::Damaged {
            path: certificate_path,
            why: error.to_string(),
        });
    }
    let ca = Ca::create(name, now, CA_VALIDITY)?;
    write(&key_path, ca.key_pem().expose())?;
    write(&certificate_path, &ca.pem)?;
    Ok(ca)
}

fn read(path: &Path) -> Result<Option<Secret>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(Secret::new(text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            path: path.to_owned(),
            source,
        }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    files::write_private(path, text.as_bytes()).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(not_pem)
}

fn not_pem(error: rustls_pki_types::pem::Error) -> Error {
    Error::Tls(rustls::Error::General(error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn a_second_start_finds_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pki");
        let first = Pki::open(&path, now()).unwrap();
        let second = Pki::open(&path, now() + DAY).unwrap();
        assert_eq!(first.client_ca_pem(), second.client_ca_pem());
        assert_eq!(first.client.expose(), second.client.expose());
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", entry.file_name());
        }
        let third = Pki::open(&path, now() + DAY * 200).unwrap();
        assert_ne!(
            first.client.expose(),
            third.client.expose(),
            "renewed at half of its life"
        );
        assert!(third.client_tls().is_ok());
    }

    #[test]
    fn an_amphora_gets_its_own_name_and_thirty_days() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(&dir.path().join("pki"), now()).unwrap();
        let id = AmphoraId::random();
        let issued = pki.issue_amphora(id, now(), 30).unwrap();
        assert_eq!(issued.expires, now() + DAY * 30);
        let pem = issued.pem.expose().as_bytes();
        assert_eq!(expiry(pem).unwrap(), issued.expires);
        let der = CertificateDer::from_pem_slice(pem).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let text = format!("{:?}", names.value.general_names);
        assert!(text.contains(&id.to_string()), "{text}");
        assert!(PrivateKeyDer::from_pem_slice(pem).is_ok());
    }

    #[test]
    fn a_damaged_authority_is_refused_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pki");
        Pki::open(&path, now()).unwrap();
        std::fs::write(path.join("server-ca.pem"), "rubbish").unwrap();
        assert!(matches!(
            Pki::open(&path, now()),
            Err(Error::Damaged { .. })
        ));
        assert_eq!(
            std::fs::read_to_string(path.join("server-ca.pem")).unwrap(),
            "rubbish"
        );
    }
}
