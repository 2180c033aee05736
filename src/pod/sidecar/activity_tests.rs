use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn known(start: Instant) -> Activity {
    let mut activity = Activity::new(start);
    activity.follow(true, start);
    activity
}

fn held(start: Instant) -> Activity {
    let mut activity = known(start);
    activity.hold(start + GRACE * 100, start);
    activity
}

fn busy(name: &str) -> Vec<(String, SessionStatus)> {
    vec![(name.to_owned(), SessionStatus::Busy)]
}

#[test]
fn idle_needs_all_of_its_conditions() {
    let t = Instant::now();
    let later = t + QUIET;
    assert!(held(t).idle(later));
    assert!(!held(t).idle(t + QUIET.saturating_sub(MS)), "changed a moment ago");
    let mut unknown = Activity::new(t);
    unknown.hold(later + QUIET, t);
    assert!(!unknown.idle(later), "the server's events are not followed");
    let mut working = held(t);
    working.begin(None, t);
    assert!(!working.idle(later), "a request is in flight");
    assert!(held(t).snapshot(later).held);
    let mut expired = known(t);
    expired.hold(later, t);
    assert!(!expired.snapshot(later).held, "the lease is over");
}

#[test]
fn a_prompt_is_work_from_its_request_to_the_idle_event() {
    let t = Instant::now();
    let mut a = held(t);
    a.begin(Some("s"), t);
    a.end(Some("s"), false, t);
    assert_eq!(a.snapshot(t).busy, 1, "204 came, no status yet");
    a.listed(&[], t + MS);
    assert_eq!(a.snapshot(t).busy, 1, "the listing does not show it yet");
    a.status("s", &SessionStatus::Idle, t + MS);
    assert_eq!(a.snapshot(t).busy, 1, "this idle belongs to the prompt before");
    a.status("s", &SessionStatus::Busy, t + MS);
    a.status("s", &SessionStatus::Idle, t + MS * 2);
    assert!(a.snapshot(t).without_work());
    assert!(a.idle(t + MS * 2 + QUIET));
}

#[test]
fn a_prompt_sent_before_the_end_of_the_last_one_was_seen_is_not_forgotten() {
    let t = Instant::now();
    let prompted_while_at_work = |status: &SessionStatus| {
        let mut a = held(t);
        a.begin(Some("s"), t);
        a.end(Some("s"), false, t);
        a.status("s", status, t + MS);
        // The client has its answer, and asks again before the event of the end came.
        a.begin(Some("s"), t + MS * 2);
        a.end(Some("s"), false, t + MS * 2);
        a
    };
    for status in [SessionStatus::Busy, SessionStatus::Retry { message: String::new() }] {
        let mut a = prompted_while_at_work(&status);
        a.status("s", &SessionStatus::Idle, t + MS * 3);
        assert!(!a.snapshot(t + MS * 3).without_work(), "its work comes yet");
        a.status("s", &SessionStatus::Busy, t + MS * 4);
        a.status("s", &SessionStatus::Idle, t + MS * 5);
        assert!(a.snapshot(t + MS * 5).without_work());
        // The same where the end shows in listings alone.
        let mut a = prompted_while_at_work(&status);
        a.status("s", &status, t + MS * 3);
        for n in 4..9 {
            a.listed(&[], t + MS * n);
        }
        assert!(!a.snapshot(t + MS * 9).without_work());
        // It was worked on together with the one before: that shows by nothing but time.
        a.status("s", &SessionStatus::Idle, t + MS * 10);
        a.listed(&[], t + MS * 2 + GRACE);
        assert!(a.snapshot(t + GRACE * 2).without_work());
        let mut a = prompted_while_at_work(&status);
        a.status("s", &SessionStatus::Idle, t + GRACE * 2);
        assert!(a.snapshot(t + GRACE * 2).without_work(), "a long work's end is seen at once");
    }
}

#[test]
fn a_prompt_that_never_works_is_forgotten_after_the_grace() {
    let t = Instant::now();
    let mut a = held(t);
    a.begin(Some("s"), t);
    a.end(Some("s"), false, t);
    a.listed(&[], t + GRACE.saturating_sub(MS));
    assert_eq!(a.snapshot(t).busy, 1);
    a.listed(&[], t + GRACE);
    assert!(a.snapshot(t).without_work());
}

#[test]
fn an_answered_prompt_is_over() {
    let t = Instant::now();
    let mut a = held(t);
    a.begin(Some("s"), t);
    a.end(Some("s"), true, t);
    assert!(a.snapshot(t).without_work());
}

#[test]
fn a_busy_session_must_be_missing_twice() {
    let t = Instant::now();
    let mut a = held(t);
    a.listed(&busy("s"), t);
    a.listed(&[], t);
    assert_eq!(a.snapshot(t).busy, 1);
    a.listed(&busy("s"), t);
    a.listed(&[], t);
    assert_eq!(a.snapshot(t).busy, 1, "seen again in between");
    a.listed(&[], t);
    assert!(a.snapshot(t).without_work());
}

#[test]
fn retries_and_unknown_states_are_work() {
    let t = Instant::now();
    let mut a = held(t);
    a.status("r", &SessionStatus::Retry { message: String::new() }, t);
    a.status("o", &SessionStatus::Other, t);
    let snapshot = a.snapshot(t);
    assert_eq!((snapshot.busy, snapshot.retrying), (1, 1));
}

#[test]
fn too_many_sessions_are_still_work() {
    let t = Instant::now();
    let mut a = held(t);
    for n in 0..=MAX_SESSIONS {
        a.status(&n.to_string(), &SessionStatus::Busy, t);
    }
    assert_eq!(a.sessions.len(), MAX_SESSIONS);
    a.sessions.clear();
    assert_eq!((a.snapshot(t).busy, a.busy_sessions()), (1, vec![NAMELESS.to_owned()]));
}

#[test]
fn a_listing_that_says_nothing_new_changes_nothing() {
    let t = Instant::now();
    let mut a = held(t);
    let before = a.snapshot(t);
    a.listed(&[], t + GRACE);
    assert_eq!(a.snapshot(t), before);
}

#[derive(Clone, Debug)]
enum Step {
    Begin(u8),
    End(u8),
    Status(u8, bool),
    Hold,
    Follow(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..3).prop_map(Step::Begin),
        (0u8..3).prop_map(Step::End),
        (0u8..3, any::<bool>()).prop_map(|(s, b)| Step::Status(s, b)),
        Just(Step::Hold),
        any::<bool>().prop_map(Step::Follow),
    ]
}

proptest! {
    /// Whatever happens: the number never falls, it grows with each change of what is reported, and "idle" is never
    /// said while a session was last seen at work.
    #[test]
    fn the_sequence_orders_everything(steps in proptest::collection::vec(step(), 0..60)) {
        let mut t = Instant::now();
        let mut a = Activity::new(t);
        let mut at_work = std::collections::HashSet::new();
        let mut last = a.snapshot(t);
        for step in steps {
            t += MS;
            match step {
                Step::Begin(s) => a.begin(Some(&s.to_string()), t),
                Step::End(s) => a.end(Some(&s.to_string()), false, t),
                Step::Status(s, true) => { a.status(&s.to_string(), &SessionStatus::Busy, t); at_work.insert(s); }
                Step::Status(s, false) => { a.status(&s.to_string(), &SessionStatus::Idle, t); at_work.remove(&s); }
                Step::Hold => a.hold(t + GRACE, t),
                Step::Follow(known) => a.follow(known, t),
            }
            let next = a.snapshot(t);
            prop_assert!(next.sequence >= last.sequence);
            if next.sequence == last.sequence { prop_assert_eq!(next, last); }
            if !at_work.is_empty() { prop_assert!(!a.idle(t + QUIET)); }
            last = next;
        }
    }
}
