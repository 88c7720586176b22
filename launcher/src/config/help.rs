//! The text of `--help`, made from the table of variables and the exit codes.

use super::variable::{HOST, REQUIRED, RUNS, Variable};
use crate::explain::Exit;

/// Where lines end.
const WIDTH: usize = 80;

/// What `gantry-launcher --help` prints.
#[must_use]
pub fn help() -> String {
    let mut text = format!(
        "gantry-launcher {}: takes runs of its pool and runs each in a fresh container\n\n\
         Usage: gantry-launcher [--help | --version]\n\n\
         It takes no other arguments: these environment variables set it.\n",
        env!("CARGO_PKG_VERSION"),
    );
    for (title, table) in [("Required", REQUIRED), ("Runs", RUNS), ("Launcher and host", HOST)] {
        text.push_str(&format!("\n{title}\n"));
        table.iter().for_each(|variable| describe(variable, &mut text));
    }
    text.push_str(
        "\nDurations are written as 90s, 70m or 1h10m: more than 0, at most 720h.\n\
         A variable that is set to nothing counts as not set.\n\n\
         Signals\n",
    );
    for (signal, meaning) in [
        ("TERM", "take no more, finish the run, exit; a second one stops the run"),
        ("USR2", "exit at once and leave the run to the next launcher on this host"),
    ] {
        text.push_str(&format!("  {signal:<6}{meaning}\n"));
    }
    text.push_str("\nExit codes\n");
    for exit in Exit::ALL {
        text.push_str(&format!("  {:<6}{}\n", exit.code(), exit.meaning()));
    }
    text
}

/// The name on a line of its own, because names are long; what it does below, set in.
fn describe(variable: &Variable, text: &mut String) {
    text.push_str(&format!("  {}", variable.name));
    if let Some(default) = variable.default {
        text.push_str(&format!("  [{default}]"));
    }
    text.push('\n');
    let mut line = String::from("     ");
    for word in variable.help.split(' ') {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = String::from("     ");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
