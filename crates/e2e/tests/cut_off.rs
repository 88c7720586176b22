//! Outages while a run is on.

use std::time::{Duration, Instant};

use gantry_e2e::{Proxy, Stand, Transport, find, mask, stage_log, until};

const LIMIT: Duration = Duration::from_secs(120);
const PASSWORD: &str = "correct-horse-battery-staple";
const SOURCE: &str = r#"
variable "password" {
  type      = string
  sensitive = true
}
resource "terraform_data" "kept" { input = var.password }
resource "terraform_data" "counted" {
  depends_on = [terraform_data.kept]
  provisioner "local-exec" {
    command = "echo apply >> /count/applies; touch /count/applying; while [ ! -e /count/go ]; do sleep 0.1; done; seq 1 20000"
  }
}
"#;

/// A server that is away for the whole apply gets everything of it when it is back.
#[test]
fn cut_off_server_away_for_an_apply() {
    server_away_for_an_apply(Stand::new());
}

#[test]
fn cut_off_server_that_is_polled_away_for_an_apply() {
    server_away_for_an_apply(Stand::over(Transport::Poll));
}

fn server_away_for_an_apply(mut stand: Stand) {
    let launcher = stand.launcher("launcher").start();
    let stack = stand
        .stack("away")
        .file("main.tf", SOURCE)
        .secret("TF_VAR_password", PASSWORD)
        .captured()
        .hook("before-apply", "touch /count/began; while [ ! -e /count/away ]; do sleep 0.1; done")
        .hook("after-apply", "echo \"shown: $TF_VAR_password\"")
        // Run behind everything else of the stage.
        .argument("--after-run", "touch /count/over")
        .create();
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    stand.cli.confirm(&run);
    stand.awaits("began", LIMIT);
    let _ = stand.server.stop();
    stand.give("away");
    stand.give("go");
    stand.awaits("over", LIMIT);
    stand.server.start_again();
    stand.cli.reaches(&run, "FINISHED", LIMIT);
    assert_eq!(stand.count("applies"), 1);
    let phases = ["init", "plan", "apply"]
        .map(|phase| mask(&stand.wrote(&format!("{phase}-{run}")), PASSWORD.as_bytes()));
    assert!(find(&phases[2], b"shown: *****").is_some());
    let own = stage_log(&stand.cli.log(&run), &phases);
    assert!(own.iter().all(|line| !line.contains("unknown")), "{own:?}");
    let key = stand.pool.key.to_str().expect("paths of tests are UTF-8");
    let state = stand.cli.done(&["state", "pull", &stack.id, "--key", key]).stdout;
    assert!(find(&state, b"counted").is_some(), "the last state is the one that is stored");
    stand.nothing_left(&launcher);
}

/// A launcher that is cut off in a plan loses the run to another one, and drops what it did when it is back.
#[test]
fn cut_off_launcher_in_a_plan() {
    launcher_in_a_plan(&Stand::new());
}

#[test]
fn cut_off_launcher_that_polls_in_a_plan() {
    launcher_in_a_plan(&Stand::over(Transport::Poll));
}

fn launcher_in_a_plan(stand: &Stand) {
    let wire = Proxy::to(&stand.reached_at());
    let mut lost = stand.launcher("lost").through(&stand.pool, &wire.address()).start();
    let stack = stand
        .stack("cut-off")
        .file("main.tf", SOURCE)
        .secret("TF_VAR_password", PASSWORD)
        .captured()
        .hook("before-plan", "echo plan >> /count/plans; touch /count/planning; while [ ! -e /count/go ]; do sleep 0.1; done")
        .create();
    let run = stand.cli.trigger(&stack.id);
    stand.awaits("planning", LIMIT);
    wire.cut();
    let cut = Instant::now();
    let other = stand.launcher("other").start();
    until("a second attempt", LIMIT, || (stand.count("plans") == 2).then_some(()));
    until("90 s to be over", LIMIT, || (cut.elapsed() >= Duration::from_secs(90)).then_some(()));
    wire.mend();
    lost.says("dropping a stage that is not ours any more", LIMIT);
    until("the first attempt to be dropped", LIMIT, || lost.runs().is_empty().then_some(()));
    stand.give("go");
    let view = stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    assert_eq!(view.attempts().len(), 2);
    stand.cli.confirm(&run);
    stand.cli.reaches(&run, "FINISHED", LIMIT);
    assert_eq!(stand.count("applies"), 1);
    stand.nothing_left(&lost);
    stand.nothing_left(&other);
}
