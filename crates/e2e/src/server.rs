//! `gantry server`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::config::Config;
use crate::program::{Ended, Program};

/// How long a server may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// A control plane. Its addresses stay the same over restarts.
#[derive(Debug)]
pub struct Server {
    config: Config,
    data: PathBuf,
    /// Its database, if that is PostgreSQL's.
    database: Option<gantry_cluster::Database>,
    program: Option<Program>,
    /// What earlier processes said.
    said: Vec<u8>,
}

impl Server {
    /// Starts one on free ports with its data in `data`, and waits until it is ready.
    #[must_use]
    pub fn start(config: &Config, data: &Path) -> Self {
        let mut server = Self {
            config: config.clone(),
            data: data.to_owned(),
            database: config.on_postgres.then(gantry_cluster::Database::create),
            program: None,
            said: Vec::new(),
        };
        server.start_again();
        server
    }

    /// Starts it again on the same data directory.
    pub fn start_again(&mut self) {
        let mut program = Program::start("gantry server", &mut self.command());
        program.wait_for("`ready:`", READY, gantry_stand::is_ready);
        self.program = Some(program);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut program) = self.program.take() {
            program.kill();
            self.said.extend(program.said());
        }
    }

    /// SIGTERM; waits until it has left.
    pub fn stop(&mut self) -> Ended {
        let mut program = self.program.take().expect("the server runs");
        program.signal(Signal::TERM);
        let ended = program.ended(Duration::from_secs(30));
        self.said.extend(program.said());
        ended
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program.as_ref().expect("the server runs").pid()
    }

    /// Everything that it ever said.
    #[must_use]
    pub fn said(&self) -> Vec<u8> {
        let now = self.program.as_ref().map(Program::said).unwrap_or_default();
        [self.said.as_slice(), &now].concat()
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What `server.json` says of it.
    #[must_use]
    pub fn address(&self, of: &str) -> String {
        gantry_stand::address(&self.data, of).expect("a server says where it is")
    }

    /// The command that starts it.
    #[must_use]
    pub fn command(&self) -> std::process::Command {
        let mut command = gantry_stand::server(&self.config.gantry(), &self.data);
        if let Some(database) = &self.database {
            command.env("GANTRY_DATABASE_URL", database.url());
        }
        command
    }
}
