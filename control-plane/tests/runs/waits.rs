//! Whoever asks why a run does not go on gets a reason, whatever it is.

use gantry_control_plane::queue::{Wait, WaitKind};
use gantry_model::{RunId, RunType};
use gantry_protocol::message::{Bye, Heartbeat};

use crate::world::World;

/// The only reason, which is of this kind.
async fn only(world: &World, run: RunId, kind: WaitKind) -> Wait {
    let waits = world.control_plane.queue.waits(run).await.unwrap();
    assert_eq!(waits.iter().map(|wait| wait.kind).collect::<Vec<_>>(), [kind], "{waits:?}");
    waits.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_run_without_a_worker_says_so() {
    let world = World::new().await;
    let run = world.trigger(RunType::Tracked).await;
    let wait = only(&world, run, WaitKind::NoWorker).await;
    assert_eq!(wait.reason, "pool office has no worker");
    assert!(wait.next.unwrap().contains("start a `gantry-launcher`"));

    let mut launcher = world.launcher();
    let hello = launcher.hello();
    world.bring(&launcher, vec![hello]).await;
    let wait = only(&world, run, WaitKind::Offered).await;
    assert_eq!(wait.reason, "a worker of pool office is free and is about to be offered it");
    world.deliver(&mut [&mut launcher]).await;
    let wait = only(&world, run, WaitKind::Offered).await;
    assert!(wait.reason.contains(&launcher.worker.to_string()), "{wait:?}");
    world
        .control_plane
        .workers
        .set_drained("ann", world.pool, launcher.worker, true)
        .await
        .unwrap();
    world.say(&mut launcher, Bye { reason: "moving".into() }).await;
    world.clock.advance_ms(180_000);
    world.deliver(&mut [&mut launcher]).await;
    let wait = only(&world, run, WaitKind::Away).await;
    assert_eq!(wait.reason, "the only worker of pool office is away, last heard 3m ago");
}

#[tokio::test]
async fn a_run_says_what_keeps_each_worker_of_its_pool_from_taking_it() {
    let world = World::new().await;
    let mut drained = world.welcomed().await;
    world.control_plane.workers.set_drained("ann", world.pool, drained.worker, true).await.unwrap();
    let mut sick = world.welcomed().await;
    let (note, is_healthy) = (Some("Docker does not answer".to_owned()), false);
    let heartbeat = Heartbeat { is_healthy, note, ..sick.heartbeat() };
    world.say(&mut sick, heartbeat).await;
    let (first, mut busy, _) = world.reading().await;
    let other = world.add_stack("other", false).await;
    let run = world.trigger_of(&other, RunType::Tracked).await;
    world.deliver(&mut [&mut drained, &mut sick, &mut busy]).await;

    let waits = world.control_plane.queue.waits(run).await.unwrap();
    let reasons: Vec<_> = waits.iter().map(|wait| (wait.kind, wait.reason.as_str())).collect();
    let expected = [
        (
            WaitKind::Unhealthy,
            format!(
                "1 worker of pool office is unhealthy: {} (Docker does not answer)",
                sick.worker
            ),
        ),
        (WaitKind::Drained, format!("1 worker of pool office is drained: {}", drained.worker)),
        (WaitKind::Busy, format!("1 worker of pool office is busy with other runs: {first}")),
    ];
    assert_eq!(reasons, expected.each_ref().map(|(kind, reason)| (*kind, reason.as_str())));
    assert!(waits[1].next.as_ref().unwrap().contains("`gantry pool undrain office WORKER`"));

    let later = world.add_stack("later", false).await;
    let later = world.trigger_of(&later, RunType::Proposed).await;
    let waits = world.control_plane.queue.waits(later).await.unwrap();
    assert_eq!(waits[0].reason, "another run of pool office goes first");
}

#[tokio::test]
async fn a_run_behind_another_or_a_lock_says_so() {
    let world = World::new().await;
    let (first, mut launcher, attempt) = world.reading().await;
    assert_eq!(world.control_plane.queue.waits(first).await.unwrap(), [], "it goes on");
    let second = world.trigger(RunType::Tracked).await;
    let wait = only(&world, second, WaitKind::Behind).await;
    assert_eq!(wait.reason, format!("run {first} of the same stack goes first and is PREPARING"));
    world.plan(&mut launcher, attempt).await;
    let wait = only(&world, second, WaitKind::Behind).await;
    assert!(wait.next.unwrap().contains(&format!("gantry run confirm {first}")));
    only(&world, first, WaitKind::Unconfirmed).await;
    world.control_plane.stacks.lock_stack("bob", &world.stack, "moving house").await.unwrap();
    let waits = world.control_plane.queue.waits(first).await.unwrap();
    let said = "bob has locked the stack: moving house; nobody else can confirm it";
    assert_eq!(waits[0].reason, said);
    world.control_plane.runs.discard("ann", first, None).await.unwrap();
    let wait = only(&world, second, WaitKind::Locked).await;
    assert_eq!(wait.reason, "bob has locked the stack: moving house");
    assert_eq!(wait.next.unwrap(), "`gantry stack unlock network` lifts the lock");
    assert_eq!(world.control_plane.queue.waits(first).await.unwrap(), [], "it is over");
}

#[tokio::test]
async fn a_worker_that_is_away_in_the_middle_of_an_apply_is_listed_and_named() {
    let world = World::new().await;
    let (run, mut launcher, _) = world.writing().await;
    let never_came_back = world.welcomed().await;
    world.say(&mut launcher, Bye { reason: "its host is cut off".into() }).await;
    world.clock.advance_ms(60_000);
    world.deliver(&mut []).await;
    let wait = only(&world, run, WaitKind::Away).await;
    assert!(wait.reason.contains("it goes on there and is reported when"), "{wait:?}");
    let counted = world.control_plane.workers.workers_of(world.pool).await.unwrap();
    assert!(counted.iter().any(|it| it.id == launcher.worker && it.is_busy && !it.is_connected));
    let mut gone = never_came_back;
    world.say(&mut gone, Bye { reason: "scaled in".into() }).await;
    let counted = world.control_plane.workers.workers_of(world.pool).await.unwrap();
    assert_eq!(counted.iter().map(|it| it.id).collect::<Vec<_>>(), [launcher.worker]);
    let known = world.control_plane.workers.known_workers(world.pool).await.unwrap();
    assert_eq!(known.len(), 2, "who is away is known all the same");
    let pool = world.control_plane.pools.pool(world.pool).await.unwrap();
    assert_eq!((pool.workers_count, pool.busy_workers), (1, 1));
    world.control_plane.runs.stop("ann", run, None).await.unwrap();
    let waits = world.control_plane.queue.waits(run).await.unwrap();
    assert_eq!(waits[0].kind, WaitKind::Stopping);
}
