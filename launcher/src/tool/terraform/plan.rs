//! What a plan, as the tool shows it in JSON, would change.
//!
//! It is read as it comes and nothing of it is kept but counts, so its size costs time alone.

use std::fmt;
use std::io::{BufReader, Read};

use gantry_protocol::message::Delta;
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::tool::Planned;
use crate::tool::bounded::Bounded;

/// The format's major version that is understood here.
const FORMAT: &str = "1.";

/// Reads a plan.
///
/// # Errors
/// When it is no plan of a format that is known here.
pub(super) fn read_plan(plan: impl Read) -> Result<Planned, serde_json::Error> {
    let reader = BufReader::with_capacity(64 << 10, Bounded::new(plan));
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let plan = PlanVisitor::default().read(&mut deserializer)?;
    deserializer.end()?;
    Ok(plan)
}

#[derive(Default)]
struct PlanVisitor {
    delta: Delta,
    changes: bool,
}

impl PlanVisitor {
    fn read<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<Planned, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn resource(&mut self, resource: &Resource) {
        let change = &resource.change;
        let delta = &mut self.delta;
        for action in &change.actions.0 {
            match action {
                Action::Create => delta.add += 1,
                Action::Update => delta.change += 1,
                Action::Delete => delta.delete += 1,
                Action::Forget => delta.forget += 1,
                Action::NoOp | Action::Read | Action::Other => {}
            }
        }
        let is_imported = change.importing.is_some();
        let is_moved = resource.previous_address.is_some();
        delta.import += u64::from(is_imported);
        delta.moved += u64::from(is_moved);
        self.changes |= change.is_change() || is_imported || is_moved;
    }
}

impl<'de> Visitor<'de> for PlanVisitor {
    type Value = Planned;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plan")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Planned, A::Error> {
        let mut applyable = None;
        let mut is_known = false;
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::FormatVersion => {
                    let version: String = map.next_value()?;
                    if !version.starts_with(FORMAT) {
                        let what = format!("a plan of format {version}, and only 1 is known here");
                        return Err(A::Error::custom(what));
                    }
                    is_known = true;
                }
                Key::ResourceChanges => {
                    let each = |resource: Resource| self.resource(&resource);
                    map.next_value_seed(Each(each, std::marker::PhantomData))?;
                }
                Key::OutputChanges => {
                    let each = |change: Change| self.changes |= change.is_change();
                    map.next_value_seed(Each(each, std::marker::PhantomData))?;
                }
                Key::Applyable => applyable = map.next_value::<Option<bool>>()?,
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if !is_known {
            return Err(A::Error::missing_field("format_version"));
        }
        // Older tools do not say it, and mean what was counted.
        Ok(Planned { delta: Some(self.delta), has_changes: applyable.unwrap_or(self.changes) })
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    FormatVersion,
    ResourceChanges,
    OutputChanges,
    Applyable,
    #[serde(other)]
    Other,
}

/// Gives each element of a list, or each value of a map, to a function and keeps none.
struct Each<F, T>(F, std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>, F: FnMut(T)> DeserializeSeed<'de> for Each<F, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T)> Visitor<'de> for Each<F, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("changes")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(one) = list.next_element()? {
            (self.0)(one);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((_, one)) = map.next_entry::<IgnoredAny, T>()? {
            (self.0)(one);
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Resource {
    change: Change,
    /// Where it stood before, if it is moved.
    #[serde(default)]
    previous_address: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Change {
    #[serde(default)]
    actions: Actions,
    /// What is to be imported, if something is.
    #[serde(default)]
    importing: Option<IgnoredAny>,
}

impl Change {
    fn is_change(&self) -> bool {
        self.actions.0.iter().any(|action| !matches!(action, Action::NoOp | Action::Read))
    }
}

/// The first of them: the tool names two at most.
#[derive(Default)]
struct Actions(Vec<Action>);

impl<'de> Deserialize<'de> for Actions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut actions = Vec::new();
        let each = |action| {
            if actions.len() < 4 {
                actions.push(action);
            }
        };
        Each(each, std::marker::PhantomData).deserialize(deserializer)?;
        Ok(Self(actions))
    }
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Action {
    NoOp,
    Read,
    Create,
    Update,
    Delete,
    /// Leaves the state alone.
    Forget,
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(plan: &str) -> Planned {
        read_plan(format!("{{\"format_version\":\"1.2\",{plan}}}").as_bytes()).unwrap()
    }

    #[test]
    fn a_plan_is_counted() {
        let planned = read(
            r#""resource_changes":[{"change":{"actions":["create"]}},{"change":{"actions":["delete","create"]}},
            {"change":{"actions":["no-op"]}},{"change":{"actions":["forget"]}}],"output_changes":{"a":{"actions":["create"]}}"#,
        );
        let delta = Delta { add: 2, delete: 1, forget: 1, ..Delta::default() };
        assert_eq!(planned, Planned { delta: Some(delta), has_changes: true });
        let same = r#""resource_changes":[{"change":{"actions":["no-op"]}}],"output_changes":{"a":{"actions":["no-op"]}}"#;
        let none = Planned { delta: Some(Delta::default()), has_changes: false };
        assert_eq!(read(same), none);
    }

    #[test]
    fn imports_moves_and_outputs_are_changes_whether_the_tool_says_so_or_not() {
        let import =
            r#""resource_changes":[{"change":{"actions":["no-op"],"importing":{"id":"x"}}}]"#;
        let moved =
            r#""resource_changes":[{"previous_address":"a.b","change":{"actions":["no-op"]}}]"#;
        let output = r#""output_changes":{"a":{"actions":["update"]}}"#;
        for (plan, delta) in [
            (import, Delta { import: 1, ..Delta::default() }),
            (moved, Delta { moved: 1, ..Delta::default() }),
            (output, Delta::default()),
        ] {
            assert_eq!(read(plan), Planned { delta: Some(delta), has_changes: true }, "{plan}");
            let said = format!("{plan},\"applyable\":true");
            assert_eq!(read(&said), Planned { delta: Some(delta), has_changes: true }, "{plan}");
        }
        // A plan that only refreshes changes nothing that is counted.
        assert!(read("\"resource_changes\":[],\"applyable\":true").has_changes);
        assert!(!read("\"resource_changes\":null,\"applyable\":false").has_changes);
    }

    #[test]
    fn what_is_no_plan_of_a_known_format_is_none() {
        let other = read_plan(&br#"{"format_version":"2.0"}"#[..]).unwrap_err().to_string();
        assert!(other.contains("a plan of format 2.0"), "{other}");
        for none in ["{", "{}", "[]", "{\"format_version\":\"1.2\"} x"] {
            assert!(read_plan(none.as_bytes()).is_err(), "{none}");
        }
    }

    /// What a million resources take of memory does not depend on their number: nothing of them is kept.
    #[test]
    fn what_could_take_memory_without_end_is_no_plan() {
        let long = format!("{{\"{}\":1}}", "k".repeat(crate::tool::bounded::MAX_STRING + 1));
        let deep = format!("{{\"format_version\":\"1.2\",\"a\":{}", "[".repeat(100_000));
        for hostile in [long, deep] {
            assert!(read_plan(hostile.as_bytes()).is_err());
        }
    }
}
