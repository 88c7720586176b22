//! From queued to recorded, for a stage that does nothing, against the same container by the bare Docker API.

use std::{
    io::Read,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{
    docker::Docker,
    samples::{Samples, ratio},
};
use crate::{context::Context, engine, image};

/// Measures both sides.
pub fn run(cx: &Context, runs: u32) -> Result<Value> {
    cx.say.step("Docker engine and runner image", "");
    engine::ensure(cx)?;
    let image = image::ensure(cx)?;
    let network = engine::network(cx, &image)?;
    cx.say.step("Baseline", &format!("{runs} containers by the bare Docker API"));
    let baseline = baseline(cx, runs, &image, network)?;
    Ok(json!({
        "bench": "dispatch",
        "baseline": { "first_byte": baseline.first.to_json(), "total": baseline.total.to_json() },
        "ratio": ratio(baseline.total.percentile(50), baseline.total.percentile(50)),
    }))
}

/// From the beginning to the first output, and to the end.
#[derive(Default)]
struct Times {
    first: Samples,
    total: Samples,
}

fn baseline(cx: &Context, runs: u32, image: &str, network: &str) -> Result<Times> {
    let docker = Docker::new(cx.config.docker_host.as_deref())?;
    let folder = tempfile::Builder::new().prefix("gantry-bench-").tempdir()?;
    let mut times = Times::default();
    // The first one warms caches on both sides and does not count.
    for number in 0..=runs {
        let spec = spec(image, network, &folder.path().to_string_lossy());
        let (first, total) = one(&docker, &spec)?;
        if number > 0 {
            times.first.add(first);
            times.total.add(total);
        }
    }
    Ok(times)
}

/// The options of a stage's container.
fn spec(image: &str, network: &str, folder: &str) -> Value {
    json!({
        "Image": image,
        "User": "0:0",
        "Entrypoint": ["sh", "-c", "echo began; true"],
        "AttachStdout": true,
        "AttachStderr": true,
        "HostConfig": {
            "NetworkMode": network,
            "LogConfig": { "Type": "none" },
            "CapDrop": ["ALL"],
            "CapAdd": ["SETUID", "SETGID", "KILL", "CHOWN"],
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": 4096,
            "Tmpfs": { "/gantry": "rw,mode=0700" },
            "Binds": [format!("{folder}:/gantry/spool"), format!("{folder}:/mnt/workspace")],
        },
    })
}

fn one(docker: &Docker, spec: &Value) -> Result<(Duration, Duration)> {
    let began = Instant::now();
    let made = docker.call("POST", "/containers/create", Some(spec))?;
    let id = made.get("Id").and_then(Value::as_str).context("create gave no id")?;
    let mut output = docker.attach(id)?;
    let waiter = {
        let (docker, path) = (docker.clone(), format!("/containers/{id}/wait?condition=next-exit"));
        thread::spawn(move || docker.call("POST", &path, None))
    };
    docker.call("POST", &format!("/containers/{id}/start"), None)?;
    output.read_exact(&mut [0]).context("the container wrote nothing")?;
    let first = began.elapsed();
    let Ok(ended) = waiter.join() else { bail!("the waiter panicked") };
    let code = ended?.get("StatusCode").and_then(Value::as_i64);
    docker.call("DELETE", &format!("/containers/{id}?v=1&force=1"), None)?;
    if code != Some(0) {
        bail!("the container ended with {code:?}");
    }
    Ok((first, began.elapsed()))
}
