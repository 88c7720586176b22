//! What went wrong, why, and what to do next.
//!
//! A command ends at its first failure. Nothing else of the program prints errors or picks exit codes.

use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitCode;

/// How the program ends. The numbers stand in `--help` and do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Done.
    Done = 0,
    /// Something failed, or a followed run did.
    Failed = 1,
    /// The arguments make no sense together.
    Usage = 2,
    /// Another server uses the data directory.
    Held = 3,
    /// The server cannot be reached.
    Unreachable = 4,
    /// Not logged in, or the key is refused.
    Unauthorized = 5,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    what: String,
    next: Option<String>,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure in words: lower case, no full stop.
    pub fn new(what: impl Into<String>) -> Self {
        Self { code: Code::Failed, what: what.into(), next: None, cause: None }
    }

    /// Arguments that make no sense.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(what).with(Code::Usage)
    }

    /// The same, ending with `code`.
    pub fn with(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// The same, with what to do next.
    pub fn next(self, next: impl Into<String>) -> Self {
        Self { next: Some(next.into()), ..self }
    }

    /// The same, with what caused it.
    pub fn because(self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    /// How the program ends.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What to do next, if that can be said: what the place of the failure knows, or else what
    /// usually helps against its cause.
    pub fn next_step(&self) -> Option<&str> {
        self.next.as_deref().or_else(|| self.causes().find_map(usual_step))
    }

    fn causes(&self) -> impl Iterator<Item = &(dyn Error + 'static)> {
        let first = self.cause.as_deref().map(|it| it as &(dyn Error + 'static));
        std::iter::successors(first, |error| (**error).source())
    }
}

/// What helps against what the system refused.
#[expect(clippy::wildcard_enum_match_arm, reason = "the list of kinds is the library's, and grows")]
fn usual_step(error: &(dyn Error + 'static)) -> Option<&'static str> {
    match error.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            Some("check the path")
        }
        io::ErrorKind::PermissionDenied => {
            Some("give this user access to it, or run this as its owner")
        }
        io::ErrorKind::ReadOnlyFilesystem => Some("give a path that can be written"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("make room there, or give a path elsewhere")
        }
        _ => None,
    }
}

impl fmt::Display for Failure {
    /// What went wrong and all its causes, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut said = self.what.clone();
        for error in self.causes() {
            let text = error.to_string();
            // Libraries like to repeat the cause in their own text.
            if !said.contains(&text) {
                write!(f, ": {text}")?;
            }
            said = text;
        }
        Ok(())
    }
}

impl From<io::Error> for Failure {
    /// Of writing to standard output: all other places say what they were doing.
    fn from(error: io::Error) -> Self {
        Self::new("cannot write to standard output").because(error)
    }
}

/// Says what was being done when something failed.
pub trait Explain<T> {
    /// `what` went wrong; the error becomes its cause.
    fn or_say(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Explain<T> for Result<T, E> {
    fn or_say(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(what()).because(error))
    }
}

/// Some names in one line; of many, the first.
pub fn list_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<&str> = names.collect();
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let cause = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let failure = Failure::new("cannot read a.key").because(cause).next("make one");
        assert_eq!(failure.to_string(), "cannot read a.key: no such file");
        assert_eq!(failure.next_step(), Some("make one"));
        assert_eq!(failure.code(), Code::Failed);
    }

    #[test]
    fn what_the_system_refused_has_a_next_step() {
        let refused =
            |kind: io::ErrorKind| Failure::new("cannot write a.key").because(io::Error::from(kind));
        assert_eq!(refused(io::ErrorKind::NotFound).next_step(), Some("check the path"));
        assert!(refused(io::ErrorKind::StorageFull).next_step().unwrap().contains("make room"));
        assert_eq!(refused(io::ErrorKind::Other).next_step(), None);
        let said = refused(io::ErrorKind::NotFound).next("make one");
        assert_eq!(said.next_step(), Some("make one"));
    }
}
