//! Nothing that may never come is waited for, and no wait keeps a worker for good.

use std::time::Duration;

use gantry_e2e::{Moment, Socket, Stand, until};

const LIMIT: Duration = Duration::from_secs(90);
const SOURCE: &str = "resource \"terraform_data\" \"a\" {}\n";
const ERRORED: &str = r#"echo '{"version":4,"serial":7,"lineage":"mine"}' > errored.tfstate"#;

/// A hook of a proposed run leaves a state, or applies, whose state Terraform then leaves: the run ends, its
/// log says that the state is dropped, and the worker takes the next one.
#[test]
fn waits_for_no_state_of_a_proposed_run() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    for (name, hook) in [("left", ERRORED), ("applied", "terraform apply -auto-approve || true")] {
        let stack = stand.stack(name).file("main.tf", SOURCE).hook("after-plan", hook).create();
        let run = stand.cli.propose(&stack.id);
        stand.cli.reaches(&run, "FINISHED", LIMIT);
        let log = String::from_utf8_lossy(&stand.cli.log(&run)).into_owned();
        assert_eq!(log.matches("errored.tfstate (").count(), 1, "{log}");
        assert!(log.contains("a read stage may not change the stack's state"), "{log}");
        stand.nothing_left(&launcher);
    }
}

/// Docker goes away when a container is to be made: a stop is heard all the same, and so is the time limit.
#[test]
fn waits_for_docker_end_at_a_stop_and_at_the_time_limit() {
    let stand = Stand::new();
    let socket = Socket::to_docker(stand.dir());
    let launcher = stand
        .launcher("launcher")
        .env("DOCKER_HOST", &socket.host())
        .env("SPACELIFT_LAUNCHER_RUN_TIMEOUT", "15s")
        .start();
    let stack = stand.stack("deaf").file("main.tf", SOURCE).create();
    for is_stopped in [true, false] {
        let mut journal = launcher.journal();
        let run = stand.cli.trigger(&stack.id);
        journal.wait(Moment { stage: "read", what: "creating" }, LIMIT);
        socket.cut();
        if is_stopped {
            let _ = stand.cli.ask(&["run", "stop", &run, "--note", "enough"]);
        }
        let view = stand.cli.over(&run, LIMIT);
        assert_eq!(view.state(), "STOPPED", "{}", view.note());
        assert_eq!(view.note().contains("SPACELIFT_LAUNCHER_RUN_TIMEOUT"), !is_stopped);
        socket.mend();
        stand.nothing_left(&launcher);
    }
}

/// A worker that cannot run anything is the newest one, and would be chosen first: it takes nothing, its row
/// says why, and the runs go to the other one.
#[test]
fn waits_of_runs_are_not_for_a_worker_that_is_sick() {
    let stand = Stand::new();
    let well = stand.launcher("well").start();
    let mut sick = stand
        .launcher("sick")
        .env("SPACELIFT_WORKER_NETWORK", "no-such-network")
        .env("SPACELIFT_WORKER_RUNTIME", "no-such-runtime")
        .start_unregistered();
    sick.says("this host cannot run stages, so it takes none until it can", LIMIT);
    sick.registered();
    let complaint =
        |note: &str| note.contains("no-such-network") && note.contains("no-such-runtime");
    until("the worker's row to say what is wrong", LIMIT, || {
        let pool = stand.cli.ask(&["pool", "show", &stand.pool.id]);
        let mut workers = pool["workers"].as_array().expect("a pool has workers").iter();
        workers.any(|worker| complaint(&worker.to_string())).then_some(())
    });
    let stack = stand.stack("lucky").file("main.tf", SOURCE).create();
    let runs: Vec<_> = (0..3).map(|_| stand.cli.propose(&stack.id)).collect();
    for run in &runs {
        let view = stand.cli.reaches(run, "FINISHED", LIMIT);
        assert_eq!(view.attempts().len(), 1);
    }
    stand.nothing_left(&well);
    stand.nothing_left(&sick);
}
