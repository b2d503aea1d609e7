//! Issuing: what our certificates say. Knows no file.

use krater_model::{AmphoraId, Secret, wire::agent::CONTROLLER_NAME};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use std::time::{Duration, SystemTime};

/// Clocks of controller and amphora may differ by this much.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// A certificate authority: what to trust, and what to sign with.
pub struct Ca {
    /// The certificate, PEM. What peers are given.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
    key_pem: Secret,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Issued {
    /// PEM: leaf, then PKCS#8 key.
    pub pem: Secret,
    /// End of validity.
    pub expires: SystemTime,
}

impl Ca {
    /// A new self-signed authority (P-256).
    pub fn create(name: &str, now: SystemTime, validity: Duration) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + validity).into();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let pem = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        Self::read(&pem, &Secret::new(key_pem))
    }

    /// An authority from what [`Ca::pem`] and [`Ca::key_pem`] gave.
    pub fn read(pem: &str, key_pem: &Secret) -> Result<Self, rcgen::Error> {
        let key = KeyPair::from_pem(key_pem.expose())?;
        Ok(Self {
            pem: pem.to_owned(),
            issuer: Issuer::from_ca_cert_pem(pem, key)?,
            key_pem: key_pem.clone(),
        })
    }

    /// The private key, PEM.
    pub fn key_pem(&self) -> &Secret {
        &self.key_pem
    }

    /// The server certificate of an amphora: its DNS name is the amphora's id.
    pub fn issue_amphora(
        &self,
        id: AmphoraId,
        now: SystemTime,
        validity: Duration,
    ) -> Result<Issued, rcgen::Error> {
        self.issue(
            &id.to_string(),
            ExtendedKeyUsagePurpose::ServerAuth,
            now,
            validity,
        )
    }

    /// The client certificate with which the controller shows itself to agents.
    pub fn issue_controller(
        &self,
        now: SystemTime,
        validity: Duration,
    ) -> Result<Issued, rcgen::Error> {
        self.issue(
            CONTROLLER_NAME,
            ExtendedKeyUsagePurpose::ClientAuth,
            now,
            validity,
        )
    }

    fn issue(
        &self,
        dns_name: &str,
        usage: ExtendedKeyUsagePurpose,
        now: SystemTime,
        validity: Duration,
    ) -> Result<Issued, rcgen::Error> {
        let mut params = CertificateParams::new(vec![dns_name.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, dns_name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - BACKDATED).into();
        let expires = now + validity;
        params.not_after = expires.into();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            pem: Secret::new(certificate.pem() + &key.serialize_pem()),
            expires,
        })
    }
}
