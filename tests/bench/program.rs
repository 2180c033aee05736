//! The program itself: its size, and how soon it is ready.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::{
    common::controller::{Release, pilothouse},
    table::Number,
    world,
};

/// `binary_mib` and `startup_ready_s`: from the start of the process to 200 on `/readyz`, caches filled.
pub(crate) fn measure(runtime: &Runtime) -> Vec<Number> {
    let size = std::fs::metadata(pilothouse()).unwrap().len();
    #[allow(clippy::cast_precision_loss, reason = "a size in MiB")]
    let size = size as f64 / 1024.0 / 1024.0;
    let started = runtime.block_on(async {
        let cluster = world::cluster();
        let agents = cluster.namespace("startup").await;
        let release = Release::install(cluster, &[agents]).await;
        let mut samples = vec![];
        for _ in 0..5 {
            let now = Instant::now();
            let mut controller = release.start(&[]);
            world::until(Duration::from_secs(30), || async { world::ready(&controller).await.then_some(()) }).await;
            samples.push(now.elapsed().as_secs_f64());
            controller.stop();
        }
        samples
    });
    vec![Number::new("binary_mib", "MiB", 40.0, vec![size]), Number::new("startup_ready_s", "s", 2.0, started)]
}
