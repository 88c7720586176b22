//! What launchers are told of a stack's tool.

use gantry_control_plane::stacks::{Commands, StackChange, Tool};
use gantry_model::{Interrupt, Phase, RunType};
use gantry_protocol::spec::{self, CustomTool};

use crate::world::World;

/// They travel where policies look, and with them nothing of a state.
#[tokio::test]
async fn a_custom_tool_s_commands_go_with_their_phases() {
    let world = World::new().await;
    let commands = Commands {
        plan: "./plan".into(),
        apply: "./apply".into(),
        changes_exit_code: Some(3),
        interrupt: Interrupt::Sigterm,
        ..Commands::default()
    };
    let set =
        |commands| StackChange { tool: Some(Tool::Custom(commands)), ..StackChange::default() };
    let change = |change| world.control_plane.stacks.change_stack("ann", &world.stack, change);
    change(set(commands.clone())).await.unwrap();
    let new = |run_type| gantry_control_plane::runs::NewRun {
        stack: world.stack.clone(),
        run_type,
        command: None,
        metadata: Vec::new(),
    };
    for run_type in [RunType::Destroy, RunType::Testing] {
        let refused = world.control_plane.runs.trigger("ann", new(run_type)).await.unwrap_err();
        assert!(refused.to_string().contains("no command for destroy"), "{refused}");
    }
    let (_, launcher, _) = world.reading().await;
    let spec = launcher.spec();
    let told = CustomTool { changes_exit_code: Some(3), interrupt: Interrupt::Sigterm };
    assert_eq!((spec.tool, spec.state), (spec::Tool::Custom(told), None));
    let phases = spec.phases.iter().chain(&spec.later);
    let phases: Vec<_> = phases.map(|it| (it.phase, it.command.as_deref())).collect();
    assert_eq!(
        phases,
        [(Phase::Initialize, None), (Phase::Plan, Some("./plan")), (Phase::Apply, Some("./apply"))]
    );
}
