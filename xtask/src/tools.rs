//! What tests, benches, the demo and the other tasks need of the machine, and how it gets there.
//!
//! Whatever one of them starts is in [`STARTED`], and `cargo xtask check` refuses a program that is not: a machine as
//! it comes has what Debian calls essential and nothing else, so each other program is installed by the task that
//! needs it.

mod elf;
mod install;

use std::path::PathBuf;

pub use self::{
    elf::is_static,
    install::{ensure, static_busybox},
};
use crate::context::Context;

/// A program that a test, a bench, the demo or another task starts on the machine itself.
pub struct Started {
    /// Its name, without a folder.
    pub program: &'static str,
    /// How the machine gets it.
    pub get: Get,
}

impl Started {
    /// How the machine gets it, for a person.
    pub fn how(&self) -> String {
        let how = match self.get {
            Get::Debian => "part of every Debian".to_owned(),
            Get::ForTests(need) => format!("package {}, installed before the tests", need.package),
            Get::ForTask(need) => {
                format!("package {}, installed by the task that starts it", need.package)
            }
            Get::Engine => "part of the Docker engine".to_owned(),
            Get::Built => "built here, or part of the Rust toolchain".to_owned(),
            Get::WhereItIs(otherwise) => format!("where the machine has it; {otherwise}"),
        };
        format!("{:<16} {how}", self.program)
    }
}

/// How the machine gets a program.
pub enum Get {
    /// Every Debian has it: its package is essential or required.
    Debian,
    /// Installed before the tests run.
    ForTests(&'static Need),
    /// Installed by the tasks that start it, and by the tests only if one of these does.
    ForTask(&'static Need),
    /// It comes with the Docker engine, which is installed where none answers.
    Engine,
    /// Built from this workspace, or part of the Rust toolchain that builds it.
    Built,
    /// Started where the machine has it; the reason says what happens elsewhere.
    WhereItIs(&'static str),
}

/// All programs that may be started. `cargo xtask check` compares it with the sources.
pub const STARTED: &[Started] = &[
    started("age", Get::ForTests(&AGE)),
    started("age-keygen", Get::ForTests(&AGE)),
    started(
        "apt-get",
        Get::WhereItIs("without it, the missing packages are named and the task ends"),
    ),
    started("bash", Get::Debian),
    started("busybox", Get::ForTests(&BUSYBOX)),
    started("cargo", Get::Built),
    started("cp", Get::Debian),
    started("cgroupfs-mount", Get::ForTask(&CGROUPS)),
    started("cgroupfs-umount", Get::ForTask(&CGROUPS)),
    started("chmod", Get::Debian),
    started("chown", Get::Debian),
    started("chroot", Get::Debian),
    started("debootstrap", Get::ForTask(&DEBOOTSTRAP)),
    started("docker", Get::Engine),
    started("dockerd", Get::Engine),
    started("env", Get::Debian),
    started("find", Get::Debian),
    started("gantry", Get::Built),
    started("gantry-launcher", Get::Built),
    started("git", Get::ForTask(&GIT)),
    started("initdb", Get::ForTests(&POSTGRESQL)),
    started("kill", Get::ForTests(&KILL)),
    started("mkdir", Get::Debian),
    started("mosquitto", Get::ForTests(&MOSQUITTO)),
    started("nsenter", Get::Debian),
    started("openssl", Get::ForTests(&OPENSSL)),
    started("pkg-config", Get::ForTask(&BUILD[2])),
    started("podman", Get::ForTests(&PODMAN)),
    started("postgres", Get::ForTests(&POSTGRESQL)),
    started("psql", Get::ForTests(&POSTGRESQL)),
    started("rm", Get::Debian),
    started("rustc", Get::Built),
    started("sh", Get::Debian),
    started("sha256sum", Get::Debian),
    started(
        "sudo",
        Get::WhereItIs("only a user who is not root needs it; without it, the task says so"),
    ),
    started(
        "systemctl",
        Get::WhereItIs("without systemd, the engine is started by the task itself"),
    ),
    started("tar", Get::Debian),
    started("true", Get::Debian),
    started("umount", Get::Debian),
    started("unshare", Get::Debian),
    started("xtask", Get::Built),
];

const fn started(program: &'static str, get: Get) -> Started {
    Started { program, get }
}

/// What is installed before the tests run.
pub fn of_tests() -> Vec<&'static Need> {
    let needs = STARTED.iter().filter_map(|started| match started.get {
        Get::ForTests(need) => Some(need),
        Get::Debian | Get::ForTask(_) | Get::Engine | Get::Built | Get::WhereItIs(_) => None,
    });
    needs.collect()
}

/// The tool that the machine's user has, which runs start in containers; no Debian package brings one.
pub fn infrastructure(cx: &Context) -> Option<(&'static str, PathBuf)> {
    ["terraform", "tofu"].into_iter().find_map(|name| Some((name, cx.config.find(name)?)))
}

/// Something that the machine must have.
pub struct Need {
    /// How to see that it is there.
    pub present: Present,
    /// The Debian package that brings it.
    pub package: &'static str,
    /// What it is for.
    pub why: &'static str,
}

/// How to see that something is there.
pub enum Present {
    /// A program of that name is found.
    Program(&'static str),
    /// `pkg-config` knows the library.
    Library(&'static str),
    /// A file is there in the folder of some version below this one.
    Versioned(&'static str, &'static str),
    /// A file is there.
    File(&'static str),
    /// There is a busybox that runs in an empty image.
    StaticBusybox,
}

/// `openssl req`, which makes a pool's key and certificate signing request.
pub const OPENSSL: Need = Need {
    present: Present::Program("openssl"),
    package: "openssl",
    why: "makes the pool's key and CSR",
};
/// The stock `age`, the judge of our sealed files.
pub const AGE: Need = Need {
    present: Present::Program("age"),
    package: "age",
    why: "tests open sealed files with it",
};
/// The broker that launchers are tested against beside our own.
pub const MOSQUITTO: Need = Need {
    present: Present::Program("mosquitto"),
    package: "mosquitto",
    why: "tests connect launchers to it; they start one of their own",
};
/// The other engine. It starts containers with the `runc` that comes with Docker.
pub const PODMAN: Need = Need {
    present: Present::Program("podman"),
    package: "podman",
    why: "tests run containers in a Podman of their own",
};
/// The database that the control plane is tested on beside SQLite.
pub const POSTGRESQL: Need = Need {
    present: Present::Versioned("/usr/lib/postgresql", "bin/initdb"),
    package: "postgresql",
    why: "tests start databases of their own with it",
};
/// `kill`, to signal what runs as root.
pub const KILL: Need = Need {
    present: Present::Program("kill"),
    package: "procps",
    why: "tests stop a Docker engine of their own with it",
};
/// Mounts the control groups where no systemd does.
pub const CGROUPS: Need = Need {
    present: Present::Program("cgroupfs-mount"),
    package: "cgroupfs-mount",
    why: "mounts the control groups that Docker needs",
};
/// Makes the Debian of a fresh machine.
pub const DEBOOTSTRAP: Need = Need {
    present: Present::Program("debootstrap"),
    package: "debootstrap",
    why: "makes the Debian of a fresh machine",
};
/// Makes the clean clone on it.
pub const GIT: Need =
    Need { present: Present::Program("git"), package: "git", why: "makes the clean clone on it" };
/// The whole user land of the runner image that is built here.
pub const BUSYBOX: Need = Need {
    present: Present::StaticBusybox,
    package: "busybox-static",
    why: "shell and tools of the runner image",
};
/// The certificates that the runner image trusts.
pub const CERTIFICATES: Need = Need {
    present: Present::File("/etc/ssl/certs/ca-certificates.crt"),
    package: "ca-certificates",
    why: "what the runner image trusts",
};
/// The engine and its command.
pub const DOCKER: Need = Need {
    present: Present::Program("dockerd"),
    package: "docker.io",
    why: "runs go into containers",
};
/// The engine's command, which later versions of Debian package apart.
pub const DOCKER_COMMAND: Need = Need {
    present: Present::Program("docker"),
    package: "docker-cli",
    why: "the engine's command",
};
/// What the build links.
pub const BUILD: [Need; 4] = [
    Need {
        present: Present::Program("cc"),
        package: "gcc",
        why: "compiles the C parts of dependencies",
    },
    Need {
        present: Present::File("/usr/include/stdio.h"),
        package: "libc6-dev",
        why: "C headers for the same",
    },
    Need {
        present: Present::Program("pkg-config"),
        package: "pkg-config",
        why: "finds OpenSSL for the build",
    },
    Need {
        present: Present::Library("openssl"),
        package: "libssl-dev",
        why: "keys and sealing are OpenSSL's",
    },
];
