//! What the tool says and does is what it would have said and done without us.

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
