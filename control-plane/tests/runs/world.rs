//! A control plane over a database in a temporary directory.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use gantry_control_plane::authority::Issuer;
use gantry_control_plane::clock::{Clock as _, FakeClock};
use gantry_control_plane::fleet::SignatureCheck;
use gantry_control_plane::ids::Ids;
use gantry_control_plane::objects::{FakeObjects, Objects as _};
use gantry_control_plane::pools::NewPool;
use gantry_control_plane::runs::NewRun;
use gantry_control_plane::server::{Parts, Services};
use gantry_control_plane::sources::NewSource;
use gantry_control_plane::stacks::{Hooks, NewStack, Repository, Tool};
use gantry_control_plane::transport::Arrived;
use gantry_model::{LeaseTerms, PoolId, RunId, RunState, RunType, StackId, Timestamp};
use gantry_protocol::message::FromLauncher;
use gantry_protocol::{Authority, CertificateRequest, Digest, PoolKey};

use crate::database::{Database, Kept};
use crate::launcher::Launcher;

/// 2026-11-21, when nothing is expired.
const START: u64 = 1_795_000_000_000;

pub(crate) struct World {
    pub(crate) control_plane: Services,
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) objects: FakeObjects,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) pool: PoolId,
    pub(crate) stack: StackId,
    pub(crate) terms: LeaseTerms,
    pub(crate) database: Database,
}

/// One key for all tests: making one takes long.
pub(crate) fn pool_key() -> &'static PoolKey {
    static KEY: OnceLock<PoolKey> = OnceLock::new();
    KEY.get_or_init(|| PoolKey::generate(2048).unwrap())
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with_stack(false).await
    }

    pub(crate) async fn with_stack(autodeploy: bool) -> Self {
        let database = Database::new();
        let clock = Arc::new(FakeClock::at(Timestamp(START)));
        let objects = FakeObjects::new();
        let authority = Authority::generate(i64::try_from(START / 1000).unwrap()).unwrap();
        let (broker, namespace) = ("broker.test:1984".parse().unwrap(), "gantry".parse().unwrap());
        let issuer = Arc::new(Issuer::new(authority, broker, namespace, None));
        let terms = LeaseTerms::default();
        let control_plane = open(&database, &clock, &objects, &issuer, terms).await;
        let csr = CertificateRequest::create(pool_key()).unwrap();
        let pool =
            NewPool { name: "office".into(), csr: csr.as_pem().to_owned(), ..NewPool::default() };
        let (pool, _) = control_plane.pools.create_pool("test", pool).await.unwrap();
        let mut world = Self {
            control_plane,
            clock,
            objects,
            issuer,
            pool: pool.id,
            stack: "network".parse().unwrap(),
            terms,
            database,
        };
        world.stack = world.add_stack("network", autodeploy).await;
        world
    }

    pub(crate) async fn add_stack(&self, slug: &str, autodeploy: bool) -> StackId {
        let stack: StackId = slug.parse().unwrap();
        let new = NewStack {
            id: stack.clone(),
            name: slug.to_owned(),
            description: String::new(),
            repository: Repository::default(),
            pool: self.pool,
            project_root: String::new(),
            image: None,
            tool: Tool::default(),
            hooks: Hooks { before_plan: vec!["echo plan".into()], ..Hooks::default() },
            environment: Vec::new(),
            secrets: None,
            labels: Vec::new(),
            autodeploy,
            manage_state: true,
        };
        self.control_plane.stacks.create_stack("test", new).await.unwrap();
        let upload = self.control_plane.stacks.source_upload(&stack).await.unwrap();
        self.objects.put(&upload.key, Bytes::from_static(b"source")).await.unwrap();
        let source = NewSource {
            key: upload.key,
            sha256: Digest::of(b"source").to_string(),
            size: 6,
            author: "ann".into(),
            message: "first".into(),
        };
        self.control_plane.stacks.set_source("test", &stack, source).await.unwrap();
        stack
    }

    /// Kills the control plane and starts another one over the same database.
    pub(crate) async fn restart(&mut self) {
        self.control_plane.core.store().close().await;
        self.control_plane =
            open(&self.database, &self.clock, &self.objects, &self.issuer, self.terms).await;
    }

    /// The same, with a control plane that has signatures checked by somebody else.
    pub(crate) async fn restart_with(&mut self, check: Arc<dyn SignatureCheck>) {
        self.control_plane.core.store().close().await;
        let parts =
            parts(&self.database, &self.clock, &self.objects, &self.issuer, self.terms).await;
        self.control_plane = Services::with_check(parts, check).await.unwrap();
    }

    /// Gives the pool a new certificate, for the same key.
    pub(crate) async fn reset_pool(&self) {
        let csr = CertificateRequest::create(pool_key()).unwrap();
        self.control_plane.pools.reset_pool("ann", self.pool, csr.as_pem()).await.unwrap();
    }

    /// Does something to the database behind the control plane's back.
    pub(crate) async fn execute(&self, sql: &str) {
        let mut transaction = self.control_plane.core.store().begin().await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    }

    /// Lets every change of a table fail, or of one of its columns, as a full disk would.
    pub(crate) async fn break_updates(&self, table: &str, column: Option<&str>) {
        let of = column.map_or_else(String::new, |column| format!("OF {column} "));
        let trigger = format!("CREATE TRIGGER broken BEFORE UPDATE {of}ON {table} ");
        if self.database.is_sqlite() {
            return self
                .execute(&format!("{trigger}BEGIN SELECT RAISE(ABORT, 'broken'); END"))
                .await;
        }
        let function = "CREATE OR REPLACE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql \
                        AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$";
        self.execute(function).await;
        self.execute(&format!("{trigger}FOR EACH ROW EXECUTE FUNCTION broken()")).await;
    }

    /// Changes of the table succeed again.
    pub(crate) async fn mend_updates(&self, table: &str) {
        let on = if self.database.is_sqlite() { String::new() } else { format!(" ON {table}") };
        self.execute(&format!("DROP TRIGGER broken{on}")).await;
    }

    /// What somebody could restore later.
    pub(crate) async fn back_up(&mut self) -> Kept {
        self.restart().await;
        self.control_plane.core.store().close().await;
        let kept = self.database.keep();
        self.restart().await;
        kept
    }

    /// Kills the control plane and starts another one over an older database.
    pub(crate) async fn restore(&mut self, kept: &Kept) {
        self.control_plane.core.store().close().await;
        self.database.restore(kept);
        self.restart().await;
    }

    pub(crate) async fn trigger(&self, run_type: RunType) -> RunId {
        self.trigger_of(&self.stack, run_type).await
    }

    pub(crate) async fn trigger_of(&self, stack: &StackId, run_type: RunType) -> RunId {
        let command = (run_type == RunType::Task).then(|| "true".to_owned());
        let new = NewRun { stack: stack.clone(), run_type, command, metadata: Vec::new() };
        self.control_plane.runs.trigger("ann", new).await.unwrap().id
    }

    pub(crate) async fn state(&self, run: RunId) -> RunState {
        self.control_plane.runs.run(run).await.unwrap().state
    }

    pub(crate) async fn states(&self, run: RunId) -> Vec<RunState> {
        let history = self.control_plane.runs.history(run).await.unwrap();
        history.into_iter().map(|entry| entry.state).collect()
    }

    pub(crate) async fn note(&self, run: RunId) -> String {
        self.control_plane.runs.run(run).await.unwrap().note.unwrap_or_default()
    }

    /// A launcher that has not said hello yet.
    pub(crate) fn launcher(&self) -> Launcher {
        let ids = self.control_plane.core.ids();
        let now = self.clock.now();
        Launcher::new(self.pool, self.issuer.ca_pem(), ids.ulid(now), ids.ulid(now))
    }

    /// A launcher that was welcomed.
    pub(crate) async fn welcomed(&self) -> Launcher {
        let mut launcher = self.launcher();
        self.hello(&mut launcher).await;
        launcher
    }

    pub(crate) async fn hello(&self, launcher: &mut Launcher) {
        let hello = launcher.hello();
        self.bring(launcher, vec![hello]).await;
        self.deliver(&mut [launcher]).await;
        assert!(launcher.welcome.is_some(), "no welcome");
    }

    /// Hands messages of this launcher to the control plane.
    pub(crate) async fn bring(&self, launcher: &Launcher, payloads: Vec<Bytes>) {
        let (pool, worker) = (launcher.pool, launcher.worker);
        let batch = payloads.into_iter().map(|payload| Arrived { pool, worker, payload }).collect();
        self.control_plane.ingest.receive(batch).await;
    }

    /// The launcher says something, and everybody hears what the control plane says to it.
    pub(crate) async fn say(&self, launcher: &mut Launcher, message: impl Into<FromLauncher>) {
        let payload = launcher.say(message);
        self.bring(launcher, vec![payload]).await;
        self.deliver(&mut [launcher]).await;
    }

    /// Lets the control plane do what is due, and the launchers hear all that it says to them, until
    /// nobody has anything to say.
    pub(crate) async fn deliver(&self, launchers: &mut [&mut Launcher]) {
        loop {
            self.control_plane.service.attend().await.unwrap();
            let mut is_quiet = true;
            while let Some(outgoing) = self.control_plane.outbound.waiting_outgoing().await {
                is_quiet = false;
                let to = launchers.iter_mut().find(|launcher| {
                    (launcher.pool, launcher.worker) == (outgoing.pool, outgoing.worker)
                });
                let Some(launcher) = to else { continue };
                if let Some(ack) = launcher.hear(&outgoing.payload) {
                    self.bring(launcher, vec![ack]).await;
                }
            }
            if is_quiet {
                return;
            }
        }
    }
}

async fn open(
    database: &Database,
    clock: &Arc<FakeClock>,
    objects: &FakeObjects,
    issuer: &Arc<Issuer>,
    terms: LeaseTerms,
) -> Services {
    Services::new(parts(database, clock, objects, issuer, terms).await).await.unwrap()
}

async fn parts(
    database: &Database,
    clock: &Arc<FakeClock>,
    objects: &FakeObjects,
    issuer: &Arc<Issuer>,
    terms: LeaseTerms,
) -> Parts {
    Parts {
        store: database.open().await,
        clock: Arc::clone(clock) as _,
        objects: Arc::new(objects.clone()),
        issuer: Arc::clone(issuer),
        ids: Ids::random(),
        terms,
    }
}

/// The ways that many tests go.
impl World {
    /// Claims what was offered last, and owns it.
    pub(crate) async fn claim(&self, launcher: &mut Launcher) -> gantry_model::Attempt {
        let attempt = launcher.offered().expect("something is offered");
        self.say(launcher, crate::launcher::claim(attempt)).await;
        assert!(launcher.granted(attempt), "{attempt} is not granted");
        attempt
    }

    /// A launcher that owns the read stage of a new tracked run.
    pub(crate) async fn reading(&self) -> (RunId, Launcher, gantry_model::Attempt) {
        let run = self.trigger(RunType::Tracked).await;
        let mut launcher = self.welcomed().await;
        let attempt = self.claim(&mut launcher).await;
        (run, launcher, attempt)
    }

    /// Ends a read stage with changes.
    pub(crate) async fn plan(&self, launcher: &mut Launcher, attempt: gantry_model::Attempt) {
        self.say(launcher, crate::launcher::workspace(attempt)).await;
        self.say(launcher, crate::launcher::succeeded(attempt, true)).await;
        launcher.runs.remove(&attempt);
        self.deliver(&mut [launcher]).await;
    }

    /// A confirmed run, and the launcher that planned it and holds the offer to apply it.
    pub(crate) async fn confirmed(&self) -> (RunId, Launcher) {
        let (run, mut launcher, attempt) = self.reading().await;
        self.plan(&mut launcher, attempt).await;
        self.control_plane.runs.confirm("ann", run, None).await.unwrap();
        self.deliver(&mut [&mut launcher]).await;
        (run, launcher)
    }

    /// A launcher that owns the write stage of a confirmed run.
    pub(crate) async fn writing(&self) -> (RunId, Launcher, gantry_model::Attempt) {
        let (run, mut launcher) = self.confirmed().await;
        let attempt = self.claim(&mut launcher).await;
        assert_eq!(attempt.stage, gantry_model::Stage::Write);
        (run, launcher, attempt)
    }
}
