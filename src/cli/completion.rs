//! `pilothouse completion`.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

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
    clap_complete::generate(args.shell, &mut super::Cli::command(), "pilothouse", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
