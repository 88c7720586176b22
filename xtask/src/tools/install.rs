//! Installs what the machine lacks, and says what and why.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};

use super::{Need, Present, is_static};
use crate::{
    context::{Context, as_root},
    process,
};

/// Installs what is missing of `needs`, after asking.
pub fn ensure(cx: &Context, needs: &[&Need]) -> Result<()> {
    let missing: Vec<&Need> =
        needs.iter().filter(|need| !is_present(cx, &need.present)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    for need in &missing {
        cx.say.detail(&format!("missing: {} ({})", need.package, need.why));
    }
    if cx.config.find("apt-get").is_none() {
        bail!("this machine has no apt-get: install these yourself: {}", packages.join(", "));
    }
    let packages_in_words = packages.join(", ");
    cx.agree(&format!("install {packages_in_words} with apt-get"))?;
    cx.become_root(&format!("install {packages_in_words}"))?;
    install(cx, &packages)?;
    match missing.iter().find(|need| !is_present(cx, &need.present)) {
        None => Ok(()),
        Some(need) => {
            bail!("{} was installed, but what it should bring is still missing", need.package)
        }
    }
}

fn install(cx: &Context, packages: &[&str]) -> Result<()> {
    cx.say.detail(&format!("apt-get install {}", packages.join(" ")));
    if apt_get(cx, &[&["install", "--yes", "--no-install-recommends"], packages].concat())? {
        return Ok(());
    }
    cx.say.detail("apt-get's lists may be old or missing: apt-get update");
    apt_get(cx, &["update"])?;
    if apt_get(cx, &[&["install", "--yes", "--no-install-recommends"], packages].concat())? {
        return Ok(());
    }
    bail!("apt-get could not install {}: see its output above", packages.join(", "))
}

fn apt_get(cx: &Context, arguments: &[&str]) -> Result<bool> {
    // Set behind sudo, which would drop it.
    let mut command = as_root("env"); // starts: apt-get
    command.args([
        "DEBIAN_FRONTEND=noninteractive",
        "NEEDRESTART_SUSPEND=1",
        "apt-get",
        "--quiet",
        "--quiet",
    ]);
    cx.show(
        "apt-get",
        command.args(["-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"]).args(arguments),
    )
}

fn is_present(cx: &Context, what: &Present) -> bool {
    match what {
        Present::Program(name) => cx.config.find(name).is_some(),
        Present::Versioned(folder, file) => fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .any(|version| version.path().join(file).exists()),
        Present::File(path) => Path::new(path).exists(),
        Present::Library(name) => process::output(
            "pkg-config",
            Duration::from_secs(20),
            Command::new("pkg-config").args(["--exists", name]),
        )
        .is_ok_and(|output| output.success),
        Present::StaticBusybox => static_busybox(cx).is_some(),
    }
}

/// A busybox that needs no library.
pub fn static_busybox(cx: &Context) -> Option<PathBuf> {
    cx.config.find("busybox").filter(|path| is_static(path))
}
