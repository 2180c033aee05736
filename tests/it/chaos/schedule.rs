//! What is done when: all of it follows from the seed.

use std::{fmt, str::FromStr, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) seed: u64,
    pub(super) minutes: f64,
    pub(super) agents: usize,
    /// The first so many have a sidecar and a server.
    pub(super) live: usize,
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, minutes, agents, live } = self;
        write!(
            f,
            "chaos: SEED={seed} MINUTES={minutes} AGENTS={agents} LIVE={live} (repeat it by `make chaos` with these)"
        )
    }
}

impl Options {
    /// What is run among all other tests: with its beginning and its end it takes two minutes, and everything happens.
    const SHORT: Self = Self { seed: 1, minutes: 1.25, agents: 20, live: 6 };

    pub(super) fn from_environment() -> Self {
        fn of<T: FromStr>(name: &str, default: T) -> T {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            value.map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name}={v} is no number")))
        }
        let agents = of("CHAOS_AGENTS", Self::SHORT.agents);
        Self {
            seed: of("CHAOS_SEED", Self::SHORT.seed),
            minutes: of("CHAOS_MINUTES", Self::SHORT.minutes),
            agents,
            live: of("CHAOS_LIVE", Self::SHORT.live).min(agents),
        }
    }
}

/// A part of an agent's definition that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Image,
    Environment,
    Config,
    Text,
}

/// How the Git server fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outage {
    Refuses,
    Hangs,
}

/// How an agent's server is ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ill {
    Wedged,
    Refuses,
    Mute,
    LateIdle,
    CutEvents,
}

/// One thing that is done. Agents of prompts, Tasks and illness are live ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Define {
        agent: usize,
        part: Part,
    },
    Docs {
        group: usize,
    },
    Skills {
        group: usize,
    },
    /// A session's prompt that takes so long, and maybe another one in the same session.
    Prompt {
        agent: usize,
        takes: Duration,
        again: Option<Duration>,
    },
    Task {
        agent: usize,
        takes: Duration,
    },
    Kill {
        replica: usize,
        down: Duration,
    },
    RestartApi {
        down: Duration,
    },
    Git {
        outage: Outage,
        lasts: Duration,
    },
    Sick {
        agent: usize,
        ill: Ill,
        lasts: Duration,
    },
}

/// Folders of documents, and of skills, in the repository of contents.
pub(super) const GROUPS: usize = 4;
/// Longer than the protection of those that have a short one.
const LONG: u64 = 20_000;

/// Actions with their times, in order.
pub(super) fn schedule(options: &Options) -> Vec<(Duration, Action)> {
    let mut rng = StdRng::seed_from_u64(options.seed);
    let end = options.minutes * 60.0;
    let mut all = vec![];
    let live = options.live.max(1) as f64;
    let every: [(f64, fn(&mut StdRng, &Options) -> Action); 9] = [
        ((25.0 / options.agents as f64).max(0.25), define),
        (7.0, |rng, _| Action::Docs { group: rng.random_range(0..GROUPS) }),
        (11.0, |rng, _| Action::Skills { group: rng.random_range(0..GROUPS) }),
        (6.0 / live, prompt),
        (25.0 / live, task),
        (20.0, |rng, _| Action::Kill { replica: rng.random_range(0..2), down: millis(rng, 100, 6000) }),
        (50.0, |rng, _| Action::RestartApi { down: millis(rng, 0, 3000) }),
        (25.0, git),
        (12.0, sick),
    ];
    for (mean, make) in every {
        let mut at = mean * rng.random_range(0.3..1.0);
        while at < end {
            all.push((Duration::from_secs_f64(at), make(&mut rng, options)));
            at += mean * rng.random_range(0.3..1.7);
        }
    }
    all.sort_by_key(|(at, _)| *at);
    all
}

fn millis(rng: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.random_range(from..=to))
}

fn one_of<T: Copy>(rng: &mut StdRng, list: &[T]) -> T {
    list[rng.random_range(0..list.len())]
}

fn define(rng: &mut StdRng, options: &Options) -> Action {
    // Those at which somebody works get more of it.
    let to = if rng.random_bool(0.5) { options.live.max(1) } else { options.agents };
    let part = one_of(rng, &[Part::Image, Part::Environment, Part::Config, Part::Text]);
    Action::Define { agent: rng.random_range(0..to), part }
}

fn prompt(rng: &mut StdRng, options: &Options) -> Action {
    let most = if rng.random_bool(0.05) { LONG } else { 5000 };
    let again = rng.random_bool(0.3).then(|| millis(rng, 100, 3000));
    Action::Prompt { agent: rng.random_range(0..options.live), takes: millis(rng, 200, most), again }
}

fn task(rng: &mut StdRng, options: &Options) -> Action {
    Action::Task { agent: rng.random_range(0..options.live), takes: millis(rng, 200, 6000) }
}

fn git(rng: &mut StdRng, _: &Options) -> Action {
    Action::Git { outage: one_of(rng, &[Outage::Refuses, Outage::Hangs]), lasts: millis(rng, 1000, 8000) }
}

fn sick(rng: &mut StdRng, options: &Options) -> Action {
    let ill = one_of(rng, &[Ill::Wedged, Ill::Refuses, Ill::Mute, Ill::LateIdle, Ill::CutEvents]);
    Action::Sick { agent: rng.random_range(0..options.live), ill, lasts: millis(rng, 1000, 8000) }
}

/// Whatever can happen happens in the short version too.
#[test]
fn everything_happens_at_least_once() {
    for seed in 0..200 {
        let all = schedule(&Options { seed, ..Options::SHORT });
        let kinds: std::collections::BTreeSet<_> = all.iter().map(|(_, action)| kind(action)).collect();
        assert_eq!(kinds.len(), 9, "seed {seed}: {kinds:?}");
    }
}

fn kind(action: &Action) -> String {
    let text = format!("{action:?}");
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn a_seed_is_a_schedule() {
    let options = Options { seed: 7, minutes: 2.0, agents: 20, live: 6 };
    let first = schedule(&options);
    assert_eq!(first, schedule(&options));
    assert_ne!(first, schedule(&Options { seed: 8, ..options }));
    assert!(first.is_sorted_by_key(|(at, _)| *at) && first.len() > 100, "{}", first.len());
}
