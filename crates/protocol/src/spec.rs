//! What an offer's sealed spec says: everything that a launcher needs to run one stage.

use gantry_model::{Attempt, Interrupt, Phase, RunState, RunType, StackId};
use serde::{Deserialize, Serialize};

/// One stage, complete. Sealed to the pool, so only its launchers read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Which attempt: must be that of the offer.
    pub attempt: Attempt,
    /// The stack.
    pub stack: StackId,
    /// What the run is for.
    pub run_type: RunType,
    /// The image; the launcher's default if none.
    pub image: Option<String>,
    /// The tool that the phases run.
    #[serde(default)]
    pub tool: Tool,
    /// The phases, in order.
    pub phases: Vec<PhaseSpec>,
    /// Of a read stage, the phases of the write stage that may follow, as they are now: for policies to
    /// look at, never to be run.
    pub later: Vec<PhaseSpec>,
    /// Commands that run after every processed run.
    pub after_run: Vec<String>,
    /// Variables in the clear.
    pub environment: Vec<Variable>,
    /// The stack's secrets, sealed where they were entered.
    pub secrets: Option<SealedBundle>,
    /// Where the source comes from. None in a write stage, whose workspace has it.
    pub source: Option<Source>,
    /// The part of the source that the stack lives in, relative; empty for all of it.
    pub project_root: String,
    /// The workspace that the read stage left. Only in a write stage.
    pub workspace: Option<SealedWorkspace>,
    /// How the tool's state is kept; none if we keep none for the stack.
    pub state: Option<StateSpec>,
    /// Whether the same worker goes on with the write stage when the plan has changes.
    pub autodeploy: bool,
    /// What policies may look at.
    pub about: About,
}

/// A tool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Tool {
    /// Terraform or `OpenTofu`, whichever the image has.
    #[default]
    Terraform,
    /// None that is known here: each phase names its command.
    Custom(CustomTool),
}

/// What has to be known of a stack's own commands to run them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomTool {
    /// The exit code of a plan that has something to apply; none if no code says so.
    pub changes_exit_code: Option<u8>,
    /// How a command is asked to leave.
    pub interrupt: Interrupt,
}

/// A phase and its hooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseSpec {
    /// Which.
    pub phase: Phase,
    /// Commands before it.
    pub before: Vec<String>,
    /// Its own command, of a task or of a custom tool; none for the tool's.
    pub command: Option<String>,
    /// Commands after it.
    pub after: Vec<String>,
}

/// A variable in the clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// Its name; `ro_` and `wo_` in front select the stage.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A stack's secrets of one environment version: an age file whose plaintext is a
/// [`SecretBundle`] as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedBundle {
    /// The environment version.
    pub version: u64,
    /// The age header, base64.
    pub header: String,
    /// The age payload, base64.
    pub payload: String,
}

/// A sealed archive of the source: `tar` in `zstd` in an age file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Where to get it.
    pub url: String,
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
}

/// A sealed workspace: `tar` in `zstd` in an age file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedWorkspace {
    /// Where to get the whole age file.
    pub url: String,
    /// Its length in bytes, header included.
    pub size: u64,
    /// The epoch of the read stage that made it.
    pub epoch: u64,
    /// Lower-case hex of the payload's SHA-256.
    pub payload_sha256: String,
    /// The payload's length in bytes.
    pub payload_size: u64,
    /// The pool key's signature over its statement, base64.
    pub signature: String,
}

/// How the state of a stack whose state we keep is had and stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateSpec {
    /// The newest version; none before the first.
    pub current: Option<SealedState>,
    /// Public keys or certificates, PEM, to seal new versions to: the pools of the stack and the recovery key.
    pub recipients: Vec<String>,
    /// Whether the stage may write: a read stage, of whatever run, may not.
    pub can_write: bool,
}

/// A sealed state version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedState {
    /// Where to get the payload.
    pub url: String,
    /// The age header, base64.
    pub header: String,
    /// The run that wrote it.
    pub run: gantry_model::RunId,
    /// The epoch in which it was written.
    pub epoch: u64,
    /// The serial that the tool gave it.
    pub serial: u64,
    /// Lower-case hex of the payload's SHA-256.
    pub payload_sha256: String,
    /// The payload's length in bytes.
    pub payload_size: u64,
    /// The payload hash of the version before.
    pub predecessor: Option<String>,
    /// The pool key's signature over its statement, base64.
    pub signature: String,
}

/// What people and policies may know of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The run's state when it was offered.
    pub state: RunState,
    /// When the run was created, milliseconds since 1970.
    pub created_ms: u64,
    /// When it last changed, milliseconds since 1970.
    pub updated_ms: u64,
    /// Who or what triggered it.
    pub triggered_by: Option<String>,
    /// What clients attached to it.
    pub user_provided_metadata: Vec<String>,
    /// The commit, or the version of an uploaded source.
    pub commit: Commit,
    /// The stack's labels.
    pub labels: Vec<String>,
    /// The stack's name.
    pub stack_name: String,
}

/// A version of the source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Its hash.
    pub hash: String,
    /// Who made it.
    pub author: String,
    /// Its branch.
    pub branch: String,
    /// Its message.
    pub message: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
}

/// The plaintext of a [`SealedBundle`]. It names its stack, so that it cannot be given to another one.
#[derive(Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct SecretBundle {
    /// The stack that it is for.
    pub stack: String,
    /// The secrets.
    pub secrets: Vec<Secret>,
}

/// One secret variable.
#[derive(Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Secret {
    /// Its name; `ro_` and `wo_` in front select the stage.
    pub name: String,
    /// Its value.
    pub value: String,
}
