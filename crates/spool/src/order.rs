//! The order: what the launcher tells the worker binary to do.
//!
//! A JSON file at [`FILE`] in a directory that no phase can enter. The worker binary reads it, makes
//! the begun mark and removes the file before the first phase. It holds secrets, so nothing here
//! prints values.

pub use gantry_model::MAX_STATE;
use std::fmt;

pub use gantry_model::Interrupt;
use gantry_model::{Attempt, Phase};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::environment::Layers;
use crate::{Carried, Limits};

/// The order's name within the directory that is mounted at `/gantry/in`.
pub const FILE: &str = "order.json";
/// No order is larger.
pub const MAX_SIZE: u64 = 4 * 1024 * 1024;
/// The largest set of outputs as JSON.
pub const MAX_OUTPUTS: u64 = 64 * 1024 * 1024;
/// The largest plan as JSON. What is larger is applied all the same, and not counted.
pub const MAX_PLAN: u64 = 1024 * 1024 * 1024;

/// Exit codes of `gantry-worker`. Whatever the phases did, it exits with [`exit::DONE`].
pub mod exit {
    /// The spool's last frame says how it went.
    pub const DONE: u8 = 0;
    /// The begun mark was there: nothing was run or written.
    pub const BEGUN_BEFORE: u8 = 3;
    /// Nothing was run: the order is missing, too large or not one that this version understands, or
    /// the host refuses what it takes to watch signals and time.
    pub const NO_ORDER: u8 = 4;
    /// The spool cannot be written. Before the begun mark nothing was run; after it, the outcome is unknown.
    pub const NO_SPOOL: u8 = 5;
    /// The worker binary was called in a way that it does not know.
    pub const USAGE: u8 = 64;
}

/// All that the worker binary must know about one stage.
#[derive(Serialize, Deserialize)]
pub struct Order {
    /// Version of the order: [`Order::VERSION`].
    pub version: u16,
    /// Whose stage it is.
    pub attempt: Attempt,
    /// Run one after the other until one fails. Not empty.
    pub phases: Vec<PhaseOrder>,
    /// The user's `after_run` hooks, run once after the last phase that ran.
    pub after_run: Vec<String>,
    /// Whether `after_run` also runs when every phase succeeded: false in a read stage that another stage follows.
    pub after_run_on_success: bool,
    /// The variable in which they find the run's final state.
    pub final_state: String,
    /// The variables of the phases that the image does not set, or sets otherwise: secrets included.
    pub environment: Vec<(String, Secret)>,
    /// A directory of the container that is searched for programs behind all others.
    pub path_end: Option<String>,
    /// What hooks of an earlier stage left in the environment.
    pub carried: Vec<Carried>,
    /// Whether another stage follows, which gets what hooks make of the environment.
    pub keeps_environment: bool,
    /// Who the phases run as, as the image spells it: `user`, `user:group`, names or numbers; empty for 1983.
    pub user: String,
    /// Whether that may be root, or root's group.
    pub may_be_root: bool,
    /// The groups through which the launcher reaches the spool, the first choice first; none if it is root.
    pub groups: Vec<u32>,
    /// The directory that is given to `user`, such as `/mnt/workspace`.
    pub workspace: String,
    /// Where each phase begins, such as `/mnt/workspace/source`.
    pub directory: String,
    /// How long the phases may take together.
    pub run_timeout_ms: u64,
    /// How long after the interrupt everything is killed.
    pub grace_ms: u64,
    /// How the tool is asked to leave.
    pub interrupt: Interrupt,
    /// How much the spool may take.
    pub spool: Limits,
    /// Set when the worker binary answers for the stack's state.
    pub state: Option<StateOrder>,
    /// The file in `directory` that the tool leaves when nobody took its state; none if it has no state.
    pub left_state: Option<String>,
    /// Shell command whose standard output is the plan as JSON, run after [`Phase::Plan`].
    pub show_plan: Option<String>,
    /// Shell command whose standard output is the outputs as JSON, run after [`Phase::Apply`].
    pub show_outputs: Option<String>,
    /// How long each of the two may take. A stage does not fail for want of them.
    pub show_limit_ms: u64,
    /// The shell, such as `/bin/sh`; called with `-c`.
    pub shell: String,
}

impl Order {
    /// The version that this crate describes.
    pub const VERSION: u16 = 1;

    /// The order as JSON, zeroed when dropped.
    ///
    /// # Errors
    /// When it cannot be expressed, which no order made of these types is.
    pub fn to_json(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        // A buffer that grows leaves copies behind, so it gets its final size first.
        let mut counter = CountingWriter::default();
        serde_json::to_writer(&mut counter, self)?;
        let mut json = Zeroizing::new(Vec::with_capacity(counter.0));
        serde_json::to_writer(&mut *json, self)?;
        Ok(json)
    }

    /// What it adds to what the image sets.
    #[must_use]
    pub fn layers(&self) -> Layers<'_> {
        Layers {
            own: &self.environment,
            path_end: self.path_end.as_deref(),
            carried: &self.carried,
        }
    }

    /// Reads an order.
    ///
    /// # Errors
    /// When it is no order of this version. The message says where, and quotes nothing.
    pub fn from_json(json: &[u8]) -> Result<Self, InvalidOrder> {
        let order: Self = serde_json::from_slice(json)
            .map_err(|error| InvalidOrder::Json { line: error.line(), column: error.column() })?;
        if order.version != Self::VERSION {
            return Err(InvalidOrder::Version { found: order.version });
        }
        if order.phases.is_empty() {
            return Err(InvalidOrder::NoPhase);
        }
        Ok(order)
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct CountingWriter(usize);

impl std::io::Write for CountingWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Why a file is no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOrder {
    /// Not the JSON of an order.
    #[error("the order is not valid at line {line}, column {column}")]
    Json {
        /// Line of the first mistake.
        line: usize,
        /// Column of the first mistake.
        column: usize,
    },
    /// Written by a launcher of another version.
    #[error(
        "the order has version {found}, this worker binary understands 1: upgrade the launcher"
    )]
    Version {
        /// Its version.
        found: u16,
    },
    /// Nothing to do.
    #[error("the order names no phase")]
    NoPhase,
}

/// One phase: the hooks and the command are chained in one shell.
#[derive(Serialize, Deserialize)]
pub struct PhaseOrder {
    /// Which phase.
    pub phase: Phase,
    /// Hooks that run first; the first that fails ends the phase.
    pub before: Vec<String>,
    /// The command: a user's own, or that of the tool as people know it.
    pub command: String,
    /// How the tool is run; none for a user's own command, which is run as it is.
    pub tool: Option<ToolOrder>,
    /// Hooks that run when the command succeeded.
    pub after: Vec<String>,
}

/// How a phase's tool is run. A phase succeeds only if its tool was run to its end, whatever hooks do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolOrder {
    /// Shell text. It runs the tool and ends with its exit code, or gives up by `gantry_refuse` and the
    /// number of one of `refusals`.
    pub script: String,
    /// The exit code by which the tool says that there is something to apply: a success, as 0 is. None if
    /// it does not say.
    pub changes_code: Option<i32>,
    /// What the script gives up with, in words.
    pub refusals: Vec<String>,
}

impl fmt::Debug for PhaseOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PhaseOrder").field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// How the worker binary answers for the stack's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateOrder {
    /// Name of the file beside the order that holds the present state; none when there is no state yet.
    pub current: Option<String>,
    /// False in a read stage, which may only look.
    pub can_write: bool,
    /// What the tool's requests must bring: the launcher's choice, because it must be masked.
    pub password: Secret,
    /// Whether a state may take the present one's place without following it: in a task, where
    /// that is what somebody means to do.
    pub can_replace: bool,
    /// How long a write waits for the launcher's answer. It is durable on the host then, and succeeds.
    pub answer_after_ms: u64,
}

/// A value that is never printed, and zeroed when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the value.
    #[must_use]
    pub const fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
