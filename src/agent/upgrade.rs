//! Whether pods are made anew for a newer release of Pilothouse (pure).
//!
//! A new release alone replaces no pod: what is rendered for an agent is the layout, and has the sidecar's image, that its
//! pods have, until another cause rolls them, or a person asks (`pilothouse upgrade agents`). Who asks does so for all
//! agents with one value, so that for the fleet it is the same change at each.

use k8s_openapi::api::apps::v1::Deployment;

use super::build::layout::{self, SIDECAR};
use crate::api::names::annotation;

/// What an agent's pods are made of, as far as a release decides that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Layout of the pods.
    pub layout: Option<u32>,
    /// Image of the sidecar.
    pub image: Option<String>,
    /// Seconds that the pods have to end.
    pub grace: Option<i64>,
    /// The request that they were made for.
    pub made_for: Option<String>,
    /// The newest request that was carried out, or had nothing to do.
    pub handled: Option<String>,
}

/// Reads it off the Deployment.
pub fn running(deployment: &Deployment) -> Running {
    let handled = deployment.metadata.annotations.as_ref().and_then(|a| a.get(annotation::UPGRADE)).cloned();
    let template = deployment.spec.as_ref().map(|s| &s.template);
    let marks = template.and_then(|t| t.metadata.as_ref()?.annotations.as_ref());
    let pod = template.and_then(|t| t.spec.as_ref());
    let sidecar = pod.and_then(|p| p.init_containers.iter().flatten().find(|c| c.name == SIDECAR));
    Running {
        layout: marks.and_then(|m| m.get(annotation::LAYOUT)?.parse().ok()),
        image: sidecar.and_then(|c| c.image.clone()),
        grace: pod.and_then(|p| p.termination_grace_period_seconds),
        made_for: marks.and_then(|m| m.get(annotation::UPGRADE)).cloned(),
        handled,
    }
}

impl Running {
    /// Whether somebody asks for newer pods, and there are any: with another layout than `layout`, or another sidecar than
    /// that of the controller's own `image`.
    pub fn is_due(&self, asked: Option<&str>, layout: u32, image: Option<&str>) -> bool {
        let newer = self.layout != Some(layout) || (image.is_some() && image != self.image.as_deref());
        asked.is_some() && asked != self.handled.as_deref() && newer
    }

    /// Whether its layout is still rendered by a controller that gives new pods the layout `given`.
    pub fn is_kept(&self, given: u32) -> bool {
        self.layout.is_some_and(|version| layout::is_kept(version, given))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_for_who_asks_and_has_something_older() {
        let running = |layout: u32, image: &str, handled: Option<&str>| Running {
            layout: Some(layout),
            image: Some(image.into()),
            handled: handled.map(String::from),
            ..Running::default()
        };
        let table = [
            (running(1, "p:1", None), None, false),
            (running(1, "p:1", None), Some("x"), true),
            (running(2, "p:1", None), Some("x"), true),
            (running(1, "p:2", None), Some("x"), true),
            (running(2, "p:2", None), Some("x"), false),
            (running(1, "p:1", Some("x")), Some("x"), false),
            (running(1, "p:1", Some("w")), Some("x"), true),
            (Running::default(), Some("x"), true),
        ];
        for (running, asked, due) in table {
            assert_eq!(running.is_due(asked, 2, Some("p:2")), due, "{running:?} {asked:?}");
        }
    }

    #[test]
    fn two_layouts_back_are_kept() {
        let kept = |version: u32, given| Running { layout: Some(version), ..Running::default() }.is_kept(given);
        let table = [(1, 1, true), (1, 3, true), (1, 4, false), (2, 4, true), (3, 2, false), (0, 1, false)];
        for (version, given, expected) in table {
            assert_eq!(kept(version, given), expected, "{version} of {given}");
        }
        assert!(!Running::default().is_kept(1), "what says no layout is none of ours");
    }
}
