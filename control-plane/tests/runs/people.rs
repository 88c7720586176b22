use gantry_control_plane::runs::{RunsKind, RunsPage};
use gantry_model::{RunState, RunType};
use gantry_protocol::message::StageOutcome;

use crate::launcher::{claim, ended, succeeded};
use crate::world::World;

#[tokio::test]
async fn a_run_that_waits_is_canceled_at_once() {
    let world = World::new().await;
    let first = world.trigger(RunType::Tracked).await;
    let second = world.trigger(RunType::Tracked).await;
    world.control_plane.runs.stop("ann", second, None).await.unwrap();
    world.control_plane.runs.stop("ann", first, None).await.unwrap();
    assert_eq!(world.state(first).await, RunState::Canceled);
    assert_eq!(world.state(second).await, RunState::Canceled);
    assert_eq!(world.note(first).await, "canceled by ann");
}

#[tokio::test]
async fn the_certificate_that_the_database_has_is_the_one_that_is_admitted() {
    let world = World::new().await;
    let csr = gantry_protocol::CertificateRequest::create(crate::world::pool_key()).unwrap();
    let reset = || world.control_plane.pools.reset_pool("ann", world.pool, csr.as_pem());
    for _ in 0..8 {
        futures::future::join_all([reset(), reset(), reset()]).await;
        let pool = world.control_plane.pools.pool(world.pool).await.unwrap();
        let admissions = world.control_plane.pools.admissions();
        assert_eq!(admissions.pool_of(&pool.serial), Some(world.pool));
    }
}

#[tokio::test]
async fn a_recovery_key_is_set_once_however_many_try() {
    let world = World::new().await;
    let keys = [(); 3].map(|()| gantry_protocol::PoolKey::generate(2048).unwrap());
    let pems = keys.map(|key| key.public().to_pem().unwrap());
    let set = pems.iter().map(|pem| world.control_plane.pools.set_recovery_key("ann", pem));
    let set = futures::future::join_all(set).await;
    let winner = set.iter().position(Result::is_ok).unwrap();
    assert_eq!(set.iter().filter(|set| set.is_ok()).count(), 1);
    assert_eq!(
        world.control_plane.pools.recovery_key().await.unwrap().as_ref(),
        Some(&pems[winner])
    );
}

#[tokio::test]
async fn only_a_run_that_no_worker_has_is_canceled() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    let refused = world.control_plane.runs.cancel("ann", run).await.unwrap_err();
    assert_eq!(refused.to_string(), "a worker has the run: stop it instead");
    world.deliver(&mut [&mut launcher]).await;
    assert!(!launcher.canceled(attempt));
    let next = world.trigger(RunType::Tracked).await;
    world.control_plane.runs.cancel("ann", next).await.unwrap();
    assert_eq!(world.state(next).await, RunState::Canceled);
}

#[tokio::test]
async fn an_offered_run_that_is_stopped_can_not_be_claimed() {
    let world = World::new().await;
    let run = world.trigger(RunType::Tracked).await;
    let mut launcher = world.welcomed().await;
    let attempt = launcher.offered().unwrap();
    world.control_plane.runs.stop("ann", run, None).await.unwrap();
    world.say(&mut launcher, claim(attempt)).await;
    assert!(!launcher.granted(attempt) && launcher.revoked(attempt));
    assert_eq!(world.state(run).await, RunState::Canceled);
}

#[tokio::test]
async fn a_running_stage_is_asked_to_stop() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    world.control_plane.runs.stop("ann", run, None).await.unwrap();
    world.deliver(&mut [&mut launcher]).await;
    assert!(launcher.canceled(attempt));
    let outcome = StageOutcome::Stopped { reason: "stopped by ann".into() };
    world.say(&mut launcher, ended(attempt, outcome)).await;
    assert_eq!(world.state(run).await, RunState::Stopped);
}

#[tokio::test]
async fn a_wish_to_stop_is_repeated_to_whoever_was_away() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.writing().await;
    world.control_plane.runs.stop("ann", run, None).await.unwrap();
    world.deliver(&mut []).await;
    world.hello(&mut launcher).await;
    assert!(launcher.canceled(attempt));
    world.say(&mut launcher, succeeded(attempt, false)).await;
    assert_eq!(world.state(run).await, RunState::Finished);
}

#[tokio::test]
async fn a_stopped_read_stage_whose_worker_is_gone_is_not_started_again() {
    let world = World::new().await;
    let (run, mut launcher, _) = world.reading().await;
    world.control_plane.runs.stop("ann", run, None).await.unwrap();
    world.clock.advance_ms(60_000);
    world.deliver(&mut [&mut launcher]).await;
    assert_eq!(world.state(run).await, RunState::Stopped);
}

#[tokio::test]
async fn only_a_waiting_plan_can_be_confirmed_or_discarded() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    assert!(world.control_plane.runs.confirm("ann", run, None).await.is_err());
    assert!(world.control_plane.runs.discard("ann", run, None).await.is_err());
    world.plan(&mut launcher, attempt).await;
    assert!(world.control_plane.runs.stop("ann", run, None).await.is_err());
    world.control_plane.runs.discard("ann", run, Some("not today")).await.unwrap();
    assert_eq!(world.state(run).await, RunState::Discarded);
    assert_eq!(world.note(run).await, "discarded by ann: not today");
    assert!(world.control_plane.runs.confirm("ann", run, None).await.is_err());
}

#[tokio::test]
async fn every_change_is_audited() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    world.plan(&mut launcher, attempt).await;
    world.control_plane.runs.confirm("ann", run, None).await.unwrap();
    let acts: Vec<_> = world
        .control_plane
        .audit
        .audit_log(None, 100)
        .await
        .unwrap()
        .into_iter()
        .rev()
        .map(|entry| (entry.actor, entry.act))
        .collect();
    let expected = [
        ("test", "pool.create"),
        ("test", "stack.create"),
        ("test", "stack.source"),
        ("ann", "run.trigger"),
        ("ann", "run.confirm"),
    ];
    assert_eq!(acts, expected.map(|(actor, act)| (actor.to_owned(), act.to_owned())));
}

#[tokio::test]
async fn runs_are_listed_newest_first_page_by_page() {
    let world = World::new().await;
    let mut runs = Vec::new();
    for _ in 0..5 {
        runs.push(world.trigger(RunType::Proposed).await);
    }
    runs.reverse();
    let tracked = world.trigger(RunType::Tracked).await;
    let list_of = async |kind, before, limit| {
        let page = RunsPage { kind, before, limit };
        let found = world.control_plane.runs.runs_of(&world.stack, page).await.unwrap();
        found.into_iter().map(|run| run.id).collect::<Vec<_>>()
    };
    let list = |before, limit| list_of(RunsKind::Proposed, before, limit);
    assert_eq!(list(None, 3).await, runs[..3]);
    assert_eq!(list(Some(runs[2]), 3).await, runs[3..]);
    assert_eq!(list_of(RunsKind::Others, None, 3).await, [tracked]);
    assert_eq!(list_of(RunsKind::All, None, 3).await, [tracked, runs[0], runs[1]]);
}

/// The turn of a run, its phases and its end are nobody's doing, unless somebody stopped it.
#[tokio::test]
async fn the_history_names_who_did_it() {
    let world = World::new().await;
    let named = async |run| {
        let history = world.control_plane.runs.history(run).await.unwrap();
        history.into_iter().filter_map(|it| Some((it.state, it.by?))).collect::<Vec<_>>()
    };
    let (first, mut launcher, attempt) = world.writing().await;
    world.control_plane.runs.stop("bob (night shift)", first, Some("enough")).await.unwrap();
    world.deliver(&mut [&mut launcher]).await;
    let stopped = StageOutcome::Stopped { reason: "enough".into() };
    world.say(&mut launcher, ended(attempt, stopped)).await;
    let by_ann = |state| (state, "ann".to_owned());
    assert_eq!(
        named(first).await,
        [
            by_ann(RunState::Queued),
            by_ann(RunState::Confirmed),
            (RunState::Stopped, "bob (night shift)".to_owned())
        ]
    );
    let [second, third] =
        [world.trigger(RunType::Tracked).await, world.trigger(RunType::Tracked).await];
    world.control_plane.runs.discard("eve", second, None).await.unwrap();
    let by_eve = (RunState::Discarded, "eve".to_owned());
    assert_eq!(named(second).await, [by_ann(RunState::Queued), by_eve]);
    assert_eq!(named(third).await, [by_ann(RunState::Queued)], "it comes next by itself");
}
