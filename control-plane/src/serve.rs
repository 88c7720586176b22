//! The tasks of a running control plane.

use std::ops::Deref;
use std::sync::Arc;

use futures::FutureExt as _;
use gantry_model::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::error::OperationError;
use crate::fleet::ingest::Ingest;
use crate::fleet::leases::Leases;
use crate::fleet::outbound::Outbound;
use crate::pools::revoked::Revoked;
use crate::queue::Queue;
use crate::retention::Retention;
use crate::transport::Transport;

/// The most messages that share one transaction.
const BATCH: usize = 64;
/// So late we are only when the machine or the process stood still.
const LATE_MS: u64 = 10_000;
/// After a failure it is tried again so much later.
const RETRY_MS: u64 = 2_000;

/// What a running server does by itself. Clones are the same.
#[derive(Clone)]
pub struct Service {
    core: Core,
    ingest: Ingest,
    outbound: Outbound,
    leases: Leases,
    queue: Queue,
    retention: Retention,
    revoked: Revoked,
}

impl Deref for Service {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Service {
    pub(crate) fn new(
        core: Core,
        ingest: Ingest,
        outbound: Outbound,
        leases: Leases,
        queue: Queue,
        retention: Retention,
        revoked: Revoked,
    ) -> Self {
        Self { core, ingest, outbound, leases, queue, retention, revoked }
    }

    /// Takes in messages, hands out stages and watches leases until `leave` is called or the broker
    /// ends. What is under way then is finished.
    pub async fn serve(&self, broker: Arc<dyn Transport>, leave: CancellationToken) {
        let mut tasks = JoinSet::new();
        // The end of one is the end of all.
        let each =
            || (self.clone(), Arc::clone(&broker), leave.clone(), leave.clone().drop_guard());
        let (this, wire, end, guard) = each();
        tasks.spawn(async move {
            let _guard = guard;
            this.listen(wire.as_ref(), &end).await;
        });
        let (this, _, end, guard) = each();
        tasks.spawn(async move {
            let _guard = guard;
            this.watch_over(&end).await;
        });
        let (this, _, end, guard) = each();
        tasks.spawn(async move {
            let _guard = guard;
            this.retention.forget_at_times(&end).await;
        });
        let (this, wire, end, guard) = each();
        tasks.spawn(async move {
            let _guard = guard;
            // A message that this cuts off is sent again, or asked for again.
            end.run_until_cancelled(this.outbound.publish_all(wire.as_ref())).await;
        });
        let (this, wire, end, guard) = each();
        tasks.spawn(async move {
            let _guard = guard;
            end.run_until_cancelled(this.close_revoked(wire.as_ref())).await;
        });
        let (this, _, end, guard) = each();
        tasks.spawn(async move {
            let _guard = guard;
            end.run_until_cancelled(this.store().replaced()).await;
        });
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(error = %error, "a task of the control plane failed");
            }
        }
    }

    async fn listen(&self, broker: &dyn Transport, leave: &CancellationToken) {
        loop {
            // Both are cancel safe.
            let Some(Some(first)) = leave.run_until_cancelled(broker.next()).await else { return };
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Some(Some(more)) = broker.next().now_or_never()
            {
                batch.push(more);
            }
            self.ingest.receive(batch).await;
        }
    }

    async fn close_revoked(&self, broker: &dyn Transport) {
        while let Some(serial) = self.revoked.next().await {
            let closed = broker.close_sessions(&serial).await;
            tracing::info!(serial, closed, "closed the sessions of a revoked certificate");
        }
    }

    async fn watch_over(&self, leave: &CancellationToken) {
        let mut expected = None;
        loop {
            if self.is_late(expected) {
                tracing::warn!("the server stood still for a while: every lease gets a fresh term");
                if let Err(error) = self.leases.interrupted().await {
                    tracing::error!(error = %error, "cannot give leases a fresh term");
                }
            }
            let next = self.attend().await.unwrap_or_else(|error| {
                tracing::error!(error = %error, "cannot look after the queue; trying again");
                Some(self.now().plus_ms(RETRY_MS))
            });
            let timer = async {
                match next {
                    Some(at) => self.clock().until(at).await,
                    None => std::future::pending().await,
                }
            };
            expected = next;
            // All three are cancel safe.
            tokio::select! {
                () = leave.cancelled() => return,
                () = self.woken() => {}
                () = timer => {}
            }
        }
    }

    /// Whether we come so late that launchers may have spoken and were not heard.
    fn is_late(&self, expected: Option<Timestamp>) -> bool {
        expected.is_some_and(|expected| self.now() > expected.plus_ms(LATE_MS))
    }

    /// Does all that is due, hands out what waits, and says when to look again at the latest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn attend(&self) -> Result<Option<Timestamp>, OperationError> {
        self.leases.expire().await?;
        let is_well = self.queue.schedule().await?;
        self.outbound.send_again().await?;
        let due = self.leases.next_due().await?;
        let retry = (!is_well).then(|| self.now().plus_ms(RETRY_MS));
        Ok(match (due, retry) {
            (Some(due), Some(retry)) => Some(due.min(retry)),
            (due, retry) => due.or(retry),
        })
    }
}
