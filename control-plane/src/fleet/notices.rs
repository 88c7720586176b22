//! Lines of the log about what a launcher sent and what did not become of it.

use std::fmt;
use std::sync::Arc;

use gantry_model::PoolId;

use crate::clock::Clock;
use crate::rate::{self, Rate};
use crate::store::WorkerKey;

/// Says what became of something that a launcher sent, as often as its pool may cause that. What the
/// launcher has written is quoted, so that it cannot pass for a line of ours.
pub(crate) struct Notices {
    clock: Arc<dyn Clock>,
    lines: Rate<PoolId>,
}

impl Notices {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, lines: rate::of_lines() }
    }

    pub(crate) fn say(&self, (pool, worker): WorkerKey, what: fmt::Arguments<'_>) {
        if let Some(turn) = self.lines.take(pool, self.clock.now().0) {
            let unsaid = turn.held_back;
            tracing::warn!(%pool, %worker, unsaid, "{what}");
        }
    }
}
