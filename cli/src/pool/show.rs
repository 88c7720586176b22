//! `gantry pool list` and `show`: pools, and all workers that are known of them.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::find::{self, Match};
use crate::output::{self, Output};

const LIST: &str =
    "{workerPools{id,name,description,labels,createdAt,pendingRuns,busyWorkers,workersCount}}";
const SHOW: &str = "query($id:ID!){workerPool(id:$id){id,name,description,labels,createdAt,pendingRuns,\
    busyWorkers,workersCount,knownWorkers{id,busy,drained,status,connected,healthy,note,run,version,createdAt,\
    availableAt,heardAt,metadata},recipients{kind,fingerprint}}}";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListAnswer {
    worker_pools: Vec<Pool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ShowAnswer {
    worker_pool: Option<Pool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pool {
    id: String,
    name: String,
    description: Option<String>,
    labels: Vec<String>,
    created_at: i64,
    pending_runs: i64,
    busy_workers: i64,
    workers_count: i64,
    #[serde(default)]
    known_workers: Vec<Worker>,
    #[serde(default)]
    recipients: Vec<Recipient>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "four facts that do not depend on each other")]
struct Worker {
    id: String,
    busy: bool,
    drained: bool,
    status: String,
    connected: bool,
    healthy: bool,
    note: Option<String>,
    run: Option<String>,
    version: String,
    created_at: i64,
    available_at: Option<i64>,
    heard_at: i64,
    metadata: String,
}

#[derive(Deserialize)]
struct Recipient {
    kind: String,
    fingerprint: String,
}

impl Pool {
    fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "labels": self.labels,
            "created": output::time(self.created_at),
            "pending_runs": self.pending_runs,
            "busy_workers": self.busy_workers,
            "workers_count": self.workers_count,
        })
    }

    fn to_text(&self) -> String {
        let mut about = vec![
            ("pool", self.name.clone()),
            ("id", self.id.clone()),
            ("created", output::time(self.created_at)),
            ("pending runs", self.pending_runs.to_string()),
        ];
        if let Some(description) = self.description.as_ref().filter(|it| !it.is_empty()) {
            about.push(("description", description.clone()));
        }
        if !self.labels.is_empty() {
            about.push(("labels", self.labels.join(", ")));
        }
        for recipient in &self.recipients {
            about.push((
                "sealed to",
                format!("{} {}", recipient.kind.to_lowercase(), recipient.fingerprint),
            ));
        }
        let rows: Vec<_> = self.known_workers.iter().map(Worker::row).collect();
        let none = "no workers yet: start a `gantry-launcher` with the pool's token and key";
        let head = ["WORKER", "STATUS", "RUN", "LAST HEARD", "VERSION", "HEALTH", "METADATA"];
        format!("{}\n{}", output::pairs(&about), output::table(head, &rows, none))
    }
}

impl Worker {
    fn metadata(&self) -> serde_json::Map<String, Value> {
        serde_json::from_str(&self.metadata).unwrap_or_default()
    }

    fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "status": self.status,
            "connected": self.connected,
            "busy": self.busy,
            "drained": self.drained,
            "healthy": self.healthy,
            "note": self.note,
            "run": self.run,
            "version": self.version,
            "created": output::time(self.created_at),
            "available": self.available_at.map(output::time),
            "heard": output::time(self.heard_at),
            "metadata": self.metadata(),
        })
    }

    fn row(&self) -> [String; 7] {
        let status = if self.connected { self.status.as_str() } else { "AWAY" };
        let health = match (&self.note, self.healthy) {
            (Some(note), false) => format!("unhealthy: {note}"),
            (None, false) => "unhealthy".to_owned(),
            (Some(note), true) => note.clone(),
            (None, true) => String::new(),
        };
        let metadata = self.metadata().into_iter().map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{name}={value}")
        });
        [
            self.id.clone(),
            status.to_owned(),
            self.run.clone().unwrap_or_default(),
            output::time(self.heard_at),
            self.version.clone(),
            health,
            metadata.collect::<Vec<_>>().join(" "),
        ]
    }
}

pub(super) async fn list(client: &Client, output: Output) -> Result<Code, Failure> {
    let ListAnswer { worker_pools: pools } = client.ask(LIST, json!({})).await?;
    let values: Vec<Value> = pools.iter().map(Pool::to_json).collect();
    output.answer(&values, || {
        let rows: Vec<_> = pools
            .iter()
            .map(|pool| {
                let number = |it: i64| it.to_string();
                [
                    pool.id.clone(),
                    pool.name.clone(),
                    number(pool.workers_count),
                    number(pool.busy_workers),
                    number(pool.pending_runs),
                ]
            })
            .collect();
        let none = "no pools yet: make one with `gantry pool create NAME`";
        output::table(["ID", "NAME", "WORKERS", "BUSY", "PENDING RUNS"], &rows, none)
    })?;
    Ok(Code::Done)
}

pub(super) async fn show(client: &Client, pool: &str, output: Output) -> Result<Code, Failure> {
    let id = find::pool(client, pool, Match::Prefix).await?;
    let answer: ShowAnswer = client.ask(SHOW, json!({ "id": id })).await?;
    let pool =
        answer.worker_pool.ok_or_else(|| find::missing("pool", &id, "see `gantry pool list`"))?;
    let mut value = pool.to_json();
    value["workers"] = pool.known_workers.iter().map(Worker::to_json).collect();
    value["recipients"] = pool
        .recipients
        .iter()
        .map(|it| json!({ "kind": it.kind, "fingerprint": it.fingerprint }))
        .collect();
    output.answer(&value, || pool.to_text())?;
    Ok(Code::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_away_says_so_with_its_run() {
        let answer = json!({
            "id": "01W", "busy": true, "drained": false, "status": "BUSY", "connected": false,
            "healthy": false, "note": "Docker does not answer", "run": "01R", "version": "0.1.0",
            "createdAt": 1, "availableAt": null, "heardAt": 2, "metadata": "{\"zone\":\"a\"}",
        });
        let worker: Worker = serde_json::from_value(answer).unwrap();
        let row = worker.row();
        let expected = [
            "01W",
            "AWAY",
            "01R",
            "1970-01-01T00:00:02Z",
            "0.1.0",
            "unhealthy: Docker does not answer",
            "zone=a",
        ];
        assert_eq!(row, expected);
        assert_eq!(worker.to_json()["metadata"], json!({ "zone": "a" }));
    }
}
