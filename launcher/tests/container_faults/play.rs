//! One stage, driven by one launcher after the other over a fake engine, and a control plane that takes
//! everything.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_launcher::blob::Objects;
use gantry_launcher::config::{Config, Host};
use gantry_launcher::engine::fake::{Answer, Call, Fake, Fault, Happened};
use gantry_launcher::engine::{Image, Limits};
use gantry_launcher::health::Complaints;
use gantry_launcher::journal::{Change, Ending, Journal};
use gantry_launcher::policy::Policy;
use gantry_launcher::session::Outgoing as _;
use gantry_launcher::stage::{self, DriveOutcome, Shared, StageControl, StageError, StageRequest};
use gantry_launcher::uploads::Urls;
use gantry_launcher::workspace::Directories;
use gantry_model::{
    Attempt, Epoch, JournalId, Phase, PoolId, RunId, RunState, RunType, Stage, WorkerId,
};
use gantry_protocol::message::{FromLauncher, Segment, StageOutcome, Step};
use gantry_protocol::spec::{About, Commit, PhaseSpec, Spec, StateSpec};
use gantry_protocol::{
    Authority, CertificateRequest, Namespace, PoolKey, PoolToken, Recipient, TokenParts, seal_bytes,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::subscriber::DefaultGuard;
use ulid::Ulid;

use crate::store::Store;
use crate::worker::Worker;

pub const IMAGE: &str = "image:1";
pub const IMAGE_ID: &str = "sha256:1";
/// Far more than anything takes here; only to end a test that hangs.
const LIMIT: Duration = Duration::from_secs(50);
/// How long the engine is waited for when it does not answer.
const PATIENCE: Duration = Duration::from_millis(50);

pub async fn in_time<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, test).await.expect("a stage goes on")
}

/// Why it did not succeed.
pub fn reason(outcome: &StageOutcome) -> &str {
    match outcome {
        StageOutcome::Succeeded { .. } | StageOutcome::Denied => panic!("{outcome:?}"),
        StageOutcome::Failed { reason, .. }
        | StageOutcome::Stopped { reason }
        | StageOutcome::GivenBack { reason }
        | StageOutcome::Unknown { reason } => reason,
    }
}

pub struct Play {
    pub engine: Fake,
    worker: Worker,
    attempt: Attempt,
    config: Arc<Config>,
    journal: Arc<Journal>,
    objects: Objects,
    policy: Option<Arc<Policy>>,
    store: Store,
    urls: Arc<Urls>,
    request: watch::Sender<StageRequest>,
    driving: JoinSet<Result<DriveOutcome, StageError>>,
    helping: JoinSet<()>,
    /// What the control plane has taken.
    heard: Vec<FromLauncher>,
    acknowledges: bool,
    pub complaints: Complaints,
    until: tokio::time::Instant,
    said: Said,
    _logging: DefaultGuard,
    directory: TempDir,
}

impl Play {
    /// A stage that was just granted. Its image is here.
    pub fn new(kind: Stage, worker: Worker) -> Self {
        let play = Self::pulling(kind, worker);
        play.engine.has_image(IMAGE, image());
        play
    }

    /// The same of a stack whose state is ours to keep.
    pub fn with_state(kind: Stage, worker: Worker) -> Self {
        let state =
            StateSpec { current: None, recipients: Vec::new(), can_write: kind == Stage::Write };
        let play = Self::of(kind, worker, |spec| spec.state = Some(state));
        play.engine.has_image(IMAGE, image());
        play
    }

    /// The same as a new one with the image in the registry alone.
    pub fn pulling(kind: Stage, worker: Worker) -> Self {
        Self::of(kind, worker, |_| {})
    }

    fn of(kind: Stage, worker: Worker, change: impl FnOnce(&mut Spec)) -> Self {
        let (said, logging) = Said::begin();
        let directory = tempfile::tempdir().unwrap();
        let pool = pool();
        let now_unix = now_unix();
        let store = Store::start(&pool.authority, now_unix);
        let config = Arc::new(config(pool, &directory, now_unix));
        let attempt =
            Attempt { run: RunId::from_ulid(Ulid::from_parts(3, 1)), stage: kind, epoch: Epoch(1) };
        let mut spec = spec(attempt);
        change(&mut spec);
        let spec = serde_json::to_vec(&spec).unwrap();
        let recipient = Recipient::new(config.key.public().clone()).unwrap();
        let sealed = seal_bytes(&[recipient], &spec).unwrap().to_file();
        Directories::of(attempt, &config.state_dir, &config.secrets_dir)
            .keep_spec(&sealed)
            .unwrap();
        let journal = open(&config);
        journal.write_now(vec![Change::granted(attempt, "this boot".to_owned())]).unwrap();
        let urls = Arc::new(Urls::new(attempt, Arc::new(|_| {})));
        urls.add(store.urls());
        let until = tokio::time::Instant::now() + config.run_timeout.get();
        let engine = Fake::new(worker.clone(), PATIENCE);
        engine.can_pull(IMAGE, image());
        Self {
            engine,
            worker,
            attempt,
            objects: Objects::trusting(config.token.ca().as_bytes(), &[], None).unwrap(),
            config,
            journal,
            policy: None,
            store,
            urls,
            request: watch::Sender::new(StageRequest::GoOn),
            driving: JoinSet::new(),
            helping: JoinSet::new(),
            heard: Vec::new(),
            acknowledges: true,
            complaints: Complaints::new(),
            until,
            said,
            _logging: logging,
            directory,
        }
    }

    /// A launcher drives the stage on, again and again if it must.
    pub fn drive(&mut self) {
        let worker_binary = self.directory.path().join("gantry-worker");
        std::fs::write(&worker_binary, "").unwrap();
        let shared = Shared {
            config: Arc::clone(&self.config),
            journal: Arc::clone(&self.journal),
            engine: self.engine.clone(),
            objects: self.objects.clone(),
            policy: self.policy.clone(),
            worker_binary,
            limits: Limits::default(),
            disks: vec![self.config.state_dir.clone()],
            boot: "this boot".to_owned(),
            notify: Arc::new(|_| {}),
            complaints: self.complaints.clone(),
        };
        let control = StageControl {
            request: self.request.subscribe(),
            urls: Arc::clone(&self.urls),
            until: self.until,
        };
        let attempt = self.attempt;
        self.driving.spawn(async move {
            loop {
                match stage::drive(shared.clone(), attempt, control.clone()).await {
                    Err(StageError::Engine(error)) => {
                        tracing::error!(%error, "a stage cannot go on; trying again");
                        tokio::task::yield_now().await;
                    }
                    other => return other,
                }
            }
        });
    }

    /// SIGKILL: the launcher is gone, and what it knew but for the journal.
    pub fn kill(&mut self) {
        self.driving = JoinSet::new();
        self.take();
        self.journal = open(&self.config);
    }

    /// Somebody wants the stage to be stopped.
    pub fn stop(&self, reason: &str) {
        self.journal.write_now(vec![Change::stop(self.attempt, reason.to_owned())]).unwrap();
        self.request.send_replace(StageRequest::Stop);
    }

    /// Something else is wanted of the stage.
    pub fn request(&self, request: StageRequest) {
        self.request.send_replace(request);
    }

    /// This host has a policy. The launcher itself evaluates it.
    pub async fn has_policy(&mut self, source: &str) {
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_gantry-launcher"));
        let policy = Policy::check("policy.rego", source.to_owned(), program).await.unwrap();
        self.policy = Some(Arc::new(policy));
    }

    /// An earlier launcher was killed so many times while it asked the policy about this stage.
    pub fn was_killed_asking(&self, times: u32) {
        self.journal.write_now(vec![Change::policy_begun(self.attempt, times)]).unwrap();
    }

    /// What the journal says of the stage; none if it is gone.
    pub fn entry(&self) -> Option<gantry_launcher::journal::Entry> {
        self.journal.entry(self.attempt)
    }

    /// The sealed spec of another stage that looks like this one.
    pub fn another_spec(&self) -> Vec<u8> {
        let spec = serde_json::to_vec(&spec(self.attempt)).unwrap();
        let recipient = Recipient::new(self.config.key.public().clone()).unwrap();
        seal_bytes(&[recipient], &spec).unwrap().to_file()
    }

    /// How one drive ended.
    pub async fn driven(&mut self) -> Result<DriveOutcome, StageError> {
        self.driving.join_next().await.expect("it is driven").unwrap()
    }

    /// Nothing can be stored.
    pub fn has_no_urls(&mut self) {
        self.urls = Arc::new(Urls::new(self.attempt, Arc::new(|_| {})));
    }

    /// More can be stored.
    pub fn has_urls(&self) {
        self.urls.add(self.store.urls());
    }

    /// The stage has taken as long as it may.
    pub fn is_late(&mut self) {
        self.until = tokio::time::Instant::now();
    }

    /// Waits until the worker complains of this.
    pub async fn complains(&mut self, of: &str) {
        while self.complaints.present().is_none_or(|complaint| !complaint.contains(of)) {
            self.tick().await;
        }
    }

    /// Waits until the run's log says this.
    pub async fn logs(&mut self, words: &str) {
        while !self.log().contains(words) {
            self.take();
            self.tick().await;
        }
    }

    /// The stage has ended well, and that is all that was done about it.
    pub fn has_succeeded(&self) {
        let outcome = StageOutcome::Succeeded { has_changes: false };
        let ending = Ending { outcome, delta: None, outputs: Vec::new(), keeps_workspace: false };
        self.journal.write_now(vec![Change::ended(self.attempt, ending)]).unwrap();
    }

    /// Somebody else than the worker binary writes into the spool.
    pub fn spoil_spool(&self) {
        std::fs::write(self.directories().spool.join("00000001.seg"), [7; 64]).unwrap();
    }

    /// The spool is there and cannot be opened.
    pub fn hide_spool(&self) {
        let spool = self.directories().spool;
        std::fs::rename(&spool, spool.with_extension("hidden")).unwrap();
        self.spoil_spool_directory();
    }

    /// What stands in the spool's place cannot be looked into.
    pub fn spoil_spool_directory(&self) {
        std::fs::write(self.directories().spool, "").unwrap();
    }

    /// It can be opened again.
    pub fn show_spool(&self) {
        let spool = self.directories().spool;
        std::fs::remove_file(&spool).unwrap();
        std::fs::rename(spool.with_extension("hidden"), &spool).unwrap();
    }

    /// Waits until the launcher's log has these words.
    pub async fn says(&mut self, words: &str) {
        while self.words(words).is_empty() {
            self.tick().await;
        }
    }

    /// The sealed spec becomes another one; gives what it was.
    pub fn swap_spec(&self, spec: Vec<u8>) -> Vec<u8> {
        let path = self.directories().spec;
        let before = std::fs::read(&path).unwrap();
        std::fs::write(path, spec).unwrap();
        before
    }

    fn directories(&self) -> Directories {
        Directories::of(self.attempt, &self.config.state_dir, &self.config.secrets_dir)
    }

    /// How often the tool was interrupted.
    pub fn interrupts(&self) -> usize {
        self.worker.interrupts()
    }

    /// Whether the control plane acknowledges what it takes.
    pub const fn acknowledges(&mut self, acknowledges: bool) {
        self.acknowledges = acknowledges;
    }

    /// Whoever starts the container loses the connection.
    pub fn is_never_started(&self) {
        for _ in 0..100 {
            self.engine.fail(Call::Start, Fault { happens: false, answer: Answer::Lost });
        }
    }

    /// The socket goes away in the first `call`, until somebody looks for it in vain.
    pub fn cut_at(&mut self, call: Call) {
        let engine = self.engine.clone();
        engine.fail(call, Fault { happens: false, answer: Answer::Late });
        self.helping.spawn(async move {
            engine.asked(call, 1).await;
            engine.cut();
            engine.missed().await;
            engine.mend();
        });
    }

    /// The engine does what a launcher asked for whose connection broke.
    pub fn start_late(&self) -> Result<(), String> {
        self.engine.start_late(&self.name())
    }

    /// Waits until the journal holds this step, or a later one.
    pub async fn reaches(&mut self, step: Step) {
        while self.journal.entry(self.attempt).is_some_and(|entry| entry.step < step) {
            self.tick().await;
        }
    }

    /// How the stage ended; it is reported, and perhaps not tidied up.
    pub async fn result(&mut self) -> StageOutcome {
        if self.driving.is_empty() {
            self.drive();
        }
        loop {
            self.take();
            if let Some(result) = self.reported() {
                return result;
            }
            self.tick().await;
        }
    }

    /// What is left over is looked for, as long as this is kept.
    pub fn reaps(&self) -> JoinSet<()> {
        let (engine, config) = (self.engine.clone(), Arc::clone(&self.config));
        let mut reaping = JoinSet::new();
        let watch = gantry_launcher::reaper::watch(engine, Arc::clone(&self.journal), config);
        reaping.spawn(async move { match watch.await {} });
        reaping
    }

    /// So much later that what is left over was looked for.
    pub async fn a_reaping_later(&self) {
        tokio::task::yield_now().await;
        tokio::time::pause();
        tokio::time::advance(2 * gantry_launcher::reaper::EVERY).await;
        tokio::time::resume();
        tokio::task::yield_now().await;
    }

    /// How the stage ended, if that was reported.
    pub fn reported(&self) -> Option<StageOutcome> {
        let results = self.heard.iter().filter_map(|message| {
            let FromLauncher::Result(result) = message else { return None };
            Some(result.outcome.clone())
        });
        let results: Vec<_> = results.collect();
        assert!(results.len() <= 1, "{results:?}");
        results.into_iter().next()
    }

    /// How the stage ended; nothing of it is left.
    pub async fn complete(&mut self) -> StageOutcome {
        let outcome = self.result().await;
        while !self.driving.is_empty() {
            self.take();
            self.tick().await;
        }
        outcome
    }

    /// Something may have changed in the journal.
    async fn tick(&mut self) {
        let mut changed = self.journal.changed();
        changed.mark_unchanged();
        let pause = Duration::from_millis(5);
        tokio::select! {
            Some(driven) = self.driving.join_next() => {
                assert_eq!(driven.unwrap().unwrap(), DriveOutcome::Done);
            }
            _ = changed.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// The control plane takes what waits.
    fn take(&mut self) {
        let known = self.heard.len() as u64;
        let waiting = self.journal.waiting(known);
        if let Some(last) = waiting.last().map(|waiting| waiting.seq) {
            self.heard.extend(waiting.iter().map(|waiting| waiting.message().unwrap()));
            assert_eq!(last, self.heard.len() as u64, "the control plane misses nothing");
        }
        if self.acknowledges {
            self.journal.acknowledge(self.heard.len() as u64).unwrap();
        }
    }

    pub fn name(&self) -> String {
        self.attempt.name()
    }

    /// What truly happened to the stage's container.
    pub fn history(&self) -> Vec<Happened> {
        self.engine.history(&self.name())
    }

    /// How often phases were run.
    pub fn runs(&self) -> usize {
        self.worker.runs()
    }

    /// How often the control plane was told of a phase.
    pub fn phase_reports(&self) -> usize {
        self.heard.iter().filter(|message| matches!(message, FromLauncher::Phase(_))).count()
    }

    /// The run's log.
    pub fn log(&self) -> String {
        let segments: Vec<&Segment> = self
            .heard
            .iter()
            .filter_map(|message| {
                let FromLauncher::Segment(segment) = message else { return None };
                Some(segment)
            })
            .collect();
        let lines = segments.iter().map(|segment| {
            let text = String::from_utf8(self.store.object(&segment.key)).unwrap();
            format!("{:?}: {text}", segment.section)
        });
        lines.collect()
    }

    /// The launcher's own log: every line that has this word.
    pub fn words(&self, word: &str) -> String {
        let said = self.said.0.lock().unwrap();
        let said = String::from_utf8_lossy(&said);
        let lines = said.lines().filter(|line| line.contains(word));
        lines.map(str::trim).collect::<Vec<_>>().join("\n")
    }

    /// What is left on the host.
    pub fn left(&self) -> Vec<String> {
        let of = |path: &std::path::Path| {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path().display().to_string()).collect::<Vec<_>>()
        };
        let mut left = of(&self.config.state_dir.join("runs"));
        left.extend(of(&self.config.secrets_dir));
        left.extend(self.engine.spec(&self.name()).map(|spec| spec.name));
        left.extend(self.journal.entries().iter().map(|entry| format!("{:?}", entry.step)));
        left
    }
}

fn image() -> Image {
    Image { id: IMAGE_ID.to_owned(), user: "spacelift".to_owned(), ..Image::default() }
}

fn open(config: &Config) -> Arc<Journal> {
    let ids = || {
        (JournalId::from_ulid(Ulid::from_parts(1, 1)), WorkerId::from_ulid(Ulid::from_parts(1, 2)))
    };
    Arc::new(Journal::open(&config.state_dir, ids).unwrap())
}

fn spec(attempt: Attempt) -> Spec {
    Spec {
        tool: gantry_protocol::spec::Tool::default(),
        attempt,
        stack: "stack".parse().unwrap(),
        run_type: RunType::Tracked,
        image: None,
        phases: vec![PhaseSpec {
            phase: match attempt.stage {
                Stage::Read => Phase::Initialize,
                Stage::Write => Phase::Apply,
            },
            before: Vec::new(),
            command: None,
            after: Vec::new(),
        }],
        later: vec![PhaseSpec {
            phase: Phase::Apply,
            before: vec!["echo later".to_owned()],
            command: None,
            after: Vec::new(),
        }],
        after_run: vec!["echo over".to_owned()],
        environment: Vec::new(),
        secrets: None,
        source: None,
        project_root: String::new(),
        workspace: None,
        state: None,
        autodeploy: false,
        about: About {
            state: RunState::Queued,
            created_ms: 1,
            updated_ms: 1,
            triggered_by: None,
            user_provided_metadata: Vec::new(),
            commit: Commit::default(),
            labels: Vec::new(),
            stack_name: "stack".to_owned(),
        },
    }
}

struct Pool {
    authority: Authority,
    token: String,
    key: String,
}

fn now_unix() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

/// One pool for all tests: keys take a while.
fn pool() -> &'static Pool {
    static POOL: std::sync::OnceLock<Pool> = std::sync::OnceLock::new();
    POOL.get_or_init(|| {
        let authority = Authority::generate(now_unix()).unwrap();
        let key = PoolKey::generate(2048).unwrap();
        let request = CertificateRequest::create(&key).unwrap();
        let pool = PoolId::from_ulid(Ulid::from_parts(1, 1));
        let certificate = authority.issue_pool(&request, pool, now_unix()).unwrap().pem;
        let token = PoolToken::new(TokenParts {
            broker: "127.0.0.1:1".parse().unwrap(),
            namespace: Namespace::default(),
            pool,
            certificate,
            ca: authority.certificate_pem().to_owned(),
            api: None,
        });
        let key = STANDARD.encode(&*key.to_pem().unwrap());
        Pool { authority, token: token.unwrap().encode(), key }
    })
}

fn config(pool: &Pool, directory: &TempDir, now_unix: i64) -> Config {
    let path = |name: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path.display().to_string()
    };
    let environment = BTreeMap::from([
        ("SPACELIFT_TOKEN".to_owned(), pool.token.clone()),
        ("SPACELIFT_POOL_PRIVATE_KEY".to_owned(), pool.key.clone()),
        ("SPACELIFT_DEFAULT_RUNNER_IMAGE".to_owned(), IMAGE.to_owned()),
        ("GANTRY_STATE_DIR".to_owned(), path("state")),
        ("GANTRY_SECRETS_DIR".to_owned(), path("secrets")),
        ("GANTRY_TOOL_DIR".to_owned(), path("tools")),
    ]);
    Config::on_host(&environment, &Host { now_unix, is_in_memory: &|_| Ok(true) }).unwrap()
}

/// What the launcher logs.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn begin() -> (Self, DefaultGuard) {
        let said = Self::default();
        let writer = said.clone();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (said, tracing::subscriber::set_default(subscriber))
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
