//! What the controller and the process that renders its templates say to each other: frames of a tag, a length and so
//! many bytes. One side speaks at a time.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::{
    render::{
        self, RenderError,
        template::{MAX_OUTPUT, MAX_SOURCE},
    },
    tree::RepoPath,
};

/// Bytes before the content of a frame.
pub(super) const HEADER: usize = 5;
/// Largest context; the API server keeps objects of a tenth of it.
const MAX_CONTEXT: usize = 16 << 20;
/// Largest path, error and the like, in bytes.
const MAX_WORDS: usize = 64 << 10;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// From the child, first of all: its bounds hold.
    Ready,
    /// To the child, once: a [`render::Context`].
    Context,
    /// To the child: a [`Job`].
    Job,
    /// To the child: the bytes of the file that it wants.
    File,
    /// To the child: there is no such file.
    NoFile,
    /// From the child: the path of a file that a template includes.
    Want,
    /// From the child: what the template wrote.
    Text,
    /// From the child: a [`Refusal`].
    Refusal,
}

const TAGS: [(Tag, u8, usize); 8] = [
    (Tag::Ready, b'y', 0),
    (Tag::Context, b'c', MAX_CONTEXT),
    (Tag::Job, b'j', MAX_SOURCE * 6 + MAX_WORDS),
    (Tag::File, b'f', MAX_SOURCE + 1),
    (Tag::NoFile, b'n', 0),
    (Tag::Want, b'w', MAX_SOURCE),
    (Tag::Text, b't', MAX_OUTPUT),
    (Tag::Refusal, b'r', MAX_WORDS),
];

/// A template to render.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) path: String,
    pub(super) source: String,
}

/// A [`RenderError`].
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Refusal {
    file: String,
    line: usize,
    reason: render::Reason,
    message: String,
}

impl From<RenderError> for Refusal {
    fn from(error: RenderError) -> Self {
        let RenderError { file, line, reason, message } = error;
        Self { file: file.to_string(), line, reason, message }
    }
}

impl Refusal {
    /// The error, in the template at `path` where it names a file that nothing can be called.
    pub(super) fn into_error(self, path: &RepoPath) -> RenderError {
        let Self { file, line, reason, message } = self;
        RenderError { file: RepoPath::parse(&file).unwrap_or_else(|_| path.clone()), line, reason, message }
    }
}

/// The frame; an error when the content is larger than its kind may be.
pub(super) fn frame(tag: Tag, content: &[u8]) -> io::Result<Vec<u8>> {
    let Some((_, letter, most)) = TAGS.iter().find(|(t, ..)| *t == tag) else { return Err(broken()) };
    let length = u32::try_from(content.len()).map_err(|_| too_large())?;
    if content.len() > *most {
        return Err(too_large());
    }
    Ok([&[*letter], length.to_le_bytes().as_slice(), content].concat())
}

/// The same with content as JSON.
pub(super) fn json(tag: Tag, content: &impl Serialize) -> io::Result<Vec<u8>> {
    frame(tag, &serde_json::to_vec(content)?)
}

/// What follows the header, and how many bytes of it.
pub(super) fn header(bytes: [u8; HEADER]) -> io::Result<(Tag, usize)> {
    let [letter, length @ ..] = bytes;
    let (tag, _, most) = TAGS.iter().find(|(_, l, _)| *l == letter).ok_or_else(broken)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > *most { Err(too_large()) } else { Ok((*tag, length)) }
}

/// The next frame; `None` where the other side has ended in order.
pub(super) fn read(from: &mut impl Read) -> io::Result<Option<(Tag, Vec<u8>)>> {
    let mut start = [0; HEADER];
    if from.read(&mut start[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut start[1..])?;
    let (tag, length) = header(start)?;
    let mut content = vec![0; length];
    from.read_exact(&mut content)?;
    Ok(Some((tag, content)))
}

/// Writes a frame at once.
pub(super) fn write(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    to.write_all(frame)?;
    to.flush()
}

/// The other side says what makes no sense here.
pub(super) fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an unexpected message")
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message is larger than allowed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went() {
        let mut wire = vec![];
        for (tag, content) in [(Tag::Text, "a\u{0}é".as_bytes()), (Tag::NoFile, b""), (Tag::Want, b"x/y.j2")] {
            wire.extend(frame(tag, content).unwrap());
        }
        let mut from = wire.as_slice();
        assert_eq!(read(&mut from).unwrap(), Some((Tag::Text, "a\u{0}é".into())));
        assert_eq!(read(&mut from).unwrap(), Some((Tag::NoFile, vec![])));
        assert_eq!(read(&mut from).unwrap(), Some((Tag::Want, b"x/y.j2".to_vec())));
        assert_eq!(read(&mut from).unwrap(), None);
    }

    #[test]
    fn nothing_is_believed() {
        for wire in [&b"x\0\0\0\0"[..], b"t\0", b"t\x05\0\0\0abc", b"t\xff\xff\xff\xff", b"n\x01\0\0\0a"] {
            assert!(read(&mut &*wire).is_err(), "{wire:?}");
        }
        assert!(frame(Tag::Text, &vec![0; MAX_OUTPUT + 1]).is_err());
    }

    #[test]
    fn the_largest_template_fits_however_it_is_written() {
        for source in ["\u{1}".repeat(MAX_SOURCE), "\"".repeat(MAX_SOURCE), "\u{10ffff}".repeat(MAX_SOURCE / 4)] {
            assert!(json(Tag::Job, &Job { path: "a".repeat(4096), source }).is_ok());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            let _ = read(&mut bytes.as_slice());
        }
    }
}
