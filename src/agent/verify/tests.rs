use proptest::prelude::*;
use serde_json::json;

use super::*;

fn it(hash: &str, generation: &str) -> Try {
    Try { hash: hash.into(), generation: generation.into() }
}

fn a_task(phase: &str, conditions: &serde_json::Value) -> Task {
    serde_json::from_value(json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task", "metadata": {"name": "v"}, "spec": {},
        "status": {"phase": phase, "conditions": conditions},
    }))
    .unwrap()
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> serde_json::Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

#[test]
fn only_a_task_that_completed_by_itself_has_passed() {
    let failed = a_task("Failed", &json!([condition("Ready", "False", "AgentError", "no credit")]));
    let late = a_task(
        "Completed",
        &json!([condition("Ready", "True", "Completed", "x"), condition("Stopped", "True", "Timeout", "after 5m")]),
    );
    let why = |said: &str| Seen::Over(Err(format!("it did not pass its verification: Task v failed ({said})")));
    for (task, expected) in [
        (None, Seen::Absent),
        (Some(a_task("Queued", &json!([]))), Seen::Open),
        (Some(a_task("Running", &json!([]))), Seen::Open),
        (Some(a_task("Completed", &json!([condition("Ready", "True", "Completed", "x")]))), Seen::Over(Ok(()))),
        (Some(failed), why("AgentError: no credit")),
        (Some(late), why("Timeout: after 5m")),
    ] {
        assert_eq!(seen(task.as_ref()), expected, "{task:?}");
    }
    assert!(is_reason("it did not pass its verification: Task v failed") && !is_reason("the image cannot be pulled"));
}

#[test]
fn one_step_after_the_other() {
    let (one, again) = (it("h1", "3"), it("h1", "7"));
    let none = Memory::default();
    let (passed, failed) = (none.with(&one, &Ok(())), none.with(&one, &Err("no".into())));
    let over = |result: Result<(), &str>| Seen::Over(result.map_err(String::from));
    let table = [
        (&one, &none, Seen::Absent, false, Step::Nothing),
        (&one, &none, Seen::Absent, true, Step::Begin),
        (&one, &none, Seen::Open, true, Step::Nothing),
        (&one, &none, over(Ok(())), true, Step::Remember(passed.clone())),
        (&one, &none, over(Err("no")), false, Step::Remember(failed.clone())),
        (&one, &passed, Seen::Absent, true, Step::Admit),
        (&again, &passed, Seen::Absent, true, Step::Admit),
        (&one, &failed, Seen::Absent, true, Step::Nothing),
        (&one, &failed, over(Err("no")), true, Step::Nothing),
        // Somebody asked for another try.
        (&again, &failed, Seen::Absent, true, Step::Begin),
    ];
    for (it, memory, task, up, expected) in table {
        assert_eq!(step(it, memory, &task, up), expected, "{it:?} {memory:?} {task:?} {up}");
    }
    assert_eq!((failed.failed(&one), failed.failed(&again)), (Some("no"), None));
    assert_eq!(Memory::of(&failed.annotations()), failed);
    assert_eq!(kept(&failed.annotations()).into_iter().collect::<Annotations>(), failed.annotations());
    assert_eq!(Memory::of(&Annotations::from([(annotation::VERIFICATION.into(), "{".into())])), none);
    assert_ne!(one.task("a"), again.task("a"));
}

#[test]
fn a_few_that_passed_are_remembered() {
    let mut memory = Memory::default();
    for n in 0..10 {
        memory = memory.with(&it(&format!("h{}", n / 2), &n.to_string()), &Ok(()));
    }
    let known: Vec<_> = (0..6).filter(|n| memory.has_passed(&it(&format!("h{n}"), "x"))).collect();
    assert_eq!(known, [1, 2, 3, 4]);
}

proptest! {
    /// However often the controller dies between what it does: one Task for each try, and what came of it stands.
    #[test]
    fn one_task_for_each_try(passes: bool, crashes in prop::collection::vec(any::<bool>(), 1..30)) {
        let one = it("h", "1");
        let (mut memory, mut task, mut made, mut admitted) = (Memory::default(), Seen::Absent, 0, false);
        for (round, crash) in crashes.into_iter().chain([false; 4]).enumerate() {
            match step(&one, &memory, &task, true) {
                // The write may be carried out although the controller dies.
                Step::Begin => (task, made) = (Seen::Open, made + 1),
                Step::Remember(next) if !crash => memory = next,
                Step::Admit if !crash => admitted = true,
                _ => {}
            }
            if round > 0 && task == Seen::Open {
                task = Seen::Over(if passes { Ok(()) } else { Err("no".into()) });
            }
        }
        prop_assert_eq!((made, admitted), (1, passes));
        prop_assert_eq!(memory.failed(&one).is_some(), !passes);
    }
}
