//! What every container engine promises, held against the fake one, a real Docker and a real Podman.
//!
//! Docker's part needs an engine and the image that `GANTRY_E2E_IMAGE` names, Podman's the packages podman and
//! busybox-static: `cargo xtask test` has them all.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "engine/contract.rs"]
mod contract;
#[expect(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../../crates/e2e/src/podman.rs"]
mod own_podman;
#[path = "engine/side.rs"]
mod side;

use side::{FakeSide, RealSide};

/// One test for each promise and engine.
macro_rules! promises {
    ($($promise:ident)*) => {
        mod fake {
            use super::*;
            $(
                #[tokio::test]
                async fn $promise() {
                    contract::in_time(contract::$promise(&mut FakeSide::new())).await;
                }
            )*
        }
        mod docker {
            use super::*;
            $(
                #[tokio::test]
                async fn $promise() {
                    contract::in_time(async {
                        contract::$promise(&mut RealSide::docker().await).await
                    }).await;
                }
            )*
        }
        mod podman {
            use super::*;
            $(
                #[tokio::test]
                async fn $promise() {
                    contract::in_time(async {
                        contract::$promise(&mut RealSide::podman().await).await
                    }).await;
                }
            )*
        }
    };
}

promises! {
    it_says_what_it_is
    it_says_what_its_host_has
    an_image_says_what_it_sets
    a_container_is_made_once_and_found_by_its_name
    a_container_is_started_once
    a_container_that_ended_runs_again_when_it_is_started
    the_end_is_seen_by_whoever_asks_later
    a_wait_that_is_dropped_changes_nothing
    what_never_ran_has_ended
    a_container_is_asked_to_stop_or_killed
    what_does_not_run_takes_no_signal
    a_container_is_removed_running_or_not
    several_may_remove_at_once
    several_may_make_at_once
    what_was_removed_can_be_made_again
    containers_are_found_by_all_of_their_labels
    an_image_that_is_not_here_is_refused
    an_image_that_nobody_has_cannot_be_pulled
    a_mount_of_nothing_is_refused
    what_is_not_there_cannot_be_started
}

/// What the launcher asks for is what the engine keeps, and containers are killed before their launcher.
#[tokio::test]
async fn docker_keeps_the_limits_of_a_container() {
    use gantry_launcher::engine::Engine as _;
    use side::Side as _;
    let side = RealSide::docker().await;
    let spec = side.spec();
    side.engine().create(&spec).await.unwrap();
    let inspected = std::process::Command::new("docker").args(["inspect", &spec.name]).output();
    let inspected: serde_json::Value = serde_json::from_slice(&inspected.unwrap().stdout).unwrap();
    let host = &inspected[0]["HostConfig"];
    for (name, limit) in [
        ("Memory", spec.limits.memory),
        ("NanoCpus", spec.limits.nano_cpus),
        ("PidsLimit", spec.limits.processes),
        ("ShmSize", Some(spec.limits.shared_memory)),
        ("OomScoreAdj", Some(500)),
    ] {
        assert_eq!(host[name].as_u64(), limit, "{name}");
    }
    // What an image may say of itself and must not decide.
    let config = &inspected[0]["Config"];
    assert_eq!(config["Healthcheck"]["Test"], serde_json::json!(["NONE"]));
    assert_eq!(config["StopSignal"], "SIGTERM");
}
