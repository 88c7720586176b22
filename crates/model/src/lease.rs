//! How a run stands with the workers: who was asked, who owns it, and until when that holds.

use serde::{Deserialize, Serialize};

use crate::{JournalId, WorkerId};

/// An instant: milliseconds since 1970 by the clock of whoever decides.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The instant that many milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// How long offers and leases hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// An offer that is not claimed for this long is withdrawn.
    pub offer_ms: u64,
    /// A lease that is not renewed for this long lapses.
    pub lease_ms: u64,
    /// How often launchers are told to renew.
    pub heartbeat_ms: u64,
    /// A write stage of which nothing final is known for this long after its grant is over: run
    /// timeout, grace and a margin.
    pub write_ms: u64,
    /// How often a read stage is granted at most.
    pub read_attempts: u32,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        const MINUTE: u64 = 60_000;
        Self {
            offer_ms: 10_000,
            lease_ms: MINUTE,
            heartbeat_ms: 15_000,
            write_ms: (70 + 5 + 5) * MINUTE,
            read_attempts: 3,
        }
    }
}

/// The owner's hold on a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The owner.
    pub worker: WorkerId,
    /// The journal in which the owner keeps what it did. Only that one can say that it did nothing.
    pub journal: JournalId,
    /// When it lapses unless it is renewed.
    pub until: Timestamp,
    /// When a write stage is over, renewed or not.
    pub deadline: Timestamp,
    /// The owner went on from the read stage under the same grant.
    pub is_continued: bool,
}

/// How a run stands with the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignment {
    /// Has nothing to hand out: it waits behind another run or for a person, or is over.
    Idle,
    /// Has a stage for whoever is free.
    Waiting,
    /// Its stage was offered to a worker. Nothing of it has been started.
    Offered {
        /// Who was asked.
        worker: WorkerId,
        /// Until when it may be claimed.
        until: Timestamp,
    },
    /// Its stage has an owner.
    Granted(Lease),
}

impl Assignment {
    /// The worker that was asked or is the owner.
    #[must_use]
    pub const fn worker(&self) -> Option<WorkerId> {
        match self {
            Self::Idle | Self::Waiting => None,
            Self::Offered { worker, .. } => Some(*worker),
            Self::Granted(lease) => Some(lease.worker),
        }
    }
}
