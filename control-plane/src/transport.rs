//! The wire between the control plane and the launchers.
//!
//! A transport admits a client of a pool alone, lets it speak only as one worker of that
//! pool, and hands on only what it may say. It keeps nothing: a message for a worker that is not
//! connected is dropped, because the outbox sends it again until it is acknowledged.
//!
//! [`Transport`] is all that the rest of the control plane sees; MQTT stays in [`mqtt`].

#[cfg(feature = "fake")]
pub mod fake;
pub mod mqtt;
pub mod poll;

mod several;

use bytes::Bytes;
use futures::future::BoxFuture;
use gantry_model::{PoolId, WorkerId};
use gantry_protocol::{PublicKey, Serial};
use tokio::time::Instant;

#[cfg(feature = "fake")]
pub use fake::FakeTransport;
pub use mqtt::{BrokerConfig, EmbeddedBroker};
pub use poll::PollTransport;
pub use several::Transports;

/// A message from a launcher. Its sender is proven by certificate and topic, its content is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// The pool whose certificate the sender has.
    pub pool: PoolId,
    /// The worker that the sender says it is; another member of the same pool could say so too.
    pub worker: WorkerId,
    /// At most [`gantry_protocol::message::MAX_ENVELOPE`] bytes.
    pub payload: Bytes,
}

/// Who a client is: what it proved of itself, and the worker that it says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    pool: PoolId,
    worker: WorkerId,
    serial: Serial,
}

/// A message that passed the access control.
struct Admitted {
    identity: Identity,
    payload: Bytes,
}

/// What became of a message to a launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It is on its way to a connected worker. Whether it arrived, the worker's `ack` says.
    Sent,
    /// The worker is not connected, or takes nothing, so the message was dropped.
    NotConnected,
}

/// Why a message could not be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// It is larger than a message may be.
    #[error("a message of {size} bytes to a worker: the limit is {limit}, more goes as an object")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The largest size in bytes.
        limit: usize,
    },
    /// The broker has ended.
    #[error("the broker has stopped: restart the server")]
    Stopped,
    /// The authority that launchers know the control plane by is no certificate.
    #[error("the authority's certificate cannot be read: restore ca.pem from a backup")]
    Authority,
    /// OpenSSL failed.
    #[error("OpenSSL has no random bytes")]
    Random(#[from] openssl::error::ErrorStack),
    /// Its address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where it was to listen.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The broker could not be started.
    #[error("cannot start the broker on {address}: {reason}")]
    Start {
        /// Where it was to listen.
        address: std::net::SocketAddr,
        /// Why not.
        reason: String,
    },
}

/// Carries messages between the control plane and the launchers' sessions.
pub trait Transport: Send + Sync + 'static {
    /// Sends a message to a worker, at once or not at all.
    fn publish(
        &self,
        pool: PoolId,
        worker: WorkerId,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<Delivery, TransportError>>;

    /// The next message from any launcher; `None` after the broker has stopped. Cancel safe. Senders
    /// are held back while nobody takes what they sent.
    fn next(&self) -> BoxFuture<'_, Option<Arrived>>;

    /// Closes all sessions of the certificate with this serial and returns how many there were. Call
    /// it after [`Admissions`] has ceased to admit the serial: then none of its messages is handed on
    /// from the return of this call, and no session of it comes back.
    fn close_sessions(&self, serial: &str) -> BoxFuture<'_, usize>;

    /// Since when the worker is connected, if it is.
    fn connected_at(&self, pool: PoolId, worker: WorkerId) -> Option<Instant>;

    /// Closes the worker's session, which has since come by another transport. Does not wait.
    fn disconnect(&self, pool: PoolId, worker: WorkerId);
}

/// Which certificates are admitted.
pub trait Admissions: Send + Sync + 'static {
    /// The pool whose current certificate has this serial, spelled as [`Serial`] does: lower-case hex
    /// without leading zeros. `None` means revoked or unknown. Called for each connection and for each
    /// message, so it answers from memory.
    ///
    /// [`Serial`]: gantry_protocol::Serial
    fn pool_of(&self, serial: &str) -> Option<PoolId>;

    /// The key of the pool's current certificate. Called for each connection that proves itself by a
    /// signature, so it answers from memory.
    fn key_of(&self, pool: PoolId) -> Option<PublicKey>;

    /// The pool in which a worker was seen before, so that no other pool connects as it while it is
    /// away. `None` if it is new. Called for each connection, so it answers from memory.
    fn owner_of(&self, _worker: WorkerId) -> Option<PoolId> {
        None
    }
}

/// How a certificate's serial number is spelled everywhere, as [`Serial`](gantry_protocol::Serial)
/// does. A text that is no serial number becomes the empty one, which no certificate has.
#[must_use]
pub fn serial_text(serial: &str) -> String {
    serial.parse::<gantry_protocol::Serial>().map(String::from).unwrap_or_default()
}
