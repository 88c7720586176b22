//! `gantry pool`: pools and their workers.

mod change;
mod create;
mod show;
mod workers;

use clap::Subcommand;

use crate::client::Client;
use crate::config::{Credentials, Environment};
use crate::failure::{Code, Failure};
use crate::output::Output;

/// `gantry pool …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a pool, with a new key that stays on this machine.
    Create(create::Create),
    /// List all pools.
    List,
    /// Show a pool and all its workers that are known, those that are away included.
    Show {
        /// The pool's id or name
        pool: String,
    },
    /// Change a pool's name, description or labels.
    Set(change::Set),
    /// Let workers take no new runs; the one in hand is finished.
    Drain(workers::Drain),
    /// Let workers take runs again.
    Undrain(workers::Drain),
    /// Let every worker exit, to be started afresh by its host: such as after an upgrade.
    Cycle {
        /// The pool's id or name
        pool: String,
        /// Interrupt what applies too
        #[arg(long)]
        force: bool,
    },
    /// Give a pool a new certificate and token; the old token is worth nothing from then on.
    Reset(change::Reset),
    /// Delete a pool that no stack uses.
    Delete {
        /// The pool's id or name, whole
        pool: String,
        /// It is meant: there is no way back
        #[arg(long)]
        yes: bool,
    },
}

/// Does what `command` says.
pub async fn perform(
    command: Command,
    environment: &Environment,
    output: Output,
) -> Result<Code, Failure> {
    let client = Client::new(Credentials::find(environment)?)?;
    match command {
        Command::Create(arguments) => create::create(&client, arguments, output).await,
        Command::List => show::list(&client, output).await,
        Command::Show { pool } => show::show(&client, &pool, output).await,
        Command::Set(arguments) => change::set(&client, arguments, output).await,
        Command::Drain(arguments) => workers::drain(&client, arguments, true, output).await,
        Command::Undrain(arguments) => workers::drain(&client, arguments, false, output).await,
        Command::Cycle { pool, force } => workers::cycle(&client, &pool, force, output).await,
        Command::Reset(arguments) => change::reset(&client, arguments, output).await,
        Command::Delete { pool, yes } => change::delete(&client, &pool, yes, output).await,
    }
}
