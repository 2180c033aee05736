//! Content from Git in a running pod, the whole way: a push, one fetch, the gate, the sidecar's exchange, what the server
//! then finds and lists, and what the Agent's status says of it. The pod stays, and so does the prompt that it works on.

use std::time::{Duration, Instant};

use http_body_util::Full;
use pilothouse::pod::opencode::Credentials;
use serde_json::{Value, json};

use super::world::{Place, SYSTEM, condition, get, place, restarts, sent, uid};
use crate::{common::git_server::Repository, receiver};

const BOOK: &str = "handbook/guide.md";
const SKILL: &str = "skills/review/SKILL.md";
const EXTRA: &str = "skills/deploy/SKILL.md";
/// How long a push to an idle agent takes at most: seconds on an idle machine, more beside other tests.
const ARRIVES: Duration = Duration::from_secs(40);

fn skill(name: &str, description: &str) -> String {
    format!("---\nname: {name}\ndescription: {description}\n---\n\nDo it well.\n")
}

/// The agent under test, and what it had at the start.
struct Agent {
    place: Place,
    spec: Value,
    pod: Value,
    url: String,
    credentials: Credentials,
}

impl Agent {
    /// Waits until the agent finds `word` in the context that lies at `folder`, as its own search does.
    async fn finds(&self, folder: &str, word: &str) {
        let begun = Instant::now();
        while !self.has(folder, word).await {
            assert!(begun.elapsed() < ARRIVES, "{word} is not in {folder}\n{}", self.place.story());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("{word} is found after {:?}", begun.elapsed());
    }

    async fn has(&self, folder: &str, word: &str) -> bool {
        let (status, text) = get(&format!("{}/find?pattern={word}", self.url), &self.credentials).await;
        assert_eq!(status, 200, "{text}");
        text.contains(&format!("{folder}/"))
    }

    /// Skills of ours that the running server lists, with what they are for.
    async fn lists(&self) -> Vec<(String, String)> {
        let (status, text) = get(&format!("{}/skill", self.url), &self.credentials).await;
        assert_eq!(status, 200, "{text}");
        let all: Vec<Value> = serde_json::from_str(&text).unwrap();
        let ours = all.iter().filter(|s| s["location"].as_str().unwrap_or_default().starts_with("/skills/team/"));
        let field = |skill: &Value, key: &str| skill[key].as_str().unwrap_or_default().to_owned();
        let mut ours: Vec<_> = ours.map(|s| (field(s, "name"), field(s, "description"))).collect();
        ours.sort();
        ours
    }

    async fn lists_only(&self, wanted: &[(&str, &str)]) {
        let wanted: Vec<_> = wanted.iter().map(|(n, d)| ((*n).to_owned(), (*d).to_owned())).collect();
        let begun = Instant::now();
        while self.lists().await != wanted {
            let listed = self.lists().await;
            assert!(begun.elapsed() < ARRIVES, "{listed:?}, not {wanted:?}\n{}", self.place.story());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("{wanted:?} are listed after {:?}", begun.elapsed());
    }

    /// Waits until the status names these commits (of the handbook, the manual, the skills), nothing waits, and the pod is the one of the start.
    async fn settles(&self, commits: [&str; 3], skills: &str) {
        let commits: Vec<_> = ["handbook", "manual", "skills/team"].into_iter().zip(commits).collect();
        let at = |agent: &Value, name: &str, commit: &str| {
            let all = agent["status"]["gitSyncStatuses"].as_array().cloned().unwrap_or_default();
            all.iter().any(|s| s["name"] == name && s["commitHash"] == commit && s["observedCommit"] == commit)
        };
        let agent = self
            .place
            .until(&format!("the status names {commits:?}"), "agent/coder", |agent| {
                commits.iter().all(|(name, commit)| at(agent, name, commit))
                    && condition(agent, "GitSyncPending")[0] == "False"
                    && condition(agent, "SkillsLoaded")[2] == skills
                    && agent["status"]["state"] == "Ready"
            })
            .await;
        assert_eq!(condition(&agent, "SkillsLoaded")[..2], ["True", "SkillsInUse"], "{agent:#}");
        assert_eq!(condition(&agent, "GitSyncPending")[1..], ["Synced", "nothing waits"], "{agent:#}");
        for status in agent["status"]["gitSyncStatuses"].as_array().unwrap() {
            assert!(status["lastSynced"].is_string() && status["message"].is_null(), "{status:#}");
        }
        self.is_the_same();
    }

    /// No other pod, and no container that started again.
    fn is_the_same(&self) {
        let now = self.place.pod().unwrap();
        assert_eq!((uid(&now), restarts(&now)), (uid(&self.pod), 0), "{}", self.place.story());
    }

    /// Waits until it is said that commits wait for work; the message.
    async fn waits(&self) -> String {
        let pending = |agent: &Value| condition(agent, "GitSyncPending")[..2] == ["True", "WaitingForReload"];
        let agent = self.place.until("it is said that content waits", "agent/coder", pending).await;
        assert_eq!(agent["status"]["state"], "Ready", "an agent that works is no trouble");
        condition(&agent, "GitSyncPending")[2].to_owned()
    }

    /// Tells the receiver of a push as a forge does.
    async fn delivers(&self, commit: &str) {
        let ready = |r: &Value| r["status"]["webhookPath"].is_string();
        let repository = self.place.until("the webhook has a path", "repository/team", ready).await;
        let path = repository["status"]["webhookPath"].as_str().unwrap();
        let (headers, body) = receiver::delivery(commit);
        let service = self.place.node.cluster.kubectl([
            "get",
            "service",
            "-n",
            SYSTEM,
            "pilothouse-receiver",
            "-o",
            "jsonpath={.spec.clusterIP}:{.spec.ports[?(@.name=='hooks')].port}",
        ]);
        let address = String::from_utf8(service.stdout).unwrap();
        let mut request = http::Request::post(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let (status, words) = sent(request.body(Full::from(body)).unwrap()).await;
        assert_eq!(status, 202, "{words}");
    }
}

/// The agent with a context and skills of its own Repository, and a context of a repository that only it names.
async fn start(place: Place) -> (Agent, Repository, [String; 2]) {
    let (manual, url) = place.another_repository("manual");
    let other = manual.commit("main", &[("pages/a.md", "manual-one")]);
    let team = |path: &str| {
        let sync = json!({"enabled": true, "policy": "HotReload"});
        json!({"repositoryRef": {"name": "team"}, "path": path, "sync": sync})
    };
    let own = json!({"repository": url, "path": "pages", "sync": {"enabled": true, "interval": "1s"}});
    let mut spec = place.spec();
    spec["contexts"] = json!([
        {"name": "handbook", "type": "Git", "mountPath": "docs/handbook", "git": team("handbook")},
        {"name": "manual", "type": "Git", "mountPath": "docs/manual", "git": own},
    ]);
    spec["skills"] = json!([{"name": "team", "git": team("skills")}]);
    place.kubectl(&["create", "secret", "generic", "hook", &format!("--from-literal=token={}", receiver::TOKEN)]);
    place.kubectl(&[
        "patch",
        "repository",
        "team",
        "--type=merge",
        "-p",
        r#"{"spec":{"webhook":{"type":"GitHub","secretRef":{"name":"hook"}}}}"#,
    ]);
    let first = place.push(&spec, &[(BOOK, "needle-one"), (SKILL, &skill("review", "Looks at changes"))]);
    let pod = place.ready("").await;
    let (url, credentials) = place.door();
    (Agent { place, spec, pod, url, credentials }, manual, [first, other])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_reaches_the_running_agent_and_the_prompt_that_it_works_on_is_answered_whole() {
    let Some(place) = place("content").await else { return };
    let (agent, manual, [first, other]) = start(place).await;
    agent.finds("docs/handbook", "needle-one").await;
    agent.finds("docs/manual", "manual-one").await;
    agent.lists_only(&[("review", "Looks at changes")]).await;
    agent.settles([&first, &other, &first], "1 loaded: review").await;

    // A context alone, while nothing goes on.
    let second = agent.place.push(&agent.spec, &[(BOOK, "needle-two")]);
    agent.finds("docs/handbook", "needle-two").await;
    assert!(!agent.has("docs/handbook", "needle-one").await, "one commit at a time");
    // A repository that only this agent names, by its interval.
    let next = manual.commit("main", &[("pages/a.md", "manual-two")]);
    agent.finds("docs/manual", "manual-two").await;
    agent.settles([&second, &next, &first], "1 loaded: review").await;

    // A skill, while a prompt is answered.
    let answer = agent.place.ask("Work on. [[words=6 hold]]").await;
    let third = agent.place.push(&agent.spec, &[(SKILL, &skill("review", "Looks twice"))]);
    let said = agent.waits().await;
    assert!(
        said.starts_with("what is new in skills/team waits for busy sessions to end and then comes without a new pod"),
        "{said}"
    );
    agent.place.stays(&agent.pod, 2).await;
    assert_eq!(agent.lists().await, [("review".to_owned(), "Looks at changes".to_owned())], "while it works");
    assert!(!answer.is_finished());
    agent.place.model.release();
    assert_eq!(answer.await.unwrap().trim(), "word0 word1 word2 word3 word4 word5");
    agent.lists_only(&[("review", "Looks twice")]).await;
    agent.settles([&second, &next, &third], "1 loaded: review").await;

    // Both at once, a new skill too; told by a webhook, while a prompt is answered.
    let answer = agent.place.ask("Work harder. [[words=6 hold]]").await;
    let both =
        [(BOOK, "needle-three"), (SKILL, &skill("review", "Looks three times")), (EXTRA, &skill("deploy", "Ships"))];
    let fourth = agent.place.commit(&agent.spec, &both);
    agent.delivers(&fourth).await;
    let said = agent.waits().await;
    assert!(said.contains("contexts/handbook, skills/team"), "{said}");
    agent.place.stays(&agent.pod, 2).await;
    assert!(!agent.has("docs/handbook", "needle-three").await && !answer.is_finished());
    agent.place.model.release();
    assert_eq!(answer.await.unwrap().trim(), "word0 word1 word2 word3 word4 word5");
    agent.finds("docs/handbook", "needle-three").await;
    agent.lists_only(&[("deploy", "Ships"), ("review", "Looks three times")]).await;
    agent.settles([&fourth, &next, &fourth], "2 loaded: deploy, review").await;

    // The next prompt has them.
    agent.place.ask("And now? [[words=2]]").await.await.unwrap();
    let calls = agent.place.model.calls();
    let call = calls.iter().rev().find(|c| c.text().contains("And now?") && c.body["tools"].is_array()).unwrap();
    assert!(
        call.body.to_string().contains("Looks three times"),
        "the model is not told of the skills: {:#}",
        call.body
    );
    agent.is_the_same();
}
