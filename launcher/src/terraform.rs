//! Terraform: its commands, its plan, its outputs, and the backend that we put in its place.
//!
//! The worker binary answers Terraform's state requests, so the source must not name a backend of its
//! own. A generated override file holds an empty `http` backend and nothing else; address and
//! password are variables of the stage and stand in no file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gantry_model::Phase;
use gantry_protocol::message::{Delta, Output};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::mask::Secrets;

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
    /// The project's directory is not where it claims to be.
    #[error(
        "the project root {0:?} leads out of the source by a link: make it a directory of the source"
    )]
    Outside(String),
    /// A file that cannot be looked at here.
    #[error(
        "{file} is too large, or a link that leads out of the source, so nobody can see here whether it declares a backend: make it a file of the source, or set GANTRY_REPLACE_BACKEND=true on the launcher to have any backend replaced"
    )]
    Unseen {
        /// The file.
        file: String,
    },
    /// A user's override would win over ours.
    #[error("{file} declares a backend and sorts after {OVERRIDE_FILE}: rename it")]
    Later {
        /// The file.
        file: String,
    },
}

/// What a source file declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Declares {
    Nothing,
    Block(&'static str),
    /// Nobody can see it here.
    Unseen,
}

/// Puts our backend into the directory `project_root` of `source`, in place of none, or of the source's
/// own when `replaces` is set.
///
/// # Errors
/// Every [`BackendError`].
pub fn put_backend(source: &Path, project_root: &str, replaces: bool) -> Result<(), BackendError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| BackendError::Io { path, source }
    };
    // The source may have a link on the way, and what it leads to is the host's.
    let top = source.canonicalize().map_err(at(source))?;
    let named = top.join(project_root);
    let directory = named.canonicalize().map_err(at(&named))?;
    if !directory.starts_with(&top) {
        return Err(BackendError::Outside(project_root.to_owned()));
    }
    for entry in fs::read_dir(&directory).map_err(at(&directory))? {
        let entry = entry.map_err(at(&directory))?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if file == OVERRIDE_FILE || !(is_json(&file) || is_native(&file)) {
            continue;
        }
        let declares = declared(&entry.path(), &file, &top).map_err(at(&entry.path()))?;
        match declares {
            Declares::Nothing => continue,
            Declares::Unseen if !replaces => return Err(BackendError::Unseen { file }),
            Declares::Block(what) if !replaces => {
                return Err(BackendError::Declared { file, what });
            }
            Declares::Unseen | Declares::Block(_) => {}
        }
        if file.as_str() > OVERRIDE_FILE {
            return Err(BackendError::Later { file });
        }
    }
    let path = directory.join(OVERRIDE_FILE);
    // The source may have brought a link of this name.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
        Ok(()) | Err(_) => {}
    }
    let made = fs::OpenOptions::new().write(true).create_new(true).open(&path);
    let mut made = made.map_err(at(&path))?;
    io::Write::write_all(&mut made, OVERRIDE.as_bytes()).map_err(at(&path))
}

fn is_json(file: &str) -> bool {
    file.ends_with(".tf.json") || file.ends_with(".tofu.json")
}

fn is_native(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "tf" || extension == "tofu")
}

/// What a source file declares, or the file of the source that it is a link to.
fn declared(path: &Path, name: &str, top: &Path) -> io::Result<Declares> {
    // A link may lead to where only the container has something.
    let Ok(path) = path.canonicalize() else { return Ok(Declares::Unseen) };
    let meta = fs::metadata(&path)?;
    if meta.is_dir() {
        return Ok(Declares::Nothing);
    }
    if !path.starts_with(top) || !meta.is_file() || meta.len() > MAX_SOURCE {
        return Ok(Declares::Unseen);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_SOURCE).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_start_matches('\u{feff}');
    let has = if is_json(name) { json_has } else { native_has };
    Ok(if has(text, "backend") {
        Declares::Block("backend")
    } else if has(text, "cloud") {
        Declares::Block("cloud block")
    } else {
        Declares::Nothing
    })
}

fn native_has(text: &str, what: &str) -> bool {
    let Ok(body) = hcl::parse(text) else { return looks_like(text, what) };
    body.blocks()
        .filter(|block| block.identifier() == "terraform")
        .any(|block| block.body().blocks().any(|inner| inner.identifier() == what))
}

fn json_has(text: &str, what: &str) -> bool {
    let Ok(source) = serde_json::from_str::<Value>(text) else {
        return text.contains(&format!("\"{what}\""));
    };
    match source.get("terraform") {
        Some(Value::Array(blocks)) => blocks.iter().any(|block| block.get(what).is_some()),
        Some(block) => block.get(what).is_some(),
        None => false,
    }
}

/// Whether a text that cannot be parsed here seems to have the block: Terraform may know more of its
/// language than we do.
fn looks_like(text: &str, what: &str) -> bool {
    text.match_indices(what).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let behind = text[at + what.len()..].trim_start();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-')
            && (behind.starts_with('{') || behind.starts_with('"'))
    })
}

#[derive(Deserialize)]
struct Plan {
    #[serde(default)]
    resource_changes: Vec<Resource>,
    #[serde(default)]
    output_changes: BTreeMap<String, Change>,
}

#[derive(Deserialize)]
struct Resource {
    change: Change,
}

#[derive(Deserialize)]
struct Change {
    #[serde(default)]
    actions: Vec<Action>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Action {
    NoOp,
    Read,
    Create,
    Update,
    Delete,
    #[serde(other)]
    Other,
}

/// What a plan, as JSON, would change: the resources, and whether there is anything at all to apply.
///
/// # Errors
/// When it is no plan.
pub fn read_plan(plan: impl Read) -> Result<(Delta, bool), serde_json::Error> {
    let plan: Plan = serde_json::from_reader(io::BufReader::new(plan))?;
    let mut delta = Delta::default();
    for action in plan.resource_changes.iter().flat_map(|resource| &resource.change.actions) {
        match action {
            Action::Create => delta.add += 1,
            Action::Update => delta.change += 1,
            Action::Delete => delta.delete += 1,
            Action::NoOp | Action::Read | Action::Other => {}
        }
    }
    let is_change = |change: &Change| {
        change.actions.iter().any(|action| !matches!(action, Action::NoOp | Action::Read))
    };
    let has_changes = plan.resource_changes.iter().any(|resource| is_change(&resource.change))
        || plan.output_changes.values().any(is_change);
    Ok((delta, has_changes))
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
            let value = is_reported.then(|| serde_json::from_str(raw).ok()).flatten();
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
    use std::os::unix::fs::symlink;

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
        put_backend(project.path(), "", false).unwrap();
        put_backend(project.path(), "", false).unwrap();
        assert_eq!(fs::read_to_string(project.path().join(OVERRIDE_FILE)).unwrap(), OVERRIDE);
    }

    #[test]
    fn a_backend_of_its_own_is_refused_until_it_may_be_replaced() {
        for (name, text) in [
            ("main.tf", "terraform {\n  backend \"s3\" {\n  bucket = \"b\"\n }\n}\n"),
            ("main.tf", "terraform {\n  cloud {\n }\n}\n"),
            ("a.tf.json", "{\"terraform\":{\"backend\":{\"s3\":{}}}}"),
            ("a_override.tf", "terraform {\n  backend \"local\" {}\n}\n"),
            ("a.tf", "\u{feff}terraform {\n  backend \"local\" {}\n}\n"),
            // A language that this launcher does not know whole.
            ("a.tf", "terraform {\n  backend \"local\" {}\n}\nlocals { a = <what> }\n"),
            ("a.tf.json", "{\"terraform\":{\"backend\":{\"s3\":{}}}} // later"),
        ] {
            let project = project(&[(name, text)]);
            let refused = put_backend(project.path(), "", false).unwrap_err();
            assert!(matches!(refused, BackendError::Declared { .. }), "{refused}");
            assert!(!project.path().join(OVERRIDE_FILE).exists());
            put_backend(project.path(), "", true).unwrap();
        }
        let late = project(&[("zzzzzzzzz_override.tf", "terraform {\n  backend \"s3\" {}\n}\n")]);
        assert!(matches!(put_backend(late.path(), "", true), Err(BackendError::Later { .. })));
    }

    /// Stacks share files by links, and Terraform follows them.
    #[test]
    fn a_backend_behind_a_link_is_seen_or_refused() {
        let source = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::create_dir_all(source.path().join("a")).unwrap();
        let shared = source.path().join("shared");
        fs::write(&shared, "terraform {\n  backend \"local\" {}\n}\n").unwrap();
        let link = source.path().join("a/backend.tf");
        symlink("../shared", &link).unwrap();
        let refused = put_backend(source.path(), "a", false).unwrap_err();
        assert!(matches!(refused, BackendError::Declared { .. }), "{refused}");
        fs::write(&shared, "locals {}\n").unwrap();
        put_backend(source.path(), "a", false).unwrap();
        fs::remove_file(&link).unwrap();
        fs::write(elsewhere.path().join("x"), "").unwrap();
        for target in [elsewhere.path().join("x"), "/mnt/workspace/source/none".into()] {
            symlink(target, &link).unwrap();
            let refused = put_backend(source.path(), "a", false).unwrap_err();
            assert!(matches!(refused, BackendError::Unseen { .. }), "{refused}");
            put_backend(source.path(), "a", true).unwrap();
            fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn a_project_root_that_leads_out_of_the_source_is_refused() {
        let source = tempfile::tempdir().unwrap();
        let host = tempfile::tempdir().unwrap();
        symlink(host.path(), source.path().join("a")).unwrap();
        let refused = put_backend(source.path(), "a", true).unwrap_err();
        assert!(matches!(refused, BackendError::Outside(_)), "{refused}");
        assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
    }

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
