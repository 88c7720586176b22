//! A launcher that waits for work: memory, time to register, size of its binary.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::samples::Samples;
use crate::{
    build::{self, Profile},
    context::Context,
    engine, image,
    stand::Stand,
    tools::{self, OPENSSL},
};

/// What a waiting gitlab-runner 14.7 holds, as measured for the design: the baseline.
const GITLAB_RUNNER_RESIDENT: u64 = 38 * 1024 * 1024;

/// Measures ours. The baseline is another program's figure, told beside it.
pub fn run(cx: &Context, runs: u32) -> Result<Value> {
    cx.say.step("Docker engine and runner image", "");
    engine::ensure(cx)?;
    let image = image::ensure(cx)?;
    tools::ensure(cx, &[&OPENSSL])?;
    cx.say.step("Programs", "as they are shipped");
    let programs = build::programs(cx, Profile::Release)?;
    cx.say.step("Server and pool", "");
    let mut stand = Stand::start(cx, &programs, &image)?;
    stand.make_key(cx)?;
    stand.create_pool(cx, "idle")?;
    cx.say.step("Launcher", &format!("started {runs} times over each transport"));
    let mut idle = [Idle::new("mqtt"), Idle::new("poll")];
    // In turns, so that whatever else this host does falls to both.
    for _ in 0..runs {
        for of in &mut idle {
            of.measure(cx, &mut stand, &image)?;
        }
    }
    let binary = fs::metadata(&programs.launcher)?.len();
    let [mqtt, poll] = idle.map(Idle::sum_up);
    let micros = Duration::from_micros;
    let resident = mqtt.resident;
    Ok(json!({
        "bench": "idle",
        "ours": {
            "resident_bytes": resident,
            "anonymous_bytes": mqtt.anonymous,
            "start_to_registered": mqtt.registered,
            "binary_bytes": binary,
        },
        "poll": {
            "resident_bytes": poll.resident,
            "anonymous_bytes": poll.anonymous,
            "start_to_registered": poll.registered,
            "ratio_to_mqtt": super::samples::ratio(micros(poll.resident), micros(resident)),
        },
        "baseline": { "what": "gitlab-runner 14.7, waiting", "resident_bytes": GITLAB_RUNNER_RESIDENT },
        "ratio": super::samples::ratio(Duration::from_micros(resident), Duration::from_micros(GITLAB_RUNNER_RESIDENT)),
    }))
}

/// What was measured over one transport.
struct Idle {
    transport: &'static str,
    registered: Samples,
    resident: Vec<u64>,
    anonymous: Vec<u64>,
}

/// What became of it.
struct Summary {
    registered: Value,
    resident: u64,
    anonymous: u64,
}

impl Idle {
    fn new(transport: &'static str) -> Self {
        let registered = Samples::default();
        Self { transport, registered, resident: Vec::new(), anonymous: Vec::new() }
    }

    fn measure(&mut self, cx: &Context, stand: &mut Stand, image: &str) -> Result<()> {
        let took = stand.start_launcher_over(self.transport, cx, image, "bridge")?;
        self.registered.add(took);
        let process = stand.worker()?.process();
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid()))?;
        self.resident.push(field(&rollup, "Rss:")?);
        self.anonymous.push(field(&rollup, "Anonymous:")?);
        process.stop(Duration::from_secs(20))?;
        Ok(())
    }

    fn sum_up(self) -> Summary {
        let Self { registered, resident, anonymous, .. } = self;
        let registered = registered.to_json();
        Summary { registered, resident: median(resident), anonymous: median(anonymous) }
    }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A line of `smaps_rollup`, in bytes.
fn field(rollup: &str, name: &str) -> Result<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kilobytes.with_context(|| format!("smaps_rollup has no {name}"))? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaps_rollup_is_read_in_bytes() {
        let rollup =
            "00400000-7ff [rollup]\nRss:               15872 kB\nAnonymous:          2816 kB\n";
        assert_eq!(field(rollup, "Rss:").unwrap(), 15872 * 1024);
        assert_eq!(field(rollup, "Anonymous:").unwrap(), 2816 * 1024);
        assert!(field(rollup, "Swap:").is_err());
    }
}
