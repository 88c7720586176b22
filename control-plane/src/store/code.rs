//! How values stand in columns.

use std::str::FromStr;

use gantry_model::{RunState, RunType, Section, Stage, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

fn unknown(kind: &'static str, text: &str) -> StoreError {
    StoreError::Value { kind, text: text.chars().take(64).collect() }
}

/// A count or length for a BIGINT column. What is larger than any real one becomes the largest.
pub(crate) fn to_db(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A count or length from a BIGINT column.
pub(crate) fn from_db(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// An instant from a BIGINT column.
pub(crate) fn at(value: i64) -> Timestamp {
    Timestamp(from_db(value))
}

/// An instant from a BIGINT column that may be NULL.
pub(crate) fn maybe_at(value: Option<i64>) -> Option<Timestamp> {
    value.map(at)
}

/// An id from a TEXT column.
pub(crate) fn id<T: FromStr>(kind: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| unknown(kind, text))
}

/// A value for a JSON column.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our own types have string keys and finite numbers")
}

/// A value from a JSON column.
pub(crate) fn json<T: DeserializeOwned>(kind: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| unknown(kind, text))
}

/// A run's state from its name.
pub(crate) fn run_state(text: &str) -> Result<RunState, StoreError> {
    json("run state", &format!("{text:?}"))
}

/// A run's type from its name.
pub(crate) fn run_type(text: &str) -> Result<RunType, StoreError> {
    json("run type", &format!("{text:?}"))
}

/// A stage from its name.
pub(crate) fn stage(text: &str) -> Result<Stage, StoreError> {
    json("stage", &format!("{text:?}"))
}

const SECTIONS: [Section; 7] = [
    Section::Prepare,
    Section::Initialize,
    Section::Plan,
    Section::Apply,
    Section::Perform,
    Section::Destroy,
    Section::Conclude,
];

/// A section's place among all sections of an attempt.
pub(crate) fn section_rank(section: Section) -> i64 {
    let rank = SECTIONS.iter().position(|known| *known == section);
    to_db(rank.expect("every section is listed") as u64)
}

/// The section at this place.
pub(crate) fn section(rank: i64) -> Result<Section, StoreError> {
    let found = usize::try_from(rank).ok().and_then(|rank| SECTIONS.get(rank));
    found.copied().ok_or_else(|| unknown("section", &rank.to_string()))
}
