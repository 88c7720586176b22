//! Stacks: what is planned and applied, with which source, variables, secrets and state.

use gantry_model::{Attempt, PoolId, StackId, Timestamp};
use gantry_protocol::spec::{SealedBundle, Variable};
use serde::{Deserialize, Serialize};

use crate::control_plane::ControlPlane;
use crate::error::OperationError;

/// Commands around the phases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hooks {
    /// Before initialize.
    pub before_init: Vec<String>,
    /// After initialize.
    pub after_init: Vec<String>,
    /// Before plan.
    pub before_plan: Vec<String>,
    /// After plan.
    pub after_plan: Vec<String>,
    /// Before apply.
    pub before_apply: Vec<String>,
    /// After apply.
    pub after_apply: Vec<String>,
    /// Before perform.
    pub before_perform: Vec<String>,
    /// After perform.
    pub after_perform: Vec<String>,
    /// Before destroy.
    pub before_destroy: Vec<String>,
    /// After destroy.
    pub after_destroy: Vec<String>,
    /// After every processed run.
    pub after_run: Vec<String>,
}

/// A stack that someone wants.
#[derive(Debug, Clone)]
pub struct NewStack {
    /// Its slug.
    pub id: StackId,
    /// Its name, 1 to 100 characters.
    pub name: String,
    /// The pool that runs it.
    pub pool: PoolId,
    /// The part of the source that it lives in, relative; empty for all of it.
    pub project_root: String,
    /// The image; the launcher's default if none.
    pub image: Option<String>,
    /// Commands around the phases.
    pub hooks: Hooks,
    /// Variables in the clear.
    pub environment: Vec<Variable>,
    /// Its secrets, sealed to [`ControlPlane::recipients_of_pool`].
    pub secrets: Option<SealedBundle>,
    /// Its labels.
    pub labels: Vec<String>,
    /// Whether a plan's changes need no person.
    pub autodeploy: bool,
    /// Whether we keep its Terraform state.
    pub manage_state: bool,
}

/// A stack.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Its slug.
    pub id: StackId,
    /// Its name.
    pub name: String,
    /// The pool that runs it.
    pub pool: PoolId,
    /// The part of the source that it lives in.
    pub project_root: String,
    /// The image; the launcher's default if none.
    pub image: Option<String>,
    /// Commands around the phases.
    pub hooks: Hooks,
    /// Variables in the clear.
    pub environment: Vec<Variable>,
    /// The version of its secrets; 0 if it has none.
    pub secrets_version: u64,
    /// Its labels.
    pub labels: Vec<String>,
    /// Whether a plan's changes need no person.
    pub autodeploy: bool,
    /// Whether we keep its Terraform state.
    pub manage_state: bool,
    /// Who locked it and why; while it is locked, no blocking run begins.
    pub lock: Option<StackLock>,
    /// The newest version of its source.
    pub source: Option<StackSource>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A lock on a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackLock {
    /// Who locked it.
    pub by: String,
    /// Why.
    pub note: String,
    /// When.
    pub at: Timestamp,
}

/// A version of a stack's source: an archive, `tar` in `zstd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackSource {
    /// Its id.
    pub id: String,
    /// The object that holds it.
    pub key: String,
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
    /// Who uploaded it.
    pub author: String,
    /// What they said about it.
    pub message: String,
    /// When it was uploaded.
    pub created_at: Timestamp,
}

/// A source that was uploaded.
#[derive(Debug, Clone)]
pub struct NewSource {
    /// The object that holds it, as [`ControlPlane::source_upload`] named it.
    pub key: String,
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
    /// Who made it.
    pub author: String,
    /// What they say about it.
    pub message: String,
}

/// Where to put a source.
#[derive(Debug, Clone)]
pub struct SourceUpload {
    /// The object's key.
    pub key: String,
    /// A pre-signed url. The PUT must carry `If-None-Match: *`.
    pub url: String,
    /// For how long it can be used, in milliseconds.
    pub valid_ms: u64,
}

/// A stored version of a stack's Terraform state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateVersion {
    /// Its id.
    pub id: String,
    /// The stack.
    pub stack: StackId,
    /// The attempt that wrote it.
    pub attempt: Attempt,
    /// Terraform's serial.
    pub serial: u64,
    /// Terraform's lineage.
    pub lineage: String,
    /// The age header, base64.
    pub header: String,
    /// Lower-case hex of the payload's SHA-256.
    pub payload_sha256: String,
    /// The payload's length in bytes.
    pub payload_size: u64,
    /// The payload hash of the version before.
    pub predecessor: Option<String>,
    /// The pool key's signature over its statement, base64.
    pub signature: String,
    /// The object that holds the payload.
    pub key: String,
    /// When it was reported.
    pub created_at: Timestamp,
    /// Why it is not part of the stack's history, if it is not.
    pub orphaned: Option<String>,
    /// Whether the next run begins with it.
    pub is_current: bool,
}

impl ControlPlane {
    /// Creates a stack.
    ///
    /// # Errors
    /// When the slug is taken, there is no such pool, or something given is not acceptable.
    pub async fn create_stack(&self, actor: &str, new: NewStack) -> Result<Stack, OperationError> {
        let _ = (actor, new);
        Err(crate::control_plane::unbuilt())
    }

    /// The stack with this slug.
    ///
    /// # Errors
    /// When there is none.
    pub async fn stack(&self, stack: &StackId) -> Result<Stack, OperationError> {
        let _ = stack;
        Err(crate::control_plane::unbuilt())
    }

    /// All stacks, by slug.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stacks(&self) -> Result<Vec<Stack>, OperationError> {
        Err(crate::control_plane::unbuilt())
    }

    /// An url for a new version of the stack's source.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn source_upload(&self, stack: &StackId) -> Result<SourceUpload, OperationError> {
        let _ = stack;
        Err(crate::control_plane::unbuilt())
    }

    /// Makes an uploaded source the newest version. Asked again with the same key, it changes nothing.
    ///
    /// # Errors
    /// When there is no such stack or object, or the object has another length.
    pub async fn set_source(
        &self,
        actor: &str,
        stack: &StackId,
        source: NewSource,
    ) -> Result<Stack, OperationError> {
        let _ = (actor, stack, source);
        Err(crate::control_plane::unbuilt())
    }

    /// The keys or certificates, PEM, to seal a stack's durable things to: its pool and the recovery key.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn recipients_of(&self, stack: &StackId) -> Result<Vec<String>, OperationError> {
        let _ = stack;
        Err(crate::control_plane::unbuilt())
    }

    /// The same for a stack that is about to be created in this pool.
    ///
    /// # Errors
    /// When there is no such pool.
    pub async fn recipients_of_pool(&self, pool: PoolId) -> Result<Vec<String>, OperationError> {
        let _ = pool;
        Err(crate::control_plane::unbuilt())
    }

    /// Replaces the stack's secrets. Their version must be one more than the present one.
    ///
    /// # Errors
    /// When there is no such stack, or the version or the bundle is not acceptable.
    pub async fn set_secrets(
        &self,
        actor: &str,
        stack: &StackId,
        secrets: SealedBundle,
    ) -> Result<Stack, OperationError> {
        let _ = (actor, stack, secrets);
        Err(crate::control_plane::unbuilt())
    }

    /// Keeps blocking runs of the stack from beginning.
    ///
    /// # Errors
    /// When there is no such stack or it is locked.
    pub async fn lock_stack(
        &self,
        actor: &str,
        stack: &StackId,
        note: &str,
    ) -> Result<Stack, OperationError> {
        let _ = (actor, stack, note);
        Err(crate::control_plane::unbuilt())
    }

    /// Lifts the stack's lock.
    ///
    /// # Errors
    /// When there is no such stack or it is not locked.
    pub async fn unlock_stack(
        &self,
        actor: &str,
        stack: &StackId,
    ) -> Result<Stack, OperationError> {
        let _ = (actor, stack);
        Err(crate::control_plane::unbuilt())
    }

    /// The stack's state versions, newest first, orphaned ones included, at most 1000.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn states_of(&self, stack: &StackId) -> Result<Vec<StateVersion>, OperationError> {
        let _ = stack;
        Err(crate::control_plane::unbuilt())
    }

    /// The state version with this serial that is not orphaned; the current one if none is named.
    ///
    /// # Errors
    /// When there is none.
    pub async fn state_version(
        &self,
        stack: &StackId,
        serial: Option<u64>,
    ) -> Result<StateVersion, OperationError> {
        let _ = (stack, serial);
        Err(crate::control_plane::unbuilt())
    }
}
