//! Functions of time, in the zones that policies name.

mod support;

use serde_json::Value;
use support::{evaluate, example};

/// 2027-01-14, 22:50 in UTC: a Thursday.
const NOW: i64 = 1_799_967_000_000_000_000;

fn now() -> Value {
    let mut input = example();
    input.request.timestamp_ns = NOW;
    input.to_value()
}

#[test]
fn a_policy_keeps_the_hours_and_days_of_a_place() {
    let source = r#"package spacelift

there := [input.request.timestamp_ns, "Asia/Kathmandu"]

deny contains sprintf("%s %v", [time.weekday(there), time.clock(there)]) if true

deny contains time.format([input.request.timestamp_ns, "America/New_York", "RFC1123Z"]) if true
"#;
    let decision = evaluate(source, &now()).unwrap();
    assert_eq!(decision.denials, ["Friday [4, 35, 0]", "Thu, 14 Jan 2027 17:50:00 -0500"]);
}

#[test]
fn a_zone_that_does_not_exist_fails_the_evaluation() {
    let source = r#"package spacelift

deny contains time.weekday([input.request.timestamp_ns, "Mars/Olympus"]) if true
"#;
    let failed = evaluate(source, &now()).unwrap_err();
    assert!(failed.to_string().contains("there is no time zone of that name"), "{failed}");
}
