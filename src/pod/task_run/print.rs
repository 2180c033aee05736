//! The answer's text, once each, though events may be lost and read again.

use std::{
    collections::{HashMap, HashSet},
    io::Write,
};

use crate::pod::opencode::{Message, Part, Payload};

/// How far a text part has come.
#[derive(Debug, Default)]
struct Progress {
    /// Bytes printed.
    printed: usize,
    /// Bytes that the events told of so far, if none was missed. They lag behind the listing.
    told: Option<usize>,
}

/// What was printed of which part.
#[derive(Debug, Default)]
pub(super) struct Printer {
    /// Messages of the assistant.
    answers: HashSet<String>,
    /// Text parts of those.
    parts: HashMap<String, Progress>,
    /// Text was printed that does not end a line.
    open_line: bool,
}

impl Printer {
    /// An event of our session.
    pub(super) fn event(&mut self, payload: &Payload, out: &mut impl Write) {
        let fields = &payload.properties;
        match payload.kind.as_str() {
            "message.updated" => {
                if let Some(info) = fields.info.as_ref().filter(|info| info.role == "assistant") {
                    self.answers.insert(info.id.clone());
                }
            }
            "message.part.updated" => {
                if let Some(part) = &fields.part {
                    self.part(part, true, out);
                }
            }
            "message.part.delta" if fields.field.as_deref() == Some("text") => {
                if let (Some(id), Some(delta)) = (&fields.part_id, &fields.delta) {
                    self.delta(id, delta, out);
                }
            }
            _ => {}
        }
    }

    /// The messages as they are: prints what events did not bring.
    pub(super) fn messages(&mut self, messages: &[Message], out: &mut impl Write) {
        for message in messages.iter().filter(|message| message.info.role == "assistant") {
            self.answers.insert(message.info.id.clone());
            for part in &message.parts {
                let mut part = part.clone();
                part.message_id.clone_from(&message.info.id);
                self.part(&part, false, out);
            }
        }
    }

    /// Events may have been missed: where the deltas stand is not known until a part is told whole again.
    pub(super) fn missed(&mut self) {
        self.parts.values_mut().for_each(|part| part.told = None);
    }

    /// Ends the line.
    pub(super) fn finish(&mut self, out: &mut impl Write) {
        if std::mem::take(&mut self.open_line) {
            let _ = writeln!(out);
            let _ = out.flush();
        }
    }

    fn delta(&mut self, id: &str, delta: &str, out: &mut impl Write) {
        let Some(Progress { printed, told: Some(told) }) = self.parts.get_mut(id) else { return };
        let known = printed.saturating_sub(*told);
        *told += delta.len();
        let rest = delta.get(known..).unwrap_or_default().to_owned();
        *printed = (*printed).max(*told);
        self.write(&rest, out);
    }

    fn part(&mut self, part: &Part, event: bool, out: &mut impl Write) {
        let Some(text) = part.text.as_deref().filter(|_| part.kind == "text") else { return };
        if !self.answers.contains(&part.message_id) {
            return;
        }
        let progress = self.parts.entry(part.id.clone()).or_default();
        if event {
            progress.told = Some(text.len());
        }
        let rest = text.get(progress.printed..).unwrap_or_default().to_owned();
        progress.printed = progress.printed.max(text.len());
        self.write(&rest, out);
    }

    fn write(&mut self, text: &str, out: &mut impl Write) {
        if !text.is_empty() {
            self.open_line = !text.ends_with('\n');
            // Nobody may be reading; the Task goes on.
            let _ = out.write_all(text.as_bytes());
            let _ = out.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, properties: &serde_json::Value) -> Payload {
        serde_json::from_value(json!({ "type": kind, "properties": properties })).unwrap()
    }

    fn part(id: &str, message: &str, text: &str) -> Payload {
        event(
            "message.part.updated",
            &json!({ "part": { "id": id, "type": "text", "messageID": message, "text": text } }),
        )
    }

    fn delta(id: &str, text: &str) -> Payload {
        event("message.part.delta", &json!({ "partID": id, "field": "text", "delta": text }))
    }

    #[test]
    fn each_word_once() {
        let (mut printer, mut out) = (Printer::default(), Vec::new());
        let answer: Message = serde_json::from_value(json!({
            "info": { "id": "m2", "role": "assistant" },
            "parts": [{ "id": "p2", "type": "text", "text": "one two three" }, { "id": "p3", "type": "reasoning", "text": "hm" }],
        }))
        .unwrap();
        for payload in [
            part("p1", "m1", "the prompt itself"),
            event("message.updated", &json!({ "info": { "id": "m2", "role": "assistant" } })),
            delta("p2", "a delta of a part that is not known"),
            part("p2", "m2", ""),
            delta("p2", "one "),
            part("p2", "m2", "one "),
        ] {
            printer.event(&payload, &mut out);
        }
        // The listing is ahead of the events, which tell the same later.
        printer.messages(std::slice::from_ref(&answer), &mut out);
        printer.event(&delta("p2", "two "), &mut out);
        printer.event(&delta("p2", "three fo"), &mut out);
        // After a break it is not known where a delta stands, until the part is told again.
        printer.missed();
        printer.event(&delta("p2", "ive"), &mut out);
        printer.event(&part("p2", "m2", "one two three four five"), &mut out);
        printer.event(&delta("p2", " six"), &mut out);
        printer.finish(&mut out);
        printer.finish(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "one two three four five six\n");
    }
}
