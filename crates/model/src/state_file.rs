//! What a Terraform state says of itself, and whether one may take the place of another.
//!
//! A state that the tool cannot read makes every later run fail, so nothing becomes a stack's state
//! that is not one. Only whoever has it in the clear can tell: the worker binary when it takes one in,
//! the launcher before it seals one, the command line before it pushes one.

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The largest state version, in bytes. Nothing holds a whole one in memory.
pub const MAX_STATE: u64 = 1 << 30;
/// The longest lineage of a state, in bytes. Terraform's has 36.
pub const MAX_LINEAGE: usize = 256;
/// The highest serial that every reader of JSON keeps exact.
pub const MAX_SERIAL: u64 = (1 << 53) - 1;
/// The version of the format that Terraform has written since 0.12.
const FORMAT: u64 = 4;

/// Serial and lineage of a state: what tells one version of it from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateHeading {
    /// Rises with each change.
    pub serial: u64,
    /// Made when the state began, and kept.
    pub lineage: String,
}

/// Why a file is no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidState {
    /// It is not JSON, or not in the shape of a state.
    #[error("it is not a Terraform state, by line {line}, column {column}")]
    Shape {
        /// Line of the first mistake.
        line: usize,
        /// Column of the first mistake.
        column: usize,
    },
    /// It ends too early or cannot be read.
    #[error("it cannot be read to its end")]
    Cut,
    /// Its format is not the present one.
    #[error(
        "its version is not {FORMAT}, the state format of Terraform since 0.12 and of OpenTofu"
    )]
    Version,
    /// No Terraform can parse its `terraform_version`.
    #[error("its terraform_version is not a version")]
    ToolVersion,
    /// It has no lineage, or an endless one.
    #[error("its lineage is not 1 to {MAX_LINEAGE} bytes")]
    Lineage,
    /// Its serial is out of range.
    #[error("its serial is higher than {MAX_SERIAL}")]
    Serial,
}

impl StateHeading {
    /// Reads a state to its end, without keeping it, and checks what Terraform checks when it opens one.
    ///
    /// # Errors
    /// When Terraform could not open it. The message quotes nothing of it.
    pub fn read(source: impl Read) -> Result<Self, InvalidState> {
        let file: File =
            serde_json::from_reader(std::io::BufReader::new(source)).map_err(|error| {
                let is_cut = error.is_io() || error.is_eof();
                let (line, column) = (error.line(), error.column());
                if is_cut { InvalidState::Cut } else { InvalidState::Shape { line, column } }
            })?;
        // What OpenTofu encrypts shows serial and lineage alone.
        let is_known = match (&file.encryption_version, &file.encrypted_data) {
            (Some(_), Some(_)) => true,
            (_, _) => file.version == Some(FORMAT),
        };
        if !is_known {
            return Err(InvalidState::Version);
        }
        if !file.terraform_version.is_none_or(|version| is_version(&version)) {
            return Err(InvalidState::ToolVersion);
        }
        if !(1..=MAX_LINEAGE).contains(&file.lineage.len()) {
            return Err(InvalidState::Lineage);
        }
        if file.serial > MAX_SERIAL {
            return Err(InvalidState::Serial);
        }
        Ok(Self { serial: file.serial, lineage: file.lineage })
    }

    /// Whether this version may follow `present` in a run that plans and applies: Terraform keeps the
    /// lineage then and counts the serial up. Another one comes from a person's
    /// `terraform state push -force`, and belongs in a task.
    #[must_use]
    pub fn follows(&self, present: &Self) -> bool {
        self.lineage == present.lineage && self.serial > present.serial
    }
}

/// As far as Terraform's own parser of versions goes.
fn is_version(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || ".-+~".contains(c);
    text.is_empty() || (text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(is_part))
}

#[derive(Deserialize)]
struct File {
    version: Option<u64>,
    serial: u64,
    lineage: String,
    terraform_version: Option<String>,
    encryption_version: Option<IgnoredAny>,
    encrypted_data: Option<IgnoredAny>,
    #[serde(default, rename = "outputs")]
    _outputs: Option<Named<Output>>,
    #[serde(default, rename = "resources")]
    _resources: Option<Each<Resource>>,
}

#[derive(Deserialize)]
struct Output {
    #[serde(rename = "value")]
    _value: IgnoredAny,
    #[serde(rename = "type")]
    _type: IgnoredAny,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(rename = "mode")]
    _mode: Mode,
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "provider")]
    _provider: String,
    #[serde(default, rename = "instances")]
    _instances: Option<Each<Named<IgnoredAny>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Managed,
    Data,
    Ephemeral,
}

/// A list each of whose members is a `T`. None is kept: a state may be large.
struct Each<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Each<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Each<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Each<T>, A::Error> {
                while list.next_element::<T>()?.is_some() {}
                Ok(Each(PhantomData))
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// An object each of whose members is a `T`. None is kept.
struct Named<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                while map.next_entry::<IgnoredAny, T>()?.is_some() {}
                Ok(Named(PhantomData))
            }
        }
        deserializer.deserialize_map(Object(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<StateHeading, InvalidState> {
        StateHeading::read(text.as_bytes())
    }

    #[test]
    fn a_state_names_its_serial_and_lineage() {
        let whole = r#"{"version":4,"terraform_version":"1.11.4","serial":7,"lineage":"a-b",
            "outputs":{"o":{"value":1,"type":"number"}},"resources":[{"mode":"managed","type":"t","name":"n",
            "provider":"p","instances":[{"attributes":{"deep":[[[]]]}}]}],"check_results":null}"#;
        let heading = StateHeading { serial: 7, lineage: "a-b".to_owned() };
        assert_eq!(read(whole), Ok(heading.clone()));
        let empty = r#"{"version":4,"serial":7,"lineage":"a-b","resources":[],"outputs":{}}"#;
        assert_eq!(read(empty), Ok(heading.clone()));
        let encrypted = r#"{"serial":7,"lineage":"a-b","meta":{},"encrypted_data":"eA==","encryption_version":"v0"}"#;
        assert_eq!(read(encrypted), Ok(heading));
    }

    /// Each of these made every later `terraform init` of the stack fail.
    #[test]
    fn what_terraform_cannot_open_is_no_state() {
        let with = |more: &str| format!(r#"{{"version":4,"serial":1,"lineage":"a"{more}}}"#);
        for (wrong, why) in [
            (r#"{"serial":1,"lineage":"a"}"#.to_owned(), InvalidState::Version),
            (r#"{"version":5,"serial":1,"lineage":"a"}"#.to_owned(), InvalidState::Version),
            (r#"{"version":4,"serial":1,"lineage":""}"#.to_owned(), InvalidState::Lineage),
            (
                format!(r#"{{"version":4,"serial":1,"lineage":"{}"}}"#, "x".repeat(257)),
                InvalidState::Lineage,
            ),
            (
                format!(r#"{{"version":4,"serial":{},"lineage":"a"}}"#, u64::MAX),
                InvalidState::Serial,
            ),
            (with(r#","terraform_version":"latest""#), InvalidState::ToolVersion),
            (with("")[..20].to_owned(), InvalidState::Cut),
        ] {
            assert_eq!(read(&wrong), Err(why), "{wrong}");
        }
        for wrong in [
            "hello".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            with("") + " x",
            r#"{"version":4,"serial":-1,"lineage":"a"}"#.to_owned(),
            r#"{"version":"4","serial":1,"lineage":"a"}"#.to_owned(),
            with(r#","resources":5"#),
            with(r#","resources":[5]"#),
            with(r#","resources":[{"mode":"managed"}]"#),
            with(
                r#","resources":[{"mode":"other","type":"t","name":"n","provider":"p","instances":[]}]"#,
            ),
            with(r#","outputs":[]"#),
            with(r#","outputs":{"a":1}"#),
        ] {
            assert!(matches!(read(&wrong), Err(InvalidState::Shape { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_version_follows_within_its_lineage_with_a_higher_serial() {
        let at = |serial, lineage: &str| StateHeading { serial, lineage: lineage.to_owned() };
        assert!(at(2, "a").follows(&at(1, "a")) && at(9, "a").follows(&at(1, "a")));
        assert!(!at(1, "a").follows(&at(1, "a")) && !at(1, "a").follows(&at(2, "a")));
        assert!(!at(2, "b").follows(&at(1, "a")));
    }
}
