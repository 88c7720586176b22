//! What we ask of a container engine.
//!
//! An [`Engine`] makes, starts, watches and removes the one container of a stage. Every step may be
//! asked again after a crash: it finds what an earlier call did and never does it twice, because the
//! container's name is derived from the attempt. Only the adapter knows which engine it is, and how to
//! call it; `fake` keeps the same promises without one.

pub mod docker;
#[cfg(feature = "fake")]
pub mod fake;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use crate::limits::Capacity;

/// The label that marks a container as ours and names its pool.
pub const POOL_LABEL: &str = "gantry.pool";

/// How to ask of an engine what it has.
pub trait Engine: Clone + Send + Sync + 'static {
    /// What it is called.
    fn name(&self) -> EngineName;

    /// Asks whether the engine answers at all; gives its name and version.
    fn ping(&self) -> impl Future<Output = Result<String, EngineError>> + Send;

    /// What of this the engine does not have: a sentence each, with what to do about it.
    fn lacks(
        &self,
        needs: &Needs<'_>,
    ) -> impl Future<Output = Result<Vec<String>, EngineError>> + Send;

    /// What its host has, and what it can keep containers from taking.
    fn capacity(&self) -> impl Future<Output = Result<Capacity, EngineError>> + Send;

    /// What the image says about itself; none if it is not here.
    fn image(&self, name: &str) -> impl Future<Output = Result<Option<Image>, EngineError>> + Send;

    /// Brings an image here. `progress` gets a line now and then.
    fn pull(
        &self,
        name: &str,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Makes the container, or finds it under its name. There is one when this succeeds; when it fails,
    /// there may be one all the same.
    fn create(&self, spec: &Spec) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Starts the container, unless it runs: also one that ran before. When this fails, it may run all
    /// the same.
    fn start(&self, name: &str) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// What the container is doing; none if there is none.
    fn state(&self, name: &str) -> impl Future<Output = Result<Option<State>, EngineError>> + Send;

    /// Resolves when the container does not run any more. Cancel safe.
    fn ended(&self, name: &str) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Sends a signal to the container's first process; does nothing if it does not run.
    fn signal(
        &self,
        name: &str,
        signal: Signal,
    ) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Ends and removes the container, if there is one. There is none when this succeeds.
    fn remove(&self, name: &str) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Bytes that the container has written into its own file system; none if the engine does not say, or there is
    /// no such container.
    fn written(&self, name: &str) -> impl Future<Output = Result<Option<u64>, EngineError>> + Send;

    /// The names of all containers that have all of these labels, running or not.
    fn list(
        &self,
        labels: &[(&str, String)],
    ) -> impl Future<Output = Result<Vec<String>, EngineError>> + Send;
}

/// What containers of stages need of an engine, besides images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs<'a> {
    /// Their network.
    pub network: &'a str,
    /// Their runtime; the engine's own if none.
    pub runtime: Option<&'a str>,
}

/// What an image says about the processes in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// What the engine calls it by its content.
    pub id: String,
    /// By which digests registries know it, `name@sha256:…`.
    pub digests: Vec<String>,
    /// The user it wants to run as; empty if it does not say.
    pub user: String,
    /// The environment that it sets, `NAME=value`.
    pub environment: Vec<String>,
}

/// A signal that a container can get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ask the worker binary to stop its stage.
    Stop,
    /// End everything at once.
    Kill,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was never started.
    Created,
    /// It runs.
    Running,
    /// It ran and does not any more.
    Exited {
        /// The exit code of its first process.
        code: i64,
        /// Whether the kernel killed any of its processes for want of memory.
        is_out_of_memory: bool,
    },
}

/// A directory or file of the host in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host.
    pub source: PathBuf,
    /// Where it is in the container.
    pub target: String,
    /// Whether the container may only read it.
    pub is_read_only: bool,
}

/// The container of a stage. What is not named here is fixed: see `docs/security.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its name, derived from the attempt.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Labels that name pool, worker, run, stage and epoch.
    pub labels: BTreeMap<String, String>,
    /// What of the host is in it.
    pub mounts: Vec<Mount>,
    /// The program that it runs.
    pub entrypoint: String,
    /// Its network.
    pub network: String,
    /// Its runtime; the engine's own if none.
    pub runtime: Option<String>,
    /// The groups through which the worker binary reaches the launcher's directories at its start.
    pub groups: Vec<u32>,
    /// How long an engine that stops waits for it to end by itself.
    pub stop_grace: Duration,
    /// What it may take from its host.
    pub limits: Limits,
}

/// What a container may take from its host; no limit where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, swapped out or not.
    pub memory: Option<u64>,
    /// Billionths of a processor.
    pub nano_cpus: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Bytes of its `/dev/shm`.
    pub shared_memory: u64,
}

/// What went wrong with an engine, which each error names.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine does not answer. It may later.
    #[error("{engine} does not answer at {at}: {why} ({what})")]
    Unreachable {
        /// What the engine is called.
        engine: EngineName,
        /// Where it should be.
        at: String,
        /// What was asked.
        what: String,
        /// Why not.
        why: &'static str,
    },
    /// What it takes to connect is not there: files of this host.
    #[error(transparent)]
    Setup(Box<dyn std::error::Error + Send + Sync>),
    /// The engine exceeded the time limit of a call.
    #[error("{engine} at {at} did not {what} within {} s: look at its log", .limit.as_secs())]
    Late {
        /// What the engine is called.
        engine: EngineName,
        /// Where it is.
        at: String,
        /// What was asked.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// Nobody waits for it any more.
    #[error("waiting for {engine} was given up: look at the {engine} of this host")]
    CalledOff {
        /// What the engine is called.
        engine: EngineName,
    },
    /// The engine said no.
    #[error("{engine} cannot {what}: {message}")]
    Refused {
        /// What the engine is called.
        engine: EngineName,
        /// What was asked.
        what: String,
        /// What it said, at most 1000 characters.
        message: String,
    },
}

/// What an engine is called, as its makers spell it.
pub type EngineName = &'static str;

impl EngineError {
    /// Whether asking again later can help.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Late { .. } => true,
            Self::Refused { .. } | Self::Setup(_) | Self::CalledOff { .. } => false,
        }
    }
}
