//! A launcher that is neither root nor the user of the phases.

use std::fs;
use std::time::Duration;

use gantry_e2e::{Stand, containers};

const LIMIT: Duration = Duration::from_secs(90);
const ONE: &str = "resource \"terraform_data\" \"one\" {}\n";
/// What nobody but the user of the phases may enter.
const CLOSED: &str =
    "mkdir closed && echo kept > closed/file && chmod 600 closed/file && chmod 700 closed";

/// What phases leave is kept for the apply and removed after it, whoever may enter it.
#[test]
fn what_phases_leave_is_kept_and_removed_by_a_launcher_that_is_nobody_special() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").nobody_special().start();
    let stack = stand
        .stack("closed")
        .file("main.tf", ONE)
        .hook("after-plan", CLOSED)
        .hook("before-apply", "cp closed/file /count/kept")
        .create();
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    stand.nothing_left(&launcher);
    stand.cli.confirm(&run);
    assert_eq!(stand.cli.over(&run, LIMIT).state(), "FINISHED");
    assert_eq!(stand.wrote("kept"), b"kept\n");
    stand.nothing_left(&launcher);
}

/// A container that is killed gives nothing back. That costs the host a directory, not the pool a worker.
#[test]
fn what_a_killed_container_leaves_keeps_no_launcher_from_the_next_run() {
    let stand = Stand::new();
    let mut launcher = stand.launcher("launcher").nobody_special().start();
    let wait = "touch /count/planning; while [ ! -e /count/go ]; do sleep 0.1; done";
    let stack = stand
        .stack("killed")
        .file("main.tf", ONE)
        .hook("before-plan", &format!("{CLOSED}; {wait}"))
        .create();
    let run = stand.cli.trigger(&stack.id);
    stand.awaits("planning", LIMIT);
    let running = containers(&stand.pool.id);
    assert_eq!(running.len(), 1);
    running[0].kill();
    assert_eq!(stand.cli.over(&run, LIMIT).state(), "FAILED");
    stand.give("go");
    let next = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&next, "UNCONFIRMED", LIMIT);
    if rustix::process::geteuid().is_root() {
        let said = launcher.says("files of another user stay: remove them, or let the launcher be root or the user of the phases", LIMIT);
        let left = said["directory"].as_str().expect("the line names it");
        assert!(fs::metadata(left).expect("it is there").is_dir());
    }
}
