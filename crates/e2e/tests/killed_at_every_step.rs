//! SIGKILL at every step of the journal, in both stages of a run.
//!
//! Whoever is killed is started again at once. Then the run must end as if nothing had been: one apply, counted
//! outside of the container; the log exactly what the phases wrote; one line of state versions; nothing left.

use std::thread;
use std::time::{Duration, Instant};

use gantry_e2e::{Launcher, Moment, Stand, Tail, Transport, mask, stage_log};
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(120);
const PASSWORD: &str = "correct-horse-battery-staple";

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Launcher,
    Server,
    Both,
}

/// When: at a record of the journal, or when a phase has made a file.
const STEPS: [&str; 11] = [
    "granted",
    "creating",
    "created",
    "starting",
    "started",
    "planning",
    "applying",
    "state",
    "log_complete",
    "sealed",
    "result_sent",
];
/// How long after it: the effect of the step has not begun, is on, or is over.
const DELAYS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(4), Duration::from_millis(40)];

#[test]
fn killed_at_every_step_launcher() {
    at_every_step(Victim::Launcher, Stand::new());
}

#[test]
fn killed_at_every_step_launcher_by_poll() {
    at_every_step(Victim::Launcher, Stand::over(Transport::Poll));
}

#[test]
fn killed_at_every_step_server() {
    at_every_step(Victim::Server, Stand::new());
}

#[test]
fn killed_at_every_step_server_by_poll() {
    at_every_step(Victim::Server, Stand::over(Transport::Poll));
}

#[test]
fn killed_at_every_step_both() {
    at_every_step(Victim::Both, Stand::new());
}

#[test]
fn killed_at_every_step_both_by_poll() {
    at_every_step(Victim::Both, Stand::over(Transport::Poll));
}

fn at_every_step(victim: Victim, mut stand: Stand) {
    let mut launcher = stand.launcher("launcher").start();
    for (index, step) in STEPS.into_iter().enumerate() {
        let delay = DELAYS[(index + victim as usize) % DELAYS.len()];
        eprintln!("-- {victim:?} at {step} and {delay:?}");
        if victim == Victim::Server {
            // A broker that breaks off every few seconds is tried again more and more seldom.
            assert_eq!(launcher.stop().code, Some(0));
            launcher.start_again();
            launcher.registered();
        }
        let begin = Instant::now();
        survives(&mut stand, &mut launcher, victim, step, delay);
        eprintln!("   {:?}", begin.elapsed());
    }
}

fn survives(
    stand: &mut Stand,
    launcher: &mut Launcher,
    victim: Victim,
    step: &'static str,
    delay: Duration,
) {
    let name = format!("killed-{}", step.replace('_', "-"));
    let noise = |phase: &str| {
        format!(
            r#"seq 1 3000 | sed "s/77/$TF_VAR_password/"; touch /count/{name}-{phase}; seq 1 20000 | sed "s/77/$TF_VAR_password/""#
        )
    };
    let source = format!(
        r#"
variable "password" {{
  type      = string
  sensitive = true
}}
resource "terraform_data" "kept" {{ input = var.password }}
resource "terraform_data" "counted" {{
  depends_on = [terraform_data.kept]
  provisioner "local-exec" {{
    command = "echo apply >> /count/{name}-applies; touch /count/{name}-applying; seq 1 2000; sleep 0.5; echo applied"
  }}
}}
"#
    );
    let stack = stand
        .stack(&name)
        .file("main.tf", &source)
        .secret("TF_VAR_password", PASSWORD)
        .captured()
        .hook("before-plan", &noise("planning"))
        .hook("after-apply", &noise("applied"))
        .create();

    let mut journal = launcher.journal();
    let run = stand.cli.trigger(&stack.id);
    if !["applying", "state"].contains(&step) {
        strike(stand, launcher, &mut journal, victim, "read", step, &name, delay);
    }
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    let mut journal = launcher.journal();
    stand.cli.confirm(&run);
    if step != "planning" {
        strike(stand, launcher, &mut journal, victim, "write", step, &name, delay);
    }
    let view = stand.cli.over(&run, LIMIT);
    let applies = stand.count(&format!("{name}-applies"));
    if view.state() == "FAILED" && view.note().contains("unknown") {
        assert!(applies <= 1, "{step}: {applies} applies");
        panic!("{step}: no container was lost, so the outcome must be known: {:?}", view.note());
    }
    assert_eq!(
        view.state(),
        "FINISHED",
        "{step}: {:?}\n{}",
        view.note(),
        String::from_utf8_lossy(&stand.cli.log(&run))
    );
    assert_eq!(applies, 1, "{step}");
    let phases = ["init", "plan", "apply"]
        .map(|phase| mask(&stand.wrote(&format!("{phase}-{run}")), PASSWORD.as_bytes()));
    let own = stage_log(&stand.cli.log(&run), &phases);
    let is_own = |line: &String| {
        line.starts_with("unpacking the source ") || line == "opening the workspace of the plan"
    };
    assert!(own.iter().all(is_own), "{step}: {own:?}");
    stand.nothing_left(launcher);
    one_line_of_states(stand, &stack.id, step);
}

#[expect(clippy::too_many_arguments, reason = "a blow has a who, a whom, a where and a when")]
fn strike(
    stand: &mut Stand,
    launcher: &mut Launcher,
    journal: &mut Tail,
    victim: Victim,
    stage: &'static str,
    step: &'static str,
    name: &str,
    delay: Duration,
) {
    let pids = match victim {
        Victim::Launcher => vec![launcher.pid()],
        Victim::Server => vec![stand.server.pid()],
        Victim::Both => vec![launcher.pid(), stand.server.pid()],
    };
    match step {
        "planning" | "applying" => stand.awaits(&format!("{name}-{step}"), LIMIT),
        what => journal.wait(Moment { stage, what }, LIMIT),
    }
    thread::sleep(delay);
    for pid in pids {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process has an id");
        kill_process(pid, Signal::KILL).expect("it runs");
    }
    if victim != Victim::Launcher {
        stand.server.kill();
        stand.server.start_again();
    }
    if victim != Victim::Server {
        launcher.kill();
        launcher.start_again();
    }
}

/// No version was lost, doubled or put aside.
fn one_line_of_states(stand: &Stand, stack: &str, step: &str) {
    let versions = stand.cli.ask(&["state", "list", stack]);
    let versions = versions.as_array().expect("a list");
    let serials: Vec<_> =
        versions.iter().map(|version| version["serial"].as_u64().expect("a serial")).collect();
    assert!(!serials.is_empty(), "{step}: no state");
    assert!(serials.windows(2).all(|pair| pair[0] == pair[1] + 1), "{step}: serials {serials:?}");
    assert!(versions.iter().all(|version| version["orphaned"].is_null()), "{step}: {versions:?}");
    assert_eq!(versions.iter().filter(|version| version["current"] == true).count(), 1, "{step}");
}
