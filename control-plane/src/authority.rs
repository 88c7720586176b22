//! The control plane's certificate authority, as files, and what it issues for the rest.
//!
//! Certificate and key are made at the first start and stay in the data directory, never in the
//! database. Whoever has the key can stand for this control plane and for every launcher.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, fs, io};

use gantry_model::PoolId;
use gantry_protocol::{
    Authority, AuthorityError, CertificateRequest, CryptoError, Endpoint, Namespace,
    PoolCertificate, PoolToken, SIGNING_LEAF_LIFETIME, ServerCertificate, SigningLeaf, TokenError,
    TokenParts,
};
use zeroize::Zeroizing;

use crate::data_dir::{DataDir, DataDirError};

/// Why the authority could not be loaded or could not issue.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A file of it could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// One of the two files is there, the other is not.
    #[error(
        "{} is missing although the authority was made before: restore it from a backup, every pool's token depends on it",
        path.display()
    )]
    Lost {
        /// Which file.
        path: PathBuf,
    },
    /// A file of it could not be written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The authority itself.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Issues what proves who is who: pools to the broker, servers to launchers, messages to launchers.
pub struct Issuer {
    authority: Authority,
    /// Where launchers find the broker: part of every token.
    broker: Endpoint,
    namespace: Namespace,
    api: Option<String>,
    leaf: Mutex<Option<Leaf>>,
}

struct Leaf {
    leaf: Arc<SigningLeaf>,
    issued_unix: i64,
}

impl Issuer {
    /// An issuer over an authority, for tokens that name these addresses.
    #[must_use]
    pub const fn new(
        authority: Authority,
        broker: Endpoint,
        namespace: Namespace,
        api: Option<String>,
    ) -> Self {
        Self { authority, broker, namespace, api, leaf: Mutex::new(None) }
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// What all topics begin with.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Certifies a pool's key.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn issue_pool(
        &self,
        request: &CertificateRequest,
        pool: PoolId,
        now_unix: i64,
    ) -> Result<PoolCertificate, CryptoError> {
        self.authority.issue_pool(request, pool, now_unix)
    }

    /// Issues the certificate of the server's listeners.
    ///
    /// # Errors
    /// When a name is none, or OpenSSL fails.
    pub fn issue_server(
        &self,
        names: &[String],
        now_unix: i64,
    ) -> Result<ServerCertificate, AuthorityError> {
        self.authority.issue_server(names, now_unix)
    }

    /// The token of a pool with this certificate.
    ///
    /// # Errors
    /// When the certificate is not the pool's, or not this authority's.
    pub fn token(&self, pool: PoolId, certificate: &str) -> Result<PoolToken, TokenError> {
        PoolToken::new(TokenParts {
            broker: self.broker.clone(),
            namespace: self.namespace.clone(),
            pool,
            certificate: certificate.to_owned(),
            ca: self.authority.certificate_pem().to_owned(),
            api: self.api.clone(),
        })
    }

    /// The leaf that signs messages, made anew when half of its life is over. A session that began
    /// under an older one keeps that one.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn signing_leaf(&self, now_unix: i64) -> Result<Arc<SigningLeaf>, CryptoError> {
        let half = i64::try_from(SIGNING_LEAF_LIFETIME.as_secs() / 2).unwrap_or(i64::MAX);
        let mut current = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Leaf { leaf, issued_unix }) = &*current
            && (*issued_unix..issued_unix.saturating_add(half)).contains(&now_unix)
        {
            return Ok(Arc::clone(leaf));
        }
        let leaf = Arc::new(self.authority.issue_signing_leaf(now_unix)?);
        *current = Some(Leaf { leaf: Arc::clone(&leaf), issued_unix: now_unix });
        Ok(leaf)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("broker", &self.broker).finish_non_exhaustive()
    }
}

/// Loads the authority from the data directory, or makes it when neither of its files is there.
///
/// # Errors
/// When it cannot be read or written, or only one of its files is there.
pub fn load_or_make(dir: &DataDir, now_unix: i64) -> Result<Authority, IssuerError> {
    let (certificate_path, key_path) = (dir.ca_certificate(), dir.ca_key());
    let certificate = read(&certificate_path)?;
    let key = read(&key_path)?.map(Zeroizing::new);
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let certificate = String::from_utf8_lossy(&certificate);
            Ok(Authority::from_pems(&certificate, &key)?)
        }
        (Some(_), None) => Err(IssuerError::Lost { path: key_path }),
        (None, Some(_)) if dir.database().exists() => {
            Err(IssuerError::Lost { path: certificate_path })
        }
        // The key is written first, so a key alone is from a first start that was cut off.
        (None, Some(_) | None) => {
            let authority = Authority::generate(now_unix)?;
            dir.write(&key_path, &authority.key_pem()?)?;
            dir.write(&certificate_path, authority.certificate_pem().as_bytes())?;
            Ok(authority)
        }
    }
}

/// Issues the certificate of this start's listeners and writes it where they read it.
///
/// # Errors
/// When a name is none, or the files cannot be written.
pub fn issue_server(
    dir: &DataDir,
    authority: &Authority,
    names: &[String],
    now_unix: i64,
) -> Result<ServerCertificate, IssuerError> {
    let issued = authority.issue_server(names, now_unix)?;
    write_server(dir, &issued)?;
    Ok(issued)
}

/// Writes the certificate of the listeners and its key.
///
/// # Errors
/// When the files cannot be written.
pub fn write_server(dir: &DataDir, issued: &ServerCertificate) -> Result<(), DataDirError> {
    dir.write(&dir.server_key(), &issued.key)?;
    dir.write(&dir.server_certificate(), issued.pem.as_bytes())
}

/// The file's content; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, IssuerError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IssuerError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn issuer(authority: Authority) -> Issuer {
        let broker = "localhost:1984".parse().unwrap();
        Issuer::new(authority, broker, Namespace::default(), None)
    }

    #[test]
    fn the_authority_is_made_once_and_its_key_is_private() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&temporary.path().join("data")).unwrap();
        let made = load_or_make(&dir, NOW).unwrap();
        let loaded = load_or_make(&dir, NOW + 1).unwrap();
        assert_eq!(made.certificate_pem(), loaded.certificate_pem());
        let permissions = fs::metadata(dir.ca_key()).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, 0o600);
    }

    #[test]
    fn a_lost_key_is_not_replaced_in_silence() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&temporary.path().join("data")).unwrap();
        load_or_make(&dir, NOW).unwrap();
        fs::remove_file(dir.ca_key()).unwrap();
        assert!(matches!(load_or_make(&dir, NOW), Err(IssuerError::Lost { .. })));
    }

    #[test]
    fn the_signing_leaf_is_renewed_at_half_of_its_life() {
        let issuer = issuer(Authority::generate(NOW).unwrap());
        let first = issuer.signing_leaf(NOW).unwrap();
        assert!(Arc::ptr_eq(&first, &issuer.signing_leaf(NOW + 3_600).unwrap()));
        assert!(!Arc::ptr_eq(&first, &issuer.signing_leaf(NOW + 50_000).unwrap()));
        // A clock that was set back does not sign with a leaf from its future.
        let renewed = issuer.signing_leaf(NOW + 50_000).unwrap();
        assert!(!Arc::ptr_eq(&renewed, &issuer.signing_leaf(NOW).unwrap()));
    }
}
