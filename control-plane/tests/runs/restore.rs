//! A database that was set back to a backup.

use gantry_model::{Attempt, RunId, RunState};
use gantry_protocol::message::Heartbeat;

use crate::database::Kept;
use crate::launcher::{Launcher, claim};
use crate::world::World;

/// A run whose write stage the launcher owns, and a backup from before it was confirmed.
async fn confirmed_since() -> (World, RunId, Launcher, Attempt, Kept) {
    let mut world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    world.plan(&mut launcher, attempt).await;
    let kept = world.back_up().await;
    world.hello(&mut launcher).await;
    world.control_plane.runs.confirm("ann", run, None).await.unwrap();
    world.deliver(&mut [&mut launcher]).await;
    let write = world.claim(&mut launcher).await;
    (world, run, launcher, write, kept)
}

#[tokio::test]
async fn a_write_stage_that_was_granted_since_the_backup_goes_to_nobody_else() {
    let (mut world, run, mut launcher, write, kept) = confirmed_since().await;
    world.restore(&kept).await;
    assert_eq!(world.state(run).await, RunState::Unconfirmed);
    world.hello(&mut launcher).await;
    assert_eq!(launcher.welcome.as_ref().unwrap().not_yours, []);
    assert_eq!(world.state(run).await, RunState::PreparingApply);
    assert!(world.control_plane.runs.confirm("ann", run, None).await.is_err());
    let mut other = world.welcomed().await;
    world.deliver(&mut [&mut other]).await;
    assert_eq!(other.offered(), None);
    assert_eq!(world.control_plane.runs.run(run).await.unwrap().epoch, write.epoch);
    world.clock.advance_ms(world.terms.write_ms);
    world.deliver(&mut [&mut launcher, &mut other]).await;
    assert!(world.control_plane.runs.run(run).await.unwrap().is_unknown);
    assert!(world.control_plane.stacks.stack(&world.stack).await.unwrap().lock.is_some());
}

#[tokio::test]
async fn an_offer_of_the_backup_that_was_claimed_since_goes_to_nobody_else() {
    let mut world = World::new().await;
    let (run, mut launcher) = world.confirmed().await;
    let write = launcher.offered().unwrap();
    // A copy of the files while the server ran.
    let kept = world.back_up().await;
    // What the launcher did with the offer in the time that was lost.
    launcher.runs.insert(write);
    world.restore(&kept).await;
    let mut other = world.welcomed().await;
    world.hello(&mut launcher).await;
    world.deliver(&mut [&mut launcher, &mut other]).await;
    assert_eq!((launcher.offered(), other.offered()), (None, None));
    let kept = world.control_plane.runs.run(run).await.unwrap();
    assert_eq!((kept.worker, kept.epoch), (Some(launcher.worker), write.epoch));
}

#[tokio::test]
async fn a_write_stage_past_its_time_is_not_offered_again_on_a_hello_that_does_not_name_it() {
    let mut world = World::new().await;
    let (run, mut launcher) = world.confirmed().await;
    let write = launcher.offered().unwrap();
    let claimed = launcher.say(claim(write));
    world.bring(&launcher, vec![claimed]).await;
    let kept = world.back_up().await;
    // It applied and reported, which the backup does not know; then a night went by.
    world.clock.advance_ms(world.terms.write_ms);
    world.restore(&kept).await;
    launcher.waiting.clear();
    world.hello(&mut launcher).await;
    let heartbeat = Heartbeat { runs: Vec::new(), is_healthy: true, note: None };
    world.say(&mut launcher, heartbeat).await;
    assert_eq!(world.state(run).await, RunState::PreparingApply);
    assert_eq!(launcher.offered(), None);
    world.clock.advance_ms(2 * world.terms.lease_ms);
    world.deliver(&mut [&mut launcher]).await;
    assert!(world.control_plane.runs.run(run).await.unwrap().is_unknown);
}
