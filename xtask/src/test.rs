//! All tests, self-sufficient from a clean clone.
//!
//! The last lines are the test runner's summary; whatever is to be ended afterwards ends silently.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    build::{self, Profile, Programs},
    context::Context,
    engine, image, tools,
};

/// How many end-to-end tests run at a time: each has a server, a launcher and containers of its own.
const END_TO_END_AT_ONCE: &str = "--test-threads=2";

/// What is run a second time, on PostgreSQL: every test that has a database, and some of those with the real programs.
const ON_POSTGRESQL: &str = "binary_id(gantry-control-plane::api) + binary_id(gantry-control-plane::plans) \
    + binary_id(gantry-control-plane::runs) + binary_id(gantry-control-plane::server) \
    + binary(killed_at_every_step) + test(tracked_run_of_terraform)";

/// What `cargo xtask test` can be told.
#[derive(Args)]
pub struct Options {
    /// Passed on to the test runner: a part of a test's name, for example.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs all tests.
pub fn run(cx: &Context, options: &Options) -> Result<ExitCode> {
    let needs = tools::of_tests();
    let packages: BTreeSet<&str> = needs.iter().map(|need| need.package).collect();
    let packages = packages.into_iter().collect::<Vec<_>>().join(", ");
    cx.say.step("Tools", &format!("what the tests start is of these packages: {packages}"));
    tools::ensure(cx, &needs)?;
    if tools::infrastructure(cx).is_none() {
        bail!(
            "there is no terraform and no tofu on this machine, and the tests run one in containers: put a release of it \
             from its makers on PATH"
        );
    }
    cx.say.step("Docker engine", "end-to-end tests run real containers");
    engine::ensure(cx)?;
    cx.say.step("Runner image", "what runs of those tests start from");
    let image = image::ensure(cx)?;
    let network = engine::network(cx, &image)?;
    cx.say.step("Programs and tests", "built once, and found by the tests");
    let programs = build::programs(cx, Profile::DevWithTests)?;
    let prepare = |command: &mut Command| prepare(command, &programs, &image, network);
    cx.say.step(
        "Tests",
        &format!("GANTRY_E2E_BIN_DIR={}, GANTRY_E2E_IMAGE={image}", programs.folder.display()),
    );
    let passed = if cx.config.find("cargo-nextest").is_some() {
        nextest(cx, options, prepare)?
    } else {
        cargo_test(cx, options, prepare)?
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn prepare(command: &mut Command, programs: &Programs, image: &str, network: &str) {
    let variables: [(&str, &Path); 4] = [
        ("GANTRY_E2E_BIN_DIR", &programs.folder),
        ("GANTRY_WORKER_BINARY", &programs.worker),
        ("GANTRY_E2E_IMAGE", Path::new(image)),
        ("GANTRY_E2E_NETWORK", Path::new(network)),
    ];
    command.envs(variables);
}

/// `.config/nextest.toml` limits how many end-to-end tests run at a time. It runs no documentation tests: those first.
fn nextest(cx: &Context, options: &Options, prepare: impl Fn(&mut Command)) -> Result<bool> {
    let mut passed = true;
    if options.arguments.is_empty() {
        let mut command = cx.config.cargo();
        command.args(["test", "--workspace", "--locked", "--doc", "--quiet"]);
        prepare(&mut command);
        passed = cx.show("cargo test --doc", &mut command)?;
    }
    let mut command = cx.config.cargo();
    command
        .args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])
        .args(&options.arguments);
    prepare(&mut command);
    passed &= cx.show("cargo nextest", &mut command)?;
    let mut command = cx.config.cargo();
    command
        .args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])
        .args(["--no-tests=pass", "--filterset", ON_POSTGRESQL])
        .args(&options.arguments);
    prepare(&mut command);
    command.env("GANTRY_TEST_DATABASE", "postgres");
    // In this order: the summary comes last.
    Ok(cx.show("cargo nextest on PostgreSQL", &mut command)? && passed)
}

fn cargo_test(cx: &Context, options: &Options, prepare: impl Fn(&mut Command)) -> Result<bool> {
    let mut passed = true;
    let workspace =
        ["test", "--workspace", "--exclude", "gantry-e2e", "--locked", "--no-fail-fast"];
    for (arguments, limit) in [
        (&workspace[..], None),
        (
            &["test", "--package", "gantry-e2e", "--locked", "--no-fail-fast"][..],
            Some(END_TO_END_AT_ONCE),
        ),
    ] {
        let mut command = cx.config.cargo();
        command.args(arguments).arg("--").args(limit).args(&options.arguments);
        prepare(&mut command);
        passed &= cx.show("cargo test", &mut command)?;
    }
    let mut command = cx.config.cargo();
    command.args(["test", "--package", "gantry-control-plane", "--tests", "--locked"]);
    command.arg("--").args(&options.arguments);
    prepare(&mut command);
    command.env("GANTRY_TEST_DATABASE", "postgres");
    passed &= cx.show("cargo test on PostgreSQL", &mut command)?;
    Ok(passed)
}
