//! From text to a policy that can be evaluated.
//!
//! Every mistake that can be found without an input is found here, with file, line and column, so
//! that a program with an invalid policy does not start.

use std::collections::BTreeSet;
use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};

use regorus::{Engine, PolicyLengthConfig};

use crate::builtins;
use crate::policy::{LONGEST_SOURCE, RegoVersion};
use crate::recursion::{self, references};
use crate::source::{self, DEEPEST, DEEPEST_VALUE, MOST_LINKS, Outline};

/// The rule that is evaluated: everything in one query, under one time limit.
pub(crate) const OUTCOME: &str = "data.gantry.harness.outcome";

const HARNESS: &str = "package gantry.harness
outcome := {\"deny\": [d | d := data.spacelift.deny], \"sample\": [s | s := data.spacelift.sample]}
";

/// Names that a policy may use without defining them.
const ALIASES: [(&str, &str); 4] = [
    ("commit", "input.commit"),
    ("run", "input.run"),
    ("runtime_config", "input.run.runtime_config"),
    ("stack", "input.stack"),
];

/// Where in a file, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

/// Why a policy cannot be used, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    /// The name under which the policy was handed in.
    pub file: String,
    /// Where the mistake is, if it is at one place.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to do next.
    pub help: &'static str,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}: {}", self.message, self.help)
    }
}

impl std::error::Error for CompileError {}

/// A policy in the engine, ready to be cloned for an evaluation.
pub(crate) struct Compiled {
    pub(crate) engine: Engine,
    pub(crate) version: RegoVersion,
}

/// How far a compilation came: the error of the one that came further is the useful one.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Text,
    Syntax,
}

pub(crate) fn compile(name: &str, text: &str) -> Result<Compiled, CompileError> {
    let error =
        |message: String, help| CompileError { file: name.to_owned(), place: None, message, help };
    if text.len() > LONGEST_SOURCE {
        let message = format!("the policy has {} bytes, more than {LONGEST_SOURCE}", text.len());
        return Err(error(message, "shorten it"));
    }
    if text.trim().is_empty() {
        return Err(error("the policy is empty".to_owned(), "write one, or name no policy at all"));
    }
    let outline = source::outline(text);
    if let Some(place) = outline.too_deep {
        let message = format!(
            "brackets are nested more than {DEEPEST} deep, or arrays, sets and objects more than {DEEPEST_VALUE}"
        );
        return Err(CompileError {
            place: Some(place),
            ..error(message, "break the expression up")
        });
    }
    if let Some(place) = outline.too_long {
        let message =
            format!("an expression has more than {MOST_LINKS} operators, dots and brackets");
        return Err(CompileError {
            place: Some(place),
            ..error(message, "break the expression up")
        });
    }
    let (reached_v1, error_v1) = match attempt(name, text, &outline, RegoVersion::V1) {
        Ok(compiled) => return Ok(compiled),
        Err(failed) => failed,
    };
    // In v0 `if` and `contains` may be mere names, and a broken v1 policy another, valid one.
    if outline.looks_like_v1 {
        return Err(error_v1);
    }
    let (reached_v0, error_v0) = match attempt(name, text, &outline, RegoVersion::V0) {
        Ok(compiled) => return Ok(compiled),
        Err(failed) => failed,
    };
    Err(if reached_v1 > reached_v0 { error_v1 } else { error_v0 })
}

fn attempt(
    name: &str,
    text: &str,
    outline: &Outline<'_>,
    version: RegoVersion,
) -> Result<Compiled, (Reached, CompileError)> {
    let mut engine = Engine::new();
    engine.set_rego_v0(version == RegoVersion::V0);
    engine.set_gather_prints(true); // Otherwise `print` writes to our standard error.
    engine.set_policy_length_config(PolicyLengthConfig {
        max_col: NonZeroU32::new(64 * 1024).expect("a constant above zero"),
        max_file_bytes: NonZeroUsize::new(LONGEST_SOURCE).expect("a constant above zero"),
        max_lines: NonZeroUsize::new(20_000).expect("a constant above zero"),
    });
    let package = engine
        .add_policy(name.to_owned(), text.to_owned())
        .map_err(|error| (Reached::Text, located(name, &error)))?;
    let refuse = |error| (Reached::Syntax, error);
    if package != "data.spacelift" {
        return Err(refuse(wrong_package(name, text, &package)));
    }
    let names = references::names(engine.get_modules(), name);
    let declares = Declares { engine: &engine, name, names };
    check_calls(&declares, outline, version).map_err(refuse)?;
    check_locals(&declares, outline).map_err(refuse)?;
    check_deny(&declares, text).map_err(refuse)?;
    let prelude = prelude(&declares, outline, version).map_err(refuse)?;
    for (part, text) in [("prelude", prelude), ("harness", HARNESS.to_owned())] {
        engine.add_policy(part.to_owned(), text).map_err(|error| refuse(located(name, &error)))?;
    }
    recursion::check(&mut engine, name).map_err(refuse)?;
    engine
        .compile_with_entrypoint(&OUTCOME.into())
        .map_err(|error| refuse(located(name, &error)))?;
    Ok(Compiled { engine, version })
}

/// Tells which rules the source itself declares.
struct Declares<'a> {
    engine: &'a Engine,
    name: &'a str,
    /// Those that are known without asking, which takes the longer the more there are.
    names: BTreeSet<String>,
}

impl Declares<'_> {
    /// `path` counts from the package.
    fn rule(&self, path: &str) -> Result<bool, CompileError> {
        if self.names.contains(path) {
            return Ok(true);
        }
        self.engine
            .has_declared_rule_rooted_at(self.name, path)
            .map_err(|error| located(self.name, &error))
    }
}

/// What stands beside every policy: the aliases, and in Rego v0 the deprecated functions, that the
/// source does not use for something else. A module of its own, so that lines count as written.
fn prelude(
    declares: &Declares<'_>,
    outline: &Outline<'_>,
    version: RegoVersion,
) -> Result<String, CompileError> {
    let mut text = String::from("package spacelift\n");
    for (alias, path) in ALIASES {
        // The engine takes a local name for a rule of the same name, so there must be none.
        let taken = outline.imports.contains(alias) || outline.locals.contains_key(alias);
        if !taken && !declares.rule(alias)? {
            text.extend([alias, " := ", path, "\n"]);
        }
    }
    if version == RegoVersion::V0 && !declares.rule(builtins::RE_MATCH)? {
        text.push_str("re_match(pattern, value) := regex.match(pattern, value)\n");
    }
    Ok(text)
}

/// A policy that denies nothing says so: otherwise it forgot to, or misspelt it.
fn check_deny(declares: &Declares<'_>, text: &str) -> Result<(), CompileError> {
    if declares.rule("deny")? {
        return Ok(());
    }
    let near = text.lines().zip(1..).find_map(|(line, number)| {
        let line = line.strip_prefix("default ").unwrap_or(line);
        let name = line.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
        is_near(name).then_some((name, Place { line: number, column: 1 }))
    });
    let (message, place) = match near {
        Some((name, place)) => {
            (format!("there is no rule `deny`, and `{name}` is not looked at"), Some(place))
        }
        None => {
            ("there is no rule `deny`, so that every run would be let through".to_owned(), None)
        }
    };
    Err(CompileError {
        file: declares.name.to_owned(),
        place,
        message,
        help: "write `deny contains \"why not\" if { ... }` (v0: `deny[\"why not\"] { ... }`), or, if it is meant to deny nothing, `deny := set()`",
    })
}

/// Whether whoever wrote `name` may have meant `deny`: it is little else, or a word for the same.
fn is_near(name: &str) -> bool {
    let name = name.to_lowercase();
    let letters = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters.dedup();
        letters
    };
    let is_other_word = matches!(name.as_str(), "reject" | "refuse" | "block" | "forbid");
    letters(&name) == letters("deny") || name.starts_with("den") || is_other_word
}

fn wrong_package(name: &str, text: &str, package: &str) -> CompileError {
    let line = text.lines().position(|line| line.trim_start().starts_with("package")).unwrap_or(0);
    CompileError {
        file: name.to_owned(),
        place: Some(Place { line: u32::try_from(line + 1).unwrap_or(u32::MAX), column: 1 }),
        message: format!(
            "the package is `{}`, not `spacelift`",
            package.trim_start_matches("data.")
        ),
        help: "begin the policy with `package spacelift`",
    }
}

fn check_calls(
    declares: &Declares<'_>,
    outline: &Outline<'_>,
    version: RegoVersion,
) -> Result<(), CompileError> {
    for &(path, place) in &outline.calls {
        let root = path.split('.').next().unwrap_or(path);
        let refused = builtins::refused(path);
        let known = root == "data" || outline.imports.contains(root);
        if known || (refused.is_none() && builtins::exists(path, version)) || declares.rule(path)? {
            continue;
        }
        let (message, help) = if let Some(help) = refused {
            (format!("`{path}` is not available in policies"), help)
        } else if path == builtins::RE_MATCH {
            (format!("`{path}` does not exist in Rego v1"), "use `regex.match`")
        } else {
            (format!("there is no function `{path}`"), "check its name, or define it in the policy")
        };
        return Err(CompileError {
            file: declares.name.to_owned(),
            place: Some(place),
            message,
            help,
        });
    }
    Ok(())
}

/// Where Rego says that a local name hides a rule, the engine means the rule: a condition would be about
/// something else than is written.
fn check_locals(declares: &Declares<'_>, outline: &Outline<'_>) -> Result<(), CompileError> {
    for (&local, &place) in &outline.locals {
        if outline.imports.contains(local) || declares.rule(local)? {
            return Err(CompileError {
                file: declares.name.to_owned(),
                place: Some(place),
                message: format!(
                    "`{local}` is introduced here but is the name of a rule or import too"
                ),
                help: "rename one of them",
            });
        }
    }
    Ok(())
}

/// The engine's errors carry their place in their text.
fn located(name: &str, error: &anyhow::Error) -> CompileError {
    let (place, message) = read(name, &format!("{error:#}"));
    CompileError {
        file: name.to_owned(),
        place,
        message,
        help: "correct it, and check it with `opa check`",
    }
}

/// Takes the engine's drawing of an error apart: an arrow with file, line and column, then the line
/// itself, then what is wrong. A place in one of our own modules is none that a user could look at.
pub(crate) fn read(name: &str, text: &str) -> (Option<Place>, String) {
    let place = text.lines().find_map(|line| {
        let mut parts =
            line.trim_start().strip_prefix("--> ")?.strip_prefix(name)?.split(':').skip(1);
        Some(Place {
            line: parts.next()?.parse().ok()?,
            column: parts.next()?.trim().parse().ok()?,
        })
    });
    let message = match text.split_once("error: ") {
        Some((_, message)) => message,
        None => text,
    };
    (place, message.trim().trim_end_matches('.').replace('\n', " "))
}
