//! Events to values.

use std::collections::{BTreeMap, HashMap};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Value};

use super::{
    Budget, Document, Lines, YamlError, json,
    resolve::{self, Scalar},
};

/// How deep mappings and lists may nest; readers of JSON stop at 128.
pub const MAX_DEPTH: usize = 120;

/// Reads all documents of a text as `kubectl` does; empty ones are left out. A text that begins with `{` may be a
/// stream of JSON objects. The text is one that its reader trusts: its documents may take 256 MiB of memory.
pub fn parse_documents(text: &str) -> Result<Vec<Document>, YamlError> {
    parse_within(text, &Budget::new(256 << 20))
}

/// As [`parse_documents`]; what is read is paid for as it is read. Some kilobytes of aliases of aliases would otherwise
/// become gigabytes.
pub fn parse_within(text: &str, budget: &Budget) -> Result<Vec<Document>, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(documents) = json::parse_stream(text, budget)? {
        return Ok(documents);
    }
    check_characters(text)?;
    let options = granit_parser::options! { disallow_directives: true, emit_comments: false, emit_anchor_events: true };
    let mut reader =
        Reader { text, parser: Parser::new_from_str_with_options(text, options), anchors: HashMap::new(), budget };
    let mut documents = vec![];
    while reader.document(&mut documents)? {}
    Ok(documents)
}

/// Refuses what the Go scanner refuses, and the line breaks of YAML 1.1 that no other tool sees as such.
fn check_characters(text: &str) -> Result<(), YamlError> {
    let refused = |c: char| match c {
        '\u{2028}' | '\u{2029}' | '\u{feff}' => true,
        c => !matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..),
    };
    let Some(at) = text.find(refused) else { return check_begin(text) };
    let found = text[at..].chars().next().map_or(0, u32::from);
    let line = text[..at].matches('\n').count() + 1;
    let column = text[..at].chars().rev().take_while(|c| *c != '\n').count() + 1;
    Err(YamlError::new(line, column, format!("character U+{found:04X} is not allowed; write \"\\u{found:04x}\"")))
}

fn check_begin(text: &str) -> Result<(), YamlError> {
    let nothing = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    match text.lines().enumerate().find(|(_, line)| !nothing(line)) {
        Some((at, line)) if line.starts_with("...") => {
            Err(YamlError::new(at + 1, 1, "`...` ends a document that has not begun; remove it"))
        }
        _ => Ok(()),
    }
}

struct Reader<'t> {
    text: &'t str,
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    budget: &'t Budget,
}

/// A node that was read. Scalars stay typed because keys need the type.
#[derive(Clone)]
struct Node {
    kind: Kind,
    lines: Lines,
}

#[derive(Clone)]
enum Kind {
    Scalar(Scalar),
    Tree(Value),
}

type Spanned<'t> = (Event<'t>, Span);

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Spanned<'t>, YamlError> {
        loop {
            return match self.parser.next_event() {
                Some(Ok((Event::Anchor(_, name), span))) => {
                    check_anchor(&name, &span)?;
                    continue;
                }
                Some(Ok(event)) => Ok(event),
                Some(Err(e)) => Err(scan_error(&e)),
                None => Ok((Event::StreamEnd, Span::default())),
            };
        }
    }

    /// Reads one document, if there is one more.
    fn document(&mut self, documents: &mut Vec<Document>) -> Result<bool, YamlError> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(false),
                Event::DocumentStart(explicit, _) => {
                    self.check_start(explicit, &span)?;
                    break;
                }
                _ => {}
            }
        }
        self.anchors.clear();
        let (event, span) = self.next()?;
        if let Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..) = event {
            let (line, column) = place(&span);
            return Err(YamlError::new(line, column, "a block text cannot be a whole document; begin with a key"));
        }
        let node = self.node(event, &span, 0)?;
        let (value, lines) = node.into_value(&span)?;
        if !value.is_null() {
            documents.push(Document { line: lines.line(), value, lines });
        }
        Ok(true)
    }

    /// `kubectl` cuts its input at lines that begin with `---`, and takes one document of each piece.
    fn check_start(&self, explicit: bool, span: &Span) -> Result<(), YamlError> {
        let (line, column) = place(span);
        let ended = |before: &str| before.lines().any(|line| line.starts_with("..."));
        if !explicit && span.start.byte_offset().and_then(|at| self.text.get(..at)).is_some_and(ended) {
            return Err(YamlError::new(
                line,
                column,
                "content after `...` is left out by kubectl; write `---` before it",
            ));
        }
        let rest = span.end.byte_offset().and_then(|at| self.text.get(at..)).and_then(|rest| rest.lines().next());
        match rest.map(str::trim_start) {
            Some(rest) if explicit && !rest.is_empty() && !rest.starts_with('#') => Err(YamlError::new(
                line,
                column,
                "only a comment may follow `---` on its line, kubectl refuses the rest",
            )),
            _ => Ok(()),
        }
    }

    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Node, YamlError> {
        let (line, column) = place(span);
        if depth > MAX_DEPTH {
            return Err(YamlError::new(line, column, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.pay(Budget::text(text.len()), span)?;
                let tag = tag.map(|t| full_tag(&t));
                let plain = style == ScalarStyle::Plain;
                let scalar =
                    resolve::scalar(&text, plain, tag.as_deref()).map_err(|m| YamlError::new(line, column, m))?;
                (anchor, Node { kind: Kind::Scalar(scalar), lines: Lines::scalar(line) })
            }
            Event::SequenceStart(_, anchor, _) => (anchor, self.sequence(span, depth)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.mapping(span, depth)?),
            Event::Alias(id) => return self.alias(id, span, depth),
            _ => return Err(YamlError::new(line, column, "a value is expected here")),
        };
        if anchor != 0 {
            self.charge(&node, span)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, id: usize, span: &Span, depth: usize) -> Result<Node, YamlError> {
        let (line, column) = place(span);
        let Some(node) = self.anchors.get(&id) else {
            return Err(YamlError::new(line, column, "the anchor's value contains itself"));
        };
        let node = Node { kind: node.kind.clone(), lines: node.lines.clone() };
        if depth + node.depth() > MAX_DEPTH {
            return Err(YamlError::new(line, column, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.charge(&node, span)?;
        Ok(node)
    }

    /// Pays for one copy of `node`.
    fn charge(&self, node: &Node, span: &Span) -> Result<(), YamlError> {
        self.pay(node.cost(), span)
    }

    fn pay(&self, bytes: usize, span: &Span) -> Result<(), YamlError> {
        let (line, column) = place(span);
        if self.budget.spend(bytes) { Ok(()) } else { Err(YamlError::too_large(line, column, self.budget)) }
    }

    fn sequence(&mut self, start: &Span, depth: usize) -> Result<Node, YamlError> {
        self.pay(Budget::NODE, start)?;
        let (mut items, mut lines) = (vec![], vec![]);
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                let lines = Lines::sequence(start.start.line(), lines);
                return Ok(Node { kind: Kind::Tree(Value::Array(items)), lines });
            }
            let (value, line) = self.node(event, &span, depth + 1)?.into_value(&span)?;
            items.push(value);
            lines.push(line);
        }
    }

    fn mapping(&mut self, start: &Span, depth: usize) -> Result<Node, YamlError> {
        self.pay(Budget::NODE, start)?;
        let mut fields = Fields::default();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                let lines = Lines::mapping(start.start.line(), fields.lines);
                return Ok(Node { kind: Kind::Tree(Value::Object(fields.values)), lines });
            }
            if is_merge(&event) {
                let (event, span) = self.next()?;
                self.merge(event, &span, depth, &mut fields)?;
                continue;
            }
            let key = self.key(event, &span, depth)?;
            self.pay(Budget::entry(fields.written.len(), key.len()), &span)?;
            fields.claim(&key, &span)?;
            let (event, span) = self.next()?;
            let (value, lines) = self.node(event, &span, depth + 1)?.into_value(&span)?;
            fields.set(key, value, lines);
        }
    }

    fn key(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<String, YamlError> {
        let (line, column) = place(span);
        match self.node(event, span, depth + 1)?.kind {
            Kind::Scalar(scalar) => resolve::key(&scalar).map_err(|m| YamlError::new(line, column, m)),
            Kind::Tree(_) => Err(YamlError::new(
                line,
                column,
                "a key must be a text, not a mapping or list (a template's `{{ }}` needs quotes)",
            )),
        }
    }

    /// `<<`: the fields of a mapping, or of several, the first winning. As in the Go library the place counts: what
    /// is written later wins, whether a merge or a field.
    fn merge(&mut self, event: Event<'t>, span: &Span, depth: usize, into: &mut Fields) -> Result<(), YamlError> {
        let (line, column) = place(span);
        let wrong = || YamlError::new(line, column, "`<<` needs a mapping or a list of mappings");
        if let Event::SequenceStart(..) = event {
            let mut nodes = vec![];
            loop {
                let (event, span) = self.next()?;
                if event == Event::SequenceEnd {
                    break;
                }
                nodes.push(self.node(event, &span, depth + 1)?);
            }
            return nodes.into_iter().rev().try_for_each(|node| into.merge(node).ok_or_else(wrong));
        }
        let node = self.node(event, span, depth)?;
        into.merge(node).ok_or_else(wrong)
    }
}

/// A mapping while it is read.
#[derive(Default)]
struct Fields {
    values: Map<String, Value>,
    lines: BTreeMap<Box<str>, Lines>,
    /// Keys that were written here, not merged, and their lines.
    written: HashMap<String, usize>,
}

impl Fields {
    fn claim(&mut self, key: &str, span: &Span) -> Result<(), YamlError> {
        let (line, column) = place(span);
        match self.written.insert(key.into(), line) {
            Some(first) => {
                let message = format!("key {key:?} is written twice, on lines {first} and {line}; remove one");
                Err(YamlError::new(line, column, message))
            }
            None => Ok(()),
        }
    }

    fn set(&mut self, key: String, value: Value, lines: Lines) {
        self.lines.insert(key.as_str().into(), lines);
        self.values.insert(key, value);
    }

    /// `None` when `node` is no mapping.
    fn merge(&mut self, node: Node) -> Option<()> {
        let Kind::Tree(Value::Object(map)) = node.kind else { return None };
        for (key, lines) in node.lines.fields() {
            self.lines.insert(key.into(), lines.clone());
        }
        self.values.extend(map);
        Some(())
    }
}

impl Node {
    fn into_value(self, span: &Span) -> Result<(Value, Lines), YamlError> {
        let value = match self.kind {
            Kind::Tree(value) => value,
            Kind::Scalar(scalar) => {
                let (line, column) = place(span);
                resolve::to_json(scalar).map_err(|m| YamlError::new(line, column, m))?
            }
        };
        Ok((value, self.lines))
    }

    /// Roughly the bytes of a copy.
    fn cost(&self) -> usize {
        match &self.kind {
            Kind::Tree(value) => Budget::of(value),
            Kind::Scalar(Scalar::Text(text)) => Budget::text(text.len()),
            Kind::Scalar(_) => Budget::NODE,
        }
    }

    fn depth(&self) -> usize {
        fn depth(value: &Value) -> usize {
            match value {
                Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
                Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
                _ => 0,
            }
        }
        match &self.kind {
            Kind::Tree(value) => depth(value),
            Kind::Scalar(_) => 0,
        }
    }
}

/// YAML 1.2 takes almost anything as an anchor's name, even `&a:`, which YAML 1.1 reads as a key.
fn check_anchor(name: &str, span: &Span) -> Result<(), YamlError> {
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Ok(());
    }
    let (line, column) = place(span);
    Err(YamlError::new(line, column, format!("an anchor's name has letters, digits, `-` and `_`, not {name:?}")))
}

fn is_merge(event: &Event<'_>) -> bool {
    let Event::Scalar(text, style, _, tag) = event else { return false };
    let tag = tag.as_ref().map(|t| full_tag(t));
    text == "<<"
        && match tag.as_deref() {
            None => *style == ScalarStyle::Plain,
            Some(tag) => tag == "!" || tag == "tag:yaml.org,2002:merge",
        }
}

fn full_tag(tag: &Tag) -> String {
    let (handle, suffix) = tag.parts();
    format!("{handle}{suffix}")
}

fn place(span: &Span) -> (usize, usize) {
    (span.start.line(), span.start.col() + 1)
}

fn scan_error(error: &ScanError) -> YamlError {
    let at = error.marker();
    let info = error.info();
    // What people meant when they wrote the commonest of these.
    let help = if info.contains("anchor") || info.contains("alias") {
        "; a value that begins with * or & is written in quotes"
    } else if info.contains("mapping values are not allowed") {
        "; see the indentation of this line and of the one above, and whether a value with a colon lacks quotes"
    } else {
        ""
    };
    YamlError::new(at.line(), at.col() + 1, format!("{info}{help}"))
}
