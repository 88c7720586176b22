//! Docker's faults: its socket gone, its answers lost or wrong, itself stopped or killed. Whatever it is, an apply
//! is begun once, counted outside of the container, and nothing is left.

use std::time::{Duration, Instant};

use gantry_e2e::{
    Asked, Launcher, Moment, OwnEngine, SLOW_APPLY, Socket, Spoilt, Stand, find, mask, stage_log,
    until,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
/// How long the socket is away.
const AWAY: Duration = Duration::from_secs(30);
const PASSWORD: &str = "correct-horse-battery-staple";

/// A launcher whose way to Docker is in the test's hand.
fn launcher(stand: &Stand) -> (Socket, Launcher) {
    let socket = Socket::to_docker(stand.dir());
    let launcher = stand.launcher("launcher").env("DOCKER_HOST", &socket.host()).start();
    (socket, launcher)
}

/// Runs a stack up to its confirmation, and confirms it.
fn confirmed(stand: &Stand, stack: &str) -> String {
    let run = stand.cli.trigger(stack);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    stand.cli.confirm(&run);
    run
}

fn away(socket: &Socket) {
    socket.cut();
    let cut = Instant::now();
    until("the socket to be away for long", LIMIT, || (cut.elapsed() >= AWAY).then_some(()));
    socket.mend();
}

/// It went well, once; its log is whole; nothing is left.
fn went_well(stand: &Stand, launcher: &Launcher, run: &str) {
    stand.cli.reaches(run, "FINISHED", LIMIT);
    assert_eq!(stand.count("applies"), 1);
    assert_eq!(stand.count("interrupts"), 0);
    let phases = ["init", "plan", "apply"]
        .map(|phase| mask(&stand.wrote(&format!("{phase}-{run}")), PASSWORD.as_bytes()));
    assert!(find(&phases[2], b"let go").is_some());
    let own = stage_log(&stand.cli.log(run), &phases);
    let is_own = |line: &String| {
        line.starts_with("unpacking the source ")
            || line == "opening the workspace of the plan"
            || line.starts_with("waiting for Docker: ")
    };
    assert!(own.iter().all(is_own), "{own:?}");
    stand.nothing_left(launcher);
}

/// The apply goes on and ends while nobody can ask for its container.
#[test]
fn docker_socket_gone_in_an_apply() {
    let stand = Stand::new();
    let (socket, launcher) = launcher(&stand);
    let stack = stand.stack("deaf").file("main.tf", SLOW_APPLY).secret("PASSWORD", PASSWORD);
    let stack = stack.captured().create();
    let run = confirmed(&stand, &stack.id);
    stand.awaits("applying", LIMIT);
    stand.give("go");
    away(&socket);
    assert!(stand.shared().join("gone").exists(), "the apply went on");
    went_well(&stand, &launcher, &run);
}

#[test]
fn docker_socket_gone_while_a_container_is_made() {
    gone_at("creating");
}

#[test]
fn docker_socket_gone_while_a_container_is_started() {
    gone_at("starting");
}

fn gone_at(step: &'static str) {
    let stand = Stand::new();
    let (socket, launcher) = launcher(&stand);
    let stack = stand.stack("waits").file("main.tf", SLOW_APPLY).secret("PASSWORD", PASSWORD);
    let stack = stack.captured().create();
    stand.give("go");
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    let mut journal = launcher.journal();
    stand.cli.confirm(&run);
    journal.wait(Moment { stage: "write", what: step }, LIMIT);
    away(&socket);
    went_well(&stand, &launcher, &run);
}

/// Docker does what it is asked, and the launcher hears nothing of it, or that it was not done.
#[test]
fn docker_answers_lost() {
    for asked in [Asked::Create, Asked::Start, Asked::Remove] {
        spoilt(asked, Spoilt::Dropped);
    }
}

#[test]
fn docker_answers_that_deny_what_was_done() {
    for asked in [Asked::Create, Asked::Start, Asked::Remove] {
        spoilt(asked, Spoilt::Denied);
    }
}

/// In both stages of a run.
fn spoilt(asked: Asked, how: Spoilt) {
    eprintln!("-- {asked:?} {how:?}");
    let stand = Stand::new();
    let (socket, launcher) = launcher(&stand);
    let stack = stand.stack("spoilt").file("main.tf", SLOW_APPLY).secret("PASSWORD", PASSWORD);
    let stack = stack.captured().hook("before-plan", "echo plan >> /count/plans").create();
    stand.give("go");
    socket.spoil(asked, how);
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    until("an answer to be spoilt", LIMIT, || (socket.spoilt() == 1).then_some(()));
    socket.spoil(asked, how);
    stand.cli.confirm(&run);
    went_well(&stand, &launcher, &run);
    assert_eq!(socket.spoilt(), 2);
    assert_eq!(stand.count("plans"), 1);
}

/// Docker is restarted in an apply, as an upgrade does it: it stops its containers first.
#[test]
fn docker_restarted_in_an_apply() {
    restarted(|engine, _| {
        engine.stop();
        engine.start_again();
    });
}

/// Docker is killed in an apply: its containers go on until it is there again, and stops them.
#[test]
fn docker_killed_in_an_apply() {
    restarted(|engine, stand| {
        engine.kill();
        assert_eq!(stand.count("interrupts"), 0);
        engine.start_again();
    });
}

/// With live-restore containers go on without Docker: the launcher finds them again.
#[test]
fn docker_with_live_restore_restarted_in_an_apply() {
    let stand = Stand::new();
    let mut engine = OwnEngine::start(&stand.config.image, &["--live-restore"]);
    let launcher = own(&stand, &engine);
    let stack = stand.stack("restored").file("main.tf", SLOW_APPLY).secret("PASSWORD", PASSWORD);
    let stack = stack.captured().create();
    let run = confirmed(&stand, &stack.id);
    stand.awaits("applying", LIMIT);
    engine.stop();
    engine.start_again();
    stand.give("go");
    went_well(&stand, &launcher, &run);
    nothing_left(&stand, &launcher, &engine);
}

/// A launcher of the test's own Docker, which has no bridge.
fn own(stand: &Stand, engine: &OwnEngine) -> Launcher {
    let launcher = stand.launcher("launcher").env("DOCKER_HOST", &engine.host());
    launcher.env("SPACELIFT_WORKER_NETWORK", "none").start()
}

/// What a stopped run still does takes longer than Docker waits for a container unless it is told.
const LAST_WORDS: &str =
    "[ $TF_VAR_spacelift_final_run_state = FINISHED ] || sleep 12; echo said >> /count/last-words";

/// The tool is interrupted once, its state is kept, and the run says why it failed; the next one goes well.
fn restarted(restart: impl FnOnce(&mut OwnEngine, &Stand)) {
    let stand = Stand::new();
    let mut engine = OwnEngine::start(&stand.config.image, &[]);
    let launcher = own(&stand, &engine);
    let stack = stand.stack("restarted").file("main.tf", SLOW_APPLY).secret("PASSWORD", PASSWORD);
    let stack = stack.captured().argument("--after-run", LAST_WORDS).create();
    let run = confirmed(&stand, &stack.id);
    stand.awaits("applying", LIMIT);
    restart(&mut engine, &stand);

    let view = stand.cli.over(&run, LIMIT);
    let log = stand.cli.log(&run);
    let words = String::from_utf8_lossy(&log);
    assert_eq!(view.state(), "FAILED", "{words}");
    assert!(view.note().contains("Docker stopped"), "{}", view.note());
    assert_eq!(stand.count("applies"), 1);
    assert_eq!(stand.count("interrupts"), 1, "{words}");
    assert_eq!(stand.count("last-words"), 1, "the grace was cut short");
    assert!(words.contains("Interrupt received"), "{words}");
    assert!(!words.contains("Two interrupts received"), "{words}");
    let phases = ["init", "plan", "apply"]
        .map(|phase| mask(&stand.wrote(&format!("{phase}-{run}")), PASSWORD.as_bytes()));
    let own = stage_log(&log, &phases);
    assert!(own.last().is_some_and(|line| line.contains("Docker stopped")), "{own:?}");
    assert_eq!(resources(&stand, &stack.id), ["first", "slow"]);
    nothing_left(&stand, &launcher, &engine);

    stand.give("go");
    let next = confirmed(&stand, &stack.id);
    stand.cli.reaches(&next, "FINISHED", LIMIT);
    assert_eq!(stand.count("applies"), 2);
    assert_eq!(resources(&stand, &stack.id), ["first", "slow", "third"]);
    nothing_left(&stand, &launcher, &engine);
}

/// What the stored state names, in order.
fn resources(stand: &Stand, stack: &str) -> Vec<String> {
    let key = stand.pool.key.to_str().expect("paths of tests are UTF-8");
    let state = stand.cli.done(&["state", "pull", stack, "--key", key]).stdout;
    let state: Value = serde_json::from_slice(&state).expect("a state is JSON");
    let resources = state["resources"].as_array().expect("it has resources");
    let name = |resource: &Value| resource["name"].as_str().unwrap_or_default().to_owned();
    let mut names: Vec<_> = resources.iter().map(name).collect();
    names.sort();
    names
}

fn nothing_left(stand: &Stand, launcher: &Launcher, engine: &OwnEngine) {
    stand.nothing_left(launcher);
    until("its own Docker to be empty", LIMIT, || engine.containers().is_empty().then_some(()));
}
