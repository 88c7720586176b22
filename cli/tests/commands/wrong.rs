//! What goes wrong says what, why and what to do, and ends with its documented code.

use std::fs;
use std::process::Stdio;

use super::server::{Server, gantry};

#[test]
fn without_a_login_the_next_step_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let output = gantry(folder.path()).args(["pool", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    insta::assert_snapshot!("not_logged_in", String::from_utf8(output.stderr).unwrap());
    let output = gantry(folder.path()).args(["--output", "json", "pool", "list"]).output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(said["error"]["code"], 5);
}

#[test]
fn wrong_arguments_end_with_2_and_do_not_show_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = [
        ("GANTRY_API_ENDPOINT", "https://127.0.0.1:1"),
        ("GANTRY_API_KEY_ID", "id"),
        ("GANTRY_API_KEY_SECRET", "secret"),
    ];
    for arguments in [
        &["run"][..],
        &["run", "show", "nonsense"],
        &["stack", "create", "a", "--pool", "p", "--source", ".", "--secret", "1BAD=hush"],
        &[
            "stack", "create", "a", "--pool", "p", "--source", ".", "--secret", "A=hush", "--env",
            "A=b",
        ],
        &["state", "pull", "net"],
        &["login", "--endpoint", "https://a"],
    ] {
        let output = gantry(folder.path()).args(arguments).envs(credentials).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(!said.contains("hush"), "{said}");
        let json = ["--output", "json"];
        let output =
            gantry(folder.path()).args(json).args(arguments).envs(credentials).output().unwrap();
        assert!(output.stdout.is_empty());
        let said: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(said["error"]["code"], 2, "{said}");
        assert!(said["error"]["message"].as_str().is_some_and(|it| !it.is_empty()), "{said}");
    }
}

#[test]
fn a_pool_whose_files_have_no_place_is_not_made() {
    let server = Server::start();
    server.ask(&["login", "--from", "data/admin.json"]);
    for place in [["--key-out", "none/a.key"], ["--token-out", "none/a.token"]] {
        let (code, said) = server.fail(&[&["pool", "create", "a"], &place[..]].concat());
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("cannot write {}", place[1])), "{said}");
        assert!(said.contains("next: check the path"), "{said}");
    }
    assert_eq!(server.ask(&["pool", "list"]), serde_json::json!([]));
    assert!(!server.folder.path().join("a.key").exists());
    assert!(!server.folder.path().join("recovery.key").exists());
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let server = Server::start();
    let mut second = Server::command(server.folder.path());
    let output = second.stdout(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("pid {}", server.pid())), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_server_whose_port_is_taken_says_how_to_give_another() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for option in ["--listen", "--mqtt-listen", "--objects-listen"] {
        let folder = tempfile::tempdir().unwrap();
        let mut server = gantry(folder.path());
        server.args(["server", "--data", "data"]);
        for listener in ["--listen", "--mqtt-listen", "--objects-listen"] {
            server.args([listener, if listener == option { &address } else { "127.0.0.1:0" }]);
        }
        let output = server.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&format!("cannot listen on {address} ")), "{said}");
        assert!(said.contains(&format!("give another address with {option}: ")), "{said}");
    }
}

#[test]
fn a_server_that_is_away_ends_with_4() {
    let mut server = Server::start();
    server.ask(&["login", "--from", "data/admin.json"]);
    server.kill();
    let (code, said) = server.fail(&["pool", "list"]);
    assert_eq!(code, 4);
    assert!(said.contains("cannot reach https://127.0.0.1:") && said.contains(" next: "), "{said}");
}

#[test]
fn another_certificate_authority_is_not_trusted() {
    let (server, other) = (Server::start(), Server::start());
    let ca = other.folder.path().join("data/ca.pem");
    let admin = fs::read_to_string(server.folder.path().join("data/admin.json")).unwrap();
    let mut admin: serde_json::Value = serde_json::from_str(&admin).unwrap();
    admin["ca"] = ca.to_str().unwrap().into();
    fs::write(server.folder.path().join("forged.json"), admin.to_string()).unwrap();
    let (code, said) = server.fail(&["login", "--from", "forged.json"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.to_lowercase().contains("certificate"), "{said}");
}

#[test]
fn a_wrong_key_ends_with_5() {
    let server = Server::start();
    server.ask(&["login", "--from", "data/admin.json"]);
    let output = gantry(server.folder.path())
        .args(["pool", "list"])
        .env("SPACELIFT_API_KEY_SECRET", "wrong")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("refuses the API key"), "{said}");
}

#[test]
fn what_is_not_there_is_named() {
    let server = Server::start();
    server.ask(&["login", "--from", "data/admin.json"]);
    for (arguments, part) in [
        (&["pool", "show", "none"][..], "pool none not found"),
        (&["run", "trigger", "none"], "stack none not found"),
        (&["run", "list", "none"], "stack none not found"),
        (
            &["run", "show", "01J00000000000000000000000"],
            "run 01J00000000000000000000000 not found",
        ),
        (
            &["run", "logs", "01J00000000000000000000000"],
            "run 01J00000000000000000000000 not found",
        ),
        (&["state", "list", "none"], "stack none not found"),
        (
            &["stack", "create", "a", "--pool", "none", "--source", "data", "--allow-sensitive"],
            "pool none not found",
        ),
    ] {
        let (code, said) = server.fail(arguments);
        assert_eq!(code, 1, "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}
