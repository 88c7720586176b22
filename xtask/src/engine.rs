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
/// Every dockerd writes its process id here unless told otherwise, and does not start where another one did.
const PID_FILE: &str = "/var/run/docker.pid";

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
    /// Its process id.
    pub pid: u32,
    /// Where its log is.
    pub folder: PathBuf,
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
        && cx.become_root("start the service that was just installed").is_ok()
        && cx.show("systemctl", as_root("systemctl").args(["start", "docker"]))?
        && let Some(version) = answers(cx)?
    {
        cx.say.detail(&format!("Docker {version} was started by the machine's systemd"));
        return Ok(Engine { started: None });
    }
    cx.agree("start a Docker engine (dockerd) as root, until this task ends")?;
    cx.become_root("start a Docker engine")?;
    match start(cx) {
        Ok(started) => Ok(Engine { started: Some(started) }),
        // Two engines on one machine would take each other's socket away, and dockerd knows.
        Err(error) if format!("{error:#}").contains("ensure docker is not running") => {
            wait_for_another(cx)?;
            Ok(Engine { started: None })
        }
        Err(error) => Err(error),
    }
}

/// Waits for an engine that somebody else is starting.
fn wait_for_another(cx: &Context) -> Result<()> {
    cx.say.detail("another dockerd is just starting: it is waited for");
    for _ in 0..60 {
        if let Some(version) = answers(cx)? {
            cx.say.detail(&format!("Docker {version} answers; it is used as it is and left alone"));
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    bail!(
        "{PID_FILE} says that a Docker engine runs, but none answers: restart that engine, or remove the file if there \
         is none"
    )
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
    )
    .context("a Docker engine is there and does not answer: look at its log, or restart it")?;
    if output.success {
        return Ok(Answer::Runs(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
    }
    let denied = String::from_utf8_lossy(&output.stderr).contains("permission denied");
    Ok(if denied { Answer::Denied } else { Answer::Silent })
}

fn start(cx: &Context) -> Result<Started> {
    let make = || Ok(tempfile::Builder::new().prefix("gantry-dockerd-").tempdir()?.keep());
    let (folder, _) = cx.undo.make("remove dockerd's log", make, |folder: &PathBuf| {
        let folder = folder.clone();
        move || Ok(std::fs::remove_dir_all(folder)?)
    })?;
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
    let log = folder.join("dockerd.log");
    cx.say.detail(&format!("dockerd starts, its log is {}", log.display()));
    let mut command = as_root("dockerd");
    command.args(extra);
    if !rustix::process::geteuid().is_root() {
        command.arg("--group").arg(rustix::process::getegid().as_raw().to_string());
    }
    let start = || Service::start("dockerd", &log, &mut command);
    let (mut service, _) = cx.undo.make("stop dockerd", start, |service| {
        let process = service.process().clone();
        move || end(&process)
    })?;
    service.wait_for("its socket", Duration::from_secs(90), |line| {
        line.contains(STARTED).then_some(())
    })?;
    match answers(cx)? {
        Some(version) => cx.say.detail(&format!("Docker {version} answers")),
        None => bail!("dockerd started, but does not answer{}", service.tail()),
    }
    // Not that of our child, which may be sudo.
    let pid =
        std::fs::read_to_string(PID_FILE).with_context(|| format!("cannot read {PID_FILE}"))?;
    let pid =
        pid.trim().parse().with_context(|| format!("{PID_FILE} does not hold a process id"))?;
    Ok(Started { pid, folder: folder.to_owned() })
}

fn end(process: &Process) -> Result<()> {
    let grace = Duration::from_secs(30);
    if rustix::process::geteuid().is_root() || process.wait_for(Duration::ZERO)?.is_some() {
        return process.stop(grace);
    }
    // It runs as root and we do not: the signal has to come from root too. `kill` is the shell's own.
    let kill = format!("kill \"$(cat {PID_FILE})\"");
    process::output("sudo kill", SHORT, as_root("sh").args(["-c", &kill]))?;
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
    tools::ensure(cx, &[&tools::CGROUPS])?;
    cx.must("cgroupfs-mount", &mut as_root("cgroupfs-mount"))?;
    cx.undo.make(
        "unmount the control groups",
        || Ok(()),
        |()| {
            || process::output("cgroupfs-umount", SHORT, &mut as_root("cgroupfs-umount")).map(drop)
        },
    )?;
    Ok(())
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
