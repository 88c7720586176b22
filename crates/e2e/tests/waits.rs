//! Nothing that may never come is waited for, and no wait keeps a worker for good.

use std::time::Duration;

use gantry_e2e::Stand;

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
