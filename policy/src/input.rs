//! What a policy sees of a run.
//!
//! Published policies come in two families: those for private workers read `static_run_environment`,
//! `run` and `docker_image`; older server-side ones read `commit`, `request`, `run.runtime_config` and
//! `stack`. The input holds both, and in `gantry` what truly runs. Times are nanoseconds since 1970. No field ever holds a secret, because a
//! sample of the input may be logged: of secret variables there is the name alone.

mod execution;

use std::collections::BTreeMap;

pub use execution::{Command, Content, Execution, Image, Mount, Variable};
use serde::{Serialize, Serializer};

/// The whole input.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// The image of the stage's container; empty for the default one.
    pub docker_image: String,
    /// What the launcher is going to run, and nothing else.
    pub gantry: Execution,
    /// When the policy is evaluated.
    pub request: Request,
    /// The run.
    pub run: Run,
    /// The stack that the run belongs to.
    pub stack: Stack,
    /// How the run is going to be executed.
    pub static_run_environment: StaticRunEnvironment,
    /// The launcher's version.
    pub worker_version: String,
}

impl Input {
    /// The input as [`Policy::evaluate`](crate::Policy::evaluate) takes it.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "plain data with text keys always serializes")]
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("plain data with text keys always serializes")
    }
}

impl Serialize for Input {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// The commit stands in two places.
        #[derive(Serialize)]
        struct Written<'a> {
            commit: &'a Commit,
            docker_image: &'a str,
            gantry: &'a Execution,
            request: &'a Request,
            run: &'a Run,
            stack: &'a Stack,
            static_run_environment: &'a StaticRunEnvironment,
            worker_version: &'a str,
        }
        Written {
            commit: &self.run.commit,
            docker_image: &self.docker_image,
            gantry: &self.gantry,
            request: &self.request,
            run: &self.run,
            stack: &self.stack,
            static_run_environment: &self.static_run_environment,
            worker_version: &self.worker_version,
        }
        .serialize(serializer)
    }
}

/// When the policy is evaluated.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Request {
    /// Now.
    pub timestamp_ns: i64,
}

/// A commit.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Commit {
    /// Who wrote it.
    pub author: String,
    /// The branch it was found on.
    pub branch: String,
    /// When it was written.
    pub created_at: i64,
    /// Its hash.
    pub hash: String,
    /// Its message.
    pub message: String,
}

/// The run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Run {
    /// Whether its source was uploaded from a user's machine.
    pub based_on_local_workspace: bool,
    /// What the plan changes; empty before there is one.
    pub changes: Vec<Change>,
    /// The commit that it runs.
    pub commit: Commit,
    /// When it was created.
    pub created_at: i64,
    /// Flags set by earlier policies.
    pub flags: Vec<String>,
    /// Its id.
    pub id: String,
    /// How it is configured in its source.
    pub runtime_config: RuntimeConfig,
    /// Its state, `PREPARING` here.
    pub state: String,
    /// Who or what triggered it, if not a commit.
    pub triggered_by: Option<String>,
    /// `PROPOSED`, `TRACKED`, `TASK`, `TESTING` or `DESTROY`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it last changed.
    pub updated_at: i64,
    /// What users passed along when they triggered and confirmed it.
    pub user_provided_metadata: Vec<String>,
}

/// A resource that a plan changes.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// `added`, `changed` or `deleted`.
    pub action: String,
    /// The resource.
    pub entity: Entity,
    /// `plan` or `apply`.
    pub phase: String,
}

/// A resource.
#[derive(Debug, Clone, Serialize)]
pub struct Entity {
    /// Its address.
    pub address: String,
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whose kind of resource it is, such as `terraform`.
    pub entity_vendor: String,
    /// What kind of thing that vendor calls it, such as `resource`.
    pub entity_type: String,
    /// Its values, sensitive ones sanitized.
    pub data: serde_json::Value,
}

/// How a run is configured in its source.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RuntimeConfig {
    /// The commands before initialization.
    pub before_init: Vec<String>,
    /// Where in the source the project is.
    pub project_root: String,
    /// The image.
    pub runner_image: String,
    /// The version of the tool.
    pub terraform_version: String,
}

/// The stack.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stack {
    /// Whether its runs may manage others.
    pub administrative: bool,
    /// Whether changes are applied without a confirmation.
    pub autodeploy: bool,
    /// The branch that it tracks.
    pub branch: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Who locked it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked_by: Option<String>,
    /// Its name.
    pub name: String,
    /// The owner of its repository.
    pub namespace: String,
    /// Where in the source the project is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_root: Option<String>,
    /// Its repository.
    pub repository: String,
    /// What its runs may do.
    pub roles: Vec<Role>,
    /// Its state.
    pub state: String,
    /// The version of the tool.
    pub terraform_version: Option<String>,
}

/// A role of a stack.
#[derive(Debug, Clone, Serialize)]
pub struct Role {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// How the run is going to be executed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StaticRunEnvironment {
    /// The account.
    pub account_name: String,
    /// Whether changes are applied without a confirmation.
    pub auto_deploy: bool,
    /// The commands before apply; `null` if there are none.
    #[serde(serialize_with = "null_if_empty")]
    pub before_apply: Vec<String>,
    /// The commands before initialization; `null` if there are none.
    #[serde(serialize_with = "null_if_empty")]
    pub before_init: Vec<String>,
    /// What a task runs.
    pub command: String,
    /// The commit's branch.
    pub commit_branch: String,
    /// The commit's hash.
    pub commit_sha: String,
    /// Where the log goes. Empty: nothing here listens on the network.
    pub endpoint_logs: String,
    /// The module registry.
    pub endpoint_registry: String,
    /// Plain variables only, never secrets.
    pub environment_variables: BTreeMap<String, String>,
    /// Where in the source the project is.
    pub project_root: String,
    /// Whether the tool refreshes its state first.
    pub refresh_state: bool,
    /// Owner and name of the repository.
    pub repository_path: String,
    /// As [`Run::kind`].
    pub run_type: String,
    /// As [`Run::id`].
    pub run_ulid: String,
    /// Whether initialization is skipped.
    pub skip_init: bool,
    /// The stack's labels; `null` if there are none.
    #[serde(serialize_with = "null_if_empty")]
    pub stack_labels: Vec<String>,
    /// The stack's id in urls.
    pub stack_slug: String,
    /// The version of the tool.
    pub terraform_version: String,
    /// What only this kind of tool has.
    pub vendor_specific_config: VendorSpecificConfig,
}

/// What only one kind of tool has.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VendorSpecificConfig {
    /// The kind of tool, such as `terraform`.
    pub vendor: String,
    /// Its settings.
    pub typed_config: BTreeMap<String, serde_json::Value>,
}

fn null_if_empty<S: Serializer>(list: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() { serializer.serialize_none() } else { list.serialize(serializer) }
}
