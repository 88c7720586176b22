//! What truly runs in a stage, as the launcher is going to run it.
//!
//! The rest of the input repeats what the control plane says. This part is what the launcher holds the
//! stage to: it runs these commands, in this image, on this source, and nothing else.

use std::collections::BTreeMap;

use serde::Serialize;

/// How the launcher is going to run the stage.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Execution {
    /// `READ` or `WRITE`.
    pub stage: String,
    /// Every command, hooks included, in the order in which they run.
    pub commands: Vec<Command>,
    /// The variables of the phases, by name.
    pub environment: BTreeMap<String, Variable>,
    /// The image.
    pub image: Image,
    /// The source; none if the stage goes on with an earlier one's workspace.
    pub source: Option<Content>,
    /// The workspace that the read stage left; none if there was none.
    pub workspace: Option<Content>,
    /// What of the host is in the container.
    pub mounts: Vec<Mount>,
    /// The container's network.
    pub network: String,
    /// The container's runtime; none for the engine's own.
    pub runtime: Option<String>,
}

/// One command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Command {
    /// Where it stands: a hook, such as `after_plan`, or a phase, such as `plan`.
    pub at: String,
    /// What the shell is given.
    pub command: String,
    /// `launcher` for the tool's own command; `stack` for hooks, and for what is run in the place of the
    /// tool, such as a task's command.
    pub from: String,
    /// The stage that it belongs to. In a read stage those of the write stage are listed too: as they
    /// would be if the run was confirmed now.
    pub stage: String,
}

/// A variable of the phases.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Variable {
    /// `image`, `launcher`, `host`, `stack` or `secret`.
    pub from: String,
    /// Its value; none if it comes from the host or a hook, or is a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The image of the container.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Image {
    /// As stack or launcher name it.
    pub name: String,
    /// What the engine calls it by its content. The container is made from this.
    pub id: String,
    /// By which digests it is known in registries, `name@sha256:…`.
    pub digests: Vec<String>,
}

/// Something that is known by what is in it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Content {
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
}

/// A file or directory of the host in the container.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Mount {
    /// Where it is on the host.
    pub host: String,
    /// Where it is in the container.
    pub container: String,
}
