//! The real programs, run as their users run them, and held against what `docs/` promises.
//!
//! Each test has a [`Stand`]: a server with a data directory of its own, a pool, and launchers, all below one
//! temporary directory. Nothing here knows the programs' insides but for two documented formats: the launcher's
//! journal, which tells a test when to strike, and the names of files in a run's directory.
//!
//! A harness that cannot go on panics: that is the test's failure, with the programs' own last words below it.

#![expect(clippy::missing_panics_doc, reason = "a panic of the harness is the failure of a test")]

mod age;
mod bare;
mod cli;
mod config;
mod docker;
mod engine;
mod journal;
mod launcher;
mod log;
mod objects;
mod podman;
mod pool;
mod program;
mod proxy;
mod server;
mod socket;
mod stack;
mod stand;
mod trace;
mod wait;

pub use age::{opens, openssl_key};
pub use bare::BareMachine;
pub use cli::{Cli, RunView};
pub use config::{Config, Transport};
pub use docker::{Container, Tag, containers};
pub use engine::OwnEngine;
pub use journal::{Moment, Tail};
pub use launcher::{Launcher, LauncherSetup};
pub use log::{find, mask, stage_log};
pub use objects::Objects;
pub use podman::Podman;
pub use pool::Pool;
pub use program::{Ended, Program, finished};
pub use proxy::Proxy;
pub use server::Server;
pub use socket::{Asked, Socket, Spoilt};
pub use stack::{SLOW_APPLY, Stack, StackSetup};
pub use stand::Stand;
pub use trace::{Secrecy, traces};
pub use wait::until;
