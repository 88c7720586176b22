//! What a server says of itself, and what it does not let out.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::server::{Server, gantry};

#[test]
fn a_server_says_who_fails_to_log_in_and_that_it_stops_and_keeps_its_memory_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut server = Server::command(folder.path())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut ready).unwrap();

    let limits = fs::read_to_string(format!("/proc/{}/limits", server.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");

    let login =
        gantry(folder.path()).args(["login", "--from", "data/admin.json"]).output().unwrap();
    assert!(login.status.success());
    let forged = "a\n2026-01-01T00:00:00Z INFO forged";
    let wrong = gantry(folder.path())
        .args(["pool", "list"])
        .env("GANTRY_API_KEY_ID", forged)
        .output()
        .unwrap();
    assert!(!wrong.status.success());

    // Who only knocks does not fill the disk.
    let addresses = fs::read(folder.path().join("data/server.json")).unwrap();
    let addresses: serde_json::Value = serde_json::from_slice(&addresses).unwrap();
    for part in ["mqtt", "api", "objects"] {
        let address = addresses[part].as_str().unwrap().trim_start_matches("https://");
        for _ in 0..100 {
            let mut stream = TcpStream::connect(address).unwrap();
            // It may have closed by then.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }

    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
    let said = fs::read_to_string(&log).unwrap();
    let has = |words: &[&str]| said.lines().any(|line| words.iter().all(|it| line.contains(it)));
    assert!(
        has(&["WARN", "a login failed", "127.0.0.1", "2026-01-01T00:00:00Z INFO forged"]),
        "{said}"
    );
    assert!(!said.lines().any(|line| line.starts_with("2026-01-01")), "{said}");
    assert!(has(&["INFO", "stopping, as SIGTERM says"]), "{said}");
    let lines = said.lines().count();
    assert!(lines < 60, "{lines} lines: {said}");
    assert!(said.lines().last().unwrap().ends_with("stopped"), "{said}");
}

#[test]
fn to_listen_everywhere_without_a_name_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    // Somebody else's directory, so that it ends before it listens anywhere.
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/other"), "").unwrap();
    let said = |hosts: &[&str]| {
        let mut server = gantry(folder.path());
        server.args(["server", "--data", "data", "--listen", "0.0.0.0:1983"]).args(hosts);
        String::from_utf8(server.output().unwrap().stderr).unwrap()
    };
    let warning =
        "0.0.0.0:1983 is listened on for other machines, but they are told localhost:1983";
    let plain = said(&[]);
    assert!(plain.contains(warning) && plain.contains("with --host"), "{plain}");
    let named = said(&["--host", "gantry.example.com"]);
    assert!(!named.contains("for other machines"), "{named}");
}

#[test]
fn a_server_s_durations_are_go_s() {
    let folder = tempfile::tempdir().unwrap();
    for (given, expected) in [
        ("1h 30m", "write hours, minutes and seconds as in 70m, 90s or 1h10m"),
        ("2days", "write hours, minutes and seconds"),
        ("60", "has a number without a unit"),
        ("3s", "must be 4s at least"),
        ("721h", "give at most 720h"),
    ] {
        let output = gantry(folder.path()).args(["server", "--lease", given]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{given}: {said}");
    }
}
