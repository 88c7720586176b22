//! From queued to recorded, for a stage that does nothing, against the same container by the bare Docker API.
//!
//! Ours runs a stack whose terraform only says that it began. Queued is the time in the run's ULID, granted and removed are
//! in the launcher's log, the first output is stored when its object's file was written, and the result is recorded when a
//! follower is told so. Both sides take turns, so that a slow minute of the machine meets both.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    baseline,
    docker::Docker,
    samples::{Samples, ratio, rfc3339_ms, ulid_ms},
};
use gantry_stand::REMOVED;

use crate::{
    build::{self, Profile},
    context::Context,
    engine, image,
    process::{self, each_line},
    stand::Stand,
    tools::{self, OPENSSL},
};

const IMAGE: &str = "gantry-bench:local";
const STACK: &str = "bench";
/// What `docker/bench/terraform` says.
const WORDS: &[u8] = b"began";
/// How long a line of the launcher's log may take that tells what has happened already.
const LOGGED: Duration = Duration::from_secs(30);

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
        let (times, run) = (baseline::one(&docker, &spec)?, one_run(cx, &mut stand)?);
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
            "queued_to_result_recorded": ours.recorded.to_json(),
            "queued_to_removed": ours.removed.to_json(),
        },
        "baseline": { "first_byte": bare.first.to_json(), "removed": bare.total.to_json() },
        "ratio": ratio(ours.recorded.percentile(50), bare.total.percentile(50)),
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
    recorded: Samples,
    removed: Samples,
}

impl Ours {
    fn add(&mut self, run: &Run) {
        self.granted.add(run.granted);
        self.first.add(run.first);
        self.recorded.add(run.recorded);
        self.removed.add(run.removed);
    }
}

/// Times of one run, each since it was queued.
struct Run {
    granted: Duration,
    first: Duration,
    recorded: Duration,
    removed: Duration,
}

fn build_image(cx: &Context, base: &str) -> Result<()> {
    let folder = cx.config.root.join("docker/bench");
    let mut command = Command::new("docker");
    command.args(["build", "--tag", IMAGE, "--build-arg", &format!("BASE={base}")]).arg(folder);
    process::read("docker build", Duration::from_mins(2), command.env("DOCKER_BUILDKIT", "0"))?;
    Ok(())
}

fn one_run(cx: &Context, stand: &mut Stand) -> Result<Run> {
    let (mut id, mut recorded) = (None, None);
    let mut command = stand.gantry(&["run", "trigger", STACK, "--type", "proposed", "--follow"]);
    let status = each_line(
        &cx.undo,
        "gantry run trigger",
        Duration::from_mins(2),
        &mut command,
        |_, line| {
            // The state is told as soon as it is recorded: the connection stands since the run was queued.
            if line.ends_with(" FINISHED") {
                recorded = now().ok();
            }
            id = id.take().or_else(|| line.strip_prefix("-- run ").map(str::to_owned));
        },
    )?;
    ensure!(status.success(), "a run failed: {status}{}", stand.worker()?.tail());
    let id = id.context("the command line names no run")?;
    let recorded = recorded.context("the command line tells no FINISHED")?;
    let queued = ulid_ms(&id).with_context(|| format!("{id} is no ULID"))?;
    let granted = stand
        .worker_mut()?
        .wait_for("grant of the run", LOGGED, |line| logged(line, "granted", &id))?;
    let removed = stand
        .worker_mut()?
        .wait_for("end of the run", LOGGED, |line| logged(line, REMOVED, &id))?;
    let stored = output_stored(&stand.dir.join("data/objects"), &id)?;
    let since = |ms: i64| Duration::from_millis(u64::try_from(ms - queued).unwrap_or_default());
    Ok(Run {
        granted: since(granted),
        first: since(stored),
        recorded: since(recorded),
        removed: since(removed),
    })
}

fn now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// When the launcher logged these words of a run, in milliseconds since 1970.
fn logged(line: &str, words: &str, run: &str) -> Option<i64> {
    let entry: Value = serde_json::from_str(line).ok()?;
    let is_it = entry.get("msg")?.as_str()? == words && line.contains(run);
    is_it.then(|| rfc3339_ms(entry.get("ts")?.as_str()?)).flatten()
}

/// When the segment with the words of the container was stored, in milliseconds since 1970. Earlier ones hold what the
/// launcher itself says while it prepares.
fn output_stored(objects: &Path, run: &str) -> Result<i64> {
    let mut folders: Vec<PathBuf> = vec![objects.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains(run) && contains(&fs::read(&path)?, WORDS) {
                let time = entry.metadata()?.modified()?.duration_since(UNIX_EPOCH)?;
                return Ok(i64::try_from(time.as_millis())?);
            }
        }
    }
    bail!("no log segment of run {run} below {} has what the container said", objects.display())
}

fn contains(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|window| window == words)
}
