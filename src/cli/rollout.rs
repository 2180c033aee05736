//! `pilothouse rollout`: what waits at an agent, and who may hurry or hold it.

use std::process::ExitCode;

use anyhow::bail;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde::Serialize;

use super::{
    Global, output,
    target::{self, Target},
};
use crate::{
    agent::gate,
    api::{
        Agent,
        names::{annotation::ROLLOUT, condition},
    },
};

/// Flags of `pilothouse rollout`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Without a flag it only says what runs and what waits.

Examples:
  pilothouse rollout agent coder -n agents
  pilothouse rollout agent/coder --now
  pilothouse rollout agent coder --hold --because 'demo until noon, ask Jo'
  pilothouse rollout agent coder --resume -o json

--now lets what waits go out at once (a new pod, text and content from Git), also over running work, which it cuts,
and whatever the pace of the fleet is; it counts once, for what waits now. Where the last
good revision runs in the place of one that failed, it tries that one again. --hold lets no change go out (new
text neither) until --resume. All three set the annotation pilothouse.dev/rollout of the Agent, which no Sync
touches. The exit code is 1 where there is no such Agent, or nothing for --now.")]
pub struct Args {
    /// The Agent
    #[command(flatten)]
    pub target: Target,
    /// Let what waits go out now, over running work
    #[arg(long, env = "PILOTHOUSE_ROLLOUT_NOW", conflicts_with_all = ["hold", "resume"])]
    pub now: bool,
    /// Let no change go out
    #[arg(long, env = "PILOTHOUSE_ROLLOUT_HOLD", conflicts_with = "resume")]
    pub hold: bool,
    /// Let changes go out again
    #[arg(long, env = "PILOTHOUSE_ROLLOUT_RESUME")]
    pub resume: bool,
    /// Why, and who to ask; the Agent's condition repeats it
    #[arg(long, env = "PILOTHOUSE_ROLLOUT_BECAUSE", requires = "hold", value_name = "TEXT")]
    pub because: Option<String>,
}

/// What is printed.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    namespace: String,
    name: String,
    /// The annotation, as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    desired: Option<String>,
    /// Id of all that is wanted: pod template, text and content.
    #[serde(skip_serializing_if = "Option::is_none")]
    wanted: Option<String>,
    /// Whether text or content waits.
    #[serde(skip)]
    waits: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rolled_out: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<String>,
    /// Messages of the conditions that are true of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<String>,
}

/// Shows, and sets the annotation if told to.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let (api, agent) = args.target.find_agent(global, "rollout").await?;
    let mut outcome = Outcome::of(&agent);
    if let Some(value) = asked(args, &outcome, &jiff::Timestamp::now())? {
        target::annotate(&api, &agent, ROLLOUT, value.as_deref()).await?;
        outcome.asked = value;
    }
    output::print(global.output, &outcome, || outcome.text(args))?;
    Ok(ExitCode::SUCCESS)
}

/// The annotation that is wanted (`Some(None)`: none at all), if it is to change.
#[allow(clippy::option_option, reason = "to take away is something else than to leave alone")]
fn asked(args: &Args, outcome: &Outcome, now: &jiff::Timestamp) -> anyhow::Result<Option<Option<String>>> {
    if args.resume {
        return Ok(Some(None));
    }
    if args.hold {
        let why = args.because.as_deref().map(|why| format!(": {}", why.trim())).unwrap_or_default();
        return Ok(Some(Some(format!("{}{why}", gate::HOLD))));
    }
    if !args.now {
        return Ok(None);
    }
    let failed = outcome.desired.clone().filter(|desired| Some(desired) != outcome.applied.as_ref());
    let template = outcome.pending.clone().or(failed);
    let all = outcome.wanted.clone().filter(|_| outcome.waits || template.is_some());
    let Some(hash) = all.or(template) else {
        bail!("nothing waits at Agent {}/{}", outcome.namespace, outcome.name);
    };
    Ok(Some(Some(format!("{}{hash}-{:x}", gate::NOW, now.as_millisecond()))))
}

impl Outcome {
    fn of(agent: &Agent) -> Self {
        let status = agent.status.clone().unwrap_or_default();
        let rollout = status.rollout.unwrap_or_default();
        let waiting = [condition::ROLLOUT_PENDING, condition::TEXT_PENDING, condition::GIT_SYNC_PENDING];
        let others = [condition::ROLLOUT_FAILED, condition::ORDER_UNKNOWN, condition::PINNED];
        let is = |c: &Condition, kinds: &[&str]| c.status == "True" && kinds.contains(&c.type_.as_str());
        let waits = status.conditions.iter().any(|c| is(c, &waiting));
        let conditions = status.conditions.into_iter().filter(|c| is(c, &waiting) || is(c, &others));
        Self {
            namespace: agent.namespace().unwrap_or_default(),
            name: agent.name_any(),
            asked: agent.annotations().get(ROLLOUT).cloned(),
            applied: rollout.applied,
            desired: rollout.desired_revision,
            wanted: rollout.wanted,
            waits,
            rolled_out: rollout.rolled_out_revision,
            pending: rollout.pending,
            causes: rollout.causes,
            messages: conditions.map(|c| c.message).collect(),
        }
    }

    fn text(&self, args: &Args) -> String {
        let whole = format!("Agent {}/{}", self.namespace, self.name);
        if args.now {
            return format!("{whole}: goes out now ({})", self.asked.as_deref().unwrap_or_default());
        }
        if args.hold {
            return format!("{whole}: held; to let it go on: pilothouse rollout agent {} --resume", self.name);
        }
        if args.resume {
            return format!("{whole}: changes go out again");
        }
        let applied = self.applied.as_deref().unwrap_or("nothing yet");
        let mut lines = vec![format!("{whole}: applied {applied}")];
        if self.desired != self.applied {
            lines.push(format!("  wanted: {}", self.desired.as_deref().unwrap_or_default()));
        }
        if self.rolled_out != self.applied {
            lines.push(format!("  ready: {}", self.rolled_out.as_deref().unwrap_or("none yet")));
        }
        lines.extend(self.asked.iter().map(|asked| format!("  asked: {asked}")));
        lines.extend(self.messages.iter().map(|message| format!("  {message}")));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &str) -> Result<Args, clap::Error> {
        let words = ["pilothouse", "rollout"].into_iter().chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Rollout(args) => args,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn orders_exclude_each_other() {
        for line in ["agent a --now --hold", "agent a --hold --resume", "agent a --now --resume", "agent a --because x"]
        {
            assert!(args(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_asked_for_is_an_annotation() {
        let now = jiff::Timestamp::from_second(1).unwrap();
        let outcome = |applied: &str, desired: &str, pending: Option<&str>| Outcome {
            applied: Some(applied.into()),
            desired: Some(desired.into()),
            pending: pending.map(String::from),
            ..Outcome::default()
        };
        let rest = outcome("a", "a", None);
        let table = [
            ("agent c", &rest, None),
            ("agent c --hold", &rest, Some(Some("hold".to_string()))),
            ("agent c --resume", &rest, Some(None)),
            ("agent c --now", &outcome("a", "b", Some("b")), Some(Some("now-b-3e8".into()))),
            (
                "agent c --now",
                &Outcome { wanted: Some("all".into()), ..outcome("a", "b", Some("b")) },
                Some(Some("now-all-3e8".into())),
            ),
            (
                "agent c --now",
                &Outcome { wanted: Some("all".into()), waits: true, ..outcome("a", "a", None) },
                Some(Some("now-all-3e8".into())),
            ),
            // The last good one runs in the place of b.
            ("agent c --now", &outcome("a", "b", None), Some(Some("now-b-3e8".into()))),
        ];
        for (line, outcome, expected) in table {
            assert_eq!(asked(&args(line).unwrap(), outcome, &now).unwrap(), expected, "{line}");
        }
        assert!(asked(&args("agent c --now").unwrap(), &rest, &now).is_err());
        let settled = Outcome { wanted: Some("all".into()), ..outcome("a", "a", None) };
        assert!(asked(&args("agent c --now").unwrap(), &settled, &now).is_err());
        let because = Args { because: Some(" ask Jo ".into()), ..args("agent c --hold").unwrap() };
        assert_eq!(asked(&because, &rest, &now).unwrap(), Some(Some("hold: ask Jo".into())));
        let value = asked(&args("agent c --now").unwrap(), &outcome("a", "b", Some("b")), &now).unwrap().unwrap();
        assert_eq!(gate::asked(value.as_deref(), None, &["b"]), gate::Ask::Now, "the gate understands it");
    }
}
