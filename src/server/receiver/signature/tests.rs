use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};

use super::*;

const TOKEN: &str = "It's a Secret to Everybody";
const BODY: &str = "Hello, World!";
/// 16 bytes: 0123456789abcdef.
const STANDARD_TOKEN: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZg==";
const NOW: i64 = 1_700_000_000;

fn seal(key: &[u8], text: &str) -> Seal {
    let mut mac = mac(key);
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

fn hex_of(seal: Seal) -> String {
    seal.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn check(forge: Forge, token: &str, headers: &[(&str, &str)], body: &str) -> Result<Seal, Refusal> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    let mut check = Check::begin(forge, &Token::new(token.as_bytes()).unwrap(), &map, NOW);
    for piece in body.as_bytes().chunks(5) {
        check.update(piece);
    }
    check.finish()
}

#[test]
fn the_published_example_of_github_is_understood() {
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert!(check(Forge::GitHub, TOKEN, &[("X-Hub-Signature-256", signature)], BODY).is_ok());
}

#[test]
fn each_forge_by_its_own_header_and_no_other() {
    use Forge::{Bitbucket, Forgejo, Generic, GitHub, GitLab, Gitea};
    use Refusal::{BadSignature, NoSignature};
    let good = hex_of(seal(TOKEN.as_bytes(), BODY));
    let prefixed = format!("sha256={good}");
    let other = format!("sha256={}", hex_of(seal(b"another key", BODY)));
    let upper = good.to_uppercase();
    for (forge, headers, want) in [
        (GitHub, vec![("x-hub-signature-256", prefixed.as_str())], Ok(())),
        (GitHub, vec![("x-hub-signature-256", &other)], Err(BadSignature)),
        (GitHub, vec![("x-hub-signature-256", &good)], Err(NoSignature)),
        (GitHub, vec![("x-hub-signature-256", "sha256=")], Err(NoSignature)),
        (GitHub, vec![("x-hub-signature-256", &prefixed[..70])], Err(NoSignature)),
        (GitHub, vec![("x-hub-signature", &prefixed)], Err(NoSignature)),
        (GitHub, vec![("x-hub-signature-256", &prefixed), ("x-hub-signature-256", &other)], Err(NoSignature)),
        (GitHub, vec![], Err(NoSignature)),
        (Gitea, vec![("x-gitea-signature", &good)], Ok(())),
        (Gitea, vec![("x-gitea-signature", &upper)], Ok(())),
        (Gitea, vec![("x-gitea-signature", &prefixed)], Err(NoSignature)),
        (Gitea, vec![("x-hub-signature-256", &prefixed)], Err(NoSignature)),
        (Forgejo, vec![("x-forgejo-signature", &good)], Ok(())),
        (Forgejo, vec![("x-gitea-signature", &good)], Ok(())),
        (Forgejo, vec![("x-forgejo-signature", &other[7..]), ("x-gitea-signature", &good)], Err(BadSignature)),
        (Bitbucket, vec![("x-hub-signature", &prefixed)], Ok(())),
        (Bitbucket, vec![("x-hub-signature", &other)], Err(BadSignature)),
        (Bitbucket, vec![], Err(NoSignature)),
        (GitLab, vec![("x-gitlab-token", TOKEN)], Ok(())),
        (GitLab, vec![("x-gitlab-token", "It's a Secret to Everybodz")], Err(BadSignature)),
        (GitLab, vec![("x-gitlab-token", "")], Err(BadSignature)),
        (GitLab, vec![("x-hub-signature-256", &prefixed)], Err(NoSignature)),
        (Generic, vec![("x-hub-signature-256", &prefixed)], Err(NoSignature)),
    ] {
        assert_eq!(check(forge, TOKEN, &headers, BODY).map(|_| ()), want, "{forge:?} {headers:?}");
    }
}

#[test]
fn another_body_is_another_signature() {
    let header = format!("sha256={}", hex_of(seal(TOKEN.as_bytes(), BODY)));
    for body in ["", "Hello, World", "Hello, World!!", "hello, World!"] {
        let found = check(Forge::GitHub, TOKEN, &[("x-hub-signature-256", &header)], body);
        assert_eq!(found, Err(Refusal::BadSignature), "{body:?}");
    }
}

fn signed(key: &[u8], id: &str, time: i64, body: &str) -> String {
    format!("v1,{}", STANDARD.encode(seal(key, &format!("{id}.{time}.{body}"))))
}

#[test]
fn standard_webhooks_sign_the_time_too() {
    use Refusal::{BadSignature, NoSignature, Stale};
    let key = b"0123456789abcdef";
    let at = |time: i64| (time.to_string(), signed(key, "msg_1", time, BODY));
    let cases = [
        (at(NOW), "msg_1", Ok(())),
        (at(NOW - TOLERANCE), "msg_1", Ok(())),
        (at(NOW + TOLERANCE), "msg_1", Ok(())),
        (at(NOW - TOLERANCE - 1), "msg_1", Err(Stale)),
        (at(NOW + TOLERANCE + 1), "msg_1", Err(Stale)),
        (at(i64::MIN), "msg_1", Err(Stale)),
        (at(NOW), "msg_2", Err(BadSignature)),
        (at(NOW), "", Err(NoSignature)),
        ((NOW.to_string(), at(NOW - 1).1), "msg_1", Err(BadSignature)),
        (("soon".into(), at(NOW).1), "msg_1", Err(NoSignature)),
        ((NOW.to_string(), format!("v1,AAAA v2,x {}", at(NOW).1)), "msg_1", Ok(())),
        ((NOW.to_string(), at(NOW).1.replace("v1,", "v2,")), "msg_1", Err(NoSignature)),
        ((NOW.to_string(), String::new()), "msg_1", Err(NoSignature)),
    ];
    for ((time, signature), id, want) in cases {
        let headers = [("webhook-id", id), ("webhook-timestamp", &time), ("webhook-signature", &signature)];
        for forge in [Forge::Generic, Forge::GitLab] {
            let found = check(forge, STANDARD_TOKEN, &headers, BODY).map(|_| ());
            assert_eq!(found, want, "{forge:?} {id} {time} {signature}");
        }
        let plain = check(Forge::Generic, "0123456789abcdef", &headers, BODY).map(|_| ());
        assert_eq!(plain, want, "a token without whsec_ is the key as it is");
    }
    // With a signing token GitLab must sign: the plain header is no proof.
    let shown = [("x-gitlab-token", STANDARD_TOKEN)];
    assert_eq!(check(Forge::GitLab, STANDARD_TOKEN, &shown, BODY), Err(NoSignature));
}

#[test]
fn what_makes_a_delivery_the_same_is_its_content() {
    let one = check(Forge::GitLab, TOKEN, &[("x-gitlab-token", TOKEN), ("x-gitlab-event-uuid", "1")], BODY);
    let again = check(Forge::GitLab, TOKEN, &[("x-gitlab-token", TOKEN), ("x-gitlab-event-uuid", "2")], BODY);
    let other = check(Forge::GitLab, TOKEN, &[("x-gitlab-token", TOKEN)], "another");
    assert!(one.is_ok() && one == again && one != other);
}

#[test]
fn a_decoy_takes_everything_and_says_no() {
    let mut decoy = Check::decoy(Refusal::UnknownPath);
    decoy.update(BODY.as_bytes());
    assert_eq!(decoy.finish(), Err(Refusal::UnknownPath));
}
