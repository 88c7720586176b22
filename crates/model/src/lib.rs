//! The words that every part of Gantry shares: ids, runs, stages, phases and their states.
//!
//! Everything here is a plain value or a plain function: no I/O, no clock, no async. Time arrives as
//! an argument, so that each rule can be tested by itself.

mod duration;
mod effects;
mod id;
mod image;
mod lease;
mod lifecycle;
mod lock;
mod phase;
mod project_root;
mod queue;
mod run;
mod state_file;
mod text;

pub use duration::{GoDuration, InvalidDuration, LONGEST as LONGEST_DURATION};
pub use effects::{Effect, clear_at, effects};
pub use id::{Epoch, InvalidId, JournalId, MessageId, PoolId, RunId, SessionId, StackId, WorkerId};
pub use image::{InvalidImage, check_image};
pub use lease::{Assignment, Lease, LeaseTerms, Timestamp};
pub use lifecycle::{
    Claimed, Concluded, Expired, InvalidTransition, Outcome, RunAct, RunLifecycle, RunRecord,
    Stopping,
};
pub use lock::{SERVER, StackLock};
pub use phase::{Attempt, Interrupt, Phase, Section, Stage};
pub use project_root::{InvalidProjectRoot, ProjectRoot};
pub use queue::{ChosenWorker, NoPool, PoolChoice, PoolReason, choose_worker, resolve_pool};
pub use run::{RunState, RunType, StagePlan};
pub use state_file::{InvalidState, MAX_LINEAGE, MAX_SERIAL, MAX_STATE, StateHeading};
pub use text::{hex, one_line};

/// The largest source, in bytes: of its files, and of the sealed archive that they are sent in.
pub const MAX_SOURCE: u64 = 1 << 30;

/// The most bytes that the name of a variable and its value have together: Linux gives a program no
/// longer text than 128 KiB, in which `=` and the byte at its end count too.
pub const MAX_VARIABLE: usize = 128 * 1024 - 2;
