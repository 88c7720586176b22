//! A pool's workers: drained, taken back, cycled.

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::find::{self, Match};
use crate::output::Output;

/// Arguments of `gantry pool drain` and `undrain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// The pool's id or name
    pool: String,
    /// The workers' ids
    #[arg(required_unless_present = "all", value_name = "WORKER")]
    workers: Vec<String>,
    /// All workers that are known now, those that are away included
    #[arg(long, conflicts_with = "workers")]
    all: bool,
}

const WORKERS: &str = "query($id:ID!){workerPool(id:$id){knownWorkers{id}}}";
const DRAIN: &str = "mutation($drain:Boolean!$workerId:ID!$workerPoolId:ID!){workerDrainSet(workerPool:$workerPoolId,\
    id:$workerId,drain:$drain){id,busy,drained}}";
const CYCLE: &str = "mutation($force:Boolean$id:ID!){workerPoolCycle(id:$id,force:$force)}";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DrainAnswer {
    worker_drain_set: Told,
}

#[derive(Deserialize)]
struct Told {
    id: String,
    busy: bool,
    drained: bool,
}

pub(super) async fn drain(
    client: &Client,
    arguments: Drain,
    is_drained: bool,
    output: Output,
) -> Result<Code, Failure> {
    let pool = find::pool(client, &arguments.pool, Match::Prefix).await?;
    let workers = if arguments.all {
        let answer: Value = client.ask(WORKERS, json!({ "id": pool })).await?;
        let known = answer["workerPool"]["knownWorkers"].as_array().cloned().unwrap_or_default();
        known.iter().filter_map(|worker| worker["id"].as_str().map(str::to_owned)).collect()
    } else {
        find::workers(client, &pool, &arguments.workers).await?
    };
    let mut told = Vec::new();
    for worker in workers {
        let variables = json!({ "workerPoolId": pool, "workerId": worker, "drain": is_drained });
        let answer: DrainAnswer = client.ask(DRAIN, variables).await?;
        told.push(answer.worker_drain_set);
    }
    let to_json = |it: &Told| json!({ "id": it.id, "busy": it.busy, "drained": it.drained });
    let values: Vec<Value> = told.iter().map(to_json).collect();
    output.answer(&values, || {
        let lines: Vec<String> = told.iter().map(Told::line).collect();
        if lines.is_empty() { "the pool has no workers".to_owned() } else { lines.join("\n") }
    })?;
    Ok(Code::Done)
}

impl Told {
    fn line(&self) -> String {
        match (self.drained, self.busy) {
            (true, true) => format!("worker {} finishes its run and takes no new ones", self.id),
            (true, false) => format!("worker {} takes no new runs", self.id),
            (false, _) => format!("worker {} takes runs", self.id),
        }
    }
}

pub(super) async fn cycle(
    client: &Client,
    pool: &str,
    force: bool,
    output: Output,
) -> Result<Code, Failure> {
    let id = find::pool(client, pool, Match::Prefix).await?;
    let _told: Value = client.ask(CYCLE, json!({ "id": id, "force": force })).await?;
    output.answer(&json!({ "id": id, "force": force }), || {
        let applies = if force { "what applies is interrupted" } else { "what applies is finished first" };
        format!(
            "the workers of pool {pool} leave, to be started afresh by their hosts: {applies}, what plans begins anew elsewhere"
        )
    })?;
    Ok(Code::Done)
}
