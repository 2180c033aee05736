//! Forms of texts, and what the API server says to whoever misses one.
//!
//! A bare pattern in a schema is shown to people as it is. So the types name patterns, and the schemas that are installed
//! have rules in their place (`schema::settle`), whose messages say what is allowed.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::duration;

/// A pattern and its meaning.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// What a text must match; without `'`.
    pub pattern: &'static str,
    /// What a text must be, with an example where that helps.
    pub meaning: &'static str,
}

/// See [`duration`].
pub const DURATION: Form = Form {
    pattern: duration::PATTERN,
    meaning: "must be a duration such as 5m or 1h30m; the units are h, m, s and ms",
};
/// A DNS label.
pub const LABEL: Form = Form {
    pattern: r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
    meaning: "must consist of lower-case letters, digits and '-', with a letter or a digit at both ends",
};
/// Name of a skill: that of its folder.
pub const SKILL: Form = Form {
    pattern: "^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$",
    meaning: "must be the name of a folder: letters, digits, '.', '_' and '-', with a letter or a digit at both ends",
};
/// An absolute path.
pub const ABSOLUTE: Form = Form { pattern: "^/.*", meaning: "must be an absolute path such as /workspace" };
/// A domain.
pub const DOMAIN: Form = Form {
    pattern: r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
    meaning: "must be a domain such as cluster.local, in lower-case letters",
};
/// A URL over HTTP.
pub const HTTP_URL: Form =
    Form { pattern: "^https?://.+$", meaning: "must be a URL such as http://collector.monitoring:4318" };
/// A range of addresses.
pub const RANGE: Form = Form {
    pattern: r"^[0-9a-fA-F.:]+/[0-9]{1,3}$",
    meaning: "must be a range of addresses such as 10.0.0.0/8 or fd00::/8",
};
/// Where a Git repository is.
pub const GIT_URL: Form = Form {
    pattern: r"^(https?://|ssh://|file://|([^@/:\s]+@)?[^@/:\s]+:/?[^/\s])\S*$",
    meaning: "must be the address of a repository: https://host/path, http://host/path, ssh://user@host/path or \
              user@host:path",
};
/// A whole commit id.
pub const COMMIT: Form = Form {
    pattern: "^([0-9a-f]{40}|[0-9a-f]{64})$",
    meaning: "must be a whole commit id: 40 or 64 of the digits 0-9 and a-f",
};
/// A full name of a reference.
pub const FULL_REF: Form = Form {
    pattern: "^(HEAD|refs/.+)$",
    meaning: "must be HEAD or a full name such as refs/heads/main or refs/pull/7/head",
};

/// Name of a time zone.
pub const ZONE: Form = Form {
    pattern: "^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$",
    meaning: "must be a name of the time zone database such as Europe/Berlin",
};

/// All but those of `schedule`.
pub const ALL: [Form; 11] =
    [DURATION, LABEL, SKILL, ABSOLUTE, DOMAIN, HTTP_URL, RANGE, GIT_URL, COMMIT, FULL_REF, ZONE];

impl Form {
    /// The form of a pattern; the first that has it.
    pub(super) fn of(pattern: &str) -> Option<Self> {
        ALL.into_iter().find(|form| form.pattern == pattern)
    }

    /// A rule for `x-kubernetes-validations`.
    pub(super) fn rule(self) -> Value {
        json!({"rule": matches(self.pattern), "message": self.meaning})
    }
}

fn matches(pattern: &str) -> String {
    format!("self.matches('{}')", pattern.replace('\\', r"\\"))
}

/// Five fields of cron: name, one value of it, and what values there are.
const CRON: [(&str, &str, &str); 5] = [
    ("minute", "[0-5]?[0-9]", "0 to 59"),
    ("hour", "([01]?[0-9]|2[0-3])", "0 to 23"),
    ("day of the month", "(0?[1-9]|[12][0-9]|3[01])", "1 to 31"),
    ("month", "(0?[1-9]|1[0-2]|[A-Za-z]{3})", "1 to 12 or JAN to DEC"),
    ("day of the week", "(0?[0-7]|[A-Za-z]{3})", "0 to 7 (0 and 7 are Sunday) or SUN to SAT"),
];
const FIVE_FIELDS: &str = r"^\s*(\S+\s+){4}\S+\s*$";

/// Longest text of a schedule, in characters.
pub const MAX_SCHEDULE: u32 = 256;

/// A schedule in five cron fields, with a rule that counts them and one for each. Whether some day has all that is named is
/// not known here.
pub(super) fn schedule(_: &mut SchemaGenerator) -> Schema {
    let five = matches(FIVE_FIELDS);
    let count = "must have five fields, minute, hour, day of the month, month and day of the week, such as 0 9 * * 1-5";
    let field = |(at, (name, value, values)): (usize, (&str, &str, &str))| {
        let item = format!(r"(\*|{value}(-{value})?)(/0*[1-9][0-9]*)?");
        let pattern = format!(r"^\s*(\S+\s+){{{at}}}{item}(,{item})*(\s|$)");
        let message = format!(
            "the {name}, field {} of 5, must be {values}, *, a range (1-5), a list (1,3) or a step (*/2)",
            at + 1
        );
        json!({"rule": format!("!{five} || {}", matches(&pattern)), "message": message})
    };
    let rules: Vec<Value> = std::iter::once(json!({"rule": five, "message": count}))
        .chain(CRON.into_iter().enumerate().map(field))
        .collect();
    json_schema!({"type": "string", "maxLength": MAX_SCHEDULE, "x-kubernetes-validations": rules})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_told_apart_and_fit_into_quotes() {
        for (at, form) in ALL.iter().enumerate() {
            assert!(regex::Regex::new(form.pattern).is_ok() && !form.pattern.contains('\''), "{}", form.pattern);
            assert!(!form.meaning.contains('^') && form.meaning.starts_with("must "), "{}", form.meaning);
            assert!(ALL[..at].iter().all(|other| other.pattern != form.pattern), "{}", form.pattern);
        }
    }
}
