//! A pool's workers leave when they are told to, and what they read goes to others.

use gantry_model::{RunState, Stage};
use gantry_protocol::message::FromControlPlane;

use crate::launcher::{Launcher, succeeded};
use crate::world::World;

fn cycled(launcher: &Launcher) -> Vec<bool> {
    let forced = |message: &FromControlPlane| match message {
        FromControlPlane::Cycle(cycle) => Some(cycle.force),
        _ => None,
    };
    launcher.heard.iter().filter_map(forced).collect()
}

#[tokio::test]
async fn a_cycled_pool_gives_its_read_stages_back_and_keeps_its_write_stages() {
    let world = World::new().await;
    let (run, mut writer, write) = world.writing().await;
    let other = world.add_stack("other", false).await;
    let read = world.trigger_of(&other, gantry_model::RunType::Tracked).await;
    let mut reader = world.welcomed().await;
    let attempt = world.claim(&mut reader).await;
    assert_eq!((attempt.run, attempt.stage), (read, Stage::Read));
    let told = world.control_plane.workers.cycle_pool("ann", world.pool, false).await.unwrap();
    assert_eq!(told, 2);
    // They leave, and take nothing more.
    for leaving in [&reader, &writer] {
        let worker = leaving.worker;
        world.control_plane.workers.set_drained("ann", world.pool, worker, true).await.unwrap();
    }
    world.deliver(&mut [&mut writer, &mut reader]).await;
    assert_eq!((cycled(&writer), cycled(&reader)), (vec![false], vec![false]));
    assert!(reader.revoked(attempt) && !writer.revoked(write));
    assert_eq!(world.state(read).await, RunState::Ready);
    assert_eq!(world.note(read).await, "its worker was cycled");
    world.say(&mut writer, succeeded(write, false)).await;
    assert_eq!(world.state(run).await, RunState::Finished);
    let mut next = world.welcomed().await;
    assert_eq!(world.claim(&mut next).await.run, read);
}
