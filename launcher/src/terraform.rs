//! Terraform: its commands, its plan, its outputs, and the backend that we put in its place.
//!
//! The worker binary answers Terraform's state requests, so the source must not name a backend of its
//! own. A generated override file holds an empty `http` backend and nothing else; address and
//! password are variables of the stage and stand in no file.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gantry_model::Phase;
use gantry_protocol::message::{Delta, Output};
use serde::Deserialize;
use serde_json::Value;

use crate::mask::{Masker, Secrets};

/// The plan's file, in the project's directory.
pub const PLAN_FILE: &str = "gantry.tfplan";
/// The override file: Terraform merges these in the order of their names, so ours comes last.
const OVERRIDE_FILE: &str = "zzzzzzzz_gantry_backend_override.tf";
const OVERRIDE: &str = "terraform {\n  backend \"http\" {}\n}\n";
/// The largest source file that is looked at.
const MAX_SOURCE: u64 = 8 << 20;
/// The largest value of an output that is reported, in bytes of JSON.
const MAX_OUTPUT: usize = 4 << 10;
/// The most outputs that are reported, and the most bytes of them: they must fit one message.
const MAX_OUTPUTS: usize = 500;
const MAX_OUTPUT_BYTES: usize = 32 << 10;

/// Shows the plan as JSON.
pub const SHOW_PLAN: &str = "terraform show -json gantry.tfplan";
/// Shows the outputs as JSON.
pub const SHOW_OUTPUTS: &str = "terraform output -json";

/// The command of a phase.
#[must_use]
pub const fn command(phase: Phase) -> &'static str {
    match phase {
        Phase::Initialize => "terraform init -input=false -reconfigure",
        Phase::Plan => "terraform plan -input=false -out=gantry.tfplan",
        Phase::Apply => "terraform apply -input=false -auto-approve gantry.tfplan",
        Phase::Destroy => "terraform destroy -input=false -auto-approve",
        // A task brings its own command.
        Phase::Perform => "true",
    }
}

/// Why the backend cannot be put in place.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The project's directory cannot be used.
    #[error("cannot use {path}: check that the stack's project root is a directory of its source")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The source has its own.
    #[error(
        "{file} declares a {what}, and this stack's state is kept by Gantry: import the state and take the {what} out of the source, or set GANTRY_REPLACE_BACKEND=true on the launcher to have it replaced"
    )]
    Declared {
        /// The file that declares it.
        file: String,
        /// `backend` or `cloud` block.
        what: &'static str,
    },
    /// A user's override would win over ours.
    #[error("{file} declares a backend and sorts after {OVERRIDE_FILE}: rename it")]
    Later {
        /// The file.
        file: String,
    },
}

/// Puts our backend in place of none, or of the source's own when `replaces` is set.
///
/// # Errors
/// Every [`BackendError`].
pub fn put_backend(directory: &Path, replaces: bool) -> Result<(), BackendError> {
    let at = |source| BackendError::Io { path: directory.to_owned(), source };
    for entry in fs::read_dir(directory).map_err(at)? {
        let entry = entry.map_err(at)?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let is_regular = entry.file_type().map_err(at)?.is_file();
        if !is_regular || file == OVERRIDE_FILE {
            continue;
        }
        let Some(what) = declared(&entry.path(), &file).map_err(at)? else { continue };
        if !replaces {
            return Err(BackendError::Declared { file, what });
        }
        if file.as_str() > OVERRIDE_FILE {
            return Err(BackendError::Later { file });
        }
    }
    let path = directory.join(OVERRIDE_FILE);
    // The source may have brought a link of this name.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
        Ok(()) | Err(_) => {}
    }
    let mut made = fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(at)?;
    io::Write::write_all(&mut made, OVERRIDE.as_bytes()).map_err(at)
}

/// What a source file declares. One that cannot be parsed declares nothing here: Terraform will say
/// what is wrong with it, and better.
fn declared(path: &Path, name: &str) -> io::Result<Option<&'static str>> {
    let is_json = name.ends_with(".tf.json") || name.ends_with(".tofu.json");
    let is_native = Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "tf" || extension == "tofu");
    if !is_json && !is_native {
        return Ok(None);
    }
    let mut text = String::new();
    if fs::File::open(path)?.take(MAX_SOURCE).read_to_string(&mut text).is_err() {
        return Ok(None);
    }
    let has = |what: &str| if is_json { json_has(&text, what) } else { native_has(&text, what) };
    Ok(if has("backend") {
        Some("backend")
    } else if has("cloud") {
        Some("cloud block")
    } else {
        None
    })
}

fn native_has(text: &str, what: &str) -> bool {
    let Ok(body) = hcl::parse(text) else { return false };
    body.blocks()
        .filter(|block| block.identifier() == "terraform")
        .any(|block| block.body().blocks().any(|inner| inner.identifier() == what))
}

fn json_has(text: &str, what: &str) -> bool {
    let Ok(source) = serde_json::from_str::<Value>(text) else { return false };
    match source.get("terraform") {
        Some(Value::Array(blocks)) => blocks.iter().any(|block| block.get(what).is_some()),
        Some(block) => block.get(what).is_some(),
        None => false,
    }
}

#[derive(Deserialize)]
struct Plan {
    #[serde(default)]
    resource_changes: Vec<Resource>,
    #[serde(default)]
    output_changes: std::collections::BTreeMap<String, Change>,
}

#[derive(Deserialize)]
struct Resource {
    change: Change,
}

#[derive(Deserialize)]
struct Change {
    #[serde(default)]
    actions: Vec<String>,
}

/// What a plan, as JSON, would change: the resources, and whether there is anything at all to apply.
///
/// # Errors
/// When it is no plan.
pub fn read_plan(plan: impl Read) -> Result<(Delta, bool), serde_json::Error> {
    let plan: Plan = serde_json::from_reader(io::BufReader::new(plan))?;
    let mut delta = Delta::default();
    for action in plan.resource_changes.iter().flat_map(|resource| &resource.change.actions) {
        match action.as_str() {
            "create" => delta.add += 1,
            "update" => delta.change += 1,
            "delete" => delta.delete += 1,
            _ => {}
        }
    }
    let is_change = |change: &Change| {
        change.actions.iter().any(|action| !matches!(action.as_str(), "no-op" | "read"))
    };
    let has_changes = plan.resource_changes.iter().any(|resource| is_change(&resource.change))
        || plan.output_changes.values().any(is_change);
    Ok((delta, has_changes))
}

#[derive(Deserialize)]
struct Shown {
    #[serde(default)]
    sensitive: bool,
    #[serde(default)]
    value: Value,
}

/// The outputs, as JSON shows them, with secrets masked and sensitive values left out.
///
/// # Errors
/// When they are none.
pub fn read_outputs(
    outputs: impl Read,
    secrets: &Secrets,
) -> Result<Vec<Output>, serde_json::Error> {
    let shown: std::collections::BTreeMap<String, Shown> =
        serde_json::from_reader(io::BufReader::new(outputs))?;
    let mut room = MAX_OUTPUT_BYTES;
    Ok(shown
        .into_iter()
        .take(MAX_OUTPUTS)
        .map(|(name, shown)| {
            let value = (!shown.sensitive).then(|| masked(shown.value, secrets));
            let value = value.filter(|value| {
                let size = value.to_string().len();
                let fits = size <= MAX_OUTPUT && size <= room;
                room -= if fits { size } else { 0 };
                fits
            });
            Output { name: name.chars().take(200).collect(), is_sensitive: shown.sensitive, value }
        })
        .collect())
}

fn masked(value: Value, secrets: &Secrets) -> Value {
    match value {
        Value::String(text) => Value::String(mask(&text, secrets)),
        Value::Array(values) => {
            Value::Array(values.into_iter().map(|value| masked(value, secrets)).collect())
        }
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(name, value)| (mask(&name, secrets), masked(value, secrets)))
                .collect(),
        ),
        Value::Number(number) => {
            let text = number.to_string();
            let shown = mask(&text, secrets);
            if shown == text { Value::Number(number) } else { Value::String(shown) }
        }
        Value::Null | Value::Bool(_) => value,
    }
}

/// A text with its secrets masked.
#[must_use]
pub fn mask(text: &str, secrets: &Secrets) -> String {
    let mut masker = Masker::new(secrets);
    let mut shown = Vec::new();
    masker.push(text.as_bytes(), &mut shown);
    masker.finish(&mut shown);
    String::from_utf8_lossy(&shown).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn a_source_without_a_backend_gets_ours() {
        let project =
            project(&[("main.tf", "resource \"terraform_data\" \"a\" {}\n# backend \"s3\" {}\n")]);
        put_backend(project.path(), false).unwrap();
        put_backend(project.path(), false).unwrap();
        assert_eq!(fs::read_to_string(project.path().join(OVERRIDE_FILE)).unwrap(), OVERRIDE);
    }

    #[test]
    fn a_backend_of_its_own_is_refused_until_it_may_be_replaced() {
        for (name, text) in [
            ("main.tf", "terraform {\n  backend \"s3\" {\n  bucket = \"b\"\n }\n}\n"),
            ("main.tf", "terraform {\n  cloud {\n }\n}\n"),
            ("a.tf.json", "{\"terraform\":{\"backend\":{\"s3\":{}}}}"),
            ("a_override.tf", "terraform {\n  backend \"local\" {}\n}\n"),
        ] {
            let project = project(&[(name, text)]);
            let refused = put_backend(project.path(), false).unwrap_err();
            assert!(matches!(refused, BackendError::Declared { .. }), "{refused}");
            assert!(!project.path().join(OVERRIDE_FILE).exists());
            put_backend(project.path(), true).unwrap();
        }
        let late = project(&[("zzzzzzzzz_override.tf", "terraform {\n  backend \"s3\" {}\n}\n")]);
        assert!(matches!(put_backend(late.path(), true), Err(BackendError::Later { .. })));
    }

    #[test]
    fn a_plan_is_counted() {
        let plan = r#"{"resource_changes":[{"change":{"actions":["create"]}},{"change":{"actions":["delete","create"]}},
            {"change":{"actions":["no-op"]}}],"output_changes":{"a":{"actions":["create"]}}}"#;
        let (delta, has_changes) = read_plan(plan.as_bytes()).unwrap();
        assert_eq!((delta, has_changes), (Delta { add: 2, change: 0, delete: 1 }, true));
        let same = r#"{"resource_changes":[{"change":{"actions":["no-op"]}}],"output_changes":{"a":{"actions":["no-op"]}}}"#;
        assert_eq!(read_plan(same.as_bytes()).unwrap(), (Delta::default(), false));
        assert!(read_plan(&b"{"[..]).is_err());
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
