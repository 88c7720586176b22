//! The table of variables: `--help` and the check for misspelt names are made from it.

/// One variable that the launcher reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its name. One that ends in `<key>` stands for all that begin like it.
    pub name: &'static str,
    /// What holds when it is not set; none if there is nothing to say.
    pub default: Option<&'static str>,
    /// What it does.
    pub help: &'static str,
}

impl Variable {
    /// What all names of a family begin with, if it is one.
    fn family(&self) -> Option<&'static str> {
        self.name.strip_suffix("<key>")
    }

    fn is(&self, name: &str) -> bool {
        match self.family() {
            Some(prefix) => name.len() > prefix.len() && name.starts_with(prefix),
            None => self.name == name,
        }
    }
}

/// The variables without which nothing works.
pub const REQUIRED: &[Variable] = &[
    Variable {
        name: "SPACELIFT_TOKEN",
        default: None,
        help: "The pool's token, as `gantry pool create` or the API gave it.",
    },
    Variable {
        name: "SPACELIFT_POOL_PRIVATE_KEY",
        default: None,
        help: "The pool's private key: base64 of the PEM file, as `base64 -w0 pool.key` prints it.",
    },
];

/// The variables about runs and their containers.
pub const RUNS: &[Variable] = &[
    Variable {
        name: "SPACELIFT_DEFAULT_RUNNER_IMAGE",
        default: Some(crate::tool::DEFAULT_IMAGE),
        help: "The image of runs whose stack names none.",
    },
    Variable {
        name: "SPACELIFT_LAUNCHER_RUN_INITIALIZATION_POLICY",
        default: None,
        help: "Path of a Rego file that decides which runs may start here.",
    },
    Variable {
        name: "SPACELIFT_LAUNCHER_RUN_TIMEOUT",
        default: Some("70m"),
        help: "How long a stage may take.",
    },
    Variable {
        name: "SPACELIFT_LAUNCHER_LOGS_TIMEOUT",
        default: Some("7m"),
        help: "How long a stage may be silent.",
    },
    Variable {
        name: "GANTRY_STOP_GRACE",
        default: Some("5m"),
        help: "How long an interrupted tool has to end by itself in a write stage.",
    },
    Variable {
        name: "SPACELIFT_WHITELIST_ENVS",
        default: None,
        help: "Names, separated by commas, of variables that runs get. `ro_` in front: read stages only; `wo_`: write stages only.",
    },
    Variable {
        name: "SPACELIFT_MASK_ENVS",
        default: None,
        help: "Names, separated by commas, of those whose values never show in logs.",
    },
    Variable {
        name: "SPACELIFT_WORKER_EXTRA_MOUNTS",
        default: None,
        help: "Files and directories of this host that runs get: `/host/path:/container/path`, separated by commas.",
    },
    Variable {
        name: "SPACELIFT_WORKER_RO_EXTRA_MOUNTS",
        default: None,
        help: "The same for read stages only.",
    },
    Variable {
        name: "SPACELIFT_WORKER_WO_EXTRA_MOUNTS",
        default: None,
        help: "The same for write stages only.",
    },
    Variable {
        name: "SPACELIFT_WORKER_NETWORK",
        default: Some("bridge"),
        help: "The network of the containers, as the container engine knows it.",
    },
    Variable {
        name: "SPACELIFT_WORKER_RUNTIME",
        default: Some("the engine's own"),
        help: "The OCI runtime of the containers, such as `runsc`.",
    },
    Variable {
        name: "SPACELIFT_RUN_LOGS_ON_STANDARD_OUTPUT_ENABLED",
        default: Some("false"),
        help: "Whether the logs of runs, masked, are printed here too.",
    },
    Variable {
        name: "SPACELIFT_DEBUG",
        default: Some("false"),
        help: "Whether the log of a run shows the exact commands.",
    },
    Variable {
        name: "GANTRY_REPLACE_BACKEND",
        default: Some("false"),
        help: "Whether a backend that the source declares may be replaced by ours.",
    },
    Variable {
        name: "GANTRY_TOOL_DIR",
        default: None,
        help: "A directory of this host with programs, such as a stack's tool, which containers see read-only: used where the image has none of that name.",
    },
    Variable {
        name: "GANTRY_MEMORY_LIMIT",
        default: Some("what the host has, less an eighth: at least 384MiB, at most 2GiB"),
        help: "How much memory a run may take, such as `6GiB`, or `none`. What takes more is killed, and the run says so.",
    },
    Variable {
        name: "GANTRY_CPU_LIMIT",
        default: Some("what the host has, less a tenth, at most one"),
        help: "How many processors a run may use, such as `1.5`, or `none`.",
    },
    Variable {
        name: "GANTRY_PIDS_LIMIT",
        default: Some("4096"),
        help: "How many processes and threads a run may have, or `none`.",
    },
    Variable {
        name: "GANTRY_SHM_SIZE",
        default: Some("64MiB"),
        help: "The size of a run's /dev/shm, which is part of its memory.",
    },
    Variable {
        name: "GANTRY_DISK_LIMIT",
        default: Some("half of what is free when a stage begins"),
        help: "How much a run may have in its workspace and its container, such as `20GiB`, or `none`. What takes more is stopped, and the run says so.",
    },
    Variable {
        name: "GANTRY_DISK_RESERVE",
        default: Some("a twentieth of the disk, at most 2GiB"),
        help: "How much stays free on the disks of GANTRY_STATE_DIR and of the container engine: a run is stopped when there is less. `none`: it is not.",
    },
    Variable {
        name: "GANTRY_ALLOW_ROOT",
        default: Some("false"),
        help: "Whether runs may be root, or in root's group, in their containers, where the image says so. They then reach what the launcher keeps from runs: see the page on security.",
    },
    Variable {
        name: "GANTRY_FORMER_POOL_KEYS",
        default: None,
        help: "Former private keys of the pool, each base64 of the PEM file, separated by commas: what was sealed to them can still be opened.",
    },
];

/// The variables about the launcher itself and its host.
pub const HOST: &[Variable] = &[
    Variable {
        name: "SPACELIFT_METADATA_<key>",
        default: None,
        help: "Shown as the worker's metadata under <key>; autoscalers read it.",
    },
    Variable {
        name: "SPACELIFT_WORKER_COMMS_PROTOCOL",
        default: Some("mqtt"),
        help: "How the launcher reaches its control plane: mqtt, or poll where only HTTPS gets through, inspected or not.",
    },
    Variable {
        name: "SPACELIFT_WORKER_COMMS_URL",
        default: None,
        help: "The control plane's URL for poll, https://host or https://host:port. The one in the token unless set.",
    },
    Variable {
        name: "ADDITIONAL_ROOT_CAS",
        default: None,
        help: "CA certificates that HTTPS connections may end at, besides the token's own: those of a proxy that inspects TLS. The PEM text, base64 of it, or base64 of the JSON list that cloud templates hand on. MQTT believes the token's alone.",
    },
    Variable {
        name: "HTTPS_PROXY",
        default: None,
        help: "A proxy, http://host:port, through which broker and objects are reached, by CONNECT. Never the container engine, nor this host itself. Runs do not get it unless SPACELIFT_WHITELIST_ENVS names it.",
    },
    Variable {
        name: "NO_PROXY",
        default: None,
        help: "Hosts that are reached without it, separated by commas: domains with all below them, addresses, networks such as 10.0.0.0/8, or * for all.",
    },
    Variable {
        name: "DOCKER_HOST",
        default: Some("unix:///var/run/docker.sock"),
        help: "Where the container engine listens, Docker or Podman by its Docker-compatible socket: unix:// or tcp://.",
    },
    Variable {
        name: "DOCKER_TLS_VERIFY",
        default: None,
        help: "Set to anything: an engine at tcp:// is reached by TLS.",
    },
    Variable {
        name: "DOCKER_CERT_PATH",
        default: None,
        help: "The directory of ca.pem, which vouches for that engine, and of cert.pem and key.pem.",
    },
    Variable {
        name: "GANTRY_STATE_DIR",
        default: Some("/opt/spacelift/gantry"),
        help: "What must outlive the launcher: worker id, journal, running stages. One launcher each.",
    },
    Variable {
        name: "GANTRY_SECRETS_DIR",
        default: Some("/dev/shm"),
        help: "A directory in memory (tmpfs), through which secrets get into containers.",
    },
    Variable {
        name: "GANTRY_LOG",
        default: Some("json"),
        help: "How the launcher's own log is written: json or human.",
    },
    Variable {
        name: "GANTRY_LOG_LEVEL",
        default: Some("info"),
        help: "How much of it: error, warn, info, debug or trace.",
    },
];

/// Beginnings and names that other programs read: no typing mistakes of ours.
const OF_OTHERS: &[&str] =
    &["SPACELIFT_API_", "GANTRY_API_", "GANTRY_CONFIG_DIR", "GANTRY_DATA", "GANTRY_HOST"];

/// The whole table.
pub fn all() -> impl Iterator<Item = &'static Variable> {
    REQUIRED.iter().chain(RUNS).chain(HOST)
}

/// The default of the variable with this name.
pub(super) fn default_of(name: &str) -> &'static str {
    all()
        .find(|variable| variable.name == name)
        .and_then(|variable| variable.default)
        .expect("only asked for variables of the table that have a default")
}

/// A variable that looks like one of ours and has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Its name.
    pub name: String,
    /// The name that was probably meant.
    pub nearest: Option<&'static str>,
}

/// What `name` may have been meant to be, if it begins like ours and is none of ours.
pub(super) fn unknown(name: &str) -> Option<Unknown> {
    let looks_like_ours = name.starts_with("SPACELIFT_") || name.starts_with("GANTRY_");
    if !looks_like_ours
        || all().any(|variable| variable.is(name))
        || OF_OTHERS.iter().any(|begin| name.starts_with(begin))
    {
        return None;
    }
    let name: String = name.chars().take(128).collect();
    let nearest = all()
        .filter(|variable| variable.family().is_none())
        .map(|variable| (strsim::levenshtein(&name, variable.name), variable.name))
        .min()
        .filter(|(distance, _)| *distance <= 4)
        .map(|(_, name)| name);
    Some(Unknown { name, nearest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_the_nearest_one() {
        let nearest = |name| unknown(name).map(|unknown| unknown.nearest);
        assert_eq!(nearest("SPACELIFT_TOKN"), Some(Some("SPACELIFT_TOKEN")));
        assert_eq!(nearest("GANTRY_STATEDIR"), Some(Some("GANTRY_STATE_DIR")));
        assert_eq!(nearest("SPACELIFT_WORKER_NETWROK"), Some(Some("SPACELIFT_WORKER_NETWORK")));
        assert_eq!(nearest("SPACELIFT_PRIVATEVCS_MAPPING_NAME_0"), Some(None));
        assert_eq!(nearest("SPACELIFT_METADATA_instance_id"), None);
        assert_eq!(nearest("SPACELIFT_METADATA_"), Some(None));
        assert_eq!(nearest("SPACELIFT_API_KEY_ID"), None);
        assert_eq!(nearest("HOME"), None);
    }

    #[test]
    fn names_stand_once_in_the_table() {
        let mut names: Vec<_> = all().map(|variable| variable.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
