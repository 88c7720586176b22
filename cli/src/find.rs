//! What a person means by a stack, pool, worker, run or key: its id in any case, its name, or the
//! beginning of either that only one has.

use gantry_model::{RunId, StackId};
use serde::Deserialize;
use serde_json::json;

use crate::client::Client;
use crate::failure::{Failure, list_of};

/// A run as it is typed: its id, or the beginning of it.
#[derive(Debug, Clone)]
pub struct RunArgument(String);

impl std::str::FromStr for RunArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = text.to_ascii_uppercase();
        let is_letter = |byte: u8| {
            byte.is_ascii_digit() || byte.is_ascii_uppercase() && !b"ILOU".contains(&byte)
        };
        if (1..=26).contains(&id.len()) && id.bytes().all(is_letter) {
            return Ok(Self(id));
        }
        Err("a run's id is 26 characters of 0-9 and A-Z without I, L, O and U; their beginning is enough \
             where it is the only one"
            .into())
    }
}

/// Something that has an id and a name.
#[derive(Debug, Clone, Deserialize)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// Its name; empty if it has none.
    #[serde(default)]
    pub name: String,
}

/// How sure we have to be of what is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The beginning is enough.
    Prefix,
    /// Id or name as they are: what is done to it is not undone.
    Whole,
}

#[derive(Deserialize)]
struct StackAnswer {
    stack: Option<Named>,
}

#[derive(Deserialize)]
struct StacksAnswer {
    stacks: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PoolsAnswer {
    worker_pools: Vec<Named>,
}

#[derive(Deserialize)]
struct RunsAnswer {
    runs: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WorkersAnswer {
    worker_pool: Option<Workers>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Workers {
    known_workers: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeysAnswer {
    api_keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    id: String,
    name: String,
    deleted: bool,
}

/// The stack's id.
pub async fn stack(client: &Client, text: &str, how: Match) -> Result<String, Failure> {
    if text.parse::<StackId>().is_ok() {
        let query = "query($id:ID!){stack(id:$id){id,name}}";
        let StackAnswer { stack } = client.ask(query, json!({ "id": text })).await?;
        if let Some(stack) = stack {
            return Ok(stack.id);
        }
    }
    let StacksAnswer { stacks } = client.ask("{stacks{id,name}}", json!({})).await?;
    choose("stack", text, &stacks, how)?.ok_or_else(|| {
        missing("stack", text, "see `gantry stack list`, or make it with `gantry stack create`")
    })
}

/// The pool's id.
pub async fn pool(client: &Client, text: &str, how: Match) -> Result<String, Failure> {
    let PoolsAnswer { worker_pools } = client.ask("{workerPools{id,name}}", json!({})).await?;
    choose("pool", text, &worker_pools, how)?.ok_or_else(|| {
        missing("pool", text, "see `gantry pool list`, or make it with `gantry pool create`")
    })
}

/// The ids of a pool's workers that are meant.
pub async fn workers(
    client: &Client,
    pool: &str,
    texts: &[String],
) -> Result<Vec<String>, Failure> {
    let query = "query($id:ID!){workerPool(id:$id){knownWorkers{id}}}";
    let WorkersAnswer { worker_pool } = client.ask(query, json!({ "id": pool })).await?;
    let known = worker_pool.map(|pool| pool.known_workers).unwrap_or_default();
    let next = format!("see `gantry pool show {pool}`");
    texts
        .iter()
        .map(|text| {
            choose("worker", text, &known, Match::Prefix)?
                .ok_or_else(|| missing("worker", text, &next))
        })
        .collect()
}

/// The id of an API key that was not revoked.
pub async fn key(client: &Client, text: &str) -> Result<String, Failure> {
    let KeysAnswer { api_keys } = client.ask("{apiKeys{id,name,deleted}}", json!({})).await?;
    let keys = api_keys.into_iter().filter(|key| !key.deleted);
    let keys: Vec<_> = keys.map(|Key { id, name, .. }| Named { id, name }).collect();
    choose("API key", text, &keys, Match::Whole)?
        .ok_or_else(|| missing("API key", text, "see `gantry key list`"))
}

/// The run's id. A whole id is taken as it is: whether there is such a run shows later.
pub async fn run(client: &Client, RunArgument(text): &RunArgument) -> Result<String, Failure> {
    if text.parse::<RunId>().is_ok() {
        return Ok(text.clone());
    }
    let query = "query($prefix:String){runs(prefix:$prefix){id}}";
    let RunsAnswer { runs } = client.ask(query, json!({ "prefix": text })).await?;
    match runs.as_slice() {
        [] => Err(missing("run", text, "see `gantry run list`")),
        [one] => Ok(one.id.clone()),
        several => Err(ambiguous("run", text, several)),
    }
}

/// What is not there.
pub fn missing(kind: &str, text: &str, next: &str) -> Failure {
    let failure = Failure::new(format!("{kind} {text} not found"));
    failure.next(next.to_owned())
}

fn ambiguous(kind: &str, text: &str, several: &[Named]) -> Failure {
    let named = list_of(several.iter().map(|it| it.id.as_str()));
    Failure::new(format!("{text} can be any of several {kind}s: {named}"))
        .next("give more of the id, or all of it")
}

/// The id of the one thing that is meant, if there is any.
fn choose(kind: &str, text: &str, things: &[Named], how: Match) -> Result<Option<String>, Failure> {
    let is_id = |it: &&Named| it.id.eq_ignore_ascii_case(text);
    let is_name = |it: &&Named| it.name == text;
    let begins = |it: &&Named| {
        let starts = |whole: &str| {
            whole.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text))
        };
        how == Match::Prefix && !text.is_empty() && (starts(&it.id) || starts(&it.name))
    };
    let ways: [&dyn Fn(&&Named) -> bool; 3] = [&is_id, &is_name, &begins];
    for way in ways {
        let found: Vec<Named> = things.iter().filter(way).cloned().collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(Some(one.id.clone())),
            several => return Err(ambiguous(kind, text, several)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn things() -> Vec<Named> {
        let thing = |(id, name): (&str, &str)| Named { id: id.into(), name: name.into() };
        [("net-a", "Network"), ("net-b", "Other"), ("c", "net-a")].map(thing).into()
    }

    #[test]
    fn an_id_wins_over_a_name_and_a_name_over_a_beginning() {
        let chosen = |text| choose("stack", text, &things(), Match::Prefix).unwrap();
        assert_eq!(chosen("NET-A").as_deref(), Some("net-a"));
        assert_eq!(chosen("Network").as_deref(), Some("net-a"));
        assert_eq!(chosen("oth").as_deref(), Some("net-b"));
        assert_eq!(chosen("none"), None);
        assert_eq!(chosen(""), None);
        let said = choose("stack", "net", &things(), Match::Prefix).unwrap_err().to_string();
        assert_eq!(said, "net can be any of several stacks: net-a, net-b, c");
    }

    #[test]
    fn what_is_not_undone_needs_the_whole_word() {
        assert_eq!(choose("stack", "oth", &things(), Match::Whole).unwrap(), None);
        assert_eq!(
            choose("stack", "Other", &things(), Match::Whole).unwrap().as_deref(),
            Some("net-b")
        );
    }

    #[test]
    fn a_run_is_typed_in_any_case() {
        let RunArgument(id) = "01j5".parse().unwrap();
        assert_eq!(id, "01J5");
        for wrong in ["", "nonsense", "01J5-", &"0".repeat(27)] {
            assert!(wrong.parse::<RunArgument>().is_err(), "{wrong}");
        }
    }
}
