//! What `--help` says is a promise.

use super::server::gantry;

#[test]
fn every_command_explains_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = String::new();
    for command in [
        "",
        "server",
        "login",
        "logout",
        "whoami",
        "version",
        "pool",
        "pool create",
        "pool list",
        "pool show",
        "pool set",
        "pool drain",
        "pool undrain",
        "pool cycle",
        "pool reset",
        "pool delete",
        "stack",
        "stack create",
        "stack list",
        "stack show",
        "stack set",
        "stack lock",
        "stack delete",
        "stack unlock",
        "stack upload",
        "run",
        "run trigger",
        "run list",
        "run show",
        "run confirm",
        "run discard",
        "run cancel",
        "run retry",
        "run stop",
        "run logs",
        "state",
        "state list",
        "state pull",
        "state push",
        "key",
        "key create",
        "key list",
        "key revoke",
        "audit",
    ] {
        let output =
            gantry(folder.path()).args(command.split_whitespace()).arg("--help").output().unwrap();
        assert!(output.status.success(), "{command}");
        let text = String::from_utf8(output.stdout).unwrap();
        all.push_str(&["$ gantry ", command, " --help\n", &text, "\n"].concat());
    }
    insta::assert_snapshot!("help", all);
}
