//! The run initialization policy of this host, asked where it can do no harm.
//!
//! A policy is a program: it may call itself until its stack ends, build lists until the memory ends,
//! or never come to an end at all. So this process never looks into one. Every question, whether the
//! text is valid or what it says about a run, goes to an [`evaluator`]: this same program, started
//! afresh with limits and without anything that is secret, which ends with its answer or is ended.
//! Whatever it dies of, the launcher lives, and the run is denied.

pub mod evaluator;

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use gantry_policy::Decision;
use gantry_protocol::Digest;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::explain::{Exit, Explain};
use evaluator::{Answer, CPU_LIMIT, MARKER, MEMORY_LIMIT, Question};

/// This program, also when its file was replaced or removed in the meantime.
const ITSELF: &str = "/proc/self/exe";
/// What `ps` shows of an evaluator.
const SHOWN_AS: &str = "gantry-launcher: policy";
/// How long an evaluator may take with all that it does. A policy that does not end stops by itself
/// after 5 s, except inside one long built-in function.
const LIMIT: Duration = Duration::from_secs(15);
/// The largest policy, in bytes.
const MAX_SOURCE: u64 = 1 << 20;
/// The longest answer, in bytes: 101 denials of 4,096 characters fit in.
const MAX_ANSWER: u64 = 4 << 20;
/// How much of an evaluator's standard error is looked at.
const MAX_STDERR: u64 = 4 << 10;

/// The policy, found to be valid.
#[derive(Debug)]
pub struct Policy {
    name: String,
    source: Source,
    sha256: String,
    program: PathBuf,
    limit: Duration,
}

/// The text of a policy, which may hold a key for tokens.
struct Source(String);

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Its file cannot be read.
    #[error("cannot read the run initialization policy {path}")]
    File {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is invalid.
    #[error("{0}")]
    Invalid(String),
    /// Looking at it came to no end.
    #[error("the run initialization policy {path} cannot be checked: {why}")]
    Unanswered {
        /// Where it is.
        path: PathBuf,
        /// What happened.
        why: Unanswered,
    },
}

impl Explain for PolicyError {
    fn help(&self) -> Option<&'static str> {
        match self {
            Self::File { .. } => Some(
                "give its path in SPACELIFT_LAUNCHER_RUN_INITIALIZATION_POLICY, and the launcher's user the right to read it",
            ),
            // It says so itself.
            Self::Invalid(_) => None,
            Self::Unanswered { why: Unanswered::NotStarted(_), .. } => {
                Some("look for what this host has run out of: processes, memory, open files")
            }
            Self::Unanswered { why: Unanswered::TooLong(_), .. } => {
                Some("make the policy simpler, or this host less busy")
            }
            Self::Unanswered { why: Unanswered::Undecided(_) | Unanswered::Died(_), .. } => {
                Some("make the policy simpler")
            }
        }
    }

    fn exit_code(&self) -> Exit {
        match self {
            // This host's fault, and perhaps for now only: nobody may keep the launcher from trying again.
            Self::Unanswered {
                why: Unanswered::NotStarted(_) | Unanswered::TooLong(_), ..
            } => Exit::Unexpected,
            Self::File { .. }
            | Self::Invalid(_)
            | Self::Unanswered { why: Unanswered::Undecided(_) | Unanswered::Died(_), .. } => {
                Exit::Policy
            }
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// The policy gave none.
    #[error("{0}")]
    Undecided(String),
    /// There is no evaluator.
    #[error("its evaluation could not be started: {0}")]
    NotStarted(io::Error),
    /// It took too long.
    #[error("its evaluation took longer than {} s", .0.as_secs_f32())]
    TooLong(Duration),
    /// The evaluator died.
    #[error("its evaluation {0}")]
    Died(String),
}

impl Policy {
    /// Reads the policy at `path` and has it checked.
    ///
    /// # Errors
    /// Every [`PolicyError`].
    pub async fn read(path: &Path) -> Result<Self, PolicyError> {
        use std::io::Read as _;
        let read = || -> io::Result<String> {
            let mut source = String::new();
            std::fs::File::open(path)?.take(MAX_SOURCE + 1).read_to_string(&mut source)?;
            Ok(source)
        };
        let source =
            read().map_err(|source| PolicyError::File { path: path.to_owned(), source })?;
        Self::check(&path.to_string_lossy(), source, Path::new(ITSELF)).await
    }

    /// Has a policy checked that errors call `name`. `program` is what evaluates it: the launcher.
    ///
    /// # Errors
    /// Every [`PolicyError`] but that of the file.
    pub async fn check(name: &str, source: String, program: &Path) -> Result<Self, PolicyError> {
        let sha256 = Digest::of(source.as_bytes()).to_string();
        let (name, source, program) = (name.to_owned(), Source(source), program.to_owned());
        let policy = Self { name, source, sha256, program, limit: LIMIT };
        let unanswered = |why| PolicyError::Unanswered { path: PathBuf::from(&policy.name), why };
        match policy.ask(None).await {
            Ok(Answer::Valid) => Ok(policy),
            Ok(Answer::Invalid(why)) => Err(PolicyError::Invalid(why)),
            Ok(Answer::Decided { .. } | Answer::Undecided(_)) => {
                Err(unanswered(Unanswered::Died("answered something else".to_owned())))
            }
            Err(why) => Err(unanswered(why)),
        }
    }

    /// Takes another time limit.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Lower-case hex of the SHA-256 of its text: with it a decision names what decided.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What it says about a run. When this is dropped, so is the evaluation.
    ///
    /// # Errors
    /// When it has no clear answer: the run is denied then.
    pub async fn decide(&self, input: Value) -> Result<Decision, Unanswered> {
        match self.ask(Some(input)).await? {
            Answer::Decided { denials, sample } => Ok(Decision { denials, sample }),
            Answer::Undecided(why) | Answer::Invalid(why) => Err(Unanswered::Undecided(why)),
            Answer::Valid => Err(Unanswered::Died("answered something else".to_owned())),
        }
    }

    async fn ask(&self, input: Option<Value>) -> Result<Answer, Unanswered> {
        let question =
            Question { name: self.name.clone(), source: self.source.0.clone(), input }.to_json();
        let mut evaluator = Command::new(&self.program)
            .arg0(SHOWN_AS)
            .arg(MARKER)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(Unanswered::NotStarted)?;
        let answered = tokio::time::timeout(self.limit, talk(&mut evaluator, &question)).await;
        let Ok(output) = answered else {
            // When it is dead already, that is as well.
            drop(evaluator.kill().await);
            return Err(Unanswered::TooLong(self.limit));
        };
        let output = output.map_err(|error| Unanswered::Died(format!("broke off: {error}")))?;
        match serde_json::from_slice(&output.stdout) {
            Ok(answer) if output.status.success() => Ok(answer),
            Ok(_) | Err(_) => Err(Unanswered::Died(cause_of_death(output.status, &output.stderr))),
        }
    }
}

/// Puts the question to an evaluator and waits for its end.
async fn talk(evaluator: &mut Child, question: &[u8]) -> io::Result<Output> {
    let (stdin, stdout, stderr) =
        (evaluator.stdin.take(), evaluator.stdout.take(), evaluator.stderr.take());
    let put = async {
        // It may die before it has read everything; how it ended says more than that.
        if let Some(mut stdin) = stdin {
            drop(stdin.write_all(question).await);
        }
    };
    let (mut answer, mut complaint) = (Vec::new(), Vec::new());
    let heard = async {
        if let Some(stdout) = stdout {
            stdout.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        }
        io::Result::Ok(())
    };
    let complained = async {
        if let Some(stderr) = stderr {
            stderr.take(MAX_STDERR).read_to_end(&mut complaint).await?;
        }
        io::Result::Ok(())
    };
    let ((), heard, complained) = tokio::join!(put, heard, complained);
    heard.and(complained)?;
    let status = evaluator.wait().await?;
    Ok(Output { status, stdout: answer, stderr: complaint })
}

/// What an evaluator died of, as far as it can be told. None of its own words: they may quote the policy.
fn cause_of_death(status: ExitStatus, complaint: &[u8]) -> String {
    use rustix::process::Signal;
    let complaint = String::from_utf8_lossy(complaint);
    let signal = status.signal();
    let is = |signals: &[Signal]| signals.iter().any(|it| signal == Some(it.as_raw()));
    if complaint.contains("overflowed its stack") || is(&[Signal::SEGV, Signal::BUS]) {
        "overflowed its stack".to_owned()
    } else if complaint.contains("memory allocation of") {
        format!("needed more than {} MiB of memory", MEMORY_LIMIT >> 20)
    } else if is(&[Signal::XCPU]) {
        format!("took more than {} s of processor time", CPU_LIMIT.as_secs())
    } else if is(&[Signal::KILL]) {
        "was killed, perhaps because this host ran out of memory".to_owned()
    } else {
        format!("ended without an answer ({status})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_told_by_its_signal_and_complaint() {
        let told = |signal: i32, complaint: &str| {
            cause_of_death(ExitStatus::from_raw(signal), complaint.as_bytes())
        };
        assert_eq!(told(6, "thread 'main' has overflowed its stack"), "overflowed its stack");
        assert_eq!(told(11, ""), "overflowed its stack");
        assert_eq!(
            told(6, "memory allocation of 8 bytes failed"),
            "needed more than 512 MiB of memory"
        );
        assert_eq!(told(24, ""), "took more than 10 s of processor time");
        assert!(told(9, "").starts_with("was killed"));
        let panicked = told(101 << 8, "thread 'main' panicked at hunter2");
        assert_eq!(panicked, "ended without an answer (exit status: 101)");
    }
}
