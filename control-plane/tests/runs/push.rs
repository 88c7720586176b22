//! A state that a person brings in, as `gantry state push` does it.

use bytes::Bytes;
use gantry_control_plane::objects::Objects as _;
use gantry_control_plane::pools::NewPool;
use gantry_control_plane::stacks::{PushedState, StackChange, StateVersion};
use gantry_model::{Epoch, PoolId, RunType, StackId};
use gantry_protocol::{
    CertificateRequest, Kind, PoolKey, Recipient, SealedBytes, Statement, seal_bytes,
};

use crate::launcher::{state, succeeded};
use crate::world::{World, pool_key};

/// Another pool's key, made once.
fn other_key() -> &'static PoolKey {
    static KEY: std::sync::OnceLock<PoolKey> = std::sync::OnceLock::new();
    KEY.get_or_init(|| PoolKey::generate(2048).unwrap())
}

async fn add_pool(world: &World, name: &str, key: &PoolKey) -> PoolId {
    let csr = CertificateRequest::create(key).unwrap();
    let new = NewPool { name: name.into(), csr: csr.as_pem().to_owned(), ..NewPool::default() };
    world.control_plane.pools.create_pool("test", new).await.unwrap().0.id
}

/// A state that was uploaded but is not the stack's yet, sealed to `sealed_to` and signed by `signed_by`.
async fn uploaded(
    world: &World,
    serial: u64,
    predecessor: Option<&StateVersion>,
    sealed_to: &PoolKey,
    signed_by: &PoolKey,
) -> PushedState {
    let upload = world.control_plane.stacks.state_upload(&world.stack).await.unwrap();
    let recipient = Recipient::new(sealed_to.public().clone()).unwrap();
    let SealedBytes { header, payload } = seal_bytes(&[recipient], b"a state").unwrap();
    let payload_sha256 = gantry_protocol::Digest::of(&payload);
    let statement = Statement {
        kind: Kind::State,
        stack: world.stack.clone(),
        run: upload.push,
        epoch: Epoch(0),
        serial,
        predecessor: predecessor.map(|it| it.payload_sha256.parse().unwrap()),
        payload_sha256,
        payload_len: payload.len() as u64,
    };
    let pushed = PushedState {
        push: upload.push,
        pool: None,
        serial,
        lineage: "a-lineage".into(),
        header: header.to_string(),
        payload_sha256: payload_sha256.to_string(),
        payload_size: payload.len() as u64,
        predecessor: predecessor.map(|it| it.payload_sha256.clone()),
        signature: signed_by.sign_statement(&statement).unwrap().to_string(),
    };
    let key = format!("state/{}/0-{}", world.stack, upload.push);
    world.objects.put(&key, Bytes::from(payload)).await.unwrap();
    pushed
}

async fn of_pool(world: &World, serial: u64, predecessor: Option<&StateVersion>) -> PushedState {
    uploaded(world, serial, predecessor, pool_key(), pool_key()).await
}

async fn push(world: &World, state: &PushedState) -> Result<StateVersion, String> {
    let pushed = world.control_plane.stacks.push_state("ann", &world.stack, state.clone()).await;
    pushed.map_err(|error| error.to_string())
}

async fn is_refused(world: &World, state: PushedState, why: &str) {
    let said = push(world, &state).await.unwrap_err();
    assert!(said.contains(why), "{why}: {said}");
}

#[tokio::test]
async fn a_pushed_state_is_what_the_next_run_begins_with() {
    let world = World::new().await;
    let first = of_pool(&world, 7, None).await;
    let made = push(&world, &first).await.unwrap();
    assert!(made.is_current && made.pushed_by.as_deref() == Some("ann"));
    assert_eq!(push(&world, &first).await.unwrap(), made, "asked again, nothing changes");
    let second = push(&world, &of_pool(&world, 8, Some(&made)).await).await.unwrap();
    let audit = world.control_plane.audit.audit_log(None, 10).await.unwrap();
    let entry = audit.iter().find(|entry| entry.act == "stack.state_push").unwrap();
    let detail = format!("8 ({}) in the place of 7 ({})", second.id, made.id);
    assert_eq!((&entry.actor, &entry.detail), (&"ann".to_owned(), &detail));

    world.trigger(RunType::Tracked).await;
    let mut launcher = world.welcomed().await;
    world.deliver(&mut [&mut launcher]).await;
    let current = launcher.spec().state.unwrap().current.unwrap();
    assert_eq!((current.run.to_string(), current.epoch, current.serial), (second.id, 0, 8));
    assert_eq!(current.predecessor, Some(made.payload_sha256));
}

/// Who can write the object store, or ask the API, plants no state: only the pool's key makes one.
#[tokio::test]
async fn a_state_that_the_pool_did_not_sign_is_not_taken() {
    let world = World::new().await;
    let foreign = uploaded(&world, 1, None, pool_key(), other_key()).await;
    is_refused(&world, foreign, "did not sign it").await;
    let mut renumbered = of_pool(&world, 1, None).await;
    renumbered.serial = 2;
    is_refused(&world, renumbered, "did not sign it").await;
    let mut replaced = of_pool(&world, 1, None).await;
    replaced.push = world.control_plane.stacks.state_upload(&world.stack).await.unwrap().push;
    is_refused(&world, replaced, "did not sign it").await;
    let mut unsealed = of_pool(&world, 1, None).await;
    unsealed.header = "AAAA".into();
    is_refused(&world, unsealed, "not sealed").await;
    let elsewhere = uploaded(&world, 1, None, other_key(), pool_key()).await;
    is_refused(&world, elsewhere, "not sealed to the stack's pool").await;
    let of_another: StackId = world.add_stack("other", false).await;
    let state = of_pool(&world, 1, None).await;
    let planted = world.control_plane.stacks.push_state("ann", &of_another, state.clone()).await;
    assert!(planted.unwrap_err().to_string().contains("did not sign it"));
    let gone = format!("state/{}/0-{}", world.stack, state.push);
    world.objects.delete(&gone).await.unwrap();
    is_refused(&world, state, "upload it first").await;
    assert!(world.control_plane.stacks.states_of(&world.stack).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_pushed_state_follows_the_present_one() {
    let world = World::new().await;
    let early = of_pool(&world, 9, None).await;
    let present = push(&world, &of_pool(&world, 7, None).await).await.unwrap();
    is_refused(&world, early, "has changed since").await;
    let lower = of_pool(&world, 7, Some(&present)).await;
    is_refused(&world, lower, "its serial is 7, and the stack's state has 7").await;
    let mut other = of_pool(&world, 8, Some(&present)).await;
    other.lineage = "another".into();
    is_refused(&world, other, "another lineage").await;
}

#[tokio::test]
async fn no_state_is_pushed_under_a_run_or_past_the_lock_of_somebody_else() {
    let world = World::new().await;
    let state = of_pool(&world, 1, None).await;
    world.control_plane.stacks.lock_stack("bob", &world.stack, "moving house").await.unwrap();
    is_refused(&world, state.clone(), "gantry stack unlock network").await;
    world.control_plane.stacks.unlock_stack("bob", &world.stack).await.unwrap();
    let run = world.trigger(RunType::Tracked).await;
    is_refused(&world, state.clone(), &run.to_string()).await;
    world.control_plane.runs.cancel("ann", run).await.unwrap();
    push(&world, &state).await.unwrap();
    let own = StackChange { manage_state: Some(false), ..StackChange::default() };
    world.control_plane.stacks.change_stack("ann", &world.stack, own).await.unwrap();
    is_refused(&world, of_pool(&world, 2, None).await, "a backend of its own").await;
}

/// Sealed to the new pool and signed by it, the state goes with the stack.
#[tokio::test]
async fn a_push_takes_a_stack_with_a_state_to_another_pool() {
    let world = World::new().await;
    let present = push(&world, &of_pool(&world, 7, None).await).await.unwrap();
    let west = add_pool(&world, "west", other_key()).await;
    let to_west = || StackChange { pool: Some(west), ..StackChange::default() };
    let refused = world.control_plane.stacks.change_stack("ann", &world.stack, to_west()).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("gantry state push network FILE --pool NEW"), "{refused}");

    let mut state = uploaded(&world, 7, Some(&present), pool_key(), pool_key()).await;
    state.pool = Some(west);
    is_refused(&world, state, "not sealed to the stack's pool").await;
    let mut state = uploaded(&world, 7, Some(&present), other_key(), other_key()).await;
    state.pool = Some(west);
    let moved = push(&world, &state).await.unwrap();
    let stack = world.control_plane.stacks.stack(&world.stack).await.unwrap();
    assert!(moved.is_current && stack.pool == west && stack.source.is_none());
}

/// A pool of the same key opens all that the stack has.
#[tokio::test]
async fn a_stack_with_a_state_goes_to_a_pool_that_opens_it() {
    let world = World::new().await;
    push(&world, &of_pool(&world, 7, None).await).await.unwrap();
    let same = add_pool(&world, "same", pool_key()).await;
    let change = StackChange { pool: Some(same), ..StackChange::default() };
    let moved = world.control_plane.stacks.change_stack("ann", &world.stack, change).await.unwrap();
    assert_eq!(moved.pool, same);
    let states = world.control_plane.stacks.states_of(&world.stack).await.unwrap();
    assert!(states[0].is_current);
}

/// What launchers wrote before this came stays as it is.
#[tokio::test]
async fn runs_go_on_from_a_pushed_state() {
    let world = World::new().await;
    let (_, mut launcher, attempt) = world.writing().await;
    world.say(&mut launcher, state(attempt, 1, None)).await;
    world.say(&mut launcher, succeeded(attempt, false)).await;
    let first = world.control_plane.stacks.state_version(&world.stack, None).await.unwrap();
    assert_eq!(first.pushed_by, None);
    let pushed = push(&world, &of_pool(&world, 2, Some(&first)).await).await.unwrap();

    launcher.runs.clear();
    world.trigger(RunType::Task).await;
    world.deliver(&mut [&mut launcher]).await;
    let attempt = world.claim(&mut launcher).await;
    let mut next = state(attempt, 3, None);
    next.predecessor = Some(pushed.payload_sha256);
    world.say(&mut launcher, next).await;
    let current = world.control_plane.stacks.state_version(&world.stack, None).await.unwrap();
    assert_eq!((current.serial, current.pushed_by), (3, None));
}

/// The reset stands first in the line, and the push was looked at before.
#[tokio::test]
async fn a_state_for_the_key_that_a_pool_had_is_not_taken_after_its_reset() {
    let world = World::new().await;
    let state = of_pool(&world, 1, None).await;
    let csr = CertificateRequest::create(other_key()).unwrap();
    let held = world.control_plane.core.store().begin().await.unwrap();
    let mut reset = Box::pin(world.control_plane.pools.reset_pool("ann", world.pool, csr.as_pem()));
    let mut pushing = Box::pin(push(&world, &state));
    let both = async { tokio::join!(&mut reset, &mut pushing) };
    assert!(tokio::time::timeout(std::time::Duration::from_secs(1), both).await.is_err());
    drop(held);
    let (reset, pushed) = tokio::join!(reset, pushing);
    reset.unwrap();
    pushed.unwrap_err();
    assert!(world.control_plane.stacks.states_of(&world.stack).await.unwrap().is_empty());
}
