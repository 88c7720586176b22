//! `gantry run`: runs of a stack.

use clap::{Args, Subcommand, ValueEnum};
use gantry_model::RunId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::config::{Credentials, Environment};
use crate::failure::{Code, Failure};
use crate::follow::{Seen, follow, to_decide};
use crate::log_text::LogText;
use crate::output::{self, Output};

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

const TRIGGER: &str =
    "mutation($stack:ID!$type:RunType){runTrigger(stack:$stack,runType:$type){id,state}}";
/// As many runs as the server lists at a time.
const PAGE: usize = 50;
const LIST: &str = "query($before:ID$stack:ID!){stack(id:$stack)\
    {runs(before:$before){...listed}proposedRuns(before:$before){...listed}}}\
    fragment listed on Run\
    {id,type,state,title,createdAt,triggeredBy,delta{addCount,changeCount,deleteCount}}";
const BRIEF: &str = "query($id:ID!){run(id:$id){logLength,stack{id},history{state}}}";
/// What can keep a new run of a stack waiting.
const WAITS: &str = "query($stack:ID!){stack(id:$stack){lockedBy,lockNote,runs{id,state,finished},\
    workerPool{name,workersCount}}}";
const SHOW: &str = "query($id:ID!){run(id:$id){id,type,state,title,createdAt,updatedAt,triggeredBy,note,\
    logLength,stack{id},delta{addCount,changeCount,deleteCount},outputs{name,sensitive,value},\
    history{state,timestamp,note,username},\
    attempts{epoch,stage,worker,offeredAt,grantedAt,endedAt,outcome}}}";

/// Does what `command` says.
pub async fn perform(
    command: Command,
    environment: &Environment,
    output: Output,
) -> Result<Code, Failure> {
    let client = Client::new(Credentials::find(environment)?)?;
    match command {
        Command::Trigger(arguments) => trigger(&client, arguments, output).await,
        Command::List { stack, before } => list(&client, &stack, before, output).await,
        Command::Show { run } => show(&client, run, output).await,
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TriggerAnswer {
    run_trigger: Triggered,
}

#[derive(Deserialize)]
struct Triggered {
    id: String,
    state: String,
}

async fn trigger(client: &Client, arguments: Trigger, output: Output) -> Result<Code, Failure> {
    let variables = json!({ "stack": arguments.stack, "type": arguments.run_type.as_str() });
    let answer: TriggerAnswer = client.ask(TRIGGER, variables).await?;
    let Triggered { id, state } = answer.run_trigger;
    if arguments.follow {
        if output.is_json() {
            output.line(&json!({ "event": "run", "id": id, "stack": arguments.stack }))?;
        } else {
            output.note(&format!("-- run {id}"));
            note_waits(client, &arguments, &id, output).await;
        }
        return follow(client, &id, Seen::default(), output).await;
    }
    let value = json!({ "id": id, "stack": arguments.stack, "state": state });
    output.answer(&value, || {
        output::pairs(&[("run", id.clone()), ("state", state.clone())])
            + &format!("\nsee it with\n  gantry run logs {id} --follow")
    })?;
    if !output.is_json() {
        note_waits(client, &arguments, &id, output).await;
    }
    Ok(Code::Done)
}

#[derive(Deserialize)]
struct WaitsAnswer {
    stack: Option<Waits>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Waits {
    locked_by: Option<String>,
    lock_note: Option<String>,
    runs: Vec<OtherRun>,
    worker_pool: Option<PoolOfStack>,
}

#[derive(Deserialize)]
struct OtherRun {
    id: String,
    state: String,
    finished: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PoolOfStack {
    name: String,
    workers_count: i64,
}

/// Tells a person why a new run does not begin, where that is not a matter of moments.
async fn note_waits(client: &Client, arguments: &Trigger, run: &str, output: Output) {
    let variables = json!({ "stack": arguments.stack });
    // The run is there in any case; this is only a courtesy.
    let Ok(WaitsAnswer { stack: Some(stack) }) = client.ask(WAITS, variables).await else { return };
    for why in stack.reasons(&arguments.stack, arguments.run_type, run) {
        output.note(&format!("-- it waits: {why}"));
    }
}

impl Waits {
    fn reasons(&self, stack: &str, run_type: Type, run: &str) -> Vec<String> {
        let mut reasons = Vec::new();
        if matches!(run_type, Type::Tracked) {
            if let Some(by) = &self.locked_by {
                let note = self.lock_note.as_deref().filter(|note| !note.is_empty());
                let note = note.map_or(String::new(), |note| format!(" ({note})"));
                reasons.push(format!(
                    "{by} has locked the stack{note}; `gantry stack unlock {stack}` lifts that"
                ));
            }
            let is_before = |it: &&OtherRun| it.id.as_str() < run && !it.finished;
            if let Some(other) = self.runs.iter().filter(is_before).min_by_key(|it| &it.id) {
                reasons.push(match other.state.as_str() {
                    "UNCONFIRMED" => {
                        format!("run {} is UNCONFIRMED; {}", other.id, to_decide(&other.id))
                    }
                    state => format!("run {} ({state}) goes first", other.id),
                });
            }
        }
        if let Some(pool) = self.worker_pool.as_ref().filter(|pool| pool.workers_count == 0) {
            reasons.push(format!(
                "no worker of pool {} is connected; start a `gantry-launcher` with its token and key",
                pool.name
            ));
        }
        reasons
    }
}

#[derive(Deserialize)]
struct ListAnswer {
    stack: Option<Runs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Runs {
    runs: Vec<ListedRun>,
    proposed_runs: Vec<ListedRun>,
}

impl Runs {
    /// The newest of both, newest first: ids rise with time.
    fn page(mut self) -> Vec<ListedRun> {
        self.runs.append(&mut self.proposed_runs);
        self.runs.sort_by(|one, other| other.id.cmp(&one.id));
        self.runs.truncate(PAGE);
        self.runs
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListedRun {
    id: String,
    r#type: String,
    state: String,
    title: String,
    created_at: i64,
    triggered_by: Option<String>,
    delta: Option<Delta>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(rename = "addCount")]
    add: u64,
    #[serde(rename = "changeCount")]
    change: u64,
    #[serde(rename = "deleteCount")]
    delete: u64,
}

impl Delta {
    fn to_json(&self) -> Value {
        json!({ "add": self.add, "change": self.change, "delete": self.delete })
    }
}

fn delta_text(delta: Option<&Delta>) -> String {
    delta.map_or(String::new(), |delta| {
        format!("+{} ~{} -{}", delta.add, delta.change, delta.delete)
    })
}

async fn list(
    client: &Client,
    stack: &str,
    before: Option<RunId>,
    output: Output,
) -> Result<Code, Failure> {
    let variables = json!({ "stack": stack, "before": before.map(|it| it.to_string()) });
    let answer: ListAnswer = client.ask(LIST, variables).await?;
    let runs = answer.stack.ok_or_else(|| stack_not_found(stack))?.page();
    let values: Vec<Value> = runs
        .iter()
        .map(|run| {
            json!({
                "id": run.id,
                "type": run.r#type,
                "state": run.state,
                "title": run.title,
                "created": output::time(run.created_at),
                "triggered_by": run.triggered_by,
                "delta": run.delta.as_ref().map(Delta::to_json),
            })
        })
        .collect();
    output.answer(&values, || {
        let rows: Vec<_> = runs
            .iter()
            .map(|run| {
                let [id, kind, state] = [&run.id, &run.r#type, &run.state].map(Clone::clone);
                [id, kind, state, delta_text(run.delta.as_ref()), output::time(run.created_at)]
            })
            .collect();
        let none = match before {
            Some(before) => format!("no runs before {before}"),
            None => format!("no runs yet: start one with `gantry run trigger {stack}`"),
        };
        let table = output::table(["ID", "TYPE", "STATE", "CHANGES", "CREATED"], &rows, &none);
        match runs.last() {
            Some(last) if runs.len() >= PAGE => {
                format!("{table}\nolder ones\n  gantry run list {stack} --before {}", last.id)
            }
            Some(_) | None => table,
        }
    })?;
    Ok(Code::Done)
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
struct ShowAnswer {
    run: Option<Run>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    id: String,
    r#type: String,
    state: String,
    title: String,
    created_at: i64,
    updated_at: i64,
    triggered_by: Option<String>,
    note: Option<String>,
    log_length: u64,
    stack: StackOfRun,
    delta: Option<Delta>,
    outputs: Vec<StackOutput>,
    /// Newest first.
    history: Vec<Change>,
    attempts: Vec<Attempt>,
}

#[derive(Deserialize)]
struct StackOutput {
    name: String,
    sensitive: bool,
    /// JSON.
    value: Option<String>,
}

#[derive(Deserialize)]
struct Change {
    state: String,
    timestamp: i64,
    note: Option<String>,
    username: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    epoch: i64,
    stage: String,
    worker: String,
    offered_at: i64,
    granted_at: Option<i64>,
    ended_at: Option<i64>,
    outcome: Option<String>,
}

impl Run {
    fn to_json(&self) -> Value {
        let outputs: Map<String, Value> = self
            .outputs
            .iter()
            .map(|it| {
                let value = it.value.as_deref().and_then(|text| serde_json::from_str(text).ok());
                (it.name.clone(), value.unwrap_or(Value::Null))
            })
            .collect();
        json!({
            "id": self.id,
            "stack": self.stack.id,
            "type": self.r#type,
            "state": self.state,
            "title": self.title,
            "created": output::time(self.created_at),
            "updated": output::time(self.updated_at),
            "triggered_by": self.triggered_by,
            "note": self.note,
            "delta": self.delta.as_ref().map(Delta::to_json),
            "outputs": outputs,
            "log_length": self.log_length,
            "history": self.history.iter().rev().map(Change::to_json).collect::<Value>(),
            "attempts": self.attempts.iter().map(Attempt::to_json).collect::<Value>(),
        })
    }

    fn to_text(&self) -> String {
        let mut about = vec![
            ("run", self.id.clone()),
            ("stack", self.stack.id.clone()),
            ("type", self.r#type.clone()),
            ("state", self.state.clone()),
            ("created", output::time(self.created_at)),
        ];
        if let Some(by) = &self.triggered_by {
            about.push(("triggered by", by.clone()));
        }
        if let Some(note) = &self.note {
            about.push(("note", note.clone()));
        }
        if self.delta.is_some() {
            about.push(("changes", delta_text(self.delta.as_ref())));
        }
        let mut text = output::pairs(&about);
        let history: Vec<_> = self
            .history
            .iter()
            .rev()
            .map(|it| {
                let note = [it.username.clone(), it.note.clone()];
                let note: Vec<String> = note.into_iter().flatten().collect();
                [output::time(it.timestamp), it.state.clone(), note.join(": ")]
            })
            .collect();
        text = text + "\n" + &output::table(["AT", "STATE", "NOTE"], &history, "");
        if !self.outputs.is_empty() {
            let rows: Vec<_> = self.outputs.iter().map(StackOutput::row).collect();
            text = text + "\n" + &output::table(["OUTPUT", "VALUE"], &rows, "");
        }
        if self.state == "UNCONFIRMED" {
            text = text + "\n" + &to_decide(&self.id);
        }
        text
    }
}

impl StackOutput {
    fn row(&self) -> [String; 2] {
        let value = match (&self.value, self.sensitive) {
            (_, true) => "(sensitive)".to_owned(),
            (Some(value), false) => value.clone(),
            (None, false) => "(too large)".to_owned(),
        };
        [self.name.clone(), value]
    }
}

impl Change {
    fn to_json(&self) -> Value {
        json!({
            "state": self.state,
            "at": output::time(self.timestamp),
            "note": self.note,
            "by": self.username,
        })
    }
}

impl Attempt {
    fn to_json(&self) -> Value {
        json!({
            "epoch": self.epoch,
            "stage": self.stage,
            "worker": self.worker,
            "offered": output::time(self.offered_at),
            "granted": self.granted_at.map(output::time),
            "ended": self.ended_at.map(output::time),
            "outcome": self.outcome,
        })
    }
}

async fn show(client: &Client, run: RunId, output: Output) -> Result<Code, Failure> {
    let answer: ShowAnswer = client.ask(SHOW, json!({ "id": run.to_string() })).await?;
    let found = answer.run.ok_or_else(|| not_found(run))?;
    output.answer(&found.to_json(), || found.to_text())?;
    Ok(Code::Done)
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
