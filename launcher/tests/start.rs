//! The program itself: what it checks before the pool hears of it, what it says and how it exits.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_launcher::host::StateDir;
use gantry_model::PoolId;
use gantry_protocol::{Authority, CertificateRequest, Namespace, PoolKey, PoolToken, TokenParts};
use ulid::Ulid;

/// A pool whose broker nobody listens at: port 1 of this host.
struct Pool {
    token: String,
    key: String,
}

fn pool() -> Pool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    let now = i64::try_from(now).expect("it is before the year 292 billion");
    let authority = Authority::generate(now).expect("OpenSSL makes a CA");
    let key = PoolKey::generate(2048).expect("OpenSSL makes a key");
    let request = CertificateRequest::create(&key).expect("OpenSSL makes a CSR");
    let pool = PoolId::from_ulid(Ulid::from_parts(1, 1));
    let certificate = authority.issue_pool(&request, pool, now).expect("the CA signs");
    let token = PoolToken::new(TokenParts {
        broker: "127.0.0.1:1".parse().expect("an endpoint"),
        namespace: Namespace::default(),
        pool,
        certificate: certificate.pem,
        ca: authority.certificate_pem().to_owned(),
        api: None,
    });
    let pem = key.to_pem().expect("the key is written");
    Pool { token: token.expect("the parts fit").encode(), key: STANDARD.encode(&*pem) }
}

fn launch(state: &Path, more: &[(&str, &str)]) -> Output {
    let Pool { token, key } = pool();
    Command::new(env!("CARGO_BIN_EXE_gantry-launcher"))
        .env_clear()
        .env("SPACELIFT_TOKEN", token)
        .env("SPACELIFT_POOL_PRIVATE_KEY", key)
        .env("GANTRY_STATE_DIR", state)
        .envs(more.iter().copied())
        .output()
        .expect("the launcher starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_empty_environment_ends_with_64_and_names_what_is_missing() {
    let output = Command::new(env!("CARGO_BIN_EXE_gantry-launcher")).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = said(&output);
    assert!(
        said.contains("SPACELIFT_TOKEN") && said.contains("SPACELIFT_POOL_PRIVATE_KEY"),
        "{said}"
    );
}

#[test]
fn an_invalid_policy_ends_with_65_and_its_place() {
    let state = tempfile::tempdir().unwrap();
    let policy = state.path().join("policy.rego");
    fs::write(&policy, "package spacelift\ndeny[\"no\"] { true").unwrap();
    let path = policy.to_str().unwrap();
    let output =
        launch(&state.path().join("s"), &[("SPACELIFT_LAUNCHER_RUN_INITIALIZATION_POLICY", path)]);
    assert_eq!(output.status.code(), Some(65));
    let said = said(&output);
    assert!(said.contains("policy.rego:2:") || said.contains("policy.rego:3:"), "{said}");
}

#[test]
fn a_policy_without_deny_ends_with_65_and_what_to_write() {
    let state = tempfile::tempdir().unwrap();
    let policy = state.path().join("policy.rego");
    fs::write(&policy, "package spacelift\ndenny contains \"no\"").unwrap();
    let path = policy.to_str().unwrap();
    let output =
        launch(&state.path().join("s"), &[("SPACELIFT_LAUNCHER_RUN_INITIALIZATION_POLICY", path)]);
    assert_eq!(output.status.code(), Some(65));
    let said = said(&output);
    assert!(said.contains("policy.rego:2:1: there is no rule `deny`, and `denny`"), "{said}");
    assert!(said.contains("`deny := set()`"), "{said}");
}

#[test]
fn a_policy_that_is_not_there_ends_with_65() {
    let state = tempfile::tempdir().unwrap();
    let output = launch(
        state.path(),
        &[("SPACELIFT_LAUNCHER_RUN_INITIALIZATION_POLICY", "/nonexistent/policy.rego")],
    );
    assert_eq!(output.status.code(), Some(65));
    assert!(said(&output).contains("/nonexistent/policy.rego"), "{}", said(&output));
}

#[test]
fn no_docker_ends_with_70_and_the_next_step() {
    let state = tempfile::tempdir().unwrap();
    let output = launch(state.path(), &[("DOCKER_HOST", "unix:///nonexistent/docker.sock")]);
    assert_eq!(output.status.code(), Some(70));
    let said = said(&output);
    assert!(said.contains("Docker does not answer") && said.contains("next: "), "{said}");
}

#[test]
fn a_state_directory_that_another_launcher_holds_ends_with_73_and_its_pid() {
    let state = tempfile::tempdir().unwrap();
    let _held = StateDir::hold(state.path()).unwrap();
    let output = launch(state.path(), &[]);
    assert_eq!(output.status.code(), Some(73));
    let said = said(&output);
    assert!(said.contains(&format!("process id {}", std::process::id())), "{said}");
}

#[test]
fn a_damaged_journal_ends_with_73() {
    let state = tempfile::tempdir().unwrap();
    fs::write(state.path().join("journal"), "this is no journal").unwrap();
    let output = launch(state.path(), &[]);
    assert_eq!(output.status.code(), Some(73));
    assert!(said(&output).contains("no journal of version 1"), "{}", said(&output));
}

/// Docker hangs, and nothing is in hand: there is nothing to wait for.
#[test]
fn a_launcher_that_is_starting_leaves_when_it_is_told_and_can_leave_no_core() {
    let state = tempfile::tempdir().unwrap();
    let socket = state.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let Pool { token, key } = pool();
    let mut launcher = Command::new(env!("CARGO_BIN_EXE_gantry-launcher"))
        .env_clear()
        .env("SPACELIFT_TOKEN", token)
        .env("SPACELIFT_POOL_PRIVATE_KEY", key)
        .env("GANTRY_STATE_DIR", state.path().join("state"))
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .spawn()
        .unwrap();
    let _connection = listener.accept().unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", launcher.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    let pid = rustix::process::Pid::from_child(&launcher);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(launcher.wait().unwrap().code(), Some(0));
}

/// Whoever collects the log may die before the launcher.
#[test]
fn a_log_that_nobody_reads_any_more_ends_nothing() {
    let state = tempfile::tempdir().unwrap();
    let Pool { token, key } = pool();
    let mut launcher = Command::new(env!("CARGO_BIN_EXE_gantry-launcher"))
        .env_clear()
        .env("SPACELIFT_TOKEN", token)
        .env("SPACELIFT_POOL_PRIVATE_KEY", key)
        .env("SPACELIFT_TOKN", "a warning")
        .env("GANTRY_STATE_DIR", state.path())
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((launcher.stdout.take(), launcher.stderr.take()));
    assert_eq!(launcher.wait().unwrap().code(), Some(70));
}
