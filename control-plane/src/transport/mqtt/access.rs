//! Who may connect, and what they may say and hear.

mod connections;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use gantry_model::{PoolId, WorkerId};
use gantry_protocol::message::MAX_ENVELOPE;
use gantry_protocol::{Namespace, Serial};
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType};
use rmqtt::session::Session;
use rmqtt::types::{
    AuthResult, ConnectInfo, FromType, Publish, PublishAclResult, QoS, Subscribe,
    SubscribeAclResult,
};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::connections::Connections;
use super::super::{Admissions, Admitted, Delivery, Identity};
use crate::rate::{self, Rate};

/// Why a client was turned away or a message refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("no certificate of a pool, or one that cannot be read")]
    Certificate,
    #[error("the certificate is revoked or unknown: the pool was reset or deleted")]
    Revoked,
    #[error("the client id is not a worker id")]
    ClientId,
    #[error("the worker belongs to another pool")]
    ForeignWorker,
    #[error("a protocol other than MQTT 5")]
    Protocol,
    #[error("a will that is not a message of the worker's own")]
    Will,
    #[error("a topic that is not the worker's own")]
    Topic,
    #[error("a retained message or one of QoS 2")]
    Terms,
    #[error("a message larger than an envelope")]
    TooLarge,
    #[error("the broker is stopping")]
    Stopping,
}

/// The rules, and the sessions that passed them.
pub(super) struct AccessControl {
    namespace: Namespace,
    admissions: Arc<dyn Admissions>,
    arrivals: mpsc::Sender<Admitted>,
    connections: Connections,
    /// Wakes messages that wait for room in `arrivals`, to be checked again.
    changed: Notify,
    is_stopping: AtomicBool,
    stopped: CancellationToken,
    /// Of lines about what was refused, by the pool that its sender's certificate names.
    lines: Rate<Option<PoolId>>,
    began: Instant,
}

impl AccessControl {
    pub(super) fn new(
        namespace: Namespace,
        admissions: Arc<dyn Admissions>,
        arrivals: mpsc::Sender<Admitted>,
    ) -> Self {
        Self {
            namespace,
            admissions,
            arrivals,
            connections: Connections::default(),
            changed: Notify::new(),
            is_stopping: AtomicBool::new(false),
            stopped: CancellationToken::new(),
            lines: rate::of_lines(),
            began: Instant::now(),
        }
    }

    /// Lets nobody and nothing in from now on.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.stopped.cancel();
        self.changed.notify_waiters();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Resolves after [`AccessControl::stop`]. Cancel safe.
    pub(super) async fn stopped(&self) {
        self.stopped.cancelled().await;
    }

    /// Whether the certificate is its pool's current one.
    pub(super) fn is_admitted(&self, identity: &Identity) -> bool {
        self.admissions.pool_of(identity.serial.as_str()) == Some(identity.pool)
    }

    /// Tells the matching sessions to end; each receiver resolves when its session has heard it.
    pub(super) fn kick(&self, is_meant: impl Fn(&Identity) -> bool) -> Vec<oneshot::Receiver<()>> {
        let kicked = self.connections.kick(is_meant);
        self.changed.notify_waiters();
        kicked
    }

    /// Hands a message to the worker's session, unless its certificate is revoked and it only has to
    /// notice yet.
    pub(super) fn send(&self, pool: PoolId, worker: WorkerId, payload: Bytes) -> Delivery {
        let topic = self.topic("readonly", pool, worker);
        let is_meant = |to: &Identity| to.pool == pool && self.is_admitted(to);
        self.connections.send(worker, is_meant, topic, payload)
    }

    /// Since when the worker is connected, if it is.
    pub(super) fn connected_at(&self, pool: PoolId, worker: WorkerId) -> Option<Instant> {
        self.connections.since(pool, worker)
    }

    fn topic(&self, direction: &str, pool: PoolId, worker: WorkerId) -> String {
        format!("{}/{direction}/{pool}/{worker}", self.namespace)
    }

    /// Who a client is, if it may be connected at this moment.
    fn identify(&self, connect: &ConnectInfo) -> Result<Identity, Refusal> {
        let ConnectInfo::V5(id, connect) = connect else { return Err(Refusal::Protocol) };
        let certificate = connect.cert.as_ref().ok_or(Refusal::Certificate)?;
        let serial = certificate.serial.as_ref().and_then(|serial| serial.parse().ok());
        let serial: Serial = serial.ok_or(Refusal::Certificate)?;
        let pool = certificate.common_name.as_ref().and_then(|name| name.parse().ok());
        let pool: PoolId = pool.ok_or(Refusal::Certificate)?;
        let worker = id.client_id.parse().map_err(|_| Refusal::ClientId)?;
        if self.is_stopping() {
            return Err(Refusal::Stopping);
        }
        let identity = Identity { pool, worker, serial };
        if self.is_admitted(&identity) { Ok(identity) } else { Err(Refusal::Revoked) }
    }

    /// Whether a client may connect.
    fn authenticate(&self, connect: &ConnectInfo) -> Result<(), Refusal> {
        let identity = self.identify(connect)?;
        let owner = self.admissions.owner_of(identity.worker);
        // rmqtt ends a session when another client connects with its id, whoever that is.
        if owner.is_some_and(|owner| owner != identity.pool) || !self.connections.claim(&identity) {
            return Err(Refusal::ForeignWorker);
        }
        // rmqtt publishes wills without asking, so they are looked at here.
        let ConnectInfo::V5(_, connect) = connect else { return Err(Refusal::Protocol) };
        match &connect.last_will {
            None => Ok(()),
            Some(will) => self
                .check(&identity, &will.topic, will.retain, will.qos, will.message.len())
                .map_err(|_| Refusal::Will),
        }
    }

    /// Whether a client may say this.
    fn check(
        &self,
        identity: &Identity,
        topic: &str,
        is_retained: bool,
        qos: QoS,
        size: usize,
    ) -> Result<(), Refusal> {
        if topic != self.topic("writeonly", identity.pool, identity.worker) {
            Err(Refusal::Topic)
        } else if is_retained || qos == QoS::ExactlyOnce {
            Err(Refusal::Terms)
        } else if size > MAX_ENVELOPE {
            Err(Refusal::TooLarge)
        } else {
            Ok(())
        }
    }

    /// Checks a message and hands it to the control plane, waiting for room: until then its client
    /// gets no acknowledgement and is read no further.
    async fn accept(&self, connect: &ConnectInfo, publish: &Publish) -> Result<(), Refusal> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let identity = self.identify(connect)?;
            let (retain, qos) = (publish.retain, publish.qos);
            self.check(&identity, &publish.topic, retain, qos, publish.payload.len())?;
            tokio::select! {
                room = self.arrivals.reserve() => {
                    let room = room.map_err(|_| Refusal::Stopping)?;
                    room.send(Admitted { identity, payload: publish.payload.clone() });
                    return Ok(());
                }
                () = changed => {}
            }
        }
    }

    /// Says in the log that something was refused, as often as one pool may cause that.
    fn tell(&self, client: &str, connect: Option<&ConnectInfo>, refusal: Refusal, what: &str) {
        let pool = connect.and_then(pool_named);
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(turn) = self.lines.take(pool, now) {
            let (pool, unsaid) = (pool.map(|pool| pool.to_string()), turn.held_back);
            tracing::warn!(client, pool, %refusal, unsaid, "{what} was refused");
        }
    }

    /// [`AccessControl::accept`] for a session, which says so when it is refused.
    async fn accept_from(&self, session: &Session, publish: &Publish) -> Result<(), Refusal> {
        let connect = session.connect_info().await.map_err(|_| Refusal::Certificate)?;
        let accepted = self.accept(&connect, publish).await;
        if let Err(refusal) = accepted {
            self.tell(&session.id.to_string(), Some(&connect), refusal, "a message");
        }
        accepted
    }

    /// Whether a client may subscribe to this.
    fn check_subscription(
        &self,
        connect: &ConnectInfo,
        subscribe: &Subscribe,
    ) -> Result<QoS, Refusal> {
        let identity = self.identify(connect)?;
        if *subscribe.topic_filter == *self.topic("readonly", identity.pool, identity.worker) {
            Ok(subscribe.opts.qos())
        } else {
            Err(Refusal::Topic)
        }
    }

    /// Remembers a session that has connected. One whose certificate was revoked since it was
    /// authenticated is ended: [`AccessControl::kick`] may have run just before it was here to be found.
    async fn connected(&self, session: &Session) {
        let entry = session.scx.extends.shared().await.entry(session.id.clone());
        let Some(inbox) = entry.tx() else { return };
        let Ok(connect) = session.connect_info().await else { return };
        match self.identify(&connect) {
            Ok(identity) => {
                self.connections.take(&session.id, identity.clone(), inbox.clone());
                if !self.is_admitted(&identity) || self.is_stopping() {
                    connections::end(&inbox);
                }
            }
            Err(_) => connections::end(&inbox),
        }
    }
}

/// The pool that a client's certificate names, whether or not it is admitted.
fn pool_named(connect: &ConnectInfo) -> Option<PoolId> {
    let ConnectInfo::V5(_, connect) = connect else { return None };
    connect.cert.as_ref()?.common_name.as_ref()?.parse().ok()
}

/// The access control as rmqtt calls it. Whatever it does not decide is refused: rmqtt takes silence for a yes.
pub(super) struct Hooks(pub(super) Arc<AccessControl>);

impl Hooks {
    fn authenticate(&self, connect: &ConnectInfo) -> AuthResult {
        match self.0.authenticate(connect) {
            // Never a superuser: those skip the access checks.
            Ok(()) => AuthResult::Allow(false, None),
            Err(refusal) => {
                self.0.tell(&connect.id().to_string(), Some(connect), refusal, "a client");
                AuthResult::NotAuthorized
            }
        }
    }

    async fn subscribe(&self, session: &Session, subscribe: &Subscribe) -> SubscribeAclResult {
        let connect = session.connect_info().await.ok();
        let checked = match &connect {
            Some(connect) => self.0.check_subscription(connect, subscribe),
            None => Err(Refusal::Certificate),
        };
        match checked {
            Ok(qos) => SubscribeAclResult::new_success(qos, None),
            Err(refusal) => {
                let client = session.id.to_string();
                self.0.tell(&client, connect.as_deref(), refusal, "a subscription");
                SubscribeAclResult::new_failure(SubscribeAckReason::NotAuthorized)
            }
        }
    }

    async fn publish(&self, session: &Session, publish: &Publish) -> PublishAclResult {
        match self.0.accept_from(session, publish).await {
            Ok(()) => PublishAclResult::allow(),
            Err(refusal) => {
                let is_over = matches!(refusal, Refusal::Revoked | Refusal::Stopping);
                PublishAclResult::rejected(is_over, None)
            }
        }
    }
}

#[async_trait]
impl Handler for Hooks {
    async fn hook(&self, param: &Parameter, decided: Option<HookResult>) -> ReturnType {
        if let Parameter::ClientAuthenticate(connect) = param {
            return (false, Some(HookResult::AuthResult(self.authenticate(connect))));
        }
        if let Parameter::ClientSubscribeCheckAcl(session, subscribe) = param {
            let result = self.subscribe(session, subscribe).await;
            return (false, Some(HookResult::SubscribeAclResult(result)));
        }
        // The access check is the last word on a message, and the only place where it is taken: the
        // publish hook before it also sees what will be refused.
        if let Parameter::MessagePublishCheckAcl(session, publish) = param {
            let result = self.publish(session, publish).await;
            return (false, Some(HookResult::PublishAclResult(result)));
        }
        // Wills pass this hook alone.
        if let Parameter::MessagePublish(Some(session), from, publish) = param
            && matches!(from.typ(), FromType::LastWill)
        {
            // A refusal is logged; the router has nowhere to send the will to.
            let _ = self.0.accept_from(session, publish).await;
        }
        if let Parameter::ClientConnected(session) = param {
            self.0.connected(session).await;
        }
        if let Parameter::ClientDisconnected(session, _) = param {
            self.0.connections.leave(&session.id);
        }
        if let Parameter::SessionSubscribed(session, subscribe) = param {
            self.0.connections.listen(&session.id, Some(subscribe.opts.qos()));
        }
        if let Parameter::SessionUnsubscribed(session, _) = param {
            self.0.connections.listen(&session.id, None);
        }
        if let Parameter::MessageDelivered(session, _, _) = param {
            self.0.connections.sent(&session.id);
        }
        if let Parameter::MessageDropped(Some(to), _, _, _) = param {
            self.0.connections.sent(to);
        }
        (true, decided)
    }
}
