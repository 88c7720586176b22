//! What lies in the object store: sealed so that stock tools open it, signed so that nobody can change it.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_e2e::{Launcher, Objects, Stack, Stand, find, opens, openssl_key};

/// What an intruder does to an object, perhaps with the help of another one.
type Change = fn(&Path, &Path);

const LIMIT: Duration = Duration::from_secs(90);
const PASSWORD: &str = "correct-horse-battery-staple";
/// Each run changes something, so that each has a plan to confirm and a state to write.
const CHANGING: &str = r#"
variable "password" {
  type      = string
  sensitive = true
}
variable "spacelift_run_id" { type = string }
resource "terraform_data" "kept" { input = var.password }
resource "terraform_data" "changing" {
  triggers_replace = var.spacelift_run_id
  provisioner "local-exec" { command = "echo apply >> /count/applies" }
}
"#;

fn stack(stand: &Stand, name: &str) -> Stack {
    stand
        .stack(name)
        .file("main.tf", CHANGING)
        .secret("TF_VAR_password", PASSWORD)
        .hook("before-init", "echo began >> /count/begun")
        .hook("before-apply", "echo began >> /count/begun")
        .create()
}

fn planned(stand: &Stand, stack: &Stack) -> String {
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    run
}

fn applied(stand: &Stand, stack: &Stack) -> String {
    let run = planned(stand, stack);
    stand.cli.confirm(&run);
    stand.cli.reaches(&run, "FINISHED", LIMIT);
    run
}

/// The files in the object store that belong to a run or stack.
fn stored(stand: &Stand, folder: &str, of: &str) -> Vec<PathBuf> {
    let mut files = Objects::of(stand.server.data()).files(folder);
    files.retain(|path| path.to_string_lossy().to_lowercase().contains(&of.to_lowercase()));
    files
}

fn only(mut files: Vec<PathBuf>) -> PathBuf {
    assert_eq!(files.len(), 1, "{files:?}");
    files.pop().expect("there is one")
}

/// Stock `age` and the pool's key open what waits and what stays; the recovery key opens what stays.
#[test]
fn stock_age_opens() {
    let stand = Stand::with_recovery();
    let _launcher = stand.launcher("launcher").start();
    let stack = stack(&stand, "sealed");
    let run = planned(&stand, &stack);

    let (foreign, _) = openssl_key(stand.dir(), "foreign");
    let workspace = only(stored(&stand, "workspace", &run));
    assert!(find(&fs::read(&workspace).expect("it is there"), PASSWORD.as_bytes()).is_none());
    let opened = opens(&workspace, &stand.pool.key).expect("the pool's key opens the workspace");
    assert!(!opened.is_empty());
    assert_eq!(opens(&workspace, &foreign), None);
    assert_eq!(opens(&workspace, &stand.pool.recovery), None, "a workspace is for the pool alone");

    stand.cli.confirm(&run);
    stand.cli.reaches(&run, "FINISHED", LIMIT);
    let sealed = stand.dir().join("state.age");
    let path = sealed.to_str().expect("paths of tests are UTF-8");
    let _ = stand.cli.done(&["state", "pull", &stack.id, "--sealed", "-o", path]);
    for key in [&stand.pool.key, &stand.pool.recovery] {
        let state = opens(&sealed, key)
            .unwrap_or_else(|| panic!("{} does not open the state", key.display()));
        assert!(find(&state, PASSWORD.as_bytes()).is_some(), "it is the state");
        let key = key.to_str().expect("paths of tests are UTF-8");
        assert_eq!(stand.cli.done(&["state", "pull", &stack.id, "--key", key]).stdout, state);
    }
    assert_eq!(opens(&sealed, &foreign), None);
}

/// Whoever can write the object store cannot make a launcher apply or begin with anything else.
#[test]
fn a_changed_object_is_refused() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let stack = stack(&stand, "changed");
    let other = self::stack(&stand, "other");

    let workspaces: [(&str, Change); 3] = [
        ("altered", |object, _| alter(object)),
        ("truncated", |object, _| truncate(object)),
        ("of another run", |object, other| replace(object, other)),
    ];
    for (how, change) in workspaces {
        let foreign = planned(&stand, &other);
        let run = planned(&stand, &stack);
        change(
            &only(stored(&stand, "workspace", &run)),
            &only(stored(&stand, "workspace", &foreign)),
        );
        stand.cli.confirm(&run);
        refused(&stand, &launcher, &run, &format!("a workspace {how}"));
        let _ = stand.cli.ask(&["run", "discard", &foreign]);
    }

    applied(&stand, &stack);
    applied(&stand, &other);
    let before = stored(&stand, "state", &stack.id);
    applied(&stand, &stack);
    let mut now = stored(&stand, "state", &stack.id);
    let older = before.last().expect("the first apply wrote a state").clone();
    now.retain(|path| !before.contains(path));
    let current = current(&stand, &stack, &now);
    let foreign = stored(&stand, "state", &other.id).pop().expect("the other stack has a state");
    let original = fs::read(&current).expect("it is there");
    let states: [(&str, Change, &Path); 4] = [
        ("altered", |object, _| alter(object), &older),
        ("truncated", |object, _| truncate(object), &older),
        ("older", |object, older| replace(object, older), &older),
        ("of another stack", |object, other| replace(object, other), &foreign),
    ];
    for (how, change, with) in states {
        change(&current, with);
        let run = stand.cli.trigger(&stack.id);
        refused(&stand, &launcher, &run, &format!("a state {how}"));
        fs::write(&current, &original).expect("the store is a directory");
    }
    applied(&stand, &stack);
}

/// The object of the current state version: of those that the last run wrote, the one whose hash is listed.
fn current(stand: &Stand, stack: &Stack, files: &[PathBuf]) -> PathBuf {
    let versions = stand.cli.ask(&["state", "list", &stack.id]);
    let versions = versions.as_array().expect("a list");
    let current = versions
        .iter()
        .find(|version| version["current"] == true)
        .expect("a stack has one current state");
    let size = current["size"].as_u64().expect("a state has a size");
    let fits = |path: &&PathBuf| fs::metadata(path).is_ok_and(|about| about.len() == size);
    let mut fitting: Vec<_> = files.iter().filter(fits).cloned().collect();
    // Terraform writes a state more than once; the newest comes last.
    fitting.sort();
    fitting.pop().unwrap_or_else(|| panic!("no object of {size} bytes in {files:?}"))
}

/// The run fails before any hook of it runs, and says what is the matter.
fn refused(stand: &Stand, launcher: &Launcher, run: &str, what: &str) {
    let begun = stand.count("begun");
    let applies = stand.count("applies");
    let view = stand.cli.over(run, LIMIT);
    assert_eq!(view.state(), "FAILED", "{what}");
    assert_eq!(stand.count("begun"), begun, "{what}: a hook was run");
    assert_eq!(stand.count("applies"), applies, "{what}: it was applied");
    let log = stand.cli.log(run);
    let words = String::from_utf8_lossy(&log);
    assert!(words.contains("altered") || words.contains("not the one"), "{what}: {words}");
    stand.nothing_left(launcher);
}

fn alter(object: &Path) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(object).expect("it is there");
    let at = file.metadata().expect("it is there").len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).expect("it is that long");
    file.read_exact(&mut byte).expect("it is that long");
    file.seek(SeekFrom::Start(at)).expect("it is that long");
    file.write_all(&[byte[0] ^ 1]).expect("the store is a directory");
}

fn truncate(object: &Path) {
    let file = fs::OpenOptions::new().write(true).open(object).expect("it is there");
    let length = file.metadata().expect("it is there").len();
    file.set_len(length - 20).expect("the store is a directory");
}

fn replace(object: &Path, other: &Path) {
    fs::copy(other, object).expect("the store is a directory");
}
