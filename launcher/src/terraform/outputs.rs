//! The outputs, as the tool shows them in JSON.

use std::fmt;
use std::io::{self, Read};

use gantry_protocol::message::Output;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::number;
use crate::mask::Secrets;

/// The largest value of an output that is reported, in bytes of JSON.
const MAX_OUTPUT: usize = 4 << 10;
/// The most outputs that are reported, and the most bytes of them: they must fit one message.
const MAX_OUTPUTS: usize = 500;
const MAX_OUTPUT_BYTES: usize = 32 << 10;

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
struct First(Vec<(String, Shown)>);

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
                        return Ok(First(first));
                    };
                    first.push(entry);
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(First(first))
            }
        }
        deserializer.deserialize_map(Outputs)
    }
}

/// The outputs, as JSON shows them, with secrets masked and sensitive values left out.
///
/// # Errors
/// When they are none.
pub fn read_outputs(
    outputs: impl Read,
    secrets: &Secrets,
) -> Result<Vec<Output>, serde_json::Error> {
    let First(shown) = serde_json::from_reader(io::BufReader::new(outputs))?;
    let mut room = MAX_OUTPUT_BYTES;
    Ok(shown
        .into_iter()
        .map(|(name, shown)| {
            let raw = shown.value.get();
            let is_reported = !shown.sensitive && raw.len() <= MAX_OUTPUT;
            let value =
                is_reported.then(|| serde_json::from_str(&number::quoted(raw)).ok()).flatten();
            let value = value.map(|value| secrets.hide_in(value)).filter(|value| {
                let size = value.to_string().len();
                let fits = size <= MAX_OUTPUT && size <= room;
                room -= if fits { size } else { 0 };
                fits
            });
            let name = secrets.hide(&name).chars().take(200).collect();
            Output { name, is_sensitive: shown.sensitive, value }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn outputs_beyond_what_is_reported_are_not_even_read() {
        let large = "[0,".repeat(3000);
        let mut shown = format!("{{\"a\":{{\"value\":\"{large}\"}}");
        for n in 0..2000 {
            write!(shown, ",\"n{n}\":{{\"value\":{n}}}").unwrap();
        }
        shown.push('}');
        let outputs = read_outputs(shown.as_bytes(), &Secrets::default()).unwrap();
        assert_eq!(outputs.len(), MAX_OUTPUTS);
        assert_eq!((&outputs[0].value, &outputs[1].value), (&None, &Some(serde_json::json!(0))));
    }

    #[test]
    fn outputs_carry_no_secret() {
        let mut secrets = Secrets::default();
        secrets.insert("A", b"hunter22").unwrap();
        let shown = r#"{"a":{"sensitive":false,"value":{"url":"x:hunter22@y"}},"b":{"sensitive":true,"value":"z"}}"#;
        let outputs = read_outputs(shown.as_bytes(), &secrets).unwrap();
        assert_eq!(outputs[0].value, Some(serde_json::json!({"url": "x:*****@y"})));
        assert_eq!((outputs[1].is_sensitive, &outputs[1].value), (true, &None));
    }
}
