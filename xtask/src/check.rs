//! What is checked without running anything.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::{
    context::Context,
    starts,
    tools::{self, Need, STARTED, Started},
    walls,
};

/// What to check.
#[derive(Args)]
pub struct Options {
    /// Only what needs no compiler: who may use whom, what is named where, circles, long files, started programs
    #[arg(long)]
    walls: bool,
}

/// Runs every check, and names at the end those that failed.
pub fn run(cx: &Context, options: &Options) -> Result<ExitCode> {
    let mut failed = if options.walls { Vec::new() } else { compiled(cx)? };
    failed.extend(read(cx)?);
    if failed.is_empty() {
        cx.say.line("\nall checks passed");
        return Ok(ExitCode::SUCCESS);
    }
    cx.say.line(&format!("\nfailed: {}", failed.join(", ")));
    Ok(ExitCode::FAILURE)
}

/// What cargo and its kin check; the names of those that failed.
fn compiled(cx: &Context) -> Result<Vec<&'static str>> {
    tools::ensure(cx, &tools::BUILD.iter().collect::<Vec<&Need>>())?;
    let mut failed = Vec::new();
    let mut check = |name: &'static str,
                     why: &str,
                     arguments: &[&str],
                     rustdoc_flags: Option<&str>|
     -> Result<()> {
        cx.say.step(name, why);
        let mut command = cx.config.cargo();
        command.args(arguments);
        if let Some(flags) = rustdoc_flags {
            command.env("RUSTDOCFLAGS", flags);
        }
        if !cx.show(name, &mut command)? {
            failed.push(name);
        }
        Ok(())
    };
    check("format", "cargo fmt --all --check", &["fmt", "--all", "--check"], None)?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    check("lints", "cargo clippy, warnings are errors", &clippy, None)?;
    let products = ["clippy", "--workspace", "--locked", "--", "-D", "warnings"];
    check("products", "the same without tests, so without the fakes", &products, None)?;
    let doc = ["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"];
    check("documentation", "cargo doc, warnings are errors", &doc, Some("-D warnings"))?;
    if cx.config.find("cargo-deny").is_some() {
        let deny = ["deny", "check", "bans", "licenses", "sources"];
        check("dependencies", "cargo deny: licenses, bans, sources", &deny, None)?;
    } else {
        cx.say.step(
            "dependencies",
            "skipped: cargo-deny is not installed (cargo install --locked cargo-deny)",
        );
    }
    Ok(failed)
}

/// What is read in the sources; the names of those that failed.
fn read(cx: &Context) -> Result<Vec<&'static str>> {
    let mut failed = Vec::new();
    let root = &cx.config.root;
    cx.say
        .step("walls", "who uses whom, what is named where, circles, long files: xtask/src/walls");
    let broken = walls::broken(root)?;
    if !broken.is_empty() {
        cx.say.detail(&broken.join("\n"));
        failed.push("walls");
    }
    cx.say.step("programs", "what tests and tasks start is in xtask/src/tools.rs");
    let broken = starts::broken(root)?;
    if broken.is_empty() {
        let list: Vec<String> = STARTED.iter().map(Started::how).collect();
        cx.say.detail(&list.join("\n"));
    } else {
        cx.say.detail(&broken.join("\n"));
        failed.push("programs");
    }
    Ok(failed)
}
