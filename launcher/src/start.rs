//! From a checked configuration to a running launcher: everything that can be checked is, before the
//! pool hears of it.

use std::io;
use std::sync::Arc;

use gantry_model::{JournalId, WorkerId};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use ulid::Ulid;

use crate::blob::{BlobError, Objects};
use crate::config::{Config, DockerHost};
use crate::engine::docker::Docker;
use crate::engine::{Engine, EngineError, Limits};
use crate::explain::{Exit, Explain};
use crate::fitness;
use crate::health::Complaints;
use crate::host::{HostError, StateDir, boot_id};
use crate::journal::{Journal, JournalError};
use crate::launch::{self, LaunchError, Request};
use crate::limits::{self, Capacity, Unkept};
use crate::policy::{Policy, PolicyError};
use crate::reaper;
use crate::session::{Outgoing, Session, SessionError};
use crate::stage::Shared;

/// Why the launcher does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The policy cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// There is no engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The token's CA is none.
    #[error(transparent)]
    Objects(#[from] BlobError),
    /// There is no session to be had.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// It ran, and ended.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
}

impl Explain for StartError {
    fn help(&self) -> Option<&'static str> {
        match self {
            Self::Policy(error) => error.help(),
            Self::Host(error) => error.help(),
            Self::Engine(_) => Some(
                "start the container engine, or set DOCKER_HOST to where it listens; this user must be allowed to use its socket",
            ),
            Self::Session(error) => error.help(),
            Self::Launch(error) => error.help(),
            // Their messages say it themselves.
            Self::Journal(_) | Self::Objects(_) | Self::Signals(_) => None,
        }
    }

    fn exit_code(&self) -> Exit {
        match self {
            Self::Policy(error) => error.exit_code(),
            Self::Host(_) | Self::Journal(_) => Exit::State,
            Self::Engine(_) => Exit::Engine,
            Self::Objects(_) => Exit::Configuration,
            Self::Session(error) => error.exit_code(),
            Self::Launch(error) => error.exit_code(),
            Self::Signals(_) => Exit::Unexpected,
        }
    }
}

/// Starts everything and runs until the launcher is asked to leave or cannot go on.
///
/// # Errors
/// Every [`StartError`].
pub async fn run(config: Config) -> Result<(), StartError> {
    let config = Arc::new(config);
    // First, so that no signal finds the default that ends the process.
    let mut requests = Requests::new().map_err(StartError::Signals)?;
    let policy = match &config.policy {
        Some(path) => Some(Arc::new(Policy::read(path).await?)),
        None => None,
    };
    let state = StateDir::hold(&config.state_dir)?;
    if crate::config::is_tmpfs(&config.state_dir).unwrap_or(false) {
        tracing::warn!(
            directory = %config.state_dir.display(),
            "GANTRY_STATE_DIR is in memory: after a restart of this host nobody knows what ran here, and workspaces take its memory; put it on a disk"
        );
    }
    let worker_binary = state.worker_binary()?;
    let journal = Arc::new(Journal::open(&config.state_dir, || {
        (JournalId::from_ulid(Ulid::generate()), WorkerId::from_ulid(Ulid::generate()))
    })?);
    let (engine, capacity) = tokio::select! {
        engine = engine(&config, &journal) => engine?,
        // Nothing is in hand that would have to be finished.
        _ = requests.next(), if journal.entries().is_empty() => return Ok(()),
    };
    let objects = Objects::trusting(
        config.token.ca().as_bytes(),
        &config.additional_roots,
        config.proxy.as_ref(),
    )?;
    say_the_way(&config);
    let complaints = Complaints::new();
    let outgoing: Arc<dyn Outgoing> = Arc::clone(&journal) as _;
    let (session, task) =
        Session::start(&config, journal.worker(), engine.name(), outgoing, complaints.health())?;
    let handle = session.handle();
    let limits = limits(&config, &engine, &capacity);
    // Mostly they are on one disk, which has what is free only once.
    let disks = std::iter::once(config.state_dir.clone()).chain(capacity.root);
    let disks = limits::one_of_each_disk(disks);
    let shared = Shared {
        config,
        journal,
        engine,
        objects,
        policy,
        worker_binary,
        limits,
        disks,
        boot: boot_id(),
        notify: Arc::new(move |message| handle.send(message)),
        complaints,
    };
    fitness::look(&shared.engine, &shared.config, &shared.complaints).await;
    let (asked, asking) = mpsc::channel(8);
    let mut tasks = JoinSet::new();
    let (engine, config) = (shared.engine.clone(), Arc::clone(&shared.config));
    let watched = fitness::watch(engine, config, shared.complaints.clone());
    tasks.spawn(async move { match watched.await {} });
    let (engine, journal) = (shared.engine.clone(), Arc::clone(&shared.journal));
    let reaped = reaper::watch(engine, journal, Arc::clone(&shared.config));
    tasks.spawn(async move { match reaped.await {} });
    tasks.spawn(task);
    tasks.spawn(requests.forward(asked));
    let ended = launch::run(shared, session, asking).await;
    tasks.shutdown().await;
    drop(state);
    Ok(ended?)
}

/// Connects to the engine that the configuration names.
pub(crate) async fn connect(config: &Config) -> Result<Docker, EngineError> {
    match &config.docker_host {
        None => Docker::connect(None).await,
        Some(DockerHost::Socket(path)) => {
            Docker::connect(Some(&format!("unix://{}", path.display()))).await
        }
        Some(DockerHost::Tcp(address)) => Docker::connect(Some(&format!("tcp://{address}"))).await,
        Some(DockerHost::Tls(address, files)) => Docker::connect_by_tls(address, files).await,
    }
}

/// Whoever looks for why nothing gets through finds the way that it takes.
fn say_the_way(config: &Config) {
    let Some(proxy) = &config.proxy else { return };
    let broker = config.server();
    if proxy.is_for(broker.host()) {
        tracing::info!(%proxy, %broker, "broker and objects are reached through the proxy of HTTPS_PROXY");
    } else {
        tracing::info!(
            %proxy,
            %broker,
            "the broker is reached without the proxy of HTTPS_PROXY: it is on this host, or NO_PROXY names it; so are objects on the same host"
        );
    }
}

/// Connects to the engine, and removes what an earlier launcher left there.
async fn engine(config: &Config, journal: &Journal) -> Result<(Docker, Capacity), EngineError> {
    let engine = connect(config).await?;
    tracing::info!(engine = engine.ping().await?, worker = %journal.worker(), "starting");
    reaper::reap(&engine, journal, config).await?;
    let capacity = engine.capacity().await?;
    Ok((engine, capacity))
}

/// What containers may take, and a word on what this engine cannot keep.
fn limits(config: &Config, engine: &impl Engine, capacity: &Capacity) -> Limits {
    let (limits, unkept) = limits::of_containers(&config.amounts, capacity);
    for Unkept(what) in unkept {
        tracing::warn!(
            "{} cannot limit the {what} of containers here: a run can take all of it",
            engine.name()
        );
    }
    tracing::info!(
        memory = limits.memory,
        nano_cpus = limits.nano_cpus,
        processes = limits.processes,
        "what a run may take"
    );
    if let Err(error) = limits::go_last() {
        tracing::info!(%error, "the kernel may end this process when memory is short: let whoever starts it set OOMScoreAdjust=-900");
    }
    limits
}

/// The signals that ask something of a launcher.
struct Requests {
    terminate: Signal,
    interrupt: Signal,
    hand_over: Signal,
}

impl Requests {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hand_over: signal(SignalKind::user_defined2())?,
        })
    }

    async fn forward(mut self, to: mpsc::Sender<Request>) {
        loop {
            let request = self.next().await;
            if to.send(request).await.is_err() {
                return;
            }
        }
    }

    /// Cancel safe.
    async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Leave,
            _ = self.interrupt.recv() => Request::Leave,
            _ = self.hand_over.recv() => Request::HandOver,
        }
    }
}
