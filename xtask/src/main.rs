//! Developers' tasks: `cargo xtask demo`, `test`, `check`, `fresh` and `bench`.
//!
//! Each task says what it does while it does it, installs what is missing, and ends what it started: also after an
//! error and after Ctrl-C. Of the workspace only `gantry-stand` is linked in, so a clean clone compiles this in seconds.

mod bench;
mod build;
mod check;
mod config;
mod context;
mod demo;
#[cfg(test)]
mod documents;
mod engine;
mod fresh;
mod image;
mod process;
mod say;
mod service;
mod stand;
mod starts;
mod test;
mod tools;
mod undo;
mod walls;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{config::Config, context::Context, say::Say};

/// Developers' tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show one run end to end: plan, confirm, apply, in real containers.
    Demo(demo::Options),
    /// Run all tests; installs and starts what they need.
    Test(test::Options),
    /// Run what is checked without running anything: format, lints, documentation, dependencies, walls.
    Check(check::Options),
    /// Run README's commands on a Debian as it comes, in a container, from a clean clone.
    Fresh(fresh::Options),
    /// Measure ours and a baseline in one go.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let task = Arguments::parse().task;
    let (say, assume_yes) = match &task {
        Task::Demo(options) => (Say::to_stdout(), options.yes),
        Task::Test(_) | Task::Fresh(_) => (Say::to_stdout(), true),
        Task::Check(_) => (Say::to_stdout(), false),
        // Its standard output is the measurement.
        Task::Bench(_) => (Say::to_stderr(), true),
    };
    let cx = Context::new(Config::from_vars(std::env::vars_os()), say, assume_yes);
    let result = cx.undo.on_signals(&cx.say).and_then(|()| match task {
        Task::Demo(options) => demo::run(&cx, &options),
        Task::Test(options) => test::run(&cx, &options),
        Task::Check(options) => check::run(&cx, &options),
        Task::Fresh(options) => fresh::run(&cx, &options),
        Task::Bench(options) => bench::run(&cx, &options),
    });
    cx.undo.run();
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
