use gantry_control_plane::pools::NewPool;
use gantry_control_plane::stacks::StackChange;
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
    let states = world.control_plane.stacks.states_of(&world.stack).await.unwrap();
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
    let states = world.control_plane.stacks.states_of(&world.stack).await.unwrap();
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
    let states = world.control_plane.stacks.states_of(&world.stack).await.unwrap();
    let shown: Vec<_> = states.iter().map(|it| (it.serial, it.orphaned.is_some())).collect();
    assert_eq!(shown, [(4, true), (3, true), (2, false), (1, false)]);
    let current = world.control_plane.stacks.state_version(&world.stack, None).await.unwrap();
    assert_eq!(current.serial, 2);
    let missing = world.control_plane.stacks.state_version(&world.stack, Some(3)).await;
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
        let states = world.control_plane.stacks.states_of(&world.stack).await.unwrap();
        assert!(states[0].orphaned.is_some() && !states[0].is_current, "{run_type:?}");
        if run_type == RunType::Proposed {
            continue;
        }
        world.plan(&mut launcher, attempt).await;
        world.control_plane.runs.confirm("ann", run, None).await.unwrap();
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
        let states = world.control_plane.stacks.states_of(&world.stack).await.unwrap();
        assert!(states[0].is_current, "{run_type:?}");
    }
}

/// Versions 1 to 3 of a run that applied, and one that came too late.
async fn applied(world: &World) -> crate::launcher::Launcher {
    let (_, mut launcher, attempt) = world.writing().await;
    for serial in 1..=3 {
        world.say(&mut launcher, state(attempt, serial, (serial > 1).then_some(serial - 1))).await;
    }
    world.say(&mut launcher, succeeded(attempt, false)).await;
    world.say(&mut launcher, state(attempt, 4, Some(3))).await;
    launcher.runs.clear();
    launcher
}

async fn id_of(world: &World, serial: u64) -> String {
    let states = world.control_plane.stacks.states_of(&world.stack).await.unwrap();
    states.into_iter().find(|it| it.serial == serial).unwrap().id
}

#[tokio::test]
async fn the_state_goes_back_to_an_older_version_and_on_from_there() {
    let world = World::new().await;
    let mut launcher = applied(&world).await;
    let second = id_of(&world, 2).await;
    let rolled =
        world.control_plane.stacks.roll_state_back("ann", &world.stack, &second).await.unwrap();
    assert!(rolled.is_current && rolled.serial == 2);
    let again =
        world.control_plane.stacks.roll_state_back("ann", &world.stack, &second).await.unwrap();
    assert_eq!(again, rolled);
    let audit = world.control_plane.audit.audit_log(None, 10).await.unwrap();
    let entry = audit.iter().find(|entry| entry.act == "stack.state_rollback").unwrap();
    assert!(entry.detail.starts_with(&format!("2 ({second}) in the place of 3 (")), "{entry:?}");

    world.trigger(RunType::Task).await;
    world.deliver(&mut [&mut launcher]).await;
    let attempt = world.claim(&mut launcher).await;
    assert_eq!(launcher.spec().state.unwrap().current.unwrap().serial, 2);
    let mut next = state(attempt, 3, Some(2));
    next.payload_sha256 = state_hash(30);
    world.say(&mut launcher, next).await;
    let current = world.control_plane.stacks.state_version(&world.stack, None).await.unwrap();
    assert_eq!((current.serial, current.payload_sha256), (3, state_hash(30)));
}

#[tokio::test]
async fn the_state_is_not_taken_from_under_a_lock_of_somebody_else() {
    let world = World::new().await;
    applied(&world).await;
    let second = id_of(&world, 2).await;
    world.control_plane.stacks.lock_stack("bob", &world.stack, "moving house").await.unwrap();
    let refused = world.control_plane.stacks.roll_state_back("ann", &world.stack, &second).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("gantry stack unlock network"), "{refused}");
    world.control_plane.stacks.roll_state_back("bob", &world.stack, &second).await.unwrap();
}

/// To turn off that the state is kept, in the same change or before, does not open it to another pool.
#[tokio::test]
async fn a_stack_with_a_state_stays_in_its_pool() {
    let world = World::new().await;
    applied(&world).await;
    let csr = gantry_protocol::CertificateRequest::create(crate::world::pool_key()).unwrap();
    let new = NewPool { name: "other".into(), csr: csr.as_pem().to_owned(), ..NewPool::default() };
    let (other, _) = world.control_plane.pools.create_pool("test", new).await.unwrap();
    let pool = Some(other.id);
    let change = StackChange { pool, manage_state: Some(false), ..StackChange::default() };
    let refused = world.control_plane.stacks.change_stack("ann", &world.stack, change).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("gantry state push network FILE --pool NEW"), "{refused}");
}

/// What came too late is not lost: a person can take it as the state.
#[tokio::test]
async fn an_orphaned_version_can_be_taken_as_the_state() {
    let world = World::new().await;
    applied(&world).await;
    let late = id_of(&world, 4).await;
    let shown = world.control_plane.stacks.state_version_named(&world.stack, &late).await.unwrap();
    assert!(shown.orphaned.is_some() && !shown.is_current);
    let taken =
        world.control_plane.stacks.roll_state_back("ann", &world.stack, &late).await.unwrap();
    assert!(taken.orphaned.is_none() && taken.is_current);
    let current = world.control_plane.stacks.state_version(&world.stack, None).await.unwrap();
    assert_eq!(current.serial, 4);
}

#[tokio::test]
async fn the_state_is_not_taken_from_under_a_run() {
    let world = World::new().await;
    let mut launcher = applied(&world).await;
    let first = id_of(&world, 1).await;
    let run = world.trigger(RunType::Tracked).await;
    let refused = world.control_plane.stacks.roll_state_back("ann", &world.stack, &first).await;
    assert!(refused.unwrap_err().to_string().contains(&run.to_string()), "it is about to begin");
    world.deliver(&mut [&mut launcher]).await;
    let attempt = world.claim(&mut launcher).await;
    world.plan(&mut launcher, attempt).await;
    let refused = world.control_plane.stacks.roll_state_back("ann", &world.stack, &first).await;
    assert!(refused.is_err(), "its plan is of the present version");
    world.control_plane.runs.discard("ann", run, None).await.unwrap();
    world.control_plane.stacks.roll_state_back("ann", &world.stack, &first).await.unwrap();
    let none = world.control_plane.stacks.roll_state_back("ann", &world.stack, "none").await;
    assert!(none.unwrap_err().to_string().contains("state version"));
}

#[tokio::test]
async fn what_a_read_stage_wrote_is_never_taken_as_the_state() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    world.say(&mut launcher, state(attempt, 1, None)).await;
    world.plan(&mut launcher, attempt).await;
    world.control_plane.runs.discard("ann", run, None).await.unwrap();
    let planted = id_of(&world, 1).await;
    let refused = world.control_plane.stacks.roll_state_back("ann", &world.stack, &planted).await;
    assert!(refused.unwrap_err().to_string().contains("read stage"));
}

/// Terraform keeps the lineage and counts up when it applies; a task may push what it likes.
#[tokio::test]
async fn a_state_of_another_lineage_or_a_lower_serial_comes_from_a_task_alone() {
    for (run_type, fits) in [(RunType::Testing, false), (RunType::Task, true)] {
        let world = World::new().await;
        world.trigger(run_type).await;
        let mut launcher = world.welcomed().await;
        let attempt = world.claim(&mut launcher).await;
        world.say(&mut launcher, state(attempt, 5, None)).await;
        world.say(&mut launcher, state(attempt, 4, Some(5))).await;
        let mut other = state(attempt, 6, Some(if fits { 4 } else { 5 }));
        other.lineage = "another".to_owned();
        world.say(&mut launcher, other).await;
        let states = world.control_plane.stacks.states_of(&world.stack).await.unwrap();
        let kept: Vec<_> = states.iter().map(|it| (it.serial, it.orphaned.is_none())).collect();
        assert_eq!(kept, [(6, fits), (4, fits), (5, true)], "{run_type:?}");
    }
}
