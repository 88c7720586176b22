//! What each kind of message says. Unknown fields are ignored, so that a kind may grow.

use std::collections::BTreeMap;

use gantry_model::{Attempt, JournalId, Phase, PoolId, RunId, Section, SessionId};
use serde::{Deserialize, Serialize};

/// The launcher says who it is and everything that it has in hand. Signed with the pool key; all
/// later messages of the session are signed with the key that it introduces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// 32 random bytes, base64: every message of the session is bound to it.
    pub nonce: String,
    /// One start of one launcher process, a ULID.
    pub instance: String,
    /// The machine's id, to tell a cloned image apart; empty if there is none.
    pub machine: String,
    /// The journal that the launcher goes on with. A new one knows nothing of earlier runs.
    pub journal: JournalId,
    /// All runs in hand: a run absent here was never started by this journal.
    pub runs: Vec<RunInHand>,
    /// What this launcher speaks and is.
    pub versions: Versions,
    /// How many runs it takes at once.
    pub capacity: u32,
    /// The container engine, such as `docker`.
    pub engine: String,
    /// The pools that it serves.
    pub pools: Vec<PoolId>,
    /// `SPACELIFT_METADATA_*`, without the prefix.
    pub metadata: BTreeMap<String, String>,
    /// The launcher's clock, milliseconds since 1970; only shown, never relied on.
    pub clock_ms: u64,
    /// An Ed25519 public key, 32 bytes base64, that signs the rest of the session.
    pub session_key: String,
}

/// A run that a launcher's journal knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInHand {
    /// Which attempt.
    pub attempt: Attempt,
    /// How far it is.
    pub step: Step,
}

/// The journal's steps, in their order. Each is durable before its effect or as soon as it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The control plane made this launcher the owner.
    Granted,
    /// The workspace is laid out.
    WorkspaceReady,
    /// The container is about to be created.
    Creating,
    /// The container exists.
    Created,
    /// The container is about to be started.
    Starting,
    /// The container was started.
    Started,
    /// The container has ended.
    Ended,
    /// The whole log is stored.
    LogComplete,
    /// The workspace is sealed, signed and stored, if there is one to keep.
    Sealed,
    /// The result is on its way.
    ResultSent,
    /// The control plane has the result.
    Acknowledged,
    /// Container, network and directories are gone.
    Removed,
}

/// What a launcher is and speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The launcher's own version.
    pub launcher: String,
    /// The protocol versions that it speaks.
    pub protocol: Vec<u32>,
}

/// The control plane accepts a `hello`. Signed with the leaf that it carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The session that begins.
    pub session: SessionId,
    /// The certificate, PEM, whose key signs this session's messages to the launcher.
    pub leaf: String,
    /// How long the leaf may be relied on, in milliseconds of the launcher's monotonic clock.
    pub leaf_valid_ms: u64,
    /// How long a lease holds without a heartbeat, in milliseconds.
    pub lease_ms: u64,
    /// How often to send a heartbeat, in milliseconds.
    pub heartbeat_ms: u64,
    /// The server's clock, milliseconds since 1970; only shown.
    pub server_ms: u64,
    /// The last `seq` of this journal that is durable here.
    pub received: u64,
    /// Whether the worker is drained.
    pub is_drained: bool,
    /// The protocol version that both sides use from now on.
    pub protocol: u32,
    /// Named runs that the control plane does not give to this launcher: stop and drop them if they
    /// are read stages.
    pub not_yours: Vec<Attempt>,
}

/// The control plane does not accept a `hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, for programs.
    pub reason: RefusalReason,
    /// Why and what to do, for people.
    pub message: String,
    /// The certificate whose key signs this message.
    pub leaf: String,
}

/// Why a `hello` was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// Another instance has this worker's identity: take a new one.
    Duplicate,
    /// The pool has a new certificate.
    PoolReset,
    /// The pool does not exist any more.
    PoolDeleted,
    /// No common protocol version.
    Version,
    /// The hello itself is wrong: signature, capacity, metadata too large.
    Invalid,
}

/// The launcher lives. Renews the leases of the runs that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The attempts whose leases it renews.
    pub runs: Vec<Attempt>,
    /// Whether new runs may come.
    pub is_healthy: bool,
    /// Why not, in words.
    pub note: Option<String>,
}

/// A stage for whoever claims it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Which attempt.
    pub attempt: Attempt,
    /// The [`crate::spec::Spec`], JSON, as an age file whose recipient is the pool.
    pub spec: Carried,
}

/// Bytes inside a message, or an object with its hash when they would not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carried {
    /// The bytes, base64.
    Inline(String),
    /// An object.
    Object {
        /// Where to get it.
        url: String,
        /// Lower-case hex of its SHA-256.
        sha256: String,
        /// Its length in bytes.
        size: u64,
    },
}

/// The launcher wants what was offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which attempt.
    pub attempt: Attempt,
}

/// The launcher does not take what was offered: offer it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decline {
    /// Which attempt.
    pub attempt: Attempt,
    /// Why.
    pub reason: String,
}

/// The launcher is the owner from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which attempt.
    pub attempt: Attempt,
    /// The first urls, to save a round trip.
    pub urls: Vec<PutUrl>,
}

/// A read stage is not the launcher's any more: stop it and drop what it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoke {
    /// Which attempt.
    pub attempt: Attempt,
    /// Why.
    pub reason: String,
}

/// How a stage is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopMode {
    /// Interrupt the tool once and wait for the whole grace.
    Graceful,
    /// The same without a grace.
    Now,
}

/// Someone wants the stage stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Which attempt.
    pub attempt: Attempt,
    /// How.
    pub mode: StopMode,
    /// Who asked, in words.
    pub by: String,
}

/// The worker takes no new runs while this is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Set or lifted.
    pub is_drained: bool,
}

/// The launcher exits, to be started afresh by its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cycle {
    /// Interrupt write stages too.
    pub force: bool,
}

/// A phase began or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseReport {
    /// Which attempt.
    pub attempt: Attempt,
    /// Which phase.
    pub phase: Phase,
    /// What happened.
    pub event: PhaseEvent,
}

/// What happened to a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseEvent {
    /// Its shell was started.
    Began,
    /// Its shell has ended.
    Ended {
        /// The exit code; none if a signal ended it.
        code: Option<i32>,
        /// How long it took, in milliseconds.
        duration_ms: u64,
    },
}

/// The key of a stored object of the log.
pub type LogKey = String;

/// A masked part of the log is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Which attempt.
    pub attempt: Attempt,
    /// Which section of its log.
    pub section: Section,
    /// Where in the section its first byte stands.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// The object that holds it.
    pub key: LogKey,
}

/// A state version is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateStored {
    /// Which attempt wrote it.
    pub attempt: Attempt,
    /// The serial that the tool gave it.
    pub serial: u64,
    /// The lineage that the tool gave it.
    pub lineage: String,
    /// The age header, base64: stored apart from the payload, so that it can be re-wrapped.
    pub header: String,
    /// Lower-case hex of the payload's SHA-256.
    pub payload_sha256: String,
    /// The payload's length in bytes.
    pub payload_size: u64,
    /// The payload hash of the version that this one follows, if there is one.
    pub predecessor: Option<String>,
    /// The pool key's signature over the statement of all this, base64.
    pub signature: String,
    /// The object that holds the payload.
    pub key: String,
}

/// A sealed workspace is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceStored {
    /// Which attempt made it.
    pub attempt: Attempt,
    /// The object that holds the whole age file.
    pub key: String,
    /// Its length in bytes, header included.
    pub size: u64,
    /// Lower-case hex of the payload's SHA-256.
    pub payload_sha256: String,
    /// The payload's length in bytes.
    pub payload_size: u64,
    /// The pool key's signature over the statement, base64.
    pub signature: String,
}

/// What the run initialization policy said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Which attempt.
    pub attempt: Attempt,
    /// Whether it may run.
    pub is_allowed: bool,
    /// Why not.
    pub denials: Vec<String>,
    /// Lower-case hex of the SHA-256 of the policy's source.
    pub policy_sha256: String,
}

/// What an url is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UrlPurpose {
    /// A segment of the log.
    Log,
    /// The sealed workspace.
    Workspace,
    /// A state version's payload.
    State,
}

/// The launcher needs urls to put objects at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeedUrls {
    /// Which attempt.
    pub attempt: Attempt,
    /// What for.
    pub purpose: UrlPurpose,
    /// How many, at most 64.
    pub count: u32,
}

/// A pre-signed url at which one new object can be put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutUrl {
    /// What for.
    pub purpose: UrlPurpose,
    /// The object's key.
    pub key: String,
    /// The url. A PUT must carry `If-None-Match: *`: objects are only ever created.
    pub url: String,
    /// For how long it can be used, in milliseconds from its arrival.
    pub valid_ms: u64,
}

/// The URLs that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Urls {
    /// Which attempt.
    pub attempt: Attempt,
    /// The urls.
    pub urls: Vec<PutUrl>,
    /// The attempt gets none for this, now or later: nobody needs to wait for them.
    #[serde(default)]
    pub never: Option<UrlPurpose>,
}

/// How many resources a plan adds, changes, removes, and changes in the state alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Resources to add.
    pub add: u64,
    /// Resources to change.
    pub change: u64,
    /// Resources to remove.
    pub delete: u64,
    /// Resources to import.
    #[serde(default)]
    pub import: u64,
    /// Resources that get another address.
    #[serde(default)]
    pub moved: u64,
    /// Resources to forget: they stay, and the state does not have them any more.
    #[serde(default)]
    pub forget: u64,
}

/// How a stage ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageOutcome {
    /// All phases succeeded.
    Succeeded {
        /// Whether a plan found something to change.
        has_changes: bool,
    },
    /// A phase failed, or a step before the first one.
    Failed {
        /// Why, in words.
        reason: String,
        /// The phase, if one had begun.
        phase: Option<Phase>,
        /// Its exit code, if it had one.
        code: Option<i32>,
    },
    /// The policy said no. Nothing of the run was started.
    Denied,
    /// A person or a timeout stopped it.
    Stopped {
        /// Who or what, in words.
        reason: String,
    },
    /// This worker could not run it, by its host's fault, and nothing of it matters: a read stage is
    /// offered again, to another worker if there is one.
    GivenBack {
        /// Why, in words.
        reason: String,
    },
    /// It had begun and nobody can say how it ended.
    Unknown {
        /// What is known, in words.
        reason: String,
    },
}

impl StageOutcome {
    /// Cuts the reason to so many characters. It can quote what a container or an archive says.
    pub fn cut_reason(&mut self, most: usize) {
        match self {
            Self::Failed { reason, .. }
            | Self::Stopped { reason }
            | Self::GivenBack { reason }
            | Self::Unknown { reason } => {
                if let Some((end, _)) = reason.char_indices().nth(most) {
                    reason.truncate(end);
                }
            }
            Self::Succeeded { .. } | Self::Denied => {}
        }
    }
}

/// One output of a stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Whether the tool calls it sensitive. The value of such a one does not leave the host.
    pub is_sensitive: bool,
    /// Its masked value; none when sensitive or too large.
    pub value: Option<serde_json::Value>,
}

/// The outputs that the result has no room for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoreOutputs {
    /// Which attempt.
    pub attempt: Attempt,
    /// How many came before the first of these, those of the result included.
    pub from: u32,
    /// Some of them, in the tool's order.
    pub outputs: Vec<Output>,
}

/// Where a section of the log ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Which section.
    pub section: Section,
    /// Its whole length in bytes.
    pub length: u64,
}

/// The stage is over; everything it stored came before this message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageResult {
    /// Which attempt.
    pub attempt: Attempt,
    /// How it ended.
    pub outcome: StageOutcome,
    /// What the plan would change, if there was one.
    pub delta: Option<Delta>,
    /// The stack's outputs, if it has them.
    pub outputs: Vec<Output>,
    /// The complete lengths of the log's sections.
    pub log: Vec<Closing>,
    /// Whether the same launcher goes on with the write stage (autodeploy).
    pub continues: bool,
}

/// The launcher leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// Why, in words.
    pub reason: String,
}

/// The last will: only a hint, leases decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// The nonce of the session that ended.
    pub nonce: String,
}

/// Everything up to this `seq` is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The last one.
    pub up_to: u64,
}

/// The other side sent a kind that is not known here. Never answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsupported {
    /// The kind, at most 64 characters.
    pub kind: String,
    /// The run it was about, if that could be told.
    pub run: Option<RunId>,
}
