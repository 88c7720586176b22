//! Certificates that count no more, and whose sessions the broker has yet to close.

use std::sync::Arc;

use gantry_model::PoolId;
use tokio::sync::{Mutex, mpsc};

/// How many certificates can be revoked faster than the broker closes their sessions.
const WAITING: usize = 64;

/// Serials whose sessions are to be closed. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Revoked {
    sender: mpsc::Sender<String>,
    receiver: Arc<Mutex<mpsc::Receiver<String>>>,
}

impl Revoked {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { sender, receiver: Arc::new(Mutex::new(receiver)) }
    }

    /// Has the sessions of a pool's former certificate closed.
    pub(crate) fn push(&self, pool: PoolId, serial: String) {
        // Without a broker there is no session to close, and nobody to wait for.
        if self.sender.try_send(serial).is_err() {
            tracing::error!(%pool, "too many certificates are revoked at once");
        }
    }

    /// The next serial. Cancel safe.
    pub(crate) async fn next(&self) -> Option<String> {
        self.receiver.lock().await.recv().await
    }
}
