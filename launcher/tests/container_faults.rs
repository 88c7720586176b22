//! What a stage does when its container engine fails it: the engine answers wrongly, late or not at all,
//! its socket is away, a container vanishes. Whatever it is, phases run once or not at all, nothing is
//! left, and run and log say what happened.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "container_faults/launcher.rs"]
mod launcher;
#[path = "container_faults/play.rs"]
mod play;
#[path = "container_faults/policy.rs"]
mod policy;
#[path = "container_faults/room.rs"]
mod room;
#[path = "container_faults/store.rs"]
mod store;
#[path = "container_faults/waits.rs"]
mod waits;
#[path = "container_faults/worker.rs"]
mod worker;

use gantry_launcher::engine::Signal;
use gantry_launcher::engine::fake::{Answer, Call, Fault, Happened};
use gantry_model::Stage::{Read, Write};
use gantry_protocol::message::{StageOutcome, Step};
use gantry_spool::{Outcome, StopReason};
use insta::assert_snapshot;

use play::{IMAGE, Play, in_time};
use worker::Worker;

const MADE_ONCE: [Happened; 3] = [Happened::Made, Happened::Started, Happened::Removed];
const NO: Fault = Fault { happens: false, answer: Answer::No };
const NO_BUT_DONE: Fault = Fault { happens: true, answer: Answer::No };
const LOST: Fault = Fault { happens: false, answer: Answer::Lost };
const ANSWER_LOST: Fault = Fault { happens: true, answer: Answer::Lost };
const LATE: Fault = Fault { happens: false, answer: Answer::Late };
const ANSWER_LATE: Fault = Fault { happens: true, answer: Answer::Late };
/// What passes, whether the engine did what was asked or not.
const PASSING: [Fault; 4] = [LOST, ANSWER_LOST, LATE, ANSWER_LATE];

fn is_success(outcome: &StageOutcome) -> bool {
    matches!(outcome, StageOutcome::Succeeded { .. })
}

/// Drives a write stage whose phases go well by themselves through one fault.
async fn through(call: Call, fault: Fault) -> (Play, StageOutcome) {
    let mut play = Play::new(Write, Worker::quick());
    play.engine.fail(call, fault);
    let outcome = in_time(play.complete()).await;
    assert!(play.runs() <= 1, "{call:?} {fault:?}: {} runs", play.runs());
    assert_eq!(play.left(), Vec::<String>::new(), "{call:?} {fault:?}");
    (play, outcome)
}

/// The first time of each call: the barrier, the image, the container's making, its start, its end, its removal.
#[tokio::test]
async fn an_answer_that_does_not_come_is_waited_for_and_nothing_is_done_twice() {
    for call in [Call::State, Call::Image, Call::Create, Call::Start, Call::Ended, Call::Remove] {
        for fault in PASSING {
            let (play, outcome) = through(call, fault).await;
            assert!(is_success(&outcome), "{call:?} {fault:?}: {outcome:?}");
            assert_eq!(play.runs(), 1, "{call:?} {fault:?}");
            assert_eq!(play.history(), MADE_ONCE, "{call:?} {fault:?}");
        }
    }
}

#[tokio::test]
async fn an_outage_is_said_once_and_its_end_too() {
    let mut play = Play::new(Write, Worker::quick());
    for _ in 0..3 {
        play.engine.fail(Call::Create, LOST);
    }
    in_time(play.complete()).await;
    assert_snapshot!(play.words("engine"), @"
    WARN waiting for the container engine error=Fake does not answer at fake:///: nobody listens there (create the container)
    INFO the container engine answers again
    ");
}

/// What the order says of the image is asked for between creating and starting.
#[tokio::test]
async fn what_is_asked_of_the_image_for_the_order_is_waited_for() {
    for fault in PASSING {
        let mut play = Play::new(Write, Worker::quick());
        play.engine.fail_later(Call::Image, 1, fault);
        let outcome = in_time(play.complete()).await;
        assert!(is_success(&outcome), "{fault:?}: {outcome:?}");
        assert_eq!(play.history(), MADE_ONCE, "{fault:?}");
    }
}

#[tokio::test]
async fn a_container_that_was_made_though_its_making_was_refused_is_used() {
    let (play, outcome) = through(Call::Create, NO_BUT_DONE).await;
    assert!(is_success(&outcome), "{outcome:?}");
    assert_eq!(play.history(), MADE_ONCE);
    assert_snapshot!(play.words("refused"), @"WARN making the container was refused, and it is there attempt=run 00000000030000000000000001, write stage, epoch 1 error=Fake cannot create the container: something broke");
}

#[tokio::test]
async fn a_container_that_runs_though_its_start_was_refused_is_followed() {
    let (play, outcome) = through(Call::Start, NO_BUT_DONE).await;
    assert!(is_success(&outcome), "{outcome:?}");
    assert_eq!(play.history(), MADE_ONCE);
    assert_snapshot!(play.words("refused"), @"WARN starting the container was refused, and it was started attempt=run 00000000030000000000000001, write stage, epoch 1 error=Fake cannot start the container: something broke");
}

/// The mark comes late: nothing but the engine knows that the container runs.
#[tokio::test]
async fn a_container_that_runs_and_has_not_begun_though_its_start_was_refused_is_followed() {
    let worker = Worker::slow();
    let mut play = Play::new(Write, worker.clone());
    play.engine.fail(Call::Start, NO_BUT_DONE);
    play.drive();
    in_time(play.reaches(Step::Started)).await;
    worker.begin();
    worker.end(Outcome::Succeeded);
    play.engine.exit(&play.name(), 0);
    let outcome = in_time(play.complete()).await;
    assert!(is_success(&outcome), "{outcome:?}");
    assert_eq!(play.runs(), 1);
    assert_eq!(play.history(), MADE_ONCE);
}

#[tokio::test]
async fn what_the_engine_refuses_ends_the_run_with_its_words() {
    let (play, outcome) = through(Call::Create, NO).await;
    assert_snapshot!(play::reason(&outcome), @"Fake cannot create the container: something broke");
    assert_eq!(play.history(), []);
    let (play, outcome) = through(Call::Start, NO).await;
    assert_snapshot!(play::reason(&outcome), @"Fake cannot start the container: something broke");
    assert_eq!(play.history(), [Happened::Made, Happened::Removed]);
    assert_eq!(play.runs(), 0);
    assert_snapshot!(play.log(), @"Prepare: Fake cannot start the container: something broke");
}

/// Nothing is known of the container then, so nothing is decided.
#[tokio::test]
async fn an_engine_that_refuses_to_look_is_asked_again() {
    for call in [Call::State, Call::Ended, Call::Remove] {
        for fault in [NO, NO_BUT_DONE] {
            let (play, outcome) = through(call, fault).await;
            assert!(is_success(&outcome), "{call:?} {fault:?}: {outcome:?}");
            assert_eq!(play.history(), MADE_ONCE, "{call:?} {fault:?}");
        }
    }
}

#[tokio::test]
async fn a_socket_that_is_away_is_waited_for_at_every_call() {
    for call in [Call::State, Call::Image, Call::Create, Call::Start, Call::Ended, Call::Remove] {
        let mut play = Play::new(Write, Worker::quick());
        play.cut_at(call);
        let outcome = in_time(play.complete()).await;
        assert!(is_success(&outcome), "{call:?}: {outcome:?}");
        assert_eq!(play.runs(), 1, "{call:?}");
        assert_eq!(play.history(), MADE_ONCE, "{call:?}");
        assert_eq!(play.left(), Vec::<String>::new(), "{call:?}");
    }
}

/// It runs, writes and ends while nobody can ask for it: the spool says it all.
#[tokio::test]
async fn a_container_that_ends_while_the_socket_is_away_is_followed_complete() {
    let worker = Worker::begins();
    let mut play = Play::new(Write, worker.clone());
    play.drive();
    in_time(play.engine.asked(Call::Ended, 1)).await;
    play.engine.cut();
    worker.end(Outcome::Succeeded);
    play.engine.exit(&play.name(), 0);
    let outcome = in_time(play.result()).await;
    assert!(is_success(&outcome), "{outcome:?}");
    in_time(play.engine.asked(Call::Remove, 2)).await;
    play.engine.mend();
    in_time(play.complete()).await;
    assert_eq!(play.history(), MADE_ONCE);
    assert_eq!(play.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_stop_that_meets_no_socket_comes_when_it_is_back() {
    let worker = Worker::begins();
    let mut play = Play::new(Write, worker.clone());
    play.drive();
    in_time(play.engine.asked(Call::Ended, 1)).await;
    play.engine.cut();
    play.stop("enough");
    in_time(play.engine.asked(Call::Signal, 2)).await;
    play.engine.mend();
    let outcome = in_time(play.complete()).await;
    assert_eq!(outcome, StageOutcome::Stopped { reason: "enough".to_owned() });
    assert_eq!(worker.interrupts(), 1);
}

/// A process that is the container's first takes no signal before it says that it does.
#[tokio::test]
async fn a_stop_that_comes_before_the_worker_binary_hears_is_said_again() {
    let worker = Worker::begins();
    worker.is_deaf(true);
    let mut play = Play::new(Write, worker.clone());
    play.drive();
    in_time(play.engine.asked(Call::Ended, 1)).await;
    play.stop("enough");
    in_time(play.engine.asked(Call::Signal, 1)).await;
    worker.is_deaf(false);
    let outcome = in_time(play.complete()).await;
    assert_eq!(outcome, StageOutcome::Stopped { reason: "enough".to_owned() });
    assert_eq!(worker.interrupts(), 1);
    assert!(!play.history().contains(&Happened::Signalled(Signal::Kill)));
}

#[tokio::test]
async fn a_write_stage_whose_container_vanished_is_unknown_and_never_made_again() {
    let worker = Worker::begins();
    let mut play = Play::new(Write, worker.clone());
    play.drive();
    in_time(play.engine.asked(Call::Ended, 1)).await;
    play.engine.vanish(&play.name());
    let outcome = in_time(play.complete()).await;
    assert!(matches!(outcome, StageOutcome::Unknown { .. }), "{outcome:?}");
    assert_snapshot!(play::reason(&outcome), @"the container ended without a result (it is gone): it was removed; look at what it may have changed before the next run");
    assert_snapshot!(play.log(), @"
    Apply: applying
    Conclude: outcome unknown: the container ended without a result (it is gone): it was removed; look at what it may have changed before the next run
    ");
    assert_eq!(play.history(), [Happened::Made, Happened::Started]);
    assert_eq!(play.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_read_stage_whose_container_vanished_has_failed() {
    let mut play = Play::new(Read, Worker::begins());
    play.drive();
    in_time(play.engine.asked(Call::Ended, 1)).await;
    play.engine.vanish(&play.name());
    let outcome = in_time(play.complete()).await;
    assert!(matches!(outcome, StageOutcome::Failed { .. }), "{outcome:?}");
    assert_snapshot!(play::reason(&outcome), @"the container ended without a result (it is gone): it was removed");
}

#[tokio::test]
async fn a_container_that_vanished_before_it_began_changed_nothing() {
    let mut play = Play::new(Write, Worker::slow());
    play.drive();
    in_time(play.engine.asked(Call::Ended, 1)).await;
    play.engine.vanish(&play.name());
    let outcome = in_time(play.complete()).await;
    assert!(matches!(outcome, StageOutcome::Failed { .. }), "{outcome:?}");
    assert_snapshot!(play::reason(&outcome), @"the container did not begin (it is gone): look at Fake's log");
    assert_eq!(play.runs(), 0);
}

/// A Docker that stops signals its containers: nobody asked for it, so the run has failed.
#[tokio::test]
async fn a_stop_that_nobody_asked_for_is_a_failure_that_names_docker() {
    let worker = Worker::begins();
    let mut play = Play::new(Write, worker.clone());
    play.drive();
    in_time(play.engine.asked(Call::Ended, 1)).await;
    play.engine.cut();
    worker.end(Outcome::Stopped { phase: None, reason: StopReason::Asked });
    play.engine.exit(&play.name(), 0);
    let outcome = in_time(play.result()).await;
    play.engine.mend();
    in_time(play.complete()).await;
    assert!(matches!(outcome, StageOutcome::Failed { .. }), "{outcome:?}");
    assert_snapshot!(play::reason(&outcome), @"Fake stopped, or somebody signalled the container: the tool was interrupted once");
}

/// The start is lost, and the launcher with it; the engine starts the container all the same.
#[tokio::test]
async fn a_start_that_comes_late_is_followed_by_the_next_launcher() {
    let mut play = Play::new(Write, Worker::quick());
    play.is_never_started();
    play.drive();
    in_time(play.engine.asked(Call::Start, 1)).await;
    play.kill();
    play.start_late().unwrap();
    let outcome = in_time(play.complete()).await;
    assert!(is_success(&outcome), "{outcome:?}");
    assert_eq!(play.history(), MADE_ONCE);
}

/// "Stopped before the first phase" is said only when no start can come any more.
#[tokio::test]
async fn what_is_stopped_before_it_began_can_never_begin() {
    let mut play = Play::new(Write, Worker::quick());
    play.is_never_started();
    play.acknowledges(false);
    play.drive();
    in_time(play.engine.asked(Call::Start, 1)).await;
    play.kill();
    play.stop("enough");
    let outcome = in_time(play.result()).await;
    assert_eq!(outcome, StageOutcome::Stopped { reason: "enough".to_owned() });
    assert!(play.start_late().is_err(), "it could still be started");
    play.acknowledges(true);
    in_time(play.complete()).await;
    assert_eq!(play.runs(), 0);
    assert_eq!(play.history(), [Happened::Made, Happened::Removed]);
}

#[tokio::test]
async fn what_could_not_be_started_can_never_begin() {
    let mut play = Play::new(Write, Worker::quick());
    play.engine.fail(Call::Start, NO);
    play.acknowledges(false);
    play.drive();
    let outcome = in_time(play.result()).await;
    assert!(matches!(outcome, StageOutcome::Failed { .. }), "{outcome:?}");
    assert!(play.start_late().is_err(), "it could still be started");
    play.acknowledges(true);
    in_time(play.complete()).await;
    assert_eq!(play.runs(), 0);
}

/// A pull that an outage of Docker cut is begun again; one that brings nothing for long is not.
#[tokio::test]
async fn a_pull_that_broke_off_is_begun_again() {
    for fault in [LOST, ANSWER_LOST] {
        let mut play = Play::pulling(Write, Worker::quick());
        play.engine.fail(Call::Pull, fault);
        let outcome = in_time(play.complete()).await;
        assert!(is_success(&outcome), "{fault:?}: {outcome:?}");
        assert_eq!(play.history(), MADE_ONCE);
    }
    let mut play = Play::pulling(Write, Worker::quick());
    play.engine.fail(Call::Pull, LATE);
    let outcome = in_time(play.complete()).await;
    assert_snapshot!(play::reason(&outcome).replace(IMAGE, "<image>"), @"the image <image> is not on this host and cannot be pulled: Fake at fake:/// did not pull the image within 0 s: look at its log");
}
