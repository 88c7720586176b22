//! `gantry state`: versions of a stack's Terraform state.
//!
//! The server keeps them sealed. They are opened here, with a pool's key or the recovery key; what was
//! changed on its way or in its store does not open.

mod pull;
mod push;
mod rollback;
mod versions;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::client::Client;
use crate::config::{Credentials, Environment};
use crate::failure::{Code, Failure};
use crate::find::{self, Match};
use crate::output::Output;

/// `gantry state …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the versions of a stack's state, newest first.
    List {
        /// The stack's id or name
        stack: String,
    },
    /// Get a version of a stack's state and open it on this machine.
    Pull(Pull),
    /// Bring in a state from this machine: it is sealed and signed here with the pool's key. It takes the
    /// place of the stack's state if it has its lineage and a higher serial; plan before you apply.
    Push(Push),
    /// Make an older or an orphaned version the state that the next run begins with. Nothing is
    /// deleted, so this can be taken back; plan before you apply.
    Rollback {
        /// The stack's id or name
        stack: String,
        /// The version: its serial, or its id, whose beginning is enough
        version: String,
    },
}

/// Arguments of `gantry state pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// The stack's id or name
    stack: String,
    /// Terraform's serial of the version [default: the current one]
    #[arg(long, value_name = "N")]
    serial: Option<u64>,
    /// The version's id, or its beginning: for one that is orphaned or shares its serial
    #[arg(long, value_name = "ID", conflicts_with = "serial")]
    version: Option<String>,
    /// A key that it is sealed to: a pool's or the recovery key; may be repeated
    #[arg(long = "key", value_name = "FILE", required_unless_present = "sealed")]
    keys: Vec<PathBuf>,
    /// Write the age file as it is kept, without opening it
    #[arg(long, conflicts_with = "keys")]
    sealed: bool,
    /// Where to write it [default: standard output]
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Arguments of `gantry state push`.
#[derive(Debug, Args)]
pub struct Push {
    /// The stack's id or name
    stack: String,
    /// The state: a file as `terraform state pull` writes it
    file: PathBuf,
    /// The private key of the stack's pool: launchers open no state that it did not sign
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Give the stack to this pool, id or name, whose key --key is then. Its source has to be uploaded
    /// again, and its secrets given again
    #[arg(long)]
    pool: Option<String>,
}

/// Does what `command` says.
pub async fn perform(
    command: Command,
    environment: &Environment,
    output: Output,
) -> Result<Code, Failure> {
    let client = Client::new(Credentials::find(environment)?)?;
    match command {
        Command::List { stack } => {
            let stack = find::stack(&client, &stack, Match::Prefix).await?;
            versions::list(&client, &stack, output).await
        }
        Command::Pull(mut arguments) => {
            arguments.stack = find::stack(&client, &arguments.stack, Match::Prefix).await?;
            pull::pull(&client, &arguments, output).await
        }
        Command::Push(mut arguments) => {
            arguments.stack = find::stack(&client, &arguments.stack, Match::Whole).await?;
            push::push(&client, &arguments, output).await
        }
        Command::Rollback { stack, version } => {
            let stack = find::stack(&client, &stack, Match::Whole).await?;
            rollback::roll_back(&client, &stack, &version, output).await
        }
    }
}
