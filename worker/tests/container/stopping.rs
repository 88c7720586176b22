//! One interrupt, the whole grace, then the end.

use gantry_model::Phase;
use gantry_spool::{Event, Outcome, StopReason};

use crate::harness::{Run, order, orders};

/// A tool that counts interrupts and takes its time to leave.
const TOOL: &str = r#"
    trap 'n=$((n+1)); echo "interrupt $n"' INT
    echo ready
    while [ -z "$n" ]; do sleep 0.1; done
    for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done
    echo "left after $n"
    exit 5
"#;

fn stopped(phase: Phase, reason: StopReason) -> Outcome {
    Outcome::Stopped { phase: Some(phase), reason }
}

fn endings(run: &Run) -> Vec<(Option<i32>, Option<i32>)> {
    let ending = |event| match event {
        Event::PhaseEnded { code, signal, .. } => Some((code, signal)),
        _ => None,
    };
    run.events().into_iter().filter_map(ending).collect()
}

#[test]
fn a_tool_is_interrupted_once_however_often_one_asks() {
    let mut order = orders(&[(Phase::Apply, "sh tool"), (Phase::Perform, "echo never")]);
    order.phases[0].after = vec!["echo never".into()];
    order.after_run = vec!["echo \"final $TF_VAR_spacelift_final_run_state\"".into()];
    let mut run = Run::lay_out(&order);
    run.write_source("tool", TOOL);
    run.again();
    run.until_said("ready");
    run.signal("TERM");
    run.until_said("interrupt 1");
    run.signal("TERM");
    run.signal("INT");
    assert_eq!(run.outcome(), stopped(Phase::Apply, StopReason::Asked));
    assert_eq!(run.log(), "ready\ninterrupt 1\nleft after 1\nfinal STOPPED\n");
    assert_eq!(endings(&run), [(Some(5), None)]);
    let stops = run.events().into_iter().filter(|event| matches!(event, Event::Stopping { .. }));
    assert_eq!(stops.count(), 1);
}

#[test]
fn a_tool_whose_shell_died_of_the_interrupt_is_waited_for() {
    let mut run = Run::lay_out(&order("trap - INT; sh tool; echo never"));
    run.write_source("tool", TOOL);
    run.again();
    run.until_said("ready");
    run.signal("INT");
    assert_eq!(run.outcome(), stopped(Phase::Perform, StopReason::Asked));
    assert_eq!(run.log(), "ready\ninterrupt 1\nleft after 1\n");
}

#[test]
fn what_does_not_leave_within_the_grace_is_killed() {
    let mut order = order("trap '' INT; (setsid sleep 1000 &); echo ready; sleep 1001; sleep 1002");
    order.grace_ms = 300;
    let mut run = Run::start(&order);
    run.until_said("ready");
    run.signal("TERM");
    assert_eq!(run.outcome(), stopped(Phase::Perform, StopReason::Asked));
    assert_eq!(endings(&run), [(None, Some(9))]);
}

#[test]
fn a_run_that_takes_too_long_is_stopped_from_within() {
    let mut order = orders(&[(Phase::Plan, "sleep 1000"), (Phase::Apply, "echo never")]);
    order.run_timeout_ms = 500;
    let mut run = Run::start(&order);
    assert_eq!(run.outcome(), stopped(Phase::Plan, StopReason::RunTimeout));
    assert_eq!(endings(&run), [(Some(130), None)]);
    let reason = StopReason::RunTimeout;
    assert!(run.events().contains(&Event::Stopping { reason }));
    assert_eq!(run.log(), "");
}

#[test]
fn after_run_hooks_end_with_their_grace() {
    let mut order = order("true");
    order.grace_ms = 300;
    order.after_run = vec!["echo begun; sleep 1000".into()];
    let mut run = Run::start(&order);
    assert_eq!(run.outcome(), Outcome::Succeeded);
    assert_eq!(run.log(), "begun\n");
    let text =
        "the after_run hooks ended with signal 9, because they took longer than the grace of 300ms"
            .to_owned();
    assert!(run.events().contains(&Event::Note { text }));
}
