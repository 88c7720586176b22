use gantry_model::{Attempt, Epoch, JournalId, RunState, RunType, Stage};
use gantry_protocol::message::{Bye, FromControlPlane, RefusalReason};

use crate::launcher::{Launcher, claim};
use crate::world::World;

fn refusal(launcher: &Launcher) -> Option<RefusalReason> {
    launcher.heard.iter().find_map(|message| match message {
        FromControlPlane::Refused(refused) => Some(refused.reason),
        _ => None,
    })
}

#[tokio::test]
async fn a_hello_is_welcomed_with_lease_and_heartbeat() {
    let world = World::new().await;
    let launcher = world.welcomed().await;
    let welcome = launcher.welcome.unwrap();
    assert_eq!((welcome.lease_ms, welcome.heartbeat_ms), (60_000, 15_000));
    assert_eq!((welcome.received, welcome.is_drained), (0, false));
    let worker = world.control_plane.workers.worker(world.pool, launcher.worker).await.unwrap();
    assert!(worker.is_connected && worker.is_healthy && !worker.is_busy);
    assert_eq!(worker.metadata["instance_id"], "i-1");
    assert_eq!(world.control_plane.pools.pool(world.pool).await.unwrap().workers_count, 1);
}

#[tokio::test]
async fn a_signing_leaf_is_renewed_under_sessions_that_keep_their_own() {
    let world = World::new().await;
    let mut first = world.welcomed().await;
    world.clock.advance_ms(13 * 60 * 60_000);
    let heartbeat = first.heartbeat();
    world.say(&mut first, heartbeat).await;
    let mut second = world.welcomed().await;
    let leaf = |launcher: &Launcher| launcher.welcome.as_ref().unwrap().leaf.clone();
    assert_ne!(leaf(&first), leaf(&second));
    for launcher in [&mut first, &mut second] {
        let worker = launcher.worker;
        world.control_plane.workers.set_drained("ann", world.pool, worker, true).await.unwrap();
        world.deliver(&mut [launcher]).await;
        let is_told = |it: &FromControlPlane| matches!(it, FromControlPlane::Drain(_));
        assert!(launcher.heard.iter().any(is_told));
    }
    let former = leaf(&first);
    world.hello(&mut first).await;
    assert_ne!(leaf(&first), former);
}

#[tokio::test]
async fn a_hello_that_was_used_before_changes_nothing() {
    let world = World::new().await;
    let mut launcher = world.launcher();
    let old = launcher.hello();
    world.bring(&launcher, vec![old.clone()]).await;
    world.deliver(&mut [&mut launcher]).await;
    world.hello(&mut launcher).await;
    world.bring(&launcher, vec![old]).await;
    // The present session still counts.
    world.trigger(RunType::Tracked).await;
    world.deliver(&mut [&mut launcher]).await;
    world.claim(&mut launcher).await;
}

async fn rows(world: &World, table: &str) -> i64 {
    let mut conn = world.control_plane.core.store().read().await.unwrap();
    let count = format!("SELECT COUNT(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(&mut *conn).await.unwrap()
}

#[tokio::test]
async fn however_many_hellos_a_worker_says_few_rows_are_left_of_them() {
    let world = World::new().await;
    let mut launcher = world.launcher();
    for n in 0..70 {
        world.clock.advance_ms(1000);
        launcher.journal = JournalId::from_ulid(ulid::Ulid::from_parts(1, n));
        world.hello(&mut launcher).await;
    }
    assert_eq!((rows(&world, "nonces").await, rows(&world, "journals").await), (64, 8));
    assert_eq!(rows(&world, "workers").await, 1);
    // The newest ones are those that are left.
    let old = launcher.hello();
    world.bring(&launcher, vec![old.clone()]).await;
    world.deliver(&mut [&mut launcher]).await;
    launcher.welcome = None;
    world.bring(&launcher, vec![old]).await;
    world.deliver(&mut [&mut launcher]).await;
    assert!(launcher.welcome.is_none());
    // What is refused leaves none at all.
    let mut wrong = world.launcher();
    wrong.metadata.insert("large".to_owned(), "x".repeat(20_000));
    let hello = wrong.hello();
    world.bring(&wrong, vec![hello]).await;
    assert_eq!((rows(&world, "nonces").await, rows(&world, "journals").await), (64, 8));
}

#[tokio::test]
async fn a_worker_that_says_hello_without_end_is_passed_over_for_a_while() {
    let world = World::new().await;
    let mut launcher = world.launcher();
    let hello = launcher.hello();
    // The first one counts, the others are that one again.
    world.bring(&launcher, vec![hello; 60]).await;
    world.deliver(&mut [&mut launcher]).await;
    assert!(launcher.welcome.take().is_some());
    let next = launcher.hello();
    world.bring(&launcher, vec![next.clone()]).await;
    world.deliver(&mut [&mut launcher]).await;
    assert!(launcher.welcome.is_none(), "it is the 61st");
    let mut other = world.launcher();
    world.hello(&mut other).await;
    world.clock.advance_ms(1000);
    world.bring(&launcher, vec![next]).await;
    world.deliver(&mut [&mut launcher]).await;
    assert!(launcher.welcome.is_some());
}

#[tokio::test]
async fn a_hello_by_another_key_is_not_answered() {
    let world = World::new().await;
    let mut launcher = world.launcher();
    let hello = launcher.hello();
    let text = String::from_utf8(hello.to_vec()).unwrap();
    let changed = text.replace("instance-1", "instance-2");
    world.bring(&launcher, vec![changed.into()]).await;
    world.deliver(&mut [&mut launcher]).await;
    assert!(launcher.welcome.is_none() && launcher.heard.is_empty());
}

#[tokio::test]
async fn another_machine_with_the_same_worker_is_refused_while_the_first_one_lives() {
    let world = World::new().await;
    let mut first = world.welcomed().await;
    let mut copy = world.launcher();
    (copy.worker, copy.machine) = (first.worker, "machine-2".into());
    let hello = copy.hello();
    world.bring(&copy, vec![hello]).await;
    world.deliver(&mut [&mut copy]).await;
    assert_eq!(refusal(&copy), Some(RefusalReason::Duplicate));
    // It may be no copy, but the disk itself, moved: then it holds the only journal there is.
    let told = copy.heard.iter().find_map(|message| match message {
        FromControlPlane::Refused(refused) => Some(refused.message.as_str()),
        _ => None,
    });
    assert!(told.is_some_and(|told| told.contains("wait as long and start again")), "{told:?}");

    world.say(&mut first, Bye { reason: "moving".into() }).await;
    world.hello(&mut copy).await;
}

#[tokio::test]
async fn a_launcher_that_was_replaced_and_comes_back_is_told_why() {
    let world = World::new().await;
    let mut first = world.welcomed().await;
    // A copy of its disk, on a machine that has the same id.
    let mut copy = world.launcher();
    (copy.worker, copy.instance) = (first.worker, "instance-2".into());
    world.hello(&mut copy).await;
    for _ in 0..2 {
        let hello = first.hello();
        world.bring(&first, vec![hello]).await;
        world.deliver(&mut [&mut first]).await;
        assert_eq!(refusal(&first), Some(RefusalReason::Duplicate));
        // The other one is let in again, so that there is an end.
        world.hello(&mut copy).await;
    }
    // A launcher that is started anew is another one.
    first.instance = "instance-3".into();
    world.hello(&mut first).await;
}

/// Quotes, which JSON spells in two bytes: what a launcher lets through is not refused here.
#[tokio::test]
async fn metadata_counts_in_bytes_of_names_and_values() {
    let world = World::new().await;
    let mut launcher = world.launcher();
    // 32 names of 2 bytes, 32 values of 510: 16 KiB.
    let full = |place| (format!("{place:02}"), "\"".repeat(510));
    launcher.metadata = (0..32).map(full).collect();
    world.hello(&mut launcher).await;
    assert_eq!(refusal(&launcher), None);
    launcher.metadata.insert("00".to_owned(), "\"".repeat(511));
    let hello = launcher.hello();
    world.bring(&launcher, vec![hello]).await;
    world.deliver(&mut [&mut launcher]).await;
    assert_eq!(refusal(&launcher), Some(RefusalReason::Invalid));
}

#[tokio::test]
async fn an_offer_does_not_outlive_its_session() {
    let world = World::new().await;
    let run = world.trigger(RunType::Tracked).await;
    let mut launcher = world.welcomed().await;
    let first = launcher.offered().unwrap();
    world.hello(&mut launcher).await;
    let second = launcher.offered().unwrap();
    assert_eq!((first.epoch, second.epoch), (Epoch(1), Epoch(3)));
    world.say(&mut launcher, claim(first)).await;
    assert!(!launcher.granted(first) && launcher.revoked(first));
    assert_eq!(world.state(run).await, RunState::Preparing);
}

#[tokio::test]
async fn a_read_stage_that_its_journal_does_not_know_is_offered_again() {
    let world = World::new().await;
    let (_, mut launcher, attempt) = world.reading().await;
    launcher.runs.clear();
    world.hello(&mut launcher).await;
    let next = launcher.offered().unwrap();
    assert!(next.epoch > attempt.epoch && next.stage == Stage::Read);
}

#[tokio::test]
async fn a_write_stage_that_its_journal_does_not_know_is_offered_again_once_the_hello_is_proven() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.writing().await;
    launcher.runs.clear();
    world.hello(&mut launcher).await;
    assert_eq!(launcher.offered(), None, "the hello could be an old one");
    let heartbeat = launcher.heartbeat();
    world.say(&mut launcher, heartbeat).await;
    let next = launcher.offered().unwrap();
    assert!(next.epoch > attempt.epoch && next.stage == Stage::Write && next.run == run);
}

#[tokio::test]
async fn a_held_back_hello_does_not_give_a_running_write_stage_away() {
    let world = World::new().await;
    let (run, mut launcher, _) = world.reading().await;
    let attempt = *launcher.runs.first().unwrap();
    world.plan(&mut launcher, attempt).await;
    // It says hello, hears nothing, and says it again: the wire keeps the first one.
    let held_back = launcher.hello();
    world.hello(&mut launcher).await;
    world.control_plane.runs.confirm("ann", run, None).await.unwrap();
    world.deliver(&mut [&mut launcher]).await;
    let write = world.claim(&mut launcher).await;
    world.bring(&launcher, vec![held_back]).await;
    let mut other = world.welcomed().await;
    world.clock.advance_ms(10 * 60_000);
    world.deliver(&mut [&mut launcher, &mut other]).await;
    assert_eq!(other.offered(), None, "nobody else gets what is running");
    world.hello(&mut launcher).await;
    let welcome = launcher.welcome.clone().unwrap();
    assert!(launcher.runs.contains(&write) && welcome.not_yours.is_empty());
}

#[tokio::test]
async fn a_new_journal_restarts_read_stages_and_leaves_write_stages_alone() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    launcher.runs.clear();
    launcher.journal =
        JournalId::from_ulid(world.control_plane.core.ids().ulid(gantry_model::Timestamp(1)));
    world.hello(&mut launcher).await;
    let next = launcher.offered().unwrap();
    assert!(next.run == run && next.epoch > attempt.epoch);

    let world = World::new().await;
    let (run, mut launcher, _) = world.writing().await;
    launcher.runs.clear();
    launcher.journal =
        JournalId::from_ulid(world.control_plane.core.ids().ulid(gantry_model::Timestamp(1)));
    world.hello(&mut launcher).await;
    let heartbeat = launcher.heartbeat();
    world.say(&mut launcher, heartbeat).await;
    assert_eq!(world.state(run).await, RunState::PreparingApply);
    assert_eq!(launcher.offered(), None);
    // The worker itself is free for other runs.
    world.trigger(RunType::Proposed).await;
    world.deliver(&mut [&mut launcher]).await;
    assert!(launcher.offered().is_some());
}

#[tokio::test]
async fn a_welcome_names_what_is_not_the_launchers() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    let foreign = Attempt { epoch: Epoch(99), ..attempt };
    launcher.runs.insert(foreign);
    world.hello(&mut launcher).await;
    assert_eq!(launcher.welcome.unwrap().not_yours, [foreign]);
    assert!(launcher.runs.contains(&attempt));
    assert_eq!(world.state(run).await, RunState::Preparing);
}
