//! What the documents tell people to type.

use std::fs;
use std::path::Path;

use gantry_protocol::{PoolKey, PoolToken};

use super::server::{Server, alone};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The first block of shell commands below a heading of a page.
fn block(page: &str, heading: &str) -> String {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let below = text.split(heading).nth(1).unwrap();
    let block = below.split("```sh\n").nth(1).unwrap();
    block.split("```").next().unwrap().to_owned()
}

/// Runs commands as a person does who has `gantry` on PATH, and is logged in.
fn typed(server: &Server, folder: &Path, script: &str) {
    let programs = Path::new(env!("CARGO_BIN_EXE_gantry")).parent().unwrap().display();
    let mut shell = alone(server.folder.path(), "sh");
    shell.args(["-ec", script]).current_dir(folder);
    shell.env("PATH", format!("{programs}:/usr/local/bin:/usr/bin:/bin"));
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_pool_and_the_stack_of_the_documents_are_made_as_they_say() {
    let server = Server::start();
    let folder = server.folder.path();
    server.ask(&["login", "--from", "data/admin.json"]);
    typed(&server, folder, &block("docs/operations.md", "## A pool"));
    let token = PoolToken::parse(&fs::read_to_string(folder.join("main.token")).unwrap()).unwrap();
    let key = |file: &str| PoolKey::from_pem(&fs::read(folder.join(file)).unwrap()).unwrap();
    assert!(token.check_key(&key("spacelift.key")).is_ok());
    assert!(token.check_key(&key("recovery.key")).is_err());
    let example = block("examples/terraform-stack/README.md", "# ");
    assert!(example.contains("--pool demo") && example.contains(" --follow"), "{example}");
    // No launcher is here to follow.
    let script = example.replace("--pool demo", "--pool main").replace(" --follow", "");
    typed(&server, root(), &script);
    let runs = server.ask(&["run", "list", "terraform-stack"]);
    assert_eq!(runs.as_array().map(Vec::len), Some(1), "{runs}");
    let example = block("examples/custom-stack/README.md", "# ");
    typed(&server, root(), &example.replace("--pool demo", "--pool main").replace(" --follow", ""));
    let shown = server.ask(&["stack", "show", "custom-stack"]);
    assert_eq!(
        (&shown["tool"]["kind"], &shown["tool"]["plan_command"], &shown["keeps_state"]),
        (&"custom".into(), &"./plan.sh".into(), &false.into())
    );
    for heading in ["## A day", "## Workers", "## Keys"] {
        typed(&server, folder, &block("docs/cli.md", heading));
    }
    let runs = server.ask(&["run", "list"]);
    assert_eq!(runs.as_array().map(Vec::len), Some(4), "{runs}");
}
