//! `cargo xtask demo`: one run end to end, in real containers, for a person who watches.

mod files;

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::{
    build::{self, Profile},
    context::Context,
    engine::{self, Engine},
    image,
    process::each_line,
    service::Service,
    stand::Stand,
    tools::{self, OPENSSL},
};

const STACK: &str = "terraform-stack";
const POOL: &str = "demo";
const SECRET: &str = "TF_VAR_db_password";
/// How a phase may be slow: a cold disk, an image that is unpacked first.
const RUN_LIMIT: Duration = Duration::from_mins(3);
/// The words that the stack's hook prints before the secret.
const HOOK_WORDS: &str = "the password is ";

/// What `cargo xtask demo` can be told.
#[derive(Args)]
pub struct Options {
    /// Answer every question with yes.
    #[arg(long)]
    pub yes: bool,
    /// Leave everything running at the end, and say where.
    #[arg(long)]
    keep: bool,
}

/// Shows one run end to end.
pub fn run(cx: &Context, options: &Options) -> Result<ExitCode> {
    cx.say.line("Gantry: one run end to end, on this machine, in real containers.");
    cx.say.step("Docker engine", "runs go into containers");
    let engine = engine::ensure(cx)?;
    cx.say.step("Programs", "gantry (server and command line) and gantry-launcher, from source");
    let programs = build::programs(cx, Profile::Dev)?;
    cx.say.step("Runner image", "what the containers of runs start from");
    let image = image::ensure(cx)?;
    cx.say.step("Networking", "a container on the default bridge is tried out");
    let network = engine::network(cx, &image)?;
    cx.say.step(
        "Control plane",
        "gantry server: API, MQTT broker, object store and database in one directory",
    );
    let mut stand = Stand::start(cx, &programs, &image)?;
    let at = &stand.addresses;
    cx.say.detail(&format!("API {}, MQTT {}, objects {}", at.api, at.mqtt, at.objects));
    cx.say.step(
        "Key and request",
        "the pool's private key is made here and never leaves this machine's user",
    );
    tools::ensure(cx, &[&OPENSSL])?;
    stand.make_key(cx)?;
    cx.say.step("Pool", "the server signs the request and answers with the pool's token");
    stand.create_pool(cx, POOL)?;
    cx.say.step("Launcher", "joins the pool over MQTT with mutual TLS, by SPACELIFT_TOKEN and SPACELIFT_POOL_PRIVATE_KEY");
    let took = stand.start_launcher(cx, &image, network)?;
    cx.say.detail(&format!("registered {} ms after its start", took.as_millis()));
    let play = Play { cx, stand: &mut stand, secret: secret()?, shown: String::new() };
    play.act(options, &engine)
}

/// The stack, its runs, and all that was shown of them.
struct Play<'a> {
    cx: &'a Context,
    stand: &'a mut Stand,
    secret: String,
    shown: String,
}

impl Play<'_> {
    fn act(mut self, options: &Options, engine: &Engine) -> Result<ExitCode> {
        self.cx.say.step(
            "Stack",
            "examples/terraform-stack; its secret is sealed before it leaves the command line",
        );
        self.create_stack()?;
        let mut events = self.watch_containers()?;
        self.cx.say.step("Tracked run", "planned in a fresh container; its log, live:");
        self.follow(&["run", "trigger", STACK, "--follow"])?;
        let run = self.newest_run()?;
        self.expect_state(&run, "UNCONFIRMED")?;
        self.cx.say.detail(&format!(
            "run {run} waits at UNCONFIRMED: its worker is free, its workspace sealed and stored"
        ));
        self.cx.say.step(
            "Confirmed",
            "any worker of the pool may take the second half; the log of the apply, live:",
        );
        self.follow(&["run", "confirm", &run, "--follow"])?;
        let shown = self.expect_state(&run, "FINISHED")?;
        self.cx.say.step("Containers", "what Docker says was started for this run");
        self.show_containers(&mut events, &run)?;
        self.cx.say.step("Outputs", "");
        self.show_outputs(&shown)?;
        self.cx.say.step("Second run", "it finds the state of the first and nothing to change:");
        self.follow(&["run", "trigger", STACK, "--follow"])?;
        let second = self.newest_run()?;
        let shown = self.expect_state(&second, "FINISHED")?;
        self.check_nothing_changed(&run, &second, &shown)?;
        // A run is over before its launcher has cleaned up: two stages of the first one, one of the second.
        self.stand.wait_until_removed(3)?;
        self.cx.say.step("Secret", "the stack's before_plan hook printed it, on purpose");
        self.check_secret()?;
        self.cx.say.step("Stored", "where everything lies");
        self.show_storage()?;
        events.process().stop(Duration::from_secs(5))?;
        self.leave(options, engine)
    }

    fn create_stack(&self) -> Result<()> {
        let source = self.cx.config.root.join("examples/terraform-stack");
        let source = source.to_string_lossy();
        let hook = "echo \"the password is $TF_VAR_db_password\"";
        let mut command =
            self.stand.gantry(&["stack", "create", STACK, "--pool", POOL, "--source", &source]);
        command.args(["--secret", SECRET, "--before-plan", hook]).env(SECRET, &self.secret);
        let said = self.stand.run(self.cx, &mut command)?;
        self.cx.say.detail(&said);
        Ok(())
    }

    /// Runs a command that shows a log, and shows and remembers each line as it comes.
    fn follow(&mut self, arguments: &[&str]) -> Result<()> {
        self.cx.say.detail(&format!("$ gantry {}", arguments.join(" ")));
        let mut command = self.stand.gantry(arguments);
        let name = format!("gantry {}", arguments[..2].join(" "));
        let ended = each_line(&self.cx.undo, &name, RUN_LIMIT, &mut command, |_, line| {
            self.cx.say.detail(&format!("| {line}"));
            self.shown += line;
            self.shown.push('\n');
        });
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => bail!("{name} ended with {status}{}", self.tails()),
            Err(error) => bail!("{error:#}{}", self.tails()),
        }
    }

    /// The ends of both programs' logs, as the tail of an error.
    fn tails(&self) -> String {
        self.stand.worker().map(Service::tail).unwrap_or_default() + &self.stand.server().tail()
    }

    fn newest_run(&self) -> Result<String> {
        let runs = self.stand.ask(&["run", "list", STACK])?;
        let ids = runs.as_array().context("the list of runs is a list")?.iter();
        // Ids are ULIDs: the greatest is the newest.
        ids.filter_map(|run| run.get("id")?.as_str())
            .max()
            .map(str::to_owned)
            .context("the stack has no run")
    }

    fn expect_state(&self, run: &str, wanted: &str) -> Result<Value> {
        let shown = self.stand.ask(&["run", "show", run])?;
        let state = shown.get("state").and_then(Value::as_str).unwrap_or("unknown");
        ensure!(state == wanted, "run {run} is {state}, not {wanted}{}", self.tails());
        Ok(shown)
    }

    fn watch_containers(&self) -> Result<Service> {
        let mut command = Command::new("docker");
        command.args([
            "events",
            "--filter",
            "type=container",
            "--filter",
            "event=start",
            "--format",
            "{{json .}}",
        ]);
        let log = self.stand.dir.join("docker-events.log");
        let start = || Service::start("docker events", &log, &mut command);
        let stop = |it: &Service| it.process().stopping(Duration::from_secs(5));
        Ok(self.cx.undo.make("stop docker events", start, stop)?.0)
    }

    fn show_containers(&self, events: &mut Service, run: &str) -> Result<()> {
        let mut seen: Vec<String> = Vec::new();
        events.wait_for("the second container", Duration::from_secs(15), |line| {
            if line.to_lowercase().contains(&run.to_lowercase()) {
                seen.push(container_name(line).unwrap_or_else(|| "one without a name".to_owned()));
            }
            (seen.len() == 2).then_some(())
        })?;
        self.cx.say.detail(&format!("first (plan):   {}", seen[0]));
        self.cx.say.detail(&format!("second (apply): {}", seen[1]));
        Ok(())
    }

    fn show_outputs(&self, shown: &Value) -> Result<()> {
        let outputs =
            shown.get("outputs").and_then(Value::as_object).context("the run has no outputs")?;
        for (name, value) in outputs {
            self.cx.say.detail(&format!("{name} = {value}"));
        }
        ensure!(outputs.contains_key("machines"), "the stack's output `machines` is missing");
        Ok(())
    }

    fn check_nothing_changed(&self, first: &str, second: &str, shown: &Value) -> Result<()> {
        ensure!(first != second, "the second run is the first one");
        let delta = shown.get("delta").cloned().unwrap_or(Value::Null);
        for kind in ["add", "change", "delete"] {
            let count = delta.get(kind).and_then(Value::as_i64);
            ensure!(
                count == Some(0),
                "the second run should change nothing, but its delta is {delta}"
            );
        }
        self.cx.say.detail("nothing to change: FINISHED without an apply");
        Ok(())
    }

    fn check_secret(&self) -> Result<()> {
        let line = self.shown.lines().find_map(|line| Some(&line[line.find(HOOK_WORDS)?..]));
        let line = line.context("the hook's line is not in the log that was shown")?;
        ensure!(!self.shown.contains(&self.secret), "THE SECRET IS IN THE LOG THAT WAS SHOWN");
        self.cx.say.detail(&format!(
            "the log shows `{line}`; the secret is nowhere in what was shown above"
        ));
        let holder = files::find_in_files(&self.stand.dir, self.secret.as_bytes())?;
        if let Some(path) = holder {
            bail!("THE SECRET STANDS IN THE CLEAR IN {path}");
        }
        self.cx.say.detail(
            "and in no file of the server or the launcher: database, objects, logs, journal",
        );
        Ok(())
    }

    fn show_storage(&self) -> Result<()> {
        let dir = &self.stand.dir;
        let line = |what: &str, path: &str| {
            self.cx.say.detail(&format!("{what:<28} {}", dir.join(path).display()));
        };
        line("database", "data/gantry.db");
        line("server's CA", "data/ca.pem");
        line("first API key", "data/admin.json");
        line("objects, sealed but logs", "data/objects");
        for (prefix, count, bytes) in files::objects(&dir.join("data/objects"))? {
            self.cx.say.detail(&format!("  {prefix:<26} {count} of them, {bytes} bytes"));
        }
        line("the pool's key, yours alone", "spacelift.key");
        line("the recovery key, likewise", "recovery.key");
        line("the pool's token", "pool.token");
        line("the launcher's journal", "launcher");
        line("logs of the two programs", "*.log");
        Ok(())
    }

    fn leave(&self, options: &Options, engine: &Engine) -> Result<ExitCode> {
        let left = self.stand.containers()?;
        ensure!(left.is_empty(), "containers of finished runs are left: {}", left.join(", "));
        let cx = self.cx;
        if options.keep {
            cx.say.step("Kept", "it goes on running");
            let at = &self.stand.addresses;
            cx.say.detail(&format!("API {}  MQTT {}  objects {}", at.api, at.mqtt, at.objects));
            let (server, worker) =
                (self.stand.server().process().pid(), self.stand.worker()?.process().pid());
            cx.say.detail(&format!("gantry server is process {server}, gantry-launcher {worker}"));
            let gantry = self.stand.gantry(&[]);
            let config = self.stand.dir.join("config");
            let program = Path::new(gantry.get_program()).display();
            cx.say.detail(&format!(
                "GANTRY_CONFIG_DIR={} {program} run list {STACK}",
                config.display()
            ));
            self.stand.write_stop_script(cx, engine.started.as_ref())?;
            cx.undo.keep_all();
        } else {
            cx.say
                .step("Clean-up", "launcher, server and their directory; --keep would leave them");
            cx.say.detail("Docker keeps the runner image for the next time");
            cx.undo.run();
        }
        cx.say.line(&format!("\ndone in {:.1} s", cx.say.elapsed().as_secs_f64()));
        Ok(ExitCode::SUCCESS)
    }
}

fn secret() -> Result<String> {
    use std::{fmt::Write as _, io::Read as _};
    let mut random = [0_u8; 12];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .context("no randomness")?;
    Ok(random.iter().fold("pw-".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn container_name(event: &str) -> Option<String> {
    let event: Value = serde_json::from_str(event).ok()?;
    let actor = event.get("Actor")?;
    let id = actor.get("ID")?.as_str()?;
    let name = actor.get("Attributes")?.get("name")?.as_str()?;
    Some(format!("{name} ({})", id.get(..12).unwrap_or(id)))
}
