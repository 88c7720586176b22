//! The API's types, named as public clients name them.

pub(super) mod input;
pub(super) mod key;
pub(super) mod log;
pub(super) mod metrics;
pub(super) mod pool;
pub(super) mod run;
pub(super) mod stack;
pub(super) mod tool;
pub(super) mod word;

use async_graphql::{InputValueError, InputValueResult, Scalar, ScalarType, Value};
use gantry_model::Timestamp;

/// A whole number of up to 64 bits, which the `Int` of GraphQL does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Long(pub u64);

/// A whole number from 0 to 2^63 - 1.
#[Scalar(name = "Long")]
impl ScalarType for Long {
    fn parse(value: Value) -> InputValueResult<Self> {
        let number = match &value {
            Value::Number(number) => {
                number.as_u64().filter(|number| i64::try_from(*number).is_ok())
            }
            Value::Null
            | Value::String(_)
            | Value::Boolean(_)
            | Value::Binary(_)
            | Value::Enum(_)
            | Value::List(_)
            | Value::Object(_) => None,
        };
        number.map(Self).ok_or_else(|| InputValueError::expected_type(value))
    }

    fn to_value(&self) -> Value {
        Value::Number(self.0.into())
    }
}

/// Seconds since 1970, as the public API counts.
pub(super) fn seconds(at: Timestamp) -> i64 {
    i64::try_from(at.0 / 1000).unwrap_or(i64::MAX)
}

/// A count for an `Int`.
pub(super) fn count(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The id that a person or a client gave, in whatever case they spell it.
pub(super) fn ulid<T: std::str::FromStr>(id: &str) -> Option<T> {
    // No id is longer, and texts of any length come from outside.
    if id.len() > 64 {
        return None;
    }
    id.to_ascii_uppercase().parse().ok()
}
