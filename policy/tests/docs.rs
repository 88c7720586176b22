//! `docs/policy.md` is true: its examples do what their comments say, and its input is the input.

mod support;

use serde_json::Value;
use support::{evaluate, example};

const PAGE: &str = include_str!("../../docs/policy.md");

/// The texts between the fences of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    PAGE.split(fence.as_str())
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or(rest))
        .collect()
}

/// Lays `changes` over `value`: objects key by key, anything else whole.
fn lay_over(value: &mut Value, changes: Value) {
    match (value, changes) {
        (Value::Object(object), Value::Object(changes)) => {
            for (key, change) in changes {
                lay_over(object.entry(key).or_insert(Value::Null), change);
            }
        }
        (value, changes) => *value = changes,
    }
}

#[test]
fn every_example_does_what_its_comments_say() {
    let examples = blocks("rego");
    assert!(examples.len() >= 7, "the page has its examples");
    for source in examples {
        let mut input = example().to_value();
        let mut outcomes = 0;
        for comment in source.lines().filter_map(|line| line.strip_prefix("# ")) {
            if let Some(changes) = comment.strip_prefix("input: ") {
                lay_over(&mut input, serde_json::from_str(changes).expect("a change is JSON"));
            } else if let Some(outcome) = comment.strip_prefix("outcome: ") {
                let denials = match evaluate(source, &input) {
                    Ok(decision) => decision.denials,
                    Err(error) => panic!("{error}\n{source}"),
                };
                let said = match denials.as_slice() {
                    [] => "allows".to_owned(),
                    denials => format!(
                        "denies {}",
                        denials.iter().map(|m| format!("{m:?}")).collect::<Vec<_>>().join(", ")
                    ),
                };
                assert_eq!(said, outcome, "{source}");
                outcomes += 1;
            }
        }
        assert!(outcomes > 0, "an example says what comes of it\n{source}");
    }
}

#[test]
fn the_input_on_the_page_is_the_input() {
    let shown: Vec<Value> = blocks("json")
        .into_iter()
        .map(|text| serde_json::from_str(text).expect("it is JSON"))
        .collect();
    assert_eq!(shown, [example().to_value()]);
}
