//! What stands between the phases and the launcher, which may be of their own user and group.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use gantry_spool::{ANSWERS, Event, Outcome, Position, Reader, has_begun, mark_stored};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::harness::{FURTHER, LAUNCHER, Run, order};

/// What a hook of a plan could do to its launcher, and to the pool's next run.
const ATTACK: &str = r#"
    try() { "$@" >/dev/null 2>&1 && echo "did: $*"; }
    try chmod 000 /gantry/spool
    try chmod 777 /gantry
    try rm -f /gantry/spool/begun
    try mv /gantry/spool/begun /gantry/spool/gone
    try touch /gantry/spool/answers/stored-1
    try sh -c 'echo forged >>/gantry/spool/00000000.seg'
    try touch /gantry/in/order.json
    for path in /gantry /gantry/bin /gantry/spool /gantry/in /gantry/spool/answers /proc/1/root /proc/1/cwd /proc/1/maps /proc/1/mem; do
        try cat $path
        try ls $path/
        try cd $path
    done
    stat -c '%n %u:%g %a' /gantry
    exit 0
"#;

fn reason(run: &mut Run) -> String {
    let Outcome::Failed { phase: None, reason, .. } = run.outcome() else {
        panic!("{:?}", run.events())
    };
    assert_eq!(run.log(), "", "nothing runs");
    assert!(!run.events().iter().any(|event| matches!(event, Event::PhaseBegan { .. })));
    reason
}

/// The image has a `/gantry` that everybody may use, and the launcher is the user of the phases.
#[test]
fn a_phase_reaches_nothing_of_the_launcher_s() {
    let mut run = Run::start(&order(ATTACK));
    assert_eq!(run.outcome(), Outcome::Succeeded);
    assert_eq!(run.log(), "/gantry 0:0 700\n");
    assert!(has_begun(&run.spool()).unwrap());
    assert_eq!(fs::read_dir(run.spool().join(ANSWERS)).unwrap().count(), 0);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let spool = run.spool();
    for path in [&spool, &spool.join(ANSWERS), &run.order_dir()] {
        let about = fs::metadata(path).unwrap();
        let found = (about.uid(), about.gid(), about.mode() & 0o7777);
        assert_eq!(found, (0, FURTHER, 0o770), "{}", path.display());
    }
    // Even without the closed door before it.
    let (uid, gid) = LAUNCHER;
    let path = spool.clone();
    let refused = acting(uid, gid, &[], move || fs::read_dir(path).map(drop)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    // And the launcher has all that it needs.
    let run_dir = spool.parent().unwrap().to_owned();
    acting(uid, gid, &[FURTHER], move || launcher_s_work(&spool, &run_dir)).unwrap();
}

/// Follows the spool, answers, and removes all of it.
fn launcher_s_work(spool: &Path, run_dir: &Path) -> io::Result<()> {
    let mut reader = Reader::open(spool, Position::START).map_err(io::Error::other)?;
    while reader.next().map_err(io::Error::other)?.is_some() {}
    mark_stored(spool, 1).map_err(io::Error::other)?;
    let answers = run_dir.join("answers");
    fs::rename(spool.join(ANSWERS), &answers)?;
    fs::remove_dir_all(answers)?;
    fs::remove_dir_all(spool)?;
    fs::remove_dir_all(run_dir.join("in"))
}

fn acting<T: Send + 'static>(
    uid: u32,
    gid: u32,
    groups: &'static [u32],
    act: impl FnOnce() -> T + Send + 'static,
) -> T {
    // Of one thread alone.
    let acting = std::thread::spawn(move || {
        let groups: Vec<_> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_groups(&groups).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        act()
    });
    acting.join().unwrap()
}

#[test]
fn a_launcher_whose_only_group_is_the_phases_own_runs_nothing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut order = order("echo ran");
    order.groups = vec![LAUNCHER.1];
    let reason = reason(&mut Run::start(&order));
    assert!(reason.contains("have the group 1983, and the launcher has no other"), "{reason}");
}

#[test]
fn an_image_that_wants_root_is_refused_unless_it_is_allowed() {
    for user in ["root", "0", "spacelift:0", "1983:root"] {
        let mut order = order("id -u; id -g; id -G");
        order.user = user.into();
        let reason = reason(&mut Run::start(&order));
        assert!(reason.contains(&format!("{user:?}")) && reason.contains("ALLOW_ROOT"), "{reason}");
    }
    let mut order = order("id -u; id -g; id -G");
    (order.user, order.may_be_root) = ("root".into(), true);
    let mut run = Run::start(&order);
    assert_eq!(run.outcome(), Outcome::Succeeded);
    assert_eq!(run.log(), "0\n0\n0\n");
}

#[test]
fn users_and_groups_are_those_of_the_image() {
    let mut order = order("id -u; id -g; id -G; echo $HOME");
    order.user = "spacelift:staff".into();
    let mut run = Run::start(&order);
    assert_eq!(run.outcome(), Outcome::Succeeded);
    assert_eq!(run.log(), "1983\n50\n50\n/home/spacelift\n");
    order.user = "nobody".into();
    let mut run = Run::start(&order);
    assert!(reason(&mut run).contains("/etc/passwd does not know \"nobody\""));
}

/// A mount that the launcher could not take away again would be a stage that never ends.
#[test]
fn a_link_in_the_place_of_a_directory_is_refused() {
    let mut run = Run::lay_out(&order("echo ran"));
    let answers: PathBuf = run.spool().join(ANSWERS);
    fs::remove_dir(&answers).unwrap();
    std::os::unix::fs::symlink("/tmp", &answers).unwrap();
    run.again();
    assert!(reason(&mut run).contains("something else than a directory"));
}
