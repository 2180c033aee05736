use serde_json::json;

use super::*;

fn named(name: &str) -> ObjectId {
    ObjectId { namespace: "team".into(), name: name.into(), group: GROUP.into(), kind: "Agent".into() }
}

fn agent(annotations: serde_json::Value) -> (Agent, AgentSpec, AgentSpec) {
    let mut agent = Agent::new("a", AgentSpec::default());
    agent.metadata.annotations = serde_json::from_value(annotations).unwrap();
    (agent, AgentSpec::default(), AgentSpec::default())
}

fn pace() -> Outlook {
    let waits_for = Some("until wave 1 has the same change".to_string());
    let earliest = Some("1970-01-01T00:30:00Z".parse().unwrap());
    Outlook { wave: Some(2), waves: Some(3), waits_for, earliest, at_a_time: "10%".into() }
}

fn outcome() -> Outcome {
    let effect = |class: Class, causes: &[&str]| effect::Effect {
        class,
        causes: causes.iter().map(ToString::to_string).collect(),
    };
    let row = |name: &str, effect: &effect::Effect, marks: serde_json::Value, tasks: Option<&[&str]>| {
        let tasks = tasks.map(|names| names.iter().map(ToString::to_string).collect());
        changed(&named(name), effect, &agent(marks), tasks, Timestamp::UNIX_EPOCH)
    };
    let many = ["t1", "t2", "t3", "t4", "t5", "t6", "t7"];
    let agents = vec![
        row("busy", &effect(Class::Rollout, &["image", "text/rules|x"]), json!({}), Some(&many)),
        row("held", &effect(Class::Live, &["text/rules"]), json!({annotation::ROLLOUT: "hold"}), Some(&[])),
        row("idle", &effect(Class::Reload, &["skills/team"]), json!({}), Some(&[])),
        row("pinned", &effect(Class::Rollout, &["env"]), json!({annotation::PINNED_TO: "x"}), Some(&[])),
        row("secret", &effect(Class::Rollout, &["image"]), json!({}), None),
        paced(
            row("paced", &effect(Class::Rollout, &["image"]), json!({}), Some(&["t1"])),
            Some(pace()),
            Timestamp::UNIX_EPOCH,
        ),
        row("same", &effect(Class::None, &[]), json!({}), Some(&[])),
        Row { message: "a new agent".into(), ..super::row(&named("new"), "created") },
    ];
    Outcome { unknown: unknown(&agents), agents }
}

#[test]
fn every_agent_has_its_line() {
    let expected = "\
agents: 1 created, 4 Rollout, 1 Reload, 1 Live, 1 unaffected
team/busy: Rollout (image, text/rules|x): after the work that goes on, or when its time is over
  waits for: Tasks t1, t2, t3, t4, t5 and 2 more, busy sessions
  forced at the latest: 1970-01-01T01:00:00Z
team/held: Live (text/rules): the agent is held: nothing arrives before `pilothouse rollout agent NAME --resume`
team/idle: Reload (skills/team): at once, unless a session goes on
  waits for: busy sessions
  forced at the latest: 1970-01-01T01:00:00Z
team/pinned: Rollout (env): the agent is pinned: nothing arrives before `pilothouse rollback agent NAME --release`
team/secret: Rollout (image): at once, unless a session goes on
  waits for: running Tasks, busy sessions
  forced at the latest: 1970-01-01T01:00:00Z
team/paced: Rollout (image): after the work that goes on, or when its time is over, once the fleet lets it go
  waits for: Tasks t1, busy sessions
  pace: wave 2 of 3, 10% of the agents at a time; waits: until wave 1 has the same change; not before 1970-01-01T00:30:00Z
  forced at the latest: 3600s after the fleet lets it go
team/same: None: nothing of it is for its pod
team/new: created: a new agent
not known: which sessions of people go on: only the agents' own pods know
not known: which Tasks run: you may not list them
not known: how long the agents take that go first, and which others are on their way
not known: what changed in Secrets, and what the remotes of Git inputs have by now
";
    assert_eq!(text::plain(&outcome()), expected);
}

#[test]
fn a_comment_is_a_table_that_names_cannot_break() {
    let comment = text::markdown(&outcome());
    let expected = "\
### Pilothouse plan

agents: 1 created, 4 Rollout, 1 Reload, 1 Live, 1 unaffected

| agent | effect | causes | waits for | forced at the latest | |
| --- | --- | --- | --- | --- | --- |
| team/busy | Rollout | image, text/rules\\|x | Tasks t1, t2, t3, t4, t5 and 2 more, busy sessions | 1970-01-01T01:00:00Z | \
after the work that goes on, or when its time is over |
";
    assert!(comment.starts_with(expected), "{comment}");
    assert!(comment.contains("\n\nNot known: which Tasks run: you may not list them\n"), "{comment}");
}

#[test]
fn nothing_is_said_in_one_line() {
    let nothing = Outcome { agents: vec![], unknown: vec![] };
    assert_eq!(text::plain(&nothing), "no agent is affected\n");
    assert!(!text::markdown(&nothing).contains('|'));
}
