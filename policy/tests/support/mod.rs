//! A run as the launcher describes it, and shorthands.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use gantry_policy::{
    Command, Commit, Content, Decision, EvaluateError, Execution, Image, Input, Mount, Policy,
    Request, Run, RuntimeConfig, Stack, StaticRunEnvironment, Variable, VendorSpecificConfig,
};
use serde_json::Value;

/// The time at which tests evaluate.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
}

/// The example of `docs/policy.md`.
pub fn example() -> Input {
    Input {
        docker_image: "registry.example.com/runner:1".into(),
        gantry: execution(),
        request: Request { timestamp_ns: 1_800_000_000_000_000_000 },
        run: Run {
            commit: Commit {
                author: "ada".into(),
                branch: "main".into(),
                created_at: 1_799_999_000_000_000_000,
                hash: "4f2a9c1e".into(),
                message: "Resize the cluster".into(),
            },
            created_at: 1_799_999_900_000_000_000,
            id: "01JZB8QK3V5Y7N2M4P6R8T0W1X".into(),
            runtime_config: RuntimeConfig {
                before_init: vec!["terraform fmt -check".into()],
                runner_image: "registry.example.com/runner:1".into(),
                terraform_version: "1.11.0".into(),
                ..RuntimeConfig::default()
            },
            state: "PREPARING".into(),
            triggered_by: Some("ada".into()),
            kind: "TRACKED".into(),
            updated_at: 1_799_999_950_000_000_000,
            ..Run::default()
        },
        stack: Stack {
            branch: "main".into(),
            labels: vec!["network".into()],
            name: "Network".into(),
            namespace: "example".into(),
            repository: "infrastructure".into(),
            state: "QUEUED".into(),
            terraform_version: Some("1.11.0".into()),
            ..Stack::default()
        },
        static_run_environment: StaticRunEnvironment {
            account_name: "example".into(),
            before_init: vec!["terraform fmt -check".into()],
            commit_branch: "main".into(),
            commit_sha: "4f2a9c1e".into(),
            refresh_state: true,
            repository_path: "example/infrastructure".into(),
            run_type: "TRACKED".into(),
            run_ulid: "01JZB8QK3V5Y7N2M4P6R8T0W1X".into(),
            stack_labels: vec!["network".into()],
            stack_slug: "network".into(),
            terraform_version: "1.11.0".into(),
            vendor_specific_config: VendorSpecificConfig {
                vendor: "terraform".into(),
                ..Default::default()
            },
            ..StaticRunEnvironment::default()
        },
        worker_version: "0.1.0".into(),
    }
}

fn execution() -> Execution {
    let command = |at: &str, command: &str, from: &str, stage: &str| Command {
        at: at.into(),
        command: command.into(),
        from: from.into(),
        stage: stage.into(),
    };
    let variable = |name: &str, from: &str, value: Option<&str>| {
        (name.into(), Variable { from: from.into(), value: value.map(Into::into) })
    };
    Execution {
        stage: "READ".into(),
        commands: vec![
            command("before_init", "terraform fmt -check", "stack", "READ"),
            command("init", "terraform init -input=false -reconfigure", "launcher", "READ"),
            command(
                "plan",
                "terraform plan -input=false -detailed-exitcode -out=gantry.tfplan",
                "launcher",
                "READ",
            ),
            command("after_plan", "./report.sh", "stack", "READ"),
            command(
                "apply",
                "terraform apply -input=false -auto-approve gantry.tfplan",
                "launcher",
                "WRITE",
            ),
        ],
        environment: BTreeMap::from([
            variable("AWS_REGION", "stack", Some("eu-west-1")),
            variable("HTTPS_PROXY", "host", None),
            variable("PATH", "image", Some("/usr/local/bin:/usr/bin:/bin")),
            variable("TF_IN_AUTOMATION", "launcher", Some("true")),
            variable("TOKEN", "secret", None),
        ]),
        image: Image {
            name: "registry.example.com/runner:1".into(),
            id: format!("sha256:{}", "1d".repeat(32)),
            digests: vec![format!("registry.example.com/runner@sha256:{}", "5e".repeat(32))],
        },
        source: Some(Content { sha256: "4f2a9c1e".repeat(8), size: 1204 }),
        workspace: None,
        mounts: vec![Mount { host: "/etc/ssl/certs".into(), container: "/etc/ssl/certs".into() }],
        network: "bridge".into(),
        runtime: None,
    }
}

/// Compiles `source` and evaluates it.
pub fn evaluate(source: &str, input: &Value) -> Result<Decision, EvaluateError> {
    match Policy::compile("init.rego", source) {
        Ok(policy) => policy.evaluate(input, now()),
        Err(error) => panic!("{error}\n{source}"),
    }
}
