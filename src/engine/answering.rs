//! Answering runs that take place inside this one: see [`outer`].

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use wink_fs::attr::{Attr, Kind};
use wink_fs::vfs::NodeId;
use wink_fs::view::Beneath;
use wink_platform::unix::control::{self, Peer};

use super::session::TaskView;
use super::tree::{VIRTUAL, stamp};
use crate::outer::{self, About, Answer, Bytes, Node, Outer, Question};

/// How inner runs are answered.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Their lines are not shown.
    pub quiet: bool,
    /// Nothing of this run is kept, so nothing of theirs may be.
    pub apart: bool,
}

/// Answers at `socket` for as long as this process lives.
pub fn start(view: &Arc<TaskView>, socket: &Path, manner: Manner) -> io::Result<()> {
    let listener = control::listen(socket)?;
    let view = view.clone();
    std::thread::Builder::new().name("wink-asked".into()).spawn(move || {
        // When it cannot be asked any more, inner runs are a plain part of this one.
        while let Ok(peer) = listener.accept() {
            let view = view.clone();
            // A thread for each: whoever is to read a line may let it wait.
            let _ = std::thread::Builder::new().name("wink-answers".into()).spawn(move || answer(&view, &peer, manner));
        }
    })?;
    Ok(())
}

fn answer(view: &TaskView, peer: &Peer, manner: Manner) {
    // Whoever asked and went away wants no answer.
    let Ok(Some((bytes, _))) = peer.receive(None) else { return };
    let answer = match serde_json::from_slice(&bytes) {
        Ok(Question { version, about }) if version == env!("CARGO_PKG_VERSION") => match about {
            About::Nodes(_) if manner.apart => Answer::Apart,
            About::Nodes(ids) => Answer::Nodes(nodes(view, &ids)),
            About::Line(line) => {
                pass_on(&line, manner.quiet);
                Answer::Done
            }
        },
        _ => Answer::OtherVersion,
    };
    if let Ok(bytes) = serde_json::to_vec(&answer) {
        let _ = peer.send(&bytes, &[]);
    }
}

/// A line goes on to the outermost run, which shows it.
fn pass_on(line: &str, quiet: bool) {
    if !quiet && !outer::say(line) {
        let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
    }
}

fn nodes(view: &TaskView, ids: &[u64]) -> Vec<Option<Node>> {
    let view = view.inner();
    let beneath: Vec<_> = ids.iter().map(|id| view.beneath(NodeId(*id)).ok()).collect();
    let mut nodes: Vec<Option<Node>> = beneath.iter().map(|beneath| Some(node(beneath.as_ref()?))).collect();
    for (node, beneath) in nodes.iter_mut().zip(&beneath) {
        if let (Some(node), Some(Beneath { real, place: Some((dir, name)), .. })) = (node, beneath)
            && real.dev == VIRTUAL
            && let Ok(Some(digest)) = view.backing().origin(dir, name)
        {
            node.bytes = Bytes::Blob(digest.0);
        }
    }
    // What lies in the view of a task around this one has no stamp here either.
    let real = |at: usize| beneath[at].as_ref().map(|beneath| beneath.real);
    let mut asked: Vec<(&'static Outer, Vec<usize>)> = Vec::new();
    for at in 0..nodes.len() {
        let Some(outer) = real(at).and_then(|real| outer::of(real.dev)) else { continue };
        match asked.iter_mut().find(|(other, _)| other.dev() == outer.dev()) {
            Some((_, places)) => places.push(at),
            None => asked.push((outer, vec![at])),
        }
    }
    for (outer, places) in asked {
        let inodes: Vec<u64> = places.iter().filter_map(|at| Some(real(*at)?.ino)).collect();
        let answers = outer.nodes(&inodes).unwrap_or_else(|_| vec![None; inodes.len()]);
        for (at, answer) in places.into_iter().zip(answers) {
            if let (Some(node), Some(real)) = (&mut nodes[at], real(at)) {
                let answer = answer.filter(|answer| answer.steady && answer.shown == shown(&real));
                node.steady &= answer.is_some();
                node.bytes = answer.map_or(Bytes::Unknown, |answer| answer.bytes);
            }
        }
    }
    nodes
}

fn node<D>(beneath: &Beneath<D>) -> Node {
    let Beneath { shown: as_shown, real, steady, upper, .. } = beneath;
    let bytes = if real.kind == Kind::File && real.dev != VIRTUAL { Bytes::at(stamp(real)) } else { Bytes::Unknown };
    Node { shown: shown(as_shown), bytes, steady: *steady, strict: *upper }
}

fn shown(attr: &Attr) -> (u64, i64, i64) {
    (attr.size, attr.mtime.0, attr.ctime.0)
}
