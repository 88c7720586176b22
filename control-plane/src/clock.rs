//! Where instants come from, so that tests decide what time it is.

#[cfg(feature = "fake")]
pub mod fake;

#[cfg(feature = "fake")]
pub use fake::FakeClock;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use gantry_model::Timestamp;

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

/// Seconds since 1970, as certificates count.
pub(crate) fn unix_seconds(at: Timestamp) -> i64 {
    i64::try_from(at.0 / 1000).unwrap_or(i64::MAX)
}

/// A duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
