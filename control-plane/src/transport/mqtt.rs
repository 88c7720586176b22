//! The broker inside this process: rmqtt behind our own rules.
//!
//! rmqtt does TLS, sessions and acknowledgements. Who may connect and what may be said is decided by [`access`], and
//! nothing is routed from client to client: see [`null_router`]. What launchers say goes to a bounded
//! channel, what the control plane says straight to the session of the worker.
//!
//! It trusts rmqtt with little, because its defaults are open: a missing hook allows, the publish hook
//! runs before the access check, a hook cannot drop a message, wills skip the access check, a client
//! id is taken over by whoever names it, a session may outlive its connection for as long as the
//! client says. Each of these has a test in `tests/mqtt.rs`.

mod access;
mod null_router;
mod terms;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use gantry_model::{PoolId, WorkerId};
use gantry_protocol::message::MAX_ENVELOPE;
use gantry_protocol::{Namespace, Serial};
use rmqtt::context::ServerContext;
use rmqtt::hook::{Register, Type};
use rmqtt::net::{Builder, Listener};
use rmqtt::server::MqttServer;
use rmqtt::types::QoS;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::access::{AccessControl, Hooks};
use super::{Admissions, Admitted, Arrived, Delivery, Identity, Transport, TransportError};

/// How many messages from launchers wait for the control plane before senders are held back.
const ARRIVALS: usize = 256;

/// The largest packet: an envelope, its topic and properties.
const MAX_PACKET: u32 = 68 * 1024;
const _: () = assert!(MAX_PACKET as usize == MAX_ENVELOPE + 4096);

/// How many messages a launcher may leave unacknowledged.
const MAX_INFLIGHT: NonZeroU16 = NonZeroU16::new(32).expect("32 is not zero");

/// How many messages wait for a launcher that is slow to take them; then the oldest is dropped.
const MAX_QUEUE: usize = 128;

/// How long a client may take for the TLS handshake, and then for its CONNECT.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a client may leave what we send untaken.
const SEND: Duration = Duration::from_secs(5);

/// How long a session may take to notice that it is closed.
const CLOSE: Duration = Duration::from_secs(1);

/// The longest keep-alive, in seconds.
const MAX_KEEP_ALIVE: u16 = 300;

/// Where the embedded broker listens and what proves who it is.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Where to listen; port 0 is any free one.
    pub address: SocketAddr,
    /// What all topics begin with.
    pub namespace: Namespace,
    /// The file with the server's certificate, PEM.
    pub certificate: PathBuf,
    /// The file with the server's key, PEM.
    pub key: PathBuf,
    /// The file with the certificate of the authority that issues pool certificates, PEM.
    pub authority: PathBuf,
}

/// The broker inside this process.
pub struct EmbeddedBroker {
    access: Arc<AccessControl>,
    /// Its address is the one that is listened on.
    config: BrokerConfig,
    context: ServerContext,
    arrived: tokio::sync::Mutex<mpsc::Receiver<Admitted>>,
    /// How many listeners there were: rmqtt wants a number of its own for each.
    listeners: AtomicU16,
    tasks: Mutex<JoinSet<()>>,
}

/// A broker whose address is taken and who lets nobody in yet.
pub struct BoundBroker {
    listener: Listener,
    /// Its address is the one that is listened on.
    config: BrokerConfig,
}

impl EmbeddedBroker {
    /// Listens, so that the address is known; clients wait until the broker is started.
    ///
    /// # Errors
    /// When the address cannot be listened on, or certificate or key cannot be used.
    pub fn bind(config: BrokerConfig) -> Result<BoundBroker, TransportError> {
        let listener = listen(&config)?;
        let failed = |reason| TransportError::Start { address: config.address, reason };
        let address = listener.local_addr().map_err(|error| failed(format!("{error:#}")))?;
        Ok(BoundBroker { listener, config: BrokerConfig { address, ..config } })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.config.address
    }

    /// Reads the TLS files again and listens with them. Sessions stay; a client that connects in the
    /// very instant between the two listeners is turned away and tries again.
    ///
    /// # Errors
    /// When the files cannot be used: the former listener stays. Or when the address cannot be
    /// listened on again: call it once more.
    pub async fn renew(&self) -> Result<(), TransportError> {
        let elsewhere = SocketAddr::new(self.config.address.ip(), 0);
        drop(listen(&BrokerConfig { address: elsewhere, ..self.config.clone() })?);
        self.take_tasks().shutdown().await;
        if self.access.is_stopping() {
            return Err(TransportError::Stopped);
        }
        let listener = listen(&self.config)?;
        let number = self.listeners.fetch_add(1, Ordering::Relaxed) + 1;
        let tasks = serve(self.context.clone(), listener, number);
        *self.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        Ok(())
    }

    fn take_tasks(&self) -> JoinSet<()> {
        std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stops listening, closes all sessions and makes [`Transport::next`] end. The address is free after
    /// it.
    pub async fn stop(&self) {
        self.access.stop();
        self.take_tasks().shutdown().await;
        close(self.access.kick(|_| true)).await;
    }
}

impl BoundBroker {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.config.address
    }

    /// Lets in whom `admissions` names.
    pub async fn start(self, admissions: Arc<dyn Admissions>) -> EmbeddedBroker {
        let Self { listener, config } = self;
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let context = context().await;
        let access = Arc::new(AccessControl::new(config.namespace.clone(), admissions, arrivals));
        *context.extends.router_mut().await = Box::new(null_router::NullRouter::default());
        *context.extends.fitter_mgr_mut().await = Box::new(terms::Terms);
        let hooks = context.extends.hook_mgr().register();
        register(&*hooks, &access).await;

        let tasks = Mutex::new(serve(context.clone(), listener, 1));
        let (arrived, listeners) = (tokio::sync::Mutex::new(arrived), AtomicU16::new(1));
        EmbeddedBroker { access, config, context, arrived, listeners, tasks }
    }
}

/// Accepts connections. Those that were accepted do not end with the task.
fn serve(context: ServerContext, listener: Listener, number: u16) -> JoinSet<()> {
    let server = MqttServer::new(context).listener_by_id(listener, number).build();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // Not `start`, which ends the process when it fails.
        if let Err(error) = server.run().await {
            tracing::error!(error = format!("{error:#}"), "the broker has ended");
        }
    });
    tasks
}

async fn context() -> ServerContext {
    // The busy check would refuse launchers while this host is loaded by something else.
    ServerContext::new().busy_check_enable(false).build().await
}

/// Binds the listener and reads the TLS files.
fn listen(config: &BrokerConfig) -> Result<Listener, TransportError> {
    let address = config.address;
    let failed = |reason| TransportError::Start { address, reason };
    let file = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| failed(format!("{} is not UTF-8", path.display())))
    };
    let bound = Builder::new()
        .name("mqtt")
        .laddr(config.address)
        // A restart finds connections of its predecessor on the port.
        .reuseaddr(Some(true))
        .backlog(4096)
        .nodelay(true)
        .allow_anonymous(false)
        .tls_cross_certificate(true)
        .cert_cn_as_username(true)
        .collect_cert_info(true)
        .tls_cert(Some(file(&config.certificate)?))
        .tls_key(Some(file(&config.key)?))
        .tls_client_ca_certs(Some(file(&config.authority)?))
        .max_packet_size(MAX_PACKET)
        .max_clientid_len(26)
        .max_qos_allowed(QoS::AtLeastOnce)
        .max_inflight(MAX_INFLIGHT)
        .max_mqueue_len(MAX_QUEUE)
        .max_topic_aliases(0)
        .handshake_timeout(HANDSHAKE)
        .send_timeout(SEND)
        .allow_zero_keepalive(false)
        .max_keepalive(MAX_KEEP_ALIVE)
        // The outbox sends again; an old copy only fills the queue.
        .message_expiry_interval(Duration::from_mins(1))
        .session_expiry_interval(Duration::ZERO)
        .bind()
        .map_err(|error| match error.downcast::<io::Error>() {
            Ok(source) => TransportError::Listen { address, source },
            Err(error) => failed(format!("{error:#}")),
        })?;
    bound.tls().map_err(|error| failed(format!("{error:#}")))
}

async fn register(hooks: &dyn Register, access: &Arc<AccessControl>) {
    for point in [
        Type::ClientAuthenticate,
        Type::ClientConnected,
        Type::ClientDisconnected,
        Type::ClientSubscribeCheckAcl,
        Type::SessionSubscribed,
        Type::SessionUnsubscribed,
        Type::MessagePublish,
        Type::MessagePublishCheckAcl,
        Type::MessageDelivered,
        Type::MessageDropped,
    ] {
        hooks.add(point, Box::new(Hooks(Arc::clone(access)))).await;
    }
    hooks.start().await;
}

/// Waits until sessions have noticed that they are closed, and returns how many there were.
async fn close(kicked: Vec<tokio::sync::oneshot::Receiver<()>>) -> usize {
    let count = kicked.len();
    // A session that is stuck in sending ends with its send timeout; nothing it says counts any more.
    if tokio::time::timeout(CLOSE, join_all(kicked)).await.is_err() {
        tracing::warn!("a session did not end in time: its client takes nothing");
    }
    count
}

impl Transport for EmbeddedBroker {
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
            if self.access.is_stopping() {
                return Err(TransportError::Stopped);
            }
            Ok(self.access.send(pool, worker, payload))
        })
    }

    fn next(&self) -> BoxFuture<'_, Option<Arrived>> {
        Box::pin(async move {
            let mut arrived = self.arrived.lock().await;
            loop {
                let admitted = tokio::select! {
                    biased;
                    () = self.access.stopped() => return None,
                    admitted = arrived.recv() => admitted?,
                };
                // It may have waited here while its certificate was revoked.
                if self.access.is_admitted(&admitted.identity) {
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
            close(self.access.kick(|identity| identity.serial == serial)).await
        })
    }

    fn connected_at(&self, pool: PoolId, worker: WorkerId) -> Option<Instant> {
        self.access.connected_at(pool, worker)
    }

    fn disconnect(&self, pool: PoolId, worker: WorkerId) {
        // Who waits for them to notice, nobody does.
        drop(self.access.kick(|identity| identity.pool == pool && identity.worker == worker));
    }
}

#[cfg(test)]
mod tests {
    use super::context;

    #[tokio::test]
    async fn a_loaded_host_refuses_nobody() {
        assert!(!context().await.busy_check_enable);
    }
}
