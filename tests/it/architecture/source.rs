//! What a Rust file names: paths with their lines, found by a lexer (comments, literals and test code left out).

/// A word or a mark of Rust, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub text: String,
    pub line: usize,
}

impl Token {
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// A path as written, `use` trees expanded: `["crate", "tree", "RepoPath"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub segments: Vec<String>,
    pub line: usize,
    /// How many inline modules of this file are around it.
    pub depth: usize,
}

/// The tokens of `text`: words, `::`, and single marks. Comments and literals yield nothing.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { chars: text.chars().collect(), at: 0, line: 1, found: vec![] };
    while lexer.at < lexer.chars.len() {
        lexer.step();
    }
    lexer.found
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    found: Vec<Token>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn skip(&mut self, count: usize) {
        let end = (self.at + count).min(self.chars.len());
        self.line += self.chars[self.at..end].iter().filter(|c| **c == '\n').count();
        self.at = end;
    }

    fn step(&mut self) {
        match (self.peek(0), self.peek(1)) {
            ('/', '/') => self.until_line_end(),
            ('/', '*') => self.block_comment(),
            ('"', _) => self.quoted(),
            ('\'', _) => self.tick(),
            (c, _) if c.is_alphabetic() || c == '_' => self.word(),
            (c, _) if c.is_ascii_digit() => self.number(),
            (':', ':') => self.push("::"),
            (c, _) if c.is_whitespace() => self.skip(1),
            (c, _) => self.push(&c.to_string()),
        }
    }

    fn push(&mut self, text: &str) {
        self.found.push(Token { text: text.into(), line: self.line });
        self.skip(text.chars().count());
    }

    fn until_line_end(&mut self) {
        while self.at < self.chars.len() && self.peek(0) != '\n' {
            self.skip(1);
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while self.at < self.chars.len() {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                _ => {
                    self.skip(1);
                    continue;
                }
            }
            self.skip(2);
            if depth == 0 {
                return;
            }
        }
    }

    fn quoted(&mut self) {
        self.skip(1);
        while self.at < self.chars.len() {
            match self.peek(0) {
                '\\' => self.skip(2),
                '"' => return self.skip(1),
                _ => self.skip(1),
            }
        }
    }

    /// A character literal, or a lifetime.
    fn tick(&mut self) {
        if self.peek(1) == '\\' {
            self.skip(3);
            while self.at < self.chars.len() && self.peek(0) != '\'' {
                self.skip(1);
            }
            self.skip(1);
        } else if self.peek(2) == '\'' {
            self.skip(3);
        } else {
            self.skip(1);
            while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
                self.skip(1);
            }
        }
    }

    fn word(&mut self) {
        let length = self.chars[self.at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
        let word: String = self.chars[self.at..self.at + length].iter().collect();
        let (next, after) = (self.peek(length), self.peek(length + 1));
        let prefix = matches!(word.as_str(), "r" | "b" | "br" | "c" | "cr");
        if prefix && word.ends_with('r') && (next == '"' || (next == '#' && (after == '"' || after == '#'))) {
            self.skip(length);
            self.raw();
        } else if prefix && next == '"' {
            self.skip(length);
            self.quoted();
        } else if word == "b" && next == '\'' {
            self.skip(1);
            self.tick();
        } else if word == "r" && next == '#' {
            self.skip(2);
        } else {
            self.push(&word);
        }
    }

    fn raw(&mut self) {
        let hashes = self.chars[self.at..].iter().take_while(|c| **c == '#').count();
        self.skip(hashes + 1);
        while self.at < self.chars.len() {
            let closes = self.peek(0) == '"' && (1..=hashes).all(|n| self.peek(n) == '#');
            self.skip(if closes { hashes + 1 } else { 1 });
            if closes {
                return;
            }
        }
    }

    fn number(&mut self) {
        while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
            self.skip(1);
        }
    }
}

/// `tokens` without items under `#[cfg(test)]`: test code may do more.
pub(super) fn without_tests(tokens: &[Token]) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = vec![];
    let mut at = 0;
    while at < tokens.len() {
        let marked = tokens[at..].iter().map(|t| t.text.as_str()).take(MARK.len()).eq(MARK);
        if marked {
            at = item_end(tokens, at + MARK.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// The index after the item that begins at `at`: its `;`, or the end of its braces.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            ";" if depth == 0 => return at + 1,
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    at
}

/// Every path of two segments or more, and single words after `use`.
pub(super) fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut found = vec![];
    let (mut at, mut braces, mut modules) = (0, 0, vec![]);
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "use" => {
                at = use_tree(tokens, at + 1, &[], modules.len(), &mut found);
                continue;
            }
            "mod" if tokens.get(at + 2).is_some_and(|t| t.text == "{") => modules.push(braces),
            "{" => braces += 1,
            "}" => {
                braces -= 1;
                modules.retain(|open| *open < braces);
            }
            _ if tokens[at].is_word() => {
                at = plain_path(tokens, at, modules.len(), &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

fn plain_path(tokens: &[Token], mut at: usize, depth: usize, found: &mut Vec<Path>) -> usize {
    let (line, mut segments) = (tokens[at].line, vec![tokens[at].text.clone()]);
    at += 1;
    while tokens.get(at).is_some_and(|t| t.text == "::") && tokens.get(at + 1).is_some_and(Token::is_word) {
        segments.push(tokens[at + 1].text.clone());
        at += 2;
    }
    if segments.len() > 1 {
        found.push(Path { segments, line, depth });
    }
    at
}

/// One tree of a `use`, up to its `;`, `,` or `}`; returns the index of that mark.
fn use_tree(tokens: &[Token], mut at: usize, prefix: &[String], depth: usize, found: &mut Vec<Path>) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |t| t.line);
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => {}
            "{" => return use_group(tokens, at + 1, &segments, depth, found),
            "as" => at += 1,
            "," | ";" | "}" => break,
            text => segments.push(text.into()),
        }
        at += 1;
    }
    if !segments.is_empty() {
        found.push(Path { segments, line, depth });
    }
    at
}

fn use_group(tokens: &[Token], mut at: usize, prefix: &[String], depth: usize, found: &mut Vec<Path>) -> usize {
    while at < tokens.len() && tokens[at].text != "}" {
        at = if tokens[at].text == "," { at + 1 } else { use_tree(tokens, at, prefix, depth, found) };
    }
    at + 1
}
