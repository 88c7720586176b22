//! The program itself: what it checks before the pool hears of it, what it says and how it exits.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
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

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    i64::try_from(now).expect("it is before the year 292 billion")
}

fn pool() -> Pool {
    let (token, key) = pool_at(now());
    Pool { token, key }
}

/// Token and key of a pool that was made then.
fn pool_at(now: i64) -> (String, String) {
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
    (token.expect("the parts fit").encode(), STANDARD.encode(&*pem))
}

fn launch(state: &Path, more: &[(&str, &str)]) -> Output {
    let Pool { token, key } = pool();
    Command::new(env!("CARGO_BIN_EXE_gantry-launcher"))
        .env_clear()
        .env("SPACELIFT_TOKEN", token)
        .env("SPACELIFT_POOL_PRIVATE_KEY", key)
        .env("GANTRY_STATE_DIR", state)
        .env("GANTRY_LOG", "human")
        .envs(more.iter().copied())
        .output()
        .expect("the launcher starts")
}

/// The log, a JSON object a line.
fn logged(output: &Output) -> Vec<serde_json::Value> {
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_empty_environment_ends_with_64_and_names_what_is_missing() {
    let start = |format| {
        let mut launcher = Command::new(env!("CARGO_BIN_EXE_gantry-launcher"));
        let output = launcher.env_clear().env("GANTRY_LOG", format).output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        output
    };
    let said = said(&start("human"));
    assert!(
        said.contains("SPACELIFT_TOKEN") && said.contains("SPACELIFT_POOL_PRIVATE_KEY"),
        "{said}"
    );
    let lines = logged(&start("json"));
    let variables: Vec<_> = lines.iter().filter_map(|line| line["variable"].as_str()).collect();
    assert_eq!(variables, ["SPACELIFT_TOKEN", "SPACELIFT_POOL_PRIVATE_KEY"]);
    assert_eq!(lines.last().unwrap()["msg"], "the environment has 2 mistakes");
}

/// What collects the log reads JSON, so the reason why a launcher ends is JSON too.
#[test]
fn what_ends_the_launcher_is_json_where_the_log_is() {
    let state = tempfile::tempdir().unwrap();
    let more = [
        ("GANTRY_LOG", "json"),
        ("GANTRY_LOG_LEVEL", "error"),
        ("DOCKER_HOST", "tcp://127.0.0.1:1"),
    ];
    let output = launch(state.path(), &more);
    assert_eq!(output.status.code(), Some(70));
    assert_eq!(said(&output), "");
    let lines = logged(&output);
    let end = lines.last().unwrap();
    assert_eq!(end["level"], "error");
    assert_eq!(end["exit"], 70);
    assert_eq!(
        end["msg"],
        "Docker does not answer at tcp://127.0.0.1:1: nobody listens there (answer)"
    );
    assert!(end["next"].as_str().unwrap().starts_with("start the container engine"), "{end}");
}

/// A clock is set in time by others; what systemd is told never to restart would stay down.
#[test]
fn a_wrong_clock_ends_with_75() {
    let state = tempfile::tempdir().unwrap();
    let (token, key) = pool_at(now() + 3 * 86_400);
    let output =
        launch(state.path(), &[("SPACELIFT_TOKEN", &token), ("SPACELIFT_POOL_PRIVATE_KEY", &key)]);
    assert_eq!(output.status.code(), Some(75));
    assert!(said(&output).contains("this host's clock is slow, set it"), "{}", said(&output));
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
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(state.path().join("journal"), "this is no journal").unwrap();
    let output = launch(state.path(), &[]);
    assert_eq!(output.status.code(), Some(73));
    assert!(said(&output).contains("not a journal of version 1"), "{}", said(&output));
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

/// With the files that `docker` itself takes: the engine's certificate is checked and ours is shown.
#[test]
fn an_engine_behind_tls_is_reached_with_the_files_of_docker() {
    use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod, SslVerifyMode};
    use std::io::{BufRead as _, BufReader, Write as _};

    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=engine",
        ])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext"])
        .args(["basicConstraints=critical,CA:FALSE", "-keyout"])
        .args([at("key.pem"), "-out".into(), at("cert.pem")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    fs::copy(at("cert.pem"), at("ca.pem")).unwrap();
    let mut tls = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    tls.set_private_key_file(at("key.pem"), SslFiletype::PEM).unwrap();
    tls.set_certificate_chain_file(at("cert.pem")).unwrap();
    tls.set_ca_file(at("ca.pem")).unwrap();
    tls.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    // It resumes sessions, as Docker does.
    tls.set_session_id_context(b"engine").unwrap();
    let tls = tls.build();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    // It answers who asks by TLS, and then is an engine that cannot do anything.
    let engine = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for _ in 0..2 {
            let mut stream = BufReader::new(tls.accept(listener.accept().unwrap().0).unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                stream.read_line(&mut head).unwrap();
            }
            let body = r#"{"Version":"99","ApiVersion":"1.40","MinAPIVersion":"1.12"}"#;
            let answer = if asked.is_empty() { "200 OK" } else { "500 No" };
            let head_of_answer = "content-type: application/json\r\nconnection: close";
            let length = body.len();
            write!(
                stream.get_mut(),
                "HTTP/1.1 {answer}\r\n{head_of_answer}\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .unwrap();
            // It may have hung up already.
            let _ = stream.get_mut().shutdown();
            asked.push(head.lines().next().unwrap().to_owned());
        }
        asked
    });
    let files = dir.path().to_str().unwrap();
    let more =
        [("DOCKER_HOST", &*address), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", files)];
    let output = launch(&at("state"), &more);
    assert_eq!(output.status.code(), Some(70), "{}", said(&output));
    let asked = engine.join().unwrap();
    assert!(asked.iter().all(|line| line.contains("/version")), "{asked:?}");
}

#[test]
fn a_check_looks_at_everything_and_says_what_to_do_about_each() {
    let folder = tempfile::tempdir().unwrap();
    let Pool { token, key } = pool();
    let output = Command::new(env!("CARGO_BIN_EXE_gantry-launcher"))
        .arg("--check")
        .env_clear()
        .env("SPACELIFT_TOKEN", token)
        .env("SPACELIFT_POOL_PRIVATE_KEY", key)
        .env("GANTRY_STATE_DIR", folder.path().join("state"))
        .env("DOCKER_HOST", format!("unix://{}", folder.path().join("none.sock").display()))
        .output()
        .unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    for part in [
        "ok    token: pool 00000000010000000000000001, broker at 127.0.0.1:1\n",
        "ok    key: ",
        "ok    certificate: ",
        "FAIL  engine: ",
        "      image: not looked at",
        "FAIL  broker: cannot reach 127.0.0.1:1\n",
    ] {
        assert!(found.contains(part), "{part}: {found}");
    }
    assert_eq!(found.matches("next: ").count(), 2, "{found}");
    assert_eq!(output.status.code(), Some(70), "{found}");
    assert!(!folder.path().join("state").exists(), "a check leaves nothing");
}
