//! `gantry run`: runs of a stack.

mod list;
mod show;
mod trigger;

use clap::{Args, Subcommand, ValueEnum};
use gantry_model::RunId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::config::{Credentials, Environment};
use crate::failure::{Code, Failure};
use crate::follow::{Seen, follow};
use crate::log_text::LogText;
use crate::output::Output;

/// `gantry run …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a run of a stack.
    Trigger(Trigger),
    /// List a stack's runs, newest first, 50 at a time.
    List {
        /// The stack's id
        stack: String,
        /// Only runs before this one
        #[arg(long, value_name = "RUN")]
        before: Option<RunId>,
    },
    /// Show a run: its states, what it changes, its outputs.
    Show {
        /// The run's id
        run: RunId,
    },
    /// Apply the plan of an UNCONFIRMED run.
    Confirm {
        /// The run's id
        run: RunId,
        /// Then print what follows in the log as it comes, until the run is over
        #[arg(long)]
        follow: bool,
    },
    /// Turn down the plan of an UNCONFIRMED run, or a run that waits.
    Discard {
        /// The run's id
        run: RunId,
    },
    /// Stop a run that is in progress: its tool is interrupted once and given time to leave.
    Stop {
        /// The run's id
        run: RunId,
        /// Why; it is kept with the run
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Print a run's log as it was written, colours included.
    Logs {
        /// The run's id
        run: RunId,
        /// Go on until the run is UNCONFIRMED or over; its states go to standard error
        #[arg(long)]
        follow: bool,
        /// Begin at this byte of the log
        #[arg(long, value_name = "OFFSET", default_value_t = 0)]
        from: u64,
    },
}

/// Arguments of `gantry run trigger`.
#[derive(Debug, Args)]
pub struct Trigger {
    /// The stack's id
    stack: String,
    /// What the run is for
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value_t = Type::Tracked)]
    run_type: Type,
    /// Print the log as it comes, until the run is UNCONFIRMED or over
    #[arg(long)]
    follow: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    /// Plans, and once confirmed applies
    Tracked,
    /// Shows what would change, and changes nothing
    Proposed,
}

impl Type {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tracked => "TRACKED",
            Self::Proposed => "PROPOSED",
        }
    }
}

const BRIEF: &str = "query($id:ID!){run(id:$id){logLength,stack{id},history{state}}}";
/// Does what `command` says.
pub async fn perform(
    command: Command,
    environment: &Environment,
    output: Output,
) -> Result<Code, Failure> {
    let client = Client::new(Credentials::find(environment)?)?;
    match command {
        Command::Trigger(arguments) => trigger::trigger(&client, arguments, output).await,
        Command::List { stack, before } => list::list(&client, &stack, before, output).await,
        Command::Show { run } => show::show(&client, run, output).await,
        Command::Confirm { run, follow: is_followed } => {
            let seen = act(&client, run, Act::Confirm, output, is_followed).await?;
            if is_followed {
                follow(&client, &run.to_string(), seen, output).await
            } else {
                Ok(Code::Done)
            }
        }
        Command::Discard { run } => {
            act(&client, run, Act::Discard, output, false).await?;
            Ok(Code::Done)
        }
        Command::Stop { run, note } => {
            act(&client, run, Act::Stop(note), output, false).await?;
            Ok(Code::Done)
        }
        Command::Logs { run, follow: true, from } => {
            follow(&client, &run.to_string(), Seen { log: from, states: 0 }, output).await
        }
        Command::Logs { run, follow: false, from } => logs(&client, run, from, output).await,
    }
}

/// A stack that the server does not have.
pub fn stack_not_found(stack: &str) -> Failure {
    Failure::new(format!("stack {stack} not found")).next("see `gantry stack list`")
}

fn not_found(run: RunId) -> Failure {
    Failure::new(format!("run {run} not found")).next("see `gantry run list STACK`")
}

#[derive(Deserialize)]
struct BriefAnswer {
    run: Option<Brief>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Brief {
    log_length: u64,
    stack: StackOfRun,
    history: Vec<Value>,
}

#[derive(Deserialize)]
struct StackOfRun {
    id: String,
}

enum Act {
    Confirm,
    Discard,
    Stop(Option<String>),
}

/// Does something to a run; answers what there was to see of it before.
async fn act(
    client: &Client,
    run: RunId,
    act: Act,
    output: Output,
    is_followed: bool,
) -> Result<Seen, Failure> {
    let id = run.to_string();
    let answer: BriefAnswer = client.ask(BRIEF, json!({ "id": id })).await?;
    let brief = answer.run.ok_or_else(|| not_found(run))?;
    let mut variables = json!({ "stack": brief.stack.id, "run": id });
    let (declared, passed, name) = match act {
        Act::Confirm => ("", "", "runConfirm"),
        Act::Discard => ("", "", "runDiscard"),
        Act::Stop(note) => {
            variables["note"] = note.into();
            ("$note:String", ",note:$note", "runStop")
        }
    };
    let query = format!(
        "mutation({declared}$run:ID!$stack:ID!){{{name}(stack:$stack,run:$run{passed}){{id,state}}}}"
    );
    let answer: Map<String, Value> = client.ask(&query, variables).await?;
    let state =
        answer.get(name).and_then(|it| it["state"].as_str()).unwrap_or("UNKNOWN").to_owned();
    if !is_followed {
        let value = json!({ "id": id, "stack": brief.stack.id, "state": state });
        output.answer(&value, || format!("run {id} is {state}"))?;
    }
    Ok(Seen { log: brief.log_length, states: brief.history.len() as u64 })
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

async fn logs(client: &Client, run: RunId, from: u64, output: Output) -> Result<Code, Failure> {
    let mut response = client.log(&run.to_string(), from).await?;
    let mut at = from;
    let mut text = LogText::from(from);
    loop {
        let chunk = response.chunk().await.map_err(|error| {
            Failure::new(format!("the log broke off after {at} bytes"))
                .with(Code::Unreachable)
                .because(error.without_url())
                .next(format!("go on with --from {at}"))
        })?;
        let Some(chunk) = chunk else {
            output.log_part(text.end())?;
            return Ok(Code::Done);
        };
        if output.is_json() {
            output.log_part(text.push(&chunk))?;
        } else {
            output.bytes(&chunk)?;
        }
        at += chunk.len() as u64;
    }
}
