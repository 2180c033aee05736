//! `make bench`: numbers, measured against real components, with their goals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement stops at the first surprise")]

mod agents;
#[path = "../it/common/mod.rs"]
mod common;
mod crontasks;
mod demo;
mod door;
mod fleet;
mod program;
mod push;
mod reload;
mod sidecars;
mod synced;
mod table;
mod task_pods;
mod tasks;
mod text;
mod turns;
mod world;

use std::panic::AssertUnwindSafe;

use table::Number;

/// What can be measured: names of numbers, and what measures them together.
type Measure = (&'static [&'static str], fn(&tokio::runtime::Runtime) -> Vec<Number>);

const ALL: &[Measure] = &[
    (&["binary_mib", "startup_ready_s"], program::measure),
    (&["push_to_applied_ms"], push::measure),
    (&["fleet_pass_1000_ms"], fleet::measure),
    (
        &[
            "cold_100_syncs_s",
            "create_100_agents_s",
            "steady_api_writes",
            "steady_ref_listings_per_interval",
            "controller_rss_mib",
        ],
        agents::measure,
    ),
    (&["door_added_latency_ms", "sidecar_own_mib", "sidecar_rss_mib"], door::measure),
    (
        &["text_change_to_visible_ms", "hotreload_push_to_visible_ms", "hotreload_push_to_skill_listed_ms"],
        text::measure,
    ),
    (
        &["hotreload_push_to_visible_100_ms", "hotreload_push_to_visible_100_far_ms", "work_ended_to_rollout_ms"],
        reload::measure,
    ),
    (
        &[
            "rollout_push_to_template_ms",
            "rollout_push_to_template_100_ms",
            "rollout_push_to_template_1000_last_ms",
            "git_requests_per_interval",
            "steady_api_writes_agents",
            "rss_1000_synced_agents_mib",
        ],
        synced::measure,
    ),
    (
        &[
            "cron_lateness_ms",
            "cron_lateness_p99_ms",
            "cronjob_lateness_ms",
            "idle_10000_crontasks_cpu_percent",
            "rss_10000_crontasks_mib",
        ],
        crontasks::measure,
    ),
    (
        &[
            "task_finished_to_next_running_played_ms",
            "tasks_per_second",
            "api_requests_per_task",
            "api_requests_per_task_of_all",
        ],
        tasks::measure,
    ),
    (&["task_finished_to_next_running_ms"], text::turns),
];

fn main() {
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let chosen: Vec<_> = ALL.iter().filter(|(names, _)| wanted.as_deref().is_none_or(|w| names.contains(&w))).collect();
    if chosen.is_empty() {
        let names: Vec<_> = ALL.iter().flat_map(|(names, _)| names.iter().copied()).collect();
        eprintln!("there is no number {:?}; there are {}", wanted.unwrap_or_default(), names.join(", "));
        std::process::exit(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (mut numbers, mut failed) = (vec![], vec![]);
    for (names, measure) in chosen {
        eprintln!("measuring {}", names.join(", "));
        // One that stops takes none of the others with it.
        match std::panic::catch_unwind(AssertUnwindSafe(|| measure(&runtime))) {
            Ok(measured) => numbers.extend(measured),
            Err(_) => failed.extend(names.iter().copied()),
        }
    }
    // What is measured together with it is not what was asked for.
    numbers.retain(|number: &Number| wanted.as_deref().is_none_or(|wanted| number.name == wanted));
    table::print(&numbers);
    table::write(&numbers, wanted.is_some() || !failed.is_empty());
    if !failed.is_empty() {
        eprintln!("not measured, see above why: {}", failed.join(", "));
        std::process::exit(1);
    }
}
