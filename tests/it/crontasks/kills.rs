//! The controller dies at each of its writes, before or after the API server has carried it out: each time of the schedule
//! and each run by hand comes to one Task.

use serde_json::json;

use super::{Place, total};
use crate::common::{between::Stop, wait::eventually};

fn stops() -> impl Iterator<Item = Stop> {
    let of = "/namespaces/";
    let all = (0..8).flat_map(move |after| [false, true].map(|carried_out| Stop { of, after, carried_out }));
    // The others write too, so many a stop comes in the end: the last one lives.
    all.chain([Stop { of, after: usize::MAX, carried_out: true }])
}

#[tokio::test]
async fn a_controller_that_dies_at_any_write_makes_each_task_once() {
    let mut place = Place::new("cron-kills").await;
    let between = place.release.between().await;
    let (mut died, mut lived) = (vec![], false);
    for (n, stop) in stops().enumerate() {
        let name = format!("c{n}");
        // A run by hand is active, too: with Forbid the time of the schedule would be skipped.
        place.seen_hours_ago(&name, json!({"concurrencyPolicy": "Allow"})).await;
        let trigger = json!({"metadata": {"annotations": {"pilothouse.dev/trigger": "true"}}});
        let (params, patch) = (kube::api::PatchParams::default(), kube::api::Patch::Merge(trigger));
        place.crontasks.patch(&name, &params, &patch).await.unwrap();
        between.stop_at(stop);
        let mut controller = place.start();
        let last_slot = place.last_slot();
        let done = |cron: &pilothouse::api::CronTask| {
            let cleared = !kube::ResourceExt::annotations(cron).contains_key("pilothouse.dev/trigger");
            let ran = cron.status.as_ref()?.last_schedule_time.as_ref()?.0.as_second() == last_slot;
            (cleared && ran).then_some(())
        };
        let at = eventually("all is made, or it is dead", 60, || async {
            if let Some(at) = between.stopped() {
                return Some(Some(at));
            }
            let cron = place.crontasks.get(&name).await.unwrap();
            done(&cron).filter(|()| total(&cron) == Some(9)).map(|()| None)
        })
        .await;
        controller.kill();
        between.go_on();
        if at.is_some() {
            let mut next = place.start();
            place.status("nothing is lost", &name, done).await;
            next.kill();
        }
        let names = place.names().await;
        let ours: Vec<_> = names.iter().filter(|task| task.starts_with(&format!("{name}-"))).collect();
        assert_eq!(ours.len(), 2, "one by schedule, one by hand, after {at:?}: {ours:?}");
        let count = total(&place.crontasks.get(&name).await.unwrap()).unwrap();
        assert!((8..=9).contains(&count), "{count} after {at:?}");
        let Some(at) = at else {
            lived = true;
            break;
        };
        died.push(at);
    }
    assert!(lived, "it never came through: {died:?}");
    for part in ["/tasks", "/crontasks/c", "/status"] {
        assert!(died.iter().any(|at| at.contains(part)), "{part}: {died:?}");
    }
}
