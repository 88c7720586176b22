//! A policy is looked into by another process, which may die of it.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use gantry_launcher::explain::{Exit, Explain as _};
use gantry_launcher::policy::evaluator::MARKER;
use gantry_launcher::policy::{Policy, PolicyError, Unanswered};
use serde_json::json;

const LAUNCHER: &str = env!("CARGO_BIN_EXE_gantry-launcher");

async fn policy(source: impl Into<String>) -> Result<Policy, PolicyError> {
    Policy::check("init.rego", source.into(), Path::new(LAUNCHER)).await
}

/// What comes of evaluating it.
async fn died(source: impl Into<String>) -> String {
    let policy = policy(source).await.expect("it is valid");
    policy.decide(json!({})).await.expect_err("it cannot end").to_string()
}

#[tokio::test]
async fn a_policy_decides_in_another_process() {
    let policy =
        policy("package spacelift\ndeny contains input.why\nsample := true").await.unwrap();
    let decision = policy.decide(json!({"why": "because"})).await.unwrap();
    assert_eq!((decision.denials, decision.sample), (vec!["because".to_owned()], true));
    let error = policy.decide(json!({"why": 7})).await.unwrap_err().to_string();
    assert!(error.starts_with("init.rego: `deny` is a set that holds a number"), "{error}");
}

#[tokio::test]
async fn what_is_wrong_with_a_policy_is_known_before_it_is_asked() {
    let error = policy("package spacelift\ndenny contains \"x\"").await.unwrap_err().to_string();
    assert!(error.starts_with("init.rego:2:1: there is no rule `deny`, and `denny`"), "{error}");
    let recursion = "package spacelift\nf(x) := f(x + 1)\ndeny contains \"x\" if f(1)";
    let error = policy(recursion).await.unwrap_err().to_string();
    assert!(error.starts_with("init.rego:2:1: `f` needs itself: f -> f"), "{error}");
}

/// Nothing needs itself here, and the way through is longer than any stack.
#[tokio::test]
async fn a_policy_that_overflows_the_stack_takes_nothing_along() {
    let (open, close) = ("abs(".repeat(40), ")".repeat(40));
    let rules: Vec<String> =
        (0..800).map(|n| format!("f{n}(x) := {open}f{}(x){close}\n", n + 1)).collect();
    let rules = rules.concat();
    let source = format!("package spacelift\nf800(x) := x\n{rules}deny contains \"x\" if f0(1)\n");
    assert_eq!(died(source).await, "its evaluation overflowed its stack");
}

#[tokio::test]
async fn a_policy_that_takes_all_memory_takes_nothing_along() {
    let source =
        "package spacelift\ndeny contains \"x\" if count(numbers.range(1, 1000000000)) > 1";
    assert_eq!(died(source).await, "its evaluation needed more than 512 MiB of memory");
}

/// The engine does not interrupt a function, so the process is ended.
#[tokio::test]
async fn a_function_that_does_not_end_is_ended() {
    let source = "package spacelift\ndeny contains sprintf(\"%d\", [bits.lsh(1, 200000000)])";
    let policy = policy(source).await.unwrap().with_limit(Duration::from_millis(300));
    let error = policy.decide(json!({})).await.unwrap_err();
    assert!(matches!(error, Unanswered::TooLong(_)), "{error}");
    assert_eq!(error.to_string(), "its evaluation took longer than 0.3 s");
}

#[tokio::test]
async fn without_a_program_there_is_no_answer() {
    let nowhere = Path::new("/nonexistent/gantry-launcher");
    let error = Policy::check("init.rego", String::new(), nowhere).await.unwrap_err();
    // Not the policy's fault, so that the host tries again.
    assert_eq!(error.exit_code(), Exit::Unexpected);
    let error = error.to_string();
    assert!(error.contains("cannot be checked: its evaluation could not be started"), "{error}");
}

/// What the kernel says of a limit: soft and hard.
fn limit(limits: &str, name: &str) -> Vec<String> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().take(2).map(str::to_owned).collect()
}

#[test]
fn an_evaluator_has_nothing_that_a_policy_could_take() {
    let mut evaluator = Command::new(LAUNCHER)
        .arg(MARKER)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", evaluator.id()));
    // The last of the limits is set right before it begins to read.
    let limits = loop {
        let limits = of("limits").unwrap();
        if limit(&limits, "Max cpu time") == ["10", "10"] {
            break limits;
        }
        std::thread::yield_now();
    };
    for (name, expected) in [
        ("Max file size", "0"),
        ("Max core file size", "0"),
        ("Max open files", "0"),
        ("Max processes", "0"),
        ("Max stack size", "8388608"),
        ("Max data size", "536870912"),
        ("Max address space", "536870912"),
    ] {
        assert_eq!(limit(&limits, name), [expected, expected], "{name}");
    }
    assert_eq!(of("environ").unwrap_or_default(), "");
    assert_eq!(of("oom_score_adj").unwrap().trim(), "1000");
    let mut stdin = evaluator.stdin.take().unwrap();
    let question = json!({
        "name": "init.rego",
        "source": "package spacelift\ndeny := set()",
        "input": {},
    });
    stdin.write_all(question.to_string().as_bytes()).unwrap();
    drop(stdin);
    let mut answer = String::new();
    evaluator.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, r#"{"Decided":{"denials":[],"sample":false}}"#);
    assert!(evaluator.wait().unwrap().success());
}

#[test]
fn a_person_who_finds_the_marker_is_told_what_the_arguments_are() {
    let output = Command::new(LAUNCHER).arg(MARKER).env("HOME", "/").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(MARKER) && said.contains("--help"), "{said}");
}
