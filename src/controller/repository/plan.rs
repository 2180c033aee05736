//! What a Repository's spec asks for (pure).

use std::{collections::BTreeSet, time::Duration};

use crate::{
    api::{GitReference, GoDuration, RepositorySpec, names::reasons, not_yet},
    git::{CommitId, Reference, RemoteUrl},
};

/// A valid spec, in the words of [`crate::git`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) struct Plan {
    pub(in crate::controller) url: RemoteUrl,
    pub(in crate::controller) reference: Reference,
    pub(in crate::controller) submodules: bool,
    pub(in crate::controller) secret: Option<String>,
    pub(in crate::controller) proxy: Option<String>,
    pub(in crate::controller) interval: Duration,
    pub(in crate::controller) timeout: Duration,
}

/// Why a spec cannot be followed: reason and message.
pub(in crate::controller) type Refusal = (&'static str, String);

/// No remote is asked more often.
pub(in crate::controller) const SHORTEST: Duration = Duration::from_secs(1);

/// No exchange takes longer: while it lasts, it holds one of the places that all remotes share.
const LONGEST_EXCHANGE: Duration = Duration::from_mins(10);

/// Reads the spec. Whatever it refuses stays refused until the spec changes.
pub(in crate::controller) fn plan(spec: &RepositorySpec, allow_file: bool) -> Result<Plan, Refusal> {
    let gaps = not_yet::unsupported(spec);
    if !gaps.is_empty() {
        return Err((reasons::NOT_YET_SUPPORTED, not_yet::message(&gaps)));
    }
    let url = RemoteUrl::parse(&spec.url, allow_file).map_err(|error| invalid("spec.url", &error))?;
    let reference = reference(spec.reference.as_ref())?;
    reference.check().map_err(|error| invalid("spec.ref", &error))?;
    Ok(Plan {
        url,
        reference,
        submodules: spec.recurse_submodules == Some(true),
        secret: spec.secret_ref.as_ref().map(|secret| secret.name.clone()).filter(|name| !name.is_empty()),
        proxy: spec.proxy_secret_ref.as_ref().map(|secret| secret.name.clone()).filter(|name| !name.is_empty()),
        interval: duration("spec.interval", &spec.interval)?,
        timeout: duration("spec.timeout", &spec.timeout)?.min(LONGEST_EXCHANGE),
    })
}

/// The Secrets that a spec names, whether or not the rest of it can be followed.
pub(in crate::controller) fn secrets(spec: &RepositorySpec) -> BTreeSet<String> {
    let own = spec.secret_ref.as_ref();
    let hook = spec.webhook.as_ref().map(|webhook| &webhook.secret_ref);
    own.into_iter()
        .chain(spec.proxy_secret_ref.as_ref())
        .chain(hook)
        .map(|secret| secret.name.clone())
        .filter(|name| !name.is_empty())
        .collect()
}

fn invalid(field: &str, error: &dyn std::fmt::Display) -> Refusal {
    (reasons::INVALID_SPEC, format!("{field}: {error}"))
}

fn duration(field: &str, text: &GoDuration) -> Result<Duration, Refusal> {
    Ok(text.parse().map_err(|error| invalid(field, &error))?.max(SHORTEST))
}

fn reference(wanted: Option<&GitReference>) -> Result<Reference, Refusal> {
    let Some(wanted) = wanted else { return Ok(Reference::Head) };
    let named = [
        wanted.branch.clone().map(Reference::Branch),
        wanted.tag.clone().map(Reference::Tag),
        wanted.name.clone().map(Reference::Name),
        wanted.commit.as_deref().map(commit).transpose()?,
    ];
    let mut named = named.into_iter().flatten();
    match (named.next(), named.next()) {
        (None, _) => Ok(Reference::Head),
        (Some(reference), None) => Ok(reference),
        (Some(_), Some(_)) => Err(invalid("spec.ref", &"exactly one of branch, tag, commit or name must be specified")),
    }
}

fn commit(text: &str) -> Result<Reference, Refusal> {
    let id = CommitId::parse(text);
    id.map(Reference::Commit).ok_or_else(|| invalid("spec.ref.commit", &"must be a full commit id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> RepositorySpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn references() {
        let id = "a".repeat(40);
        for (wanted, expected) in [
            (serde_json::json!(null), Reference::Head),
            (serde_json::json!({"branch": "main"}), Reference::Branch("main".into())),
            (serde_json::json!({"tag": "v1"}), Reference::Tag("v1".into())),
            (serde_json::json!({"name": "refs/pull/1/head"}), Reference::Name("refs/pull/1/head".into())),
            (serde_json::json!({"commit": id}), Reference::Commit(CommitId::parse(&id).unwrap())),
        ] {
            let plan = plan(&spec(serde_json::json!({"url": "https://h/a", "ref": wanted})), false).unwrap();
            assert_eq!(plan.reference, expected);
            assert_eq!((plan.interval, plan.timeout), (Duration::from_mins(1), Duration::from_mins(1)));
        }
    }

    #[test]
    fn submodules_are_left_out_unless_they_are_asked_for() {
        for (extra, want) in [(None, false), (Some(false), false), (Some(true), true)] {
            let json = serde_json::json!({"url": "https://h/a", "recurseSubmodules": extra});
            assert_eq!(plan(&spec(json), false).unwrap().submodules, want);
        }
    }

    #[test]
    fn durations_have_bounds() {
        let url = "https://h/a";
        for (interval, timeout, seconds) in
            [("1ns", "1ns", (1, 1)), ("5m", "24h", (300, 600)), ("1h", "9m", (3600, 540))]
        {
            let json = serde_json::json!({"url": url, "interval": interval, "timeout": timeout});
            let plan = plan(&spec(json), false).unwrap();
            assert_eq!((plan.interval.as_secs(), plan.timeout.as_secs()), seconds, "{interval} {timeout}");
        }
    }

    #[test]
    fn refusals_name_the_field() {
        let url = "https://h/a";
        for (spec_json, reason, part) in [
            (serde_json::json!({"url": "ext::sh"}), "InvalidSpec", "spec.url: the transport \"ext\""),
            (serde_json::json!({"url": "file:///srv/a"}), "InvalidSpec", "--allow-file-repositories"),
            (serde_json::json!({"url": "https://a:b@h/x"}), "InvalidSpec", "secretRef"),
            (serde_json::json!({"url": url, "ref": {"branch": "-x"}}), "InvalidSpec", "spec.ref: branch \"-x\""),
            (serde_json::json!({"url": url, "ref": {"commit": "abc"}}), "InvalidSpec", "spec.ref.commit"),
            (serde_json::json!({"url": url, "ref": {"branch": "a", "tag": "b"}}), "InvalidSpec", "exactly one"),
            (serde_json::json!({"url": url, "interval": "soon"}), "InvalidSpec", "spec.interval"),
            (serde_json::json!({"url": url, "ref": {"semver": "1"}}), "NotYetSupported", "spec.ref.semver"),
            (serde_json::json!({"url": url, "verify": {"secretRef": {"name": "k"}}}), "NotYetSupported", "spec.verify"),
        ] {
            let (found, message) = plan(&spec(spec_json.clone()), false).unwrap_err();
            assert!(found == reason && message.contains(part), "{spec_json}: {found} {message}");
        }
        assert!(plan(&spec(serde_json::json!({"url": "file:///srv/a"})), true).is_ok());
    }
}
