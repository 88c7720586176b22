//! Tells whoever watches a run that it changed. Only that: what changed, they look up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use gantry_model::RunId;
use tokio::sync::watch;

/// Those who watch runs. Runs that nobody watches cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    runs: Mutex<HashMap<RunId, watch::Sender<u64>>>,
}

impl Watchers {
    pub(crate) fn watch(&self, run: RunId) -> watch::Receiver<u64> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.retain(|_, sender| sender.receiver_count() > 0);
        runs.entry(run).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    pub(crate) fn changed(&self, run: RunId) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let is_watched = runs.get(&run).is_some_and(|sender| {
            sender.send_modify(|count| *count += 1);
            sender.receiver_count() > 0
        });
        if !is_watched {
            runs.remove(&run);
        }
    }
}
