//! The words that every part of Gantry shares: ids, runs, stages, phases and their states.
//!
//! Everything here is a plain value or a plain function: no I/O, no clock, no async. Time arrives as
//! an argument, so that each rule can be tested by itself.

mod id;
mod lease;
mod phase;
mod run;
mod run_life;

pub use id::{Epoch, InvalidId, JournalId, MessageId, PoolId, RunId, SessionId, StackId, WorkerId};
pub use lease::{Lease, Standing, Terms, Timestamp};
pub use phase::{Attempt, Hook, Phase, Section, Stage};
pub use run::{RunState, RunType};
pub use run_life::{Claimed, Concluded, Expired, InvalidTransition, Outcome, RunLife, Stopping};
