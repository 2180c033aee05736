//! Everything at once: pushes, edits, work, and failures of all that Pilothouse stands on. No work is cut before its
//! protection ends, every agent ends on the last commit, nothing is rolled out twice, and then there is silence.
//!
//! Real are the control plane, two replicas of the controller, the Git server, the sidecars of some agents (`live`) and the
//! Tasks' programs. The test plays the kubelet: it starts those programs in folders that look like a pod, with a stand-in for
//! the agent's server, which writes down when work began and how it ended. Agents without a sidecar count as unknown, and
//! so as protected until their time is over.
//!
//! `CHAOS_SEED`, `CHAOS_MINUTES`, `CHAOS_AGENTS` and `CHAOS_LIVE` change it (`make chaos SEED=… MINUTES=…`). A seed is a
//! schedule; how processes interleave is up to the machine.

#![allow(
    clippy::needless_pass_by_value,
    clippy::cast_precision_loss,
    clippy::unused_async,
    clippy::unused_self,
    clippy::type_complexity,
    reason = "callbacks and rates of a test"
)]

mod box_of_pod;
mod kubelet;
mod replicas;
mod schedule;
mod settled;
mod verdict;
mod watched;
mod wire;
mod world;
mod written;

use schedule::Options;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_work_is_cut_and_no_commit_is_lost_whatever_fails() {
    let options = Options::from_environment();
    println!("{options}");
    let mut world = world::World::start(options).await;
    world.suffer().await;
    world.come_to_rest().await;
}
