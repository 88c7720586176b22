//! What an operator does day by day: look, change, lock, retry, clean up.

use std::fs;

use serde_json::{Value, json};

use super::server::Server;
use super::way::{source, with_pool};

/// A server with a stack, `Network` or `net`, in pool `net`.
fn with_stack() -> Server {
    let server = with_pool();
    source(&server);
    let create =
        ["stack", "create", "Network", "--id", "net", "--pool", "net", "--source", "source"];
    server.ask(&create);
    server
}

#[test]
fn a_stack_is_shown_and_changed() {
    let server = with_stack();
    let changes = [
        "--env",
        "REGION=eu",
        "--label",
        "prod",
        "--before-plan",
        "echo plan",
        "--autodeploy",
        "--secret",
        "TOKEN=correct horse",
        "--image",
        "runner:2",
    ];
    server.ask(&[&["stack", "set", "Network"], &changes[..]].concat());
    let shown = server.ask(&["stack", "show", "net"]);
    assert_eq!(shown["environment"], json!({ "REGION": "eu" }));
    assert_eq!(shown["hooks"], json!({ "before_plan": ["echo plan"] }));
    assert_eq!((&shown["autodeploy"], &shown["image"]), (&json!(true), &json!("runner:2")));
    assert_eq!(shown["secrets_version"], 1);
    let (code, said) = server.fail(&["stack", "set", "net", "--secret", "OTHER=battery staple"]);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("take the place of all of them") && said.contains("--replace-secrets"),
        "{said}"
    );
    assert!(!said.contains("battery"), "{said}");
    server.ask(&["stack", "set", "net", "--secret", "OTHER=battery staple", "--replace-secrets"]);
    let rest = ["--unset-env", "REGION", "--clear-hook", "before-plan", "--autodeploy", "false"];
    server.ask(&[&["stack", "set", "net", "--image", ""], &rest[..]].concat());
    let shown = server.ask(&["stack", "show", "net"]);
    assert_eq!((&shown["environment"], &shown["hooks"]), (&json!({}), &json!({})));
    assert_eq!((&shown["image"], &shown["secrets_version"]), (&Value::Null, &json!(2)));
    let (code, said) = server.fail(&["stack", "set", "net"]);
    assert!(code == 2 && said.contains("nothing is to change"), "{said}");
    let (_, said) = server.fail(&["stack", "set", "net", "--image", "https://registry/runner"]);
    assert!(said.contains("image: it is not the name of an image: it has a scheme"), "{said}");
    let text = String::from_utf8(server.run(&["stack", "show", "net"]).stdout).unwrap();
    assert!(text.starts_with("stack            Network (net)\n"), "{text}");
}

#[test]
fn a_locked_stack_says_so_until_it_is_unlocked_and_a_deleted_one_is_gone() {
    let server = with_stack();
    server.ask(&["stack", "lock", "net", "--note", "moving house"]);
    let (_, said) = server.fail(&["stack", "lock", "net"]);
    assert!(said.contains("is locked by api::admin already"), "{said}");
    assert_eq!(server.ask(&["stack", "show", "net"])["locked_by"], "api::admin");
    let run = server.ask(&["run", "trigger", "net"])["id"].clone();
    let run = run.as_str().unwrap();
    let waits = server.ask(&["run", "show", run])["waits"].clone();
    assert_eq!(waits[0]["kind"], "NO_WORKER", "the lock's owner passes it");
    let text = String::from_utf8(server.run(&["run", "show", run]).stdout).unwrap();
    assert!(
        text.contains("waits         pool net has no worker; start a `gantry-launcher`"),
        "{text}"
    );
    server.ask(&["stack", "unlock", "Netw"]);
    let (code, said) = server.fail(&["stack", "delete", "net"]);
    assert!(code == 2 && said.contains("gantry stack delete net --yes"), "{said}");
    let (_, said) = server.fail(&["stack", "delete", "net", "--yes"]);
    assert!(said.contains("is not over: stop or discard it first"), "{said}");
    server.ask(&["run", "cancel", run]);
    let (_, said) = server.fail(&["pool", "delete", "net", "--yes"]);
    assert!(said.contains("pool net is used by net"), "{said}");
    let (_, said) = server.fail(&["stack", "delete", "Netw", "--yes"]);
    assert!(
        said.contains("stack Netw not found"),
        "what is not undone needs the whole word: {said}"
    );
    server.ask(&["stack", "delete", "net", "--yes"]);
    assert_eq!(server.ask(&["stack", "list"]), json!([]));
    assert_eq!(server.ask(&["run", "show", run])["stack"], "net");
    server.ask(&["pool", "delete", "net", "--yes"]);
    assert_eq!(server.ask(&["pool", "list"]), json!([]));
}

#[test]
fn runs_of_all_stacks_are_listed_found_by_their_beginning_and_retried() {
    let server = with_stack();
    let metadata = r#"{"ticket":7}"#;
    let run = server.ask(&["run", "trigger", "Network", "--run-metadata", metadata])["id"].clone();
    let run = run.as_str().unwrap();
    let shown = server.ask(&["run", "show", &run[..20].to_lowercase()]);
    assert_eq!((&shown["id"], &shown["metadata"]), (&json!(run), &json!([metadata])));
    server.ask(&["run", "discard", run, "--note", "not today"]);
    assert_eq!(server.ask(&["run", "show", run])["note"], "discarded by api::admin: not today");
    let again = server.ask(&["run", "retry", run])["id"].clone();
    let listed = server.ask(&["run", "list"]);
    let ids: Vec<_> =
        listed.as_array().unwrap().iter().map(|it| (&it["id"], &it["stack"])).collect();
    assert_eq!(ids, [(&again, &json!("net")), (&json!(run), &json!("net"))]);
    let (_, said) = server.fail(&["run", "show", "0"]);
    assert!(said.contains("0 can be any of several runs: "), "{said}");
    let (_, said) = server.fail(&["run", "retry", again.as_str().unwrap()]);
    assert!(said.contains("cannot retry a run that is READY: wait until it is over"), "{said}");
    let audit = server.ask(&["audit"]);
    let acts: Vec<_> =
        audit.as_array().unwrap().iter().map(|it| it["action"].as_str().unwrap()).collect();
    assert_eq!(acts[..3], ["run.trigger", "run.discard", "run.trigger"]);
}

#[test]
fn a_key_is_made_used_and_revoked() {
    let server = Server::start();
    server.ask(&["login", "--from", "data/admin.json"]);
    server.ask(&["key", "create", "ci", "--out", "ci.json"]);
    let listed = server.ask(&["key", "list"]);
    assert_eq!(
        (&listed[0]["name"], &listed[0]["created_by"]),
        (&json!("ci"), &json!("api::admin"))
    );
    let (_, said) = server.fail(&["key", "create", "ci", "--out", "ci.json"]);
    assert!(said.contains("ci.json exists already"), "{said}");
    server.ask(&["login", "--from", "ci.json"]);
    assert_eq!(server.ask(&["whoami"])["name"], "ci");
    assert_eq!(server.ask(&["version"])["server"], env!("CARGO_PKG_VERSION"));
    server.ask(&["key", "revoke", "admin"]);
    let (_, said) = server.fail(&["key", "revoke", "ci"]);
    assert!(said.contains("last API key"), "{said}");
    let (code, _) = server.fail(&["login", "--from", "data/admin.json"]);
    assert_eq!(code, 5);
    assert_eq!(server.ask(&["logout"])["removed"], true);
    let (code, _) = server.fail(&["whoami"]);
    assert_eq!(code, 5);
    assert_eq!(server.ask(&["version"])["server"], Value::Null);
}

#[test]
fn a_pool_is_renamed_cycled_and_reset_with_its_own_key_only() {
    let server = Server::start();
    server.ask(&["login", "--from", "data/admin.json"]);
    server.ask(&["pool", "create", "net", "--no-recovery"]);
    server.ask(&["pool", "set", "net", "--name", "west", "--description", "the west"]);
    let shown = server.ask(&["pool", "show", "west"]);
    assert_eq!((&shown["description"], &shown["workers"]), (&json!("the west"), &json!([])));
    for (name, part) in
        [("two\nlines", "line feed"), ("01J00000000000000000000000", "looks like an id")]
    {
        let (_, said) = server.fail(&["pool", "set", "west", "--name", name]);
        assert!(said.contains(part), "{said}");
    }
    server.ask(&["pool", "cycle", "west"]);
    assert_eq!(server.ask(&["pool", "drain", "west", "--all"]), json!([]));
    let (_, said) = server.fail(&["pool", "undrain", "west", "01J0"]);
    assert!(said.contains("worker 01J0 not found"), "{said}");
    server.ask(&["pool", "create", "other", "--no-recovery"]);
    let reset = |key: &str| {
        ["pool", "reset", "west", "--key", key, "--token-out", "new.token"].map(str::to_owned)
    };
    let (_, said) = server.fail(&reset("other.key").each_ref().map(String::as_str));
    let expected =
        "other.key is not the present private key of pool west, and nothing is sealed to that yet";
    assert!(said.contains(expected), "{said}");
    let (_, said) = server.fail(&reset("net.token").each_ref().map(String::as_str));
    assert!(said.contains("net.token is a pool's token, not a private key"), "{said}");
    server.ask(&reset("net.key").each_ref().map(String::as_str));
    let at = |path: &str| fs::read_to_string(server.folder.path().join(path)).unwrap();
    assert_ne!(at("new.token"), at("net.token"));
    let another = ["--key", "other.key", "--another-key", "--token-out", "other-2.token"];
    server.ask(&[&["pool", "reset", "west"], &another[..]].concat());
    let token = gantry_protocol::PoolToken::parse(&at("other-2.token")).unwrap();
    let key = gantry_protocol::PoolKey::from_pem(at("other.key").as_bytes()).unwrap();
    assert!(token.check_key(&key).is_ok());
}

/// A state as Terraform writes one.
fn state(serial: u64) -> String {
    let value = json!({
        "version": 4, "terraform_version": "1.9.0", "serial": serial, "lineage": "a-lineage",
        "outputs": {}, "resources": [],
    });
    value.to_string()
}

#[test]
fn a_state_is_sealed_and_signed_here_and_comes_back_as_it_was() {
    let server = Server::start();
    server.ask(&["login", "--from", "data/admin.json"]);
    server.ask(&["pool", "create", "net"]);
    source(&server);
    let create = ["stack", "create", "Network", "--id", "net", "--pool", "net"];
    server.ask(&[&create[..], &["--source", "source"]].concat());
    let at = |path: &str| server.folder.path().join(path);
    fs::write(at("first.tfstate"), state(7)).unwrap();
    let push =
        |file: &str, key: &str| ["state", "push", "net", file, "--key", key].map(str::to_owned);
    let ask = |arguments: &[String]| {
        server.ask(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let fail = |arguments: &[String]| {
        server.fail(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).1
    };
    let pushed = ask(&push("first.tfstate", "net.key"));
    assert_eq!((&pushed["serial"], &pushed["moved_to"]), (&json!(7), &Value::Null));
    for key in ["net.key", "recovery.key"] {
        server.ask(&["state", "pull", "net", "--key", key, "-o", "back.tfstate"]);
        assert_eq!(fs::read_to_string(at("back.tfstate")).unwrap(), state(7), "{key}");
    }
    let listed = server.ask(&["state", "list", "net"]);
    assert_eq!(
        (&listed[0]["pushed_by"], &listed[0]["current"]),
        (&json!("api::admin"), &json!(true))
    );
    let said = fail(&push("first.tfstate", "recovery.key"));
    assert!(said.contains("not the private key of pool net: it is the recovery key"), "{said}");
    let said = fail(&push("first.tfstate", "net.key"));
    assert!(said.contains("its serial is 7, and the stack's state has 7"), "{said}");
    let said = fail(&push("source/main.tf", "net.key"));
    assert!(said.contains("main.tf is not a state"), "{said}");
    let run = server.ask(&["run", "task", "net", "terraform state list"])["id"].clone();
    fs::write(at("second.tfstate"), state(8)).unwrap();
    let said = fail(&push("second.tfstate", "net.key"));
    assert!(said.contains(run.as_str().unwrap()), "{said}");
    server.ask(&["run", "cancel", run.as_str().unwrap()]);

    server.ask(&["pool", "create", "west"]);
    let (_, said) = server.fail(&["stack", "set", "net", "--pool", "west"]);
    assert!(said.contains("gantry state push net FILE --pool NEW --key NEW.key"), "{said}");
    let to_west =
        |key: &str| [&push("back.tfstate", key)[..], &["--pool".into(), "west".into()]].concat();
    let said = fail(&to_west("net.key"));
    assert!(said.contains("not the private key of pool west"), "{said}");
    assert_eq!(ask(&to_west("west.key"))["moved_to"], "west");
    let shown = server.ask(&["stack", "show", "net"]);
    assert_eq!(shown["pool"], server.ask(&["pool", "show", "west"])["id"], "{shown}");
    server.ask(&["state", "pull", "net", "--key", "west.key", "-o", "moved.tfstate"]);
    assert_eq!(fs::read_to_string(at("moved.tfstate")).unwrap(), state(7));
    let audit = server.ask(&["audit"]);
    assert_eq!(audit[0]["action"], "stack.state_push");
}
