//! Several transports side by side. A worker is reached through the one that it came by last.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all, select_all};
use gantry_model::{PoolId, WorkerId};
use tokio::time::Instant;

use super::{Arrived, Delivery, Transport, TransportError};

/// Several transports as one.
pub struct Transports {
    all: Vec<Arc<dyn Transport>>,
    /// Whose turn it is to be asked first, so that a busy one does not silence the others.
    first: AtomicUsize,
}

impl Transports {
    /// All of these.
    #[must_use]
    pub fn new(all: Vec<Arc<dyn Transport>>) -> Self {
        Self { all, first: AtomicUsize::new(0) }
    }

    /// The one that the worker came by last. Its sessions elsewhere end: they are of a launcher that it
    /// replaced, or of a connection that nobody has noticed to be dead.
    fn of(&self, pool: PoolId, worker: WorkerId) -> Option<&dyn Transport> {
        let connected = self.all.iter().filter_map(|transport| {
            let since = transport.connected_at(pool, worker)?;
            Some((since, transport.as_ref()))
        });
        let mut newest: Option<(Instant, &dyn Transport)> = None;
        for (since, transport) in connected {
            match newest {
                Some((other, _)) if other > since => transport.disconnect(pool, worker),
                Some((_, other)) => {
                    other.disconnect(pool, worker);
                    newest = Some((since, transport));
                }
                None => newest = Some((since, transport)),
            }
        }
        newest.map(|(_, transport)| transport)
    }
}

impl Transport for Transports {
    fn publish(
        &self,
        pool: PoolId,
        worker: WorkerId,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<Delivery, TransportError>> {
        // One that knows of no session says so itself, and what it says of the message.
        match self.of(pool, worker).or_else(|| self.all.first().map(AsRef::as_ref)) {
            Some(transport) => transport.publish(pool, worker, payload),
            None => Box::pin(std::future::ready(Ok(Delivery::NotConnected))),
        }
    }

    fn next(&self) -> BoxFuture<'_, Option<Arrived>> {
        Box::pin(async move {
            let first = self.first.fetch_add(1, Ordering::Relaxed);
            let mut left: Vec<_> = self.all.iter().map(|transport| transport.next()).collect();
            if !left.is_empty() {
                let count = left.len();
                left.rotate_left(first % count);
            }
            while !left.is_empty() {
                let (arrived, _, others) = select_all(left).await;
                if arrived.is_some() {
                    return arrived;
                }
                left = others;
            }
            None
        })
    }

    fn close_sessions(&self, serial: &str) -> BoxFuture<'_, usize> {
        let closing: Vec<_> = self.all.iter().map(|it| it.close_sessions(serial)).collect();
        Box::pin(async move { join_all(closing).await.into_iter().sum() })
    }

    fn connected_at(&self, pool: PoolId, worker: WorkerId) -> Option<Instant> {
        self.all.iter().filter_map(|transport| transport.connected_at(pool, worker)).max()
    }

    fn disconnect(&self, pool: PoolId, worker: WorkerId) {
        for transport in &self.all {
            transport.disconnect(pool, worker);
        }
    }
}
