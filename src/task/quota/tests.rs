use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn begun(name: &str, second: i64) -> TaskStart {
    TaskStart {
        task_name: name.into(),
        task_namespace: "ns".into(),
        task_uid: Some(format!("uid-{name}")),
        attempt: None,
        start_time: Time(at(second)),
    }
}

fn quota(starts: usize) -> Quota {
    Quota { starts, window: SignedDuration::from_secs(60) }
}

#[test]
fn the_window_slides() {
    let starts = [begun("a", 100), begun("b", 110), begun("c", 150)];
    // now | of how many | left | when one more may start
    let table = [
        (150, 3, 0, Some(160)),
        (159, 3, 0, Some(160)),
        (160, 3, 1, None),
        (160, 2, 0, Some(170)),
        (160, 1, 0, Some(210)),
        (209, 1, 0, Some(210)),
        (210, 1, 1, None),
        (150, 5, 2, None),
    ];
    for (now, of, left, frees) in table {
        assert_eq!(quota(of).left(&starts, at(now)), left, "{of} at {now}");
        assert_eq!(quota(of).frees_at(&starts, at(now)), frees.map(at), "{of} at {now}");
    }
    let kept: Vec<_> = quota(1).within(&starts, at(165)).into_iter().map(|s| s.task_name).collect();
    assert_eq!(kept, ["b", "c"]);
}

#[test]
fn a_clock_that_was_set_back_holds_nobody_for_longer_than_the_window() {
    let starts = [begun("a", 1_000_000)];
    assert_eq!(quota(1).frees_at(&starts, at(100)), Some(at(160)));
    assert_eq!(quota(1).within(&starts, at(100))[0].start_time.0, at(100), "and it is written so");
}

#[test]
fn part_of_a_second_counts_as_a_whole_one() {
    let task = Task::new("t", crate::api::TaskSpec::default());
    let now = Timestamp::from_millisecond(100_700).unwrap();
    let start = start(&task, now);
    assert_eq!(start.start_time.0, at(101));
    assert_eq!(quota(1).within(std::slice::from_ref(&start), now), [start], "kept as it was written");
}

#[test]
fn each_start_counts_once() {
    let again = TaskStart { attempt: Some(1), ..begun("a", 9) };
    let all = union(&[begun("a", 1), begun("b", 2)], &[begun("b", 2), again.clone(), begun("c", 3)]);
    let names: Vec<_> = all.iter().map(|s| (s.task_name.as_str(), s.attempt)).collect();
    assert_eq!(names, [("a", None), ("b", None), ("a", Some(1)), ("c", None)]);
    let recreated = TaskStart { task_uid: Some("another".into()), ..begun("a", 1) };
    assert!(!same(&recreated, &begun("a", 1)));
}

#[test]
fn numbers_out_of_range_are_the_nearest() {
    let of = |max_task_starts, window_seconds| Quota::of(&api::Quota { max_task_starts, window_seconds });
    assert_eq!(of(5, 60), quota(5));
    assert_eq!(of(0, -1), Quota { starts: 1, window: SignedDuration::from_secs(1) });
}
