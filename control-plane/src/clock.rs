//! Where instants come from, so that tests decide what time it is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use gantry_model::Timestamp;
use tokio::sync::watch;

/// Tells the time and waits for it.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970. Never goes back while the process lives.
    fn now(&self) -> Timestamp;

    /// Resolves when [`Clock::now`] has reached `at`. Cancel safe.
    fn until(&self, at: Timestamp) -> BoxFuture<'_, ()>;
}

/// The machine's clock, read once at the start; from then on only the monotonic one counts, so that
/// nothing lapses because somebody set the time.
#[derive(Debug)]
pub struct SystemClock {
    start: Timestamp,
    since: Instant,
}

impl SystemClock {
    /// Reads the machine's clock.
    #[must_use]
    pub fn new() -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Timestamp(millis(start)), since: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.start.plus_ms(millis(self.since.elapsed()))
    }

    fn until(&self, at: Timestamp) -> BoxFuture<'_, ()> {
        let left = at.0.saturating_sub(self.now().0);
        Box::pin(tokio::time::sleep(Duration::from_millis(left)))
    }
}

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

/// Seconds since 1970, as certificates count.
pub(crate) fn unix_seconds(at: Timestamp) -> i64 {
    i64::try_from(at.0 / 1000).unwrap_or(i64::MAX)
}

/// A duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
