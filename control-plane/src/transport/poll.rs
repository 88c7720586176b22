//! Long polls: the wire for launchers whose network lets nothing but HTTPS through.
//!
//! A launcher proves its pool once, by the certificate that it shows to the TLS layer or, where a proxy
//! inspects TLS and none gets through, by a signature over a challenge. It gets a token that opens one session, kept
//! in memory only. One request is held until there is something to say; what the launcher says comes with
//! requests of its own. A session without a request for two keep-alives is over, as one is whose
//! connection breaks.
//!
//! Whoever has proven nothing gets a hash and a short answer: [`requests`] has the limits.

mod challenges;
mod proof;
mod requests;
mod sessions;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use futures::future::BoxFuture;
use gantry_model::{PoolId, WorkerId};
use gantry_protocol::message::MAX_ENVELOPE;
use gantry_protocol::{Digest, Serial, poll};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::proof::Proofs;
use self::sessions::Sessions;
use super::{Admissions, Admitted, Arrived, Delivery, Identity, Transport, TransportError};
use crate::rate::{self, Rate};

/// The most sessions there are, and the most that one pool has. Each holds a connection of the listener.
const MAX_SESSIONS: usize = 24_000;
const MAX_PER_POOL: usize = 20_000;
const _: () = assert!(MAX_SESSIONS + 8192 <= crate::tls::MAX_CONNECTIONS);

/// How many messages from launchers wait for the control plane before senders are held back.
const ARRIVALS: usize = 256;

/// How often it is looked for sessions whose launchers are gone.
const SWEEP: Duration = Duration::from_secs(1);

/// How many sessions a pool opens at once: all of its workers come back after an outage, and some twice.
const POOL_BURST: u32 = 40_000;
/// One more that often, in milliseconds.
const POOL_EVERY_MS: u64 = 10;
/// How many pools are counted at the same time.
const POOLS: usize = 10_000;

/// The transport of launchers that poll. Clones are the same one.
#[derive(Clone)]
pub struct PollTransport {
    inner: Arc<Inner>,
}

struct Inner {
    admissions: Arc<dyn Admissions>,
    sessions: Sessions,
    proofs: Proofs,
    openings: Rate<PoolId>,
    arrivals: mpsc::Sender<Admitted>,
    arrived: tokio::sync::Mutex<Arrivals>,
    /// Wakes messages that wait for room in `arrivals`, to be checked again.
    changed: Notify,
    stopped: CancellationToken,
    /// Of lines about what was refused, by pool if one was proven or named.
    lines: Rate<Option<PoolId>>,
    began: Instant,
}

struct Arrivals {
    messages: mpsc::Receiver<Admitted>,
    /// Of sessions that ended without a word.
    wills: VecDeque<Admitted>,
    sweep_at: Instant,
}

impl PollTransport {
    /// Lets in whom `admissions` names. Launchers know this control plane by `authority`, PEM.
    ///
    /// # Errors
    /// When the authority is none, or OpenSSL has no random bytes.
    pub fn new(admissions: Arc<dyn Admissions>, authority: &str) -> Result<Self, TransportError> {
        let name = poll::authority_name(authority).ok_or(TransportError::Authority)?;
        Self::named(admissions, name)
    }

    fn named(admissions: Arc<dyn Admissions>, authority: Digest) -> Result<Self, TransportError> {
        let (arrivals, messages) = mpsc::channel(ARRIVALS);
        let began = Instant::now();
        let arrived = Arrivals { messages, wills: VecDeque::new(), sweep_at: began + SWEEP };
        Ok(Self {
            inner: Arc::new(Inner {
                proofs: Proofs::new(authority)?,
                admissions,
                sessions: Sessions::default(),
                openings: Rate::new(POOL_BURST, POOL_EVERY_MS, POOLS),
                arrivals,
                arrived: tokio::sync::Mutex::new(arrived),
                changed: Notify::new(),
                stopped: CancellationToken::new(),
                lines: rate::of_lines(),
                began,
            }),
        })
    }

    /// What the HTTPS listener serves. Requests of clients that showed a certificate have a
    /// [`Peer`](crate::tls::Peer).
    pub fn router(&self) -> Router {
        requests::router(Arc::clone(&self.inner))
    }

    /// Ends all sessions and what is held, lets nobody in and makes [`Transport::next`] end.
    pub fn stop(&self) {
        self.inner.stopped.cancel();
        self.inner.sessions.close(|_| true);
        self.inner.changed.notify_waiters();
    }
}

impl Inner {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the certificate is its pool's current one.
    fn is_admitted(&self, identity: &Identity) -> bool {
        self.admissions.pool_of(identity.serial.as_str()) == Some(identity.pool)
    }
}

impl Transport for PollTransport {
    fn publish(
        &self,
        pool: PoolId,
        worker: WorkerId,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<Delivery, TransportError>> {
        Box::pin(async move {
            if payload.len() > MAX_ENVELOPE {
                return Err(TransportError::TooLarge { size: payload.len(), limit: MAX_ENVELOPE });
            }
            if self.inner.stopped.is_cancelled() {
                return Err(TransportError::Stopped);
            }
            let is_meant = |to: &Identity| to.pool == pool && self.inner.is_admitted(to);
            Ok(self.inner.sessions.send(worker, is_meant, payload))
        })
    }

    fn next(&self) -> BoxFuture<'_, Option<Arrived>> {
        Box::pin(async move {
            let mut arrived = self.inner.arrived.lock().await;
            loop {
                let Arrivals { messages, wills, sweep_at } = &mut *arrived;
                let next = async {
                    match wills.pop_front() {
                        Some(will) => Some(will),
                        None => messages.recv().await,
                    }
                };
                let admitted = tokio::select! {
                    biased;
                    () = self.inner.stopped.cancelled() => return None,
                    // Before messages, of which there may always be one.
                    () = sleep_until(*sweep_at) => {
                        let lapsed = self.inner.sessions.lapse().into_iter();
                        let lapsed = lapsed.map(|(identity, payload)| Admitted { identity, payload });
                        wills.extend(lapsed);
                        *sweep_at = Instant::now() + SWEEP;
                        continue;
                    }
                    admitted = next => admitted?,
                };
                // It may have waited here while its certificate was revoked.
                if self.inner.is_admitted(&admitted.identity) {
                    let Identity { pool, worker, .. } = admitted.identity;
                    return Some(Arrived { pool, worker, payload: admitted.payload });
                }
            }
        })
    }

    fn close_sessions(&self, serial: &str) -> BoxFuture<'_, usize> {
        let serial = serial.parse::<Serial>();
        Box::pin(async move {
            let Ok(serial) = serial else { return 0 };
            let closed = self.inner.sessions.close(|identity| identity.serial == serial);
            self.inner.changed.notify_waiters();
            closed
        })
    }

    fn connected_at(&self, pool: PoolId, worker: WorkerId) -> Option<Instant> {
        self.inner.sessions.opened_at(pool, worker)
    }

    fn disconnect(&self, pool: PoolId, worker: WorkerId) {
        self.inner.sessions.take_over(pool, worker);
    }
}
