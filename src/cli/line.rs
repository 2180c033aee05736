//! The command line before it is read: `-n` may come first, as kubectl takes it, and help flows to any width.

use std::ffi::OsString;

use clap::{Command, CommandFactory as _, FromArgMatches as _};

use super::Cli;

/// Reads the arguments, the name of the program first.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = flowing(Cli::command());
    let arguments = namespace_behind(&command, arguments);
    let matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// The arguments, with a namespace that comes before the command, or in the middle of it, right behind it.
fn namespace_behind(root: &Command, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let (mut command, mut moved) = (root, vec![]);
    let mut rest: Vec<OsString> = arguments.next().into_iter().collect();
    while command.has_subcommands()
        && let Some(argument) = arguments.next()
    {
        let text = argument.to_string_lossy().into_owned();
        let is_namespace = text.starts_with("-n") || text == "--namespace" || text.starts_with("--namespace=");
        let value = takes_value(root, &text) || matches!(&*text, "-n" | "--namespace");
        let to = if is_namespace { &mut moved } else { &mut rest };
        to.push(argument);
        if value {
            to.extend(arguments.next());
        }
        if !text.starts_with('-') {
            let Some(next) = command.find_subcommand(&text) else { break };
            command = next;
        }
    }
    rest.extend(moved);
    rest.extend(arguments);
    rest
}

/// Whether the argument is a flag of every command whose value is the next argument.
fn takes_value(root: &Command, argument: &str) -> bool {
    root.get_arguments().filter(|flag| flag.get_action().takes_values()).any(|flag| {
        let long = argument.strip_prefix("--").is_some_and(|name| flag.get_long() == Some(name));
        let short = argument.strip_prefix('-').and_then(|name| name.parse().ok());
        long || short.is_some() && short == flag.get_short()
    })
}

/// What stands below the flags, so that a terminal of any width breaks it once.
fn flowing(mut command: Command) -> Command {
    if let Some(text) = command.get_after_help().map(|text| joined(&text.to_string())) {
        command = command.after_help(text);
    }
    command.mut_subcommands(flowing)
}

/// One line for each paragraph; what is indented, and what comes after it or after a heading, keeps its own.
fn joined(text: &str) -> String {
    let (mut out, mut open) = (String::with_capacity(text.len()), false);
    for (index, line) in text.lines().enumerate() {
        let flows = !line.is_empty() && !line.starts_with(' ');
        if index > 0 {
            out.push(if open && flows { ' ' } else { '\n' });
        }
        out.push_str(line);
        open = flows && !line.ends_with(':');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_may_come_before_the_command() {
        for (line, expected) in [
            ("p task list -n team", "p task list -n team"),
            ("p -n team task list", "p task list -n team"),
            ("p -nteam task list --agent a", "p task list -nteam --agent a"),
            ("p --namespace=team -o json reconcile sync a", "p -o json reconcile --namespace=team sync a"),
            ("p --output json --namespace team diff .", "p --output json diff --namespace team ."),
            ("p -o task task -n team stop t", "p -o task task stop -n team t"),
            ("p -ojson --context -n task list", "p -ojson --context -n task list"),
            ("p -n team nothing x", "p nothing -n team x"),
            ("p -n", "p -n"),
            ("p", "p"),
        ] {
            let moved = namespace_behind(&Cli::command(), line.split(' ').map(OsString::from));
            let moved: Vec<_> = moved.iter().map(|argument| argument.to_string_lossy()).collect();
            assert_eq!(moved.join(" "), expected, "{line}");
        }
        let read = parse("p -n team task list --phase Queued".split(' ').map(OsString::from)).unwrap();
        assert!(format!("{read:?}").contains("Some(\"team\")"), "{read:?}");
        assert!(parse("p -n team version".split(' ').map(OsString::from)).is_err(), "it has none");
    }

    #[test]
    fn a_paragraph_is_broken_by_the_terminal_alone() {
        let text = "One\ntwo.\n\nIt says\n  Live   a\n  Reload b\nand more\nof it.\n\nExamples:\n  pilothouse a\n  pilothouse b";
        let flat =
            "One two.\n\nIt says\n  Live   a\n  Reload b\nand more of it.\n\nExamples:\n  pilothouse a\n  pilothouse b";
        assert_eq!(joined(text), flat);
        assert_eq!(joined("Kinds:\nall"), "Kinds:\nall");
        let help = flowing(Cli::command()).find_subcommand("rollback").unwrap().get_after_help().unwrap().to_string();
        assert!(
            help.lines().all(|line| line.starts_with(' ') || line.is_empty() || line.ends_with(['.', ':'])),
            "{help}"
        );
    }
}
