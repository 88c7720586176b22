//! Messages to launchers: signed, published, and published again until they are acknowledged.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_model::{PoolId, WorkerId};
use gantry_protocol::message::{
    Binding, Direction, Envelope, FromControlPlane, Grant, Message as _,
};

use crate::core::Core;
use crate::core::outbound::{OutboundMessage, RESEND_MS};
use crate::core::sessions::LauncherSession;
use crate::error::OperationError;
use crate::queue::Specs;
use crate::store::outbox::OutboxRow;
use crate::store::{StoreError, json, outbox};
use crate::transport::{Delivery, Transport};

/// After this time a message is sent again while the worker is not connected: its next hello voids it anyway.
const AWAY_MS: u64 = 60_000;
/// The most messages that are sent again at once.
const BATCH: u32 = 500;
/// How long a broker may take for one message.
const PUBLISH: Duration = Duration::from_secs(5);

/// A signed message, ready for the broker.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The pool.
    pub pool: PoolId,
    /// The worker.
    pub worker: WorkerId,
    /// The envelope.
    pub payload: Bytes,
}

/// Sends messages to launchers. Clones are the same.
#[derive(Clone)]
pub struct Outbound {
    core: Core,
    specs: Specs,
}

impl Deref for Outbound {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Outbound {
    pub(crate) fn new(core: Core, specs: Specs) -> Self {
        Self { core, specs }
    }

    /// The next message that wants to be published. Cancel safe up to the moment at which there is one.
    pub async fn next_outgoing(&self) -> Option<Outgoing> {
        loop {
            let message = self.outbound().next().await?;
            if let Some(outgoing) = self.encode(message).await {
                return Some(outgoing);
            }
        }
    }

    /// The same, if one waits already.
    pub async fn waiting_outgoing(&self) -> Option<Outgoing> {
        loop {
            let message = self.outbound().waiting().await?;
            if let Some(outgoing) = self.encode(message).await {
                return Some(outgoing);
            }
        }
    }

    async fn encode(&self, message: OutboundMessage) -> Option<Outgoing> {
        let OutboundMessage { worker: (pool, worker), session, id, seq, message } = message;
        let kind = message.kind();
        let message = match self.with_urls(message).await {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%pool, %worker, kind, error = %error, "no URLs for a grant yet");
                return None;
            }
        };
        let binding =
            Binding { direction: Direction::FromControlPlane, pool, worker, nonce: &session.nonce };
        let mut failed = None;
        let encoded = Envelope::encode(&message, id, seq, &binding, |bytes| {
            match session.leaf.key.sign(bytes) {
                Ok(signature) => signature.as_bytes().to_vec(),
                Err(error) => {
                    failed = Some(error);
                    Vec::new()
                }
            }
        });
        match (encoded, failed) {
            (Ok(payload), None) => Some(Outgoing { pool, worker, payload: payload.into() }),
            (Err(error), _) => {
                tracing::error!(%pool, %worker, kind, error = %error, "cannot spell a message");
                None
            }
            (Ok(_), Some(error)) => {
                tracing::error!(%pool, %worker, kind, error = %error, "cannot sign a message");
                None
            }
        }
    }

    /// A grant gets its urls when it leaves: they are worth something to whoever reads them, so they
    /// are in no database.
    async fn with_urls(
        &self,
        message: FromControlPlane,
    ) -> Result<FromControlPlane, OperationError> {
        match message {
            FromControlPlane::Grant(grant) => {
                let urls = self.specs.first_urls(grant.attempt).await?;
                Ok(FromControlPlane::Grant(Grant { attempt: grant.attempt, urls }))
            }
            other @ (FromControlPlane::Welcome(_)
            | FromControlPlane::Refused(_)
            | FromControlPlane::Offer(_)
            | FromControlPlane::Revoke(_)
            | FromControlPlane::Cancel(_)
            | FromControlPlane::Urls(_)
            | FromControlPlane::Drain(_)
            | FromControlPlane::Cycle(_)
            | FromControlPlane::Ack(_)
            | FromControlPlane::Unsupported(_)) => Ok(other),
        }
    }

    /// Publishes what waits, until the process ends. Cancel safe but for one message, which is sent
    /// again.
    pub(crate) async fn publish_all(&self, broker: &dyn Transport) {
        while let Some(outgoing) = self.next_outgoing().await {
            let Outgoing { pool, worker, payload } = outgoing;
            match tokio::time::timeout(PUBLISH, broker.publish(pool, worker, payload)).await {
                Ok(Ok(Delivery::Sent | Delivery::NotConnected)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%pool, %worker, error = %error, "cannot publish a message");
                }
                Err(_) => tracing::warn!(%pool, %worker, "the broker took too long for a message"),
            }
        }
    }

    /// Sends again what was not acknowledged in time.
    pub(crate) async fn send_again(&self) -> Result<(), OperationError> {
        let rows = {
            let mut conn = self.store().read().await?;
            outbox::list_due(&mut conn, self.now(), BATCH).await?
        };
        if rows.is_empty() {
            return Ok(());
        }
        let mut unit = self.begin().await?;
        let mut messages = Vec::new();
        for row in rows {
            let session = self.sessions().get(row.worker);
            let wait = if session.is_some() { RESEND_MS } else { AWAY_MS };
            let next_at = unit.now().plus_ms(wait);
            let is_kept = outbox::postpone(unit.conn(), &row, next_at).await?;
            if let Some(session) = session.filter(|_| is_kept) {
                messages.push(outbound(session, &row)?);
            }
        }
        unit.commit().await?;
        for message in messages {
            self.outbound().push(message);
        }
        Ok(())
    }
}

fn outbound(session: Arc<LauncherSession>, row: &OutboxRow) -> Result<OutboundMessage, StoreError> {
    let body: Box<serde_json::value::RawValue> = json("message", &row.body)?;
    let message = FromControlPlane::from_body(&row.kind, &body)
        .map_err(|_| StoreError::Value { kind: "message", text: row.kind.clone() })?;
    Ok(OutboundMessage { worker: row.worker, session, id: row.id, seq: Some(row.seq), message })
}
