//! Two pools of one server.

use std::time::Duration;

use gantry_e2e::{Pool, Stand};

const LIMIT: Duration = Duration::from_secs(90);

/// A run waits for a worker of its own pool, whoever else is idle; and a token is worth nothing with another pool's key.
#[test]
fn pools_cannot_reach_each_other() {
    let stand = Stand::new();
    let foreign = Pool::create(&stand.cli, stand.dir(), "foreign", false);
    let _own = stand.launcher("own").start();
    let mut wrong = stand
        .launcher("wrong")
        .env("SPACELIFT_POOL_PRIVATE_KEY", &foreign.key_text())
        .start_unregistered();
    let ended = wrong.left(Duration::from_secs(30));
    assert_eq!(ended.code, Some(64), "{}", ended.text());
    assert!(ended.text().contains("does not match"), "{}", ended.text());

    let stack = stand
        .stack("foreign")
        .pool(&foreign.id)
        .file("main.tf", "resource \"terraform_data\" \"one\" {}\n")
        .create();
    let waiting = stand.cli.trigger(&stack.id);
    let own =
        stand.stack("own").file("main.tf", "resource \"terraform_data\" \"one\" {}\n").create();
    let run = stand.cli.trigger(&own.id);
    stand.cli.reaches(&run, "UNCONFIRMED", LIMIT);
    assert_eq!(stand.cli.show(&waiting).state(), "READY");
    assert!(stand.cli.show(&waiting).attempts().is_empty());

    let _worker = stand
        .launcher("foreign")
        .env("SPACELIFT_TOKEN", &foreign.token)
        .env("SPACELIFT_POOL_PRIVATE_KEY", &foreign.key_text())
        .start();
    stand.cli.reaches(&waiting, "UNCONFIRMED", LIMIT);
}
