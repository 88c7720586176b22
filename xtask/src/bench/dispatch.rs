//! From queued to recorded, for a stage that does nothing, against the same container by the bare Docker API.
//!
//! Ours runs a stack whose terraform only says that it began. Its times are the control plane's own: the run's history,
//! and the instant at which the file of the first log segment was made. Both sides take turns, so that a slow minute of
//! the machine meets both.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{
    baseline,
    docker::Docker,
    samples::{Samples, ratio, rfc3339_ms},
};
use crate::{
    build::{self, Profile},
    context::Context,
    engine, image, process,
    stand::Stand,
    tools::{self, OPENSSL},
};

const IMAGE: &str = "gantry-bench:local";
const STACK: &str = "bench";

/// Measures both sides.
pub fn run(cx: &Context, runs: u32) -> Result<Value> {
    cx.say.step("Docker engine and images", "");
    engine::ensure(cx)?;
    let runner = image::ensure(cx)?;
    build_image(cx, &runner)?;
    let network = engine::network(cx, &runner)?;
    tools::ensure(cx, &[&OPENSSL])?;
    cx.say.step("Programs", "as they are shipped");
    let programs = build::programs(cx, Profile::Release)?;
    cx.say.step("Server, pool, launcher and stack", "");
    let mut stand = Stand::start(cx, &programs, IMAGE)?;
    stand.make_key(cx)?;
    stand.create_pool(cx, "bench")?;
    stand.start_launcher(cx, IMAGE, network)?;
    let source = stand.dir.join("source");
    fs::create_dir(&source)?;
    fs::write(source.join("main.tf"), "# nothing\n")?;
    stand.say(
        cx,
        &["stack", "create", STACK, "--pool", "bench", "--source", &source.to_string_lossy()],
    )?;

    cx.say.step(
        "Measuring",
        &format!("{runs} runs of ours and {runs} containers of the baseline, in turns"),
    );
    let docker = Docker::new(cx.config.docker_host.as_deref())?;
    let spec = baseline::spec(IMAGE, network, &source);
    let (mut ours, mut bare) = (Ours::default(), Bare::default());
    // The first of each warms caches and does not count.
    for number in 0..=runs {
        let (times, run) = (baseline::one(&docker, &spec)?, one_run(&stand)?);
        if number > 0 {
            bare.first.add(times.first);
            bare.total.add(times.total);
            ours.add(&run);
        }
    }
    Ok(json!({
        "bench": "dispatch",
        "ours": {
            "queued_to_granted": ours.granted.to_json(),
            "queued_to_first_output_stored": ours.first.to_json(),
            "queued_to_result_recorded": ours.total.to_json(),
        },
        "baseline": { "first_byte": bare.first.to_json(), "removed": bare.total.to_json() },
        "ratio": ratio(ours.total.percentile(50), bare.total.percentile(50)),
        "ratio_first_output": ratio(ours.first.percentile(50), bare.first.percentile(50)),
        "goal": 1.25,
    }))
}

#[derive(Default)]
struct Bare {
    first: Samples,
    total: Samples,
}

#[derive(Default)]
struct Ours {
    granted: Samples,
    first: Samples,
    total: Samples,
}

impl Ours {
    fn add(&mut self, run: &Run) {
        self.granted.add(run.granted);
        self.first.add(run.first);
        self.total.add(run.total);
    }
}

/// Times of one run, each since it was queued.
struct Run {
    granted: Duration,
    first: Duration,
    total: Duration,
}

fn build_image(cx: &Context, base: &str) -> Result<()> {
    let folder = cx.config.root.join("docker/bench");
    let mut command = Command::new("docker");
    command.args(["build", "--tag", IMAGE, "--build-arg", &format!("BASE={base}")]).arg(folder);
    process::read("docker build", Duration::from_mins(2), command.env("DOCKER_BUILDKIT", "0"))?;
    Ok(())
}

fn one_run(stand: &Stand) -> Result<Run> {
    let made = stand.ask(&["run", "trigger", STACK, "--type", "proposed"])?;
    let id = made.get("id").and_then(Value::as_str).context("the trigger gave no id")?;
    process::read(
        "gantry run logs",
        Duration::from_mins(2),
        &mut stand.gantry(&["run", "logs", id, "--follow"]),
    )?;
    let shown = stand.ask(&["run", "show", id])?;
    let (queued, ended) = (at(&shown, "QUEUED")?, at(&shown, "FINISHED")?);
    let stored = first_segment(&stand.dir.join("data/objects"), id)?;
    let since = |ms: i64| Duration::from_millis(u64::try_from(ms - queued).unwrap_or_default());
    Ok(Run { granted: since(at(&shown, "PREPARING")?), first: since(stored), total: since(ended) })
}

/// When the run came into a state, in milliseconds since 1970.
fn at(run: &Value, state: &str) -> Result<i64> {
    let history = run.get("history").and_then(Value::as_array).context("the run has no history")?;
    let entry =
        history.iter().find(|entry| entry.get("state").and_then(Value::as_str) == Some(state));
    let time = entry.and_then(|entry| rfc3339_ms(entry.get("at")?.as_str()?));
    time.with_context(|| format!("the run was never {state}: {run}"))
}

/// When the first log segment of a run was stored, in milliseconds since 1970.
fn first_segment(objects: &Path, run: &str) -> Result<i64> {
    let mut first: Option<i64> = None;
    let mut folders: Vec<PathBuf> = vec![objects.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains(&format!("log/{run}/")) {
                let time = entry.metadata()?.modified()?.duration_since(UNIX_EPOCH)?;
                let time = i64::try_from(time.as_millis())?;
                first = Some(first.map_or(time, |first| first.min(time)));
            }
        }
    }
    match first {
        Some(time) => Ok(time),
        None => bail!("no log segment of run {run} below {}", objects.display()),
    }
}
