//! The tasks of a running control plane.

use std::sync::Arc;

use futures::FutureExt as _;
use gantry_model::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::control_plane::ControlPlane;
use crate::error::OperationError;

/// The most messages that share one transaction.
const BATCH: usize = 64;
/// After a failure it is tried again so much later.
const RETRY_MS: u64 = 2_000;

impl ControlPlane {
    /// Takes in messages, hands out stages and watches leases until `leave` is called or the broker
    /// ends. What is under way then is finished.
    pub async fn serve(&self, broker: Arc<dyn Broker>, leave: CancellationToken) {
        let mut tasks = JoinSet::new();
        // The end of one is the end of all.
        let guard = leave.clone().drop_guard();
        tasks.spawn({
            let (this, broker, leave) = (self.clone(), Arc::clone(&broker), leave.clone());
            async move {
                let _end = leave.clone().drop_guard();
                this.listen(broker.as_ref(), &leave).await;
            }
        });
        tasks.spawn({
            let (this, leave) = (self.clone(), leave.clone());
            async move {
                let _end = leave.clone().drop_guard();
                this.watch_over(&leave).await;
            }
        });
        tasks.spawn({
            let this = self.clone();
            async move {
                let _end = leave.clone().drop_guard();
                // A message that this cuts off is sent again, or asked for again.
                leave.run_until_cancelled(this.publish_all(broker.as_ref())).await;
            }
        });
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(error = %error, "a task of the control plane failed");
            }
        }
        drop(guard);
    }

    async fn listen(&self, broker: &dyn Broker, leave: &CancellationToken) {
        loop {
            // Both are cancel safe.
            let Some(Some(first)) = leave.run_until_cancelled(broker.next()).await else { return };
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Some(Some(more)) = broker.next().now_or_never()
            {
                batch.push(more);
            }
            self.take_in(batch).await;
        }
    }

    async fn watch_over(&self, leave: &CancellationToken) {
        loop {
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
            // All three are cancel safe.
            tokio::select! {
                () = leave.cancelled() => return,
                () = self.inner.wake.notified() => {}
                () = timer => {}
            }
        }
    }

    /// Does all that is due, hands out what waits, and says when to look again at the latest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn attend(&self) -> Result<Option<Timestamp>, OperationError> {
        self.expire().await?;
        let is_well = self.schedule().await?;
        self.send_again().await?;
        let due = self.next_due().await?;
        let retry = (!is_well).then(|| self.now().plus_ms(RETRY_MS));
        Ok(match (due, retry) {
            (Some(due), Some(retry)) => Some(due.min(retry)),
            (due, retry) => due.or(retry),
        })
    }
}
