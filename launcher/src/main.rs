//! `gantry-launcher`: arguments, logging, runtime, exit code. The library has the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::process::ExitCode;

use gantry_launcher::check;
use gantry_launcher::config::{Config, LogFormat, LogLevel, help};
use gantry_launcher::explain::{Exit, Explain, explain, sentence};
use gantry_launcher::log::RUN_LOG;
use gantry_launcher::policy::evaluator;
use gantry_launcher::report::Json;
use gantry_launcher::start;
use gantry_model::one_line;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    if evaluator::is_called(std::env::args_os(), std::env::vars_os()) {
        return evaluator::main();
    }
    keep_to_itself();
    let argument =
        std::env::args_os().nth(1).map(|argument| argument.to_string_lossy().into_owned());
    let mut is_check = false;
    match argument.as_deref() {
        None => {}
        Some("--check") => is_check = true,
        Some("--help" | "-h") => {
            tell(io::stdout(), help().trim_end());
            return Exit::Done.into();
        }
        Some("--version" | "-V") => {
            tell(io::stdout(), concat!("gantry-launcher ", env!("CARGO_PKG_VERSION")));
            return Exit::Done.into();
        }
        Some(other) => {
            tell(
                io::stderr(),
                format_args!(
                    "gantry-launcher knows no argument {other:?}: environment variables set it; --help prints them"
                ),
            );
            return Exit::Configuration.into();
        }
    }
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let config = match Config::from_environment(&environment) {
        Ok(config) => config,
        Err(errors) => {
            let is_human =
                is_check || environment.get("GANTRY_LOG").is_some_and(|value| value == "human");
            if is_human {
                tell(io::stderr(), &errors);
            } else {
                log(LogFormat::Json, LogLevel::Info);
                for error in &errors.errors {
                    tracing::error!(variable = error.variable, "{error}");
                }
                for warning in &errors.warnings {
                    tracing::warn!("{warning}");
                }
                let first = errors.to_string();
                end(&errors, first.lines().next().unwrap_or_default());
            }
            return errors.exit_code().into();
        }
    };
    drop(environment);
    if is_check {
        return look(&config);
    }
    log(config.log_format, config.log_level);
    let format = config.log_format;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return Exit::Unexpected.into();
        }
    };
    let ended = runtime.block_on(start::run(config));
    // What still works on files is left as a crash would leave it; the next launcher goes on from there.
    runtime.shutdown_background();
    match ended {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            match format {
                LogFormat::Json => end(&error, &sentence(&error)),
                LogFormat::Human => tell(io::stderr(), explain(&error)),
            }
            error.exit_code().into()
        }
    }
}

/// Why it ends, as the last line of a log whose reader is a program.
fn end(error: &impl Explain, why: &str) {
    let (exit, next) = (error.exit_code().code(), error.help().unwrap_or_default());
    tracing::error!(exit, next, "{why}");
}

/// Looks at all that a run needs of this host, and says what it finds.
fn look(config: &Config) -> ExitCode {
    for warning in &config.warnings {
        tell(io::stdout(), format_args!("note  {warning}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let found = runtime.block_on(check::check(config, |line| tell(io::stdout(), line)));
            found.exit().into()
        }
        Err(error) => {
            tell(io::stderr(), format_args!("cannot start the runtime: {error}"));
            Exit::Unexpected.into()
        }
    }
}

/// Says it to whoever listens. If nobody does, that ends nothing.
fn tell(mut to: impl io::Write, what: impl fmt::Display) {
    let _ = writeln!(to, "{what}");
}

/// A crash must not put the pool's key on a disk, nor may other processes of this user look for it here.
/// Where the kernel does not know how, nothing else is worse for it.
fn keep_to_itself() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Libraries say at these levels what only their authors need; `trace` shows that too.
    let libraries = if level == LevelFilter::TRACE { level } else { LevelFilter::WARN.min(level) };
    Targets::new()
        .with_default(libraries)
        .with_targets([("gantry_launcher", level), ("gantry_policy", level)])
        // Runs' own words, printed only where they were asked for: how much the launcher says is another matter.
        .with_target(RUN_LOG, LevelFilter::INFO)
}

fn log(format: LogFormat, level: LogLevel) {
    let filter = filter(level);
    // What cannot be said is not said: complaining of it on a standard error that is closed would be fatal.
    let layer = tracing_subscriber::fmt::layer().log_internal_errors(false);
    let registry = tracing_subscriber::registry();
    match format {
        LogFormat::Json => {
            registry.with(layer.event_format(Json).with_filter(filter)).init();
        }
        LogFormat::Human => {
            let layer = layer.with_ansi(false).with_writer(|| OneLine(io::stdout()));
            registry.with(layer.with_filter(filter)).init();
        }
    }
}

/// Makes one line of each entry: much of what is told was written elsewhere. The subscriber writes each
/// one whole.
struct OneLine<W>(W);

impl<W: io::Write> io::Write for OneLine<W> {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        self.0.write_all(one_line(&String::from_utf8_lossy(entry), false).as_bytes())?;
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_logs_of_runs_are_printed_however_little_the_launcher_says() {
        for level in [LogLevel::Error, LogLevel::Warn, LogLevel::Info] {
            assert!(filter(level).would_enable(RUN_LOG, &Level::INFO));
        }
        assert!(!filter(LogLevel::Error).would_enable("gantry_launcher::stage", &Level::WARN));
    }
}
