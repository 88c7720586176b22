//! `gantry stack`: stacks and the versions of their source.
//!
//! Secrets are sealed here, to the keys that the server names: the stack's pool and the recovery key.

mod delete;
mod list;
mod lock;
mod set;
mod show;
mod tool;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use gantry_model::{ProjectRoot, StackId};
use gantry_protocol::spec::SecretBundle;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::config::{Credentials, Environment};
use crate::failure::{Code, Explain as _, Failure};
use crate::find::{self, Match};
use crate::keys;
use crate::output::{self, Output};
use crate::source::{self, Sending};
use crate::variable::{self, Clear, SecretArgument};

/// `gantry stack …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a stack, seal its secrets on this machine and upload its source.
    Create(Box<Create>),
    /// List all stacks.
    List,
    /// Show a stack: what is set, who locked it, its runs.
    Show {
        /// The stack's id or name
        stack: String,
    },
    /// Change what is set of a stack; what is not given stays.
    Set(Box<set::Set>),
    /// Lock a stack: its runs wait, and only you confirm what is planned and trigger what goes on.
    Lock {
        /// The stack's id or name
        stack: String,
        /// Why; others see it
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Lift a stack's lock, so that its runs go on: such as that of a run whose outcome is unknown.
    Unlock {
        /// The stack's id or name
        stack: String,
    },
    /// Delete a stack without touching what it made.
    Delete {
        /// The stack's id or name, whole
        stack: String,
        /// It is meant: there is no way back
        #[arg(long)]
        yes: bool,
    },
    /// Upload a new version of a stack's source. Later runs use it.
    #[command(after_help = source::HELP)]
    Upload {
        /// The stack's id or name
        stack: String,
        /// The directory to upload
        dir: PathBuf,
        /// What changed
        #[arg(long, value_name = "TEXT")]
        message: Option<String>,
        #[command(flatten)]
        sending: Sending,
    },
}

/// Arguments of `gantry stack create`.
#[derive(Debug, Args)]
#[command(after_help = source::HELP)]
pub struct Create {
    /// The stack's name
    name: String,
    /// The stack's id, a-z, 0-9 and - [default: made from the name]
    #[arg(long, value_name = "SLUG")]
    id: Option<String>,
    /// The pool whose workers run it: id or name
    #[arg(long)]
    pool: String,
    /// The directory with its source
    #[arg(long, value_name = "DIR")]
    source: PathBuf,
    /// The part of the source that the stack lives in
    #[arg(long, value_name = "PATH")]
    project_root: Option<ProjectRoot>,
    /// What the stack is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// A secret variable, sealed on this machine: NAME=VALUE, NAME=@FILE, or NAME for the value of
    /// the environment variable. Other users of this machine can see arguments, so prefer the latter
    /// two; may be repeated
    #[arg(long = "secret", value_name = "NAME[=VALUE|=@FILE]")]
    secrets: Vec<SecretArgument>,
    /// A variable in the clear; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<Clear>,
    /// The image that its runs use instead of the launcher's default
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Apply changes without a confirmation
    #[arg(long)]
    autodeploy: bool,
    /// Leave the Terraform state to the backend that the source names
    #[arg(long)]
    own_backend: bool,
    #[command(flatten)]
    sending: Sending,
    #[command(flatten)]
    tool: tool::Arguments,
    #[command(flatten)]
    hooks: Hooks,
}

/// A user's own commands around the phases. Each may be repeated; they run in their order.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Hooks: commands around the phases; each may be repeated")]
struct Hooks {
    /// Before the initialization
    #[arg(long, value_name = "CMD")]
    before_init: Vec<String>,
    /// After it
    #[arg(long, value_name = "CMD")]
    after_init: Vec<String>,
    /// Before the plan
    #[arg(long, value_name = "CMD")]
    before_plan: Vec<String>,
    /// After it
    #[arg(long, value_name = "CMD")]
    after_plan: Vec<String>,
    /// Before the apply
    #[arg(long, value_name = "CMD")]
    before_apply: Vec<String>,
    /// After it
    #[arg(long, value_name = "CMD")]
    after_apply: Vec<String>,
    /// Before a task's command
    #[arg(long, value_name = "CMD")]
    before_perform: Vec<String>,
    /// After it
    #[arg(long, value_name = "CMD")]
    after_perform: Vec<String>,
    /// Before the destruction
    #[arg(long, value_name = "CMD")]
    before_destroy: Vec<String>,
    /// After it
    #[arg(long, value_name = "CMD")]
    after_destroy: Vec<String>,
    /// After every run, however it ended
    #[arg(long, value_name = "CMD")]
    after_run: Vec<String>,
}

const RECIPIENTS: &str = "query($id:ID!){workerPool(id:$id){recipients{publicKey}}}";
const CREATE: &str = "mutation($environment:[EnvVarInput!]$input:StackInput!$manageState:Boolean!\
    $secrets:SealedSecretsInput$slug:String){stackCreate(input:$input,manageState:$manageState,\
    slug:$slug,environment:$environment,secrets:$secrets){id,name}}";
/// Does what `command` says.
pub async fn perform(
    command: Command,
    environment: &Environment,
    output: Output,
) -> Result<Code, Failure> {
    // Nobody has to be logged in to see what would be sent.
    let client = || Client::new(Credentials::find(environment)?);
    match command {
        Command::Create(arguments) => create(client, *arguments, environment, output).await,
        Command::List => list::list(&client()?, output).await,
        Command::Show { stack } => show::show(&client()?, &stack, output).await,
        Command::Set(arguments) => set::set(&client()?, *arguments, environment, output).await,
        Command::Lock { stack, note } => lock::lock(&client()?, &stack, note, output).await,
        Command::Unlock { stack } => lock::unlock(&client()?, &stack, output).await,
        Command::Delete { stack, yes } => delete::delete(&client()?, &stack, yes, output).await,
        Command::Upload { stack, dir, message, sending } => {
            let Some(packed) = source::prepare(&dir, &sending, output)? else {
                return Ok(Code::Done);
            };
            let client = client()?;
            let stack = find::stack(&client, &stack, Match::Prefix).await?;
            let source = source::upload(&client, &stack, packed, message.as_deref()).await?;
            let value = json!({ "stack": stack, "source": source.to_json() });
            output.answer(&value, || format!("stack {stack} has source {}", source.id))?;
            Ok(Code::Done)
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecipientsAnswer {
    worker_pool: Option<PoolRecipients>,
}

#[derive(Deserialize)]
struct PoolRecipients {
    recipients: Vec<Recipient>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recipient {
    public_key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateAnswer {
    stack_create: Named,
}

#[derive(Deserialize)]
struct Named {
    id: String,
    name: String,
}

async fn create(
    client: impl FnOnce() -> Result<Client, Failure>,
    arguments: Create,
    environment: &Environment,
    output: Output,
) -> Result<Code, Failure> {
    // All that can fail here fails before the server is changed.
    let id = stack_id(&arguments)?;
    let names = arguments.environment.iter().map(|it| it.name.as_str());
    let secrets = arguments
        .secrets
        .iter()
        .map(|secret| secret.read(environment))
        .collect::<Result<Vec<_>, _>>()?;
    variable::check_distinct(names.chain(secrets.iter().map(|it| it.name.as_str())))?;
    variable::check_total(secrets.iter().map(|it| it.value.as_str()))?;
    for line in variable::unmasked(&secrets) {
        output.note(&line);
    }
    check_project_root(&arguments)?;
    let vendor_config = arguments.tool.vendor_config(None)?;
    if arguments.own_backend && arguments.tool.is_custom() {
        return Err(Failure::usage("a custom tool has no state").next("leave --own-backend out"));
    }
    let Some(packed) = source::prepare(&arguments.source, &arguments.sending, output)? else {
        return Ok(Code::Done);
    };
    let client = &client()?;
    let pool = find::pool(client, &arguments.pool, Match::Prefix).await?;
    let bundle = SecretBundle { stack: id.to_string(), secrets };
    let sealed = if bundle.secrets.is_empty() {
        Value::Null
    } else {
        let sealed = keys::seal(&bundle, &recipients(client, &pool).await?)?;
        serde_json::to_value(sealed).or_say(|| "cannot write the sealed secrets".into())?
    };
    let variables = json!({
        "input": stack_input(&arguments, &pool, vendor_config.as_ref()),
        "manageState": !arguments.own_backend && !arguments.tool.is_custom(),
        "slug": id.as_str(),
        "secrets": sealed,
        "environment": arguments
            .environment
            .iter()
            .map(|it| json!({ "key": it.name, "value": it.value }))
            .collect::<Value>(),
    });
    let answer: CreateAnswer = client.ask(CREATE, variables).await?;
    let stack = answer.stack_create;
    let source = source::upload(client, &stack.id, packed, None).await.map_err(|failure| {
        let first = failure.next_step().map_or(String::new(), |step| format!("{step}; "));
        let again = format!("`gantry stack upload {} DIR`", stack.id);
        failure.next(format!("{first}the stack exists, so upload its source again: {again}"))
    })?;
    let value = json!({
        "id": stack.id,
        "name": stack.name,
        "pool": pool,
        "secrets": bundle.secrets.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(),
        "source": source.to_json(),
    });
    output.answer(&value, || {
        output::pairs(&[
            ("stack", output::named(&stack.name, &stack.id)),
            ("source", source.id.clone()),
            ("sealed secrets", bundle.secrets.len().to_string()),
        ]) + &format!("\nstart a run with\n  gantry run trigger {} --follow", stack.id)
    })?;
    Ok(Code::Done)
}

fn stack_id(arguments: &Create) -> Result<StackId, Failure> {
    let slug = arguments.id.clone().unwrap_or_else(|| slug(&arguments.name));
    slug.parse().map_err(|error| {
        Failure::usage("the stack needs an id of its own").because(error).next("give --id SLUG")
    })
}

/// That it is there can be seen here only.
fn check_project_root(arguments: &Create) -> Result<(), Failure> {
    let Some(root) = arguments.project_root.as_ref().filter(|root| !root.is_whole()) else {
        return Ok(());
    };
    let source = &arguments.source;
    if source.is_dir() && !source.join(root.as_str()).is_dir() {
        return Err(Failure::usage(format!("{} has no directory {root}", source.display()))
            .next("give --project-root a directory below the source"));
    }
    Ok(())
}

/// `name` as an id: other characters become one `-`.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.to_lowercase().chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(63);
    slug.trim_end_matches('-').to_owned()
}

fn stack_input(arguments: &Create, pool: &str, vendor_config: Option<&Value>) -> Value {
    let mut input = json!({
        "name": arguments.name,
        "description": arguments.description,
        "labels": arguments.labels,
        "workerPool": pool,
        "projectRoot": arguments.project_root.as_ref().map(ProjectRoot::as_str),
        "runnerImage": arguments.image,
        "autodeploy": arguments.autodeploy,
        "administrative": false,
        "branch": "main",
        "repository": "",
        "vendorConfig": vendor_config,
    });
    for (name, commands) in arguments.hooks.named() {
        input[name] = json!(commands);
    }
    input
}

impl Hooks {
    /// Each hook's commands, by the hook's name in the API.
    fn named(&self) -> [(&'static str, &[String]); 11] {
        [
            ("beforeInit", &self.before_init),
            ("afterInit", &self.after_init),
            ("beforePlan", &self.before_plan),
            ("afterPlan", &self.after_plan),
            ("beforeApply", &self.before_apply),
            ("afterApply", &self.after_apply),
            ("beforePerform", &self.before_perform),
            ("afterPerform", &self.after_perform),
            ("beforeDestroy", &self.before_destroy),
            ("afterDestroy", &self.after_destroy),
            ("afterRun", &self.after_run),
        ]
    }
}

async fn recipients(client: &Client, pool: &str) -> Result<Vec<String>, Failure> {
    let answer: RecipientsAnswer = client.ask(RECIPIENTS, json!({ "id": pool })).await?;
    let pool =
        answer.worker_pool.ok_or_else(|| find::missing("pool", pool, "see `gantry pool list`"))?;
    Ok(pool.recipients.into_iter().map(|it| it.public_key).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_makes_an_id() {
        assert_eq!(slug("Network, Prod (EU)"), "network-prod-eu");
        assert_eq!(slug("--ä--"), "");
        assert!(slug(&"a ".repeat(80)).parse::<StackId>().is_ok());
    }
}
