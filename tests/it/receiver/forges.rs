//! Deliveries in the shape of each forge's own: written for these tests, with the fields that their documentation names.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pilothouse::api::Forge;
use serde_json::{Value, json};

use super::world::{Signed, hex, hmac};

/// A delivery before it is signed.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) forge: Forge,
    /// Event header, where the forge has one.
    pub(super) event: &'static str,
    pub(super) body: String,
}

const OLD: &str = "95790bf891e76fee5e1747ab589903a6a1f80f22";
const ZERO: &str = "0000000000000000000000000000000000000000";

impl Delivery {
    fn new(forge: Forge, event: &'static str, body: &Value) -> Self {
        Self { forge, event, body: body.to_string() }
    }

    /// As the forge would send it.
    pub(super) fn signed(&self, token: &str) -> Signed {
        let id = hex(&rand::random::<[u8; 16]>());
        let seal = hex(&hmac(token.as_bytes(), &self.body));
        let event = self.event.to_owned();
        let headers = match self.forge {
            Forge::GitHub => vec![
                ("user-agent", "GitHub-Hookshot/044aadd".into()),
                ("x-github-event", event),
                ("x-github-delivery", id),
                ("x-github-hook-id", "292430182".into()),
                ("x-hub-signature", format!("sha1={}", "0".repeat(40))),
                ("x-hub-signature-256", format!("sha256={seal}")),
            ],
            Forge::GitLab => vec![
                ("user-agent", "GitLab/18.2.0".into()),
                ("x-gitlab-event", event),
                ("x-gitlab-event-uuid", id),
                ("x-gitlab-instance", "https://gitlab.example.com".into()),
                ("x-gitlab-token", token.into()),
            ],
            Forge::Gitea | Forge::Forgejo => {
                let own: [&'static str; 3] = if self.forge == Forge::Gitea {
                    ["x-gitea-event", "x-gitea-delivery", "x-gitea-signature"]
                } else {
                    ["x-forgejo-event", "x-forgejo-delivery", "x-forgejo-signature"]
                };
                vec![
                    (own[0], event.clone()),
                    (own[1], id),
                    (own[2], seal.clone()),
                    ("x-github-event", event),
                    ("x-hub-signature-256", format!("sha256={seal}")),
                ]
            }
            Forge::Bitbucket => vec![
                ("user-agent", "Bitbucket-Webhooks/2.0".into()),
                ("x-event-key", event),
                ("x-request-uuid", id),
                ("x-attempt-number", "1".into()),
                ("x-hub-signature", format!("sha256={seal}")),
            ],
            Forge::Generic => return self.standard(token.as_bytes(), &id, jiff::Timestamp::now().as_second()),
        };
        Signed { headers, body: self.body.clone() }
    }

    /// As the Standard Webhooks specification says.
    pub(super) fn standard(&self, key: &[u8], id: &str, time: i64) -> Signed {
        let seal = hmac(key, &format!("{id}.{time}.{}", self.body));
        let headers = vec![
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", time.to_string()),
            ("webhook-signature", format!("v1,{}", STANDARD.encode(seal))),
            ("x-gitlab-event", self.event.to_owned()),
        ];
        Signed { headers, body: self.body.clone() }
    }
}

/// A delivery that moves nothing, to see whether anybody answers.
pub(super) fn ping(forge: Forge) -> Delivery {
    match forge {
        Forge::GitHub => Delivery::new(forge, "ping", &json!({"zen": "Design for failure.", "hook_id": 292_430_182})),
        Forge::Bitbucket => Delivery::new(forge, "diagnostics:ping", &json!({"test": true})),
        // It has no events: this one is really a push.
        Forge::Generic => Delivery::new(forge, "", &json!({"first": true})),
        Forge::GitLab => Delivery::new(forge, "Issue Hook", &json!({"object_kind": "issue"})),
        Forge::Gitea | Forge::Forgejo => Delivery::new(forge, "issues", &json!({"action": "opened"})),
    }
}

/// A push of `after` to a branch.
pub(super) fn push(forge: Forge, branch: &str, after: &str) -> Delivery {
    match forge {
        Forge::GitHub => github(branch, after),
        Forge::GitLab => gitlab(branch, after),
        Forge::Gitea | Forge::Forgejo => gitea(forge, branch, after),
        Forge::Bitbucket => bitbucket_cloud(branch, after),
        Forge::Generic => Delivery::new(forge, "", &json!({"pushed": after})),
    }
}

fn github(branch: &str, after: &str) -> Delivery {
    let person = json!({"name": "Mona", "email": "mona@example.com", "username": "mona"});
    let commit = json!({
        "id": after, "tree_id": OLD, "distinct": true, "message": "Change the runbook",
        "timestamp": "2026-03-01T12:00:00+01:00", "url": "https://github.example.com/t/r/commit/1",
        "author": person, "committer": person, "added": ["a.yaml"], "removed": [], "modified": ["b.yaml"],
    });
    let repository = json!({
        "id": 186_853_002, "node_id": "MDEwOlJl", "name": "r", "full_name": "t/r", "private": true,
        "owner": {"login": "t", "id": 21_031_067}, "default_branch": "main", "pushed_at": 1_772_362_800,
        "clone_url": "https://github.example.com/t/r.git", "ssh_url": "git@github.example.com:t/r.git",
    });
    let body = json!({
        "ref": format!("refs/heads/{branch}"), "before": OLD, "after": after, "repository": repository,
        "pusher": {"name": "mona", "email": "mona@example.com"}, "sender": {"login": "mona", "id": 1, "type": "User"},
        "created": false, "deleted": false, "forced": false, "base_ref": null,
        "compare": "https://github.example.com/t/r/compare/1...2", "commits": [commit], "head_commit": commit,
    });
    Delivery::new(Forge::GitHub, "push", &body)
}

fn gitlab(branch: &str, after: &str) -> Delivery {
    let body = json!({
        "object_kind": "push", "event_name": "push", "before": OLD, "after": after,
        "ref": format!("refs/heads/{branch}"), "ref_protected": true, "checkout_sha": after,
        "user_id": 4, "user_name": "Jo", "user_username": "jo", "project_id": 15,
        "project": {
            "id": 15, "name": "r", "path_with_namespace": "t/r", "default_branch": "main",
            "git_http_url": "https://gitlab.example.com/t/r.git", "visibility_level": 0,
        },
        "commits": [{"id": after, "message": "Change", "added": ["a.yaml"], "modified": [], "removed": []}],
        "total_commits_count": 1,
    });
    Delivery::new(Forge::GitLab, "Push Hook", &body)
}

fn gitea(forge: Forge, branch: &str, after: &str) -> Delivery {
    let body = json!({
        "ref": format!("refs/heads/{branch}"), "before": OLD, "after": after,
        "compare_url": "https://gitea.example.com/t/r/compare/1...2", "total_commits": 1,
        "commits": [{"id": after, "message": "Change\n", "url": "https://gitea.example.com/t/r/commit/2", "verification": null}],
        "repository": {"id": 140, "full_name": "t/r", "private": false, "default_branch": "main"},
        "pusher": {"id": 1, "login": "jo"}, "sender": {"id": 1, "login": "jo"},
    });
    Delivery::new(forge, "push", &body)
}

fn bitbucket_cloud(branch: &str, after: &str) -> Delivery {
    let end = |hash: &str| json!({"type": "branch", "name": branch, "target": {"type": "commit", "hash": hash}});
    let change = json!({
        "new": end(after), "old": end(OLD), "created": false, "forced": false, "closed": false, "truncated": false,
        "commits": [{"type": "commit", "hash": after, "message": "Change\n"}],
    });
    let body = json!({
        "actor": {"type": "user", "display_name": "Jo"}, "push": {"changes": [change]},
        "repository": {"type": "repository", "full_name": "t/r", "is_private": true},
    });
    Delivery::new(Forge::Bitbucket, "repo:push", &body)
}

/// The same of Bitbucket Data Center.
pub(super) fn bitbucket_center(branch: &str, after: &str) -> Delivery {
    let id = format!("refs/heads/{branch}");
    let body = json!({
        "eventKey": "repo:refs_changed", "date": "2026-03-01T12:00:00+0100", "actor": {"name": "jo", "id": 1},
        "repository": {"slug": "r", "id": 84, "scmId": "git", "project": {"key": "T"}},
        "changes": [{
            "ref": {"id": id, "displayId": branch, "type": "BRANCH"}, "refId": id,
            "fromHash": OLD, "toHash": after, "type": "UPDATE",
        }],
    });
    Delivery::new(Forge::Bitbucket, "repo:refs_changed", &body)
}

/// A new tag.
pub(super) fn tag(forge: Forge, name: &str, commit: &str) -> Delivery {
    let reference = format!("refs/tags/{name}");
    if forge == Forge::GitLab {
        let body = json!({
            "object_kind": "tag_push", "event_name": "tag_push", "before": ZERO, "after": commit, "ref": reference,
            "project_id": 15, "total_commits_count": 0, "commits": [],
        });
        Delivery::new(forge, "Tag Push Hook", &body)
    } else {
        let body = json!({"ref": reference, "before": ZERO, "after": commit, "created": true, "commits": []});
        Delivery::new(forge, "push", &body)
    }
}
