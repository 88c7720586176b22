//! The way of an operator, command by command.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use gantry_protocol::{CertificateRequest, PoolKey, PoolToken};
use serde_json::{Value, json};

use super::server::{Server, gantry, json as parsed};

const SECRET: &str = "correct horse battery staple";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Logs in and makes a pool from a request.
pub fn with_pool() -> Server {
    let server = Server::start();
    server.ask(&["login", "--from", "data/admin.json"]);
    let key = PoolKey::generate(2048).unwrap();
    let request = CertificateRequest::create(&key).unwrap();
    fs::write(server.folder.path().join("pool.csr"), request.as_pem()).unwrap();
    server.ask(&["pool", "create", "net", "--csr", "pool.csr", "--no-recovery"]);
    server
}

pub fn source(server: &Server) {
    let folder = server.folder.path().join("source");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("main.tf"), "terraform {}\n").unwrap();
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn the_first_pool_makes_its_key_and_the_recovery_key_here() {
    let server = Server::start();
    let at = |path: &str| server.folder.path().join(path);
    let login = server.ask(&["login", "--from", "data/admin.json"]);
    assert_eq!(login["name"], "admin");
    assert_eq!(mode(&at("config/credentials.json")), 0o600);
    let made = server.ask(&["pool", "create", "net"]);
    assert_eq!(made["key_file"], "net.key");
    for path in ["net.key", "net.token", "recovery.key"] {
        assert_eq!(mode(&at(path)), 0o600, "{path}");
    }
    let key = PoolKey::from_pem(&fs::read(at("net.key")).unwrap()).unwrap();
    let token = PoolToken::parse(&fs::read_to_string(at("net.token")).unwrap()).unwrap();
    token.check_key(&key).unwrap();
    assert_eq!(token.pool.to_string(), made["id"].as_str().unwrap());
    let recovery = PoolKey::from_pem(&fs::read(at("recovery.key")).unwrap()).unwrap();
    let shown = server.ask(&["pool", "show", "net"]);
    let named: Vec<&Value> =
        shown["recipients"].as_array().unwrap().iter().map(|it| &it["fingerprint"]).collect();
    for key in [&key, &recovery] {
        assert!(named.contains(&&json!(key.public().fingerprint().to_string())), "{shown}");
    }
    // Nothing is overwritten, and nothing is left of a try that failed.
    let before = fs::read(at("net.key")).unwrap();
    let (code, said) = server.fail(&["pool", "create", "net"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("net.key exists already"), "{said}");
    let (_, said) =
        server.fail(&["pool", "create", "net", "--key-out", "b.key", "--token-out", "b.token"]);
    assert!(!said.is_empty());
    assert!(!at("b.key").exists(), "the name is taken, so the key is of no use");
    assert_eq!(fs::read(at("net.key")).unwrap(), before);
}

#[test]
fn a_secret_leaves_this_machine_sealed_only() {
    let server = with_pool();
    source(&server);
    fs::write(server.folder.path().join("value"), format!("{SECRET} in a file\n")).unwrap();
    let arguments = [
        "--output",
        "json",
        "stack",
        "create",
        "Network (prod)",
        "--pool",
        "net",
        "--source",
        "source",
        "--secret",
        "TF_VAR_password",
        "--secret",
        "TF_VAR_file=@value",
        "--env",
        "REGION=eu",
        "--before-plan",
        "echo plan",
        "--project-root",
        "",
    ];
    let output =
        gantry(server.folder.path()).args(arguments).env("TF_VAR_password", SECRET).output();
    let made = parsed(&output.unwrap(), &arguments);
    assert_eq!(made["id"], "network-prod");
    assert_eq!(made["secrets"], json!(["TF_VAR_password", "TF_VAR_file"]));
    for path in files(&server.folder.path().join("data")) {
        let content = fs::read(&path).unwrap();
        let is_there = content.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes());
        assert!(!is_there, "{} holds the secret", path.display());
    }
    let stacks = server.ask(&["stack", "list"]);
    assert_eq!(stacks[0]["id"], "network-prod");
    assert_eq!(stacks[0]["source"]["sha256"], made["source"]["sha256"]);
    let elsewhere = ["--pool", "net", "--source", "source", "--project-root", "none"];
    let (code, said) = server.fail(&[&["stack", "create", "b"], &elsewhere[..]].concat());
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("source has no directory none"), "{said}");
}

/// What a person is told on standard error, and the run's id.
fn trigger_for_a_person(server: &Server) -> (String, String) {
    let output = server.run(&["run", "trigger", "net"]);
    let answer = String::from_utf8(output.stdout).unwrap();
    let run = answer.split_whitespace().nth(1).unwrap();
    (String::from_utf8(output.stderr).unwrap(), run.to_owned())
}

#[test]
fn a_run_is_triggered_shown_and_stopped() {
    let mut server = with_pool();
    source(&server);
    server.ask(&["stack", "create", "net", "--pool", "net", "--source", "source"]);
    let triggered = server.ask(&["run", "trigger", "net"]);
    let run = triggered["id"].as_str().unwrap();
    let (said, later) = trigger_for_a_person(&server);
    let behind = format!("it waits: run {run} of the same stack goes first and is READY");
    assert!(said.contains(&behind), "{said}");
    server.ask(&["run", "stop", &later]);
    server.restart();
    let shown = server.ask(&["run", "show", run]);
    assert_eq!((&shown["stack"], &shown["type"]), (&json!("net"), &json!("TRACKED")));
    assert_eq!(shown["history"][0]["state"], "QUEUED");
    assert!(shown["history"][0]["at"].as_str().unwrap().ends_with('Z'), "{shown}");
    assert_eq!((&shown["delta"], &shown["outputs"]), (&Value::Null, &json!({})));
    assert_eq!(server.ask(&["run", "list", "net"])[1]["id"], run);
    let before = server.run(&["run", "list", "net", "--before", run]).stdout;
    assert_eq!(before, format!("no runs before {run}\n").as_bytes());
    let (_, said) = server.fail(&["stack", "unlock", "net"]);
    assert!(said.contains("stack net is not locked"), "{said}");
    let (code, said) = server.fail(&["run", "confirm", run]);
    assert_eq!(code, 1, "{said}");
    assert_eq!(server.ask(&["run", "stop", run, "--note", "enough"])["state"], "CANCELED");
    let followed = server.run(&["run", "logs", run, "--follow"]);
    assert_eq!(followed.status.code(), Some(1), "it was canceled");
    let states = String::from_utf8(followed.stderr).unwrap();
    assert!(states.contains("QUEUED") && states.contains("CANCELED"), "{states}");
    assert!(server.run(&["run", "logs", run]).stdout.is_empty());
    let lines = server.run(&["--output", "json", "run", "logs", run, "--follow"]).stdout;
    let last = String::from_utf8(lines).unwrap().lines().last().unwrap().to_owned();
    assert_eq!(
        serde_json::from_str::<Value>(&last).unwrap(),
        json!({ "event": "end", "state": "CANCELED" })
    );
    let second = server.ask(&["run", "trigger", "net", "--type", "proposed"]);
    assert_eq!(
        server.ask(&["run", "discard", second["id"].as_str().unwrap()])["state"],
        "DISCARDED"
    );
    let last = server.ask(&["run", "trigger", "net"]);
    let listed = server.ask(&["run", "list", "net"]);
    let ids: Vec<&Value> = listed.as_array().unwrap().iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, [&last["id"], &second["id"], &json!(later), &json!(run)], "newest first");
    assert_eq!((&listed[0]["type"], &listed[1]["type"]), (&json!("TRACKED"), &json!("PROPOSED")));
    assert_eq!(listed[0]["triggered_by"], "api::admin");
    assert_eq!(server.ask(&["state", "list", "net"]), json!([]));
    fs::write(
        server.folder.path().join("key"),
        &*PoolKey::generate(2048).unwrap().to_pem().unwrap(),
    )
    .unwrap();
    let (code, said) = server.fail(&["state", "pull", "net", "--key", "key"]);
    assert_eq!(code, 1);
    assert!(said.contains("stack net has no state yet"), "{said}");
}

#[test]
fn a_new_source_is_uploaded() {
    let server = with_pool();
    source(&server);
    server.ask(&["stack", "create", "net", "--pool", "net", "--source", "source"]);
    fs::write(server.folder.path().join("source/more.tf"), "x".repeat(300_000)).unwrap();
    let uploaded = server.ask(&["stack", "upload", "net", "source", "--message", "more"]);
    let run = server.ask(&["run", "trigger", "net"]);
    let shown = server.ask(&["run", "show", run["id"].as_str().unwrap()]);
    assert_eq!(shown["title"], "more");
    assert_eq!(server.ask(&["stack", "list"])[0]["source"]["id"], uploaded["source"]["id"]);
}
