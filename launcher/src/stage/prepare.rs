//! From the grant to a workspace that a container can be made for.

use std::fs;
use std::io::Write;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use gantry_model::{Phase, Section, Stage};
use gantry_protocol::spec::{SealedWorkspace, SecretBundle, Source, Spec};
use gantry_protocol::{Digest, Header, SealedBytes, check_maskable};
use zeroize::Zeroizing;

use super::jobs::Whether;
use super::order::{Origins, Variables};
use super::policy::Asked;
use super::waits::{Awaited, STORE};
use super::{Shared, StageError, order};
use crate::blob::{BlobError, Expected};
use crate::engine::{Engine, EngineError, Image};
use crate::journal::Entry;
use crate::log::Log;
use crate::mask::Secrets;
use crate::tool::{self, UnfitSource};
use crate::workspace::{self, Directories, Handover, PlannedIn, WorkspaceError};

/// How often a pull that broke off is begun again.
const PULLS_AGAIN: u32 = 3;
/// The largest source archive: 2 GiB.
const MAX_SOURCE: u64 = 2 << 30;

/// A spec, opened.
pub struct Opened {
    pub spec: Spec,
    /// Lower-case hex of the SHA-256 of the sealed spec.
    pub sha256: String,
    pub secrets: Secrets,
    /// What to say of those that logs cannot hide.
    pub unmasked: Vec<String>,
    pub variables: Variables,
    pub origins: Origins,
}

/// Opens the spec that lies in the attempt's directory, and its secrets. Says why not in words that
/// hold no secret.
pub fn open_spec<E>(
    shared: &Shared<E>,
    attempt: gantry_model::Attempt,
    directories: &Directories,
) -> Result<Opened, String> {
    let config = &shared.config;
    let keys: Vec<_> = std::iter::once(&config.key).chain(&config.former_keys).collect();
    let sealed = fs::read(&directories.spec)
        .map_err(|error| format!("the stage's spec cannot be read on this host: {error}"))?;
    let sha256 = Digest::of(&sealed).to_string();
    let plain = SealedBytes::from_file(&sealed)
        .map_err(|error| format!("the stage's spec is not sealed as it should be: {error}"))?
        .open(&keys)
        .map_err(|error| {
            format!("the stage's spec cannot be opened with this pool's key: {error}")
        })?;
    let mut spec: Spec = serde_json::from_slice(&plain).map_err(|error| {
        format!(
            "the stage's spec has a mistake at line {}, column {}",
            error.line(),
            error.column()
        )
    })?;
    if spec.attempt != attempt {
        return Err("the stage's spec is another stage's".to_owned());
    }
    if !is_inner(&spec.project_root) {
        return Err(format!("the project root {:?} leaves the source", spec.project_root));
    }
    spec.phases.retain(|phase| belongs(phase.phase, attempt.stage));
    let bundle = open_bundle(&spec, &keys)?;
    let variables = order::variables(config, &spec, bundle.as_ref());
    let (mut secrets, unmasked) = secrets(config, bundle.as_ref())?;
    if spec.state.is_some() {
        let Some(state) = &tool::of(&spec).state else {
            return Err(
                "the spec has a state, and the stack's tool keeps none: look at the stack's settings"
                    .to_owned(),
            );
        };
        mask_state_password(&mut secrets, state.password, &keys, attempt)?;
    }
    let origins = order::origins(config, &spec, bundle.as_ref());
    Ok(Opened { spec, sha256, secrets, unmasked, variables, origins })
}

fn open_bundle(
    spec: &Spec,
    keys: &[&gantry_protocol::PoolKey],
) -> Result<Option<SecretBundle>, String> {
    use base64::Engine as _;
    let Some(sealed) = &spec.secrets else { return Ok(None) };
    let header: Header = sealed
        .header
        .parse()
        .map_err(|error| format!("the stack's secrets are damaged: {error}"))?;
    let payload = base64::engine::general_purpose::STANDARD
        .decode(&sealed.payload)
        .map_err(|_| "the stack's secrets are not base64".to_owned())?;
    let plain = gantry_protocol::open_bytes(keys, &header, &payload).map_err(|error| {
        format!("the stack's secrets cannot be opened with this pool's key: {error}")
    })?;
    let bundle: SecretBundle = serde_json::from_slice(&plain)
        .map_err(|_| "the stack's secrets are not of this version's form".to_owned())?;
    if bundle.stack != spec.stack.as_str() {
        return Err(format!(
            "the secrets are those of another stack than {}: they were moved there; enter them again",
            spec.stack
        ));
    }
    Ok(Some(bundle))
}

/// Everything that no log may show, and what to say of what logs cannot hide.
fn secrets(
    config: &crate::config::Config,
    bundle: Option<&SecretBundle>,
) -> Result<(Secrets, Vec<String>), String> {
    let (mut secrets, mut unmasked) = (Secrets::default(), Vec::new());
    let masked = config.masked.iter().map(|secret| (secret.name.as_str(), secret.value.as_bytes()));
    let own = bundle.iter().flat_map(|bundle| &bundle.secrets);
    let own = own.map(|secret| (secret.name.as_str(), secret.value.as_bytes()));
    for (name, value) in masked.chain(own) {
        match check_maskable(value) {
            // What is too large to be masked must not run.
            Ok(()) => secrets.insert(name, value).map_err(|refusal| refusal.to_string())?,
            // Nothing is no secret.
            Err(_) if value.is_empty() => {}
            Err(why) => {
                unmasked.push(format!("the value of {name} is not masked in this log: {why}"));
            }
        }
    }
    Ok((secrets, unmasked))
}

/// Whichever of the keys the launcher had that wrote the order.
fn mask_state_password(
    secrets: &mut Secrets,
    variable: &str,
    keys: &[&gantry_protocol::PoolKey],
    attempt: gantry_model::Attempt,
) -> Result<(), String> {
    use base64::Engine as _;
    for key in keys {
        let password = order::state_password(key, attempt).map_err(|error| error.to_string())?;
        let credentials = Zeroizing::new(format!("gantry:{}", *password));
        let header = base64::engine::general_purpose::STANDARD.encode(credentials.as_bytes());
        let header = Zeroizing::new(header);
        for value in [&password, &header] {
            secrets.insert(variable, value.as_bytes()).map_err(|refusal| refusal.to_string())?;
        }
    }
    Ok(())
}

/// A read stage never changes anything, whatever its spec says: one that deploys by itself names the
/// phases of its second half too.
const fn belongs(phase: Phase, stage: Stage) -> bool {
    match (phase, stage) {
        (Phase::Initialize | Phase::Plan, Stage::Read) | (_, Stage::Write) => true,
        (Phase::Apply | Phase::Perform | Phase::Destroy, Stage::Read) => false,
    }
}

fn is_inner(path: &str) -> bool {
    Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Why the workspace cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Unfit(#[from] UnfitSource),
    #[error("the image {image} is not on this host and cannot be pulled")]
    Image { image: String, source: EngineError },
    #[error("the image {image} was pulled and is not on this host: something removes images here")]
    Gone { image: String },
    #[error(
        "the plan was made in the image {image} when that was {id}, which is not on this host and cannot be pulled by its digest: bring it here (pull it, or load it from a file) and confirm again, or trigger a new run"
    )]
    PlannedIn { image: String, id: String },
    #[error(transparent)]
    State(#[from] super::state::StateError),
    #[error("bringing the image was given up")]
    CalledOff,
    #[error("the {what} takes {size} bytes: the limit is {limit}")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
}

impl<E: Engine> super::Stage<E> {
    /// Brings the image here, asks the policy and lays the workspace out.
    pub(super) async fn prepare(&self, entry: &Entry) -> Result<(), StageError> {
        // Whoever waited before this may have said so in the log.
        let entry = &self.entry().unwrap_or_else(|| entry.clone());
        let mut log = self.log(entry);
        if !self.unmasked.is_empty() {
            log.say(Section::Prepare, &self.unmasked, Vec::new()).await?;
        }
        let brought = async {
            self.check_recipients().map_err(PrepareError::from)?;
            tokio::select! {
                biased;
                () = self.limit.over() => Err(PrepareError::CalledOff.into()),
                brought = self.bring(&mut log) => brought,
            }
        };
        let laid_out = match brought.await {
            Ok(image) => match self.ask_policy(entry, &image).await? {
                Asked::Allowed if self.spec.workspace.is_some() => Ok(image),
                Asked::Allowed => self.lay_out(&mut log).await.map(|()| image),
                Asked::Denied | Asked::CalledOff => return Ok(()),
            },
            Err(error) => Err(error),
        };
        match laid_out {
            Ok(image) => {
                self.shared.journal.write(self.permission(&image)).await?;
                Ok(())
            }
            Err(Preparing::Stage(error)) => Err(error),
            Err(Preparing::Run(error)) => self.failed_early(entry, &error).await,
        }
    }

    /// Brings the image here; for a plan that is to be applied the one in which it was planned, which its
    /// workspace names. Nothing of that runs before the policy was asked.
    async fn bring(&self, log: &mut Log) -> Result<Image, Preparing> {
        if self.spec.workspace.is_none() {
            return self.bring_image(log, self.image()).await;
        }
        self.lay_out(log).await?;
        let handover = Handover::read(&self.directories.workspace).map_err(WorkspaceError::Io);
        let Some(PlannedIn { id, digests }) = handover.map_err(PrepareError::from)?.image else {
            return self.bring_image(log, self.image()).await;
        };
        let here = self.ask_with(log, || self.shared.engine.image(&id)).await;
        if let Ok(Some(image)) = here {
            return Ok(image);
        }
        for digest in digests {
            match self.bring_image(log, &digest).await {
                Err(Preparing::Run(PrepareError::Image { .. })) => {}
                other => return other,
            }
        }
        Err(PrepareError::PlannedIn { image: self.image().to_owned(), id }.into())
    }

    async fn bring_image(&self, log: &mut Log, name: &str) -> Result<Image, Preparing> {
        let engine = &self.shared.engine;
        let failed =
            |source| Preparing::Run(PrepareError::Image { image: name.to_owned(), source });
        if let Some(image) = self.ask_with(log, || engine.image(name)).await.map_err(failed)? {
            return Ok(image);
        }
        say(log, format!("pulling the image {name}")).await?;
        let (lines, mut seen) = tokio::sync::mpsc::channel::<String>(64);
        // A line that finds no room is one of many of the same pull.
        let progress = move |line: String| drop(lines.try_send(line));
        let mut again = PULLS_AGAIN;
        loop {
            let mut pull = std::pin::pin!(engine.pull(name, &progress));
            let pulled = loop {
                tokio::select! {
                    pulled = &mut pull => break pulled,
                    Some(line) = seen.recv() => say(log, line).await?,
                }
            };
            match pulled {
                // The engine was restarted: what it has of the image is kept.
                Err(EngineError::Unreachable { .. }) if again > 0 => {
                    again -= 1;
                    self.ask_with(log, || engine.ping()).await.map_err(failed)?;
                    say(
                        log,
                        format!("{} broke off, pulling the image {name} again", engine.name()),
                    )
                    .await?;
                }
                pulled => {
                    pulled.map_err(failed)?;
                    let gone = || PrepareError::Gone { image: name.to_owned() };
                    let here = self.ask_with(log, || engine.image(name)).await.map_err(failed)?;
                    return here.ok_or_else(|| gone().into());
                }
            }
        }
    }

    async fn lay_out(&self, log: &mut Log) -> Result<(), Preparing> {
        if let Some(sealed) = &self.spec.workspace {
            say(log, "opening the workspace of the plan".to_owned()).await?;
            return Ok(self.open_workspace(log, sealed).await?);
        }
        if let Some(source) = &self.spec.source {
            say(log, format!("unpacking the source {}", source.sha256)).await?;
            self.unpack_source(log, source).await?;
        } else {
            self.directories
                .empty_workspace()
                .map_err(WorkspaceError::Io)
                .map_err(PrepareError::from)?;
        }
        (tool::of(&self.spec).check_source)(&self.job()).map_err(PrepareError::from)?;
        Ok(())
    }

    async fn unpack_source(&self, log: &mut Log, source: &Source) -> Result<(), PrepareError> {
        bounded("source", source.size, MAX_SOURCE)?;
        let mut file =
            workspace::passing_file(&self.directories.root).map_err(WorkspaceError::Io)?;
        let expected = Expected { what: "source", size: source.size, sha256: Some(&source.sha256) };
        let awaited = Awaited::new(STORE);
        let got = self.get(&awaited, &source.url, expected, &mut file);
        self.wait_with(log, &awaited, got).await.unwrap_or(Err(BlobError::CalledOff))?;
        let directories = self.directories.clone();
        let config = Arc::clone(&self.shared.config);
        self.blocking(move |whether| {
            use std::io::Seek as _;
            file.rewind()?;
            let file = whether.until(file);
            let keys: Vec<_> = std::iter::once(&config.key).chain(&config.former_keys).collect();
            workspace::open_source(&directories, file, &keys)
        })
        .await?;
        Ok(())
    }

    async fn open_workspace(
        &self,
        log: &mut Log,
        sealed: &SealedWorkspace,
    ) -> Result<(), PrepareError> {
        bounded("workspace", sealed.size, workspace::MAX_SEALED)?;
        let mut file =
            workspace::passing_file(&self.directories.root).map_err(WorkspaceError::Io)?;
        let expected = Expected { what: "workspace", size: sealed.size, sha256: None };
        let awaited = Awaited::new(STORE);
        let got = self.get(&awaited, &sealed.url, expected, &mut file);
        self.wait_with(log, &awaited, got).await.unwrap_or(Err(BlobError::CalledOff))?;
        let (directories, sealed, stack, attempt) =
            (self.directories.clone(), sealed.clone(), self.spec.stack.clone(), self.attempt);
        let config = Arc::clone(&self.shared.config);
        self.blocking(move |whether| {
            use std::io::Seek as _;
            file.rewind()?;
            let file = whether.until(file);
            let keys: Vec<_> = std::iter::once(&config.key).chain(&config.former_keys).collect();
            workspace::open(&directories, file, &sealed, &stack, attempt, &keys)
        })
        .await?;
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Whether) -> Result<T, WorkspaceError> + Send + 'static,
    ) -> Result<T, WorkspaceError> {
        self.jobs.run(work).await.unwrap_or_else(|error| Err(error.into()))
    }

    /// Gets an object; a store that is away is asked again. Whoever waits for it bounds that.
    pub(super) async fn get(
        &self,
        awaited: &Awaited,
        url: &str,
        expected: Expected<'_>,
        into: &mut (impl Write + Restart + Send),
    ) -> Result<(), BlobError> {
        let mut pause = Duration::from_millis(200);
        loop {
            match self.shared.objects.get(url, expected, into).await {
                Err(error) if error.is_passing() => {
                    awaited.failed(&error);
                    tracing::warn!(attempt = %self.attempt, %error, "getting it failed; trying again");
                    into.restart()?;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
                other => return other,
            }
        }
    }
}

/// What can be written from its beginning again.
pub trait Restart {
    /// Forgets what was written.
    fn restart(&mut self) -> std::io::Result<()>;
}

impl Restart for Vec<u8> {
    fn restart(&mut self) -> std::io::Result<()> {
        self.clear();
        Ok(())
    }
}

impl Restart for fs::File {
    fn restart(&mut self) -> std::io::Result<()> {
        use std::io::Seek as _;
        self.rewind()?;
        self.set_len(0)
    }
}

/// What stops preparing: the run's own fault, or this host's.
enum Preparing {
    Run(PrepareError),
    Stage(StageError),
}

impl From<PrepareError> for Preparing {
    fn from(error: PrepareError) -> Self {
        Self::Run(error)
    }
}

impl From<crate::log::LogError> for Preparing {
    fn from(error: crate::log::LogError) -> Self {
        Self::Stage(error.into())
    }
}

async fn say(log: &mut Log, line: String) -> Result<(), crate::log::LogError> {
    log.say(Section::Prepare, &[line], Vec::new()).await
}

fn bounded(what: &'static str, size: u64, limit: u64) -> Result<(), PrepareError> {
    if size > limit { Err(PrepareError::TooLarge { what, size, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_stage_has_no_phase_that_changes_anything() {
        let phases = [Phase::Initialize, Phase::Plan, Phase::Apply, Phase::Perform, Phase::Destroy];
        let kept = phases.map(|phase| belongs(phase, Stage::Read));
        assert_eq!(kept, [true, true, false, false, false]);
        assert!(phases.iter().all(|phase| belongs(*phase, Stage::Write)));
    }

    #[test]
    fn a_project_root_stays_in_the_source() {
        assert!(is_inner("") && is_inner("a/b") && is_inner("./a"));
        assert!(!is_inner("..") && !is_inner("a/../../b") && !is_inner("/etc"));
    }
}
