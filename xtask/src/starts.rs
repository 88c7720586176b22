//! Finds what tests and tasks start, and holds it against the list in [`crate::tools`].
//!
//! The rule: in the sources of tests (`tests/`, `crates/cluster`, `crates/e2e`, what follows the first `#[cfg(test)]` of a file) and of
//! `xtask`, each `Command::new(…)` and `as_root(…)` names its program
//!
//! - by a literal, whose last part is in the list, or a constant of its file that is one;
//! - by `env!("CARGO…")`: a program of this workspace, or cargo itself;
//! - or in a comment, on its line or the one before: `// starts: age, openssl`, each of which is in the list. Beside a
//!   literal, such a comment names what that program starts in its turn.
//!
//! `as_root` itself starts what its callers say, and those are read.
//! A type with another name for `Command` is refused, because this rule would not see it. Unseen too is what a shell
//! is told to start, so scripts keep to what every Debian has. And what is in the list is started somewhere.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::tools::STARTED;

const COMMENT: &str = "// starts:";

/// Everything that breaks the rule, each as a line for a person. Empty if nothing does.
pub fn broken(root: &Path) -> Result<Vec<String>> {
    let mut found = Found::default();
    for path in sources(root).context("cannot read the sources")? {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let name = path.strip_prefix(root).unwrap_or(&path);
        found.read(&name.to_string_lossy(), &text, starts_whole(name));
    }
    Ok(found.judge(&STARTED.iter().map(|started| started.program).collect::<Vec<_>>()))
}

/// Whether all of a file is a test's or a task's, not only what follows its `#[cfg(test)]`.
fn starts_whole(path: &Path) -> bool {
    path.starts_with("xtask")
        || path.starts_with("crates/cluster")
        || path.starts_with("crates/e2e")
        || path.starts_with("crates/stand")
        || path.iter().any(|part| part == "tests")
}

/// All Rust files of the workspace but this one.
fn sources(root: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![root.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            if entry.file_type()?.is_dir() {
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|end| end == "rs")
                && !path.ends_with("xtask/src/starts.rs")
            {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// A place that starts a program.
#[derive(Default)]
struct Found {
    /// Where, and which program.
    started: Vec<(String, String)>,
    /// What cannot be judged.
    broken: Vec<String>,
}

impl Found {
    fn read(&mut self, file: &str, text: &str, whole: bool) {
        let from = if whole { Some(0) } else { text.find("#[cfg(test)]") };
        let Some(from) = from else { return };
        for (at, mark) in ["Command::new(", "as_root("]
            .iter()
            .flat_map(|mark| text.match_indices(mark))
            .filter(|(at, _)| *at >= from)
        {
            let (before, after) = (&text[..at], &text[at + mark.len()..]);
            let line = before.rsplit('\n').next().unwrap_or_default();
            if line.trim_start().starts_with("//") || line.ends_with("fn ") {
                continue;
            }
            let function = before.rsplit("fn ").next().unwrap_or_default();
            if function.starts_with("as_root(program") && after.starts_with("program)") {
                continue;
            }
            let place = format!("{file}:{}", before.matches('\n').count() + 1);
            match programs(before, after) {
                Some(programs) => {
                    let all = programs.into_iter().map(|program| (place.clone(), program));
                    self.started.extend(all);
                }
                None => self.broken.push(format!(
                    "{place}: which program this starts is not to be seen: say it in a comment before it, `{COMMENT} \
                     NAME, NAME`"
                )),
            }
        }
        for (at, _) in text.match_indices("Command as ").filter(|(at, _)| *at >= from) {
            let line = text[..at].matches('\n').count() + 1;
            self.broken
                .push(format!("{file}:{line}: another name for `Command` hides what is started"));
        }
    }

    fn judge(self, listed: &[&str]) -> Vec<String> {
        let (mut broken, mut seen) = (self.broken, BTreeSet::new());
        for (place, program) in self.started {
            if !listed.contains(&program.as_str()) {
                broken.push(format!(
                    "{place}: `{program}` is started, and xtask/src/tools.rs does not say how a machine gets it: add \
                     it to STARTED"
                ));
            }
            seen.insert(program);
        }
        let unseen = listed.iter().filter(|program| !seen.contains(**program));
        broken.extend(unseen.map(|program| {
            format!("xtask/src/tools.rs: nothing starts `{program}`: remove it from STARTED")
        }));
        broken
    }
}

/// What is started by a call, given the text before it and the text of its argument.
fn programs(before: &str, after: &str) -> Option<Vec<String>> {
    let argument = after.trim_start();
    let constant = argument.split(')').next().unwrap_or_default();
    let defined = [before, after].into_iter().find_map(|text| {
        text.split_once(&format!("const {constant}: &str = ")).map(|(_, value)| value)
    });
    let argument = defined.unwrap_or(argument);
    let named = if let Some(literal) = argument.strip_prefix('"') {
        literal.split('"').next().and_then(|path| path.rsplit('/').next())
    } else if let Some(variable) = argument.strip_prefix("env!(\"CARGO") {
        let name = variable.split('"').next().unwrap_or_default();
        Some(name.strip_prefix("_BIN_EXE_").unwrap_or("cargo"))
    } else {
        None
    };
    let mut lines = before.rsplit('\n');
    let nearby = [after.lines().next(), lines.next(), lines.next()];
    let comment = nearby.into_iter().flatten().find_map(|line| line.split_once(COMMENT));
    let said = comment.into_iter().flat_map(|(_, names)| names.split(',').map(str::trim));
    let all: Vec<String> = named.into_iter().chain(said).map(str::to_owned).collect();
    (!all.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(source: &str, whole: bool, listed: &[&str]) -> Vec<String> {
        let mut found = Found::default();
        found.read("a.rs", source, whole);
        found.judge(listed)
    }

    #[test]
    fn each_way_to_name_a_program_is_read() {
        let source = r#"
            Command::new("/usr/bin/age");
            tokio::process::Command::new(
                "openssl",
            );
            as_root("umount");
            Command::new(env!("CARGO_BIN_EXE_gantry"));
            Command::new(env!("CARGO"));
            const OWN: &str = env!("CARGO_BIN_EXE_gantry");
            Command::new(OWN);
            Command::new(program); // starts: mosquitto
            // starts: tar, find
            let command = Command::new(&program);
            as_root("env").args(["apt-get"]); // starts: apt-get
            fn as_root(program: &str) { Command::new(program) }
            fn another() {}
            // as_root("nothing") is what a comment says
        "#;
        let listed = [
            "age",
            "openssl",
            "umount",
            "gantry",
            "cargo",
            "mosquitto",
            "tar",
            "find",
            "env",
            "apt-get",
        ];
        assert_eq!(judged(source, true, &listed), [""; 0]);
    }

    #[test]
    fn a_program_that_is_not_listed_is_told_with_its_place() {
        let told = judged("\n Command::new(\"curl\")", true, &[]);
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("a.rs:2: `curl` is started"), "{told:?}");
    }

    #[test]
    fn a_program_that_cannot_be_seen_is_told() {
        for source in ["Command::new(program)", "use std::process::Command as Start;"] {
            assert_eq!(judged(source, true, &[]).len(), 1, "{source}");
        }
    }

    #[test]
    fn a_listed_program_that_nothing_starts_is_told() {
        let told = judged("Command::new(\"age\")", true, &["age", "curl"]);
        assert_eq!(told, ["xtask/src/tools.rs: nothing starts `curl`: remove it from STARTED"]);
    }

    #[test]
    fn what_programs_start_for_their_users_is_not_a_tests() {
        let source = "Command::new(\"git\"); #[cfg(test)] mod tests { Command::new(\"sh\"); }";
        assert_eq!(judged(source, false, &["sh"]), [""; 0]);
        assert_eq!(judged("Command::new(\"git\");", false, &[]), [""; 0]);
    }

    #[test]
    fn all_that_tests_and_tasks_start_is_in_the_list() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let broken = broken(root).unwrap();
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }
}
