//! A broker without a network, for tests: the same promises, and it can be told to fail.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use gantry_model::{PoolId, WorkerId};
use gantry_protocol::Serial;
use gantry_protocol::message::MAX_ENVELOPE;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Admissions, Arrived, Delivery, Transport, TransportError};

/// How many messages wait in either direction before senders are held back.
const CAPACITY: usize = 1024;

/// A broker without a network. Clones are the same broker.
#[derive(Clone)]
pub struct FakeTransport {
    inner: Arc<Inner>,
}

struct Inner {
    admissions: Arc<dyn Admissions>,
    sessions: Mutex<BTreeMap<(PoolId, WorkerId), Session>>,
    arrivals: mpsc::Sender<Arrived>,
    arrived: tokio::sync::Mutex<mpsc::Receiver<Arrived>>,
    is_dropping: AtomicBool,
}

struct Session {
    since: Instant,
    serial: Serial,
    outgoing: mpsc::Sender<Bytes>,
}

/// A launcher's end of a [`FakeTransport`].
pub struct FakeClient {
    broker: Arc<Inner>,
    serial: Serial,
    pool: PoolId,
    worker: WorkerId,
    incoming: mpsc::Receiver<Bytes>,
}

impl FakeTransport {
    /// A broker that admits what `admissions` names.
    #[must_use]
    pub fn new(admissions: Arc<dyn Admissions>) -> Self {
        let (arrivals, arrived) = mpsc::channel(CAPACITY);
        let arrived = tokio::sync::Mutex::new(arrived);
        let is_dropping = AtomicBool::new(false);
        let sessions = Mutex::default();
        Self { inner: Arc::new(Inner { admissions, sessions, arrivals, arrived, is_dropping }) }
    }

    /// Connects as a worker with the certificate of this serial; `None` if it is not admitted. A
    /// session of the same worker ends.
    #[must_use]
    pub fn connect(&self, serial: &str, worker: WorkerId) -> Option<FakeClient> {
        let serial: Serial = serial.parse().ok()?;
        let pool = self.inner.admissions.pool_of(serial.as_str())?;
        let (outgoing, incoming) = mpsc::channel(CAPACITY);
        let session = Session { since: Instant::now(), serial: serial.clone(), outgoing };
        self.inner.sessions().insert((pool, worker), session);
        Some(FakeClient { broker: Arc::clone(&self.inner), serial, pool, worker, incoming })
    }

    /// Makes the wire swallow everything, both ways, until it is set back: nobody is told.
    pub fn drop_everything(&self, is_dropping: bool) {
        self.inner.is_dropping.store(is_dropping, Ordering::SeqCst);
    }
}

impl Inner {
    fn sessions(&self) -> std::sync::MutexGuard<'_, BTreeMap<(PoolId, WorkerId), Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeClient {
    /// Sends a message to the control plane. False if the session has ended or may not send it.
    pub async fn send(&self, payload: impl Into<Bytes>) -> bool {
        let payload = payload.into();
        // The broker holds the other end for as long as the session is the worker's current one.
        let is_current = !self.incoming.is_closed();
        let is_admitted = self.broker.admissions.pool_of(self.serial.as_str()) == Some(self.pool);
        if !is_current || !is_admitted || payload.len() > MAX_ENVELOPE {
            return false;
        }
        if self.broker.is_dropping.load(Ordering::SeqCst) {
            return true;
        }
        let arrived = Arrived { pool: self.pool, worker: self.worker, payload };
        self.broker.arrivals.send(arrived).await.is_ok()
    }

    /// The next message from the control plane; `None` after the session has ended. Cancel safe.
    pub async fn receive(&mut self) -> Option<Bytes> {
        self.incoming.recv().await
    }

    /// The pool that the client's certificate belongs to.
    #[must_use]
    pub const fn pool(&self) -> PoolId {
        self.pool
    }

    /// The worker that the client is.
    #[must_use]
    pub const fn worker(&self) -> WorkerId {
        self.worker
    }
}

impl Drop for FakeClient {
    fn drop(&mut self) {
        self.incoming.close();
        let mut sessions = self.broker.sessions();
        let key = (self.pool, self.worker);
        // A later session of the same worker stays.
        if sessions.get(&key).is_some_and(|session| session.outgoing.is_closed()) {
            sessions.remove(&key);
        }
    }
}

impl Transport for FakeTransport {
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
            let outgoing =
                self.inner.sessions().get(&(pool, worker)).map(|session| session.outgoing.clone());
            let Some(outgoing) = outgoing else { return Ok(Delivery::NotConnected) };
            if self.inner.is_dropping.load(Ordering::SeqCst) {
                return Ok(Delivery::Sent);
            }
            // A full queue loses the message, as a real wire may.
            Ok(match outgoing.try_send(payload) {
                Ok(()) => Delivery::Sent,
                Err(mpsc::error::TrySendError::Full(_) | mpsc::error::TrySendError::Closed(_)) => {
                    Delivery::NotConnected
                }
            })
        })
    }

    fn next(&self) -> BoxFuture<'_, Option<Arrived>> {
        Box::pin(async move { self.inner.arrived.lock().await.recv().await })
    }

    fn close_sessions(&self, serial: &str) -> BoxFuture<'_, usize> {
        let serial = serial.parse::<Serial>();
        Box::pin(async move {
            let Ok(serial) = serial else { return 0 };
            let mut sessions = self.inner.sessions();
            let before = sessions.len();
            sessions.retain(|_, session| session.serial != serial);
            before - sessions.len()
        })
    }

    fn connected_at(&self, pool: PoolId, worker: WorkerId) -> Option<Instant> {
        self.inner.sessions().get(&(pool, worker)).map(|session| session.since)
    }

    fn disconnect(&self, pool: PoolId, worker: WorkerId) {
        self.inner.sessions().remove(&(pool, worker));
    }
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;

    struct One(Mutex<Option<PoolId>>);

    impl Admissions for One {
        fn pool_of(&self, serial: &str) -> Option<PoolId> {
            self.0.lock().unwrap().filter(|_| serial == "a")
        }

        fn key_of(&self, _: PoolId) -> Option<gantry_protocol::PublicKey> {
            None
        }
    }

    #[tokio::test]
    async fn it_carries_both_ways_until_the_serial_is_revoked() {
        let pool = PoolId::from_ulid(Ulid::from_parts(1, 1));
        let worker = WorkerId::from_ulid(Ulid::from_parts(1, 2));
        let admissions = Arc::new(One(Mutex::new(Some(pool))));
        let broker = FakeTransport::new(admissions.clone());
        assert!(broker.connect("b", worker).is_none());
        let nobody = broker.publish(pool, worker, Bytes::from_static(b"lost")).await.unwrap();
        assert_eq!(nobody, Delivery::NotConnected);

        let mut client = broker.connect("0A", worker).unwrap();
        assert!(client.send("up").await);
        let payload = Bytes::from_static(b"up");
        assert_eq!(broker.next().await, Some(Arrived { pool, worker, payload }));
        let sent = broker.publish(pool, worker, Bytes::from_static(b"down")).await.unwrap();
        assert_eq!(sent, Delivery::Sent);
        assert_eq!(client.receive().await.unwrap(), "down");

        *admissions.0.lock().unwrap() = None;
        assert_eq!(broker.close_sessions("a").await, 1);
        assert!(!client.send("late").await);
        assert_eq!(client.receive().await, None);
    }

    #[tokio::test]
    async fn a_later_session_of_a_worker_survives_the_end_of_the_earlier() {
        let pool = PoolId::from_ulid(Ulid::from_parts(1, 1));
        let worker = WorkerId::from_ulid(Ulid::from_parts(1, 2));
        let broker = FakeTransport::new(Arc::new(One(Mutex::new(Some(pool)))));
        let earlier = broker.connect("a", worker).unwrap();
        let mut later = broker.connect("a", worker).unwrap();
        drop(earlier);
        let sent = broker.publish(pool, worker, Bytes::from_static(b"on")).await.unwrap();
        assert_eq!(sent, Delivery::Sent);
        assert_eq!(later.receive().await.unwrap(), "on");
    }
}
