//! `pilothouse completion`.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::output;

/// Flags of `pilothouse completion`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  source <(pilothouse completion bash)\n  pilothouse completion zsh > \"${fpath[1]}/_pilothouse\""
)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "pilothouse", &mut script);
    output::write(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
