//! Runs that do not go to their end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use gantry_e2e::{Stand, find, mask, stage_log};

const LIMIT: Duration = Duration::from_secs(90);
const PASSWORD: &str = "correct-horse-battery-staple";
const COUNTED: &str = r#"
resource "terraform_data" "counted" {
  provisioner "local-exec" { command = "echo apply >> /count/applies" }
}
"#;

/// The host's policy has the last word: nothing of the run starts, and its log says why.
#[test]
fn denied() {
    let stand = Stand::new();
    let policy = stand.dir().join("policy.rego");
    let rule = r#"
package spacelift
deny contains sprintf("no %s on this host", [command]) if {
    some command in input.run.runtime_config.before_init
    contains(command, "forbidden")
}
"#;
    fs::write(&policy, rule).expect("it can be written");
    let policy = policy.to_str().expect("paths of tests are UTF-8");
    let launcher = stand
        .launcher("launcher")
        .env("SPACELIFT_LAUNCHER_RUN_INITIALIZATION_POLICY", policy)
        .start();
    let stack = stand
        .stack("denied")
        .file("main.tf", COUNTED)
        .secret("PASSWORD", PASSWORD)
        .hook("before-init", &format!("touch /count/began # forbidden {PASSWORD}"))
        .create();
    let run = stand.cli.trigger(&stack.id);
    let view = stand.cli.over(&run, LIMIT);
    assert_eq!(view.state(), "FAILED");
    let log = stand.cli.log(&run);
    let denial = "no touch /count/began # forbidden ***** on this host";
    assert!(find(&log, denial.as_bytes()).is_some(), "{}", String::from_utf8_lossy(&log));
    assert!(find(&log, PASSWORD.as_bytes()).is_none(), "the denial shows the secret");
    assert!(!stand.shared().join("began").exists(), "a hook of a denied run was run");
    stand.nothing_left(&launcher);

    let allowed = stand.stack("allowed").file("main.tf", COUNTED).create();
    let run = stand.cli.trigger(&allowed.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    stand.nothing_left(&launcher);
}

/// A plan that fails ends the run; its exit code and its whole log are shown.
#[test]
fn failing_plan() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let stack = stand
        .stack("failing")
        .file("main.tf", "resource \"terraform_data\" \"wrong\" {\n  input = var.missing\n}\n")
        .secret("PASSWORD", PASSWORD)
        .captured()
        .hook("before-plan", "echo \"about to fail with $PASSWORD\"")
        .create();
    let run = stand.cli.trigger(&stack.id);
    let view = stand.cli.over(&run, LIMIT);
    assert_eq!(view.state(), "FAILED");
    assert!(!view.states().contains(&"UNCONFIRMED"), "{:?}", view.states());
    let phases = ["init", "plan"]
        .map(|phase| mask(&stand.wrote(&format!("{phase}-{run}")), PASSWORD.as_bytes()));
    assert!(find(&phases[1], b"about to fail with *****").is_some());
    let own = stage_log(&stand.cli.log(&run), &phases);
    let last = own.last().expect("the log says how it ended");
    assert_eq!(last, "plan failed: the tool ended with exit code 1", "{own:?}");
    assert_eq!(view.note(), last);
    stand.nothing_left(&launcher);
}

/// A plan that a person turns down is not applied, and the stack goes on with its next run.
#[test]
fn discarded() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let stack = stand.stack("discarded").file("main.tf", COUNTED).create();
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    let waiting = stand.cli.trigger(&stack.id);
    assert_eq!(stand.cli.show(&waiting).state(), "QUEUED");
    let _ = stand.cli.ask(&["run", "discard", &run]);
    assert_eq!(stand.cli.show(&run).state(), "DISCARDED");
    assert_ne!(
        stand.cli.run(&["run", "confirm", &run]).code,
        Some(0),
        "a discarded run was confirmed"
    );
    stand.cli.reaches(&waiting, "UNCONFIRMED", LIMIT);
    stand.cli.confirm(&waiting);
    stand.cli.reaches(&waiting, "FINISHED", LIMIT);
    assert_eq!(stand.count("applies"), 1);
    stand.nothing_left(&launcher);
}

/// Terraform leaves its state in a file when it cannot hand it over. One that is too large to be taken has
/// no other copy: it stays, nobody can say how the run ended, and the next one does not begin.
#[test]
fn a_state_that_cannot_be_kept_stays_on_its_host() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let leave =
        "dd if=/dev/zero of=errored.tfstate bs=1 count=1 seek=1100000000 2>/dev/null; exit 1";
    let stack = stand
        .stack("left")
        .file("main.tf", "resource \"terraform_data\" \"a\" {}\n")
        .flag("--autodeploy")
        .hook("after-apply", leave)
        .create();
    let run = stand.cli.trigger(&stack.id);
    let view = stand.cli.over(&run, LIMIT);
    assert_eq!(view.state(), "FAILED", "{}", view.note());
    let (_, rest) = view.note().split_once("below ").expect("the note names a directory");
    let (kept, _) = rest.split_once(": look for").expect("and says what to look for");
    let left = Path::new(kept).join("workspace/source/errored.tfstate");
    stand.nothing_left(&launcher);
    assert_eq!(fs::metadata(left).expect("it is there").len(), 1_100_000_001);
    let log = stand.cli.log(&run);
    assert!(find(&log, kept.as_bytes()).is_some(), "the log does not say where it is");
    let stacks = stand.cli.ask(&["stack", "list"]);
    assert!(stacks[0]["locked_by"].is_string(), "{stacks}");
}
