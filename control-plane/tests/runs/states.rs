use gantry_model::RunType;

use crate::launcher::{state, state_hash, succeeded};
use crate::world::World;

#[tokio::test]
async fn state_versions_follow_each_other() {
    let world = World::new().await;
    let (_, mut launcher, attempt) = world.writing().await;
    world.say(&mut launcher, state(attempt, 1, None)).await;
    world.say(&mut launcher, state(attempt, 2, Some(1))).await;
    world.say(&mut launcher, state(attempt, 2, Some(1))).await;
    let states = world.control_plane.states_of(&world.stack).await.unwrap();
    let shown: Vec<_> = states.iter().map(|it| (it.serial, it.is_current)).collect();
    assert_eq!(shown, [(2, true), (1, false)]);
    world.say(&mut launcher, succeeded(attempt, false)).await;

    world.trigger(RunType::Tracked).await;
    launcher.runs.clear();
    world.deliver(&mut [&mut launcher]).await;
    let current = launcher.spec().state.unwrap().current.unwrap();
    assert_eq!((current.serial, current.predecessor), (2, Some(state_hash(1))));
}

/// The tool was answered long ago: a name that is too long is no reason to lose what it names.
#[tokio::test]
async fn a_state_version_with_a_long_lineage_is_kept() {
    let world = World::new().await;
    let (_, mut launcher, attempt) = world.writing().await;
    let mut long = state(attempt, 1, None);
    long.lineage = format!("a{}", "ż".repeat(200));
    world.say(&mut launcher, long).await;
    let states = world.control_plane.states_of(&world.stack).await.unwrap();
    assert!(states[0].is_current);
    assert_eq!(states[0].lineage, format!("a{}", "ż".repeat(127)));
}

#[tokio::test]
async fn a_state_version_that_follows_another_one_than_the_newest_is_orphaned() {
    let world = World::new().await;
    let (_, mut launcher, attempt) = world.writing().await;
    world.say(&mut launcher, state(attempt, 1, None)).await;
    world.say(&mut launcher, state(attempt, 2, Some(1))).await;
    world.say(&mut launcher, state(attempt, 3, Some(1))).await;
    world.say(&mut launcher, state(attempt, 4, None)).await;
    let states = world.control_plane.states_of(&world.stack).await.unwrap();
    let shown: Vec<_> = states.iter().map(|it| (it.serial, it.orphaned.is_some())).collect();
    assert_eq!(shown, [(4, true), (3, true), (2, false), (1, false)]);
    let current = world.control_plane.state_version(&world.stack, None).await.unwrap();
    assert_eq!(current.serial, 2);
    let missing = world.control_plane.state_version(&world.stack, Some(3)).await;
    assert!(missing.is_err(), "an orphaned version is not part of the stack's history");
}

#[tokio::test]
async fn a_proposed_run_cannot_change_the_state() {
    let world = World::new().await;
    world.trigger(RunType::Proposed).await;
    let mut launcher = world.welcomed().await;
    let attempt = world.claim(&mut launcher).await;
    assert!(!launcher.spec().state.unwrap().can_write);
    world.say(&mut launcher, state(attempt, 1, None)).await;
    let states = world.control_plane.states_of(&world.stack).await.unwrap();
    assert!(states[0].orphaned.is_some());
}
