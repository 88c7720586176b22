//! `cargo xtask bench NAME --json`: ours and a baseline, measured in one go on one machine.

mod baseline;
mod dispatch;
mod docker;
mod idle;
mod samples;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::context::Context;

/// What `cargo xtask bench` can be told.
#[derive(Args)]
pub struct Options {
    /// What is measured.
    name: Name,
    /// Print one JSON object on standard output, instead of lines for people.
    #[arg(long)]
    json: bool,
    /// How often each side is measured.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
}

/// The benches of `ARCHITECTURE.md`'s goals that exist.
#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Queued to first output stored to result recorded, against the same container by the bare Docker API.
    Dispatch,
    /// A launcher that waits: memory, time to register, size of the binary.
    Idle,
}

/// Measures.
pub fn run(cx: &Context, options: &Options) -> Result<ExitCode> {
    let result = match options.name {
        Name::Dispatch => dispatch::run(cx, options.runs)?,
        Name::Idle => idle::run(cx, options.runs)?,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&result)?);
    } else {
        show(&result, "");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(value: &Value, path: &str) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                show(value, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") });
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            println!("{path:<40} {value}");
        }
    }
}
