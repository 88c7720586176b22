//! The wire that sessions run over, as seen by them: MQTT stays in [`mqtt`], HTTP in [`poll`].

#[cfg(feature = "fake")]
pub mod fake;
pub mod mqtt;
pub mod poll;

use std::io;

use bytes::Bytes;
use gantry_model::{PoolId, WorkerId};
use gantry_protocol::Namespace;

use crate::explain::{Exit, Explain};

/// Where messages to and from one worker go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// What topics begin with.
    pub namespace: Namespace,
    /// The pool.
    pub pool: PoolId,
    /// The worker.
    pub worker: WorkerId,
}

impl Address {
    /// `<namespace>/readonly/<pool>/<worker>`: what the worker reads.
    #[must_use]
    pub fn readonly(&self) -> String {
        format!("{}/readonly/{}/{}", self.namespace, self.pool, self.worker)
    }

    /// `<namespace>/writeonly/<pool>/<worker>`: what the worker writes.
    #[must_use]
    pub fn writeonly(&self) -> String {
        format!("{}/writeonly/{}/{}", self.namespace, self.pool, self.worker)
    }
}

/// Makes connections, one after the other.
pub trait Transport: Send + 'static {
    /// What it makes.
    type Link: Link;

    /// Connects and subscribes, within a bounded time. `will` is published for us if the connection
    /// breaks.
    fn connect(
        &mut self,
        address: &Address,
        will: Bytes,
    ) -> impl Future<Output = Result<Self::Link, LinkError>> + Send;
}

/// One connection.
pub trait Link: Send + 'static {
    /// Puts a message on the wire, or drops it when the wire takes no more: whoever must know that it
    /// arrived waits for an answer.
    fn publish(&mut self, payload: Bytes);

    /// The next message. An error ends the connection. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Result<Bytes, LinkError>> + Send;

    /// Waits until the other end has all that was published, then disconnects in good order.
    fn close(self) -> impl Future<Output = Result<(), LinkError>> + Send;
}

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nothing answers there.
    #[error("cannot reach {endpoint}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// The address is one that the transport cannot use.
    #[error("the broker's address {0} is an IPv6 address, which this version cannot use")]
    Address(String),
    /// It took too long.
    #[error("{0} accepts connections and then does not answer")]
    TimedOut(String),
    /// The proxy on the way does not let it through.
    #[error("the proxy {proxy} (HTTPS_PROXY) does not connect to {endpoint}")]
    Proxy {
        /// The proxy.
        proxy: String,
        /// Where to.
        endpoint: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What answers is not the pool's control plane.
    #[error("what answers at {endpoint} is not the pool's control plane")]
    Foreign {
        /// Where.
        endpoint: String,
        /// Why.
        source: rustls::Error,
    },
    /// The pool's certificate is not accepted.
    #[error("the pool's certificate is not accepted ({0})")]
    NotAdmitted(String),
    /// Refused for another reason.
    #[error("the server refuses the connection ({0})")]
    Refused(String),
    /// A message or subscription is not accepted.
    #[error("the broker admits the connection and then refuses {0}")]
    Forbidden(String),
    /// Nothing came for two keep-alives.
    #[error("nothing came from the server for two keep-alive intervals: the connection is dead")]
    Silent,
    /// Another launcher has connected as this worker.
    #[error(
        "another launcher connected as this worker, so the server ended the session of this one"
    )]
    TakenOver,
    /// The broker ended the session and said why.
    #[error("the server ended the session: {0}")]
    Ended(String),
    /// The other end closed.
    #[error("the server closed the connection")]
    Closed,
    /// Anything else.
    #[error("the connection failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The control plane did not answer the `hello`.
    #[error("the connection stands and the control plane does not answer")]
    NoWelcome,
    /// The control plane's signing certificate is used up.
    #[error("the control plane's signing certificate has expired")]
    LeafSpent,
}

impl Explain for LinkError {
    fn help(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unreachable { .. } => {
                "check that the control plane runs and that this host's DNS and firewall let it reach that address"
            }
            Self::Address(_) => "give the broker a name, and reset the pool for a token with it",
            Self::TimedOut(_) => {
                "check that the address is right and that no firewall or proxy swallows the traffic"
            }
            Self::Proxy { .. } => {
                "let the proxy CONNECT to that port, or name the broker's host in NO_PROXY if this host reaches it directly"
            }
            Self::Foreign { .. } => {
                "something intercepts TLS, the token is of another control plane, or this host's clock is wrong"
            }
            Self::NotAdmitted(_) => {
                "the pool may have been reset: get its new token and start again"
            }
            Self::Refused(_) => "look at the control plane's log",
            Self::Forbidden(_) => {
                "check the broker's access rules: the worker reads readonly/<pool>/<worker> and writes writeonly/<pool>/<worker>"
            }
            Self::TakenOver => {
                "if this machine's disk was copied, start the copy with an empty GANTRY_STATE_DIR, or wait until the other one has ended"
            }
            Self::Silent | Self::Closed | Self::Ended(_) | Self::Failed(_) => {
                "nothing: a new connection is tried; if it goes on, look at the network and the server's log"
            }
            Self::LeafSpent => "nothing: a new session brings a new one",
            Self::NoWelcome => "check that the control plane runs and reaches the same broker",
        })
    }

    fn exit_code(&self) -> Exit {
        match self {
            Self::NotAdmitted(_) => Exit::Refused,
            Self::Unreachable { .. }
            | Self::Address(_)
            | Self::TimedOut(_)
            | Self::Proxy { .. }
            | Self::Foreign { .. }
            | Self::Refused(_)
            | Self::TakenOver
            | Self::Ended(_)
            | Self::Forbidden(_)
            | Self::Silent
            | Self::Closed
            | Self::Failed(_)
            | Self::LeafSpent
            | Self::NoWelcome => Exit::Broker,
        }
    }
}
