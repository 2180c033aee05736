//! Git's protocol over any transport: greet, list, fetch one commit.

use std::{
    io::{self, BufRead, Read},
    num::NonZeroU32,
    path::Path,
    sync::atomic::AtomicBool,
};

use gix::protocol::{
    Handshake, LsRefsCommand,
    fetch::{
        Arguments, Context, Negotiate, Options, Response, Shallow, Tags,
        negotiate::{Action, Round, one_round},
    },
    handshake::Ref,
    ls_refs::RefPrefixes,
    transport::{Service, client::blocking_io::Transport},
};

use super::{
    disk::Room,
    refs::{CommitId, RemoteRef},
    remote::Limits,
};

const AGENT: (&str, Option<String>) = ("agent", None);

fn agent() -> (&'static str, Option<String>) {
    (AGENT.0, Some(concat!("git/pilothouse-", env!("CARGO_PKG_VERSION")).to_owned()))
}

/// Says hello. Credentials are the transport's business: nothing is ever asked for here.
pub(super) fn greet(transport: &mut impl Transport) -> gix::Result<Handshake> {
    gix::protocol::handshake(transport, Service::UploadPack, |_| Ok(None), vec![], &mut gix::progress::Discard)
}

/// Lists references; an old server has sent all of them with its greeting.
pub(super) fn list(
    transport: &mut impl Transport,
    handshake: &mut Handshake,
    prefixes: &[String],
) -> gix::Result<Vec<RemoteRef>> {
    let refs = if let Some(refs) = handshake.refs.take() {
        refs
    } else {
        let mut filter = RefPrefixes::new();
        filter.extend(prefixes.iter().map(|prefix| prefix.as_str().into()));
        let filter = (!prefixes.is_empty()).then_some(filter);
        LsRefsCommand::new(filter, &handshake.capabilities, agent()).invoke_blocking(
            &mut *transport,
            &mut gix::progress::Discard,
            false,
        )?
    };
    Ok(refs.into_iter().map(remote_ref).collect())
}

fn remote_ref(line: Ref) -> RemoteRef {
    let id = |id: gix::ObjectId| CommitId::parse(&id.to_string());
    let (name, id, target) = match line {
        Ref::Peeled { full_ref_name, object, .. } | Ref::Direct { full_ref_name, object } => {
            (full_ref_name, id(object), None)
        }
        Ref::Symbolic { full_ref_name, target, object, .. } => (full_ref_name, id(object), Some(target)),
        Ref::Unborn { full_ref_name, target } => (full_ref_name, None, Some(target)),
    };
    RemoteRef { name: name.to_string(), id, target: target.map(|t| t.to_string()) }
}

/// Brings one commit into `repo`, with so many commits of its history, itself included; all for 0. Commits that are there
/// already let the server send only what changed.
pub(super) fn fetch(
    transport: &mut impl Transport,
    handshake: &mut Handshake,
    repo: &gix::Repository,
    (commit, depth): (gix::ObjectId, u32),
    (limits, room): (Limits, &Room<'_>),
    stop: &AtomicBool,
) -> gix::Result<()> {
    let mut want = Want { commit, haves: if depth == 0 { tips(repo) } else { haves(repo) } };
    let shallow = NonZeroU32::new(depth).map_or(Shallow::NoChange, Shallow::DepthAtRemote);
    let options = Options {
        shallow_file: repo.shallow_file()?,
        shallow: &shallow,
        tags: Tags::None,
        reject_shallow_remote: false,
    };
    let context = Context { handshake, transport, user_agent: agent(), trace_packetlines: false };
    let folder = repo.objects.store_ref().path().join("pack");
    gix::protocol::fetch(
        &mut want,
        |pack, progress, stop| {
            let mut pack = Limited { inner: pack, left: limits.pack, room, counted: 0 };
            store_pack(&mut pack, &folder, progress, stop, repo, limits.file)?;
            Ok(true)
        },
        gix::progress::Discard,
        stop,
        context,
        options,
    )?;
    if depth == 0 {
        // Lost, it costs one larger pack.
        let _ = std::fs::write(repo.path().join(TIPS), format!("{commit}\n"));
    }
    Ok(())
}

/// Names the commit whose whole history was fetched last.
const TIPS: &str = "pilothouse-tips";

fn tips(repo: &gix::Repository) -> Vec<gix::ObjectId> {
    let text = std::fs::read_to_string(repo.path().join(TIPS)).unwrap_or_default();
    let ids = text.lines().filter_map(|line| gix::ObjectId::from_hex(line.as_bytes()).ok());
    ids.filter(|id| repo.has_object(*id)).collect()
}

fn haves(repo: &gix::Repository) -> Vec<gix::ObjectId> {
    let known = repo.shallow_commits().ok().flatten();
    known.map(|commits| commits.iter().copied().filter(|id| repo.has_object(*id)).collect()).unwrap_or_default()
}

/// Writes a pack beside the others, with an index.
pub(super) fn store_pack(
    pack: &mut dyn BufRead,
    folder: &Path,
    progress: &mut dyn gix::DynNestedProgress,
    stop: &AtomicBool,
    repo: &gix::Repository,
    largest: u64,
) -> gix::Result<()> {
    let options = gix::odb::pack::bundle::write::Options {
        thread_limit: Some(1),
        // A small pack can unpack to anything: no object is held that could not become a file.
        alloc_limit_bytes: usize::try_from(largest).ok(),
        ..Default::default()
    };
    let written = gix::odb::pack::Bundle::write_to_directory(
        pack,
        Some(folder),
        progress,
        stop,
        Some(repo.objects.clone()),
        repo.object_hash(),
        options,
    )?;
    if let Some(keep) = written.keep_path {
        // No program collects garbage here, so the marker has no use; a left-over one does no harm.
        let _ = std::fs::remove_file(keep);
    }
    Ok(())
}

/// Asks for exactly one commit in one round.
struct Want {
    commit: gix::ObjectId,
    haves: Vec<gix::ObjectId>,
}

impl Negotiate for Want {
    fn mark_complete_and_common_ref(&mut self) -> gix::Result<Action> {
        Ok(Action::MustNegotiate { remote_ref_target_known: vec![] })
    }

    fn add_wants(&mut self, arguments: &mut Arguments, _known: &[bool]) -> bool {
        arguments.want(self.commit);
        true
    }

    fn one_round(
        &mut self,
        state: &mut one_round::State,
        arguments: &mut Arguments,
        _previous: Option<&Response>,
    ) -> gix::Result<(Round, bool)> {
        for have in &self.haves {
            arguments.have(have);
        }
        let round = Round {
            haves_sent: self.haves.len(),
            in_vain: 0,
            haves_to_send: state.haves_to_send,
            previous_response_had_at_least_one_in_common: false,
        };
        Ok((round, true))
    }
}

/// What gix says of an object that would exceed the limit for one.
pub(super) const OBJECT_TOO_LARGE: [&str; 2] = ["too large to fit in memory", "allocation limit"];

/// Marks the error of a pack that is too large.
pub(super) const TOO_LARGE: &str = "the pack is larger than allowed";

struct Limited<'a> {
    inner: &'a mut dyn BufRead,
    left: u64,
    room: &'a Room<'a>,
    /// Bytes that there is room for.
    counted: usize,
}

/// Room is asked for in pieces of so many bytes.
const PIECE: usize = 64 << 10;

impl Limited<'_> {
    fn spend(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(amount as u64);
        self.counted = self.counted.saturating_sub(amount);
    }

    fn check(&mut self) -> io::Result<()> {
        if self.left == 0 {
            return Err(io::Error::other(TOO_LARGE));
        }
        if self.counted < PIECE {
            self.room.arrive(PIECE)?;
            self.counted += PIECE;
        }
        Ok(())
    }
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        let read = self.inner.read(buffer)?;
        self.spend(read);
        Ok(read)
    }
}

impl BufRead for Limited<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.check()?;
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.spend(amount);
        self.inner.consume(amount);
    }
}
