//! Server-sent events from a stream of bytes (pure).

/// Longest event that is kept; a longer one is skipped whole.
const MAX_EVENT: usize = 4 << 20;

/// Cuts a stream of bytes into the `data` of events.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    line: Vec<u8>,
    data: Vec<u8>,
    /// The event in progress has been too long.
    skip: bool,
    /// The last line ended with a carriage return, whose line feed may come next.
    after_cr: bool,
}

impl Decoder {
    /// Takes the next bytes; calls `emit` with each complete event's data.
    pub(super) fn feed(&mut self, bytes: &[u8], mut emit: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
                return self.keep(rest);
            };
            self.keep(&rest[..end]);
            self.after_cr = rest[end] == b'\r';
            self.end_of_line(&mut emit);
            rest = &rest[end + 1..];
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.line.len() + self.data.len() + bytes.len() > MAX_EVENT {
            self.skip = true;
            self.line.clear();
            self.data.clear();
            self.line.push(b':'); // the rest of this line is no field and no end
        } else if !self.skip || !bytes.is_empty() && self.line.is_empty() {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_of_line(&mut self, emit: &mut impl FnMut(&[u8])) {
        if self.line.is_empty() {
            if !self.data.is_empty() && !self.skip {
                emit(&self.data);
            }
            self.data.clear();
            self.skip = false;
        } else if !self.skip
            && let Some(value) = self.line.strip_prefix(b"data:")
        {
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
        self.line.clear();
        self.shrink();
    }

    /// One huge event must not cost its size for the life of the stream.
    fn shrink(&mut self) {
        for buffer in [&mut self.line, &mut self.data] {
            if buffer.is_empty() && buffer.capacity() > 64 << 10 {
                *buffer = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(chunks: &[&[u8]]) -> Vec<String> {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for chunk in chunks {
            decoder.feed(chunk, |data| out.push(String::from_utf8_lossy(data).into_owned()));
        }
        out
    }

    #[test]
    fn table() {
        for (stream, events) in [
            ("data: a\n\n", vec!["a"]),
            ("event: message\ndata: {\"x\":1}\nid: 7\n\n", vec!["{\"x\":1}"]),
            ("data:a\ndata:  b\n\n", vec!["a\n b"]),
            (": comment\n\n\n\ndata: a\r\n\r\ndata: b\r\r", vec!["a", "b"]),
            ("data: unfinished\n", vec![]),
            ("retry: 5\n\n", vec![]),
        ] {
            assert_eq!(decode(&[stream.as_bytes()]), events, "{stream:?}");
        }
    }

    #[test]
    fn a_huge_event_is_skipped_and_the_next_one_seen() {
        let huge = vec![b'x'; MAX_EVENT];
        let chunks: [&[u8]; 4] = [b"data: ", &huge, b"more\ndata: tail\n\n", b"data: next\n\n"];
        assert_eq!(decode(&chunks), ["next"]);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(cuts in proptest::collection::vec(0usize..60, 0..8)) {
            let stream: &[u8] = b"data: one\r\n\r\n: x\ndata: two\ndata: 2\n\nevent: e\rdata: three\r\r";
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &stream[w[0]..w[1]]).collect();
            prop_assert_eq!(decode(&chunks), ["one", "two\n2", "three"]);
        }
    }
}
