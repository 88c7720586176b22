//! The `gantry` command: `gantry server` is the control plane, all else is the operator's tool.
//!
//! Here are only the arguments, the runtime and the exit code. Each command has a file of its own;
//! what goes wrong in it comes back as a [`failure::Failure`], which says what to do next and knows its exit code.

mod archive;
mod audit;
mod client;
mod config;
mod failure;
mod file;
mod find;
mod follow;
mod key;
mod keys;
mod log;
mod log_filter;
mod log_stream;
mod log_text;
mod log_writer;
mod login;
mod notify;
mod output;
mod pool;
mod run;
mod server;
mod source;
mod stack;
mod state;
mod variable;
mod whoami;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Environment;
use crate::failure::{Code, Failure};
use crate::output::{Format, Output};

const EXIT_CODES: &str = "\
Exit codes:
  0  done; a followed run is FINISHED or UNCONFIRMED
  1  failed; or a followed run ended in another way
  2  wrong arguments
  3  another server uses the data directory
  4  the server cannot be reached
  5  not logged in, or the key is refused

Environment:
  GANTRY_API_ENDPOINT, GANTRY_API_KEY_ID, GANTRY_API_KEY_SECRET, GANTRY_API_CA
      override what `gantry login` keeps; SPACELIFT_API_KEY_ENDPOINT, SPACELIFT_API_KEY_ID,
      SPACELIFT_API_KEY_SECRET and SPACELIFT_API_TLS_CA mean the same
  GANTRY_CONFIG_DIR
      where `gantry login` keeps it; ~/.config/gantry unless set
  NO_COLOR
      no colours, whatever its value is; of a log on a terminal only the text is left
  GANTRY_LOG
      what the server logs, such as `info` or `gantry_control_plane=debug`

Times are RFC 3339 in UTC. JSON goes to standard output, errors to standard error.";

/// Runs infrastructure-as-code on machines that you own.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Arguments {
    /// Print for people, `table`, or for programs, `json`
    #[arg(long, global = true, value_enum, hide_possible_values = true, value_name = "FORMAT",
          default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a control plane: queue, MQTT broker, object store and API.
    Server(server::Arguments),
    /// Keep the address and key of a server for the other commands.
    Login(login::Arguments),
    /// Remove what `login` kept.
    Logout,
    /// Say which server the other commands use, and as whom.
    Whoami,
    /// Pools: workers that share one queue and one key.
    #[command(subcommand)]
    Pool(pool::Command),
    /// Stacks: a source and what its runs need.
    #[command(subcommand)]
    Stack(stack::Command),
    /// Runs: one job of a stack.
    #[command(subcommand)]
    Run(run::Command),
    /// Versions of a stack's Terraform state, which only your keys can read.
    #[command(subcommand)]
    State(state::Command),
    /// API keys, with which people and programs use the server.
    #[command(subcommand)]
    Key(key::Command),
    /// Show who changed what, newest first, 100 at a time.
    Audit(audit::Arguments),
    /// Say the versions of this program and of the server.
    Version,
}

fn main() -> ExitCode {
    keep_to_itself();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misunderstood(&error),
    };
    let output = Output::new(arguments.output, Environment::of_this_process().has_colours());
    match perform(arguments.command, output) {
        Ok(code) => code.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.code().into()
        }
    }
}

/// A crash must not put the authority's key, or a pool's that is being made, on a disk, nor may other
/// processes of this user look for it here. Where the kernel does not know how, nothing else is worse
/// for it.
fn keep_to_itself() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Prints help where it was asked for, and else what is wrong with the arguments.
fn misunderstood(error: &clap::Error) -> ExitCode {
    let wants_json = is_json(std::env::args_os().skip(1));
    if !error.use_stderr() || !wants_json {
        // Nothing is left to be told about closed outputs.
        let _closed = error.print();
        return if error.use_stderr() { Code::Usage } else { Code::Done }.into();
    }
    let text = error.to_string();
    let what = text.lines().next().unwrap_or_default();
    let failure =
        Failure::usage(what.trim_start_matches("error: ")).next("see --help of the command");
    Output::new(Format::Json, false).failure(&failure);
    failure.code().into()
}

/// Whether arguments that could not be parsed ask for JSON.
fn is_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let arguments: Vec<OsString> = arguments.collect();
    arguments.iter().any(|it| it == "--output=json")
        || arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
}

fn perform(command: Command, output: Output) -> Result<Code, Failure> {
    // The TLS library wants one process-wide choice of its cryptography; a second call changes nothing.
    let _already_chosen = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let environment = Environment::of_this_process();
    match command {
        Command::Server(arguments) => server::perform(arguments, &environment, output),
        Command::Login(arguments) => waited(login::perform(arguments, &environment, output)),
        Command::Logout => whoami::logout(&environment, output),
        Command::Whoami => waited(whoami::whoami(&environment, output)),
        Command::Version => waited(whoami::version(&environment, output)),
        Command::Key(command) => waited(key::perform(command, &environment, output)),
        Command::Audit(arguments) => waited(audit::perform(arguments, &environment, output)),
        Command::Pool(command) => waited(pool::perform(command, &environment, output)),
        Command::Stack(command) => waited(stack::perform(command, &environment, output)),
        Command::Run(command) => waited(run::perform(command, &environment, output)),
        Command::State(command) => waited(state::perform(command, &environment, output)),
    }
}

/// Runs one command of the operator's tool, which needs no more than one thread.
fn waited(work: impl Future<Output = Result<Code, Failure>>) -> Result<Code, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("cannot start the runtime").because(error))?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::error::ErrorKind;
    use clap::{CommandFactory as _, Parser as _};

    use super::Arguments;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    /// Commands in running text leave out or paraphrase arguments; what they name must be there.
    #[test]
    fn every_command_that_a_document_names_is_one() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|it| it.unwrap().path());
        let pages = [
            "README.md",
            "CHANGELOG.md",
            "examples/terraform-stack/README.md",
            "examples/custom-stack/README.md",
        ];
        let mut seen = 0;
        for page in docs.chain(pages.map(|page| root.join(page))) {
            let text = std::fs::read_to_string(&page).unwrap().replace("\\\n", " ");
            let typed = text.lines().filter(|line| line.starts_with("gantry "));
            // What ends in v1 are the first words of signed bytes.
            let is_command = |code: &&str| code.starts_with("gantry ") && !code.ends_with(" v1");
            let named = text.split('`').filter(is_command);
            for command in typed.chain(named) {
                let words = command.split(" | ").next().unwrap().split_whitespace();
                let words = words.filter(|word| !word.contains("COMMAND"));
                let words = words.take_while(|word| !word.starts_with('\''));
                if let Err(error) = Arguments::try_parse_from(words) {
                    let is_unknown = matches!(
                        error.kind(),
                        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument
                    );
                    assert!(!is_unknown, "{}: {command}: {error}", page.display());
                }
                seen += 1;
            }
        }
        assert!(seen > 15, "{seen}");
    }
}
