//! What always holds in a run's lifecycle, whatever happens to it in whatever order.

use gantry_model::{
    Assignment, Attempt, Claimed, Concluded, Epoch, Expired, JournalId, LeaseTerms, Outcome, Phase,
    RunId, RunLifecycle, RunState, RunType, Stage, Stopping, Timestamp, WorkerId,
};
use proptest::prelude::*;
use ulid::Ulid;

const TERMS: LeaseTerms =
    LeaseTerms { offer_ms: 10, lease_ms: 60, heartbeat_ms: 15, write_ms: 4_000, read_attempts: 3 };

fn worker(n: u8) -> WorkerId {
    WorkerId::from_ulid(Ulid::from_parts(1, u128::from(n)))
}

fn journal(n: u8) -> JournalId {
    JournalId::from_ulid(Ulid::from_parts(2, u128::from(n)))
}

fn tracked(autodeploy: bool) -> RunLifecycle {
    RunLifecycle::queued(RunId::from_ulid(Ulid::from_parts(3, 3)), RunType::Tracked, autodeploy)
}

#[derive(Debug, Clone)]
enum Act {
    Ready,
    Offer(u8),
    Claim { by: u8, journal: u8, is_current: bool },
    Withdraw(u8),
    Renew(u8),
    Expire,
    NeverStarted { by: u8, journal: u8 },
    JournalLost(u8),
    Began(u8),
    Conclude { by: u8, outcome: Outcome, is_current: bool },
    Confirm,
    Discard,
    Stop,
    Hold,
    Pass(u64),
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        6 => any::<(bool, bool)>().prop_map(|(has_changes, continues)| {
            Outcome::Succeeded { has_changes, continues }
        }),
        1 => Just(Outcome::Failed { note: "it failed".into() }),
        1 => Just(Outcome::Stopped { note: "it was stopped".into() }),
        2 => Just(Outcome::Unknown { note: "nobody knows".into() }),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let who = 0..2_u8;
    let mostly = prop::bool::weighted(0.8);
    prop_oneof![
        4 => Just(Act::Ready),
        8 => who.clone().prop_map(Act::Offer),
        8 => (who.clone(), who.clone(), mostly)
            .prop_map(|(by, journal, is_current)| Act::Claim { by, journal, is_current }),
        1 => who.clone().prop_map(Act::Withdraw),
        2 => who.clone().prop_map(Act::Renew),
        4 => Just(Act::Expire),
        2 => (who.clone(), who.clone()).prop_map(|(by, journal)| Act::NeverStarted { by, journal }),
        1 => who.clone().prop_map(Act::JournalLost),
        2 => who.clone().prop_map(Act::Began),
        6 => (who, outcome(), mostly)
            .prop_map(|(by, outcome, is_current)| Act::Conclude { by, outcome, is_current }),
        5 => Just(Act::Confirm),
        1 => Just(Act::Discard),
        1 => Just(Act::Stop),
        2 => Just(Act::Hold),
        4 => prop_oneof![Just(9), Just(60), Just(4_000)].prop_map(Act::Pass),
    ]
}

fn which(life: &RunLifecycle, is_current: bool) -> Attempt {
    let attempt = life.attempt();
    if is_current { attempt } else { Attempt { epoch: Epoch(attempt.epoch.0 + 1), ..attempt } }
}

/// Does it, and answers whether the write stage was granted, or proven never to have started.
fn happen(life: &mut RunLifecycle, act: Act, now: &mut Timestamp) -> (bool, bool) {
    let was_write = life.stage() == Stage::Write;
    let (mut is_granted, mut is_void) = (false, false);
    match act {
        Act::Ready => drop(life.ready()),
        Act::Offer(to) => drop(life.offer(worker(to), *now, &TERMS)),
        Act::Claim { by, journal: with, is_current } => {
            let attempt = which(life, is_current);
            let claimed = life.claim(worker(by), journal(with), attempt, *now, &TERMS);
            is_granted = claimed == Claimed::Granted && was_write;
        }
        Act::Withdraw(from) => {
            life.withdraw(worker(from), life.attempt());
        }
        Act::Renew(by) => {
            life.renew(worker(by), life.attempt(), *now, &TERMS);
        }
        Act::Expire => {
            let expired = life.expire(*now, &TERMS);
            assert!(!(was_write && matches!(expired, Expired::Taken(_))), "taken from its owner");
        }
        Act::NeverStarted { by, journal: with } => {
            is_void = life.never_started(worker(by), journal(with)) && was_write;
        }
        Act::JournalLost(of) => {
            life.journal_lost(worker(of), &TERMS);
        }
        Act::Began(by) => {
            life.began(worker(by), life.attempt(), Phase::Plan);
        }
        Act::Conclude { by, outcome, is_current } => {
            let attempt = which(life, is_current);
            let concluded = life.conclude(worker(by), attempt, outcome, *now, &TERMS);
            is_granted = concluded == Concluded::Continued;
        }
        Act::Confirm => drop(life.confirm(None)),
        Act::Discard => drop(life.discard(None)),
        Act::Stop => drop(life.stop("ann")),
        Act::Hold => {
            let had_one = matches!(life.assignment(), Assignment::Granted(_));
            let is_held = life.hold("bob has locked the stack");
            assert!(!(had_one && is_held), "a lock took a stage from its owner");
            assert!(!is_held || *life.assignment() == Assignment::Idle);
        }
        Act::Pass(ms) => *now = now.plus_ms(ms),
    }
    (is_granted, is_void)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_runs_rules_hold(
        autodeploy in any::<bool>(),
        acts in prop::collection::vec(act(), 0..80),
    ) {
        let mut life = tracked(autodeploy);
        let mut now = Timestamp(1_000);
        let mut holds_write = false;
        for act in acts {
            let before = life.clone();
            let (is_granted, is_void) = happen(&mut life, act, &mut now);
            prop_assert!(!(is_granted && holds_write), "a write stage was granted twice");
            holds_write = (holds_write && !is_void) || is_granted;
            prop_assert!(life.epoch() >= before.epoch());
            let is_new_offer = matches!(life.assignment(), Assignment::Offered { .. })
                && *life.assignment() != *before.assignment();
            prop_assert!(!is_new_offer || life.epoch() > before.epoch(), "an epoch was offered twice");
            prop_assert!(!before.state().is_terminal() || life == before, "something followed the end");
            let waits_for_nobody = life.state().is_terminal()
                || matches!(life.state(), RunState::Queued | RunState::Unconfirmed);
            prop_assert_eq!(waits_for_nobody, *life.assignment() == Assignment::Idle);
            let is_ready = matches!(life.state(), RunState::Ready | RunState::Confirmed);
            prop_assert_eq!(is_ready, *life.assignment() == Assignment::Waiting);
            let is_held = life.assignment().worker().is_some();
            prop_assert_eq!(is_held, life.due().is_some());
            prop_assert!(life.read_attempts() <= TERMS.read_attempts);
            prop_assert!(!life.is_unknown() || life.state() == RunState::Failed);
        }
    }
}

#[test]
fn what_does_not_fit_the_state_is_refused_in_words() {
    let mut life = tracked(false);
    let said = |error: Result<(), gantry_model::InvalidTransition>| error.unwrap_err().to_string();
    assert_eq!(
        said(life.confirm(None)),
        "cannot confirm a run that is QUEUED: wait until it is UNCONFIRMED"
    );
    assert_eq!(life.stop("ann"), Ok(Stopping::Over));
    assert_eq!(
        said(life.discard(None)),
        "cannot discard a run that is CANCELED: it is over; trigger or retry it to run it again"
    );
}

#[test]
fn after_a_restart_a_write_stages_deadline_stays() {
    let mut life = RunLifecycle::queued(tracked(false).run(), RunType::Task, false);
    life.ready().unwrap();
    let attempt = life.offer(worker(1), Timestamp(0), &TERMS).unwrap();
    life.claim(worker(1), journal(1), attempt, Timestamp(0), &TERMS);
    life.refresh(Timestamp(3_000), &TERMS);
    assert_eq!(life.due(), Some(Timestamp(4_000)));
    assert_eq!(life.expire(Timestamp(3_999), &TERMS), Expired::NotDue);
    // Over while nobody could be heard: its owner still gets the time to say so.
    life.refresh(Timestamp(9_000), &TERMS);
    assert_eq!(life.expire(Timestamp(9_119), &TERMS), Expired::NotDue);
    assert_eq!(life.expire(Timestamp(9_120), &TERMS), Expired::Unknown(worker(1)));
}

#[test]
fn a_lock_holds_what_no_worker_has_yet() {
    let mut life = tracked(true);
    life.ready().unwrap();
    let offered = life.offer(worker(1), Timestamp(0), &TERMS).unwrap();
    assert!(life.hold("bob has locked the stack"));
    assert_eq!((life.state(), life.note()), (RunState::Queued, Some("bob has locked the stack")));
    let claimed = life.claim(worker(1), journal(1), offered, Timestamp(0), &TERMS);
    assert_eq!(claimed, Claimed::Absorbed);
    life.ready().unwrap();
    let attempt = life.offer(worker(1), Timestamp(0), &TERMS).unwrap();
    life.claim(worker(1), journal(1), attempt, Timestamp(0), &TERMS);
    assert!(!life.hold("bob has locked the stack"), "a worker has it");
    let outcome = Outcome::Succeeded { has_changes: true, continues: false };
    life.conclude(worker(1), attempt, outcome, Timestamp(0), &TERMS);
    assert_eq!(life.state(), RunState::Confirmed);
    assert!(life.hold("bob has locked the stack"));
    assert_eq!((life.state(), life.stage()), (RunState::Unconfirmed, Stage::Read));
    life.confirm(None).unwrap();
    assert_eq!((life.state(), life.stage()), (RunState::Confirmed, Stage::Write));
}
