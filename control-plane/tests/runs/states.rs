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

/// A hook of a plan that is discarded afterwards would change what the next run begins with.
#[tokio::test]
async fn a_read_stage_of_whatever_run_cannot_change_the_state() {
    for run_type in [RunType::Proposed, RunType::Tracked, RunType::Destroy] {
        let world = World::new().await;
        let run = world.trigger(run_type).await;
        let mut launcher = world.welcomed().await;
        let attempt = world.claim(&mut launcher).await;
        assert!(!launcher.spec().state.unwrap().can_write, "{run_type:?}");
        world.say(&mut launcher, state(attempt, 1, None)).await;
        let states = world.control_plane.states_of(&world.stack).await.unwrap();
        assert!(states[0].orphaned.is_some() && !states[0].is_current, "{run_type:?}");
        if run_type == RunType::Proposed {
            continue;
        }
        world.plan(&mut launcher, attempt).await;
        world.control_plane.confirm("ann", run, None).await.unwrap();
        world.deliver(&mut [&mut launcher]).await;
        let spec = launcher.spec().state.unwrap();
        assert!(spec.can_write && spec.current.is_none(), "{run_type:?}");
    }
}

/// Commands that change the state are tasks.
#[tokio::test]
async fn a_task_and_a_test_change_the_state() {
    for run_type in [RunType::Task, RunType::Testing] {
        let world = World::new().await;
        world.trigger(run_type).await;
        let mut launcher = world.welcomed().await;
        let attempt = world.claim(&mut launcher).await;
        assert!(launcher.spec().state.unwrap().can_write, "{run_type:?}");
        world.say(&mut launcher, state(attempt, 1, None)).await;
        let states = world.control_plane.states_of(&world.stack).await.unwrap();
        assert!(states[0].is_current, "{run_type:?}");
    }
}
