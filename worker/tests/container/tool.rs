//! The script that runs the tool, with a real Terraform in the place of a real stack's.

use std::path::Path;

use gantry_model::Phase;
use gantry_spool::order::{Order, StateOrder, ToolOrder};
use gantry_spool::{Event, Outcome, mark_stored};

use crate::harness::{Run, orders, side_file};

/// As the launcher embeds it.
const SCRIPT: &str = include_str!("../../../launcher/src/tool/terraform/tool.sh");
const ONE: &str = "resource \"terraform_data\" \"one\" { input = \"one\" }\n";
/// A state with a resource in it, as an earlier run left it.
const STATE: &str = r#"{"version":4,"terraform_version":"1.5.0","serial":3,"lineage":"a","outputs":{},"resources":[
    {"mode":"managed","type":"terraform_data","name":"old","provider":"provider[\"terraform.io/builtin/terraform\"]",
    "instances":[{"schema_version":0,"attributes":{"id":"i","input":null,"output":null,"triggers_replace":null}}]}]}"#;

/// What the launcher makes of a phase.
fn tool(call: &str) -> ToolOrder {
    ToolOrder {
        script: format!("{SCRIPT}\ngantry_keeps=yes\n{call}"),
        changes_code: call.starts_with("gantry_plan").then_some(2),
        refusals: ["no tool", "no plan", "doubt", "another backend"].map(str::to_owned).to_vec(),
    }
}

fn show(what: &str) -> String {
    format!("{SCRIPT}\ngantry_show {what}")
}

/// An order of tool phases, whose state the worker binary keeps.
fn tools(calls: &[(Phase, &str)]) -> Order {
    let phases: Vec<_> = calls.iter().map(|(phase, _)| (*phase, "the tool")).collect();
    let mut order = orders(&phases);
    for (phase, (_, call)) in order.phases.iter_mut().zip(calls) {
        phase.tool = Some(tool(call));
    }
    order.state = Some(StateOrder {
        current: None,
        can_write: true,
        password: "state-password".into(),
        can_replace: false,
        answer_after_ms: 600_000,
    });
    order.show_plan = Some(show("show -json gantry.tfplan"));
    order.show_outputs = Some(show("output -json"));
    order.environment.push(("TF_IN_AUTOMATION".into(), "1".into()));
    order.environment.push(("TF_CLI_ARGS_plan".into(), "-no-color".into()));
    order
}

const INIT: (Phase, &str) = (Phase::Initialize, "gantry_init beside ''");
const PLAN: (Phase, &str) = (Phase::Plan, "gantry_plan beside");
const APPLY: (Phase, &str) = (Phase::Apply, "gantry_apply");

fn set(order: &mut Order, name: &str, value: &str) {
    order.environment.retain(|(known, _)| known != name);
    order.environment.push((name.into(), value.into()));
}

fn run(order: &Order, files: &[(&str, &str)]) -> Run {
    run_with(order, files, |_| {})
}

/// Runs it to its end; every state is stored at once.
fn run_with(order: &Order, files: &[(&str, &str)], prepare: impl FnOnce(&Run)) -> Run {
    let mut run = Run::lay_out(order);
    for (name, content) in files {
        run.write_source(name, content);
    }
    prepare(&run);
    run.again();
    run.until("the end", |run| {
        for event in run.events() {
            if let Event::State { number, .. } = event {
                mark_stored(&run.spool(), number).unwrap();
            }
        }
        matches!(run.events().last(), Some(Event::Ended { .. }))
    });
    run
}

fn failure(run: &mut Run) -> String {
    match run.outcome() {
        Outcome::Failed { reason, .. } => reason,
        other => panic!("{other:?}; log:\n{}", run.log()),
    }
}

fn plan_of(run: &Run) -> String {
    let file = run.events().into_iter().find_map(|event| match event {
        Event::Plan { file } => Some(file),
        _ => None,
    });
    side_file(run, &file.expect("the plan was shown"))
}

fn changes(run: &mut Run) -> bool {
    match run.outcome() {
        Outcome::Planned { has_changes } => has_changes,
        other => panic!("{other:?}; log:\n{}", run.log()),
    }
}

#[test]
fn a_source_without_configuration_destroys_nothing() {
    let emptied = "rm one.tf";
    for (files, hook) in [
        (&[("README.md", "nothing")][..], ""),
        (&[(".#main.tf", ONE), (".x.tf", ONE), ("x.tf~", ONE)][..], ""),
        (&[("one.tofu", ONE)][..], ""),
        (&[("one.tf", ONE)][..], emptied),
    ] {
        let mut order = tools(&[INIT, PLAN]);
        order.state.as_mut().unwrap().current = Some("current".into());
        order.phases[1].before = vec![hook.into()];
        let mut run = run_with(&order, files, |run| run.write_in("current", STATE.as_bytes()));
        assert_eq!(failure(&mut run), "the tool ended with exit code 1");
        let log = run.log();
        // One that hooks took away after init has a backend no more, as the tool sees it.
        let said =
            if hook.is_empty() { "No configuration files" } else { "previously set backend" };
        assert!(log.contains(said) && !log.contains("destroy."), "{log}");
    }
}

#[test]
fn a_run_that_destroys_needs_no_configuration_and_destroys() {
    let mut order = tools(&[
        (Phase::Initialize, "gantry_init always ''"),
        (Phase::Plan, "gantry_plan always -destroy"),
        (Phase::Destroy, "gantry_apply"),
    ]);
    order.state.as_mut().unwrap().current = Some("current".into());
    let mut run = run_with(&order, &[], |run| run.write_in("current", STATE.as_bytes()));
    assert!(changes(&mut run));
    assert!(run.log().contains("1 destroyed"), "{}", run.log());
}

#[test]
fn a_mistake_in_the_source_is_told_by_the_tool() {
    let mistake = "terraform {\n  backend \"s3\" {\n}\n";
    let mut order = tools(&[(Phase::Initialize, "gantry_init beside doubt")]);
    let mut run = run(&order, &[("main.tf", mistake)]);
    assert_eq!(failure(&mut run), "the tool ended with exit code 1");
    assert!(run.log().contains("main.tf line"), "{}", run.log());
    // Where the tool finds no mistake, it is a backend that the launcher could not read.
    order.phases[0].tool = Some(tool("gantry_init beside doubt"));
    let mut run = self::run(&order, &[("main.tf", "terraform {\n  backend \"s3\" {}\n}\n")]);
    assert_eq!(failure(&mut run), "doubt");
}

#[test]
fn a_backend_that_a_hook_brings_is_not_used() {
    let mut order = tools(&[INIT, PLAN]);
    let backend = "terraform {\n  backend \"local\" {}\n}\n";
    order.phases[0].before = vec![format!("cat >zzzzzzzzz_override.tf <<'E'\n{backend}E")];
    let mut run = run(&order, &[("main.tf", ONE)]);
    assert_eq!(failure(&mut run), "another backend");
}

/// An import and a move are `no-op` for what is real, and nothing but an apply brings them into the state.
#[test]
fn imports_and_moves_are_something_to_apply() {
    let import = format!("{ONE}import {{\n  to = terraform_data.one\n  id = \"abc\"\n}}\n");
    let moved = "resource \"terraform_data\" \"new\" {}\nmoved {\n  from = terraform_data.old\n  to = terraform_data.new\n}\n";
    let forget =
        "removed {\n  from = terraform_data.old\n  lifecycle {\n    destroy = false\n  }\n}\n";
    let output = "resource \"terraform_data\" \"old\" {}\noutput \"o\" {\n  value = 1\n}\n";
    for (source, word) in [
        (import.as_str(), "\"importing\":{\"id\":\"abc\"}"),
        (moved, "\"previous_address\":\"terraform_data.old\""),
        (forget, "\"forget\""),
        (output, "\"output_changes\":{\"o\""),
    ] {
        let mut order = tools(&[INIT, PLAN]);
        order.state.as_mut().unwrap().current = Some("current".into());
        let mut run = run_with(&order, &[("main.tf", source)], |run| {
            run.write_in("current", STATE.as_bytes());
        });
        assert!(changes(&mut run), "{}", run.log());
        let plan = plan_of(&run);
        assert!(plan.contains(word) && plan.contains("\"applyable\":true"), "{plan}");
    }
    let mut order = tools(&[INIT, PLAN]);
    order.state.as_mut().unwrap().current = Some("current".into());
    let same = "resource \"terraform_data\" \"old\" {}\n";
    let mut run = run_with(&order, &[("main.tf", same)], |run| {
        run.write_in("current", STATE.as_bytes());
    });
    assert!(!changes(&mut run));
}

#[test]
fn a_hook_that_skips_the_tool_fails_the_phase_and_is_named() {
    let ways = ["[ -e nothing ] || exit 0", "exec true", "terraform() { exit 0; }"];
    for (number, hook) in ways.into_iter().enumerate() {
        let mut order = tools(&[INIT, PLAN]);
        order.phases[1].before = vec!["echo first".into(), hook.into()];
        let mut run = run(&order, &[("main.tf", ONE)]);
        let who = if number == 2 {
            "the tool".to_owned()
        } else {
            format!("the before_plan hook 2 of 2 (`{hook}`)")
        };
        let reason = failure(&mut run);
        assert!(
            reason.starts_with(&format!("{who} ended the phase before the tool had run")),
            "{reason}"
        );
        assert!(run.log().contains("first\n"));
    }
    // Without a function around it, shells leave or complain; none goes on as if nothing were.
    let mut order = tools(&[INIT]);
    order.phases[0].before = vec!["return 0".into()];
    assert!(failure(&mut run(&order, &[])).starts_with("the before_init hook (`return 0`) ended "));
    // What ends the shell after the tool skips nothing.
    let mut order = tools(&[INIT, PLAN]);
    order.phases[1].after = vec!["exit 0".into(), "echo never".into()];
    assert!(changes(&mut run(&order, &[("main.tf", ONE)])));
}

/// Shells that hooks have set up in whatever way.
#[test]
fn a_hook_s_options_of_the_shell_do_not_reach_the_tool() {
    let mut order = tools(&[INIT, PLAN, APPLY]);
    for phase in &mut order.phases {
        phase.before = vec!["set -efuC; IFS=/; cd() { false; }; rm() { false; }".into()];
    }
    let mut run = run(&order, &[("main.tf", ONE)]);
    assert!(changes(&mut run));
    assert!(run.log().contains("1 added"), "{}", run.log());
}

#[test]
fn a_plan_that_this_phase_did_not_make_is_not_used() {
    let mut order = tools(&[INIT, PLAN]);
    order.phases[1].before = vec!["echo stale >gantry.tfplan".into()];
    let mut first = run(&order, &[("main.tf", ONE), ("gantry.tfplan", "committed")]);
    assert!(changes(&mut first), "{}", first.log());
    assert!(plan_of(&first).contains("\"create\""));
    // A tool that makes none leaves none.
    order.phases[1].before = vec!["terraform() { true; }".into()];
    let mut run = run(&order, &[("main.tf", ONE), ("gantry.tfplan", "committed")]);
    assert_eq!(failure(&mut run), "no plan");
}

#[test]
fn options_of_the_user_s_break_nothing_of_ours() {
    for (name, value) in [
        ("TF_CLI_ARGS", "-input=false"),
        ("TF_CLI_ARGS_plan", "-detailed-exitcode"),
        ("TF_CLI_ARGS_plan", "-out=elsewhere"),
        ("TF_CLI_ARGS_output", "-raw"),
        ("TF_CLI_ARGS_show", "-no-color -nonsense"),
    ] {
        let mut order = tools(&[INIT, PLAN, APPLY]);
        set(&mut order, name, value);
        let source = format!("{ONE}output \"o\" {{\n  value = 1\n}}\n");
        let mut run = run(&order, &[("main.tf", &source)]);
        assert!(changes(&mut run), "{name}={value}");
        let events = run.events();
        assert!(events.iter().any(|event| matches!(event, Event::Plan { .. })), "{name}={value}");
        assert!(
            events.iter().any(|event| matches!(event, Event::Outputs { .. })),
            "{name}={value}"
        );
    }
}

/// What init brought outside of the workspace stayed in the container that is gone.
#[test]
fn an_apply_in_another_container_is_initialized_again() {
    let mut order = tools(&[INIT, PLAN]);
    set(&mut order, "TF_DATA_DIR", "/tmp/data");
    let mut planned = run(&order, &[("main.tf", ONE)]);
    assert!(changes(&mut planned));
    let mut order = tools(&[APPLY]);
    set(&mut order, "TF_DATA_DIR", "/tmp/data");
    let mut applied = Run::lay_out(&order);
    copy(&planned.source(), &applied.source());
    applied.again();
    applied.until("a state", |run| {
        run.events().iter().any(|event| matches!(event, Event::State { .. }))
    });
    mark_stored(&applied.spool(), 1).unwrap();
    assert_eq!(applied.outcome(), Outcome::Succeeded, "{}", applied.log());
    assert!(applied.log().contains("1 added"), "{}", applied.log());
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn an_image_without_a_tool_is_told_in_one_sentence_and_the_host_s_is_used() {
    let mut order = tools(&[INIT]);
    order.phases[0].before = vec!["mkdir /tmp/bin; for i in sh env rm printf; do ln -s /bin/busybox /tmp/bin/$i; done; PATH=/tmp/bin".into()];
    assert_eq!(failure(&mut run(&order, &[("main.tf", ONE)])), "no tool");
    // `tofu` does as well.
    order.phases[0].before.push("/bin/ln -s /bin/terraform /tmp/bin/tofu".into());
    let mut run = run(&order, &[("main.tf", ONE)]);
    assert_eq!(run.outcome(), Outcome::Succeeded, "{}", run.log());
}

/// Without a backend that outlives the container an apply would succeed, and its state be thrown away.
#[test]
fn a_state_that_nobody_would_keep_is_refused_at_init() {
    let local = |path: &str| format!("terraform {{\n  backend \"local\" {{\n{path}\n}}\n}}\n{ONE}");
    for (source, is_kept) in [
        (ONE.to_owned(), false),
        (local(""), false),
        (local("path = \"states/one.tfstate\""), false),
        (local("path = \"/tmp/states/one.tfstate\""), true),
    ] {
        let mut order = tools(&[INIT]);
        for tool in order.phases.iter_mut().filter_map(|phase| phase.tool.as_mut()) {
            tool.script = tool.script.replace("gantry_keeps=yes", "gantry_keeps=");
            tool.refusals.push("nobody keeps it".to_owned());
        }
        (order.state, order.show_plan, order.show_outputs) = (None, None, None);
        let mut run = run(&order, &[("main.tf", &source)]);
        let outcome = run.outcome();
        assert_eq!(outcome == Outcome::Succeeded, is_kept, "{source}: {outcome:?}\n{}", run.log());
        if !is_kept {
            assert!(format!("{outcome:?}").contains("nobody keeps it"), "{outcome:?}");
        }
    }
}

/// Terraform allows such a name and a shell does not: whoever gave the value hears why it did not come.
#[test]
fn a_variable_that_the_shell_does_not_pass_on_is_named_also_where_the_plan_fails_for_it() {
    let mut order = tools(&[INIT, PLAN]);
    set(&mut order, "TF_VAR_a-b", "given");
    let mut run = run(&order, &[("main.tf", "variable \"a-b\" {}\n")]);
    assert_eq!(failure(&mut run), "the tool ended with exit code 1");
    assert!(run.log().contains("No value for required variable"), "{}", run.log());
    let notes = run.events().into_iter().filter_map(|event| match event {
        Event::Note { text } => Some(text),
        _ => None,
    });
    let notes: Vec<String> = notes.collect();
    assert!(notes.iter().any(|note| note.starts_with("TF_VAR_a-b: ")), "{notes:?}");
}
