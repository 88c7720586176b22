//! What the environment tells the tasks.
//!
//! Past [`Config`] nothing reads the environment.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

/// What the environment tells, checked and complete. Not `Debug`: addresses of registries may hold passwords.
pub struct Config {
    /// The folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// The cargo that runs this task.
    pub cargo: PathBuf,
    /// The image that runs start from, instead of one that is built here. `GANTRY_RUNNER_IMAGE`.
    pub runner_image: Option<String>,
    /// Set where the engine is somebody else's to start. `DOCKER_HOST`.
    pub docker_host: Option<String>,
    /// Where cargo has its configuration. `CARGO_HOME`.
    pub cargo_home: PathBuf,
    /// The variables that say where packages and crates come from, and how they are reached.
    pub of_registries: Vec<(OsString, OsString)>,
    /// Where programs are looked for. `PATH`.
    pub path: OsString,
    /// Where programs are looked for: `PATH`, and the folders of administrators' programs.
    search: Vec<PathBuf>,
    /// Variables that `cargo run` set for this task alone; another cargo must not see them.
    of_cargo_run: Vec<OsString>,
}

impl Config {
    /// Reads the variables.
    pub fn from_vars(vars: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let vars: BTreeMap<OsString, OsString> = vars.collect();
        let text = |name: &str| {
            vars.get(OsStr::new(name))
                .map(|value| value.to_string_lossy().into_owned())
                .filter(|value| !value.is_empty())
        };
        let manifest =
            text("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").to_owned());
        let root =
            Path::new(&manifest).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
        let path = vars.get(OsStr::new("PATH")).cloned().unwrap_or_default();
        let search = std::env::split_paths(&path)
            .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
            .collect();
        let of_cargo_run = vars
            .keys()
            .filter(|name| {
                let name = name.to_string_lossy();
                name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
            })
            .cloned()
            .collect();
        let of_registries =
            vars.iter().filter(|(name, _)| is_of_registries(&name.to_string_lossy()));
        let of_registries =
            of_registries.map(|(name, value)| (name.clone(), value.clone())).collect();
        let home = text("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
        Self {
            root,
            cargo_home: text("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from),
            of_registries,
            path: path.clone(),
            cargo: text("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from),
            runner_image: text("GANTRY_RUNNER_IMAGE"),
            docker_host: text("DOCKER_HOST"),
            search,
            of_cargo_run,
        }
    }

    /// Where a program is, if it is anywhere.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        self.search.iter().map(|folder| folder.join(program)).find(|path| path.is_file())
    }

    /// Cargo, in the workspace, with an environment as if a person had called it.
    pub fn cargo(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.cargo); // starts: cargo
        command.current_dir(&self.root);
        for name in &self.of_cargo_run {
            command.env_remove(name);
        }
        command
    }
}

fn is_of_registries(name: &str) -> bool {
    let of_cargo = ["CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_", "CARGO_NET_"];
    let of_proxies = ["http_proxy", "https_proxy", "no_proxy", "all_proxy", "cargo_http_proxy"];
    of_cargo.iter().any(|start| name.starts_with(start))
        || of_proxies.contains(&name.to_lowercase().as_str())
}
