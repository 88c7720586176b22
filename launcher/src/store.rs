//! Puts an attempt's objects into the store, however long that takes.
//!
//! Urls come from the control plane, some with the grant and more when asked for. A store or a control
//! plane that is away is waited for: what is to be stored lies in the spool meanwhile.

use std::collections::HashMap;
use std::fs;
use std::io::Seek as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gantry_model::Attempt;
use gantry_protocol::message::{FromLauncher, NeedUrls, PutUrl, UrlPurpose};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::blob::{BlobError, Objects};

/// How many urls are asked for at once.
const BATCH: u32 = 8;
/// How long an answer is waited for before asking again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// An url is not begun with this short before it expires.
const SPARE: Duration = Duration::from_secs(30);

/// Says something to the control plane, if there is a session; kinds without a `seq` only.
pub type Say = Arc<dyn Fn(FromLauncher) + Send + Sync>;

/// What is put into the store.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// These bytes.
    Bytes(&'a Bytes),
    /// These bytes, and behind them a whole file.
    File(&'a Bytes, &'a fs::File),
}

/// Where objects are kept.
pub trait Keep: Send + Sync {
    /// Stores an object and gives its key, however long that takes.
    ///
    /// # Errors
    /// Only what waiting cannot mend.
    fn put(
        &self,
        purpose: UrlPurpose,
        content: Content<'_>,
    ) -> impl Future<Output = Result<String, BlobError>> + Send;
}

/// The object store, for one attempt.
#[derive(Clone)]
pub struct Store {
    objects: Objects,
    urls: Arc<Urls>,
}

/// The urls that an attempt has.
pub struct Urls {
    attempt: Attempt,
    say: Say,
    stock: Mutex<HashMap<UrlPurpose, Vec<(PutUrl, Instant)>>>,
    arrived: Notify,
}

impl Urls {
    /// None yet.
    #[must_use]
    pub fn new(attempt: Attempt, say: Say) -> Self {
        Self { attempt, say, stock: Mutex::default(), arrived: Notify::new() }
    }

    /// More have come.
    pub fn add(&self, urls: Vec<PutUrl>) {
        let now = Instant::now();
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        for url in urls {
            let until = now + Duration::from_millis(url.valid_ms);
            stock.entry(url.purpose).or_default().push((url, until));
        }
        drop(stock);
        self.arrived.notify_waiters();
    }

    /// One that can be used; waits until there is one.
    async fn take(&self, purpose: UrlPurpose) -> PutUrl {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if let Some(url) = self.ready(purpose) {
                return url;
            }
            (self.say)(NeedUrls { attempt: self.attempt, purpose, count: BATCH }.into());
            // More came, or the question or its answer was lost: look and ask again.
            let _ = tokio::time::timeout(ASK_AGAIN, arrived).await;
        }
    }

    fn ready(&self, purpose: UrlPurpose) -> Option<PutUrl> {
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        let urls = stock.get_mut(&purpose)?;
        let now = Instant::now();
        urls.retain(|(_, until)| *until > now + SPARE);
        (!urls.is_empty()).then(|| urls.remove(0).0)
    }
}

impl Store {
    /// The store as one attempt uses it.
    #[must_use]
    pub fn new(objects: Objects, urls: Arc<Urls>) -> Self {
        Self { objects, urls }
    }

    async fn try_put(&self, url: &str, content: Content<'_>) -> Result<(), BlobError> {
        match content {
            Content::Bytes(bytes) => self.objects.put(url, bytes.clone()).await,
            Content::File(head, file) => {
                let mut file = file.try_clone()?;
                file.rewind()?;
                self.objects.put_file(url, head.clone(), file).await
            }
        }
    }
}

impl Keep for Store {
    async fn put(&self, purpose: UrlPurpose, content: Content<'_>) -> Result<String, BlobError> {
        let mut pause = Duration::from_millis(200);
        loop {
            let url = self.urls.take(purpose).await;
            loop {
                match self.try_put(&url.url, content).await {
                    Ok(()) => return Ok(url.key),
                    Err(error @ (BlobError::Unreachable { .. } | BlobError::Trouble { .. })) => {
                        tracing::warn!(attempt = %self.urls.attempt, %error, "storing is tried again");
                    }
                    // Expired meanwhile: another url, another object.
                    Err(error @ BlobError::Refused { .. }) => {
                        tracing::warn!(attempt = %self.urls.attempt, %error, "another url is asked for");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(MAX_PAUSE);
                        break;
                    }
                    Err(error @ (BlobError::Ca | BlobError::Altered { .. } | BlobError::Io(_))) => {
                        return Err(error);
                    }
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
}
