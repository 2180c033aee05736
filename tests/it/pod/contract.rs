//! One script against the stand-in for the agent's server and against the real one: what tests believe of the first is true
//! of the second.

use std::{path::PathBuf, time::Duration};

use pilothouse::pod::opencode::{Client, Credentials, Error, Follower, Message, Prompt, SessionStatus, Signal};

use crate::common::{
    agent_server::{AgentServer, Illness, Setup, VERSION, root},
    model::Model,
    opencode::Server,
};

const SECRET: &str = "let me in";

/// The same, whichever it is.
enum Subject {
    StandIn { server: AgentServer, folder: tempfile::TempDir },
    Real { server: Server, model: Model, folder: tempfile::TempDir },
}

impl Subject {
    async fn stand_in() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let setup = Setup {
            password: Some(("opencode".into(), SECRET.into())),
            directory: folder.path().to_str().unwrap().into(),
            skills: vec![root(folder.path().to_owned())],
            ..Setup::default()
        };
        Self::StandIn { server: AgentServer::start(setup).await, folder }
    }

    async fn real() -> Self {
        let (model, folder) = (Model::start().await, tempfile::tempdir().unwrap());
        let mut config = model.config();
        config["skills"] = serde_json::json!({ "paths": [folder.path()] });
        Self::Real { server: Server::start_with("127.0.0.1", &config, Some(SECRET)).await, model, folder }
    }

    fn client_with(&self, password: Option<&str>) -> Client {
        let port = match self {
            Self::StandIn { server, .. } => server.port,
            Self::Real { server, .. } => server.port,
        };
        let with = |password: &str| Credentials { username: "opencode".into(), password: password.into() };
        Client::new(&format!("http://127.0.0.1:{port}"), password.map(with).as_ref()).unwrap()
    }

    fn client(&self) -> Client {
        self.client_with(Some(SECRET))
    }

    fn skill(&self, name: &str, text: &str) {
        let (Self::StandIn { folder, .. } | Self::Real { folder, .. }) = self;
        let folder: PathBuf = folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!("---\nname: {name}\ndescription: What {name} is for\n---\n{text}\n");
        std::fs::write(folder.join("SKILL.md"), text).unwrap();
    }

    /// What the server lists of ours: name, description and text.
    async fn skills(&self) -> Vec<(String, String, String)> {
        let (Self::StandIn { folder, .. } | Self::Real { folder, .. }) = self;
        let listed = self.client().skills().await.unwrap().into_iter();
        let ours = listed.filter(|skill| skill.location.starts_with(folder.path().to_str().unwrap()));
        let mut ours: Vec<_> =
            ours.map(|skill| (skill.name, skill.description.unwrap(), skill.content.trim().to_owned())).collect();
        ours.sort();
        ours
    }

    fn wedge(&self, wedged: bool) {
        match self {
            Self::StandIn { server, .. } => server.feels(Illness { wedged, ..Illness::default() }),
            Self::Real { server, .. } => server.signal(if wedged { "STOP" } else { "CONT" }),
        }
    }

    /// Disposes of all instances, and waits until that is told. An event of the first moment of a stream may be lost, so it is
    /// asked for again; that ends nothing anew.
    async fn dispose(&self) {
        let mut events = self.client().global_events();
        assert_eq!(events.next().await, Signal::Connected);
        for _ in 0..4 {
            self.client().dispose_all().await.unwrap();
            let told = heard(&mut events, "", "global.disposed");
            if tokio::time::timeout(Duration::from_secs(15), told).await.is_ok() {
                return;
            }
        }
        panic!("no disposal is told");
    }

    async fn restart(&mut self) {
        match self {
            Self::StandIn { server, .. } => server.restart(),
            Self::Real { server, .. } => server.restart().await,
        }
    }

    fn release(&self) {
        match self {
            Self::StandIn { server, .. } => server.release(),
            Self::Real { model, .. } => model.release(),
        }
    }

    /// A new session that has this prompt, and at least one word of an answer to it.
    async fn session(&self, prompt: &str) -> String {
        let client = self.client();
        let session = client.create_session(prompt, None, &[]).await.unwrap();
        let mut events = client.events();
        assert_eq!(events.next().await, Signal::Connected);
        client.prompt_async(&session.id, &Prompt::text(prompt)).await.unwrap();
        heard(&mut events, &session.id, "message.part.delta").await;
        session.id
    }

    /// The last message once it is an answer that has ended.
    async fn answer(&self, session: &str) -> Message {
        for _ in 0..1200 {
            let last = self.client().messages(session, 1).await.unwrap().pop();
            if let Some(last) = last.filter(|m| m.info.role == "assistant" && m.info.time.completed.is_some()) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no answer");
    }

    async fn is_listed(&self, session: &str) -> bool {
        self.client().status().await.unwrap().contains_key(session)
    }
}

/// Waits for an event about a session; empty for one about none.
async fn heard(events: &mut Follower, session: &str, kind: &str) {
    let mut seen = vec![];
    let wait = async {
        loop {
            let signal = events.next().await;
            if let Signal::Event(event) = &signal
                && event.payload.kind == kind
                && (session.is_empty() || event.payload.properties.session_id.as_deref() == Some(session))
            {
                return;
            }
            seen.push(signal);
        }
    };
    let limit = tokio::time::timeout(Duration::from_mins(1), wait).await;
    assert!(limit.is_ok(), "no {kind}: {seen:#?}");
}

async fn prompts(subject: &Subject) {
    let client = subject.client();
    let health = client.health().await.unwrap();
    assert_eq!((health.healthy, health.version.as_str()), (true, VERSION));
    for password in [None, Some("wrong")] {
        let refused = subject.client_with(password).health().await;
        assert!(matches!(refused, Err(Error::Unauthorized { .. })), "{refused:?}");
    }

    let session = client.create_session("first", None, &[]).await.unwrap();
    assert!(session.id.starts_with("ses_") && session.title == "first" && !session.directory.is_empty(), "{session:?}");
    assert_eq!(client.find_session("first").await.unwrap().map(|s| s.id), Some(session.id.clone()));
    assert_eq!(client.session(&session.id).await.unwrap().title, "first");
    assert_eq!(client.messages(&session.id, 10).await.unwrap(), []);
    let missing = client.session("ses_000000000000missing").await;
    assert!(matches!(missing, Err(Error::Refused { status: 404, .. })), "{missing:?}");

    // Begin and end are told, in all directories and in this one.
    let (mut global, mut own) = (client.global_events(), client.events());
    assert_eq!((global.next().await, own.next().await), (Signal::Connected, Signal::Connected));
    client.prompt_async(&session.id, &Prompt::text("[[words=4 hold]]")).await.unwrap();
    loop {
        if let Signal::Event(event) = global.next().await
            && event.payload.kind == "session.status"
        {
            assert_eq!(event.payload.properties.status, Some(SessionStatus::Busy));
            assert_eq!(event.directory.as_deref(), Some(session.directory.as_str()));
            break;
        }
    }
    heard(&mut own, &session.id, "message.part.delta").await;
    assert_eq!(client.status().await.unwrap().get(&session.id), Some(&SessionStatus::Busy));
    subject.release();
    heard(&mut own, &session.id, "session.idle").await;
    assert!(!subject.is_listed(&session.id).await, "who is idle is not listed");
    let messages = client.messages(&session.id, 10).await.unwrap();
    let roles: Vec<_> = messages.iter().map(|m| m.info.role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant"]);
    let answer = messages.last().unwrap();
    assert_eq!(answer.text(), "word0 word1 word2 word3 ");
    assert_eq!(answer.info.parent_id.as_ref(), Some(&messages[0].info.id));
    assert!(answer.info.finish.as_deref() == Some("stop") && answer.info.error.is_none(), "{:?}", answer.info);

    client.prompt_async(&session.id, &Prompt::text("[[fail=400]]")).await.unwrap();
    loop {
        let last = subject.answer(&session.id).await;
        if let Some(error) = last.info.error {
            assert_eq!(error.name, "APIError");
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ends(subject: &mut Subject) {
    // Stopped, and disposed of: the answer that was begun ends with the same error.
    let session = subject.session("[[hold]]").await;
    assert!(subject.is_listed(&session).await);
    subject.client().abort(&session).await.unwrap();
    let stopped = subject.answer(&session).await;
    assert_eq!(stopped.info.error.map(|e| e.name).as_deref(), Some("MessageAbortedError"));
    assert!(!subject.is_listed(&session).await);

    let session = subject.session("[[hold]]").await;
    subject.dispose().await;
    let cut = subject.answer(&session).await;
    assert_eq!(cut.info.error.map(|e| e.name).as_deref(), Some("MessageAbortedError"));

    // One that accepts and does not answer, and answers later.
    subject.wedge(true);
    let silent = subject.client().with_timeout(Duration::from_secs(1)).health().await;
    assert!(matches!(&silent, Err(error @ Error::Unreachable { .. }) if error.is_transient()), "{silent:?}");
    subject.wedge(false);
    assert!(subject.client().health().await.is_ok());

    // A new process knows the sessions and lists none, though the answer was never whole.
    let session = subject.session("[[hold]]").await;
    subject.restart().await;
    assert!(!subject.is_listed(&session).await, "an empty listing is no idleness");
    let last = subject.client().messages(&session, 1).await.unwrap().pop().unwrap();
    assert!(last.info.role == "assistant" && last.info.finish.is_none(), "{:?}", last.info);
    subject.release();
}

async fn skills(subject: &Subject) {
    let is = |list: &[(&str, &str)]| -> Vec<(String, String, String)> {
        list.iter().map(|(name, text)| ((*name).into(), format!("What {name} is for"), (*text).into())).collect()
    };
    assert_eq!(subject.skills().await, is(&[("alpha", "one")]));
    subject.skill("alpha", "two");
    subject.skill("beta", "new");
    assert_eq!(subject.skills().await, is(&[("alpha", "one")]), "read once");
    subject.dispose().await;
    assert_eq!(subject.skills().await, is(&[("alpha", "two"), ("beta", "new")]));
}

async fn contract(mut subject: Subject) {
    subject.skill("alpha", "one");
    prompts(&subject).await;
    skills(&subject).await;
    ends(&mut subject).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stand_in_for_the_server_keeps_the_contract() {
    contract(Subject::stand_in().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_server_keeps_the_contract() {
    contract(Subject::real().await).await;
}
