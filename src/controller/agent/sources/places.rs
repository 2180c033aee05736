//! Places for work, which namespaces take by turns: however much one has to do, another waits for one turn of each.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// So many at a time.
pub(super) struct Places(Mutex<State>);

struct State {
    free: usize,
    /// Namespaces in which somebody waits.
    turns: VecDeque<String>,
    waiting: HashMap<String, VecDeque<oneshot::Sender<Place>>>,
}

/// A place; the next one has it when it is dropped.
pub(super) struct Place(Arc<Places>);

impl Places {
    pub(super) fn new(places: usize) -> Arc<Self> {
        let state = State { free: places, turns: VecDeque::new(), waiting: HashMap::new() };
        Arc::new(Self(Mutex::new(state)))
    }

    /// Waits for a place. `None` never comes in practice.
    pub(super) async fn take(self: &Arc<Self>, namespace: &str) -> Option<Place> {
        let coming = {
            let mut state = self.0.lock();
            if state.free > 0 {
                state.free -= 1;
                return Some(Place(self.clone()));
            }
            state.wait(namespace)
        };
        coming.await.ok()
    }
}

impl State {
    fn wait(&mut self, namespace: &str) -> oneshot::Receiver<Place> {
        let (place, coming) = oneshot::channel();
        let waiting = self.waiting.entry(namespace.to_owned()).or_default();
        if waiting.is_empty() {
            self.turns.push_back(namespace.to_owned());
        }
        waiting.push_back(place);
        coming
    }

    fn next(&mut self) -> Option<oneshot::Sender<Place>> {
        let namespace = self.turns.pop_front()?;
        let waiting = self.waiting.get_mut(&namespace)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&namespace);
        } else {
            self.turns.push_back(namespace);
        }
        next
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        let Some(next) = state.next() else {
            state.free += 1;
            return;
        };
        drop(state);
        // Who waits no more gives it back, and so passes it on.
        let _ = next.send(Self(self.0.clone()));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn namespaces_take_turns_and_who_left_is_passed_over() {
        let places = Places::new(2);
        let take = |namespace: &'static str| {
            let places = places.clone();
            // What waits must have asked.
            let mut coming = Box::pin(async move { places.take(namespace).await });
            let now = coming.as_mut().now_or_never().flatten();
            (now, coming)
        };
        let (first, second) = (take("greedy").0.unwrap(), take("greedy").0.unwrap());
        let (third, fourth, left, modest) = (take("greedy").1, take("greedy").1, take("left").1, take("modest").1);
        drop(left);
        drop(first);
        let third = third.now_or_never().flatten().expect("who waited first");
        drop(second);
        let modest = modest.now_or_never().flatten().expect("one turn later");
        drop(third);
        drop(fourth.now_or_never().flatten().expect("and then the others"));
        drop(modest);
        let state = places.0.lock();
        assert_eq!((state.free, state.turns.len(), state.waiting.len()), (2, 0, 0));
    }
}
