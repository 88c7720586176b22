//! No wait of a stage is without an end: whoever does not answer, a stop, a time limit and a hand-over are
//! heard. What a write stage has produced is waited for all the same.

use gantry_launcher::engine::fake::Call;
use gantry_launcher::stage::{DriveOutcome, StageRequest};
use gantry_model::Stage::{Read, Write};
use gantry_protocol::message::{StageOutcome, Step};
use gantry_spool::Outcome;

use super::play::{Play, in_time, reason};
use super::worker::Worker;
use super::{LOST, MADE_ONCE, NO, is_success};

/// The calls before the first phase at which the engine can be away.
const BEFORE: [Call; 4] = [Call::State, Call::Image, Call::Create, Call::Start];

/// The engine stays away from this call on.
async fn away_at(play: &mut Play, call: Call) {
    play.engine.fail(call, LOST);
    play.drive();
    in_time(play.engine.asked(call, 1)).await;
    play.engine.cut();
}

#[tokio::test]
async fn a_stop_ends_a_stage_that_waits_for_an_engine_that_is_away() {
    let writes = BEFORE.map(|call| (Write, call));
    for (kind, call) in writes.into_iter().chain([(Read, Call::Start)]) {
        let mut play = Play::new(kind, Worker::quick());
        away_at(&mut play, call).await;
        play.stop("enough");
        let outcome = in_time(play.result()).await;
        let enough = StageOutcome::Stopped { reason: "enough".to_owned() };
        assert_eq!(outcome, enough, "{kind:?} {call:?}");
        // Whatever was asked of it may still happen: nothing begins any more.
        play.engine.mend();
        let _ = play.start_late();
        in_time(play.complete()).await;
        assert_eq!(play.runs(), 0, "{kind:?} {call:?}");
        assert_eq!(play.left(), Vec::<String>::new(), "{kind:?} {call:?}");
    }
}

#[tokio::test]
async fn the_time_limit_ends_a_stage_that_waits_for_an_engine_that_is_away() {
    let mut play = Play::new(Write, Worker::quick());
    away_at(&mut play, Call::Create).await;
    // The next launcher is told how long the stage may take yet.
    play.kill();
    play.is_late();
    let outcome = in_time(play.result()).await;
    assert!(matches!(outcome, StageOutcome::Stopped { .. }), "{outcome:?}");
    let why = reason(&outcome);
    assert!(why.starts_with("the run exceeded its time limit of "), "{why}");
    assert!(why.ends_with(" (SPACELIFT_LAUNCHER_RUN_TIMEOUT) while it waited for Fake"), "{why}");
    play.engine.mend();
    in_time(play.complete()).await;
    assert_eq!(play.runs(), 0);
}

/// Not even the log can say so then: the result does.
#[tokio::test]
async fn a_stop_ends_a_stage_that_waits_for_the_object_store() {
    let mut play = Play::pulling(Write, Worker::quick());
    play.has_no_urls();
    play.drive();
    in_time(play.engine.asked(Call::Image, 1)).await;
    play.stop("enough");
    let outcome = in_time(play.complete()).await;
    assert_eq!(outcome, StageOutcome::Stopped { reason: "enough".to_owned() });
    assert_eq!(play.left(), Vec::<String>::new());
}

/// What a read stage still has to say is no reason to keep a worker; what a write stage has is.
#[tokio::test]
async fn only_a_write_stage_that_has_begun_waits_for_the_object_store_whatever_is_asked() {
    for kind in [Read, Write] {
        let worker = Worker::begins();
        let mut play = Play::new(kind, worker.clone());
        play.has_no_urls();
        play.drive();
        in_time(play.engine.asked(Call::Ended, 1)).await;
        worker.end(Outcome::Succeeded);
        play.engine.exit(&play.name(), 0);
        play.stop("enough");
        if kind == Write {
            in_time(play.complains("waiting for the object store")).await;
            assert!(play.reported().is_none());
            play.has_urls();
            assert!(is_success(&in_time(play.complete()).await));
            assert_eq!(play.history(), MADE_ONCE);
        } else {
            let outcome = in_time(play.complete()).await;
            assert_eq!(outcome, StageOutcome::Stopped { reason: "enough".to_owned() });
        }
        assert_eq!(play.complaints.present(), None);
        assert_eq!(play.left(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_hand_over_ends_every_wait_also_that_of_what_is_dropped() {
    for request in [StageRequest::GoOn, StageRequest::Stop, StageRequest::Drop] {
        let mut play = Play::new(Read, Worker::quick());
        away_at(&mut play, Call::Create).await;
        play.request(request);
        in_time(play.engine.missed()).await;
        play.request(StageRequest::HandOver);
        assert_eq!(in_time(play.driven()).await.unwrap(), DriveOutcome::HandedOver, "{request:?}");
    }
}

#[tokio::test]
async fn what_is_waited_for_stands_in_the_log_and_is_a_complaint() {
    let mut play = Play::new(Write, Worker::quick());
    away_at(&mut play, Call::Create).await;
    in_time(play.complains("waiting for Fake")).await;
    in_time(play.logs("waiting for Fake")).await;
    play.engine.mend();
    assert!(is_success(&in_time(play.complete()).await));
    insta::assert_snapshot!(play.log(), @"
    Prepare: waiting for Fake: Fake does not answer at fake:///: nobody listens there (create the container)
    Apply: applying
    ");
    assert_eq!(play.complaints.present(), None);
}

/// Another worker may be able to: nothing of it was done.
#[tokio::test]
async fn a_read_stage_that_this_host_cannot_run_is_given_back() {
    for call in [Call::Create, Call::Start] {
        let mut play = Play::new(Read, Worker::quick());
        play.engine.fail(call, NO);
        let outcome = in_time(play.complete()).await;
        assert!(matches!(outcome, StageOutcome::GivenBack { .. }), "{outcome:?}");
        assert!(play.log().contains("this worker gives the stage back"), "{}", play.log());
        assert_eq!(play.runs(), 0);
    }
    let mut play = Play::new(Read, Worker::slow());
    play.drive();
    in_time(play.reaches(Step::Started)).await;
    play.engine.exit(&play.name(), 1);
    let outcome = in_time(play.complete()).await;
    assert!(matches!(outcome, StageOutcome::GivenBack { .. }), "{outcome:?}");
}

/// What is the run's fault is so on every worker.
#[tokio::test]
async fn an_image_that_is_nowhere_fails_the_run() {
    let mut play = Play::pulling(Read, Worker::quick());
    play.engine.fail(Call::Pull, NO);
    let outcome = in_time(play.complete()).await;
    assert!(matches!(outcome, StageOutcome::Failed { .. }), "{outcome:?}");
    assert_eq!(play.complaints.present(), None);
}

/// A phase that begins shows that this host can run stages.
#[tokio::test]
async fn three_stages_in_a_row_that_this_host_cannot_run_are_a_complaint() {
    let mut play = Play::new(Write, Worker::quick());
    play.engine.fail(Call::Create, NO);
    play.complaints.failed("before");
    play.complaints.failed("before");
    in_time(play.complete()).await;
    assert!(play.complaints.present().is_some_and(|it| it.contains("something broke")));
    let mut next = Play::new(Write, Worker::quick());
    next.complaints = play.complaints.clone();
    assert!(is_success(&in_time(next.complete()).await));
    assert_eq!(next.complaints.present(), None);
}
