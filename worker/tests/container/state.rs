//! The state server, asked by busybox and by a real Terraform.

use std::os::unix::fs::symlink;

use gantry_model::Phase;
use gantry_spool::order::StateOrder;
use gantry_spool::{Event, Outcome, SideFile, StopReason, mark_stored};

use crate::harness::{Run, order, orders, side_file};

const STATE: &str = r#"{"version":4,"serial":1,"lineage":"a"}"#;
const WGET: &str = r#"
    url=http://$TF_HTTP_USERNAME:$TF_HTTP_PASSWORD@${TF_HTTP_ADDRESS#http://}
    wget -q -O - $url 2>&1; echo "get $?"
    wget -q -O - --post-file state $url 2>&1; echo "post $?"
    wget -q -O - --post-file state $url 2>&1; echo "again $?"
    wget -q -O - $url 2>&1; echo " get $?"
    sed -i 's/}/,"x":1}/' state; wget -q -O - --post-file state $url 2>&1; echo "other $?"
    wget -q -O - $TF_HTTP_ADDRESS 2>&1; echo "nobody $?"
"#;
const MAIN: &str = r#"
    terraform {
      backend "http" {}
    }
    resource "terraform_data" "a" {
      input = "one"
    }
    resource "terraform_data" "slow" {
      depends_on = [terraform_data.a]
      provisioner "local-exec" {
        command = "echo ready; sleep ${var.wait}; true"
      }
    }
    variable "wait" {}
    output "a" {
      value = terraform_data.a.output
    }
"#;

fn state(can_write: bool, answer_after_ms: u64) -> StateOrder {
    StateOrder {
        current: None,
        can_write,
        can_replace: false,
        answer_after_ms,
        password: "state-password".into(),
    }
}

fn versions(run: &Run) -> Vec<(u64, u64, SideFile)> {
    let version = |event| match event {
        Event::State { number, serial, file, .. } => Some((number, serial, file)),
        _ => None,
    };
    run.events().into_iter().filter_map(version).collect()
}

/// The launcher's part: answers every version until the container has ended.
fn outcome_with_answers(run: &mut Run) -> Outcome {
    run.until("the end", |run| {
        for (number, _, _) in versions(run) {
            mark_stored(&run.spool(), number).unwrap();
        }
        matches!(run.events().last(), Some(Event::Ended { .. }))
    });
    run.outcome()
}

#[test]
fn a_state_is_answered_when_the_launcher_has_stored_it() {
    let mut order = order(WGET);
    order.state = Some(state(true, 600_000));
    let mut run = Run::lay_out(&order);
    run.write_source("state", STATE);
    run.again();
    run.until("a state version", |run| !versions(run).is_empty());
    assert!(!run.log().contains("post"), "{}", run.log());
    mark_stored(&run.spool(), 1).unwrap();
    assert_eq!(run.outcome(), Outcome::Succeeded);
    let log = run.log();
    let wanted = [
        "wget: server returned error: HTTP/1.1 404 Not Found",
        "get 1",
        "post 0",
        "again 0",
        &format!("{STATE} get 0"),
        "wget: server returned error: HTTP/1.1 409 Conflict",
        "other 1",
        "wget: server returned error: HTTP/1.1 401 Unauthorized",
        "nobody 1",
    ];
    assert_eq!(log.lines().collect::<Vec<_>>(), wanted);
    let versions = versions(&run);
    assert_eq!(
        versions.iter().map(|(number, serial, _)| (*number, *serial)).collect::<Vec<_>>(),
        [(1, 1)]
    );
    assert_eq!(side_file(&run, &versions[0].2), STATE);
}

#[test]
fn a_state_is_answered_without_the_launcher_after_a_while() {
    let mut order = order(WGET);
    order.state = Some(state(true, 200));
    let mut run = Run::lay_out(&order);
    run.write_source("state", STATE);
    run.again();
    assert_eq!(run.outcome(), Outcome::Succeeded);
    assert!(run.log().contains("post 0\nagain 0\n"), "{}", run.log());
}

#[test]
fn a_run_that_may_only_look_reads_the_given_state_and_cannot_write() {
    let mut order = order(WGET);
    order.state = Some(StateOrder { current: Some("given".into()), ..state(false, 200) });
    let mut run = Run::lay_out(&order);
    run.write_in("given", STATE.as_bytes());
    run.write_source("state", STATE);
    run.again();
    assert_eq!(run.outcome(), Outcome::Succeeded);
    let log = run.log();
    assert!(log.starts_with(&format!("{STATE}get 0\n")), "{log}");
    assert!(log.contains("403 Forbidden\npost 1\n"), "{log}");
    assert!(versions(&run).is_empty());
    assert_eq!(std::fs::read_dir(run.order_dir()).unwrap().count(), 0);
}

#[test]
fn terraform_applies_and_finds_its_state_again() {
    let mut order = orders(&[
        (Phase::Initialize, "terraform init -input=false -no-color"),
        (
            Phase::Plan,
            "terraform plan -input=false -no-color -out=plan && ! grep -a \"$TF_HTTP_PASSWORD\" plan",
        ),
        (Phase::Apply, "terraform apply -input=false -no-color plan"),
        (Phase::Perform, "terraform plan -input=false -no-color -detailed-exitcode"),
    ]);
    order.environment.push(("TF_VAR_wait".into(), "0".into()));
    order.show_plan = Some("terraform show -json plan".into());
    order.show_outputs = Some("terraform output -json".into());
    order.state = Some(state(true, 600_000));
    let mut run = Run::lay_out(&order);
    run.write_source("main.tf", MAIN);
    run.again();
    assert_eq!(outcome_with_answers(&mut run), Outcome::Succeeded, "{}", run.log());
    let log = run.log();
    assert!(log.contains("Apply complete! Resources: 2 added"), "{log}");
    assert!(log.contains("No changes."), "{log}");
    assert!(!versions(&run).is_empty());
    for event in run.events() {
        match event {
            Event::Outputs { file } => assert!(side_file(&run, &file).contains("\"one\"")),
            Event::Plan { file } => {
                assert!(side_file(&run, &file).contains("\"resource_changes\""));
            }
            Event::Note { text } => panic!("{text}"),
            _ => {}
        }
    }
}

#[test]
fn terraform_is_interrupted_once_and_hands_over_its_state() {
    let mut order = orders(&[
        (Phase::Initialize, "terraform init -input=false -no-color >/dev/null"),
        (Phase::Apply, "terraform apply -auto-approve -input=false -no-color"),
    ]);
    order.environment.push(("TF_VAR_wait".into(), "3".into()));
    order.state = Some(state(true, 600_000));
    let mut run = Run::lay_out(&order);
    run.write_source("main.tf", MAIN);
    run.again();
    run.until_said("ready");
    run.signal("TERM");
    run.until_said("Interrupt received.");
    run.signal("TERM");
    let reason = StopReason::Asked;
    assert_eq!(
        outcome_with_answers(&mut run),
        Outcome::Stopped { phase: Some(Phase::Apply), reason }
    );
    let log = run.log();
    assert_eq!(log.matches("Interrupt received.").count(), 1, "{log}");
    assert!(!log.contains("Two interrupts"), "{log}");
    let versions = versions(&run);
    let last = side_file(&run, &versions.last().expect("a state was written").2);
    assert!(last.contains("\"one\""), "{last}");
    assert!(run.events().iter().any(|event| matches!(
        event,
        Event::PhaseEnded { phase: Phase::Apply, code: Some(1), signal: None, .. }
    )));
}

#[test]
fn a_state_that_could_not_be_handed_over_is_collected() {
    let order = orders(&[(Phase::Apply, "umask 077; echo \"$SECRET\" >errored.tfstate; exit 1")]);
    let mut run = Run::start(&order);
    assert!(matches!(run.outcome(), Outcome::Failed { .. }));
    let events = run.events();
    let file = events
        .iter()
        .find_map(|event| if let Event::Errored { file } = event { Some(file) } else { None });
    assert_eq!(side_file(&run, file.unwrap()), "hunter2-in-the-order\n");
}

/// The launcher keeps the workspace then: it has the only copy.
#[test]
fn a_state_that_is_too_large_to_be_collected_is_said_to_be_left() {
    let command = "dd if=/dev/zero of=errored.tfstate bs=1 count=1 seek=1100000000 2>&1; exit 1";
    let mut run = Run::start(&orders(&[(Phase::Apply, command)]));
    assert!(matches!(run.outcome(), Outcome::Failed { .. }));
    let left = |event| match event {
        Event::Uncollected { reason } => Some(reason),
        _ => None,
    };
    let reasons: Vec<_> = run.events().into_iter().filter_map(left).collect();
    assert_eq!(reasons, ["errored.tfstate could not be copied: it is larger than 1 GiB"]);
}

#[test]
fn what_is_no_file_or_was_in_the_source_is_not_collected() {
    let mut run = Run::lay_out(&orders(&[
        (Phase::Initialize, "true"),
        (Phase::Plan, "rm errored.tfstate; ln -s /proc/1/environ errored.tfstate"),
        (Phase::Apply, "rm errored.tfstate; mkfifo errored.tfstate"),
        (Phase::Perform, "rm errored.tfstate; mkdir errored.tfstate"),
    ]));
    run.write_source("errored.tfstate", STATE);
    symlink("/etc/passwd", run.source().join("link")).unwrap();
    run.again();
    assert_eq!(run.outcome(), Outcome::Succeeded);
    let taken = |event: &Event| {
        matches!(event, Event::Errored { .. } | Event::Uncollected { .. } | Event::Note { .. })
    };
    assert!(!run.events().iter().any(taken), "{:?}", run.events());
}
