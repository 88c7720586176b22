//! What `cargo xtask test` tells the tests.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The programs and the image that the tests use.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder with `gantry` and `gantry-launcher`. `GANTRY_E2E_BIN_DIR`, or where cargo puts them.
    pub programs: PathBuf,
    /// What runs start from. `GANTRY_E2E_IMAGE`.
    pub image: String,
    /// The Docker network of runs. `GANTRY_E2E_NETWORK`.
    pub network: String,
    /// Whether servers have PostgreSQL's database instead of SQLite's. `GANTRY_TEST_DATABASE=postgres`.
    pub on_postgres: bool,
    /// How launchers reach the server, where a test does not say. `GANTRY_E2E_TRANSPORT`.
    pub transport: Transport,
}

/// How launchers reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// MQTT over TLS.
    Mqtt,
    /// Long polls over HTTPS.
    Poll,
}

impl Transport {
    /// As `SPACELIFT_WORKER_COMMS_PROTOCOL` spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Poll => "poll",
        }
    }

    fn named(name: &str) -> Self {
        let all = [Self::Mqtt, Self::Poll];
        let found = all.into_iter().find(|transport| transport.name() == name);
        found.unwrap_or_else(|| panic!("GANTRY_E2E_TRANSPORT is mqtt or poll, not {name:?}"))
    }
}

impl Config {
    /// Reads the variables and checks that what they name is there.
    #[must_use]
    pub fn read() -> Self {
        let text = |name: &str, default: &str| {
            let value = env::var_os(name).and_then(|value| value.into_string().ok());
            value.filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        let programs =
            env::var_os("GANTRY_E2E_BIN_DIR").map_or_else(beside_the_test, PathBuf::from);
        let config = Self {
            programs,
            image: text("GANTRY_E2E_IMAGE", "gantry-runner:local"),
            network: text("GANTRY_E2E_NETWORK", "bridge"),
            on_postgres: text("GANTRY_TEST_DATABASE", "sqlite") == "postgres",
            transport: Transport::named(&text("GANTRY_E2E_TRANSPORT", "mqtt")),
        };
        for program in [config.gantry(), config.launcher()] {
            assert!(
                program.is_file(),
                "{} is not built: run `cargo xtask test`",
                program.display()
            );
        }
        assert!(
            has_image(&config.image),
            "Docker has no image {}: run `cargo xtask test`",
            config.image
        );
        config
    }

    /// The server and the operator's command.
    #[must_use]
    pub fn gantry(&self) -> PathBuf {
        self.programs.join("gantry")
    }

    /// The launcher.
    #[must_use]
    pub fn launcher(&self) -> PathBuf {
        self.programs.join("gantry-launcher")
    }
}

/// A test lies in `<profile>/deps`, the programs in `<profile>`.
fn beside_the_test() -> PathBuf {
    let test = env::current_exe().expect("a running program has a path");
    test.ancestors().nth(2).map_or_else(PathBuf::new, Path::to_path_buf)
}

fn has_image(image: &str) -> bool {
    let mut command = Command::new("docker");
    command.args(["image", "inspect", "--format", "{{.Id}}", image]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.expect("docker is on PATH: run `cargo xtask test`").success()
}
