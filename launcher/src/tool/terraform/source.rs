//! What the source says about where its state is kept.
//!
//! The worker binary answers the tool's state requests, so a source whose state we keep must not name a
//! backend of its own. Only files that the tool reads count, and what cannot be read here is left to
//! the tool: a mistake of the source's is told in its words.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::tool::{Job, UnfitSource};

use super::blocks::{self, BLOCKS, Found};

/// The override file that `tool.sh` makes: the tool merges these in the order of their names, so ours comes
/// last.
const OVERRIDE_FILE: &str = "zzzzzzzz_gantry_backend_override.tf";
/// The largest source file that is looked at.
const MAX_SOURCE: u64 = 8 << 20;

/// Refuses a source with a backend that ours cannot take the place of.
pub(super) fn check(job: &Job<'_>) -> Result<(), UnfitSource> {
    if job.spec.state.is_some() { look(job).map(drop) } else { Ok(()) }
}

/// The same, of a source whose state we keep. True if only the tool can tell.
pub(super) fn look(job: &Job<'_>) -> Result<bool, UnfitSource> {
    Ok(look_for_backend(job.source, &job.spec.project_root, job.replaces_backend)?)
}

/// Why the backend cannot be put in place.
#[derive(Debug, thiserror::Error)]
enum BackendError {
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
        "{file} declares a {what}, and this stack's state is kept by Gantry: take the {what} out of the source and bring its state in, as `gantry run task --help` says, or set GANTRY_REPLACE_BACKEND=true on the launcher to have it replaced"
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
    #[error(
        "{file} declares a backend and sorts after the override file {OVERRIDE_FILE}, by which Gantry keeps this stack's state: rename it"
    )]
    Later {
        /// The file.
        file: String,
    },
}

impl From<BackendError> for UnfitSource {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Io { path, source } => Self::unusable(path)(source),
            problem @ (BackendError::Declared { .. }
            | BackendError::Outside(_)
            | BackendError::Unseen { .. }
            | BackendError::Later { .. }) => Self::new(problem.to_string()),
        }
    }
}

/// Whether our backend can take the place of none, or of the source's own when `replaces` is set, in the
/// directory `project_root` of `source`. True if only the tool can tell.
fn look_for_backend(
    source: &Path,
    project_root: &str,
    replaces: bool,
) -> Result<bool, BackendError> {
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
    let mut is_in_doubt = false;
    for entry in fs::read_dir(&directory).map_err(at(&directory))? {
        let entry = entry.map_err(at(&directory))?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if file == OVERRIDE_FILE || !is_read(&file) {
            continue;
        }
        match declared(&entry.path(), &file, &top).map_err(at(&entry.path()))? {
            Some(Found::Nothing) => continue,
            None if !replaces => return Err(BackendError::Unseen { file }),
            Some(Found::Block(what)) if !replaces => {
                return Err(BackendError::Declared { file, what });
            }
            Some(Found::Doubt) => is_in_doubt |= !replaces,
            None | Some(Found::Block(_)) => {}
        }
        if is_override(&file) && file.as_str() > OVERRIDE_FILE {
            return Err(BackendError::Later { file });
        }
    }
    Ok(is_in_doubt)
}

/// Whether the tool reads a file of this name: editors' backups and locks it passes over.
fn is_read(file: &str) -> bool {
    !file.starts_with('.') && (is_json(file) || is_native(file))
}

/// Whether the tool merges the file over the others.
fn is_override(file: &str) -> bool {
    let name = file.strip_suffix(".json").unwrap_or(file);
    let stem = name.strip_suffix(".tf").or_else(|| name.strip_suffix(".tofu"));
    stem.is_some_and(|stem| stem == "override" || stem.ends_with("_override"))
}

fn is_json(file: &str) -> bool {
    file.ends_with(".tf.json") || file.ends_with(".tofu.json")
}

fn is_native(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "tf" || extension == "tofu")
}

/// What a source file declares, or the file of the source that it is a link to.
///
/// None if nobody can see it here.
fn declared(path: &Path, name: &str, top: &Path) -> io::Result<Option<Found>> {
    // A link may lead to where only the container has something.
    let Ok(path) = path.canonicalize() else { return Ok(None) };
    let meta = fs::metadata(&path)?;
    if meta.is_dir() {
        return Ok(Some(Found::Nothing));
    }
    if !path.starts_with(top) || !meta.is_file() || meta.len() > MAX_SOURCE {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_SOURCE).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_start_matches('\u{feff}');
    Ok(Some(if is_json(name) { in_json(text) } else { blocks::look(text) }))
}

/// Deeper JSON than the parser follows, or none, is the tool's to read.
fn in_json(text: &str) -> Found {
    let Ok(source) = serde_json::from_str::<Value>(text) else {
        let seems = |what| text.contains(&format!("\"{what}\""));
        let is_any = BLOCKS.iter().any(|(block, _)| seems(block));
        return if is_any { Found::Doubt } else { Found::Nothing };
    };
    let has = |what| match source.get("terraform") {
        Some(Value::Array(blocks)) => blocks.iter().any(|block| block.get(what).is_some()),
        Some(block) => block.get(what).is_some(),
        None => false,
    };
    let found = BLOCKS.iter().find(|(block, _)| has(block));
    found.map_or(Found::Nothing, |(_, name)| Found::Block(name))
}

#[cfg(test)]
mod tests {
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
    fn what_no_tool_reads_declares_nothing() {
        let backend = "terraform {\n  backend \"s3\" {}\n}\n";
        let project = project(&[
            ("main.tf", "resource \"terraform_data\" \"a\" {}\n# backend \"s3\" {}\n"),
            (".x.tf", backend),
            ("x.tf~", backend),
            ("#x.tf#", backend),
            (".x.tf.json", "{\"terraform\":{\"backend\":{\"s3\":{}}}}"),
            (OVERRIDE_FILE, backend),
        ]);
        symlink("me@host.1:2", project.path().join(".#main.tf")).unwrap();
        assert!(!look_for_backend(project.path(), "", false).unwrap());
    }

    /// It may be a mistake, which the tool is to tell, or a language that this launcher does not know.
    #[test]
    fn what_cannot_be_parsed_is_left_to_the_tool() {
        for (name, text, is_in_doubt) in [
            ("a.tf", "terraform {\n  backend \"local\" {}\n}\nlocals { a = {\n", true),
            ("a.tf", "resource \"terraform_data\" \"backend\" {\n", false),
            ("a.tf", "resource \"terraform_data\" \"a\" {\n", false),
            ("a.tf.json", "{\"terraform\":{\"backend\":{\"s3\":{}}}} // later", true),
        ] {
            let project = project(&[(name, text)]);
            assert_eq!(look_for_backend(project.path(), "", false).unwrap(), is_in_doubt, "{text}");
            assert!(!look_for_backend(project.path(), "", true).unwrap());
        }
    }

    #[test]
    fn a_backend_of_its_own_is_refused_until_it_may_be_replaced() {
        for (name, text) in [
            ("main.tf", "terraform {\n  backend \"s3\" {\n  bucket = \"b\"\n }\n}\n"),
            ("main.tf", "terraform {\n  cloud {\n }\n}\n"),
            ("a.tf.json", "{\"terraform\":{\"backend\":{\"s3\":{}}}}"),
            ("a_override.tf", "terraform {\n  backend \"local\" {}\n}\n"),
            ("a.tf", "\u{feff}terraform {\n  backend \"local\" {}\n}\n"),
        ] {
            let project = project(&[(name, text)]);
            let refused = look_for_backend(project.path(), "", false).unwrap_err();
            assert!(matches!(refused, BackendError::Declared { .. }), "{refused}");
            look_for_backend(project.path(), "", true).unwrap();
        }
        let late = project(&[("zzzzzzzzz_override.tf", "terraform {\n  backend \"s3\" {}\n}\n")]);
        assert!(matches!(look_for_backend(late.path(), "", true), Err(BackendError::Later { .. })));
        // Only override files win over ours.
        let other = project(&[("zzzzzzzzz.tf", "terraform {\n  backend \"s3\" {}\n}\n")]);
        look_for_backend(other.path(), "", true).unwrap();
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
        let refused = look_for_backend(source.path(), "a", false).unwrap_err();
        assert!(matches!(refused, BackendError::Declared { .. }), "{refused}");
        fs::write(&shared, "locals {}\n").unwrap();
        look_for_backend(source.path(), "a", false).unwrap();
        fs::remove_file(&link).unwrap();
        fs::write(elsewhere.path().join("x"), "").unwrap();
        for target in [elsewhere.path().join("x"), "/mnt/workspace/source/none".into()] {
            symlink(target, &link).unwrap();
            let refused = look_for_backend(source.path(), "a", false).unwrap_err();
            assert!(matches!(refused, BackendError::Unseen { .. }), "{refused}");
            look_for_backend(source.path(), "a", true).unwrap();
            fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn a_project_root_that_leads_out_of_the_source_is_refused() {
        let source = tempfile::tempdir().unwrap();
        let host = tempfile::tempdir().unwrap();
        symlink(host.path(), source.path().join("a")).unwrap();
        let refused = look_for_backend(source.path(), "a", true).unwrap_err();
        assert!(matches!(refused, BackendError::Outside(_)), "{refused}");
    }
}
