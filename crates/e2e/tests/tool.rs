//! What the tool says and does is what it would have said and done without us.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use gantry_e2e::{Stand, Tag, find};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);
const IMPORTED: &str = r#"
resource "terraform_data" "one" {}
import {
  to = terraform_data.one
  id = "abc"
}
variable "exported" {}
output "exported" { value = var.exported }
output "digits" { value = 123456789012345678901234567890 }
output "large" { value = join("", [for n in range(1000) : "0123456789"]) }
"#;

/// An import is `no-op` for what is real and is applied all the same, with what a hook of the plan exported.
/// The same stack without its configuration plans to destroy nothing, though it deploys by itself.
#[test]
fn an_import_is_applied_and_a_source_without_configuration_destroys_nothing() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let many: Vec<_> =
        (0..600).map(|n| format!("output \"n{n}\" {{\n  value = {n}\n}}\n")).collect();
    let many = many.concat();
    let stack = stand
        .stack("imported")
        .file("main.tf", &format!("{IMPORTED}{many}"))
        .flag("--autodeploy")
        .hook(
            "before-init",
            "export TF_VAR_exported='by a hook'; [ ! -e /count/emptied ] || rm main.tf",
        )
        .hook("before-apply", "echo \"it is $TF_VAR_exported\"")
        .create();
    let run = stand.cli.trigger(&stack.id);
    let view = stand.cli.reaches(&run, "FINISHED", LIMIT);
    assert!(view.states().contains(&"APPLYING"), "{:?}", view.states());
    assert_eq!((view.delta(), &view.0["delta"]["import"]), ([0, 0, 0], &json!(1)));
    assert_eq!(view.output("exported"), "by a hook");
    assert_eq!(view.output("digits"), "123456789012345678901234567890");
    assert_eq!(view.output("large").as_str().map(str::len), Some(10_000));
    assert!((0..600).all(|n| view.output(&format!("n{n}")) == &json!(n)), "{view:?}");
    let log = stand.cli.log(&run);
    assert!(find(&log, b"it is by a hook\n").is_some(), "{}", String::from_utf8_lossy(&log));

    stand.give("emptied");
    let run = stand.cli.trigger(&stack.id);
    let view = stand.cli.over(&run, LIMIT);
    let log = stand.cli.log(&run);
    let text = String::from_utf8_lossy(&log);
    assert_eq!(
        (view.state(), view.note()),
        ("FAILED", "plan failed: the tool ended with exit code 1")
    );
    assert!(
        text.contains("No configuration files") && !view.states().contains(&"APPLYING"),
        "{text}"
    );
    assert!(text.ends_with("plan failed: the tool ended with exit code 1\n"), "{text}");
    stand.nothing_left(&launcher);
}

#[test]
fn an_apply_runs_in_the_image_that_planned_though_its_name_has_moved() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let tag = Tag::of_runner("moved");
    let stack = stand
        .stack("moved")
        .file("main.tf", "resource \"terraform_data\" \"one\" {}\n")
        .argument("--image", tag.name())
        .create();
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    tag.moves();
    stand.cli.confirm(&run);
    stand.cli.reaches(&run, "FINISHED", LIMIT);
    stand.nothing_left(&launcher);
}

#[test]
fn an_apply_whose_image_is_not_to_be_had_any_more_fails_and_says_what_to_do() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let tag = Tag::of_its_own("gone");
    let stack = stand
        .stack("gone")
        .file("main.tf", "resource \"terraform_data\" \"one\" {}\n")
        .argument("--image", tag.name())
        .hook("before-apply", "echo apply >> /count/applies")
        .create();
    let run = stand.cli.trigger(&stack.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    stand.nothing_left(&launcher);
    tag.goes();
    stand.cli.confirm(&run);
    let view = stand.cli.over(&run, LIMIT);
    let expected = format!("the plan was made in the image {} when that was sha256:", tag.name());
    assert_eq!((view.state(), stand.count("applies")), ("FAILED", 0));
    assert!(
        view.note().contains(&expected) && view.note().contains("load it from a file"),
        "{:?}",
        view.note()
    );
    stand.nothing_left(&launcher);
}

/// The image has none: what the launcher's host offers runs in its place, and no run changes it.
#[test]
fn the_hosts_tool_is_used_where_the_image_has_none() {
    let stand = Stand::new();
    let tools = stand.dir().join("tools");
    fs::create_dir(&tools).expect("the stand's directory is ours");
    fs::set_permissions(&tools, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let tool = tools.join("terraform");
    fs::write(&tool, "#!/bin/sh\necho \"the host's tool\"\nexec \"$HIDDEN\" \"$@\"\n")
        .expect("it is ours");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let tools = tools.to_str().expect("paths of tests are UTF-8");
    let launcher = stand.launcher("launcher").env("GANTRY_TOOL_DIR", tools).start();
    // All that the image has, but for the tool, and what every phase has at the end of its path.
    let hide = "HIDDEN=$(command -v terraform || command -v tofu); export HIDDEN; mkdir /tmp/bin; \
        IFS=:; for d in $PATH; do for f in \"$d\"/*; do ln -s \"$f\" /tmp/bin/ 2>/dev/null || :; done; done; \
        unset IFS; rm -f /tmp/bin/terraform /tmp/bin/tofu; export PATH=/tmp/bin:/opt/gantry/tool";
    let stack = stand
        .stack("hosted")
        .file("main.tf", "output \"made\" { value = \"by the host's tool\" }\n")
        .hook("before-init", hide)
        .hook("before-plan", "touch /opt/gantry/tool/mine || echo it cannot be changed")
        .create();
    let run = stand.cli.propose(&stack.id);
    let view = stand.cli.over(&run, LIMIT);
    let log = stand.cli.log(&run);
    let text = String::from_utf8_lossy(&log);
    assert_eq!(view.state(), "FINISHED", "{:?}: {text}", view.note());
    for words in ["the host's tool\n", "it cannot be changed\n"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!stand.dir().join("tools/mine").exists());
    stand.nothing_left(&launcher);
}

/// One interrupt, and what was applied until then is kept.
#[test]
fn a_run_that_fills_the_disk_is_stopped_and_its_state_kept() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").env("GANTRY_DISK_LIMIT", "48MiB").start();
    let fill = r#"
resource "terraform_data" "first" { input = "first" }
resource "terraform_data" "large" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" {
    command = <<-EOT
      trap 'echo interrupt >> /count/interrupts; exit 1' INT
      head -c 67108864 /dev/zero > "$WHERE"
      while true; do sleep 0.1; done
    EOT
  }
}
"#;
    // Its workspace, and the container's own file system.
    for (n, place) in ["large", "/tmp/large"].into_iter().enumerate() {
        let stack = stand
            .stack(&format!("fills-{n}"))
            .file("main.tf", fill)
            .env("WHERE", place)
            .flag("--autodeploy")
            .create();
        let run = stand.cli.trigger(&stack.id);
        let view = stand.cli.over(&run, LIMIT);
        let log = stand.cli.log(&run);
        let text = String::from_utf8_lossy(&log);
        assert_eq!(view.state(), "STOPPED", "{place}: {:?}: {text}", view.note());
        assert!(text.contains("and may have 48 MiB (GANTRY_DISK_LIMIT)"), "{place}: {text}");
        assert_eq!(stand.count("interrupts"), n + 1, "{place}: {text}");
        let versions = stand.cli.ask(&["state", "list", &stack.id]);
        assert_eq!(versions[0]["current"], true, "{place}: {versions}");
        stand.nothing_left(&launcher);
    }
}
