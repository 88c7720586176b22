//! Objects in and out, by pre-signed url.
//!
//! The launcher has no credentials for the object store: the control plane gives it an url for each
//! object. Objects are only ever created. What is got is bounded and checked against the hash that a
//! signed message named. However large an object is, a store that goes on taking or giving it is
//! waited for; one that falls silent is not.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use gantry_model::hex;
use gantry_protocol::message::UrlPurpose;
use openssl::sha::Sha256;
use reqwest::{Body, Client, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use tokio_util::io::ReaderStream;

use crate::config::Proxy;
use crate::{http, tls};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(30);
/// How long nothing may go. Longer, because what the kernel holds of it goes unseen.
const STANDSTILL: Duration = Duration::from_secs(120);
/// How much goes at once.
const PART: usize = 64 * 1024;
/// How much of the answer to a put is looked at.
const MAX_ANSWER: usize = 64 * 1024;

/// The object store, as a launcher sees it.
#[derive(Debug, Clone)]
pub struct Objects {
    client: Client,
}

/// Why an object did not come or go.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The certificates to trust are none.
    #[error("the token's CA is not a certificate that TLS can use: fetch the pool's token again")]
    Ca,
    /// The proxy cannot be used.
    #[error(transparent)]
    Proxy(#[from] http::InvalidProxy),
    /// The store cannot be reached or broke off; it may be there again later.
    #[error("the object store cannot be reached: check that this host can reach {host}")]
    Unreachable {
        /// The host that was asked.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The store took or gave nothing for a while; it may go on later.
    #[error("the object store {host} does not answer any more: trying again")]
    Silent {
        /// The host that was asked.
        host: String,
    },
    /// The store has trouble of its own, or asks to come back later.
    #[error("the object store {host} answers {status}: trying again")]
    Trouble {
        /// The host that was asked.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// There is an object at this url, and it was put by an earlier try, or is not ours.
    #[error("the object store {host} has an object there already")]
    Exists {
        /// The host that was asked.
        host: String,
    },
    /// The url is not accepted (any more).
    #[error("the object store {host} refuses the URL with {status}: it has expired or was altered")]
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
    /// There is no place for it.
    #[error("the control plane takes nothing of this kind ({purpose:?}) from this stage")]
    Unwanted {
        /// What was to be put.
        purpose: UrlPurpose,
    },
    /// Nobody waits for it any more.
    #[error(
        "waiting for the object store was given up: the stage is being stopped, or exceeded its time limit (SPACELIFT_LAUNCHER_RUN_TIMEOUT)"
    )]
    CalledOff,
    /// This host cannot keep it.
    #[error("cannot keep the object on this host")]
    Io(#[from] io::Error),
}

impl BlobError {
    /// Whether the same call can succeed later.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Trouble { .. } => true,
            Self::Ca
            | Self::Proxy(_)
            | Self::Exists { .. }
            | Self::Refused { .. }
            | Self::Altered { .. }
            | Self::Unwanted { .. }
            | Self::CalledOff
            | Self::Io(_) => false,
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
    /// Trusts servers whose certificate comes from one of the CAs in `ca`, PEM, or from one of `others`,
    /// and reaches them through `proxy`, but for those that it is not for.
    ///
    /// # Errors
    /// [`BlobError::Ca`], [`BlobError::Proxy`].
    pub fn trusting(
        ca: &[u8],
        others: &[CertificateDer<'static>],
        proxy: Option<&Proxy>,
    ) -> Result<Self, BlobError> {
        let roots = tls::roots(ca, others).map_err(|_| BlobError::Ca)?;
        let tls = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(|_| BlobError::Ca)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let builder = http::client(tls, proxy)?.connect_timeout(CONNECT);
        let client = builder.build().map_err(|_| BlobError::Ca)?;
        Ok(Self { client })
    }

    /// Puts a new object.
    ///
    /// # Errors
    /// Any but [`BlobError::Altered`].
    pub async fn put(&self, url: &str, content: Bytes) -> Result<(), BlobError> {
        let length = content.len() as u64;
        let parts = (0..content.len())
            .step_by(PART)
            .map(move |at| Ok(content.slice(at..content.len().min(at + PART))));
        self.send(url, futures::stream::iter(parts), length).await
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
        let rest = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PART);
        let whole = futures::stream::iter([Ok(head)]).chain(rest);
        self.send(url, whole, length).await
    }

    async fn send(
        &self,
        url: &str,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        length: u64,
    ) -> Result<(), BlobError> {
        let gone = Arc::new(AtomicU64::new(0));
        let going = Arc::clone(&gone);
        let body = body.inspect(move |part| {
            let length = part.as_ref().map_or(0, Bytes::len);
            going.fetch_add(length as u64, Ordering::Relaxed);
        });
        let request = self
            .client
            .put(url)
            .header("if-none-match", "*")
            .header("content-length", length)
            .body(Body::wrap_stream(body));
        let answer = while_moving(request.send(), || gone.load(Ordering::Relaxed)).await;
        let answer = answer.ok_or_else(|| silent(url))?;
        let answer = answer.map_err(|source| unreachable(url, source))?;
        let status = answer.status();
        // Read to its end, or the connection cannot be used again.
        let _ = tokio::time::timeout(SILENCE, skip(answer)).await;
        if status == StatusCode::PRECONDITION_FAILED {
            return Err(BlobError::Exists { host: host(url) });
        }
        if status.is_success() { Ok(()) } else { Err(unwanted(url, status)) }
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
        let answer = tokio::time::timeout(SILENCE, self.client.get(url).send()).await;
        let answer = answer.map_err(|_| silent(url))?;
        let answer = answer.map_err(|source| unreachable(url, source))?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Err(altered("it is gone"));
        }
        if !answer.status().is_success() {
            return Err(unwanted(url, answer.status()));
        }
        let mut hash = Sha256::new();
        let mut length = 0;
        let mut parts = answer.bytes_stream();
        while let Some(part) =
            tokio::time::timeout(SILENCE, parts.next()).await.map_err(|_| silent(url))?
        {
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
            Some(sha256) if sha256 != hash => Err(altered("its hash is different")),
            Some(_) | None => Ok(()),
        }
    }
}

/// Waits for `sent` as long as `gone` rises; none when it stands still.
async fn while_moving<T>(sent: impl Future<Output = T>, gone: impl Fn() -> u64) -> Option<T> {
    tokio::pin!(sent);
    let mut before = 0;
    loop {
        if let Ok(sent) = tokio::time::timeout(STANDSTILL, &mut sent).await {
            return Some(sent);
        }
        let now = gone();
        if now == before {
            return None;
        }
        before = now;
    }
}

async fn skip(mut answer: Response) {
    let mut left = MAX_ANSWER;
    while let Ok(Some(part)) = answer.chunk().await {
        let Some(rest) = left.checked_sub(part.len()) else { return };
        left = rest;
    }
}

fn unreachable(url: &str, source: reqwest::Error) -> BlobError {
    // A pre-signed url is a key to its object: it stands in no message.
    BlobError::Unreachable { host: host(url), source: source.without_url() }
}

fn silent(url: &str) -> BlobError {
    BlobError::Silent { host: host(url) }
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
        .unwrap_or_else(|| "a URL that cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// A put of a large object over a slow line takes as long as it takes.
    #[tokio::test(start_paused = true)]
    async fn a_put_is_waited_for_as_long_as_it_moves() {
        let minute = Duration::from_secs(60);
        let gone = AtomicU64::new(0);
        let slow = async {
            for _ in 0..30 {
                tokio::time::sleep(minute).await;
                gone.fetch_add(1, Ordering::Relaxed);
            }
            "there"
        };
        assert_eq!(while_moving(slow, || gone.load(Ordering::Relaxed)).await, Some("there"));
        let stuck = async {
            gone.fetch_add(1, Ordering::Relaxed);
            pending::<()>().await;
        };
        let begin = tokio::time::Instant::now();
        assert_eq!(while_moving(stuck, || gone.load(Ordering::Relaxed)).await, None);
        assert!(begin.elapsed() <= 5 * minute);
    }
}
