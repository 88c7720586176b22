//! What stands between a run and the launcher that runs it.

use std::process::Command;
use std::time::Duration;

use gantry_e2e::{Stand, find};

const LIMIT: Duration = Duration::from_secs(90);
const ONE: &str = "resource \"terraform_data\" \"one\" {}\n";
/// What a hook of a plan tries; each line that it writes is a success.
const ATTACK: &str = r#"
    try() { "$@" >/dev/null 2>&1 && echo "$*" >>/count/did; }
    try chmod 000 /gantry/spool
    try rm -f /gantry/spool/begun
    try touch /gantry/spool/answers/stored-1
    for path in /gantry /gantry/bin /gantry/spool /gantry/in /gantry/spool/answers /proc/1/root /proc/1/maps; do
        try ls $path/
        try cat $path
    done
    stat -c '%u:%g %a' /gantry >/count/mode
    true
"#;

/// The launcher is the user of the phases, and the image names one, as the default image does.
#[test]
fn a_hook_reaches_nothing_that_its_launcher_keeps() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").user_of_the_phases().start();
    let stack = stand
        .stack("attack")
        .file("main.tf", ONE)
        .hook("before-plan", ATTACK)
        .hook("after-apply", ATTACK)
        .create();
    let proposed = stand.cli.propose(&stack.id);
    assert_eq!(stand.cli.over(&proposed, LIMIT).state(), "FINISHED");
    stand.nothing_left(&launcher);
    let next = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&next, "UNCONFIRMED", LIMIT);
    stand.cli.confirm(&next);
    assert_eq!(stand.cli.over(&next, LIMIT).state(), "FINISHED");
    stand.nothing_left(&launcher);
    assert_eq!(String::from_utf8_lossy(&stand.wrote("did")), "");
    assert_eq!(String::from_utf8_lossy(&stand.wrote("mode")), "0:0 700\n");
}

/// However the image spells it; and it is one variable that lets it.
#[test]
fn an_image_that_wants_root_runs_only_where_that_is_allowed() {
    let stand = Stand::new();
    let image = as_root(&stand.config.image); // starts: docker
    let stack = stand
        .stack("root")
        .file("main.tf", ONE)
        .argument("--image", &image)
        .hook("before-init", "id -u >>/count/who")
        .create();
    let mut launcher = stand.launcher("launcher").start();
    let run = stand.cli.trigger(&stack.id);
    assert_eq!(stand.cli.over(&run, LIMIT).state(), "FAILED");
    let log = stand.cli.log(&run);
    assert!(find(&log, b"GANTRY_ALLOW_ROOT").is_some(), "{}", String::from_utf8_lossy(&log));
    assert!(stand.wrote("who").is_empty());
    assert_eq!(launcher.stop().code, Some(0));
    let _launcher = stand.launcher("launcher").env("GANTRY_ALLOW_ROOT", "true").start();
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    assert_eq!(stand.wrote("who"), b"0\n");
}

/// The same image but for its user.
fn as_root(image: &str) -> String {
    let docker = |arguments: &[&str]| {
        let output = Command::new("docker").args(arguments).output().expect("docker is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let made = "gantry-e2e-root:local";
    let container = docker(&["create", image]);
    docker(&["commit", "--change", "USER root", &container, made]);
    docker(&["rm", &container]);
    made.to_owned()
}
