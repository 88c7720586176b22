//! The outputs, as the tool shows them in JSON.

use std::fmt;
use std::io::{self, Read};

use gantry_protocol::message::Output;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::bounded::Bounded;
use super::number;
use crate::mask::Secrets;

/// The largest value of an output that is reported, in bytes of JSON: it must fit one message.
const MAX_OUTPUT: usize = 40 << 10;
/// The most outputs that are reported, and the most bytes of them: they must fit the journal.
const MAX_OUTPUTS: usize = 5000;
const MAX_OUTPUT_BYTES: usize = 384 << 10;
/// What one of these takes in a message beside name and value.
const AROUND: usize = 64;

/// What is reported of the outputs.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Those that are, in the tool's order; of a large one the name alone.
    pub reported: Vec<Output>,
    /// How many values or whole outputs are left out for their size.
    pub left_out: usize,
}

#[derive(Deserialize)]
struct Shown {
    #[serde(default)]
    sensitive: bool,
    /// As it is spelled: a small text can become a large value.
    #[serde(default = "null")]
    value: Box<RawValue>,
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// The first outputs. The others are passed over unread.
struct First {
    shown: Vec<(String, Shown)>,
    passed_over: usize,
}

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Outputs;
        impl<'de> Visitor<'de> for Outputs {
            type Value = First;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of outputs")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<First, A::Error> {
                let mut first = Vec::new();
                while first.len() < MAX_OUTPUTS {
                    let Some(entry) = map.next_entry::<String, Shown>()? else {
                        return Ok(First { shown: first, passed_over: 0 });
                    };
                    first.push(entry);
                }
                let mut passed_over = 0;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    passed_over += 1;
                }
                Ok(First { shown: first, passed_over })
            }
        }
        deserializer.deserialize_map(Outputs)
    }
}

/// The outputs, as JSON shows them, with secrets masked and sensitive values left out.
///
/// # Errors
/// When they are none.
pub fn read_outputs(outputs: impl Read, secrets: &Secrets) -> Result<Outputs, serde_json::Error> {
    let First { shown, mut passed_over } =
        serde_json::from_reader(io::BufReader::new(Bounded::new(outputs)))?;
    let mut room = MAX_OUTPUT_BYTES;
    let mut reported = Vec::new();
    for (name, shown) in shown {
        let name: String = secrets.hide(&name).chars().take(200).collect();
        // As JSON spells it: a control character takes six bytes.
        let spelled = serde_json::to_string(&name)?.len();
        let Some(left) = room.checked_sub(spelled + AROUND) else {
            passed_over += 1;
            continue;
        };
        room = left;
        let raw = shown.value.get();
        let fits = |size: usize| size <= MAX_OUTPUT.min(left);
        let value = (!shown.sensitive && fits(raw.len()))
            .then(|| serde_json::from_str(&number::quoted(raw)).ok())
            .flatten()
            .map(|value| secrets.hide_in(value))
            .filter(|value| fits(value.to_string().len()));
        room -= value.as_ref().map_or(0, |value| value.to_string().len());
        passed_over += usize::from(value.is_none() && !shown.sensitive);
        reported.push(Output { name, is_sensitive: shown.sensitive, value });
    }
    Ok(Outputs { reported, left_out: passed_over })
}

/// Cuts them into lists that each fit a message of `limit` bytes.
#[must_use]
pub fn in_messages(outputs: Vec<Output>, limit: usize) -> Vec<Vec<Output>> {
    let mut lists: Vec<Vec<Output>> = Vec::new();
    let mut room = 0;
    for output in outputs {
        let size = serde_json::to_string(&output).map_or(0, |json| json.len() + 1);
        match lists.last_mut() {
            Some(list) if size <= room => list.push(output),
            Some(_) | None => {
                room = limit;
                lists.push(vec![output]);
            }
        }
        room = room.saturating_sub(size);
    }
    lists
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn read(shown: &str) -> Outputs {
        read_outputs(shown.as_bytes(), &Secrets::default()).unwrap()
    }

    #[test]
    fn large_and_many_outputs_are_reported_up_to_what_fits_and_the_rest_is_counted() {
        let mut shown = format!("{{\"a\":{{\"value\":\"{}\"}}", "x".repeat(10 << 10));
        for n in 0..600 {
            write!(shown, ",\"n{n}\":{{\"value\":{n}}}").unwrap();
        }
        let Outputs { reported, left_out } = read(&format!("{shown}}}"));
        assert_eq!((reported.len(), left_out), (601, 0));
        assert!(reported.iter().all(|output| output.value.is_some()));
        let large = "x".repeat(MAX_OUTPUT);
        let Outputs { reported, left_out } =
            read(&format!("{shown},\"z\":{{\"value\":\"{large}\"}}}}"));
        assert_eq!((reported.len(), left_out), (602, 1));
        assert_eq!(
            (&reported[601].value, &reported[600].value),
            (&None, &Some(serde_json::json!(599)))
        );
    }

    /// One write of the journal takes them all, and would fail for ever if it were too large.
    #[test]
    fn names_are_counted_as_they_are_written() {
        let names = (0..1489).map(|n| format!("{n:04}{}", "\u{1}".repeat(196)));
        let outputs = names.map(|name| (name, serde_json::json!({ "sensitive": true })));
        let shown = serde_json::Value::Object(outputs.collect()).to_string();
        let Outputs { reported, left_out } = read(&shown);
        assert!(left_out > 0);
        assert!(serde_json::to_string(&reported).unwrap().len() <= MAX_OUTPUT_BYTES);
    }

    #[test]
    fn outputs_beyond_what_is_reported_are_not_even_read() {
        let mut shown = format!("{{\"a\":{{\"value\":\"{}\"}}", "[0,".repeat(30_000));
        for n in 0..2 * MAX_OUTPUTS {
            write!(shown, ",\"n{n}\":{{\"value\":{n}}}").unwrap();
        }
        let Outputs { reported, left_out } = read(&format!("{shown}}}"));
        assert_eq!((reported.len(), left_out), (MAX_OUTPUTS, MAX_OUTPUTS + 2));
        let json = serde_json::to_string(&reported).unwrap();
        assert!(json.len() < MAX_OUTPUT_BYTES + MAX_OUTPUTS);
    }

    #[test]
    fn each_message_has_as_many_as_fit() {
        let output = |size: usize| Output {
            name: "a".into(),
            is_sensitive: false,
            value: Some("x".repeat(size).into()),
        };
        let lists = in_messages(vec![output(10), output(500), output(500), output(5000)], 1000);
        let sizes: Vec<_> = lists.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 1]);
        assert!(in_messages(Vec::new(), 1).is_empty());
    }

    #[test]
    fn outputs_carry_no_secret() {
        let mut secrets = Secrets::default();
        secrets.insert("A", b"hunter22").unwrap();
        let shown = r#"{"a":{"sensitive":false,"value":{"url":"x:hunter22@y"}},"b":{"sensitive":true,"value":"z"}}"#;
        let outputs = read_outputs(shown.as_bytes(), &secrets).unwrap().reported;
        assert_eq!(outputs[0].value, Some(serde_json::json!({"url": "x:*****@y"})));
        assert_eq!((outputs[1].is_sensitive, &outputs[1].value), (true, &None));
    }
}
