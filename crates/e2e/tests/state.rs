//! States that people bring in, and tasks that change them.

use std::fs;
use std::time::Duration;

use gantry_e2e::{Stand, find};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);

/// A stack that elsewhere was built and whose state is brought in: the first run finds what is there and
/// changes nothing. A task renames a resource in it; the next plan, of the source with the old name, sees that.
#[test]
fn a_pushed_state_is_what_runs_plan_with_and_a_task_changes_it() {
    let stand = Stand::new();
    let launcher = stand.launcher("launcher").start();
    let stack = stand
        .stack("moved")
        .file("main.tf", "resource \"terraform_data\" \"one\" { input = \"one\" }\n")
        .create();
    let file = stand.dir().join("elsewhere.tfstate");
    let instance = json!({
        "schema_version": 0, "sensitive_attributes": [],
        "attributes": {
            "id": "9d2ab4b1-8d4c-4c0e-9d3f-1b2c3d4e5f60",
            "input": { "value": "one", "type": "string" }, "output": { "value": "one", "type": "string" },
            "triggers_replace": null,
        },
    });
    let state = json!({
        "version": 4, "terraform_version": "1.0.0", "serial": 41, "outputs": {},
        "lineage": "5b0c4f1e-0000-4000-8000-000000000000",
        "resources": [{
            "mode": "managed", "type": "terraform_data", "name": "one",
            "provider": "provider[\"terraform.io/builtin/terraform\"]", "instances": [instance],
        }],
    });
    fs::write(&file, state.to_string()).expect("the directory is ours");
    let (file, key) = (path(&file), path(&stand.pool.key));
    let _ = stand.cli.ask(&["state", "push", &stack.id, &file, "--key", &key]);

    let run = stand.cli.trigger(&stack.id);
    let view = stand.cli.reaches(&run, "FINISHED", LIMIT);
    assert_eq!(view.delta(), [0, 0, 0], "it is all there");
    stand.nothing_left(&launcher);

    let command = "terraform state mv terraform_data.one terraform_data.two && echo renamed";
    let task = stand.cli.ask(&["run", "task", &stack.id, command]);
    let task = task["id"].as_str().expect("a run has an id").to_owned();
    let view = stand.cli.reaches(&task, "FINISHED", LIMIT);
    assert!(view.states().contains(&"PERFORMING"), "{:?}", view.states());
    let log = stand.cli.log(&task);
    assert!(find(&log, b"renamed\n").is_some(), "{}", String::from_utf8_lossy(&log));
    let run = stand.cli.propose(&stack.id);
    assert_eq!(stand.cli.reaches(&run, "FINISHED", LIMIT).delta(), [1, 0, 1]);

    let out = path(&stand.dir().join("now.tfstate"));
    let _ = stand.cli.ask(&["state", "pull", &stack.id, "--key", &key, "-o", &out]);
    let now: Value =
        serde_json::from_slice(&fs::read(out).expect("it was written")).expect("a state is JSON");
    assert_eq!((&now["serial"], &now["lineage"]), (&json!(42), &state["lineage"]));
    assert_eq!(now["resources"][0]["name"], "two");
    stand.nothing_left(&launcher);
}

fn path(path: &std::path::Path) -> String {
    path.to_str().expect("paths of tests are UTF-8").to_owned()
}
