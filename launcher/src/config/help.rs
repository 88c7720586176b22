//! The text of `--help`, made from the table of variables and the exit codes.

use super::variable::{HOST, REQUIRED, RUNS, Variable};
use crate::explain::Exit;

/// Where lines end.
const WIDTH: usize = 80;
/// What stands before the words of a description, but one space.
const INDENT: &str = "     ";

/// What `gantry-launcher --help` prints.
#[must_use]
pub fn help() -> String {
    let tables = [("Required", REQUIRED), ("Runs", RUNS), ("Launcher and host", HOST)];
    let lines = head()
        .chain(tables.into_iter().flat_map(|(title, table)| {
            [String::new(), title.to_owned()].into_iter().chain(table.iter().flat_map(describe))
        }))
        .chain(tail());
    lines.fold(String::new(), |text, line| text + &line + "\n")
}

fn head() -> impl Iterator<Item = String> {
    [
        concat!("gantry-launcher ", env!("CARGO_PKG_VERSION")).to_owned()
            + ": runs what its pool offers, each in a fresh container",
        String::new(),
        "Usage: gantry-launcher [--check | --help | --version]".to_owned(),
        String::new(),
        "--check looks at token, key, certificate, policy, engine, image and broker, says"
            .to_owned(),
        "what it finds, and exits.".to_owned(),
        String::new(),
        "It takes no other arguments: these environment variables set it.".to_owned(),
        "Defaults are in brackets.".to_owned(),
    ]
    .into_iter()
}

fn tail() -> impl Iterator<Item = String> {
    let texts = [
        "",
        "Durations are written as 90s, 70m or 1h10m: more than 0, at most 720h.",
        "An empty variable counts as not set.",
        "",
        "Signals",
        "  TERM  take no more, finish the run, exit; a second one stops the run",
        "  USR2  exit at once and leave the run to the next launcher on this host",
        "",
        "Exit codes",
    ];
    let codes = Exit::ALL.iter().map(|exit| format!("  {:<6}{}", exit.code(), exit.meaning()));
    texts.into_iter().map(str::to_owned).chain(codes)
}

/// The name on a line of its own, because names are long; what it does below, set in.
fn describe(variable: &Variable) -> Vec<String> {
    let default = variable.default.map(|default| format!("[{default}]"));
    let mut lines = vec![format!("  {}", variable.name)];
    let mut line = INDENT.to_owned();
    for word in variable.help.split(' ').chain(default.as_deref()) {
        if line.len() + 1 + word.len() > WIDTH {
            lines.push(std::mem::replace(&mut line, INDENT.to_owned()));
        }
        line.push(' ');
        line.push_str(word);
    }
    lines.push(line);
    lines
}
