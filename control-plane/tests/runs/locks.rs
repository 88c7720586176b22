//! A lock holds what has begun too: nothing of a stack goes to a worker any more but what the lock's
//! owner triggered or confirmed.

use gantry_control_plane::runs::NewRun;
use gantry_control_plane::server::Services;
use gantry_model::{RunId, RunState, RunType, Stage};
use gantry_protocol::message::StageOutcome;

use crate::launcher::{claim, ended, succeeded};
use crate::world::World;

async fn lock(world: &World) {
    world.control_plane.stacks.lock_stack("bob", &world.stack, "moving house").await.unwrap();
}

async fn triggered_by(control_plane: &Services, world: &World, actor: &str) -> RunId {
    let stack = world.stack.clone();
    let new = NewRun { stack, run_type: RunType::Tracked, command: None, metadata: Vec::new() };
    control_plane.runs.trigger(actor, new).await.unwrap().id
}

#[tokio::test]
async fn autodeploy_confirms_nothing_of_a_stack_that_was_locked_meanwhile() {
    let world = World::with_stack(true).await;
    let (run, mut launcher, attempt) = world.reading().await;
    lock(&world).await;
    world.plan(&mut launcher, attempt).await;
    assert_eq!(world.state(run).await, RunState::Unconfirmed);
    let said = "not confirmed by autodeploy: bob has locked the stack: moving house";
    assert_eq!(world.note(run).await, said);
    assert_eq!(launcher.offered(), Some(attempt), "nothing else was offered");

    let refused = world.control_plane.runs.confirm("ann", run, None).await.unwrap_err().to_string();
    assert!(refused.contains("only bob can confirm") && refused.contains("unlock"), "{refused}");
    assert_eq!(world.state(run).await, RunState::Unconfirmed);
    world.control_plane.runs.confirm("bob", run, None).await.unwrap();
    world.deliver(&mut [&mut launcher]).await;
    assert_eq!(world.claim(&mut launcher).await.stage, Stage::Write);
}

#[tokio::test]
async fn what_was_held_waits_for_a_person_after_the_lock_too() {
    let world = World::with_stack(true).await;
    let (run, mut launcher, attempt) = world.reading().await;
    lock(&world).await;
    world.plan(&mut launcher, attempt).await;
    world.control_plane.stacks.unlock_stack("bob", &world.stack).await.unwrap();
    assert_eq!(world.state(run).await, RunState::Unconfirmed);
    world.control_plane.runs.confirm("ann", run, None).await.unwrap();
    assert_eq!(world.state(run).await, RunState::Confirmed);
}

#[tokio::test]
async fn a_lock_takes_back_what_was_offered_and_what_was_confirmed() {
    let world = World::new().await;
    let (run, mut launcher) = world.confirmed().await;
    let offered = launcher.offered().unwrap();
    assert_eq!(offered.stage, Stage::Write);
    lock(&world).await;
    assert_eq!(world.state(run).await, RunState::Unconfirmed);
    world.say(&mut launcher, claim(offered)).await;
    assert!(!launcher.granted(offered) && launcher.revoked(offered));
    assert_eq!(world.note(run).await, "bob has locked the stack: moving house");
}

#[tokio::test]
async fn a_task_that_waits_for_a_worker_goes_behind_the_lock() {
    let world = World::new().await;
    let run = world.trigger(RunType::Task).await;
    assert_eq!(world.state(run).await, RunState::Ready);
    lock(&world).await;
    assert_eq!(world.state(run).await, RunState::Queued);
    let mut launcher = world.welcomed().await;
    world.deliver(&mut [&mut launcher]).await;
    assert_eq!(launcher.offered(), None);
    world.control_plane.stacks.unlock_stack("ann", &world.stack).await.unwrap();
    world.deliver(&mut [&mut launcher]).await;
    assert_eq!(world.claim(&mut launcher).await.run, run);
}

#[tokio::test]
async fn the_owners_own_runs_pass_their_lock() {
    let world = World::with_stack(true).await;
    let waits = world.trigger(RunType::Tracked).await;
    lock(&world).await;
    let later = world.trigger(RunType::Tracked).await;
    let own = triggered_by(&world.control_plane, &world, "bob").await;
    assert_eq!(world.state(own).await, RunState::Ready);
    let mut launcher = world.welcomed().await;
    let attempt = world.claim(&mut launcher).await;
    assert_eq!(attempt.run, own);
    world.plan(&mut launcher, attempt).await;
    let attempt = world.claim(&mut launcher).await;
    assert_eq!((attempt.run, attempt.stage), (own, Stage::Write), "autodeploy is theirs too");
    world.say(&mut launcher, succeeded(attempt, false)).await;
    for run in [waits, later] {
        assert_eq!(world.state(run).await, RunState::Queued);
    }
    world.control_plane.stacks.unlock_stack("bob", &world.stack).await.unwrap();
    assert_eq!(world.state(waits).await, RunState::Ready);
}

#[tokio::test]
async fn only_the_owner_confirms_even_their_own_run() {
    let world = World::new().await;
    lock(&world).await;
    let own = triggered_by(&world.control_plane, &world, "bob").await;
    let mut launcher = world.welcomed().await;
    let attempt = world.claim(&mut launcher).await;
    world.plan(&mut launcher, attempt).await;
    assert!(world.control_plane.runs.confirm("ann", own, None).await.is_err());
    world.control_plane.runs.confirm("bob", own, None).await.unwrap();
}

#[tokio::test]
async fn a_write_stage_that_comes_back_unstarted_is_not_offered_behind_a_lock() {
    let world = World::new().await;
    let (run, mut launcher) = world.confirmed().await;
    let attempt = launcher.offered().unwrap();
    let claimed = launcher.say(claim(attempt));
    world.bring(&launcher, vec![claimed]).await;
    assert_eq!(world.state(run).await, RunState::PreparingApply);
    lock(&world).await;
    assert_eq!(world.state(run).await, RunState::PreparingApply, "what a worker has goes on");
    // The grant was lost, and the launcher's own journal says that nothing was started.
    world.deliver(&mut []).await;
    launcher.runs.clear();
    world.hello(&mut launcher).await;
    let heartbeat = launcher.heartbeat();
    world.say(&mut launcher, heartbeat).await;
    world.deliver(&mut [&mut launcher]).await;
    assert_eq!(world.state(run).await, RunState::Unconfirmed);
}

#[tokio::test]
async fn an_unknown_outcome_holds_the_runs_of_whoever_had_locked_the_stack() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.writing().await;
    let next = world.trigger(RunType::Tracked).await;
    world.control_plane.stacks.lock_stack("ann", &world.stack, "looking at it").await.unwrap();
    let outcome = StageOutcome::Unknown { reason: "the host restarted".into() };
    world.say(&mut launcher, ended(attempt, outcome)).await;
    let lock = world.control_plane.stacks.stack(&world.stack).await.unwrap().lock.unwrap();
    assert_eq!(lock.by, "gantry");
    let said = format!("the outcome of run {run} is unknown; ann had locked it: looking at it");
    assert_eq!(lock.note, said);
    assert_eq!(world.state(next).await, RunState::Queued, "ann has not looked yet");
}
