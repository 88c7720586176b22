//! TLS to an engine that listens on a network, with the files that `docker` itself takes.

use std::io;
use std::path::{Path, PathBuf};

use bollard::BollardRequest;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::tls::provider;

/// How long the library waits for an answer by itself, in seconds; our own limits are shorter.
const TIMEOUT: u64 = 600;

/// Why the files in `DOCKER_CERT_PATH` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path} of DOCKER_CERT_PATH: {why}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// They do not belong together, or are of a kind that nobody uses.
    #[error("the certificates in DOCKER_CERT_PATH cannot be used: {0}")]
    Unusable(String),
}

/// A client of the engine at `host:port`, which trusts `ca.pem` alone and shows `cert.pem`, if there is one.
pub(super) fn connect(address: &str, dir: &Path) -> Result<bollard::Docker, TlsError> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config(dir)?)
        .https_only()
        .enable_http1()
        .build();
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let transport = move |request: BollardRequest| {
        let client = client.clone();
        async move { Ok(client.request(request).await?) }
    };
    let host = Some(format!("https://{address}"));
    let version = bollard::API_DEFAULT_VERSION;
    bollard::Docker::connect_with_custom_transport(transport, host, TIMEOUT, version)
        .map_err(|error| TlsError::Unusable(error.to_string()))
}

fn config(dir: &Path) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&dir.join("ca.pem"))? {
        roots.add(certificate).map_err(unusable)?;
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(roots);
    let (own, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    if !own.exists() {
        return Ok(config.with_no_client_auth());
    }
    let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| unread(&key, error))?;
    config.with_client_auth_cert(certificates(&own)?, key).map_err(unusable)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    all.map_err(|error| unread(path, error))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn unusable(error: rustls::Error) -> TlsError {
    TlsError::Unusable(error.to_string())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum")]
fn unread(path: &Path, error: pem::Error) -> TlsError {
    let why = match error {
        pem::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            "there is no such file".to_owned()
        }
        pem::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            "this user may not read it".to_owned()
        }
        error => {
            tracing::debug!(%error, "a file of DOCKER_CERT_PATH");
            "it holds none of what it should, as PEM".to_owned()
        }
    };
    TlsError::File { path: path.to_owned(), why }
}
