//! The container of a stage, driven by nothing but the bare Docker API.

use std::{
    io::Read,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::docker::Docker;

/// Times of one container, each from the beginning.
pub struct Times {
    /// Until its first output arrived.
    pub first: Duration,
    /// Until it was removed.
    pub total: Duration,
}

/// Creates, starts, reads the first byte, waits and removes.
pub fn one(docker: &Docker, spec: &Value) -> Result<Times> {
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
    Ok(Times { first, total: began.elapsed() })
}

/// The options of a stage's container, as `launcher/src/engine/docker/body.rs` sets them.
pub fn spec(image: &str, network: &str, folder: &Path) -> Value {
    let bind = |target: &str, read_only: bool| json!({ "Type": "bind", "Source": folder, "Target": target, "ReadOnly": read_only });
    json!({
        "Image": image,
        "User": "0:0",
        "Entrypoint": ["/bin/sh"],
        "Cmd": ["-c", "echo began; true"],
        "WorkingDir": "/",
        "Labels": { "gantry.bench": "baseline" },
        "HostConfig": {
            "NetworkMode": network,
            "CapDrop": ["ALL"],
            "CapAdd": ["CHOWN", "KILL", "SETGID", "SETUID"],
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": 4096,
            "Memory": 1_u64 << 30,
            "MemorySwap": 1_u64 << 30,
            "NanoCpus": 900_000_000,
            "ShmSize": 64 << 20,
            "OomScoreAdj": 500,
            "LogConfig": { "Type": "none" },
            "Tmpfs": { "/gantry": "rw,nosuid,nodev,noexec,mode=0700,size=64k" },
            "Mounts": [
                bind("/gantry/bin", true),
                bind("/gantry/spool", false),
                bind("/gantry/secrets", false),
                bind("/mnt/workspace", false),
            ],
        },
    })
}
