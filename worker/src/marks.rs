//! How far a phase got, as its own shell reports it, and what that means for the phase.
//!
//! Hooks and command share a shell, and a hook may end it with code 0 before the command was run:
//! `exit`, `exec` and a `return` outside of a function do. The shell's code alone would call that a
//! success. So the chain reports each link when it begins, and the tool's exit code when the tool has
//! ended; see [`crate::script`].

use gantry_model::Phase;
use gantry_spool::order::{PhaseOrder, ToolOrder};

use crate::reaper::Ending;

/// How much of a hook stands in a message, in characters.
const QUOTED: usize = 60;

/// What the shell reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The link that began last.
    began: Option<usize>,
    /// The exit code of the tool.
    tool: Option<i32>,
    /// What the tool's script gave up with.
    refusal: Option<usize>,
}

impl Marks {
    /// Takes the reports that stand in front of a dump of the environment, and gives what is behind them.
    pub(crate) fn take(mut dump: &[u8]) -> (Self, &[u8]) {
        let mut marks = Self::default();
        while let Some((line, rest)) = first_line(dump) {
            let Some((kind, number)) = line.split_once(' ') else { break };
            let Ok(number) = number.parse::<u16>() else { break };
            match kind {
                "=began" => marks.began = Some(number.into()),
                "=tool" => marks.tool = Some(number.into()),
                "=refused" => marks.refusal = Some(number.into()),
                _ => break,
            }
            dump = rest;
        }
        (marks, dump)
    }

    /// Whether the tool said that there is something to apply; none if it does not say.
    pub(crate) fn has_changes(self, tool: &ToolOrder) -> Option<bool> {
        tool.changes_code.map(|code| self.tool == Some(code))
    }

    /// Why the phase failed, in words; none if it did not. The shell ended as `ending` says.
    pub(crate) fn failure(self, order: &PhaseOrder, ending: Ending) -> Option<String> {
        let tool = order.tool.as_ref();
        let refusal = tool.zip(self.refusal).and_then(|(tool, number)| tool.refusals.get(number));
        if let Some(refusal) = refusal {
            return Some(refusal.clone());
        }
        let link = self.began.and_then(|link| Link::at(order, link));
        let what = if tool.is_some() { "the tool" } else { "the command" };
        let who = link.map_or_else(|| "a hook".to_owned(), |link| link.describe(order, what));
        if !ending.is_success() {
            let how = ending.describe();
            return Some(match link {
                Some(Link::After(_)) => {
                    format!("{who} ended with {how}, after {what} had succeeded")
                }
                Some(Link::Before(_) | Link::Command) => format!("{who} ended with {how}"),
                None => format!("the phase ended with {how}"),
            });
        }
        let has_run = match tool {
            Some(_) => self.tool.is_some(),
            None => matches!(link, Some(Link::Command | Link::After(_))),
        };
        (!has_run).then(|| {
            format!(
                "{who} ended the phase before {what} had run: leave out `exit`, `exec` and `return` where the phase is to go on, and descriptor 8, which is Gantry's"
            )
        })
    }
}

fn first_line(dump: &[u8]) -> Option<(&str, &[u8])> {
    // A report is short, and what is none may be long.
    let end = dump.iter().take(32).position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&dump[..end]).ok()?, &dump[end + 1..]))
}

/// A link of a phase's chain.
#[derive(Debug, Clone, Copy)]
enum Link {
    Before(usize),
    Command,
    After(usize),
}

impl Link {
    fn at(order: &PhaseOrder, number: usize) -> Option<Self> {
        let command = order.before.len();
        match number.checked_sub(command) {
            None => Some(Self::Before(number)),
            Some(0) => Some(Self::Command),
            Some(after) if after <= order.after.len() => Some(Self::After(after - 1)),
            Some(_) => None,
        }
    }

    fn describe(self, order: &PhaseOrder, command: &str) -> String {
        let (place, hooks, number) = match self {
            Self::Before(number) => ("before", &order.before, number),
            Self::After(number) => ("after", &order.after, number),
            Self::Command => return command.to_owned(),
        };
        let phase = match order.phase {
            Phase::Initialize => "init",
            Phase::Plan => "plan",
            Phase::Apply => "apply",
            Phase::Perform => "perform",
            Phase::Destroy => "destroy",
        };
        let which = match hooks.len() {
            1 => String::new(),
            all => format!(" {} of {all}", number + 1),
        };
        let quoted = hooks.get(number).map_or_else(String::new, |hook| quote(hook));
        format!("the {place}_{phase} hook{which} (`{quoted}`)")
    }
}

/// The first line of a hook, or the begin of it.
fn quote(hook: &str) -> String {
    let lines = hook.trim();
    let first = lines.lines().next().unwrap_or_default().trim_end();
    let mut quoted: String = first.chars().filter(|c| !c.is_control()).take(QUOTED).collect();
    if quoted.len() < lines.len() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(tool: bool) -> PhaseOrder {
        PhaseOrder {
            phase: Phase::Plan,
            before: vec!["[ -e x ] || exit 0\n# more".into(), "b".into()],
            command: "tool plan".into(),
            tool: tool.then(|| ToolOrder {
                script: String::new(),
                changes_code: Some(2),
                refusals: vec!["no tool".into()],
            }),
            after: vec!["a".repeat(61)],
        }
    }

    fn code(code: i32) -> Ending {
        Ending { code: Some(code), signal: None }
    }

    #[test]
    fn reports_stand_in_front_of_the_environment() {
        let (marks, rest) = Marks::take(b"=began 0\n=began 1\n=tool 2\n=x=\0A=1\n=tool 0\n\0");
        assert_eq!(marks, Marks { began: Some(1), tool: Some(2), refusal: None });
        assert_eq!(rest, b"=x=\0A=1\n=tool 0\n\0");
        for none in [&b""[..], b"=began\n", b"=began x\n", b"=began 1", b"A=1\0", b"\xff 1\n"] {
            assert_eq!(Marks::take(none), (Marks::default(), none));
        }
    }

    #[test]
    fn a_phase_whose_tool_did_not_run_failed_and_the_hook_is_named() {
        let why = |marks: &str, tool, ending| {
            Marks::take(marks.as_bytes()).0.failure(&order(tool), ending)
        };
        let first = why("=began 0\n", true, code(0)).unwrap();
        assert!(first.starts_with("the before_plan hook 1 of 2 (`[ -e x ] || exit 0…`) ended the phase before the tool had run: "), "{first}");
        assert!(why("", true, code(0)).unwrap().starts_with("a hook ended the phase"));
        assert!(why("=began 2\n", true, code(0)).unwrap().starts_with("the tool ended the phase"));
        assert!(why("=began 1\n", false, code(0)).is_some());
        assert_eq!(why("=began 2\n", false, code(0)), None);
        assert_eq!(why("=began 2\n=tool 2\n=began 3\n", true, code(0)), None);
    }

    #[test]
    fn what_failed_is_named() {
        let why = |marks: &str, ending| {
            Marks::take(marks.as_bytes()).0.failure(&order(true), ending).unwrap()
        };
        assert_eq!(
            why("=began 1\n", code(7)),
            "the before_plan hook 2 of 2 (`b`) ended with exit code 7"
        );
        assert_eq!(why("=began 2\n", code(1)), "the tool ended with exit code 1");
        let killed = Ending { code: None, signal: Some(9) };
        let after = format!(
            "the after_plan hook (`{}…`) ended with signal 9, after the tool had succeeded",
            "a".repeat(60)
        );
        assert_eq!(why("=began 2\n=tool 0\n=began 3\n", killed), after);
        assert_eq!(why("", code(2)), "the phase ended with exit code 2");
        assert_eq!(why("=began 2\n=refused 0\n", code(1)), "no tool");
        assert_eq!(why("=began 2\n=refused 9\n", code(1)), "the tool ended with exit code 1");
    }
}
