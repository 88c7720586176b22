//! `gantry stack show`: what is set of a stack, and how it stands.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Named, tool};
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::find::{self, Match};
use crate::output::{self, Output};
use crate::source::Source;

const SHOW: &str = "query($id:ID!){stack(id:$id){id,name,description,state,labels,autodeploy,createdAt,updatedAt,lockedBy,\
    lockedAt,lockNote,projectRoot,runnerImage,managesStateFile,secretsVersion,environment{key,value},workerPool{id,name},\
    source{id,sha256,size,author,message,createdAt},beforeInit,afterInit,beforePlan,afterPlan,beforeApply,afterApply,beforePerform,afterPerform,beforeDestroy,afterDestroy,afterRun,";

/// The hooks, as the API and as the command line call them.
const HOOKS: [(&str, &str); 11] = [
    ("beforeInit", "before-init"),
    ("afterInit", "after-init"),
    ("beforePlan", "before-plan"),
    ("afterPlan", "after-plan"),
    ("beforeApply", "before-apply"),
    ("afterApply", "after-apply"),
    ("beforePerform", "before-perform"),
    ("afterPerform", "after-perform"),
    ("beforeDestroy", "before-destroy"),
    ("afterDestroy", "after-destroy"),
    ("afterRun", "after-run"),
];

#[derive(Deserialize)]
struct Answer {
    stack: Option<Stack>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stack {
    id: String,
    name: String,
    description: Option<String>,
    state: String,
    labels: Vec<String>,
    autodeploy: bool,
    created_at: i64,
    updated_at: i64,
    locked_by: Option<String>,
    locked_at: Option<i64>,
    lock_note: Option<String>,
    project_root: Option<String>,
    runner_image: Option<String>,
    manages_state_file: bool,
    secrets_version: i64,
    environment: Vec<Variable>,
    worker_pool: Option<Named>,
    source: Option<Source>,
    vendor_config: tool::Tool,
    /// The hooks.
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
struct Variable {
    key: String,
    value: String,
}

impl Stack {
    /// The commands of each hook that has any.
    fn hooks(&self) -> Vec<(&'static str, Vec<&str>)> {
        let commands = |name: &str| -> Vec<&str> {
            let list = self.rest.get(name).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let all = HOOKS.map(|(name, shown)| (shown, commands(name)));
        all.into_iter().filter(|(_, commands)| !commands.is_empty()).collect()
    }

    fn to_json(&self) -> Value {
        let environment: serde_json::Map<String, Value> =
            self.environment.iter().map(|it| (it.key.clone(), it.value.clone().into())).collect();
        let hooks: serde_json::Map<String, Value> = self
            .hooks()
            .into_iter()
            .map(|(name, commands)| (name.replace('-', "_"), json!(commands)))
            .collect();
        json!({
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "state": self.state,
            "labels": self.labels,
            "autodeploy": self.autodeploy,
            "created": output::time(self.created_at),
            "updated": output::time(self.updated_at),
            "locked_by": self.locked_by,
            "locked": self.locked_at.map(output::time),
            "lock_note": self.lock_note,
            "project_root": self.project_root,
            "image": self.runner_image,
            "tool": self.vendor_config.to_json(),
            "keeps_state": self.manages_state_file,
            "secrets_version": self.secrets_version,
            "environment": environment,
            "hooks": hooks,
            "pool": self.worker_pool.as_ref().map(|pool| &pool.id),
            "source": self.source.as_ref().map(Source::to_json),
        })
    }

    fn to_text(&self) -> String {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let mut about = vec![("stack", output::named(&self.name, &self.id))];
        let mut add = |name, value: Option<String>| about.extend(value.map(|value| (name, value)));
        add("description", given(&self.description));
        add("state", Some(self.state.clone()));
        add(
            "locked by",
            self.locked_by.as_ref().map(|by| match given(&self.lock_note) {
                Some(note) => format!("{by}: {note}"),
                None => by.clone(),
            }),
        );
        add("pool", self.worker_pool.as_ref().map(|pool| output::named(&pool.name, &pool.id)));
        add("image", Some(given(&self.runner_image).unwrap_or("the launcher's default".into())));
        add("project root", given(&self.project_root));
        add("autodeploy", Some(if self.autodeploy { "yes" } else { "no" }.into()));
        let backend = if self.manages_state_file {
            "kept here, sealed"
        } else {
            "in the source's own backend"
        };
        add("tool", Some(self.vendor_config.describe()));
        add("Terraform state", self.vendor_config.has_state().then(|| backend.into()));
        add("labels", Some(self.labels.join(", ")).filter(|labels| !labels.is_empty()));
        add(
            "source",
            self.source.as_ref().map(|source| {
                format!("{}, {} bytes, {}", source.id, source.size, output::time(source.created_at))
            }),
        );
        let secrets = match self.secrets_version {
            0 => "none".to_owned(),
            version => format!("sealed, version {version}"),
        };
        add("secrets", Some(secrets));
        add("created", Some(output::time(self.created_at)));
        let mut text = output::pairs(&about);
        if !self.environment.is_empty() {
            let rows: Vec<_> =
                self.environment.iter().map(|it| [it.key.clone(), it.value.clone()]).collect();
            text = text + "\n" + &output::table(["VARIABLE", "VALUE"], &rows, "");
        }
        let commands = self.vendor_config.commands();
        if !commands.is_empty() {
            text = text + "\n" + &output::table(["PHASE", "COMMAND"], &commands, "");
        }
        let hooks = self.hooks();
        if !hooks.is_empty() {
            let rows: Vec<_> = hooks
                .iter()
                .flat_map(|(name, commands)| {
                    commands.iter().map(|command| [(*name).to_owned(), (*command).to_owned()])
                })
                .collect();
            text = text + "\n" + &output::table(["HOOK", "COMMAND"], &rows, "");
        }
        text
    }
}

pub(super) async fn show(client: &Client, stack: &str, output: Output) -> Result<Code, Failure> {
    let id = find::stack(client, stack, Match::Prefix).await?;
    let answer: Answer =
        client.ask(&format!("{SHOW}{}}}}}", tool::FIELDS), json!({ "id": id })).await?;
    let stack =
        answer.stack.ok_or_else(|| find::missing("stack", &id, "see `gantry stack list`"))?;
    output.answer(&stack.to_json(), || stack.to_text())?;
    Ok(Code::Done)
}
