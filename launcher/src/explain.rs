//! What people are told when something fails: what happened, why, what to do next, and with which
//! code the program ends.
//!
//! The codes are part of what `--help` prints, so a unit file or a script can act on them.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

/// With which code the launcher ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    /// It was asked to leave and left in good order, or handed over.
    Done,
    /// Something that no other code names.
    Unexpected,
    /// The environment has mistakes.
    Configuration,
    /// The run initialization policy is invalid.
    Policy,
    /// The broker could not be reached.
    Broker,
    /// The container engine cannot be used.
    Engine,
    /// The state directory is in use, or cannot be used.
    State,
    /// It cannot be now, and may be later without anybody's doing.
    NotNow,
    /// The pool does not admit this launcher.
    Refused,
}

impl Exit {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 9] = [
        Self::Done,
        Self::Unexpected,
        Self::Configuration,
        Self::Policy,
        Self::Broker,
        Self::Engine,
        Self::State,
        Self::NotNow,
        Self::Refused,
    ];

    /// The number that the parent process sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Unexpected => 1,
            Self::Configuration => 64,
            Self::Policy => 65,
            Self::Broker => 69,
            Self::Engine => 70,
            Self::State => 73,
            Self::NotNow => 75,
            Self::Refused => 77,
        }
    }

    /// What it means, as `--help` says it.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "asked to leave and left in good order, or handed over",
            Self::Unexpected => "an unexpected failure; the log says which",
            Self::Configuration => "the environment has mistakes; all of them are printed",
            Self::Policy => "the run initialization policy is invalid",
            Self::Broker => "no session could be opened for two minutes after the start",
            Self::Engine => "no container engine, or one that cannot be used",
            Self::State => "another launcher has the state directory, or it cannot be used",
            Self::NotNow => "not now: this host's clock is wrong, or a copy of it is connected",
            Self::Refused => "the pool does not admit this launcher; the log says why",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error that a person may have to act on.
pub trait Explain: Error {
    /// What to do next, if the message itself does not say so.
    fn help(&self) -> Option<&'static str>;

    /// With which code the launcher ends when this ends it.
    fn exit_code(&self) -> Exit;
}

/// The message of `error` and its causes in one line.
#[must_use]
pub fn sentence(error: &dyn Error) -> String {
    joined(error, ": ")
}

/// The message of `error`, its causes and what to do next, a line each.
#[must_use]
pub fn explain(error: &dyn Explain) -> String {
    let mut text = joined(error, "\n  because: ");
    if let Some(help) = error.help() {
        write!(text, "\n  next: {help}").expect("a string takes all that is written");
    }
    text
}

fn joined(error: &dyn Error, between: &str) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        let why_text = why.to_string();
        // Many errors of libraries repeat their cause.
        if !text.contains(&why_text) {
            text.push_str(between);
            text.push_str(&why_text);
        }
        cause = why.source();
    }
    text
}
