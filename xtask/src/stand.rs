//! A whole Gantry in one directory: server, pool, launcher.
//!
//! Everything lies below one 0700 directory, listens on loopback at free ports, and is gone when the task ends.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::{build::Programs, context::Context, engine::Started, process, service::Service};

const SHORT: Duration = Duration::from_secs(30);
/// `openssl req` looks for two 2048-bit primes by luck.
const KEY_LIMIT: Duration = Duration::from_mins(2);
/// A whole Gantry in one directory.
pub struct Stand {
    /// The directory, 0700.
    pub dir: PathBuf,
    /// Where the server is reached.
    pub addresses: Addresses,
    gantry: PathBuf,
    launcher: PathBuf,
    image: String,
    secrets: PathBuf,
    server: Service,
    worker: Option<Service>,
}

/// Where the server is reached.
pub struct Addresses {
    /// The HTTPS API.
    pub api: String,
    /// MQTT over mutual TLS.
    pub mqtt: String,
    /// The S3 endpoint.
    pub objects: String,
}

impl Stand {
    /// Makes the directory, starts the server in it, and logs the command line in.
    pub fn start(cx: &Context, programs: &Programs, image: &str) -> Result<Self> {
        let dir = directory(cx, image)?;
        let data = dir.join("data");
        cx.say.detail(&format!("gantry server --data {}", data.display()));
        let mut command = gantry_stand::server(&programs.gantry, &data);
        command.current_dir(&dir);
        let log = dir.join("server.log");
        let start = || Service::start("gantry server", &log, &mut command);
        let stop = |it: &Service| it.process().stopping(Duration::from_secs(15));
        let (mut server, _) = cx.undo.make("stop the server", start, stop)?;
        server.wait_for("its `ready:` line", Duration::from_mins(1), |line| {
            gantry_stand::is_ready(line).then_some(())
        })?;
        let address =
            |of| gantry_stand::address(&data, of).context("the server does not say where it is");
        let addresses = Addresses {
            api: address("api")?,
            mqtt: address("mqtt")?,
            objects: address("objects")?,
        };
        let secrets = secrets_directory(cx)?;
        let (gantry, launcher) = (programs.gantry.clone(), programs.launcher.clone());
        let image = image.to_owned();
        let stand = Self { dir, addresses, gantry, launcher, image, secrets, server, worker: None };
        stand.say(cx, &["login", "--from", "data/admin.json"])?;
        Ok(stand)
    }

    /// Makes key and certificate signing request as the Spacelift page tells its users to.
    pub fn make_key(&self, cx: &Context) -> Result<()> {
        let (key, csr) = (Path::new("spacelift.key"), Path::new("spacelift.csr"));
        let mut command = gantry_stand::request(4096, key, csr);
        command.current_dir(&self.dir);
        let words: Vec<_> =
            command.get_args().map(|word| quoted(&word.to_string_lossy())).collect();
        cx.say.detail(&format!("$ openssl {}", words.join(" ")));
        process::read("openssl req", KEY_LIMIT, &mut command)?;
        fs::set_permissions(self.dir.join("spacelift.key"), Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// Creates the pool from the request; its token and the recovery key are written beside the key.
    pub fn create_pool(&self, cx: &Context, name: &str) -> Result<()> {
        let recovery = Some("recovery.key");
        self.say(cx, &gantry_stand::pool_create(name, "spacelift.csr", "pool.token", recovery))
    }

    /// Starts the launcher and waits until the pool has welcomed it. Gives the time that took.
    pub fn start_launcher(&mut self, cx: &Context, image: &str, network: &str) -> Result<Duration> {
        self.start_launcher_over("mqtt", cx, image, network)
    }

    /// The same over any transport, as `SPACELIFT_WORKER_COMMS_PROTOCOL` spells it.
    pub fn start_launcher_over(
        &mut self,
        transport: &str,
        cx: &Context,
        image: &str,
        network: &str,
    ) -> Result<Duration> {
        let read = |file: &str| {
            fs::read_to_string(self.dir.join(file)).with_context(|| format!("cannot read {file}"))
        };
        let token = read("pool.token")?;
        let key = gantry_stand::key_text(&self.dir.join("spacelift.key"))
            .context("cannot read spacelift.key")?;
        let state = self.dir.join("launcher");
        fs::create_dir_all(&state)?;
        let token = token.trim();
        let launching = gantry_stand::Launching { token, key: &key, image, network, transport };
        let mut command = gantry_stand::launcher(&self.launcher, &state, &self.secrets);
        command.current_dir(&self.dir).envs(launching.variables());
        command.envs(cx.config.docker_host.as_ref().map(|host| ("DOCKER_HOST", host)));
        let began = Instant::now();
        let log = self.dir.join("launcher.log");
        let start = || Service::start("gantry-launcher", &log, &mut command);
        let stop = |it: &Service| it.process().stopping(Duration::from_secs(10));
        let (mut worker, _) = cx.undo.make("stop the launcher", start, stop)?;
        worker.wait_for("\"registered\"", Duration::from_mins(1), |line| {
            gantry_stand::logged(line, gantry_stand::REGISTERED).map(drop)
        })?;
        self.worker = Some(worker);
        Ok(began.elapsed())
    }

    /// Waits until so many stages have ended since the launcher was started, and the launcher has removed all that
    /// they left on this host.
    pub fn wait_until_removed(&mut self, stages: usize) -> Result<()> {
        let mut done = 0;
        self.worker_mut()?.wait_for("the removal of its containers", SHORT, |line| {
            done += usize::from(gantry_stand::logged(line, gantry_stand::REMOVED).is_some());
            (done == stages).then_some(())
        })
    }

    /// The launcher, once it was started.
    pub fn worker(&self) -> Result<&Service> {
        self.worker.as_ref().context("no launcher was started")
    }

    /// The same, to wait for what it logs.
    pub fn worker_mut(&mut self) -> Result<&mut Service> {
        self.worker.as_mut().context("no launcher was started")
    }

    /// The server.
    pub fn server(&self) -> &Service {
        &self.server
    }

    /// The operator's command, logged in.
    pub fn gantry(&self, arguments: &[&str]) -> Command {
        let home = self.dir.join("config");
        let mut command = gantry_stand::operator(&self.gantry, &home, &self.dir);
        command.args(arguments);
        command
    }

    /// Runs the operator's command, showing it and what it says.
    pub fn say(&self, cx: &Context, arguments: &[&str]) -> Result<()> {
        let said = self.run(cx, &mut self.gantry(arguments))?;
        cx.say.detail(&said);
        Ok(())
    }

    /// Runs an operator's command, showing it, and gives what it says.
    pub fn run(&self, cx: &Context, command: &mut Command) -> Result<String> {
        let words: Vec<String> =
            command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        cx.say.detail(&format!(
            "$ gantry {}",
            words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
        ));
        let name = format!("gantry {}", words[..words.len().min(2)].join(" "));
        process::read(&name, SHORT, command)
            .map_err(|error| anyhow!("{error:#}{}", self.server.tail()))
    }

    /// Asks for JSON, silently.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let text =
            process::read("gantry", SHORT, self.gantry(arguments).args(["--output", "json"]))?;
        serde_json::from_str(&text)
            .with_context(|| format!("gantry {} gave no JSON", arguments.join(" ")))
    }

    /// The containers that mount anything of this directory: whatever state they are in.
    pub fn containers(&self) -> Result<Vec<String>> {
        containers(&self.dir)
    }

    /// Writes a script that ends and removes everything, for `--keep`.
    pub fn write_stop_script(&self, cx: &Context, dockerd: Option<&Started>) -> Result<PathBuf> {
        let mut script = vec![
            "#!/bin/sh".to_owned(),
            "# Ends what `cargo xtask demo --keep` left running, and removes it.".to_owned(),
        ];
        for service in [self.worker()?, &self.server] {
            let pid = service.process().pid();
            script.push(format!("kill {pid} 2>/dev/null && tail --pid={pid} -f /dev/null"));
        }
        let remove = format!("rm -rf {} {}", self.secrets.display(), self.dir.display());
        let take = taking(&self.dir, &self.image).join(" ");
        script.push(format!("{remove} 2>/dev/null || {{ docker {take}; {remove}; }}"));
        if let Some(Started { pid, folder }) = dockerd {
            let sudo = if rustix::process::geteuid().is_root() { "" } else { "sudo " };
            script.push(format!("{sudo}sh -c 'kill {pid}' && rm -rf {}", folder.display()));
        }
        let path = self.dir.join("stop");
        fs::write(&path, script.join("\n") + "\n")?;
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        cx.say.detail(&format!("sh {}    ends and removes all of it", path.display()));
        Ok(path)
    }
}

/// A word as a person would type it into a shell.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,@".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn directory(cx: &Context, image: &str) -> Result<PathBuf> {
    let make = || private_directory("gantry-demo-", &std::env::temp_dir());
    let (dir, _) = cx.undo.make("remove the directory", make, |dir| {
        let (dir, image) = (dir.clone(), image.to_owned());
        move || remove_containers(&dir).and_then(|()| remove_directory(&dir, &image))
    })?;
    Ok(dir)
}

/// What docker is told to make all that lies in a directory this user's.
fn taking(dir: &Path, image: &str) -> Vec<String> {
    let me = rustix::process::geteuid().as_raw().to_string();
    let volume = format!("{}:/stand", dir.display());
    let run = ["run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "chown"];
    let words = run.into_iter().chain(["--volume", &volume, image, "-R", &me, "/stand"]);
    words.map(str::to_owned).collect()
}

/// Containers write as other users. Only where we may not remove that, a container does.
fn remove_directory(dir: &Path, image: &str) -> Result<()> {
    if fs::remove_dir_all(dir).is_ok() {
        return Ok(());
    }
    process::read("docker run", SHORT, Command::new("docker").args(taking(dir, image)))?;
    fs::remove_dir_all(dir).with_context(|| dir.display().to_string())
}

/// Secrets of a run may only lie in memory.
fn secrets_directory(cx: &Context) -> Result<PathBuf> {
    let make = || private_directory("gantry-demo-", Path::new("/dev/shm"));
    let (dir, _) = cx.undo.make("remove the directory of secrets", make, |dir| {
        let dir = dir.clone();
        move || fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())
    })?;
    Ok(dir)
}

fn private_directory(prefix: &str, below: &Path) -> Result<PathBuf> {
    let made = tempfile::Builder::new()
        .prefix(prefix)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(below);
    Ok(made.with_context(|| format!("cannot make a directory in {}", below.display()))?.keep())
}

fn containers(dir: &Path) -> Result<Vec<String>> {
    let docker = |arguments: &[&str]| {
        let output = process::output("docker", SHORT, Command::new("docker").args(arguments))?;
        Ok::<String, anyhow::Error>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let all = docker(&["ps", "--all", "--quiet", "--no-trunc"])?;
    let ids: Vec<&str> = all.lines().collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let format = "{{.Id}} {{range .Mounts}}{{.Source}} {{end}}";
    let mounts = docker(&[&["inspect", "--format", format], &ids[..]].concat())?;
    let below = format!(" {}/", dir.display());
    let ours = mounts.lines().filter(|line| line.contains(&below));
    Ok(ours.filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect())
}

fn remove_containers(dir: &Path) -> Result<()> {
    let left = containers(dir)?;
    if left.is_empty() {
        return Ok(());
    }
    let output = process::output(
        "docker rm",
        SHORT,
        Command::new("docker").args(["rm", "--force"]).args(&left),
    )?;
    if output.success { Ok(()) } else { bail!("docker rm failed: {}", output.last_words()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_typed() {
        for word in ["--source", "", "it's", "echo \"the password is $TF_VAR_db_password\"", "a b"]
        {
            let script = format!("printf %s {}", quoted(word));
            let said =
                process::read("sh", SHORT, Command::new("sh").args(["-c", &script])).unwrap();
            assert_eq!(said, word);
        }
    }
}
