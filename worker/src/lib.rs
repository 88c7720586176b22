//! The worker binary: PID 1 in a run's container.
//!
//! It reads its [order](gantry_spool::order), makes the begun mark, runs the phases one after the
//! other as a user without any power, and puts all that they say and leave into the spool. It owns
//! every process of the container: whatever a phase leaves behind is killed and reaped before the
//! next one begins. It enforces the run timeout itself, so that a container without a launcher does
//! not run for ever, and it knows no tool: commands, hooks and the interrupt are the order's.
//!
//! The runtime has one thread. Only the module `reaper` waits for processes, so no exit status is lost.

mod collect;
mod environment;
mod flow;
mod keep;
mod marks;
mod memory;
mod own;
mod places;
mod reaper;
mod run;
mod script;
mod session;
mod shell;
mod spool;
mod state;
mod stop;
mod users;

pub use environment::EnvironmentSlot;
pub use places::Places;
pub use run::run;
