//! `gantry-worker`: takes no arguments and reads no configuration but its order.

use std::process::ExitCode;

use gantry_spool::order::exit;
use gantry_worker::{EnvironmentSlot, Places, run};

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        eprintln!(
            "gantry-worker: takes no arguments, it is started by gantry-launcher in a container"
        );
        return ExitCode::from(exit::USAGE);
    }
    // Before the runtime opens descriptors of its own, so that the slot has the number that shells can name.
    let slot = EnvironmentSlot::reserve();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("gantry-worker: cannot start: {error}");
            return ExitCode::from(exit::NO_ORDER);
        }
    };
    let image = std::env::vars_os().collect();
    ExitCode::from(runtime.block_on(run(&Places::container(), image, slot)))
}
