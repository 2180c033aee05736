//! The page for people whose object is not Ready, made from the table of reasons.

use std::fmt::Write;

use super::names::{REASONS, Reason};

const HEAD: &str = "# Troubleshooting, by reason

Every object says how it is in its conditions:

```sh
kubectl get pilothouse -n NAMESPACE           # state of everything, one line each
kubectl describe agent NAME -n NAMESPACE      # conditions and events
kubectl get agent NAME -o jsonpath='{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{\"\\n\"}{end}'
```

- `Ready` says whether the object is as wanted.
- `Reconciling` exists while work goes on, `Stalled` while nothing but a change of the spec or of an input helps.
- `observedGeneration` of a condition tells which spec it is about; an older number means that the controller has not seen
  your change yet. `pilothouse reconcile KIND NAME` asks it to look now.
- An object without any conditions (READY stays empty) was never looked at: the controller does not run, or its namespace is not in the
  chart's `agentNamespaces`. `pilothouse reconcile KIND NAME -n NAMESPACE --wait` says the same after its timeout. A new Sync has none
  either while its Repository is fetched for the first time.

The *reason* of a condition or an event is stable; the message beside it names the file, field or object. This page is made
from the reasons in the source (`make generate`).

| reason | on | what it means | what to do |
| --- | --- | --- | --- |
";

/// The page, in Markdown; reasons in alphabetical order.
pub fn markdown() -> String {
    let mut rows: Vec<&Reason> = REASONS.iter().collect();
    rows.sort_by_key(|reason| reason.name);
    rows.into_iter().fold(String::from(HEAD), |mut page, reason| {
        let on = reason.kinds.join(", ");
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| `{}` | {on} | {} | {} |", reason.name, reason.meaning, reason.remedy);
        page
    })
}
