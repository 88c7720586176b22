//! Containers that are lost: what nobody can know is said, and nothing is started twice.

use std::time::Duration;

use gantry_e2e::{Container, Stand, containers};

const LIMIT: Duration = Duration::from_secs(90);
/// Says that it has begun, and goes on until it is let go.
const SLOW: &str = r#"
resource "terraform_data" "slow" {
  provisioner "local-exec" {
    command = <<-EOT
      echo apply >> /count/applies
      touch /count/applying
      while [ ! -e /count/go ]; do sleep 0.1; done
    EOT
  }
}
"#;

fn kill_container(stand: &Stand) {
    let mut running = containers(&stand.pool.id);
    running.retain(Container::is_running);
    assert_eq!(running.len(), 1);
    running[0].kill();
}

/// The outcome is unknown, the stack is locked, and the apply is not begun again.
fn is_unknown(stand: &Stand, stack: &str, run: &str) {
    let view = stand.cli.over(run, LIMIT);
    assert_eq!(view.state(), "FAILED");
    assert!(view.note().contains("unknown"), "{}", view.note());
    let next = stand.cli.trigger(stack);
    assert_eq!(stand.cli.show(&next).state(), "QUEUED", "the stack waits for a person");
    assert_eq!(stand.count("applies"), 1);
}

#[test]
fn a_container_lost_in_the_apply_is_an_unknown_outcome() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let stack = stand.stack("lost").file("main.tf", SLOW).create();
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    stand.cli.confirm(&run);
    stand.awaits("applying", LIMIT);
    kill_container(&stand);
    is_unknown(&stand, &stack.id, &run);
    stand.nothing_left(&launcher);
}

/// Launcher and container are gone at once, as when the host loses its power; then the launcher is back.
#[test]
fn a_host_lost_in_the_apply_is_an_unknown_outcome() {
    let stand = Stand::new();
    let mut launcher = stand.launcher("launcher").start();
    let stack = stand.stack("powerless").file("main.tf", SLOW).create();
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    stand.cli.confirm(&run);
    stand.awaits("applying", LIMIT);
    launcher.kill();
    kill_container(&stand);
    launcher.start_again();
    launcher.registered();
    is_unknown(&stand, &stack.id, &run);
    stand.nothing_left(&launcher);
}

/// A read stage changes nothing, so its loss is no more than a failed run.
#[test]
fn a_container_lost_in_the_plan_fails_the_run_alone() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let stack = stand
        .stack("replaceable")
        .file("main.tf", SLOW)
        .hook("before-plan", "touch /count/planning; while [ ! -e /count/go ]; do sleep 0.1; done")
        .create();
    let run = stand.cli.trigger(&stack.id);
    stand.awaits("planning", LIMIT);
    kill_container(&stand);
    let view = stand.cli.over(&run, LIMIT);
    assert_eq!(view.state(), "FAILED");
    assert!(!view.note().contains("unknown"), "{}", view.note());
    stand.give("go");
    let next = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&next, "UNCONFIRMED", LIMIT);
    assert_eq!(stand.count("applies"), 0);
    stand.nothing_left(&launcher);
}
