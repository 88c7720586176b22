//! Limits of what people give.

use gantry_model::{InvalidProjectRoot, MAX_VARIABLE, ProjectRoot};
use gantry_protocol::spec::Variable;

use crate::error::OperationError;

/// The longest name, in characters.
pub(crate) const MAX_NAME: usize = 100;
/// The longest note or description, in characters.
pub(crate) const MAX_NOTE: usize = 4_000;
/// The most labels, and the longest one.
const MAX_LABELS: (usize, usize) = (64, 200);

pub(crate) fn text(
    what: &'static str,
    text: &str,
    fewest: usize,
    most: usize,
) -> Result<(), OperationError> {
    let count = text.chars().count();
    if (fewest..=most).contains(&count) && !text.contains('\0') {
        return Ok(());
    }
    let problem = format!("it has {count} characters: give {fewest} to {most}");
    Err(OperationError::invalid(what, problem))
}

/// A name that people choose: one line, and none that could be taken for an id.
pub(crate) fn name(what: &'static str, name: &str) -> Result<(), OperationError> {
    text(what, name, 1, MAX_NAME)?;
    let problem = if name.chars().any(char::is_control) {
        "it has a line feed or another control character: give one line of text"
    } else if name.trim() != name {
        "it begins or ends with a blank: leave that out"
    } else if name.to_ascii_uppercase().parse::<gantry_model::RunId>().is_ok() {
        "it looks like an id (26 characters of 0-9 and A-Z): choose one that cannot be taken for one"
    } else {
        return Ok(());
    };
    Err(OperationError::invalid(what, problem))
}

/// The name of an image, as container engines read it.
pub(crate) fn image(name: &str) -> Result<(), OperationError> {
    gantry_model::check_image(name)
        .map_err(|error| OperationError::invalid("image", error.to_string()))
}

pub(crate) fn labels(labels: &[String]) -> Result<(), OperationError> {
    let (most, longest) = MAX_LABELS;
    if labels.len() > most {
        return Err(OperationError::invalid("labels", "there are more than 64: remove some"));
    }
    labels.iter().try_for_each(|label| {
        text("label", label, 1, longest)?;
        if label.chars().any(char::is_control) {
            let problem = "it has a line feed or another control character: give one line of text";
            return Err(OperationError::invalid("label", problem));
        }
        Ok(())
    })
}

/// The part of a source that a stack lives in, in its one spelling.
pub(crate) fn project_root(text: &str) -> Result<ProjectRoot, OperationError> {
    text.parse().map_err(|error: InvalidProjectRoot| {
        OperationError::invalid("project root", error.to_string())
    })
}

/// The name of an environment variable.
pub(crate) fn variable_name(name: &str) -> Result<(), OperationError> {
    let is_name = (1..=200).contains(&name.len())
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_name {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    let problem = format!("{shown:?} is not one: use A-Z, a-z, 0-9 and _, and no digit in front");
    Err(OperationError::invalid("variable name", problem))
}

/// A variable in the clear.
pub(crate) fn variable(variable: &Variable) -> Result<(), OperationError> {
    variable_name(&variable.name)?;
    if variable.value.contains('\0') {
        let problem = format!("{} has a zero byte, which no variable can have", variable.name);
        return Err(OperationError::invalid("environment", problem));
    }
    if variable.name.len() + variable.value.len() > MAX_VARIABLE {
        let problem = format!(
            "{} and its value have more than {MAX_VARIABLE} bytes together, which no program can be given: let a hook fetch it",
            variable.name
        );
        return Err(OperationError::invalid("environment", problem));
    }
    Ok(())
}
