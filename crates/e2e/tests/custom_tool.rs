//! Stacks whose phases are commands of their own: no Terraform, no state.

use std::fs;
use std::path::Path;
use std::time::Duration;

use gantry_e2e::{Stack, Stand, find};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);
const PASSWORD: &str = "correct-horse-battery-staple";

fn custom(stand: &Stand, name: &str, plan: &str, apply: &str) -> gantry_e2e::StackSetup {
    stand
        .stack(name)
        .argument("--tool", "custom")
        .argument("--plan-command", plan)
        .argument("--apply-command", apply)
}

/// The example: its counts, its confirmation, what the plan left for the apply, its outputs; and a second run
/// that finds nothing to do.
#[test]
fn a_stack_of_commands_is_planned_confirmed_and_applied() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/custom-stack");
    let stack = custom(&stand, "example", "./plan.sh", "./apply.sh")
        .source(&example)
        .env("TARGET", "/count/published")
        .argument("--init-command", "mkdir -p \"$TARGET\"")
        .secret("wo_PASSWORD", PASSWORD)
        .hook("before-init", "echo before-init >>/count/order")
        .hook("after-init", "ls -d \"$TARGET\" && echo after-init >>/count/order")
        .hook("before-plan", "echo \"before-plan ${PASSWORD-without}\" >>/count/order")
        .hook("after-plan", "cat \"$GANTRY_PLAN_FILE\" >>/count/order; echo again >>to-do")
        .hook("before-apply", "echo \"the password is $PASSWORD\"; export TARGET=/count/published")
        .hook("after-apply", "ls \"$TARGET\" >>/count/order")
        .hook("after-run", "echo \"$GANTRY_FINAL_RUN_STATE\" >>/count/order")
        .create();

    let run = stand.cli.trigger(&stack.id);
    let view = stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    assert_eq!(view.delta(), [2, 0, 0]);
    stand.nothing_left(&launcher);
    stand.cli.confirm(&run);
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
    assert_eq!((view.output("pages"), view.output("ticket")), (&json!(2), &json!(null)));
    assert_eq!(view.output("published_in"), "/count/published");
    let order = String::from_utf8(stand.wrote("order")).expect("it is text");
    assert_eq!(
        order.lines().collect::<Vec<_>>(),
        [
            "before-init",
            "after-init",
            "before-plan without",
            r#"{"add":2,"change":0,"delete":0}"#,
            "index.html",
            "prices.html",
            "FINISHED"
        ],
        "the plan has no credentials of the apply, and its file is there for hooks"
    );
    let log = stand.cli.log(&run);
    let text = String::from_utf8_lossy(&log);
    for line in ["+ index.html\n", "put prices.html\n", "again \n", "the password is *****\n"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let states = stand.cli.ask(&["state", "list", &stack.id]);
    assert_eq!(states, json!([]), "nobody keeps a state for it");

    let again = stand.cli.trigger(&stack.id);
    let view = stand.cli.reaches(&again, "FINISHED", LIMIT);
    assert_eq!(view.delta(), [0, 0, 0]);
    assert!(!view.states().contains(&"UNCONFIRMED"), "{:?}", view.states());
    stand.nothing_left(&launcher);
}

/// What a plan may say, and what each of it comes to.
#[test]
fn a_plan_says_by_file_or_code_whether_there_is_something_to_apply() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let set = |stack: &Stack, arguments: &[&str]| {
        let _ = stand.cli.done(&[&["stack", "set", &stack.id], arguments].concat());
    };
    let stack = custom(&stand, "sayings", "echo nothing said", "echo never >>/count/applied")
        .file("README.md", "What is deployed here.\n")
        .create();
    let ends = |arguments: &[&str], expected: &str| {
        if !arguments.is_empty() {
            set(&stack, arguments);
        }
        let run = stand.cli.trigger(&stack.id);
        let view = stand.cli.reaches(&run, expected, LIMIT);
        if expected == "UNCONFIRMED" {
            let _ = stand.cli.done(&["run", "discard", &run]);
        }
        (run, view)
    };
    ends(&[], "UNCONFIRMED");
    ends(&["--changes-exit-code", "3"], "FINISHED");
    ends(&["--plan-command", "echo three\nexit 3\n"], "UNCONFIRMED");
    ends(&["--plan-command", "echo '{\"has_changes\":true}' >$GANTRY_PLAN_FILE"], "UNCONFIRMED");

    let note = |command: &str| {
        let (_, view) = ends(&["--plan-command", command], "FAILED");
        view.note().to_owned()
    };
    let note_of = note("false\nexit 3\n");
    assert_eq!(note_of, "plan failed: the tool ended with exit code 1");
    let note_of = note("echo '{\"added\":1}' >$GANTRY_PLAN_FILE");
    assert!(
        note_of.starts_with("plan failed: what the plan comes to cannot be read: "),
        "{note_of}"
    );
    let note_of = note("no-such-program");
    assert!(note_of.contains("a program was not found (exit code 127)"), "{note_of}");
    assert!(!stand.shared().join("applied").exists(), "nothing was applied");
    stand.nothing_left(&launcher);
}

/// One signal of its own choice, and the time to do what it has to.
#[test]
fn a_command_that_is_stopped_gets_its_own_signal_once() {
    const WAITS: &str = "trap 'echo INT >>/count/signals' INT
trap 'echo TERM >>/count/signals; touch /count/asked' TERM
touch /count/waits
until [ -e /count/go ]; do sleep 0.1; done
echo done >>/count/signals
exit 7
";
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let stack = custom(&stand, "stopped", "echo yes", "sh waits.sh; echo never >>/count/signals")
        .file("waits.sh", WAITS)
        .argument("--interrupt", "SIGTERM")
        .flag("--autodeploy")
        .create();
    let run = stand.cli.trigger(&stack.id);
    stand.awaits("waits", LIMIT);
    let _ = stand.cli.done(&["run", "stop", &run]);
    stand.awaits("asked", LIMIT);
    let _ = stand.cli.run(&["run", "stop", &run]);
    stand.give("go");
    let view = stand.cli.over(&run, LIMIT);
    assert_eq!(view.state(), "STOPPED", "{}", view.note());
    let signals = fs::read_to_string(stand.shared().join("signals")).expect("it was asked");
    assert_eq!(signals, "TERM\ndone\n");
    assert!(find(&stand.cli.log(&run), b"never").is_none());
    stand.nothing_left(&launcher);
}
