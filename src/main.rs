//! The `pilothouse` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Several crates bring rustls; exactly one provider of cryptography must be chosen, before anything connects.
    let _ = rustls::crypto::ring::default_provider().install_default();
    pilothouse::cli::main()
}
