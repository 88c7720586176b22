//! Messages to launchers that wait to be signed and published.

use std::sync::Arc;

use gantry_model::MessageId;
use gantry_protocol::message::{FromControlPlane, Message as _};
use tokio::sync::{Mutex, mpsc};

use super::sessions::LauncherSession;
use crate::store::WorkerKey;

/// After this time without an acknowledgement a message is sent again.
pub(crate) const RESEND_MS: u64 = 5_000;
/// How many messages wait. What does not fit is published later, from the outbox.
const WAITING: usize = 4096;

/// A message to one session of a launcher.
pub(crate) struct OutboundMessage {
    pub(crate) worker: WorkerKey,
    pub(crate) session: Arc<LauncherSession>,
    pub(crate) id: MessageId,
    /// Of a kind that must not be lost: its place in their order.
    pub(crate) seq: Option<u64>,
    pub(crate) message: FromControlPlane,
}

/// Messages in the order in which they are to leave.
pub(crate) struct OutboundQueue {
    sender: mpsc::Sender<OutboundMessage>,
    receiver: Mutex<mpsc::Receiver<OutboundMessage>>,
}

impl OutboundQueue {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { sender, receiver: Mutex::new(receiver) }
    }

    /// Lets a message leave soon. When too many wait, one that must not be lost leaves later from the
    /// outbox, and another one is asked for again by whoever misses it.
    pub(crate) fn push(&self, message: OutboundMessage) {
        let kind = message.message.kind();
        if self.sender.try_send(message).is_err() {
            tracing::warn!(kind, "too many messages wait to be published");
        }
    }

    /// The next message. Cancel safe.
    pub(crate) async fn next(&self) -> Option<OutboundMessage> {
        self.receiver.lock().await.recv().await
    }

    /// The next message, if one waits.
    pub(crate) async fn waiting(&self) -> Option<OutboundMessage> {
        self.receiver.lock().await.try_recv().ok()
    }
}
