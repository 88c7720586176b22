//! What an engine knows of a pool's containers, asked through Docker's command.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::config::Config;
use crate::program::finished;

const LIMIT: Duration = Duration::from_secs(60);

/// A container.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Everything that the engine tells about it.
    pub inspected: Value,
}

impl Container {
    /// The value of one of its labels.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.inspected["Config"]["Labels"][name].as_str().unwrap_or_default()
    }

    /// Whether its processes run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.inspected["State"]["Running"] == true
    }

    /// SIGKILL, as from the kernel when memory is short.
    pub fn kill(&self) {
        let killed = Command::new("docker").args(["kill", &self.id]).output();
        assert!(killed.expect("docker is there").status.success(), "{} runs no more", self.id);
    }
}

/// The containers of a pool, whatever state they are in.
#[must_use]
pub fn containers(pool: &str) -> Vec<Container> {
    containers_at(None, pool)
}

/// The same of the engine at `host`, as `DOCKER_HOST` spells it.
pub(crate) fn containers_at(host: Option<&str>, pool: &str) -> Vec<Container> {
    let mut command = docker_at(host);
    command.args([
        "ps",
        "--all",
        "--quiet",
        "--no-trunc",
        "--filter",
        &format!("label=gantry.pool={pool}"),
    ]);
    let listed = finished("docker", LIMIT, &mut command);
    assert_eq!(listed.code, Some(0), "docker ps: {}", listed.complaint());
    let ids: Vec<_> = listed.text().lines().map(str::to_owned).collect();
    ids.into_iter().filter_map(|id| inspect(host, id)).collect()
}

/// None if it is gone meanwhile.
fn inspect(host: Option<&str>, id: String) -> Option<Container> {
    let mut command = docker_at(host);
    let ended = finished("docker", LIMIT, command.args(["inspect", &id]));
    let mut all: Vec<Value> = serde_json::from_slice(&ended.stdout).ok()?;
    let inspected = all.pop()?;
    Some(Container { id, inspected })
}

/// Removes a pool's containers, running or not.
pub(crate) fn remove(pool: &str) {
    for container in containers(pool) {
        let mut command = Command::new("docker");
        // It may be gone at this moment.
        let _ =
            finished("docker", LIMIT, command.args(["rm", "--force", "--volumes", &container.id]));
    }
}

/// A name of an image that moves, removed with this.
#[derive(Debug)]
pub struct Tag(String);

impl Tag {
    /// A name of the runner image.
    #[must_use]
    pub fn of_runner(name: &str) -> Self {
        let tag = format!("gantry-e2e-{}:{name}", std::process::id());
        docker(&["tag", &Config::read().image, &tag]);
        Self(tag)
    }

    /// An image with the runner's content that nothing else is a name of.
    #[must_use]
    pub fn of_its_own(name: &str) -> Self {
        let tag = format!("gantry-e2e-{}:{name}", std::process::id());
        let container = docker(&["create", &Config::read().image]);
        let label = format!("LABEL gantry.test={tag}");
        docker(&["commit", "--change", &label, container.trim(), &tag]);
        docker(&["rm", container.trim()]);
        Self(tag)
    }

    /// From here on the host has no image of this name, nor by its id.
    pub fn goes(&self) {
        docker(&["rmi", "--force", &self.0]);
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// From here on it means an image with nothing in it.
    pub fn moves(&self) {
        let import = format!("tar --create --files-from /dev/null | docker import - {}", self.0);
        let ended = finished("docker", LIMIT, Command::new("sh").args(["-c", &import]));
        assert_eq!(ended.code, Some(0), "{import}: {}", ended.complaint());
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        let _ = finished("docker", LIMIT, Command::new("docker").args(["rmi", "--force", &self.0]));
    }
}

fn docker_at(host: Option<&str>) -> Command {
    let mut command = Command::new("docker");
    command.args(host.map(|host| format!("--host={host}")));
    command
}

fn docker(arguments: &[&str]) -> String {
    let ended = finished("docker", LIMIT, Command::new("docker").args(arguments));
    assert_eq!(ended.code, Some(0), "docker {}: {}", arguments.join(" "), ended.complaint());
    ended.text()
}

/// Writes an image to a file.
pub(crate) fn save(image: &str, file: &Path) {
    let mut command = Command::new("docker");
    let saved = finished("docker save", LIMIT, command.args(["save", image, "--output"]).arg(file));
    assert_eq!(saved.code, Some(0), "docker save: {}", saved.complaint());
}
