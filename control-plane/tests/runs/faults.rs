//! A database that fails, sessions that end without a word, launchers that take nothing in.

use gantry_model::{Phase, RunState, RunType};
use gantry_protocol::CertificateRequest;
use gantry_protocol::message::{FromControlPlane, StageOutcome};

use crate::launcher::{began, claim, ended};
use crate::world::{World, pool_key};

#[tokio::test]
async fn a_stage_that_was_never_started_is_offered_again_though_the_database_failed_at_first() {
    let world = World::new().await;
    let (run, mut launcher) = world.confirmed().await;
    let write = launcher.offered().unwrap();
    // The grant never arrives.
    let claimed = launcher.say(claim(write));
    world.bring(&launcher, vec![claimed]).await;
    world.hello(&mut launcher).await;
    assert!(!launcher.granted(write));
    world.break_updates("workers", Some("heard_at")).await;
    let heartbeat = launcher.heartbeat();
    world.say(&mut launcher, heartbeat.clone()).await;
    world.mend_updates("workers").await;
    world.say(&mut launcher, heartbeat).await;
    let again = launcher.offered().unwrap();
    assert!(again.run == run && again.epoch > write.epoch);
}

#[tokio::test]
async fn a_worker_whose_session_ended_without_a_word_holds_nobody_up() {
    let world = World::new().await;
    let mut first = world.welcomed().await;
    let newest = world.welcomed().await;
    let csr = CertificateRequest::create(pool_key()).unwrap();
    world.control_plane.pools.reset_pool("ann", world.pool, csr.as_pem()).await.unwrap();
    // A heartbeat of the former session that crossed the reset.
    let crossed = format!("UPDATE workers SET is_connected = 1 WHERE id = '{}'", newest.worker);
    world.execute(&crossed).await;
    world.hello(&mut first).await;
    let run = world.trigger(RunType::Tracked).await;
    world.deliver(&mut [&mut first]).await;
    assert_eq!(first.offered().map(|attempt| attempt.run), Some(run));
}

#[tokio::test]
async fn a_worker_that_takes_nothing_in_gets_one_offer() {
    let world = World::new().await;
    world.trigger(RunType::Tracked).await;
    let mut deaf = world.welcomed().await;
    // From here on it speaks and does not hear.
    let run = world.trigger_of(&world.add_stack("other", false).await, RunType::Tracked).await;
    let attempt = deaf.offered().unwrap();
    let claimed = deaf.say(claim(attempt));
    world.bring(&deaf, vec![claimed]).await;
    let outcome = StageOutcome::Failed { reason: "no".into(), phase: None, code: None };
    let result = deaf.say(ended(attempt, outcome));
    world.bring(&deaf, vec![result]).await;
    for _ in 0..5 {
        let heartbeat = deaf.heartbeat();
        let heartbeat = deaf.say(heartbeat);
        world.bring(&deaf, vec![heartbeat]).await;
        world.deliver(&mut []).await;
        world.clock.advance_ms(10_000);
        world.deliver(&mut []).await;
    }
    let attempts = world.control_plane.runs.attempts(run).await.unwrap();
    assert_eq!(attempts.len(), 1);
    // Whoever hears gets it.
    let mut other = world.welcomed().await;
    assert_eq!(other.offered().map(|attempt| attempt.run), Some(run));
    world.claim(&mut other).await;
}

#[tokio::test]
async fn what_only_a_newer_launcher_says_does_not_hold_up_the_rest() {
    let world = World::new().await;
    let (run, mut launcher, attempt) = world.reading().await;
    for (kind, body) in [("later", "{}"), ("phase", r#"{"phase":"later"}"#), ("heartbeat", "{}")] {
        let payload = launcher.say_later(kind, body);
        world.bring(&launcher, vec![payload]).await;
    }
    world.say(&mut launcher, began(attempt, Phase::Plan)).await;
    assert_eq!(world.state(run).await, RunState::Planning);
    assert!(launcher.waiting.is_empty());
    let unsupported = |message: &&FromControlPlane| matches!(message, FromControlPlane::Unsupported(it) if it.kind == "later");
    assert_eq!(launcher.heard.iter().filter(unsupported).count(), 1);
}
