//! Puts an attempt's objects into the store, however long that takes.
//!
//! Urls come from the control plane, some with the grant and more when asked for. A store or a control
//! plane that is away is waited for: what is to be stored lies in the spool meanwhile.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fs;
use std::io::Seek as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use gantry_model::Attempt;
use gantry_protocol::message::{FromLauncher, NeedUrls, PutUrl, UrlPurpose};
use tokio::sync;
use tokio::time::Instant;

use crate::blob::{BlobError, Objects};
use crate::explain::sentence;

/// After so long it is said that an object has not been stored.
const SAY_AFTER: Duration = Duration::from_secs(10);
/// How many urls are asked for at once.
const BATCH: u32 = 8;
/// How long an answer is waited for before asking again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// An url is not begun with this short before it expires.
const SPARE: Duration = Duration::from_secs(30);

/// Says something to the control plane, if there is a session; kinds without a `seq` only.
pub type Notify = Arc<dyn Fn(FromLauncher) + Send + Sync>;

/// What is put into the store.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// These bytes.
    Bytes(&'a Bytes),
    /// These bytes, and behind them a whole file.
    File(&'a Bytes, &'a fs::File),
}

/// Where objects are kept.
pub trait Uploader: Send + Sync {
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

/// Takes what is put at an url, once.
pub trait PutObject: Send + Sync {
    /// Tries to put a new object.
    ///
    /// # Errors
    /// Any but [`BlobError::Altered`].
    fn put(
        &self,
        url: &str,
        content: Content<'_>,
    ) -> impl Future<Output = Result<(), BlobError>> + Send;
}

impl PutObject for Objects {
    async fn put(&self, url: &str, content: Content<'_>) -> Result<(), BlobError> {
        match content {
            Content::Bytes(bytes) => self.put(url, bytes.clone()).await,
            Content::File(head, file) => {
                let mut file = file.try_clone()?;
                file.rewind()?;
                self.put_file(url, head.clone(), file).await
            }
        }
    }
}

/// How long storing one object may take, and who hears of it when it takes long.
pub trait Patience: Send + Sync {
    /// Resolves when it is given up; perhaps never.
    fn over(&self) -> BoxFuture<'_, ()>;

    /// It takes long, for this reason.
    fn is_tried(&self, why: &str);

    /// It does not any more.
    fn is_over(&self);
}

/// The object store, for one attempt.
#[derive(Clone)]
pub struct Uploads<P = Objects> {
    objects: P,
    urls: Arc<Urls>,
    patience: Option<Arc<dyn Patience>>,
}

/// The urls that an attempt has.
pub struct Urls {
    attempt: Attempt,
    say: Notify,
    stock: Mutex<Stock>,
    arrived: sync::Notify,
}

#[derive(Default)]
struct Stock {
    urls: HashMap<UrlPurpose, Vec<(PutUrl, Instant)>>,
    /// What the control plane has said that there will be none for.
    never: HashSet<UrlPurpose>,
}

impl Urls {
    /// None yet.
    #[must_use]
    pub fn new(attempt: Attempt, say: Notify) -> Self {
        Self { attempt, say, stock: Mutex::default(), arrived: sync::Notify::new() }
    }

    /// More have come.
    pub fn add(&self, urls: Vec<PutUrl>) {
        let now = Instant::now();
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        for url in urls {
            let until = now + Duration::from_millis(url.valid_ms);
            stock.never.remove(&url.purpose);
            let stock = stock.urls.entry(url.purpose).or_default();
            // The wire may deliver a message twice, and an object is put only once.
            if stock.iter().all(|(known, _)| known.key != url.key) {
                stock.push((url, until));
            }
        }
        drop(stock);
        self.arrived.notify_waiters();
    }

    /// The control plane has none for this and will have none.
    pub fn never(&self, purpose: UrlPurpose) {
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        stock.never.insert(purpose);
        drop(stock);
        self.arrived.notify_waiters();
    }

    /// One that can be used; waits until there is one, or it is known that there will be none.
    async fn take(&self, purpose: UrlPurpose) -> Result<PutUrl, BlobError> {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if let Some(url) = self.ready(purpose)? {
                return Ok(url);
            }
            (self.say)(NeedUrls { attempt: self.attempt, purpose, count: BATCH }.into());
            // More came, or the question or its answer was lost: look and ask again.
            let _ = tokio::time::timeout(ASK_AGAIN, arrived).await;
        }
    }

    fn ready(&self, purpose: UrlPurpose) -> Result<Option<PutUrl>, BlobError> {
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        if stock.never.contains(&purpose) {
            return Err(BlobError::Unwanted { purpose });
        }
        let Some(urls) = stock.urls.get_mut(&purpose) else { return Ok(None) };
        let now = Instant::now();
        urls.retain(|(_, until)| *until > now + SPARE);
        Ok((!urls.is_empty()).then(|| urls.remove(0).0))
    }
}

impl<P: PutObject> Uploads<P> {
    /// The store as one attempt uses it.
    #[must_use]
    pub fn new(objects: P, urls: Arc<Urls>) -> Self {
        Self { objects, urls, patience: None }
    }

    /// Gives up when `patience` is over; without it, never.
    #[must_use]
    pub fn with(mut self, patience: Arc<dyn Patience>) -> Self {
        self.patience = Some(patience);
        self
    }

    async fn keep_putting(
        &self,
        purpose: UrlPurpose,
        content: Content<'_>,
        trouble: &Mutex<Option<String>>,
    ) -> Result<String, BlobError> {
        let note = |error: &BlobError| {
            *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(sentence(error));
        };
        let mut pause = Duration::from_millis(200);
        loop {
            let url = self.urls.take(purpose).await?;
            let mut may_be_there = false;
            loop {
                match self.objects.put(&url.url, content).await {
                    Ok(()) => return Ok(url.key),
                    // An earlier try of ours arrived, and its answer was lost.
                    Err(BlobError::Exists { .. }) if may_be_there => return Ok(url.key),
                    Err(error) if error.is_passing() => {
                        note(&error);
                        may_be_there = true;
                        tracing::warn!(attempt = %self.urls.attempt, %error, "storing it failed; trying again");
                    }
                    // Expired meanwhile, or used for something else: another url, another object.
                    Err(error @ (BlobError::Refused { .. } | BlobError::Exists { .. })) => {
                        note(&error);
                        tracing::warn!(attempt = %self.urls.attempt, %error, "another URL is asked for");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(MAX_PAUSE);
                        break;
                    }
                    Err(error) => return Err(error),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
}

/// Takes back what was said of an object that took long, however it ends.
struct Tried<'a>(&'a dyn Patience);

impl Drop for Tried<'_> {
    fn drop(&mut self) {
        self.0.is_over();
    }
}

/// Says that it takes long, once it does. Never ends.
async fn say_if_long(patience: &dyn Patience, trouble: &Mutex<Option<String>>) -> Infallible {
    tokio::time::sleep(SAY_AFTER).await;
    let why = trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
    patience.is_tried(why.as_deref().unwrap_or("the control plane has not sent a url for it yet"));
    let _tried = Tried(patience);
    std::future::pending().await
}

impl<P: PutObject> Uploader for Uploads<P> {
    async fn put(&self, purpose: UrlPurpose, content: Content<'_>) -> Result<String, BlobError> {
        let trouble = Mutex::new(None);
        let put = self.keep_putting(purpose, content, &trouble);
        let Some(patience) = self.patience.as_deref() else { return put.await };
        tokio::select! {
            biased; // What is stored is stored, however late.
            put = put => put,
            () = patience.over() => Err(BlobError::CalledOff),
            never = say_if_long(patience, &trouble) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use gantry_model::{Epoch, RunId, Stage};
    use ulid::Ulid;

    use super::*;

    /// Answers as it is told, and notes what was put where.
    #[derive(Default)]
    struct Scripted {
        answers: Mutex<VecDeque<Result<(), BlobError>>>,
        tried: Mutex<Vec<String>>,
    }

    impl PutObject for Scripted {
        async fn put(&self, url: &str, _: Content<'_>) -> Result<(), BlobError> {
            self.tried.lock().unwrap().push(url.to_owned());
            self.answers.lock().unwrap().pop_front().unwrap_or(Ok(()))
        }
    }

    fn exists() -> Result<(), BlobError> {
        Err(BlobError::Exists { host: "h".to_owned() })
    }

    fn trouble() -> Result<(), BlobError> {
        Err(BlobError::Trouble { host: "h".to_owned(), status: 500 })
    }

    fn refused() -> Result<(), BlobError> {
        Err(BlobError::Refused { host: "h".to_owned(), status: 403 })
    }

    fn url(n: u64) -> PutUrl {
        let (key, url) = (format!("key-{n}"), format!("url-{n}"));
        PutUrl { purpose: UrlPurpose::Log, key, url, valid_ms: 3_600_000 }
    }

    /// Puts one object after the other with these urls in stock; gives their keys and what was tried.
    async fn put(
        objects: usize,
        urls: Vec<PutUrl>,
        answers: Vec<Result<(), BlobError>>,
    ) -> (Vec<String>, Vec<String>) {
        let run = RunId::from_ulid(Ulid::from_parts(1, 1));
        let attempt = Attempt { run, stage: Stage::Read, epoch: Epoch(1) };
        let stock = Arc::new(Urls::new(attempt, Arc::new(|_| {})));
        stock.add(urls);
        let scripted = Scripted { answers: Mutex::new(answers.into()), ..Scripted::default() };
        let store = Uploads::new(scripted, stock);
        let mut keys = Vec::new();
        for _ in 0..objects {
            let content = Bytes::from_static(b"x");
            keys.push(store.put(UrlPurpose::Log, Content::Bytes(&content)).await.unwrap());
        }
        let tried = store.objects.tried.into_inner().unwrap();
        (keys, tried)
    }

    #[tokio::test(start_paused = true)]
    async fn a_put_whose_answer_was_lost_is_found_again() {
        let (keys, tried) = put(1, vec![url(1), url(2)], vec![trouble(), exists()]).await;
        assert_eq!((keys, tried), (vec!["key-1".to_owned()], vec!["url-1".to_owned(); 2]));
    }

    /// What lies there was never put by this try: it is another part of the log.
    #[tokio::test(start_paused = true)]
    async fn an_object_that_was_there_before_is_not_taken_for_ours() {
        let (keys, _) = put(1, vec![url(1), url(2)], vec![exists()]).await;
        assert_eq!(keys, ["key-2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_url_that_came_twice_is_used_once() {
        let (keys, _) = put(2, vec![url(1), url(1), url(2)], Vec::new()).await;
        assert_eq!(keys, ["key-1", "key-2"]);
    }

    /// Whoever waits for it hears so at once, and so does whoever asks later.
    #[tokio::test(start_paused = true)]
    async fn an_url_that_will_never_come_is_not_waited_for() {
        let run = RunId::from_ulid(Ulid::from_parts(1, 1));
        let attempt = Attempt { run, stage: Stage::Read, epoch: Epoch(1) };
        let stock = Arc::new(Urls::new(attempt, Arc::new(|_| {})));
        let store = Uploads::new(Scripted::default(), Arc::clone(&stock));
        let content = Bytes::from_static(b"x");
        let put = || store.put(UrlPurpose::State, Content::Bytes(&content));
        let refusing = async { stock.never(UrlPurpose::State) };
        let (waited, ()) = tokio::join!(put(), refusing);
        for refused in [waited, put().await] {
            let purpose = UrlPurpose::State;
            assert!(matches!(refused, Err(BlobError::Unwanted { purpose: of }) if of == purpose));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_url_that_expired_is_replaced() {
        let (keys, tried) = put(1, vec![url(1), url(2)], vec![trouble(), refused()]).await;
        assert_eq!(keys, ["key-2"]);
        assert_eq!(tried, ["url-1", "url-1", "url-2"]);
    }
}
