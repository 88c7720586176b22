//! What follows from each change of a run, in its order.

use gantry_model::{
    Effect, Epoch, JournalId, LeaseTerms, Outcome, RunId, RunLifecycle, RunState, RunType,
    StackLock, Timestamp, WorkerId, clear_at, effects,
};
use ulid::Ulid;

const TERMS: LeaseTerms =
    LeaseTerms { offer_ms: 10, lease_ms: 60, heartbeat_ms: 15, write_ms: 4_000, read_attempts: 3 };
const NOW: Timestamp = Timestamp(1_000);

fn worker(n: u8) -> WorkerId {
    WorkerId::from_ulid(Ulid::from_parts(1, u128::from(n)))
}

fn journal() -> JournalId {
    JournalId::from_ulid(Ulid::from_parts(2, 2))
}

fn queued(run_type: RunType) -> RunLifecycle {
    RunLifecycle::queued(RunId::from_ulid(Ulid::from_parts(3, 3)), run_type, false)
}

/// What follows from what `act` does to the run.
fn after(run: &mut RunLifecycle, act: impl FnOnce(&mut RunLifecycle)) -> Vec<Effect> {
    let before = run.clone();
    act(run);
    effects(&before, run, None, NOW)
}

#[expect(clippy::unwrap_used, reason = "a test helper fails the test where it stands")]
fn granted(run_type: RunType) -> RunLifecycle {
    let mut run = queued(run_type);
    run.ready().unwrap();
    let attempt = run.offer(worker(1), NOW, &TERMS).unwrap();
    run.claim(worker(1), journal(), attempt, NOW, &TERMS);
    run
}

#[test]
fn a_run_that_goes_on_keeps_its_stack_for_itself() {
    let mut tracked = queued(RunType::Tracked);
    let ready = after(&mut tracked, |run| run.ready().unwrap());
    assert_eq!(ready, [Effect::AddHistory, Effect::BlockStack]);
    let mut proposed = queued(RunType::Proposed);
    assert_eq!(after(&mut proposed, |run| run.ready().unwrap()), [Effect::AddHistory]);
}

#[test]
fn an_offer_and_a_claim_follow_the_worker() {
    let mut run = queued(RunType::Tracked);
    run.ready().unwrap();
    let offered = after(&mut run, |run| {
        run.offer(worker(1), NOW, &TERMS).unwrap();
    });
    let attempt = run.attempt();
    assert_eq!(
        offered,
        [
            Effect::AddHistory,
            Effect::OccupyWorker(worker(1)),
            Effect::BeginAttempt(attempt, worker(1))
        ]
    );
    let claimed = after(&mut run, |run| {
        run.claim(worker(1), journal(), attempt, NOW, &TERMS);
    });
    assert_eq!(claimed, [Effect::GrantAttempt(attempt)]);
}

#[test]
fn an_offer_that_lapses_ends_its_attempt_and_frees_its_worker() {
    let mut run = queued(RunType::Tracked);
    run.ready().unwrap();
    let attempt = run.offer(worker(1), NOW, &TERMS).unwrap();
    let lapsed = after(&mut run, |run| {
        run.expire(NOW.plus_ms(TERMS.offer_ms), &TERMS);
    });
    assert_eq!(
        lapsed,
        [Effect::AddHistory, Effect::EndAttempt(attempt), Effect::FreeWorker(worker(1))]
    );
    assert_eq!(run.epoch(), Epoch(attempt.epoch.0 + 1));
}

#[test]
fn a_lease_that_is_renewed_is_followed_by_nothing() {
    let mut run = granted(RunType::Tracked);
    let attempt = run.attempt();
    let renewed = after(&mut run, |run| {
        assert!(run.renew(worker(1), attempt, NOW.plus_ms(30), &TERMS));
    });
    assert_eq!(renewed, []);
}

#[test]
fn the_end_of_a_run_lets_the_next_one_go_on() {
    let mut run = granted(RunType::Tracked);
    let attempt = run.attempt();
    let ended = after(&mut run, |run| {
        let outcome = Outcome::Failed { note: "it failed".into() };
        run.conclude(worker(1), attempt, outcome, NOW, &TERMS);
    });
    assert_eq!(
        ended,
        [
            Effect::AddHistory,
            Effect::EndAttempt(attempt),
            Effect::FreeWorker(worker(1)),
            Effect::ClearAt(clear_at(NOW)),
            Effect::ReleaseStack
        ]
    );
}

#[test]
fn an_unknown_outcome_locks_the_stack_before_the_next_run_is_looked_for() {
    let mut run = granted(RunType::Task);
    let attempt = run.attempt();
    let ended = after(&mut run, |run| {
        let outcome = Outcome::Unknown { note: "the host is gone".into() };
        run.conclude(worker(1), attempt, outcome, NOW, &TERMS);
    });
    assert_eq!(run.state(), RunState::Failed);
    assert_eq!(
        ended[3..],
        [
            Effect::ClearAt(clear_at(NOW)),
            Effect::LockStack(StackLock::of_an_unknown_outcome(None, run.run(), NOW)),
            Effect::ReleaseStack
        ]
    );
    // Nothing waits behind a run that blocks nothing.
    let mut testing = granted(RunType::Testing);
    let attempt = testing.attempt();
    let ended = after(&mut testing, |run| {
        let outcome = Outcome::Unknown { note: "the host is gone".into() };
        run.conclude(worker(1), attempt, outcome, NOW, &TERMS);
    });
    assert_eq!(ended.last(), Some(&Effect::ClearAt(clear_at(NOW))));
}

#[test]
fn with_autodeploy_the_worker_keeps_the_run_in_a_second_attempt() {
    let mut run = RunLifecycle::queued(queued(RunType::Tracked).run(), RunType::Tracked, true);
    run.ready().unwrap();
    let first = run.offer(worker(1), NOW, &TERMS).unwrap();
    run.claim(worker(1), journal(), first, NOW, &TERMS);
    let went_on = after(&mut run, |run| {
        let outcome = Outcome::Succeeded { has_changes: true, continues: true };
        run.conclude(worker(1), first, outcome, NOW, &TERMS);
    });
    let second = run.attempt();
    assert_ne!(first, second);
    assert_eq!(
        went_on,
        [
            Effect::AddHistory,
            Effect::EndAttempt(first),
            Effect::BeginAttempt(second, worker(1)),
            Effect::GrantAttempt(second)
        ]
    );
}

#[test]
fn a_lock_sends_a_run_back_and_its_stack_is_free() {
    let lock = StackLock { by: "bob".into(), note: "migration".into(), at: NOW };
    let mut run = queued(RunType::Tracked);
    let before = run.clone();
    run.ready().unwrap();
    assert!(run.begins_to_wait(&before));
    let held = after(&mut run, |run| assert!(run.hold_behind(&lock)));
    assert_eq!(held, [Effect::AddHistory, Effect::ReleaseStack]);
    assert_eq!(run.note(), Some("bob has locked the stack: migration"));
}

#[test]
fn a_plan_behind_a_lock_is_not_confirmed_by_autodeploy() {
    let lock = StackLock { by: "bob".into(), note: String::new(), at: NOW };
    let mut run = RunLifecycle::queued(queued(RunType::Tracked).run(), RunType::Tracked, true);
    run.ready().unwrap();
    let attempt = run.offer(worker(1), NOW, &TERMS).unwrap();
    run.claim(worker(1), journal(), attempt, NOW, &TERMS);
    let before = run.clone();
    let outcome = Outcome::Succeeded { has_changes: true, continues: false };
    run.conclude(worker(1), attempt, outcome, NOW, &TERMS);
    assert!(run.begins_to_wait(&before));
    assert!(run.hold_behind(&lock));
    assert_eq!(run.state(), RunState::Unconfirmed);
    assert_eq!(run.note(), Some("not confirmed by autodeploy: bob has locked the stack"));
    // It keeps its place: others of the stack wait until a person has decided.
    assert!(!effects(&before, &run, None, NOW).contains(&Effect::ReleaseStack));
}

#[test]
fn a_stage_that_the_server_had_forgotten_is_taken_up_where_it_is() {
    let mut run = queued(RunType::Task);
    let mut attempt = run.attempt();
    attempt.epoch = Epoch(4);
    let recovered = after(&mut run, |run| {
        assert!(run.recover(worker(2), journal(), attempt, NOW, &TERMS));
    });
    assert_eq!(
        recovered,
        [
            Effect::AddHistory,
            Effect::OccupyWorker(worker(2)),
            Effect::BeginAttempt(attempt, worker(2)),
            Effect::GrantAttempt(attempt),
            Effect::BlockStack
        ]
    );
    // Known now, or invented: nothing changes.
    assert!(!run.recover(worker(1), journal(), attempt, NOW, &TERMS));
    attempt.epoch = Epoch(u64::MAX);
    assert!(!run.recover(worker(1), journal(), attempt, NOW, &TERMS));
}
