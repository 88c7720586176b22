//! `docs/operations.md`, followed word by word.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use gantry_e2e::{BareMachine, Config};

/// Who reads the page, by the first line of a block of commands.
const READERS: [&str; 5] = [
    "# in a clone of the repository",
    "# on the server's host and on your own machine",
    "# on the server's host",
    "# on each host of runs",
    "# on your own machine",
];

/// What is looked at when the blocks of a section are done.
const LOOKED_AT: &[(&str, &str)] = &[
    (
        "A launcher",
        "registered gantry-launcher@1 0\n\
         if command -v systemd-analyze > /dev/null; then\n\
         systemd-analyze verify /etc/systemd/system/gantry-server.service \
         /etc/systemd/system/gantry-launcher@.service\n\
         fi\n\
         [ \"$(stat -c %a:%U /etc/gantry/launcher.env)\" = 600:root ]\n",
    ),
    ("Several launchers on a host", "registered gantry-launcher@2 0\n"),
    ("Upgrading", "registered gantry-launcher@1 1\nregistered gantry-launcher@2 1\n"),
    (
        "Another name for the server",
        "registered gantry-launcher@1 2\nregistered gantry-launcher@2 2\n\
         grep -q new.example.com ~/.config/gantry/credentials.json\n\
         gantry pool show main\n",
    ),
    ("Another key for a pool", "registered gantry-launcher@1\nregistered gantry-launcher@2\n"),
    ("Reading what is sealed", "grep -q '\"serial\"' terraform.tfstate\n"),
];

#[test]
fn the_operations_page_is_followed_word_by_word_on_a_bare_machine() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let config = Config::read();
    let mut script = "begin\n".to_owned();
    let mut blocks = 0;
    for section in page.split("\n## ").flat_map(|section| section.split("\n### ")) {
        let heading = section.lines().next().unwrap_or_default();
        for block in section.split("```sh\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            let reader = block.lines().next().unwrap_or_default();
            assert!(READERS.contains(&reader), "{heading}: {reader:?} says not where it is typed");
            // Each block is typed into a shell of its own.
            let _ = write!(script, "echo '== {heading}'\nsh -eu <<'GANTRY'\n{block}GANTRY\n");
            blocks += 1;
        }
        if let Some((_, look)) = LOOKED_AT.iter().find(|(of, _)| *of == heading) {
            script.push_str(look);
        }
    }
    script.push_str("end\n");
    assert!(blocks > 15, "{blocks}");
    for (heading, _) in LOOKED_AT {
        assert!(page.contains(&format!("# {heading}\n")), "{heading} is no section any more");
    }
    let machine = BareMachine::new(&config);
    let names = ["gantry.example.com", "new.example.com", "runs-1.example.com"];
    let ended = machine.follow(&config, &names, &script);
    let said = format!("{}\n{}", ended.text(), ended.complaint());
    assert_eq!(ended.code, Some(0), "{said}");
    for words in ["5 to add", "Resources: 5 added"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    let warnings: Vec<&str> =
        said.lines().filter(|line| line.to_lowercase().contains("warning")).collect();
    assert!(warnings.is_empty(), "{warnings:?} in {said}");
}
