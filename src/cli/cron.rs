//! `pilothouse cron`: what a cron expression means.

use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::{Global, output};
use crate::schedule::{Schedule, zone};

/// Flags of `pilothouse cron`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pilothouse cron next '0 2 * * *' --tz Europe/Berlin
  pilothouse cron next '30 2 * * *' --tz Europe/Berlin --from 2026-03-28T12:00:00Z --count 3")]
pub struct Args {
    /// What to say about it
    #[command(subcommand)]
    pub command: Command,
}

/// What can be said.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Print the next times, one a line
    Next(NextArgs),
}

/// Flags of `pilothouse cron next`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pilothouse cron next '0 2 * * *'
  pilothouse cron next '*/15 9-17 * * MON-FRI' --tz America/New_York --count 3
  pilothouse cron next '30 2 * * *' --tz Europe/Berlin --from 2026-03-28T12:00:00Z -o json

The expression has the five fields of a CronTask: minute, hour, day of the month, month, day of the week. The exit code
is 1, and the error names the position, where it is wrong.")]
pub struct NextArgs {
    /// Five cron fields, as one argument
    #[arg(value_name = "EXPR")]
    pub expression: String,
    /// Time zone, by its name in the time zone database
    #[arg(long, env = "PILOTHOUSE_CRON_TZ", default_value = "UTC", value_name = "ZONE")]
    pub tz: String,
    /// Times after this one, in RFC 3339; now unless given
    #[arg(long, env = "PILOTHOUSE_CRON_FROM", value_name = "RFC3339")]
    pub from: Option<String>,
    /// How many
    #[arg(long, env = "PILOTHOUSE_CRON_COUNT", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000), value_name = "N")]
    pub count: u16,
}

/// What is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Coming {
    schedule: String,
    time_zone: String,
    pub(super) next: Vec<String>,
}

/// Prints the next times.
pub fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let Command::Next(args) = &args.command;
    let from = args.from.as_deref().map(|text| {
        text.parse::<Timestamp>().with_context(|| format!("--from {text:?} is no time: write 2026-03-28T12:00:00Z"))
    });
    let from = from.transpose()?.unwrap_or_else(Timestamp::now);
    let zone = zone(&args.tz).map_err(|e| anyhow!("--tz: {e}"))?;
    let coming = Coming::of(&args.expression, &args.tz, &zone, from, args.count)?;
    coming.print(global)
}

impl Coming {
    /// The times of an expression after `from`.
    ///
    /// # Errors
    /// The expression is wrong, or there is no such time.
    pub(super) fn of(
        expression: &str,
        name: &str,
        zone: &TimeZone,
        from: Timestamp,
        count: u16,
    ) -> anyhow::Result<Self> {
        let schedule = Schedule::parse(expression).map_err(|e| anyhow!("{expression:?}, {e}"))?;
        let next: Vec<_> = schedule.after(from, zone).take(count.into()).map(|time| local(time, zone)).collect();
        if next.is_empty() {
            bail!("{expression:?} has no time after {from}");
        }
        Ok(Self { schedule: expression.into(), time_zone: name.into(), next })
    }

    /// Prints them, one a line.
    pub(super) fn print(&self, global: &Global) -> anyhow::Result<ExitCode> {
        output::print(global.output, self, || self.next.join("\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// RFC 3339, with the offset that the zone has then.
fn local(time: Timestamp, zone: &TimeZone) -> String {
    let offset = zone.to_offset(time);
    if offset.is_zero() { time.to_string() } else { time.display_with_offset(offset).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(expression: &str, name: &str, count: u16) -> anyhow::Result<Vec<String>> {
        let from = "2026-03-28T12:00:00Z".parse().unwrap();
        Ok(Coming::of(expression, name, &zone(name).unwrap(), from, count)?.next)
    }

    #[test]
    fn times_are_those_of_the_zone() {
        assert_eq!(next("0 2 * * *", "UTC", 1).unwrap(), ["2026-03-29T02:00:00Z"]);
        let berlin = ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"];
        assert_eq!(next("30 2 * * *", "Europe/Berlin", 2).unwrap(), berlin);
        assert_eq!(next("0 9 * * *", "America/New_York", 1).unwrap(), ["2026-03-28T09:00:00-04:00"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_position() {
        let error = next("0 24 * * *", "UTC", 1).unwrap_err().to_string();
        assert!(error.starts_with("\"0 24 * * *\", position 3: "), "{error}");
    }
}
