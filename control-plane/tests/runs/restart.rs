use gantry_model::{Phase, RunState, RunType, Section};
use gantry_protocol::message::FromLauncher;

use crate::launcher::{Launcher, began, claim, segment, state, succeeded, workspace};
use crate::world::World;

/// What was said before the control plane died, and not acknowledged, is said again after its start.
async fn come_back(world: &World, launcher: &mut Launcher) {
    world.hello(launcher).await;
    let again = launcher.again();
    world.bring(launcher, again).await;
    world.deliver(&mut [launcher]).await;
}

/// One tracked run; after the step with this number the control plane is killed and started again.
/// The launcher's own messages of that step may be lost with it.
async fn run_with_a_restart(after: usize, is_lost: bool) -> (World, gantry_model::RunId) {
    let mut world = World::new().await;
    let run = world.trigger(RunType::Tracked).await;
    let mut launcher = world.welcomed().await;
    let mut step = 0;
    loop {
        let message: FromLauncher = match step {
            0 => claim(launcher.offered().unwrap()).into(),
            1 => began(*launcher.runs.first().unwrap(), Phase::Plan).into(),
            2 => segment(*launcher.runs.first().unwrap(), Section::Plan, 0, "plan").into(),
            3 => workspace(*launcher.runs.first().unwrap()).into(),
            4 => succeeded(*launcher.runs.first().unwrap(), true).into(),
            5 => {
                launcher.runs.clear();
                world.control_plane.runs.confirm("ann", run, None).await.unwrap();
                world.deliver(&mut [&mut launcher]).await;
                claim(launcher.offered().unwrap()).into()
            }
            6 => began(*launcher.runs.first().unwrap(), Phase::Apply).into(),
            7 => state(*launcher.runs.first().unwrap(), 1, None).into(),
            8 => succeeded(*launcher.runs.first().unwrap(), false).into(),
            _ => break,
        };
        if step == after {
            let payload = launcher.say(message);
            if !is_lost {
                world.bring(&launcher, vec![payload]).await;
            }
            world.restart().await;
            come_back(&world, &mut launcher).await;
            // What was offered or granted and never reached the launcher comes once more.
            let heartbeat = launcher.heartbeat();
            world.say(&mut launcher, heartbeat).await;
            if matches!(step, 0 | 5) && launcher.runs.is_empty() {
                world.claim(&mut launcher).await;
            }
        } else {
            world.say(&mut launcher, message).await;
        }
        step += 1;
    }
    (world, run)
}

#[tokio::test]
async fn a_control_plane_may_die_after_any_message() {
    for after in 0..9 {
        for is_lost in [false, true] {
            let (world, run) = run_with_a_restart(after, is_lost).await;
            let at = format!("after step {after}, lost: {is_lost}");
            assert_eq!(world.state(run).await, RunState::Finished, "{at}");
            let attempts = world.control_plane.runs.attempts(run).await.unwrap();
            let begun = attempts.iter().filter(|it| it.end_note.is_none()).count();
            assert!(begun >= 2, "{at}");
            let states = world.control_plane.stacks.states_of(&world.stack).await.unwrap();
            assert_eq!(states.len(), 1, "{at}");
            assert!(states[0].is_current, "{at}");
            let sections = world.control_plane.logs.log_sections(run).await.unwrap();
            assert_eq!(sections.len(), 1, "{at}");
        }
    }
}

#[tokio::test]
async fn every_lease_gets_a_fresh_term_when_the_control_plane_starts() {
    let mut world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    world.clock.advance_ms(10 * 60_000);
    world.restart().await;
    world.deliver(&mut []).await;
    assert_eq!(world.control_plane.runs.run(run).await.unwrap().epoch, attempt.epoch);
    world.hello(&mut launcher).await;
    world.say(&mut launcher, began(attempt, Phase::Plan)).await;
    assert_eq!(world.state(run).await, RunState::Planning);
}

#[tokio::test]
async fn a_session_does_not_outlive_the_control_plane() {
    let mut world = World::new().await;
    let mut launcher = world.welcomed().await;
    world.restart().await;
    let run = world.trigger(RunType::Tracked).await;
    let heartbeat = launcher.heartbeat();
    world.say(&mut launcher, heartbeat).await;
    assert_eq!(world.state(run).await, RunState::Ready);
    world.hello(&mut launcher).await;
    world.claim(&mut launcher).await;
}

#[tokio::test]
async fn a_write_stage_that_ended_while_the_control_plane_was_away_for_long_is_finished() {
    let mut world = World::new().await;
    let (run, mut launcher, attempt) = world.writing().await;
    launcher.say(state(attempt, 1, None));
    launcher.say(succeeded(attempt, false));
    world.clock.advance_ms(3 * 60 * 60_000);
    world.restart().await;
    world.deliver(&mut []).await;
    come_back(&world, &mut launcher).await;
    assert_eq!(world.state(run).await, RunState::Finished);
    let current = world.control_plane.stacks.state_version(&world.stack, None).await.unwrap();
    assert_eq!(current.serial, 1);
}
