//! Sessions over HTTPS long polls, for networks that let nothing else through.
//!
//! One request is always with the control plane, which answers it as soon as there is something to hear.
//! What is to be said goes in requests of its own, one after the other. The pool's certificate is shown to whoever asks
//! for one; where a proxy ends TLS in between, the pool's key signs a challenge instead.
//!
//! A request that breaks is made once more, since proxies drop connections as they like. When that breaks
//! too, or the answer does not come in time, the session is over and the next one begins with a `hello`.

mod failure;
mod requests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_protocol::poll::{self, Code, MAX_WILL, Opened, Opening, Proof, append, split};
use gantry_protocol::{Digest, PoolKey, PoolToken};
use reqwest::StatusCode;
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use self::requests::{Answer, Requests};
use super::{Address, Link, LinkError, Transport};
use crate::config::{BaseUrl, Config, Proxy};
use crate::session::{SessionError, Timing};
use crate::{http, tls};

/// How many messages wait for the wire. The exchange keeps fewer on their way.
const REQUESTS: usize = 256;
/// How many messages of the control plane's wait for us.
const ARRIVED: usize = 256;
/// How far apart two requests for messages are at least, when the first one brought none.
const APART: Duration = Duration::from_millis(250);
/// The shortest keep-alive.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How long a connection is kept for the next message: longer than heartbeats are apart, and shorter than a
/// server waits for a request.
const KEPT: Duration = Duration::from_secs(20);

/// Polls the control plane of one pool.
pub struct Poll {
    requests: Requests,
    token: PoolToken,
    key: PoolKey,
    /// What the control plane is called in a proof.
    authority: Digest,
    keep_alive: Duration,
    patience: Duration,
}

impl Poll {
    /// For the pool of `config`.
    ///
    /// # Errors
    /// When key, certificate or proxy cannot be used.
    pub fn new(config: &Config, base: &BaseUrl, timing: &Timing) -> Result<Self, SessionError> {
        let proxy = config.proxy.as_ref().filter(|it| it.is_for(base.host()));
        Self::to(base, (&config.token, &config.key), timing, &config.additional_roots, proxy)
    }

    /// For the pool of a token, whose control plane is at `base`: its certificate is of the token's authority
    /// or one of `roots`.
    ///
    /// # Errors
    /// When key, certificate or proxy cannot be used.
    pub fn to(
        base: &BaseUrl,
        (token, key): (&PoolToken, &PoolKey),
        timing: &Timing,
        roots: &[CertificateDer<'static>],
        proxy: Option<&Proxy>,
    ) -> Result<Self, SessionError> {
        let unusable = |why: &str| SessionError::Tls(rustls::Error::General(why.to_owned()));
        let roots = tls::roots(token.ca().as_bytes(), roots)?;
        let client = http::client(tls::as_pool(token, key, roots)?, proxy)
            .map_err(|error| unusable(&error.to_string()))?
            .connect_timeout(timing.patience)
            .pool_idle_timeout(KEPT)
            .pool_max_idle_per_host(2)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| unusable(&error.to_string()))?;
        let authority = poll::authority_name(token.ca());
        let requests = Requests::new(client, base.clone(), proxy.map(ToString::to_string));
        Ok(Self {
            requests,
            token: token.clone(),
            key: key.clone(),
            authority: authority.ok_or_else(|| unusable("the token's CA cannot be read"))?,
            keep_alive: timing.keep_alive.max(SHORTEST_KEEP_ALIVE),
            patience: timing.patience,
        })
    }

    async fn open(&self, address: &Address, will: &Bytes) -> Result<Opened, LinkError> {
        let will = std::str::from_utf8(will).ok().filter(|will| will.len() <= MAX_WILL);
        let mut opening = Opening {
            serial: self.token.serial().clone(),
            worker: address.worker,
            keep_alive_ms: u64::try_from(self.keep_alive.as_millis()).unwrap_or(u64::MAX),
            will: will.filter(|will| !will.is_empty()).map(str::to_owned),
            proof: None,
        };
        let challenge = match self.ask(&opening).await? {
            Ok(opened) => return Ok(opened),
            Err(challenge) => challenge,
        };
        let bytes = opening.proven(&self.authority, address.pool, &challenge);
        let signature = self.key.sign_pss(&bytes);
        let signature = signature.map_err(|error| LinkError::Failed(error.into()))?;
        opening.proof = Some(Proof { challenge, signature });
        let again = |_| LinkError::Refused("the challenge came too late".to_owned());
        self.ask(&opening).await?.map_err(again)
    }

    /// A session, or the challenge that has to be signed for one.
    async fn ask(&self, opening: &Opening) -> Result<Result<Opened, String>, LinkError> {
        let answer = self.requests.open(opening).await?;
        if answer.status == StatusCode::CREATED {
            let opened = serde_json::from_slice(&answer.body);
            return opened.map(Ok).map_err(|error| LinkError::Failed(error.into()));
        }
        let refusal = answer.refusal();
        match refusal.as_ref().map(|it| (it.code, it.challenge.as_ref())) {
            Some((Code::Prove, Some(challenge))) => Ok(Err(challenge.clone())),
            _ => Err(failure::refused(answer.status, refusal)),
        }
    }
}

impl fmt::Debug for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poll").field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl Transport for Poll {
    type Link = PollLink;

    async fn connect(&mut self, address: &Address, will: Bytes) -> Result<PollLink, LinkError> {
        let late = || failure::late(&self.requests.target);
        let opened = timeout(self.patience * 2, self.open(address, &will)).await;
        let opened = opened.unwrap_or_else(|_| Err(late()))?;
        // The control plane may hold a request for a shorter time than was asked for.
        let hold = Duration::from_millis(opened.hold_ms).min(self.keep_alive);
        let within = hold + self.keep_alive;
        let session = Arc::new(self.requests.session(&opened.token, within)?);
        let (arrived, receiver) = mpsc::channel(ARRIVED);
        let (to_say, said) = mpsc::channel(REQUESTS);
        let (taken, taken_by_server) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(Arc::clone(&session), arrived));
        tasks.spawn(speak(Arc::clone(&session), said, taken));
        Ok(PollLink {
            session,
            to_say,
            arrived: receiver,
            published: 0,
            taken: taken_by_server,
            tasks,
        })
    }
}

/// A session of long polls.
pub struct PollLink {
    session: Arc<requests::Session>,
    to_say: mpsc::Sender<Bytes>,
    arrived: mpsc::Receiver<Bytes>,
    /// How many messages were to be said.
    published: u64,
    /// How many of them the control plane has.
    taken: watch::Receiver<u64>,
    /// Hear and speak; each ends with why it ended. Aborted when the link is dropped.
    tasks: JoinSet<LinkError>,
}

impl fmt::Debug for PollLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollLink").field("published", &self.published).finish_non_exhaustive()
    }
}

impl Link for PollLink {
    fn publish(&mut self, payload: Bytes) {
        if self.to_say.try_send(payload).is_ok() {
            self.published += 1;
        } else {
            tracing::debug!("the wire takes no more: what must arrive is sent again");
        }
    }

    async fn next(&mut self) -> Result<Bytes, LinkError> {
        let Self { arrived, tasks, .. } = self;
        // Both are cancel safe.
        tokio::select! {
            biased; // What arrived before the end is heard before it.
            Some(payload) = arrived.recv() => Ok(payload),
            ended = tasks.join_next() => Err(match ended {
                Some(Ok(why)) => why,
                Some(Err(failed)) => LinkError::Failed(failed.into()),
                None => LinkError::Closed,
            }),
        }
    }

    async fn close(mut self) -> Result<(), LinkError> {
        let published = self.published;
        let taken = self.taken.wait_for(|taken| *taken >= published).await.is_ok();
        if !taken {
            return Err(self.next().await.err().unwrap_or(LinkError::Closed));
        }
        self.tasks.shutdown().await;
        self.session.leave().await
    }
}

/// Asks for messages until that fails.
async fn listen(session: Arc<requests::Session>, arrived: mpsc::Sender<Bytes>) -> LinkError {
    loop {
        let asked = Instant::now();
        let Answer { status, body, .. } = match session.fetch().await {
            Ok(answer) => answer,
            Err(why) => return why,
        };
        match status {
            StatusCode::OK => {
                let Some(messages) = split(&body).filter(|messages| !messages.is_empty()) else {
                    return LinkError::Refused("an answer that holds no messages".to_owned());
                };
                for message in messages {
                    if arrived.send(body.slice_ref(message)).await.is_err() {
                        return LinkError::Closed;
                    }
                }
            }
            // Somebody on the way may answer at once, again and again.
            StatusCode::NO_CONTENT => sleep_until(asked + APART).await,
            status => return failure::refused(status, requests::refusal(&body)),
        }
    }
}

/// Says what is to be said until that fails.
async fn speak(
    session: Arc<requests::Session>,
    mut said: mpsc::Receiver<Bytes>,
    taken: watch::Sender<u64>,
) -> LinkError {
    let mut left_over = None;
    loop {
        let first = match left_over.take() {
            Some(first) => first,
            None => match said.recv().await {
                Some(first) => first,
                // The link is dropped, and this task with it.
                None => return LinkError::Closed,
            },
        };
        let (mut body, mut count) = (Vec::new(), 0);
        append(&mut body, &mut count, &first);
        while let Ok(more) = said.try_recv() {
            if !append(&mut body, &mut count, &more) {
                left_over = Some(more);
                break;
            }
        }
        let answer = match session.say(body.into()).await {
            Ok(answer) => answer,
            Err(why) => return why,
        };
        if answer.status != StatusCode::NO_CONTENT {
            return failure::refused(answer.status, answer.refusal());
        }
        taken.send_modify(|taken| *taken += count as u64);
    }
}
