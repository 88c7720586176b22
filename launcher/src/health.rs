//! What is wrong with this worker, in the words of whoever found it.
//!
//! While there is a complaint the worker takes no run; the next heartbeat, which is sent at once, says it
//! to the control plane, and the worker's row shows it. Whoever made a complaint withdraws it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_model::Attempt;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::session::Health;

/// So many stages in a row that fail by this host's fault make the worker unhealthy.
const STREAK: u32 = 3;
/// For how long.
const REST: Duration = Duration::from_secs(300);
/// The longest complaint, in characters.
const MAX_COMPLAINT: usize = 400;

/// Who complains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The checks of engine and disk.
    Host,
    /// Stages failed here, one after the other.
    Streak,
    /// A stage that cannot go on.
    Stage(Attempt),
    /// A stage that has been waiting for long.
    Wait(Attempt),
}

/// All complaints. Clones are the same.
#[derive(Debug, Clone)]
pub struct Complaints {
    inner: Arc<Mutex<Inner>>,
    health: watch::Sender<Health>,
}

#[derive(Debug, Default)]
struct Inner {
    present: BTreeMap<Source, String>,
    /// How many stages in a row have failed by this host's fault.
    failures: u32,
    rested_at: Option<Instant>,
}

impl Default for Complaints {
    fn default() -> Self {
        Self { inner: Arc::default(), health: watch::Sender::new(Health::default()) }
    }
}

impl Complaints {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All of them in one text, as it changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Why this worker takes no run, if it takes none.
    #[must_use]
    pub fn present(&self) -> Option<String> {
        self.health.borrow().complaint.clone()
    }

    /// Whether this source complains.
    #[must_use]
    pub fn has(&self, source: &Source) -> bool {
        self.lock().present.contains_key(source)
    }

    /// Complains, in the place of an earlier complaint of the same source.
    pub fn make(&self, source: Source, complaint: String) {
        let mut inner = self.lock();
        if inner.present.get(&source) != Some(&complaint) {
            inner.present.insert(source, complaint);
            self.tell(&inner);
        }
    }

    /// Takes a complaint back, if there is one.
    pub fn withdraw(&self, source: &Source) {
        let mut inner = self.lock();
        if inner.present.remove(source).is_some() {
            self.tell(&inner);
        }
    }

    /// A stage failed by this host's fault. The third in a row makes the worker unhealthy for a while, and
    /// so does each one that follows.
    pub fn failed(&self, reason: &str) {
        let mut inner = self.lock();
        inner.failures += 1;
        if inner.failures < STREAK {
            return;
        }
        let complaint = format!(
            "{} runs in a row failed by this host's fault, so it takes none for {} minutes; the last one: {reason}",
            inner.failures,
            REST.as_secs() / 60
        );
        tracing::error!("{complaint}");
        inner.rested_at = Some(Instant::now() + REST);
        inner.present.insert(Source::Streak, complaint);
        self.tell(&inner);
    }

    /// A stage's container was started, so this host can run stages.
    pub fn went_well(&self) {
        let mut inner = self.lock();
        inner.failures = 0;
        inner.rested_at = None;
        if inner.present.remove(&Source::Streak).is_some() {
            self.tell(&inner);
        }
    }

    /// Lets the worker try again when it has rested. To be called now and then.
    pub fn rest(&self) {
        let mut inner = self.lock();
        if inner.rested_at.is_some_and(|at| at <= Instant::now()) {
            inner.rested_at = None;
            if inner.present.remove(&Source::Streak).is_some() {
                self.tell(&inner);
            }
        }
    }

    fn tell(&self, inner: &Inner) {
        let texts: Vec<&str> = inner.present.values().map(String::as_str).collect();
        let complaint = texts.join("; ").chars().take(MAX_COMPLAINT).collect::<String>();
        let complaint = (!complaint.is_empty()).then_some(complaint);
        self.health.send_if_modified(|health| {
            let is_new = health.complaint != complaint;
            health.complaint = complaint;
            is_new
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_healthy_when_the_last_complaint_is_withdrawn() {
        let complaints = Complaints::new();
        complaints.make(Source::Host, "Fake does not answer".to_owned());
        complaints.make(Source::Streak, "tired".to_owned());
        assert_eq!(complaints.present().as_deref(), Some("Fake does not answer; tired"));
        complaints.withdraw(&Source::Host);
        assert_eq!(complaints.present().as_deref(), Some("tired"));
        complaints.withdraw(&Source::Streak);
        assert_eq!(complaints.present(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn three_failures_in_a_row_make_a_worker_rest_and_one_more_does_so_again() {
        let complaints = Complaints::new();
        complaints.failed("one");
        complaints.failed("two");
        complaints.went_well();
        complaints.failed("one");
        complaints.failed("two");
        assert_eq!(complaints.present(), None);
        complaints.failed("no network");
        assert!(complaints.present().is_some_and(|it| it.contains("no network")));
        complaints.rest();
        assert!(complaints.present().is_some());
        tokio::time::advance(REST).await;
        complaints.rest();
        assert_eq!(complaints.present(), None);
        complaints.failed("no network");
        assert!(complaints.present().is_some());
        complaints.went_well();
        assert_eq!(complaints.present(), None);
    }
}
