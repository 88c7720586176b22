//! What the worker binary is told, and the variables of the phases.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use gantry_model::{Attempt, Phase, RunType, Section, Stage as StageKind};
use gantry_protocol::spec::{SecretBundle, Spec};
use gantry_protocol::{CryptoError, PoolKey};
use gantry_spool::order::{self, Order, Secret, StateOrder};
use gantry_spool::{Layers, Limits, Variables as Merged, WhenFull, merged};
use zeroize::Zeroizing;

use super::Stage;
use super::follow::READ_GRACE;
use crate::config::Config;
use crate::engine::{Engine, EngineError, Image};
use crate::journal::Entry;
use crate::log::LogError;
use crate::tool::{self, HOST_PROGRAMS, Job, UnfitSource};
use crate::workspace::{self, Handover};

/// How much of a read stage's output waits on the host: 1 GiB.
const READ_QUOTA: u64 = 1 << 30;
/// How long a state write waits for the store.
const ANSWER_AFTER_MS: u64 = 20_000;
/// How long plan and outputs may take to be shown as JSON.
const SHOW_LIMIT_MS: u64 = 300_000;
/// The file with the present state, beside the order.
const STATE_FILE: &str = "state";

/// The variables of a stage's phases. Later ones win over earlier ones of the same name.
pub type Variables = BTreeMap<String, Zeroizing<String>>;

/// Why the order cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The directory in memory cannot be used.
    #[error("cannot hand the order to the container: check GANTRY_SECRETS_DIR")]
    Io(#[from] io::Error),
    /// It cannot be spelled.
    #[error("the order cannot be written")]
    Json(#[from] serde_json::Error),
    /// It is too large.
    #[error("the variables and hooks of the stack take more than 4 MiB: make them smaller")]
    TooLarge,
    /// The image cannot be asked.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The source cannot be looked at any more.
    #[error(transparent)]
    Source(#[from] UnfitSource),
    /// The state's password cannot be made.
    #[error("cannot make the password of the state")]
    Password(#[from] CryptoError),
    /// The state cannot be had.
    #[error(transparent)]
    State(#[from] super::state::StateError),
}

/// The variables of a stage, from the least to the most specific: computed, the host's, the stack's,
/// its secrets.
pub fn variables(config: &Config, spec: &Spec, secrets: Option<&SecretBundle>) -> Variables {
    let stage = spec.attempt.stage;
    let mut variables = computed(spec);
    for passed in config.passed_to(stage) {
        variables.insert(passed.name.clone(), passed.value.clone());
    }
    let plain = spec.environment.iter().map(|variable| (&variable.name, &variable.value));
    let secret = secrets.iter().flat_map(|bundle| &bundle.secrets);
    for (name, value) in plain.chain(secret.map(|secret| (&secret.name, &secret.value))) {
        if let Some(name) = in_stage(name, stage) {
            variables.insert(name.to_owned(), Zeroizing::new(value.clone()));
        }
    }
    variables
}

/// Where a variable of the phases comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The image sets it.
    Image,
    /// We do.
    Launcher,
    /// It is passed on from the launcher's environment.
    Host,
    /// It is one of the stack's in the clear.
    Stack,
    /// It is one of the stack's secrets.
    Secret,
}

impl Origin {
    /// The word for it in the input of policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Launcher => "launcher",
            Self::Host => "host",
            Self::Stack => "stack",
            Self::Secret => "secret",
        }
    }

    /// Whether everybody may see its value.
    pub const fn is_shown(self) -> bool {
        match self {
            Self::Image | Self::Launcher | Self::Stack => true,
            Self::Host | Self::Secret => false,
        }
    }
}

/// Where each of [`variables`] comes from.
pub type Origins = BTreeMap<String, Origin>;

/// Tells of each of [`variables`] where it comes from.
pub fn origins(config: &Config, spec: &Spec, secrets: Option<&SecretBundle>) -> Origins {
    let stage = spec.attempt.stage;
    let own = computed(spec).into_keys().map(|name| (name, Origin::Launcher));
    let passed = config.passed_to(stage).map(|passed| (passed.name.clone(), Origin::Host));
    let plain = spec.environment.iter().map(|it| (&it.name, Origin::Stack));
    let secret = secrets.iter().flat_map(|bundle| &bundle.secrets);
    let stacks = plain.chain(secret.map(|it| (&it.name, Origin::Secret)));
    let stacks =
        stacks.filter_map(|(name, origin)| Some((in_stage(name, stage)?.to_owned(), origin)));
    own.chain(passed).chain(stacks).collect()
}

/// What the tool shows to the worker binary when it asks for the state. A launcher that comes later must
/// know it to mask it, so it is not made at random: it follows from the pool's key.
pub fn state_password(key: &PoolKey, attempt: Attempt) -> Result<Zeroizing<String>, CryptoError> {
    use base64::Engine as _;
    let bytes = key.derive(&format!("state password of {}", attempt.name()))?;
    Ok(Zeroizing::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(*bytes)))
}

/// The name that phases see; none if the prefix selects the other stage.
fn in_stage(name: &str, stage: StageKind) -> Option<&str> {
    match (name.strip_prefix("ro_"), name.strip_prefix("wo_"), stage) {
        (Some(name), _, StageKind::Read) | (_, Some(name), StageKind::Write) => Some(name),
        (Some(_), _, StageKind::Write) | (_, Some(_), StageKind::Read) => None,
        (None, None, StageKind::Read | StageKind::Write) => Some(name),
    }
}

fn computed(spec: &Spec) -> Variables {
    let variables = (tool::of(spec).variables)(spec);
    variables.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect()
}

impl<E: Engine> Stage<E> {
    /// Writes the order, and the state if the stage has one, where the worker binary looks for them.
    pub(super) async fn write_order(&self) -> Result<(), OrderError> {
        let name = self.chosen_image();
        let image = self.ask(|| self.shared.engine.image(&name)).await?.unwrap_or_default();
        let state = self.state_order().await?;
        let mut order = self.order(image, state)?;
        if self.spec.workspace.is_some() {
            order.carried = Handover::read(&self.directories.workspace)?.environment;
        }
        let json = order.to_json()?;
        if json.len() as u64 > order::MAX_SIZE {
            return Err(OrderError::TooLarge);
        }
        self.directories.make_order()?;
        write_new(&self.directories.order.join(order::FILE), |file| file.write_all(&json))?;
        Ok(())
    }

    /// What the stage asks its tool to do.
    pub(super) fn job(&self) -> Job<'_> {
        Job {
            spec: &self.spec,
            source: &self.directories.source,
            replaces_backend: self.shared.config.replaces_backend,
        }
    }

    async fn state_order(&self) -> Result<Option<StateOrder>, OrderError> {
        let Some(spec) = &self.spec.state else { return Ok(None) };
        let mut order = StateOrder {
            current: None,
            // Whatever the spec says: what a read stage writes would stay when its run is discarded.
            can_write: spec.can_write && self.attempt.stage == StageKind::Write,
            password: state_password(&self.shared.config.key, self.attempt)?.as_str().into(),
            can_replace: self.spec.run_type == RunType::Task,
            answer_after_ms: ANSWER_AFTER_MS,
        };
        if let Some(current) = &spec.current {
            self.directories.make_order()?;
            self.fetch_state(current, self.directories.order.join(STATE_FILE)).await?;
            order.current = Some(STATE_FILE.to_owned());
        }
        Ok(Some(order))
    }

    /// Puts the commands of the phases into the log, as `SPACELIFT_DEBUG` wants it.
    pub(super) async fn show_commands(&self, entry: &Entry) -> Result<(), LogError> {
        let tool = tool::of(&self.spec);
        let phases = self.spec.phases.iter().map(|phase| tool.shown(&self.spec, phase));
        let lines: Vec<String> = phases
            .flat_map(|order| {
                let commands = order.before.into_iter().chain([order.command]).chain(order.after);
                commands
                    .map(move |command| format!("{}: {command}", order.phase))
                    .collect::<Vec<_>>()
            })
            .collect();
        // Read only now: the waits before may have said something.
        let entry = self.entry().unwrap_or_else(|| entry.clone());
        self.log(&entry).say(Section::Prepare, &lines, Vec::new()).await
    }

    fn order(&self, image: Image, state: Option<StateOrder>) -> Result<Order, UnfitSource> {
        let (tool, job) = (tool::of(&self.spec), self.job());
        let config = &self.shared.config;
        let (quota, when_full) = match self.attempt.stage {
            StageKind::Read => (READ_QUOTA, WhenFull::Block),
            StageKind::Write => (Limits::WRITE_QUOTA, WhenFull::Truncate),
        };
        let plans = self.spec.phases.iter().any(|phase| phase.phase == Phase::Plan);
        Ok(Order {
            version: Order::VERSION,
            attempt: self.attempt,
            phases: self
                .spec
                .phases
                .iter()
                .map(|phase| tool.phase(&job, phase))
                .collect::<Result<_, _>>()?,
            after_run: self.spec.after_run.clone(),
            final_state: tool.final_state.to_owned(),
            after_run_on_success: !(plans && self.spec.run_type != RunType::Proposed),
            environment: self.own_variables(),
            path_end: Some(HOST_PROGRAMS.to_owned()),
            carried: Vec::new(),
            keeps_environment: self.attempt.stage == StageKind::Read
                && matches!(self.spec.run_type, RunType::Tracked | RunType::Destroy),
            user: image.user,
            may_be_root: config.allows_root,
            groups: workspace::own_groups(),
            workspace: tool::WORKSPACE.to_owned(),
            directory: Path::new(tool::WORKSPACE)
                .join("source")
                .join(&self.spec.project_root)
                .to_string_lossy()
                .into_owned(),
            run_timeout_ms: millis(config.run_timeout.get()),
            grace_ms: match self.attempt.stage {
                StageKind::Read => millis(READ_GRACE.min(config.stop_grace.get())),
                StageKind::Write => millis(config.stop_grace.get()),
            },
            interrupt: (tool.interrupt)(&self.spec),
            spool: Limits { quota, when_full },
            state,
            left_state: tool.state.as_ref().map(|state| state.left.to_owned()),
            show_plan: plans.then(tool.show_plan),
            show_outputs: Some((tool.show_outputs)()),
            // It says nothing meanwhile, and a stage is not stopped for that.
            show_limit_ms: SHOW_LIMIT_MS.min(millis(config.logs_timeout.get()) / 2),
            shell: "/bin/sh".to_owned(),
        })
    }

    /// What the order adds to what the image sets; what hooks of the plan left is added where there was one.
    fn own_variables(&self) -> Vec<(String, Secret)> {
        let own = self.variables.iter();
        own.map(|(name, value)| (name.clone(), Secret::from(value.as_str()))).collect()
    }

    /// What the phases will begin with in this image, by what it says of itself, for whoever must know before
    /// anything runs: where each variable comes from, none for what hooks of the plan made it, and its value.
    pub(super) fn foretold(
        &self,
        image: &Image,
    ) -> Vec<(String, Option<Origin>, Zeroizing<String>)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let of_image = image.environment.iter().filter_map(|entry| entry.split_once('='));
        let of_image: Merged = of_image
            .map(|(name, value)| {
                (name.as_bytes().to_vec(), Zeroizing::new(value.as_bytes().to_vec()))
            })
            .collect();
        let carried = match self.spec.workspace {
            // One that cannot be read keeps the order from being written.
            Some(_) => Handover::read(&self.directories.workspace).unwrap_or_default().environment,
            None => Vec::new(),
        };
        let own = self.own_variables();
        let layers = Layers { own: &own, path_end: Some(HOST_PROGRAMS), carried: &[] };
        let before = merged(of_image.clone(), layers);
        let begins = merged(of_image.clone(), Layers { carried: &carried, ..layers });
        let origin = |bytes: &[u8], name: &str| {
            if self.variables.contains_key(name) {
                self.origins.get(name).copied().unwrap_or(Origin::Secret)
            } else if of_image.contains_key(bytes) {
                Origin::Image
            } else {
                Origin::Launcher
            }
        };
        let foretold = begins.iter().map(|(name, value)| {
            let is_as_before = before.get(name) == Some(value);
            let shown = text(name);
            let from = is_as_before.then(|| origin(name, &shown));
            (shown, from, Zeroizing::new(text(value)))
        });
        foretold.collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Writes a file that the launcher's user and group alone can read, in place of an earlier one.
///
/// Never half of it, nor none: a start that a dead launcher asked for may be under way, and its
/// container reads the file at this moment.
pub(super) fn write_new<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut std::fs::File) -> Result<(), E>,
) -> Result<(), E> {
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let options = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(&fresh);
    write(&mut options?)?;
    Ok(std::fs::rename(&fresh, path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_selects_the_stage() {
        assert_eq!(in_stage("ro_A", StageKind::Read), Some("A"));
        assert_eq!(in_stage("ro_A", StageKind::Write), None);
        assert_eq!(in_stage("wo_A", StageKind::Write), Some("A"));
        assert_eq!(in_stage("A", StageKind::Write), Some("A"));
    }
}
