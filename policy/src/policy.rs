//! One policy and its decisions.
//!
//! [`Policy::evaluate`] is the same for the same policy, input and time. It stops by itself after
//! [`TIME_LIMIT`], except inside one long built-in function, which the engine does not interrupt: an
//! asynchronous caller evaluates on a blocking thread and keeps a deadline of its own.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{LimitError, Value};

use crate::builtins;
use crate::compile::{self, CompileError, Compiled, OUTCOME};

/// How many bytes a policy may have.
pub const LONGEST_SOURCE: usize = 1024 * 1024;
/// How long an evaluation may take.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// How many denials are reported, and how many characters of each.
const MOST_DENIALS: usize = 100;
const LONGEST_DENIAL: usize = 4096;

/// How many steps of the engine go by between two looks at the time.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(256).expect("a constant above zero");

/// The language version in which a policy was found to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegoVersion {
    /// As most policies for private workers are published: `deny["message"] { ... }`.
    V0,
    /// `deny contains "message" if { ... }`.
    V1,
}

/// A compiled policy. Cloning is cheap, and evaluation needs no exclusive access.
#[derive(Clone)]
pub struct Policy {
    name: String,
    engine: regorus::Engine,
    version: RegoVersion,
    time_limit: Duration,
}

impl fmt::Debug for Policy {
    /// A policy may hold a secret, such as the key of a token, so its text is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What a policy says about a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Why the run is denied, in order, each reason once. Empty: it is not denied.
    pub denials: Vec<String>,
    /// Whether the policy asks that input and outcome be recorded.
    pub sample: bool,
}

impl Decision {
    /// Whether the run may start.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.denials.is_empty()
    }
}

/// Why a policy gave no answer. The run is denied then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// A step of the policy failed.
    #[error("{file}{}: {message}: the run is denied; correct the policy", shown(*.place))]
    Failed {
        /// The policy.
        file: String,
        /// Where, if it is known.
        place: Option<compile::Place>,
        /// What failed.
        message: String,
    },
    /// It took longer than the limit.
    #[error(
        "{file}: the policy took longer than {limit:?}: the run is denied; make the policy simpler"
    )]
    TimedOut {
        /// The policy.
        file: String,
        /// The limit.
        limit: Duration,
    },
    /// `deny` or `sample` is not what it must be.
    #[error("{file}: `{rule}` is {found}, not {expected}: the run is denied; correct the policy")]
    WrongType {
        /// The policy.
        file: String,
        /// The rule.
        rule: &'static str,
        /// What it should have been.
        expected: &'static str,
        /// What it was.
        found: &'static str,
    },
}

fn shown(place: Option<compile::Place>) -> String {
    place.map_or_else(String::new, |place| format!(":{}:{}", place.line, place.column))
}

impl Policy {
    /// Compiles `source`, as Rego v1 if it is that and as v0 otherwise. `name` is what errors call it.
    ///
    /// # Errors
    ///
    /// Tells the first mistake with its place and what to do about it.
    pub fn compile(name: &str, source: &str) -> Result<Self, CompileError> {
        let Compiled { engine, version } = compile::compile(name, source)?;
        Ok(Self { name: name.to_owned(), engine, version, time_limit: TIME_LIMIT })
    }

    /// Takes another time limit than [`TIME_LIMIT`].
    #[must_use]
    pub fn with_time_limit(self, time_limit: Duration) -> Self {
        Self { time_limit, ..self }
    }

    /// The version that the source is written in.
    #[must_use]
    pub fn version(&self) -> RegoVersion {
        self.version
    }

    /// Decides about one run. `now` is what the expiry of tokens is held against.
    ///
    /// # Errors
    ///
    /// Fails if the policy does not end in a clear answer. The caller denies the run then.
    pub fn evaluate(
        &self,
        input: &serde_json::Value,
        now: SystemTime,
    ) -> Result<Decision, EvaluateError> {
        let mut engine = self.engine.clone();
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: self.time_limit,
            check_interval: CHECK_INTERVAL,
        });
        engine.set_input(Value::from(input.clone()));
        builtins::install(&mut engine, now).map_err(|error| self.failed(&error))?;
        let outcome = engine.eval_rule(OUTCOME.to_owned()).map_err(|error| self.failed(&error))?;
        Ok(Decision { denials: self.denials(&outcome)?, sample: self.sample(&outcome)? })
    }

    fn failed(&self, error: &anyhow::Error) -> EvaluateError {
        let file = self.name.clone();
        let text = format!("{error:#}");
        let timed_out = matches!(error.downcast_ref(), Some(LimitError::TimeLimitExceeded { .. }));
        if timed_out || text.contains("execution exceeded time limit") {
            return EvaluateError::TimedOut { file, limit: self.time_limit };
        }
        let (place, message) = compile::read(&self.name, &text);
        EvaluateError::Failed { file, place, message }
    }

    fn denials(&self, outcome: &Value) -> Result<Vec<String>, EvaluateError> {
        let wrong = |found| self.wrong("deny", "a set of strings", found);
        let deny = match only(outcome, "deny") {
            Some(Value::Set(deny)) => deny,
            Some(other) => return Err(wrong(kind(other))),
            None => return Err(wrong("undefined")),
        };
        let mut denials = BTreeSet::new();
        for denial in deny.iter() {
            let Value::String(text) = denial else { return Err(wrong(set_of(denial))) };
            denials.insert(text.chars().take(LONGEST_DENIAL).collect::<String>());
        }
        let more = denials.len().saturating_sub(MOST_DENIALS);
        let mut denials: Vec<String> = denials.into_iter().take(MOST_DENIALS).collect();
        if more > 0 {
            denials.push(format!("and {more} more"));
        }
        Ok(denials)
    }

    fn sample(&self, outcome: &Value) -> Result<bool, EvaluateError> {
        match only(outcome, "sample") {
            Some(Value::Bool(sample)) => Ok(*sample),
            Some(other) => Err(self.wrong("sample", "a boolean", kind(other))),
            None => Ok(false),
        }
    }

    fn wrong(
        &self,
        rule: &'static str,
        expected: &'static str,
        found: &'static str,
    ) -> EvaluateError {
        EvaluateError::WrongType { file: self.name.clone(), rule, expected, found }
    }
}

/// The harness wraps each value in an array, which is empty where the rule is undefined.
fn only<'a>(outcome: &'a Value, rule: &str) -> Option<&'a Value> {
    let values = outcome.as_object().ok()?.get(&Value::from(rule))?;
    values.as_array().ok()?.first()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Set(_) => "a set",
        Value::Object(_) => "an object",
        Value::Undefined => "undefined",
    }
}

fn set_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "a set that holds null",
        Value::Bool(_) => "a set that holds a boolean",
        Value::Number(_) => "a set that holds a number",
        Value::String(_) => "a set that holds a string",
        Value::Array(_) => "a set that holds an array",
        Value::Set(_) => "a set that holds a set",
        Value::Object(_) => "a set that holds an object",
        Value::Undefined => "a set that holds something undefined",
    }
}
