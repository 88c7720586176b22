//! `gantry run`: runs of a stack.

mod act;
mod list;
mod logs;
mod show;
mod trigger;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use self::act::Act;
use crate::client::Client;
use crate::config::{Credentials, Environment};
use crate::failure::{Code, Failure};
use crate::find::{self, RunArgument};
use crate::follow::{Seen, follow};
use crate::output::Output;

const BRING_IN: &str = "\
To bring in a state that lies in a file, from another backend or from a worker's host:
  put it into the source directory, as old.tfstate
  gantry stack upload STACK DIR --allow-sensitive
  gantry run task STACK 'terraform state push old.tfstate' --follow
  take it out of the directory, and upload that again
`push -force` puts it in the place of a state that it does not follow.";

/// `gantry run …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a run of a stack.
    Trigger(trigger::Trigger),
    /// Run one command of a shell in a stack's source, after init: what changes the state, such as
    /// `terraform state mv` and `terraform state push`, is done so.
    #[command(after_help = BRING_IN)]
    Task {
        /// The stack's id or name
        stack: String,
        /// The command, as one argument
        command: String,
        /// Print the log as it comes, until the run is over
        #[arg(long)]
        follow: bool,
    },
    /// List runs, of a stack or of all, newest first, 50 at a time.
    List {
        /// The stack's id or name [default: all stacks]
        stack: Option<String>,
        /// Only runs before this one
        #[arg(long, value_name = "RUN")]
        before: Option<RunArgument>,
    },
    /// Show a run: its states, why it waits, what it changes, its outputs.
    Show {
        /// The run's id
        run: RunArgument,
    },
    /// Apply the plan of an UNCONFIRMED run.
    Confirm {
        /// The run's id
        run: RunArgument,
        /// Why; it is kept with the run
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        /// Then print what follows in the log as it comes, until the run is over
        #[arg(long)]
        follow: bool,
    },
    /// Turn down the plan of an UNCONFIRMED run, or a run that waits.
    Discard {
        /// The run's id
        run: RunArgument,
        /// Why; it is kept with the run
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Cancel a run that no worker has yet.
    Cancel {
        /// The run's id
        run: RunArgument,
    },
    /// Stop a run that is in progress: its tool is interrupted once and given time to leave.
    Stop {
        /// The run's id
        run: RunArgument,
        /// Why; it is kept with the run
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Start a run like one that did not end well, with the same source.
    Retry {
        /// The run's id
        run: RunArgument,
        /// Print the log as it comes, until the new run is UNCONFIRMED or over
        #[arg(long)]
        follow: bool,
    },
    /// Print a run's log: into a pipe or file as it was written, on a terminal its text and colours.
    Logs {
        /// The run's id
        run: RunArgument,
        /// Go on until the run is UNCONFIRMED or over; its states go to standard error
        #[arg(long)]
        follow: bool,
        /// Begin at this byte of the log
        #[arg(long, value_name = "OFFSET", default_value_t = 0)]
        from: u64,
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
        Command::Trigger(arguments) => trigger::trigger(&client, arguments, output).await,
        Command::Task { stack, command, follow } => {
            trigger::task(&client, &stack, &command, follow, output).await
        }
        Command::List { stack, before } => {
            list::list(&client, stack.as_deref(), before.as_ref(), output).await
        }
        Command::Show { run } => show::show(&client, &run, output).await,
        Command::Confirm { run, note, follow: is_followed } => {
            let run = find::run(&client, &run).await?;
            let seen = act::act(&client, &run, Act::Confirm(note), output, is_followed).await?;
            if is_followed { follow(&client, &run, seen, output).await } else { Ok(Code::Done) }
        }
        Command::Discard { run, note } => {
            act::once(&client, &run, Act::Discard(note), output).await
        }
        Command::Cancel { run } => act::once(&client, &run, Act::Cancel, output).await,
        Command::Stop { run, note } => act::once(&client, &run, Act::Stop(note), output).await,
        Command::Retry { run, follow } => {
            let run = find::run(&client, &run).await?;
            trigger::retry(&client, &run, follow, output).await
        }
        Command::Logs { run, follow: true, from } => {
            let run = find::run(&client, &run).await?;
            follow(&client, &run, Seen { log: from, states: 0 }, output).await
        }
        Command::Logs { run, follow: false, from } => {
            let run = find::run(&client, &run).await?;
            logs::logs(&client, &run, from, output).await
        }
    }
}

/// A stack that the server does not have.
pub fn stack_not_found(stack: &str) -> Failure {
    find::missing("stack", stack, "see `gantry stack list`")
}

fn not_found(run: &str) -> Failure {
    find::missing("run", run, "see `gantry run list`")
}

#[derive(Deserialize)]
struct StackOfRun {
    id: String,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(rename = "addCount")]
    add: u64,
    #[serde(rename = "changeCount")]
    change: u64,
    #[serde(rename = "deleteCount")]
    delete: u64,
    #[serde(rename = "importCount")]
    import: u64,
    #[serde(rename = "moveCount")]
    moved: u64,
    #[serde(rename = "forgetCount")]
    forget: u64,
}

impl Delta {
    fn to_json(&self) -> Value {
        json!({
            "add": self.add, "change": self.change, "delete": self.delete,
            "import": self.import, "move": self.moved, "forget": self.forget,
        })
    }
}

fn delta_text(delta: Option<&Delta>) -> String {
    delta.map_or(String::new(), |delta| {
        let mut text = format!("+{} ~{} -{}", delta.add, delta.change, delta.delete);
        let rare = [(delta.import, "import"), (delta.moved, "move"), (delta.forget, "forget")];
        for (count, what) in rare.into_iter().filter(|(count, _)| *count > 0) {
            text = format!("{text} {what} {count}");
        }
        text
    })
}

/// One reason why a run does not go on.
#[derive(Deserialize)]
struct Wait {
    kind: String,
    reason: String,
    next: Option<String>,
}

impl Wait {
    fn to_json(&self) -> Value {
        json!({ "kind": self.kind, "reason": self.reason, "next": self.next })
    }

    fn to_text(&self) -> String {
        match &self.next {
            Some(next) => format!("{}; {next}", self.reason),
            None => self.reason.clone(),
        }
    }
}
