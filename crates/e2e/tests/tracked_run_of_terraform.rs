//! The way of one run, end to end.

use std::path::Path;
use std::time::Duration;

use gantry_e2e::{Stand, Transport, mask, stage_log};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);
const PASSWORD: &str = "correct-horse-battery-staple";

/// The example of the demo: its states, two containers, its log, its outputs; and a second run that finds the
/// first one's state and nothing to change.
#[test]
fn tracked_run_of_terraform() {
    is_tracked(&Stand::new(), "Docker");
}

/// The same in another engine.
#[test]
fn tracked_run_of_terraform_on_podman() {
    is_tracked(&Stand::on_podman(), "Podman");
}

/// The same by long polls.
#[test]
fn tracked_run_of_terraform_by_poll() {
    is_tracked(&Stand::over(Transport::Poll), "Docker");
}

fn is_tracked(stand: &Stand, engine: &str) {
    let mut launcher = stand.launcher("launcher").start();
    let starting = launcher.says("starting", LIMIT);
    assert!(starting["engine"].as_str().is_some_and(|it| it.starts_with(engine)), "{starting}");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/terraform-stack");
    let stack = stand
        .stack("example")
        .source(&example)
        .secret("TF_VAR_db_password", PASSWORD)
        .captured()
        // Whole, at the ends of lines, and in pieces that come apart in time.
        .hook("before-plan", r#"echo "the password is $TF_VAR_db_password""#)
        .hook("before-plan", r#"printf '%s' "${TF_VAR_db_password%battery*}"; sleep 0.3; printf '%s\n' "battery${TF_VAR_db_password#*battery}""#)
        .hook("before-plan", r#"seq 1 2000 | sed "s/7/$TF_VAR_db_password/""#)
        .hook("before-apply", r#"seq 1 2000; echo "and $TF_VAR_db_password""#)
        // So that the apply can be looked at while it runs.
        .hook("before-apply", "touch /count/applying; while [ ! -e /count/go ]; do sleep 0.1; done")
        .create();

    let run = stand.cli.trigger(&stack.id);
    let planned = stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    assert_eq!(planned.delta(), [5, 0, 0]);
    stand.nothing_left(&launcher);
    stand.cli.confirm(&run);
    stand.awaits("applying", LIMIT);
    stand.cli.reaches(&run, "APPLYING", LIMIT);
    let applying = stand.containers();
    assert_eq!(applying.len(), 1, "the apply has one container");
    assert_eq!(
        (applying[0].label("gantry.run"), applying[0].label("gantry.stage")),
        (run.as_str(), "write")
    );
    stand.give("go");
    let view = stand.cli.reaches(&run, "FINISHED", LIMIT);

    let expected = [
        "QUEUED",
        "READY",
        "PREPARING",
        "INITIALIZING",
        "PLANNING",
        "UNCONFIRMED",
        "CONFIRMED",
        "PREPARING_APPLY",
        "APPLYING",
        "FINISHED",
    ];
    assert_eq!(view.states(), expected);
    assert_eq!(view.attempts().len(), 2);
    assert_eq!(view.output("machines"), &json!(["machine-0", "machine-1", "machine-2"]));
    assert_eq!(view.output("database_url"), "postgres://orders.eu-central.example.com/orders");
    log_is_exact(stand, &run, &["init", "plan", "apply"]);
    stand.nothing_left(&launcher);

    let again = stand.cli.trigger(&stack.id);
    let view = stand.cli.reaches(&again, "FINISHED", LIMIT);
    assert_eq!(view.delta(), [0, 0, 0]);
    assert!(!view.states().contains(&"UNCONFIRMED"), "{:?}", view.states());
    log_is_exact(stand, &again, &["init", "plan"]);
    stand.nothing_left(&launcher);
}

fn log_is_exact(stand: &Stand, run: &str, phases: &[&str]) {
    let written = phases.iter().map(|phase| stand.wrote(&format!("{phase}-{run}")));
    let masked: Vec<_> = written.map(|text| mask(&text, PASSWORD.as_bytes())).collect();
    let own = stage_log(&stand.cli.log(run), &masked);
    let is_own = |line: &String| {
        line.starts_with("unpacking the source ") || line == "opening the workspace of the plan"
    };
    assert!(own.iter().all(is_own), "{own:?}");
}
