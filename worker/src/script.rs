//! The text that one shell session runs.
//!
//! Hooks and command are links of one chain of `&&`, each in braces of its own: the first that fails
//! ends the session, and what one exports the next one sees. Two traps stand before the chain.
//!
//! On EXIT the environment goes to the descriptor that [`crate::EnvironmentSlot`] keeps. Nothing of
//! it reaches the log, and it is also written when a hook calls `exit` or fails.
//!
//! On the interrupt: it is sent to the whole process group, as a terminal does on ctrl-c, so each
//! process gets it exactly once and wrappers around the tool see what they are made for. A shell
//! without a trap would die of it at once and leave the tool behind without anybody who knows its
//! exit code. With one it waits for the tool, then leaves with the tool's code, and the chain is not
//! continued even if the tool ended well. Traps are not inherited, so the tool sees the default.
//!
//! Each link of a phase reports that it begins, and the tool its exit code, in lines in front of the
//! environment: [`crate::marks`] reads them. A tool's script stands in front of `||`, so that no
//! `set -e` of a hook ends the shell between the tool and its report.

use std::fmt::Write;
use std::os::fd::RawFd;

use gantry_spool::order::{Interrupt, PhaseOrder, ToolOrder};

/// An argument can hold no more than 128 KiB, its final zero included.
pub(crate) const MAX_SCRIPT: usize = 128 * 1024 - 1;

/// The session of a phase.
pub(crate) fn of_phase(phase: &PhaseOrder, interrupt: Interrupt, slot: Option<RawFd>) -> String {
    let mut script = begin(interrupt, slot);
    let hook = |hook: &String| link(hook);
    let command = match &phase.tool {
        Some(tool) => tool_link(tool, slot),
        None => link(&phase.command),
    };
    let links = phase.before.iter().map(hook).chain([command]).chain(phase.after.iter().map(hook));
    for (number, link) in links.enumerate() {
        if number > 0 {
            script.push_str(" && ");
        }
        // An outer pair of braces, so that the report does not stand between two links.
        script.push_str("{ ");
        if let Some(slot) = slot {
            script.push_str(&report(slot, &format!("=began {number}")));
        }
        script.push_str(&link);
        script.push_str("; }");
    }
    script.push('\n');
    script
}

/// A session of these commands.
pub(crate) fn chain<'a>(
    links: impl Iterator<Item = &'a str>,
    interrupt: Interrupt,
    slot: Option<RawFd>,
) -> String {
    let links: Vec<_> = links.map(link).collect();
    format!("{}{}\n", begin(interrupt, slot), links.join(" && "))
}

fn begin(interrupt: Interrupt, slot: Option<RawFd>) -> String {
    let signal = match interrupt {
        Interrupt::Sigint => "INT",
        Interrupt::Sigterm => "TERM",
    };
    let mut script = format!("umask 022\ntrap 'exit $(($? ? $? : 130))' {signal}\n");
    if let Some(slot) = slot {
        let write = writeln!(
            script,
            "trap '{{ env -0 >&{slot} || command -p env -0 >&{slot}; }} 2>/dev/null' EXIT"
        );
        write.expect("a string takes any text");
    }
    script
}

/// The colon makes an empty hook, or one that is all comment, a command; the line breaks keep comments and
/// here-documents of the hook within the hook.
fn link(text: &str) -> String {
    format!("{{ :\n{text}\n}}")
}

/// Without a descriptor there is nobody to report to, and the exit code has to do.
fn tool_link(tool: &ToolOrder, slot: Option<RawFd>) -> String {
    let refused = slot.map_or_else(String::new, |slot| report(slot, "=refused $1"));
    let ended = slot.map_or_else(String::new, |slot| report(slot, "=tool $gantry_ended"));
    let changes = tool.changes_code.unwrap_or(0);
    format!(
        "gantry_refuse() {{ {refused}exit 1; }}\n\
         gantry_ended=0\n\
         {} || gantry_ended=$?\n\
         {ended}[ \"$gantry_ended\" = 0 ] || [ \"$gantry_ended\" = {changes} ] || (exit \"$gantry_ended\")",
        link(&tool.script)
    )
}

/// A hook may have closed the descriptor: that it did not report is seen then.
fn report(slot: RawFd, what: &str) -> String {
    format!("{{ echo \"{what}\" >&{slot}; }} 2>/dev/null || :; ")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Read};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Output};

    use rustix::process::{Pid, Signal, kill_process_group};

    use super::*;

    fn shells() -> impl Iterator<Item = &'static str> {
        ["/bin/sh", "/bin/bash"].into_iter().filter(|shell| std::path::Path::new(shell).exists())
    }

    fn run(shell: &str, links: &[&str]) -> Output {
        let script = chain(links.iter().copied(), Interrupt::Sigint, Some(2));
        // starts: sh, bash
        Command::new(shell)
            .arg("-c")
            .arg(script)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .output()
            .unwrap()
    }

    #[test]
    fn the_longest_script_is_what_the_system_takes() {
        let status = |length: usize| {
            let script = format!("exit 3{}", " ".repeat(length - 6));
            Command::new("/bin/sh").arg("-c").arg(script).status()
        };
        assert_eq!(status(MAX_SCRIPT).unwrap().code(), Some(3));
        assert!(status(MAX_SCRIPT + 1).is_err());
    }

    #[test]
    fn a_chain_ends_at_the_first_failure() {
        for shell in shells() {
            let output = run(shell, &["echo a", "(exit 3)", "echo b"]);
            assert_eq!(output.status.code(), Some(3), "{shell}");
            assert_eq!(output.stdout, b"a\n", "{shell}");
        }
    }

    #[test]
    fn comments_empty_hooks_and_here_documents_are_links() {
        for shell in shells() {
            let output = run(shell, &["", "# nothing", "cat <<E\nx # y\nE", "echo b # c"]);
            assert_eq!(output.stdout, b"x # y\nb\n", "{shell}");
            assert!(output.status.success(), "{shell}");
        }
    }

    #[test]
    fn the_environment_is_handed_over_however_the_session_ends() {
        for shell in shells() {
            for last in ["true", "exit 4", "false", "set -e; false", "nosuchcommand"] {
                // The slot is standard error here, so that a test can see it.
                let script =
                    chain(["export A='1\n2'", last].into_iter(), Interrupt::Sigint, Some(7));
                // starts: sh, bash
                let output = Command::new(shell)
                    .args([
                        "-c",
                        "exec 7>&1 >/dev/null 2>&1; exec \"$0\" -c \"$1\"",
                        shell,
                        &script,
                    ])
                    .env_clear()
                    .env("PATH", "/usr/bin:/bin")
                    .output()
                    .unwrap();
                let text = String::from_utf8(output.stdout).unwrap();
                assert!(
                    text.split('\0').any(|entry| entry == "A=1\n2"),
                    "{shell} {last}: {text:?}"
                );
            }
        }
    }

    #[test]
    fn an_interrupted_tool_is_waited_for_and_gives_its_code() {
        let tool = "sh -c 'trap \"n=1\" INT; echo ready; while [ -z $n ]; do sleep 0.1; done; sleep 0.2; exit 5'";
        for shell in shells() {
            let script = chain([tool, "echo never"].into_iter(), Interrupt::Sigint, None);
            // starts: sh, bash
            let mut child = Command::new(shell)
                .arg("-c")
                .arg(script)
                .process_group(0)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
            let mut said = String::new();
            output.read_line(&mut said).unwrap();
            kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
            output.read_to_string(&mut said).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(5), "{shell}");
            assert_eq!(said, "ready\n", "{shell}");
        }
    }
}
