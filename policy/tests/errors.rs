//! What is said about policies that cannot be used, and that each of them ends in a denial.

mod support;

use std::fmt::Write;
use std::time::Duration;

use gantry_policy::{EvaluateError, LONGEST_SOURCE, Policy};
use serde_json::json;
use support::{evaluate, example};

#[test]
fn compile_errors_say_what_is_wrong_where_and_what_to_do() {
    let sources = [
        ("empty", "  \n"),
        ("another package", "# mine\npackage terraform\ndeny[\"x\"] { true }"),
        ("no package", "deny[\"x\"] { true }"),
        ("broken v0", "package spacelift\n\ndeny[\"x\"] { input.run. }\n"),
        ("broken v1", "package spacelift\n\ndeny contains \"x\" if { input.run. }\n"),
        ("unclosed", "package spacelift\ndeny[\"x\"] {\n  true\n"),
        ("unsafe variable", "package spacelift\ndeny[\"x\"] {\n  y == 1\n}\n"),
        ("unsafe variable in v1", "package spacelift\ndeny contains \"x\" if {\n  y == 1\n}\n"),
        (
            "http.send",
            "package spacelift\ndeny[\"x\"] {\n  http.send({\"method\": \"get\", \"url\": \"u\"}).status_code != 200\n}\n",
        ),
        ("opa.runtime", "package spacelift\ndeny contains opa.runtime().env.TOKEN if true\n"),
        ("rego.parse_module", "package spacelift\ndeny[\"x\"] { rego.parse_module(\"a\", \"b\") }"),
        ("time.now_ns", "package spacelift\ndeny[\"late\"] {\n  time.now_ns() > 5\n}"),
        ("trace", "package spacelift\ndeny[\"x\"] { trace(\"note\") }"),
        ("exec", "package spacelift\ndeny[\"x\"] { exec([\"verify\"]).status != 0 }"),
        ("unknown function", "package spacelift\ndeny[\"x\"] { crypto.sha999(\"x\") == \"y\" }"),
        (
            "a local name that is a rule",
            "package spacelift\nbranch := 1\ndeny contains \"x\" if {\n  some branch in [2]\n  branch == 2\n}\n",
        ),
        ("only a sample", "package spacelift\nsample { true }"),
        ("denny", "package spacelift\n\ndenny[\"x\"] { true }"),
        ("denny in v1", "package spacelift\ndefault denny := set()\ndenny contains \"x\" if true"),
        ("Deny", "package spacelift\nDeny contains \"x\" if true"),
        ("reject", "package spacelift\nreject contains \"x\" if true"),
        ("warn", "package spacelift\nwarn contains \"x\" if true"),
        ("only a comment", "package spacelift\n# deny contains \"x\" if true"),
        ("recursion", "package spacelift\nf(x) := f(x + 1)\ndeny contains \"x\" if f(1)"),
        ("in without import", "package spacelift\ndeny[\"x\"] { some m in [1] }"),
        ("every without import", "package spacelift\ndeny[\"x\"] { every m in [1] { m == 1 } }"),
        ("in without import or some", "package spacelift\ndeny[\"x\"] { 1 in [1] }"),
        ("re_match in v1", "package spacelift\ndeny contains \"x\" if re_match(\"a\", \"b\")\n"),
    ];
    let mut said = String::new();
    for (name, source) in sources {
        let error = Policy::compile("init.rego", source).expect_err(name);
        writeln!(said, "{name}\n  {error}\n").expect("a string takes everything");
    }
    insta::assert_snapshot!(said);
}

#[test]
fn a_source_beyond_the_limit_is_refused() {
    let source = format!("package spacelift\n#{}", "x".repeat(LONGEST_SOURCE));
    let error = Policy::compile("init.rego", &source).expect_err("it is too long");
    assert_eq!(
        error.to_string(),
        "init.rego: the policy has 1048595 bytes, more than 1048576: shorten it"
    );
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    for open in ["[", "{", "(", "not ", "{\"a\":", "[x | x := "] {
        let source = format!("package spacelift\ndeny[m] {{ m := {} }}", open.repeat(20_000));
        Policy::compile("init.rego", &source).expect_err("it is nested too deep");
    }
}

#[test]
fn an_endless_expression_is_an_error_and_not_a_crash() {
    let long = |part: &str, rest: &str| {
        format!("package spacelift\ndeny[m] {{ m := {}{rest} }}", part.repeat(15_000))
    };
    for (part, rest) in [
        ("-", "1"),
        ("- ", "1"),
        ("1 + ", "1"),
        ("1 +\n", "1"),
        ("1\n+ ", "1"),
        ("1 == ", "1"),
        ("1 in ", "[]"),
        ("x | ", "x"),
        ("input.a & ", "x"),
        ("f(1) - ", "1"),
        ("\"a\" + # b\n", "1"),
    ] {
        let error = Policy::compile("init.rego", &long(part, rest)).expect_err("it is too long");
        let said = error.to_string();
        assert!(said.contains("an expression has more than 128 operators"), "{part}: {said}");
    }
    for part in [".a", "[0]", "[\"a\"].b"] {
        let source = format!("package spacelift\ndeny[m] {{ m := input{} }}", part.repeat(15_000));
        Policy::compile("init.rego", &source).expect_err("it is too long");
    }
}

/// On a thread with as little stack as any of the launcher's has, and in no time.
#[test]
fn what_is_as_long_and_deep_as_it_may_be_is_evaluated() {
    let nested =
        |open: &str, close: &str, depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    for expression in [
        format!("1{}", " + 1".repeat(120)),
        format!("{}1", "- ".repeat(120)),
        format!("{{\"a\": 1}}{}", "[\"a\"]".repeat(120)),
        format!("{{1}}{}", " | {1}".repeat(60)),
        nested("abs(", ")", 60),
        nested("[x | x := ", "]", 12),
        nested("[", "]", 12),
        nested("{\"a\": ", "}", 12),
    ] {
        let source = format!("package spacelift\ndeny[\"m\"] {{ x := {expression}; x != 7 }}");
        let policy = Policy::compile("init.rego", &source).expect("it is short enough");
        drop(policy.evaluate(&json!({}), std::time::SystemTime::UNIX_EPOCH));
    }
}

/// Many expressions are no long one, however they are set apart.
#[test]
fn a_long_policy_of_short_expressions_is_fine() {
    let lines = "  a.b == 1\n  not c.d > 2; e[0].f | {1}\n".repeat(300);
    let list = "a.b, ".repeat(3000);
    let source = format!("package spacelift\na := 1\ndeny[\"m\"] {{\n{lines} x := [{list}1] }}\n");
    if let Err(error) = Policy::compile("init.rego", &source) {
        assert!(!error.to_string().contains("operators"), "{error}");
    }
}

/// As many names as fit into a line: finding the column of each took minutes.
#[test]
fn a_line_of_a_megabyte_is_refused_without_delay() {
    let source = format!("package spacelift\nx := [{}1]", "a,".repeat(500_000));
    let error = Policy::compile("init.rego", &source).expect_err("the line is too long");
    assert!(error.to_string().contains("exceeds maximum column width"), "{error}");
}

#[test]
fn evaluations_without_a_clear_answer_are_errors() {
    let sources = [
        ("deny is a boolean", "package spacelift\ndeny { true }"),
        ("deny is a string", "package spacelift\ndeny = \"no\""),
        ("deny is an object", "package spacelift\ndeny[x] = y { x := \"a\"; y := 1 }"),
        ("deny is an array", "package spacelift\ndeny := [\"no\"]"),
        ("deny is undefined", "package spacelift\ndeny := {\"no\"} if input.nowhere"),
        ("deny holds a number", "package spacelift\ndeny[x] { x := 7 }"),
        ("sample is a string", "package spacelift\ndeny[\"x\"] { false }\nsample = \"yes\""),
        (
            "a builtin fails",
            "package spacelift\ndeny[\"x\"] {\n  to_number(input.stack.name) > 3\n}",
        ),
        ("two values", "package spacelift\nwho = 1\nwho = 2\ndeny[\"x\"] { who == 1 }"),
        (
            "a refused function by another way",
            "package spacelift\ndeny[\"x\"] { time[\"now_ns\"]() > 5 }",
        ),
        (
            "an unknown function by another way",
            "package spacelift\ndeny[\"x\"] { crypto[\"md5\"](\"a\") == \"b\" }",
        ),
        (
            "not a string to verify",
            "package spacelift\ndeny[\"x\"] { io.jwt.verify_hs256(7, \"s\") }",
        ),
        ("no key", "package spacelift\ndeny[\"x\"] { io.jwt.decode_verify(\"a.b.c\", {}) }"),
        (
            "an empty key",
            "package spacelift\ndeny[\"x\"] { io.jwt.decode_verify(\"a.b.c\", {\"secret\": \"\"}) }",
        ),
        (
            "unknown constraint",
            "package spacelift\ndeny[\"x\"] { io.jwt.decode_verify(\"a.b.c\", {\"secret\": \"hunter2\", \"leeway\": 1}) }",
        ),
        (
            "a bad certificate",
            "package spacelift\ndeny[\"x\"] { io.jwt.decode_verify(\"a.b.c\", {\"cert\": \"x\"}) }",
        ),
        ("a malformed token", "package spacelift\ndeny[\"x\"] { io.jwt.decode(\"a.b.c\") }"),
    ];
    let mut said = String::new();
    for (name, source) in sources {
        let error = evaluate(source, &example().to_value()).expect_err(name);
        assert!(!error.to_string().contains("hunter2"), "{error}");
        writeln!(said, "{name}\n  {error}\n").expect("a string takes everything");
    }
    insta::assert_snapshot!(said);
}

/// In v0 `if` is a mere name, and what follows another rule: such a policy would let runs through.
#[test]
fn a_broken_v1_policy_is_never_taken_for_a_v0_one() {
    let source = "package spacelift\ndeny contains \"x\" if re_match(\"a\", \"a\")\n";
    Policy::compile("init.rego", source).expect_err("it is no v1");
}

#[test]
fn an_endless_evaluation_ends_at_the_limit() {
    let source = "package spacelift
n := numbers.range(1, 3000)
deny[\"x\"] { a := n[_]; b := n[_]; c := n[_]; a * b * c == 1.5 }";
    let policy = Policy::compile("init.rego", source)
        .expect("it compiles")
        .with_time_limit(Duration::from_millis(50));
    let error = policy.evaluate(&json!({}), support::now()).expect_err("it cannot end");
    assert!(matches!(error, EvaluateError::TimedOut { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "init.rego: the policy took longer than 50ms: the run is denied; make the policy simpler"
    );
}

#[test]
fn a_policy_is_not_shown_in_debug_output() {
    let policy = Policy::compile(
        "init.rego",
        "package spacelift\nkey := \"hunter2\"\ndeny[\"x\"] { false }",
    );
    assert_eq!(format!("{policy:?}"), "Ok(Policy { name: \"init.rego\", version: V0, .. })");
}
