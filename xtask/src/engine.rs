//! The Docker engine that runs go into.
//!
//! An engine that answers is used and left alone. Where none answers one is installed and started; it is ours, and
//! ends with the task.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    context::{Context, as_root},
    process::{self, Process},
    service::Service,
    tools,
};

const SHORT: Duration = Duration::from_secs(20);
const STARTED: &str = "API listen on";

/// What became of a question to the engine.
enum Answer {
    /// It runs, in this version.
    Runs(String),
    /// It runs, but not for this user.
    Denied,
    /// Nobody answers.
    Silent,
}

/// An engine that answers.
pub struct Engine {
    /// What ends it again, where we started it.
    pub started: Option<Started>,
}

/// An engine that this task started.
pub struct Started {
    /// Where its process id is.
    pub pid_file: PathBuf,
}

/// Makes sure that an engine answers.
pub fn ensure(cx: &Context) -> Result<Engine> {
    let was_installed = install(cx)?;
    if let Some(version) = answers(cx)? {
        cx.say.detail(&format!("Docker {version} answers; it is used as it is and left alone"));
        return Ok(Engine { started: None });
    }
    if let Some(host) = &cx.config.docker_host {
        bail!("no Docker engine answers at DOCKER_HOST={host}: start it, or unset DOCKER_HOST");
    }
    cx.say.detail("no Docker engine answers");
    // Where there is a systemd, the package brought a service that starts with the machine anyway.
    if was_installed
        && Path::new("/run/systemd/system").exists()
        && cx.show("systemctl", as_root("systemctl").args(["start", "docker"]))?
        && let Some(version) = answers(cx)?
    {
        cx.say.detail(&format!("Docker {version} was started by the machine's systemd"));
        return Ok(Engine { started: None });
    }
    cx.agree("start a Docker engine (dockerd) as root, until this task ends")?;
    Ok(Engine { started: Some(start(cx)?) })
}

/// Installs what is missing of engine and command. Whether anything was.
fn install(cx: &Context) -> Result<bool> {
    // An engine elsewhere is somebody else's: nothing is missing here.
    if cx.config.find("docker").is_some()
        && (cx.config.docker_host.is_some() || answers(cx)?.is_some())
    {
        return Ok(false);
    }
    let is_missing = ["dockerd", "docker"].iter().any(|program| cx.config.find(program).is_none());
    // The first often brings the second too.
    tools::ensure(cx, &[&tools::DOCKER])?;
    tools::ensure(cx, &[&tools::DOCKER_COMMAND])?;
    Ok(is_missing)
}

/// The version of the engine that answers.
fn answers(cx: &Context) -> Result<Option<String>> {
    match ask(cx)? {
        Answer::Runs(version) => Ok(Some(version)),
        Answer::Silent => Ok(None),
        Answer::Denied => bail!(
            "the Docker engine refuses this user: add it to the group (sudo usermod -aG docker \"$USER\", then log in \
             anew), or run this as root"
        ),
    }
}

fn ask(cx: &Context) -> Result<Answer> {
    if cx.config.find("docker").is_none() {
        return Ok(Answer::Silent);
    }
    let output = process::output(
        "docker version",
        SHORT,
        Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]),
    )?;
    if output.success {
        return Ok(Answer::Runs(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
    }
    let denied = String::from_utf8_lossy(&output.stderr).contains("permission denied");
    Ok(if denied { Answer::Denied } else { Answer::Silent })
}

fn start(cx: &Context) -> Result<Started> {
    let folder = tempfile::Builder::new().prefix("gantry-dockerd-").tempdir()?.keep();
    let gone = folder.clone();
    cx.undo
        .later(format!("remove {}", folder.display()), move || Ok(std::fs::remove_dir_all(gone)?));
    mount_cgroups(cx)?;
    match start_with(cx, &folder, &[]) {
        Ok(started) => Ok(started),
        Err(error) if format!("{error:#}").contains("iptables") => {
            cx.say.detail("dockerd cannot set up iptables here: once more without, so containers reach no network");
            start_with(cx, &folder, &["--iptables=false", "--ip6tables=false"])
        }
        Err(error) => Err(error),
    }
}

fn start_with(cx: &Context, folder: &Path, extra: &[&str]) -> Result<Started> {
    let pid_file = folder.join("dockerd.pid");
    let log = folder.join("dockerd.log");
    cx.say.detail(&format!("dockerd starts, its log is {}", log.display()));
    let mut command = as_root("dockerd");
    command.arg("--pidfile").arg(&pid_file).args(extra);
    if !rustix::process::geteuid().is_root() {
        command.arg("--group").arg(rustix::process::getegid().as_raw().to_string());
    }
    let mut service = Service::start("dockerd", &log, &mut command)?;
    let (process, stop) = (service.process().clone(), stop_command(&pid_file));
    cx.undo.later("stop dockerd", move || end(&process, stop));
    service.wait_for("its socket", Duration::from_secs(90), |line| {
        line.contains(STARTED).then_some(())
    })?;
    match answers(cx)? {
        Some(version) => cx.say.detail(&format!("Docker {version} answers")),
        None => bail!("dockerd started, but does not answer{}", service.tail()),
    }
    Ok(Started { pid_file })
}

/// Where dockerd runs as root and we do not, the signal has to come from root too.
fn stop_command(pid_file: &Path) -> Option<Command> {
    (!rustix::process::geteuid().is_root()).then(|| {
        let mut command = as_root("pkill");
        command.arg("--pidfile").arg(pid_file);
        command
    })
}

fn end(process: &Process, stop: Option<Command>) -> Result<()> {
    let grace = Duration::from_secs(30);
    let Some(mut stop) = stop else { return process.stop(grace) };
    process::output("sudo pkill", SHORT, &mut stop)?;
    process.wait_for(grace)?.map(drop).context("it did not end")
}

/// Without systemd, as in many containers and small machines, nobody mounts the control groups that Docker needs.
fn mount_cgroups(cx: &Context) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    if mounts
        .lines()
        .any(|line| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup")))
    {
        return Ok(());
    }
    let need = tools::Need {
        present: tools::Present::Program("cgroupfs-mount"),
        package: "cgroupfs-mount",
        why: "mounts the control groups that Docker needs",
    };
    tools::ensure(cx, &[&need])?;
    cx.must("cgroupfs-mount", &mut as_root("cgroupfs-mount"))
}

/// The network for containers of runs: the default bridge, or none where that does not work. Says so.
pub fn network(cx: &Context, image: &str) -> Result<&'static str> {
    let mut command = Command::new("docker");
    command.args([
        "run",
        "--rm",
        "--network",
        "bridge",
        "--log-driver",
        "none",
        "--entrypoint",
        "cat",
    ]);
    let output = process::output(
        "a container on the default bridge",
        Duration::from_mins(2),
        command.args([image, "/proc/net/route"]),
    )?;
    let route = String::from_utf8_lossy(&output.stdout);
    if output.success && has_default_route(&route) {
        cx.say.detail("bridge networking works: a container on the default bridge got an address and a way out");
        return Ok("bridge");
    }
    let why = if output.success { "it has no route".to_owned() } else { output.last_words() };
    cx.say.detail(&format!("bridge networking does NOT work on this machine: {why}"));
    cx.say.detail("so containers of runs get no network (SPACELIFT_WORKER_NETWORK=none); this stack needs none");
    Ok("none")
}

fn has_default_route(table: &str) -> bool {
    table.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some("00000000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_is_told_from_none() {
        let header = "Iface\tDestination\tGateway \tFlags\n";
        assert!(!has_default_route(header));
        assert!(!has_default_route(&format!("{header}eth0\t000011AC\t00000000\t0001\n")));
        assert!(has_default_route(&format!("{header}eth0\t00000000\t010011AC\t0003\n")));
    }
}
