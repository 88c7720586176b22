//! Builds the worker binary, static, so that it can be embedded.
//!
//! It is embedded compressed, and its hash beside it: a launcher that finds it unpacked from an earlier
//! start never touches it, so it costs no memory.
//!
//! It has a target directory of its own: cargo holds the lock of the one that this build uses. The
//! target is always named, or `+crt-static` would reach procedural macros too.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

/// High, because the build pays once: what is unpacked at a first start is less than half as long.
const LEVEL: i32 = 19;

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = manifest.parent().ok_or("the launcher is a folder of the workspace")?;
    for path in [
        "worker/src",
        "worker/Cargo.toml",
        "crates/spool/src",
        "crates/spool/Cargo.toml",
        "crates/model/src",
        "crates/model/Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = target()?;
    let directory = target_directory(&out)?;
    let status = Command::new(variable("CARGO")?)
        .current_dir(root)
        .args(["build", "--quiet", "--profile", "worker", "--package", "gantry-worker"])
        .args(["--target", &target])
        .arg("--target-dir")
        .arg(&directory)
        // What the outer build was told is not meant for this one.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CLIPPY_ARGS")
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()?;
    if !status.success() {
        return Err("the worker binary cannot be built: see above".into());
    }
    let built = directory.join(target).join("worker/gantry-worker");
    let worker = fs::read(&built)?;
    fs::copy(built, out.join("gantry-worker"))?;
    fs::write(out.join("gantry-worker.zst"), zstd::bulk::compress(&worker, LEVEL)?)?;
    println!("cargo::rustc-env=GANTRY_WORKER_SHA256={:x}", Sha256::digest(&worker));
    Ok(())
}

fn target() -> Result<String, Box<dyn Error>> {
    let architecture = variable("CARGO_CFG_TARGET_ARCH")?;
    match variable("CARGO_CFG_TARGET_OS")?.as_str() {
        "linux" => Ok(format!("{architecture}-unknown-linux-gnu")),
        other => Err(format!("the launcher runs on Linux, and the target is {other}").into()),
    }
}

/// `target/worker`, beside `target/debug`, in which `out` lies.
fn target_directory(out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let profile = out.ancestors().nth(3).ok_or("OUT_DIR lies in a profile's folder")?;
    Ok(profile
        .parent()
        .ok_or("a profile's folder lies in the target directory")?
        .join("worker-static"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script everything by environment"
)]
fn variable(name: &str) -> Result<String, Box<dyn Error>> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}
