//! A clock for tests.

use futures::future::BoxFuture;
use gantry_model::Timestamp;
use tokio::sync::watch;

use super::Clock;

/// A clock that stands still until it is told to go on.
#[derive(Debug)]
pub struct FakeClock {
    now: watch::Sender<u64>,
}

impl FakeClock {
    /// A clock that shows this instant.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self { now: watch::Sender::new(now.0) }
    }

    /// Lets time pass.
    pub fn advance_ms(&self, ms: u64) {
        self.now.send_modify(|now| *now += ms);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp(*self.now.borrow())
    }

    fn until(&self, at: Timestamp) -> BoxFuture<'_, ()> {
        let mut shown = self.now.subscribe();
        Box::pin(async move {
            // The sender lives as long as the borrow of self.
            let _ = shown.wait_for(|now| *now >= at.0).await;
        })
    }
}
