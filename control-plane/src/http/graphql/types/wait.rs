//! Why a run does not go on.

use async_graphql::{Enum, SimpleObject};

use crate::waits;

/// Gantry: what a run waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub(crate) enum RunWaitKind {
    /// Its stack is locked by somebody else.
    Locked,
    /// Another run goes first.
    Behind,
    /// A person has to confirm or discard it.
    Unconfirmed,
    /// Its pool never had a worker.
    NoWorker,
    /// The workers, or its worker, are not connected.
    Away,
    /// Workers take no new runs because somebody said so.
    Drained,
    /// Workers, or its worker, say that they are not well.
    Unhealthy,
    /// Workers have other runs.
    Busy,
    /// A worker has been asked.
    Offered,
    /// It has been asked to stop.
    Stopping,
}

impl From<waits::WaitKind> for RunWaitKind {
    fn from(kind: waits::WaitKind) -> Self {
        match kind {
            waits::WaitKind::Locked => Self::Locked,
            waits::WaitKind::Behind => Self::Behind,
            waits::WaitKind::Unconfirmed => Self::Unconfirmed,
            waits::WaitKind::NoWorker => Self::NoWorker,
            waits::WaitKind::Away => Self::Away,
            waits::WaitKind::Drained => Self::Drained,
            waits::WaitKind::Unhealthy => Self::Unhealthy,
            waits::WaitKind::Busy => Self::Busy,
            waits::WaitKind::Offered => Self::Offered,
            waits::WaitKind::Stopping => Self::Stopping,
        }
    }
}

/// Gantry: one reason why a run does not go on.
#[derive(SimpleObject)]
pub(crate) struct RunWait {
    /// What it waits for.
    kind: RunWaitKind,
    /// The same for people.
    reason: String,
    /// What a person can do about it, if anything.
    next: Option<String>,
}

impl From<waits::Wait> for RunWait {
    fn from(wait: waits::Wait) -> Self {
        Self { kind: wait.kind.into(), reason: wait.reason, next: wait.next }
    }
}
