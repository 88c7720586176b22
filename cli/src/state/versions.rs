//! Which versions of its state a stack has.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::output::{self, Output};
use crate::run::stack_not_found;

const LIST: &str = "query($stack:ID!){stack(id:$stack){stateVersions{id,serial,lineage,run,epoch,createdAt,\
    size,payloadSha256,current,orphaned,pushedBy}}}";

#[derive(Deserialize)]
struct ListAnswer {
    stack: Option<Versions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    state_versions: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    /// Its id.
    pub(super) id: String,
    /// Terraform's serial.
    pub(super) serial: u64,
    lineage: String,
    run: String,
    epoch: i64,
    created_at: i64,
    size: u64,
    payload_sha256: String,
    /// Whether the next run begins with it.
    pub(super) current: bool,
    /// Why it is no version of the line.
    orphaned: Option<String>,
    /// Who pushed it, if it is no run's.
    #[serde(default)]
    pushed_by: Option<String>,
}

impl Listed {
    fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "serial": self.serial,
            "lineage": self.lineage,
            "run": self.run,
            "epoch": self.epoch,
            "created": output::time(self.created_at),
            "size": self.size,
            "payload_sha256": self.payload_sha256,
            "current": self.current,
            "orphaned": self.orphaned,
            "pushed_by": self.pushed_by,
        })
    }

    fn row(&self) -> [String; 6] {
        let note = match (&self.orphaned, self.current) {
            (Some(why), _) => format!("orphaned: {why}"),
            (None, true) => "current".into(),
            (None, false) => String::new(),
        };
        let serial = self.serial.to_string();
        let id = self.id.clone();
        let run = match &self.pushed_by {
            Some(by) => format!("pushed by {by}"),
            None => self.run.clone(),
        };
        [serial, id, run, output::time(self.created_at), self.size.to_string(), note]
    }
}

/// Lists them, newest first.
pub(super) async fn list(client: &Client, stack: &str, output: Output) -> Result<Code, Failure> {
    let versions = all(client, stack).await?;
    let values: Vec<Value> = versions.iter().map(Listed::to_json).collect();
    output.answer(&values, || {
        let rows: Vec<_> = versions.iter().map(Listed::row).collect();
        let none = "no state yet: a run that applies makes the first version";
        output::table(["SERIAL", "ID", "RUN", "CREATED", "BYTES", "NOTE"], &rows, none)
    })?;
    Ok(Code::Done)
}

async fn all(client: &Client, stack: &str) -> Result<Vec<Listed>, Failure> {
    let answer: ListAnswer = client.ask(LIST, json!({ "stack": stack })).await?;
    Ok(answer.stack.ok_or_else(|| stack_not_found(stack))?.state_versions)
}

/// The version that `wanted` names: by serial, or by the beginning of its id.
pub(super) async fn find(client: &Client, stack: &str, wanted: &str) -> Result<Listed, Failure> {
    choose(all(client, stack).await?, stack, wanted)
}

fn choose(versions: Vec<Listed>, stack: &str, wanted: &str) -> Result<Listed, Failure> {
    let see = format!("see `gantry state list {stack}`");
    let id = wanted.to_uppercase();
    let is_serial = |it: &Listed| it.orphaned.is_none() && wanted == it.serial.to_string();
    let is_id = |it: &Listed| id.len() >= 4 && it.id.starts_with(&id);
    let (mut named, others): (Vec<_>, Vec<_>) = versions.into_iter().partition(is_serial);
    if named.is_empty() {
        named = others.into_iter().filter(is_id).collect();
    }
    let Some(version) = named.pop() else {
        return Err(Failure::new(format!("stack {stack} has no state {wanted}")).next(see));
    };
    if named.is_empty() {
        return Ok(version);
    }
    let ids = named.iter().chain([&version]).map(|it| it.id.as_str()).collect::<Vec<_>>();
    Err(Failure::usage(format!("{wanted} names {} versions of the state", ids.len()))
        .next(format!("give one of their ids: {}", ids.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(id: &str, serial: u64, orphaned: Option<&str>) -> Listed {
        serde_json::from_value(json!({
            "id": id, "serial": serial, "lineage": "l", "run": "r", "epoch": 1, "createdAt": 0, "size": 1,
            "payloadSha256": "", "current": false, "orphaned": orphaned,
        }))
        .unwrap()
    }

    #[test]
    fn a_version_is_named_by_serial_or_by_the_beginning_of_its_id() {
        let versions = || {
            let late = Some("it came late");
            vec![
                version("01KB2222AAAA", 2, None),
                version("01KB1111BBBB", 2, None),
                version("01KB1111AAAA", 1, None),
                version("01KA3333AAAA", 1, late),
            ]
        };
        let chosen = |wanted: &str| choose(versions(), "net", wanted).map(|it| it.id);
        assert_eq!(
            chosen("1").unwrap(),
            "01KB1111AAAA",
            "an orphaned one has no serial of its own"
        );
        assert_eq!(chosen("01ka").unwrap(), "01KA3333AAAA");
        let twice = chosen("2").unwrap_err();
        assert!(twice.next_step().unwrap().contains("01KB2222AAAA"), "{twice}");
        for none in ["3", "01K", "01KC", ""] {
            let missing = chosen(none).unwrap_err();
            assert_eq!(missing.next_step(), Some("see `gantry state list net`"), "{none}");
        }
    }
}
