//! Everything that is fixed about a stage's container.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount as BindMount,
    MountType,
};

use crate::engine::{Mount, Spec};
use crate::limits::CONTAINERS;

/// What the worker binary needs: to become the phases' user, to end their processes, to give them the workspace.
const CAPABILITIES: [&str; 4] = ["CHOWN", "KILL", "SETGID", "SETUID"];

/// What an engine is asked for.
pub(super) fn body(spec: &Spec) -> ContainerCreateBody {
    let tmpfs = "rw,nosuid,nodev,noexec,mode=0700,size=64k".to_owned();
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        user: Some("0:0".to_owned()),
        entrypoint: Some(vec![spec.entrypoint.clone()]),
        cmd: Some(Vec::new()),
        working_dir: Some("/".to_owned()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        // The image's own would run as root beside the phases, and may be a file that they can write.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        // The image's own may be one that the worker binary does not heed.
        stop_signal: Some("SIGTERM".to_owned()),
        stop_timeout: Some(i64::try_from(spec.stop_grace.as_secs()).unwrap_or(i64::MAX)),
        host_config: Some(HostConfig {
            network_mode: Some(spec.network.clone()),
            runtime: spec.runtime.clone(),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            memory: spec.limits.memory.map(signed),
            // The same as memory: nothing of it is swapped out, where the kernel can tell.
            memory_swap: spec.limits.memory.map(signed),
            nano_cpus: spec.limits.nano_cpus.map(signed),
            pids_limit: spec.limits.processes.map(signed),
            shm_size: Some(signed(spec.limits.shared_memory)),
            oom_score_adj: Some(CONTAINERS),
            group_add: Some(spec.groups.iter().map(ToString::to_string).collect()),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            tmpfs: Some(HashMap::from([("/gantry".to_owned(), tmpfs)])),
            mounts: Some(spec.mounts.iter().map(bind).collect()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

fn bind(mount: &Mount) -> BindMount {
    BindMount {
        typ: Some(MountType::BIND),
        source: Some(mount.source.to_string_lossy().into_owned()),
        target: Some(mount.target.clone()),
        read_only: Some(mount.is_read_only),
        ..BindMount::default()
    }
}
