//! The engine does as it is told; the launcher does not, or what it keeps on this host.

use gantry_launcher::engine::Engine as _;
use gantry_launcher::stage::{DriveOutcome, StageError, StageRequest};
use gantry_model::Stage::{Read, Write};
use gantry_protocol::message::{StageOutcome, Step};
use gantry_spool::Outcome;
use insta::assert_snapshot;

use super::MADE_ONCE;
use super::play::{Play, in_time};
use super::worker::Worker;

/// Nobody acknowledges, and no url is left: a launcher that is told to hand over leaves all the same.
#[tokio::test]
async fn a_hand_over_waits_for_nobody() {
    let mut play = Play::new(Write, Worker::quick());
    play.acknowledges(false);
    play.drive();
    in_time(play.reaches(Step::ResultSent)).await;
    play.request(StageRequest::HandOver);
    assert_eq!(in_time(play.driven()).await.unwrap(), DriveOutcome::HandedOver);

    let mut play = Play::new(Write, Worker::quick());
    play.has_no_urls();
    play.drive();
    in_time(play.reaches(Step::Started)).await;
    play.request(StageRequest::HandOver);
    assert_eq!(in_time(play.driven()).await.unwrap(), DriveOutcome::HandedOver);
    assert_eq!(play.runs(), 1);
}

/// An engine that hung makes a container for a stage that is over: nobody waits for the next start to remove it.
#[tokio::test]
async fn what_an_engine_made_late_is_removed_and_nothing_else() {
    let mut play = Play::new(Write, Worker::quick());
    play.acknowledges(false);
    in_time(play.result()).await;
    let mut late = play.engine.spec(&play.name()).expect("its end is not acknowledged");
    // Of its directories nothing is left then.
    late.mounts.clear();
    let other =
        gantry_launcher::engine::Spec { name: "of-another-stage".to_owned(), ..late.clone() };
    play.engine.create(&other).await.unwrap();
    let mut reaping = play.reaps();
    play.a_reaping_later().await;
    while play.engine.spec(&other.name).is_some() {
        tokio::task::yield_now().await;
    }
    // While a stage is in hand, its container is nobody else's.
    assert!(play.engine.spec(&late.name).is_some());
    play.acknowledges(true);
    in_time(play.complete()).await;
    play.engine.create(&late).await.unwrap();
    assert_ne!(play.left(), Vec::<String>::new());
    play.a_reaping_later().await;
    while !play.left().is_empty() {
        tokio::task::yield_now().await;
    }
    reaping.shutdown().await;
}

/// Whoever is root in its container can write there. The stage ends all the same, and nobody claims to
/// know how.
#[tokio::test]
async fn a_damaged_spool_ends_its_stage() {
    for (kind, is_unknown) in [(Write, true), (Read, false)] {
        let mut play = Play::new(kind, Worker::begins());
        play.drive();
        in_time(play.reaches(Step::Started)).await;
        play.spoil_spool();
        let outcome = in_time(play.complete()).await;
        match (&outcome, is_unknown) {
            (StageOutcome::Unknown { reason }, true)
            | (StageOutcome::Failed { reason, .. }, false) => {
                assert!(reason.contains("cannot be read to its end"), "{reason}");
            }
            _ => panic!("{outcome:?}"),
        }
        assert_eq!(play.interrupts(), 1);
        assert_eq!(play.left(), Vec::<String>::new());
        assert_eq!(play.history().first(), MADE_ONCE.first());
    }
}

/// A disk that fails, or a launcher that came back without its groups. Nobody waits for that without end.
#[tokio::test]
async fn a_stage_whose_spool_cannot_be_read_hears_a_stop() {
    for (kind, is_unknown) in [(Write, true), (Read, false)] {
        let mut play = Play::new(kind, Worker::begins());
        play.drive();
        in_time(play.reaches(Step::Started)).await;
        play.kill();
        play.hide_spool();
        play.stop("stopped by somebody");
        let outcome = in_time(play.complete()).await;
        match (&outcome, is_unknown) {
            (StageOutcome::Unknown { reason }, true)
            | (StageOutcome::Failed { reason, .. }, false) => {
                assert!(reason.contains("cannot open \".\" in the spool"), "{reason}");
            }
            _ => panic!("{outcome:?}"),
        }
        assert_eq!(play.interrupts(), 1);
        assert_eq!(play.left(), Vec::<String>::new());
    }
}

/// Whether it began cannot be seen: then it is not started.
#[tokio::test]
async fn a_stage_that_may_have_begun_is_not_started() {
    let mut play = Play::new(Write, Worker::begins());
    play.spoil_spool_directory();
    play.drive();
    in_time(play.says("nobody can see whether the stage began")).await;
    play.stop("stopped by somebody");
    let outcome = in_time(play.complete()).await;
    assert!(matches!(outcome, StageOutcome::Unknown { .. }), "{outcome:?}");
    assert_eq!(play.runs(), 0);
    assert_eq!(play.left(), Vec::<String>::new());
}

/// What is there again is read on.
#[tokio::test]
async fn a_spool_that_can_be_read_again_is_read_on() {
    let worker = Worker::begins();
    let mut play = Play::new(Write, worker.clone());
    play.drive();
    in_time(play.reaches(Step::Started)).await;
    play.kill();
    play.hide_spool();
    worker.end(Outcome::Succeeded);
    play.engine.exit(&play.name(), 0);
    play.drive();
    in_time(play.says("the spool cannot be read now")).await;
    play.show_spool();
    let outcome = in_time(play.complete()).await;
    assert!(matches!(outcome, StageOutcome::Succeeded { .. }), "{outcome:?}");
}

/// Nor can what is written there without end fill the journal.
#[tokio::test]
async fn a_phase_is_reported_once_however_often_its_container_says_it() {
    let worker = Worker::begins();
    let mut play = Play::new(Write, worker.clone());
    play.drive();
    in_time(play.reaches(Step::Started)).await;
    worker.begins_again(500);
    worker.end(Outcome::Succeeded);
    play.engine.exit(&play.name(), 0);
    let outcome = in_time(play.complete()).await;
    assert!(matches!(outcome, StageOutcome::Succeeded { .. }), "{outcome:?}");
    assert_eq!(play.phase_reports(), 2);
}

/// The pool's key was changed and the former one was not given: the container goes on, and so does its
/// stage once the key is there.
#[tokio::test]
async fn a_spec_that_cannot_be_opened_ends_no_container_that_runs() {
    let worker = Worker::begins();
    let mut play = Play::new(Write, worker.clone());
    play.drive();
    in_time(play.reaches(Step::Started)).await;
    play.kill();
    let sealed = play.swap_spec(b"something else".to_vec());
    play.drive();
    let refused = in_time(play.driven()).await.unwrap_err();
    assert!(matches!(refused, StageError::Unopened { .. }), "{refused}");
    assert_eq!(worker.interrupts(), 0);
    play.swap_spec(sealed);
    worker.end(Outcome::Succeeded);
    play.engine.exit(&play.name(), 0);
    let outcome = in_time(play.complete()).await;
    assert!(matches!(outcome, StageOutcome::Succeeded { .. }), "{outcome:?}");
    assert_eq!(play.runs(), 1);
    assert_eq!(play.left(), Vec::<String>::new());
}

/// How it ended was known before: the key is no reason to forget it.
#[tokio::test]
async fn an_ending_that_is_known_is_reported_without_the_spec() {
    let mut play = Play::new(Write, Worker::quick());
    play.has_succeeded();
    play.swap_spec(b"something else".to_vec());
    let outcome = in_time(play.complete()).await;
    assert!(matches!(outcome, StageOutcome::Succeeded { .. }), "{outcome:?}");
}

/// There is no place for a state that a read stage leaves, whoever wrote it: it is not waited for, and the
/// run's log says once what became of it.
#[tokio::test]
async fn a_state_that_a_read_stage_leaves_is_dropped_with_a_word() {
    let worker = Worker::begins();
    let mut play = Play::with_state(Read, worker.clone());
    play.drive();
    in_time(play.reaches(Step::Started)).await;
    worker.leaves_state();
    worker.leaves_state();
    worker.end(Outcome::Succeeded);
    play.engine.exit(&play.name(), 0);
    let outcome = in_time(play.complete()).await;
    assert!(matches!(outcome, StageOutcome::Succeeded { .. }), "{outcome:?}");
    assert_snapshot!(play.log(), @"
    Apply: applying
    Conclude: errored.tfstate (41 bytes), which this stage left, is dropped: a read stage may not change the stack's state, which stays as it was; commands that change it belong in a task
    ");
    assert_eq!(play.left(), Vec::<String>::new());
}
