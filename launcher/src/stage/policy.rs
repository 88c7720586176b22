//! Asks the run initialization policy about a stage, before anything of it runs.
//!
//! What the policy is shown is what is going to run: the commands are those of the order, and image and
//! spec are written into the journal with the permission, so that a later launcher makes the container
//! from the same ones or not at all.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use gantry_model::{Phase, Stage as StageKind};
use gantry_policy::{Command, Content, Execution, Input, Variable};
use gantry_protocol::message::{Decision, StageOutcome, Step};
use gantry_protocol::spec::{PhaseSpec, Spec};
use gantry_spool::order::PhaseOrder;

use super::order::Origin;
use super::{Stage, StageError, StageRequest};
use crate::engine::{Engine, Image};
use crate::journal::{Change, Entry, Journal};
use crate::log::message_id;
use crate::tool::{self, HOST_PROGRAMS};

/// How often a launcher may be killed while it asks about the same stage.
const MOST_KILLED: u32 = 2;

/// What came of asking.
pub(super) enum Asked {
    /// The stage may go on.
    Allowed,
    /// It may not, and has ended.
    Denied,
    /// It is to be stopped.
    CalledOff,
}

impl<E: Engine> Stage<E> {
    /// Asks the policy, if there is one, about this stage in this image. Anything but a clear yes is a no.
    pub(super) async fn ask_policy(
        &self,
        entry: &Entry,
        image: &Image,
    ) -> Result<Asked, StageError> {
        let Some(denials) = self.denials(entry, image).await? else { return Ok(Asked::CalledOff) };
        if denials.is_empty() {
            return Ok(Asked::Allowed);
        }
        let mut lines = vec!["the run initialization policy denies this run:".to_owned()];
        lines.extend(denials.iter().map(|denial| format!("  - {denial}")));
        self.end_early(StageOutcome::Denied, &lines).await?;
        Ok(Asked::Denied)
    }

    /// Why the run is denied; none if the stage is to be stopped.
    async fn denials(
        &self,
        entry: &Entry,
        image: &Image,
    ) -> Result<Option<Vec<String>>, StageError> {
        let Some(policy) = &self.shared.policy else { return Ok(Some(Vec::new())) };
        let input = self.input(image).to_value();
        let decided = if entry.policy_begun < MOST_KILLED {
            let _asking = Asking::begin(&self.shared.journal, entry).await?;
            let mut request = self.control.request.clone();
            tokio::select! {
                biased;
                Ok(_) = request.wait_for(|request| *request == StageRequest::Stop) => return Ok(None),
                decided = policy.decide(input.clone()) => decided.map_err(|why| why.to_string()),
            }
        } else {
            Err(format!("the launcher was killed {MOST_KILLED} times while it asked"))
        };
        let denials = match decided {
            Ok(decision) => {
                if decision.sample {
                    self.sample(&input, &decision.denials);
                }
                decision.denials
            }
            Err(why) => vec![format!("the policy could not be evaluated: {why}")],
        };
        let denials: Vec<_> = denials.iter().map(|denial| self.secrets.hide(denial)).collect();
        let decision = Decision {
            attempt: self.attempt,
            is_allowed: denials.is_empty(),
            denials: denials.clone(),
            policy_sha256: policy.sha256().to_owned(),
        };
        self.shared
            .journal
            .write(vec![Change::Queue { id: message_id(), message: decision.into() }])
            .await?;
        Ok(Some(denials))
    }

    /// Writes what the policy was asked and what it said to standard error, as the policy wants it.
    fn sample(&self, input: &serde_json::Value, denials: &[String]) {
        let outcome = if denials.is_empty() { "allow" } else { "deny" };
        let sample = serde_json::json!({
            "msg": format!("Sample 0/INITIALIZATION/{}/{outcome}", self.attempt.run),
            "sample": {
                "input": input,
                "outcome": outcome,
                "results": { "deny": denials, "sample": true },
            },
        });
        // Nobody may listen there, and the run goes on all the same.
        let _ = writeln!(std::io::stderr(), "{}", self.secrets.hide_in(sample));
    }

    /// The permission to run this spec in this image, for the journal.
    pub(super) fn permission(&self, image: &Image) -> Vec<Change> {
        vec![
            Change::allowed(self.attempt, image.id.clone(), self.spec_sha256.clone()),
            Change::step(self.attempt, Step::WorkspaceReady),
        ]
    }
}

/// The mark in the journal that a policy is being evaluated. A launcher that is killed leaves it there.
struct Asking<'a> {
    journal: &'a Journal,
    entry: &'a Entry,
}

impl<'a> Asking<'a> {
    async fn begin(journal: &'a Journal, entry: &'a Entry) -> Result<Self, StageError> {
        journal.write(vec![Change::policy_begun(entry.attempt, entry.policy_begun + 1)]).await?;
        Ok(Self { journal, entry })
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let before = Change::policy_begun(self.entry.attempt, self.entry.policy_begun);
        if let Err(error) = self.journal.write_now(vec![before]) {
            tracing::warn!(%error, "the journal says for ever that a policy is being evaluated");
        }
    }
}

impl<E: Engine> Stage<E> {
    fn input(&self, image: &Image) -> Input {
        let spec = &self.spec;
        let about = &spec.about;
        let nanos = |ms: u64| i64::try_from(ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        let commit = gantry_policy::Commit {
            author: about.commit.author.clone(),
            branch: about.commit.branch.clone(),
            created_at: nanos(about.commit.created_ms),
            hash: about.commit.hash.clone(),
            message: about.commit.message.clone(),
        };
        let phase = |phase| all_phases(spec).find(move |it| it.phase == phase);
        let before = |which| phase(which).map(|it| it.before.clone()).unwrap_or_default();
        let run_type = tool::run_type(spec.run_type);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Input {
            docker_image: spec.image.clone().unwrap_or_default(),
            gantry: self.execution(image),
            request: gantry_policy::Request {
                timestamp_ns: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
            },
            run: gantry_policy::Run {
                commit,
                created_at: nanos(about.created_ms),
                id: spec.attempt.run.to_string(),
                runtime_config: gantry_policy::RuntimeConfig {
                    before_init: before(Phase::Initialize),
                    project_root: spec.project_root.clone(),
                    runner_image: self.image().to_owned(),
                    ..Default::default()
                },
                state: about.state.to_string(),
                triggered_by: about.triggered_by.clone(),
                kind: run_type.to_owned(),
                updated_at: nanos(about.updated_ms),
                user_provided_metadata: about.user_provided_metadata.clone(),
                ..Default::default()
            },
            stack: gantry_policy::Stack {
                autodeploy: spec.autodeploy,
                branch: about.commit.branch.clone(),
                labels: about.labels.clone(),
                name: about.stack_name.clone(),
                project_root: Some(spec.project_root.clone()),
                state: about.state.to_string(),
                ..Default::default()
            },
            static_run_environment: gantry_policy::StaticRunEnvironment {
                auto_deploy: spec.autodeploy,
                before_apply: before(Phase::Apply),
                before_init: before(Phase::Initialize),
                command: phase(Phase::Perform)
                    .and_then(|it| it.command.clone())
                    .unwrap_or_default(),
                commit_branch: about.commit.branch.clone(),
                commit_sha: about.commit.hash.clone(),
                environment_variables: spec
                    .environment
                    .iter()
                    .map(|variable| (variable.name.clone(), variable.value.clone()))
                    .collect(),
                project_root: spec.project_root.clone(),
                refresh_state: true,
                run_type: run_type.to_owned(),
                run_ulid: spec.attempt.run.to_string(),
                stack_labels: about.labels.clone(),
                stack_slug: spec.stack.to_string(),
                vendor_specific_config: gantry_policy::VendorSpecificConfig {
                    vendor: tool::of(spec).name.to_owned(),
                    ..Default::default()
                },
                ..Default::default()
            },
            worker_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

fn all_phases(spec: &Spec) -> impl Iterator<Item = &PhaseSpec> {
    spec.phases.iter().chain(&spec.later)
}

impl<E: Engine> Stage<E> {
    fn execution(&self, image: &Image) -> Execution {
        let (config, spec) = (&self.shared.config, &self.spec);
        Execution {
            stage: stage_name(spec.attempt.stage).to_owned(),
            commands: commands(spec),
            environment: self.environment_shown(image),
            image: gantry_policy::Image {
                name: self.image().to_owned(),
                id: image.id.clone(),
                digests: image.digests.clone(),
            },
            source: spec
                .source
                .as_ref()
                .map(|source| Content { sha256: source.sha256.clone(), size: source.size }),
            workspace: spec.workspace.as_ref().map(|workspace| Content {
                sha256: workspace.payload_sha256.clone(),
                size: workspace.payload_size,
            }),
            mounts: self.mounts_shown(),
            network: config.network.clone(),
            runtime: config.runtime.clone(),
        }
    }

    /// The variables of the phases, those that may be secret by name only.
    fn environment_shown(&self, image: &Image) -> BTreeMap<String, Variable> {
        let shown = |from: Origin, value: &str| Variable {
            from: from.as_str().to_owned(),
            value: from.is_shown().then(|| value.to_owned()),
        };
        let foretold = self.foretold(image).into_iter().map(|(name, from, value)| {
            let shown = match from {
                Some(from) => shown(from, &value),
                None => Variable { from: "hook".to_owned(), value: None },
            };
            (name, shown)
        });
        foretold.collect()
    }

    /// What this host's own configuration adds to the container.
    fn mounts_shown(&self) -> Vec<gantry_policy::Mount> {
        let config = &self.shared.config;
        let tool = config.tool_dir.as_deref().map(|host| (host, Path::new(HOST_PROGRAMS)));
        let extra = config.mounts_of(self.attempt.stage);
        let mounts = extra.map(|mount| (mount.host.as_path(), mount.container.as_path()));
        let mounts = mounts.chain(tool).map(|(host, container)| gantry_policy::Mount {
            host: host.to_string_lossy().into_owned(),
            container: container.to_string_lossy().into_owned(),
        });
        mounts.collect()
    }
}

const fn stage_name(stage: StageKind) -> &'static str {
    match stage {
        StageKind::Read => "READ",
        StageKind::Write => "WRITE",
    }
}

/// Every command in the order in which they run; those of a later stage behind those of this one.
fn commands(spec: &Spec) -> Vec<Command> {
    let stage = spec.attempt.stage;
    let tool = tool::of(spec);
    let now = spec.phases.iter().map(|phase| (phase, tool.shown(spec, phase)));
    let mut commands: Vec<Command> =
        now.flat_map(|(phase, shown)| of_phase(phase, &shown, stage)).collect();
    commands.extend(spec.after_run.iter().map(|command| hook("after_run", command, stage)));
    let later = spec.later.iter().map(|phase| (phase, tool.shown(spec, phase)));
    commands.extend(later.flat_map(|(phase, shown)| of_phase(phase, &shown, StageKind::Write)));
    commands
}

fn of_phase(phase: &PhaseSpec, order: &PhaseOrder, stage: StageKind) -> Vec<Command> {
    let name = match order.phase {
        Phase::Initialize => "init",
        Phase::Plan => "plan",
        Phase::Apply => "apply",
        Phase::Perform => "perform",
        Phase::Destroy => "destroy",
    };
    let before = order.before.iter().map(|it| hook(&format!("before_{name}"), it, stage));
    // Whoever sends a spec can put another command in the place of the tool's.
    let from = if phase.command.is_none() { Origin::Launcher } else { Origin::Stack };
    let from = from.as_str().to_owned();
    let own = Command { from, ..hook(name, &order.command, stage) };
    let after = order.after.iter().map(|it| hook(&format!("after_{name}"), it, stage));
    before.chain([own]).chain(after).collect()
}

fn hook(at: &str, command: &str, stage: StageKind) -> Command {
    Command {
        at: at.to_owned(),
        command: command.to_owned(),
        from: Origin::Stack.as_str().to_owned(),
        stage: stage_name(stage).to_owned(),
    }
}
