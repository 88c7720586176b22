//! Applies that are interrupted, and launchers that leave in the middle of one.

use std::time::Duration;

use gantry_e2e::{Container, SLOW_APPLY, Stand, containers, find, mask, stage_log};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const PASSWORD: &str = "correct-horse-battery-staple";

/// One interrupt: Terraform leaves with its state written, and nothing of it is lost.
#[test]
fn stopped_in_the_apply() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let stack = stand
        .stack("stopped")
        .file("main.tf", SLOW_APPLY)
        .secret("PASSWORD", PASSWORD)
        .captured()
        .create();
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    stand.cli.confirm(&run);
    stand.awaits("applying", LIMIT);
    let _ = stand.cli.ask(&["run", "stop", &run, "--note", "enough"]);
    let view = stand.cli.over(&run, LIMIT);
    assert_eq!(view.state(), "STOPPED", "{:?}", view.note());
    stand.nothing_left(&launcher);
    let log = stand.cli.log(&run);
    let words = String::from_utf8_lossy(&log);
    assert_eq!(stand.count("applies"), 1);
    assert_eq!(stand.count("interrupts"), 1, "{words}");
    assert!(words.contains("Interrupt received"), "{words}");
    assert!(!words.contains("Two interrupts received"), "{words}");
    let phases = ["init", "plan", "apply"]
        .map(|phase| mask(&stand.wrote(&format!("{phase}-{run}")), PASSWORD.as_bytes()));
    let own = stage_log(&log, &phases);
    assert!(own.last().is_some_and(|line| line.starts_with("stopped: ")), "{own:?}");

    let key = stand.pool.key.to_str().expect("paths of tests are UTF-8");
    let state: Value =
        serde_json::from_slice(&stand.cli.done(&["state", "pull", &stack.id, "--key", key]).stdout)
            .expect("a state is JSON");
    let names: Vec<_> = state["resources"]
        .as_array()
        .expect("it has resources")
        .iter()
        .map(|resource| &resource["name"])
        .collect();
    assert!(names.iter().any(|name| *name == "first"), "{names:?}");
    assert!(names.iter().all(|name| *name != "third"), "{names:?}");
}

/// SIGUSR2 in the middle of an apply: the launcher leaves, the apply goes on, the next launcher finishes it.
#[test]
fn older_launcher_hands_over() {
    let stand = Stand::new();
    let mut launcher = stand.launcher("launcher").start();
    let stack = stand
        .stack("handed-over")
        .file("main.tf", SLOW_APPLY)
        .secret("PASSWORD", PASSWORD)
        .captured()
        .hook("before-apply", "seq 1 5000 | sed \"s/77/$PASSWORD/\"")
        .hook("after-apply", "seq 1 5000 | sed \"s/77/$PASSWORD/\"")
        .create();
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    stand.cli.confirm(&run);
    stand.awaits("applying", LIMIT);
    let mut before = containers(&stand.pool.id);
    // That of the plan may be on its way out.
    before.retain(Container::is_running);
    launcher.signal(rustix::process::Signal::USR2);
    assert_eq!(launcher.left(Duration::from_secs(30)).code, Some(0));
    let mut between = containers(&stand.pool.id);
    between.retain(Container::is_running);
    assert_eq!(between.len(), 1, "the container stays");
    assert!(between[0].is_running(), "the apply goes on");
    assert_eq!(between[0].id, before[0].id);
    assert_eq!(stand.cli.show(&run).state(), "APPLYING");

    launcher.start_again();
    launcher.registered();
    stand.give("go");
    stand.cli.reaches(&run, "FINISHED", LIMIT);
    assert_eq!(stand.count("applies"), 1);
    let phases = ["init", "plan", "apply"]
        .map(|phase| mask(&stand.wrote(&format!("{phase}-{run}")), PASSWORD.as_bytes()));
    let own = stage_log(&stand.cli.log(&run), &phases);
    assert!(find(&phases[2], b"let go").is_some());
    assert!(own.iter().all(|line| !line.contains("unknown")), "{own:?}");
    stand.nothing_left(&launcher);
}
