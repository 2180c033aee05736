//! Text of strangers, for people who read it in a terminal.

use std::{iter::Peekable, str::Chars};

/// The text without what steers a terminal: control characters but line ends and tabs, whole sequences that begin with an
/// escape (colours, titles, the clipboard), and what turns the direction of writing.
pub fn plain(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text.chars().peekable());
    while let Some(c) = rest.next() {
        match c {
            '\n' | '\t' => out.push(c),
            '\u{1b}' => escape(&mut rest),
            '\u{9b}' => parameters(&mut rest),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => string(&mut rest),
            c if c.is_control() || turns(c) => {}
            c => out.push(c),
        }
    }
    out
}

/// The text for one line: line ends and tabs are spaces; what steers a terminal, ends lines or turns the direction of
/// writing is a question mark, so that two names do not look the same.
pub fn line(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\r' | '\t' => ' ',
        c if c.is_control() || turns(c) || matches!(c, '\u{2028}' | '\u{2029}') => '?',
        c => c,
    };
    text.chars().map(shown).collect()
}

fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The rest of a sequence after its escape.
fn escape(rest: &mut Peekable<Chars<'_>>) {
    match rest.next_if(|c| !c.is_control()) {
        Some('[') => parameters(rest),
        Some(']' | 'P' | 'X' | '^' | '_') => string(rest),
        // Sets of characters: one more.
        Some(' '..='/') => drop(rest.next_if(char::is_ascii_graphic)),
        _ => {}
    }
}

/// Up to the letter that ends them.
fn parameters(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| matches!(c, ' '..='?')).is_some() {}
    rest.next_if(|c| matches!(c, '@'..='~'));
}

/// Up to its terminator, or to the end of the line where it has none.
fn string(rest: &mut Peekable<Chars<'_>>) {
    while let Some(c) = rest.next_if(|c| *c != '\n') {
        let ends = match c {
            '\u{7}' | '\u{9c}' => true,
            '\u{1b}' => rest.next_if_eq(&'\\').is_some(),
            _ => false,
        };
        if ends {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_steers_a_terminal_is_left_out() {
        for (text, clean) in [
            ("plain: ünï → ✓ 👩‍🔧\n\tend", "plain: ünï → ✓ 👩‍🔧\n\tend"),
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("a\u{1b}]52;c;aGk=\u{7}b", "ab"),
            ("a\u{1b}]0;title\u{1b}\\b", "ab"),
            ("a\u{9d}0;title\u{9c}b", "ab"),
            ("a\u{1b}]8;;http://evil\nb", "a\nb"),
            ("\u{1b}[2J\u{1b}[H\u{1b}c\u{1b}(0x", "x"),
            ("\u{9b}2Jx", "x"),
            ("real\rfake\r\nnext\u{8}\u{0}\u{7f}\u{85}", "realfake\nnext"),
            ("a\u{202e}b\u{2066}c", "abc"),
            ("cut \u{1b}", "cut "),
            ("cut \u{1b}[", "cut "),
            ("\u{1b}\u{1b}[31m", ""),
            ("\u{1b}P+q\u{1b}x\u{1b}\\y", "y"),
            ("", ""),
        ] {
            assert_eq!(plain(text), clean, "{text:?}");
        }
    }

    #[test]
    fn in_one_line_it_is_seen_that_something_was_there() {
        for (text, clean) in [
            ("plain: ünï → ✓", "plain: ünï → ✓"),
            ("a\r\n\tb", "a   b"),
            ("a\u{1b}[31mb\u{7f}\u{9b}", "a?[31mb??"),
            ("a\u{202e}b\u{2066}\u{61c}c\u{2028}\u{2029}", "a?b??c??"),
        ] {
            assert_eq!(line(text), clean, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_steers_is_left(text in "(\\PC|[\\x00-\\x1f\u{80}-\u{9f}]|\u{1b}[\\[\\]P]){0,60}") {
            let clean = plain(&text);
            prop_assert!(clean.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control() && !turns(c)), "{clean:?}");
            prop_assert_eq!(plain(&clean), clean);
        }
    }
}
