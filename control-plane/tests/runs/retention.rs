//! What is forgotten in time, and what is not.

use bytes::Bytes;
use gantry_control_plane::objects::Objects as _;
use gantry_model::{JournalId, RunState};
use gantry_protocol::message::{Bye, FromControlPlane, RefusalReason};

use crate::launcher::{state, succeeded, workspace};
use crate::world::World;

const DAY: u64 = 24 * 60 * 60_000;

async fn count(world: &World, table: &str) -> i64 {
    let mut connection = world.control_plane.core.store().read().await.unwrap();
    let select = format!("SELECT COUNT(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(select)).fetch_one(&mut *connection).await.unwrap()
}

#[tokio::test]
async fn a_worker_that_was_not_heard_for_a_month_is_forgotten() {
    let world = World::new().await;
    let mut gone = world.welcomed().await;
    world.say(&mut gone, Bye { reason: "scaled in".into() }).await;
    world.clock.advance_ms(15 * DAY);
    let mut lives = world.welcomed().await;
    world.control_plane.retention.forget().await.unwrap();
    assert_eq!((count(&world, "workers").await, count(&world, "nonces").await), (2, 2));
    world.clock.advance_ms(16 * DAY);
    let heartbeat = lives.heartbeat();
    world.say(&mut lives, heartbeat).await;
    world.control_plane.retention.forget().await.unwrap();
    assert_eq!((count(&world, "workers").await, count(&world, "nonces").await), (1, 1));
    assert!(world.control_plane.workers.worker(world.pool, gone.worker).await.is_err());
    assert!(world.control_plane.workers.worker(world.pool, lives.worker).await.is_ok());
    world.clock.advance_ms(30 * DAY);
    world.control_plane.retention.forget().await.unwrap();
    assert_eq!(count(&world, "nonces").await, 0);
}

#[tokio::test]
async fn a_forgotten_worker_comes_back_and_nothing_of_its_journal_is_lost_or_doubled() {
    let mut world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    world.plan(&mut launcher, attempt).await;
    world.control_plane.runs.confirm("ann", run, None).await.unwrap();
    world.clock.advance_ms(90 * DAY);
    world.control_plane.retention.forget().await.unwrap();
    assert_eq!((count(&world, "workers").await, count(&world, "journals").await), (0, 1));
    world.restart().await;
    world.hello(&mut launcher).await;
    let write = world.claim(&mut launcher).await;
    world.say(&mut launcher, state(write, 1, None)).await;
    world.say(&mut launcher, succeeded(write, false)).await;
    assert_eq!(world.state(run).await, RunState::Finished);
    launcher.runs.clear();
    world.clock.advance_ms(401 * DAY);
    world.control_plane.retention.forget().await.unwrap();
    assert_eq!(count(&world, "journals").await, 0);
}

#[tokio::test]
async fn a_worker_that_has_a_run_is_not_forgotten() {
    let world = World::new().await;
    let (run, launcher, _) = world.writing().await;
    world.clock.advance_ms(60 * DAY);
    world.control_plane.retention.forget().await.unwrap();
    assert!(world.control_plane.workers.worker(world.pool, launcher.worker).await.is_ok());
    assert_eq!(world.state(run).await, RunState::PreparingApply);
}

#[tokio::test]
async fn workspaces_and_specs_go_a_day_after_their_run_and_nothing_else_does() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    let stored = workspace(attempt);
    let other = world
        .trigger_of(&world.add_stack("other", false).await, gantry_model::RunType::Tracked)
        .await;
    let passing = [stored.key.clone(), format!("spec/{run}/1/a"), format!("spec/{run}/3/b")];
    let lasting =
        [format!("log/{run}/1/a"), format!("spec/{other}/1/a"), "state/network/1-a".into()];
    for key in passing.iter().chain(&lasting) {
        world.objects.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    world.plan(&mut launcher, attempt).await;
    world.clock.advance_ms(40 * DAY);
    world.control_plane.retention.forget().await.unwrap();
    assert_eq!(world.objects.size(&stored.key).await.unwrap(), Some(1), "it waits for a person");
    world.control_plane.runs.discard("ann", run, None).await.unwrap();
    world.clock.advance_ms(DAY - 1);
    world.control_plane.retention.forget().await.unwrap();
    assert_eq!(world.objects.size(&stored.key).await.unwrap(), Some(1));
    world.clock.advance_ms(1);
    world.control_plane.retention.forget().await.unwrap();
    for key in &passing {
        assert_eq!(world.objects.size(key).await.unwrap(), None, "{key}");
    }
    for key in &lasting {
        assert_eq!(world.objects.size(key).await.unwrap(), Some(1), "{key}");
    }
    assert_eq!(count(&world, "workspaces").await, 0);
    // What comes late goes too.
    world.hello(&mut launcher).await;
    world.say(&mut launcher, stored.clone()).await;
    world.objects.put(&stored.key, Bytes::from_static(b"x")).await.unwrap();
    world.clock.advance_ms(DAY);
    world.control_plane.retention.forget().await.unwrap();
    assert_eq!(world.objects.size(&stored.key).await.unwrap(), None);
}

#[tokio::test]
async fn what_the_object_store_does_not_remove_is_tried_again_a_day_later() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    let stored = workspace(attempt);
    world.objects.put(&stored.key, Bytes::from_static(b"x")).await.unwrap();
    world.plan(&mut launcher, attempt).await;
    world.control_plane.runs.discard("ann", run, None).await.unwrap();
    world.clock.advance_ms(DAY);
    world.objects.fail(true);
    world.control_plane.retention.forget().await.unwrap();
    world.objects.fail(false);
    assert_eq!(count(&world, "workspaces").await, 1);
    world.clock.advance_ms(DAY);
    world.control_plane.retention.forget().await.unwrap();
    assert_eq!(count(&world, "workspaces").await, 0);
    assert_eq!(world.objects.size(&stored.key).await.unwrap(), None);
}

#[tokio::test]
async fn a_pool_has_so_many_workers_and_no_more() {
    let world = World::new().await;
    let mut first = world.welcomed().await;
    let mut transaction = world.control_plane.core.store().begin().await.unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 19999) \
                INSERT INTO workers (id, pool, created_at, heard_at, is_connected, is_drained, \
                is_healthy, is_passed_over, session, instance, machine, journal, sent, metadata, \
                versions, engine) SELECT '0000000000000000000' || CAST(i + 1000000 AS TEXT), $1, 0, $2, \
                0, 0, 1, 0, '', '', '', '', \
                0, '{}', '{}', '' FROM n";
    sqlx::query(fill)
        .bind(world.pool.to_string())
        .bind(i64::MAX)
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let mut new = world.launcher();
    let hello = new.hello();
    world.bring(&new, vec![hello]).await;
    world.deliver(&mut [&mut new]).await;
    let is_refused = |message: &FromControlPlane| matches!(message, FromControlPlane::Refused(it) if it.reason == RefusalReason::Invalid);
    assert!(new.heard.iter().any(is_refused));
    first.lose_journal(JournalId::from_ulid(ulid::Ulid::from_parts(1, 1)));
    world.hello(&mut first).await;
}
