//! The image that runs start from.
//!
//! `GANTRY_RUNNER_IMAGE` wins. Otherwise it is built from this machine's own programs, so it needs no registry and
//! shows the terraform or tofu that the user has. (Spacelift's public runner image has neither: its worker downloads
//! them.) Where the machine has neither, one is pulled. An image with the same content is not built twice.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    context::Context,
    process,
    tools::{self, BUSYBOX, CERTIFICATES},
};

/// The image that is built here.
const LOCAL: &str = "gantry-runner:local";
/// The image that is pulled where this machine has no tool of its own.
const PUBLIC: &str = "docker.io/hashicorp/terraform:1.11";
const CERTIFICATE_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";
const SHORT: Duration = Duration::from_secs(30);

/// Makes sure that there is a runner image, and names it.
pub fn ensure(cx: &Context) -> Result<String> {
    if let Some(image) = &cx.config.runner_image {
        cx.say.detail(&format!("{image}, as GANTRY_RUNNER_IMAGE says"));
        if !is_here(image)? {
            cx.must("docker pull", Command::new("docker").args(["pull", image]))?;
        }
        return Ok(image.clone());
    }
    match tools::infrastructure(cx) {
        Some((name, path)) => build(cx, name, &path),
        None => pull(cx),
    }
}

fn pull(cx: &Context) -> Result<String> {
    cx.say.detail(&format!("no terraform or tofu on this machine: {PUBLIC} is pulled"));
    if is_here(PUBLIC)? || cx.show("docker pull", Command::new("docker").args(["pull", PUBLIC]))? {
        return Ok(PUBLIC.to_owned());
    }
    bail!(
        "there is no terraform and no tofu on this machine, and no registry answers: put one of them on PATH, or name \
         an image that has one in GANTRY_RUNNER_IMAGE"
    )
}

fn is_here(image: &str) -> Result<bool> {
    let mut command = Command::new("docker");
    command.args(["image", "inspect", "--format", "{{.Id}}", image]);
    Ok(process::output("docker image inspect", SHORT, &mut command)?.success)
}

fn build(cx: &Context, tool: &str, path: &Path) -> Result<String> {
    tools::ensure(cx, &[&BUSYBOX, &CERTIFICATES])?;
    if !tools::is_static(path) {
        bail!(
            "{} needs libraries, so it cannot run in an image built from nothing: put a release of it from its makers \
             on PATH, or name an image in GANTRY_RUNNER_IMAGE",
            path.display()
        );
    }
    let recipe = cx.config.root.join("docker/runner");
    let busybox = tools::static_busybox(cx).context("busybox-static was just found and is gone")?;
    let layout = cx.config.root.join("xtask/src/image.rs");
    let dockerfile = recipe.join("Dockerfile");
    let content =
        digest(&[&layout, &dockerfile, &busybox, path, Path::new(CERTIFICATE_FILE)], tool)?;
    if label(LOCAL)?.as_deref() == Some(content.as_str()) {
        cx.say.detail(&format!("{LOCAL} is up to date"));
        return Ok(LOCAL.to_owned());
    }
    cx.say.detail(&format!(
        "{LOCAL} is built from {}, {} and CA certificates",
        busybox.display(),
        path.display()
    ));
    // Not left to the end of its scope alone: a signal comes before that.
    let make = || Ok(tempfile::Builder::new().prefix("gantry-image-").tempdir()?);
    let (folder, ticket) = cx.undo.make("remove what the image is made from", make, |folder| {
        let path = folder.path().to_owned();
        move || gone(fs::remove_dir_all(path))
    })?;
    lay_out(folder.path(), &busybox, tool, path)?;
    let mut command = Command::new("docker");
    command
        .args(["build", "--tag", LOCAL, "--build-arg", &format!("CONTENT={content}"), "--file"])
        .arg(dockerfile)
        .arg(folder.path());
    // The one builder that each version of the engine brings.
    process::read("docker build", Duration::from_mins(5), command.env("DOCKER_BUILDKIT", "0"))?;
    folder.close()?;
    cx.undo.done(ticket);
    Ok(LOCAL.to_owned())
}

/// Whoever removes it first, it is gone.
fn gone(removed: std::io::Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn label(image: &str) -> Result<Option<String>> {
    let mut command = Command::new("docker");
    command.args([
        "image",
        "inspect",
        "--format",
        "{{index .Config.Labels \"gantry.content\"}}",
        image,
    ]);
    let output = process::output("docker image inspect", SHORT, &mut command)?;
    Ok(output.success.then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

/// Short hashes of all that the image is made of, without the paths: a file that moved is the same file.
fn digest(files: &[&Path], tool: &str) -> Result<String> {
    let each = sha256sum(Command::new("sha256sum").args(files))?;
    let short = each.lines().filter_map(|line| line.trim_start_matches('\\').get(..16));
    Ok([tool].into_iter().chain(short).collect::<Vec<_>>().join("-"))
}

fn sha256sum(command: &mut Command) -> Result<String> {
    let output = process::output("sha256sum", SHORT, command)?;
    if !output.success {
        bail!("sha256sum failed: {}", output.last_words());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn lay_out(context: &Path, busybox: &Path, tool: &str, path: &Path) -> Result<()> {
    let rootfs = context.join("rootfs");
    for folder in [
        "bin",
        "usr/bin",
        "usr/local/bin",
        "etc/ssl/certs",
        "root",
        "proc",
        "sys",
        "dev",
        "tmp",
        "mnt",
    ] {
        fs::create_dir_all(rootfs.join(folder))?;
    }
    fs::create_dir_all(context.join("home/spacelift"))?;
    fs::write(context.join("home/spacelift/.keep"), "")?;
    fs::copy(busybox, rootfs.join("bin/busybox"))?;
    for applet in applets(busybox)? {
        symlink("busybox", rootfs.join("bin").join(&applet))?;
        symlink("../../bin/busybox", rootfs.join("usr/bin").join(&applet))?;
    }
    fs::copy(path, rootfs.join("usr/local/bin").join(tool))?;
    if tool != "terraform" {
        // The launcher's commands say `terraform`; OpenTofu understands the same ones.
        symlink(tool, rootfs.join("usr/local/bin/terraform"))?;
    }
    fs::copy(CERTIFICATE_FILE, rootfs.join(CERTIFICATE_FILE.trim_start_matches('/')))?;
    fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nspacelift:x:1983:1983:spacelift:/home/spacelift:/bin/sh\n",
    )?;
    fs::write(rootfs.join("etc/group"), "root:x:0:\nspacelift:x:1983:\n")?;
    fs::write(rootfs.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    make_deterministic(context)?;
    fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    Ok(())
}

fn applets(busybox: &Path) -> Result<Vec<String>> {
    // starts: busybox
    let output = process::output("busybox --list", SHORT, Command::new(busybox).arg("--list"))?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let applets: Vec<String> = names
        .lines()
        .filter(|name| {
            *name != "busybox" && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
        })
        .map(str::to_owned)
        .collect();
    for wanted in ["sh", "env", "sed", "ps", "wget", "cat", "tar"] {
        if !applets.iter().any(|name| name == wanted) {
            bail!("{} has no {wanted}", busybox.display());
        }
    }
    Ok(applets)
}

/// Modes and times say nothing of when and by whom the image was built.
fn make_deterministic(context: &Path) -> Result<()> {
    let mut folders = vec![context.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let (path, kind): (PathBuf, _) =
                entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            if kind.is_symlink() {
                continue;
            }
            let program = path.parent().is_some_and(|parent| parent.ends_with("bin"));
            let mode = if kind.is_dir() || program { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            if kind.is_dir() {
                folders.push(path);
            }
        }
    }
    let mut touch = Command::new("find");
    touch.arg(context).args(["-exec", "touch", "--no-dereference", "--date=@0", "{}", "+"]);
    let output = process::output("touch", SHORT, &mut touch)?;
    if output.success { Ok(()) } else { bail!("touch failed: {}", output.last_words()) }
}
