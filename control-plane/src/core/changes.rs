//! What people change and may not be left half done.

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Changes under way. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    tasks: TaskTracker,
}

impl Changes {
    /// Does something to its end, though nobody waits for it any more.
    pub(crate) fn see_through<T: Send + 'static>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn(change)
    }

    /// Resolves when no change is under way. Call it when no more can come. Cancel safe.
    pub async fn changes_done(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
