//! The client's end of the control socket.

use std::io::ErrorKind;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use wink_platform::unix::control::{self, Peer};
use wink_platform::unix::detach;
use wink_store::Store;

use super::protocol::{Reply, Request};
use super::{LOG, SOCKET};

/// How long an answer may take: making a whole tree real is the longest that is asked for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long a daemon that was just started may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// After how long another one is started if none listens; of two the second gives up.
const START_AGAIN: Duration = Duration::from_millis(500);
/// How often it is looked for.
const START_POLL: Duration = Duration::from_millis(5);

/// How often something is handed to a daemon that ends just then before giving up.
const HAND_OVER_TRIES: usize = 3;

/// The daemon ended instead of answering.
#[derive(Debug)]
pub struct Ended;

impl std::fmt::Display for Ended {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("the daemon has ended")
    }
}

impl std::error::Error for Ended {}

/// A connection to the daemon of one store.
pub struct Client {
    peer: Peer,
}

impl Client {
    /// Connects to the daemon that runs.
    pub fn connect(store: &Path) -> anyhow::Result<Client> {
        Client::running(store)?.context("the daemon is not running; start it with `wink mount`")
    }

    /// Connects to the daemon if one runs.
    pub fn running(store: &Path) -> anyhow::Result<Option<Client>> {
        match control::connect(&store.join(SOCKET)) {
            Ok(peer) => Ok(Some(Client { peer })),
            // No cache, no socket, or one that nobody listens at.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context("cannot reach the daemon"),
        }
    }

    /// Connects, and starts a daemon when none runs.
    pub fn start(store: &Path) -> anyhow::Result<Client> {
        let log = store.join(LOG);
        let began = Instant::now();
        let mut started: Option<Instant> = None;
        while began.elapsed() < START_TIMEOUT {
            // One that was killed a moment ago may still take connections; it does not answer.
            if let Some(client) = Client::running(store)?
                && client.ask(&Request::Status, &[]).is_ok()
            {
                return Ok(client);
            }
            // And it may still hold the lock, on which the new one gave up.
            if started.is_none_or(|started| started.elapsed() > START_AGAIN) {
                // What keeps a daemon from starting would only be said in its log.
                let socket = store.join(SOCKET);
                let in_the_way = std::fs::symlink_metadata(&socket).is_ok_and(|data| !data.file_type().is_socket());
                ensure!(!in_the_way, "{} is in the way of the daemon's socket; remove it", socket.display());
                spawn(&Store::open(store)?)?;
                started = Some(Instant::now());
            }
            std::thread::sleep(START_POLL);
        }
        bail!("the daemon does not answer; {} may tell why", log.display())
    }

    /// Asks, and waits for the answer and the descriptors that come with it. The error is [`Ended`] if there is nobody to answer any more.
    pub fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> anyhow::Result<(Reply, Vec<OwnedFd>)> {
        let bytes = serde_json::to_vec(request)?;
        // One that ends without having read what was sent resets the connection.
        let ended = |error: &std::io::Error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        let answer = match self.peer.send(&bytes, descriptors).and_then(|()| self.peer.receive(Some(ANSWER_TIMEOUT))) {
            Err(error) if ended(&error) => None,
            answer => answer.context("the daemon does not answer")?,
        };
        let (bytes, descriptors) = answer.ok_or(Ended)?;
        match serde_json::from_slice(&bytes).context("the daemon is of another version; run `wink daemon stop`")? {
            Reply::Ending => Err(Ended.into()),
            reply => Ok((reply, descriptors)),
        }
    }

    /// Has the daemon take on something new. If it ends just then, another one is started for it, which this client then speaks to.
    pub fn hand_over(
        &mut self,
        store: &Path,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> anyhow::Result<u64> {
        for _ in 1..HAND_OVER_TRIES {
            match self.ask(request, descriptors) {
                Ok((reply, _)) => return done(reply),
                Err(error) if error.is::<Ended>() => *self = Client::start(store)?,
                Err(error) => return Err(error),
            }
        }
        self.do_it(request, descriptors)
    }

    /// As [`Client::ask`], for what is done or fails.
    pub fn do_it(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> anyhow::Result<u64> {
        done(self.ask(request, descriptors)?.0)
    }
}

fn done(reply: Reply) -> anyhow::Result<u64> {
    match reply {
        Reply::Done(count) => Ok(count),
        Reply::Failed(reason) => bail!("{reason}"),
        _ => bail!("the daemon answered something else; run `wink daemon stop`"),
    }
}

fn spawn(store: &Store) -> anyhow::Result<()> {
    let log = store.open_log_file(Path::new(LOG))?;
    let program = std::env::current_exe().context("cannot tell where wink itself lies")?;
    let args = ["daemon".as_ref(), "serve".as_ref(), "--store".as_ref(), store.dir().as_os_str()];
    detach::spawn_detached(&program, args, log).context("cannot start the daemon")
}
