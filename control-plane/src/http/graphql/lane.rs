//! Where queries are worked on: threads of their own, so that none holds up the rest of the server.
//!
//! Parsing, validation and the resolvers of large answers calculate without a pause, which no time limit
//! interrupts. On a thread of the runtime that would keep connections, the broker and leases waiting.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// So many queries at the same time, and no more.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    places: Arc<Semaphore>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It took too long, or too many others were before it.
    Late,
    /// It panicked, or the server stops.
    Failed,
}

impl Lane {
    pub(crate) fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)) }
    }

    /// Does something on a thread of its own, for so long at most. Whoever drops this ends it where it
    /// waits next; its place is taken until then.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        most: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let leave = CancellationToken::new();
        let _guard = leave.clone().drop_guard();
        let answer = async {
            let place = Arc::clone(&self.places).acquire_owned().await;
            let place = place.map_err(|_| NoAnswer::Failed)?;
            let runtime = Handle::current();
            let done = spawn_blocking(move || {
                let done = runtime.block_on(leave.run_until_cancelled(work));
                drop(place);
                done
            });
            done.await.ok().flatten().ok_or(NoAnswer::Failed)
        };
        timeout(most, answer).await.unwrap_or(Err(NoAnswer::Late))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    // The runtime has one thread: a query on it would keep the second one from ever beginning.
    #[tokio::test]
    async fn a_query_that_calculates_holds_up_nobody() {
        let lane = Lane::new(2);
        let (end, ended) = mpsc::channel::<()>();
        let slow = lane.run(MINUTE, async move { ended.recv() });
        let other = async {
            let answer = lane.run(MINUTE, async { 1 }).await;
            drop(end);
            answer
        };
        let (slow, other) = tokio::join!(slow, other);
        assert_eq!((slow.map(|it| it.is_err()), other), (Ok(true), Ok(1)));
    }

    #[tokio::test]
    async fn there_are_only_so_many_at_once_and_nobody_waits_for_ever() {
        let lane = Lane::new(1);
        let endless = lane.run(MINUTE, std::future::pending::<()>());
        let mut endless = Box::pin(endless);
        assert!(futures::poll!(&mut endless).is_pending());
        assert_eq!(lane.run(Duration::ZERO, async {}).await, Err(NoAnswer::Late));
        drop(endless);
        assert_eq!(lane.run(MINUTE, async {}).await, Ok(()));
    }
}
