//! Objects in and out, by pre-signed url.
//!
//! The launcher has no credentials for the object store: the control plane gives it an url for each
//! object. Objects are only ever created, so a put that is sent again finds its own first try and is
//! content. What is got is bounded and checked against the hash that a signed message named.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use openssl::sha::Sha256;
use reqwest::{Body, Client, StatusCode, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio_util::io::ReaderStream;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(30);

/// The object store, as a launcher sees it.
#[derive(Debug, Clone)]
pub struct Objects {
    client: Client,
}

/// Why an object did not come or go.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The certificates to trust are none.
    #[error("the token's CA is no certificate that TLS can use: fetch the pool's token again")]
    Ca,
    /// The store cannot be reached or broke off; it may be there again later.
    #[error("the object store cannot be reached: check that this host can reach {host}")]
    Unreachable {
        /// The host that was asked.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The store has trouble of its own, or asks to come back later.
    #[error("the object store {host} answers {status}: it is tried again")]
    Trouble {
        /// The host that was asked.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// The url is not accepted (any more).
    #[error("the object store {host} refuses the url with {status}: it has expired or was altered")]
    Refused {
        /// The host that was asked.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// The object is not what was announced: it was altered, truncated or replaced.
    #[error(
        "the {what} is not what was announced ({why}): it was altered, truncated or replaced in the object store; nothing of it is used"
    )]
    Altered {
        /// What it was to be, such as `source`.
        what: &'static str,
        /// What does not fit.
        why: &'static str,
    },
    /// This host cannot keep it.
    #[error("cannot keep the object on this host")]
    Io(#[from] io::Error),
}

impl BlobError {
    /// Whether the same call can succeed later.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Trouble { .. } => true,
            Self::Ca | Self::Refused { .. } | Self::Altered { .. } | Self::Io(_) => false,
        }
    }
}

/// What is known of an object before it is got.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// What it is, for messages.
    pub what: &'static str,
    /// Its length in bytes.
    pub size: u64,
    /// Lower-case hex of its SHA-256; none if the content proves itself otherwise.
    pub sha256: Option<&'a str>,
}

impl Objects {
    /// Trusts servers whose certificate comes from one of the CAs in `ca`, PEM.
    ///
    /// # Errors
    /// [`BlobError::Ca`].
    pub fn trusting(ca: &[u8]) -> Result<Self, BlobError> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            let certificate = certificate.map_err(|_| BlobError::Ca)?;
            roots.add(certificate).map_err(|_| BlobError::Ca)?;
        }
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| BlobError::Ca)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build()
            .map_err(|_| BlobError::Ca)?;
        Ok(Self { client })
    }

    /// Puts a new object.
    ///
    /// # Errors
    /// Any but [`BlobError::Altered`].
    pub async fn put(&self, url: &str, content: Bytes) -> Result<(), BlobError> {
        let length = content.len() as u64;
        self.send(url, Body::from(content), length).await
    }

    /// Puts `head` and behind it a whole file as one new object.
    ///
    /// # Errors
    /// Any but [`BlobError::Altered`].
    pub async fn put_file(
        &self,
        url: &str,
        head: Bytes,
        file: std::fs::File,
    ) -> Result<(), BlobError> {
        let length = head.len() as u64 + file.metadata()?.len();
        let rest = ReaderStream::with_capacity(tokio::fs::File::from_std(file), 256 * 1024);
        let whole = futures::stream::iter([Ok(head)]).chain(rest);
        self.send(url, Body::wrap_stream(whole), length).await
    }

    async fn send(&self, url: &str, body: Body, length: u64) -> Result<(), BlobError> {
        let request = self
            .client
            .put(url)
            .header("if-none-match", "*")
            .header("content-length", length)
            .body(body);
        let answer = request.send().await.map_err(|source| unreachable(url, source))?;
        let status = answer.status();
        // Read to its end, or the connection cannot be used again.
        let _ = answer.bytes().await;
        // The key is ours alone, so what is there came from an earlier try whose answer was lost.
        if status.is_success() || status == StatusCode::PRECONDITION_FAILED {
            return Ok(());
        }
        Err(unwanted(url, status))
    }

    /// Gets an object into `into`, which may hold part of it when this fails.
    ///
    /// # Errors
    /// Every [`BlobError`] but [`BlobError::Ca`].
    pub async fn get(
        &self,
        url: &str,
        expected: Expected<'_>,
        into: &mut (dyn Write + Send),
    ) -> Result<(), BlobError> {
        let altered = |why| BlobError::Altered { what: expected.what, why };
        let answer =
            self.client.get(url).send().await.map_err(|source| unreachable(url, source))?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Err(altered("it is gone"));
        }
        if !answer.status().is_success() {
            return Err(unwanted(url, answer.status()));
        }
        let mut hash = Sha256::new();
        let mut length = 0;
        let mut parts = answer.bytes_stream();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|source| unreachable(url, source))?;
            length += part.len() as u64;
            if length > expected.size {
                return Err(altered("it is longer"));
            }
            hash.update(&part);
            into.write_all(&part)?;
        }
        if length != expected.size {
            return Err(altered("it is shorter"));
        }
        let hash = hex(&hash.finish());
        match expected.sha256 {
            Some(sha256) if sha256 != hash => Err(altered("its hash is another")),
            Some(_) | None => Ok(()),
        }
    }
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn unreachable(url: &str, source: reqwest::Error) -> BlobError {
    // A pre-signed url is a key to its object: it stands in no message.
    BlobError::Unreachable { host: host(url), source: source.without_url() }
}

fn unwanted(url: &str, status: StatusCode) -> BlobError {
    let host = host(url);
    let passing = status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT;
    let status = status.as_u16();
    if passing { BlobError::Trouble { host, status } } else { BlobError::Refused { host, status } }
}

fn host(url: &str) -> String {
    reqwest::Url::parse(url)
        .ok()
        .and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)))
        .unwrap_or_else(|| "an url that is none".to_owned())
}
