//! The run initialization policy in the way of a stage.

use gantry_launcher::engine::fake::{Answer, Call, Fault};
use gantry_model::Stage::{Read, Write};
use gantry_protocol::message::{StageOutcome, Step};

use crate::play::{IMAGE_ID, Play, in_time, reason};
use crate::worker::Worker;

/// Denies everything, and shows in its denials every command of its input.
const SHOWS: &str = r#"package spacelift
deny contains sprintf("%s %s from %s: %s", [c.stage, c.at, c.from, c.command]) if some c in input.gantry.commands
deny contains sprintf("in %s", [input.gantry.image.id])
deny contains sprintf("%s from %s", [name, variable.from]) if some name, variable in input.gantry.environment
"#;
const ALLOWS: &str = "package spacelift\ndeny := set()";
const DENIES: &str = "package spacelift\ndeny contains \"not today\"";

#[tokio::test]
async fn a_policy_sees_every_command_before_the_first_one_runs() {
    let mut play = Play::new(Read, Worker::quick());
    play.has_policy(SHOWS).await;
    assert_eq!(in_time(play.complete()).await, StageOutcome::Denied);
    assert_eq!((play.runs(), play.history()), (0, Vec::new()));
    let log = play.log();
    for line in [
        "  - READ init from launcher: terraform init",
        "  - READ after_run from stack: echo over",
        "  - WRITE before_apply from stack: echo later",
        "  - WRITE apply from launcher: terraform apply",
        "  - in sha256:1\n",
        "  - PATH from launcher\n",
        "  - TF_VAR_spacelift_run_id from launcher\n",
    ] {
        assert!(log.contains(line), "{line:?} is not in:\n{log}");
    }
}

#[tokio::test]
async fn the_container_is_made_from_the_image_that_was_allowed() {
    let mut play = Play::new(Write, Worker::quick());
    play.has_policy(ALLOWS).await;
    // The launcher dies with the permission in its journal, and the container's making lost.
    play.engine.fail(Call::Create, Fault { happens: false, answer: Answer::Lost });
    play.drive();
    in_time(play.reaches(Step::Creating)).await;
    play.kill();
    assert_eq!(play.entry().and_then(|entry| entry.allowed).unwrap().image, IMAGE_ID);
    in_time(play.engine.asked(Call::Create, 1)).await;
    play.drive();
    in_time(play.reaches(Step::Started)).await;
    assert_eq!(play.engine.spec(&play.name()).unwrap().image, IMAGE_ID);
    assert!(matches!(in_time(play.complete()).await, StageOutcome::Succeeded { .. }));
}

/// What was allowed is what runs, also when the launcher comes back and finds another spec.
#[tokio::test]
async fn a_spec_that_the_policy_has_not_seen_is_not_run() {
    let mut play = Play::new(Write, Worker::quick());
    play.has_policy(ALLOWS).await;
    play.engine.fail(Call::Create, Fault { happens: false, answer: Answer::Lost });
    play.drive();
    in_time(play.reaches(Step::WorkspaceReady)).await;
    play.kill();
    play.swap_spec(play.another_spec());
    let outcome = in_time(play.complete()).await;
    assert_eq!(reason(&outcome), "the stage's spec is not the one that was to be run");
    assert_eq!(play.runs(), 0);
}

#[tokio::test]
async fn a_launcher_that_was_killed_twice_while_it_asked_does_not_ask_again() {
    let mut play = Play::new(Read, Worker::quick());
    play.has_policy(ALLOWS).await;
    play.was_killed_asking(2);
    assert_eq!(in_time(play.complete()).await, StageOutcome::Denied);
    let why = "the policy could not be evaluated: the launcher was killed 2 times while it asked";
    assert!(play.log().contains(why), "{}", play.log());
    assert_eq!(play.runs(), 0);
}

#[tokio::test]
async fn once_is_not_twice_and_an_answer_forgets_it() {
    let mut play = Play::new(Read, Worker::quick());
    play.has_policy(DENIES).await;
    play.was_killed_asking(1);
    assert_eq!(in_time(play.complete()).await, StageOutcome::Denied);
    assert!(play.log().contains("  - not today\n"), "{}", play.log());
}

/// What a policy dies of, the stage is denied for, and the launcher goes on.
#[tokio::test]
async fn a_policy_that_dies_denies() {
    let mut play = Play::new(Read, Worker::quick());
    let endless =
        "package spacelift\ndeny contains \"x\" if count(numbers.range(1, 1000000000)) > 1";
    play.has_policy(endless).await;
    assert_eq!(in_time(play.complete()).await, StageOutcome::Denied);
    let why =
        "the policy could not be evaluated: its evaluation needed more than 512 MiB of memory";
    assert!(play.log().contains(why), "{}", play.log());
}
