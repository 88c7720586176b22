use std::io::{Read, Write};

use gantry_spool::{Body, Limits, Position, Reader, WhenFull, lay_out, mark_stored};

use super::*;

struct Stage {
    dir: tempfile::TempDir,
    server: StateServer,
}

fn stage(current: Option<&str>, can_write: bool) -> Stage {
    stage_of(current, can_write, false)
}

fn stage_of(current: Option<&str>, can_write: bool, can_replace: bool) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    lay_out(dir.path()).unwrap();
    let limits = Limits { quota: Limits::MIN_QUOTA, when_full: WhenFull::Block };
    let spool = Spool::open(dir.path(), limits).unwrap();
    let order_dir = tempfile::tempdir().unwrap();
    if let Some(state) = current {
        std::fs::write(order_dir.path().join("current"), state).unwrap();
    }
    let current = current.map(|_| "current".to_owned());
    let order = StateOrder {
        current,
        can_write,
        can_replace,
        answer_after_ms: 60_000,
        password: "state-password".into(),
    };
    let server = StateServer::new(spool, &order, order_dir.path()).unwrap();
    assert!(
        std::fs::read_dir(order_dir.path()).unwrap().next().is_none(),
        "the given state is taken away"
    );
    Stage { dir, server }
}

impl Stage {
    fn post(&self, state: &str) -> Result<Option<u64>, Refused> {
        let mut file = self.server.begin_write()?;
        file.write_all(state.as_bytes()).unwrap();
        Ok(self.server.write(file)?.map(|written| written.number))
    }

    fn present(&self) -> Option<String> {
        let (file, _) = self.server.read()?;
        let mut text = String::new();
        (&*file).seek(SeekFrom::Start(0)).unwrap();
        (&*file).read_to_string(&mut text).unwrap();
        Some(text)
    }

    fn events(&self) -> Vec<Event> {
        let mut reader = Reader::open(self.dir.path(), Position::START).unwrap();
        let mut events = Vec::new();
        while let Some(frame) = reader.next().unwrap() {
            if let Body::Event(event) = frame.body {
                events.push(event);
            }
        }
        events
    }
}

fn state(serial: u64, more: &str) -> String {
    format!(r#"{{"version":4,"serial":{serial},"lineage":"l","more":"{more}"}}"#)
}

#[test]
fn a_state_is_read_back_as_it_was_written() {
    let stage = stage(None, true);
    assert!(stage.present().is_none());
    assert_eq!(stage.post(&state(1, "a")).unwrap(), Some(1));
    assert_eq!(stage.post(&state(2, "b")).unwrap(), Some(2));
    assert_eq!(stage.present().unwrap(), state(2, "b"));
    let serials: Vec<_> = stage
        .events()
        .into_iter()
        .map(|event| {
            let Event::State { number, serial, lineage, file } = event else { panic!("{event:?}") };
            (number, serial, lineage, file.name)
        })
        .collect();
    let l = || "l".to_owned();
    assert_eq!(serials, [(1, 1, l(), SideName::State(1)), (2, 2, l(), SideName::State(2))]);
}

#[test]
fn the_same_again_is_no_new_version_and_other_bytes_are_a_conflict() {
    let stage = stage(None, true);
    assert_eq!(stage.post(&state(3, "a")).unwrap(), Some(1));
    assert_eq!(stage.post(&state(3, "a")).unwrap(), Some(1));
    assert!(matches!(stage.post(&state(3, "b")), Err(Refused::Conflict { serial: 3, present: 3 })));
    assert!(matches!(stage.post(&state(2, "a")), Err(Refused::Conflict { serial: 2, present: 3 })));
    assert_eq!(stage.events().len(), 1);
}

#[test]
fn the_given_state_sent_back_is_no_new_version() {
    let stage = stage(Some(&state(7, "a")), true);
    assert_eq!(stage.present().unwrap(), state(7, "a"));
    assert_eq!(stage.post(&state(7, "a")).unwrap(), None);
    assert!(matches!(stage.post(&state(7, "b")), Err(Refused::Conflict { .. })));
    assert_eq!(stage.post(&state(8, "a")).unwrap(), Some(1));
}

#[test]
fn what_is_no_state_is_refused_and_leaves_nothing() {
    let stage = stage(None, true);
    // Terraform could open none of these, and every later run would fail.
    for wrong in [
        "",
        "{}",
        "[]",
        r#"{"serial":1,"lineage":"l"}"#,
        r#"{"version":4,"serial":1,"lineage":""}"#,
    ] {
        assert!(matches!(stage.post(wrong), Err(Refused::NoState(_))), "{wrong}");
    }
    let left = std::fs::read_dir(stage.dir.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("side-")), "{left:?}");
}

#[test]
fn a_run_that_may_only_look_locks_and_writes_nothing() {
    let stage = stage(None, false);
    assert!(matches!(stage.server.check_write(None), Err(Refused::ReadOnly)));
    stage.server.lock(Bytes::from_static(br#"{"ID":"a"}"#)).unwrap();
}

#[test]
fn a_lock_is_taken_again_by_its_holder_alone() {
    let stage = stage(None, true);
    let (a, b) =
        (Bytes::from_static(br#"{"ID":"a","Who":"x"}"#), Bytes::from_static(br#"{"ID":"b"}"#));
    stage.server.unlock(&a).unwrap();
    stage.server.lock(a.clone()).unwrap();
    stage.server.lock(a.clone()).unwrap();
    assert!(matches!(stage.server.lock(b.clone()), Err(Refused::Locked(info)) if info == a));
    assert!(matches!(stage.server.unlock(&b), Err(Refused::Locked(info)) if info == a));
    assert!(matches!(stage.server.check_write(Some("b")), Err(Refused::Locked(_))));
    stage.server.check_write(Some("a")).unwrap();
    stage.server.unlock(&a).unwrap();
    stage.server.lock(b).unwrap();
    assert!(matches!(stage.server.lock(Bytes::new()), Err(Refused::NoLock)));
}

#[tokio::test]
async fn a_stored_version_is_answered_at_once() {
    let stage = stage(None, true);
    stage.post(&state(1, "a")).unwrap();
    mark_stored(stage.dir.path(), 1).unwrap();
    stage.server.stored(Written { number: 1, at: BootTime::now() }).await;
}

#[tokio::test]
async fn an_unstored_version_is_answered_after_a_while() {
    let stage = stage(None, true);
    let long_ago = BootTime(BootTime::now().0.saturating_sub(60_000_000_000));
    stage.server.stored(Written { number: 1, at: long_ago }).await;
}

/// Terraform keeps the lineage when it applies; whoever pushes another one has a task for that.
#[test]
fn only_a_task_puts_another_state_in_the_place_of_the_present_one() {
    let other = r#"{"version":4,"serial":9,"lineage":"m"}"#;
    let applying = stage(Some(&state(7, "a")), true);
    assert!(matches!(applying.post(other), Err(Refused::OtherLineage)));
    assert_eq!(applying.present().unwrap(), state(7, "a"));
    let task = stage_of(Some(&state(7, "a")), true, true);
    let none = r#"{"serial":9,"lineage":"m"}"#;
    assert!(matches!(task.post(none), Err(Refused::NoState(_))));
    for (number, pushed) in [(1, state(3, "a").as_str()), (2, other), (3, &state(7, "b"))] {
        assert_eq!(task.post(pushed).unwrap(), Some(number));
        assert_eq!(task.post(pushed).unwrap(), Some(number), "the same again");
        assert_eq!(task.present().unwrap(), pushed);
    }
}

#[test]
fn a_refusal_is_noted_and_not_without_end() {
    let stage = stage(None, true);
    for _ in 0..100 {
        stage.server.note(&stage.post("{}").unwrap_err());
    }
    let notes: Vec<_> = stage
        .events()
        .into_iter()
        .filter_map(|event| if let Event::Note { text } = event { Some(text) } else { None })
        .collect();
    assert_eq!(notes.len(), 16);
    assert!(
        notes[0].starts_with("a state was not taken in: what was sent is not a state"),
        "{}",
        notes[0]
    );
}

#[test]
fn a_present_state_that_is_none_says_the_way_back() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("current"), "{}").unwrap();
    let error = take_current(dir.path(), "current").err().unwrap();
    assert!(error.to_string().contains("gantry state rollback"), "{error}");
}

#[test]
fn a_stage_writes_a_bounded_number_of_versions() {
    let stage = stage(None, true);
    stage.server.lock_inner().written = MAX_STATES - 1;
    assert_eq!(stage.post(&state(1, "a")).unwrap(), Some(MAX_STATES));
    assert!(matches!(stage.post(&state(2, "a")), Err(Refused::TooMany)));
    assert_eq!(stage.post(&state(1, "a")).unwrap(), Some(MAX_STATES), "the same again");
    assert_eq!(stage.events().len(), 1, "a reader takes it");
}

#[test]
fn a_state_has_at_most_1_gib() {
    let stage = stage(None, true);
    assert_eq!(MAX_STATE, 1 << 30);
    let mut file = stage.server.spool.side_file(3).unwrap();
    file.write_all(b"abc").unwrap();
    assert_eq!(file.write_all(b" ").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
}

/// Depth and length of what is no part of the heading cost nothing.
#[test]
fn a_deep_state_is_a_state() {
    let stage = stage(None, true);
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let state = format!(r#"{{"version":4,"serial":1,"lineage":"l","more":{deep}}}"#);
    assert_eq!(stage.post(&state).unwrap(), Some(1));
    assert!(matches!(stage.post(&deep), Err(Refused::NoState(_))));
    let lock = Bytes::from(format!(r#"{{"ID":"a","more":{deep}}}"#));
    stage.server.lock(lock).unwrap();
}

/// A server on a real socket, with its tasks.
async fn served(stage: Stage) -> (u16, String, tokio::task::JoinSet<()>, tempfile::TempDir) {
    let authorization = stage.server.authorization.to_string();
    let (server, variables) = stage.server.listen().await.unwrap();
    let address = variables.iter().find(|(name, _)| *name == "TF_HTTP_ADDRESS").unwrap();
    let port = address.1.trim_end_matches("/state").rsplit(':').next().unwrap().parse().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(server);
    (port, authorization, tasks, stage.dir)
}

/// Sends this and gives the answer's first line.
async fn ask(port: u16, request: &[u8]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // It may hang up before it has read everything.
    let _ = socket.write_all(request).await;
    let mut answer = [0; 64];
    let mut filled = 0;
    while let Ok(read @ 1..) = socket.read(&mut answer[filled..]).await {
        filled += read;
    }
    let answer = String::from_utf8_lossy(&answer[..filled]).into_owned();
    answer.lines().next().unwrap_or_default().to_owned()
}

/// Larger than what is sent at once.
#[tokio::test]
async fn a_large_state_comes_whole() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let large = state(1, &"x".repeat(300_000));
    let (port, authorization, _tasks, _dir) = served(stage(Some(&large), true)).await;
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!(
        "GET /state HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: {authorization}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", large.len())), "{head}");
    assert!(body == large, "{} bytes", body.len());
}

#[tokio::test]
async fn what_is_too_large_or_unauthorized_is_refused() {
    let (port, authorization, _tasks, _dir) = served(stage(None, true)).await;
    let head = |more: &str| {
        format!("GET /state HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{more}\r\n").into_bytes()
    };
    let known = format!("authorization: {authorization}\r\n");
    assert_eq!(ask(port, &head(&known)).await, "HTTP/1.1 404 Not Found");
    assert_eq!(ask(port, &head("")).await, "HTTP/1.1 401 Unauthorized");
    let twice = format!("authorization: Basic eA==\r\n{known}");
    assert_eq!(ask(port, &head(&twice)).await, "HTTP/1.1 401 Unauthorized");
    let large = format!("{known}x: {}\r\n", "x".repeat(64 * 1024));
    let answer = ask(port, &head(&large)).await;
    assert!(!answer.contains("404"), "{answer}");
    let many = "x: 1\r\n".repeat(200);
    let answer = ask(port, &head(&format!("{known}{many}"))).await;
    assert!(!answer.contains("404"), "{answer}");
    for noise in
        [&b"\0\0\0\0"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n"]
    {
        let answer = ask(port, noise).await;
        assert!(!answer.contains("200"), "{answer}");
    }
    let lock = |length: usize| {
        let info = format!(r#"{{"ID":"{}"}}"#, "x".repeat(length - 9));
        let length = info.len();
        format!(
            "LOCK /lock HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{known}content-length: {length}\r\n\r\n{info}"
        )
    };
    assert_eq!(ask(port, lock(64 * 1024 + 1).as_bytes()).await, "HTTP/1.1 400 Bad Request");
    assert_eq!(ask(port, lock(64 * 1024).as_bytes()).await, "HTTP/1.1 200 OK");
}

/// All connections that there may be, each of which sends a part of a request and then nothing.
#[tokio::test(start_paused = true)]
async fn whoever_holds_connections_does_not_keep_the_tool_out() {
    use tokio::io::AsyncWriteExt as _;
    for part in ["", "GET /state HT", "POST /state HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n"] {
        let (port, authorization, _tasks, _dir) = served(stage(None, true)).await;
        let known = format!("authorization: {authorization}\r\n\r\n");
        let mut held = Vec::new();
        for _ in 0..40 {
            let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            socket.write_all(part.as_bytes()).await.unwrap();
            if part.starts_with("POST") {
                socket.write_all(format!("{known}{{").as_bytes()).await.unwrap();
            }
            held.push(socket);
        }
        let request = format!("GET /state HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{known}");
        let asked = ask(port, request.as_bytes());
        let answered = tokio::time::timeout(Duration::from_secs(600), asked).await;
        assert_eq!(answered.expect("it gets its turn"), "HTTP/1.1 404 Not Found", "{part:?}");
        drop(held);
    }
}

#[test]
fn only_the_whole_password_opens() {
    let stage = stage(None, true);
    let whole = stage.server.authorization.clone();
    assert!(stage.server.is_authorized(whole.as_bytes()));
    assert!(!stage.server.is_authorized(&whole.as_bytes()[1..]));
    assert!(!stage.server.is_authorized(b""));
}
