//! The certificate authority of one control plane.
//!
//! It issues three kinds of certificate, each good for one thing: a pool's, by which launchers are
//! admitted; a server's, by which broker, API and object store are recognised; and a signing leaf,
//! under which the control plane signs messages. None of them can stand for another.

mod leaf;
mod profile;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use gantry_model::PoolId;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use openssl::x509::extension::{ExtendedKeyUsage, SubjectAlternativeName};
use zeroize::Zeroizing;

pub use self::leaf::{LeafError, SigningLeaf, verify_signing_leaf};
use self::profile::{Profile, ec_key, issue, pem_text};
use crate::certificate::{self, MAX_PEM, Serial};
use crate::{CertificateRequest, CryptoError, pem};

const DAY: Duration = Duration::from_hours(24);

/// How long a pool's certificate is good for. It ends earlier by revocation, by serial number.
pub const POOL_LIFETIME: Duration = Duration::from_hours(3_652 * 24);
/// How long a server's certificate is good for: it is issued anew at every start.
pub const SERVER_LIFETIME: Duration = Duration::from_hours(397 * 24);
/// How long a signing leaf is good for, counted by its receiver from the `welcome` that brought it.
pub const SIGNING_LEAF_LIFETIME: Duration = DAY;
/// How long the authority itself is good for.
const AUTHORITY_LIFETIME: Duration = Duration::from_hours(7_305 * 24);
/// How much earlier than now certificates begin, for hosts whose clock is slow.
const LEEWAY: Duration = DAY;

/// An authority could not be read, or could not issue.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate cannot be read.
    #[error("the authority's certificate cannot be read: restore it from a backup")]
    Certificate,
    /// The certificate may not issue others.
    #[error(
        "the authority's certificate is not one that may issue others: restore it from a backup"
    )]
    NotAuthority,
    /// The key cannot be read.
    #[error(
        "the authority's key cannot be read: restore it from a backup; it is a PEM file without passphrase"
    )]
    Key,
    /// The key is another one's.
    #[error(
        "the authority's key does not belong to its certificate: restore both from the same backup"
    )]
    KeyMismatch,
    /// A server's name that is neither a DNS name nor an address.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    ServerName(String),
    /// A server without a name.
    #[error("a server's certificate needs at least one name")]
    NoServerName,
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl From<ErrorStack> for AuthorityError {
    fn from(error: ErrorStack) -> Self {
        Self::Crypto(error.into())
    }
}

/// A certificate authority: certificate and key, EC P-256.
pub struct Authority {
    certificate: X509,
    pem: String,
    key: PKey<Private>,
}

/// A pool's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolCertificate {
    /// The certificate.
    pub pem: String,
    /// By which it is revoked.
    pub serial: Serial,
}

/// A server's certificate and its key.
#[derive(Clone)]
pub struct ServerCertificate {
    /// The certificate.
    pub pem: String,
    /// The private key as PKCS#8 PEM.
    pub key: Zeroizing<Vec<u8>>,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").field("pem", &self.pem).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn generate(now_unix: i64) -> Result<Self, CryptoError> {
        let key = ec_key()?;
        let certificate = profile::self_signed(&key, now_unix)?;
        Ok(Self { pem: pem_text(&certificate)?, certificate, key })
    }

    /// Reads an authority from its certificate and its key, both PEM.
    ///
    /// # Errors
    /// When either cannot be read, or they do not belong together.
    pub fn from_pems(certificate: &str, key: &[u8]) -> Result<Self, AuthorityError> {
        let parsed = certificate::parse(certificate).ok_or(AuthorityError::Certificate)?;
        if parsed.pathlen().is_none() {
            return Err(AuthorityError::NotAuthority);
        }
        let text = Some(key).filter(|key| key.len() <= MAX_PEM);
        let text = text.and_then(|key| str::from_utf8(key).ok()).ok_or(AuthorityError::Key)?;
        let der = pem::content(text, &["PRIVATE KEY"]).ok_or(AuthorityError::Key)?;
        let key = PKey::private_key_from_pkcs8(&der).map_err(|_| AuthorityError::Key)?;
        if !parsed.public_key().is_ok_and(|public| public.public_eq(&key)) {
            return Err(AuthorityError::KeyMismatch);
        }
        Ok(Self { pem: pem_text(&parsed)?, certificate: parsed, key })
    }

    /// The authority's certificate, which tokens carry.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The authority's key as PKCS#8 PEM: for a file of mode 0600, never for a database.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn key_pem(&self) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        Ok(Zeroizing::new(self.key.private_key_to_pem_pkcs8()?))
    }

    /// Certifies a pool's key for ten years. Nothing of the request but its key is taken over.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn issue_pool(
        &self,
        request: &CertificateRequest,
        pool: PoolId,
        now_unix: i64,
    ) -> Result<PoolCertificate, CryptoError> {
        let certificate = issue(
            self,
            Profile {
                common_name: &pool.to_string(),
                key: request.public_key().pkey(),
                usage: ExtendedKeyUsage::new().client_auth().build()?,
                names: None,
                not_before: now_unix.saturating_sub_unsigned(LEEWAY.as_secs()),
                not_after: now_unix.saturating_add_unsigned(POOL_LIFETIME.as_secs()),
            },
        )?;
        let serial = Serial::of(certificate.serial_number())?;
        Ok(PoolCertificate { pem: pem_text(&certificate)?, serial })
    }

    /// Makes key and certificate of a server that is reached by `names`: DNS names and IP addresses.
    ///
    /// # Errors
    /// When there is no name or a wrong one, or OpenSSL fails.
    pub fn issue_server<N: AsRef<str>>(
        &self,
        names: &[N],
        now_unix: i64,
    ) -> Result<ServerCertificate, AuthorityError> {
        let first = names.first().ok_or(AuthorityError::NoServerName)?;
        let mut subject_names = SubjectAlternativeName::new();
        for name in names.iter().map(AsRef::as_ref) {
            if name.parse::<IpAddr>().is_ok() {
                subject_names.ip(name);
            } else if is_dns_name(name) {
                subject_names.dns(name);
            } else {
                return Err(AuthorityError::ServerName(name.chars().take(256).collect()));
            }
        }
        let key = ec_key()?;
        let not_after = now_unix.saturating_add_unsigned(SERVER_LIFETIME.as_secs());
        let certificate = issue(
            self,
            Profile {
                // Clients look at the names alone; a common name has room for 64 characters.
                common_name: first.as_ref().get(..64).unwrap_or(first.as_ref()),
                key: &key,
                usage: ExtendedKeyUsage::new().server_auth().build()?,
                names: Some(&subject_names),
                not_before: now_unix.saturating_sub_unsigned(LEEWAY.as_secs()),
                not_after,
            },
        )?;
        let key = Zeroizing::new(key.private_key_to_pem_pkcs8()?);
        Ok(ServerCertificate { pem: pem_text(&certificate)?, key, not_after })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.pem).finish_non_exhaustive()
    }
}

/// Labels of 1 to 63 letters, digits and inner hyphens; the first may be a star.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let rest = name.strip_prefix("*.").unwrap_or(name);
    name.len() <= 253 && rest.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::is_dns_name;

    #[test]
    fn server_names_are_dns_names() {
        for name in ["localhost", "gantry.example.com", "*.example.com", "a-b.c"] {
            assert!(is_dns_name(name), "{name}");
        }
        for name in ["", ".", "a..b", "-a", "a-", "a b", "a,URI:b", "*", "a.*.b", &"a".repeat(64)] {
            assert!(!is_dns_name(name), "{name}");
        }
    }
}
