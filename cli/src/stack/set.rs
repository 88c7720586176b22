//! `gantry stack set`: what is given changes, the rest stays.

use clap::Args;
use gantry_protocol::spec::SecretBundle;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Hooks, tool};
use crate::client::Client;
use crate::config::Environment;
use crate::failure::{Code, Explain as _, Failure};
use crate::find::{self, Match};
use crate::keys;
use crate::output::Output;
use crate::variable::{self, Clear, SecretArgument};

/// Arguments of `gantry stack set`.
#[derive(Debug, Args)]
pub struct Set {
    /// The stack's id or name
    stack: String,
    /// A new name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What the stack is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The pool whose workers run it from now on: id or name
    #[arg(long)]
    pool: Option<String>,
    /// The part of the source that the stack lives in
    #[arg(long, value_name = "PATH")]
    project_root: Option<String>,
    /// The image that its runs use; an empty one stands for the launcher's default
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Its labels, in the place of those it has; may be repeated
    #[arg(long = "label", value_name = "LABEL")]
    labels: Option<Vec<String>>,
    /// A variable in the clear to set; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<Clear>,
    /// A variable in the clear to remove; may be repeated
    #[arg(long = "unset-env", value_name = "NAME")]
    unset: Vec<String>,
    /// A secret variable, sealed on this machine: NAME=VALUE, NAME=@FILE, or NAME for the value of
    /// the environment variable. Only who has a key can open those that the stack has, so these take
    /// the place of all of them; may be repeated
    #[arg(long = "secret", value_name = "NAME[=VALUE|=@FILE]")]
    secrets: Vec<SecretArgument>,
    /// The stack's secrets may go: those that it has, in favour of those that are given here, or of none
    #[arg(long)]
    replace_secrets: bool,
    /// Whether changes are applied without a confirmation. It counts for later runs
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    autodeploy: Option<bool>,
    #[command(flatten)]
    tool: tool::Arguments,
    #[command(flatten)]
    hooks: Hooks,
    /// A hook to remove, such as before-plan; may be repeated
    #[arg(long = "clear-hook", value_name = "HOOK", value_parser = hook_name)]
    clear_hooks: Vec<String>,
}

const PRESENT: &str = "query($id:ID!){stack(id:$id){secretsVersion,workerPool{id},";
const SET: &str = "mutation($change:StackChangeInput!$id:ID!){stackSet(id:$id,change:$change){id}}";

#[derive(Deserialize)]
struct PresentAnswer {
    stack: Present,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Present {
    secrets_version: i64,
    worker_pool: Option<PoolOfStack>,
    vendor_config: tool::Tool,
}

#[derive(Deserialize)]
struct PoolOfStack {
    id: String,
}

pub(super) async fn set(
    client: &Client,
    arguments: Set,
    environment: &Environment,
    output: Output,
) -> Result<Code, Failure> {
    let secrets = arguments
        .secrets
        .iter()
        .map(|secret| secret.read(environment))
        .collect::<Result<Vec<_>, _>>()?;
    let names = arguments.environment.iter().map(|it| it.name.as_str());
    variable::check_distinct(names.chain(secrets.iter().map(|it| it.name.as_str())))?;
    variable::check_total(secrets.iter().map(|it| it.value.as_str()))?;
    for line in variable::unmasked(&secrets) {
        output.note(&line);
    }
    let id = find::stack(client, &arguments.stack, Match::Prefix).await?;
    let query = format!("{PRESENT}{}}}}}", tool::FIELDS);
    let PresentAnswer { stack: present } = client.ask(&query, json!({ "id": id })).await?;
    let pool = match &arguments.pool {
        Some(pool) => Some(find::pool(client, pool, Match::Prefix).await?),
        None => None,
    };
    let mut change = plain_changes(&arguments);
    if let Some(tool) = arguments.tool.vendor_config(Some(&present.vendor_config))? {
        change.insert("vendorConfig".into(), tool);
    }
    if let Some(pool) = &pool {
        change.insert("workerPool".into(), json!(pool));
    }
    if !secrets.is_empty() && present.secrets_version > 0 && !arguments.replace_secrets {
        return Err(Failure::usage(format!(
            "stack {id} has secrets, and those that are given take the place of all of them"
        ))
        .next("give all secrets that the stack needs, and --replace-secrets"));
    }
    if !secrets.is_empty() {
        let runs_in = pool.or(present.worker_pool.map(|pool| pool.id)).unwrap_or_default();
        let bundle = SecretBundle { stack: id.clone(), secrets };
        let sealed = keys::seal(&bundle, &super::recipients(client, &runs_in).await?)?;
        let sealed =
            serde_json::to_value(sealed).or_say(|| "cannot write the sealed secrets".into())?;
        change.insert("secrets".into(), sealed);
    } else if arguments.replace_secrets {
        change.insert("clearSecrets".into(), json!(true));
    }
    if change.is_empty() {
        return Err(Failure::usage("nothing is to change")
            .next("see `gantry stack set --help` for what can be"));
    }
    let changed: Vec<String> = change.keys().cloned().collect();
    let _set: Value = client.ask(SET, json!({ "id": id, "change": change })).await?;
    output.answer(&json!({ "id": id, "changed": changed }), || {
        format!("stack {id} is changed\n\nsee it with\n  gantry stack show {id}")
    })?;
    Ok(Code::Done)
}

/// What is given, as the API calls it, but for what has to be looked up or sealed.
fn plain_changes(arguments: &Set) -> Map<String, Value> {
    let mut change = Map::new();
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            change.insert(name.to_owned(), value);
        }
    };
    let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
    add("name", text(&arguments.name));
    add("description", text(&arguments.description));
    add("projectRoot", text(&arguments.project_root));
    add("runnerImage", text(&arguments.image));
    add("labels", arguments.labels.as_ref().map(|labels| json!(labels)));
    add("autodeploy", arguments.autodeploy.map(|it| json!(it)));
    let set: Vec<Value> = arguments
        .environment
        .iter()
        .map(|it| json!({ "key": it.name, "value": it.value }))
        .collect();
    add("setEnvironment", (!set.is_empty()).then_some(json!(set)));
    let unset = &arguments.unset;
    add("unsetEnvironment", (!unset.is_empty()).then_some(json!(unset)));
    for (name, commands) in arguments.hooks.named() {
        add(name, (!commands.is_empty()).then_some(json!(commands)));
    }
    for hook in &arguments.clear_hooks {
        add(hook, Some(json!([])));
    }
    change
}

/// A hook as the API calls it.
fn hook_name(text: &str) -> Result<String, String> {
    let hooks = Hooks::default();
    let mut names = hooks.named().map(|(name, _)| name).into_iter();
    let wanted = text.replace(['-', '_'], "").to_lowercase();
    names
        .find(|name| name.to_lowercase() == wanted)
        .map(str::to_owned)
        .ok_or_else(|| "no hook has this name; one is before-plan".to_owned())
}
