//! README's commands on a machine on which nobody has installed anything.
//!
//! The machine is a Debian as `debootstrap` makes it, entered with processes, mounts and a network of its own, and a
//! clean clone of HEAD in it. What a reader of README brings is given to it: Rust with the linker that Rust asks for,
//! and terraform or tofu. Where packages and crates come from is as on this machine: its apt and cargo configuration
//! and its certificates are copied in, and no address is named here.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    context::{Context, as_root},
    engine, image, process,
    tools::{self, DEBOOTSTRAP, GIT},
};

const SHORT: Duration = Duration::from_mins(2);
/// Everything that was built is removed too.
const REMOVED: Duration = Duration::from_mins(20);
/// What a user of Rust has beside it: its linker, and the certificates by which it was fetched.
const BROUGHT: &str = "gcc,libc6-dev,ca-certificates";
/// Where the clone lies on that machine.
const CLONE: &str = "/root/gantry";
/// Where Rust lies on it, for reading.
const RUST: &str = "/opt/rust";
/// Where a Debian's programs are.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Enters the tree with what a machine has besides files. The shell stays, as the first process that all others of
/// the machine are left to. Its root is a mount of its own, as an engine that unpacks an image asks of a machine.
const ENTER: &str = r#"
tree=$1 rust=$2
shift 2
hostname fresh
mount --bind "$tree" "$tree"
for shared in /sys /dev; do mount --rbind "$shared" "$tree$shared"; done
mount -t proc proc "$tree/proc"
mount -t tmpfs -o mode=0755 run "$tree/run"
mount --bind -o ro "$rust" "$tree/opt/rust"
mount -o remount,bind,ro "$tree/opt/rust"
chroot "$tree" env --chdir=/root/gantry HOME=/root "$@"
"#;

/// What `cargo xtask fresh` can be told.
#[derive(Args)]
pub struct Options {
    /// Passed on to `cargo xtask test`: a part of a test's name, for example.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs both commands, and says how long each took.
pub fn run(cx: &Context, options: &Options) -> Result<ExitCode> {
    cx.say.step("Tools", "what makes the machine: debootstrap, git, docker");
    tools::ensure(cx, &[&DEBOOTSTRAP, &GIT])?;
    engine::ensure(cx)?;
    let folder = folder(cx)?;
    cx.say.step("Clone", "HEAD of this repository, without anything that was built");
    let clone = clone(cx, &folder)?;
    cx.say.step("Debian", "the smallest that debootstrap makes");
    let tree = debian(cx, &folder)?;
    cx.say.step("Machine", "with processes, mounts and a network of its own");
    let machine = Machine::start(cx, &folder, tree, &clone)?;
    let test: Vec<&str> =
        ["test"].into_iter().chain(options.arguments.iter().map(String::as_str)).collect();
    let mut took = Vec::new();
    for arguments in [&["demo", "--yes"][..], &test] {
        let command = format!("cargo xtask {}", arguments.join(" "));
        cx.say.step(&command, "on that machine, as README says");
        let began = Instant::now();
        let passed = machine.xtask(cx, arguments)?;
        let words = if passed { "passed" } else { "FAILED" };
        took.push((passed, format!("{command}: {words} after {} s", began.elapsed().as_secs())));
    }
    cx.say.step("On a fresh machine", "");
    for (_, line) in &took {
        cx.say.detail(line);
    }
    let passed = took.iter().all(|(passed, _)| *passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where all of it lies meanwhile. Files of root are in it.
fn folder(cx: &Context) -> Result<PathBuf> {
    cx.become_root("make the files of a Debian, and remove them")?;
    let make = || Ok(tempfile::Builder::new().prefix("gantry-fresh-").tempdir()?.keep());
    let (folder, _) =
        cx.undo.make("remove the fresh machine's files", make, |folder: &PathBuf| {
            let folder = folder.clone();
            move || {
                let mut remove = as_root("rm");
                remove.args(["-rf", "--one-file-system"]).arg(folder);
                process::read("rm", REMOVED, &mut remove).map(drop)
            }
        })?;
    Ok(folder)
}

fn clone(cx: &Context, folder: &Path) -> Result<PathBuf> {
    let git = || {
        let mut command = Command::new("git");
        command.arg("-C").arg(&cx.config.root);
        command
    };
    let changed = process::read("git status", SHORT, git().args(["status", "--porcelain"]))?;
    if !changed.is_empty() {
        cx.say.detail("what is not committed here is not in it");
    }
    let clone = folder.join("clone");
    let mut command = git();
    command.args(["clone", "--quiet", "--no-hardlinks"]).arg(&cx.config.root).arg(&clone);
    cx.must("git clone", &mut command)?;
    let head = process::read("git log", SHORT, git().args(["log", "-1", "--format=%h %s"]))?;
    cx.say.detail(head.trim());
    Ok(clone)
}

/// The tree of a Debian like this machine's, that gets its packages where this machine does.
fn debian(cx: &Context, folder: &Path) -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = codename(&release).context("/etc/os-release has no VERSION_CODENAME")?;
    let format = "$(CODENAME) $(COMPONENT) $(REPO_URI)";
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", format, "Created-By: Packages"]);
    let targets = process::read("apt-get indextargets", SHORT, &mut targets)?;
    let mirror = mirror(&targets, name)
        .with_context(|| format!("apt's sources name no mirror with the release {name}"))?;
    let tree = folder.join("tree");
    let include = format!("--include={BROUGHT}");
    let mut make = as_root("debootstrap");
    make.args(["--variant=minbase", &include, name]).arg(&tree).arg(mirror);
    let log = folder.join("debootstrap.log");
    let file = fs::File::create(&log)?;
    make.stdout(file.try_clone()?).stderr(file);
    if !cx.show("debootstrap", &mut make)? {
        bail!("debootstrap failed: {}", fs::read_to_string(&log)?);
    }
    // Its own sources would be there twice.
    done("rm", as_root("rm").arg("-rf").arg(tree.join("etc/apt")))?;
    for place in ["/etc/apt", "/usr/share/keyrings", "/usr/local/share/ca-certificates"] {
        if Path::new(place).is_dir() {
            let to = tree.join(place.trim_start_matches('/'));
            done("cp", as_root("cp").args(["-rT", place]).arg(to))?;
        }
    }
    // Nothing of this machine's environment holds in there, least of all where its temporary files lie.
    let mut certificates = as_root("chroot");
    certificates.arg(&tree).args(["env", "-i", PATH, "update-ca-certificates"]);
    done("update-ca-certificates", &mut certificates)?;
    Ok(tree)
}

/// The name of a release, as its own file says it.
fn codename(release: &str) -> Option<&str> {
    let line = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(line.trim_matches('"'))
}

/// The first place that has the release itself, of lines of release, component and place.
fn mirror<'a>(targets: &'a str, release: &str) -> Option<&'a str> {
    targets.lines().find_map(|line| {
        let mut words = line.split(' ');
        let is_it = words.next() == Some(release) && words.next() == Some("main");
        is_it.then(|| words.next()).flatten()
    })
}

/// The fresh machine: a tree, and a network of its own.
struct Machine {
    tree: PathBuf,
    /// A process that is in the network.
    network: String,
    variables: Vec<(OsString, OsString)>,
}

impl Machine {
    fn start(cx: &Context, folder: &Path, tree: PathBuf, clone: &Path) -> Result<Self> {
        let place = |path: &str| tree.join(path.trim_start_matches('/'));
        done("mkdir", as_root("mkdir").arg("-p").args([place(RUST), place("/root/.cargo")]))?;
        done("cp", as_root("cp").args(["-rT"]).arg(clone).arg(place(CLONE)))?;
        done("chown", as_root("chown").args(["-R", "0:0"]).arg(place(CLONE)))?;
        for (from, to) in [
            (cx.config.cargo_home.join("config.toml"), "/root/.cargo/config.toml"),
            ("/etc/resolv.conf".into(), "/etc/resolv.conf"),
        ] {
            if from.is_file() {
                done("cp", as_root("cp").arg(from).arg(place(to)))?;
            }
        }
        let (tool, path) = tools::infrastructure(cx)
            .context("there is no terraform and no tofu here to give to the machine")?;
        done("cp", as_root("cp").arg(path).arg(place("/usr/local/bin").join(tool)))?;
        let network = Self::network(cx, folder)?;
        let variables = cx.config.of_registries.clone();
        Ok(Self { tree, network, variables })
    }

    /// A container that does nothing has the network, so that an engine in it takes nothing from this machine's.
    fn network(cx: &Context, folder: &Path) -> Result<String> {
        let image = image::ensure(cx)?;
        let name = folder.file_name().context("the folder has a name")?.to_string_lossy();
        let name = name.into_owned();
        // Remembered first: one that cannot be started was made all the same.
        cx.undo.make(
            "remove the fresh machine's network",
            || Ok(()),
            |()| {
                let remove = ["rm", "--force", "--volumes", &name].map(str::to_owned);
                move || done("docker rm", Command::new("docker").args(remove))
            },
        )?;
        let mut command = Command::new("docker");
        command.args(["run", "--detach", "--memory", "64m", "--name", &name]);
        command.args(["--entrypoint", "tail", &image, "-f", "/dev/null"]);
        done("docker run", &mut command)?;
        let mut inspect = Command::new("docker");
        inspect.args(["inspect", "--format", "{{.State.Pid}}", &name]);
        Ok(process::read("docker inspect", SHORT, &mut inspect)?.trim().to_owned())
    }

    /// Runs one of README's commands in the clone, showing what it says. With it ends all that it started.
    fn xtask(&self, cx: &Context, arguments: &[&str]) -> Result<bool> {
        let mut sysroot = Command::new("rustc");
        sysroot.args(["--print", "sysroot"]);
        let sysroot = process::read("rustc --print sysroot", SHORT, &mut sysroot)?;
        if !Path::new(sysroot.trim()).join("bin/cargo").is_file() || sysroot.trim() == "/usr" {
            bail!(
                "{} holds no toolchain to give to the machine: install one with rustup",
                sysroot.trim()
            );
        }
        let mut command = as_root("nsenter"); // starts: unshare, sh
        command.env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.env("PATH", &cx.config.path).env("CARGO_TERM_COLOR", "never");
        command.arg(format!("--net=/proc/{}/ns/net", self.network));
        command.args(["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]);
        command.args(["sh", "-euc", ENTER, "sh"]).arg(&self.tree).arg(sysroot.trim());
        command.arg(format!("{PATH}:{RUST}/bin"));
        command.args(["cargo", "xtask"]).args(arguments);
        cx.show("cargo xtask", &mut command)
    }
}

/// Runs something that says nothing unless it fails.
fn done(name: &str, command: &mut Command) -> Result<()> {
    process::read(name, SHORT, command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_come_from_where_the_release_itself_is() {
        let targets = "sid main http://a/\nnext-updates main http://b/\nnext contrib http://c/\nnext main http://d/\n\
                       next main http://e/\n";
        assert_eq!(mirror(targets, "next"), Some("http://d/"));
        assert_eq!(mirror(targets, "old"), None);
    }

    #[test]
    fn the_release_is_the_one_that_the_machine_names() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=next\n"), Some("next"));
        assert_eq!(codename("VERSION_CODENAME=\"next\"\n"), Some("next"));
        assert_eq!(codename("ID=debian\n"), None);
    }
}
