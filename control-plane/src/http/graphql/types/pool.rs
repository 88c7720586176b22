//! Pools and workers.

use async_graphql::{Context, ID, Object, Result, SimpleObject};
use gantry_protocol::PublicKey;

use super::word::{RecipientKind, WorkerStatus};
use super::{count, seconds};
use crate::fleet::workers;
use crate::http::Operations;
use crate::http::graphql::error::refused;
use crate::pools;

/// A pool: workers that share one certificate, one queue and one key.
pub(crate) struct WorkerPool {
    pub(crate) pool: pools::Pool,
}

impl From<pools::Pool> for WorkerPool {
    fn from(pool: pools::Pool) -> Self {
        Self { pool }
    }
}

#[Object]
impl WorkerPool {
    /// Its id, a ULID.
    async fn id(&self) -> ID {
        self.pool.id.to_string().into()
    }

    /// Its name.
    async fn name(&self) -> &str {
        &self.pool.name
    }

    /// What it is for.
    async fn description(&self) -> Option<&str> {
        Some(self.pool.description.as_str())
    }

    /// Its labels.
    async fn labels(&self) -> &[String] {
        &self.pool.labels
    }

    /// The space that it is in; there is one, `root`.
    async fn space(&self) -> &'static str {
        "root"
    }

    /// The space that it is in; there is one.
    async fn space_details(&self) -> Space {
        Space::root()
    }

    /// The token that its launchers start with: the value of `SPACELIFT_TOKEN`. It holds no secret.
    #[expect(clippy::unused_async, reason = "resolvers are asynchronous")]
    async fn config(&self, ctx: &Context<'_>) -> Result<String> {
        Ok(ctx.data::<Operations>()?.pools.token(&self.pool)?)
    }

    /// When it was created, in seconds since 1970.
    async fn created_at(&self) -> i64 {
        seconds(self.pool.created_at)
    }

    /// When it last changed, in seconds since 1970.
    async fn updated_at(&self) -> i64 {
        seconds(self.pool.updated_at)
    }

    /// Whether it was deleted.
    async fn deleted(&self) -> bool {
        false
    }

    /// Whether a Kubernetes controller makes its workers.
    #[graphql(name = "managedByK8sController")]
    async fn managed_by_k8s_controller(&self) -> bool {
        false
    }

    /// How many drift detection runs it takes at once; -1 for any number.
    async fn drift_detection_run_limit(&self) -> Option<i32> {
        Some(-1)
    }

    /// How many runs wait for one of its workers.
    async fn pending_runs(&self) -> i32 {
        count(self.pool.pending_runs)
    }

    /// How many runs wait for one of its workers.
    async fn schedulable_runs_count(&self) -> i32 {
        count(self.pool.pending_runs)
    }

    /// How many of its workers have a run.
    async fn busy_workers(&self) -> i32 {
        count(self.pool.busy_workers)
    }

    /// How many workers it has.
    async fn workers_count(&self) -> i32 {
        count(self.pool.workers_count)
    }

    /// Its workers that are connected, and those that are away with a run; newest first.
    #[graphql(complexity = "1000 + 50 * child_complexity")]
    async fn workers(&self, ctx: &Context<'_>) -> Result<Vec<Worker>> {
        let operations = ctx.data::<Operations>()?;
        let workers = operations.workers.workers_of(self.pool.id).await.map_err(refused)?;
        Ok(workers.into_iter().map(Worker::from).collect())
    }

    /// Gantry: all of its workers that are known, those that are there first.
    #[graphql(complexity = "1000 + 50 * child_complexity")]
    async fn known_workers(&self, ctx: &Context<'_>) -> Result<Vec<Worker>> {
        let operations = ctx.data::<Operations>()?;
        let workers = operations.workers.known_workers(self.pool.id).await.map_err(refused)?;
        Ok(workers.into_iter().map(Worker::from).collect())
    }

    /// Gantry: the keys to which secrets and states of its stacks are sealed.
    async fn recipients(&self, ctx: &Context<'_>) -> Result<Vec<Recipient>> {
        let operations = ctx.data::<Operations>()?;
        let pems = operations.stacks.recipients_of_pool(self.pool.id).await.map_err(refused)?;
        recipients(operations, pems).await
    }
}

/// A worker: one slot of a pool.
pub(crate) struct Worker(workers::Worker);

impl From<workers::Worker> for Worker {
    fn from(worker: workers::Worker) -> Self {
        Self(worker)
    }
}

#[Object]
impl Worker {
    /// Its id, a ULID.
    async fn id(&self) -> ID {
        self.0.id.to_string().into()
    }

    /// Whether it has a run.
    async fn busy(&self) -> bool {
        self.0.is_busy
    }

    /// Whether it takes no new runs.
    async fn drained(&self) -> bool {
        self.0.is_drained
    }

    /// It in one word.
    async fn status(&self) -> WorkerStatus {
        if self.0.is_drained {
            WorkerStatus::Drained
        } else if self.0.is_busy {
            WorkerStatus::Busy
        } else {
            WorkerStatus::Idle
        }
    }

    /// When it came, in seconds since 1970.
    async fn created_at(&self) -> i64 {
        seconds(self.0.created_at)
    }

    /// Since when it has had no run, in seconds since 1970; null while it has one.
    async fn available_at(&self) -> Option<i64> {
        self.0.available_at.map(seconds)
    }

    /// Its `SPACELIFT_METADATA_*` variables, as a JSON object of texts.
    async fn metadata(&self) -> String {
        serde_json::to_string(&self.0.metadata).expect("a map of texts is JSON")
    }

    /// Gantry: whether it is connected.
    async fn connected(&self) -> bool {
        self.0.is_connected
    }

    /// Gantry: whether it says that it is well.
    async fn healthy(&self) -> bool {
        self.0.is_healthy
    }

    /// Gantry: why it is not well, in its words.
    async fn note(&self) -> Option<&str> {
        self.0.note.as_deref()
    }

    /// Gantry: when it was last heard, in seconds since 1970.
    async fn heard_at(&self) -> i64 {
        seconds(self.0.heard_at)
    }

    /// Gantry: the run that it has.
    async fn run(&self) -> Option<ID> {
        self.0.run.map(|run| run.to_string().into())
    }

    /// Gantry: its launcher's version.
    async fn version(&self) -> &str {
        &self.0.version
    }
}

/// A space. There is one.
#[derive(SimpleObject)]
pub(crate) struct Space {
    /// Its id.
    id: ID,
    /// Its name.
    name: String,
}

impl Space {
    pub(crate) fn root() -> Self {
        Self { id: "root".into(), name: "root".into() }
    }
}

/// The pool that the server itself runs. There is none: its counts are 0.
#[derive(Default, SimpleObject)]
pub(crate) struct PublicWorkerPool {
    /// How many runs it takes at once.
    parallelism: i32,
    /// How many of its workers have a run.
    busy_workers: i32,
    /// How many runs wait for it.
    pending_runs: i32,
    /// How many use it.
    users_count: i32,
    /// How many runs wait for it.
    schedulable_runs_count: i32,
}

/// Gantry: a key to which something durable is sealed.
#[derive(SimpleObject)]
pub(crate) struct Recipient {
    /// Whose key it is.
    kind: RecipientKind,
    /// The SHA-256 of the key, in hex.
    fingerprint: String,
    /// The key or its certificate, PEM.
    public_key: String,
}

/// Gantry: the key that opens everything durable when a pool's key is lost.
#[derive(SimpleObject)]
pub(crate) struct RecoveryKey {
    /// The SHA-256 of the key, in hex.
    fingerprint: String,
    /// The key, PEM.
    public_key: String,
}

impl RecoveryKey {
    pub(crate) fn new(pem: String) -> Result<Self> {
        Ok(Self { fingerprint: fingerprint(&pem)?, public_key: pem })
    }
}

/// Says of each key whose it is.
pub(crate) async fn recipients(
    operations: &Operations,
    pems: Vec<String>,
) -> Result<Vec<Recipient>> {
    let recovery = operations.pools.recovery_key().await.map_err(refused)?;
    let recovery = recovery.as_deref().map(fingerprint).transpose()?;
    pems.into_iter()
        .map(|public_key| {
            let fingerprint = fingerprint(&public_key)?;
            let is_recovery = recovery.as_ref() == Some(&fingerprint);
            let kind = if is_recovery { RecipientKind::Recovery } else { RecipientKind::Pool };
            Ok(Recipient { kind, fingerprint, public_key })
        })
        .collect()
}

fn fingerprint(pem: &str) -> Result<String> {
    Ok(PublicKey::parse(pem.as_bytes())?.fingerprint().to_string())
}
