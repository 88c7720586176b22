use gantry_control_plane::objects::FakeObjects;
use gantry_model::{Epoch, Phase, RunState, RunType, Stage};
use gantry_protocol::message::{Delta, FromControlPlane, Output, StageOutcome, UrlPurpose};

use crate::launcher::{began, ended, state, state_hash, succeeded, workspace};
use crate::world::World;

#[tokio::test]
async fn a_tracked_run_is_planned_confirmed_and_applied() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    assert_eq!((attempt.stage, attempt.epoch), (Stage::Read, Epoch(1)));
    world.say(&mut launcher, began(attempt, Phase::Initialize)).await;
    world.say(&mut launcher, began(attempt, Phase::Plan)).await;
    world.say(&mut launcher, workspace(attempt)).await;
    let delta = Some(Delta { add: 2, change: 1, import: 3, ..Delta::default() });
    let result = gantry_protocol::message::StageResult { delta, ..succeeded(attempt, true) };
    world.say(&mut launcher, result).await;
    launcher.runs.clear();
    assert_eq!(world.state(run).await, RunState::Unconfirmed);
    let worker = world.control_plane.workers.worker(world.pool, launcher.worker).await.unwrap();
    assert!(!worker.is_busy && worker.available_at.is_some());

    world.control_plane.runs.confirm("ann", run, Some("looks good")).await.unwrap();
    world.deliver(&mut [&mut launcher]).await;
    let write = world.claim(&mut launcher).await;
    assert_eq!((write.stage, write.epoch), (Stage::Write, Epoch(2)));
    world.say(&mut launcher, began(write, Phase::Apply)).await;
    world.say(&mut launcher, state(write, 1, None)).await;
    let output = Output {
        name: "url".into(),
        is_sensitive: false,
        value: Some(serde_json::json!("https://x")),
    };
    let outputs = vec![output.clone()];
    let result = gantry_protocol::message::StageResult { outputs, ..succeeded(write, false) };
    world.say(&mut launcher, result).await;

    let shown = world.control_plane.runs.run(run).await.unwrap();
    assert_eq!(shown.state, RunState::Finished);
    assert_eq!((shown.delta, shown.has_changes), (delta, Some(true)));
    assert_eq!(shown.outputs, [output]);
    assert_eq!(
        world.states(run).await,
        [
            RunState::Queued,
            RunState::Ready,
            RunState::Preparing,
            RunState::Initializing,
            RunState::Planning,
            RunState::Unconfirmed,
            RunState::Confirmed,
            RunState::PreparingApply,
            RunState::Applying,
            RunState::Finished,
        ]
    );
    let attempts = world.control_plane.runs.attempts(run).await.unwrap();
    assert_eq!(attempts.iter().map(|it| it.attempt).collect::<Vec<_>>(), [attempt, write]);
    assert!(attempts.iter().all(|it| it.granted_at.is_some() && it.ended_at.is_some()));
    let current = world.control_plane.stacks.state_version(&world.stack, None).await.unwrap();
    assert_eq!(current.payload_sha256, state_hash(1));
    assert!(launcher.waiting.is_empty(), "everything is acknowledged");
}

#[tokio::test]
async fn a_plan_without_changes_ends_the_run() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    world.say(&mut launcher, succeeded(attempt, false)).await;
    assert_eq!(world.state(run).await, RunState::Finished);
}

#[tokio::test]
async fn an_offer_says_all_that_its_stage_needs() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    let spec = launcher.spec();
    assert_eq!(spec.attempt, attempt);
    let phases: Vec<_> = spec.phases.iter().map(|phase| phase.phase).collect();
    assert_eq!(phases, [Phase::Initialize, Phase::Plan]);
    assert_eq!(spec.phases[1].before, ["echo plan"]);
    // For policies to look at.
    assert_eq!(spec.later.iter().map(|it| it.phase).collect::<Vec<_>>(), [Phase::Apply]);
    assert!(spec.source.is_some() && spec.workspace.is_none());
    assert!(spec.state.as_ref().is_some_and(|state| !state.can_write && state.current.is_none()));

    world.plan(&mut launcher, attempt).await;
    world.control_plane.runs.confirm("ann", run, None).await.unwrap();
    world.deliver(&mut [&mut launcher]).await;
    let spec = launcher.spec();
    assert_eq!(spec.phases.iter().map(|it| it.phase).collect::<Vec<_>>(), [Phase::Apply]);
    assert_eq!(spec.later, []);
    assert_eq!(spec.workspace.map(|workspace| workspace.epoch), Some(1));
    assert!(spec.source.is_none() && spec.state.is_some_and(|state| state.can_write));
}

#[tokio::test]
async fn a_grant_brings_urls_of_its_own_attempt_and_the_database_none() {
    let world = World::new().await;
    let run = world.trigger(RunType::Tracked).await;
    let mut launcher = world.welcomed().await;
    let attempt = launcher.offered().unwrap();
    let claim = launcher.say(crate::launcher::claim(attempt));
    world.bring(&launcher, vec![claim]).await;
    let mut database = world.control_plane.core.store().read().await.unwrap();
    let waits: Vec<String> =
        sqlx::query_scalar("SELECT body FROM outbox").fetch_all(&mut *database).await.unwrap();
    assert!(waits.len() == 1 && !waits[0].contains("fake://"), "{waits:?}");
    drop(database);
    world.deliver(&mut [&mut launcher]).await;
    let urls = launcher.heard.iter().find_map(|message| match message {
        FromControlPlane::Grant(grant) => Some(grant.urls.clone()),
        _ => None,
    });
    let urls = urls.unwrap();
    let count = |purpose| urls.iter().filter(|url| url.purpose == purpose).count();
    let counts = [UrlPurpose::Log, UrlPurpose::Workspace, UrlPurpose::State].map(count);
    assert_eq!(counts, [4, 1, 0], "a read stage stores no state");
    for url in &urls {
        assert_eq!(FakeObjects::key_of_url(&url.url), Some(url.key.as_str()));
        let of_run = url.key.starts_with(&format!("log/{run}/{}/", attempt.epoch))
            || url.key.starts_with(&format!("workspace/{run}/{}/", attempt.epoch))
            || url.key.starts_with(&format!("state/network/{}-", attempt.epoch));
        assert!(of_run, "{}", url.key);
    }
}

#[tokio::test]
async fn a_failed_plan_fails_the_run_with_its_exit_code() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    let outcome = StageOutcome::Failed {
        reason: "see the log".into(),
        phase: Some(Phase::Plan),
        code: Some(3),
    };
    world.say(&mut launcher, ended(attempt, outcome)).await;
    assert_eq!(world.state(run).await, RunState::Failed);
    assert_eq!(world.note(run).await, "plan failed with exit code 3: see the log");
}

#[tokio::test]
async fn a_denied_run_fails_and_its_decision_is_audited() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    let decision = gantry_protocol::message::Decision {
        attempt,
        is_allowed: false,
        denials: vec!["no".into()],
        policy_sha256: state_hash(0),
    };
    world.say(&mut launcher, decision).await;
    world.say(&mut launcher, ended(attempt, StageOutcome::Denied)).await;
    assert_eq!(world.state(run).await, RunState::Failed);
    assert!(world.note(run).await.starts_with("denied by the worker's"));
    let audit = world.control_plane.audit.audit_log(None, 10).await.unwrap();
    assert!(audit.iter().any(|entry| entry.act == "policy.deny" && entry.detail.contains("no")));
}

#[tokio::test]
async fn a_plan_with_changes_but_no_stored_workspace_fails() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    world.say(&mut launcher, succeeded(attempt, true)).await;
    assert_eq!(world.state(run).await, RunState::Failed);
}

#[tokio::test]
async fn with_autodeploy_the_same_worker_goes_on_in_the_same_epoch() {
    let world = World::with_stack(true).await;
    let (run, mut launcher, attempt) = world.reading().await;
    let spec = launcher.spec();
    let phases: Vec<_> = spec.phases.iter().map(|phase| phase.phase).collect();
    assert_eq!(phases, [Phase::Initialize, Phase::Plan]);
    assert_eq!(spec.later.iter().map(|it| it.phase).collect::<Vec<_>>(), [Phase::Apply]);
    let result =
        gantry_protocol::message::StageResult { continues: true, ..succeeded(attempt, true) };
    world.say(&mut launcher, result).await;
    let write = gantry_model::Attempt { stage: Stage::Write, ..attempt };
    assert!(launcher.granted(write), "the write stage is granted in its own message");
    assert_eq!(world.state(run).await, RunState::PreparingApply);
    launcher.runs.remove(&attempt);
    world.say(&mut launcher, began(write, Phase::Apply)).await;
    world.say(&mut launcher, succeeded(write, false)).await;
    assert_eq!(world.state(run).await, RunState::Finished);
}

#[tokio::test]
async fn a_continued_stage_that_no_journal_knows_begins_anew_with_its_plan() {
    let world = World::with_stack(true).await;
    let (run, mut launcher, attempt) = world.reading().await;
    let result =
        gantry_protocol::message::StageResult { continues: true, ..succeeded(attempt, true) };
    world.say(&mut launcher, result).await;
    launcher.runs.clear();
    world.hello(&mut launcher).await;
    let heartbeat = launcher.heartbeat();
    world.say(&mut launcher, heartbeat).await;
    let next = launcher.offered().unwrap();
    assert_eq!((next.stage, world.state(run).await), (Stage::Read, RunState::Preparing));
}

#[tokio::test]
async fn one_blocking_run_of_a_stack_is_under_way_at_a_time() {
    let world = World::new().await;
    let first = world.trigger(RunType::Tracked).await;
    let second = world.trigger(RunType::Tracked).await;
    let third = world.trigger(RunType::Task).await;
    let proposed = world.trigger(RunType::Proposed).await;
    let states = [
        world.state(first).await,
        world.state(second).await,
        world.state(third).await,
        world.state(proposed).await,
    ];
    let queued = RunState::Queued;
    assert_eq!(states, [RunState::Ready, queued, queued, RunState::Ready]);

    let mut launcher = world.welcomed().await;
    let attempt = world.claim(&mut launcher).await;
    assert_eq!(attempt.run, first, "blocking runs come before proposed ones");
    world.plan(&mut launcher, attempt).await;
    assert_eq!(world.state(first).await, RunState::Unconfirmed);
    assert_eq!(world.state(second).await, queued, "a run that waits for a person blocks");
    world.control_plane.runs.discard("ann", first, None).await.unwrap();
    assert_eq!(world.state(second).await, RunState::Ready);
    assert_eq!(world.state(third).await, queued);
}

#[tokio::test]
async fn a_locked_stack_begins_no_blocking_run() {
    let world = World::new().await;
    world.control_plane.stacks.lock_stack("bob", &world.stack, "moving house").await.unwrap();
    let run = world.trigger(RunType::Tracked).await;
    let proposed = world.trigger(RunType::Proposed).await;
    assert_eq!(world.state(run).await, RunState::Queued);
    assert_eq!(world.state(proposed).await, RunState::Ready);
    world.control_plane.stacks.unlock_stack("bob", &world.stack).await.unwrap();
    assert_eq!(world.state(run).await, RunState::Ready);
}

#[tokio::test]
async fn the_newest_free_worker_gets_the_run() {
    let world = World::new().await;
    let mut older = world.welcomed().await;
    let mut newer = world.welcomed().await;
    let mut drained = world.welcomed().await;
    world.control_plane.workers.set_drained("ann", world.pool, drained.worker, true).await.unwrap();
    world.trigger(RunType::Tracked).await;
    world.deliver(&mut [&mut older, &mut newer, &mut drained]).await;
    let offers = [older.offered(), newer.offered(), drained.offered()];
    assert_eq!(offers.map(|offer| offer.is_some()), [false, true, false]);
    assert!(
        drained
            .heard
            .iter()
            .any(|message| matches!(message, FromControlPlane::Drain(drain) if drain.is_drained))
    );
}
