//! From what is known of an input to what it is (pure).

use std::sync::Arc;

use super::packer::{Packed, Packing};
use crate::{
    agent::Resolved,
    git::CommitId,
    status::{Class, Failure},
};

/// What was found out.
#[derive(Debug)]
pub(super) struct Found {
    /// The revision that counts, `main@sha1:…`; `None` while nobody has answered.
    pub(super) revision: Option<String>,
    /// How far its artifact is.
    pub(super) packing: Packing,
    /// What is wrong, whatever the artifact is.
    pub(super) problem: Option<Failure>,
}

/// What an input was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before<'a> {
    /// What the generated objects remember.
    pub(super) applied: Option<&'a Resolved>,
    /// What this process found last.
    pub(super) last: Option<&'a Resolved>,
}

/// What it is now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) resolved: Option<Resolved>,
    pub(super) problem: Option<Failure>,
    /// The artifact is being made: who decides now would decide again in a moment.
    pub(super) busy: bool,
}

impl Settled {
    /// The newest commit that is worth telling. One that changes nothing is not: each push would write the status of
    /// every agent that has some other path of the repository.
    pub(super) fn observed(&self, newest: Option<&String>) -> Option<String> {
        let is_current = self.problem.is_none() && !self.busy && newest.is_some();
        let current = self.resolved.as_ref().filter(|_| is_current).map(|resolved| &resolved.revision);
        current.or(newest).cloned()
    }
}

impl<'a> Before<'a> {
    /// What it stays while nothing better is known.
    pub(super) fn best(&self) -> Option<&'a Resolved> {
        self.last.or(self.applied)
    }

    /// The one that has this artifact: a commit that changes nothing is no news, so its text stays what it was.
    fn of(&self, digest: &str) -> Option<&'a Resolved> {
        [self.applied, self.last].into_iter().flatten().find(|before| before.digest == digest)
    }
}

/// A failure never takes away what there was.
pub(super) fn settle(source_hash: &str, found: Found, before: Before<'_>) -> Settled {
    let Found { revision, packing, problem } = found;
    let stay = |problem, busy| Settled { resolved: before.best().cloned(), problem, busy };
    match (revision, packing) {
        (Some(revision), Packing::Done(Ok(packed))) => {
            let resolved = resolved(source_hash, revision, &packed, before);
            Settled { resolved: Some(resolved), problem, busy: false }
        }
        (Some(revision), Packing::Done(Err(failure))) => {
            // The disk's trouble with what is known already is nobody's.
            let known = before.best().is_some_and(|best| best.revision == revision);
            let passes = known && failure.class == Class::Transient;
            stay(problem.or((!passes).then_some(failure)), false)
        }
        (Some(_), Packing::Running) => stay(problem, true),
        (Some(revision), Packing::Absent) => {
            // A listing that says what was known before: what was applied counts, not what came between.
            let same = [before.applied, before.last].into_iter().flatten().find(|b| b.revision == revision);
            match same {
                Some(same) => Settled { resolved: Some(same.clone()), problem, busy: false },
                None => stay(problem, false),
            }
        }
        (None, _) => stay(problem, false),
    }
}

fn resolved(source_hash: &str, revision: String, packed: &Arc<Packed>, before: Before<'_>) -> Resolved {
    let digest = packed.digest.to_string();
    let bad_skills = packed.bad_skills.clone();
    if let Some(same) = before.of(&digest) {
        return Resolved { bad_skills, ..same.clone() };
    }
    Resolved {
        revision,
        digest,
        size: packed.size,
        is_file: packed.is_file,
        skills: packed.skills.clone(),
        branch: packed.branch.clone(),
        bad_skills,
        source_hash: source_hash.into(),
    }
}

/// The commit of a revision.
pub(super) fn commit_of(revision: &str) -> Option<CommitId> {
    CommitId::parse(revision.rsplit(':').next()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Digest;

    fn before(revision: &str, content: &[u8]) -> Resolved {
        Resolved {
            revision: revision.into(),
            digest: Digest::of(content).to_string(),
            source_hash: "h".into(),
            ..Resolved::default()
        }
    }

    fn done(content: &[u8]) -> Packing {
        let packed = Packed {
            digest: Digest::of(content),
            size: 1,
            is_file: false,
            skills: vec![],
            branch: None,
            bad_skills: vec![("bad".into(), "why".into())],
        };
        Packing::Done(Ok(Arc::new(packed)))
    }

    fn settled(
        revision: Option<&str>,
        packing: Packing,
        before: Before<'_>,
    ) -> (Option<String>, Option<&'static str>, bool) {
        let found = Found { revision: revision.map(Into::into), packing, problem: None };
        let Settled { resolved, problem, busy } = settle("h", found, before);
        (resolved.map(|r| r.revision), problem.map(|p| p.reason), busy)
    }

    #[test]
    fn what_an_input_is() {
        let (applied, last) = (before("r0", b"0"), before("r1", b"1"));
        let both = Before { applied: Some(&applied), last: Some(&last) };
        let failed = |class| Packing::Done(Err(Failure { class, reason: "PathNotFound", message: "x".into() }));
        let none = Before::default();
        let known = Before { applied: Some(&applied), last: None };
        for (revision, packing, before, want, problem, busy, why) in [
            (Some("r2"), done(b"2"), both, Some("r2"), None, false, "a new commit"),
            (Some("r2"), done(b"1"), both, Some("r1"), None, false, "a commit that changes nothing"),
            (Some("r2"), done(b"0"), both, Some("r0"), None, false, "back to what is applied"),
            (Some("r2"), Packing::Running, both, Some("r1"), None, true, "in a moment"),
            (Some("r2"), failed(Class::Stalled), both, Some("r1"), Some("PathNotFound"), false, "a wrong path"),
            (Some("r2"), failed(Class::Stalled), none, None, Some("PathNotFound"), false, "a wrong path at first"),
            (Some("r0"), failed(Class::Transient), known, Some("r0"), None, false, "known, but not on disk"),
            (Some("r2"), Packing::Absent, known, Some("r0"), None, false, "fetching"),
            (Some("r0"), Packing::Absent, both, Some("r0"), None, false, "taken back"),
            (None, Packing::Absent, known, Some("r0"), None, false, "no answer yet"),
            (None, Packing::Absent, none, None, None, false, "no answer, nothing known"),
        ] {
            let want = (want.map(Into::into), problem, busy);
            assert_eq!(settled(revision, packing, before), want, "{why}");
        }
    }

    #[test]
    fn bad_skills_are_those_of_the_newest_commit() {
        let applied = before("r0", b"0");
        let found = Found { revision: Some("r1".into()), packing: done(b"0"), problem: None };
        let resolved = settle("h", found, Before { applied: Some(&applied), last: None }).resolved.unwrap();
        assert_eq!((resolved.revision.as_str(), resolved.bad_skills.len()), ("r0", 1));
    }

    #[test]
    fn a_commit_that_changes_nothing_is_not_told() {
        let applied = before("r0", b"0");
        let observed = |packing| {
            let found = Found { revision: Some("r1".into()), packing, problem: None };
            settle("h", found, Before { applied: Some(&applied), last: None }).observed(Some(&"r1".into()))
        };
        let failed = Packing::Done(Err(Failure::stalled("PathNotFound", "gone")));
        assert_eq!([done(b"0"), done(b"1"), failed].map(observed), ["r0", "r1", "r1"].map(|r| Some(r.to_string())));
    }

    #[test]
    fn the_commit_of_a_revision() {
        let id = "a".repeat(40);
        for revision in [format!("main@sha1:{id}"), format!("sha1:{id}"), id.clone()] {
            assert_eq!(commit_of(&revision).map(|c| c.to_string()), Some(id.clone()), "{revision}");
        }
        assert_eq!(commit_of("main@sha1:12"), None);
    }
}
