//! Side by side: two real servers behind real doors. Whoever works in the old one goes on there, also through the Service.

use std::time::Duration;

use http::Method;
use pilothouse::{
    api::voice::Peer,
    pod::opencode::{Client, Error, Prompt, Signal},
};

use super::{PASSWORD, Pod, credentials, eventually, moves::Rollout};
use crate::common::model::Script;

fn introduce(rollout: &Rollout) {
    let peer = |pod: &Pod, uid: &str| Peer { pod: uid.into(), door: pod.sidecar.address.to_string() };
    let peers = [peer(&rollout.new, "new"), peer(&rollout.old, "old")];
    rollout.old.sidecar.peers.set(&peers);
    rollout.new.sidecar.peers.set(&peers);
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Error>) -> u16 {
    match answer {
        Err(Error::Refused { status, .. }) => status,
        other => panic!("{other:?}"),
    }
}

/// Sends a prompt and waits until the session has this many messages and rests.
async fn ask(client: &Client, session: &str, prompt: &str, messages: usize) -> String {
    client.prompt_async(session, &Prompt::text(prompt)).await.unwrap();
    for _ in 0..600 {
        let all = client.messages(session, 20).await.unwrap();
        if all.len() >= messages && all.last().unwrap().info.finish.is_some() {
            return all.last().unwrap().text();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no answer: {:?}", client.messages(session, 20).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_attached_goes_on_in_the_old_pod_through_the_service() {
    let rollout = Rollout::beside().await;
    introduce(&rollout);
    // A person: listens to the server's events, and asks through the Service, each time with a new connection.
    let mut events = rollout.old.client().events();
    assert_eq!(events.next().await, Signal::Connected);
    let through = || Client::new(&rollout.url(), Some(&credentials())).unwrap();
    let session = through().create_session("a conversation", None, &[]).await.unwrap();
    assert_eq!(ask(&through(), &session.id, "one", 2).await, "word0 word1 word2 word3 ");

    rollout.model.play(Script::held());
    through().prompt_async(&session.id, &Prompt::text("two")).await.unwrap();
    let asked = || rollout.model.calls().iter().any(|call| call.text().contains("two"));
    eventually("the model was asked", asked).await;
    let gone = rollout.switch();
    // The Service leads to the new pod, which leads on.
    assert_eq!(through().session(&session.id).await.unwrap().title, "a conversation");
    rollout.model.play(Script::default());
    rollout.model.release();
    eventually("the work has ended", || rollout.old.sidecar.work.snapshot().without_work()).await;
    assert_eq!(ask(&through(), &session.id, "three", 6).await, "word0 word1 word2 word3 ");
    let titles = |client: Client| async move { client.find_session("a conversation").await.unwrap().is_some() };
    assert_eq!((titles(rollout.old.client()).await, titles(rollout.new.client()).await), (true, false));

    // What is new is the new pod's, and the old one says so to whom it still reaches.
    let (code, answer) = rollout.old.call(Method::POST, "/session", Some(PASSWORD)).await;
    assert_eq!((code, answer.headers()["connection"].to_str().unwrap()), (503, "close"));
    let fresh = through().create_session("new", None, &[]).await.unwrap();
    assert!(rollout.new.client().session(&fresh.id).await.is_ok());
    assert!(rollout.old.client().session(&fresh.id).await.is_ok(), "and the old one leads there as well");
    // Nobody has it, a pod is meant, or no password is shown: nobody is led anywhere.
    assert_eq!(refused(through().session("ses_nobodys").await), 404);
    let pinned = rollout.new.client().pinned().await.unwrap();
    assert_eq!(refused(pinned.session(&session.id).await), 404);
    let (code, _) = rollout.new.call(Method::GET, &format!("/session/{}", session.id), None).await;
    assert_eq!(code, 401);

    // It goes when nobody is attached any more.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!gone.is_finished(), "somebody is attached");
    drop(events);
    gone.await.unwrap();
    rollout.new.sidecar.peers.set(&[]);
    assert_eq!(refused(through().session(&session.id).await), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_strategy_an_ending_pod_takes_no_prompt() {
    let rollout = Rollout::start().await;
    let session = rollout.old.client().create_session("a conversation", None, &[]).await.unwrap();
    let gone = rollout.switch();
    gone.await.unwrap();
    let answer = rollout.old.client().prompt_async(&session.id, &Prompt::text("more")).await;
    assert_eq!(refused(answer), 503);
}
