//! Which stage goes to which worker, what that worker gets, and why a run waits.
//!
//! The rules, which pool and which worker, are in `gantry-model`; the store answers what waits and who is free.

pub(crate) mod dispatch;
mod scheduler;
mod waits;

pub use self::dispatch::Specs;
pub use self::scheduler::Queue;
pub use self::waits::{Wait, WaitKind};
