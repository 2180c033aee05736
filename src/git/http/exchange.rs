//! One request and its response, in the shape that gix reads.

use std::{
    cell::RefCell,
    io::{self, BufRead, BufReader, Read, Write},
    rc::Rc,
};

use tempfile::SpooledTempFile;

use super::{LastFailure, client::Client};

/// One request. It runs when somebody reads the response, by which time the body is complete.
pub(super) struct Exchange {
    client: Rc<RefCell<Client>>,
    failure: LastFailure,
    url: String,
    base: String,
    request_headers: Vec<String>,
    upload: Option<Vec<u8>>,
    outcome: Option<Outcome>,
}

enum Outcome {
    Answer { headers: Option<Vec<u8>>, body: Option<SpooledTempFile> },
    Failed,
}

impl Exchange {
    /// A request that has not run yet; `post` is one with a body, which is written first.
    pub(super) fn new(
        client: Rc<RefCell<Client>>,
        failure: LastFailure,
        url: &str,
        base: &str,
        request_headers: Vec<String>,
        post: bool,
    ) -> Self {
        let upload = post.then(Vec::new);
        Self { client, failure, url: url.into(), base: base.into(), request_headers, upload, outcome: None }
    }

    pub(super) fn run(&mut self) {
        if self.outcome.is_some() {
            return;
        }
        let mut client = self.client.borrow_mut();
        let result = match &self.upload {
            Some(body) => client.post(&self.url, &self.request_headers, body),
            None => client.get(&self.url, &self.base, &self.request_headers),
        };
        self.outcome = Some(match result {
            Ok((headers, body)) => Outcome::Answer { headers: Some(headers), body: Some(body) },
            Err(error) => {
                *self.failure.borrow_mut() = Some(error);
                Outcome::Failed
            }
        });
    }

    fn take_headers(&mut self) -> io::Result<Vec<u8>> {
        self.run();
        match &mut self.outcome {
            Some(Outcome::Answer { headers, .. }) => Ok(headers.take().unwrap_or_default()),
            _ => Err(io::Error::other("the request failed")),
        }
    }

    fn take_body(&mut self) -> io::Result<Option<SpooledTempFile>> {
        self.run();
        match &mut self.outcome {
            Some(Outcome::Answer { body, .. }) => Ok(body.take()),
            _ => Err(io::Error::other("the request failed")),
        }
    }
}

/// The writer of a request's body.
pub(in crate::git) struct Upload(pub(super) Rc<RefCell<Exchange>>);

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(upload) = &mut self.0.borrow_mut().upload {
            upload.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The headers or the body of a response, fetched at the first read.
pub(in crate::git) struct Part {
    exchange: Rc<RefCell<Exchange>>,
    headers: bool,
    reader: Option<BufReader<Box<dyn Read>>>,
}

impl Part {
    pub(super) fn headers(exchange: &Rc<RefCell<Exchange>>) -> Self {
        Self { exchange: exchange.clone(), headers: true, reader: None }
    }

    pub(super) fn body(exchange: &Rc<RefCell<Exchange>>) -> Self {
        Self { exchange: exchange.clone(), headers: false, reader: None }
    }

    fn open(&mut self) -> io::Result<&mut BufReader<Box<dyn Read>>> {
        if self.reader.is_none() {
            let mut exchange = self.exchange.borrow_mut();
            let source: Box<dyn Read> = if self.headers {
                Box::new(io::Cursor::new(exchange.take_headers()?))
            } else {
                exchange.take_body()?.map_or_else(|| Box::new(io::empty()) as Box<dyn Read>, |file| Box::new(file))
            };
            self.reader = Some(BufReader::with_capacity(32 * 1024, source));
        }
        self.reader.as_mut().ok_or_else(|| io::Error::other("no response"))
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.open()?.read(buffer)
    }
}

impl BufRead for Part {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.open()?.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let Some(reader) = &mut self.reader {
            reader.consume(amount);
        }
    }
}
