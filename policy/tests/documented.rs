//! What the documented examples of run initialization policies do, in both versions of the language.

mod support;

use gantry_policy::{Decision, Input, Policy, RegoVersion};
use serde_json::Value;
use support::{evaluate, example};

/// Why `source` denies `input`.
fn denials(source: &str, input: &Value) -> Vec<String> {
    match evaluate(source, input) {
        Ok(decision) => decision.denials,
        Err(error) => panic!("{error}\n{source}"),
    }
}

/// Evaluates both forms of one policy and demands that they agree.
fn both(v0: &str, v1: &str, input: &Input) -> Vec<String> {
    let input = input.to_value();
    for (source, version) in [(v0, RegoVersion::V0), (v1, RegoVersion::V1)] {
        assert_eq!(
            Policy::compile("init.rego", source).expect("an example compiles").version(),
            version
        );
    }
    let decided = denials(v0, &input);
    assert_eq!(denials(v1, &input), decided);
    decided
}

#[test]
fn one_that_always_denies() {
    let v0 = "package spacelift\ndeny[\"nothing runs today\"] { true }";
    let v1 = "package spacelift\ndeny contains \"nothing runs today\" if { true }";
    assert_eq!(both(v0, v1, &example()), ["nothing runs today"]);
}

#[test]
fn one_that_never_denies() {
    let v0 = "package spacelift\ndeny[\"nothing runs today\"] { false }";
    let v1 = "package spacelift\ndeny contains \"nothing runs today\" if { false }";
    assert!(both(v0, v1, &example()).is_empty());
}

#[test]
fn one_that_denies_some_commands_before_initialization() {
    let v0 = r#"package spacelift
deny[sprintf("do not run %q before initialization", [command])] {
  command := input.run.runtime_config.before_init[_]
  contains(command, "terraform")
  command != "terraform fmt -check"
}"#;
    let v1 = r#"package spacelift
deny contains sprintf("do not run %q before initialization", [command]) if {
  some command in input.run.runtime_config.before_init
  contains(command, "terraform")
  command != "terraform fmt -check"
}"#;
    let mut input = example();
    assert!(both(v0, v1, &input).is_empty());
    input.run.runtime_config.before_init.push("terraform import a b".into());
    assert_eq!(both(v0, v1, &input), ["do not run \"terraform import a b\" before initialization"]);
}

#[test]
fn one_that_demands_an_image_through_an_alias() {
    let v0 = "package spacelift\ndeny[\"another image\"] { runtime_config.runner_image != \"registry.example.com/runner:1\" }";
    let v1 = "package spacelift\ndeny contains \"another image\" if runtime_config.runner_image != \"registry.example.com/runner:1\"";
    let mut input = example();
    assert!(both(v0, v1, &input).is_empty());
    input.run.runtime_config.runner_image = "docker.example.com/own".into();
    assert_eq!(both(v0, v1, &input), ["another image"]);
}

#[test]
fn one_that_demands_a_first_command() {
    let v0 = r#"package spacelift
deny["check the format first"] { not format_first }
format_first { input.run.runtime_config.before_init[0] == "terraform fmt -check" }"#;
    let v1 = r#"package spacelift
deny contains "check the format first" if not format_first
format_first if input.run.runtime_config.before_init[0] == "terraform fmt -check""#;
    let mut input = example();
    assert!(both(v0, v1, &input).is_empty());
    input.run.runtime_config.before_init.insert(0, "true".into());
    assert_eq!(both(v0, v1, &input), ["check the format first"]);
    input.run.runtime_config.before_init.clear();
    assert_eq!(both(v0, v1, &input), ["check the format first"]);
}

#[test]
fn one_that_demands_a_branch_name_of_proposed_runs() {
    let v0 = r#"package spacelift
deny[sprintf("%s is no name for a branch", [branch])] {
  branch := input.commit.branch
  input.run.type == "PROPOSED"
  not re_match("^(fix|feature)\/.*", branch)
}"#;
    let v1 = r#"package spacelift
deny contains sprintf("%s is no name for a branch", [branch]) if {
  branch := input.commit.branch
  input.run.type == "PROPOSED"
  not regex.match(`^(fix|feature)/.*`, branch)
}"#;
    let mut input = example();
    assert!(both(v0, v1, &input).is_empty());
    input.run.kind = "PROPOSED".into();
    assert_eq!(both(v0, v1, &input), ["main is no name for a branch"]);
    input.run.commit.branch = "feature/cluster".into();
    assert!(both(v0, v1, &input).is_empty());
}

#[test]
fn one_that_denies_a_branch() {
    let v0 = "package spacelift\ndeny[\"sandbox never runs\"] { commit.branch == \"sandbox\" }";
    let v1 =
        "package spacelift\ndeny contains \"sandbox never runs\" if commit.branch == \"sandbox\"";
    let mut input = example();
    assert!(both(v0, v1, &input).is_empty());
    input.run.commit.branch = "sandbox".into();
    assert_eq!(both(v0, v1, &input), ["sandbox never runs"]);
}

#[test]
fn aliases_are_there_unless_the_policy_defines_them() {
    let with = "package spacelift
deny[m] { m := sprintf(\"%s %s %s %s\", [commit.branch, run.type, runtime_config.terraform_version, stack.name]) }";
    assert_eq!(denials(with, &example().to_value()), ["main TRACKED 1.11.0 Network"]);
    let own = "package spacelift\nstack = \"mine\"\nrun(x) = x\ndeny[m] { m := run(stack) }";
    assert_eq!(denials(own, &example().to_value()), ["mine"]);
    let import = "package spacelift\nimport input.stack\nimport input.commit as run\ndeny[run.branch] { stack.name }";
    assert_eq!(denials(import, &example().to_value()), ["main"]);
    for shadow in [
        "name(run) = m { m := run.name }\ndeny[m] { m := name({\"name\": \"x\"}) }",
        "deny[m] { some i, stack; list := {1: {\"a\": 2}}; list[i][stack]; m := \"x\" }",
        "deny[m] { some stack; m := [\"x\"][stack] }",
        "list := [\"x\"]\ndeny[m] { some stack; m := list[stack] }",
        "import future.keywords\ndeny[stack] { some stack in [\"x\"] }",
        "import future.keywords\ndeny[\"x\"] { every run in [1] { run == 1 } }",
        "deny[m] { [run, m] := [1, \"x\"] }",
        "deny[m] { names := {stack | stack := \"x\"}; names[m] }",
    ] {
        let source = format!("package spacelift\n{shadow}");
        assert_eq!(denials(&source, &example().to_value()), ["x"], "{source}");
    }
    let local = "package spacelift\ndeny[m] { stack := \"local\"; m := stack }";
    assert_eq!(denials(local, &example().to_value()), ["local"]);
}

#[test]
fn future_keywords_in_v0_are_understood() {
    let source = "package spacelift\nimport future.keywords.in\ndeny[\"found\"] { \"network\" in input.stack.labels }";
    assert_eq!(denials(source, &example().to_value()), ["found"]);
}

#[test]
fn denials_are_sorted_and_each_once() {
    let source = "package spacelift\ndeny[\"b\"] { true }\ndeny[\"a\"] { true }\ndeny[\"b\"] { 1 == 1 }\nsample { true }";
    let decision = evaluate(source, &example().to_value()).expect("it decides");
    assert_eq!(decision, Decision { denials: vec!["a".into(), "b".into()], sample: true });
    assert!(!decision.is_allowed());
}

#[test]
fn too_many_denials_are_counted() {
    let source = "package spacelift\ndeny[m] { m := sprintf(\"%d\", [numbers.range(1, 250)[_]]) }";
    let denials = denials(source, &example().to_value());
    assert_eq!((denials.len(), denials.last().map(String::as_str)), (101, Some("and 150 more")));
}

#[test]
fn sanitized_hides_a_value_and_can_be_compared() {
    let source = "package spacelift\ndeny[m] { m := sanitized(\"hunter2\") }";
    // printf hunter2 | sha256sum | cut -c49-64
    assert_eq!(denials(source, &example().to_value()), ["1f94bcf526a3f6c7"]);
}

/// In both versions, and in every way in which an empty set can be written.
#[test]
fn a_policy_that_only_samples_says_that_it_denies_nothing() {
    for deny in
        ["deny := set()", "deny = set()", "deny[\"x\"] { false }", "deny := {x | x := input.none}"]
    {
        let source = format!("package spacelift\n{deny}\nsample := true");
        let decision = evaluate(&source, &example().to_value()).expect("it decides");
        assert_eq!(decision, Decision { denials: vec![], sample: true }, "{source}");
    }
}

#[test]
fn the_input_has_the_keys_of_both_families() {
    insta::assert_json_snapshot!(example().to_value());
}

#[test]
fn a_policy_can_be_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Policy>();
}
