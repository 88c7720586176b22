//! What of the launcher's environment runs get, and what of it no log may show.

use std::fmt;

use gantry_model::Stage;

use super::Value;
use super::mount::Stages;
use super::problem::{Problem, Warning};
use super::reader::Reader;

/// The most names in one list.
const MAX_NAMES: usize = 256;
/// What runs must never get: with it they could read everything of the pool.
const NEVER: &[&str] =
    &["SPACELIFT_POOL_PRIVATE_KEY", "SPACELIFT_TOKEN", "GANTRY_FORMER_POOL_KEYS"];

/// A variable and its value.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=[redacted]", self.name)
    }
}

/// A variable that runs get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Name and value, as runs see them.
    pub variable: Secret,
    /// The name that this launcher's environment has it under: with its `ro_` or `wo_`, or without.
    pub source: String,
    /// Which stages get it.
    pub stages: Stages,
}

/// One entry of a list: the name that runs see, and in which stages.
struct Entry<'a> {
    spelled: &'a str,
    name: &'a str,
    stages: Stages,
}

impl<'a> Entry<'a> {
    fn parse(spelled: &'a str) -> Result<Self, Problem> {
        let (name, stages) = match (spelled.strip_prefix("ro_"), spelled.strip_prefix("wo_")) {
            (Some(name), _) => (name, Stages::Only(Stage::Read)),
            (None, Some(name)) => (name, Stages::Only(Stage::Write)),
            (None, None) => (spelled, Stages::All),
        };
        let is_name = !name.starts_with(|c: char| c.is_ascii_digit())
            && (1..=256).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            return Err(Problem::Name(spelled.chars().take(64).collect()));
        }
        Ok(Self { spelled, name, stages })
    }

    /// The host may have the variable with its prefix, as stacks do, or without it.
    fn look_up<'r>(&self, reader: &Reader<'r>) -> Option<(&'a str, &'r str)> {
        [self.spelled, self.name].into_iter().find_map(|name| Some((name, reader.raw(name)?)))
    }
}

/// Reads both lists.
pub(super) fn read(reader: &mut Reader<'_>) -> (Vec<Passed>, Vec<Secret>) {
    let passed = whitelist(reader);
    let masked = mask_list(reader, &passed);
    (passed, masked)
}

fn whitelist(reader: &mut Reader<'_>) -> Vec<Passed> {
    const NAME: &str = "SPACELIFT_WHITELIST_ENVS";
    let mut passed: Vec<Passed> = Vec::new();
    for entry in entries(reader, NAME) {
        if NEVER.contains(&entry.name) || NEVER.contains(&entry.spelled) {
            reader.refuse(NAME, Problem::WouldGiveAway(entry.name.to_owned()));
            continue;
        }
        let Some((source, value)) = entry.look_up(reader) else {
            reader.warn(Warning::NotSet { list: NAME, name: entry.spelled.to_owned() });
            continue;
        };
        let variable = Secret { name: entry.name.to_owned(), value: Value::new(value.to_owned()) };
        passed.push(Passed { variable, source: source.to_owned(), stages: entry.stages });
    }
    without_overlaps(passed)
}

/// Where a name is listed for all stages and for one, the one has its own value. Repetitions go.
fn without_overlaps(passed: Vec<Passed>) -> Vec<Passed> {
    let mut result: Vec<Passed> = Vec::new();
    let (special, general): (Vec<_>, Vec<_>) =
        passed.into_iter().partition(|it| matches!(it.stages, Stages::Only(_)));
    for candidate in special.into_iter().chain(general) {
        for stage in [Stage::Read, Stage::Write] {
            let is_taken = result.iter().any(|other| {
                other.variable.name == candidate.variable.name && other.stages.include(stage)
            });
            if candidate.stages.include(stage) && !is_taken {
                result.push(Passed { stages: Stages::Only(stage), ..candidate.clone() });
            }
        }
    }
    result
}

fn mask_list(reader: &mut Reader<'_>, passed: &[Passed]) -> Vec<Secret> {
    const NAME: &str = "SPACELIFT_MASK_ENVS";
    let mut masked: Vec<Secret> = Vec::new();
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() && !masked.iter().any(|it| it.value.as_str() == value) {
            masked.push(Secret { name: name.to_owned(), value: Value::new(value.to_owned()) });
        }
    };
    for entry in entries(reader, NAME) {
        let mut is_passed = false;
        for other in passed
            .iter()
            .filter(|other| other.variable.name == entry.name && other.stages.overlap(entry.stages))
        {
            is_passed = true;
            add(&other.source, &other.variable.value);
        }
        // Masked all the same: the value may reach a run in another way.
        match entry.look_up(reader) {
            Some((source, value)) => add(source, value),
            None if !is_passed => {
                reader.warn(Warning::NotSet { list: NAME, name: entry.spelled.to_owned() });
                continue;
            }
            None => {}
        }
        if !is_passed {
            reader.warn(Warning::MaskedOnly(entry.spelled.to_owned()));
        }
    }
    masked
}

fn entries<'r>(reader: &mut Reader<'r>, list: &'static str) -> Vec<Entry<'r>> {
    let names = reader.list(list);
    if names.len() > MAX_NAMES {
        reader.refuse(list, Problem::TooManyNames);
        return Vec::new();
    }
    let mut entries = Vec::new();
    for name in names {
        match Entry::parse(name) {
            Ok(entry) => entries.push(entry),
            Err(problem) => reader.refuse(list, problem),
        }
    }
    entries
}
