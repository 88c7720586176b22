//! The sessions that are connected, by worker.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gantry_model::{PoolId, WorkerId};
use rmqtt::codec::types::Publish as Packet;
use rmqtt::types::{From, Id, Message, Publish, QoS, Reason, TopicName, Tx};
use rmqtt::utils::timestamp_millis;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::super::Identity;
use super::super::{HANDSHAKE, MAX_QUEUE};
use crate::transport::Delivery;

/// From how many handshakes on, lapsed ones are looked for.
const MANY_CLAIMS: usize = 1024;

/// Connected sessions, and handshakes on the way there.
#[derive(Default)]
pub(super) struct Connections {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    connections: HashMap<WorkerId, Connection>,
    /// Handshakes that passed the access control: until they are connections, no other pool gets the worker's id.
    claims: HashMap<WorkerId, Claim>,
}

struct Claim {
    pool: PoolId,
    at: Instant,
}

struct Connection {
    session: Id,
    since: Instant,
    identity: Identity,
    /// Where rmqtt's session takes what others want of it. Unbounded, so `waiting` bounds it.
    inbox: Tx,
    /// Set while the session is subscribed to its topic.
    qos: Option<QoS>,
    /// Messages that were put into the inbox and neither sent nor dropped yet.
    waiting: usize,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the worker's id for this pool while its handshake goes on. False if another pool has it.
    pub(super) fn claim(&self, identity: &Identity) -> bool {
        let mut inner = self.lock();
        let now = Instant::now();
        if inner.claims.len() >= MANY_CLAIMS {
            inner.claims.retain(|_, claim| now.duration_since(claim.at) < HANDSHAKE);
        }
        let connected = inner.connections.get(&identity.worker);
        let is_connected =
            connected.is_some_and(|it| it.identity.pool != identity.pool && it.is_live());
        let is_claimed = inner
            .claims
            .get(&identity.worker)
            .is_some_and(|it| it.pool != identity.pool && now.duration_since(it.at) < HANDSHAKE);
        if is_connected || is_claimed {
            return false;
        }
        inner.claims.insert(identity.worker, Claim { pool: identity.pool, at: now });
        true
    }

    /// A session has connected. An earlier one of the worker is replaced.
    pub(super) fn take(&self, session: &Id, identity: Identity, inbox: Tx) {
        let mut inner = self.lock();
        let worker = identity.worker;
        inner.claims.remove(&worker);
        let session = session.clone();
        let connection =
            Connection { session, since: Instant::now(), identity, inbox, qos: None, waiting: 0 };
        inner.connections.insert(worker, connection);
    }

    /// A session has ended.
    pub(super) fn leave(&self, session: &Id) {
        let Ok(worker) = session.client_id.parse::<WorkerId>() else { return };
        let mut inner = self.lock();
        // A later session of the worker stays.
        if inner.connections.get(&worker).is_some_and(|connection| connection.session == *session) {
            inner.connections.remove(&worker);
        }
    }

    /// Since when the worker has a session, if it has one in this pool.
    pub(super) fn since(&self, pool: PoolId, worker: WorkerId) -> Option<Instant> {
        let inner = self.lock();
        let connection = inner.connections.get(&worker)?;
        (connection.identity.pool == pool && connection.is_live()).then_some(connection.since)
    }

    /// A session has subscribed to its topic, or ceased to.
    pub(super) fn listen(&self, session: &Id, qos: Option<QoS>) {
        self.with(session, |connection| connection.qos = qos);
    }

    /// A message has left the inbox.
    pub(super) fn sent(&self, session: &Id) {
        self.with(session, |connection| connection.waiting = connection.waiting.saturating_sub(1));
    }

    fn with(&self, session: &Id, change: impl FnOnce(&mut Connection)) {
        let Ok(worker) = session.client_id.parse::<WorkerId>() else { return };
        let mut inner = self.lock();
        if let Some(connection) =
            inner.connections.get_mut(&worker).filter(|connection| connection.session == *session)
        {
            change(connection);
        }
    }

    /// Hands a message to the worker's session, if there is one that listens and keeps up.
    pub(super) fn send(
        &self,
        worker: WorkerId,
        is_meant: impl Fn(&Identity) -> bool,
        topic: String,
        payload: Bytes,
    ) -> Delivery {
        let mut inner = self.lock();
        let connection =
            inner.connections.get_mut(&worker).filter(|connection| is_meant(&connection.identity));
        let Some((connection, qos)) =
            connection.and_then(|connection| connection.qos.map(|qos| (connection, qos)))
        else {
            return Delivery::NotConnected;
        };
        if connection.waiting >= MAX_QUEUE {
            return Delivery::NotConnected;
        }
        let packet = Packet {
            dup: false,
            retain: false,
            qos,
            topic: TopicName::from(topic),
            packet_id: None,
            payload,
            properties: Some(rmqtt::codec::v5::PublishProperties::default()),
        };
        let publish = Publish::new(Box::new(packet), None, None, Some(timestamp_millis()));
        let from = From::from_system(connection.session.clone());
        match connection.inbox.unbounded_send(Message::Forward(from, publish)) {
            Ok(()) => {
                connection.waiting += 1;
                Delivery::Sent
            }
            Err(_) => Delivery::NotConnected,
        }
    }

    /// Tells the matching sessions to end; each receiver resolves when its session has heard it.
    pub(super) fn kick(&self, is_meant: impl Fn(&Identity) -> bool) -> Vec<oneshot::Receiver<()>> {
        let inner = self.lock();
        let meant = inner
            .connections
            .values()
            .filter(|connection| is_meant(&connection.identity) && connection.is_live());
        meant.filter_map(Connection::kick).collect()
    }
}

impl Connection {
    /// Whether the session has not ended without saying so, as it does when the connection breaks
    /// right after the handshake.
    fn is_live(&self) -> bool {
        !self.inbox.is_closed()
    }

    /// Tells the session to end; the receiver resolves when it has heard it.
    fn kick(&self) -> Option<oneshot::Receiver<()>> {
        let (heard, hearing) = oneshot::channel();
        let kick = Message::Kick(heard, self.session.clone(), true, true);
        let is_sent = self.inbox.unbounded_send(kick).is_ok();
        // rmqtt ignores a kick when nobody waits for the answer any more.
        end(&self.inbox);
        is_sent.then_some(hearing)
    }
}

/// Tells a session to end.
pub(super) fn end(inbox: &Tx) {
    // One that has ended need not be told.
    let _ = inbox.unbounded_send(Message::Closed(Reason::from_static("not admitted any more")));
}
