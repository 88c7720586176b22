//! The real worker binary as PID 1 of a real container, hardened as the launcher hardens it.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for the events that it is about")]

mod barrier;
mod harness;
mod spool;
mod state;
mod stopping;
mod tool;

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use gantry_model::Phase;
use gantry_spool::order::{ToolOrder, exit};
use gantry_spool::{Event, Outcome, has_begun};
use harness::{Run, order, orders, side_file};

#[test]
fn hooks_and_command_share_a_shell_and_the_environment_is_carried_on() {
    let mut order = orders(&[
        (Phase::Initialize, "echo command $A; export B=\"b $A\n2\"; cd /tmp; false || exit 0"),
        (Phase::Plan, "echo \"B=$B A=$A local=$local pwd=$PWD image=$FROM_IMAGE home=$HOME\" >&2"),
    ]);
    order.phases[0].before =
        vec!["export A=1 # a comment".into(), "local=2; unset FROM_IMAGE".into()];
    order.phases[1].before = vec![String::new()];
    order.phases[1].after =
        vec!["cat <<E\nafter $local\nE".into(), "env | grep -c GANTRY || true".into()];
    let mut run = Run::start(&order);
    assert_eq!(run.outcome(), Outcome::Succeeded);
    let logs = run.logs();
    assert_eq!(logs[&Phase::Initialize], "command 1\n");
    assert_eq!(
        logs[&Phase::Plan],
        "B=b 1\n2 A=1 local= pwd=/mnt/workspace/source image= home=/home/spacelift\nafter \n0\n"
    );
    let ended: Vec<_> = run
        .events()
        .into_iter()
        .filter_map(|event| {
            if let Event::PhaseEnded { phase, code, signal, .. } = event {
                Some((phase, code, signal))
            } else {
                None
            }
        })
        .collect();
    assert_eq!(ended, [(Phase::Initialize, Some(0), None), (Phase::Plan, Some(0), None)]);
}

/// Busybox and dash drop such names, and Terraform takes any that begins with `TF_VAR_`.
#[test]
fn a_variable_that_the_shell_does_not_pass_on_is_named() {
    let mut order =
        orders(&[(Phase::Initialize, "env | grep -c odd || true"), (Phase::Plan, "true")]);
    order.environment.push(("TF_VAR_odd-name".into(), "x".into()));
    let mut run = Run::start(&order);
    assert_eq!(run.outcome(), Outcome::Succeeded);
    assert_eq!(run.log(), "0\n");
    let is_note = |event: &Event| matches!(event, Event::Note { text } if text.starts_with("TF_VAR_odd-name: "));
    assert_eq!(run.events().iter().filter(|event| is_note(event)).count(), 1);
}

#[test]
fn what_hooks_make_of_the_environment_is_kept_for_the_stage_that_follows() {
    let mut order =
        orders(&[(Phase::Initialize, "export A=1 B='2\n3'"), (Phase::Plan, "unset SECRET")]);
    order.phases[1].after = vec!["export B=4 PATH=$PATH:/x; exit 0".into()];
    order.keeps_environment = true;
    let mut run = Run::start(&order);
    assert_eq!(run.outcome(), Outcome::Succeeded);
    let file = run.events().into_iter().find_map(|event| match event {
        Event::Environment { file } => Some(file),
        _ => None,
    });
    let kept: Vec<gantry_spool::Carried> =
        serde_json::from_str(&side_file(&run, &file.unwrap())).unwrap();
    let shown: Vec<_> = kept
        .iter()
        .map(|it| {
            let text = |value: &Option<gantry_spool::order::Secret>| {
                value.as_ref().map(|value| value.expose().to_owned())
            };
            (it.name.as_str(), text(&it.was), text(&it.value))
        })
        .collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        shown,
        [
            ("A", None, some("1")),
            ("B", None, some("4")),
            ("PATH", some("/bin"), some("/bin:/x")),
            ("SECRET", some("hunter2-in-the-order"), None),
        ]
    );
}

#[test]
fn a_failing_hook_keeps_the_command_and_the_next_phase_from_running() {
    let mut order = orders(&[(Phase::Plan, "echo command"), (Phase::Apply, "echo applied")]);
    order.phases[0].before = vec!["echo before; exit 7".into()];
    order.after_run = vec!["echo \"final $TF_VAR_spacelift_final_run_state $SECRET\"".into()];
    let mut run = Run::start(&order);
    let reason = "the before_plan hook (`echo before; exit 7`) ended with exit code 7".to_owned();
    let phase = Some(Phase::Plan);
    assert_eq!(run.outcome(), Outcome::Failed { phase, code: Some(7), signal: None, reason });
    assert_eq!(run.log(), "before\nfinal FAILED hunter2-in-the-order\n");
}

#[test]
fn after_run_is_left_to_the_stage_that_follows() {
    let mut order = order("true");
    order.after_run = vec!["echo after".into()];
    order.after_run_on_success = false;
    let mut run = Run::start(&order);
    assert_eq!(run.outcome(), Outcome::Succeeded);
    assert_eq!(run.log(), "");
}

#[test]
fn a_stage_that_was_begun_is_not_run_again() {
    let order = order("echo once");
    let mut run = Run::start(&order);
    assert_eq!(run.outcome(), Outcome::Succeeded);
    let frames = run.frames();
    run.write_in("order.json", &order.to_json().unwrap());
    run.again();
    let (code, said) = run.wait();
    assert_eq!(code, Some(exit::BEGUN_BEFORE.into()));
    assert_eq!(said, "gantry-worker: this stage was begun before; its phases are not run again\n");
    assert_eq!(run.frames(), frames);
    assert!(run.order_dir().join("order.json").exists());
}

#[test]
fn without_a_valid_order_nothing_begins() {
    let mut run = Run::lay_out(&order("true"));
    run.write_in("order.json", b"{\"version\":1,\n \"environment\":[[\"A\",\"hunter2\"]]}");
    run.again();
    let (code, said) = run.wait();
    assert_eq!(code, Some(exit::NO_ORDER.into()));
    assert!(said.contains("order is not valid at line 2") && !said.contains("hunter2"), "{said}");
    assert!(!has_begun(&run.spool()).unwrap());
}

#[test]
fn an_order_that_cannot_be_taken_over_lets_nothing_run() {
    let mut order = order("echo ran");
    order.after_run = vec!["echo ran".into()];
    let mut run = Run::lay_out(&order);
    run.order_is_read_only = true;
    run.again();
    let Outcome::Failed { phase: None, reason, .. } = run.outcome() else {
        panic!("{:?}", run.events())
    };
    assert!(reason.starts_with("cannot keep /gantry/in from the phases: "), "{reason}");
    assert_eq!(run.log(), "");
}

#[test]
fn a_phase_has_no_power_and_sees_no_secret_of_pid_1() {
    let command = r#"
        id -u; id -g; id -G
        grep -E 'Cap(Inh|Prm|Eff|Amb)|Sig(Blk|Ign)' /proc/self/status | tr -d '\t'
        for forbidden in /gantry /gantry/spool /gantry/in/order.json /proc/1/environ /proc/1/fd /proc/1/root; do
            cat $forbidden/* $forbidden >/dev/null 2>&1 && echo "readable: $forbidden"
            ls $forbidden/ >/dev/null 2>&1 && echo "listable: $forbidden"
        done
        kill -TERM 1 2>/dev/null && echo killed
        tr '\0' '\n' </proc/1/cmdline
        grep -a SECRET /proc/[0-9]*/cmdline
        readlink /proc/self/fd/0
        umask
        touch made && ls -ln made | cut -d' ' -f1
    "#;
    let mut run = Run::start(&order(command));
    assert_eq!(run.outcome(), Outcome::Succeeded);
    let log = run.log();
    let none = "0000000000000000";
    let wanted = format!(
        "1983\n1983\n1983\nSigBlk:{none}\nCapInh:{none}\nCapPrm:{none}\nCapEff:{none}\nCapAmb:{none}\n\
         /gantry/bin/gantry-worker\n/dev/null\n0022\n-rw-r--r--\n"
    );
    // The script itself stands in the shell's argument list, its values do not.
    let (ignored, log): (Vec<_>, Vec<_>) = log
        .lines()
        .filter(|line| !line.contains("grep -a"))
        .partition(|line| line.starts_with("SigIgn:"));
    assert_eq!(log, wanted.lines().collect::<Vec<_>>());
    let ignored = ignored.concat();
    let ignored = u64::from_str_radix(ignored.trim_start_matches("SigIgn:"), 16).unwrap();
    // Signals from 32 on are the C library's own: whether they are ignored comes from whoever started the engine.
    assert_eq!(ignored & 0x7fff_ffff, 0, "ignored: {ignored:x}");
    assert_eq!(std::fs::read_dir(run.order_dir()).unwrap().count(), 0, "the order is gone");
}

#[test]
fn the_workspace_belongs_to_the_phases_and_links_are_not_followed() {
    let mut run = Run::lay_out(&order(
        "ls -ln / | grep -c ' 1983 '; find /mnt/workspace ! -user 1983; cat deep/er/file",
    ));
    std::fs::create_dir_all(run.source().join("deep/er")).unwrap();
    std::fs::write(run.source().join("deep/er/file"), "content\n").unwrap();
    symlink("/etc", run.source().join("link")).unwrap();
    // Neither root's nor open to others: root without power must take it first.
    let closed = run.source().join("deep");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&closed, Some(4242), Some(4343)).unwrap();
    }
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    run.again();
    assert_eq!(run.outcome(), Outcome::Succeeded);
    assert_eq!(run.log(), "0\ncontent\n");
}

/// A launcher that is not root could neither pack nor remove what belongs to somebody else.
#[test]
fn the_workspace_goes_back_to_the_launcher_whatever_the_phases_made_of_it() {
    let mut run = Run::lay_out(&order(
        "mkdir -p made/closed && touch made/closed/file made/open && ln -s /etc made/link && \
         chmod 0 made/closed/file made/closed && chmod 500 made && chmod 700 /mnt/workspace; exit 3",
    ));
    let workspace = run.source().parent().unwrap().to_owned();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&workspace, Some(4242), Some(4343)).unwrap();
    }
    let owner = |path: &Path| {
        let meta = std::fs::symlink_metadata(path).unwrap();
        (meta.uid(), meta.gid())
    };
    let launcher = owner(&workspace);
    run.again();
    assert!(matches!(run.outcome(), Outcome::Failed { code: Some(3), .. }), "{:?}", run.events());
    for name in [".", "made", "made/closed", "made/closed/file", "made/open", "made/link"] {
        assert_eq!(owner(&run.source().join(name)), launcher, "{name}");
    }
}

#[test]
fn orphans_are_reaped() {
    let command = "for i in 1 2 3 4 5; do (sh -c 'sleep 0.05 &' &); done; sleep 0.5; \
                   grep -l 'State:.*Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
    let mut run = Run::start(&order(command));
    assert_eq!(run.outcome(), Outcome::Succeeded);
    assert_eq!(run.log(), "0\n");
}

#[test]
fn what_a_phase_leaves_running_does_not_outlive_it() {
    let mut run = Run::start(&orders(&[
        (Phase::Initialize, "(setsid sleep 1000 &); sleep 1001 & echo said"),
        (Phase::Plan, "ps | grep -c '[s]leep 100'; exit 0"),
    ]));
    assert_eq!(run.outcome(), Outcome::Succeeded);
    assert_eq!(run.logs()[&Phase::Initialize], "said\n");
    assert_eq!(run.logs()[&Phase::Plan], "0\n");
}

#[test]
fn plan_and_outputs_are_kept_beside_the_log() {
    let mut order = orders(&[(Phase::Plan, "export SHOWN=yes"), (Phase::Apply, "true")]);
    order.show_plan = Some("echo \"{\\\"shown\\\":\\\"$SHOWN\\\"}\"; echo warning >&2".into());
    order.show_outputs = Some("echo {}; exit 3".into());
    let mut run = Run::start(&order);
    assert_eq!(run.outcome(), Outcome::Succeeded);
    assert_eq!(run.log(), "warning\n");
    let events = run.events();
    let plan = events
        .iter()
        .find_map(|event| if let Event::Plan { file } = event { Some(file) } else { None });
    assert_eq!(side_file(&run, plan.unwrap()), "{\"shown\":\"yes\"}\n");
    let note =
        "the outputs could not be kept as JSON, so they are not shown: exit code 3".to_owned();
    assert!(events.contains(&Event::Note { text: note }), "{events:?}");
}

/// What the plan is shown as costs details at most, never the plan.
#[test]
fn a_large_plan_is_shown_and_one_that_cannot_be_is_a_plan_all_the_same() {
    let tool = ToolOrder { script: "(exit 2)".into(), changes_code: Some(2), refusals: Vec::new() };
    for (show, is_shown) in
        [("head -c 70000000 /dev/zero", true), ("sleep 1000", false), ("exit 3", false)]
    {
        let mut order = orders(&[(Phase::Plan, "the tool")]);
        order.phases[0].tool = Some(tool.clone());
        order.show_plan = Some(show.into());
        if show.starts_with("sleep") {
            order.show_limit_ms = 500;
        }
        let mut run = Run::start(&order);
        assert_eq!(run.outcome(), Outcome::Planned { has_changes: true });
        let size = run.events().into_iter().find_map(|event| match event {
            Event::Plan { file } => Some(file.size),
            _ => None,
        });
        assert_eq!(size, is_shown.then_some(70_000_000), "{show}");
        let says = |event: &Event| matches!(event, Event::Note { text } if text.contains("its changes are not counted"));
        assert_eq!(run.events().iter().any(says), !is_shown, "{show}");
    }
}

#[test]
fn a_shell_that_is_not_there_is_a_failure_in_words() {
    let mut order = order("true");
    order.shell = "/bin/nosuchshell".into();
    let mut run = Run::start(&order);
    let Outcome::Failed { phase: Some(Phase::Perform), code: None, signal: None, reason } =
        run.outcome()
    else {
        panic!("{:?}", run.events());
    };
    assert!(
        reason.starts_with("the image has no shell: /bin/nosuchshell is not there"),
        "{reason}"
    );
}

/// The phase goes, and whoever tells of it stays.
#[test]
fn a_phase_that_is_killed_for_want_of_memory_says_so() {
    let mut run =
        Run::lay_out(&order("cat /proc/1/oom_score_adj /proc/self/oom_score_adj; tail /dev/zero"));
    run.memory = "64m";
    run.again();
    let Outcome::Failed { phase: Some(Phase::Perform), reason, .. } = run.outcome() else {
        panic!("{:?}", run.events());
    };
    assert!(reason.contains("for want of memory (limit 64 MiB, peak 6"), "{reason}");
    let log = run.log();
    let scores: Vec<i32> = log.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(matches!(scores[..], [own, 1000] if own < 1000), "{log}");
}
