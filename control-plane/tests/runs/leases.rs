use gantry_model::{Epoch, Phase, RunState, RunType, Stage};
use gantry_protocol::message::{Decline, StageOutcome};

use crate::launcher::{began, claim, ended, state, succeeded};
use crate::world::World;

#[tokio::test]
async fn an_offer_that_nobody_claims_goes_to_another_worker() {
    let world = World::new().await;
    let run = world.trigger(RunType::Tracked).await;
    let mut heard_first = world.welcomed().await;
    let mut second = world.welcomed().await;
    let first = heard_first.offered().unwrap();
    assert_eq!(first.epoch, Epoch(1));
    world.clock.advance_ms(10_000);
    world.deliver(&mut [&mut heard_first, &mut second]).await;
    let next = second.offered().unwrap();
    assert_eq!((next.run, next.epoch), (run, Epoch(3)));
    world.say(&mut heard_first, claim(first)).await;
    assert!(!heard_first.granted(first) && heard_first.revoked(first));
    world.claim(&mut second).await;
}

#[tokio::test]
async fn a_worker_that_let_an_offer_lapse_gets_one_again_when_it_is_heard() {
    let world = World::new().await;
    world.trigger(RunType::Tracked).await;
    let mut launcher = world.welcomed().await;
    world.clock.advance_ms(10_000);
    world.deliver(&mut [&mut launcher]).await;
    assert_eq!(launcher.offered().unwrap().epoch, Epoch(1));
    let heartbeat = launcher.heartbeat();
    world.say(&mut launcher, heartbeat).await;
    assert_eq!(launcher.offered().unwrap().epoch, Epoch(3));
}

#[tokio::test]
async fn a_declined_offer_goes_elsewhere() {
    let world = World::new().await;
    world.trigger(RunType::Tracked).await;
    let mut launcher = world.welcomed().await;
    let mut other = world.welcomed().await;
    let attempt = launcher.offered().unwrap();
    let decline = Decline { attempt, reason: "no room".into() };
    let payload = launcher.say(decline);
    world.bring(&launcher, vec![payload]).await;
    world.deliver(&mut [&mut launcher, &mut other]).await;
    assert!(other.offered().unwrap().epoch > attempt.epoch);
}

#[tokio::test]
async fn heartbeats_keep_a_lease() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    for _ in 0..10 {
        world.clock.advance_ms(30_000);
        let heartbeat = launcher.heartbeat();
        world.say(&mut launcher, heartbeat).await;
    }
    world.say(&mut launcher, began(attempt, Phase::Plan)).await;
    assert_eq!(world.state(run).await, RunState::Planning);
}

#[tokio::test]
async fn a_lapsed_read_stage_goes_to_another_worker_and_its_old_owner_is_told() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    let mut other = world.welcomed().await;
    world.clock.advance_ms(60_000);
    world.deliver(&mut [&mut launcher, &mut other]).await;
    assert!(launcher.revoked(attempt));
    // Whoever is newest gets it; both are free.
    let next = other.offered().unwrap();
    assert_eq!((next.run, next.stage), (run, Stage::Read));
    assert!(next.epoch > attempt.epoch);
    // What the old owner says about it is absorbed.
    world.say(&mut launcher, succeeded(attempt, false)).await;
    assert_eq!(world.state(run).await, RunState::Preparing);
    let attempts = world.control_plane.runs.attempts(run).await.unwrap();
    assert!(attempts[0].end_note.as_deref().unwrap().contains("reported later"));
}

#[tokio::test]
async fn a_read_stage_is_tried_three_times() {
    let world = World::new().await;
    let (run, mut launcher, _) = world.reading().await;
    for _ in 0..2 {
        world.clock.advance_ms(60_000);
        world.deliver(&mut [&mut launcher]).await;
        world.claim(&mut launcher).await;
    }
    world.clock.advance_ms(60_000);
    world.deliver(&mut [&mut launcher]).await;
    assert_eq!(world.state(run).await, RunState::Failed);
    assert!(world.note(run).await.starts_with("given up after 3 attempts"));
}

#[tokio::test]
async fn a_silent_write_stage_is_never_offered_again_and_ends_unknown() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.writing().await;
    let mut other = world.welcomed().await;
    for _ in 0..7 {
        world.clock.advance_ms(10 * 60_000);
        world.deliver(&mut [&mut launcher, &mut other]).await;
        assert_eq!(other.offered(), None);
    }
    assert_eq!(world.state(run).await, RunState::PreparingApply);
    world.clock.advance_ms(10 * 60_000);
    world.deliver(&mut [&mut launcher, &mut other]).await;
    assert_eq!((world.state(run).await, other.offered()), (RunState::Failed, None));
    assert!(world.note(run).await.starts_with("outcome unknown"));
    let stack = world.control_plane.stacks.stack(&world.stack).await.unwrap();
    assert!(stack.lock.unwrap().note.contains(&run.to_string()));

    // What still arrives is kept, and changes nothing.
    world.say(&mut launcher, state(attempt, 1, None)).await;
    world.say(&mut launcher, succeeded(attempt, false)).await;
    assert_eq!(world.state(run).await, RunState::Failed);
    let states = world.control_plane.stacks.states_of(&world.stack).await.unwrap();
    assert!(states[0].orphaned.is_some() && !states[0].is_current);
    let next = world.trigger(RunType::Tracked).await;
    assert_eq!(world.state(next).await, RunState::Queued);
}

#[tokio::test]
async fn an_unknown_end_of_a_write_stage_locks_the_stack() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.writing().await;
    let outcome = StageOutcome::Unknown { reason: "the host restarted".into() };
    world.say(&mut launcher, ended(attempt, outcome)).await;
    assert!(world.control_plane.runs.run(run).await.unwrap().is_unknown);
    assert!(world.control_plane.stacks.stack(&world.stack).await.unwrap().lock.is_some());
}

fn given_back() -> StageOutcome {
    StageOutcome::GivenBack { reason: "Docker has no such network".into() }
}

#[tokio::test]
async fn a_read_stage_that_is_given_back_waits_for_a_worker_that_has_not_had_it() {
    let world = World::new().await;
    let (run, mut sick, attempt) = world.reading().await;
    let stack = world.add_stack("another", false).await;
    let mut well = world.welcomed().await;
    world.trigger_of(&stack, RunType::Proposed).await;
    world.deliver(&mut [&mut sick, &mut well]).await;
    let busy = world.claim(&mut well).await;
    world.say(&mut sick, ended(attempt, given_back())).await;
    assert!(world.note(run).await.contains("Docker has no such network"));
    // It is idle and the only one that is; it would give the stage back once more.
    for launcher in [&mut sick, &mut well] {
        let heartbeat = launcher.heartbeat();
        world.say(launcher, heartbeat).await;
    }
    assert_eq!((sick.offered(), world.state(run).await), (Some(attempt), RunState::Ready));
    let waits = world.control_plane.queue.waits(run).await.unwrap();
    assert!(waits[0].reason.contains("had it already"), "{waits:?}");
    world.say(&mut well, succeeded(busy, false)).await;
    world.deliver(&mut [&mut sick, &mut well]).await;
    let next = well.offered().unwrap();
    assert_eq!((next.run, next.stage), (run, Stage::Read));
    assert!(next.epoch > attempt.epoch);
}

#[tokio::test]
async fn a_read_stage_that_every_worker_gives_back_fails_at_the_third_time() {
    let world = World::new().await;
    let (run, mut sick, mut attempt) = world.reading().await;
    for times in 1..=3 {
        world.say(&mut sick, ended(attempt, given_back())).await;
        if times < 3 {
            let heartbeat = sick.heartbeat();
            world.say(&mut sick, heartbeat).await;
            attempt = world.claim(&mut sick).await;
        }
    }
    assert_eq!(world.state(run).await, RunState::Failed);
    let note = world.note(run).await;
    assert!(
        note.starts_with("given up after 3 attempts") && note.contains("no such network"),
        "{note}"
    );
}

/// What a write stage may have changed nobody else is to change again.
#[tokio::test]
async fn a_write_stage_that_is_given_back_has_failed() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.writing().await;
    let mut other = world.welcomed().await;
    world.say(&mut launcher, ended(attempt, given_back())).await;
    world.deliver(&mut [&mut launcher, &mut other]).await;
    assert_eq!((world.state(run).await, other.offered()), (RunState::Failed, None));
}
