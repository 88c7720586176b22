//! Reads variables one by one and collects what is wrong with them.

use std::collections::BTreeMap;

use super::GoDuration;
use super::environment::Passed;
use super::problem::{ConfigError, ConfigErrors, Problem, Warning};
use super::variable::{default_of, unknown};

/// The longest value of a variable that is no token, key or list.
const MAX_VALUE: usize = 8 * 1024;

/// The environment and what is wrong with it. A variable that is set to nothing counts as not set:
/// that is what scripts do with what they do not have.
pub(super) struct Reader<'a> {
    environment: &'a BTreeMap<String, String>,
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(environment: &'a BTreeMap<String, String>) -> Self {
        Self { environment, errors: Vec::new(), warnings: Vec::new() }
    }

    /// The value of any variable, even an empty one.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.environment.get(name).map(String::as_str)
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.raw(name).map(str::trim).filter(|text| !text.is_empty())
    }

    pub(super) fn refuse(&mut self, variable: &str, problem: impl Into<Problem>) {
        let variable = variable.chars().take(160).collect();
        self.errors.push(ConfigError { variable, problem: problem.into() });
    }

    pub(super) fn warn(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }

    /// A variable that must be set. None if it is not or has a mistake; that is noted then.
    pub(super) fn required<T>(
        &mut self,
        name: &str,
        missing: Problem,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        match self.text(name).map_or(Err(missing), parse) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.refuse(name, problem);
                None
            }
        }
    }

    /// A variable of the table that has a default. None if it has a mistake; that is noted then.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let text = self.text(name).unwrap_or_else(|| default_of(name));
        self.check(name, text, parse)
    }

    /// A variable that need not be set.
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let text = self.text(name)?;
        self.check(name, text, parse)
    }

    fn check<T>(
        &mut self,
        name: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let parsed = if text.len() > MAX_VALUE { Err(Problem::TooLong) } else { parse(text) };
        match parsed {
            Ok(value) => Some(value),
            Err(problem) => {
                self.refuse(name, problem);
                None
            }
        }
    }

    pub(super) fn duration(&mut self, name: &str) -> Option<GoDuration> {
        self.parsed(name, |text| {
            let spelled = || text.chars().take(64).collect();
            text.parse().map_err(|error| Problem::Duration { text: spelled(), error })
        })
    }

    /// A variable that is true or false, in any spelling that Go's programs take.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        let flag = self.parsed(name, |text| match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(Problem::OneOf("true or false")),
        });
        flag.unwrap_or(false)
    }

    /// The entries of a list separated by commas; empty ones are left out.
    pub(super) fn list(&self, name: &str) -> Vec<&'a str> {
        let text = self.text(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect()
    }

    /// What follows `prefix` in the names of set variables, and their values.
    pub(super) fn family(&self, prefix: &'static str) -> Vec<(&'a str, &'a str)> {
        let all = self.environment.iter();
        all.filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
            .filter(|(key, value)| !key.is_empty() && !value.is_empty())
            .collect()
    }

    /// Adds warnings for names that look like ours, and ends with all errors, if there are any.
    pub(super) fn finish(mut self, passed: &[Passed]) -> Result<Vec<Warning>, ConfigErrors> {
        for name in self.environment.keys() {
            let is_passed = passed.iter().any(|it| it.source == *name);
            if let Some(unknown) = unknown(name).filter(|_| !is_passed) {
                self.warnings.push(Warning::Unknown(unknown));
            }
        }
        if self.errors.is_empty() {
            Ok(self.warnings)
        } else {
            Err(ConfigErrors { errors: self.errors, warnings: self.warnings })
        }
    }
}
