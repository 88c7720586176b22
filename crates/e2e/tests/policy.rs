//! The run initialization policy of a host sees all that is going to run, and can harm nobody but the run.

use std::fs;
use std::time::Duration;

use gantry_e2e::{Launcher, Moment, Stand};

const LIMIT: Duration = Duration::from_secs(90);
const SOURCE: &str = r#"resource "terraform_data" "one" { input = "one" }"#;
const PASSWORD: &str = "correct-horse-battery-staple";

/// What it does depends on the stack: it shows what it sees, ends its stack, or does not end.
fn policy() -> String {
    let (open, close) = ("abs(".repeat(40), ")".repeat(40));
    let deep: Vec<String> =
        (0..800).map(|n| format!("f{n}(x) := {open}f{}(x){close}\n", n + 1)).collect();
    let deep = deep.concat();
    format!(
        r#"package spacelift
is(name) if input.stack.name == name
deny contains sprintf("%s %s: %s", [c.stage, c.at, c.command]) if {{ is("shown"); some c in input.gantry.commands }}
deny contains sprintf("%s is from %s", [name, v.from]) if {{ is("shown"); some name, v in input.gantry.environment }}
deny contains sprintf("source %s", [input.gantry.source.sha256]) if is("shown")
deny contains sprintf("mounted at %s", [mount.container]) if {{ is("shown"); some mount in input.gantry.mounts }}
deny contains "no image id" if not startswith(input.gantry.image.id, "sha256:")
deny contains "too deep" if {{ is("deep"); f0(1) > 1 }}
deny contains "too long" if {{ is("long"); some a in n; some b in n; some c in n; a * b * c == 1.5 }}
n := numbers.range(1, 3000)
f800(x) := x
{deep}"#
    )
}

fn says(stand: &Stand, run: &str, what: &str) {
    let log = String::from_utf8_lossy(&stand.cli.log(run)).into_owned();
    assert!(log.contains(what), "{what:?} is not in:\n{log}");
}

#[test]
fn policy_sees_everything_and_harms_nobody() {
    let stand = Stand::new();
    let path = stand.dir().join("policy.rego");
    fs::write(&path, policy()).expect("it can be written");
    let path = path.to_str().expect("paths of tests are UTF-8");
    let mut launcher = stand
        .launcher("launcher")
        .env("SPACELIFT_LAUNCHER_RUN_INITIALIZATION_POLICY", path)
        .start();
    sees_everything(&stand, &launcher);

    // A stack overflow is the evaluation's own affair.
    let pid = launcher.pid();
    let deep = stand.stack("deep").file("main.tf", SOURCE).create();
    let run = stand.cli.trigger(&deep.id);
    assert_eq!(stand.cli.over(&run, LIMIT).state(), "FAILED");
    says(&stand, &run, "the policy could not be evaluated: its evaluation overflowed its stack");
    assert_eq!(launcher.pid(), pid);

    killed_while_it_asks(&stand, &mut launcher);

    let fine = stand.stack("fine").file("main.tf", SOURCE).create();
    let run = stand.cli.trigger(&fine.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    stand.cli.confirm(&run);
    stand.cli.reaches(&run, "FINISHED", LIMIT);
    stand.nothing_left(&launcher);
}

fn sees_everything(stand: &Stand, launcher: &Launcher) {
    let mut shown = stand.stack("shown").file("main.tf", SOURCE).secret("PASSWORD", PASSWORD);
    shown = shown.env("ro_PLAIN", "yes").env("wo_LATER", "yes");
    let hooks = [
        "before-init",
        "after-init",
        "before-plan",
        "after-plan",
        "before-apply",
        "after-apply",
        "after-run",
    ];
    for hook in hooks {
        shown = shown.hook(hook, &format!("touch /count/{hook}"));
    }
    let run = stand.cli.trigger(&shown.create().id);
    assert_eq!(stand.cli.over(&run, LIMIT).state(), "FAILED");
    for hook in hooks {
        let stage = if hook.ends_with("apply") { "WRITE" } else { "READ" };
        let at = hook.replace('-', "_");
        says(stand, &run, &format!("{stage} {at}: touch /count/{hook}\n"));
        assert!(!stand.shared().join(hook).exists(), "{hook} was run");
    }
    for line in [
        "READ init: terraform init",
        "READ plan: terraform plan",
        "WRITE apply: terraform apply",
        "PLAIN is from stack\n",
        "PASSWORD is from secret\n",
        "TF_IN_AUTOMATION is from launcher\n",
        "mounted at /count\n",
        "source ",
    ] {
        says(stand, &run, line);
    }
    let log = String::from_utf8_lossy(&stand.cli.log(&run)).into_owned();
    assert!(!log.contains("LATER") && !log.contains("no image id"), "{log}");
    stand.nothing_left(launcher);
}

/// Twice is enough: the third launcher denies.
fn killed_while_it_asks(stand: &Stand, launcher: &mut Launcher) {
    let long = stand.stack("long").file("main.tf", SOURCE).create();
    let mut journal = launcher.journal();
    let run = stand.cli.trigger(&long.id);
    let asking = Moment { stage: "read", what: "policy_begun" };
    for _ in 0..2 {
        journal.wait(asking, LIMIT);
        launcher.kill();
        journal = launcher.journal();
        launcher.start_again();
    }
    assert_eq!(stand.cli.over(&run, LIMIT).state(), "FAILED");
    says(stand, &run, "the launcher was killed 2 times while it asked");
    launcher.registered();
}
