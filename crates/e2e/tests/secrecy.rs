//! A secret does not lie about.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use gantry_e2e::{Launcher, Secrecy, Stand, containers, traces};

const LIMIT: Duration = Duration::from_secs(90);
const SOURCE: &str = r#"
variable "password" {
  type      = string
  sensitive = true
}
variable "odd" {
  type      = string
  sensitive = true
}
resource "terraform_data" "kept" { input = var.password }
resource "terraform_data" "odd" { input = jsonencode({ odd = nonsensitive(var.odd) }) }
output "shown" { value = nonsensitive("password=${var.password}") }
output "odd" { value = nonsensitive(var.odd) }
output "hidden" {
  value     = var.password
  sensitive = true
}
"#;

/// What Terraform spells otherwise than it is.
const ODD: &str = r#"p<a>s&s"w\d${x}%{y}"#;

/// While the run is on, the secret is nowhere but in its 0700 directory, its container and its memory; after it,
/// it is nowhere.
#[test]
fn secret_is_nowhere() {
    let begin = SystemTime::now();
    let stand = Stand::with_recovery();
    // Known to nobody else on this host, not even to the file that this test was built from.
    let password = random();
    let secrecy = Secrecy::of(&password);
    let watch = Watch { stand: &stand, secrecy: &secrecy, begin };
    let mut launcher = stand.launcher("launcher").env("GANTRY_LOG_LEVEL", "trace").start();
    let wait = |phase: &str| {
        format!(
            r#"echo "$TF_VAR_password" >&2; printf 'token=%s\n' "$TF_VAR_password"; echo "$TF_VAR_password" > kept
            touch /count/{phase}; while [ ! -e /count/go-{phase} ]; do sleep 0.1; done"#
        )
    };
    let stack = stand
        .stack("secret")
        .file("main.tf", SOURCE)
        .secret("TF_VAR_password", &password)
        .secret("TF_VAR_odd", ODD)
        .secret("PIN", "q7z")
        .hook("before-plan", "echo state=$TF_HTTP_PASSWORD; echo odd=$TF_VAR_odd")
        .hook("before-plan", &wait("planning"))
        .hook("after-apply", &wait("applied"))
        .hook("after-apply", "echo \"denied by $TF_VAR_password\"; exit 0")
        .create();
    nowhere(&watch, &launcher, "before the run");

    let run = stand.cli.trigger(&stack.id);
    stand.awaits("planning", LIMIT);
    nowhere(&watch, &launcher, "during the plan");
    stand.give("go-planning");
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    stand.nothing_left(&launcher);
    nowhere(&watch, &launcher, "between plan and apply");
    stand.cli.confirm(&run);
    stand.awaits("applied", LIMIT);
    nowhere(&watch, &launcher, "during the apply");
    stand.give("go-applied");
    let view = stand.cli.reaches(&run, "FINISHED", LIMIT);
    assert_eq!(view.output("shown"), "password=*****");
    assert_eq!(view.output("odd"), "*****");
    masked_as_printed(&String::from_utf8_lossy(&stand.cli.log(&run)));
    stand.nothing_left(&launcher);
    assert_eq!(launcher.stop().code, Some(0));
    nowhere(&watch, &launcher, "after the run");
    assert!(!secrecy.is_in(view.0.to_string().as_bytes()));
    assert!(!secrecy.is_in(&stand.cli.log(&run)));
}

/// Where is looked for what.
struct Watch<'a> {
    stand: &'a Stand,
    secrecy: &'a Secrecy,
    begin: SystemTime,
}

fn nowhere(watch: &Watch<'_>, launcher: &Launcher, when: &str) {
    let Watch { stand, secrecy, begin } = watch;
    // What a run has in hand is below its own directory, which nobody but the launcher's user enters.
    let runs = launcher.runs();
    for run in &runs {
        let mode = fs::metadata(run)
            .map(|about| std::os::unix::fs::PermissionsExt::mode(&about.permissions()));
        assert_eq!(mode.expect("it is there") & 0o777, 0o700, "{}", run.display());
    }
    let places: [&Path; 7] = [
        stand.dir(),
        Path::new("/tmp"),
        Path::new("/var/tmp"),
        launcher.secrets_dir(),
        Path::new("/var/log"),
        Path::new("/run"),
        Path::new("/var/lib/docker/containers"),
    ];
    let found = traces(secrecy, *begin, &places, &runs);
    assert!(found.is_empty(), "{when}: {found:?}");
    for container in containers(&stand.pool.id) {
        assert!(
            !secrecy.is_in(container.inspected.to_string().as_bytes()),
            "{when}: docker inspect"
        );
    }
    assert!(!secrecy.is_in(&stand.server.said()), "{when}: the server says it");
    assert!(!secrecy.is_in(&launcher.said()), "{when}: the launcher says it");
    let containers = containers(&stand.pool.id);
    let first = containers.iter().map(|container| &container.inspected["State"]["Pid"]);
    let first = first.filter_map(|pid| u32::try_from(pid.as_u64()?).ok().filter(|pid| *pid != 0));
    for process in first.chain([stand.server.pid()]) {
        let arguments = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        assert!(!secrecy.is_in(&arguments), "{when}: an argument of process {process}");
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        assert!(!secrecy.is_in(&environment), "{when}: the environment of process {process}");
    }
}

/// However it was printed, and what cannot be masked is said.
fn masked_as_printed(log: &str) {
    for line in [
        "the value of PIN is not masked in this log: it has fewer than 4 characters\n",
        "state=*****\n",
        "odd=*****\n",
    ] {
        assert!(log.contains(line), "{line:?} is not in:\n{log}");
    }
    for part in ["p<a", "u003ca", "s&s", "u0026s", "w\\d", "{y}"] {
        assert!(!log.contains(part), "{part:?} is in:\n{log}");
    }
}

fn random() -> String {
    let mut bytes = [0; 16];
    let mut source = fs::File::open("/dev/urandom").expect("every host has one");
    source.read_exact(&mut bytes).expect("it never ends");
    format!("{:032x}", u128::from_be_bytes(bytes))
}
