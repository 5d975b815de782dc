//! What steps do to a layer. A step that makes no sense does nothing: a log may have lost its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use wink_store::{Digest, Output, Pack, Step};

use super::source::{Source, join};
use super::{Layer, Node, Shown, Virtual, is_within, upward};
use crate::attr::{Kind, Time};
use crate::backing::Result;

impl Layer {
    /// Does what a step says. Only [`Step::Attach`] can fail: when `packs`, which finds packs by their digests, does; then nothing
    /// has changed.
    pub fn apply(&mut self, step: &Step, packs: &dyn Fn(&Digest) -> Result<Arc<Pack>>) -> Result<()> {
        match step {
            Step::Attach { at, pack, first_ns, step_ns } => {
                let source = Source {
                    order: self.attached,
                    digest: *pack,
                    pack: packs(pack)?,
                    at: at.as_slice().into(),
                    first_ns: *first_ns,
                    step_ns: *step_ns,
                };
                self.attached += 1;
                self.attach(Arc::new(source));
            }
            Step::Put { path, output, mtime_ns } => self.put(path, output, Time(*mtime_ns)),
            Step::Remove { path } => {
                if path.is_empty() || self.get(path).is_some() {
                    self.take(path);
                }
            }
            Step::Move { from, to } => self.shift(from, to),
        }
        Ok(())
    }

    /// Says that names of the directory at `path` changed. Not kept: after a replay it has the time it appeared with.
    pub fn touch(&mut self, path: &[u8], now: Time) {
        if let Some(Node::Own { shown, .. } | Node::Shared { shown: Some(shown), .. }) = self.nodes.get_mut(path)
            && let Virtual::Dir { mtime, .. } = &mut shown.entry
        {
            *mtime = now;
        }
    }

    /// Makes the names of a pointer's directory nodes of their own.
    pub(super) fn split(&mut self, path: &[u8]) {
        let Some(Node::Shared { shown, source, dir }) = self.nodes.get(path).cloned() else { return };
        self.nodes.remove(path);
        if let Some(shown) = shown {
            self.nodes.insert(path.to_vec(), Node::Own { shown, source: Some(source.clone()) });
        }
        for below in source.below(&dir) {
            let shown = below.entry.and_then(|entry| source.shown(entry));
            if let Some(node) = node(&source, shown, below.is_way, join(&dir, below.name)) {
                self.nodes.insert(join(path, below.name), node);
            }
        }
    }

    /// Makes everything above `path` nodes of their own, ready to hold it: what is no directory there goes.
    fn reach(&mut self, path: &[u8]) {
        let root: &[u8] = b"";
        let mut over: Vec<&[u8]> = if path.is_empty() { Vec::new() } else { upward(path).skip(1).collect() };
        over.push(root);
        for dir in over.into_iter().rev().filter(|&dir| dir != path) {
            match self.nodes.get(dir) {
                Some(Node::Shared { .. }) => self.split(dir),
                Some(node) if !node.is_dir() => drop(self.nodes.remove(dir)),
                _ => {}
            }
        }
    }

    /// Takes out what is at and below `path`; keys of what is returned are relative to it.
    pub(super) fn take(&mut self, path: &[u8]) -> BTreeMap<Vec<u8>, Node> {
        self.reach(path);
        let mut keys: Vec<Vec<u8>> = self.range(path).map(|(key, _)| key.clone()).collect();
        keys.push(path.to_vec());
        let start = if path.is_empty() { 0 } else { path.len() + 1 };
        let taken = keys.into_iter().filter_map(|key| {
            let node = self.nodes.remove(&key)?;
            Some((key.get(start..).unwrap_or_default().to_vec(), node))
        });
        taken.collect()
    }

    /// A directory appears, in place of no directory or merged with one: that keeps its number.
    fn put_dir(&mut self, path: &[u8], mut new: Shown, source: Option<Arc<Source>>) {
        match self.nodes.get_mut(path) {
            Some(Node::Own { shown, source: from }) if shown.entry.kind() == Some(Kind::Dir) => {
                if let Virtual::Dir { ino, .. } = &mut new.entry {
                    *ino = shown.entry.ino();
                }
                (*shown, *from) = (new, source);
            }
            _ => drop(self.nodes.insert(path.to_vec(), Node::Own { shown: new, source })),
        }
    }

    fn put(&mut self, path: &[u8], output: &Output, mtime: Time) {
        let Some(shown) = Shown::new(path, output, mtime).filter(|_| !path.is_empty()) else { return };
        self.reach(path);
        if shown.entry.kind() == Some(Kind::Dir) {
            self.split(path);
            self.put_dir(path, shown, None);
        } else {
            self.take(path);
            self.nodes.insert(path.to_vec(), Node::Own { shown, source: None });
        }
    }

    pub(super) fn shift(&mut self, from: &[u8], to: &[u8]) {
        if from.is_empty() || to.is_empty() || is_within(to, from) || is_within(from, to) || self.get(from).is_none() {
            return;
        }
        let moved = self.take(from);
        self.take(to);
        self.nodes.extend(moved.into_iter().map(|(key, node)| (join(to, &key), node)));
    }

    pub(super) fn attach(&mut self, source: Arc<Source>) {
        let at = source.at.to_vec();
        if source.pack.entries.is_empty() {
            return;
        }
        self.reach(&at);
        // Directories of the pack still to be done: where, as what, and which of the pack's.
        let mut work = vec![(at, None, Vec::new())];
        while let Some((path, shown, dir)) = work.pop() {
            if self.nodes.get(&path).is_some_and(|node| !node.is_dir()) {
                self.nodes.remove(&path);
            }
            if !self.nodes.contains_key(&path) && self.range(&path).next().is_none() {
                self.nodes.insert(path, Node::Shared { shown, source: source.clone(), dir: dir.into() });
                continue;
            }
            self.split(&path);
            if let Some(shown) = shown {
                self.put_dir(&path, shown, Some(source.clone()));
            }
            for below in source.below(&dir) {
                let (path, inside) = (join(&path, below.name), join(&dir, below.name));
                let shown = below.entry.and_then(|entry| source.shown(entry));
                match shown {
                    Some(shown) if shown.entry.kind() != Some(Kind::Dir) => {
                        self.take(&path);
                        self.nodes.insert(path, Node::Own { shown, source: Some(source.clone()) });
                    }
                    shown => work.push((path, shown, inside)),
                }
            }
        }
    }
}

/// The node for one name of a pack.
fn node(source: &Arc<Source>, shown: Option<Shown>, is_way: bool, dir: Vec<u8>) -> Option<Node> {
    if is_way {
        return Some(Node::Shared { shown, source: source.clone(), dir: dir.into() });
    }
    Some(Node::Own { shown: shown?, source: Some(source.clone()) })
}
