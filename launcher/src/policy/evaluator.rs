//! The process that looks into a policy: one question in, one answer out.
//!
//! It is this same program, called by a launcher with the one argument [`MARKER`] and without any
//! environment. Nobody comes here by accident: a shell always has an environment, and `--help` does
//! not name the argument, because it is no way to use the program. It has no secret, and before it
//! reads the question it gives up what it does not need: files, other processes, more memory and
//! processor time than an honest policy takes. It is the first to be ended when the host has no memory
//! left, and it ends with the launcher that asked.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use gantry_policy::Policy;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The argument that makes the program an evaluator.
pub const MARKER: &str = "evaluate-one-policy-for-the-launcher-that-started-this";
/// How much memory it may take, in bytes, the program itself included.
pub const MEMORY_LIMIT: u64 = 512 << 20;
/// How much processor time it may take.
pub const CPU_LIMIT: Duration = Duration::from_secs(10);
/// How large its stack may grow.
const STACK_LIMIT: u64 = 8 << 20;
/// The longest question: the policy, and an input that came in a sealed spec.
const MAX_QUESTION: u64 = 64 << 20;

/// What is asked.
#[derive(Serialize, Deserialize)]
pub struct Question {
    /// What errors call the policy.
    pub name: String,
    /// Its text.
    pub source: String,
    /// The run; none if the only question is whether the policy is valid.
    pub input: Option<Value>,
}

impl Question {
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data with text keys always serializes")
    }
}

/// What is answered.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    /// The policy is valid.
    Valid,
    /// It is not, and why.
    Invalid(String),
    /// What it says about the run.
    Decided {
        /// Why the run is denied.
        denials: Vec<String>,
        /// Whether input and outcome are to be recorded.
        sample: bool,
    },
    /// It says nothing clear about the run, and why.
    Undecided(String),
}

/// Whether a launcher started this process to evaluate a policy.
pub fn is_called(
    mut arguments: impl Iterator<Item = OsString>,
    mut environment: impl Iterator<Item = (OsString, OsString)>,
) -> bool {
    let is_marked = arguments.nth(1).is_some_and(|argument| argument == MARKER);
    is_marked && arguments.next().is_none() && environment.next().is_none()
}

/// Answers the question on standard input on standard output.
#[must_use]
pub fn main() -> ExitCode {
    match confine().and_then(|()| answer()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever asked may be gone.
            drop(writeln!(io::stderr(), "{error}"));
            ExitCode::FAILURE
        }
    }
}

/// Gives up everything that no policy needs.
fn confine() -> io::Result<()> {
    // Before the process hides: its files in /proc are then root's. Not every host lets it.
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    // It reads its settings from files.
    openssl::init();
    let cpu = CPU_LIMIT.as_secs();
    for (resource, limit) in [
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, 0),
        (Resource::Nproc, 0),
        (Resource::Stack, STACK_LIMIT),
        (Resource::Data, MEMORY_LIMIT),
        (Resource::As, MEMORY_LIMIT),
        (Resource::Cpu, cpu),
    ] {
        // Whoever started the launcher may have set a lower one.
        let limit = getrlimit(resource).maximum.map_or(limit, |known| known.min(limit));
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(())
}

fn answer() -> io::Result<()> {
    let mut question = Vec::new();
    io::stdin().lock().take(MAX_QUESTION + 1).read_to_end(&mut question)?;
    if question.len() as u64 > MAX_QUESTION {
        let answer = Answer::Undecided("the run has more to look at than 64 MiB".to_owned());
        return say(&answer);
    }
    let question: Question = serde_json::from_slice(&question)?;
    say(&about(&question))
}

fn say(answer: &Answer) -> io::Result<()> {
    io::stdout().lock().write_all(&serde_json::to_vec(answer)?)
}

fn about(question: &Question) -> Answer {
    let policy = match Policy::compile(&question.name, &question.source) {
        Ok(policy) => policy,
        Err(error) => return Answer::Invalid(error.to_string()),
    };
    let Some(input) = &question.input else { return Answer::Valid };
    match policy.evaluate(input, SystemTime::now()) {
        Ok(decision) => Answer::Decided { denials: decision.denials, sample: decision.sample },
        Err(error) => Answer::Undecided(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_becomes_an_evaluator_by_accident() {
        let called = |arguments: &[&str], environment: &[&str]| {
            let arguments = arguments.iter().map(OsString::from);
            is_called(arguments, environment.iter().map(|name| (name.into(), "x".into())))
        };
        assert!(called(&["launcher", MARKER], &[]));
        assert!(!called(&["launcher", MARKER], &["PATH"]));
        assert!(!called(&["launcher", MARKER, "more"], &[]));
        assert!(!called(&["launcher", "--help"], &[]));
        assert!(!called(&["launcher"], &[]) && !called(&[], &[]));
    }
}
